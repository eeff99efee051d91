"""Torchvision's weights are identified by the sha256 prefix in their URLs."""

from hashlib import sha256
from pathlib import Path

import pytest
from torchvision.models import ResNet50_Weights, get_model_weights

from training.importing.torchvision_weights import identify_weights, sha256_prefix
from training.learning.architectures import TORCHVISION_NETWORKS


def test_every_url_has_a_unique_sha256_prefix() -> None:
    """An empty prefix would match every file."""
    prefixes = [
        sha256_prefix(weights.url)
        for name in TORCHVISION_NETWORKS
        for weights in get_model_weights(name)
    ]
    assert all(len(part) >= 8 and int(part, 16) >= 0 for part in prefixes)
    assert len(set(prefixes)) == len(prefixes)


def test_a_file_is_identified_by_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name does not count, and it is not taken for the default weights."""
    path = tmp_path / "downloaded.pth"
    path.write_bytes(b"as if it were the older weights")
    digest = sha256(path.read_bytes()).hexdigest()
    older = ResNet50_Weights.IMAGENET1K_V1
    monkeypatch.setattr(
        older.value, "url", f"https://download.pytorch.org/models/resnet50-{digest[:8]}.pth"
    )
    known = identify_weights("resnet50", path)
    assert (known.name, known.certainty) == ("IMAGENET1K_V1", "found")
    assert known.preset.geometry.crop_share == 224 / 256
    assert identify_weights("resnet50", None).preset.geometry.crop_share == 224 / 232


def test_an_unknown_file_keeps_its_own_name(tmp_path: Path) -> None:
    """The labels and transforms of the default weights are assumed for it."""
    path = tmp_path / "resnet50-0676ba61.pth"
    path.write_bytes(b"something else")
    known = identify_weights("resnet50", path)
    assert (known.name, known.certainty) == ("resnet50-0676ba61.pth", "assumed")
    assert known.known is ResNet50_Weights.DEFAULT
