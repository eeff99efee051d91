"""How an import resizes images: the flags, the manifest, and the check with labelled images."""

import io
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from foreign_graphs import SIZE, colour_graph, write, write_labels
from PIL import Image

from model_store.manifest import Preprocessing
from model_store.preprocessing import prepare
from model_store.session import Session
from model_store.store import ModelStore
from training.__main__ import main

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}


def import_into(folder: Path, *words: object, free_size: bool = False) -> Result:
    """Import a network that classifies the mean colour, for floats from 0 to 1."""
    model = colour_graph()
    if free_size:
        for axis in (2, 3):
            model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"free_{axis}"
    command = ["import", "--onnx", write(folder, model), "--labels"]
    command += [write_labels(folder, tuple(COLOURS)), "--model", "m", "--store", folder / "store"]
    command += ["--preset", "zero-one", "--report", folder / "report.md", *words]
    return CliRunner().invoke(main, list(map(str, command)))


def preprocessing_of(folder: Path) -> Preprocessing:
    store = ModelStore(folder / "store", builtin_root=None)
    with store.open("m", store.versions("m")[-1]) as version:
        return version.manifest.preprocessing


@pytest.fixture
def banners(tmp_path: Path) -> Path:
    """Wide images whose centre has another colour than the rest, 8 of each class."""
    random, folder, names = np.random.default_rng(0), tmp_path / "banners", list(COLOURS)
    for position, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for number in range(8):
            pixels = np.empty((40, 160, 3), np.int64)
            pixels[:] = COLOURS[name]
            pixels[:, 55:105] = COLOURS[names[position - 1]]
            pixels += random.integers(-25, 26, pixels.shape)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


def test_a_geometry_that_classifies_better_is_noticed(tmp_path: Path, banners: Path) -> None:
    """The centre alone shows another class. The report names the flags that are better."""
    words = ("--verify", banners, "--waive", "accuracy_floor=a test")
    result = import_into(tmp_path, *words, "--resize-mode", "shorter-side")
    assert result.exit_code == 1
    assert "not published: no_better_reading failed" in result.output
    report = (tmp_path / "report.md").read_text()
    assert "0 of 24 correct, 24 with --resize-mode exact" in report
    right = import_into(tmp_path, "--verify", banners, "--resize-mode", "exact")
    assert right.exit_code == 0, right.output


def test_geometries_with_the_same_pixels_are_not_tried(tmp_path: Path, banners: Path) -> None:
    """For images that have the size of the input, all modes but the crop of 7/8 are equal."""
    for path in banners.rglob("*.png"):
        Image.open(path).crop((0, 0, 40, 40)).resize((SIZE, SIZE)).save(path)
    result = import_into(tmp_path, "--verify", banners)
    assert result.exit_code == 0, result.output


def test_an_exact_resize_before_a_crop_squeezes_and_crops(tmp_path: Path, banners: Path) -> None:
    """`--resize` is used, and the served scores are those of a squeezed and cropped image."""
    words = ("--resize", SIZE + 8, "--resize-mode", "exact")
    result = import_into(tmp_path, *words, "--verify", banners)
    assert result.exit_code == 0, result.output
    spec = preprocessing_of(tmp_path)
    assert (spec.resize_mode, spec.resize) == ("exact", (SIZE + 8, SIZE + 8))
    assert (spec.crop_height, spec.crop_width) == (SIZE, SIZE)
    data = next(banners.rglob("*.png")).read_bytes()
    squeezed = Image.open(io.BytesIO(data)).resize((SIZE + 8, SIZE + 8), Image.Resampling.BILINEAR)
    expected = np.asarray(squeezed.crop((4, 4, SIZE + 4, SIZE + 4)))
    assert np.array_equal(prepare(data, spec), expected)
    with ModelStore(tmp_path / "store").open("m", 1) as version:
        manifest = version.manifest
        session = Session(version.path("model.onnx"), manifest.input, manifest.outputs)
        scores = session.run(prepare(data, spec)[np.newaxis])[0]
    assert scores == pytest.approx(expected.mean((0, 1)) / 25.5, abs=1e-4)


def test_a_letterbox_and_its_padding_are_in_the_manifest(tmp_path: Path) -> None:
    """Centred, in the colour that was given; black by default."""
    words = ("--resize-mode", "letterbox")
    assert import_into(tmp_path, *words, "--padding", "1,2,3").exit_code == 0
    spec = preprocessing_of(tmp_path)
    assert (spec.resize_mode, spec.resize) == ("letterbox", (SIZE, SIZE))
    assert spec.letterbox is not None
    assert (spec.letterbox.padding, spec.letterbox.position) == ((1, 2, 3), "center")
    assert import_into(tmp_path, *words).exit_code == 0
    spec = preprocessing_of(tmp_path)
    assert spec.letterbox is not None
    assert spec.letterbox.padding == (0, 0, 0)


@pytest.mark.parametrize(
    ("mode", "words", "resize"),
    [
        ("shorter-side", (), (24, 40)),
        ("shorter-side", ("--resize", "30x50"), (30, 50)),
        ("exact", (), 40),
        ("exact", ("--resize", "30x50"), (30, 50)),
        ("letterbox", (), (24, 40)),
    ],
)
def test_a_network_whose_input_is_not_square(
    tmp_path: Path, mode: str, words: tuple[str, ...], resize: int | tuple[int, int]
) -> None:
    size = ("--size", "24x40", "--resize-mode", mode)
    result = import_into(tmp_path, *size, *words, free_size=True)
    assert result.exit_code == 0, result.output
    spec = preprocessing_of(tmp_path)
    assert (spec.crop_height, spec.crop_width, spec.resize) == (24, 40, resize)


@pytest.mark.parametrize(
    "words",
    [
        ("--padding", "0"),
        ("--padding", "1,2,3", "--resize-mode", "exact"),
        ("--padding", "1,2", "--resize-mode", "letterbox"),
        ("--padding", "256", "--resize-mode", "letterbox"),
        ("--resize-mode", "stretch"),
        ("--resize", "20", "--resize-mode", "exact"),
        ("--resize", "40x"),
        ("--resize", "0"),
    ],
)
def test_flags_that_do_not_fit_are_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    result = import_into(tmp_path, *words)
    assert result.exit_code == 2, result.output
    assert not (tmp_path / "store" / "m").exists()
