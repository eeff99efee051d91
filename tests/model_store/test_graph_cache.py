"""The graph cache: identical outputs, and no harm if it is damaged, full or not writable."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from tiny_model import tiny_model_bytes

from model_store import graph_cache, host_cache
from model_store.errors import ModelRunError
from model_store.files import DirectoryLock, sha256_of
from model_store.graph_cache import (
    FOLDER,
    GRAPH,
    SEAL,
    WEIGHTS,
    GraphCache,
    cpu_description,
    key_of,
)
from model_store.host_cache import BUILDING_PREFIX
from model_store.manifest import Input, Outputs
from model_store.session import Session, SessionOptions
from model_store.store import BUILTIN_DEFAULT_MODEL, BUILTIN_ROOT, ModelStore

CLASSES = 200
SIDE = 4
PLENTY = 10**8
INPUT = Input(height=SIDE, width=SIDE)
Files = Callable[[], list[Path]]


@pytest.fixture
def cache(tmp_path: Path) -> GraphCache:
    return GraphCache(tmp_path / "cache", PLENTY)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model.onnx")


def write_model(path: Path, seed: int = 0) -> Path:
    weights = (
        np.random.default_rng(seed).normal(size=(3, CLASSES)).astype(np.float32)
    )  # large enough for an external file
    path.write_bytes(tiny_model_bytes(SIDE, SIDE, weights))
    return path


def load(path: Path, cache: GraphCache | None, threads: int = 1) -> Session:
    options = SessionOptions(graphs=cache, intra_op_num_threads=threads)
    return Session(path, INPUT, Outputs(), options, sha256_of(path))


def entries(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / FOLDER).iterdir())


def images(side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (5, side, side, 3), np.uint8)


def test_outputs_are_bit_identical_with_and_without_the_cache(cache: GraphCache) -> None:
    """A residual network, when its graph is built and when it is found."""
    with ModelStore(BUILTIN_ROOT, None).open(BUILTIN_DEFAULT_MODEL, 1) as version:
        manifest = version.manifest
        pixels = images(manifest.input.height)
        answers = [
            Session(
                path,
                manifest.input,
                manifest.outputs,
                SessionOptions(graphs=graphs),
                sha256_of(path),
            ).run_with_features(pixels)
            for path in [version.path("model.onnx")]
            for graphs in (None, cache, cache)
        ]
    for logits, features in answers[1:]:
        assert logits.tobytes() == answers[0][0].tobytes()
        assert features.tobytes() == answers[0][1].tobytes()


def test_a_cached_graph_is_used_again(
    cache: GraphCache, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By this process and by another one. An entry has the graph, its weights and a seal."""
    expected = load(model, None).run(images())
    load(model, cache)
    (entry,) = entries(tmp_path)
    assert sorted(path.name for path in entry.iterdir()) == [SEAL, WEIGHTS, GRAPH]
    monkeypatch.setattr(GraphCache, "_build", lambda *_: pytest.fail("built again"))
    for again in (cache, GraphCache(tmp_path / "cache", PLENTY)):
        assert load(model, again).run(images()).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", [GRAPH, WEIGHTS, SEAL])
