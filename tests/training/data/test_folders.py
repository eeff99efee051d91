"""Folders: what is a class, what is a split, in which order, and what is ignored."""

import os
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, picture, put
from PIL import Image

from model_store import heif
from model_store.manifest import Preprocessing
from training.data.folders import load_folder
from training.data.image_set import FREE, TEST, TRAIN, VALIDATION
from training.data.scan import scan
from training.data.sources import load_data
from training.errors import DataError


def test_each_subfolder_is_a_class_in_natural_order(tmp_path: Path) -> None:
    """Classes and files are sorted 1, 2, 10, whatever the file system's order."""
    data = load_folder(
        put(tmp_path / "pets", {"10/a.png": 1, "2/10.png": 2, "2/9.png": 3, "1/b.png": 4})
    )
    assert data.name == "pets"
    assert data.class_names == ("1", "2", "10")
    assert list(data.paths) == ["1/b.png", "2/9.png", "2/10.png", "10/a.png"]
    assert data.labels.tolist() == [0, 1, 1, 2]
    assert set(data.given_splits.tolist()) == {FREE}
    assert data.encoded[0] == Path(data.locations[0]).read_bytes() == encoded(picture(4))
    assert data.preprocessing is None


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [("train", "val", "test"), ("Training", "valid", "TESTING"), ("TRAIN", "validation", "Test")],
)
def test_splits_are_given_by_their_folders(
    tmp_path: Path, train: str, validation: str, test: str
) -> None:
    """Splits have several names; all splits have the same classes."""
    files = {
        f"{train}/cat/1.png": 1,
        f"{train}/dog/1.png": 2,
        f"{validation}/dog/1.png": 3,
        f"{test}/cat/1.png": 4,
    }
    data = load_folder(put(tmp_path, files))
    assert data.class_names == ("cat", "dog")
    assert data.given_splits.tolist() == [TRAIN, TRAIN, VALIDATION, TEST]
    assert [data.label(index) for index in range(4)] == ["cat", "dog", "dog", "cat"]


def test_train_alone_is_a_split(tmp_path: Path) -> None:
    data = load_folder(put(tmp_path, {"train/cat/1.png": 1, "train/dog/1.png": 2}))
    assert data.class_names == ("cat", "dog")
    assert data.given_splits.tolist() == [TRAIN, TRAIN]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    """If its folder contains images."""
    data = load_folder(put(tmp_path, {"train/1.png": 1, "car/1.png": 2, "bus/1.png": 3}))
    assert data.class_names == ("bus", "car", "train")
    assert set(data.given_splits.tolist()) == {FREE}


def test_classes_beside_splits_are_refused(tmp_path: Path) -> None:
    root = put(tmp_path, {"train/cat/1.png": 1, "test/cat/1.png": 2, "dog/1.png": 3})
    with pytest.raises(DataError, match=r"test, train .*dog"):
        load_folder(root)


def test_a_test_folder_without_classes_is_listed_and_not_used(tmp_path: Path) -> None:
    """Competitions have a test folder of unlabeled images."""
    data = load_folder(
        put(
            tmp_path,
            {"train/cat/1.png": 1, "train/dog/1.png": 2, "test/1.png": 3, "notes/readme.txt": b""},
        )
    )
    assert data.given_splits.tolist() == [TRAIN, TRAIN]
    assert dict(data.ignored)["test/1.png"] == "not in a class folder"
    assert dict(data.ignored)["notes/readme.txt"] == "not an image extension (.txt)"


def test_deeper_folders_belong_to_their_class(tmp_path: Path) -> None:
    data = load_folder(put(tmp_path, {"cat/2023/a/1.png": 1, "cat/0.png": 2, "dog/1.png": 3}))
    assert list(data.paths) == ["cat/0.png", "cat/2023/a/1.png", "dog/1.png"]
    assert data.labels.tolist() == [0, 0, 1]


