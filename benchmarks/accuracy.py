"""Measure how well predictions agree with annotators' masks, on images that were not used for training.

Prints tables of ``docs/development/benchmarks.md``::

    python benchmarks/accuracy.py [--model M] [--data DIR] [--baselines [only]] [--json F] [--sheet DIR]

Needs OpenCV and openpyxl: ``pip install ".[benchmarks]"``.

- ``isic2017-val-256`` is resized to squares, so its distances are those of the resized images.
- ``pad-smartphone`` contains photos without a dermoscope, some with several lesions.
- Intervals are 95 % over images: percentile bootstrap for means, Wilson for the failure rate.
- Calibration uses the same number of pixels from each image.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openpyxl
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import special, stats

import napari_lesionseg as ls
from baselines import GrabCut, Otsu
from images import add_data_argument, find_set, jaccard
from napari_lesionseg.errors import ImageError, MaskError
from napari_lesionseg.evaluation.calibration import expected_calibration_error, fit_temperature
from napari_lesionseg.evaluation.evaluate import (
    Evaluation,
    FailedImage,
    ImageResult,
    Measured,
    Outcome,
    Predictor,
    collect,
    measure_pair,
)
from napari_lesionseg.evaluation.metrics import Estimate, summarize
from napari_lesionseg.evaluation.quality import boundary_entropy
from napari_lesionseg.io.images import read_image, read_mask, write_image
from napari_lesionseg.types import ByteImage, LabelImage, Pair

SETS = ("isic2017-val-256", "isic-crop512-val", "ph2-sample", "pad-smartphone")
SECOND_ANNOTATOR = "second_reader_masks"
PIXELS = 20_000
"""Pixels sampled per image for the calibration, so that large images do not outweigh others."""
TRUTH_COLOR, PREDICTED_COLOR = (86, 180, 233), (240, 228, 66)
"""Sky blue and yellow of Okabe and Ito: different to color-blind eyes, and neither a color of skin."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What may explain why an image is hard, and pixels to judge the calibration with."""

    result: ImageResult
    pair: Pair
    area: float
    at_border: bool
    hair: float
    diagnosis: str | None
    entropy: float
    probabilities: np.ndarray
    truths: np.ndarray


@dataclass(frozen=True, slots=True)
class Report:
    """Everything measured with one method on one dataset."""

    data: str
    evaluation: Evaluation
    facts: tuple[Facts, ...]

    def calibration_error(self) -> float:
        """Return the expected calibration error over drawn pixels."""
        facts = self.facts
        return expected_calibration_error((f.probabilities for f in facts), (f.truths for f in facts))

    def temperature(self) -> float:
        """Return the temperature that would calibrate the probabilities best."""
        logits = (special.logit(np.clip(f.probabilities, 1e-6, 1 - 1e-6)) for f in self.facts)
        return fit_temperature(logits, (f.truths for f in self.facts))

    def rank_correlation(self, value: Callable[[Facts], float]) -> float | None:
        """Return Spearman's correlation of a value with the true Jaccard index; None if it is constant."""
        values = [value(facts) for facts in self.facts]
        jaccards = [facts.result.scores.jaccard for facts in self.facts]
        if len(set(values)) < 2 or len(set(jaccards)) < 2:
            return None
        return float(stats.spearmanr(values, jaccards).statistic)


def hair_share(image: ByteImage) -> float:
    """Measure hair as the fraction of pixels much darker than those a hair's width away.

    The image is brought to 512 pixels on its longer side; a pixel counts where the gray-scale closing with
    a disc of 17 pixels lies more than 20 of 255 above it (the black-hat transform; DullRazor, Lee et al.
    1997, looks for hairs by closing, too). Dots and networks of pigment count a little as well.
    """
    scale = 512 / max(image.shape[:2])
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (17, 17))
    return float((cv2.morphologyEx(gray, cv2.MORPH_BLACKHAT, disc) > 20).mean())


def touches_border(mask: LabelImage) -> bool:
    """Whether the lesion extends beyond the image."""
    return bool(mask[[0, -1]].any() or mask[:, [0, -1]].any())


def ph2_diagnoses(folder: Path) -> dict[str, str]:
    """Read the diagnoses of PH2 from its spreadsheet; empty if there is none."""
    path = folder / "PH2_dataset.xlsx"
    if not path.is_file():
        return {}
    rows = list(openpyxl.load_workbook(path, read_only=True).active.iter_rows(values_only=True))
    start = next(index for index, row in enumerate(rows) if row[0] == "Image Name")
    columns = [(rows[start].index(name), name) for name in ("Common Nevus", "Atypical Nevus", "Melanoma")]
    return {
        row[0].strip(): name for row in rows[start + 1 :] if row[0] for index, name in columns if row[index]
    }


