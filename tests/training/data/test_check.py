"""The check: what it finds, what a run leaves out, and which data it refuses."""

import io
import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner
from pictures import encoded, numbered, picture, put
from PIL import Image
from rich.console import Console

from training.__main__ import main
from training.data.check import check, left_out
from training.data.check_table import check_table, classes_table
from training.data.findings import DataFindings
from training.data.image_set import ImageSet
from training.data.scan import scan
from training.data.sources import load_data
from training.data.split import make_split
from training.display import TrainingDisplay

CLASSES = numbered("ant", 12) | numbered("bee", 12, 100)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def checked(
    root: Path, files: Mapping[str, bytes | int | Image.Image]
) -> tuple[ImageSet, DataFindings]:
    data = load_data(str(put(root / "pets", files)))
    return data, check(data, scan(data).facts)


def items_by_kind(findings: DataFindings) -> dict[str, list[str]]:
    return {finding.kind: [str(item) for item in finding.items] for finding in findings.findings}


def reasons(data: ImageSet) -> dict[str, str]:
    return {data.paths[index]: reason for index, reason in left_out(data, scan(data).facts).items()}


def text_of(findings: DataFindings, limit: int | None = 5, width: int = 200) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(check_table(findings, limit))
    return out.getvalue()


def test_good_data_has_no_findings(tmp_path: Path) -> None:
    data, findings = checked(tmp_path, CLASSES)
    assert findings.findings == ()
    assert findings.fatal == []
    assert findings.classes == {"ant": 12, "bee": 12}
    assert left_out(data, scan(data).facts) == {}
    out = io.StringIO()
    TrainingDisplay(Console(file=out)).show_findings(findings, None)
    assert out.getvalue().startswith("pets: 24 images in 2 classes")
    assert len(out.getvalue().splitlines()) == 1  # no table of nothing


def test_unreadable_files_are_named_and_left_out(tmp_path: Path) -> None:
    """Each with its reason; files that are not images by their name are listed too."""
    files = {
        "ant/cut.jpg": encoded(picture(1, 64, 64), "JPEG")[:2000],
        "ant/text.jpg": b"hello",
        "bee/empty.png": b"",
        "bee/x.txt": b"",
    }
    data, findings = checked(tmp_path, CLASSES | files)
    items = items_by_kind(findings)
    assert [item.partition(":")[0] for item in items["unreadable files"]] == [
        "ant/cut.jpg",
        "ant/text.jpg",
        "bee/empty.png",
    ]
    assert [item.partition(":")[0] for item in items["not images"]] == ["bee/x.txt"]
    assert findings.left_out == 3
    facts = dict(zip(data.paths, scan(data).facts, strict=True))
    assert facts["ant/cut.jpg"].error in reasons(data)["ant/cut.jpg"]


def sixteen_bit_colours() -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", 12, 10, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + bytes(range(row, row + 72)) for row in range(10))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_unusual_images_are_used_and_reported(tmp_path: Path) -> None:
    """EXIF orientation, more than 8 bits, several frames, unusual sizes."""
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {
        "ant/turned.jpg": encoded(picture(71), "JPEG", exif=exif.tobytes()),
        "ant/grey.png": Image.new("I;16", (12, 10), 40000),
        "ant/deep.png": sixteen_bit_colours(),
        "ant/moving.gif": encoded(picture(72), "GIF", save_all=True, append_images=[picture(73)]),
        "bee/tiny.png": picture(4, 2, 2),
        "bee/huge.png": picture(5, 50, 50),
        "bee/long.png": picture(6, 41, 10),
    }
    data, findings = checked(tmp_path, CLASSES | files)
    assert items_by_kind(findings) == {
        "rotated by EXIF": ["ant/turned.jpg: orientation 6"],
        "more than 8 bits per channel": [
            "ant/deep.png: 16 bits, RGB",
            "ant/grey.png: 16 bits, I;16",
        ],
        "files with several images": ["ant/moving.gif: 2 frames"],
        "unusual sizes (side < 1/4 or area > 16 times the median, or aspect > 4:1)": [
            "bee/huge.png: 50x50",
            "bee/long.png: 41x10",
            "bee/tiny.png: 2x2",
        ],
    }
    assert reasons(data) == {}
    assert not any(finding.fatal for finding in findings.findings)


