"""Abstention by the density of a version, over real HTTP and in the engine."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from click.testing import CliRunner
from colour_model import COLOURS, MODEL, WEIGHTS, encode, make_store, plain, publish
from densities import DENSITY, UNITS
from PIL import Image
from registries import options
from server_process import running

from model_store.density import Density
from model_store.errors import ManifestError
from model_store.manifest import Calibration, Outputs
from model_store.store import ModelStore
from model_store.uncertainty import energy
from service.commands.predict import predict
from service.engine.classification import Classification, classify
from service.engine.loaded_version import LoadedVersion

ORANGE = encode(Image.new("RGB", (8, 8), (255, 110, 0)))  # between two classes, but a high score
DARK = encode(Image.new("RGB", (8, 8), (10, 10, 10)))  # of the direction of white, but a low score


@pytest.fixture(scope="module")
def density_store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """A store with a model whose energy threshold would accept everything."""
    store = make_store(tmp_path_factory.mktemp("density") / "store")
    calibration = Calibration(energy_threshold=100.0)
    publish(store, embedding=True, density=DENSITY, calibration=calibration)
    return store


@pytest.fixture(scope="module")
def abstaining(density_store: ModelStore) -> Iterator[httpx.Client]:
    with running("--store", density_store.root, "--no-builtin") as server:
        server.announced()
        with server.client() as client:
            yield client


def ask(client: httpx.Client, image: bytes) -> dict[str, Any]:
    response = client.post("/v1/predict", content=image)
    assert response.status_code == 200, response.text
    return dict(response.json()["results"][0])


def test_images_that_it_knows_are_accepted(abstaining: httpx.Client) -> None:
    for colour in COLOURS:
        result = ask(abstaining, plain(colour))
        assert (result["abstained"], "reason" in result) == (False, False)
        assert "embedding" not in result
    assert abstaining.get(f"/v1/models/{MODEL}").json()["can_abstain"] is True


@pytest.mark.parametrize(
    ("image", "seen_by"), [(ORANGE, "density"), (DARK, "energy")], ids=["orange", "dark"]
)
def test_the_reason_names_what_saw_it(abstaining: httpx.Client, image: bytes, seen_by: str) -> None:
    """Its features if they add most to the score, or else its energy."""
    result = ask(abstaining, image)
    assert result["abstained"] is True
    assert f"({seen_by})" in result["reason"]


def test_the_command_abstains_as_the_service_does(
    abstaining: httpx.Client, density_store: ModelStore, tmp_path: Path
) -> None:
    (tmp_path / "orange.png").write_bytes(ORANGE)
    words = [str(tmp_path / "orange.png"), "--model", MODEL, "--format", "json"]
    result = CliRunner().invoke(predict, [*words, "--store", str(density_store.root)])
    assert result.exit_code == 0, result.output
    assert f'"reason": "{ask(abstaining, ORANGE)["reason"]}"' in result.output


def test_the_sum_decides() -> None:
    """What embedding and energy add is compared with the threshold, not each of them."""
    colours = np.array([[255, 110, 0], [255, 255, 255], [10, 10, 10]], np.float32)
    scores = colours @ WEIGHTS
    rows = classify(scores, Outputs(embedding="embedding"), Calibration(), colours, DENSITY)
    expected = sum(DENSITY.score(colours, energy(scores))) > DENSITY.threshold
    reasons = [row.abstention_reason for row in rows if isinstance(row, Classification)]
    assert [bool(reason) for reason in reasons] == expected.tolist() == [True, False, True]


@pytest.mark.parametrize(
    "density",
    [
        replace(DENSITY, unit_means=UNITS[:-1]),
        Density(
            whitening=np.eye(4, dtype=np.float32),
            mean=np.zeros(4, np.float32),
            unit_whitening=np.eye(4, dtype=np.float32),
            unit_means=np.zeros((len(UNITS), 4), np.float32),
            center=DENSITY.center,
            scale=DENSITY.scale,
            threshold=DENSITY.threshold,
        ),
    ],
    ids=["classes", "dims"],
)
def test_a_density_of_another_model_is_rejected(store: ModelStore, density: Density) -> None:
    """The version does not load, and does not serve with wrong thresholds."""
    publish(store, embedding=True, density=density)
    with pytest.raises(ManifestError, match=r"density\.npz"):
        LoadedVersion(store.open(MODEL, 1), options(MODEL))


def test_a_density_without_an_embedding_cannot_be_published(store: ModelStore) -> None:
    with pytest.raises(ManifestError, match="embedding"):
        publish(store, density=DENSITY)
