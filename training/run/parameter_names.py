"""Maps the parameter names of training scripts and wrappers to torchvision's names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from torch import Tensor

HEAD: Final = "fc"
_ANCHOR: Final = "layer1.0.conv1.weight"  # every residual network has it
_WRAPPERS: Final = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Modules that torch.compile, FSDP and activation checkpointing insert anywhere in a name."""
_HEAD_NAMES: Final = frozenset({"fc", "head", "classifier", "linear"})
_LISTED: Final = 3


class AmbiguousNamesError(ValueError):
    """The tensors belong to several networks."""


@dataclass(frozen=True)
class RenamedTensors:
    """Tensors by torchvision's names, and one sentence for each kind of change."""

    state: Mapping[str, Tensor]
    changes: tuple[str, ...]


def use_torchvision_names(state: Mapping[str, Tensor]) -> RenamedTensors:
    """Strip the prefix of wrappers, and rename the last layer to `fc`.

    The prefix is the part before `layer1.0.conv1.weight`. Tensors without it are left out,
    except for the last layer, which some scripts keep outside the body.

    Raises:
        AmbiguousNamesError: The tensors belong to several networks.
    """
    changes = []
    plain = {_without_wrappers(name): value for name, value in state.items()}
    if found := sorted({part for name in state for part in name.split(".")} & _WRAPPERS):
        changes.append(f"removed {', '.join(found)} from the names of the tensors")
    prefix = _find_prefix(plain)
    body = {
        name.removeprefix(prefix): value for name, value in plain.items() if name.startswith(prefix)
    }
    rest = {name: value for name, value in plain.items() if not name.startswith(prefix)}
    if prefix:
        changes.append(f"removed the prefix {prefix} from the names of the tensors")
    head = None if f"{HEAD}.weight" in body else _find_head(body | rest)
    if head is not None:
        for part in ("weight", "bias"):
            value = body.pop(f"{head}.{part}", None)
            value = rest.pop(f"{head}.{part}", None) if value is None else value
            if value is not None:
                body[f"{HEAD}.{part}"] = value
        also = "; the file does not say what is around it" if head[-1].isdecimal() else ""
        changes.append(f"renamed the last layer {head} to {HEAD}{also}")
    if rest:
        more = f" and {len(rest) - _LISTED} more" if len(rest) > _LISTED else ""
        listed = ", ".join(sorted(rest)[:_LISTED])
        changes.append(f"left out tensors outside of {prefix.rstrip('.')}: {listed}{more}")
    return RenamedTensors(body, tuple(changes))


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _find_prefix(state: Mapping[str, Tensor]) -> str:
    prefixes = sorted(
        name.removesuffix(_ANCHOR)
        for name in state
        if name == _ANCHOR or name.endswith(f".{_ANCHOR}")
    )
    if "" in prefixes:
        return ""
    if len(prefixes) > 1:
        raise AmbiguousNamesError(
            f"it holds several networks: {', '.join(prefixes)}; save the tensors of one of them"
        )
    return prefixes[0] if prefixes else ""


def _find_head(state: Mapping[str, Tensor]) -> str | None:
    """Return the only linear layer with a usual name of the last one, such as `head.fc`."""
    layers = [
        name.removesuffix(".weight")
        for name, value in state.items()
        if name.endswith(".weight") and value.ndim == 2 and _HEAD_NAMES & set(name.split("."))
    ]
    return layers[0] if len(layers) == 1 else None
