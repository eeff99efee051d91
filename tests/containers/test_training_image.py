"""Training in a container publishes into the volume, and the running service serves it.

The image has 7 GB, most of it CUDA, so this runs only with RESIDENT_TEST_TRAINING_IMAGE=1.
"""

import os

import pytest
from clients import IMAGE
from compose_project import MakeProject

pytestmark = pytest.mark.skipif(
    os.environ.get("RESIDENT_TEST_TRAINING_IMAGE") != "1",
    reason="builds an image of 7 GB: set RESIDENT_TEST_TRAINING_IMAGE=1",
)


def test_a_trained_model_is_served(make_project: MakeProject) -> None:
    project = make_project()
    (container,) = project.up("service")
    project.compose("--profile", "training", "build", "training")
    project.compose(
        *("--profile", "training", "run", "--rm", "training"),
        *("run", "--data", "digits", "--arch", "resnet20", "--model", "mine"),
    )
    with project.client(container) as client:
        while "mine" not in [model["model"] for model in client.get("/v1/models").json()["models"]]:
            pass
        answer = client.post("/v1/models/mine/predict", content=IMAGE).json()
    assert answer["results"][0]["predictions"][0]["label"] == "7"
