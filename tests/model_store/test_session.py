"""Sessions on a real ONNX model, and the arithmetic from scores to probabilities."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Timer
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from slow_model import slow_model_bytes
from store_factory import WEIGHTS
from tiny_model import DOUBLE, FLOAT, INT64, STRING, tiny_model_bytes

from model_store.errors import ModelRunError
from model_store.manifest import Input, Outputs
from model_store.providers import CUDA
from model_store.session import (
    RunControl,
    Session,
    SessionOptions,
    _first_line,
    probabilities,
)

HEIGHT, WIDTH = 4, 6
INPUT = Input(height=HEIGHT, width=WIDTH)
THREADS = 8
RUNS = 20

Load = Callable[..., Session]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Write a tiny model, with what is to be odd about it, and load it."""

    def load(
        outputs: Outputs | None = None, options: SessionOptions | None = None, **oddities: Any
    ) -> Session:
        path = tmp_path / "model.onnx"
        size: dict[str, Any] = {"height": HEIGHT, "width": WIDTH, "weights": WEIGHTS} | oddities
        path.write_bytes(tiny_model_bytes(**size))
        return Session(path, INPUT, outputs or Outputs(), options)

    return load


def batch(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, HEIGHT, WIDTH, 3), dtype=np.uint8)


def expected_logits(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1, 3).mean(axis=1) @ WEIGHTS


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_a_batch_of_any_size_runs(size: int, load: Load) -> None:
    """A session gives float32 logits, one row for each image, in their order."""
    logits = load().run(batch(size))
    assert logits.dtype == np.float32
    assert logits.shape == (size, 3)
    np.testing.assert_allclose(logits, expected_logits(batch(size)), rtol=1e-5)


def test_the_answer_does_not_depend_on_the_batch(load: Load) -> None:
    """An image alone and the same image among others give the same logits."""
    session, images = load(), batch(5)
    together = session.run(images)
    alone = np.concatenate([session.run(images[place : place + 1]) for place in range(5)])
    np.testing.assert_allclose(together, alone, rtol=1e-6)


def test_the_feature_map_comes_with_the_logits(load: Load) -> None:
    """A model that says so gives its last feature map too; one that does not refuses to."""
    images = batch(2)
    logits, features = load(Outputs(features="features"), features=True).run_with_features(images)
    np.testing.assert_allclose(logits, expected_logits(images), rtol=1e-5)
    np.testing.assert_array_equal(features, images.transpose(0, 3, 1, 2).astype(np.float32))
    with pytest.raises(ModelRunError, match="feature map"):
        load(features=True).run_with_features(images)


def test_the_embedding_comes_with_the_logits(load: Load) -> None:
    """A model that says so gives the pooled features too; one that does not refuses to."""
    images = batch(2)
    session = load(Outputs(embedding="embedding"), embedding=True)
    logits, embeddings = session.run_with_embedding(images)
    np.testing.assert_array_equal(logits, session.run(images))
    np.testing.assert_allclose(embeddings, images.reshape(2, -1, 3).mean(axis=1), rtol=1e-5)
    assert session.embedding_dims == 3
    without = load(embedding=True)
    assert without.embedding_dims is None
    with pytest.raises(ModelRunError, match="no embedding"):
        without.run_with_embedding(images)


@pytest.mark.parametrize(
    ("oddity", "shown"),
    [
        ({"input_name": "pixels"}, "pixels: tensor(uint8)"),
        ({"input_type": FLOAT}, "images: tensor(float)"),
        ({"height": HEIGHT + 1}, "['batch', 5, 6, 3]"),
        ({"width": WIDTH + 1}, "['batch', 4, 7, 3]"),
        ({"height": WIDTH, "width": HEIGHT}, "['batch', 6, 4, 3]"),
        ({"batch": 1}, "[1, 4, 6, 3]"),
    ],
    ids=str,
)
def test_a_model_with_another_input_is_refused(
    oddity: dict[str, Any], shown: str, load: Load
) -> None:
    """Another name, dtype or shape, or a fixed batch; the error shows the actual input."""
    with pytest.raises(
        ModelRunError, match=r"images: tensor\(uint8\) \[batch, 4, 6, 3\]"
    ) as caught:
        load(**oddity)
    assert shown in str(caught.value)


@pytest.mark.parametrize(
    "outputs", [Outputs(logits="scores"), Outputs(features="features")], ids=str
)
def test_a_model_without_the_promised_outputs_is_refused(outputs: Outputs, load: Load) -> None:
    """The error lists the outputs of the model."""
    with pytest.raises(ModelRunError, match=r"it has \['logits'\]"):
        load(outputs)


