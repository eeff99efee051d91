"""How the service finds what `python -m service tune` has chosen for a model; `service.engine.tuned_settings` says what that is."""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from model_store.host_cache import check_owner
from model_store.version import Version

if TYPE_CHECKING:
    from service.engine.tuned_settings import TunedSettings

SETTINGS: Final = ("instances", "intra_op_num_threads", "max_batch_size", "precision")
TOGETHER: Final = frozenset({"instances", "intra_op_num_threads"})
FOLDER: Final = "tuning"
MAX_BYTES: Final = 1024 * 1024
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TunedSettingsLookup:
    """Where choices lie, for how many CPUs, and the settings that a person has set: those win, and threads go with instances."""

    cache: Path
    cpus: int
    fixed: Collection[str] = ()

    def values_for(self, version: Version) -> dict[str, Any]:
        """The chosen settings by name, without the fixed ones; empty where there is no choice for this version here."""
        choice = find_tuned_settings(self.cache, version, self.cpus)
        fixed = {*self.fixed, *(TOGETHER if TOGETHER.intersection(self.fixed) else ())}
        return (
            {name: getattr(choice, name) for name in SETTINGS if name not in fixed}
            if choice
            else {}
        )


def find_tuned_settings(cache: Path, version: Version, cpus: int) -> "TunedSettings | None":
    """The choice that was made for this version on a machine like this, with so many CPUs to use; None where there is none.

    One that can not be read, that another user could have put there, or that holds for something else, is none, and the log says
    why. Raises nothing.
    """
    try:
        for folder in (cache, cache / FOLDER):
            check_owner(folder)
        with (cache / FOLDER / f"{version.model}.json").open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning(
            "what tune chose for %s can not be read: %s", version.model, error.strerror or error
        )
        return None
    if len(data) > MAX_BYTES:
        logger.warning(
            "what tune chose for %s is ignored: its file has more than %d bytes",
            version.model,
            MAX_BYTES,
        )
        return None
    from service.engine.tuned_settings import parse_tuned_settings  # noqa: PLC0415  milliseconds of each start that only a tuned model need pay

    try:
        return parse_tuned_settings(data, version, cpus)
    except ValueError as error:
        logger.warning("what tune chose for %s is ignored: %s", version.model, error)
        return None
