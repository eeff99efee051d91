"""Metrics of GPU memory: one per GPU that the driver knows, none without a driver."""

from pathlib import Path

import pytest

from service.http.gpu_metrics import GpuCollector

pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed: pip install '.[gpu]'")
HAS_DRIVER = Path("/proc/driver/nvidia/version").exists()


def test_every_gpu_has_its_memory_and_without_a_driver_there_is_none() -> None:
    collector = GpuCollector()
    for _ in range(2):  # the second time, the driver is known
        total, used = collector.collect()
        assert (total.name, used.name) == (
            "resident_gpu_memory_bytes",
            "resident_gpu_memory_used_bytes",
        )
        assert bool(total.samples) is HAS_DRIVER
        assert [sample.labels for sample in total.samples] == [
            sample.labels for sample in used.samples
        ]
        pairs = zip(total.samples, used.samples, strict=True)
        assert all(0 < some.value <= most.value for most, some in pairs)
