"""Variants of the built-in digits model, and their publication."""

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
from training.gates.waivers import VARIANT_CHECKS
from training.quantization import variants
from training.quantization.publication import open_source_version, publish_variant
from training.quantization.quantized_variant import QuantizationSettings, QuantizedVariant
from training.quantization.variants import make_variant
from training.run.data import RunData

DIGITS = "digits-resnet20"


def quiet(_: str) -> object:
    return lambda *_: None


@pytest.fixture(scope="module")
def quantized(digits: Version, digits_data: RunData) -> QuantizedVariant:
    """The digits model in INT8, all layers."""
    return make_variant(
        digits,
        digits_data,
        QuantizationSettings(calibration_images=128, sweep=False),
        {"speed": "test machines are busy"},
        quiet,
    )  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    (tmp_path / "store").mkdir()
    return ModelStore(tmp_path / "store")


def copy(version: Version, store: ModelStore) -> int:
    """Publish the same version there, without an alias."""
    manifest = version.manifest
    fields = {
        name: getattr(manifest, name)
        for name in type(manifest).model_fields
        if name not in {"files", "model"}
    }
    return store.publish(
        version.model, fields, {entry.path: version.path(entry.path) for entry in manifest.files}
    )


def passed(quantized: QuantizedVariant) -> QuantizedVariant:
    """The variant with every check passed, also the speed on a busy machine."""
    checks = tuple(
        check.model_copy(update={"passed": True, "waived": None}) for check in quantized.checks
    )
    return replace(quantized, checks=checks)


def test_int8_passes_every_check_but_speed(quantized: QuantizedVariant) -> None:
    """Top-1 drops by at most 0.3 percentage points."""
    assert sorted(check.check for check in quantized.checks) == sorted(VARIANT_CHECKS)
    assert all(check.passed for check in quantized.checks if check.check != "speed")
    assert quantized.top1[0] - quantized.top1[1] <= 0.003
    assert quantized.fp32_layers == ()


def test_the_next_version_holds_both_files_and_passes_the_golden_proof(
    digits: Version, quantized: QuantizedVariant, store: ModelStore
) -> None:
    """The fp32 file and the rest of the manifest are unchanged."""
    published = publish_variant(digits, passed(quantized), store)
    assert (published.version, published.promoted) == (1, True)
    with store.open(DIGITS, 1) as version:
        fp32, int8 = version.manifest.variants
        assert version.path(fp32.file).read_bytes() == digits.path("model.onnx").read_bytes()
        assert (int8.precision, int8.gate, int8.tolerance) == (
            "int8",
            passed(quantized).checks,
            quantized.tolerance,
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
            "training",
            "classifier",
            "calibration",
            "preprocessing",
        ):
            assert getattr(version.manifest, name) == getattr(digits.manifest, name)
        added = {"top_scores"}  # older versions do not state them
        metrics = version.manifest.metrics, digits.manifest.metrics
        assert metrics[0]
        assert metrics[1]
        assert metrics[0].top_scores
        assert metrics[0].model_dump(exclude=added) == metrics[1].model_dump(exclude=added)


def test_a_second_int8_replaces_the_first(
    digits: Version, quantized: QuantizedVariant, store: ModelStore
) -> None:
    publish_variant(digits, passed(quantized), store)
    with store.open(DIGITS, 1) as first:
        publish_variant(first, passed(quantized), store)
    with store.open(DIGITS, 2) as second:
        assert [variant.precision for variant in second.manifest.variants] == ["fp32", "int8"]
        assert second.manifest.derived_from is not None
        assert second.manifest.derived_from.version == 1


def test_a_variant_of_an_older_version_is_not_promoted(
    digits: Version, quantized: QuantizedVariant, store: ModelStore
) -> None:
    """`production` moves only from the version that was converted."""
    for _ in range(2):
        publish_variant(digits, passed(quantized), store)
    store.promote(DIGITS, 2)
    with store.open(DIGITS, 1) as older:
        assert publish_variant(older, passed(quantized), store).promoted is False
    with store.open(DIGITS, 2) as live:
        assert publish_variant(live, passed(quantized), store).promoted is True
    assert store.aliases(DIGITS).version("production") == 4


@pytest.mark.parametrize("reason", ["no-promote", "waived"])
def test_production_stays_with_no_promote_or_a_waiver(
    digits: Version, quantized: QuantizedVariant, store: ModelStore, reason: str
) -> None:
    """Without an alias, `production` is set to the version that served."""
    copy(digits, store)
    failed = Check(
        check="size",
        passed=False,
        value=1,
        threshold=0.5,
        comparison="at_most",
        waived="a disk is cheap",
    )
    candidate = passed(quantized)
    if reason == "waived":
        candidate = replace(candidate, checks=(*candidate.checks, failed))
    with store.open(DIGITS, 1) as version:
        assert (
            publish_variant(version, candidate, store, promote=reason == "waived").promoted is False
        )
    assert store.versions(DIGITS) == [1, 2]
    assert store.resolve(DIGITS) == store.aliases(DIGITS).version("production") == 1


