"""Which of torchvision's pretrained weights a file holds: its addresses carry the first digits of each file's sha256."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torchvision.models import get_model_weights

from model_store.files import sha256_of
from training.importing.input_spec import PixelRange
from training.importing.presets import Geometry, Preset, triple


@dataclass(frozen=True)
class Origin:
    """What is known of weights: torchvision's own (`known`) bring categories and transforms; `assumed` where by default alone."""

    known: Any
    name: str
    certainty: Literal["found", "assumed"]
    evidence: str

    @property
    def categories(self) -> Sequence[str]:
        """The classes in the network's order."""
        names: Sequence[str] = self.known.meta["categories"]
        return names

    @property
    def transforms_evidence(self) -> str:
        """Where the preset comes from, in words."""
        return f"the transforms of {self.known}" + (
            "" if self.certainty == "found" else ", which this file is not known to be"
        )

    @property
    def preset(self) -> Preset:
        """Range, size and geometry, as its transforms have them."""
        transforms = self.known.transforms()
        return Preset(
            PixelRange("RGB", 1 / 255, triple(transforms.mean), triple(transforms.std)),
            Geometry(
                transforms.crop_size[0] / transforms.resize_size[0],
                "shorter_side",
                transforms.interpolation.value,
            ),
            says_geometry=True,
            size=(transforms.crop_size[0], transforms.crop_size[0]),
        )


def find_origin(network: str, path: Path | None) -> Origin:
    """The weights of this network that a file is by its sha256; without a file the default ones, which are downloaded.

    A file of other weights keeps its own name, and what the default ones bring is assumed of it.
    """
    members: Any = get_model_weights(network)
    if path is None:
        return Origin(
            members.DEFAULT,
            members.DEFAULT.name,
            "found",
            f"{members.DEFAULT.url}, and its sha256 begins as that says",
        )
    digest = sha256_of(path.resolve())
    for known in members:
        if digest.startswith(digits_of(known.url)):
            return Origin(known, known.name, "found", f"sha256 {digest[:8]}…, as in {known.url}")
    return Origin(
        members.DEFAULT,
        path.name,
        "assumed",
        f"its sha256, {digest[:8]}…, is that of none of torchvision's for {network}",
    )


def digits_of(url: str) -> str:
    """The digits of the sha256 in an address, as torch.hub reads them: `…/resnet50-11ad3fa6.pth`."""
    return Path(url).stem.rpartition("-")[2]
