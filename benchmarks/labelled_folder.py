"""How a version of the store does on photographs that it was not trained or tested on: a folder with a folder for each class.

`python benchmarks/labelled_folder.py cifar10 FOLDER…` decodes and runs each file as the service does, several folders as one.
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
    """(label, the version's answer, file) of each file."""
    with store.open(model, store.resolve(model)) as version:
        manifest = version.manifest
        session = Session(version.path(manifest.variants[0].file), manifest.input, manifest.outputs)
        given = []
        for file in sorted(file for folder in folders for file in folder.glob("*/*")):
            if file.parent.name not in manifest.class_names:
                raise SystemExit(
                    f"{file.parent.name} is no class of {version}, which has {', '.join(manifest.class_names)}"
                )
            logits = session.run(prepare(file.read_bytes(), manifest.preprocessing)[np.newaxis])[0]
            given.append((file.parent.name, manifest.class_names[int(logits.argmax())], file))
    return given


def main() -> None:
    """Print the share that is right, of each class and of all, and what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--store", type=Path, default=Path("model_store/models"))
    parser.add_argument(
        "--wrong", action="store_true", help="name the files that are answered wrong"
    )
    options = parser.parse_args()
    given = answers(options.model, options.folders, ModelStore(options.store))
    images = Counter(label for label, _, _ in given)
    right = Counter(label for label, answer, _ in given if label == answer)
    for label in sorted(images):
        others = Counter(answer for own, answer, _ in given if own == label != answer).most_common(
            3
        )
        print(
            f"{label:12} {right[label]:4} of {images[label]:4}  {', '.join(f'{count} as {other}' for other, count in others)}"
        )
    print(
        f"{'all':12} {right.total():4} of {images.total():4}  {right.total() / images.total():.1%}; "
        f"mean of the classes {sum(right[label] / images[label] for label in images) / len(images):.1%}"
    )
    for label, answer, file in given if options.wrong else ():
        if answer != label:
            print(f"{file}: {answer}")


if __name__ == "__main__":
    main()
