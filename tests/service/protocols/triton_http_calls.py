"""Every call of `tritonclient.http` that the service answers. Run by the client's own Python.

Prints what the calls returned, as JSON. Arguments: host and port, a key, and the file of an image.
"""

import asyncio
import json
import sys
from pathlib import Path

import numpy as np
import tritonclient.http as sync_http
import tritonclient.http.aio as aio_http
from tritonclient.utils import InferenceServerException

MODEL = "colours"


def error_of(call):
    try:
        call()
    except InferenceServerException as error:
        return [error.status(), error.message()]
    return None


def tensors(http, image):
    """Inputs: pixels as JSON and as bytes, and an encoded image."""
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    pixels[0, ..., 0] = pixels[1, ..., 2] = 255
    found = {}
    for name, binary in (("json", False), ("binary", True)):
        found[name] = http.InferInput("images", list(pixels.shape), "UINT8")
        found[name].set_data_from_numpy(pixels, binary_data=binary)
    encoded = np.array([image], object)
    found["encoded"] = http.InferInput("images", list(encoded.shape), "BYTES")
    found["encoded"].set_data_from_numpy(encoded)
    return found


def describe(result):
    answer = result.get_response()
    return {
        "id": answer.get("id"),
        "version": answer["model_version"],
        "labels": [
            each.decode() if isinstance(each, bytes) else each for each in result.as_numpy("labels")
        ],
        "sum": result.as_numpy("probabilities").sum(axis=1).round(4).tolist(),
    }


def call_all(address, headers, image):
    client = sync_http.InferenceServerClient(address, concurrency=2)
    found = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model ready": [
            client.is_model_ready(MODEL),
            client.is_model_ready(MODEL, "1"),
            client.is_model_ready(MODEL, "9"),
            client.is_model_ready("none"),
        ],
        "server": client.get_server_metadata(),
        "metadata": client.get_model_metadata(MODEL, "1"),
        "config": client.get_model_config(MODEL),
        "infer": {},
    }
    inputs = tensors(sync_http, image)
    for name, data in inputs.items():
        result = client.infer(MODEL, [data], request_id=name, priority=2, timeout=30_000_000)
        found["infer"][name] = describe(result)
    waiting = [
        client.async_infer(MODEL, [inputs["binary"]], "1", request_id=str(number))
        for number in range(4)
    ]
    found["async"] = [describe(each.get_result()) for each in waiting]
    outputs = [
        sync_http.InferRequestedOutput("logits", class_count=2),
        sync_http.InferRequestedOutput("probabilities", binary_data=False),
    ]
    ranked = client.infer(MODEL, [inputs["json"]], outputs=outputs)
    found["classes"] = [
        [each.decode().split(":")[2] for each in row] for row in ranked.as_numpy("logits")
    ]
    body, length = sync_http.InferenceServerClient.generate_request_body([inputs["binary"]])
    found["generated"] = [len(body), length]
    parsed = ranked.get_response()
    found["outputs"] = [output["name"] for output in parsed["outputs"]]
    manage = {
        "index": client.get_model_repository_index(headers=headers),
        "no key": error_of(client.get_model_repository_index),
        "load": client.load_model(MODEL, headers=headers),
        "load with config": error_of(
            lambda: client.load_model(MODEL, headers=headers, config="{}")
        ),
        "unload required": error_of(lambda: client.unload_model(MODEL, headers=headers)),
        "unload": client.unload_model("other", headers=headers),
        "unloaded": client.is_model_ready("other"),
        "load again": client.load_model("other", headers=headers),
        "loaded": client.is_model_ready("other"),
    }
    stats = client.get_inference_statistics(MODEL, "1")["model_stats"]
    found |= {
        "manage": manage,
        "stats": stats,
        "all stats": [each["name"] for each in client.get_inference_statistics()["model_stats"]],
        "errors": {
            "no model": error_of(lambda: client.infer("none", [inputs["json"]])),
            "no route": error_of(client.get_log_settings),
            "compressed": error_of(
                lambda: client.infer(MODEL, [inputs["json"]], request_compression_algorithm="gzip")
            ),
        },
    }
    client.close()
    return found


async def call_all_aio(address, headers, image):
    client = aio_http.InferenceServerClient(address)
    inputs = tensors(aio_http, image)
    found = {
        "live": await client.is_server_live(),
        "ready": await client.is_server_ready(),
        "model ready": [await client.is_model_ready(MODEL), await client.is_model_ready("none")],
        "server": await client.get_server_metadata(),
        "metadata": await client.get_model_metadata(MODEL),
        "config": await client.get_model_config(MODEL),
        "infer": {
            name: describe(await client.infer(MODEL, [data], request_id=name))
            for name, data in inputs.items()
        },
        "index": await client.get_model_repository_index(headers=headers),
        "load": await client.load_model("other", headers=headers),
        "stats": (await client.get_inference_statistics())["model_stats"],
    }
    await client.unload_model("other", headers=headers)
    found["unloaded"] = await client.is_model_ready("other")
    await client.load_model("other", headers=headers)
    await client.close()
    return found


if __name__ == "__main__":
    address, secret, path = sys.argv[1:]
    arguments = address, {"Authorization": f"Bearer {secret}"}, Path(path).read_bytes()
    found = {"sync": call_all(*arguments), "aio": asyncio.run(call_all_aio(*arguments))}
    print(json.dumps(found))
