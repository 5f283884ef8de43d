"""Measure how well several lesions in one image are found and separated.

Prints tables of ``docs/development/benchmarks.md``::

    python benchmarks/instances.py [--model M] [--data DIR] [--images N] [--json F] [--quick]

- "drawn": synthetic images with two to six separate lesions and exact ground truth.
- "pad-smartphone": photos without a dermoscope; the connected regions of the annotators' masks are the ground
  truth. Those with several lesions are also shown separately.
- "cutting": no network. Two synthetic lesions that overlap slightly must be cut in two; synthetic and real
  single lesions must not be cut.

A lesion is found if its Jaccard index is at least 0.5; AP is COCO's. Regions smaller than a thousandth of the
image are ignored in both masks.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

import napari_lesionseg as ls
from images import add_data_argument
from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.datasets.synthetic import synthetic_sample
from napari_lesionseg.evaluation.instances import Ranked, add_counts, average_precision, count_matches
from napari_lesionseg.inference.postprocess import postprocess
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.io.images import read_image, read_mask
from napari_lesionseg.io.pairing import find_pairs
from napari_lesionseg.masks.instance_edits import delete_instances
from napari_lesionseg.masks.instances import find_instances, list_instances
from napari_lesionseg.types import ByteImage

SMALLEST = 1e-3
"""Parts with a smaller share of the image are left out."""

NARROW_POINTS = (None, 0.6, 0.7, 0.8)


@dataclass(frozen=True, slots=True)
class Row:
    """The result for one set of images with one method of separating lesions."""

    data: str
    images: int
    lesions: int
    narrow_point: float | None
    precision: float
    recall: float
    f1: float
    mean_jaccard: float
    quality: float
    ap50: float
    ap: float


def without_specks(ids: np.ndarray) -> np.ndarray:
    """Leave out parts that are too small to be meant."""
    least = SMALLEST * ids.size
    return delete_instances(ids, [row.index for row in list_instances(ids) if row.area < least])


def drawn_images(count: int) -> Iterator[tuple[ByteImage, np.ndarray]]:
    """Draw images with several lesions."""
    for seed in range(count):
        sample = synthetic_sample(10_000 + seed, n_lesions=2 + seed % 5)
        yield sample.image, sample.instances.astype(np.int32)


def real_images(folder: Path, count: int) -> Iterator[tuple[ByteImage, np.ndarray]]:
    """Read photos, and number the connected parts of their masks."""
    for pair in list(find_pairs([folder / "images"], [folder / "masks"]).pairs)[:count]:
        image = read_image(pair.image)
        mask = read_mask(pair.mask, image.shape[:2]) > 0
        yield image, without_specks(find_instances(mask))


def look(model: Model, image: ByteImage) -> tuple[np.ndarray, np.ndarray]:
    """Predict an image; return its mask with all parts, and the probability."""
    probability = model.predict(image)
    config = PostprocessConfig(largest_only=False, min_area=round(SMALLEST * probability.size))
    return postprocess(probability, config, model.card.threshold), probability


def rank(mask: np.ndarray, probability: np.ndarray, truth: np.ndarray, narrow_point: float | None) -> Ranked:
    """Separate the lesions of a mask, with the mean probability of each as its confidence."""
    ids = find_instances(mask, narrow_point=narrow_point)
    rows = list_instances(ids, probability=probability)
    return Ranked(ids, {row.index: row.confidence or 0.0 for row in rows}, truth)


def sum_up(data: str, narrow_point: float | None, ranked: Sequence[Ranked]) -> Row:
    """Sum up what was found in a set of images."""
    counts = add_counts(count_matches(image.predicted, image.truth) for image in ranked)
    precision = average_precision(ranked)
    return Row(
        data=data,
        images=len(ranked),
        lesions=counts.matched + counts.missed,
        narrow_point=narrow_point,
        precision=counts.precision,
        recall=counts.recall,
        f1=counts.f1,
        mean_jaccard=counts.mean_jaccard,
        quality=counts.quality,
        ap50=precision.values[0] if precision else float("nan"),
        ap=precision.mean if precision else float("nan"),
    )


def measure(model: Model, data: str, images: Iterable[tuple[ByteImage, np.ndarray]]) -> list[Row]:
    """Measure a model on images with known lesions."""
    answers = [
        (*look(model, image), truth)
        for image, truth in track(list(images), data, console=Console(stderr=True))
    ]
    rows = []
    for narrow_point in NARROW_POINTS:
        ranked = [rank(*answer, narrow_point) for answer in answers]
        rows.append(sum_up(data, narrow_point, ranked))
        several = [sample for sample in ranked if sample.truth.max() > 1]
        if data != "drawn" and several:
            rows.append(sum_up(f"{data}, several", narrow_point, several))
    return sorted(rows, key=lambda row: row.data)


def touching(seed: int, overlap: float = 0.04) -> np.ndarray:
    """Push two drawn lesions together until a share of the smaller one is covered."""
    one, two = (synthetic_sample(seed + 1000 * turn, (200, 200), artifacts=False).mask for turn in (0, 1))
    for shift in range(240, 0, -2):
        both = np.zeros((2, 220, 480), bool)
        both[0, 10:210, 20:220] = one
        both[1, 10:210, 20 + shift : 220 + shift] = two
        if both.all(axis=0).sum() > overlap * min(one.sum(), two.sum()):
            break
    return both.any(axis=0)


def cutting_table(data: Path, count: int) -> Table:
    """Lay out how often touching lesions are cut, and single ones, at different narrow points."""
    pushed = [touching(seed) for seed in range(count)]
    drawn = [synthetic_sample(seed, (200, 200), artifacts=False).mask for seed in range(count)]
    folder = data / "isic2017-train-256" / "masks"
    real = [read_mask(path) for path in sorted(folder.glob("*"))[:: max(1, 2000 // (10 * count))]]
    made = Table(
        "narrow point", "touching, cut in two", "drawn single, cut", "real single, cut", title="Cutting"
    )
    for narrow_point in NARROW_POINTS[1:]:
        right = np.mean([_more(mask, narrow_point) == 1 for mask in pushed])
        wrong = [
            np.mean([_more(mask, narrow_point) > 0 for mask in masks]) if masks else np.nan
            for masks in (drawn, real)
        ]
        made.add_row(str(narrow_point), f"{right:.0%} of {len(pushed)}", *(f"{share:.1%}" for share in wrong))
    return made


def _more(mask: np.ndarray, narrow_point: float | None) -> int:
    """Count how many more lesions there are when touching ones are cut."""
    return int(find_instances(mask, narrow_point=narrow_point).max() - find_instances(mask).max())


def found_table(rows: Sequence[Row]) -> Table:
    """Lay out what was found."""
    heads = (
        "data",
        "images",
        "lesions",
        "narrow point",
        "precision",
        "recall",
        "F1",
        "mean Jaccard",
        "PQ",
        "AP50",
        "AP",
    )
    made = Table(*heads, title="Lesions found")
    for row in rows:
        figures = (row.precision, row.recall, row.f1, row.mean_jaccard, row.quality, row.ap50, row.ap)
        narrow_point = "not cut" if row.narrow_point is None else str(row.narrow_point)
        made.add_row(
            row.data, str(row.images), str(row.lesions), narrow_point, *(f"{value:.3f}" for value in figures)
        )
    return made


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="name or file of the model (default: the shipped one)")
    add_data_argument(parser)
    parser.add_argument("--images", type=int, default=50, help="number of synthetic images")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--quick", action="store_true", help="few images, for testing")
    arguments = parser.parse_args()
    arguments.images = 5 if arguments.quick else arguments.images
    return arguments


def main() -> None:
    """Measure, and print the tables."""
    arguments = parse_arguments()
    model = ls.load_model(arguments.model)
    rows = measure(model, "drawn", drawn_images(arguments.images))
    folder = arguments.data / "pad-smartphone"
    if folder.is_dir():
        count = 5 if arguments.quick else 1000
        rows += measure(model, "pad-smartphone", real_images(folder, count))
    console = Console() if sys.stdout.isatty() else Console(width=140)
    console.print(found_table(rows), cutting_table(arguments.data, arguments.images))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
