"""Measures the accuracy of a stored version on folders with one subfolder per class.

python benchmarks/labelled_folder.py cifar10 FOLDER…

Each file is decoded and run as in the service; several folders count as one.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model_store.preprocessing import prepare
from model_store.session import Session
from model_store.store import ModelStore


def answers(model: str, folders: Sequence[Path], store: ModelStore) -> list[tuple[str, str, Path]]:
    """Label, answer and path of each file."""
    with store.open(model, store.resolve(model)) as version:
        manifest = version.manifest
        session = Session(version.path(manifest.variants[0].file), manifest.input, manifest.outputs)
        answered = []
        for file in sorted(file for folder in folders for file in folder.glob("*/*")):
            if file.parent.name not in manifest.class_names:
                raise SystemExit(
                    f"{file.parent.name} is not a class of {version}; "
                    f"expected {', '.join(manifest.class_names)}"
                )
            logits = session.run(prepare(file.read_bytes(), manifest.preprocessing)[np.newaxis])[0]
            answered.append((file.parent.name, manifest.class_names[int(logits.argmax())], file))
    return answered


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--store", type=Path, default=Path("model_store/models"))
    parser.add_argument("--wrong", action="store_true", help="list the misclassified files")
    options = parser.parse_args()
    answered = answers(options.model, options.folders, ModelStore(options.store))
    images = Counter(label for label, _, _ in answered)
    correct = Counter(label for label, answer, _ in answered if label == answer)
    for label in sorted(images):
        others = Counter(
            answer for own, answer, _ in answered if own == label != answer
        ).most_common(3)
        print(
            f"{label:12} {correct[label]:4} of {images[label]:4}  "
            f"{', '.join(f'{count} as {other}' for other, count in others)}"
        )
    print(
        f"{'all':12} {correct.total():4} of {images.total():4}  "
        f"{correct.total() / images.total():.1%}; mean of the classes "
        f"{sum(correct[label] / images[label] for label in images) / len(images):.1%}"
    )
    for label, answer, file in answered if options.wrong else ():
        if answer != label:
            print(f"{file}: {answer}")


if __name__ == "__main__":
    main()
