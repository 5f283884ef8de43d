"""Measure outlines after one gesture, and how many gestures a good outline takes.

Prints the tables of ``docs/development/benchmarks.md``::

    python benchmarks/prompts.py [--models M ...] [--data DIR] [--sets S ...] [--every N]
        [--baselines] [--actions N] [--json F]

- Several models are measured side by side, with the same gestures.
- Gestures are imperfect, as people's are, and around all lesions of the image together. Each side of a
  box is off by a normally distributed error of 5 % of the box's side. A lasso follows a smoothed outline,
  5 to 12 % of the equivalent radius too wide, with low-frequency noise of 4 % that is independent of the
  image. A scribble is a short stroke through the deepest place of the largest error of the automatic outline.
  Clicks are those of ``benchmarks/clicks.py``, exact.
- "a box each" draws a box around each lesion of the image, as with Shift in the window.
- "ellipse" and "lasso filled" are the gestures themselves, without a network.
- ``--baselines`` adds GrabCut (OpenCV, which is not a dependency: ``pip install opencv-python-headless``),
  started from the ellipse in the box, and the random walker of scikit-image between the ellipse's core and
  the outside of the box.
- Images with more than 900 pixels along a side are made smaller first.
- For each gesture: the mean Jaccard index, and the percentage of images with 0.85 or more.
- ``--actions N`` counts the gestures until an outline reaches 0.85 and 0.90 (N + 1 if more than N). Each
  time, a simulated annotator chooses what helps most: a box or a lasso if there is none yet, a click or a
  scribble.
- Calibration is the expected calibration error of all pixels together. Times are medians of further clicks.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import ndimage
from skimage.graph import MCP_Geometric
from skimage.measure import find_contours
from skimage.morphology import skeletonize

import napari_lesionseg as ls
from images import add_data_argument, find_set, jaccard
from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.evaluation.calibration import expected_calibration_error
from napari_lesionseg.inference.clicks import next_click
from napari_lesionseg.inference.prediction import Prediction
from napari_lesionseg.inference.predictor import EncodedImage, Model
from napari_lesionseg.inference.prompts import fill_area
from napari_lesionseg.io.images import read_image, read_mask
from napari_lesionseg.io.resize import resize_image, resize_labels
from napari_lesionseg.types import Box, ByteImage, Click, LabelImage, Prompts, Scribble

SETS = ("isic-crop512-val", "isic2017-val-256", "isic2017-val-fullres", "ph2-sample", "pad-smartphone")
LONGEST_SIDE = 900
BOX_ERROR = 0.05
LASSO_WIDER, LASSO_NOISE, LASSO_SMOOTHING = (0.05, 0.12), 0.04, 0.1  # of the equivalent radius
SCRIBBLE_REACH = 3.0  # of the depth of the error: how far a scribble goes from the deepest place
SMALL_LESION = 0.05  # of the largest: smaller parts get no box of their own
CLICKS = (1, 2, 3, 5)
GOOD, VERY_GOOD = 0.85, 0.9
CALIBRATION_PIXELS = 4096  # of an image

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
    """Draw a closed stroke around a mask, too wide, without its detail, and with errors of its own."""
    radius = math.sqrt(truth.sum() / math.pi)
    pad = math.ceil(radius / 2) + 2
    padded = np.pad(truth, pad)
    smooth = ndimage.gaussian_filter(padded.astype(float), LASSO_SMOOTHING * radius) >= 0.5
    shape = smooth if smooth.any() else padded
    distance = ndimage.distance_transform_edt(~shape) - ndimage.distance_transform_edt(shape)
    rows, cols = np.nonzero(shape)
    angle = np.arctan2(
        np.arange(shape.shape[0])[:, None] - rows.mean(), np.arange(shape.shape[1]) - cols.mean()
    )
    turns = range(1, 7)
    waves = [rng.normal() * np.cos(turn * angle + rng.uniform(0, 2 * math.pi)) for turn in turns]
    noise = LASSO_NOISE * np.sum(waves, axis=0) * math.sqrt(2 / len(turns))
    outline = find_contours(distance - radius * (rng.uniform(*LASSO_WIDER) + noise), 0)
    longest = max(outline, key=len) - pad
    return tuple((row, col) for row, col in longest[:: max(1, len(longest) // 100)].tolist())


def each_lesion(truth: Mask) -> Iterator[Mask]:
    """Yield the parts of a mask, but for small ones beside the largest."""
    parts, _ = ndimage.label(truth)
    sizes = np.bincount(parts.ravel(), minlength=2)[1:]
    for label in 1 + np.flatnonzero(sizes >= SMALL_LESION * sizes.max()):
        yield parts == label


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
    return Scribble(longest_path(line) or [(click.row, click.col)], click.positive)


def longest_path(line: Mask) -> list[tuple[float, float]]:
    """Return the pixels from one end of a skeleton to the other."""
    if not line.any():
        return []
    costs, start = np.where(line, 1.0, np.inf), tuple(np.argwhere(line)[0])
    for _ in range(2):  # the pixel farthest from any other is an end, that from it the other
        route = MCP_Geometric(costs)
        reached, _ = route.find_costs([start])
        start = np.unravel_index(np.where(np.isfinite(reached), reached, -1).argmax(), line.shape)
    return [(float(row), float(col)) for row, col in route.traceback(start)]


@dataclass
class Scores:
    """What was measured with one model on one dataset."""

    jaccard: dict[str, list[float]] = field(default_factory=dict)  # by gesture, a value an image
    actions: dict[str, list[int]] = field(default_factory=dict)  # by goal, a value an image
    pixels: dict[str, list[tuple[NDArray[np.float32], Mask]]] = field(default_factory=dict)
    click_ms: list[float] = field(default_factory=list)

    def calibration(self, gesture: str) -> float:
        """Return the expected calibration error after a gesture."""
        values, truths = (np.concatenate(each) for each in zip(*self.pixels[gesture], strict=True))
        return float(expected_calibration_error(values, truths))


class Subject:
    """One image with its true mask, encoded by a model."""

    def __init__(self, model: Model, image: ByteImage, truth: LabelImage, seed: int) -> None:
        self.image, self.truth, self.model = image, truth, model
        self.encoded: EncodedImage = model.encode(image)
        self.first = self.encoded.predict_logits()
        rng = np.random.default_rng(seed)
        self.box, self.lasso = draw_box(truth > 0, rng), draw_lasso(truth > 0, rng)

    def outline(self, prediction: Prediction) -> LabelImage:
        """Make the outline as the program does."""
        strokes = prediction.prompts.strokes
        return prediction.to_mask(PostprocessConfig(), self.model.card.threshold, strokes)

    def gestures(self) -> Iterator[tuple[str, Prediction]]:
        """Yield the prediction after each gesture."""
        yield "automatic", self.first
        yield "box", self.encoded.predict_logits(Prompts(box=self.box))
        yield "lasso", self.encoded.predict_logits(Prompts(lasso=self.lasso))
        scribble = draw_scribble(self.outline(self.first) > 0, self.truth > 0)
        drawn = Prompts((scribble,)) if scribble else Prompts()
        yield "scribble", self.encoded.predict_logits(drawn, self.first.probability())
        yield from self.clicks("click", Prompts(), self.first, CLICKS)
        yield from self.clicks("box, click", Prompts(box=self.box), None, CLICKS[:2])

    def clicks(
        self, name: str, prompts: Prompts, before: Prediction | None, counts: Sequence[int]
    ) -> Iterator[tuple[str, Prediction]]:
        """Yield the predictions after so many clicks, on top of other prompts."""
        prediction = before or self.encoded.predict_logits(prompts)
        for count in range(1, max(counts) + 1):
            click = next_click(self.outline(prediction) > 0, self.truth > 0)
            if click is not None:
                prompts = replace(prompts, strokes=(*prompts.strokes, click))
                prediction = self.encoded.predict_logits(prompts, prediction.probability())
            if count in counts:
                yield name if count == 1 else f"{name} x {count}", prediction

    def box_each(self) -> LabelImage:
        """Return the union of the outlines after a box around each lesion."""
        whole = self.truth > 0
        found, rng = np.zeros_like(self.truth), np.random.default_rng(ndimage.label(whole)[1])
        for lesion in each_lesion(whole):
            box = self.box if np.array_equal(lesion, whole) else draw_box(lesion, rng)
            found |= self.outline(self.encoded.predict_logits(Prompts(box=box)))
        return found

    def time_click(self) -> float:
        """Return the CPU milliseconds that a second click takes."""
        first = Click(*(float(at) for at in np.argwhere(self.truth > 0)[0]))
        probability = self.encoded.predict_logits(Prompts((first,)), self.first.probability()).probability()
        started = time.process_time()
        prompts = Prompts((first, Click(1.0, 1.0, positive=False)))
        self.outline(self.encoded.predict_logits(prompts, probability))
        return 1000 * (time.process_time() - started)

    def count_actions(self, most: int) -> dict[str, int]:
        """Count the gestures to each goal; ``most`` + 1 if they are too many."""
        goals = {f"NoC@{round(100 * goal)}": goal for goal in (GOOD, VERY_GOOD)}
        prediction, score = self.first, jaccard(self.outline(self.first), self.truth)
        needed = {name: 0 if score >= goal else most + 1 for name, goal in goals.items()}
        for count in range(1, most + 1):
            if score >= VERY_GOOD:
                break
            prediction, score = self._best_gesture(prediction)
            needed |= {n: count for n, goal in goals.items() if score >= goal and needed[n] > count}
        return needed

    def _best_gesture(self, before: Prediction) -> tuple[Prediction, float]:
        prompts, wrong = before.prompts, self.outline(before) > 0
        click, scribble = next_click(wrong, self.truth > 0), draw_scribble(wrong, self.truth > 0)
        tried = [replace(prompts, strokes=(*prompts.strokes, click))] if click else []
        if scribble is not None:
            tried.append(replace(prompts, strokes=(*prompts.strokes, scribble)))
        if not prompts.has_area:
            tried += [replace(prompts, box=self.box), replace(prompts, lasso=self.lasso)]
        probability = before.probability()
        found = [self.encoded.predict_logits(prompt, probability) for prompt in tried]
        return max(((p, jaccard(self.outline(p), self.truth)) for p in found), key=lambda pair: pair[1])

    def ellipse(self, radius: float) -> Mask:
        """Fill the ellipse that touches the sides of the box, or a part of it."""
        rows, cols = np.ogrid[: self.truth.shape[0], : self.truth.shape[1]]
        box = self.box
        down = (rows + 0.5 - (box.top + box.bottom) / 2) / ((box.bottom - box.top) / 2)
        across = (cols + 0.5 - (box.left + box.right) / 2) / ((box.right - box.left) / 2)
        filled: Mask = np.hypot(down, across) <= radius
        return filled

    def without_network(self, baselines: bool) -> Iterator[tuple[str, LabelImage]]:
        """Yield the gestures themselves, and the outlines of methods started from the box."""
        whole, shape = Box(0, 0, *self.truth.shape), self.truth.shape
        yield "ellipse", self.ellipse(0.97).astype(np.uint8)
        yield "lasso filled", fill_area(Prompts(lasso=self.lasso), whole, shape).astype(np.uint8)
        if baselines:
            inside = fill_area(Prompts(box=self.box), whole, shape)
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


def measure_image(subject: Subject, scores: Scores, baselines: bool, most: int) -> None:
    """Add the figures of one image."""
    places = np.linspace(0, subject.truth.size - 1, CALIBRATION_PIXELS).astype(int)
    for name, prediction in subject.gestures():
        found = jaccard(subject.outline(prediction), subject.truth)
        scores.jaccard.setdefault(name, []).append(found)
        pixels = prediction.probability().ravel()[places], (subject.truth > 0).ravel()[places]
        scores.pixels.setdefault(name, []).append(pixels)
    scores.jaccard.setdefault("a box each", []).append(jaccard(subject.box_each(), subject.truth))
    for name, outline in subject.without_network(baselines):
        scores.jaccard.setdefault(name, []).append(jaccard(outline, subject.truth))
    if most:
        for name, count in subject.count_actions(most).items():
            scores.actions.setdefault(name, []).append(count)
    scores.click_ms.append(subject.time_click())


def measure_set(models: Sequence[Model], folder: Path, options: argparse.Namespace) -> list[Scores]:
    """Measure every model on a dataset."""
    measured = [Scores() for _ in models]
    pairs = find_set(folder)[:: options.every]
    for seed, pair in enumerate(track(pairs, folder.name, console=Console(stderr=True))):
        image = read_image(pair.image)
        truth = (read_mask(pair.mask, image.shape[:2]) > 0).astype(np.uint8)
        if not truth.any():
            continue
        scale = min(1.0, LONGEST_SIDE / max(truth.shape))
        shape = round(truth.shape[0] * scale), round(truth.shape[1] * scale)
        small, mask = resize_image(image, shape), resize_labels(truth, shape)
        for model, scores in zip(models, measured, strict=True):
            first = scores is measured[0]
            measure_image(
                Subject(model, small, mask, seed), scores, options.baselines and first, options.actions
            )
    return measured


def make_table(results: dict[str, list[Scores]], names: Sequence[str]) -> Table:
    """Lay out the figures, a row for each gesture."""
    table = Table("gesture", title="Jaccard index, images with 0.85 or more", show_lines=False)
    columns = [(data, index) for data in results for index in range(len(names))]
    for data, index in columns:
        count = len(results[data][index].jaccard["automatic"])
        table.add_column(f"{data} ({count}), {names[index]}")
    rows = dict.fromkeys(gesture for each in results.values() for gesture in each[0].jaccard)
    for gesture in rows:
        cells = [np.array(results[data][index].jaccard.get(gesture, ())) for data, index in columns]
        table.add_row(gesture, *(_cell(values) for values in cells))
    for goal in ("NoC@85", "NoC@90"):
        counts = [results[data][index].actions.get(goal) for data, index in columns]
        if all(counts):
            table.add_row(goal, *(f"{np.mean(values):.2f}" for values in counts if values))
    for gesture in ("automatic", "box", "lasso", "click"):
        errors = [results[data][index].calibration(gesture) for data, index in columns]
        table.add_row(f"calibration, {gesture}", *(f"{error:.3f}" for error in errors))
    times = [np.median(results[data][index].click_ms) for data, index in columns]
    table.add_row("click, CPU ms", *(f"{value:.0f}" for value in times))
    return table


def _cell(values: NDArray[np.float64]) -> str:
    return f"{values.mean():.3f}, {100 * (values >= GOOD).mean():.0f} %" if len(values) else ""


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", help="names or files of models (default: the shipped one)")
    add_data_argument(parser)
    parser.add_argument("--sets", nargs="*", choices=SETS, default=SETS, help="datasets to measure on")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="measure every Nth image only")
    parser.add_argument("--baselines", action="store_true", help="also GrabCut and the random walker")
    parser.add_argument("--actions", type=int, default=0, metavar="N", help="count gestures, up to N")
    parser.add_argument("--json", type=Path, help="write all scores, also per image, to this file")
    return parser.parse_args(arguments)


def main() -> None:
    """Measure, print the table and write the file asked for."""
    options = parse_arguments()
    models = [ls.load_model(name) for name in options.models or [None]]
    names = [model.card.name for model in models]
    results = {name: measure_set(models, options.data / name, options) for name in options.sets}
    console = Console() if sys.stdout.isatty() else Console(width=60 + 26 * len(models) * len(results))
    console.print(make_table(results, names))
    if options.json:
        kept = {
            name: [{"jaccard": scores.jaccard, "actions": scores.actions} for scores in measured]
            for name, measured in results.items()
        }
        options.json.write_text(json.dumps({"models": names, "scores": kept}, indent=1))


if __name__ == "__main__":
    main()
