"""The systemd unit confines the service."""

import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[1] / "deploy/systemd/resident.service"
MOST_EXPOSURE = 20  # tenths


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_the_unit_has_an_exposure_of_at_most_two() -> None:
    """`systemd-analyze security` rates it from 0.0 (confined) to 10.0 (exposed)."""
    options = ("--offline=true", f"--threshold={MOST_EXPOSURE}", "--no-pager")
    done = subprocess.run(
        ["systemd-analyze", "security", *options, UNIT],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unrecognized option" in done.stderr:  # before systemd 250
        pytest.skip("systemd-analyze is too old to read a file")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_unit_restarts_after_a_fault_and_not_after_a_wrong_setting() -> None:
    """Exit code 2 means that the settings are wrong, so a restart cannot help."""
    lines = UNIT.read_text().splitlines()
    assert {"Restart=on-failure", "RestartPreventExitStatus=2"} <= set(lines)
