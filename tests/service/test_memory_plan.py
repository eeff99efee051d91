"""Limits that the memory of a container sets."""

import logging
import math

import pytest

from service.memory_plan import MemoryPlan
from service.prediction.decoder import decode_memory
from service.settings import MEBIBYTE, Settings


def test_much_memory_changes_no_setting(caplog: pytest.LogCaptureFixture) -> None:
    """Neither does a limit that is not known."""
    settings = Settings()
    for memory in (8192 * MEBIBYTE, None):
        plan = MemoryPlan.make(settings, 4, memory)
        assert (plan.max_pixels, plan.decode_workers, plan.upload_bytes) == (
            settings.max_pixels,
            4,
            settings.max_upload_bytes,
        )
    assert plan.decode_bytes == math.inf
    assert caplog.records == []


@pytest.mark.parametrize(
    ("mebibytes", "max_pixels", "workers", "upload"),
    [
        (1024, 33 * MEBIBYTE, 4, 128),
        (512, 15 * MEBIBYTE, 2, 64),
        (256, 6 * MEBIBYTE, 1, 32),
        (64, 5 * MEBIBYTE, 1, 8),
    ],
)
def test_little_memory_lowers_the_limits(
    caplog: pytest.LogCaptureFixture, mebibytes: int, max_pixels: int, workers: int, upload: int
) -> None:
    """The largest image fits into the memory for decoding, and a warning has the limits."""
    plan = MemoryPlan.make(Settings(), 8, mebibytes * MEBIBYTE)
    assert (plan.max_pixels, plan.decode_workers) == (max_pixels, workers)
    assert plan.upload_bytes == upload * MEBIBYTE
    assert decode_memory(plan.max_pixels, 0) <= plan.decode_bytes
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_photo_of_a_phone_fits_into_a_small_container() -> None:
    """12 megapixels and 8 MB in 512 MiB."""
    plan = MemoryPlan.make(Settings(), 2, 512 * MEBIBYTE)
    assert decode_memory(4032 * 3024, 8 * MEBIBYTE) <= plan.decode_bytes


def test_settings_below_the_limits_are_kept() -> None:
    """So is a set number of decoders."""
    settings = Settings(max_pixels=1000, max_upload_bytes=2 * MEBIBYTE, decode_workers=9)
    plan = MemoryPlan.make(settings, 2, 512 * MEBIBYTE)
    assert (plan.max_pixels, plan.upload_bytes, plan.decode_workers) == (1000, 2 * MEBIBYTE, 9)