def test_ignored_files_are_listed_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Extensions are compared without case."""
    monkeypatch.setattr(heif, "SUPPORTED", False)
    images = {
        "cat/1.PNG": encoded(picture(1)),
        "cat/2.JPeg": encoded(picture(2), "JPEG"),
        "dog/1.webp": 3,
        "dog/2.avif": encoded(picture(5), "AVIF"),
        "loose.png": 4,
    }
    others = (
        "cat/phone.HEIC",
        "cat/notes.txt",
        "cat/.hidden.png",
        "cat/._1.PNG",
        "dog/png",
        "__MACOSX/cat/1.png",
    )
    root = put(tmp_path, images | dict.fromkeys(others, b""))
    (root / "cat" / "empty").mkdir()
    (root / "cat" / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(root / "cat" / "pipe.png")
    data = load_folder(root)
    assert list(data.paths) == ["cat/1.PNG", "cat/2.JPeg", "dog/1.webp", "dog/2.avif"]
    ignored = dict(data.ignored)
    assert ignored.pop("cat/phone.HEIC").startswith("HEIC needs the extra heif")
    assert ignored == {
        "loose.png": "not in a class folder",
        "__MACOSX": "made by the system",
        "cat/.hidden.png": "hidden",
        "cat/._1.PNG": "hidden",
        "cat/notes.txt": "not an image extension (.txt)",
        "cat/empty": "an empty folder",
        "cat/gone.png": "a broken link",
        "cat/pipe.png": "not a regular file",
        "dog/png": "no file extension",
    }


def test_heic_images_are_read_with_the_extra(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="needs the extra heif")
    for name, colour in (("cat/phone.HEIC", (200, 40, 40)), ("dog/camera.hif", (40, 40, 200))):
        (tmp_path / name).parent.mkdir()
        one_colour = Image.new("RGB", (64, 64), colour)
        pillow_heif.from_pillow(one_colour).save(tmp_path / name, format="HEIF")
    data = load_folder(tmp_path)
    assert list(data.paths) == ["cat/phone.HEIC", "dog/camera.hif"]
    assert not data.ignored
    scanned = scan(data, Preprocessing(resize=16, crop_height=16, crop_width=16))
    assert [fact.error for fact in scanned.facts] == ["", ""]
    assert scanned.pixels is not None
    assert np.abs(scanned.pixels[0].astype(int) - (200, 40, 40)).max() < 8
    assert np.abs(scanned.pixels[1].astype(int) - (40, 40, 200)).max() < 8


def test_links_are_followed_except_in_loops(tmp_path: Path) -> None:
    root = put(tmp_path / "data", {"cat/1.png": 1, "dog/1.png": 2})
    put(tmp_path / "elsewhere", {"more/2.png": 3})
    (root / "cat" / "3.png").symlink_to(tmp_path / "elsewhere" / "more" / "2.png")
    (root / "cat" / "more").symlink_to(tmp_path / "elsewhere" / "more")
    (root / "cat" / "up").symlink_to(root)
    (root / "dog" / "self").symlink_to("self")
    (tmp_path / "elsewhere" / "more" / "back").symlink_to(root / "cat")
    data = load_folder(root)
    assert list(data.paths) == ["cat/1.png", "cat/3.png", "cat/more/2.png", "dog/1.png"]
    loop = "a link to a folder that contains it"
    assert dict(data.ignored) == {
        "cat/up": loop,
        "cat/more/back": loop,
        "dog/self": "a broken link",
    }


def test_names_of_any_script_are_kept_and_composed(tmp_path: Path) -> None:
    """é is one class, whether it is composed or decomposed; markup is plain text."""
    data = load_folder(
        put(
            tmp_path,
            {"train/caf\u00e9/1.png": 1, "train/[red]/猫.png": 2, "test/cafe\u0301/1.png": 3},
        )
    )
    assert data.class_names == ("[red]", "caf\u00e9")
    assert data.labels.tolist() == [0, 1, 1]
    assert data.paths[0] == "train/[red]/猫.png"


@pytest.mark.parametrize("name", [b"\xff.png", b"a\nb.png", b"\x1b[31m.png"])
def test_unprintable_names_are_ignored_and_listed(tmp_path: Path, name: bytes) -> None:
    """They could break a terminal, a CSV or a manifest."""
    root = put(tmp_path, {"cat/1.png": 1, "dog/1.png": 2})
    Path(os.fsdecode(os.fsencode(root / "cat") + b"/" + name)).write_bytes(b"")
    data = load_folder(root)
    assert list(data.paths) == ["cat/1.png", "dog/1.png"]
    ((shown, _),) = data.ignored
    assert shown.isprintable()


def test_a_folder_without_images_stays_a_class(tmp_path: Path) -> None:
    """The check refuses it later."""
    put(tmp_path, {"cat/1.png": 1}).joinpath("dog").mkdir()
    assert load_folder(tmp_path).class_names == ("cat", "dog")


def test_a_folder_without_subfolders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="subfolders"):
        load_folder(put(tmp_path, {"1.png": 1}))


def test_the_identity_changes_with_any_file(tmp_path: Path) -> None:
    """It is a cache key."""
    root = put(tmp_path, {"cat/1.png": 1, "dog/1.png": 2})
    before = load_folder(root).identity
    assert load_folder(root).identity == before
    os.utime(root / "cat" / "1.png", ns=(0, 0))
    touched = load_folder(root).identity
    (root / "cat" / "1.png").rename(root / "dog" / "2.png")
    assert len({before, touched, load_folder(root).identity}) == 3


def test_the_data_is_named_after_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its path, and after a link rather than its target."""
    put(tmp_path / "pets", {"cat/1.png": 1, "dog/1.png": 2})
    (tmp_path / "animals").symlink_to("pets")
    monkeypatch.chdir(tmp_path / "pets")
    assert load_data(".").name == load_data("../pets").name == "pets"
    assert load_data("../animals/").name == "animals"


