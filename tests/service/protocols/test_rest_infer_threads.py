"""Long JSON of an inference request is parsed in a thread."""

import threading
from typing import Any

import pytest
from colour_model import MODEL
from open_inference_bodies import JSON_LENGTH, binary, pixels, tensor
from registries import options

from model_store.store import ModelStore
from service.http.request_body import INLINE_BYTES
from service.protocols.open_inference import rest_infer
from service.protocols.open_inference.infer_request import InferRequest
from service.versions.reconciler import reconcile
from service.versions.registry import Registry


@pytest.mark.anyio
async def test_long_json_is_parsed_in_a_thread(
    colour_store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without the header that states its length. Long binary data needs no thread."""
    threads: list[threading.Thread] = []
    read = rest_infer.read_infer_request

    def read_recorded(*arguments: Any) -> InferRequest:
        threads.append(threading.current_thread())
        return read(*arguments)

    monkeypatch.setattr(rest_infer, "read_infer_request", read_recorded)
    many = pixels(*["red"] * 1000)
    short = binary(many.tobytes(), inputs=[tensor(shape=list(many.shape))])
    long_json = binary(inputs=[tensor(many.tolist(), shape=list(many.shape))])["content"]
    assert len(short["content"]) > INLINE_BYTES < len(long_json)
    registry = Registry(colour_store, options)
    reconcile(registry)
    loaded = registry.find(MODEL)
    for headers, body in (
        (short["headers"], short["content"]),
        ({}, long_json),
        ({JSON_LENGTH: str(len(long_json))}, long_json),
    ):
        lower = {name.lower(): value for name, value in headers.items()}
        call = rest_infer.InferCall(loaded, lower, 1000)
        assert len((await call.read(body, lambda _: None)).images) == 1000
    registry.close()
    here = threading.current_thread()
    assert [thread is here for thread in threads] == [True, False, False]
