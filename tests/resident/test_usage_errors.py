"""A mistyped command, option or choice is reported before torch and other slow packages load."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SLOW = ("torch", "torchvision", "onnx", "onnxruntime", "sklearn", "scipy", "matplotlib", "fastapi")
EVERY_COMMAND = """
import json, sys
import click
from click.testing import CliRunner
from model_store.command_line import LazyCommand
from resident.cli import main

def check(words, command):
    if isinstance(command, LazyCommand):
        command = command.load()
    if isinstance(command, click.Group):
        codes[" ".join([*words, "xyz"])] = CliRunner().invoke(main, [*words, "xyz"]).exit_code
        for name, child in command.commands.items():
            check([*words, name], child)
    else:
        codes[" ".join(words)] = CliRunner().invoke(main, [*words, "--nope"]).exit_code

codes = {}
check([], main)
print(json.dumps([codes, [name for name in sys.argv[1:] if name in sys.modules]]))
"""


def test_no_command_imports_torch_before_its_options_are_read() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            EVERY_COMMAND,
            "torch",
            "torchvision",
            "sklearn",
            "scipy",
            "fastapi",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    codes, imported = json.loads(done.stdout)
    assert len(codes) > 30
    assert set(codes.values()) == {2}, codes
    assert imported == []


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("training run --epoch 3", 2),
        ("training run --nope", 2),
        ("training nope", 2),
        ("training run --precision fp8", 2),
        ("training run --epochs many", 2),
        ("training run --image-size big", 2),
        ("training run --arch resnet21", 1),
        ("training run --recipe nope", 1),
        ("training run --set optimizer.learing_rate=1", 1),
        ("training train --set epochs=0", 1),
        ("training experiment degradation --data digits --set nope=1", 1),
        ("training run --waive nope=reason", 1),
        ("training gate . --waive latency", 1),
        ("training import --model m --waive latency=reason", 1),
        ("training quantize m --waive latency=reason", 1),
        ("training experiment xyz", 2),
        ("training experiment degradation --data digits --depths 20,x", 2),
        ("training import --model m --torchvision resnet50 --preset nope", 2),
        ("training quantize digits-resnet20 --precision int3", 2),
        ("training run --data nope", 1),
        ("training check nope", 1),
        ("training train --data digits --data nope", 1),
        ("training cross-validate --data nope", 1),
        ("training find-lr --data nope", 1),
        ("training experiment degradation --data nope", 1),
        ("training experiment degradation --data digits --recipe nope", 1),
        ("training run --start nope.pth", 1),
        ("training run --start nope", 1),
        ("training run --start torchvision --arch resnet20", 1),
        ("training run --model a/b", 1),
        ("training run --device nowhere", 1),
        ("training run --golden-image /etc/hostname", 1),
        ("training retrain nope --data digits", 1),
        ("training retrain cifar10 --data nope", 1),
        ("training retrain cifar10 --data digits --rename nope=x", 1),
        ("training quantize nope", 1),
        ("training quantize cifar10 --data nope", 1),
        ("training fit-density nope", 1),
        ("training fit-density cifar10 --data nope", 1),
        ("training add-embedding nope", 1),
        ("training evaluate .", 1),
        ("training resume .", 1),
        ("training compare . .", 1),
        ("training compare . --out nope/page.html", 2),
        ("training check digits --json nope/findings.json", 2),
        ("training import --model m", 2),
        ("training import --model m --torchvision nope", 2),
        ("training import --model m --weights /etc/hostname --labels /etc/hostname", 2),
        ("training import --model m --weights /etc/hostname --labels . --arch nope", 2),
        ("training import --model m --torchvision resnet50 --report nope/m.md", 2),
        ("resident run --data nope", 1),
        ("resident run --epoch 3", 2),
        ("resident nope", 2),
    ],
)
def test_a_mistake_is_answered_without_slow_imports(words: str, code: int, tmp_path: Path) -> None:
    package, *arguments = words.split()
    module = {"training": "training.__main__", "resident": "resident.cli"}[package]
    script = (
        f"import sys; from {module} import main\n"
        f"try: main({arguments!r})\n"
        f"finally: print([name for name in {SLOW!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert done.stderr.count("Error: ") == 1
    assert done.stdout == "[]\n"
    assert not list(tmp_path.iterdir())
