"""The watchdog terminates runs that hang, or else ends the process."""

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
    pytest.fail("give_up was called")


def test_hanging_run_is_terminated(slow_session: Session) -> None:
    """A run that hangs fails after its time limit; concurrent and later runs succeed."""
    watchdog = Watchdog(0.2, give_up=never)
    run = watchdog.guard(slow_session.run)
    with ThreadPoolExecutor() as pool:
        hanging = [pool.submit(run, WHITE) for _ in range(2)]
        beside = [pool.submit(run, GREY) for _ in range(20)]
        for future in hanging:
            with pytest.raises(ModelRunError, match=r"2 images.* 0\.2 s"):
                future.result(PATIENCE_SECONDS)
        assert all(future.result().shape == (3, len(WEIGHTS[0])) for future in beside)
    assert run(GREY).shape == (3, len(WEIGHTS[0]))
    watchdog.close()


def test_run_that_cannot_be_terminated_makes_the_watchdog_give_up() -> None:
    """`give_up` is called once the grace time after the termination is over, not before."""
    gave_up, terminated, end = threading.Event(), threading.Event(), threading.Event()

    def ignore_termination(_: np.ndarray, control: RunControl | None) -> None:
        assert control
        terminate = control.terminate
        control.terminate = lambda: (terminate(), terminated.set())
        assert end.wait(PATIENCE_SECONDS)

    def give_up() -> None:
        assert terminated.is_set()
        gave_up.set()
        end.set()

    watchdog = Watchdog(0.05, 0.05, give_up)
    watchdog.guard(ignore_termination)(WHITE)
    assert gave_up.is_set()
    watchdog.close()


def test_each_run_has_its_own_time_limit(slow_session: Session) -> None:
    """While one run is in its grace time, the next ones are terminated after their own limit."""
    end = threading.Event()
    watchdog = Watchdog(0.1, grace_seconds=PATIENCE_SECONDS, give_up=never)
    hanging = threading.Thread(
        target=watchdog.guard(lambda *_: end.wait(PATIENCE_SECONDS)), args=(GREY,)
    )
    hanging.start()
    with pytest.raises(ModelRunError, match=r"0\.1 s"):
        watchdog.guard(slow_session.run)(WHITE)
    with pytest.raises(ModelRunError, match=r"0\.1 s"):
        watchdog.guard(slow_session.run)(WHITE)
    assert hanging.is_alive()
    end.set()
    hanging.join()
    watchdog.close()


def test_thread_sleeps_while_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle watchdog waits without a timeout, and 2000 short runs wake it at most once."""
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


def test_error_of_a_run_is_passed_on() -> None:
    """A run that fails by itself raises its own error."""
    watchdog = Watchdog(PATIENCE_SECONDS, give_up=never)

    def fail(*_: object) -> None:
        raise ModelRunError("no such shape")

    with pytest.raises(ModelRunError, match="no such shape"):
        watchdog.guard(fail)(WHITE)
    watchdog.close()


def test_watchdog_is_disabled_with_0_seconds() -> None:
    """The run gets no control, and no thread is started."""
    watchdog = Watchdog(0, give_up=never)
    assert watchdog.guard(lambda images, control: (len(images), control))(WHITE) == (2, None)
    watchdog.close()
    assert not watchdog._thread.is_alive()


def test_process_exits_if_a_run_never_returns() -> None:
    """The exit code is EX_SOFTWARE, and stderr has the stack of the hung thread."""
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
    assert "in hang_for_ever" in done.stderr


def test_service_answers_500_for_a_hanging_run(store: ModelStore) -> None:
    """After SERVICE_RUN_TIMEOUT_SECONDS the image gets a 500; the next request succeeds."""
    publish(store, file=slow_model_bytes(SIZE, SIZE, WEIGHTS))
    with (
        running(
            "--store",
            store.root,
            "--no-builtin",
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
        assert server.stderr.wait_for("run terminated images=1 seconds=0.5")
