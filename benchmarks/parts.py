"""Choose which parts of an automatic outline are kept, by the F1 score per lesion.

Prints the table of ``docs/development/benchmarks.md``::

    python benchmarks/parts.py [--model M] [--data FOLDER]

A part of the outline and a lesion match if their Jaccard index is at least 0.5; lesions and parts smaller
than a thousandth of the image do not count. The rule is chosen on the validation sets of ISIC; the photos and
PH2 only test it. "largest" keeps the largest part, "all" keeps all, and a number keeps every part of at least
that share of the largest part's area.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from skimage.measure import label

import napari_lesionseg as ls
from images import add_data_argument, find_set, jaccard
from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.io.images import read_image, read_mask
from napari_lesionseg.types import LabelImage

SETS = {
    "ISIC 2017 validation": "isic2017-val-256",
    "ISIC 2018 crops": "isic-crop512-val",
    "smartphone photos": "pad-smartphone",
    "PH2": "ph2-sample",
}
SHARES = (0.1, 0.15, 0.2, 0.3, 0.5)
MATCHED = 0.5
SMALLEST = 1e-3
"""Of the image's pixels."""


@dataclass(frozen=True, slots=True)
class Pair:
    """An outline with all its parts, and the truth."""

    outline: LabelImage
    truth: LabelImage


def predict(folder: Path, model: ls.Model, limit: int | None) -> list[Pair]:
    """Outline every image of a set, with all parts."""
    config, pairs = PostprocessConfig(largest_only=False), []
    for pair in find_set(folder, limit):
        outline = ls.segment(read_image(pair.image), model=model, postprocess=config)
        pairs.append(Pair(outline, (read_mask(pair.mask) > 0).astype(np.uint8)))
    return pairs


def parts_of(mask: LabelImage) -> list[NDArray[np.bool_]]:
    """Return the connected parts that are large enough to count."""
    numbered = label(mask, connectivity=2)
    sizes = np.bincount(numbered.ravel())
    return [numbered == part for part in range(1, len(sizes)) if sizes[part] >= SMALLEST * mask.size]


def kept(outline: LabelImage, share: float) -> LabelImage:
    """Keep the parts of at least a share of the largest part's area."""
    numbered = label(outline, connectivity=2)
    sizes = np.bincount(numbered.ravel())
    sizes[0] = 0
    large = sizes >= share * sizes.max(initial=0)
    large[0] = False
    return large[numbered].astype(np.uint8)


def matches(outline: LabelImage, truth: LabelImage) -> tuple[int, int, int]:
    """Return how many lesions match a part, and how many parts and lesions there are."""
    found, lesions = parts_of(outline), parts_of(truth)
    overlaps = [
        [jaccard(part.astype(np.uint8), lesion.astype(np.uint8)) for part in found] for lesion in lesions
    ]
    return sum(max(row, default=0) >= MATCHED for row in overlaps), len(found), len(lesions)


def score(pairs: Sequence[Pair], share: float) -> tuple[float, float, float]:
    """Return F1 per lesion, that of images with several lesions, and the mean Jaccard index."""
    rows = []
    for pair in pairs:
        outline = kept(pair.outline, share)
        rows.append((*matches(outline, pair.truth), jaccard(outline, pair.truth)))
    table = np.array(rows)
    several = table[table[:, 2] > 1]
    return f1(table), f1(several), float(table[:, 3].mean())


def f1(table: NDArray[np.float64]) -> float:
    """Return the F1 score of rows of matches, parts and lesions."""
    matched, found, lesions = table[:, :3].sum(axis=0)
    return float(2 * matched / (found + lesions)) if found + lesions else float("nan")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="name in the model store or path of a model file")
    parser.add_argument("--limit", type=int, help="images of each set, evenly spaced")
    add_data_argument(parser)
    arguments = parser.parse_args()
    model = ls.load_model(arguments.model)
    table = Table("images", "n", "several", "parts kept", "F1", "F1 where several", "Jaccard")
    for name, folder in SETS.items():
        pairs = predict(arguments.data / folder, model, arguments.limit)
        several = sum(len(parts_of(pair.truth)) > 1 for pair in pairs)
        for rule, share in {"largest": 1.0, "all": 0.0, **{f"{at:.2f}": at for at in SHARES}}.items():
            values = (f"{value:.3f}" for value in score(pairs, share))
            table.add_row(name, str(len(pairs)), str(several), rule, *values)
        table.add_section()
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
