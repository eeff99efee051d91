"""What the service prints when it serves."""

import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from model_store import __version__
from model_store.providers import CPU
from service.engine.loaded_version import LoadedVersion
from service.host.cpu_limit import cpu_limit
from service.settings import Settings
from service.versions.registry import Registry
from service.versions.served_model import ServedModel
from service.workers.recommendation import WorkerAdvice, recommend_workers

TERMINAL_COLUMNS: Final = 80


def describe_startup(
    registry: Registry,
    address: str,
    uds: Path | None = None,
    *,
    has_page: bool = True,
    workers: int = 1,
) -> list[str]:
    """Lines for the terminal: models, the default, problems, the docs, a command to try."""
    default = registry.models.get(registry.default_model or "")
    return [
        f"Resident {__version__} on {f'Unix socket {uds}' if uds else address}",
        *(
            _describe_model(model, is_default=model is default)
            for _, model in sorted(registry.models.items())
        ),
        _describe_default(default),
        *_describe_problems(registry),
        *_describe_workers(default, workers),
        *([f"  page   {address}/"] if has_page and not uds else []),
        *([] if uds else [f"  docs   {address}/docs"]),
        *_example_command(default, address, uds),
    ]


def _describe_workers(default: ServedModel | None, workers: int) -> Iterator[str]:
    if workers > 1:
        yield f"  workers  {workers} server processes"
    elif default and default.default_version:
        advice = _advise(default.default_version)
        if advice:
            yield (
                f"  workers  one process is the limit for {default.name}: --workers "
                f"{advice.workers} allows up to {advice.images_per_second:,.0f} images/s"
            )


def _advise(loaded: LoadedVersion) -> WorkerAdvice | None:
    options = loaded.options
    if loaded.threads > 1 or tuple(options.session.providers) != (CPU,):
        return None  # its time is not the CPU time of one core
    size = loaded.max_batch_size
    return recommend_workers(loaded.profile.seconds(size) / size, cpu_limit())


def describe_open_service(settings: Settings) -> list[str]:
    """Lines that warn about a public address without keys, and say what to do."""
    own = "keys" in settings.model_fields_set
    option = f"--keys {shlex.quote(str(settings.keys))} " if own else ""
    host = settings.host or "this machine"
    return [
        f"  OPEN  everyone who can connect to {host} may send predictions; to require an API key:",
        f"        python -m service keys {option}add NAME --scope predict",
    ]


def _describe_model(model: ServedModel, *, is_default: bool) -> str:
    if model.default_version is None and model.state == "loading":
        return f"  LOADING  {model.name}: GET /v1/models/{model.name} shows when it is ready"
    if model.default_version is None:
        reason = "; ".join(model.errors.values()) or model.error or "its versions cannot be read"
        return _problem("NOT SERVED", f"{model.name}: {reason}")
    version, precision = (
        model.default_version.version,
        model.default_version.selected_variant.precision,
    )
    manifest = version.manifest
    facts = [f"{len(manifest.class_names)} classes"]
    if manifest.metrics:
        facts.append(f"test accuracy {manifest.metrics.top1:.1%}")
    if manifest.proof != "proven":
        facts.append(manifest.proof)
    if precision != "fp32":
        facts.append(f"serves {precision}" + (", accuracy is of fp32" if manifest.metrics else ""))
    if threads := model.default_version.lone_threads:
        facts.append(f"{threads} threads for a lone image")
    if others := sorted(model.serving.keys() - {version.number}):
        facts.append(f"also serves versions {', '.join(map(str, others))}")
    return f"  model  {version}{' (default)' if is_default else ''}: {', '.join(facts)}"


def _describe_default(model: ServedModel | None) -> str:
    who = model.name if model else "no model"
    return f"  default  {who} answers /v1/predict; set SERVICE_DEFAULT_MODEL to change that"


def _describe_problems(registry: Registry) -> Iterator[str]:
    if registry.loaded:
        for name, setting in registry.required.missing(registry.models).items():
            reason = f"{name}: {setting} names this model, but it is not in the store"
            yield _problem("NOT SERVED", reason)
    if registry.error:
        yield _problem("NOT READY", registry.error)


def _problem(label: str, text: str) -> str:
    start = f"  {label}  "
    return textwrap.fill(
        text,
        TERMINAL_COLUMNS,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _example_command(model: ServedModel | None, address: str, uds: Path | None) -> Iterator[str]:
    if (
        model
        and model.default_version
        and (golden := model.default_version.version.manifest.golden)
    ):
        sample = model.default_version.version.path(golden[0].image)
        if sample.is_relative_to(Path.cwd()):
            sample = sample.relative_to(Path.cwd())
        socket_option = f"--unix-socket {shlex.quote(str(uds))} " if uds else ""
        yield (
            f"  try    curl {socket_option}--data-binary @{shlex.quote(str(sample))} "
            f"{address}/v1/predict"
        )