@pytest.mark.parametrize(
    ("oddity", "shown"),
    [
        ({"logits_type": STRING}, "tensor(string)"),
        ({"logits_type": INT64}, "tensor(int64)"),
        ({"logits_type": DOUBLE}, "tensor(double)"),
        ({"logits_rank": 1}, "['batch']"),
    ],
    ids=str,
)
def test_a_model_with_other_logits_is_refused(
    oddity: dict[str, Any], shown: str, load: Load
) -> None:
    """Logits are float32 with two dimensions, which the file declares before it runs."""
    with pytest.raises(ModelRunError, match="logits") as caught:
        load(**oddity)
    assert shown in str(caught.value)


@pytest.mark.parametrize("folder", ["plain", "with a space"])
def test_messages_of_the_runtime_hold_no_absolute_path(tmp_path: Path, folder: str) -> None:
    """Clients see the reason: file names stay, directories of this machine do not."""
    path = tmp_path / folder / "model.onnx"
    path.parent.mkdir()
    texts = [
        f"{path} failed: {path.parent}/weights/w.bin of node '/layer1/conv/Conv'",
        f"[{Path('/etc/ssl/x.cc')}:12] and /onnxruntime_src/onnxruntime/core/graph.cc:7 gone",
    ]
    lines = [_first_line(RuntimeError(text + "\nsecond line"), path) for text in texts]
    assert lines[0] in {
        "model.onnx failed: weights/w.bin of node '/layer1/conv/Conv'",
        "model.onnx failed: w.bin of node '/layer1/conv/Conv'",
    }
    assert lines[1] == "[x.cc:12] and graph.cc:7 gone"
    with pytest.raises(ModelRunError) as caught:
        Session(path, INPUT, Outputs())
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"", b"garbage", bytes(100), tiny_model_bytes(HEIGHT, WIDTH, WEIGHTS)[:-40]]
)
def test_a_file_that_is_no_model_is_refused(data: bytes, tmp_path: Path) -> None:
    """A file that ONNX Runtime can not load is a ModelRunError that names it, in one line."""
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(
        ModelRunError, match=r"^ONNX Runtime cannot load model\.onnx: .*$"
    ) as caught:
        Session(tmp_path / "model.onnx", INPUT, Outputs())
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """A model file that is not there is a ModelRunError too."""
    with pytest.raises(ModelRunError, match=r"missing\.onnx"):
        Session(tmp_path / "missing.onnx", INPUT, Outputs())


