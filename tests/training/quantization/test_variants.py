"""A version in another precision: what is published, what is carried over, and where `production` goes."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from model_store import golden
from model_store.errors import NumericsProofError, PublishError
from model_store.manifest import Check
from model_store.session import Session
from model_store.store import ModelStore
from model_store.version import Version
from training.errors import QuantizationError
from training.quantization import variants
from training.quantization.checks import CHECKS
from training.quantization.variants import (
    Made,
    Settings,
    make_variant,
    opened_source,
    publish_variant,
)
from training.run.data import RunData

DIGITS = "digits-resnet20"


def quiet(_: str) -> object:
    return lambda *_: None


@pytest.fixture(scope="module")
def made(digits: Version, digits_data: RunData) -> Made:
    """The digits in INT8, every layer of them."""
    return make_variant(
        digits,
        digits_data,
        Settings(calibration_images=128, sweep=False),
        {"speed": "a busy machine"},
        quiet,
    )  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """An empty store over the built-in models."""
    (tmp_path / "store").mkdir()
    return ModelStore(tmp_path / "store")


def copy(version: Version, store: ModelStore) -> int:
    """The same published there, with no alias that names it."""
    manifest = version.manifest
    fields = {
        name: getattr(manifest, name)
        for name in type(manifest).model_fields
        if name not in {"files", "model"}
    }
    return store.publish(
        version.model, fields, {entry.path: version.path(entry.path) for entry in manifest.files}
    )


def passed(made: Made) -> Made:
    """As on a machine that nothing else runs on: speed is the one check that a neighbour can fail."""
    checks = tuple(
        check.model_copy(update={"passed": True, "waived": None}) for check in made.checks
    )
    return replace(made, checks=checks)


def test_digits_lose_nothing(made: Made) -> None:
    """Every check but the race passes, and no more than 0.3 points of top-1 are lost on the whole test split."""
    assert [check.check for check in made.checks] == list(CHECKS)
    assert all(check.passed for check in made.checks if check.check != "speed")
    assert made.top1[0] - made.top1[1] <= 0.003
    assert made.kept == ()


def test_the_next_version_holds_both_files_and_proves_itself(
    digits: Version, made: Made, store: ModelStore
) -> None:
    """fp32 is the same to the byte; INT8 has its own tolerance and checks; all else is carried over with where it comes from."""
    published = publish_variant(digits, passed(made), store)
    assert (published.version, published.promoted) == (1, True)
    with store.open(DIGITS, 1) as version:
        fp32, int8 = version.manifest.variants
        assert version.path(fp32.file).read_bytes() == digits.path("model.onnx").read_bytes()
        assert (int8.precision, int8.gate, int8.tolerance) == (
            "int8",
            passed(made).checks,
            made.tolerance,
        )
        assert version.manifest.derived_from is not None
        assert version.manifest.derived_from.digest == digits.digest
        for variant in (fp32, int8):
            golden.prove(
                version,
                Session(
                    version.path(variant.file), version.manifest.input, version.manifest.outputs
                ),
                variant.precision,
            )
        for name in (
            "class_names",
            "golden",
            "gate",
            "metrics",
            "training",
            "classifier",
            "calibration",
            "preprocessing",
        ):
            assert getattr(version.manifest, name) == getattr(digits.manifest, name)


def test_another_int8_takes_the_place_of_the_first(
    digits: Version, made: Made, store: ModelStore
) -> None:
    """A version holds a precision once, and the third version follows from the second."""
    publish_variant(digits, passed(made), store)
    with store.open(DIGITS, 1) as first:
        publish_variant(first, passed(made), store)
    with store.open(DIGITS, 2) as second:
        assert [variant.precision for variant in second.manifest.variants] == ["fp32", "int8"]
        assert second.manifest.derived_from is not None
        assert second.manifest.derived_from.version == 1


def test_an_older_version_in_int8_is_no_rollback(
    digits: Version, made: Made, store: ModelStore
) -> None:
    """`production` follows only where it pointed to the version that was converted."""
    for _ in range(2):
        publish_variant(digits, passed(made), store)
    store.promote(DIGITS, 2)
    with store.open(DIGITS, 1) as older:
        assert publish_variant(older, passed(made), store).promoted is False
    with store.open(DIGITS, 2) as live:
        assert publish_variant(live, passed(made), store).promoted is True
    assert store.aliases(DIGITS).version("production") == 4


@pytest.mark.parametrize("why_not", ["asked", "waived"])
def test_production_stays_where_asked_or_waived(
    digits: Version, made: Made, store: ModelStore, why_not: str
) -> None:
    """--no-promote keeps it back, and so does a check that failed; without an alias what served is named first, and serves on."""
    copy(digits, store)
    waived = Check(
        check="size",
        passed=False,
        value=1,
        threshold=0.5,
        comparison="at_most",
        waived="a disk is cheap",
    )
    candidate = passed(made)
    if why_not == "waived":
        candidate = replace(candidate, checks=(*candidate.checks, waived))
    with store.open(DIGITS, 1) as version:
        assert (
            publish_variant(version, candidate, store, promote=why_not == "waived").promoted
            is False
        )
    assert store.versions(DIGITS) == [1, 2]
    assert store.resolve(DIGITS) == store.aliases(DIGITS).version("production") == 1


def test_an_older_version_in_int8_does_not_serve_as_the_newest(
    digits: Version, made: Made, store: ModelStore
) -> None:
    """Without an alias the newest serves: what is made of an older one must not become that."""
    copy(digits, store)
    copy(digits, store)
    with store.open(DIGITS, 1) as older:
        assert publish_variant(older, passed(made), store).promoted is False
    assert store.resolve(DIGITS) == 2


def test_a_built_in_model_can_not_be_held_back(
    digits: Version, made: Made, store: ModelStore
) -> None:
    """Its next version hides it, whatever an alias says, so nothing is published; one that was waived says that it serves."""
    with pytest.raises(PublishError, match="would hide it and serve"):
        publish_variant(digits, passed(made), store, promote=False)
    assert store.layer(DIGITS) == "built-in"


def test_layers_stay_in_fp32_until_the_loss_holds(
    digits: Version, digits_data: RunData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a bound on drift that INT8 can not keep, the worst layers of the sweep are left out, a quarter at most."""
    monkeypatch.setitem(variants.DRIFT, "int8", 1e-6)  # type: ignore[arg-type]
    found = make_variant(digits, digits_data, Settings(calibration_images=32), {}, quiet)  # type: ignore[arg-type]
    assert len(found.sensitivities) == 22, "20 with weights of their own, and two shortcuts"
    assert found.kept == tuple(line.layer for line in found.sensitivities[:5])
    assert not next(check for check in found.checks if check.check == "logit_drift").passed


