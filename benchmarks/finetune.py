"""Measure what fine-tuning gains, what it forgets, and how long it takes.

Prints the tables of ``docs/explanation/fine-tuning.md``::

    python benchmarks/finetune.py [--model M] [--data DIR] [--draws 5] [--seconds 60] [--sets pad ph2]

- Some pictures of a set are drawn at random, patients never torn apart; the model learns from them as it
  would in the window, and is taken only if its own held-out pictures say it is better.
- Both models are then measured on the rest of the set, and on ISIC 2017's validation pictures, which are of
  the kind the shipped model was trained for: what it loses there it has forgotten.
- Means over the draws, with the standard deviation between draws; "fell" counts draws after which the rest of
  the set was outlined worse than at the start, "promised" is the gain on the held-out pictures.
- After 1 click: a simulated reader clicks once into the largest error.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import napari_lesionseg as ls
from napari_lesionseg.cli.settings import make_settings, parse_changes
from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.data.batches import CachedPair
from napari_lesionseg.data.io import read_mask, read_picture
from napari_lesionseg.data.pairing import find_pairs
from napari_lesionseg.data.splits import SplitItem, group_items
from napari_lesionseg.engine.clicks import next_click
from napari_lesionseg.engine.postprocessing import postprocess
from napari_lesionseg.types import Pair

DATA = Path(__file__).parents[2] / "shared" / "data"
COUNTS = {"pad": (5, 10, 20), "ph2": (3, 5, 10)}
FOLDERS = {"pad": "pad-smartphone", "ph2": "ph2-sample"}
POSTPROCESS = PostprocessConfig()


@dataclass(frozen=True, slots=True)
class Row:
    """One draw: overlap before and after, each the mean Jaccard index over pictures."""

    data: str
    pictures: int
    draw: int
    offered: bool
    share: float
    rest_before: float
    rest_after: float
    clicked_before: float
    clicked_after: float
    isic_before: float
    isic_after: float
    promised: float
    """What the held-out pictures said that would be gained."""
    planned_seconds: float
    seconds: float


def find_set(folder: Path) -> Sequence[Pair]:
    """Find the pairs of a data set, be it two folders or PH2's tree."""
    two_folders = (folder / "images").is_dir()
    return (find_pairs(folder / "images", folder / "masks") if two_folders else find_pairs(folder)).pairs


def describe(pair: Pair) -> SplitItem:
    """Say whose picture it is: PAD-UFES-20 names are PAT_<patient>_<lesion>_<picture>."""
    parts = pair.stem.split("_")
    known = parts[0] == "PAT"
    return SplitItem(pair.stem, patient=parts[1] if known else None, lesion=parts[2] if known else None)


def draw_pictures(pairs: Sequence[Pair], count: int, draw: int) -> tuple[list[Pair], list[Pair]]:
    """Draw ``count`` pictures, or a few more where a patient has several; return them and the rest."""
    groups, _ = group_items(map(describe, pairs))
    order = np.random.default_rng((2026, draw)).permutation(len(groups))
    taken: set[str] = set()
    for index in order:
        if len(taken) < count:
            taken |= set(groups[index])
    return [p for p in pairs if p.stem in taken], [p for p in pairs if p.stem not in taken]


def read(pairs: Sequence[Pair]) -> list[CachedPair]:
    """Read pictures as they are."""
    made = []
    for pair in pairs:
        image = read_picture(pair.image)
        made.append(CachedPair(pair.stem, image, read_mask(pair.mask, image.shape[:2])))
    return made


def overlaps(model: ls.Model, pairs: Sequence[CachedPair], clicks: int = 0) -> float:
    """Measure the mean Jaccard index, each picture after some clicks into its largest error."""
    return fmean(_overlap(model, pair, clicks) for pair in pairs)


def _overlap(model: ls.Model, pair: CachedPair, clicks: int) -> float:
    picture, truth, set_clicks = model.encode(pair.image), pair.labels > 0, list[ls.Click]()
    probability = picture.predict()
    for _ in range(clicks):
        outline = postprocess(probability, POSTPROCESS, model.card.threshold, set_clicks) > 0
        click = next_click(outline, truth)
        if click is None:
            break
        set_clicks.append(click)
        probability = picture.predict(set_clicks, previous=probability)
    outline = postprocess(probability, POSTPROCESS, model.card.threshold, set_clicks) > 0
    union = np.count_nonzero(outline | truth)
    return np.count_nonzero(outline & truth) / union if union else 1.0


