"""``lesionseg finetune``: let a model learn from corrected images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.progress import Progress as ProgressBar
from rich.progress import TaskID

from napari_lesionseg.cli.console import print_error, print_result, progress_bar
from napari_lesionseg.cli.options import (
    add_model,
    add_out,
    check_out,
    check_partners,
    find_all_pairs,
    make_settings,
    parse_changes,
    state_path,
)
from napari_lesionseg.config import FineTuneConfig
from napari_lesionseg.datasets.facts import PATIENT_COLUMNS, name_key, read_facts
from napari_lesionseg.datasets.splits import SplitItem
from napari_lesionseg.errors import TrainingError
from napari_lesionseg.finetuning.comparison import Candidate
from napari_lesionseg.finetuning.fold_processes import FoldProcesses
from napari_lesionseg.finetuning.run import Progress
from napari_lesionseg.finetuning.schedule import FineTunePlan, describe_domain_shift
from napari_lesionseg.finetuning.session import FineTuning
from napari_lesionseg.inference.predictor import Model, load_model
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import save_checkpoint
from napari_lesionseg.training.resources import reuse_memory
from napari_lesionseg.training.trainer import EpochResult, StepResult
from napari_lesionseg.types import Pair

EXAMPLE = """examples:
  lesionseg finetune images/ --masks corrected/ --out our-clinic.safetensors --seconds 60
  lesionseg models add our-clinic.safetensors"""
STAGES = {"reading": "Reading", "measuring": "Measuring", "timing": "Timing", "comparing": "Comparing"}


def configure_finetune(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EXAMPLE
    parser.add_argument("images", nargs="+", help="folders of images; those without a mask are left out")
    parser.add_argument(
        "--masks", nargs="+", help="folder of masks of each folder of images, in the same order"
    )
    add_out(parser)
    add_model(parser)
    parser.add_argument("--seconds", type=float, help="budget in seconds")
    parser.add_argument("--epochs", type=int, help="passes over the images (default: chosen automatically)")
    _add_rarer_arguments(parser)


def _add_rarer_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--patients",
        type=Path,
        metavar="FILE",
        help="table with the columns image (name without ending) and patient; all images of a patient are "
        "either trained on or held out",
    )
    parser.add_argument("--val-images", nargs="+", default=[], help="folders of held-out images")
    parser.add_argument("--val-masks", nargs="+", default=[], help="their folders of masks")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change a setting of the fine-tuning"
    )
    parser.add_argument("--name", help="name of the model (default: the file's)")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run of the same --out")
    parser.add_argument(
        "--insist", action="store_true", help="write the new model even if it is no better than the old one"
    )


def run_finetune(options: argparse.Namespace) -> int:
    """Fine-tune and write the model; 1 if some images could not be used."""
    check_out(options)
    check_partners(options, "--val-images", "--val-masks")
    if options.patients and options.val_images:
        raise TrainingError("--val-images says which images are held out: leave --patients out.")
    named = {"epochs": options.epochs, "max_seconds": options.seconds}
    config = make_settings(FineTuneConfig, parse_changes(options.set), options=named)
    pairs, unused = find_all_pairs(options.images, options.masks or [])
    held_out: list[Pair] = []
    if options.val_images:
        held_out, more = find_all_pairs(options.val_images, options.val_masks)
        unused += more
    model = load_model(options.model, options.device)
    reuse_memory()
    tuning = FineTuning(
        model,
        pairs,
        config,
        items=read_patients(options.patients, pairs) if options.patients else (),
        held_out=held_out,
        state_path=state_path(options),
        resume=options.resume,
        workers=FoldProcesses() if config.num_threads is None else None,
    )
    _show(tuning)
    _write(options, model, tuning.candidate())
    tuning.delete_checkpoint()
    return 1 if tuning.skipped or unused else 0


def read_patients(path: Path, pairs: Sequence[Pair]) -> list[SplitItem]:
    """Read from a table which images are of one patient."""
    facts = read_facts([path], {pair.stem for pair in pairs})
    if facts.problems:
        raise TrainingError(f"{path} cannot be used: {facts.problems[0].reason}")
    patients = {item.stem: item for item in facts.split_items()}
    if not any(item.patient for item in patients.values()):
        raise TrainingError(f"{path} has no patient (column {' or '.join(PATIENT_COLUMNS)}) for any image.")
    known = ((pair, patients.get(name_key(pair.stem))) for pair in pairs)
    return [SplitItem(pair.stem, item.patient, item.lesion) for pair, item in known if item]


def _show(tuning: FineTuning) -> None:
    """Run the fine-tuning, and print one line for every point of the curve."""
    with progress_bar("Reading", 1) as (progress, task):
        for event in tuning.steps():
            if isinstance(event, Progress):
                label = STAGES[event.stage]
                progress.update(task, description=label, completed=event.done, total=event.total)
            elif isinstance(event, FineTunePlan):
                _print_plan(event)
            elif isinstance(event, StepResult):
                _advance(progress, task, event, tuning.plan)
            else:
                print_result(describe_round(event))
    for problem in tuning.problems:
        print_error(problem)


def _advance(progress: ProgressBar, task: TaskID, event: StepResult, plan: FineTunePlan | None) -> None:
    total = plan.steps if plan else event.step
    progress.update(task, description="Training", completed=event.step, total=total)


def _print_plan(plan: FineTunePlan) -> None:
    for image in plan.skipped:
        print_error(image.reason)
    held_out = f"{len(plan.held_out)} held out" + (" in turn" if plan.folds > 1 else "")
    print_result(
        f"{plan.images} images to train on, {held_out}; {plan.steps} steps at {plan.size} pixels, "
        f"about {plan.seconds:.0f} s on {plan.device}"
    )
    if plan.new_domain_images is not None:
        print_result(describe_domain_shift(plan))


def describe_round(result: EpochResult) -> str:
    """Describe a point of the curve in one line."""
    text = f"round {result.epoch}/{result.epochs}  {result.seconds:6.0f} s  loss {result.loss:.4f}"
    scores = result.validation
    if scores is None:
        return text
    return f"{text}  held out: Dice {scores.dice:.4f}  Jaccard {scores.jaccard:.4f}"


def _write(options: argparse.Namespace, model: Model, candidate: Candidate) -> None:
    """Write the new model, or the old one where the held-out images say that the new one is worse."""
    print_result(candidate.reason)
    worse = candidate.comparison is not None and not candidate.offered
    if worse and not options.insist:
        save_checkpoint(options.out, model.network, _named(model.card, options))
        print_result(f"{options.out} written: the old model, which is better (--insist writes the new one)")
        return
    save_checkpoint(options.out, candidate.model.network, _named(candidate.model.card, options))
    print_result(f"{options.out} written")


def _named(card: ModelCard, options: argparse.Namespace) -> ModelCard:
    return card.model_copy(update={"name": (options.name or options.out.stem)[:100]})
