"""Identifies torchvision's pretrained weights by the SHA-256 prefix in their download URLs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torchvision.models import get_model_weights

from model_store.files import sha256_of
from training.importing.input_spec import PixelRange
from training.importing.presets import Geometry, Preset, triple


@dataclass(frozen=True)
class KnownWeights:
    """A member of torchvision's weights enum, and whether the file holds these weights.

    `certainty` is "assumed" if the file is unknown. `known` is then torchvision's default.
    """

    known: Any
    name: str
    certainty: Literal["found", "assumed"]
    evidence: str

    @property
    def categories(self) -> Sequence[str]:
        names: Sequence[str] = self.known.meta["categories"]
        return names

    @property
    def transforms_evidence(self) -> str:
        suffix = "" if self.certainty == "found" else ", but the file is not known to be these"
        return f"the transforms of {self.known}{suffix}"

    @property
    def preset(self) -> Preset:
        transforms = self.known.transforms()
        return Preset(
            PixelRange("RGB", 1 / 255, triple(transforms.mean), triple(transforms.std)),
            Geometry(
                transforms.crop_size[0] / transforms.resize_size[0],
                "shorter_side",
                transforms.interpolation.value,
            ),
            states_geometry=True,
            size=(transforms.crop_size[0], transforms.crop_size[0]),
        )


def identify_weights(network: str, path: Path | None) -> KnownWeights:
    """Find torchvision's weights by the file's SHA-256. Without a file, take the default weights.

    An unknown file keeps its own name. It is assumed to have the default labels and transforms.
    """
    members: Any = get_model_weights(network)
    default = members.DEFAULT
    if path is None:
        return KnownWeights(default, default.name, "found", f"downloaded from {default.url}")
    digest = sha256_of(path.resolve())
    for known in members:
        if digest.startswith(sha256_prefix(known.url)):
            evidence = f"sha256 {digest[:8]}…, as in {known.url}"
            return KnownWeights(known, known.name, "found", evidence)
    evidence = f"sha256 {digest[:8]}… is none of torchvision's for {network}"
    return KnownWeights(default, path.name, "assumed", evidence)


def sha256_prefix(url: str) -> str:
    """The hexadecimal digits at the end of a download URL: `…/resnet50-11ad3fa6.pth`."""
    return Path(url).stem.rpartition("-")[2]
