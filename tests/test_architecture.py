"""Directions of imports, and one name for one class."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("model_store", "service", "training")
WEB = {"fastapi", "starlette", "uvicorn", "httptools", "uvloop"}
LEARNING = {"torch", "torchvision", "onnx", "onnxscript", "onnx_ir", "sklearn", "safetensors"}
DRAWING = {"rich", "matplotlib"}
FORBIDDEN = {
    "model_store": {"service", "training"} | WEB | LEARNING | DRAWING,
    "service": {"training"} | LEARNING,
    "training": {"service"} | WEB,
}
"""What a package must not import: service -> model_store <- training."""

ALLOWED = {
    "service/host": set(),
    "service/engine": {"errors", "host", "settings"},
    "service/versions": {"engine", "errors", "host", "log_on_change"},
    "service/prediction": {"engine", "errors", "fetch_targets", "host", "tracing", "versions"},
    "service/settings": {"fetch_targets", "key_file", "log_format", "public_address", "versions"},
    "training/data": {"errors"},
    "training/learning": {"errors"},
    "training/run": {"data", "errors", "learning"},
}
"""The other parts of its own package that a part may import."""

DUPLICATE_CLASSES: set[str] = set()
"""Class names that are still defined twice. Do not add any."""


def modules(place: str) -> list[Path]:
    path = ROOT / place
    found = [path] if path.suffix == ".py" else sorted(path.rglob("*.py"))
    assert found, f"{place} has moved"
    return found


def imported_modules(source: str) -> set[str]:
    """The modules that all import statements name, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            assert name not in {"__import__", "import_module"}, "this test cannot see such imports"
    return names


def imported_packages(source: str) -> set[str]:
    return {name.split(".")[0] for name in imported_modules(source)}


def imported_parts(module: Path, package: str) -> set[str]:
    """The parts (files and folders directly below the package) that a module imports."""
    names = (name.split(".") for name in imported_modules(module.read_text()))
    return {name[1] for name in names if name[0] == package and len(name) > 1}


def class_names() -> Iterator[tuple[str, str]]:
    """Every class outside of tests, with its module."""
    for package in PACKAGES:
        for module in modules(package):
            for node in ast.walk(ast.parse(module.read_text())):
                if isinstance(node, ast.ClassDef):
                    yield node.name, module.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_nothing_of_the_other_side(package: str) -> None:
    """Not even inside a function."""
    forbidden = {
        module.relative_to(ROOT).as_posix(): sorted(names)
        for module in modules(package)
        if (names := imported_packages(module.read_text()) & FORBIDDEN[package])
    }
    assert not forbidden


def test_the_client_imports_httpx_and_nothing_else_that_has_to_be_installed() -> None:
    """It is installed beside other people's programs."""
    allowed = {"resident_client", "httpx"} | set(sys.stdlib_module_names)
    imported = {
        package
        for module in modules("client/resident_client")
        for package in imported_packages(module.read_text())
    }
    assert imported - allowed == set()


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_a_part_imports_only_the_parts_below_it(part: str) -> None:
    """The engine knows neither HTTP nor requests; images and networks know nothing of runs."""
    package, name = part.removesuffix(".py").split("/")
    unexpected = {
        module.relative_to(ROOT).as_posix(): sorted(parts)
        for module in modules(part)
        if (parts := imported_parts(module, package) - ALLOWED[part] - {name})
    }
    assert not unexpected


def test_experiments_are_imported_by_their_commands_only() -> None:
    """The residual-learning laboratory can be deleted without touching the rest."""
    importers = {
        module.relative_to(ROOT / "training").parts[0]
        for module in modules("training")
        if "experiments" in imported_parts(module, "training")
    }
    assert importers == {"commands", "experiments"}


def test_serving_draws_nothing() -> None:
    """The serving image has neither rich nor matplotlib; only the load test uses them."""
    drawing = {
        module.relative_to(ROOT / "service").parts[0]
        for module in modules("service")
        if imported_packages(module.read_text()) & DRAWING
    }
    assert drawing == {"loadtest"}


def test_a_class_name_is_defined_once() -> None:
    """One concept has one name in the whole repository."""
    places = defaultdict(list)
    for name, module in class_names():
        places[name].append(module)
    assert {name for name, found in places.items() if len(found) > 1} == DUPLICATE_CLASSES, {
        name: found for name, found in places.items() if len(found) > 1
    }


def own_text_files() -> Iterator[Path]:
    """Code and pages of this repository that are neither generated nor from other projects."""
    folders = (*PACKAGES, "benchmarks", "client", "docs", "resident", "tests")
    suffixes = {".py", ".js", ".css", ".lua", ".md"}
    foreign = ("_pb2.py", "swagger-ui-bundle.js", "swagger-ui.css", "axe.min.js", "report.md")
    paths = [*ROOT.glob("*.md"), *(path for each in folders for path in (ROOT / each).rglob("*"))]
    for path in paths:
        if path.suffix in suffixes and not path.name.endswith(foreign):
            yield path


def is_table_or_link(line: str) -> bool:
    return line.lstrip().startswith(("|", "![")) or "http" in line


def test_a_line_has_at_most_100_columns() -> None:
    """Ruff does not count the comments for itself and for mypy, and reads no other language."""
    long = []
    for path in own_text_files():
        in_code = False
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if path.suffix == ".md":
                in_code ^= line.lstrip().startswith("```")
                if in_code or is_table_or_link(line):
                    continue
            if len(line) > 100:
                long.append(f"{path.relative_to(ROOT)}:{number}")
    assert not long


def test_the_walk_sees_imports_inside_functions() -> None:
    """Otherwise the tests above would miss them."""
    source = "def f():\n    from torch import nn\n    import rich.table"
    assert imported_packages(source) == {"torch", "rich"}


@pytest.mark.parametrize("module", ["service.app", "service.__main__", "model_store.__main__"])
def test_importing_the_serving_side_loads_nothing_of_training(module: str) -> None:
    """Not even through a third package, in an environment where torch is installed."""
    unwanted = LEARNING | DRAWING | {"training"}
    code = (
        f"import sys, {module}\n"
        f"print(*sorted({{name.split('.')[0] for name in sys.modules}} & {unwanted!r}))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.split() == []