def test_a_card_says_what_the_data_is(tmp_path: Path) -> None:
    """The card is neither an image nor an ignored file."""
    put(tmp_path / "pets", {"cat/1.png": 1, "dog/1.png": 2})
    (tmp_path / "pets/data.toml").write_text(
        'name = "Pets"\nsource = "my garden"\nlicence = "CC0"\n'
    )
    pets = load_data(str(tmp_path / "pets"))
    assert (pets.name, pets.source, pets.licence, pets.ignored) == ("Pets", "my garden", "CC0", ())


@pytest.mark.parametrize(
    ("card", "message"),
    [("name = ", "TOML"), ("nmae = 'Pets'", "`nmae`"), ("name = 3", "`name`")],
)
def test_an_invalid_card_is_refused(tmp_path: Path, card: str, message: str) -> None:
    put(tmp_path / "pets", {"cat/1.png": 1, "dog/1.png": 2})
    (tmp_path / "pets/data.toml").write_text(card)
    with pytest.raises(DataError, match=message):
        load_data(str(tmp_path / "pets"))


@pytest.mark.parametrize(
    "files",
    [
        ("train/cat.0.jpg", "train/cat.1.jpg", "train/dog.0.jpg", "train/dog.1.jpg", "test/1.jpg"),
        ("train/cat.0.jpg", "train/cat.1.jpg", "train/dog.0.jpg", "train/dog.1.jpg", "test1/1.jpg"),
        ("cat_0.jpg", "cat_1.jpg", "dog_0.jpg", "dog_1.jpg"),
    ],
    ids=["Kaggle", "Kaggle's cats and dogs", "one folder"],
)
def test_flat_layouts_are_refused_and_their_labels_offered(
    tmp_path: Path, files: tuple[str, ...]
) -> None:
    """`train` and `test` are splits and not classes."""
    root = put(tmp_path / "pets", {name: seed for seed, name in enumerate(files)})
    with pytest.raises(DataError, match=r"cat 2, dog 2.*--labels-from-names"):
        load_folder(root)


@pytest.mark.parametrize(
    "files",
    [
        {"train/1.png": 1, "test/2.png": 2},
        {"train/cat/1.png": 1, "train/dog/1.png": 2, "train/stray.png": 3, "val/cat/1.png": 4},
        {"val/cat/1.png": 1, "val/dog/1.png": 2, "test/cat/1.png": 3},
    ],
    ids=["no labels", "a stray image", "no train folder"],
)
def test_folders_with_the_names_of_splits_only_are_never_classes(
    tmp_path: Path, files: dict[str, int]
) -> None:
    with pytest.raises(DataError, match="names of splits"):
        load_folder(put(tmp_path / "pets", files))


@pytest.mark.parametrize(
    ("files", "deeper"),
    [
        ({"PetImages/Cat/1.png": 1, "PetImages/Dog/1.png": 2, "readme.txt": b""}, "PetImages"),
        ({"a/b/Cat/1.png": 1, "a/b/Dog/1.png": 2, "__MACOSX/x.png": 3}, "a/b"),
        ({"ds/train/Cat/1.png": 1, "ds/train/Dog/1.png": 2, "ds/test/Cat/1.png": 3}, "ds"),
        ({"ds/train/Cat/1.png": 1, "ds/train/Dog/1.png": 2}, "ds"),
    ],
)
def test_the_folder_inside_a_wrapper_is_named(
    tmp_path: Path, files: dict[str, int | bytes], deeper: str
) -> None:
    """Archives often unpack to a folder in a folder."""
    root = put(tmp_path / "outer", files)
    with pytest.raises(DataError, match=rf"give {root}/{deeper}\."):
        load_folder(root)
    assert load_folder(root / deeper).class_names == ("Cat", "Dog")


def test_one_class_with_images_in_it_is_a_class(tmp_path: Path) -> None:
    """Another source may have the other classes."""
    root = put(tmp_path / "more", {"cat/1.png": 1, "cat/old/2.png": 2, "cat/older/3.png": 3})
    assert load_folder(root).class_names == ("cat",)


@pytest.mark.parametrize("name", ["@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found"])
def test_folders_of_storage_systems_are_ignored_and_listed(tmp_path: Path, name: str) -> None:
    files = {f"cat/{name}/1.png/SYNOPHOTO_THUMB_M.jpg": 9, f"{name}/x.png": 8}
    root = put(tmp_path / "pets", {"cat/1.png": 1, "dog/1.png": 2} | files)
    data = load_folder(root)
    assert data.class_names == ("cat", "dog")
    assert len(data) == 2
    assert {path for path, _ in data.ignored} == {name, f"cat/{name}"}