def gather(measured: Measured, pair: Pair, diagnosis: str | None, threshold: float) -> Facts:
    """Keep of a measured image what the tables need, and forget its pixels."""
    probability = measured.probability
    lesion = 1 - probability[0] if probability.ndim == 3 else probability
    drawn = np.random.default_rng(0).integers(0, lesion.size, PIXELS)
    return Facts(
        result=measured.result,
        pair=pair,
        area=float((measured.truth > 0).mean()),
        at_border=touches_border(measured.truth),
        hair=hair_share(read_image(pair.image)),
        diagnosis=diagnosis,
        entropy=boundary_entropy(probability, threshold),
        probabilities=lesion.ravel()[drawn],
        truths=measured.truth.ravel()[drawn],
    )


def measure_set(model: Predictor, folder: Path) -> Report:
    """Measure one method on one dataset, showing the progress."""
    diagnoses = ph2_diagnoses(folder)
    outcomes: list[Outcome] = []
    facts: list[Facts] = []
    for pair in track(find_set(folder), f"{folder.name}: {model.card.name}", console=Console(stderr=True)):
        try:
            measured = measure_pair(model, pair)
        except (ImageError, MaskError) as error:
            outcomes.append(FailedImage(pair.stem, str(error)))
            continue
        outcomes.append(measured.result)
        facts.append(gather(measured, pair, diagnoses.get(pair.stem), model.card.threshold))
    return Report(folder.name, collect(model, outcomes), tuple(facts))


def thirds(
    facts: Sequence[Facts], value: Callable[[Facts], float], names: Sequence[str]
) -> dict[str, list[Facts]]:
    """Sort images into the lowest, the middle and the highest third of a value."""
    ordered = sorted(facts, key=value)
    return {name: list(part) for name, part in zip(names, _split(ordered, 3), strict=True)}


def groups(facts: Sequence[Facts]) -> dict[str, list[Facts]]:
    """Sort images by what may make them hard; an image is in several groups."""
    diagnoses = sorted({f.diagnosis for f in facts if f.diagnosis})
    found = {
        **thirds(facts, lambda f: f.area, ("small lesion", "medium lesion", "large lesion")),
        "touches the border": [f for f in facts if f.at_border],
        "within the image": [f for f in facts if not f.at_border],
        **thirds(facts, lambda f: f.hair, ("little hair", "some hair", "much hair")),
        **{name.lower(): [f for f in facts if f.diagnosis == name] for name in diagnoses},
    }
    return {name: members for name, members in found.items() if members}


def show(estimate: Estimate, scale: float = 1, digits: int = 3) -> str:
    """Write a mean with its interval."""
    mean = f"{scale * estimate.mean:.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return mean
    return f"{mean} [dim]({scale * estimate.low:.{digits}f}-{scale * estimate.high:.{digits}f})[/dim]"


def accuracy_table(reports: Iterable[Report]) -> Table:
    """Lay out the main figures, a row for each dataset and method."""
    heads = (
        "data",
        "method",
        "n",
        "Dice",
        "Jaccard",
        "thresholded Jaccard",
        "failed %",
        "HD95 % of diagonal",
    )
    table = Table(*heads, title="Agreement with the annotators (95 % interval)")
    for report in reports:
        summary = report.evaluation.summary
        if summary is None:
            continue
        table.add_row(
            report.data,
            report.evaluation.model,
            str(summary.images),
            show(summary.dice),
            show(summary.jaccard),
            show(summary.thresholded_jaccard),
            show(summary.failure_rate, 100, 1),
            show(summary.hd95_percent, 1, 2),
        )
    return table


def group_table(report: Report) -> Table:
    """Lay out the same figures for each group of images."""
    title = f"{report.data}, {report.evaluation.model}: what makes images hard"
    table = Table("images", "n", "Dice", "Jaccard", "failed %", title=title)
    for name, members in groups(report.facts).items():
        summary = summarize([facts.result.scores for facts in members])
        figures = (show(summary.dice), show(summary.jaccard), show(summary.failure_rate, 100, 1))
        table.add_row(name, str(len(members)), *figures)
    return table


def trust_table(reports: Iterable[Report]) -> Table:
    """Lay out how far the probabilities can be trusted."""
    heads = (
        "data",
        "method",
        "calibration error",
        "best temperature",
        "quality ~ Jaccard",
        "entropy ~ Jaccard",
    )
    table = Table(*heads, title="Trust: calibration of pixels, rank correlation of estimates with the truth")
    for report in reports:
        trust = trust_figures(report)
        figures = ("-" if value is None else f"{value:.3f}" for value in trust.values())
        table.add_row(report.data, report.evaluation.model, *figures)
    return table


