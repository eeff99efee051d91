"""CPUs by affinity and by fake cgroup trees."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from service.host.cpu_limit import cpu_limit

V1 = ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")


@pytest.fixture
def _sixteen_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)


def tree(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


@pytest.mark.usefixtures("_sixteen_cpus")
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 16),
        ({"cpu.max": "max 100000"}, 16),
        ({"cpu.max": "200000 100000"}, 2),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "10000 100000"}, 1),
        ({"cpu.max": "6400000 100000"}, 16),
        ({"cpu.max": ""}, 16),
        ({V1[0]: "-1", V1[1]: "100000"}, 16),
        ({V1[0]: "300000", V1[1]: "100000"}, 3),
        ({V1[0]: "25000", V1[1]: "50000"}, 1),
        ({V1[0]: "300000"}, 16),
        ({"cpu.max": "400000 100000", V1[0]: "200000", V1[1]: "100000"}, 2),
    ],
)
def test_quota_limits_the_cpus(tmp_path: Path, files: Mapping[str, str], expected: int) -> None:
    """A v2 or v1 quota is rounded up and never exceeds the affinity."""
    assert cpu_limit(tree(tmp_path, files)) == expected


UNIT = "system.slice/resident.service"


@pytest.mark.usefixtures("_sixteen_cpus")
@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        (f"0::/{UNIT}", {f"{UNIT}/cpu.max": "300000 100000"}, 3),
        (
            f"0::/{UNIT}",
            {"system.slice/cpu.max": "200000 100000", f"{UNIT}/cpu.max": "300000 100000"},
            2,
        ),
        (f"0::/{UNIT}", {"other/cpu.max": "300000 100000"}, 16),
        ("0::/", {"cpu.max": "300000 100000"}, 3),
        ("0::/../outside", {"cpu.max": "300000 100000"}, 3),
        (
            f"0::/\n4:memory:/a\n3:cpu,cpuacct:/{UNIT}",
            {
                f"cpu/{UNIT}/{name[4:]}": text
                for name, text in zip(V1, ("300000", "100000"), strict=True)
            },
            3,
        ),
    ],
)
def test_quota_of_nested_cgroups_counts(
    tmp_path: Path, own: str, files: Mapping[str, str], expected: int
) -> None:
    """A systemd unit is limited by its own quota and by those of its parents."""
    groups = tmp_path / "own"
    groups.write_text(own + "\n")
    assert cpu_limit(tree(tmp_path / "tree", files), groups) == expected


def test_affinity_limits_the_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process pinned to one CPU has one, whatever its quota."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert cpu_limit(tree(tmp_path, {"cpu.max": "800000 100000"})) == 1


def test_system_without_affinity_counts_the_machines_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without affinity (macOS) the machine's CPUs count, at least one."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cpu_limit(tmp_path) == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpu_limit(tmp_path) == 1


def test_limit_of_this_machine() -> None:
    """The real cgroup tree is read without an error."""
    assert 1 <= cpu_limit() <= (os.cpu_count() or 1)
