"""Measures the peak memory of `prepare` by kind of image, in bytes per pixel.

Each image is decoded in a process of its own: this file as a script.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from machine import ROOT
from PIL import Image
from results import table, write_section

from model_store.manifest import Preprocessing
from model_store.preprocessing import prepare

WIDTH, HEIGHT = 6000, 4000
SPEC = Preprocessing(resize=256, crop_height=224, crop_width=224)


def make_images(folder: Path) -> dict[str, Path]:
    """One file of each kind, all of the same size in pixels."""
    grey = Image.linear_gradient("L").resize((WIDTH, HEIGHT))
    colour = Image.merge("RGB", (grey, grey.rotate(180), grey))
    alpha = colour.copy()
    alpha.putalpha(grey)
    images = {
        "JPEG": (colour, "JPEG", {}),
        "JPEG, progressive": (colour, "JPEG", {"progressive": True}),
        "JPEG, CMYK": (colour.convert("CMYK"), "JPEG", {}),
        "PNG": (colour, "PNG", {"compress_level": 1}),
        "PNG with transparency": (alpha, "PNG", {"compress_level": 1}),
        "PNG, 16-bit grey": (grey.convert("I;16"), "PNG", {"compress_level": 1}),
        "WebP": (colour, "WEBP", {"method": 0}),
    }
    paths = {}
    for number, (kind, (image, file_format, options)) in enumerate(images.items()):
        paths[kind] = folder / f"{number}.{file_format.lower()}"
        image.save(paths[kind], file_format, **options)
    return paths


def decode(path: Path) -> None:
    """Decode one image and print the growth of the peak memory in bytes."""
    data = path.read_bytes()
    before = peak_bytes()
    prepare(data, SPEC)
    print(peak_bytes() - before)


def peak_bytes() -> int:
    """Peak resident memory of this process so far."""
    status = Path("/proc/self/status").read_text()
    return next(
        int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")
    )


def measure(_: object = None) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind, path in make_images(Path(folder)).items():
            command = [sys.executable, __file__, str(path)]
            grown = int(
                subprocess.run(
                    command,
                    cwd=ROOT,
                    env={"PYTHONPATH": str(ROOT)},
                    capture_output=True,
                    check=True,
                ).stdout
            )
            rows.append((kind, f"{grown / (WIDTH * HEIGHT):.1f}"))
            print(f"{kind}: {rows[-1][1]} bytes per pixel", flush=True)
    method = (
        f"Growth of the peak resident memory when `prepare` decodes one image of {WIDTH}x{HEIGHT} "
        "pixels, in a process of its own."
    )
    write_section(
        "Memory to decode", [method, "", *table(("image", "peak, bytes per pixel"), rows), ""]
    )


if __name__ == "__main__":
    decode(Path(sys.argv[1]))
