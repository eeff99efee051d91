"""Measures images per second of the Open Inference Protocol: binary tensors, and gRPC."""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from urllib.request import Request, urlopen

import numpy as np
from contenders import run_raw
from machine import ROOT, family, free_port, processor_seconds
from options import Options
from results import spread, table, write_section
from side_process import RunningSide, running
from sides import OURS, SideError
from workloads import BUILD, IMAGES, Bodies, Workload, resnet20
from wrk import WrkResult, wrk_load

from model_store.preprocessing import prepare

BATCH = 32
CONNECTIONS, BATCH_CONNECTIONS = 32, 4
ALONE = "ONNX Runtime alone"
TITLE = "Open Inference Protocol"
HEAD = ("how images are sent", "images/s", "core ms per image", "p50 ms", "p99 ms", "failed")
METHOD = (
    f"ResNet-20, full load for {{seconds:g}} s in each of {{rounds}} rounds, after a warm-up. "
    f"Binary tensors: `wrk` with {BATCH_CONNECTIONS} connections, {BATCH} images of 32x32 in each "
    f"request, probabilities as bytes. gRPC: `benchmarks/grpc_load.py`, a Python client on the "
    f"same cores, with {CONNECTIONS} calls in progress; HTTP with single images: `wrk` with "
    f"{CONNECTIONS} connections. Core ms are the CPU time of the server, without its client."
)

LIMITS = (
    "The loop of ONNX Runtime alone does nothing but run the model. The service also receives, "
    "parses, logs and answers each request in one thread of Python, and calibrates, ranks and "
    "checks each image for abstention between two runs. With 32 small images, both run with cold "
    "caches after every batch, which costs more than the work itself. gRPC is limited by Python "
    "too: `grpc.aio` hands every step of a call from its own thread to the event loop."
)


@dataclass(frozen=True)
class ProtocolRate:
    images_per_second: float
    core_milliseconds: float
    p50: float = float("nan")
    p99: float = float("nan")
    failed: int = 0


def measure(options: Options) -> None:
    """Compare both with ONNX Runtime alone, and gRPC with HTTP."""
    workload, rates = resnet20(), dict[str, list[ProtocolRate]]()
    loop = list(map(str, run_raw(workload).values()))
    missing = None
    for number in range(options.rounds):
        seconds = str(options.seconds)
        alone = run_raw(workload, "--seconds", seconds, "--loop", *loop)
        rates.setdefault(ALONE, []).append(ProtocolRate(**alone))
        port = free_port()
        grpc = () if missing else ("--grpc-port", str(port))
        try:
            measured = dict(_round(workload, options, grpc, port))
        except SideError as error:
            missing = str(error)
            measured = dict(_round(workload, options, (), port))
        for name, rate in measured.items():
            rates.setdefault(name, []).append(rate)
            print(f"{number + 1}/{options.rounds}  {name}: {rate.images_per_second:.0f} images/s")
    write_section(TITLE, _report(options, rates, missing))


def binary_bodies(workload: Workload) -> Bodies:
    """Requests with `BATCH` images each as one binary tensor."""
    pixels = [prepare(image, workload.manifest.preprocessing) for image in workload.images]
    shape = [BATCH, *pixels[0].shape]
    tensor = {"name": "images", "datatype": "UINT8", "shape": shape}
    size = {"parameters": {"binary_data_size": int(np.prod(shape))}}
    output = {"name": "probabilities", "parameters": {"binary_data": True}}
    text = json.dumps({"inputs": [tensor | size], "outputs": [output]}).encode()
    folder = BUILD / "bodies" / f"{workload.key}-open-inference"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(IMAGES):
        batch = [pixels[(number + each) % IMAGES] for each in range(BATCH)]
        (folder / str(number + 1)).write_bytes(text + np.stack(batch).tobytes())
    return Bodies(folder, "application/octet-stream", json_length=len(text))


