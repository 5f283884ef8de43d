"""Count what an annotator has to do until the images of a new camera are approved.

Prints a table of ``docs/development/benchmarks.md``::

    python benchmarks/loop.py [--model M] [--data DIR] [--set NAME] [--gesture lasso] [--draws 3] [--every 10]
        [--seconds 60] [--no-learning]

- A simulated annotator goes through the images in random order with patients kept together, and approves
  outlines with a Jaccard index of at least 0.85 (annotators agree with each other at 0.80 to 0.90). Otherwise
  the annotator draws a lasso or a box around each lesion, imperfect as in ``benchmarks/prompts.py``
  (``--gesture``, which may be none), then clicks into the largest error, slightly off its center as people
  do, and paints the outline after 10 clicks.
- A lasso, a box, a click, a painted outline and an approval are one action each. An image that is right at
  once takes one. Where several areas were drawn there are no clicks, and what is still poor is painted.
- After every ``--every`` images the model is fine-tuned on the approved outlines, which are not perfect. The
  new model is used if it is better on its held-out images.
- Each cell shows the result without and with fine-tuning (``--no-learning``: without alone).
- "Waiting" is the program's time per image for the outline and all gestures. Fine-tuning runs in the
  background and is not included.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

import napari_lesionseg as ls
from finetune import describe
from images import add_data_argument, find_set, jaccard
from napari_lesionseg.config import FineTuneConfig, PostprocessConfig
from napari_lesionseg.datasets.splits import group_items
from napari_lesionseg.finetuning.fold_processes import FoldProcesses
from napari_lesionseg.finetuning.session import FineTuning
from napari_lesionseg.inference.clicks import next_click
from napari_lesionseg.inference.prediction import Prediction
from napari_lesionseg.io.images import read_image, read_mask
from napari_lesionseg.training.dataset import CachedPair, shrink_pair
from napari_lesionseg.types import NO_PROMPTS, LabelImage, Pair, Prompts
from prompts import draw_box, draw_lasso, each_lesion

GOOD_ENOUGH = 0.85
MOST_CLICKS = 10
JITTER = 0.5
LONG_SIDE = 1024  # of the images


@dataclass(frozen=True, slots=True)
class Visit:
    """What one image took."""

    first: float
    """Jaccard index of the automatic outline."""
    areas: int
    """Lassos or boxes."""
    clicks: int
    painted: bool
    waiting: float
    """Seconds."""

    @property
    def actions(self) -> int:
        """Gestures, a painting, and the approval."""
        return self.areas + self.clicks + self.painted + 1


class Correction:
    """An image with the outline that the annotator sees, and what drew it."""

    def __init__(self, model: ls.Model, pair: CachedPair, seed: int) -> None:
        self.truth = (pair.labels > 0).astype(np.uint8)
        self.areas, self.clicks, self.waiting = 0, 0, 0.0
        self._model, self._rng = model, np.random.default_rng(seed)
        self._prompts: Prompts | None = NO_PROMPTS  # of the one lesion; None: areas of several
        started = time.perf_counter()
        self._encoded = model.encode(pair.image)
        self.outline, self._prediction = self._predict(NO_PROMPTS, None)
        self.waiting = time.perf_counter() - started

    @property
    def score(self) -> float:
        """Jaccard index of the outline."""
        return jaccard(self.outline, self.truth)

    def draw_areas(self, gesture: str) -> None:
        """Draw a lasso or a box around each lesion."""
        lesions = list(each_lesion(self.truth > 0))
        prompts = [
            Prompts(lasso=draw_lasso(lesion, self._rng))
            if gesture == "lasso"
            else Prompts(box=draw_box(lesion, self._rng))
            for lesion in lesions
        ]
        started = time.perf_counter()
        found = [self._predict(area, None) for area in prompts]
        self.waiting += time.perf_counter() - started
        self.areas = len(found)
        self.outline = np.maximum.reduce([outline for outline, _ in found])
        self._prompts, self._prediction = (prompts[0] if len(found) == 1 else None), found[0][1]

    def click(self) -> bool:
        """Click into the largest error; return whether there is one, and clicks can correct it."""
        click = next_click(self.outline > 0, self.truth > 0, self._rng, JITTER)
        if self._prompts is None or click is None:
            return False
        self._prompts = replace(self._prompts, strokes=(*self._prompts.strokes, click))
        started = time.perf_counter()
        self.outline, self._prediction = self._predict(self._prompts, self._prediction)
        self.waiting += time.perf_counter() - started
        self.clicks += 1
        return True

    def _predict(self, prompts: Prompts, before: Prediction | None) -> tuple[LabelImage, Prediction]:
        seen = None if before is None else before.probability()
        prediction = self._encoded.predict_logits(prompts, seen)
        threshold = self._model.card.threshold
        return prediction.to_mask(PostprocessConfig(), threshold, prompts.strokes), prediction


def visit(model: ls.Model, pair: CachedPair, seed: int, gesture: str) -> tuple[Visit, CachedPair]:
    """Correct an image until it is good enough; return what it took, and what was approved."""
    correction = Correction(model, pair, seed)
    first = correction.score
    if first < GOOD_ENOUGH and gesture != "none" and correction.truth.any():
        correction.draw_areas(gesture)
    while correction.score < GOOD_ENOUGH and correction.clicks < MOST_CLICKS and correction.click():
        pass
    painted = correction.score < GOOD_ENOUGH
    took = Visit(first, correction.areas, correction.clicks, painted, correction.waiting)
    return took, pair._replace(labels=correction.truth if painted else correction.outline)


def go_through(
    model: ls.Model, pairs: Sequence[Pair], every: int | None, config: FineTuneConfig, gesture: str
) -> Iterator[Visit]:
    """Correct all images, fine-tuning after every `every` images; None: never."""
    approved: list[CachedPair] = []
    for number, pair in enumerate(pairs):
        if every and number and number % every == 0:
            model = learn(model, approved, pairs[:number], config)
        done, outlined = visit(model, read(pair), number, gesture)
        approved.append(outlined)
        yield done


def learn(
    model: ls.Model, approved: Sequence[CachedPair], pairs: Sequence[Pair], config: FineTuneConfig
) -> ls.Model:
    """Fine-tune on what was approved; return the new model if it is offered."""
    tuning = FineTuning(model, approved, config, items=map(describe, pairs), workers=FoldProcesses())
    for _ in tuning:
        pass
    candidate = tuning.candidate()
    return candidate.model if candidate.offered else model


def read(pair: Pair) -> CachedPair:
    """Read an image and the annotator's own outline."""
    image = read_image(pair.image)
    return shrink_pair(pair.stem, image, read_mask(pair.mask, image.shape[:2]), LONG_SIDE)


