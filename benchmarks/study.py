"""Measure how long it takes to create, open and save a study with many images.

    python benchmarks/study.py [--images 10000] [--size 768 560] [--folder DIR]

Saving waits for the disk, so it is measured on the disk of ``--folder``. Every image gets a prediction, every
fifth a correction and an approval. The images are JPEG files of colored noise.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from napari_lesionseg.study.events import MaskOrigin
from napari_lesionseg.study.queue import Order, arrange, count_images
from napari_lesionseg.study.study import Study

MODEL = "a" * 64
EVERY = 5
OPEN = """
import sys
from time import perf_counter
from napari_lesionseg.study.study import Study
start = perf_counter()
study = Study.open(sys.argv[1], "bo")
for images in sys.argv[2:]:
    study.add_images(images)
print(perf_counter() - start, len(study.state.images), len(study.problems))
"""


def make_images(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Save small images that all differ."""
    rng = np.random.default_rng(0)
    for number in track(range(count), "images"):
        noise = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
        noise.resize(size, Image.Resampling.BICUBIC).save(folder / f"ISIC_{number:07d}.jpg", quality=90)


def timed(action: Callable[[], object]) -> float:
    """Return the seconds that an action takes."""
    start = perf_counter()
    action()
    return perf_counter() - start


def ellipse(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Draw an outline of about a quarter of the image."""
    width, height = size
    rows, cols = np.mgrid[:height, :width]
    row, col = rng.uniform(0.4, 0.6, 2) * (height, width)
    return ((((rows - row) / height) ** 2 + ((cols - col) / width) ** 2) < 0.08).astype(np.uint8)


def work(study: Study, size: tuple[int, int]) -> dict[str, list[float]]:
    """Predict everything, correct and approve a part; seconds of each call."""
    rng = np.random.default_rng(1)
    outlines = [ellipse(rng, size) for _ in range(20)]
    spent: dict[str, list[float]] = {"prediction": [], "correction": [], "approval": []}
    for number, image in enumerate(track(list(study.state.images), "outlines")):
        labels = outlines[number % len(outlines)]
        origin = MaskOrigin(MODEL, 0.46, quality=float(rng.random()))
        spent["prediction"].append(
            timed(lambda p=image, la=labels, o=origin: study.record_prediction(p, la, o))
        )
        if number % EVERY == 0:
            changed = np.roll(labels, 3)
            spent["correction"].append(timed(lambda p=image, la=changed: study.save_correction(p, la)))
            spent["approval"].append(timed(lambda p=image: study.approve(p)))
    return spent


def make(folder: Path, images: Path) -> None:
    """Make a study of a folder of images."""
    Study.create(folder, "am", paths=images).close()


def reopen(folder: Path, *images: Path) -> float:
    """Return the seconds to open a study, and to add a folder of images, in a fresh process."""
    command = [sys.executable, "-c", OPEN, str(folder), *map(str, images)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(answer[0])


def measure(base: Path, count: int, size: tuple[int, int]) -> Table:
    """Run everything, and lay the figures out."""
    table = Table("what", "median", "95 %", title=f"{count} images of {size[0]} x {size[1]}")

    def row(what: str, seconds: list[float]) -> None:
        table.add_row(what, *(f"{1000 * np.percentile(seconds, share):,.2f} ms" for share in (50, 95)))

    (base / "images").mkdir()
    make_images(base / "images", count, size)
    folder = base / "study"
    row("make, every image hashed", [timed(lambda: make(folder, base / "images"))])
    row("open, no masks", [reopen(folder) for _ in range(3)])
    row("open and add the folder again", [reopen(folder, base / "images") for _ in range(3)])
    study = Study.open(folder, "am")
    for what, seconds in work(study, size).items():
        row(f"save: {what}", seconds)
    row("open, all with masks", [reopen(folder) for _ in range(3)])
    other = Study.open(folder, "bo")
    row("refresh, no new events", [timed(other.refresh) for _ in range(20)])
    row("read an image", [timed(lambda p=p: other.read_image(p)) for p in list(other.state.images)[:50]])
    row("read an outline", [timed(lambda p=p: other.read_mask(p)) for p in list(other.state.images)[:50]])
    images = other.state.images.values()
    row("sort by quality", [timed(lambda: arrange(images, Order.QUALITY)) for _ in range(5)])
    row("search a name", [timed(lambda: arrange(images, search="0042")) for _ in range(5)])
    table.caption = str(count_images(images))
    return table


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--size", type=int, nargs=2, default=(768, 560), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--folder", type=Path, help="working folder (default: a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as base:
        Console().print(measure(Path(base), options.images, tuple(options.size)))


if __name__ == "__main__":
    main()
