"""From the words of a setting to execution providers, or to what must be installed."""

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from model_store import golden, providers
from model_store.errors import ProviderError
from model_store.host_cache import open_host_cache
from model_store.providers import (
    COREML,
    CPU,
    CUDA,
    INSTALL,
    OPENVINO,
    TENSORRT,
    batch_sizes,
    count_devices,
    default_batch_size,
    default_instances,
    engines_of,
    find_providers,
    keeps_engines,
    known_words,
    parse_providers,
    provider_options,
)
from model_store.session import Session, SessionOptions
from model_store.store import BUILTIN_DEFAULT_MODEL, BUILTIN_ROOT, ModelStore

AVAILABLE = onnxruntime.get_available_providers()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("auto", ()),
        ("Auto", ()),
        ("cpu", (CPU,)),
        ("CPUExecutionProvider", (CPU,)),
        ("tensorrt, CUDA ,cpu", (TENSORRT, CUDA, CPU)),
        ("openvino,openvino,cpu", (OPENVINO, CPU)),
    ],
)
def test_words_are_onnx_runtimes_names(text: str, names: tuple[str, ...]) -> None:
    """With or without the suffix, in any case, in the order given, each once."""
    assert parse_providers(text) == names


@pytest.mark.parametrize(
    "text", ["", "gpu", "cuda,", "auto,cpu", "ExecutionProvider", "cpu;cuda", "x" * 10_000]
)
def test_other_words_are_refused_with_those_there_are(text: str) -> None:
    """A word that means nothing is an error that is short and lists the others."""
    with pytest.raises(
        ValueError, match=r"is no execution provider; there are auto, .*cpu, cuda"
    ) as caught:
        parse_providers(text)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("text", ["azure", "AzureExecutionProvider", "azure,cpu"])
def test_what_runs_no_model_is_refused_by_name(text: str) -> None:
    """ONNX Runtime lists it among its own, starts it, and runs everything on the CPU."""
    with pytest.raises(
        ValueError, match="azure runs operators of its own at an endpoint and no model here"
    ):
        parse_providers(text)
    assert "azure" not in known_words()


def test_nothing_stands_behind_the_cpu() -> None:
    """It would be asked for by name and never be used."""
    with pytest.raises(ValueError, match="name it last"):
        parse_providers("cpu,cuda")


def test_what_is_compiled_of_two_files_is_kept_apart(tmp_path: Path) -> None:
    """Two versions of one architecture have the same graph; the second must not be given the first one's engine."""
    one, other = (engines_of(tmp_path, digest * 64) for digest in "ab")
    assert one
    assert one != other
    assert one == engines_of(tmp_path, "a" * 64)
    assert one.stat().st_mode & 0o777 == 0o700


def test_cache_of_what_is_compiled_may_be_deleted_meanwhile(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is made again; where it can not be, nothing is kept, and the model loads all the same."""
    root = tmp_path / "cache"
    engines = open_host_cache(root, "engines")
    assert engines_of(engines, "a" * 64)
    shutil.rmtree(root)
    assert engines_of(engines, "a" * 64)
    shutil.rmtree(root)
    root.write_text("a file")
    assert engines_of(engines, "a" * 64) is None
    assert "what is compiled here is not kept" in caplog.text


def test_every_provider_of_this_onnx_runtime_is_a_word() -> None:
    """Whatever it was built with can be named."""
    for word in known_words()[1:]:
        assert len(parse_providers(word)) == 1


@pytest.mark.parametrize("name", sorted({CUDA, TENSORRT, OPENVINO, COREML} - set(AVAILABLE)))
def test_one_that_is_not_installed_says_what_to_install(name: str) -> None:
    """Named alone, or before one that is there: it is never left out silently."""
    word = name.removesuffix("ExecutionProvider").lower()
    for text in (word, f"{word},cpu"):
        with pytest.raises(ProviderError) as caught:
            find_providers(text)
        assert f"has no {name} (it has {', '.join(AVAILABLE)})" in str(caught.value)
        assert INSTALL[name] in str(caught.value)


@pytest.mark.skipif(
    CUDA not in AVAILABLE or Path("/proc/driver/nvidia").exists(),
    reason="needs onnxruntime-gpu and no GPU",
)
@pytest.mark.parametrize("word", ["cuda", "tensorrt"])
def test_one_that_is_installed_and_does_not_start_is_an_error(word: str) -> None:
    """onnxruntime-gpu on a machine without a GPU: ONNX Runtime itself would go on with the CPU."""
    with pytest.raises(ProviderError, match=r"does not start here: .* It needs: pip install"):
        find_providers(word)


def test_a_provider_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is in the message; `auto` goes on with the CPU instead, and says so."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(providers, "_why_not", lambda _: "no such device")
    with pytest.raises(
        ProviderError,
        match=r"CUDAExecutionProvider does not start here: no such device\. It needs: pip install",
    ):
        find_providers("cuda")
    assert find_providers("auto") == (CPU,)


def test_the_cpu_stands_behind_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a provider can not run, the next one runs; TensorRT has CUDA behind it without being told."""
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, OPENVINO, CPU]
    )
    monkeypatch.setattr(providers, "_why_not", lambda _: None)
    assert find_providers("auto") == (CUDA, CPU)
    assert find_providers("tensorrt") == (TENSORRT, CUDA, CPU)
    assert find_providers("openvino,cpu") == (OPENVINO, CPU)
    assert find_providers("cpu") == (CPU,)


