"""The required models: those that a replica must serve to be ready."""

import logging
from collections.abc import Collection, Mapping

from service.versions.snapshot import Models, serves

logger = logging.getLogger(__name__)


class RequiredModels:
    """Ready is who serves all of them, and at least one model.

    What a setting names is required for good. Where no setting names any, what served once the store had first been followed is
    too, as long as the store has it: so neither a model that came later nor one that was deleted makes a replica unready.
    """

    def __init__(
        self,
        default_model: str | None = None,
        required: Collection[str] | None = None,
        configured: Collection[str] = (),
    ) -> None:
        """`configured` models have settings of their own, and are not required by that."""
        self._named = dict.fromkeys(required or (), "SERVICE_REQUIRED_MODELS")
        if default_model:
            self._named[default_model] = "SERVICE_DEFAULT_MODEL"
        self._settings = dict.fromkeys(configured, "SERVICE_MODELS") | self._named
        self._finds = required is None
        self._found: frozenset[str] = frozenset()

    def find(self, models: Models) -> None:
        """Take what serves now for what served at the start, and log what the settings name in vain."""
        if self._finds:
            self._found = frozenset(name for name in models if serves(models, name))
        for name, setting in self.absent(models).items():
            level = logging.ERROR if name in self._named else logging.WARNING
            there_are = ", ".join(sorted(models)) or "none"
            logger.log(
                level,
                "%s names %s, which is not in the store; there are %s",
                setting,
                name,
                there_are,
            )

    def forget(self, name: str) -> None:
        """The model is gone from the store."""
        self._found -= {name}

    def are_served(self, models: Models) -> bool:
        """Whether a replica with these models may be sent traffic."""
        serving = {name for name in models if serves(models, name)}
        return bool(serving) and serving >= self._named.keys() | self._found

    def can_spare(self, models: Models, name: str, *, gone: bool = False) -> bool:
        """Whether a replica that is ready with these models stays so without that one, which is gone from the store or not."""
        needed = name in self._named or (name in self._found and not gone)
        return not needed and any(serves(models, other) for other in models if other != name)

    def absent(self, models: Models) -> Mapping[str, str]:
        """Which models the settings name that the store lacks, each with its setting."""
        return {
            name: setting for name, setting in sorted(self._settings.items()) if name not in models
        }
