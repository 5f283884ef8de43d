"""Compare settings of the training recipe, one at a time, on a budget for two cores.

Prints tables of ``docs/development/default-model.md``::

    python benchmarks/experiments.py training [--data DIR] [--keep DIR] [--only NAME ...]
    python benchmarks/experiments.py answering [--data DIR] [--model M]

``training`` starts every variant from ImageNet weights with the same seed, trains it for ``--passes`` epochs
at ``--side`` pixels, and measures it on the two validation sets with a tuned threshold. So short a run
separates large differences from none; two runs that differ only in the seed show what is chance. Finished
variants are kept in ``--keep`` and not run again.

``answering`` measures a finished model at several working sizes and without test-time augmentation.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import napari_lesionseg as ls
from clicks import measure_set
from images import add_data_argument, find_set
from napari_lesionseg.config import TrainConfig
from napari_lesionseg.evaluation.calibration import tune
from napari_lesionseg.evaluation.evaluate import evaluate
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.registry import build_network
from napari_lesionseg.training.dataset import CachedPair, read_pair
from napari_lesionseg.training.trainer import Trainer
from napari_lesionseg.types import Pair

LEARN = ("isic2017-train-256", "isic-crop512-train")
MEASURE = ("isic2017-val-256", "isic-crop512-val")
UNSEEN = "ph2-sample"
CLICKED = 20  # images of the second validation set that are clicked on
SHORT_AVERAGE = 0.98  # of the weights: a run has a tenth of the recipe's steps
SIZES = (192, 256, 320, 384)
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "the recipe": {},
    "another seed": {"seed": 1},
    "loss: cross-entropy alone": {"loss": "bce"},
    "loss: focal and Dice": {"loss": "focal-dice"},
    "encoder: all stages trained": {"frozen_stages": 0},
    "encoder: frozen": {"encoder_lr": 0.0},
    "clicks: none": {"click_fraction": 0.0},
    "clicks: every image": {"click_fraction": 1.0},
    "no artifacts drawn": {"augment": {"artifacts": 0.0}},
    "a plain U-Net from nothing": {
        "arch": "unet",
        "pretrained": False,
        "decoder_lr": 1e-3,
        "click_fraction": 0.0,
    },
}


@dataclass(frozen=True, slots=True)
class Scores:
    """What was measured on one dataset."""

    jaccard: float
    failures: float


@dataclass(frozen=True, slots=True)
class Trial:
    """One variant of training or prediction."""

    name: str
    threshold: float
    scores: dict[str, Scores]
    after_clicks: tuple[float, ...]
    """Jaccard after 0, 1 and 3 clicks; empty for networks without clicks."""
    seconds: float
    """Of the training, or of an image."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Trial:
        """Read what `dataclasses.asdict` gave."""
        scores = {name: Scores(**value) for name, value in values.pop("scores").items()}
        return cls(scores=scores, after_clicks=tuple(values.pop("after_clicks")), **values)


@cache
def read_training_images(data: Path, side: int) -> tuple[CachedPair, ...]:
    """Read all training images, once for all variants."""
    pairs = [pair for name in LEARN for pair in find_set(data / name)]
    return tuple(read_pair(pair, round(1.25 * side)) for pair in track(pairs, "reading"))


def make_config(changes: Mapping[str, Any], passes: int, side: int) -> TrainConfig:
    """Join the default recipe, the short budget and what a variant changes."""
    recipe = json.loads((resources.files("napari_lesionseg") / "recipes" / "default.json").read_text("utf-8"))
    short = {"epochs": passes, "sizes": [[0.0, side]], "average": SHORT_AVERAGE}
    return TrainConfig.model_validate(recipe | short | dict(changes))


def train(config: TrainConfig, pairs: Sequence[CachedPair], side: int) -> tuple[Model, float]:
    """Train one variant; return the model and the seconds of its training."""
    torch.manual_seed(config.seed)
    card = ModelCard(arch=config.arch, arch_settings=config.arch_settings, working_size=side)
    network = build_network(card.arch, card.out_channels, **card.arch_settings)
    if config.pretrained:
        network.load_pretrained()
    trainer = Trainer(network, card, pairs, (), config)
    *_, last = trainer.run()
    return Model(trainer.averaged_network, card), last.seconds