def annotators_table(report: Report, folder: Path) -> Table | None:
    """Tabulate the agreement of two annotators, and of the method with the first."""
    second = folder / SECOND_ANNOTATOR
    overlaps = []
    for facts in report.facts:
        paths = sorted(second.glob(f"{facts.pair.stem}*"))
        if paths:
            first = read_mask(facts.pair.mask) > 0
            other = read_mask(paths[0], first.shape) > 0
            overlaps.append((facts.result.scores.jaccard, jaccard(other, first)))
    if not overlaps:
        return None
    method, annotator = np.mean(overlaps, axis=0)
    table = Table("compared with the first annotator", "n", "Jaccard", title=f"{report.data}: two annotators")
    table.add_row("the second annotator", str(len(overlaps)), f"{annotator:.3f}")
    table.add_row(report.evaluation.model, str(len(overlaps)), f"{method:.3f}")
    return table


def trust_figures(report: Report) -> dict[str, float | None]:
    """Compute the figures of a row of the table on trust."""
    return {
        "calibration_error": report.calibration_error(),
        "temperature": report.temperature(),
        "quality_rank_correlation": report.rank_correlation(lambda f: f.result.quality),
        "entropy_rank_correlation": report.rank_correlation(lambda f: f.entropy),
    }


def to_json(report: Report) -> dict[str, Any]:
    """Return all figures of a report as plain values."""
    parts = groups(report.facts).items()
    return {
        "data": report.data,
        "evaluation": report.evaluation.to_json(),
        "trust": trust_figures(report),
        "groups": {
            name: dataclasses.asdict(summarize([f.result.scores for f in members])) for name, members in parts
        },
    }


def draw_tile(pair: Pair, measured: Measured, side: int = 320) -> ByteImage:
    """Draw an image with the true and the predicted outline, its name and its score."""
    height, width = measured.truth.shape
    scale = side / max(height, width)
    size = (round(width * scale), round(height * scale))
    image = cv2.resize(read_image(pair.image), size, interpolation=cv2.INTER_AREA)
    outlines = ((measured.predicted, PREDICTED_COLOR, 3), (measured.truth, TRUTH_COLOR, 1))
    for mask, color, thickness in outlines:
        small = cv2.resize((mask > 0).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        contours, _ = cv2.findContours(small, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(image, contours, -1, color, thickness)
    tile = np.zeros((side + 24, side, 3), np.uint8)
    tile[: size[1], : size[0]] = image
    caption = f"{measured.result.stem}  Jaccard {measured.result.scores.jaccard:.2f}"
    cv2.putText(
        tile, caption, (4, side + 17), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA
    )
    return tile


def write_sheet(model: Predictor, report: Report, folder: Path, count: int = 20, columns: int = 5) -> Path:
    """Draw the worst images of a report into one PNG; truth sky blue, predicted yellow."""
    worst = sorted(report.facts, key=lambda facts: facts.result.scores.jaccard)[:count]
    tiles = [draw_tile(facts.pair, measure_pair(model, facts.pair)) for facts in worst]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[start : start + columns]) for start in range(0, len(tiles), columns)]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{report.data}-{model.card.name.lower().replace(', ', '-').replace(' ', '-')}.png"
    write_image(path, np.vstack(rows))
    return path


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="name or file of the model (default: the shipped one)")
    add_data_argument(parser)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS, help="datasets to measure on")
    parser.add_argument("--baselines", nargs="?", const="also", choices=("also", "only"))
    parser.add_argument("--json", type=Path, help="write all scores, also per image, to this file")
    parser.add_argument("--sheet", type=Path, help="write the worst images of each set to this folder")
    return parser.parse_args()


def choose_methods(arguments: argparse.Namespace) -> list[Predictor]:
    """Return what is to be measured."""
    model = [] if arguments.baselines == "only" else [ls.load_model(arguments.model)]
    baselines = [Otsu(), Otsu(central=True), GrabCut()] if arguments.baselines else []
    return [*model, *baselines]


def main() -> None:
    """Measure, print the tables and write the files asked for."""
    arguments = parse_arguments()
    methods = choose_methods(arguments)
    reports = []
    for name in arguments.sets:
        for method in methods:
            reports.append(measure_set(method, arguments.data / name))
            if arguments.sheet:
                write_sheet(method, reports[-1], arguments.sheet)
    console = Console() if sys.stdout.isatty() else Console(width=170)
    console.print(accuracy_table(reports), trust_table(reports))
    for report in reports:
        if report.evaluation.model == methods[0].card.name:
            console.print(group_table(report))
            if (annotators := annotators_table(report, arguments.data / report.data)) is not None:
                console.print(annotators)
        for failed in report.evaluation.failed_inputs:
            console.print(f"{report.data} {failed.stem}: {failed.reason}", style="red")
    if arguments.json:
        arguments.json.write_text(json.dumps([to_json(report) for report in reports], indent=1))


def _split(ordered: list[Facts], count: int) -> list[list[Facts]]:
    edges = [round(index * len(ordered) / count) for index in range(count + 1)]
    return [ordered[start:stop] for start, stop in pairwise(edges)]


if __name__ == "__main__":
    main()
