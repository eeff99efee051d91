"""RequiredModels: the models that must serve for this replica to be ready."""

import logging
from collections.abc import Collection, Mapping

from service.versions.served_model import Models, serves

logger = logging.getLogger(__name__)


class RequiredModels:
    """A replica is ready while all of its required models serve, and at least one model.

    Models that a setting names are always required. If `SERVICE_REQUIRED_MODELS` is unset, these
    are required as well, until they are deleted from the store:

    - the default model and every model that serves after startup;
    - one of the models that are published at startup. If there is only one, it is required.

    So neither a new model nor a deleted one makes a replica unready, and a replica whose published
    models all fail never becomes ready.
    """

    def __init__(
        self,
        default_model: str | None = None,
        required: Collection[str] | None = None,
        configured: Collection[str] = (),
        default_setting: str = "SERVICE_DEFAULT_MODEL",
    ) -> None:
        """Keep the models that settings name.

        Args:
            default_model: Always required.
            required: Always required; None if `SERVICE_REQUIRED_MODELS` is unset.
            configured: Models with settings of their own. They are optional.
            default_setting: The setting that names the default model.
        """
        self._named = dict.fromkeys(required or (), "SERVICE_REQUIRED_MODELS")
        if default_model:
            self._named[default_model] = default_setting
        self._settings = dict.fromkeys(configured, "SERVICE_MODELS") | self._named
        self._requires_startup_models = required is None
        self._startup_models: frozenset[str] = frozenset()
        self._published: frozenset[str] = frozenset()

    def record_startup(self, models: Models, default_model: str | None) -> None:
        """Record which models are required, and log models in settings that the store lacks."""
        if self._requires_startup_models:
            self._startup_models = _serving(models) | ({default_model} if default_model else set())
            self._published = frozenset(
                name for name, model in models.items() if model.layer == "published"
            )
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
        self._published -= {name}

    def all_serve(self, models: Models) -> bool:
        """Whether a replica with these models is ready."""
        return self._are_enough(_serving(models), frozenset())

    def is_ready_without(self, models: Models, name: str, *, deleted: bool = False) -> bool:
        """Whether a ready replica stays ready without this model.

        Args:
            models: The models of the replica.
            name: The model to go.
            deleted: The model is gone from the store, so it is required only if a setting names it.
        """
        return self._are_enough(_serving(models) - {name}, frozenset({name} if deleted else ()))

    def _are_enough(self, serving: frozenset[str], deleted: frozenset[str]) -> bool:
        published = self._published - deleted
        return (
            bool(serving)
            and serving >= self._named.keys() | (self._startup_models - deleted)
            and (not published or not serving.isdisjoint(published))
        )

    def missing(self, models: Models) -> Mapping[str, str]:
        """The models that settings name and the store lacks, each with the setting's name."""
        return {
            name: setting for name, setting in sorted(self._settings.items()) if name not in models
        }


def _serving(models: Models) -> frozenset[str]:
    return frozenset(name for name in models if serves(models, name))
