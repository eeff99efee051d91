"""Compares scores for abstention on published versions: known images, and images unlike them.

python benchmarks/density.py MODEL… --data MODEL=SOURCE… --unknown NAME=FOLDER… --cache FOLDER

Each MODEL needs the output `embedding` and a density. Its data is found as for `quantize`, or given
with --data (`--data-dir` for Fashion-MNIST). The test images of one model are unknown to the
others. Prints two figures for each score and kind of image: the share that is refused if the
threshold refuses 5 % of the model's own test images, and the AUROC. Then prints the shares that the
sealed density and the energy threshold refuse. Embeddings are kept in the cache.
"""

import argparse
import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from machine import describe_machine
from sklearn.metrics import roc_auc_score

from model_store.density import LOWEST_ENERGY
from model_store.errors import ImageError
from model_store.preprocessing import prepare
from model_store.sealed_model import load_density, load_variant
from model_store.store import ModelStore
from model_store.uncertainty import energy
from model_store.version import Version
from training.data.sampling import evenly_spaced
from training.quantization.version_data import open_version_data
from training.run.data import RunData
from training.run.inference import run_with_embeddings

PACKAGES = ("onnxruntime", "numpy", "scikit-learn", "pillow")
LIMITS = {"train": 20_000, "validation": 6_000, "test": 10_000}
UNKNOWN_IMAGES = 1_000
BATCH = 32
NEIGHBOURS = 50
VIM_DIMS = 20
SHRINKAGE = 1e-3

Rows = tuple[np.ndarray, np.ndarray]
"""Logits and embeddings of images."""
Score = Callable[[Rows], np.ndarray]
"""Higher means less typical."""


def named(text: str) -> tuple[str, str]:
    """Parse NAME=VALUE."""
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    return name, value


def embeddings_of(
    version: Version, every: dict[str, RunData], folders: dict[str, Path], cache: Path
) -> dict[str, np.ndarray]:
    """Logits (`KIND_l`) and embeddings (`KIND_e`) of every kind, and the labels of the split."""
    path = cache / f"{version.model}-{version.digest[:12]}.npz"
    if path.is_file():
        with np.load(path) as values:
            return dict(values)
    session, data = load_variant(version, version.variant()), every[version.model]
    found: dict[str, np.ndarray] = {}

    def add(kind: str, chunks: Iterable[np.ndarray]) -> None:
        results = [run_with_embeddings(session, chunk, BATCH) for chunk in chunks]
        logits, embeddings = (np.concatenate(part) for part in zip(*results, strict=True))
        found[f"{kind}_l"], found[f"{kind}_e"] = logits, embeddings

    for split, limit in LIMITS.items():
        indices = evenly_spaced(getattr(data.split, split), limit)
        add(split, data.chunks(indices))
        found[f"{split}_y"] = data.images.labels[indices]
    for kind, images in unknown_images(version, every, folders):
        add(kind, [np.stack(list(prepared(version, images)))])
    cache.mkdir(parents=True, exist_ok=True)
    np.savez(path, **found)
    return found


def unknown_images(
    version: Version, every: dict[str, RunData], folders: dict[str, Path]
) -> Iterator[tuple[str, Iterable[bytes | np.ndarray]]]:
    for name, data in every.items():
        if name != version.model:
            chosen = evenly_spaced(data.split.test, UNKNOWN_IMAGES)
            yield f"test images of {name}", (data.images.encoded[index] for index in chosen)
    random = np.random.default_rng(0)
    shape = (UNKNOWN_IMAGES, version.manifest.input.height, version.manifest.input.width, 3)
    yield "uniform noise", random.integers(0, 256, shape, np.uint8)
    yield "Gaussian noise (128 ± 64)", random.normal(128, 64, shape).clip(0, 255).astype(np.uint8)
    for name, folder in folders.items():
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        chosen = evenly_spaced(np.arange(len(files)), UNKNOWN_IMAGES)
        yield name, (files[place].read_bytes() for place in chosen)


def prepared(version: Version, images: Iterable[bytes | np.ndarray]) -> Iterator[np.ndarray]:
    """Pixels are passed through; images that the service rejects are left out."""
    for image in images:
        with contextlib.suppress(ImageError):
            if isinstance(image, bytes):
                yield prepare(image, version.manifest.preprocessing)
            else:
                yield image


def energy_of(rows: Rows) -> np.ndarray:
    return energy(rows[0])


def gaussian(embeddings: np.ndarray, labels: np.ndarray, *, unit: bool = False) -> Score:
    """Mahalanobis distance from the nearest class mean (Lee et al. 2018)."""

    def scaled(values: np.ndarray) -> np.ndarray:
        return values / np.linalg.norm(values, axis=1, keepdims=True) if unit else values

    values = scaled(embeddings)
    means = np.stack([values[labels == label].mean(axis=0) for label in np.unique(labels)])
    centered = values - means[np.searchsorted(np.unique(labels), labels)]
    covariance = centered.T @ centered / len(centered)
    covariance += SHRINKAGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    whitening = np.linalg.cholesky(np.linalg.inv(covariance))
    whitened = means @ whitening

    def score(rows: Rows) -> np.ndarray:
        differences = (scaled(rows[1]) @ whitening)[:, np.newaxis] - whitened
        return np.sqrt((differences**2).sum(axis=-1).min(axis=1))

    return score


