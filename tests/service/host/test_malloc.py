"""Free memory is returned to the system."""

import os
import platform
import subprocess
import sys

import pytest
from server_process import REPOSITORY


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc's malloc has these options"
)
def test_free_memory_is_returned() -> None:
    """64 MB of small blocks, freed except the last one, stay resident until the trim."""
    code = """if True:
        from pathlib import Path
        from service.host.malloc import bound_malloc, trim_memory

        def resident():
            return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

        bound_malloc()
        pieces = [b"x" * (64_000 + number) for number in range(1000)]
        last, pieces = pieces[-1], None
        before = resident()
        trim_memory()
        print(before - resident())
    """
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    freed = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert int(freed) > 30_000_000
