"""Bodies as clients of other servers send them."""

import base64
import io
import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from colour_model import COLOURS, encode, labels, plain
from PIL import Image
from server_process import PATIENCE_SECONDS, ServerProcess

from service.errors import BadRequestError, ServiceError, TooLargeError
from service.http import json_body, management
from service.http.base64_text import SLICE_BYTES, decode_base64
from service.http.request_body import MAX_TEXT_FIELDS, find_body_kind, read_images
from service.prediction.request import EncodedImage, RequestImages

RED, GREEN = plain("red"), plain("green")
NOISE = random.Random(1).randbytes(3_000_000)
URL_ENCODED = "application/x-www-form-urlencoded"


def images_of(body: bytes, media_type: str = "", max_images: int = 4) -> list[EncodedImage]:
    return read(body, media_type, max_images).images


def read(body: bytes, media_type: str = "", max_images: int = 4) -> RequestImages:
    headers = {"content-type": media_type} if media_type else {}
    return read_images(headers, body, max_images, find_body_kind(headers, body))


def form(*parts: tuple[str, bytes]) -> list[EncodedImage]:
    """The images of a form, from the headers and the content of its parts."""
    return read_form(*parts).images


def read_form(*parts: tuple[str, bytes]) -> RequestImages:
    body = b"".join(
        b"--B\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (head.encode(), content)
        for head, content in parts
    )
    return read(body + b"--B--\r\n", "multipart/form-data; boundary=B")


@pytest.mark.parametrize(
    ("head", "name"),
    [
        ('name="images"; filename="a b.png"', "a b.png"),
        ('name="images"; filename="\u732b.png"', "\u732b.png"),
        ('name="front"\r\nContent-Type: image/png', "front"),
        ('name="front"', "front"),
        (f'name="images"; filename="{"x" * 300}"', f"{'x' * 255}... (300 characters)"),
    ],
)
def test_name_of_an_image_is_its_file_name_or_its_field(head: str, name: str) -> None:
    """The names of other fields do not count."""
    found = read_form(("name=text", b"1"), (head, RED), ('name="images"; filename=z.png', b""))
    assert found.names == [name, "z.png"]
    assert len(found.images) == 2


def test_other_bodies_have_no_names() -> None:
    assert read(RED).names == []
    encoded = base64.b64encode(RED).decode()
    assert read(json.dumps({"images": [encoded]}).encode(), "application/json").names == []


@pytest.mark.parametrize(
    "head",
    [
        'name="image"; filename="a.png"',
        'name="file"; filename="a.png"',
        'name="images[]"; filename="a.png"',
        'name="images[0]"; filename="a.png"',
        'name=""; filename="a.png"',
        "name=a; filename*=UTF-8''%e2%82%ac.png",
        'name="photo"',
        'name="images"',
        'name="photo"\r\nContent-Type: image/png',
        'name="photo"\r\nContent-Type: application/octet-stream',
    ],
)
def test_field_may_have_any_name_and_no_file_name(head: str) -> None:
    """Text fields beside the images are ignored."""
    assert form(("name=threshold", b"0.5"), (head, RED), ("name=model", b"x")) == [RED]


@pytest.mark.parametrize(
    "head",
    ['name="x"; filename="a.png"', 'name="x"\r\nContent-Type: image/png', 'name="x"'],
)
def test_damaged_file_keeps_its_place(head: str) -> None:
    """It is not mistaken for text, so the results after it stay in order."""
    assert form((head, b"\x89damaged"), ("name=y", RED)) == [b"\x89damaged", RED]


def test_field_of_images_that_is_text_is_an_error_in_its_place() -> None:
    """`-F images=photo.jpg` without the @ sends the name of the file."""
    first, second = form(("name=images", b"photo.jpg"), ("name=images", RED))
    assert isinstance(first, BadRequestError)
    assert (first.code, second) == ("malformed_multipart", RED)


def test_file_field_without_a_chosen_file_is_ignored() -> None:
    """A browser sends it with an empty file name and no content."""
    assert form(('name="second"; filename=""', b""), ("name=first", RED)) == [RED]


