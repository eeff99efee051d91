"""The supervisor with small workers: how it stops, replaces and kills them."""

import subprocess
import sys

from server_process import ENVIRONMENT, PATIENCE_SECONDS, REPOSITORY

PROGRAM = """
import asyncio, logging, os, signal, sys
from service.workers.supervisor import Supervisor
logging.basicConfig(level="INFO", stream=sys.stderr, format="%(message)s")

def run_worker(link, replaces_another):
    async def work():
        await link.start()
        loop = asyncio.get_running_loop()
        stopping = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stopping.set)
        link.set_state(ready=True, loaded=True, stopped=[])
        {work}
        await stopping.wait()
    asyncio.run(work())

def stop_listening():
    print("stopped listening", flush=True)

functions = (run_worker, stop_listening, lambda number: None, lambda before, counts: counts)
Supervisor(2, *functions, 0, {stop_seconds}).run()
print("over", flush=True)
"""


def supervise(work: str, *, stop_seconds: float = PATIENCE_SECONDS) -> tuple[str, str]:
    """Run workers until they end the service; what was printed and what was logged."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(work=work, stop_seconds=stop_seconds)],
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    return done.stdout, done.stderr


def test_worker_with_a_stopped_part_is_replaced() -> None:
    """In this test, the replacement ends the service."""
    out, log = supervise(
        "if replaces_another: os.kill(os.getppid(), signal.SIGTERM)\n"
        "        elif link.number == 2:\n"
        "            while len(link.states) < 2: await asyncio.sleep(0)\n"
        "            link.set_state(ready=False, loaded=True, stopped=['the batcher'])"
    )
    assert "a part of it has ended worker=2 part='the batcher'" in log
    assert log.count("worker started worker=2") == 2
    assert log.count("worker started worker=1") == 1
    assert out.split("\n") == ["stopped listening", "stopped listening", "over", ""]


def test_worker_that_does_not_stop_is_killed() -> None:
    """One worker ignores the signal. The service still ends."""
    out, log = supervise(
        "if link.number == 1:\n"
        "            signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "            os.kill(os.getppid(), signal.SIGTERM)\n"
        "            await asyncio.Event().wait()",
        stop_seconds=0.1,
    )
    assert "did not stop worker=1" in log
    assert out.endswith("over\n")


def test_locks_questions_and_shared_values() -> None:
    """The lock of a killed worker goes to the next one. Its shared values stay."""
    out, _ = supervise(
        "if replaces_another: return await stopping.wait()\n"
        "        async def answer(value): return value + link.number\n"
        "        link.answers['add'] = answer\n"
        "        while len(link.states) < 2: await asyncio.sleep(0)\n"
        "        if link.number == 1:\n"
        "            async with link.lock('one'):\n"
        "                link.share('from', 1)\n"
        "                await link.ask('add', 0, 60)\n"
        "                os.kill(os.getpid(), signal.SIGKILL)\n"
        "        while 'from' not in link.shared: await asyncio.sleep(0)\n"
        "        async with link.lock('one'):\n"
        "            print('locked', link.shared, flush=True)\n"
        "        os.kill(os.getppid(), signal.SIGTERM)"
    )
    assert out.startswith("locked {'from': 1}\n")
