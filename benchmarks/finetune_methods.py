"""Compare ways to fine-tune, one thing at a time, at a fixed number of steps.

Prints the table of ``docs/explanation/fine-tuning.md``::

    python benchmarks/finetune_methods.py [--draws 2] [--only NAME ...] [--json F]

Every variant learns from the same drawn pictures as ``finetune.py`` draws them, without a budget in seconds
and without held-out pictures to stop or choose by: what is compared is the learning itself. Old and new
weights are then joined at several shares of the way, and each is measured on the rest of the set, and on
every third of ISIC 2017's validation pictures. Seconds are those of the processor, for all steps.
With ``--json`` a draw that was measured is not measured again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

import napari_lesionseg as ls
from finetune import FOLDERS, describe, draw_pictures, overlaps, read
from napari_lesionseg.data.batches import CachedPair, shrink_pair
from napari_lesionseg.engine.ensemble import Ensemble, Fold, deal_out, make_folds
from napari_lesionseg.engine.learner import rate_at
from pictures import add_data_argument, find_set

SHARES = (0.25, 0.5, 1.0)
SPARE_SIDE = 1.25  # pictures are kept so much larger than they are shown, for augmentation to zoom in
ALIKE = {"batch_size": 4, "encoder_lr": 1e-4, "decoder_lr": 5e-4}
COUNTS = {"pad": 20, "ph2": 5}


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to learn."""

    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    steps: int = 100
    """Of each copy."""
    copies: int = 1


VARIANTS = {
    "4 pictures a step": Variant(),
    "8 pictures a step": Variant({"batch_size": 8}),
    "at 192 pixels": Variant({"size": 192}),
    "encoder frozen": Variant({"encoder_lr": 0.0}),
    "all stages learn, thrice the rates": Variant(
        {"frozen_stages": 0, "encoder_lr": 3e-4, "decoder_lr": 1.5e-3}
    ),
    "two copies, 60 steps each": Variant(steps=60, copies=2),
    "three copies, 40 steps each": Variant(steps=40, copies=3),
    "three copies, 40 steps, twice the rates": Variant(
        {"encoder_lr": 2e-4, "decoder_lr": 1e-3}, steps=40, copies=3
    ),
}


@dataclass(frozen=True, slots=True)
class Draw:
    """What a variant made of one draw: gains in mean Jaccard, for each share of the way."""

    data: str
    variant: str
    draw: int
    cpu_seconds: float
    gains: tuple[float, ...]
    isic: tuple[float, ...]


def learn(
    model: ls.Model, pairs: Sequence[CachedPair], fold_of: Sequence[int], way: Variant, seed: int
) -> Ensemble:
    """Let the copies of a variant take all their steps; return them."""
    config = ls.FineTuneConfig.model_validate({**ALIKE, **way.settings, "seed": seed})
    size = config.size or model.card.working_size
    small = [shrink_pair(*pair, round(SPARE_SIDE * size)) for pair in pairs]
    folds = make_folds(small, fold_of) if way.copies > 1 else [Fold(tuple(small), ())]
    ensemble = Ensemble(model, folds, config)
    for step in range(way.steps):
        for index, batch in enumerate(ensemble.batches(step, size)):
            ensemble.step(index, batch, step, rate_at(step / way.steps, config.warmup))
    return ensemble


class Bench:
    """The model as it is, and what it makes of the pictures."""

    def __init__(self, model: ls.Model, data: Path) -> None:
        self.model, self._data = model, data
        self._isic = read(find_set(data / "isic2017-val-256")[::3])
        self._isic_before = overlaps(model, self._isic)
        self._before: dict[tuple[str, int], float] = {}

    def measure(self, data: str, name: str, draw: int) -> Draw:
        """Measure a variant on one draw."""
        way, model = VARIANTS[name], self.model
        taken, left = draw_pictures(find_set(self._data / FOLDERS[data]), COUNTS[data], draw)
        rest = read(left)
        if (data, draw) not in self._before:
            self._before[data, draw] = overlaps(model, rest)
        fold_of = deal_out([pair.stem for pair in taken], map(describe, taken), way.copies, draw)
        started = time.process_time()
        ensemble = learn(model, read(taken), fold_of, way, draw)
        seconds = time.process_time() - started
        models = [ensemble.mean(ensemble.weights(), share, model.card) for share in SHARES]
        gains = tuple(overlaps(new, rest) - self._before[data, draw] for new in models)
        isic = tuple(overlaps(new, self._isic) - self._isic_before for new in models)
        return Draw(data, name, draw, seconds, gains, isic)


def print_table(draws: Iterable[Draw], console: Console) -> None:
    """Print a row for every variant: the mean over draws."""
    shares = [f"{share:g} of the way" for share in SHARES]
    table = Table("pictures", "variant", "draws", *shares, "CPU s", title="gain on the rest / on ISIC val")
    draws = list(draws)
    for data, name in dict.fromkeys((draw.data, draw.variant) for draw in draws):
        same = [draw for draw in draws if (draw.data, draw.variant) == (data, name)]
        figures = [
            f"{fmean(d.gains[i] for d in same):+.3f} / {fmean(d.isic[i] for d in same):+.3f}"
            for i in range(len(SHARES))
        ]
        seconds = f"{fmean(d.cpu_seconds for d in same):.0f}"
        table.add_row(f"{data} {COUNTS[data]}", name, str(len(same)), *figures, seconds)
    console.print(table)


def read_draws(path: Path | None) -> list[Draw]:
    """Read what was measured before."""
    if path is None or not path.exists():
        return []
    rows = json.loads(path.read_text())
    return [Draw(**{**row, "gains": tuple(row["gains"]), "isic": tuple(row["isic"])}) for row in rows]


def main() -> None:
    """Measure what was not measured yet, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model")
    add_data_argument(parser)
    parser.add_argument("--sets", nargs="+", choices=tuple(COUNTS), default=list(COUNTS))
    parser.add_argument("--only", nargs="+", choices=tuple(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--json", type=Path, help="keep the draws, and go on from those that are there")
    options = parser.parse_args()
    bench, console, draws = (
        Bench(ls.load_model(options.model), options.data),
        Console(width=150),
        read_draws(options.json),
    )
    done = {(draw.data, draw.variant, draw.draw) for draw in draws}
    wanted = [(d, n, i) for d in options.sets for n in options.only for i in range(options.draws)]
    for data, name, draw in wanted:
        if (data, name, draw) in done:
            continue
        draws.append(bench.measure(data, name, draw))
        console.log(draws[-1])
        if options.json is not None:
            options.json.write_text(json.dumps([dataclasses.asdict(each) for each in draws], indent=1))
    print_table(draws, console)


if __name__ == "__main__":
    main()
