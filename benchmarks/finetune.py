"""Measure what fine-tuning gains, what it forgets, and how long it takes.

Prints tables of ``docs/development/fine-tuning.md``::

    python benchmarks/finetune.py [--model M] [--data DIR] [--draws 5] [--seconds 60] [--sets pad ph2]
        [--order random | active] [--isic-every N] [--set NAME=VALUE ...] [--json FILE]

- Images of a set are drawn at random with patients kept together. The model is fine-tuned on them as in the
  window, and the new model is used only if it is better on its held-out images.
- Both models are measured on the rest of the set and on ISIC 2017 validation images, which are from the
  training domain: what is lost there is forgotten.
- Means over draws with the standard deviation between draws; "fell" counts draws after which the rest got
  worse, "promised" is the gain on the held-out images. The row with 0 corrected images is the unchanged model
  on the whole set.
- After 1 click: a simulated annotator clicks once into the largest error. After a box: one around all lesions
  of the image, each side off by 5 %.
- ``--order active`` draws the images in the queue's order "least certain first", one after the other, the
  first of each draw at random from half of the set. The difference between the two tables is the gain over
  chance.
- ``--json FILE`` saves every draw; the same command continues an interrupted run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import napari_lesionseg as ls
from images import add_data_argument, find_set, jaccard
from napari_lesionseg.cli.options import make_settings, parse_changes
from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.datasets.splits import SplitItem, group_items
from napari_lesionseg.evaluation.quality import quality_estimate
from napari_lesionseg.finetuning.fold_processes import FoldProcesses
from napari_lesionseg.finetuning.session import FineTuning
from napari_lesionseg.inference.clicks import next_click
from napari_lesionseg.inference.postprocess import postprocess
from napari_lesionseg.io.images import read_image, read_mask
from napari_lesionseg.study.events import Added, Predicted
from napari_lesionseg.study.queue import Order, arrange
from napari_lesionseg.study.state import ImageState
from napari_lesionseg.training.dataset import CachedPair
from napari_lesionseg.types import Pair
from prompts import draw_box

COUNTS = {"pad": (0, 5, 10, 20), "ph2": (0, 3, 5, 10)}
FOLDERS = {"pad": "pad-smartphone", "ph2": "ph2-sample"}
POSTPROCESS = PostprocessConfig()


@dataclass(frozen=True, slots=True)
class Row:
    """One draw: overlap before and after, each the mean Jaccard index over images."""

    data: str
    wanted: int
    """Images that were asked for."""
    images: int
    """Images used for training: all of each patient."""
    draw: int
    offered: bool
    share: float
    rest_before: float
    rest_after: float
    clicked_before: float
    clicked_after: float
    boxed_before: float
    boxed_after: float
    isic_before: float
    isic_after: float
    promised: float
    """What the held-out images said that would be gained."""
    planned_seconds: float
    seconds: float


@dataclass(frozen=True)
class Bench:
    """What all draws have in common."""

    model: ls.Model
    config: ls.FineTuneConfig
    isic: Sequence[CachedPair]
    isic_before: float
    order: str


def describe(pair: Pair) -> SplitItem:
    """Say whose image it is: PAD-UFES-20 names are PAT_<patient>_<lesion>_<image>."""
    parts = pair.stem.split("_")
    known = parts[0] == "PAT"
    return SplitItem(pair.stem, patient=parts[1] if known else None, lesion=parts[2] if known else None)


def draw_images(
    pairs: Sequence[Pair], count: int, draw: int, ranking: Sequence[str] = ()
) -> tuple[list[Pair], list[Pair]]:
    """Draw ``count`` images, or a few more where a patient has several; return them and the rest.

    With a ranking of stems, the same number of groups is offered at random, twice as many as are needed, and
    the first of the ranking among them are taken.
    """
    groups, _ = group_items(map(describe, pairs))
    order = [groups[index] for index in np.random.default_rng((2026, draw)).permutation(len(groups))]
    if ranking:
        places = {stem: place for place, stem in enumerate(ranking)}
        half = order[: max(len(order) // 2, min(len(order), 2 * count))]
        order = sorted(half, key=lambda group: min(places[stem] for stem in group))
    taken: set[str] = set()
    for group in order:
        if len(taken) < count:
            taken |= set(group)
    return [p for p in pairs if p.stem in taken], [p for p in pairs if p.stem not in taken]


def rank(pairs: Sequence[Pair], model: ls.Model) -> list[str]:
    """Put stems into the order in which the queue shows images that the model has outlined."""
    states = []
    for number, pair in enumerate(pairs):
        image = read_image(pair.image)
        quality = quality_estimate(model.predict(image), model.card.threshold)
        states.append(_state(pair.stem, number, image.shape[:2], quality))
    return [state.name for state in arrange(states, Order.QUALITY)]


def _state(stem: str, number: int, shape: tuple[int, int], quality: float) -> ImageState:
    """Make what a study knows of an image that was predicted and not reviewed."""
    now = datetime.now(UTC)
    common = {"image_id": f"{number:064x}", "time": now, "writer": "am-0", "number": number + 1}
    added = Added.model_construct(**common, name=stem, path=stem, own=False, size=1, shape=shape)
    outline = Predicted.model_construct(**common, quality=quality)
    return ImageState(added, now, predicted=outline, current=outline)


def read(pairs: Sequence[Pair]) -> list[CachedPair]:
    """Read images as they are."""
    made = []
    for pair in pairs:
        image = read_image(pair.image)
        made.append(CachedPair(pair.stem, image, read_mask(pair.mask, image.shape[:2])))
    return made


def overlaps(model: ls.Model, pairs: Sequence[CachedPair], clicks: int = 0) -> float:
    """Measure the mean Jaccard index, each image after some clicks into its largest error."""
    return fmean(_overlap(model, pair, clicks) for pair in pairs)


def _overlap(model: ls.Model, pair: CachedPair, clicks: int) -> float:
    image, truth, set_clicks = model.encode(pair.image), pair.labels > 0, list[ls.Click]()
    probability = image.predict()
    for _ in range(clicks):
        outline = postprocess(probability, POSTPROCESS, model.card.threshold, set_clicks) > 0
        click = next_click(outline, truth)
        if click is None:
            break
        set_clicks.append(click)
        probability = image.predict(set_clicks, previous=probability)
    outline = postprocess(probability, POSTPROCESS, model.card.threshold, set_clicks) > 0
    return jaccard(outline, truth)


def overlaps_after_box(model: ls.Model, pairs: Sequence[CachedPair]) -> float:
    """Measure the mean Jaccard index after one imperfect box; images without a lesion are left out."""
    found = []
    for seed, pair in enumerate(pairs):
        truth = pair.labels > 0
        if truth.any():
            box = draw_box(truth, np.random.default_rng(seed))
            outline = ls.segment(pair.image, model, postprocess=POSTPROCESS, box=box) > 0
            found.append(jaccard(outline, truth))
    return fmean(found)


def measure_draw(
    bench: Bench, name: str, pairs: Sequence[Pair], count: int, draw: int, ranking: Sequence[str]
) -> Row:
    """Fine-tune on one draw, and measure the old and the new model."""
    model = bench.model
    taken, left = draw_images(pairs, count, draw, ranking)
    rest = read(left)
    started = time.monotonic()
    config = bench.config.model_copy(update={"seed": draw})
    workers = FoldProcesses() if config.num_threads is None else None
    tuning = FineTuning(model, taken, config, items=map(describe, taken), workers=workers)
    for _ in tuning:
        pass
    candidate, seconds = tuning.candidate(), time.monotonic() - started
    new = candidate.model if candidate.offered else model
    promised = candidate.comparison.jaccard.difference.mean if candidate.comparison else 0.0
    return Row(
        data=name,
        wanted=count,
        images=len(taken),
        draw=draw,
        offered=candidate.offered,
        share=candidate.interpolation,
        rest_before=overlaps(model, rest),
        rest_after=overlaps(new, rest),
        clicked_before=overlaps(model, rest, 1),
        clicked_after=overlaps(new, rest, 1),
        boxed_before=overlaps_after_box(model, rest),
        boxed_after=overlaps_after_box(new, rest),
        isic_before=bench.isic_before,
        isic_after=overlaps(new, bench.isic) if candidate.offered else bench.isic_before,
        promised=promised,
        planned_seconds=tuning.plan.seconds if tuning.plan else 0.0,
        seconds=seconds,
    )


def measure_start(bench: Bench, name: str, pairs: Sequence[Pair]) -> Row:
    """Measure the model as it is, on the whole set."""
    whole, isic = read(pairs), bench.isic_before
    overlap, clicked = overlaps(bench.model, whole), overlaps(bench.model, whole, 1)
    boxed = overlaps_after_box(bench.model, whole)
    return Row(
        data=name,
        wanted=0,
        images=0,
        draw=0,
        offered=False,
        share=0.0,
        rest_before=overlap,
        rest_after=overlap,
        clicked_before=clicked,
        clicked_after=clicked,
        boxed_before=boxed,
        boxed_after=boxed,
        isic_before=isic,
        isic_after=isic,
        promised=0.0,
        planned_seconds=0.0,
        seconds=0.0,
    )


def spread(values: Sequence[float], digits: int = 3, *, sign: bool = False) -> str:
    """Write mean and standard deviation."""
    form = f"{'+' if sign else ''}.{digits}f"
    deviation = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):{form}}{deviation}"


def print_table(name: str, rows: Sequence[Row], order: str, console: Console) -> None:
    """Print a row for every number of corrected images."""
    draws = max(row.draw for row in rows) + 1
    title = f"{FOLDERS[name]}, {order} order, {draws} draws"
    table = Table(title=title, title_justify="left")
    for column in ("corrected", "rest, before", "after", "gain", "gain after 1 click", "gain after a box"):
        table.add_column(column, justify="right")
    for column in ("ISIC val", "offered", "fell", "promised", "share", "seconds"):
        table.add_column(column, justify="right")
    for count in sorted({row.wanted for row in rows}):
        same = [row for row in rows if row.wanted == count]
        table.add_row(
            str(count),
            spread([r.rest_before for r in same]),
            spread([r.rest_after for r in same]),
            spread([r.rest_after - r.rest_before for r in same], sign=True),
            spread([r.clicked_after - r.clicked_before for r in same], sign=True),
            spread([r.boxed_after - r.boxed_before for r in same], sign=True),
            spread([r.isic_after - r.isic_before for r in same], sign=True),
            f"{sum(r.offered for r in same)}/{len(same)}",
            str(sum(r.rest_after < r.rest_before for r in same)),
            spread([r.promised for r in same], sign=True),
            f"{fmean(r.share for r in same):.2f}",
            spread([r.seconds for r in same], 0),
        )
    console.print(table)


class Kept:
    """Rows in a file, so that an interrupted run can continue; without a file nothing is kept.

    Parameters
    ----------
    path : Path, optional
        The file.
    about : dict
        What decides the figures; rows that were made otherwise are not taken.
    """

    def __init__(self, path: Path | None, about: dict[str, object]) -> None:
        self._path, self._about = path, about
        found = json.loads(path.read_text()) if path is not None and path.exists() else {}
        if found and found["about"] != about:
            raise SystemExit(f"{path} was made with other settings; choose another file.")
        self.rows = [Row(**row) for row in found.get("rows", [])]

    def find(self, name: str, count: int, draw: int) -> Row | None:
        """Return a row that exists already."""
        same = (row for row in self.rows if (row.data, row.wanted, row.draw) == (name, count, draw))
        return next(same, None)

    def add(self, row: Row) -> None:
        """Keep a row."""
        self.rows.append(row)
        if self._path is not None:
            rows = [dataclasses.asdict(row) for row in self.rows]
            self._path.write_text(json.dumps({"about": self._about, "rows": rows}, indent=1))


def measure_set(
    bench: Bench, name: str, pairs: Sequence[Pair], options: argparse.Namespace, kept: Kept, console: Console
) -> None:
    """Measure all draws of a set and print its table."""
    ranking = rank(pairs, bench.model) if bench.order == "active" else []
    for count in options.counts or COUNTS[name]:
        for draw in range(options.draws if count else 1):
            if kept.find(name, count, draw):
                continue
            if count:
                row = measure_draw(bench, name, pairs, count, draw, ranking)
            else:
                row = measure_start(bench, name, pairs)
            kept.add(row)
            console.log(row)
    print_table(name, [row for row in kept.rows if row.data == name], bench.order, console)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model")
    add_data_argument(parser)
    parser.add_argument("--sets", nargs="+", choices=tuple(FOLDERS), default=list(FOLDERS))
    parser.add_argument("--counts", nargs="+", type=int, help="corrected images (default: those of the set)")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--order", choices=("random", "active"), default="random")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change a setting")
    parser.add_argument("--isic-every", type=int, default=1, help="measure every nth ISIC image only")
    parser.add_argument("--json", type=Path, help="save the draws, and continue from saved ones")
    return parser.parse_args()


def main() -> None:
    """Print the tables."""
    options, console, started = parse_arguments(), Console(width=150), time.monotonic()
    model = ls.load_model(options.model, options.device)
    isic = read(find_set(options.data / "isic2017-val-256")[:: options.isic_every])
    settings = make_settings(ls.FineTuneConfig, {"max_seconds": options.seconds}, parse_changes(options.set))
    about = {"model": model.sha256, "settings": settings.model_dump(mode="json")}
    about |= {"order": options.order, "isic_every": options.isic_every}
    kept = Kept(options.json, about)
    bench = Bench(model, settings, isic, overlaps(model, isic), options.order)
    console.print(
        f"{model.card.name}: Jaccard {bench.isic_before:.3f} on {len(isic)} ISIC images; "
        f"{torch.get_num_threads()} threads, budget {options.seconds:.0f} s"
    )
    for name in options.sets:
        measure_set(bench, name, find_set(options.data / FOLDERS[name]), options, kept, console)
    console.print(f"{time.monotonic() - started:.0f} s in all")


if __name__ == "__main__":
    main()