def shuffle(pairs: Sequence[Pair], draw: int) -> list[Pair]:
    """Shuffle the images, keeping those of a patient together."""
    groups, _ = group_items(map(describe, pairs))
    by_stem = {pair.stem: pair for pair in pairs}
    order = np.random.default_rng((2026, draw)).permutation(len(groups))
    return [by_stem[stem] for index in order for stem in groups[index]]


def make_table(runs: Sequence[Sequence[list[Visit]]], every: int, title: str) -> Table:
    """Lay out the figures: a row for each block of images, all orders together."""
    columns: dict[str, Callable[[Sequence[Visit]], str]] = {
        "outline at once": lambda block: f"{fmean(v.first for v in block):.3f}",
        "actions": lambda block: f"{fmean(v.actions for v in block):.2f}",
        "right at once %": lambda block: f"{100 * fmean(v.actions == 1 for v in block):.0f}",
        "lassos or boxes": lambda block: f"{fmean(v.areas for v in block):.2f}",
        "clicks": lambda block: f"{fmean(v.clicks for v in block):.2f}",
        "painted %": lambda block: f"{100 * fmean(v.painted for v in block):.0f}",
        "waiting s": lambda block: f"{fmean(v.waiting for v in block):.2f}",
    }
    table = Table("images", *columns, title=title)
    count = len(runs[0][0])
    for start in range(0, count, every):
        blocks = [[v for draw in draws for v in draw[start : start + every]] for draws in runs]
        cells = (" / ".join(map(describe_block, blocks)) for describe_block in columns.values())
        table.add_row(f"{start + 1} to {min(start + every, count)}", *cells)
    return table


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="name or file of the model (default: the shipped one)")
    add_data_argument(parser)
    parser.add_argument("--set", default="pad-smartphone", help="folder of the dataset")
    parser.add_argument("--gesture", choices=("lasso", "box", "none"), default="lasso")
    parser.add_argument("--no-learning", action="store_true", help="do not fine-tune")
    parser.add_argument("--draws", type=int, default=3, help="number of orders of the images")
    parser.add_argument("--every", type=int, default=10, help="number of images between fine-tunings")
    parser.add_argument("--seconds", type=float, default=60.0, help="time limit of each fine-tuning")
    return parser.parse_args()


def main() -> None:
    """Go through the images without and with fine-tuning, and print the table."""
    arguments = parse_arguments()
    model, pairs = ls.load_model(arguments.model), find_set(arguments.data / arguments.set)
    config = FineTuneConfig(max_seconds=arguments.seconds)
    kinds = [None] if arguments.no_learning else [None, arguments.every]
    runs: list[list[list[Visit]]] = [[] for _ in kinds]
    for draw in track(range(arguments.draws), arguments.set, console=Console(stderr=True)):
        order = shuffle(pairs, draw)
        for every, run in zip(kinds, runs, strict=True):
            run.append(list(go_through(model, order, every, config, arguments.gesture)))
    title = f"{model.card.name}, {arguments.gesture}, " + " / ".join(
        ["without", "with fine-tuning"][: len(kinds)]
    )
    Console(width=130).print(make_table(runs, arguments.every, title))


if __name__ == "__main__":
    main()
