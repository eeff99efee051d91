"""The manifest: what is accepted, what is refused, and the names of models and versions."""

import hashlib
import json
import string
from datetime import UTC, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from store_factory import plain_fields, proven_version

from model_store.errors import InvalidNameError, ManifestError
from model_store.manifest import (
    Calibration,
    Check,
    Manifest,
    Outputs,
    Preprocessing,
    Variant,
    check_name,
    digest_of,
    now,
    parse_version,
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
    """Bytes written from a manifest read back as an equal manifest, and writing that gives the same bytes."""
    manifest = sealed()
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest
    assert Manifest.from_bytes(manifest.to_bytes()).to_bytes() == manifest.to_bytes()
    assert manifest.to_bytes().endswith(b"}\n")


def test_the_digest_is_the_sha256_of_the_bytes() -> None:
    """A version's identity is what `sha256sum manifest.json` prints."""
    data = sealed().to_bytes()
    assert digest_of(data) == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    "block",
    [(), ("input",), ("preprocessing",), ("variants", 0), ("golden", 0), ("files", 0)],
    ids=str,
)
def test_an_unknown_field_is_refused_in_every_block(block: tuple[str | int, ...]) -> None:
    """A field that this schema does not know is an error which names it, at the top and inside blocks."""
    with pytest.raises(ManifestError, match="surprise: Extra inputs"):
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
        "manifest.json",
        "x" * 256,
    ],
)
def test_a_path_that_is_not_plainly_inside_is_refused(path: str) -> None:
    """A file path with `..`, a root, a backslash, a drive, or a second spelling of itself is refused."""
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
        (("variants", 0, "precision"), "fp8"),
        (("golden", 0, "logits", 0), None),
        (("golden", 0, "decode_tolerance", "max_abs"), 256),
        (("calibration",), {"temperature": 0.0}),
        (("calibration",), {"conformal_thresholds": {"95%": 0.1}}),
        (("calibration",), {"conformal_thresholds": {"0.90": 0.1}}),
        (("calibration",), {"coverages": {"0.9": 1.1}}),
        (("proof",), "maybe"),
    ],
)
def test_a_value_outside_its_domain_is_refused_by_name(
    place: tuple[str | int, ...], value: Any
) -> None:
    """A wrong type or value is an error that says where in the manifest it stands."""
    with pytest.raises(ManifestError, match=".".join(str(step) for step in place)):
        Manifest.from_bytes(edited(*place, value=value))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_not_finite_is_refused(number: str) -> None:
    """Not-a-number and infinity are refused where a tolerance or a logit is expected."""
    for place in (("variants", 0, "tolerance"), ("golden", 0, "logits", 0)):
        with pytest.raises(ManifestError):
            Manifest.from_bytes(edited(*place, value="HERE").replace(b'"HERE"', number.encode()))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"{}"])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    """Bytes that are not a JSON object of the schema are a ManifestError and nothing else."""
    with pytest.raises(ManifestError):
        Manifest.from_bytes(data)


def test_blocks_that_contradict_each_other_are_refused() -> None:
    """Lists that hold something twice, files that are named but not listed, and sizes that differ are refused."""
    whole = sealed()
    contradictions: list[tuple[str, dict[str, Any]]] = [
        ("lists a path twice", {"files": (*whole.files, whole.files[0])}),
        ("does not list model.onnx", {"files": whole.files[1:]}),
        ("class_names holds a name twice", {"class_names": ("red", "green", "red")}),
        (
            "crops to another size",
            {"preprocessing": Preprocessing(resize=9, crop_height=9, crop_width=8)},
        ),
        ("golden logits and class_names differ", {"class_names": ("red", "green", "blue", "grey")}),
        ("needs golden images", {"golden": ()}),
        (
            "an energy threshold needs logits",
            {
                "outputs": Outputs(kind="probabilities"),
                "calibration": Calibration(energy_threshold=-1.0),
            },
        ),
        ("holds a precision twice", {"variants": whole.variants * 2}),
        (
            "variant's golden logits do not fit",
            {"variants": (with_own_logits(whole, (0.0, 0.0), (0.0, 0.0)),)},
        ),
        (
            "variant's golden logits do not fit",
            {"variants": (with_own_logits(whole, (0.0, 0.0, 0.0)),)},
        ),
    ]
    for message, change in contradictions:
        with pytest.raises(ValidationError, match=message):
            sealed(**change)


def with_own_logits(manifest: Manifest, *logits: tuple[float, ...]) -> Variant:
    return manifest.variants[0].model_copy(update={"golden_logits": logits})