def test_the_probe_tells_what_runs() -> None:
    """The smallest model runs on the CPU here, and a provider that this ONNX Runtime does not have gives a reason."""
    assert providers._why_not(CPU) is None
    assert providers._why_not("MadeUpExecutionProvider")


@pytest.mark.parametrize(
    ("first", "most", "sizes"),
    [
        (CPU, 32, ()),
        (OPENVINO, 32, ()),
        (CUDA, 32, (1, 2, 4, 8, 16, 32)),
        (TENSORRT, 48, (1, 2, 4, 8, 16, 32, 48)),
        (COREML, 1, (1,)),
    ],
)
def test_batches_have_few_sizes_where_they_matter(
    first: str, most: int, sizes: tuple[int, ...]
) -> None:
    """Powers of two up to the bound itself, for providers that compile or choose by shape."""
    assert batch_sizes((first, CPU), most) == sizes


def test_a_gpu_s_arena_is_bounded(tmp_path: Path) -> None:
    """CUDA takes the device and the bound and grows by what is asked; TensorRT keeps its engines on disk."""
    given = {
        "device": 1,
        "threads": 1,
        "concurrent_runs": 2,
        "memory_bytes": 2**30,
        "engines": tmp_path,
    }
    cuda = provider_options(CUDA, **given)  # type: ignore[arg-type]
    assert (cuda["device_id"], cuda["gpu_mem_limit"], cuda["arena_extend_strategy"]) == (
        "1",
        str(2**30),
        "kSameAsRequested",
    )
    tensorrt = provider_options(TENSORRT, **given)  # type: ignore[arg-type]
    assert (tensorrt["device_id"], tensorrt["trt_max_workspace_size"]) == ("1", str(2**30))
    assert tensorrt["trt_engine_cache_path"] == str(tmp_path)
    assert provider_options(CPU, **given) == {}  # type: ignore[arg-type]


def test_without_a_directory_nothing_is_kept() -> None:
    """Where the cache can not be used the providers compile at every start."""
    for name in (TENSORRT, OPENVINO, COREML):
        options = provider_options(
            name, device=0, threads=1, concurrent_runs=1, memory_bytes=1, engines=None
        )
        assert not [key for key in options if "cache" in key.lower()]


def test_openvino_has_a_stream_a_run() -> None:
    """Its threads are shared by all runs, so it is told how many there are, and to compute in the precision that was proven."""
    options = provider_options(
        OPENVINO, device=0, threads=2, concurrent_runs=3, memory_bytes=1, engines=None
    )
    assert (options["num_streams"], options["num_of_threads"], options["precision"]) == (
        "3",
        "6",
        "FP32",
    )


@pytest.mark.skipif(OPENVINO not in AVAILABLE, reason="needs onnxruntime-openvino")
def test_openvino_holds_the_golden_proof(tmp_path: Path) -> None:
    """The built-in model is proven on it, in all sizes, and the second load takes what the first has compiled."""
    options = SessionOptions(
        providers=find_providers("openvino"), engines=tmp_path, concurrent_runs=2
    )
    with ModelStore(BUILTIN_ROOT, None).open(BUILTIN_DEFAULT_MODEL, 1) as version:
        manifest = version.manifest
        plain = Session(version.path("model.onnx"), manifest.input, manifest.outputs)
        for _ in range(2):
            session = Session(
                version.path("model.onnx"), manifest.input, manifest.outputs, options, "a" * 64
            )
            golden.prove(version, session)
            for size in (1, 3, 8):
                images = np.random.default_rng(size).integers(0, 256, (size, 32, 32, 3), np.uint8)
                np.testing.assert_allclose(session.run(images), plain.run(images), atol=1e-4)
            assert len(list((engines_of(tmp_path, "a" * 64) or tmp_path).iterdir())) == 1


def test_one_run_a_cpu_and_two_a_gpu() -> None:
    """Instances by what computes; only some providers have something to keep."""
    assert default_instances((CPU,), cpus=6) == 6
    assert default_instances((CUDA, CPU), cpus=6) == 2 * count_devices((CUDA, CPU))
    assert (default_batch_size((CPU,)), default_batch_size((CUDA, CPU))) == (16, 32)
    assert keeps_engines((OPENVINO, CPU))
    assert not keeps_engines((CUDA, CPU))
