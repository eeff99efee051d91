"""Traces of calls over gRPC."""

import pytest
from colour_model import MODEL
from grpc_server import InferenceStub, serving
from open_inference_bodies import pixels
from otlp_receiver import attributes_of, receiving

from model_store.store import ModelStore
from service.protocols.open_inference_grpc import open_inference_pb2 as pb

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.anyio
async def test_a_call_continues_the_trace_of_its_metadata(
    colour_store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    images = pixels("red", "blue")
    tensor = pb.ModelInferRequest.InferInputTensor(
        name="images", datatype="UINT8", shape=images.shape
    )
    request = pb.ModelInferRequest(
        model_name=MODEL, inputs=[tensor], raw_input_contents=[images.tobytes()]
    )
    metadata = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)
    with receiving() as spans:
        settings = {"otlp_endpoint": spans.address}
        async with serving(colour_store.root, caplog, **settings) as (_, channel):
            await InferenceStub(channel).ModelInfer(request, metadata=metadata)
        (span,) = spans.named("inference.GRPCInferenceService/ModelInfer")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert attributes_of(span)["resident.images"] == 2
    assert set(spans.children(span)) == {"decode", "queue", "infer", "batch"}