def test_a_crop_larger_than_the_resized_image_is_refused() -> None:
    """With `shorter_side` the crop must fit into the resized image; `exact` ignores `resize`."""
    with pytest.raises(ValidationError, match="does not fit"):
        Preprocessing(resize=8, crop_height=8, crop_width=9)
    Preprocessing(resize_mode="exact", resize=1, crop_height=8, crop_width=9)


def test_a_manifest_is_frozen() -> None:
    """No field of a manifest can be set after it was read."""
    with pytest.raises(ValidationError, match="frozen"):
        sealed().model = "other"


@pytest.mark.parametrize(
    ("passed", "waived", "expected"),
    [(True, None, True), (False, None, False), (False, "the owner knows better", True)],
)
def test_a_failed_check_counts_unless_it_was_waived(
    passed: bool, waived: str | None, expected: bool
) -> None:
    """All checks passed when none failed without a waiver, in the version's gate and in each variant's."""
    check = Check(
        check="accuracy",
        passed=passed,
        value=0.5,
        threshold=0.9,
        comparison="at_least",
        waived=waived,
    )
    variant = Variant(precision="fp32", file="model.onnx", tolerance=0.1, gate=(check,))
    assert sealed(gate=(check,)).all_checks_passed is expected
    assert sealed(variants=(variant,)).all_checks_passed is expected


def test_times_are_utc_to_the_second() -> None:
    """`now` has a time zone and no fraction of a second."""
    assert now().utcoffset() == timedelta(0)
    assert now().tzinfo is UTC
    assert now().microsecond == 0


@pytest.mark.parametrize("name", ["a", "digits-resnet20", "A.b_c-9", "0", "x" * 128])
def test_a_canonical_name_is_returned(name: str) -> None:
    """Letters, digits, dot, underscore and hyphen make a name, up to 128 of them."""
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".hidden",
        "-x",
        "a/b",
        "a\\b",
        "a\n",
        "\na",
        "a b",
        "a\0",
        "ä",
        "\uff11",
        "x" * 129,
    ],
)
def test_another_name_is_refused(name: str) -> None:
    """A name that could leave the store, hide in it, or be written in two ways is refused and shown."""
    with pytest.raises(InvalidNameError, match="is no alias name"):
        check_name(name, "alias")


@given(st.text())
def test_a_name_holds_nothing_but_its_alphabet(name: str) -> None:
    """Whatever is accepted as a name consists of the documented characters alone."""
    try:
        check_name(name)
    except InvalidNameError:
        return
    assert set(name) <= set(string.ascii_letters + string.digits + "._-")
    assert name[0] in string.ascii_letters + string.digits


@pytest.mark.parametrize(
    "text",
    [
        "01",
        "+1",
        "-1",
        "0",
        "1.0",
        " 1",
        "1 ",
        "1\n",
        "\uff11",
        "²",
        "1_0",
        "1e3",
        "0x1",
        "",
        "9" * 19,
    ],
)
def test_a_version_that_is_not_canonical_is_refused(text: str) -> None:
    """A second spelling of an integer is no version name."""
    with pytest.raises(InvalidNameError, match="is no version name"):
        parse_version(text)


@given(st.integers(min_value=1, max_value=10**18 - 1))
def test_a_positive_integer_is_its_own_name(number: int) -> None:
    """Every positive integer of up to 18 digits is the name of that version."""
    assert parse_version(str(number)) == number


@given(st.text(alphabet=string.digits + "+- ._\uff11\uff12\n", max_size=20))
def test_a_version_has_one_spelling(text: str) -> None:
    """Whatever is accepted as a version name is how Python writes that integer."""
    try:
        number = parse_version(text)
    except InvalidNameError:
        return
    assert str(number) == text


def test_an_imported_version_lists_its_report() -> None:
    """What was guessed is sealed with what was made of it."""
    files = [{"path": path, "size": 1, "sha256": SHA256} for path in ("model.onnx", "import.json")]
    imported = {"kind": "onnx", "name": "net.onnx", "sha256": SHA256, "report": "import.json"}
    fields = {**plain_fields(), "model": "m", "imported": imported}
    with pytest.raises(ValidationError, match=r"files does not list import\.json"):
        Manifest.model_validate({**fields, "files": tuple(files[:1])})
    assert Manifest.model_validate({**fields, "files": tuple(files)}).imported is not None


def test_the_factory_of_these_tests_is_valid() -> None:
    """The smallest manifest of these tests is one that the schema accepts."""
    files = ({"path": "model.onnx", "size": 1, "sha256": SHA256},)
    assert (
        Manifest.model_validate({**plain_fields(), "model": "m", "files": files}).proof
        == "unproven"
    )
