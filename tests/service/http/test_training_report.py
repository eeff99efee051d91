"""The training report of a version over HTTP."""

from pathlib import Path

from colour_model import MODEL, publish
from http_problems import check_problem
from report_model import REPORT, publish_with_report
from server_process import running

from model_store.store import ModelStore
from model_store.version import MAX_REPORT_BYTES
from service.key_changes import add_key


def path_of(version: int) -> str:
    return f"/v1/models/{MODEL}/versions/{version}/report"


PATH = path_of(1)


def test_report_is_what_the_version_holds(store: ModelStore) -> None:
    """A sandbox forbids scripts and other hosts. The version need not serve."""
    publish_with_report(store)
    publish(store)
    with running("--store", store.root, "--no-builtin") as server:
        client = server.announced().client()
        assert client.get(f"/v1/models/{MODEL}").json()["version"] == 2
        details = client.get(f"/v1/models/{MODEL}/versions/1").json()
        assert details["training"]["report"] == "report.html"
        response = client.get(PATH)
        assert response.content == REPORT
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        policy = response.headers["content-security-policy"].split("; ")
        assert {"sandbox", "default-src 'none'", "frame-ancestors 'none'"} <= set(policy)
        assert not [each for each in policy if each.startswith("script-src")]
        assert response.headers["x-content-type-options"] == "nosniff"
        assert client.post(f"/page/report/{MODEL}/1").content == REPORT
        check_problem(client.get(path_of(2)), 404, "report_not_found")
        check_problem(client.get(path_of(3)), 404, "version_not_found")
        check_problem(client.get("/v1/models/-/versions/1/report"), 404, "model_not_found")
        (store.root / MODEL / "1/report.html").write_bytes(REPORT + b" ")
        check_problem(client.get(PATH), 503, "not_ready")
        client.close()


def test_report_over_the_limit_is_not_read(store: ModelStore) -> None:
    publish_with_report(store, b" " * (MAX_REPORT_BYTES + 1))
    with running("--store", store.root, "--no-builtin") as server:
        client = server.announced().client()
        check_problem(client.get(PATH), 503, "not_ready")
        client.close()


def test_report_needs_a_key_where_predictions_do(store: ModelStore, tmp_path: Path) -> None:
    """The key is in the header, or in the form that the page sends to open a tab."""
    publish_with_report(store)
    secret = add_key(tmp_path / "keys.json", "page", ["predict"])
    flags = ("--store", store.root, "--no-builtin", "--keys", tmp_path / "keys.json")
    with running(*flags) as server, server.announced().client() as client:
        form = f"/page/report/{MODEL}/1"
        check_problem(client.get(PATH), 401, "unauthorized")
        check_problem(client.post(form), 401, "unauthorized")
        check_problem(client.post(form, data={"key": "wrong"}), 401, "unauthorized")
        headers = {"Authorization": f"Bearer {secret}"}
        assert client.get(PATH, headers=headers).content == REPORT
        assert client.post(form, data={"key": secret}).content == REPORT
        check_problem(client.post(form, content=b"x" * 20_000), 413, "body_too_large")
