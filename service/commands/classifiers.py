"""Classify encoded images with a version of a store, or through a running service."""

import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import click
import numpy as np

from model_store.errors import ImageError
from model_store.manifest import Calibration
from model_store.preprocessing import prepare
from model_store.sealed_model import load_density, load_variant
from model_store.store import ModelStore
from service.commands.find_images import STDIN
from service.engine.classification import classify
from service.errors import InvalidModelOutputError
from service.host.cpu_limit import cpu_limit
from service.prediction.response import describe_image

RETRIED_STATUSES: Final = frozenset({429, 503})
MAX_RETRIES: Final = 5
MAX_WAIT_SECONDS: Final = 30
REMOTE_REQUESTS: Final = 8
"""Requests to a service at the same time; it batches them."""


@dataclass(frozen=True)
class PredictedImage:
    """One image: its result, in the format of the HTTP API, or its error.

    Attributes:
        path: As it was named.
        version: The model and version that answered, like `cifar10/1`.
        result: As in `results` of the HTTP API; empty after an error.
        error: Why it could not be classified.
    """

    path: str
    version: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


class RequestFailedError(Exception):
    """The service answered with an error, or could not be reached."""


class ImageClassifier(Protocol):
    """Classifies images; several threads may call it at the same time."""

    threads: int

    def __call__(self, data: bytes, top_k: int) -> tuple[str, dict[str, Any]]:
        """Return the version that answered, and the result of the image."""


class LocalClassifier:
    """Classifies with a version of a store in this process, with the service's code."""

    def __init__(self, store: ModelStore, model: str, wanted: str | None) -> None:
        self.threads = cpu_limit()
        self._version = store.open(model, store.resolve(model, wanted))
        self._manifest = self._version.manifest
        precisions = [variant.precision for variant in self._manifest.variants]
        precision = "fp32" if "fp32" in precisions else precisions[0]
        self._session = load_variant(self._version, self._version.variant(precision))
        self._density = load_density(self._version, self._session.embedding_dims)

    def __call__(self, data: bytes, top_k: int) -> tuple[str, dict[str, Any]]:
        """Raises ImageError or InvalidModelOutputError."""
        manifest = self._manifest
        pixels = prepare(data, manifest.preprocessing)
        calibration = manifest.calibration or Calibration()
        if self._density is None:
            scores, embeddings = self._session.run(pixels[np.newaxis]), None
        else:
            scores, embeddings = self._session.run_with_embedding(pixels[np.newaxis])
        (row,) = classify(scores, manifest.outputs, calibration, embeddings, self._density)
        if isinstance(row, InvalidModelOutputError):
            raise row
        return str(self._version), describe_image(row, manifest.class_names, top_k)


class RemoteClassifier:
    """Classifies through a running service."""

    def __init__(self, url: str, model: str | None, wanted: str | None, key: str | None) -> None:
        if wanted and not model:
            raise click.UsageError("--version needs --model.")
        if not url.startswith(("http://", "https://")):
            raise click.UsageError(f"--url must begin with http:// or https://, got {url!r}.")
        self.threads = REMOTE_REQUESTS
        self._url = url
        path = f"/models/{urllib.parse.quote(model, safe='')}" if model else ""
        kind = "version" if wanted and wanted.isdecimal() else "alias"
        self._query = {kind: wanted} if wanted else {}
        self._target = f"{url.rstrip('/')}/v1{path}/predict"
        self._headers = {"Content-Type": "application/octet-stream"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"

    def __call__(self, data: bytes, top_k: int) -> tuple[str, dict[str, Any]]:
        """Retries while the service is overloaded. Raises RequestFailedError."""
        query = urllib.parse.urlencode({**self._query, "top_k": top_k})
        url = f"{self._target}?{query}"
        request = urllib.request.Request(url, data, self._headers)  # noqa: S310  checked above
        for attempt in range(MAX_RETRIES + 1):
            try:
                with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
                    answer = json.load(response)
                return f"{answer['model']}/{answer['version']}", answer["results"][0]
            except urllib.error.HTTPError as error:
                with error:
                    if error.code not in RETRIED_STATUSES or attempt == MAX_RETRIES:
                        raise RequestFailedError(_describe(error)) from None
                    time.sleep(_wait_seconds(error.headers.get("Retry-After")))
            except (ValueError, KeyError, IndexError, TypeError):
                raise RequestFailedError(f"{self._url} is no Resident service") from None
            except OSError as error:
                reason = getattr(error, "reason", error)
                raise RequestFailedError(f"{self._url} does not answer: {reason}") from None
        raise AssertionError  # the last attempt returns or raises


@contextmanager
def classify_paths(
    paths: Sequence[str], classifier: ImageClassifier, top_k: int
) -> Iterator[Iterator[PredictedImage]]:
    """Give the outcome of each path, in order, while several threads classify."""
    pool = ThreadPoolExecutor(classifier.threads)
    try:
        yield pool.map(lambda path: _classify_path(path, classifier, top_k), paths)
    finally:
        pool.shutdown(cancel_futures=True)


def _classify_path(path: str, classifier: ImageClassifier, top_k: int) -> PredictedImage:
    try:
        data = sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()
        return PredictedImage(path, *classifier(data, top_k))
    except (ImageError, InvalidModelOutputError) as error:
        return PredictedImage(path, error=f"{error.code}: {error}")
    except RequestFailedError as error:
        return PredictedImage(path, error=str(error))
    except OSError as error:
        return PredictedImage(path, error=f"cannot be read: {error.strerror or error}")


def _describe(error: urllib.error.HTTPError) -> str:
    try:
        problem = json.loads(error.read())
        return f"{problem['code']}: {problem['detail']}"
    except (ValueError, KeyError, TypeError, OSError):
        return f"HTTP {error.code}"


def _wait_seconds(retry_after: str | None) -> int:
    seconds = int(retry_after) if retry_after and retry_after.isdecimal() else 1
    return min(seconds, MAX_WAIT_SECONDS)
