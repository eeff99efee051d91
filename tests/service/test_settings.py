"""Settings: each one is a variable, an option and a line of help."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from service import server
from service.commands.serve import serve
from service.engine.options import engine_options
from service.key_file import default_key_file
from service.settings import ModelSettings, Settings, parse_formats, requests

SAMPLES: dict[str, tuple[str, object]] = {
    "host": ("0.0.0.0", "0.0.0.0"),
    "port": ("9001", 9001),
    "grpc_port": ("8001", 8001),
    "store": ("/srv/models", Path("/srv/models")),
    "create_store": ("true", True),
    "store_poll_seconds": ("0.25", 0.25),
    "uds": ("/run/resident.sock", Path("/run/resident.sock")),
    "torchserve_api": ("true", True),
    "model_name": ("roses", "roses"),
    "root_path": ("/ai/", "/ai"),
    "cors_origins": ("https://a.example, *", "https://a.example, *"),
    "formats": ("jpeg,png", "jpeg,png"),
    "fetch_allow": ("a.example, b.example:8443", "a.example, b.example:8443"),
    "builtin": ("false", False),
    "version_policy": ("latest:2", "latest:2"),
    "default_model": ("digits", "digits"),
    "required_models": ("digits, mine", "digits, mine"),
    "keys": ("/srv/keys.json", Path("/srv/keys.json")),
    "max_body_bytes": ("1000", 1000),
    "max_upload_bytes": ("2000", 2000),
    "max_pixels": ("3000", 3000),
    "max_images": ("5", 5),
    "max_queue_size": ("6", 6),
    "max_batch_size": ("7", 7),
    "max_queue_delay_seconds": ("0.5", 0.5),
    "deadline_seconds": ("1.5", 1.5),
    "body_timeout_seconds": ("2.5", 2.5),
    "workers": ("auto", "auto"),
    "drain_delay_seconds": ("1.5", 1.5),
    "shutdown_seconds": ("3", 3),
    "instances": ("4", 4),
    "mode": ("latency", "latency"),
    "intra_op_num_threads": ("2", 2),
    "decode_workers": ("3", 3),
    "models": ('{"digits": {"instances": 2}}', {"digits": ModelSettings(instances=2)}),
    "precision": ("int8", "int8"),
    "run_timeout_seconds": ("4.5", 4.5),
    "load_timeout_seconds": ("2.5", 2.5),
    "load_memory_bytes": ("2097152", 2_097_152),
    "providers": ("cuda,cpu", "cuda,cpu"),
    "gpu_memory_bytes": ("2000000000", 2_000_000_000),
    "cache": ("/srv/cache", Path("/srv/cache")),
    "cache_max_bytes": ("8", 8),
    "store_cache_max_bytes": ("2097152", 2097152),
    "log_level": ("debug", "debug"),
    "triton_metrics": ("true", True),
    "access_log": ("false", False),
    "access_log_rate": ("50", 50),
    "log_format": ("json", "json"),
    "otlp_endpoint": ("http://127.0.0.1:4318", "http://127.0.0.1:4318"),
    "page": ("false", False),
    "ssl_certfile": ("/tls/tls.crt", Path("/tls/tls.crt")),
    "ssl_keyfile": ("/tls/tls.key", Path("/tls/tls.key")),
    "allowed_hosts": ("a.example, b.example", "a.example, b.example"),
    "trusted_proxies": ("10.0.0.0/8, ::1", "10.0.0.0/8, ::1"),
    "client_requests_per_second": ("2.5", 2.5),
    "max_connections_per_client": ("20", 20),
    "keep_alive_seconds": ("61", 61),
    "require_signature": ("/publisher.pem", Path("/publisher.pem")),
}


@pytest.fixture(scope="module")
def help_text() -> str:
    """`--help` without white space: click breaks its lines at spaces and hyphens."""
    result = CliRunner().invoke(serve, ["--help"])
    assert result.exit_code == 0
    return re.sub(r"\s+", "", result.stdout)


def read_flags(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Settings:
    """The settings that `serve` reads from these arguments."""
    read: list[Settings] = []
    monkeypatch.setattr(server, "run", read.append)
    result = CliRunner().invoke(serve, arguments)
    assert result.exit_code == 0, result.output
    return read[0]


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_a_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SERVICE_<NAME> sets it."""
    text, value = SAMPLES[name]
    monkeypatch.setenv(f"SERVICE_{name.upper()}", text)
    assert getattr(Settings(), name) == value


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_an_option(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """--<name> sets it and wins over the variable."""
    text, value = SAMPLES[name]
    monkeypatch.setenv(f"SERVICE_{name.upper()}", "1")
    if isinstance(value, bool):
        arguments = [flag(name) if value else flag(f"no_{name}")]
    else:
        arguments = [flag(name), text]
    assert getattr(read_flags(monkeypatch, *arguments), name) == value


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_described(name: str, help_text: str) -> None:
    """--help shows the description of every setting."""
    description = Settings.model_fields[name].description or ""
    assert description.endswith(".")
    assert flag(name) in help_text
    assert re.sub(r"\s+", "", description) in help_text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", -1),
        ("port", 65536),
        ("store_poll_seconds", -1),
        ("store_poll_seconds", float("inf")),
        ("store_poll_seconds", float("nan")),
        ("max_body_bytes", 0),
        ("max_upload_bytes", 0),
        ("max_pixels", 0),
        ("max_pixels", 10**9),
        ("max_images", 0),
        ("max_queue_size", 0),
        ("max_batch_size", 0),
        ("max_queue_delay_seconds", -0.1),
        ("max_queue_delay_seconds", 11),
        ("deadline_seconds", 0),
        ("deadline_seconds", float("nan")),
        ("body_timeout_seconds", 0),
        ("client_requests_per_second", 0),
        ("client_requests_per_second", float("inf")),
        ("client_requests_per_second", float("nan")),
        ("drain_delay_seconds", -1),
        ("shutdown_seconds", -1),
        ("instances", 0),
        ("intra_op_num_threads", 0),
        ("decode_workers", 0),
        ("run_timeout_seconds", -1),
        ("run_timeout_seconds", float("nan")),
        ("run_timeout_seconds", float("inf")),
        ("load_timeout_seconds", 0),
        ("load_memory_bytes", 0),
        ("providers", "gpu"),
        ("providers", ""),
        ("providers", "cpu,cuda"),
        ("gpu_memory_bytes", 1),
        ("cache_max_bytes", -1),
        ("log_level", "loud"),
        ("builtin", "perhaps"),
        ("version_policy", "newest"),
        ("required_models", "digits,"),
        ("required_models", "a b"),
        ("required_models", '["digits"]'),
    ],
)
def test_invalid_values_are_rejected(name: str, value: object) -> None:
    """An invalid value is rejected with the name of the setting."""
    with pytest.raises(ValidationError) as caught:
        Settings(**{name: value})
    assert caught.value.errors()[0]["loc"] == (name,)


