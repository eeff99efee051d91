"""`resident predict`: classify images in this process or through a running service."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from model_store.open_store import StoreLocation, StoreLocationType, open_store
from model_store.store import BUILTIN_DEFAULT_MODEL, DEFAULT_ROOT, ModelStore
from service.commands.classifiers import (
    ImageClassifier,
    LocalClassifier,
    PredictedImage,
    RemoteClassifier,
    classify_paths,
)
from service.commands.evaluation import TOP_K, compare, evaluate
from service.commands.find_images import check_labels, find_images, labelled_images
from service.commands.predict_output import print_comparison, print_figures, print_results
from service.engine.classification import MAX_RANKED

MAX_PROBES: Final = 5
"""So many images are tried for the names of the model's classes."""


@click.command()
@click.argument("paths", nargs=-1)
@click.option("--model", help=f"The model.  [default: {BUILTIN_DEFAULT_MODEL}]")
@click.option("--version", "version", help="A version number or an alias.  [default: production]")
@click.option("--store", "root", type=StoreLocationType(), default=DEFAULT_ROOT,
              show_default=True, envvar="SERVICE_STORE", show_envvar=True,
              help="The model store to read: a directory or a URL.")  # fmt: skip
@click.option("--url", envvar="RESIDENT_URL", show_envvar=True,
              help="Ask this running service instead of loading the model here.")  # fmt: skip
@click.option("--local", is_flag=True,
              help="Load the model here although --url or its variable is set.")  # fmt: skip
@click.option("--key", envvar="RESIDENT_KEY", show_envvar=True, help="The API key for --url.")
@click.option("--top-k", type=click.IntRange(1, MAX_RANKED), default=1, show_default=True,
              help="How many labels to print per image.")  # fmt: skip
@click.option("--labels", "labels_folder", metavar="FOLDER",
              type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="Instead of PATHS: print the accuracy on the images of this folder, which has "
              "one folder per class.")  # fmt: skip
@click.option("--compare", "other_version", metavar="VERSION",
              help="With --labels: compare with this version on the same images.")  # fmt: skip
@click.option("--format", "style", type=click.Choice(["table", "json", "csv"]), default="table",
              show_default=True, help="json prints one object per line.")  # fmt: skip
def predict(
    paths: tuple[str, ...], model: str | None, version: str | None, root: StoreLocation,
    url: str | None, local: bool, key: str | None, top_k: int,  # noqa: FBT001
    labels_folder: Path | None,
    other_version: str | None, style: str,
) -> None:  # fmt: skip
    """Classify images: files, folders, patterns, or `-` for one image on stdin.

    \b
      resident predict photo.jpg holiday/ --model flowers
      resident predict 'photos/*.jpg' --url http://127.0.0.1:8000 --format csv
      resident predict --labels test/ --model flowers --version 3 --compare 2

    The exit code is 1 if any image could not be classified.
    """
    if bool(paths) == bool(labels_folder):
        raise click.UsageError("expected images to classify, or --labels FOLDER, and not both.")
    if other_version and not labels_folder:
        raise click.UsageError("--compare needs --labels.")
    if url and not local:
        open_classifier = partial(_open_remote, url, model, key)
    else:
        open_classifier = partial(_open_local, open_store(root), model or BUILTIN_DEFAULT_MODEL)
    if labels_folder:
        labels = labelled_images(labels_folder)
        classifiers = [open_classifier(version)]
        if other_version:
            classifiers.append(open_classifier(other_version))
        complete = _evaluate(labels_folder, labels, classifiers, style)
    else:
        complete = _classify(list(find_images(paths)), open_classifier(version), top_k, style)
    if not complete:
        sys.exit(1)


def _open_local(store: ModelStore, model: str, version: str | None) -> ImageClassifier:
    return LocalClassifier(store, model, version)


def _open_remote(
    url: str, model: str | None, key: str | None, version: str | None
) -> ImageClassifier:
    return RemoteClassifier(url, model, version, key)


def _classify(images: Sequence[str], classifier: ImageClassifier, top_k: int, style: str) -> bool:
    """Print the results. Returns whether every image was classified."""
    complete = True

    def note(row: PredictedImage) -> PredictedImage:
        nonlocal complete
        complete &= not row.error
        return row

    with (
        classify_paths(images, classifier, top_k) as outcomes,
        _bar(outcomes, images, streams=style != "table") as shown,
    ):
        print_results(map(note, shown), style)
    return complete


def _evaluate(
    folder: Path, labels: Mapping[str, str], classifiers: Sequence[ImageClassifier], style: str
) -> bool:
    """Print the figures. Returns whether every version classified every image."""
    outcomes = [_classify_labelled(folder, labels, classifier) for classifier in classifiers]
    figures = [evaluate(images, labels) for images in outcomes]
    comparison = compare(outcomes[0], outcomes[1], labels) if len(outcomes) == 2 else None
    if style == "json":
        report: dict[str, Any] = {"evaluations": figures}
        click.echo(json.dumps(report | {"comparison": comparison}, ensure_ascii=False))
    elif style == "csv":
        print_results((image for images in outcomes for image in images), style, labels)
    else:
        for number, each in enumerate(figures):
            click.echo(nl=number > 0)
            print_figures(each)
        if comparison:
            names = [", ".join(each["versions"]) or "no version" for each in figures]
            print_comparison(comparison, *names)
    return not any(each["failed"] for each in figures)


def _classify_labelled(
    folder: Path, labels: Mapping[str, str], classifier: ImageClassifier
) -> list[PredictedImage]:
    """Classify every image, after a check that the folders are named as the classes are."""
    images = list(labels)
    with classify_paths(images[:MAX_PROBES], classifier, MAX_RANKED) as probes:
        first = next((probe for probe in probes if not probe.error), None)
    if first:
        names = [prediction["label"] for prediction in first.result["predictions"]]
        if len(names) < MAX_RANKED:  # otherwise there are more classes than a response may have
            check_labels(labels, sorted(names), folder)
    with classify_paths(images, classifier, TOP_K) as outcomes, _bar(outcomes, images) as shown:
        return list(shown)


def _bar(
    outcomes: Iterator[PredictedImage], images: Sequence[str], *, streams: bool = False
) -> AbstractContextManager[Iterable[PredictedImage]]:
    """A progress bar on a terminal, unless results appear there meanwhile."""
    hidden = not sys.stderr.isatty() or (streams and sys.stdout.isatty())
    return click.progressbar(
        outcomes, len(images), label="classifying", file=sys.stderr, hidden=hidden
    )
