"""Compare fine-tuning methods, one change at a time, with a fixed number of steps.

Prints the table of alternatives in ``docs/development/fine-tuning.md``::

    python benchmarks/finetune_methods.py [--draws 1] [--sets pad ph2] [--only NAME ...] [--json F]

In every draw a set is split into folds with patients kept together. Each variant is trained on all folds but
one and measured on that one, in turn. There is no time limit, and nothing is chosen on held-out images, so
only the training is compared. The new weights replace the old ones, interpolated, and are also measured on
every sixth ISIC 2017 validation image: that is what would be forgotten without an expert. Seconds are CPU
seconds of all steps of one fold. With ``--json`` finished results are not measured again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

import napari_lesionseg as ls
from finetune import FOLDERS, describe, overlaps, read
from images import add_data_argument, find_set
from napari_lesionseg.finetuning.cross_validation import Ensemble, assign_folds, make_folds
from napari_lesionseg.finetuning.fold import Fold, Step
from napari_lesionseg.training.dataset import CachedPair, shrink_pair
from napari_lesionseg.training.learner import rate_at

SHARES = (0.5, 0.75, 1.0)
SPARE_SIDE = 1.25  # images are kept so much larger than they are shown, for augmentation to zoom in
ALIKE = {"batch_size": 4, "encoder_lr": 1e-4, "decoder_lr": 5e-4, "click_fraction": 0.25, "size": 192}
PARTS = {"pad": 3, "ph2": 4}
LEARNED = {"pad": 2, "ph2": 1}
"""Folds of each set used for training: about 20 photos, or 5 PH2 images."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A fine-tuning method."""

    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    steps: int = 200
    """Of each model."""
    models: int = 1
    refit: int = 0
    """Steps of one model on all images, which starts from the mean of the others."""


VARIANTS = {
    "one model, 200 steps": Variant(),
    "100 steps": Variant(steps=100),
    "at 256 pixels, 100 steps": Variant({"size": 256}, steps=100),
    "at 160 pixels, 6 a step": Variant({"size": 160, "batch_size": 6}),
    "twice the rates": Variant({"encoder_lr": 2e-4, "decoder_lr": 1e-3}),
    "encoder frozen": Variant({"encoder_lr": 0.0}),
    "all stages trained": Variant({"frozen_stages": 0}),
    "three models, 65 steps each": Variant(steps=65, models=3),
    "three models, 30 steps, then 110 on all": Variant(steps=30, models=3, refit=110),
    "two models, 45 steps, then 110 on all": Variant(steps=45, models=2, refit=110),
}


@dataclass(frozen=True, slots=True)
class Turn:
    """Gains in mean Jaccard of a variant in one turn, for each interpolation."""

    data: str
    variant: str
    draw: int
    turn: int
    cpu_seconds: float
    measured: int
    """Images of the set that were measured."""
    gains: tuple[float, ...]
    isic: tuple[float, ...]


def learn(
    model: ls.Model, pairs: Sequence[CachedPair], fold_of: Sequence[int], way: Variant, seed: int
) -> Ensemble:
    """Train the models of a variant; return them, or the one that was trained further."""
    config = ls.FineTuneConfig.model_validate({**ALIKE, **way.settings, "seed": seed})
    size = config.size or model.card.working_size
    small = [shrink_pair(*pair, round(SPARE_SIDE * size)) for pair in pairs]
    everything = [Fold(tuple(small), ())]
    ensemble = Ensemble(model, make_folds(small, fold_of) if way.models > 1 else everything, config)
    _take_steps(ensemble, way.steps, size, config.warmup)
    if way.refit:
        ensemble = Ensemble(model, everything, config, begin=ensemble.averaged(ensemble.weights()))
        _take_steps(ensemble, way.refit, size, config.warmup)
    return ensemble


def _take_steps(ensemble: Ensemble, steps: int, size: int, warmup: float) -> None:
    for step in range(steps):
        for _ in ensemble.step(Step(step, steps, size, rate_at((step + 0.5) / steps, warmup))):
            pass


