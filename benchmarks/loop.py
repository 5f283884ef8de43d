"""Count what an annotator has to do until the images of a new camera are approved.

Prints a table of ``docs/development/benchmarks.md``::

    python benchmarks/loop.py [--model M] [--data DIR] [--set NAME] [--draws 3] [--every 10] [--seconds 60]

- A simulated annotator goes through the images in random order with patients kept together, and approves
  outlines with a Jaccard index of at least 0.85 (annotators agree with each other at 0.80 to 0.90). Otherwise
  the annotator clicks into the largest error, slightly off its center as people do, and paints the outline
  after 10 clicks.
- A click, a painted outline and an approval are one action each. An image that is right at once takes one.
- After every ``--every`` images the model is fine-tuned on the approved outlines, which are not perfect. The
  new model is used if it is better on its held-out images.
- Each cell shows the result without and with fine-tuning.
- "Waiting" is the program's time per image for the outline and all clicks. Fine-tuning runs in the background
  and is not included.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
from napari_lesionseg.inference.clicks import next_click
from napari_lesionseg.inference.postprocess import postprocess
from napari_lesionseg.io.images import read_image, read_mask
from napari_lesionseg.training.dataset import CachedPair, shrink_pair
from napari_lesionseg.types import Click, Pair

GOOD_ENOUGH = 0.85
MOST_CLICKS = 10
JITTER = 0.5
LONG_SIDE = 1024  # of the images


@dataclass(frozen=True, slots=True)
class Visit:
    """What one image took."""

    first: float
    """Jaccard index of the automatic outline."""
    clicks: int
    painted: bool
    waiting: float
    """Seconds."""

    @property
    def actions(self) -> int:
        """Clicks, a painting, and the approval."""
        return self.clicks + self.painted + 1


def visit(model: ls.Model, pair: CachedPair, seed: int) -> tuple[Visit, CachedPair]:
    """Correct an image until it is good enough; return what it took, and what was approved."""
    rng, clicks, truth = np.random.default_rng(seed), list[Click](), (pair.labels > 0).astype(np.uint8)
    start = time.perf_counter()
    encoded = model.encode(pair.image)
    probability = encoded.predict()
    mask = postprocess(probability, PostprocessConfig(), model.card.threshold)
    waiting, first = time.perf_counter() - start, jaccard(mask, truth)
    while jaccard(mask, truth) < GOOD_ENOUGH and len(clicks) < MOST_CLICKS:
        click = next_click(mask > 0, truth > 0, rng, JITTER)
        if click is None:
            break
        clicks.append(click)
        start = time.perf_counter()
        probability = encoded.predict(clicks, probability)
        mask = postprocess(probability, PostprocessConfig(), model.card.threshold, clicks)
        waiting += time.perf_counter() - start
    painted = jaccard(mask, truth) < GOOD_ENOUGH
    return Visit(first, len(clicks), painted, waiting), pair._replace(labels=truth if painted else mask)


def go_through(
    model: ls.Model, pairs: Sequence[Pair], every: int | None, config: FineTuneConfig
) -> Iterator[Visit]:
    """Correct all images, fine-tuning after every `every` images; None: never."""
    approved: list[CachedPair] = []
    for number, pair in enumerate(pairs):
        if every and number and number % every == 0:
            model = learn(model, approved, pairs[:number], config)
        done, outlined = visit(model, read(pair), number)
        approved.append(outlined)
        yield done


def learn(
    model: ls.Model, approved: Sequence[CachedPair], pairs: Sequence[Pair], config: FineTuneConfig
) -> ls.Model:
    """Fine-tune on what was approved; return the new model if it is offered."""
    tuning = ls.fine_tune(model, approved, config, items=map(describe, pairs))
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


def make_table(without: Sequence[list[Visit]], learning: Sequence[list[Visit]], every: int) -> Table:
    """Lay out the figures: a row for each block of images, all orders together."""
    columns: dict[str, Callable[[Sequence[Visit]], str]] = {
        "outline at once": lambda block: f"{fmean(v.first for v in block):.3f}",
        "actions": lambda block: f"{fmean(v.actions for v in block):.2f}",
        "right at once %": lambda block: f"{100 * fmean(v.actions == 1 for v in block):.0f}",
        "painted %": lambda block: f"{100 * fmean(v.painted for v in block):.0f}",
        "waiting s": lambda block: f"{fmean(v.waiting for v in block):.2f}",
    }
    table = Table("images", *columns, title="without / with fine-tuning")
    count = len(without[0])
    for start in range(0, count, every):
        blocks = [[v for draw in draws for v in draw[start : start + every]] for draws in (without, learning)]
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
    parser.add_argument("--draws", type=int, default=3, help="number of orders of the images")
    parser.add_argument("--every", type=int, default=10, help="number of images between fine-tunings")
    parser.add_argument("--seconds", type=float, default=60.0, help="time limit of each fine-tuning")
    return parser.parse_args()


def main() -> None:
    """Go through the images without and with fine-tuning, and print the table."""
    arguments = parse_arguments()
    model, pairs = ls.load_model(arguments.model), find_set(arguments.data / arguments.set)
    config = FineTuneConfig(max_seconds=arguments.seconds)
    without, learning = list[list[Visit]](), list[list[Visit]]()
    for draw in track(range(arguments.draws), arguments.set, console=Console(stderr=True)):
        order = shuffle(pairs, draw)
        without.append(list(go_through(model, order, None, config)))
        learning.append(list(go_through(model, order, arguments.every, config)))
    Console(width=110).print(make_table(without, learning, arguments.every))


if __name__ == "__main__":
    main()
