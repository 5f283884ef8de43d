"""``lesionseg evaluate``: measure a model on images with masks."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.table import Table

from napari_lesionseg.cli.console import name_image, print_error, progress_bar, results
from napari_lesionseg.cli.options import add_model, probability
from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.evaluation.evaluate import Evaluation, FailedImage, collect, iter_evaluate
from napari_lesionseg.evaluation.metrics import Estimate
from napari_lesionseg.inference.predictor import load_model
from napari_lesionseg.io.atomic import write_atomically
from napari_lesionseg.io.pairing import find_pairs

EXAMPLE = """example:
  lesionseg evaluate images/ --masks masks/ --json scores.json"""
ROWS = (
    ("Dice", "dice", 3),
    ("Jaccard", "jaccard", 3),
    ("thresholded Jaccard (0.65)", "thresholded_jaccard", 3),
    ("failure rate (Jaccard < 0.65)", "failure_rate", 3),
    ("sensitivity", "sensitivity", 3),
    ("specificity", "specificity", 3),
    ("HD95, % of the diagonal", "hd95_percent", 2),
)


def configure_evaluate(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EXAMPLE
    parser.add_argument("images", help="folder of images, or a PH2 folder")
    parser.add_argument("--masks", help="folder of masks (default: the same folder)")
    add_model(parser)
    parser.add_argument("--threshold", type=probability, help="between 0 and 1 (default: the model's own)")
    parser.add_argument(
        "--all-parts", action="store_true", help="keep all parts of an outline, not the largest only"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures of every image here")


def run_evaluate(options: argparse.Namespace) -> int:
    """Print the table; 1 if some images could not be measured."""
    found = find_pairs([options.images], [options.masks] if options.masks else None)
    for image in found.without_mask:
        print_error(f"{image}: has no mask")
    model = load_model(options.model, options.device)
    config = PostprocessConfig(threshold=options.threshold, largest_only=not options.all_parts)
    outcomes = []
    with progress_bar("Measuring", len(found.pairs)) as (progress, task):
        for outcome in iter_evaluate(model, found.pairs, postprocess=config):
            outcomes.append(outcome)
            if isinstance(outcome, FailedImage):
                print_error(name_image(outcome.stem, outcome.reason))
            progress.advance(task)
    evaluation = collect(model, outcomes, postprocess=config)
    print_table(evaluation)
    if options.json:
        _write_json(options.json, evaluation)
    return 1 if evaluation.failed_inputs or found.without_mask else 0


def print_table(evaluation: Evaluation) -> None:
    """Print means with their 95 % intervals."""
    if evaluation.summary is None:
        print_error("No image could be measured.")
        return
    images = evaluation.summary.images
    table = Table(
        title=f"{evaluation.model} on {images} images, threshold {evaluation.threshold:.2f}",
        title_justify="left",
    )
    table.add_column("score")
    table.add_column("mean", justify="right")
    table.add_column("95 % interval", justify="right")
    for title, name, digits in ROWS:
        value = getattr(evaluation.summary, name)
        table.add_row(title, f"{value.mean:.{digits}f}", _interval(value, digits))
    for entry in evaluation.classes:
        if entry.jaccard is not None:
            table.add_row(f"Jaccard of {entry.name}", f"{entry.jaccard:.3f}", f"{entry.images} images")
    results.print(table)


def _interval(value: Estimate, digits: int) -> str:
    if value.low is None or value.high is None:
        return ""
    return f"{value.low:.{digits}f} to {value.high:.{digits}f}"


def _write_json(path: Path, evaluation: Evaluation) -> None:
    try:
        write_atomically(path, json.dumps(evaluation.to_json(), indent=1).encode())
    except OSError as error:
        raise LesionSegError(f"The figures cannot be written to {path}: {error.strerror}.") from error