def test_copies_in_one_class_stay_together(tmp_path: Path) -> None:
    """Copies are found by pixels: the file format does not matter."""
    files = {"ant/copy.webp": encoded(picture(0), "WEBP", lossless=True), "ant/z.bmp": picture(0)}
    data, findings = checked(tmp_path, CLASSES | files)
    assert items_by_kind(findings) == {
        "copies within a class": ["ant/0.png = ant/copy.webp = ant/z.bmp"]
    }
    assert reasons(data) == {}


def test_copies_with_different_labels_are_left_out(tmp_path: Path) -> None:
    data, findings = checked(tmp_path, CLASSES | {"bee/copy.bmp": picture(0)})
    both = "ant/0.png (ant), bee/copy.bmp (bee)"
    assert items_by_kind(findings) == {"same pixels with different labels": [both]}
    assert reasons(data) == dict.fromkeys(
        ("ant/0.png", "bee/copy.bmp"), f"same pixels with different labels: {both}"
    )


def test_copies_across_given_splits_are_kept_in_one(tmp_path: Path) -> None:
    """In test rather than validation, and in validation rather than train, whatever the labels."""
    files = {f"train/{name}": seed for name, seed in CLASSES.items()}
    files |= numbered("validation/ant", 3, 30) | numbered("validation/bee", 3, 130)
    files |= numbered("test/ant", 3, 60) | numbered("test/bee", 3, 160)
    copies = {
        "train/ant/a.bmp": picture(60),
        "test/bee/a.bmp": picture(60),
        "train/ant/b.bmp": picture(30),
        "validation/bee/c.bmp": picture(161),
    }
    data, findings = checked(tmp_path, files | copies)
    assert items_by_kind(findings) == {
        "same pixels with different labels": [
            "train/ant/a.bmp (ant), test/ant/0.png (ant), test/bee/a.bmp (bee)"
        ],
        "copies across given splits": [
            "train/ant/a.bmp = test/ant/0.png = test/bee/a.bmp",
            "train/ant/b.bmp = validation/ant/0.png",
            "validation/bee/c.bmp = test/bee/1.png",
        ],
    }
    assert reasons(data) == {
        "train/ant/a.bmp": "same pixels as test/ant/0.png in the test split",
        "train/ant/b.bmp": "same pixels as validation/ant/0.png in the validation split",
        "validation/bee/c.bmp": "same pixels as test/bee/1.png in the test split",
    }


def test_no_pixels_are_in_two_splits(tmp_path: Path) -> None:
    """For given splits and drawn ones, after the check has left images out."""
    files = {f"train/{name}": seed for name, seed in CLASSES.items()}
    files |= (
        numbered("test/ant", 4, 8)
        | numbered("test/bee", 4, 108)
        | {"train/ant/copy.bmp": picture(3)}
    )
    data = load_data(str(put(tmp_path / "pets", files)))
    facts = scan(data).facts
    split = make_split(data, facts, left_out(data, facts))
    parts = [{facts[index].digest for index in part} for part in vars(split).values()]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 24
    assert len(split.test) == 8


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (numbered("ant", 9), "only one class (ant)"),
        (CLASSES | {"cat/x.txt": b""}, "classes without images (cat)"),
        (
            CLASSES | numbered("cat", 2, 300),
            "classes with too few images for every split (cat: 2 different, 3 needed)",
        ),
        (CLASSES | {f"cat/{n}.bmp": picture(300) for n in range(9)}, "cat: 1 different, 3 needed"),
        (CLASSES | {f"cat/{n}.png": b"" for n in range(9)}, "cat: 0 different, 3 needed"),
        (
            {f"train/{n}": s for n, s in CLASSES.items()} | {"test/cat/1.png": 300},
            "classes missing in train (cat)",
        ),
        (
            {f"train/{n}": s for n, s in CLASSES.items()}
            | {"train/cat/1.png": 1, "test/cat/1.png": 1},
            "classes missing in train (cat)",
        ),
    ],
)
def test_data_that_cannot_be_trained_on_is_fatal(
    tmp_path: Path, files: Mapping[str, bytes | int], message: str
) -> None:
    """The finding names the class."""
    _, findings = checked(tmp_path, files)
    assert message in "; ".join(findings.fatal)
    assert findings.findings[0].fatal


