"""Execution providers: parsing the setting, checking that they start, and their options."""

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
    engine_directory,
    find_providers,
    keeps_engines,
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
def test_names_are_parsed_to_those_of_onnx_runtime(text: str, names: tuple[str, ...]) -> None:
    """With or without the suffix, in any case, in order, each once."""
    assert parse_providers(text) == names


@pytest.mark.parametrize(
    "text",
    ["", "gpu", "cuda,", "auto,cpu", "ExecutionProvider", "cpu;cuda", "azure", "x" * 10_000],
)
def test_unknown_names_are_rejected_with_the_known_ones(text: str) -> None:
    """The message stays short. Azure is unknown, because it runs no model itself."""
    with pytest.raises(ValueError, match=r"auto, .*cpu, cuda") as caught:
        parse_providers(text)
    assert len(str(caught.value)) < 500
    assert ", azure" not in str(caught.value)


def test_the_cpu_must_be_last() -> None:
    """A provider after it would never be used."""
    with pytest.raises(ValueError, match="last"):
        parse_providers("cpu,cuda")


def test_each_model_file_has_its_own_engine_directory(tmp_path: Path) -> None:
    """Two versions of one architecture have the same graph and other weights."""
    one, other = (engine_directory(tmp_path, digest * 64) for digest in "ab")
    assert one
    assert one != other
    assert one == engine_directory(tmp_path, "a" * 64)
    assert one.stat().st_mode & 0o777 == 0o700


def test_the_engine_directory_may_be_deleted_while_the_service_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is created again. If that fails, engines are not kept and a warning is logged."""
    root = tmp_path / "cache"
    engines = open_host_cache(root, "engines")
    assert engine_directory(engines, "a" * 64)
    shutil.rmtree(root)
    assert engine_directory(engines, "a" * 64)
    shutil.rmtree(root)
    root.write_text("a file")
    assert engine_directory(engines, "a" * 64) is None
    assert len(caplog.records) == 1


@pytest.mark.parametrize("name", sorted({CUDA, TENSORRT, OPENVINO, COREML} - set(AVAILABLE)))
def test_a_missing_provider_names_the_package_to_install(name: str) -> None:
    """It is never left out silently, whether it is named alone or before another."""
    word = name.removesuffix("ExecutionProvider").lower()
    for text in (word, f"{word},cpu"):
        with pytest.raises(ProviderError) as caught:
            find_providers(text)
        assert name in str(caught.value)
        assert ", ".join(AVAILABLE) in str(caught.value)
        assert INSTALL[name] in str(caught.value)


@pytest.mark.skipif(
    CUDA not in AVAILABLE or Path("/proc/driver/nvidia").exists(),
    reason="needs onnxruntime-gpu on a machine without a GPU",
)
@pytest.mark.parametrize("word", ["cuda", "tensorrt"])
def test_an_installed_provider_without_its_device_is_an_error(word: str) -> None:
    """ONNX Runtime itself would use the CPU silently."""
    with pytest.raises(ProviderError, match=r"pip install"):
        find_providers(word)


def test_a_provider_that_does_not_start_is_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The message holds the reason. `auto` uses the CPU instead and logs a warning."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(providers, "_start_error", lambda _: "no such device")
    with pytest.raises(ProviderError, match=r"no such device.*pip install"):
        find_providers("cuda")
    assert caplog.records == []
    assert find_providers("auto") == (CPU,)
    assert len(caplog.records) == 1


def test_the_cpu_comes_last(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It runs what the others cannot. CUDA comes after TensorRT even if it is not named."""
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, OPENVINO, CPU]
    )
    monkeypatch.setattr(providers, "_start_error", lambda _: None)
    assert find_providers("auto") == (CUDA, CPU)
    assert "experimental" in caplog.text
    assert find_providers("tensorrt") == (TENSORRT, CUDA, CPU)
    caplog.clear()
    assert find_providers("openvino,cpu") == (OPENVINO, CPU)
    assert find_providers("cpu") == (CPU,)
    assert caplog.text == ""


def test_the_probe_tells_whether_a_provider_starts() -> None:
    """The CPU does; a provider that does not exist gives a reason."""
    assert providers._start_error(CPU) is None
    assert providers._start_error("MadeUpExecutionProvider")


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
def test_batches_are_padded_to_powers_of_two(first: str, most: int, sizes: tuple[int, ...]) -> None:
    """Only for providers that specialize by shape, and the largest batch is a size too."""
    assert batch_sizes((first, CPU), most) == sizes


def test_gpu_memory_is_limited(tmp_path: Path) -> None:
    """CUDA and TensorRT receive the device and the limit; TensorRT keeps engines on disk."""
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


def test_no_engines_are_kept_without_a_directory() -> None:
    """The providers then compile at each start."""
    for name in (TENSORRT, OPENVINO):
        options = provider_options(
            name, device=0, threads=1, concurrent_runs=1, memory_bytes=1, engines=None
        )
        assert not [key for key in options if "cache" in key.lower()]


def test_openvino_has_one_stream_per_run() -> None:
    """Its threads are shared by all runs, and it computes in fp32 as the proof expects."""
    options = provider_options(
        OPENVINO, device=0, threads=2, concurrent_runs=3, memory_bytes=1, engines=None
    )
    assert (options["num_streams"], options["num_of_threads"], options["precision"]) == (
        "3",
        "6",
        "FP32",
    )


@pytest.mark.skipif(OPENVINO not in AVAILABLE, reason="needs onnxruntime-openvino")
def test_openvino_passes_the_golden_proof(tmp_path: Path) -> None:
    """For several batch sizes, and the second load uses the engine of the first."""
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
            assert len(list((engine_directory(tmp_path, "a" * 64) or tmp_path).iterdir())) == 1


def test_one_run_per_cpu_and_two_per_gpu() -> None:
    """Defaults follow the first provider."""
    assert default_instances((CPU,), cpus=6) == 6
    assert default_instances((CUDA, CPU), cpus=6) == 2 * count_devices((CUDA, CPU))
    assert (default_batch_size((CPU,)), default_batch_size((CUDA, CPU))) == (16, 32)
    assert keeps_engines((OPENVINO, CPU))
    assert not keeps_engines((CUDA, CPU))