def test_form_may_have_as_many_text_fields_as_documented() -> None:
    """They do not count as images, and images do not count as text fields."""
    text, image = ("name=text", b"1"), ("name=images", RED)
    for images in (1, 4):
        assert form(*[text] * MAX_TEXT_FIELDS, *[image] * images) == [RED] * images
        with pytest.raises(TooLargeError) as caught:
            form(*[text] * (MAX_TEXT_FIELDS + 1), *[image] * images)
        assert caught.value.code == "too_many_images"


@pytest.mark.parametrize("images", [5, 4 + MAX_TEXT_FIELDS])
def test_error_of_too_many_files_has_their_number(images: int) -> None:
    with pytest.raises(TooLargeError, match=f"got {images}$") as caught:
        form(*[("name=images", RED)] * images)
    assert caught.value.code == "too_many_images"
    with pytest.raises(TooLargeError) as caught:  # they are not parsed any more
        form(*[("name=images", RED)] * 1000)
    assert caught.value.code == "too_many_images"


@pytest.mark.parametrize(
    "encoded",
    [
        base64.encodebytes(RED).decode(),
        base64.encodebytes(RED).decode().replace("\n", "\r\n"),
        base64.urlsafe_b64encode(RED).decode(),
        base64.urlsafe_b64encode(RED).decode().rstrip("="),
        "data:image/png;base64," + base64.b64encode(RED).decode(),
        "DATA:image/png;base64," + base64.encodebytes(RED).decode(),
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_base64_of_other_encoders_is_decoded(encoded: str, alone: bool) -> None:
    """With line breaks, URL-safe, unpadded; as a string or as an object."""
    document = {"images": [encoded if alone else {"b64": encoded}]}
    assert images_of(json.dumps(document).encode(), "application/json") == [RED]


def test_base64_has_both_alphabets() -> None:
    """Every byte is right in both alphabets and for each length of the padding."""
    for length in range(256):
        data = bytes(range(255, 255 - length, -1))
        for text in (base64.b64encode(data), base64.urlsafe_b64encode(data)):
            assert decode_base64([text]) == decode_base64([text.rstrip(b"=")]) == data


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 77, 1000])
def test_base64_is_the_same_in_slices_of_any_length(cut: int) -> None:
    text = base64.encodebytes(RED + bytes(range(200)))
    slices = [text[start : start + cut] for start in range(0, len(text), cut)]
    assert decode_base64(slices) == RED + bytes(range(200))


@pytest.mark.parametrize(
    "slices", [[b"AA==", b"AAAA"], [b"AA==", b"\n", b"AAAA"], [b"AA=", b"=", b"", b"A"]]
)
def test_base64_after_the_padding_is_rejected_in_any_slice(slices: list[bytes]) -> None:
    with pytest.raises(ValueError, match="padding"):
        decode_base64(slices)
    assert decode_base64([b"AA==", b"\n", b"\r\n"]) == b"\0"


MEDIA_TYPES = ["application/json", "", "text/plain;charset=UTF-8", "text/json", URL_ENCODED]


@pytest.mark.parametrize("media_type", MEDIA_TYPES)
@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b"\r\n  ", b"\xef\xbb\xbf\n"])
def test_json_needs_no_media_type_and_may_have_a_byte_order_mark(
    media_type: str, before: bytes
) -> None:
    body = before + json.dumps({"images": [base64.b64encode(RED).decode()]}).encode()
    assert images_of(body, media_type) == [RED]


def test_management_accepts_a_byte_order_mark_too() -> None:
    assert (
        management.parse_management_body(b'\xef\xbb\xbf{"why": "better"}', management.Reason).why
        == "better"
    )
    assert management.parse_management_body(b"\xef\xbb\xbf", management.Reason).why == ""


def test_line_breaks_of_a_shell_are_accepted() -> None:
    """`"$(base64 photo.jpg)"` in a JSON text puts line breaks into the string."""
    body = b'{"images": [{"b64": "%b"}]}' % base64.encodebytes(RED)
    assert images_of(body, "application/json") == [RED]


