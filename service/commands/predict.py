"""`resident predict`: classify images in this process or through a running service."""

import csv
import glob
import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from model_store.errors import ImageError
from model_store.manifest import Calibration
from model_store.preprocessing import prepare
from model_store.sealed_model import load_variant
from model_store.store import BUILTIN_DEFAULT_MODEL, DEFAULT_ROOT, ModelStore
from service.engine.classification import MAX_RANKED, classify
from service.errors import InvalidModelOutputError
from service.prediction.response import describe_image

STDIN = "-"
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"})


@dataclass(frozen=True)
class PredictedImage:
    """One image: its result, in the format of the HTTP API, or its error."""

    path: str
    result: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


@click.command()
@click.argument("paths", nargs=-1, required=True)
@click.option("--model", help=f"The model.  [default: {BUILTIN_DEFAULT_MODEL}]")
@click.option("--version", "version", help="A version number or an alias.  [default: production]")
@click.option("--store", "root", type=click.Path(path_type=Path), default=DEFAULT_ROOT,
              show_default=True, envvar="SERVICE_STORE", show_envvar=True,
              help="The model store to read.")  # fmt: skip
@click.option("--url", help="Ask this running service instead of loading the model here.")
@click.option("--key", envvar="RESIDENT_KEY", show_envvar=True, help="The API key for --url.")
@click.option("--top-k", type=click.IntRange(1, MAX_RANKED), default=1, show_default=True,
              help="How many labels to print per image.")  # fmt: skip
@click.option("--format", "style", type=click.Choice(["table", "json", "csv"]), default="table",
              show_default=True, help="json prints one object per line.")  # fmt: skip
def predict(
    paths: tuple[str, ...], model: str | None, version: str | None, root: Path, url: str | None,
    key: str | None, top_k: int, style: str,
) -> None:  # fmt: skip
    r"""Classify images: files, folders, patterns, or `-` for one image on stdin.

    \b
      resident predict photo.jpg holiday/ --model flowers
      resident predict 'photos/*.jpg' --url http://127.0.0.1:8000 --format csv

    The exit code is 1 if any image could not be classified.
    """
    if url:
        classify_image = _remote(url, model, version, key, top_k)
    else:
        classify_image = _local(ModelStore(root), model or BUILTIN_DEFAULT_MODEL, version, top_k)
    images = list(_expand(paths))
    rows = []
    with click.progressbar(
        images, label="classifying", file=sys.stderr, hidden=not sys.stderr.isatty()
    ) as shown:
        rows = [_classify_path(path, classify_image) for path in shown]
    _print(rows, style, top_k)
    if any(row.error for row in rows):
        sys.exit(1)


def _expand(paths: Sequence[str]) -> Iterator[str]:
    """Yield the images of files, folders and patterns. Raises click.UsageError if one has none."""
    for path in paths:
        if path == STDIN or Path(path).is_file():
            yield path
            continue
        if Path(path).is_dir():
            found = [
                str(file)
                for file in sorted(Path(path).rglob("*"))
                if file.suffix.lower() in SUFFIXES and file.is_file()
            ]
        else:
            found = sorted(name for name in glob.glob(path, recursive=True) if Path(name).is_file())
        if not found:
            raise click.UsageError(_no_images(path))
        yield from found


def _no_images(path: str) -> str:
    if Path(path).is_dir():
        return f"{path!r} contains no images: expected files like {', '.join(sorted(SUFFIXES))}."
    if glob.has_magic(path):
        return f"no file matches {path!r}: expected a file, a folder or a pattern."
    return f"{path!r} does not exist: expected a file, a folder or a pattern."


def _classify_path(path: str, classify_image: Callable[[bytes], dict[str, Any]]) -> PredictedImage:
    try:
        data = sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()
        return PredictedImage(path, classify_image(data))
    except (ImageError, InvalidModelOutputError) as error:
        return PredictedImage(path, error=f"{error.code}: {error}")
    except RequestFailedError as error:
        return PredictedImage(path, error=str(error))
    except OSError as error:
        return PredictedImage(path, error=f"cannot be read: {error.strerror or error}")


