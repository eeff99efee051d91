"""The limit of the memory of the service, in a process of its own."""

import shutil
import subprocess
import sys

import pytest
from server_process import ENVIRONMENT

from service.host.own_memory import MEMORY_SHARE, MIN_FREE_BYTES

GIBIBYTE = 1024**3
PROGRAM = """if True:
    import resource, sys
    from service.host.child_process import memory_in_use
    from service.host.own_memory import limit_own_memory

    before = memory_in_use(resource.RLIMIT_DATA)
    limit_own_memory(eval(sys.argv[1]))
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    try:
        bytes(limit)
    except MemoryError:
        print(limit, before)
"""


def limit_and_use(total: int | None) -> tuple[int, int]:
    """The limit that a process with this memory sets for itself, and what it used before."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, repr(total)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    limit, before = map(int, done.stdout.split())
    return limit, before


def test_it_is_a_share_of_the_memory() -> None:
    assert limit_and_use(4 * GIBIBYTE)[0] == int(MEMORY_SHARE * 4 * GIBIBYTE)


def test_a_small_container_leaves_room_for_what_is_never_touched() -> None:
    limit, before = limit_and_use(GIBIBYTE // 16)
    assert limit == pytest.approx(before + MIN_FREE_BYTES, abs=GIBIBYTE // 64)


@pytest.mark.skipif(
    shutil.which("prlimit") is None, reason="needs the command prlimit of util-linux"
)
def test_a_lower_limit_is_kept() -> None:
    command = ["prlimit", f"--data={GIBIBYTE}", sys.executable, "-c", PROGRAM, repr(4 * GIBIBYTE)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[0]) == GIBIBYTE
