"""Runs that hang: they are ended, and where they can not be the process is."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from colour_model import MODEL, SIZE, WEIGHTS, labels, plain, publish
from http_problems import check_problem
from server_process import PATIENCE_SECONDS, REPOSITORY, running
from slow_model import slow_model_bytes

from model_store.errors import ModelRunError
from model_store.manifest import Input, Outputs
from model_store.session import RunControl, Session
from model_store.store import ModelStore
from service.engine.watchdog import Watchdog

WHITE = np.full((2, SIZE, SIZE, 3), 255, np.uint8)
GREY = np.full((3, SIZE, SIZE, 3), 100, np.uint8)


@pytest.fixture
def slow_session(tmp_path: Path) -> Session:
    (tmp_path / "model.onnx").write_bytes(slow_model_bytes(SIZE, SIZE, WEIGHTS))
    return Session(tmp_path / "model.onnx", Input(height=SIZE, width=SIZE), Outputs())


def never() -> None:
    pytest.fail("it must not give up")


def test_a_run_that_hangs_is_ended(slow_session: Session) -> None:
    """A graph in a loop of years fails after the seconds that were set, and other runs beside and after it answer."""
    watchdog = Watchdog(0.2, give_up=never)
    run = watchdog.guard(slow_session.run)
    with ThreadPoolExecutor() as pool:
        hanging = [pool.submit(run, WHITE) for _ in range(2)]
        beside = [pool.submit(run, GREY) for _ in range(20)]
        for future in hanging:
            with pytest.raises(ModelRunError, match=r"a run of 2 images was ended after 0\.2 s"):
                future.result(PATIENCE_SECONDS)
        assert all(future.result().shape == (3, len(WEIGHTS[0])) for future in beside)
    assert run(GREY).shape == (3, len(WEIGHTS[0]))
    watchdog.close()


def test_a_run_that_does_not_end_makes_it_give_up() -> None:
    """What goes on after it was told to end is given up once the grace time is over, and not before."""
    gave_up, told, end = threading.Event(), threading.Event(), threading.Event()

    def deaf(_: np.ndarray, control: RunControl | None) -> None:
        assert control
        terminate = control.terminate
        control.terminate = lambda: (terminate(), told.set())  # type: ignore[method-assign,assignment,func-returns-value]
        assert end.wait(PATIENCE_SECONDS)

    def give_up() -> None:
        assert told.is_set()
        gave_up.set()
        end.set()

    watchdog = Watchdog(0.05, 0.05, give_up)
    watchdog.guard(deaf)(WHITE)
    assert gave_up.is_set()
    watchdog.close()


def test_a_shorter_time_is_kept_beside_a_longer_one(slow_session: Session) -> None:
    """While one run is in its grace time the next one is still ended after its own seconds."""
    end = threading.Event()
    watchdog = Watchdog(0.1, grace_seconds=PATIENCE_SECONDS, give_up=never)
    deaf = threading.Thread(
        target=watchdog.guard(lambda *_: end.wait(PATIENCE_SECONDS)), args=(GREY,)
    )
    deaf.start()
    with pytest.raises(ModelRunError, match="was ended"):
        watchdog.guard(slow_session.run)(WHITE)
    with pytest.raises(ModelRunError, match="was ended"):
        watchdog.guard(slow_session.run)(WHITE)
    assert deaf.is_alive()
    end.set()
    deaf.join()
    watchdog.close()


def test_it_sleeps_while_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits without a time-out when idle, and thousands of short runs wake it once."""
    watchdog = Watchdog(PATIENCE_SECONDS, give_up=never)
    waits: list[float | None] = []
    wait = watchdog._changed.wait
    monkeypatch.setattr(
        watchdog._changed, "wait", lambda seconds: (waits.append(seconds), wait(seconds))
    )
    run = watchdog.guard(lambda images, _: len(images))
    assert [run(WHITE) for _ in range(2000)] == [2] * 2000
    watchdog.close()
    assert len(waits) <= 2
    assert not watchdog._thread.is_alive()


def test_its_own_errors_are_passed_on() -> None:
    """A run that fails by itself fails with its own words."""
    watchdog = Watchdog(PATIENCE_SECONDS, give_up=never)

    def fail(*_: object) -> None:
        raise ModelRunError("no such shape")

    with pytest.raises(ModelRunError, match="no such shape"):
        watchdog.guard(fail)(WHITE)
    watchdog.close()


def test_with_0_nothing_is_looked_after() -> None:
    """The run gets no control, and there is no thread."""
    watchdog = Watchdog(0, give_up=never)
    assert watchdog.guard(lambda images, control: (len(images), control))(WHITE) == (2, None)
    watchdog.close()
    assert not watchdog._thread.is_alive()


def test_a_process_whose_run_never_returns_exits() -> None:
    """With an exit code that tells a supervisor, although the thread that hangs is still there, and with a trace of where it is."""
    code = """if True:
        import threading
        import numpy as np
        from service.engine.watchdog import Watchdog

        def hang_for_ever(images, control):
            threading.Event().wait()

        Watchdog(0.1, 0.1).guard(hang_for_ever)(np.zeros((1, 2, 2, 3), np.uint8))
    """
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == os.EX_SOFTWARE
    assert "the process ends, to be restarted" in done.stderr
    assert "in hang_for_ever" in done.stderr


def test_the_service_answers_for_a_run_that_hangs(store: ModelStore) -> None:
    """Over HTTP the hanging image gets a 500 after SERVICE_RUN_TIMEOUT_SECONDS, and the next one its label."""
    publish(store, file=slow_model_bytes(SIZE, SIZE, WEIGHTS))
    with (
        running(
            "--store",
            store.root,
            "--builtin",
            "false",
            "--run-timeout-seconds",
            0.5,
            "--instances",
            1,
        ) as server,
        server.announced().client() as client,
    ):
        check_problem(client.post("/v1/predict", content=plain("white")), 500, "inference_failed")
        assert labels(
            client.post(f"/v1/models/{MODEL}/predict", content=plain("red")).json()["results"]
        ) == ["red"]
        assert client.get("/health/ready").status_code == 200
        assert "takes longer than 0.5 s and is terminated" in server.stderr.text
