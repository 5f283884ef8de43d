"""``lesionseg evaluate`` and ``tune``: measure a model on images with masks; choose its threshold on them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from napari_lesionseg.cli.console import (
    name_image,
    print_error,
    print_plan,
    print_result,
    progress_bar,
    results,
)
from napari_lesionseg.cli.options import (
    add_cluster,
    add_device,
    add_model,
    add_out,
    check_file,
    check_mask_folders,
    check_out,
    check_partners,
    cluster_options,
    find_all_pairs,
    install_model,
    probability,
)
from napari_lesionseg.cluster.engine import open_engine
from napari_lesionseg.cluster.evaluate import EvaluateJob, evaluate_pairs
from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.evaluation.calibration import tune
from napari_lesionseg.evaluation.evaluate import Evaluation, FailedImage, collect, iter_evaluate
from napari_lesionseg.evaluation.instances import InstanceTally
from napari_lesionseg.evaluation.metrics import Estimate
from napari_lesionseg.evaluation.panoptic import PanopticTally
from napari_lesionseg.inference.predictor import Model, load_model
from napari_lesionseg.io.atomic import write_atomically
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import save_checkpoint
from napari_lesionseg.models.store import ModelStore
from napari_lesionseg.types import Pair

EVALUATE_EXAMPLE = """example:
  lesionseg evaluate images/ --masks masks/ --json scores.json"""
TUNE_EXAMPLE = """example:
  lesionseg tune my-model.safetensors held-out/images --masks held-out/masks --out tuned.safetensors"""
STDOUT = Path("-")
ROWS = (
    ("Dice", "dice", 3),
    ("Jaccard", "jaccard", 3),
    ("thresholded Jaccard (0.65)", "thresholded_jaccard", 3),
    ("failure rate (Jaccard < 0.65)", "failure_rate", 3),
    ("sensitivity", "sensitivity", 3),
    ("specificity", "specificity", 3),
    ("HD95, % of the diagonal", "hd95_percent", 2),
)
INSTANCE_ROWS = (
    ("precision", "precision"),
    ("recall", "recall"),
    ("F1", "f1"),
    ("mean Jaccard of lesions found", "mean_jaccard"),
    ("AP (COCO)", "average_precision"),
    ("AP50 (COCO)", "average_precision_50"),
)
PANOPTIC_ROWS = (
    ("panoptic quality", "quality"),
    ("of things", "quality_of_things"),
    ("of stuff", "quality_of_stuff"),
)


def configure_evaluate(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EVALUATE_EXAMPLE
    parser.add_argument("images", help="folder of images, or a PH2 folder")
    parser.add_argument("--masks", help="folder of masks (default: the same folder)")
    add_model(parser)
    parser.add_argument("--threshold", type=probability, help="between 0 and 1 (default: the model's own)")
    parser.add_argument(
        "--all-parts", action="store_true", help="keep all parts of an outline, not the largest only"
    )
    parser.add_argument(
        "--instances",
        action="store_true",
        help="also count the lesions found and missed, with all parts of the outlines",
    )
    parser.add_argument(
        "--panoptic", action="store_true", help="also measure the panoptic quality, with all parts"
    )
    parser.add_argument(
        "--stuff",
        nargs="+",
        default=[],
        metavar="CLASS",
        help="classes that --panoptic does not count one by one, such as hair",
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write the figures of every image here; - prints them instead of the table",
    )
    add_cluster(parser)


def run_evaluate(options: argparse.Namespace) -> int:
    """Print the table; 1 if some images could not be measured, or their masks are doubtful."""
    check_partners(options, "--panoptic", "--stuff")
    prints_json = options.json == STDOUT
    check_file(None if prints_json else options.json)
    pairs, unused = find_all_pairs([options.images], [options.masks] if options.masks else [])
    path = ModelStore().resolve(options.model)
    model = load_model(path, options.device)
    all_parts = options.all_parts or options.instances or options.panoptic
    largest_only = model.card.largest_only and not all_parts
    config = PostprocessConfig(threshold=options.threshold, largest_only=largest_only)
    instances = InstanceTally(model.card.classes) if options.instances else None
    panoptic = PanopticTally(model.card.classes, options.stuff) if options.panoptic else None
    tallies = [tally for tally in (instances, panoptic) if tally is not None]
    outcomes, doubtful = [], False
    job = EvaluateJob(config.model_dump_json(), options.device, tuple(tallies))
    with (
        open_engine(cluster_options(options)) as engine,
        progress_bar("Measuring", len(pairs)) as (progress, task),
    ):
        install_model(engine, path)
        for outcome in evaluate_pairs(engine, job, pairs, print_plan):
            outcomes.append(outcome)
            reason = outcome.reason if isinstance(outcome, FailedImage) else outcome.doubt
            if reason:
                doubtful = True
                print_error(name_image(outcome.stem, reason))
            progress.advance(task)
    evaluation = collect(model, outcomes, postprocess=config)
    figures = evaluation.to_json()
    if instances and evaluation.summary:
        figures["instances"] = asdict(instances.scores())
    if panoptic and evaluation.summary:
        figures["panoptic"] = {name: getattr(panoptic.quality, name) for _, name in PANOPTIC_ROWS}
    if prints_json:
        print_result(json.dumps(figures))
    else:
        _print_tables(evaluation, instances, panoptic)
        if options.json:
            _write_json(options.json, figures)
    return 1 if doubtful or unused or engine.problems else 0


def _print_tables(
    evaluation: Evaluation, instances: InstanceTally | None, panoptic: PanopticTally | None
) -> None:
    print_table(evaluation)
    if instances and evaluation.summary:
        scores = instances.scores()
        _print_figures(f"{scores.lesions} lesions", scores, INSTANCE_ROWS)
    if panoptic and evaluation.summary:
        _print_figures("All classes", panoptic.quality, PANOPTIC_ROWS)


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


def _print_figures(title: str, scores: object, rows: Sequence[tuple[str, str]]) -> None:
    table = Table(title=title, title_justify="left")
    table.add_column("score")
    table.add_column("value", justify="right")
    for name, attribute in rows:
        value = getattr(scores, attribute)
        table.add_row(name, "" if value is None else f"{value:.3f}")
    results.print(table)


def _interval(value: Estimate, digits: int) -> str:
    if value.low is None or value.high is None:
        return ""
    return f"{value.low:.{digits}f} to {value.high:.{digits}f}"


def _write_json(path: Path, figures: Mapping[str, Any]) -> None:
    try:
        write_atomically(path, json.dumps(figures, indent=1).encode())
    except OSError as error:
        raise LesionSegError(f"{path} cannot be written: {error.strerror}.") from error


def configure_tune(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = TUNE_EXAMPLE
    parser.add_argument("model", help="name of a model, or a .safetensors file")
    parser.add_argument("images", nargs="+", help="folders of images the model did not learn from")
    parser.add_argument(
        "--masks", nargs="+", help="folder of masks of each folder of images, in the same order"
    )
    add_out(parser)
    parser.add_argument("--name", help="name of the model (default: it keeps its own)")
    parser.add_argument("--notes", default="", help="what else the card should say")
    parser.add_argument(
        "--test-time-augmentation",
        action="store_true",
        help="average predictions over the quarter turns of the image",
    )
    add_device(parser)


def run_tune(options: argparse.Namespace) -> int:
    """Choose, measure, and write the model with its new card."""
    check_out(options)
    model = load_model(options.model, options.device)
    if options.test_time_augmentation:
        model = Model(
            model.network, model.card.model_copy(update={"test_time_augmentation": True}), model.device
        )
    check_mask_folders(options.images, options.masks)
    folders: dict[str, list[Pair]] = {}
    unused = 0
    for index, folder in enumerate(options.images):
        pairs, count = find_all_pairs([folder], [options.masks[index]] if options.masks else [])
        folders[folder] = pairs
        unused += count
    every = [pair for pairs in folders.values() for pair in pairs]
    with progress_bar("Choosing a threshold", len(every)) as (progress, task):
        found = tune(model, every, lambda: progress.advance(task))
    for name, value in asdict(found).items():
        print_result(f"{name.replace('_', ' ')}: {value:.4f}")
    card = model.card.model_copy(
        update={
            "temperature": found.temperature,
            "threshold": found.threshold,
            "name": options.name or model.card.name,
            "notes": options.notes or model.card.notes,
        }
    )
    card = card.model_copy(update={"scores": _scores(model, card, folders)})
    save_checkpoint(options.out, model.network, card)
    print_result(f"{options.out} written")
    return 1 if unused else 0


def _scores(model: Model, card: ModelCard, folders: Mapping[str, Sequence[Pair]]) -> dict[str, Any]:
    """Measure the tuned model on each folder, as ``lesionseg evaluate`` does."""
    tuned = Model(model.network, card, model.device)
    scores = {}
    for folder, pairs in folders.items():
        outcomes = []
        with progress_bar("Measuring", len(pairs)) as (progress, task):
            for outcome in iter_evaluate(tuned, pairs):
                outcomes.append(outcome)
                progress.advance(task)
        summary = collect(tuned, outcomes).summary
        name = Path(folder).parent.name if Path(folder).name == "images" else Path(folder).name
        if summary is not None:
            wanted = ("dice", "jaccard", "thresholded_jaccard", "failure_rate")
            values = {key: round(getattr(summary, key).mean, 4) for key in wanted}
            scores[name] = {"images": summary.images, **values}
            print_result(
                f"{name}: "
                + ", ".join(f"{key.replace('_', ' ')} {value:.3f}" for key, value in values.items())
            )
    return scores
