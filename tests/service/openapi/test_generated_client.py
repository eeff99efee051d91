"""A client that openapi-python-client generates from the OpenAPI document."""

import io
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from colour_model import plain
from documented_server import DocumentedServer

PROGRAM = Path(sys.prefix) / "bin/openapi-python-client"
NAME = "generated_resident_client"


@pytest.fixture(scope="module")
def folder(documented: DocumentedServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client as a package in a temporary folder. Its generation gives no warning."""
    root = tmp_path_factory.mktemp("generated")
    document = root / "openapi.json"
    document.write_bytes(httpx.get(f"{documented.address}/openapi.json", trust_env=False).content)
    done = subprocess.run(
        [
            PROGRAM,
            *("generate", "--path", document, "--output-path", root / NAME, "--meta", "none"),
            *("--config", Path(__file__).parent / "generator.yaml", "--fail-on-warning"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return root


def test_generated_client_works(
    documented: DocumentedServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Health, models, a prediction of an image, and an error, each as a typed object."""
    monkeypatch.syspath_prepend(folder)
    package = import_module(NAME)
    models = import_module(f"{NAME}.models")
    image = import_module(f"{NAME}.types").File(io.BytesIO(plain("red")), "red.png", "image/png")
    body = models.PredictFilesBody(images=[image, image])

    def operation(name: str) -> ModuleType:
        return import_module(f"{NAME}.api.{name}")

    with package.AuthenticatedClient(
        documented.address, documented.key, httpx_args={"trust_env": False}
    ) as client:
        live = operation("health.live_health_live_get").sync(client=client)
        found = operation("models.list_models_v1_models_get").sync(client=client)
        predict = operation("prediction.predict")
        answer = predict.sync("cifar10", client=client, body=body, top_k=3)
        error = predict.sync("nobody", client=client, body=body)

    assert (type(live), live.status) == (models.Health, models.HealthStatus.LIVE)
    assert [model.model for model in found.models] == ["cifar10"]
    assert isinstance(answer, models.PredictResponse)
    assert [len(result.predictions) for result in answer.results] == [3, 3]
    assert [result.name for result in answer.results] == ["red.png", "red.png"]
    assert isinstance(error, models.Problem)
    assert (error.status, error.code) == (404, "model_not_found")