def test_a_class_that_a_given_split_lacks_is_a_warning(tmp_path: Path) -> None:
    """So is a class with few images."""
    files = {f"train/{name}": seed for name, seed in (CLASSES | numbered("cat", 5, 300)).items()}
    _, findings = checked(
        tmp_path,
        files
        | numbered("val/ant", 2, 30)
        | numbered("test/cat", 2, 400)
        | numbered("test/bee", 2, 500),
    )
    assert items_by_kind(findings) == {
        "classes missing in a given split": ["ant: test", "bee: validation", "cat: validation"],
        "classes with fewer than 10 images": ["cat: 5 different"],
    }
    assert findings.fatal == []


def test_one_image_per_class_is_enough_if_all_splits_are_given(tmp_path: Path) -> None:
    files = {
        f"{split}/{name}/1.png": seed + len(split) * 10
        for split in ("train", "val", "test")
        for seed, name in enumerate("ab")
    }
    _, findings = checked(tmp_path, files)
    assert findings.fatal == []


def test_the_table_shows_examples_and_counts_the_rest(tmp_path: Path) -> None:
    """Markup in paths is printed as it is, and no path is truncated."""
    _, findings = checked(
        tmp_path, CLASSES | {f"ant/[red]{number}.jpg": b"" for number in range(17)}
    )
    table = text_of(findings)
    assert "17" in table
    assert "ant/[red]4.jpg: the data" in table
    assert "ant/[red]5.jpg" not in table
    assert "12 more" in table
    assert "ant/[red]16.jpg" in text_of(findings, limit=None)
    assert "[red]4.jpg" in "".join(text_of(findings, width=60).split())


def test_findings_are_json(tmp_path: Path) -> None:
    """With every item."""
    _, findings = checked(tmp_path, CLASSES | {f"ant/{number}.jpg": b"" for number in range(17)})
    values = json.loads(json.dumps(findings.to_json()))
    assert values["images"] == 41
    assert values["left_out"] == 17
    assert values["classes"] == {"ant": 29, "bee": 12}
    (finding,) = values["findings"]
    assert len(finding["items"]) == 17
    assert finding["items"][0]["names"] == ["ant/0.jpg"]
    assert not finding["fatal"]


def test_class_names_that_look_alike_are_reported(tmp_path: Path) -> None:
    """They are trained as different classes, because they may be."""
    files = numbered("Cat", 12) | numbered("cat", 12, 50) | numbered("big-dog", 12, 100)
    _, findings = checked(tmp_path, files | numbered("Big dog", 12, 150))
    assert items_by_kind(findings) == {
        "class names that look alike": ["Big dog = big-dog", "Cat = cat"]
    }
    assert findings.fatal == []


def test_classes_of_very_different_sizes_are_reported(tmp_path: Path) -> None:
    """12 of 300 images are few, 30 are not; images that are left out do not count."""
    files = numbered("ant", 300) | numbered("bee", 12, 500) | numbered("cow", 30, 600)
    broken = {f"bee/broken{number}.png": b"" for number in range(30)}
    _, findings = checked(tmp_path, files | broken)
    items = items_by_kind(findings)
    assert items["classes that are ten times smaller than the largest"] == [
        "bee: 12 images, 300 in the largest class"
    ]


def test_the_classes_are_listed_with_their_counts(tmp_path: Path) -> None:
    """At most so many; all of them on request."""
    _, findings = checked(tmp_path, CLASSES)
    out = io.StringIO()
    console = Console(file=out, width=80)
    console.print(classes_table(findings))
    assert [line.split("│")[1:3] for line in out.getvalue().splitlines() if "12" in line] == [
        [" ant   ", "     12 "],
        [" bee   ", "     12 "],
    ]
    console.print(classes_table(findings, limit=1))
    assert "1 more" in out.getvalue()


def test_check_writes_the_labels_of_file_names_and_checks_them(tmp_path: Path) -> None:
    names = [f"train/{name}.{number}.png" for name in ("cat", "dog") for number in range(12)]
    put(tmp_path / "pets", {name: seed for seed, name in enumerate(names)})
    target = tmp_path / "labels.csv"
    words = ["check", str(tmp_path / "pets"), "--labels-from-names", str(target)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    command = result.output.replace("\\\n", " ").split()
    assert command[-3:] == ["run", "--data", str(target)]
    assert len(target.read_text().splitlines()) == 25
    assert CliRunner().invoke(main, words).exit_code == 1
