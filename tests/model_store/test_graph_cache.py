"""The cache of optimised graphs: the same answers with it, bit for bit, and no harm where it is damaged, full or not ours."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
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
from model_store.session import Session, SessionOptions, _settings
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
    )  # enough to lie in a file of their own
    path.write_bytes(tiny_model_bytes(SIDE, SIDE, weights))
    return path


def load(path: Path, cache: GraphCache | None, threads: int = 1) -> Session:
    options = SessionOptions(graphs=cache, intra_op_num_threads=threads)
    return Session(path, INPUT, Outputs(), options, sha256_of(path))


def entries(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / FOLDER).iterdir())


def images(side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (5, side, side, 3), np.uint8)


def test_the_built_in_model_answers_bitwise_alike(cache: GraphCache) -> None:
    """A residual network gives the same bits without the cache, when its graph is made, and when it is found."""
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


def test_what_was_made_once_is_found(
    cache: GraphCache, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second start makes nothing anew, nor does another process's; an entry has the graph, its weights and their digests."""
    expected = load(model, None).run(images())
    load(model, cache)
    (entry,) = entries(tmp_path)
    assert sorted(path.name for path in entry.iterdir()) == [SEAL, WEIGHTS, GRAPH]
    monkeypatch.setattr(GraphCache, "_build", lambda *_: pytest.fail("made again"))
    for again in (cache, GraphCache(tmp_path / "cache", PLENTY)):
        assert load(model, again).run(images()).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", [GRAPH, WEIGHTS, SEAL])
@pytest.mark.parametrize("damage", ["flip", "cut", "delete", "empty"])
def test_a_damaged_entry_is_made_anew(
    name: str,
    damage: str,
    cache: GraphCache,
    model: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One flipped bit, a torn write or a lost file: said once, and the answers are right at that start and at the next."""
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
    assert caplog.text.count("is damaged and is made anew") == 1
    assert len(entries(tmp_path)) == 1


@pytest.mark.parametrize("listed", [[], [GRAPH]])
def test_a_seal_that_does_not_list_its_files_seals_nothing(
    listed: list[str],
    cache: GraphCache,
    model: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever lies beside it could be anything; the entry is made anew."""
    load(model, cache)
    seal = entries(tmp_path)[0] / SEAL
    sealed = json.loads(seal.read_bytes())
    seal.write_text(
        json.dumps(sealed | {"files": [file for file in sealed["files"] if file["path"] in listed]})
    )
    for _ in range(2):
        load(model, cache)
    assert caplog.text.count("is damaged and is made anew") == 1
    assert json.loads(seal.read_bytes()) == sealed


def test_an_entry_that_is_read_only_is_used(
    cache: GraphCache,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A cache that came with an image has its entries taken as they are, with nothing to warn of."""
    load(model, cache)

    def read_only(path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(host_cache.os, "utime", read_only)
    monkeypatch.setattr(GraphCache, "_build", lambda *_: pytest.fail("made again"))
    assert load(model, cache).run(images()).shape == (5, CLASSES)
    assert caplog.text == ""


def test_a_cache_that_became_read_only_is_said_once(
    cache: GraphCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each attempt has a directory with another name, and the log one line all the same."""
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
    assert caplog.text.count("without the cache") == 1
    assert BUILDING_PREFIX not in caplog.text


def test_a_graph_that_answers_otherwise_is_not_kept(
    cache: GraphCache,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Should ONNX Runtime write another graph than it runs, the model serves without the cache and the log says so."""
    other = write_model(tmp_path / "other.onnx", seed=1)
    real = graph_cache._reopen
    monkeypatch.setattr(graph_cache, "_reopen", lambda _, settings: real(other, settings))
    assert load(model, cache).run(images()).tobytes() == load(model, None).run(images()).tobytes()
    assert entries(tmp_path) == []
    assert "answers otherwise once it was written and read" in caplog.text


def test_entries_are_told_apart(cache: GraphCache, model: Path, tmp_path: Path) -> None:
    """Another model file, or another number of threads, has an entry of its own."""
    load(model, cache)
    load(model, cache, threads=2)
    load(write_model(tmp_path / "model.onnx", seed=1), cache)
    assert len(entries(tmp_path)) == 3


def test_the_key_has_all_that_a_graph_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another ONNX Runtime, or another processor, does not take what this one has made."""
    settings = _settings(SessionOptions())
    keys = {key_of("a" * 64, settings), key_of("b" * 64, settings)}
    monkeypatch.setattr(graph_cache.onnxruntime, "__version__", "0.0.1")
    keys.add(key_of("a" * 64, settings))
    monkeypatch.setattr(graph_cache, "cpu_description", lambda: "another")
    keys.add(key_of("a" * 64, settings))
    assert len(keys) == 4


def test_a_processor_is_known_by_its_flags(tmp_path: Path) -> None:
    """Two machines with the same name and other flags are two; where the system lists none, there is still an answer."""
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


def test_the_one_unused_longest_goes_first(model: Path, tmp_path: Path) -> None:
    """Beyond the bound room is made for the newest, and what was used since it was made stays."""
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


def test_a_graph_larger_than_the_bound_takes_no_one_s_place(
    model: Path, cache: GraphCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What does not fit is not kept, and what is there stays."""
    load(write_model(tmp_path / "other.onnx", seed=1), cache)
    kept = entries(tmp_path)
    assert load(model, GraphCache(tmp_path / "cache", 1000)).run(images()).shape == (5, CLASSES)
    assert entries(tmp_path) == kept
    assert "allowed are 1000" in caplog.text


def test_a_graph_larger_than_the_bound_is_not_made_again_and_again(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One whose file is too large is never written; one that turns out to be is written once in the life of a process."""
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
    assert caplog.text.count(" bytes, allowed are ") == 2


def test_it_may_be_deleted_while_it_is_used(cache: GraphCache, model: Path, tmp_path: Path) -> None:
    """A session goes on with what it has mapped, and the next start begins anew."""
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
def test_a_cache_that_can_not_be_written_is_said_once(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two models load without it, and the log has one line."""
    cache = GraphCache(Path("/proc/cache"), PLENTY)
    for path in (model, write_model(tmp_path / "other.onnx", seed=1)):
        assert load(path, cache).run(images()).shape == (5, CLASSES)
    assert caplog.text.count("without the cache") == 1


def test_a_cache_that_others_can_write_is_not_used(
    cache: GraphCache, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is run from there could be anyone's."""
    load(model, cache)
    (tmp_path / "cache" / FOLDER).chmod(0o777)
    assert load(model, cache).run(images()).shape == (5, CLASSES)
    assert "others can write to" in caplog.text


def test_a_bad_model_is_the_model_s_fault(
    cache: GraphCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that is no model fails as it does without the cache, which is neither blamed nor left with rubbish."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(ModelRunError, match=r"can not load model\.onnx"):
        load(path, cache)
    assert entries(tmp_path) == []
    assert caplog.text == ""


def test_what_a_killed_process_has_left_goes(
    cache: GraphCache, model: Path, tmp_path: Path
) -> None:
    """The half-made directory of a process that is gone is deleted; that of one that is at work is not."""
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


def test_processes_that_start_at_once_leave_one_entry(model: Path, tmp_path: Path) -> None:
    """Four processes race for the same graph: all answer alike, one entry is kept, and no half-made one stays."""
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
