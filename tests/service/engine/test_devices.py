"""Several sessions behind one `run`."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import numpy as np
from server_process import PATIENCE_SECONDS

from model_store.session import Session
from service.engine.devices import Devices

IMAGES = np.zeros((1, 1, 1, 3), np.uint8)


class Device:
    """A fake session that counts its runs and holds each until the gate is open."""

    def __init__(self, gate: threading.Event, began: threading.Semaphore) -> None:
        self.gate, self.began = gate, began
        self.runs = 0

    def run(self, images: np.ndarray, _: object = None) -> np.ndarray:
        self.runs += 1
        self.began.release()
        assert self.gate.wait(PATIENCE_SECONDS)
        if self.runs > 100:
            raise RuntimeError("broken")
        return images


def test_each_run_goes_to_the_session_with_the_fewest_runs() -> None:
    """Of six concurrent runs each of three sessions gets two; failed runs end too."""
    gate, began = threading.Event(), threading.Semaphore(0)
    fakes = [Device(gate, began) for _ in range(3)]
    devices = Devices(cast("list[Session]", fakes))
    with ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(devices.run, IMAGES) for _ in range(6)]
        for _ in futures:
            assert began.acquire(timeout=PATIENCE_SECONDS)
        assert [device.runs for device in fakes] == [2, 2, 2]
        gate.set()
        assert all(future.result() is IMAGES for future in futures)
        fakes[0].runs = 100
        assert isinstance(pool.submit(devices.run, IMAGES).exception(), RuntimeError)
    assert devices._runs == [0, 0, 0]