def test_settings_do_not_change() -> None:
    """Settings are immutable."""
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1


def test_model_settings_override_the_general_ones() -> None:
    """A model's own settings win, and the rest follows from the general ones and the CPUs."""
    settings = Settings(
        max_batch_size=16,
        models={"digits": ModelSettings(intra_op_num_threads=2, deadline_seconds=1.5)},
    )
    digits, other = engine_options(settings, "digits", 4), engine_options(settings, "other", 4)
    assert (digits.session.intra_op_num_threads, digits.instances, digits.deadline_seconds) == (
        2,
        2,
        1.5,
    )
    assert (other.session.intra_op_num_threads, other.instances, other.deadline_seconds) == (
        1,
        4,
        30.0,
    )
    assert digits.max_batch_size == other.max_batch_size == 16


@pytest.mark.parametrize(
    ("settings", "threads", "instances"),
    [
        ({}, 1, 4),
        ({"mode": "latency"}, 4, 1),
        ({"intra_op_num_threads": 2}, 2, 2),
        ({"mode": "latency", "instances": 3}, 4, 3),
        ({"intra_op_num_threads": 8}, 8, 1),
    ],
)
def test_threads_times_instances_are_the_cpus(
    settings: dict[str, object], threads: int, instances: int
) -> None:
    """By default, threads times instances are the CPUs."""
    options = engine_options(Settings(**settings), "digits", 4)
    assert (options.session.intra_op_num_threads, options.instances) == (threads, instances)


def test_model_mode_overrides_general_threads() -> None:
    """A model's own mode wins over the general threads and instances."""
    settings = Settings(
        instances=4, intra_op_num_threads=1, models={"digits": ModelSettings(mode="latency")}
    )
    digits = engine_options(settings, "digits", 4)
    assert (digits.session.intra_op_num_threads, digits.instances) == (4, 1)


@pytest.mark.parametrize(
    "own",
    [
        '{"digits": {"instance": 2}}',
        '{"digits": {"instances": 0}}',
        '{"digits": 3}',
        "digits",
        'digits={"instances": 2}',
        "[]",
        '[{"digits": {}}]',
        "null",
        "3",
        "",
    ],
)
def test_invalid_model_settings_are_rejected(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt name or a wrong value is rejected, in an option and in a variable."""
    assert CliRunner().invoke(serve, ["--models", own]).exit_code == 2
    monkeypatch.setenv("SERVICE_MODELS", own)
    with pytest.raises(ValidationError):
        Settings()


def test_empty_key_file_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable overrides the one of the image, so that the file need not exist."""
    monkeypatch.setenv("SERVICE_KEYS", "")
    settings = Settings()
    assert settings.keys == default_key_file()
    assert "keys" not in settings.model_fields_set


def test_empty_path_of_a_unix_socket_is_none() -> None:
    """As `SERVICE_UDS: ${UDS:-}` in a compose file sets it."""
    assert Settings(uds="").uds is None


@pytest.mark.parametrize(
    ("text", "formats"),
    [
        ("", None),
        ("jpeg", {"JPEG"}),
        (" JPG , png,webp ", {"JPEG", "PNG", "WEBP"}),
        ("tif,bmp,gif", {"TIFF", "BMP", "GIF"}),
    ],
)
def test_formats_are_names_in_any_case(text: str, formats: set[str] | None) -> None:
    assert parse_formats(text) == formats


@pytest.mark.parametrize("text", ["svg", "jpeg,", "image/jpeg", ",", "jpeg png"])
def test_unknown_format_is_an_error(text: str) -> None:
    with pytest.raises(ValidationError, match="formats"):
        Settings(formats=text)


def test_format_that_is_not_installed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install."""
    monkeypatch.setattr(requests, "FORMATS", ("JPEG", "PNG"))
    with pytest.raises(ValidationError, match=re.escape("'.[heif]'")):
        Settings(formats="jpeg,heic")
    with pytest.raises(ValidationError, match="AVIF"):
        Settings(formats="avif")
