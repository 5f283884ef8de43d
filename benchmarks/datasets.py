"""Measure the speed and memory of import and export, and whether real datasets come back unchanged.

    python benchmarks/datasets.py speed [--images 5000] [--folder DIR]
    python benchmarks/datasets.py round-trips [--data ../shared/data]

Both print Markdown tables. `speed` generates images (600 x 450, JPEG, like ISIC's) and runs every step in its
own process, so that the peak memory is that of the step.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from napari_lesionseg.datasets.export import export_dataset
from napari_lesionseg.datasets.formats import ExportConfig
from napari_lesionseg.datasets.import_ import import_dataset, read_dataset
from napari_lesionseg.datasets.manifest import verify
from napari_lesionseg.datasets.records import Record
from napari_lesionseg.study.datasets import study_from_dataset, study_records
from napari_lesionseg.study.study import Study

WIDTH, HEIGHT = 600, 450
KEEP = ExportConfig(pseudonymize="nothing", duplicates="together")
EXPORTS = ("isic", "coco", "nnunet")
ROUND_TRIPS = ("isic", "coco", "coco polygons", "coco-panoptic", "nnunet", "imagefolder", "folder")
IMPORTS = ("isic", "coco", "isic.zip")
REAL = ("ph2-sample", "isic-crop512-val", "isic2017-val-256", "pad-smartphone")


def main() -> None:
    """Run the part that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(required=True)
    speed = commands.add_parser("speed")
    speed.add_argument("--images", type=int, default=5000)
    speed.add_argument("--folder", type=Path)
    speed.set_defaults(run=lambda found: print_speed(found.images, found.folder))
    trips = commands.add_parser("round-trips")
    trips.add_argument("--data", type=Path, default=Path(os.environ.get("LESIONSEG_DATA", "../shared/data")))
    trips.set_defaults(run=lambda found: print_round_trips(found.data))
    step = commands.add_parser("step")
    step.add_argument("names", nargs=3)
    step.set_defaults(run=lambda found: run_step(*found.names))
    found = parser.parse_args()
    found.run(found)


def print_speed(count: int, folder: Path | None) -> None:
    """Measure every step and print a table."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        root = Path(name)
        make_images(root / "source", count)
        print(f"{count} images of {WIDTH} x {HEIGHT}\n")
        print(
            "| step | images a CPU second | seconds | peak memory (MB) | size (MB) |\n|---|---|---|---|---|"
        )
        _print_step("listing", "source", "", root, count)
        for convention in EXPORTS:
            _print_step(f"export {convention}", "source", convention, root, count)
        shutil.make_archive(str(root / "isic"), "zip", root, "isic")
        for source in IMPORTS:
            _print_step(f"import {source}", source, f"from-{source}", root, count)
        _print_step("verify", "isic", "", root, count)


def make_images(folder: Path, count: int) -> None:
    """Write images that differ, and masks of about a third of their area."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    for number in range(count):
        rng = np.random.default_rng(number)
        blotches = Image.fromarray(rng.integers(0, 256, (9, 11, 3), np.uint8))
        grain = rng.integers(-6, 7, (HEIGHT, WIDTH, 1))
        image = np.asarray(blotches.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)) + grain
        name = f"ISIC_{number:07d}"
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(
            folder / f"images/{name}.jpg", quality=90
        )
        angle = np.arctan2(rows - 225, columns - 300)
        radius = 120 + 30 * np.sin(3 * angle + number) + 12 * np.sin(11 * angle)
        mask = np.hypot(rows - 225, columns - 300) < radius
        Image.fromarray(mask * np.uint8(255)).save(folder / f"masks/{name}_segmentation.png")


def _print_step(title: str, source: str, target: str, root: Path, count: int) -> None:
    """Run one step in its own process and print its row."""
    command = [sys.executable, __file__, "step", title.split()[0], str(root / source), str(root / target)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(said)
    size = sum(path.stat().st_size for path in (root / target).rglob("*") if path.is_file()) if target else 0
    rate, seconds = count / found["processor"], found["seconds"]
    print(f"| {title} | {rate:.0f} | {seconds:.1f} | {found['memory']:.0f} | {size / 1e6:.0f} |", flush=True)


def run_step(step: str, source: str, target: str) -> None:
    """Run one step; print its seconds, those of the processor, and the peak memory of this process in MB."""
    work: dict[str, Callable[[], Any]] = {
        "listing": lambda: read_dataset(source),
        "export": lambda: last(
            export_dataset(read_dataset(source).records, target, Path(target).name, config=KEEP)
        ),
        "import": lambda: last(import_dataset(source, target)),
        "verify": lambda: last(verify(source)),
    }
    start, processor = time.perf_counter(), time.process_time()
    work[step]()
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "processor": processor, "memory": memory}))


def print_round_trips(data: Path) -> None:
    """Bring real collections in, correct them in a study, write them, bring them in again, compare hashes."""
    print("| collection | images | through | identical | files intact |\n|---|---|---|---|---|")
    for name in REAL:
        for convention in ROUND_TRIPS:
            with tempfile.TemporaryDirectory() as folder:
                count, same, intact = round_trip(data / name, convention, Path(folder))
            print(f"| {name} | {count} | {convention} | {same} | {'yes' if intact else 'no'} |", flush=True)


def round_trip(source: Path, convention: str, folder: Path) -> tuple[int, int, bool]:
    """Return how many images there were, how many came back identical, and whether all hashes held."""
    last(import_dataset(source, folder / "in"))
    study_from_dataset(folder / "study", "am", read_dataset(folder / "in"))
    settings = KEEP.model_copy(update={"polygons": convention.endswith("polygons")})
    with Study.open(folder / "study", "am") as study:
        correct(study)
        records = study_records(study)
        expected = {record.name: digest(record) for record in records}
        last(export_dataset(records, folder / "out", convention.split()[0], config=settings))
    last(import_dataset(folder / "out", folder / "back"))
    found = {record.name: digest(record) for record in read_dataset(folder / "back").records}
    checks = [last(verify(folder / name)) for name in ("in", "out", "back")]
    intact = all(check.intact for check in checks)
    return len(expected), sum(found.get(name) == value for name, value in expected.items()), intact


def correct(study: Study) -> None:
    """Paint a little into every outline and sign it, as an annotator would."""
    for image in study.state.images:
        labels = study.read_mask(image).copy()
        labels[5:15, 5:25] = 1
        study.approve(image, labels)


def digest(record: Record) -> str:
    """Hash a record's image and classes."""
    pixels = record.load()
    return hashlib.sha256(pixels.image.tobytes() + pixels.labels.tobytes()).hexdigest()


def last(steps: Iterator[Any]) -> Any:
    """Run a piece of work to its end and return the result."""
    return deque(steps, maxlen=1)[0]


if __name__ == "__main__":
    main()