class Bench:
    """The unchanged model and its predictions."""

    def __init__(self, model: ls.Model, data: Path) -> None:
        self.model = model
        self._sets = {name: find_set(data / FOLDERS[name]) for name in FOLDERS}
        self._isic = read(find_set(data / "isic2017-val-256")[::6])
        self._isic_before = overlaps(model, self._isic)

    def measure(self, data: str, name: str, draw: int, turn: int) -> Turn:
        """Measure a variant in one turn of a draw."""
        way, model, pairs, parts = VARIANTS[name], self.model, self._sets[data], PARTS[data]
        part_of = assign_folds([pair.stem for pair in pairs], map(describe, pairs), parts, draw)
        own = {(turn + offset) % parts for offset in range(LEARNED[data])}
        taken = [pair for pair, part in zip(pairs, part_of, strict=True) if part in own]
        rest = read([pair for pair, part in zip(pairs, part_of, strict=True) if part not in own])
        fold_of = assign_folds([pair.stem for pair in taken], map(describe, taken), way.models, draw)
        started = time.process_time()
        ensemble = learn(model, read(taken), fold_of, way, draw)
        seconds = time.process_time() - started
        before = overlaps(model, rest)
        models = [ensemble.mean(ensemble.weights(), share, model.card) for share in SHARES]
        gains = tuple(overlaps(new, rest) - before for new in models)
        isic = tuple(overlaps(new, self._isic) - self._isic_before for new in models)
        return Turn(data, name, draw, turn, seconds, len(rest), gains, isic)


def print_table(turns: Sequence[Turn], console: Console) -> None:
    """Print a row for every variant: the mean over all images measured, and the spread between turns."""
    shares = [f"{share:g} of the way" for share in SHARES]
    table = Table("images", "variant", "draws", *shares, "CPU s", title="gain on the rest / on ISIC val")
    for data, name in dict.fromkeys((turn.data, turn.variant) for turn in turns):
        same = [turn for turn in turns if (turn.data, turn.variant) == (data, name)]
        figures = [_describe_gain(same, index) for index in range(len(SHARES))]
        seconds = f"{fmean(turn.cpu_seconds for turn in same):.0f}"
        draws = str(len({turn.draw for turn in same}))
        table.add_row(data, name, draws, *figures, seconds)
    console.print(table)


def _describe_gain(turns: Sequence[Turn], index: int) -> str:
    gain = fmean([t.gains[index] for t in turns], weights=[t.measured for t in turns])
    spread = f" ± {stdev(t.gains[index] for t in turns):.3f}" if len(turns) > 1 else ""
    return f"{gain:+.3f}{spread} / {fmean(t.isic[index] for t in turns):+.3f}"


def read_turns(path: Path | None) -> list[Turn]:
    """Read what was measured before."""
    if path is None or not path.exists():
        return []
    rows = json.loads(path.read_text())
    return [Turn(**{**row, "gains": tuple(row["gains"]), "isic": tuple(row["isic"])}) for row in rows]


def wanted(sets: Iterable[str], names: Iterable[str], draws: int) -> list[tuple[str, str, int, int]]:
    """List what is to be measured: set, variant, draw and turn, one draw after the other."""
    return [
        (data, name, draw, turn)
        for draw in range(draws)
        for data in sets
        for name in names
        for turn in range(PARTS[data])
    ]


def main() -> None:
    """Measure what was not measured yet, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model")
    add_data_argument(parser)
    parser.add_argument("--sets", nargs="+", choices=tuple(PARTS), default=list(PARTS))
    parser.add_argument("--only", nargs="+", choices=tuple(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--json", type=Path, help="save the folds, and continue from saved ones")
    options = parser.parse_args()
    bench, console = Bench(ls.load_model(options.model), options.data), Console(width=150)
    turns = read_turns(options.json)
    done = {(turn.data, turn.variant, turn.draw, turn.turn) for turn in turns}
    for data, name, draw, turn in wanted(options.sets, options.only, options.draws):
        if (data, name, draw, turn) in done:
            continue
        turns.append(bench.measure(data, name, draw, turn))
        console.log(turns[-1])
        if options.json is not None:
            options.json.write_text(json.dumps([dataclasses.asdict(each) for each in turns], indent=1))
    print_table(turns, console)


if __name__ == "__main__":
    main()
