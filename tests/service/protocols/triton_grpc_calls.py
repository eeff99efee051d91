"""Every call of `tritonclient.grpc` that the service answers. Run by the client's own Python.

Prints what the calls returned, as JSON. Arguments: host and port, a key, and the file of an image.
"""

import asyncio
import json
import queue
import sys
from pathlib import Path

import numpy as np
import tritonclient.grpc as sync_grpc
import tritonclient.grpc.aio as aio_grpc
from tritonclient.utils import InferenceServerException

MODEL = "colours"


def error_of(call):
    try:
        call()
    except InferenceServerException as error:
        return [error.status(), error.message()]
    return None


def tensors(image):
    """Inputs: pixels and an encoded image."""
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    pixels[0, ..., 0] = pixels[1, ..., 2] = 255
    encoded = np.array([image], object)
    found = {
        "pixels": sync_grpc.InferInput("images", list(pixels.shape), "UINT8"),
        "encoded": sync_grpc.InferInput("images", list(encoded.shape), "BYTES"),
    }
    found["pixels"].set_data_from_numpy(pixels)
    found["encoded"].set_data_from_numpy(encoded)
    return found


def describe(result):
    answer = result.get_response(as_json=True)
    return {
        "id": answer.get("id"),
        "version": answer["model_version"],
        "labels": [each.decode() for each in result.as_numpy("labels")],
        "sum": result.as_numpy("probabilities").sum(axis=1).round(4).tolist(),
    }


def stream(client, inputs):
    """Answers in the order of the requests; one of them fails."""
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for number in range(40):
        model = "none" if number == 7 else MODEL
        client.async_stream_infer(model, [inputs["pixels"]], request_id=str(number))
    found = []
    for _ in range(40):
        result, error = answers.get(timeout=60)
        found.append(error.message() if error else describe(result)["id"])
    client.stop_stream()
    return found


def call_all(address, headers, image):
    client = sync_grpc.InferenceServerClient(address)
    inputs = tensors(image)
    json_of = {"as_json": True}
    found = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model ready": [client.is_model_ready(MODEL), client.is_model_ready(MODEL, "1")],
        "model missing": error_of(lambda: client.is_model_ready("none")),
        "server": client.get_server_metadata(**json_of),
        "metadata": client.get_model_metadata(MODEL, "1", **json_of),
        "config": client.get_model_config(MODEL, **json_of),
        "infer": {
            name: describe(
                client.infer(
                    MODEL,
                    [data],
                    request_id=name,
                    priority=2,
                    timeout=30_000_000,
                    client_timeout=60,
                )
            )
            for name, data in inputs.items()
        },
        "compressed": describe(
            client.infer(MODEL, [inputs["pixels"]], compression_algorithm="gzip")
        ),
        "stream": stream(client, inputs),
    }
    answers = queue.Queue()
    for number in range(4):
        client.async_infer(
            MODEL,
            [inputs["pixels"]],
            lambda result, error: answers.put(error or describe(result)),
            request_id=str(number),
        )
    found["async"] = sorted(
        (answers.get(timeout=60) for _ in range(4)), key=lambda each: each["id"]
    )
    outputs = [
        sync_grpc.InferRequestedOutput("logits", class_count=2),
        sync_grpc.InferRequestedOutput("probabilities"),
    ]
    ranked = client.infer(MODEL, [inputs["pixels"]], outputs=outputs)
    found["classes"] = [
        [each.decode().split(":")[2] for each in row] for row in ranked.as_numpy("logits")
    ]
    manage = {
        "index": client.get_model_repository_index(headers=headers, **json_of)["models"],
        "no key": error_of(client.get_model_repository_index),
        "load": client.load_model(MODEL, headers=headers),
        "load with config": error_of(
            lambda: client.load_model(MODEL, headers=headers, config="{}")
        ),
        "unload required": error_of(lambda: client.unload_model(MODEL, headers=headers)),
        "unload": client.unload_model("other", headers=headers),
        "unloaded": error_of(lambda: client.is_model_ready("other")),
        "load again": client.load_model("other", headers=headers),
        "loaded": client.is_model_ready("other"),
    }
    found |= {
        "manage": manage,
        "stats": client.get_inference_statistics(MODEL, "1", **json_of)["model_stats"],
        "all stats": [
            each["name"] for each in client.get_inference_statistics(**json_of)["model_stats"]
        ],
        "errors": {
            "no model": error_of(lambda: client.infer("none", [inputs["pixels"]])),
            "no version": error_of(lambda: client.infer(MODEL, [inputs["pixels"]], "9")),
            "no number": error_of(lambda: client.infer(MODEL, [inputs["pixels"]], "x")),
            "no method": error_of(client.get_system_shared_memory_status),
            "no output": error_of(
                lambda: client.infer(
                    MODEL, [inputs["pixels"]], outputs=[sync_grpc.InferRequestedOutput("x")]
                )
            ),
        },
    }
    client.close()
    return found


async def call_all_aio(address, headers, image):
    client = aio_grpc.InferenceServerClient(address)
    inputs = tensors(image)

    async def requests():
        for number in range(5):
            yield {
                "model_name": MODEL,
                "inputs": [inputs["pixels"]],
                "request_id": str(number),
            }

    found = {
        "live": await client.is_server_live(),
        "ready": await client.is_server_ready(),
        "model ready": [
            await client.is_model_ready(MODEL),
            await client.is_model_ready(MODEL, "1"),
        ],
        "server": await client.get_server_metadata(as_json=True),
        "metadata": await client.get_model_metadata(MODEL, as_json=True),
        "config": await client.get_model_config(MODEL, as_json=True),
        "infer": {
            name: describe(await client.infer(MODEL, [data], request_id=name))
            for name, data in inputs.items()
        },
        "stream": [
            describe(result)["id"]
            async for result, error in client.stream_infer(requests())
            if error is None
        ],
        "index": (await client.get_model_repository_index(headers=headers, as_json=True))["models"],
    }
    await client.unload_model("other", headers=headers)
    await client.load_model("other", headers=headers)
    found["loaded"] = await client.is_model_ready("other")
    await client.close()
    return found


if __name__ == "__main__":
    address, secret, path = sys.argv[1:]
    arguments = address, {"authorization": f"Bearer {secret}"}, Path(path).read_bytes()
    found = {"sync": call_all(*arguments), "aio": asyncio.run(call_all_aio(*arguments))}
    print(json.dumps(found))