LONG = {
    "plain": base64.b64encode(NOISE).decode(),
    "lines": base64.encodebytes(NOISE).decode(),
    "url": base64.urlsafe_b64encode(NOISE).decode().rstrip("="),
    "data": "data:image/png;base64," + base64.b64encode(NOISE).decode(),
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG.keys())
@pytest.mark.parametrize("escapes", [(), ("/", r"\/"), ("+", r"\u002B")], ids=["", "slash", "plus"])
def test_long_strings_are_read_without_the_parser(
    text: str, escapes: tuple[str, str] | tuple[()]
) -> None:
    """PHP escapes slashes, .NET escapes plus signs, and every encoder line breaks."""
    body = json.dumps({"images": [{"b64": text}, text]})
    body = body.replace(*escapes) if escapes else body
    assert len(json_body.cut_long_strings(body.encode(), 99)[0]) < 100
    assert images_of(body.encode(), "application/json") == [NOISE, NOISE]


@pytest.mark.parametrize("position", range(SLICE_BYTES - 8, SLICE_BYTES + 2))
def test_escape_across_two_slices_is_read(position: int) -> None:
    """A slice never ends within an escape."""
    text = "QUJD" * (SLICE_BYTES // 2)
    escaped = f"{text[:position]}\\u00{ord(text[position]):02X}{text[position + 1 :]}"
    body = f'{{"images": ["{escaped}"]}}'.encode()
    assert images_of(body, "application/json") == [base64.b64decode(text)]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"%b": 1, "images": ["QUJD"]}' % (b"k" * 100_000), "malformed_json"),
        (b'{"images": ["%b}' % (b"QUJD" * 100_000), "malformed_json"),
        (b'{"images": ["%b\\""]}' % (b"QUJD" * 100_000), "malformed_base64"),
        (b'{"images": ["%b\\x"]}' % (b"QUJD" * 100_000), "malformed_base64"),
        (b'{"images": ["%b\xff"]}' % (b"QUJD" * 100_000), "malformed_base64"),
        (b'{"images": ["\\u00000"]}', "malformed_base64"),
        (b'{"images": ["\\u0000%b"]}' % (b"9" * 9000), "malformed_base64"),
    ],
)
def test_faults_of_long_strings_have_a_code(body: bytes, code: str) -> None:
    try:
        (error,) = images_of(body, "application/json")
    except ServiceError as raised:
        error = raised
    assert isinstance(error, ServiceError)
    assert error.code == code


def noisy(kind: str) -> bytes:
    """An image of a usual size, with line breaks among its bytes."""
    image = Image.frombytes("RGB", (40, 30), NOISE[:3600])
    return encode(image, kind)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("media_type", "noise"),
    [
        (URL_ENCODED, True),
        (URL_ENCODED, False),
        ("image/jpeg", True),
        ("application/octet-stream", True),
    ],
)
def test_curl_d_with_a_file_is_told_to_use_data_binary(
    server: ServerProcess, tmp_path: Path, kind: str, media_type: str, noise: bool
) -> None:
    """The real curl strips the bytes. The same file with --data-binary is classified."""
    path = tmp_path / "image"
    path.write_bytes(noisy(kind) if noise else plain("red", kind))
    url = f"{server.address}/v1/predict"
    answers = {}
    for option in ("-d", "--data-binary"):
        header = f"Content-Type: {media_type}"
        answered = subprocess.run(
            ["curl", "--silent", "--noproxy", "*", "-H", header, option, f"@{path}", url],
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            check=True,
        )
        answers[option] = json.loads(answered.stdout)
    assert answers["-d"]["status"] == 400
    assert answers["-d"]["code"] in {"corrupt_image", "not_an_image"}
    assert "--data-binary" in answers["-d"]["detail"]
    assert noise or labels(answers["--data-binary"]["results"]) == ["red"]
    assert "results" in answers["--data-binary"]


def test_uncompressed_image_without_line_breaks_is_accepted() -> None:
    """A plain colour may have no line break, but its header has NUL bytes."""
    buffer = io.BytesIO()
    Image.new("RGB", (200, 200), COLOURS["red"]).save(buffer, "BMP")
    assert not {b"\r", b"\n"} & set(buffer.getvalue())
    assert images_of(buffer.getvalue(), URL_ENCODED) == [buffer.getvalue()]


def test_text_is_not_taken_for_a_stripped_image() -> None:
    """curl labels it as a form also with --data-binary."""
    text = base64.b64encode(plain("red"))
    assert images_of(text, URL_ENCODED) == [text]