def test_a_variant_of_an_older_version_does_not_serve_as_the_newest(
    digits: Version, quantized: QuantizedVariant, store: ModelStore
) -> None:
    """Without an alias the newest version would serve."""
    copy(digits, store)
    copy(digits, store)
    with store.open(DIGITS, 1) as older:
        assert publish_variant(older, passed(quantized), store).promoted is False
    assert store.resolve(DIGITS) == 2


def test_a_variant_of_a_built_in_model_cannot_be_held_back(
    digits: Version, quantized: QuantizedVariant, store: ModelStore
) -> None:
    """Its next version would hide it without any alias."""
    with pytest.raises(PublishError, match="--no-promote"):
        publish_variant(digits, passed(quantized), store, promote=False)
    assert store.layer(DIGITS) == "built-in"


def test_a_quarter_of_the_layers_stays_in_fp32_if_the_drift_is_too_large(
    digits: Version, digits_data: RunData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """INT8 cannot meet this bound; the layers are the worst ones of the sweep."""
    monkeypatch.setitem(variants.MAX_DRIFT, "int8", 1e-6)  # type: ignore[arg-type]
    variant = make_variant(
        digits, digits_data, QuantizationSettings(calibration_images=32), {}, quiet
    )  # type: ignore[arg-type]
    assert len(variant.sensitivities) == 22  # 20 layers and 2 shortcuts
    assert variant.fp32_layers == tuple(entry.layer for entry in variant.sensitivities[:5])
    assert not next(check for check in variant.checks if check.check == "logit_drift").passed


def test_fp16_passes_its_checks_on_a_cpu(digits: Version, digits_data: RunData) -> None:
    """A CPU is slow in fp16, so its speed is not checked."""
    variant = make_variant(digits, digits_data, QuantizationSettings("fp16"), {}, quiet)
    assert all(check.passed for check in variant.checks)
    assert variant.tolerance < 0.1
    assert variant.top1[0] == variant.top1[1]


def test_bf16_is_refused_without_a_gpu(digits: Version, digits_data: RunData) -> None:
    """It cannot be checked on a CPU."""
    with pytest.raises(QuantizationError, match="bf16 cannot run on this machine"):
        make_variant(digits, digits_data, QuantizationSettings("bf16"), {}, quiet)


def test_a_version_without_fp32_is_refused(digits: Version, store: ModelStore) -> None:
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
    with pytest.raises(QuantizationError, match="no fp32 file"), open_source_version(store, "m"):
        pass


@pytest.mark.parametrize("share", [2, 8], ids=["half", "eighth"])
def test_a_damaged_layer_is_refused(
    share: int, digits: Version, quantized: QuantizedVariant, store: ModelStore, tmp_path: Path
) -> None:
    """The golden proof notices zeroed weights in any single layer."""
    publish_variant(digits, passed(quantized), store)
    model = onnx.load_model_from_string(quantized.data)
    weights = [
        tensor.name
        for tensor in model.graph.initializer
        if tensor.name.endswith("weight_quantized")
    ]
    assert len(weights) == 20
    with store.open(DIGITS, 1) as version:
        for name in weights:
            path = tmp_path / "model.onnx"
            path.write_bytes(with_zeros(quantized.data, name, share))
            session = Session(path, version.manifest.input, version.manifest.outputs)
            with pytest.raises(NumericsProofError):
                golden.prove_numerics(version, session, "int8")


def with_zeros(data: bytes, name: str, share: int) -> bytes:
    """Set every `share`-th of these weights to 0."""
    model = onnx.load_model_from_string(data)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    weights = numpy_helper.to_array(tensor).copy()
    weights.reshape(-1)[::share] = 0
    tensor.CopyFrom(numpy_helper.from_array(weights, name))
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("max_loss", "images", "allowed"),
    [(None, 60, 100 / 30), (None, 10_000, 0.5), (0.0, 60, 0.0), (2.0, 60, 2.0)],
)
def test_two_images_may_be_lost_by_default(
    max_loss: float | None, images: int, allowed: float
) -> None:
    """With 60 test images, one is already 1.7 percentage points."""
    assert QuantizationSettings(max_loss=max_loss).allowed_loss(images) == pytest.approx(allowed)