@pytest.mark.parametrize("damage", ["flip", "cut", "delete", "empty"])
def test_a_damaged_entry_is_built_again(
    name: str,
    damage: str,
    cache: GraphCache,
    model: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A warning is logged once, and the outputs are right at this start and the next."""
    expected = load(model, cache).run(images())
    path = entries(tmp_path)[0] / name
    data = path.read_bytes()
    path.unlink()
    if damage != "delete":
        path.write_bytes(
            {
                "flip": data[:-1] + bytes([data[-1] ^ 1]),
                "cut": data[: len(data) // 2],
                "empty": b"",
            }[damage]
        )
    for _ in range(2):
        assert load(model, cache).run(images()).tobytes() == expected.tobytes()
    assert caplog.text.count("is built again") == 1
    assert len(entries(tmp_path)) == 1


@pytest.mark.parametrize("listed", [[], [GRAPH]])
def test_a_seal_must_list_every_file(
    listed: list[str],
    cache: GraphCache,
    model: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Otherwise the entry is built again."""
    load(model, cache)
    seal = entries(tmp_path)[0] / SEAL
    sealed = json.loads(seal.read_bytes())
    seal.write_text(
        json.dumps(sealed | {"files": [file for file in sealed["files"] if file["path"] in listed]})
    )
    for _ in range(2):
        load(model, cache)
    assert caplog.text.count("is built again") == 1
    assert json.loads(seal.read_bytes()) == sealed


def test_a_read_only_entry_is_used(
    cache: GraphCache,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A cache may be part of a container image. Nothing is logged."""
    load(model, cache)

    def read_only(path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(host_cache.os, "utime", read_only)
    monkeypatch.setattr(GraphCache, "_build", lambda *_: pytest.fail("built again"))
    assert load(model, cache).run(images()).shape == (5, CLASSES)
    assert caplog.text == ""


def test_a_cache_that_became_read_only_is_logged_once(
    cache: GraphCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Although each attempt has a directory with another name."""
    load(write_model(tmp_path / "first.onnx"), cache)
    real = Path.mkdir

    def mkdir(path: Path, *arguments: int, **options: bool) -> None:
        if path.name.startswith(BUILDING_PREFIX):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        real(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    for seed in (1, 2):
        assert load(write_model(tmp_path / f"{seed}.onnx", seed), cache).run(images()).shape == (
            5,
            CLASSES,
        )
    assert caplog.text.count("without the graph cache") == 1
    assert BUILDING_PREFIX not in caplog.text


def test_a_graph_with_other_outputs_is_not_kept(
    cache: GraphCache,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The model runs without the cache, and a warning is logged."""
    other = write_model(tmp_path / "other.onnx", seed=1)
    real = graph_cache._reopen
    monkeypatch.setattr(graph_cache, "_reopen", lambda _, settings: real(other, settings))
    assert load(model, cache).run(images()).tobytes() == load(model, None).run(images()).tobytes()
    assert entries(tmp_path) == []
    assert "other outputs" in caplog.text


def test_each_file_has_one_entry_for_all_numbers_of_threads(
    cache: GraphCache, model: Path, tmp_path: Path
) -> None:
    """Sessions with one thread and with several map the same weights."""
    load(model, cache)
    load(model, cache, threads=2)
    load(write_model(tmp_path / "model.onnx", seed=1), cache)
    assert len(entries(tmp_path)) == 2


def test_the_key_depends_on_file_runtime_and_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another ONNX Runtime or processor does not use this entry."""
    keys = {key_of("a" * 64), key_of("b" * 64)}
    monkeypatch.setattr(graph_cache.onnxruntime, "__version__", "0.0.1")
    keys.add(key_of("a" * 64))
    monkeypatch.setattr(graph_cache, "cpu_description", lambda: "another")
    keys.add(key_of("a" * 64))
    assert len(keys) == 4


def test_a_processor_is_identified_by_its_flags(tmp_path: Path) -> None:
    """The same name with other flags is another processor. Without a list there is a default."""
    texts = [
        "processor : 0\nmodel name : one\nflags : sse avx2\n\nprocessor : 1\n",
        "processor : 0\nmodel name : one\nflags : sse\n\n",
    ]
    found = set()
    for number, text in enumerate(texts):
        (tmp_path / str(number)).write_text(text)
        found.add(cpu_description(tmp_path / str(number)))
    assert len(found) == 2
    assert cpu_description(tmp_path / "nowhere")


def test_the_entry_used_longest_ago_is_deleted_first(model: Path, tmp_path: Path) -> None:
    """Using an entry again keeps it."""
    load(model, GraphCache(tmp_path / "cache", PLENTY))
    (first,) = entries(tmp_path)
    size = sum(path.stat().st_size for path in first.iterdir())
    cache = GraphCache(tmp_path / "cache", int(2.5 * size))
    load(write_model(tmp_path / "second.onnx", seed=2), cache)
    (second,) = set(entries(tmp_path)) - {first}
    for age, entry in enumerate([second, first]):
        os.utime(entry / SEAL, (age, age))
        for name in (GRAPH, WEIGHTS):
            os.utime(entry / name, (0, 0))
    load(write_model(tmp_path / "third.onnx", seed=3), cache)
    assert first in entries(tmp_path)
    assert second not in entries(tmp_path)
    assert len(entries(tmp_path)) == 2


def test_a_graph_over_the_limit_deletes_no_other(
    model: Path, cache: GraphCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not kept."""
    load(write_model(tmp_path / "other.onnx", seed=1), cache)
    kept = entries(tmp_path)
    assert load(model, GraphCache(tmp_path / "cache", 1000)).run(images()).shape == (5, CLASSES)
    assert entries(tmp_path) == kept
    assert "limit of 1000" in caplog.text


def test_a_graph_over_the_limit_is_built_at_most_once(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If the model file alone is too large, it is never built."""
    written: list[Path] = []
    seal = graph_cache._seal
    monkeypatch.setattr(
        graph_cache, "_seal", lambda building: written.append(building) or seal(building)
    )
    for bound, expected in ((model.stat().st_size - 1, 0), (model.stat().st_size, 1)):
        cache = GraphCache(tmp_path / "cache", bound)
        for _ in range(3):
            assert load(model, cache).run(images()).shape == (5, CLASSES)
        assert len(written) == expected
        assert entries(tmp_path) == []
    assert caplog.text.count("more than the limit") == 2


def test_the_cache_may_be_deleted_while_it_is_used(
    cache: GraphCache, model: Path, tmp_path: Path
) -> None:
    """Mapped files stay valid, and the next start builds the entry again."""
    load(model, cache)
    session = load(model, cache)
    expected = session.run(images())
    shutil.rmtree(tmp_path / "cache")
    assert session.run(images()).tobytes() == expected.tobytes()
    assert load(model, cache).run(images()).tobytes() == expected.tobytes()
    assert len(entries(tmp_path)) == 1


@pytest.mark.skipif(
    not Path("/proc").is_dir(),
    reason="this system has no /proc, in which not even root can make a file",
)
def test_a_cache_that_cannot_be_written_is_logged_once(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two models load without it."""
    cache = GraphCache(Path("/proc/cache"), PLENTY)
    for path in (model, write_model(tmp_path / "other.onnx", seed=1)):
        assert load(path, cache).run(images()).shape == (5, CLASSES)
    assert caplog.text.count("without the graph cache") == 1


def test_a_cache_that_others_can_write_to_is_not_used(
    cache: GraphCache, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its content could come from anyone."""
    load(model, cache)
    (tmp_path / "cache" / FOLDER).chmod(0o777)
    assert load(model, cache).run(images()).shape == (5, CLASSES)
    assert "others can write to" in caplog.text


def test_an_invalid_model_fails_as_without_the_cache(
    cache: GraphCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is logged, and no entry is left behind."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(ModelRunError, match=r"model\.onnx"):
        load(path, cache)
    assert entries(tmp_path) == []
    assert caplog.text == ""


def test_leftovers_of_killed_processes_are_deleted(
    cache: GraphCache, model: Path, tmp_path: Path
) -> None:
    """A directory that a running process is building stays."""
    load(model, cache)
    dead, alive = (
        tmp_path / "cache" / FOLDER / f"{BUILDING_PREFIX}{name}" for name in ("dead", "alive")
    )
    for folder in (dead, alive):
        folder.mkdir()
        (folder / GRAPH).write_bytes(b"half")
    lock = DirectoryLock(alive)
    load(write_model(tmp_path / "other.onnx", seed=1), cache)
    assert not dead.exists()
    assert alive.exists()
    lock.release()


def test_concurrent_processes_leave_one_entry(model: Path, tmp_path: Path) -> None:
    """All have the same outputs, and nothing unfinished stays."""
    code = """if True:
        import sys
        from pathlib import Path
        from test_graph_cache import PLENTY, GraphCache, images, load
        session = load(Path(sys.argv[1]), GraphCache(Path(sys.argv[2]), PLENTY))
        print(session.run(images()).tobytes().hex(), end="")
    """
    command = [sys.executable, "-c", code, model, tmp_path / "cache"]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(str(Path(__file__).parents[up]) for up in range(3))
    }
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(4)
    ]
    answers = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0] * 4
    assert answers == {load(model, None).run(images()).tobytes().hex()}
    assert len(entries(tmp_path)) == 1


def test_two_processes_that_build_an_entry_map_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slower process uses the entry of the faster one, so that they share its memory."""
    path = BUILTIN_ROOT / BUILTIN_DEFAULT_MODEL / "1/model.onnx"
    check = graph_cache._check_identical
    options = SessionOptions(graphs=GraphCache(tmp_path / "cache", PLENTY))
    model_input = Input(height=32, width=32)

    def open_session() -> Session:
        return Session(path, model_input, Outputs(), options, sha256_of(path))

    def build_meanwhile(*built: onnxruntime.InferenceSession) -> None:
        monkeypatch.setattr(graph_cache, "_check_identical", check)
        sessions.append(open_session())
        check(*built)

    sessions: list[Session] = []
    monkeypatch.setattr(graph_cache, "_check_identical", build_meanwhile)
    sessions.append(open_session())
    maps = Path("/proc/self/maps").read_text().splitlines()
    mapped = {line.split(maxsplit=5)[5] for line in maps if str(tmp_path) in line}
    (entry,) = entries(tmp_path)
    assert mapped == {str(entry / WEIGHTS)}