def _local(
    store: ModelStore, model: str, wanted: str | None, top_k: int
) -> Callable[[bytes], dict[str, Any]]:
    """Return a function that classifies with a version of the store, as the service would."""
    version = store.open(model, store.resolve(model, wanted))
    manifest = version.manifest
    precisions = [variant.precision for variant in manifest.variants]
    precision = "fp32" if "fp32" in precisions else precisions[0]
    session = load_variant(version, version.variant(precision))
    calibration = manifest.calibration or Calibration()

    def classify_image(data: bytes) -> dict[str, Any]:
        pixels = prepare(data, manifest.preprocessing)
        (row,) = classify(session.run(pixels[np.newaxis]), manifest.outputs, calibration)
        if isinstance(row, InvalidModelOutputError):
            raise row
        return describe_image(row, manifest.class_names, top_k)

    return classify_image


class RequestFailedError(Exception):
    """The service answered with an error, or could not be reached."""


def _remote(
    url: str, model: str | None, version: str | None, key: str | None, top_k: int
) -> Callable[[bytes], dict[str, Any]]:
    """Return a function that classifies through a running service."""
    if version and not model:
        raise click.UsageError("--version needs --model.")
    path = f"/models/{urllib.parse.quote(model, safe='')}" if model else ""
    path += f"/versions/{urllib.parse.quote(version, safe='')}" if version else ""
    target = f"{url.rstrip('/')}/v1{path}/predict?top_k={top_k}"
    if not target.startswith(("http://", "https://")):
        raise click.UsageError(f"--url must begin with http:// or https://, got {url!r}.")
    headers = {"Content-Type": "application/octet-stream"}
    if key:
        headers["Authorization"] = f"Bearer {key}"

    def classify_image(data: bytes) -> dict[str, Any]:
        request = urllib.request.Request(target, data, headers)  # noqa: S310  checked above
        try:
            with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
                result: dict[str, Any] = json.load(response)["results"][0]
                return result
        except urllib.error.HTTPError as error:
            body = error.read()
            try:
                problem = json.loads(body)
                text = f"{problem['code']}: {problem['detail']}"
            except (ValueError, KeyError, TypeError):
                text = f"HTTP {error.code}"
            raise RequestFailedError(text) from None
        except (urllib.error.URLError, TimeoutError) as error:
            reason = getattr(error, "reason", error)
            raise RequestFailedError(f"{url} does not answer: {reason}") from None

    return classify_image


def _print(rows: Sequence[PredictedImage], style: str, top_k: int) -> None:
    if style == "json":
        for row in rows:
            outcome = {"error": row.error} if row.error else row.result
            click.echo(json.dumps({"path": row.path, **outcome}, ensure_ascii=False))
        return
    if style == "csv":
        writer = csv.writer(sys.stdout)
        writer.writerow(["path", "label", "score", "abstained", "error"])
        for row in rows:
            for prediction in row.result.get("predictions", [{}])[:top_k]:
                writer.writerow(
                    [
                        row.path,
                        prediction.get("label", ""),
                        prediction.get("score", ""),
                        row.result.get("abstained", ""),
                        row.error or "",
                    ]
                )
        return
    width = max(len(row.path) for row in rows)
    for row in rows:
        click.echo(f"{row.path.ljust(width)}  {_describe(row)}")


def _describe(row: PredictedImage) -> str:
    if row.error:
        return f"error: {row.error}"
    labels = ", ".join(
        f"{prediction['label']} {prediction['score']:.1%}"
        for prediction in row.result["predictions"]
    )
    return (
        f"{labels}  (abstained: unlike the training data)"
        if row.result.get("abstained")
        else labels
    )
