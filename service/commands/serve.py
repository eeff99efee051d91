"""`python -m service` and `python -m service serve`: serve a model store over HTTP."""

import os
from typing import Any, Final, Literal, get_args, get_origin

import click
from click.core import ParameterSource
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from model_store import __version__
from model_store.command_line import describe_path
from model_store.errors import (
    KeyFileError,
    ProviderError,
    PublishError,
    StoreUnreadableError,
)
from model_store.open_store import open_store
from model_store.validation import describe_validation_error
from service.key_file import ApiKeysError
from service.settings import Settings
from service.sockets import ListenError
from service.tls import CertificateError

METAVARS: Final = {
    "int": "INTEGER",
    "float": "NUMBER",
    "Path": "PATH",
    "UnionType": "PATH|URL",
    "dict": "JSON",
}
OTHER_NAMES: Final = {"store": ("model-dir",), "port": ("http-port",)}
"""Further names of options, as KServe passes them. Underscores are the same as hyphens."""


class _ListenFailure(click.ClickException):
    exit_code = 3  # as uvicorn


def _option(name: str, field: FieldInfo) -> click.Option:
    """Build the option of one setting. Values stay text, which `Settings` validates."""
    flag = name.replace("_", "-")
    options: dict[str, Any] = {"help": field.description}
    annotation = next((part for part in get_args(field.annotation) if part is not type(None)), None)
    annotation = annotation if "None" in str(field.annotation) else field.annotation
    if not field.default_factory and field.default not in (None, {}, ""):
        options |= {"default": field.default, "show_default": True}
    if field.default_factory is not None:
        options["show_default"] = describe_path(field.get_default(call_default_factory=True))
    if annotation is bool:
        return click.Option([f"--{flag}/--no-{flag}"], **options)
    if get_origin(annotation) is Literal:
        return click.Option([f"--{flag}"], type=click.Choice(get_args(annotation)), **options)
    names = [f"--{name}" for name in (flag, *OTHER_NAMES.get(name, ()))]
    kind = getattr(get_origin(annotation) or annotation, "__name__", "")
    return click.Option(names, metavar=METAVARS.get(kind, "TEXT"), type=str, **options)


@click.command(
    params=[_option(name, field) for name, field in Settings.model_fields.items()],
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "token_normalize_func": lambda name: name.replace("_", "-"),
    },
    epilog="Other commands: python -m service keys, bench, tune. Each has its own --help.",
)
@click.version_option(__version__, prog_name="resident")
@click.pass_context
def serve(context: click.Context, /, **options: Any) -> None:
    """Serve the models of a store over HTTP until SIGTERM or Ctrl-C.

    \b
      python -m service --store models --port 8000

    Every option is also an environment variable: --max-body-bytes is SERVICE_MAX_BODY_BYTES. An
    option wins over its variable.
    """
    given = {
        name: value
        for name, value in options.items()
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    if "port" not in given and "SERVICE_PORT" not in os.environ and os.environ.get("PORT"):
        given["port"] = os.environ["PORT"]
    try:
        settings = Settings(**given)
    except ValidationError as error:
        raise click.UsageError(f"invalid settings: {describe_validation_error(error)}") from None
    if settings.create_store:
        try:
            open_store(settings.store).create()
        except (PublishError, StoreUnreadableError, OSError) as error:
            raise click.UsageError(f"--create-store: {error}") from None
    _run(settings)


def _run(settings: Settings) -> None:
    """Serve. A wrong setting ends the command with a message, and not with a traceback."""
    from service.protocols.grpc_extra import GrpcMissingError  # noqa: PLC0415  as below
    from service.server import run  # noqa: PLC0415  --help needs no web framework
    from service.workers.supervisor import WorkersFailedError  # noqa: PLC0415  as above

    options_of_errors = {
        GrpcMissingError: "--grpc-port (SERVICE_GRPC_PORT)",
        ApiKeysError: "--keys (SERVICE_KEYS)",
        CertificateError: "--ssl-certfile (SERVICE_SSL_CERTFILE)",
        KeyFileError: "--require-signature (SERVICE_REQUIRE_SIGNATURE)",
        ProviderError: "--providers (SERVICE_PROVIDERS)",
    }
    try:
        run(settings)
    except WorkersFailedError as error:
        raise click.ClickException(f"the service has ended: {error}") from None
    except ListenError as error:
        raise _ListenFailure(str(error)) from None
    except tuple(options_of_errors) as error:
        raise click.UsageError(f"{options_of_errors[type(error)]}: {error}") from None
