"""Measure outlines after one gesture: a box, a lasso, a scribble, or clicks.

Prints a table of ``docs/development/benchmarks.md``::

    python benchmarks/prompts.py [--model M] [--data DIR] [--sets S ...] [--every N] [--baselines] [--json F]

- Gestures are imperfect, as people's are, and around all lesions of the image together. Each side of a
  box is off by a normally distributed error of 5 % of the box's side. A lasso is 5 to 12 % of the equivalent
  radius too wide, with low-frequency noise. A scribble is a short stroke through the deepest place of the
  largest error of the automatic outline. Clicks are those of ``benchmarks/clicks.py``, exact.
- "ellipse" and "lasso filled" are the gestures themselves, without a network.
- ``--baselines`` adds GrabCut (OpenCV, which is not a dependency: ``pip install opencv-python-headless``),
  started from the ellipse in the box, and the random walker of scikit-image between the ellipse's core and
  the outside of the box.
- Images with more than 900 pixels along a side are made smaller first.
- For each gesture: the mean Jaccard index, and the percentage of images with 0.85 or more.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import ndimage
from skimage.measure import find_contours
from skimage.morphology import skeletonize

import napari_lesionseg as ls
from images import add_data_argument, find_set, jaccard
from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.inference.clicks import next_click
from napari_lesionseg.inference.predictor import EncodedImage, Model
from napari_lesionseg.inference.prompts import fill_area
from napari_lesionseg.io.images import read_image, read_mask
from napari_lesionseg.io.resize import resize_image, resize_labels
from napari_lesionseg.types import Box, ByteImage, Click, LabelImage, Prompts, Scribble

SETS = ("isic-crop512-val", "ph2-sample", "pad-smartphone")
LONGEST_SIDE = 900
BOX_ERROR = 0.05
LASSO_WIDER = (0.05, 0.12)
SCRIBBLE_REACH = 3.0  # of the depth of the error: how far a scribble goes from the deepest place
CLICKS = (1, 2, 3, 5)
GOOD = 0.85

Mask = NDArray[np.bool_]


def draw_box(truth: Mask, rng: np.random.Generator) -> Box:
    """Draw a box around a mask, each side a little off."""
    rows, cols = (np.flatnonzero(truth.any(axis=axis)) for axis in (1, 0))
    sides = np.array([rows[0], cols[0], rows[-1] + 1, cols[-1] + 1], float)
    height, width = sides[2:] - sides[:2]
    sides += rng.normal(0, BOX_ERROR, 4) * (height, width, height, width)
    top, left, bottom, right = (round(side) for side in sides.tolist())
    return Box(top, left, max(bottom, top + 2), max(right, left + 2))


def draw_lasso(truth: Mask, rng: np.random.Generator) -> tuple[tuple[float, float], ...]:
    """Draw a closed stroke around a mask, too wide and not smooth."""
    radius = math.sqrt(truth.sum() / math.pi)
    pad = math.ceil(radius / 2) + 2
    padded = np.pad(truth, pad)
    rows, cols = np.nonzero(padded)
    center = (rows.min() + rows.max()) / 2, (cols.min() + cols.max()) / 2
    angle = np.arctan2(
        np.arange(padded.shape[0])[:, None] - center[0], np.arange(padded.shape[1]) - center[1]
    )
    noise = sum(
        rng.normal(0, 0.03 / math.sqrt(turn)) * np.cos(turn * angle + rng.uniform(0, 2 * math.pi))
        for turn in range(2, 7)
    )
    distance = ndimage.distance_transform_edt(~padded) - ndimage.distance_transform_edt(padded)
    outline = find_contours(distance - radius * (rng.uniform(*LASSO_WIDER) + noise), 0)
    longest = max(outline, key=len) - pad
    return tuple((row, col) for row, col in longest[:: max(1, len(longest) // 100)].tolist())


def draw_scribble(predicted: Mask, truth: Mask) -> Scribble | None:
    """Draw along the deepest line of the largest error; None without an error."""
    click = next_click(predicted, truth)
    if click is None:
        return None
    wrong = truth & ~predicted if click.positive else predicted & ~truth
    parts, _ = ndimage.label(wrong)
    part = parts == parts[click.pixel]
    depth = ndimage.distance_transform_edt(np.pad(part, 1))[1:-1, 1:-1]
    near = np.ones(part.shape, bool)
    near[click.pixel] = False
    line = skeletonize(part) & (depth > 0.5 * depth.max())
    line &= ndimage.distance_transform_edt(near) <= SCRIBBLE_REACH * depth.max()
    points = sorted((float(row), float(col)) for row, col in np.argwhere(line)) or [(click.row, click.col)]
    return Scribble(points, click.positive)


class Subject:
    """One image with its true mask, encoded by a model."""

    def __init__(self, model: Model, image: ByteImage, truth: LabelImage, seed: int) -> None:
        self.image, self.truth, self.model = image, truth, model
        self.encoded: EncodedImage = model.encode(image)
        self.automatic = self.outline(Prompts())
        rng = np.random.default_rng(seed)
        self.box, self.lasso = draw_box(truth > 0, rng), draw_lasso(truth > 0, rng)

    def outline(self, prompts: Prompts) -> LabelImage:
        """Make the outline as the program does."""
        prediction = self.encoded.predict_logits(prompts)
        return prediction.to_mask(PostprocessConfig(), self.model.card.threshold, prompts.points)

    def gestures(self) -> Iterator[tuple[str, LabelImage]]:
        """Yield the outline after each gesture."""
        yield "automatic", self.automatic
        yield "ellipse", self.ellipse(0.97).astype(np.uint8)
        yield "box", self.outline(Prompts(box=self.box))
        whole = Box(0, 0, *self.truth.shape)
        yield "lasso filled", fill_area(Prompts(lasso=self.lasso), whole, self.truth.shape).astype(np.uint8)
        yield "lasso", self.outline(Prompts(lasso=self.lasso))
        scribble = draw_scribble(self.automatic > 0, self.truth > 0)
        yield "scribble", self.outline(Prompts(scribbles=(scribble,))) if scribble else self.automatic
        yield from self._clicks()

    def _clicks(self) -> Iterator[tuple[str, LabelImage]]:
        outline, clicks = self.automatic, list[Click]()
        probability = self.encoded.predict()
        for count in range(1, max(CLICKS) + 1):
            click = next_click(outline > 0, self.truth > 0)
            if click is not None:
                clicks.append(click)
                prediction = self.encoded.predict_logits(Prompts(tuple(clicks)), probability)
                probability = prediction.probability()
                outline = prediction.to_mask(PostprocessConfig(), self.model.card.threshold, clicks)
            if count in CLICKS:
                yield f"{count} clicks" if count > 1 else "1 click", outline

    def ellipse(self, radius: float) -> Mask:
        """Fill the ellipse that touches the sides of the box, or a part of it."""
        rows, cols = np.ogrid[: self.truth.shape[0], : self.truth.shape[1]]
        box = self.box
        down = (rows + 0.5 - (box.top + box.bottom) / 2) / ((box.bottom - box.top) / 2)
        across = (cols + 0.5 - (box.left + box.right) / 2) / ((box.right - box.left) / 2)
        filled: Mask = np.hypot(down, across) <= radius
        return filled

    def baselines(self) -> Iterator[tuple[str, LabelImage]]:
        """Yield the outlines of methods without a network, started from the box."""
        inside = fill_area(Prompts(box=self.box), Box(0, 0, *self.truth.shape), self.truth.shape)
        yield "GrabCut", grab_cut(self.image, inside, self.ellipse(0.97), self.ellipse(0.6))
        yield "random walker", walk_randomly(self.image, inside, self.ellipse(0.6))


def grab_cut(image: ByteImage, inside: Mask, likely: Mask, sure: Mask) -> LabelImage:
    """Outline with GrabCut of OpenCV."""
    import cv2  # only this baseline needs it

    labels = np.where(inside, cv2.GC_PR_BGD, cv2.GC_BGD).astype(np.uint8)
    labels[likely], labels[sure & inside] = cv2.GC_PR_FGD, cv2.GC_FGD
    labels[~inside] = cv2.GC_BGD
    state = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(np.ascontiguousarray(image[..., ::-1]), labels, None, *state, 5, cv2.GC_INIT_WITH_MASK)
    return np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)


def walk_randomly(image: ByteImage, inside: Mask, sure: Mask) -> LabelImage:
    """Outline with the random walker of scikit-image, at 256 pixels along the longer side."""
    from skimage.segmentation import random_walker

    scale = min(1.0, 256 / max(inside.shape))
    shape = round(inside.shape[0] * scale), round(inside.shape[1] * scale)
    seeds = resize_labels(np.where(inside, np.where(sure, 1, 0), 2).astype(np.uint8), shape)
    small = resize_image(image, shape)
    walked = random_walker(small, seeds.astype(int), beta=130, mode="cg_j", channel_axis=-1)
    return resize_labels((walked == 1).astype(np.uint8), (inside.shape[0], inside.shape[1]))


def measure_set(
    model: Model, folder: Path, every: int, more: Callable[[Subject], Iterator[tuple[str, LabelImage]]] | None
) -> dict[str, list[float]]:
    """Return the Jaccard indices of every gesture on a dataset."""
    scores: dict[str, list[float]] = {}
    pairs = find_set(folder)[::every]
    for seed, pair in enumerate(track(pairs, folder.name, console=Console(stderr=True))):
        image = read_image(pair.image)
        truth = (read_mask(pair.mask, image.shape[:2]) > 0).astype(np.uint8)
        if not truth.any():
            continue
        scale = min(1.0, LONGEST_SIDE / max(truth.shape))
        shape = round(truth.shape[0] * scale), round(truth.shape[1] * scale)
        subject = Subject(model, resize_image(image, shape), resize_labels(truth, shape), seed)
        for name, outline in (*subject.gestures(), *(more(subject) if more else ())):
            scores.setdefault(name, []).append(jaccard(outline, subject.truth))
    return scores


def make_table(results: dict[str, dict[str, list[float]]], title: str) -> Table:
    """Lay out the figures, a row for each gesture."""
    sizes = {name: len(next(iter(scores.values()))) for name, scores in results.items()}
    table = Table("gesture", *(f"{name}, {size} images" for name, size in sizes.items()), title=title)
    for gesture in next(iter(results.values())):
        cells = (np.array(scores[gesture]) for scores in results.values())
        table.add_row(gesture, *(f"{cell.mean():.3f}, {100 * (cell >= GOOD).mean():.0f} %" for cell in cells))
    return table


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="name or file of the model (default: the shipped one)")
    add_data_argument(parser)
    parser.add_argument("--sets", nargs="*", choices=SETS, default=SETS, help="data sets to measure on")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="measure every Nth image only")
    parser.add_argument("--baselines", action="store_true", help="also GrabCut and the random walker")
    parser.add_argument("--json", type=Path, help="write all scores, also per image, to this file")
    return parser.parse_args(arguments)


def main() -> None:
    """Measure, print the table and write the file asked for."""
    options = parse_arguments()
    model = ls.load_model(options.model)
    more: Any = Subject.baselines if options.baselines else None
    results = {name: measure_set(model, options.data / name, options.every, more) for name in options.sets}
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(make_table(results, f"{model.card.name}: Jaccard index, images with {GOOD} or more"))
    if options.json:
        options.json.write_text(json.dumps({"model": model.card.name, "scores": results}, indent=1))


if __name__ == "__main__":
    main()
