"""Mixed load: every answer fits its image, and nothing is left behind."""

import asyncio
from typing import Final

import pytest
from operating import eventually
from server_process import running
from storm import IMAGES, REQUESTS, Resources, Storm

from model_store.store import ModelStore

MEMORY_KIB: Final = 40_000
"""How much a process may grow after its caches and pools are filled: less than 10 %."""
THREADS: Final = 4


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [1])
def test_mixed_requests_leave_nothing_behind(colour_store: ModelStore, seed: int) -> None:
    """After a first storm that fills caches, a second one changes neither memory nor the rest."""
    limits = ("--max-body-bytes", 400_000, "--body-timeout-seconds", 5, "--no-access-log")
    with running("--store", colour_store.root, "--no-builtin", *limits) as server:
        server.announced()
        warming = Storm(server.address, seed)
        asyncio.run(warming.run(max(200, REQUESTS // 10)))
        with server.client() as client:  # its connection exists before and after
            assert client.post("/v1/predict", content=IMAGES["red"]).status_code == 200
            eventually(lambda: pending(client.get("/metrics").text), 0.0)
            before = Resources.of(server)
            storm = Storm(server.address, seed + 1)
            asyncio.run(storm.run(REQUESTS))
            answer = client.post("/v1/predict", content=IMAGES["red"]).json()
            assert answer["results"][0]["predictions"][0]["label"] == "red"
            eventually(lambda: pending(client.get("/metrics").text), 0.0)
            eventually(lambda: Resources.of(server).descriptors <= before.descriptors, True)
        after = Resources.of(server)
        assert min(storm.answers[kind] for kind in KINDS) > 0, storm.answers
        assert storm.answers["classified"] > REQUESTS // 4
        assert after.threads <= before.threads + THREADS
        assert after.memory_kib <= before.memory_kib + MEMORY_KIB
        assert server.process.poll() is None
        assert "Traceback" not in server.stderr.text


KINDS = ("good", "corrupt", "oversized", "slow", "abandoned", "pipelined")


def pending(metrics: str) -> float:
    """Images that were admitted and are not answered."""
    lines = [line for line in metrics.splitlines() if line.startswith("resident_pending_images{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)
