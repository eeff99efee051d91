"""RequiredModels: the models that must serve for this replica to be ready."""

import logging
from collections.abc import Collection, Mapping

from service.versions.served_model import Models, serves

logger = logging.getLogger(__name__)


class RequiredModels:
    """A replica is ready while all of its required models serve, and at least one model.

    Models that a setting names are always required. If `SERVICE_REQUIRED_MODELS` is unset, the
    models that serve after startup are required as well, until they are deleted from the store. So
    neither a new model nor a deleted one makes a replica unready.
    """

    def __init__(
        self,
        default_model: str | None = None,
        required: Collection[str] | None = None,
        configured: Collection[str] = (),
    ) -> None:
        """Keep the models that settings name.

        Args:
            default_model: Always required.
            required: Always required; None if `SERVICE_REQUIRED_MODELS` is unset.
            configured: Models with settings of their own. They are optional.
        """
        self._named = dict.fromkeys(required or (), "SERVICE_REQUIRED_MODELS")
        if default_model:
            self._named[default_model] = "SERVICE_DEFAULT_MODEL"
        self._settings = dict.fromkeys(configured, "SERVICE_MODELS") | self._named
        self._requires_startup_models = required is None
        self._startup_models: frozenset[str] = frozenset()

    def record_startup(self, models: Models) -> None:
        """Record the models that serve now, and log models in settings that the store lacks."""
        if self._requires_startup_models:
            self._startup_models = frozenset(name for name in models if serves(models, name))
        for name, setting in self.missing(models).items():
            logger.log(
                logging.ERROR if name in self._named else logging.WARNING,
                "model not in store setting=%s model=%s available=%s",
                setting,
                name,
                ",".join(sorted(models)),
            )

    def forget(self, name: str) -> None:
        """Stop requiring a model that was deleted from the store, unless a setting names it."""
        self._startup_models -= {name}

    def all_serve(self, models: Models) -> bool:
        """Whether a replica with these models is ready."""
        serving = {name for name in models if serves(models, name)}
        return bool(serving) and serving >= self._named.keys() | self._startup_models

    def is_ready_without(self, models: Models, name: str, *, deleted: bool = False) -> bool:
        """Whether a ready replica stays ready without this model.

        Args:
            models: The models of the replica.
            name: The model to go.
            deleted: The model is gone from the store, so it is required only if a setting names it.
        """
        required = name in self._named or (name in self._startup_models and not deleted)
        return not required and any(serves(models, other) for other in models if other != name)

    def missing(self, models: Models) -> Mapping[str, str]:
        """The models that settings name and the store lacks, each with the setting's name."""
        return {
            name: setting for name, setting in sorted(self._settings.items()) if name not in models
        }
