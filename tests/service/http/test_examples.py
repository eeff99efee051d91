"""The example images of a version over HTTP."""

from pathlib import Path

import httpx
from colour_model import MODEL, plain, publish
from http_problems import check_problem
from server_process import running

from model_store.store import ModelStore
from service.key_changes import add_key

PATH = f"/v1/models/{MODEL}/versions/1/examples"


def test_examples_are_the_images_of_the_golden_proof(client: httpx.Client) -> None:
    """In the order of the manifest, as the bytes that the version holds."""
    listed = client.get(PATH).json()
    assert (listed["model"], listed["version"]) == (MODEL, 1)
    assert [each["name"] for each in listed["examples"]] == ["red.png", "cyan.png"]
    assert [each["label"] for each in listed["examples"]] == ["red", "cyan"]
    for each, colour in zip(listed["examples"], ("red", "cyan"), strict=True):
        image = client.get(f"{PATH}/{each['index']}")
        assert (image.content, image.headers["content-type"]) == (plain(colour), "image/png")
        assert image.headers["x-content-type-options"] == "nosniff"


def test_example_that_does_not_exist_is_not_found(client: httpx.Client) -> None:
    check_problem(client.get(f"{PATH}/2"), 404, "example_not_found")
    check_problem(client.get(f"{PATH}/x"), 400, "invalid_parameter")
    check_problem(client.get(f"/v1/models/{MODEL}/versions/2/examples"), 404, "version_not_found")
    check_problem(client.get("/v1/models/none/versions/1/examples"), 404, "model_not_found")


def test_altered_example_is_not_shown(store: ModelStore) -> None:
    """Its digest is compared with the sealed one."""
    publish(store)
    with running("--store", store.root, "--no-builtin") as server:
        client = server.announced().client()
        (store.root / MODEL / "1/golden/red.png").write_bytes(plain("blue"))
        check_problem(client.get(f"{PATH}/0"), 503, "not_ready")
        client.close()


def test_examples_need_a_key_where_predictions_do(colour_store: ModelStore, tmp_path: Path) -> None:
    secret = add_key(tmp_path / "keys.json", "page", ["predict"])
    flags = ("--store", colour_store.root, "--no-builtin", "--keys", tmp_path / "keys.json")
    with running(*flags) as server, server.announced().client() as client:
        for path in (PATH, f"{PATH}/0"):
            check_problem(client.get(path), 401, "unauthorized")
            headers = {"Authorization": f"Bearer {secret}"}
            assert client.get(path, headers=headers).status_code == 200
