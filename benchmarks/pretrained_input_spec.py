"""Finds the pixel range and the geometry that the network of `import --pretrained` expects.

python benchmarks/pretrained_input_spec.py STAMPS [--photographs FOLDER]

Classifies labelled photographs with each of them, and prints a Markdown table. STAMPS is the folder
of Debian's package tuxpaint-stamps-default (/usr/share/tuxpaint/stamps): photographs without their
background. `--photographs` adds a folder with one folder per label.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from machine import describe_machine
from torch import nn
from torch.nn import functional
from torchvision.models import ResNet50_Weights

from model_store.preprocessing import prepare
from training.importing.efficientnet_lite import INPUT_SIZE
from training.importing.input_spec import PixelRange
from training.importing.presets import CLASSIC_CROP, PRESETS, Geometry, Preset
from training.importing.pretrained import PRESET, find_weights, load_network

LABELS = ResNet50_Weights.IMAGENET1K_V2.meta["categories"]

STAMPS = {
    "animals": "birds/hen, birds/ostrich, birds/peacock, birds/pelican, birds/vulture, "
    "insects/bee, insects/fly, insects/grasshopper, insects/mantis, fish/lionfish, "
    "mammals/aquatic/otter, mammals/aquatic/sea_lion, mammals/apes/gorilla, mammals/badger, "
    "mammals/bovines/bison, mammals/bovines/ram, mammals/cats/tiger, mammals/equines/zebra, "
    "mammals/hippopotamus, mammals/rodents/beaver, mammals/rodents/marmot, marsupials/koala, "
    "marsupials/wombat",
    "food": "pizza, vegetables/broccoli",
    "medical": "stethoscope, syringe",
    "sports": "basketball",
    "seasonal": "candle",
    "clothes": "hats/sombrero",
}
"""Stamps that have the name of their label."""
RENAMED_STAMPS = {
    "animals/birds/drake": "drake",
    "animals/birds/magellanic_penguin": "king penguin",
    "animals/birds/pink_flamingo": "flamingo",
    "animals/birds/rooster": "cock",
    "animals/birds/tucan": "toucan",
    "animals/fish/lobster": "American lobster",
    "animals/insects/Brown_slug": "slug",
    "animals/mammals/apes/chimp": "chimpanzee",
    "animals/mammals/bears/bear": "brown bear",
    "animals/mammals/bears/european-bear": "brown bear",
    "animals/mammals/camel/dromedary": "Arabian camel",
    "animals/mammals/cats/lion-2": "lion",
    "animals/mammals/cats/tiger_sumatran": "tiger",
    "animals/mammals/dogs/fox": "red fox",
    "animals/mammals/equines/horse": "sorrel",
    "animals/mammals/ferret": "black-footed ferret",
    "animals/mammals/pig": "hog",
    "animals/mammals/rodents/squirrel": "fox squirrel",
    "animals/mammals/wildboar": "wild boar",
    "food/fruit/Strawberry2": "strawberry",
    "food/fruit/orange_seville": "orange",
    "household/toilet": "toilet seat",
    "medical/bandage_adhesive": "Band Aid",
    "military/paratrooper": "parachute",
    "military/vehicles/bradley": "tank",
    "military/vehicles/f22_raptor": "warplane",
    "plants/mushrooms/cep": "bolete",
    "plants/mushrooms/cep-1": "bolete",
    "plants/mushrooms/cep-2": "bolete",
    "sports/soccer": "soccer ball",
    "town/roadsigns/dead_end_sign": "street sign",
    "town/usps_mailbox": "mailbox",
    "vehicles/emergency/firetruck": "fire engine",
    "vehicles/flight/balloon360": "balloon",
    "vehicles/flight/planes/747": "airliner",
    "vehicles/garbagetruck": "garbage truck",
    "vehicles/race/indycar": "racer",
    "vehicles/wheel_tractor": "tractor",
}
RANGES = {
    "(level - 127) / 128": PRESET.range,
    "torchvision": PRESETS["torchvision"].range,
    "0 to 1": PRESETS["zero-one"].range,
    "-1 to 1": PRESETS["minus-one-one"].range,
    "(level - 127) / 128, BGR": PixelRange("BGR", 1.0, (127.0,) * 3, (128.0,) * 3),
}
GEOMETRIES = {
    "shorter side 256, crop 224, bicubic": PRESET.geometry,
    "shorter side 256, crop 224, bilinear": Geometry(CLASSIC_CROP, "shorter_side", "bilinear"),
    "shorter side 224, bicubic": Geometry(1.0, "shorter_side", "bicubic"),
    "squeezed to 224x224, bicubic": Geometry(1.0, "exact", "bicubic"),
    "letterbox 224x224, bicubic": Geometry(1.0, "letterbox", "bicubic"),
}


def labelled_files(stamps: Path, photographs: Path | None) -> Iterator[tuple[Path, str]]:
    for group, names in STAMPS.items():
        for name in names.split(", "):
            label = Path(name).name.replace("_", " ")
            yield stamps / group / f"{name}.png", label
    for name, label in RENAMED_STAMPS.items():
        yield stamps / f"{name}.png", label
    if photographs:
        for path in sorted(photographs.glob("*/*")):
            yield path, path.parent.name


@torch.inference_mode()
def measure(network: nn.Module, files: list[tuple[Path, str]], preset: Preset) -> str:
    spec, values = preset.geometry.at(INPUT_SIZE, INPUT_SIZE), preset.range
    images = np.stack([prepare(path.read_bytes(), spec) for path, _ in files])
    if values.channels == "BGR":
        images = images[..., ::-1]
    pixels = (images * values.scale - np.array(values.mean)) / np.array(values.std)
    logits = network(torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32)))
    labels = torch.tensor([LABELS.index(label) for _, label in files])
    rank = (logits > logits.gather(1, labels[:, None])).sum(1)
    loss = functional.cross_entropy(logits, labels)
    top1, top5 = ((rank < places).float().mean() for places in (1, 5))
    return f"{top1:.1%} | {top5:.1%} | {-loss:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stamps", type=Path)
    parser.add_argument("--photographs", type=Path)
    arguments = parser.parse_args()
    files = list(labelled_files(arguments.stamps, arguments.photographs))
    network = load_network(find_weights()).eval()
    print(f"{describe_machine(('torch', 'pillow'))}; {len(files)} photographs\n")
    print("| range | geometry | top-1 | top-5 | mean log-probability |")
    print("|---|---|---|---|---|")
    own = next(iter(GEOMETRIES))
    for name, values in RANGES.items():
        preset = Preset(values, GEOMETRIES[own], states_geometry=True)
        print(f"| {name} | {own} | {measure(network, files, preset)} |", flush=True)
    for name, geometry in list(GEOMETRIES.items())[1:]:
        preset = Preset(PRESET.range, geometry, states_geometry=True)
        print(f"| {next(iter(RANGES))} | {name} | {measure(network, files, preset)} |", flush=True)


if __name__ == "__main__":
    main()