def measure(name: str, model: Model, data: Path, seconds: float) -> Trial:
    """Tune the threshold on the validation sets, then measure on them, on PH2 and with clicks."""
    found = tune(model, [pair for folder in MEASURE for pair in find_set(data / folder)])
    changes = {"threshold": found.threshold, "temperature": found.temperature}
    tuned = Model(model.network, model.card.model_copy(update=changes), model.device)
    scores = {folder: score(tuned, find_set(data / folder)) for folder in (*MEASURE, UNSEEN)}
    clicks = ()
    if model.network.guided:
        (report,) = measure_set(tuned, data / MEASURE[1], [0.0], CLICKED)
        clicks = tuple(report.jaccard(count) for count in (0, 1, 3))
    return Trial(name, found.threshold, scores, clicks, seconds)


def score(model: Model, pairs: Sequence[Pair]) -> Scores:
    """Measure the automatic outlines of a dataset."""
    summary = evaluate(model, pairs).summary
    return Scores(summary.jaccard.mean, summary.failure_rate.mean)


def try_training(arguments: argparse.Namespace) -> Iterator[Trial]:
    """Train and measure the variants that were asked for, or take what is kept of them."""
    for name in arguments.only or VARIANTS:
        label = f"{name}-{arguments.passes}-{arguments.side}".replace(" ", "-").replace(":", "")
        path = arguments.keep / f"{label}.json" if arguments.keep else None
        yield keep(path, partial(run_variant, name, arguments.data, arguments.passes, arguments.side))


def run_variant(name: str, data: Path, passes: int, side: int) -> Trial:
    """Train one variant and measure it."""
    config = make_config(VARIANTS[name], passes, side)
    model, seconds = train(config, read_training_images(data, side), side)
    return measure(name, model, data, seconds)


def keep(path: Path | None, run: Callable[[], Trial]) -> Trial:
    """Return what the file contains, or run and save the result there."""
    if path is not None and path.exists():
        return Trial.from_json(json.loads(path.read_text(encoding="utf-8")))
    trial = run()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(trial), indent=1), encoding="utf-8")
    return trial


def try_answering(arguments: argparse.Namespace) -> Iterator[Trial]:
    """Measure a finished model at several sizes, and without the quarter turns."""
    model = ls.load_model(arguments.model)
    ways = {f"{size} pixels": {"working_size": size} for size in SIZES}
    ways["without the quarter turns"] = {"test_time_augmentation": False}
    for name, changes in ways.items():
        changed = Model(model.network, model.card.model_copy(update=changes), model.device)
        yield measure_answers(name, changed, arguments.data)


def measure_answers(name: str, model: Model, data: Path) -> Trial:
    """Measure the automatic outlines at the card's own threshold, and the time of an image."""
    start = time.perf_counter()
    scores = {folder: score(model, find_set(data / folder)) for folder in (*MEASURE, UNSEEN)}
    images = sum(len(find_set(data / folder)) for folder in (*MEASURE, UNSEEN))
    return Trial(name, model.card.threshold, scores, (), (time.perf_counter() - start) / images)


def make_table(trials: Sequence[Trial], title: str) -> Table:
    """Lay out the figures, a row for each trial."""
    table = Table("variant", "threshold", *MEASURE, UNSEEN, "clicks 0 / 1 / 3", "seconds", title=title)
    for trial in trials:
        cells = [f"{s.jaccard:.3f} ({100 * s.failures:.0f} %)" for s in trial.scores.values()]
        clicks = " / ".join(f"{jaccard:.3f}" for jaccard in trial.after_clicks) or "-"
        table.add_row(trial.name, f"{trial.threshold:.2f}", *cells, clicks, f"{trial.seconds:.3g}")
    return table


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("training", "answering"))
    add_data_argument(parser)
    parser.add_argument("--keep", type=Path, help="folder for finished variants")
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), help="variants to train")
    parser.add_argument("--passes", type=int, default=1, help="number of epochs")
    parser.add_argument("--side", type=int, default=96, help="side of the training images in pixels")
    parser.add_argument("--model", help="name or file of the model (default: the shipped one)")
    return parser.parse_args()


def main() -> None:
    """Run what was asked for and print its table."""
    arguments = parse_arguments()
    run = try_training if arguments.what == "training" else try_answering
    trials = list(run(arguments))
    Console(width=150).print(make_table(trials, "Jaccard (failures)"))


if __name__ == "__main__":
    main()