def test_an_unknown_provider_is_refused(load: Load) -> None:
    """The CPU never replaces it silently."""
    with pytest.raises(ModelRunError, match=r"MadeUpProvider.*CPUExecutionProvider"):
        load(options=SessionOptions(providers=("MadeUpProvider", "CPUExecutionProvider")))


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_start_is_not_replaced_by_the_cpu(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime itself would continue on the CPU."""
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"]
    )
    with pytest.raises(
        ModelRunError, match="CPUExecutionProvider instead of CUDAExecutionProvider"
    ):
        load(options=SessionOptions(providers=(CUDA, "CPUExecutionProvider")))


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, HEIGHT, WIDTH, 3), np.float32),
        np.zeros((1, HEIGHT, WIDTH + 1, 3), np.uint8),
        np.zeros((HEIGHT, WIDTH, 3), np.uint8),
    ],
    ids=lambda images: f"{images.dtype} {images.shape}",
)
def test_a_batch_that_does_not_fit_is_refused(images: np.ndarray, load: Load) -> None:
    """The error shows the shape, and the session stays usable."""
    session = load()
    with pytest.raises(ModelRunError, match="batch of shape"):
        session.run(images)
    assert session.run(batch(1)).shape == (1, 3)


@pytest.mark.parametrize(
    "options",
    [SessionOptions(), SessionOptions(intra_op_num_threads=2, allow_spinning=True)],
    ids=str,
)
def test_concurrent_runs_give_the_same_answers(options: SessionOptions, load: Load) -> None:
    """Several threads that run one session at once each get the answers to their own images."""
    session = load(options=options)
    start = Barrier(THREADS)

    def run(thread: int) -> None:
        start.wait()
        for step in range(RUNS):
            images = batch(1 + step % 4, seed=thread * RUNS + step)
            np.testing.assert_allclose(session.run(images), expected_logits(images), rtol=1e-5)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(run, range(THREADS)))


SCORES = st.lists(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=3, max_size=3),
    min_size=1,
    max_size=4,
)


@given(scores=SCORES, temperature=st.floats(0.1, 10))
def test_probabilities_sum_to_one(scores: list[list[float]], temperature: float) -> None:
    """They are finite, sum to 1, and keep the order of the logits."""
    logits = np.array(scores, dtype=np.float32)
    found = probabilities(logits, Outputs(), temperature)
    assert found.dtype == np.float32
    assert found.shape == logits.shape
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-5)
    assert (
        np.take_along_axis(found, logits.argmax(axis=-1)[:, np.newaxis], axis=-1)[:, 0]
        == found.max(axis=-1)
    ).all()


@pytest.mark.parametrize("extreme", [3e38, -3e38, 1e5, -1e5, 0.0])
def test_extreme_logits_do_not_overflow(extreme: float) -> None:
    """The largest logits that float32 holds give 0 and 1, not NaN, and raise no warning."""
    logits = np.array([[extreme, 0, 0], [extreme, extreme, extreme]], dtype=np.float32)
    found = probabilities(logits, Outputs())
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[1], 1 / 3, rtol=1e-6)


def test_a_temperature_flattens() -> None:
    """A higher temperature lowers the confidence."""
    logits = np.array([[2.0, 1.0, 0.0]], dtype=np.float32)
    for temperature in (0.5, 1.0, 4.0):
        weights = np.exp(np.array([2.0, 1.0, 0.0]) / temperature)
        np.testing.assert_allclose(
            probabilities(logits, Outputs(), temperature)[0], weights / weights.sum(), rtol=1e-5
        )


def test_a_models_own_probabilities_are_passed_on() -> None:
    """At any temperature."""
    own = np.array([[0.2, 0.3, 0.5]], dtype=np.float32)
    np.testing.assert_array_equal(probabilities(own, Outputs(kind="probabilities"), 3.0), own)


def test_batches_are_padded_to_the_sizes_that_are_known(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outputs are those of the given images; larger batches run unpadded."""
    session, ran = load(options=SessionOptions(batch_sizes=(4, 1, 2))), []
    inner = session._session

    class Recorded:
        def run(
            self, names: list[str], feed: dict[str, np.ndarray], options: object
        ) -> list[np.ndarray]:
            ran.append(len(feed["images"]))
            return list(inner.run(names, feed, options))

    monkeypatch.setattr(session, "_session", Recorded())
    for size in (1, 2, 3, 4, 5):
        logits = session.run(batch(size))
        assert logits.shape == (size, 3)
        np.testing.assert_allclose(logits, expected_logits(batch(size)), rtol=1e-5)
    assert ran == [1, 2, 4, 4, 5]


def test_a_bound_run_gives_the_same(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of GPUs, with bound inputs and outputs, here in CPU memory."""
    outputs = Outputs(features="features")
    plain = load(outputs, features=True).run_with_features(batch(3))
    session = load(outputs, SessionOptions(batch_sizes=(8,)), features=True)
    monkeypatch.setattr(session, "_device", ("cpu", 0))
    for found, expected in zip(session.run_with_features(batch(3)), plain, strict=True):
        np.testing.assert_array_equal(found, expected)
    flipped = batch(3)[:, :, ::-1]  # not contiguous
    np.testing.assert_array_equal(session.run(flipped), load().run(flipped))
    with pytest.raises(ModelRunError, match="batch of shape"):
        session.run(np.zeros((1, HEIGHT, WIDTH + 1, 3), np.uint8))


def test_a_run_is_ended_from_another_thread(tmp_path: Path) -> None:
    """A run of years ends with ModelRunError, and the session stays usable."""
    path = tmp_path / "model.onnx"
    path.write_bytes(slow_model_bytes(HEIGHT, WIDTH, WEIGHTS))
    session, control = Session(path, INPUT, Outputs()), RunControl()
    Timer(0.1, control.terminate).start()
    with pytest.raises(ModelRunError, match="terminate"):
        session.run(np.full((2, HEIGHT, WIDTH, 3), 255, np.uint8), control)
    np.testing.assert_allclose(
        session.run(batch(2), RunControl()), expected_logits(batch(2)), rtol=1e-5
    )


def test_memory_is_given_back_without_a_change_to_answers(load: Load) -> None:
    """So do the runs after it."""
    session, control = load(), RunControl(release_memory=True)
    for _ in range(2):
        assert session.run(batch(64), control).tobytes() == session.run(batch(64)).tobytes()