def _round(
    workload: Workload, options: Options, grpc: tuple[str, ...], port: int
) -> Iterator[tuple[str, ProtocolRate]]:
    extra = (*options.service, *grpc)
    single, batches = OURS.bodies(workload), binary_bodies(workload)
    path = f"/v2/models/{workload.model}/infer"
    with running(OURS, workload, OURS.setups[0], extra) as server:
        _check(server, path, batches, workload)

        def http(seconds: float) -> WrkResult:
            return wrk_load(server.port, OURS.path_of(workload), single, CONNECTIONS, seconds)

        def binary(seconds: float) -> WrkResult:
            return wrk_load(server.port, path, batches, BATCH_CONNECTIONS, seconds)

        def calls(seconds: float) -> WrkResult:
            return _grpc_load(port, workload, single, seconds)

        yield "HTTP, single images", _rate(server, http, options, 1)
        yield f"binary tensors, {BATCH} images", _rate(server, binary, options, BATCH)
        if grpc:
            yield "gRPC, single images", _rate(server, calls, options, 1)


def _rate(
    server: RunningSide, load: Callable[[float], WrkResult], options: Options, images: int
) -> ProtocolRate:
    """The rate of images; a request has `images` of them."""
    load(options.warm_up_seconds)
    members = family(server.pid)
    before = processor_seconds(members)
    result = load(options.seconds)
    used = processor_seconds(members) - before
    return ProtocolRate(
        result.images_per_second * images,
        1e3 * used / max(1, result.answered * images),
        result.p50,
        result.p99,
        result.failed,
    )


def _grpc_load(port: int, workload: Workload, bodies: Bodies, seconds: float) -> WrkResult:
    command = [sys.executable, str(ROOT / "benchmarks/grpc_load.py")]
    command += [str(port), workload.model, str(bodies.folder), str(CONNECTIONS), str(seconds)]
    done = subprocess.run(
        command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SideError(f"grpc_load.py failed: {done.stderr.strip().splitlines()[-1]}")
    return WrkResult(**json.loads(done.stdout))


def _check(server: RunningSide, path: str, bodies: Bodies, workload: Workload) -> None:
    """The first batch must be answered like the model's file. Raises SideError."""
    headers = {
        "Content-Type": bodies.content_type,
        "Inference-Header-Content-Length": str(bodies.json_length),
    }
    request = Request(f"http://127.0.0.1:{server.port}{path}", bodies.read()[0], headers)
    with urlopen(request, timeout=30) as response:  # noqa: S310  our own server
        length = int(response.headers["Inference-Header-Content-Length"])
        scores = np.frombuffer(response.read()[length:], "<f4").reshape(BATCH, -1)
    expected = [workload.expected[each % IMAGES][0] for each in range(BATCH)]
    if scores.argmax(axis=1).tolist() != expected:
        raise SideError("answers binary tensors differently from the model's file")


def _report(
    options: Options, rates: dict[str, list[ProtocolRate]], missing: str | None
) -> list[str]:
    rows = []
    figures = {name: np.array([each.images_per_second for each in rates[name]]) for name in rates}
    for name, each in rates.items():
        rows.append(
            [
                name,
                spread(figures[name], "{:.0f}"),
                spread(np.array([rate.core_milliseconds for rate in each]), "{:.3f}"),
                _milliseconds([rate.p50 for rate in each]),
                _milliseconds([rate.p99 for rate in each]),
                str(sum(rate.failed for rate in each)),
            ]
        )
    raw, single, batches, *calls = figures.values()
    alone, _, binary = (
        np.array([each.core_milliseconds for each in measured])
        for measured in list(rates.values())[:3]
    )
    binary_line = (
        f"Binary tensors: {spread(batches / raw)} of ONNX Runtime alone, which takes "
        f"{spread(100 * alone / binary, '{:.0f}')} % of their CPU time."
    )
    lines = [binary_line]
    if calls and len(calls[0]) == len(single):
        lines.append(f"gRPC: {spread(calls[0] / single)} of HTTP with single images.")
    if missing:
        lines.append(f"gRPC is missing: {missing}.")
    method = METHOD.format(seconds=options.seconds, rounds=options.rounds)
    return [method, "", *table(HEAD, rows), "", f"**{' '.join(lines)}**", "", LIMITS]


def _milliseconds(values: Sequence[float]) -> str:
    """The median; empty for a side that answers no requests."""
    median = float(np.median(values))
    return "" if math.isnan(median) else f"{median:.3g}"
