"""The manifest: what it accepts, what it rejects, and how it is written."""

import hashlib
import json
from datetime import UTC, timedelta
from typing import Any

import pytest
from pydantic import ValidationError
from store_factory import plain_fields, proven_version

from model_store.errors import ManifestError
from model_store.manifest import (
    Calibration,
    FileEntry,
    Manifest,
    Outputs,
    Preprocessing,
    Variant,
    manifest_digest,
    now,
)

SHA256 = "0" * 64


def sealed(**changes: Any) -> Manifest:
    """A valid manifest with some fields replaced."""
    fields, files = proven_version()
    entries = tuple(
        {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for path, data in files.items()
    )
    return Manifest.model_validate({**fields, "model": "m", "files": entries} | changes)


def edited(*steps: str | int, value: Any) -> bytes:
    """A valid manifest's bytes with one place, named by its keys and indices, replaced."""
    document = json.loads(sealed().to_bytes())
    place = document
    for step in steps[:-1]:
        place = place[step]
    place[steps[-1]] = value
    return json.dumps(document).encode()


def test_a_manifest_survives_its_file() -> None:
    """Reading the written bytes gives an equal manifest, and writing that the same bytes."""
    manifest = sealed()
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest
    assert Manifest.from_bytes(manifest.to_bytes()).to_bytes() == manifest.to_bytes()
    assert manifest.to_bytes().endswith(b"}\n")


def test_the_digest_is_the_sha256_of_the_bytes() -> None:
    """It is what `sha256sum manifest.json` prints."""
    data = sealed().to_bytes()
    assert manifest_digest(data) == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    "block",
    [(), ("input",), ("preprocessing",), ("variants", 0), ("golden", 0), ("files", 0)],
    ids=str,
)
def test_an_unknown_field_is_rejected_in_every_block(block: tuple[str | int, ...]) -> None:
    """The error names the field."""
    with pytest.raises(ManifestError, match="surprise: "):
        Manifest.from_bytes(edited(*block, "surprise", value=1))


@pytest.mark.parametrize(
    "path",
    [
        "../up",
        "a/../../b",
        "a/..",
        "..",
        "/etc/passwd",
        "//etc",
        "\\windows",
        "a\\b",
        "C:evil",
        "./a",
        "a//b",
        "a/",
        ".",
        "",
        "a\0b",
        "x" * 256,
    ],
)
def test_a_path_outside_the_version_is_rejected(path: str) -> None:
    """So is a second spelling of a path, and the manifest itself."""
    with pytest.raises(ManifestError, match=r"files\.0\.path"):
        Manifest.from_bytes(edited("files", 0, "path", value=path))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("schema_version",), 2),
        (("schema_version",), "1"),
        (("model",), "../m"),
        (("model",), "m\n"),
        (("created_at",), "2026-01-01T00:00:00"),  # no time zone
        (("files", 0, "size"), -1),
        (("files", 0, "size"), 1.5),
        (("files", 0, "sha256"), "A" * 64),
        (("files", 0, "sha256"), SHA256 + "\n"),
        (("input", "name"), "pixels"),
        (("input", "dtype"), "float32"),
        (("input", "channels"), "BGR"),
        (("input", "height"), 0),
        (("outputs", "kind"), "scores"),
        (("preprocessing", "interpolation"), "area"),
        (("preprocessing", "background"), [256, 0, 0]),
        (("preprocessing", "background"), [0, 0]),
        (("class_names",), ["only one"]),
        (("class_names", 0), ""),
        (("max_batch_size",), 0),
        (("max_batch_size",), True),
        (("variants",), []),
        (("variants", 0, "tolerance"), 0.0),
        (("variants", 0, "tolerance"), 1e308),
        (("variants", 0, "tolerance"), 1001.0),
        (("variants", 0, "precision"), "fp8"),
        (("golden", 0, "logits", 0), None),
        (("golden", 0, "decode_tolerance", "max_abs"), 256),
        (("calibration",), {"temperature": 0.0}),
        (("calibration",), {"temperature": 1e-308}),
        (("calibration",), {"temperature": 1e308}),
        (("files", 0, "path"), "a\nb"),
        (("files", 0, "path"), "a\x1b[2K"),
        (("calibration",), {"conformal_thresholds": {"95%": 0.1}}),
        (("calibration",), {"conformal_thresholds": {"0.90": 0.1}}),
        (("calibration",), {"coverages": {"0.9": 1.1}}),
        (("proof",), "maybe"),
    ],
)
def test_an_invalid_value_is_rejected_with_its_place(
    place: tuple[str | int, ...], value: Any
) -> None:
    """The error holds the path of keys and indices."""
    with pytest.raises(ManifestError, match=".".join(str(step) for step in place)):
        Manifest.from_bytes(edited(*place, value=value))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_not_finite_is_rejected(number: str) -> None:
    """In tolerances and in logits."""
    for place in (("variants", 0, "tolerance"), ("golden", 0, "logits", 0)):
        with pytest.raises(ManifestError):
            Manifest.from_bytes(edited(*place, value="HERE").replace(b'"HERE"', number.encode()))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"{}"])
