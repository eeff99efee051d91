"""The direction of imports: service -> model_store <- training, and no torch on the serving side."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WEB = {"fastapi", "starlette", "uvicorn", "httptools", "uvloop"}
LEARNING = {"torch", "torchvision", "onnx", "onnxscript", "onnx_ir", "sklearn", "safetensors"}
DRAWING = {"rich", "matplotlib"}
FORBIDDEN = {
    "model_store": {"service", "training"} | WEB | LEARNING | DRAWING,
    "service": {"training"} | LEARNING,
    "training": {"service"} | WEB,
}


LOWER = {
    "training/data": {"training.data", "training.errors"},
    "training/learning": {"training.learning", "training.errors"},
}
"""What these parts of training may import of training: neither each other nor a step of a run."""


def imported_modules(source: str) -> set[str]:
    """What every import statement names, inside functions too."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            modules.add(node.module or "")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            assert name not in {"__import__", "import_module"}, "no import may hide from this test"
    return modules


def imported_packages(source: str) -> set[str]:
    """Top-level packages of them."""
    return {name.split(".")[0] for name in imported_modules(source)}


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_a_package_imports_only_what_its_side_may(package: str) -> None:
    """No module of a package imports, at any depth of its code, what belongs to the other side."""
    modules = sorted((ROOT / package).rglob("*.py"))
    assert len(modules) > 5
    wrong = {
        str(module.relative_to(ROOT)): sorted(found)
        for module in modules
        if (found := imported_packages(module.read_text()) & FORBIDDEN[package])
    }
    assert not wrong


def test_serving_draws_nothing() -> None:
    """Tables and pictures are for the measuring commands alone: the serving image has neither package."""
    drawing = {
        module.relative_to(ROOT / "service").as_posix()
        for module in (ROOT / "service").rglob("*.py")
        if imported_packages(module.read_text()) & DRAWING
    }
    assert drawing == {
        "loadtest/bench_command.py",
        "loadtest/charts.py",
        "loadtest/terminal.py",
        "loadtest/tune_command.py",
    }


@pytest.mark.parametrize(
    ("importing", "imported"),
    [
        ("engine", "http"),
        ("engine", "prediction"),
        ("engine", "versions"),
        ("versions", "http"),
        ("versions", "prediction"),
        ("settings.py", "engine"),
        ("settings.py", "http"),
        ("http/query_params.py", "engine.batcher"),
    ],
)
def test_lower_parts_of_the_service_do_not_import_upper_ones(importing: str, imported: str) -> None:
    """Requests come in through HTTP and prediction, which use the engine, not the reverse."""
    path = ROOT / "service" / importing
    modules = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    wrong = {
        module.name: name
        for module in modules
        for name in imported_modules(module.read_text())
        if f"{name}.".startswith(f"service.{imported}.")
    }
    assert not wrong


def test_serving_imports_no_load_tests() -> None:
    """They are not in the serving image."""
    importing = {
        module.relative_to(ROOT / "service").as_posix()
        for module in (ROOT / "service").rglob("*.py")
        if "loadtest" not in module.parts
        and any(
            name.startswith("service.loadtest") for name in imported_modules(module.read_text())
        )
    }
    assert importing <= {"__main__.py"}


@pytest.mark.parametrize("part", sorted(LOWER))
def test_a_lower_part_of_training_knows_nothing_of_runs(part: str) -> None:
    """Images and learning stand beside each other below the steps."""
    modules = sorted((ROOT / part).rglob("*.py"))
    assert len(modules) > 5
    for module in modules:
        own = {
            name
            for name in imported_modules(module.read_text())
            if name.split(".")[0] == "training"
        }
        assert {".".join(name.split(".")[:2]) for name in own} <= LOWER[part], module


def test_the_walk_sees_imports_inside_functions() -> None:
    """The test above would notice an import that hides in a function."""
    assert imported_packages("def f():\n    from torch import nn\n    import rich.table") == {
        "torch",
        "rich",
    }


@pytest.mark.parametrize("module", ["service.app", "service.__main__", "model_store.__main__"])
def test_importing_the_serving_side_loads_nothing_of_training(module: str) -> None:
    """Not even through a third package does the service load torch, although it is installed here."""
    unwanted = LEARNING | DRAWING | {"training"}
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}} & {unwanted!r}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.split() == []
