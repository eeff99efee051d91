"""A service that requires signatures loads no published version without one."""

from pathlib import Path

import pytest
from colour_model import MODEL, plain, publish
from operating import eventually
from server_process import ServerProcess, running
from signing_keys import write_keys

from model_store.signature import SigningKey
from model_store.store import ModelStore


def test_only_signed_versions_serve(store: ModelStore, tmp_path: Path) -> None:
    """Version 1 is signed; a later one without a signature, or with a stranger's, is an error."""
    private, public = write_keys(tmp_path, "publisher")
    stranger, _ = write_keys(tmp_path, "stranger")
    publish(ModelStore(store.root, None, signing_key=SigningKey.read(private)))
    publish(store)
    publish(ModelStore(store.root, None, signing_key=SigningKey.read(stranger)))
    with (
        running(
            "--store",
            store.root,
            "--no-builtin",
            "--version-policy",
            "all",
            "--require-signature",
            public,
        ) as server,
        server.announced().client() as client,
    ):

        def states() -> list[str]:
            model = client.get(f"/v1/models/{MODEL}").json()
            return [version["state"] for version in model["versions"]]

        eventually(states, ["ready", "error", "error"])
        assert client.post("/v1/predict", content=plain("red")).json()["version"] == 1


def test_builtin_models_need_no_signature(tmp_path: Path) -> None:
    """They are part of the program."""
    _, public = write_keys(tmp_path, "publisher")
    (tmp_path / "store").mkdir()
    with (
        running("--store", tmp_path / "store", "--require-signature", public) as server,
        server.announced().client() as client,
    ):
        assert client.get("/health/ready").status_code == 200


@pytest.mark.parametrize("content", ["", None], ids=["no key", "no file"])
def test_unusable_keys_end_the_start(
    store: ModelStore, tmp_path: Path, content: str | None
) -> None:
    """The service must not serve unsigned versions because its keys are missing."""
    path = tmp_path / "keys.pem"
    if content is not None:
        path.write_text(content)
    server = ServerProcess("--store", store.root, "--require-signature", path)
    assert server.wait() == 2
    assert "--require-signature" in server.stderr.text
    assert "Traceback" not in server.stderr.text
