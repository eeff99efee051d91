"""What the parameters of a request and of its outputs ask for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from model_store.validation import to_whole_number
from service.engine.loaded_version import LoadedVersion
from service.engine.priority import BULK, INTERACTIVE, Priority
from service.errors import BadRequestError, shorten
from service.protocols.open_inference.outputs import OUTPUT_NAMES, RANKED_OUTPUTS, output_names

MAX_NUMBER = 2**63 - 1
MAX_ID_LENGTH: Final = 1000
"""Longest `id` of a request, in characters. The response repeats it."""


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output of the response.

    Attributes:
        name: Name of the output.
        classes: Number of classes of the classification extension; 0 for the tensor itself.
        binary: Whether it is sent as bytes.
    """

    name: str
    classes: int = 0
    binary: bool = False


@dataclass(frozen=True, slots=True)
class InferSchedule:
    """The schedule policy of a request."""

    priority: Priority = INTERACTIVE
    timeout_seconds: float = math.inf


NO_SCHEDULE: Final = InferSchedule()


def too_long_id() -> BadRequestError:
    return _invalid(f"`id` must have at most {MAX_ID_LENGTH:,} characters")


def read_schedule(parameters: Mapping[str, Any]) -> InferSchedule:
    """Read `priority` (0 and 1: interactive, 2 and more: bulk) and `timeout` (microseconds)."""
    priority = _whole_number(parameters, "priority")
    microseconds = _whole_number(parameters, "timeout")
    return InferSchedule(
        BULK if priority > INTERACTIVE else INTERACTIVE,
        microseconds / 1e6 if microseconds else math.inf,
    )


def read_outputs(
    requested: Sequence[tuple[str, Mapping[str, Any]]] | None,
    loaded: LoadedVersion,
    *,
    binary: bool,
) -> list[RequestedOutput]:
    """The outputs of the response.

    Args:
        requested: Names and parameters; None or empty for all outputs.
        loaded: The version.
        binary: Whether outputs are sent as bytes unless they say otherwise.

    Raises:
        BadRequestError: An output does not exist or is given twice, or a parameter is invalid.
    """
    offered = output_names(loaded)
    if not requested:
        return [RequestedOutput(name, binary=binary) for name in offered]
    outputs: dict[str, RequestedOutput] = {}
    for name, parameters in requested:
        if name not in offered:
            reason = f"{loaded.version} has no such output" if name in OUTPUT_NAMES else "unknown"
            raise _invalid(
                f"the output {shorten(name, 40)!r} cannot be returned: {reason}; choose from "
                f"{', '.join(offered)}"
            )
        if name in outputs:
            raise _invalid(f"the output {name!r} is requested twice")
        classes = _whole_number(parameters, "classification")
        if classes and name not in RANKED_OUTPUTS:
            raise _invalid(
                f"`classification` is for the outputs {' and '.join(RANKED_OUTPUTS)}, not {name}"
            )
        outputs[name] = RequestedOutput(
            name, classes, read_flag(parameters, "binary_data", default=binary)
        )
    return list(outputs.values())


def read_flag(parameters: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise _invalid(f"`{name}` must be true or false, got {shorten(repr(value), 40)}")
    return value


def _whole_number(parameters: Mapping[str, Any], name: str) -> int:
    value = to_whole_number(parameters.get(name, 0))
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_NUMBER:
        raise _invalid(
            f"`{name}` must be a whole number of at least 0, got {shorten(repr(value), 40)}"
        )
    return value


def _invalid(message: str) -> BadRequestError:
    return BadRequestError(message, code="invalid_parameter")
