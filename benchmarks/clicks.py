"""Measure how many clicks an outline needs, by the usual protocol, and how long a click takes.

Prints tables of ``docs/development/benchmarks.md``::

    python benchmarks/clicks.py [--model M] [--data DIR] [--sets S ...] [--limit N] [--jitter J] [--json F]

- Starts from the automatic outline. Each click is placed at the center of the largest error: of all false
  negative and false positive pixels, the one deepest inside its region (Xu et al. 2016; RITM, Sofiiuk et al.
  2022). The model gets all clicks so far and its own previous probability. At most 20 clicks.
- The outline is thresholded at the model's threshold and postprocessed.
- NoC@90 is the number of clicks until the Jaccard index reaches 0.90, or 20 if it never does; "failed" is the
  percentage of images where it never does. An image that needs no click counts as 0.
- "Jittered" clicks are placed as people do: anywhere deeper than half the depth of the region.
- ``isic-crop512-val`` and ``ph2-sample`` are dermoscopy; ``pad-smartphone`` contains photos, some with
  several lesions.
- The time of a click is measured on an image of 768x560 pixels with 1 and 2 threads. It includes the decoder,
  the probability at full size, and postprocessing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import napari_lesionseg as ls
from images import add_data_argument, find_set, jaccard
from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.datasets.synthetic import synthetic_sample
from napari_lesionseg.inference.clicks import next_click
from napari_lesionseg.inference.postprocess import postprocess
from napari_lesionseg.inference.predictor import EncodedImage, Model
from napari_lesionseg.io.images import read_image, read_mask
from napari_lesionseg.types import Click, LabelImage, Probability

SETS = ("isic-crop512-val", "ph2-sample", "pad-smartphone")
MOST_CLICKS = 20
TARGETS = (0.85, 0.90, 0.95)
SHOWN = (0, 1, 2, 3, 5)
JITTER = 0.5
TIMED_SHAPE = (560, 768)
TIMED_THREADS = (1, 2)


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """How one image went: the Jaccard index after 0, 1, 2 ... clicks."""

    stem: str
    jaccards: tuple[float, ...]

    def after(self, clicks: int) -> float:
        """Return the Jaccard index after a number of clicks; it stays once there is no error left."""
        return self.jaccards[min(clicks, len(self.jaccards) - 1)]

    def clicks_to(self, target: float) -> int | None:
        """Return how many clicks it took; None if it was never reached."""
        return next((n for n, jaccard in enumerate(self.jaccards) if jaccard >= target), None)


@dataclass(frozen=True, slots=True)
class Report:
    """All images of a set, clicked on in one way."""

    data: str
    jitter: float
    training_runs: tuple[TrainingRun, ...]

    def clicks_needed(self, target: float) -> float:
        """Return the mean number of clicks to a Jaccard index."""
        counts = [training_run.clicks_to(target) for training_run in self.training_runs]
        return fmean(MOST_CLICKS if count is None else count for count in counts)

    def failed(self, target: float) -> float:
        """Return the share of the images that never got there."""
        return fmean(training_run.clicks_to(target) is None for training_run in self.training_runs)

    def jaccard(self, clicks: int) -> float:
        """Return the mean Jaccard index after a number of clicks."""
        return fmean(training_run.after(clicks) for training_run in self.training_runs)

    def to_json(self) -> dict[str, object]:
        """Return all figures as plain values."""
        return {
            "data": self.data,
            "jitter": self.jitter,
            "images": len(self.training_runs),
            "clicks": {str(target): self.clicks_needed(target) for target in TARGETS},
            "failed": {str(target): self.failed(target) for target in TARGETS},
            "jaccard": {str(clicks): self.jaccard(clicks) for clicks in SHOWN},
            "training_runs": [asdict(training_run) for training_run in self.training_runs],
        }


def outline(model: Model, probability: Probability, clicks: Sequence[Click]) -> LabelImage:
    """Make the outline as the program does."""
    return postprocess(probability, PostprocessConfig(), model.card.threshold, clicks)


def click_through(
    model: Model, encoded: EncodedImage, truth: LabelImage, jitter: float, seed: int
) -> list[float]:
    """Click until the highest target or the maximum number of clicks; return all Jaccard indices."""
    rng, clicks = np.random.default_rng(seed), list[Click]()
    probability = encoded.predict()
    jaccards: list[float] = []
    while True:
        predicted = outline(model, probability, clicks)
        jaccards.append(jaccard(predicted, truth))
        click = next_click(predicted > 0, truth > 0, rng, jitter)
        done = len(clicks) >= max(SHOWN) and max(jaccards) >= max(TARGETS)
        if click is None or done or len(clicks) == MOST_CLICKS:
            return jaccards
        clicks.append(click)
        probability = encoded.predict(clicks, probability)


def measure_set(model: Model, folder: Path, jitters: Sequence[float], limit: int | None) -> list[Report]:
    """Click through a dataset, once for each jitter."""
    training_runs: dict[float, list[TrainingRun]] = {jitter: [] for jitter in jitters}
    pairs = find_set(folder, limit)
    for seed, pair in enumerate(track(pairs, folder.name, console=Console(stderr=True))):
        image = read_image(pair.image)
        truth = (read_mask(pair.mask, image.shape[:2]) > 0).astype(np.uint8)
        encoded = model.encode(image)
        for jitter in jitters:
            jaccards = click_through(model, encoded, truth, jitter, seed)
            training_runs[jitter].append(TrainingRun(pair.stem, tuple(jaccards)))
    return [Report(folder.name, jitter, tuple(found)) for jitter, found in training_runs.items()]


def time_clicks(model: Model, repeats: int) -> dict[str, float]:
    """Time the third click on an image, from the click to the outline; milliseconds."""
    encoded = model.encode(synthetic_sample(0, TIMED_SHAPE).image)
    clicks = [Click(280, 384), Click(100, 100, False), Click(300, 500)]
    previous, seconds = encoded.predict(clicks[:2]), []
    for _ in range(repeats + 3):
        start = time.perf_counter()
        outline(model, encoded.predict(clicks, previous), clicks)
        seconds.append(time.perf_counter() - start)
    return {
        "median": 1e3 * float(np.median(seconds[3:])),
        "p95": 1e3 * float(np.percentile(seconds[3:], 95)),
    }


def make_table(reports: Sequence[Report], name: str) -> Table:
    """Lay out the figures, a row for each dataset and kind of click."""
    targets = [f"NoC@{target:.0%}".replace("%", "") for target in TARGETS]
    after = [f"IoU {clicks}" for clicks in SHOWN]
    table = Table("data", "clicks", "n", *targets, "failed %", *after, title=f"{name}: clicks")
    for report in reports:
        table.add_row(
            report.data,
            f"jittered {report.jitter:g}" if report.jitter else "exact",
            str(len(report.training_runs)),
            *(f"{report.clicks_needed(target):.2f}" for target in TARGETS),
            " / ".join(f"{100 * report.failed(target):.1f}" for target in TARGETS),
            *(f"{report.jaccard(clicks):.3f}" for clicks in SHOWN),
        )
    return table


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="name or file of the model (default: the shipped one)")
    add_data_argument(parser)
    parser.add_argument("--sets", nargs="*", choices=SETS, default=SETS, help="datasets to measure on")
    parser.add_argument("--limit", type=int, help="number of images per set")
    parser.add_argument(
        "--jitter", type=float, default=JITTER, help="of jittered clicks; 0: exact clicks only"
    )
    parser.add_argument("--repeats", type=int, default=50, help="number of clicks to time")
    parser.add_argument("--json", type=Path, help="write all scores, also per image, to this file")
    return parser.parse_args()


def main() -> None:
    """Measure, print the tables and write the file asked for."""
    arguments = parse_arguments()
    model = ls.load_model(arguments.model)
    jitters = sorted({0.0, arguments.jitter})
    reports = [
        report
        for name in arguments.sets
        for report in measure_set(model, arguments.data / name, jitters, arguments.limit)
    ]
    console = Console() if sys.stdout.isatty() else Console(width=150)
    if reports:
        console.print(make_table(reports, model.card.name))
    times = {}
    for threads in TIMED_THREADS:
        torch.set_num_threads(threads)
        times[threads] = time_clicks(model, arguments.repeats)
        console.print(
            f"a click on {TIMED_SHAPE[1]}x{TIMED_SHAPE[0]} pixels, {threads} threads: "
            f"median {times[threads]['median']:.1f} ms, p95 {times[threads]['p95']:.1f} ms"
        )
    if arguments.json:
        figures = {"model": model.card.name, "reports": [r.to_json() for r in reports], "click_ms": times}
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
