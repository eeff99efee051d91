"""The version that answers: by the path, by `version` and by `alias` in the query."""

from collections.abc import Iterator

import httpx
import pytest
from colour_model import MODEL, make_store, plain, publish
from http_problems import check_problem
from server_process import running

from model_store.store import ModelStore

RED = plain("red")
PATH = f"/v1/models/{MODEL}/predict"


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """Three versions. `production` is 2, `staging` 3, `gone` a version that is not served."""
    store = make_store(tmp_path_factory.mktemp("versions") / "store")
    for _ in range(4):
        publish(store)
    for alias, number in (("production", 2), ("staging", 3), ("gone", 4)):
        store.promote(MODEL, number, alias=alias)
    return store


@pytest.fixture(scope="module")
def three_versions(versions: ModelStore) -> Iterator[httpx.Client]:
    policy = ("--version-policy", "versions:1,2,3")
    with running("--store", versions.root, "--no-builtin", *policy) as server:
        server.announced()
        with server.client() as client:
            yield client


@pytest.mark.parametrize("path", ["/v1/predict", PATH])
@pytest.mark.parametrize(
    ("query", "version"),
    [
        ("", 2),
        ("?version=1", 1),
        ("?version=3&top_k=1", 3),
        ("?alias=production", 2),
        ("?alias=staging", 3),
    ],
)
def test_query_chooses_the_version(
    three_versions: httpx.Client, path: str, query: str, version: int
) -> None:
    response = three_versions.post(path + query, content=RED)
    assert response.json()["version"] == version
    assert response.headers["model-version"] == str(version)


@pytest.mark.parametrize(
    ("request_target", "status", "code"),
    [
        (f"{PATH}?version=4", 404, "version_not_found"),
        (f"{PATH}?alias=gone", 404, "version_not_found"),
        (f"{PATH}?alias=nothing", 404, "alias_not_found"),
        ("/v1/models/nobody/predict?alias=staging", 404, "model_not_found"),
        (f"{PATH}?version=0", 400, "invalid_parameter"),
        (f"{PATH}?version=01", 400, "invalid_parameter"),
        (f"{PATH}?alias=../3", 400, "invalid_parameter"),
        (f"{PATH}?alias=3", 400, "invalid_parameter"),
        (f"{PATH}?alias=", 400, "invalid_parameter"),
        (f"{PATH}?alias=staging&version=3", 400, "invalid_parameter"),
        (f"/v1/models/{MODEL}/versions/3/predict?version=3", 400, "invalid_parameter"),
        (f"/v1/models/{MODEL}/versions/3/predict?alias=staging", 400, "invalid_parameter"),
    ],
)
def test_version_that_cannot_answer_is_an_error(
    three_versions: httpx.Client, request_target: str, status: int, code: str
) -> None:
    check_problem(three_versions.post(request_target, content=RED), status, code)


def test_moved_alias_answers_at_once(three_versions: httpx.Client, versions: ModelStore) -> None:
    for number in (1, 3):
        versions.promote(MODEL, number, alias="moving")
        response = three_versions.post(f"{PATH}?alias=moving", content=RED)
        assert response.json()["version"] == number


def test_damaged_alias_is_unavailable(three_versions: httpx.Client, versions: ModelStore) -> None:
    versions.promote(MODEL, 1, alias="damaged")
    (event,) = (versions.root / MODEL / "aliases" / "damaged").glob("*.json")
    event.chmod(0o600)
    event.write_bytes(b"{")
    check_problem(three_versions.post(f"{PATH}?alias=damaged", content=RED), 503, "not_ready")


def test_model_without_aliases_has_the_default_one(client: httpx.Client) -> None:
    """Its newest version answers."""
    assert client.post(f"{PATH}?alias=production", content=RED).json()["version"] == 1
    check_problem(client.post(f"{PATH}?alias=other", content=RED), 404, "alias_not_found")
