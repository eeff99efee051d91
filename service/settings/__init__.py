"""The service's settings. Each one is an option, an environment variable and a line of `--help`."""

from typing import Any, Final

from pydantic import model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from model_store.store import BUILTIN_DEFAULT_MODEL
from service.settings.access import AccessSettings
from service.settings.engine import EngineSettings, Mode, ModelSettings, RequestedPrecision
from service.settings.network import NetworkSettings
from service.settings.requests import RequestSettings, parse_formats
from service.settings.store import StoreSettings, parse_names
from service.settings.units import MEBIBYTE
from service.versions.version_policy import VersionPolicy, parse_policy

__all__ = [
    "MEBIBYTE",
    "Mode",
    "ModelSettings",
    "RequestedPrecision",
    "Settings",
    "parse_formats",
    "parse_names",
]

ENVIRONMENT_PREFIX: Final = "SERVICE_"


# `--help` lists the fields of the last base first.
class Settings(
    EngineSettings, RequestSettings, StoreSettings, AccessSettings, NetworkSettings, BaseSettings
):
    """All settings of the service, read from keyword arguments and `SERVICE_*` variables.

    `--max-body-bytes` is `SERVICE_MAX_BODY_BYTES`. Arguments win over variables.
    """

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _unset_empty_keys(cls, values: dict[str, Any]) -> dict[str, Any]:
        """An empty variable overrides the one of the container image, which requires a file."""
        return {name: value for name, value in values.items() if (name, value) != ("keys", "")}

    @property
    def named_default_model(self) -> str | None:
        """The model that must answer /v1/predict, if a setting names one."""
        return self.default_model or self.model_name

    @property
    def served_default_model(self) -> str | None:
        """The model that answers /v1/predict, set or built-in; None if there is neither."""
        return self.named_default_model or (BUILTIN_DEFAULT_MODEL if self.builtin else None)

    def version_policy_of(self, model: str) -> VersionPolicy:
        own = self.models.get(model)
        return parse_policy((own and own.version_policy) or self.version_policy)