def nearest_neighbours(embeddings: np.ndarray) -> Score:
    """Distance of an embedding of length 1 from its 50th neighbour (Sun et al. 2022, "kNN")."""
    bank = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)

    def score(rows: Rows) -> np.ndarray:
        units = rows[1] / np.linalg.norm(rows[1], axis=1, keepdims=True)
        nearest = [
            -np.partition(part @ -bank.T, NEIGHBOURS - 1, axis=1)[:, NEIGHBOURS - 1]
            for part in np.array_split(units, len(units) // 500 + 1)
        ]
        return 1 - np.concatenate(nearest)

    return score


def vim(rows: Rows, weight: np.ndarray, bias: np.ndarray) -> Score:
    """Virtual-logit matching with 20 principal dimensions (Wang et al. 2022)."""
    logits, embeddings = rows
    origin = -np.linalg.pinv(weight) @ bias
    _, vectors = np.linalg.eigh((embeddings - origin).T @ (embeddings - origin))
    null = vectors[:, : vectors.shape[1] - VIM_DIMS]
    alpha = logits.max(1).mean() / np.linalg.norm((embeddings - origin) @ null, axis=1).mean()
    return lambda rows: alpha * np.linalg.norm((rows[1] - origin) @ null, axis=1) + energy_of(rows)


def make_scores(version: Version, found: dict[str, np.ndarray]) -> dict[str, Score]:
    """The scores to compare; sums are of values standardized on validation."""
    train, labels = (found["train_l"], found["train_e"]), found["train_y"]
    validation = found["validation_l"], found["validation_e"]
    with np.load(version.path("classifier.npz")) as head:
        weight, bias = head["weight"], head["bias"]
    marginal = gaussian(train[1], np.zeros(len(labels)))
    by_class, units = gaussian(train[1], labels), gaussian(train[1], labels, unit=True)
    neighbours = nearest_neighbours(train[1])

    def total(*scores: Score) -> Score:
        fitted = [(score, score(validation)) for score in scores]
        return lambda rows: sum(
            (score(rows) - values.mean()) / values.std() for score, values in fitted
        )

    fitted = energy_of(validation)

    def bounded_energy(rows: Rows) -> np.ndarray:
        return np.maximum((energy_of(rows) - fitted.mean()) / fitted.std(), LOWEST_ENERGY)

    both = total(marginal, units)
    density = load_density(version, train[1].shape[1])
    if density is None:
        raise SystemExit(f"{version} has no density")
    return {
        "energy": energy_of,
        "Mahalanobis": by_class,
        "kNN": neighbours,
        "ViM": vim(train, weight, bias),
        "Mahalanobis + energy": total(by_class, energy_of),
        "kNN + energy": total(neighbours, energy_of),
        "distance from the mean + energy": total(marginal, energy_of),
        "both distances": both,
        "both + energy": lambda rows: both(rows) + total(energy_of)(rows),
        "both + energy, at least -2": lambda rows: both(rows) + bounded_energy(rows),
        "**both, given the energy, + energy, at least -2** (`density`)": lambda rows: sum(
            density.score(rows[1], energy_of(rows))
        ),
    }


def kinds_of(found: dict[str, np.ndarray]) -> list[str]:
    return [name[:-2] for name in found if name.endswith("_e") and name[:-2] not in LIMITS]


def comparison_rows(version: Version, found: dict[str, np.ndarray]) -> Iterator[str]:
    def rows(kind: str) -> Rows:
        return found[f"{kind}_l"], found[f"{kind}_e"]

    kinds = kinds_of(found)
    yield f"| {version.model} | {' | '.join(kinds)} |"
    yield "|---" * (len(kinds) + 1) + "|"
    for name, score in make_scores(version, found).items():
        own = score(rows("test"))
        cells = []
        for kind in kinds:
            unknown = score(rows(kind))
            truth = np.repeat([0, 1], [len(own), len(unknown)])
            auroc = roc_auc_score(truth, np.concatenate([own, unknown]))
            cells.append(f"{(unknown > np.quantile(own, 0.95)).mean():.0%} / {auroc:.2f}")
        yield f"| {name} | {' | '.join(cells)} |"


def served_rows(version: Version, found: dict[str, np.ndarray]) -> Iterator[str]:
    density = load_density(version, found["test_e"].shape[1])
    calibration = version.manifest.calibration
    if density is None or calibration is None or calibration.energy_threshold is None:
        raise SystemExit(f"{version} has no density or no energy threshold")
    for kind in ("test", *kinds_of(found)):
        energies = energy(found[f"{kind}_l"])
        by_energy = (energies > calibration.energy_threshold).mean()
        refused = (sum(density.score(found[f"{kind}_e"], energies)) > density.threshold).mean()
        name = "own test images" if kind == "test" else kind
        yield f"| {version.model} | {name} | {len(energies):,} | {by_energy:.1%} | {refused:.1%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--store", type=Path, default=Path("model_store/models"))
    parser.add_argument("--data", action="append", default=[], type=named, metavar="MODEL=SOURCE")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--unknown", action="append", default=[], type=named, metavar="NAME=FOLDER")
    parser.add_argument("--cache", type=Path, default=Path("build/embeddings"))
    options = parser.parse_args()
    store, sources = ModelStore(options.store), dict(options.data)
    versions = [store.open(model, store.resolve(model)) for model in options.models]
    every = {
        version.model: open_version_data(
            version,
            (sources[version.model],) if version.model in sources else (),
            options.data_dir,
        )
        for version in versions
    }
    folders = {name: Path(folder) for name, folder in options.unknown}
    found = [embeddings_of(version, every, folders, options.cache) for version in versions]
    print(f"{describe_machine(PACKAGES)}.")
    for version, values in zip(versions, found, strict=True):
        print("", *comparison_rows(version, values), sep="\n")
    print("\n| model | images | n | by energy | by density |\n|---|---|---|---|---|")
    for version, values in zip(versions, found, strict=True):
        print(*served_rows(version, values), sep="\n")


if __name__ == "__main__":
    main()