def test_fp16_is_gated_here_but_for_its_speed(digits: Version, digits_data: RunData) -> None:
    """A CPU computes it slowly and rightly, so its answers can be held against fp32's."""
    found = make_variant(digits, digits_data, Settings("fp16"), {}, quiet)  # type: ignore[arg-type]
    assert all(check.passed for check in found.checks)
    assert found.tolerance < 0.1
    assert found.top1[0] == found.top1[1]


def test_bf16_is_not_published_ungated(digits: Version, digits_data: RunData) -> None:
    """Where nothing can compute it nothing is known of it."""
    with pytest.raises(
        QuantizationError,
        match="bf16 can not be computed here, so it can not be gated: this machine has no GPU",
    ):
        make_variant(digits, digits_data, Settings("bf16"), {}, quiet)  # type: ignore[arg-type]


def test_a_version_without_fp32_is_refused(digits: Version, store: ModelStore) -> None:
    """There is nothing to convert, nor to compare with."""
    fields = {
        name: getattr(digits.manifest, name)
        for name in type(digits.manifest).model_fields
        if name not in {"files", "model"}
    }
    (fp32,) = digits.manifest.variants
    files = {entry.path: digits.path(entry.path) for entry in digits.manifest.files}
    store.publish(
        "m", {**fields, "variants": (fp32.model_copy(update={"precision": "fp16"}),)}, files
    )
    with pytest.raises(QuantizationError, match="has no fp32 file"), opened_source(store, "m"):
        pass


@pytest.mark.parametrize("share", [2, 8], ids=["a half", "an eighth"])
def test_a_damaged_layer_is_refused(
    share: int, digits: Version, made: Made, store: ModelStore, tmp_path: Path
) -> None:
    """A half, or an eighth, of any one layer's weights zeroed is more than rounding, and the golden proof sees it."""
    publish_variant(digits, passed(made), store)
    whole = onnx.load_model_from_string(made.data)
    weights = [
        tensor.name
        for tensor in whole.graph.initializer
        if tensor.name.endswith("weight_quantized")
    ]
    assert len(weights) == 20
    with store.open(DIGITS, 1) as version:
        for name in weights:
            path = tmp_path / "model.onnx"
            path.write_bytes(with_zeros(made.data, name, share))
            session = Session(path, version.manifest.input, version.manifest.outputs)
            with pytest.raises(NumericsProofError):
                golden.prove_numerics(version, session, "int8")


def with_zeros(data: bytes, name: str, share: int) -> bytes:
    """The file with every `share`-th of these weights zeroed."""
    model = onnx.load_model_from_string(data)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    weights = numpy_helper.to_array(tensor).copy()
    weights.reshape(-1)[::share] = 0
    tensor.CopyFrom(numpy_helper.from_array(weights, name))
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("asked", "images", "allowed"),
    [(None, 60, 100 / 30), (None, 10_000, 0.5), (0.0, 60, 0.0), (2.0, 60, 2.0)],
)
def test_two_of_few_images_may_be_lost_unless_said_otherwise(
    asked: float | None, images: int, allowed: float
) -> None:
    """Of 60 test images one is more than half a point, which says nothing; what a person asks for counts as it is."""
    assert Settings(max_loss=asked).allowed_loss(images) == pytest.approx(allowed)