def test_anything_but_a_manifest_is_rejected(data: bytes) -> None:
    """With ManifestError and no other exception."""
    with pytest.raises(ManifestError):
        Manifest.from_bytes(data)


def test_fields_that_contradict_each_other_are_rejected() -> None:
    """Duplicates, files that are used but not listed, and sizes that differ."""
    whole = sealed()
    contradictions: list[tuple[str, dict[str, Any]]] = [
        ("files", {"files": (*whole.files, whole.files[0])}),
        (
            "model.onnx",
            {"files": (*whole.files, FileEntry(path="model.onnx/x", size=1, sha256=SHA256))},
        ),
        (
            "manifest.json",
            {"files": (*whole.files, FileEntry(path="manifest.json", size=1, sha256=SHA256))},
        ),
        (r"model\.onnx", {"files": whole.files[1:]}),
        ("class_names", {"class_names": ("red", "green", "red")}),
        (
            "preprocessing",
            {"preprocessing": Preprocessing(resize=9, crop_height=9, crop_width=8)},
        ),
        ("golden logits", {"class_names": ("red", "green", "blue", "grey")}),
        ("golden images", {"golden": ()}),
        (
            "energy_threshold",
            {
                "outputs": Outputs(kind="probabilities"),
                "calibration": Calibration(energy_threshold=-1.0),
            },
        ),
        ("variants", {"variants": whole.variants * 2}),
        (
            "golden_logits",
            {"variants": (with_own_logits(whole, (0.0, 0.0), (0.0, 0.0)),)},
        ),
        (
            "golden_logits",
            {"variants": (with_own_logits(whole, (0.0, 0.0, 0.0)),)},
        ),
    ]
    for message, change in contradictions:
        with pytest.raises(ValidationError, match=message):
            sealed(**change)


def with_own_logits(manifest: Manifest, *logits: tuple[float, ...]) -> Variant:
    return manifest.variants[0].model_copy(update={"golden_logits": logits})


def test_a_crop_larger_than_the_resized_image_is_rejected() -> None:
    """Unless the mode is `exact`, which ignores `resize`."""
    with pytest.raises(ValidationError, match="9"):
        Preprocessing(resize=8, crop_height=8, crop_width=9)
    Preprocessing(resize_mode="exact", resize=1, crop_height=8, crop_width=9)


def test_a_manifest_is_frozen() -> None:
    """No field can be set after it was read."""
    with pytest.raises(ValidationError, match="frozen"):
        sealed().model = "other"


def test_times_are_utc_to_the_second() -> None:
    """`now` has a time zone and no fraction of a second."""
    assert now().utcoffset() == timedelta(0)
    assert now().tzinfo is UTC
    assert now().microsecond == 0


def test_an_imported_version_lists_its_report() -> None:
    """The report is sealed with the model."""
    files = [{"path": path, "size": 1, "sha256": SHA256} for path in ("model.onnx", "import.json")]
    imported = {"kind": "onnx", "name": "net.onnx", "sha256": SHA256, "report": "import.json"}
    fields = {**plain_fields(), "model": "m", "imported": imported}
    with pytest.raises(ValidationError, match=r"import\.json"):
        Manifest.model_validate({**fields, "files": tuple(files[:1])})
    assert Manifest.model_validate({**fields, "files": tuple(files)}).imported is not None


def test_the_smallest_manifest_of_these_tests_is_valid() -> None:
    """Other tests build on it."""
    files = ({"path": "model.onnx", "size": 1, "sha256": SHA256},)
    assert (
        Manifest.model_validate({**plain_fields(), "model": "m", "files": files}).proof
        == "unproven"
    )


def test_every_field_has_a_description() -> None:
    """The reference page of the manifest is generated from the JSON schema."""
    schema = Manifest.model_json_schema()
    definitions = {name: block for name, block in schema["$defs"].items() if "properties" in block}
    for name, block in {"Manifest": schema, **definitions}.items():
        assert block.get("description"), name
        for field, value in block["properties"].items():
            assert value.get("description", "").endswith("."), (name, field)
