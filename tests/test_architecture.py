"""The direction of imports: service -> model_store <- training, and no torch on the serving side."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WEB = {"fastapi", "starlette", "uvicorn", "httptools", "uvloop"}
LEARNING = {"torch", "torchvision", "onnx", "onnxscript", "onnx_ir", "sklearn", "safetensors", "rich"}
FORBIDDEN = {
    "model_store": {"service", "training"} | WEB | LEARNING,
    "service": {"training"} | LEARNING,
    "training": {"service"} | WEB,
}


def imported_packages(source: str) -> set[str]:
    """Top-level packages of every import statement, inside functions too."""
    packages = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            packages.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            assert name not in {"__import__", "import_module"}, "no import may hide from this test"
    return packages


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


def test_the_walk_sees_imports_inside_functions() -> None:
    """The test above would notice an import that hides in a function."""
    assert imported_packages("def f():\n    from torch import nn\n    import rich.table") == {"torch", "rich"}


@pytest.mark.parametrize("module", ["service.app", "model_store.__main__"])
def test_importing_the_serving_side_loads_nothing_of_training(module: str) -> None:
    """Not even through a third package does the service load torch, although it is installed here."""
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}} & {LEARNING | {'training'}!r}))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []
