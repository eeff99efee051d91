"""A file of torchvision's weights is known by its sha256, of which its address carries the first digits."""

from hashlib import sha256
from pathlib import Path

import pytest
from torchvision.models import ResNet50_Weights, get_model_weights

from training.importing.torch_networks import RESIDUAL
from training.importing.torchvision_weights import digits_of, find_origin


def test_every_address_carries_digits() -> None:
    """Else an empty beginning would fit every file."""
    digits = [digits_of(weights.url) for name in RESIDUAL for weights in get_model_weights(name)]
    assert all(len(part) >= 8 and int(part, 16) >= 0 for part in digits)
    assert len(set(digits)) == len(digits)


def test_a_file_is_known_by_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by its name, and not as the default weights: other weights have other transforms."""
    path = tmp_path / "downloaded.pth"
    path.write_bytes(b"as if it were the older weights")
    digest = sha256(path.read_bytes()).hexdigest()
    older = ResNet50_Weights.IMAGENET1K_V1
    monkeypatch.setattr(
        older.value, "url", f"https://download.pytorch.org/models/resnet50-{digest[:8]}.pth"
    )
    origin = find_origin("resnet50", path)
    assert (origin.name, origin.certainty) == ("IMAGENET1K_V1", "found")
    assert origin.preset.geometry.crop_share == 224 / 256, "the newer ones are for 224 of 232"
    assert find_origin("resnet50", None).preset.geometry.crop_share == 224 / 232


def test_another_file_keeps_its_own_name(tmp_path: Path) -> None:
    """And what the default weights bring is assumed of it."""
    path = tmp_path / "resnet50-0676ba61.pth"
    path.write_bytes(b"something else")
    origin = find_origin("resnet50", path)
    assert (origin.name, origin.certainty) == ("resnet50-0676ba61.pth", "assumed")
    assert "is that of none of torchvision's for resnet50" in origin.evidence
    assert "which this file is not known to be" in origin.transforms_evidence
    assert origin.known is ResNet50_Weights.DEFAULT
