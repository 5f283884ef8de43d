"""Train on few and many images for few and many passes, with the defaults and with settings chosen by hand.

Prints the table of defaults in ``docs/development/benchmarks.md``::

    OMP_NUM_THREADS=1 python benchmarks/defaults.py [--only CASE ...] [--json F] [--data DIR]

Every case is a `lesionseg train` and a score of held-out images: the mean Jaccard index, in which a pixel
counts only if its class is right. People and lesions of three kinds are drawn; the other images are those of
the ISIC 2017 training and validation sets and of PH2. With ``--json``, finished runs are kept.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import numpy as np
from rich.console import Console
from rich.table import Table

import napari_lesionseg as ls
from images import add_data_argument, find_set
from napari_lesionseg.cli.main import main as run_command
from napari_lesionseg.datasets.synthetic import LESION_KINDS, synthetic_figure, synthetic_sample
from napari_lesionseg.io.images import read_image, read_mask, write_image, write_mask
from napari_lesionseg.types import ByteImage, LabelImage

START = ("--start", "lesionseg-2.0")
KINDS = LESION_KINDS[:3]
HELD_OUT = 50
FIRST_HELD_OUT = 1000  # seed
Drawn = tuple[ByteImage, LabelImage]


@dataclass(frozen=True, slots=True)
class Case:
    """Images to train on, and how long."""

    images: Callable[[Path], Sequence[Drawn]]
    held_out: Callable[[Path], Sequence[Drawn]]
    passes: int
    options: Sequence[str] = START
    ways: dict[str, Sequence[str]] = field(default_factory=dict)
    """Options of the settings chosen by hand, by name."""


def draw_people(seeds: range) -> Callable[[Path], Sequence[Drawn]]:
    """Return a function that draws one or two people in each image."""
    return lambda _: [(figure.image, figure.mask) for figure in map(synthetic_figure, seeds)]


def draw_kinds(seeds: range) -> Callable[[Path], Sequence[Drawn]]:
    """Return a function that draws lesions of three kinds, each a class."""

    def draw(_: Path) -> list[Drawn]:
        drawn = []
        for seed in seeds:
            kind = seed % len(KINDS)
            sample = synthetic_sample(seed, (192, 256), kind=KINDS[kind])
            drawn.append((sample.image, (sample.mask * (kind + 1)).astype(np.uint8)))
        return drawn

    return draw


def read_part(name: str, part: slice) -> Callable[[Path], Sequence[Drawn]]:
    """Return a function that reads a part of a dataset."""
    return lambda data: [
        (read_image(pair.image), (read_mask(pair.mask) > 0).astype(np.uint8))
        for pair in find_set(data / name)[part]
    ]


PEOPLE, KINDS_APART = (
    draw(range(FIRST_HELD_OUT, FIRST_HELD_OUT + HELD_OUT)) for draw in (draw_people, draw_kinds)
)
NO_AVERAGE = {"no average of the weights": ("--set", "average=0")}
HALF_RATES = {"half the rates": ("--set", "encoder_lr=2e-4", "--set", "decoder_lr=1e-3")}
AS_PEOPLE = (*START, "--classes", "background", "person")
CASES = {
    "194 people, 1 pass": Case(draw_people(range(194)), PEOPLE, 1, AS_PEOPLE, NO_AVERAGE),
    "194 people, 8 passes": Case(
        draw_people(range(194)),
        PEOPLE,
        8,
        AS_PEOPLE,
        NO_AVERAGE | HALF_RATES | {"recipe upright": ("--recipe", "upright")},
    ),
    "20 people, 1 pass": Case(draw_people(range(20)), PEOPLE, 1, AS_PEOPLE, NO_AVERAGE),
    "20 people, 8 passes": Case(draw_people(range(20)), PEOPLE, 8, AS_PEOPLE, NO_AVERAGE),
    "20 people, 50 passes": Case(draw_people(range(20)), PEOPLE, 50, AS_PEOPLE, NO_AVERAGE),
    "three kinds, 90 images, 12 passes": Case(
        draw_kinds(range(90)), KINDS_APART, 12, (*START, "--classes", "background", *KINDS), NO_AVERAGE
    ),
    "10 of PH2, 8 passes": Case(
        read_part("ph2-sample", slice(0, None, 2)),
        read_part("ph2-sample", slice(1, None, 2)),
        8,
        ways=NO_AVERAGE | {"not trained": ()},
    ),
    "2000 of ISIC, from ImageNet, 1 pass": Case(
        read_part("isic2017-train-256", slice(None)),
        read_part("isic2017-val-256", slice(None)),
        1,
        ("--set", "sizes=[[0, 192]]"),
        NO_AVERAGE,
    ),
}


def measure(case: Case, way: Sequence[str] | None, data: Path) -> tuple[float, float]:
    """Train as a case says; return the score of the held-out images, and the CPU time in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder), Path(folder) / "model.safetensors"
        for name, drawn in (("images", case.images(data)), ("held-out", case.held_out(data))):
            _write(root / name, drawn)
        options = [str(root / "images"), "--masks", str(root / "images-masks"), "--out", str(out)]
        options += ["--val-images", str(root / "held-out"), "--val-masks", str(root / "held-out-masks")]
        options += ["--epochs", str(case.passes), *case.options, *(way or ())]
        started = time.process_time()
        if way != () and run_command(["train", *options]) != 0:
            raise SystemExit("The training failed.")
        seconds = time.process_time() - started
        model = ls.load_model(out if way != () else None)
        return fmean(_score(model, *drawn) for drawn in case.held_out(data)), seconds


def _write(folder: Path, drawn: Sequence[Drawn]) -> None:
    masks = folder.with_name(f"{folder.name}-masks")
    folder.mkdir()
    masks.mkdir()
    for number, (image, mask) in enumerate(drawn):
        write_image(folder / f"{number:04}.png", image)
        write_mask(masks / f"{number:04}.png", mask)


def _score(model: ls.Model, image: ByteImage, truth: LabelImage) -> float:
    """Return the Jaccard index of an image; a pixel of another class than it should be is wrong."""
    found = ls.segment(image, model)
    union = np.count_nonzero(found | truth)
    return np.count_nonzero((found == truth) & (truth > 0)) / union if union else 1.0


def main() -> None:
    """Run what is not finished yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_data_argument(parser)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    parser.add_argument("--json", type=Path, help="file of the results")
    chosen = parser.parse_args()
    kept = json.loads(chosen.json.read_text()) if chosen.json and chosen.json.exists() else {}
    table = Table("images and passes", "settings", "Jaccard", "CPU s")
    for name in chosen.only:
        case = CASES[name]
        for way, options in {"defaults": None, **case.ways}.items():
            key = f"{name}: {way}"
            if key not in kept:
                kept[key] = measure(case, options, chosen.data)
                if chosen.json:
                    chosen.json.write_text(json.dumps(kept, indent=1))
            score, seconds = kept[key]
            table.add_row(name, way, f"{score:.3f}", f"{seconds:.0f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
