"""Limits that are divided among workers, and limits that all workers share."""

import os
from collections.abc import Iterator
from contextlib import closing
from math import ceil
from pathlib import Path

import pytest
from worker_processes import connection_of_each, predict, two_workers

from model_store.store import ModelStore
from service.engine.options import engine_options
from service.errors import OverloadedError
from service.http.shared_rate_limit import SharedRateLimit
from service.key_changes import add_key
from service.settings import ModelSettings, Settings
from service.workers.shared_buckets import SharedBuckets
from service.workers.shares import Share, count_workers


def test_limits_are_divided() -> None:
    """Settings of a model are divided too. Settings that are not set stay unset."""
    settings = Settings(
        max_queue_size=5, max_upload_bytes=100, models={"a": ModelSettings(instances=3)}
    )
    alone, one_of_two = Share.of(settings), Share.of(settings, 2)
    assert alone.settings is settings
    assert one_of_two.settings.max_queue_size == 3
    assert one_of_two.settings.max_upload_bytes == 50
    assert one_of_two.settings.instances is None
    assert one_of_two.settings.models["a"].model_dump(exclude_unset=True) == {"instances": 2}
    assert one_of_two.cpus == ceil(alone.cpus / 2)
    assert alone.memory_bytes
    assert one_of_two.memory_bytes == alone.memory_bytes // 2


def test_cpus_are_divided_among_the_instances_of_workers() -> None:
    """Rounded up, so that no CPU is idle."""
    for workers, instances in ((1, 4), (2, 2), (3, 2), (8, 1)):
        options = engine_options(Settings(), "digits", 4, workers=workers)
        assert (options.instances, options.session.intra_op_num_threads) == (instances, 1)
    latency = engine_options(Settings(mode="latency"), "digits", 4, workers=2)
    assert (latency.instances, latency.session.intra_op_num_threads) == (1, 2)


def test_auto_is_one_worker_per_cpu() -> None:
    assert count_workers(Settings(workers="auto")) == Share.of(Settings()).cpus
    assert count_workers(Settings(workers=3)) == 3


def test_rate_of_a_key_holds_for_all_workers(colour_store: ModelStore, tmp_path: Path) -> None:
    """All workers together allow one request per minute."""
    keys = tmp_path / "keys.json"
    fast = add_key(keys, "fast", ["predict"])
    slow = add_key(keys, "slow", ["predict"], requests_per_second=1 / 60)
    with (
        two_workers(colour_store, "--keys", keys) as server,
        connection_of_each(server, Authorization=f"Bearer {fast}") as connections,
    ):
        slowly = {"Authorization": f"Bearer {slow}"}
        assert predict(connections[1], **slowly) == 200
        assert predict(connections[2], **slowly) == 429
        assert predict(connections[1], **slowly) == 429
        assert predict(connections[2], Authorization=f"Bearer {fast}") == 200


@pytest.fixture
def buckets() -> Iterator[SharedBuckets]:
    with closing(SharedBuckets()) as buckets:
        yield buckets


def test_processes_take_from_one_bucket(buckets: SharedBuckets) -> None:
    """Four concurrent processes take exactly the available tokens."""
    read, write = os.pipe()
    children = []
    for _ in range(4):
        if not (pid := os.fork()):
            limit = SharedRateLimit(buckets, 100.0, "app")
            limit.requests_per_second = 1e-9  # nothing is refilled
            for _ in range(60):
                try:
                    limit.check("app")
                except OverloadedError:
                    continue
                os.write(write, b".")
            os._exit(0)
        children.append(pid)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        assert len(file.read()) == 100
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4


def test_names_that_share_a_slot_have_their_own_bucket(
    buckets: SharedBuckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.workers.shared_buckets.SLOTS", 2)
    with buckets.lock():
        assert buckets.read("a") is None
        buckets.write("a", 1.0, 2.0)
        buckets.write("b", 3.0, 4.0)
        assert (buckets.read("a"), buckets.read("b")) == ((1.0, 2.0), (3.0, 4.0))