def measure_draw(
    name: str,
    pairs: Sequence[Pair],
    count: int,
    draw: int,
    model: ls.Model,
    isic: Sequence[CachedPair],
    isic_before: float,
    config: ls.FineTuneConfig,
) -> Row:
    """Fine-tune on one draw, and measure the old and the new model."""
    taken, left = draw_pictures(pairs, count, draw)
    rest = read(left)
    started = time.monotonic()
    tuning = ls.fine_tune(model, taken, config, items=map(describe, taken))
    for _ in tuning:
        pass
    candidate, seconds = tuning.candidate(), time.monotonic() - started
    new = candidate.model if candidate.offered else model
    promised = candidate.comparison.jaccard.difference.mean if candidate.comparison else 0.0
    return Row(
        data=name,
        pictures=len(taken),
        draw=draw,
        offered=candidate.offered,
        share=candidate.share,
        rest_before=overlaps(model, rest),
        rest_after=overlaps(new, rest),
        clicked_before=overlaps(model, rest, 1),
        clicked_after=overlaps(new, rest, 1),
        isic_before=isic_before,
        isic_after=overlaps(new, isic) if candidate.offered else isic_before,
        promised=promised,
        planned_seconds=tuning.plan.seconds,
        seconds=seconds,
    )


def spread(values: Sequence[float], digits: int = 3, *, sign: bool = False) -> str:
    """Write mean and standard deviation."""
    form = f"{'+' if sign else ''}.{digits}f"
    deviation = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):{form}}{deviation}"


def print_table(name: str, rows: Sequence[Row], console: Console) -> None:
    """Print a row for every number of corrected pictures."""
    table = Table(title=f"{FOLDERS[name]}, {max(r.draw for r in rows) + 1} draws", title_justify="left")
    for title in ("corrected", "rest, before", "after", "gain", "gain after 1 click", "ISIC val", "offered"):
        table.add_column(title, justify="right")
    for title in ("fell", "promised", "seconds"):
        table.add_column(title, justify="right")
    for count in sorted({row.pictures for row in rows}):
        same = [row for row in rows if row.pictures == count]
        table.add_row(
            str(count),
            spread([r.rest_before for r in same]),
            spread([r.rest_after for r in same]),
            spread([r.rest_after - r.rest_before for r in same], sign=True),
            spread([r.clicked_after - r.clicked_before for r in same], sign=True),
            spread([r.isic_after - r.isic_before for r in same], sign=True),
            f"{sum(r.offered for r in same)}/{len(same)}",
            str(sum(r.rest_after < r.rest_before for r in same)),
            spread([r.promised for r in same], sign=True),
            spread([r.seconds for r in same], 0),
        )
    console.print(table)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("LESIONSEG_DATA", DATA)))
    parser.add_argument("--sets", nargs="+", choices=tuple(FOLDERS), default=list(FOLDERS))
    parser.add_argument(
        "--counts", nargs="+", type=int, help="corrected pictures (default: those of the set)"
    )
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change a setting")
    parser.add_argument("--isic-every", type=int, default=1, help="measure every nth ISIC picture only")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    console = Console(width=140)
    model = ls.load_model(options.model, options.device)
    isic = read(find_set(options.data / "isic2017-val-256")[:: options.isic_every])
    isic_before = overlaps(model, isic)
    console.print(
        f"{model.card.name}: Jaccard {isic_before:.3f} on {len(isic)} ISIC pictures; "
        f"{torch.get_num_threads()} threads, budget {options.seconds:.0f} s"
    )
    settings = make_settings(ls.FineTuneConfig, {"max_seconds": options.seconds}, parse_changes(options.set))
    rows: list[Row] = []
    for name in options.sets:
        pairs = find_set(options.data / FOLDERS[name])
        for count in options.counts or COUNTS[name]:
            for draw in range(options.draws):
                config = settings.model_copy(update={"seed": draw})
                rows.append(measure_draw(name, pairs, count, draw, model, isic, isic_before, config))
                console.log(rows[-1])
                if options.json:
                    options.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
        print_table(name, [row for row in rows if row.data == name], console)


if __name__ == "__main__":
    main()
