"""`python -m service keys`, and how the first argument selects a command, as real processes."""

import json
import os
import shlex
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from server_process import ENVIRONMENT, PATIENCE_SECONDS, REPOSITORY

from model_store import __version__


def service(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service", *map(str, arguments)],
        cwd=REPOSITORY,
        env=dict(os.environ) | ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def test_key_is_printed_once(tmp_path: Path) -> None:
    """`add` prints only the key, and neither `list` nor the file shows it again."""
    configuration = {"XDG_CONFIG_HOME": str(tmp_path)}
    made = service(
        "keys", "add", "deploy", "--scope", "manage", "--scope", "predict", **configuration
    )
    assert made.returncode == 0, made.stderr
    secret = made.stdout.strip()
    assert secret.startswith("resident_")
    assert secret not in made.stderr
    listed = service("keys", "list", **configuration)
    assert listed.stdout.split()[:2] == ["deploy", "manage,predict"]
    assert secret not in listed.stdout + (tmp_path / "resident" / "keys.json").read_text()
    removed = service("keys", "remove", "deploy", **configuration)
    assert (removed.returncode, "scope predict" in removed.stdout) == (0, True)
    assert "no keys" in service("keys", "list", **configuration).stdout


def test_list_without_keys_prints_a_command_that_creates_one_in_the_same_file(
    tmp_path: Path,
) -> None:
    file = tmp_path / "my keys.json"
    printed = service("keys", "list", "--keys", file).stdout.splitlines()[-1]
    program, *arguments = shlex.split(printed.partition(": ")[2])
    assert (program, arguments[:2]) == ("python", ["-m", "service"])
    assert service(*arguments[2:]).returncode == 0
    assert service("keys", "list", "--keys", file).stdout.split()[:2] == ["NAME", "manage"]


def test_rotated_key_is_listed_with_its_limits(tmp_path: Path) -> None:
    """`rotate` prints a new secret; `list` has the lifetime, the rate and the last use."""
    configuration = {"XDG_CONFIG_HOME": str(tmp_path)}
    options = ("--scope", "metrics", "--expires-in", "90d", "--rate", "5")
    made = service("keys", "add", "scraper", *options, **configuration)
    rotated = service("keys", "rotate", "scraper", "--overlap", "12h", **configuration)
    assert (made.returncode, rotated.returncode) == (0, 0)
    assert rotated.stdout.strip().startswith("resident_")
    assert rotated.stdout != made.stdout
    listed = service("keys", "list", **configuration).stdout
    for part in ("scraper", "metrics", "expires", "previous secret", "5 requests/s", "used never"):
        assert part in listed
    (key,) = json.loads(service("keys", "list", "--json", **configuration).stdout)
    assert (key["name"], key["scopes"], key["requests_per_second"]) == ("scraper", ["metrics"], 5)
    assert key["used_at"] is None
    lifetime = datetime.fromisoformat(key["expires_at"]) - datetime.fromisoformat(key["created_at"])
    assert round(lifetime / timedelta(days=90), 3) == 1
    assert key["previous_expires_at"] < key["expires_at"]
    assert not any("secret" in name or "hash" in name for name in key)


@pytest.mark.parametrize(
    ("arguments", "expected", "code"),
    [
        (["add"], "NAME", 2),
        (["add", "x"], "--scope", 2),
        (["add", "x", "--scope", "all"], "'all' is not one of", 2),
        (["add", "a/b", "--scope", "predict"], "'a/b'", 2),
        (["add", "x", "--scope", "predict", "--expires-in", "soon"], "'soon'", 2),
        (["add", "x", "--scope", "predict", "--rate", "0"], "--rate", 2),
        (["remove", "absent"], "absent", 2),
        (["rotate", "absent"], "absent", 2),
        (["rotate"], "NAME", 2),
        (
            ["--keys", "/proc/nowhere/keys.json", "add", "x", "--scope", "manage"],
            "/proc/nowhere/keys.json",
            1,
        ),
        (["--keys", REPOSITORY / "README.md", "list"], "README.md", 1),
    ],
)
def test_errors_end_with_an_exit_code(
    tmp_path: Path, arguments: list[object], expected: str, code: int
) -> None:
    """A wrong command is exit code 2 and an unusable file 1, without a traceback."""
    result = service("keys", *arguments, XDG_CONFIG_HOME=str(tmp_path))
    assert result.returncode == code, result.stderr
    assert expected in result.stderr
    assert "Traceback" not in result.stderr


def test_missing_home_directory_is_an_error() -> None:
    """Without a home directory, no directory named ~ is created."""
    result = service("keys", "--keys", "~/keys.json", "add", "x", "--scope", "manage")
    assert result.returncode == 1
    assert "SERVICE_KEYS" in result.stderr
    assert not (REPOSITORY / "~").exists()


@pytest.mark.parametrize(
    ("content", "mode", "expected"),
    [("{", 0o600, "JSON"), ("{}", 0o666, "chmod go-w")],
)
def test_service_does_not_start_with_unusable_keys(
    tmp_path: Path, content: str, mode: int, expected: str
) -> None:
    """A damaged or untrusted file of keys is exit code 2."""
    (tmp_path / "keys.json").write_text(content)
    (tmp_path / "keys.json").chmod(mode)
    result = service("--port", 0, "--keys", tmp_path / "keys.json")
    assert result.returncode == 2
    assert "SERVICE_KEYS" in result.stderr
    assert expected in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("named_by", ["option", "variable"])
def test_service_does_not_start_without_the_keys_file_that_it_was_given(
    tmp_path: Path, named_by: str
) -> None:
    """A missing file of keys is exit code 2 if a setting names it: nobody gets in by a typo."""
    path = str(tmp_path / "keys.json")
    arguments = ["--keys", path] if named_by == "option" else []
    environment = {"SERVICE_KEYS": path} if named_by == "variable" else {}
    result = service("--port", 0, *arguments, **environment)
    assert result.returncode == 2
    assert "SERVICE_KEYS" in result.stderr
    assert f"python -m service keys --keys {path} add" in result.stderr.replace("\n", " ")
    assert "Traceback" not in result.stderr


def test_serve_is_the_default_command() -> None:
    """`python -m service serve` is `python -m service`."""
    spelled, plain = (service(*word, "--help") for word in (["serve"], []))
    assert spelled.returncode == plain.returncode == 0
    assert spelled.stdout == plain.stdout
    assert "--store" in plain.stdout
    assert "python -m service keys, bench, tune" in plain.stdout


def test_keys_is_accepted_before_and_after_the_command(tmp_path: Path) -> None:
    """--keys is accepted before and after the command."""
    path = tmp_path / "keys.json"
    for arguments in (["--keys", path, "list"], ["list", "--keys", path]):
        assert service("keys", "--keys", path, "add", "x", "--scope", "manage").returncode == 0
        assert service("keys", *arguments).stdout.startswith("x ")
        assert service("keys", "remove", "x", "--keys", path).returncode == 0


def test_version_is_printed() -> None:
    """--version prints the version of the package."""
    result = service("--version")
    assert (result.returncode, result.stdout.strip().rpartition(" ")[2]) == (0, __version__)


def test_commands_import_only_what_they_need() -> None:
    """--help imports no web framework, and keys imports no runtime."""
    code = (
        "import sys; sys.argv = ['service', {!r}, '--help']\n"
        "try:\n import service.__main__ as m; m.main()\n"
        "except SystemExit:\n print('LOADED', *sys.modules)"
    )
    loaded = {}
    for command in ("serve", "keys"):
        done = subprocess.run(
            [sys.executable, "-c", code.format(command)],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        )
        loaded[command] = set(done.stdout.partition("LOADED")[2].split())
    assert "service.commands.keys" in loaded["keys"]
    assert not loaded["keys"] & {"fastapi", "uvicorn", "onnxruntime", "numpy"}
    assert "service.commands.serve" in loaded["serve"]
    assert not loaded["serve"] & {"fastapi", "uvicorn", "service.commands.keys"}
