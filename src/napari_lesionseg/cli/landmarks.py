"""``lesionseg landmarks``, and ``lesionseg train --landmarks``: find landmarks, and learn to find them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from napari_lesionseg.cli.console import name_image, print_error, print_result, progress_bar
from napari_lesionseg.cli.options import (
    MOST_NAMES,
    add_device,
    check_file,
    check_partners,
    command_line,
    hold_out_stems,
    make_folder,
    score_limit,
    state_path,
)
from napari_lesionseg.config import TrainConfig
from napari_lesionseg.datasets.landmarks import check_landmark_file, read_landmarks, write_landmarks
from napari_lesionseg.datasets.landmarks.records import (
    LandmarkDataset,
    LandmarkImage,
    LandmarkPair,
    keep_inside,
    match_images,
)
from napari_lesionseg.datasets.records import Problem
from napari_lesionseg.errors import LandmarkError, LesionSegError, TrainingError
from napari_lesionseg.inference.device import describe_device
from napari_lesionseg.inference.landmarks import MIN_SCORE, keep_certain, load_landmark_model
from napari_lesionseg.io.atomic import sha256_file
from napari_lesionseg.io.images import read_image
from napari_lesionseg.io.pairing import find_images
from napari_lesionseg.models.checkpoint import load_checkpoint, save_checkpoint
from napari_lesionseg.models.mixture import has_experts
from napari_lesionseg.models.store import ModelStore
from napari_lesionseg.study.landmarks import approved_landmarks
from napari_lesionseg.study.layout import READ_ONLY, find_study
from napari_lesionseg.study.study import Study
from napari_lesionseg.training.dataset import CachedPair
from napari_lesionseg.training.distributed import Joined
from napari_lesionseg.training.landmarks import LandmarkTrainer, cache_landmarks, start_landmarks
from napari_lesionseg.training.trainer import EpochResult

EXAMPLE = """example:
  lesionseg train faces/ --landmarks faces/keypoints.json --out faces.safetensors
  lesionseg landmarks photos/ --model faces.safetensors --out photos.json
  lesionseg landmarks my-study/ --out approved.json"""
_OF_MASKS = ("masks", "val_masks", "classes", "classes_from", "metadata")


def configure_landmarks(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EXAMPLE
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="images, folders of images, patterns, or a study of landmarks",
    )
    parser.add_argument(
        "--model",
        help="name of a landmark model, or a .safetensors file; without it, a study's approved landmarks are "
        "written",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="the file to write: COCO keypoints, FILE.json, or DeepLabCut, FILE.csv",
    )
    parser.add_argument(
        "--min-score",
        type=score_limit,
        metavar="SCORE",
        help="leave out landmarks with a lower score (default: 0.1)",
    )
    add_device(parser)


def run_landmarks(options: argparse.Namespace) -> int:
    """Find the landmarks of every image, or write those of a study; 1 if some failed."""
    check_landmark_file(options.out)  # before minutes of work go by
    make_folder(options.out.absolute().parent)
    check_file(options.out)
    check_partners(options, "--model", "--min-score")
    if options.model is None:
        return write_approved(options.inputs, options.out)
    paths = find_images(options.inputs)
    model = load_landmark_model(options.model, options.device)
    lowest = MIN_SCORE if options.min_score is None else options.min_score
    found = []
    with progress_bar("Finding landmarks", len(paths)) as (progress, task):
        for path, name in zip(paths, _names(paths), strict=True):
            try:
                image = read_image(path)
                people = [keep_certain(person, lowest) for person in model.predict(image)]
                shape = (image.shape[0], image.shape[1])
                found.append(LandmarkImage(name, tuple(p for p in people if p.labeled.any()), shape))
            except LesionSegError as error:
                print_error(name_image(path, str(error)))
            progress.advance(task)
    _print_problems(write_landmarks(options.out, LandmarkDataset(model.skeleton, tuple(found))))
    print_result(
        f"Landmarks of {len(found)} of {len(paths)} images found by {model.card.name} "
        f"({describe_device(model.device)}) in {options.out}"
    )
    return 1 if len(found) < len(paths) else 0


def write_approved(inputs: Sequence[str], out: Path) -> int:
    """Write the approved landmarks of a study; 1 if some could not be used."""
    place = find_study(Path(inputs[0])) if len(inputs) == 1 else None
    if place is None:
        raise LandmarkError("Name the model that finds the landmarks: --model FILE.safetensors.")
    with Study.open(place, READ_ONLY, unblind=True) as study:
        dataset = approved_landmarks(study)
    _print_problems([*dataset.problems, *write_landmarks(out, dataset)])
    print_result(f"Landmarks of {len(dataset.images)} approved images written to {out}")
    return 1 if any(problem.left_out for problem in dataset.problems) else 0


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the names of files, with their folder where two have the same name."""
    names = [path.name for path in paths]
    if len(set(names)) == len(names):
        return names
    return [f"{path.absolute().parent.name}/{path.name}" for path in paths]


# ------------------------------------------------------------------------------------------------ training


def train_landmarks(options: argparse.Namespace, config: TrainConfig, joined: Joined) -> int:
    """Train a model that finds landmarks and write it; 1 if some images or entries could not be used."""
    dataset = read_landmarks(options.landmarks)
    pairs, held_out, unused = _find_pairs(options, dataset)
    people = max(len(pair.image.people) for pair in (*pairs, *held_out))
    start = None
    if options.start:
        start = load_checkpoint(ModelStore().resolve(options.start))
        if has_experts(start.card.arch):
            raise TrainingError(f"{options.start} has experts; start from the model it was fine-tuned from.")
        if options.arch not in (None, start.card.arch):
            raise TrainingError(f"{options.start} is of the network {start.card.arch}: leave --arch out.")
    about = {"name": options.name or options.out.stem, "license": options.license}
    network, card = start_landmarks(config, dataset.skeleton, people, start, **about)
    side = round(card.working_size * 1.25)
    room = people, len(dataset.skeleton.names)
    learn, measure = (_read_all(part, side, room) for part in (pairs, held_out))
    unused += len(pairs) + len(held_out) - len(learn) - len(measure)
    state = state_path(options)
    trainer = LandmarkTrainer(
        network, card, learn, measure, config, device=joined.device, state_path=state, ranks=joined.ranks
    )
    if options.resume:
        trainer.load_state(state)
    # Before the training: whoever moves the file meanwhile must not lose it.
    data = {"images": len(learn), "sha256": sha256_file(options.landmarks)}
    scores = _run(trainer)
    if joined.ranks.is_first:
        training = {
            "command": command_line(),
            "settings": config.model_dump(mode="json"),
            "data": data,
        }
        finished = card.model_copy(update={"training": training, "scores": scores})
        save_checkpoint(options.out, trainer.averaged_network, finished)
        print_result(f"{options.out} written")
        state.unlink(missing_ok=True)
    return 1 if unused else 0


def check_landmark_options(options: argparse.Namespace) -> None:
    """Raise `TrainingError` for options that only masks use."""
    for name in _OF_MASKS:
        if getattr(options, name):
            option = "--" + name.replace("_", "-")
            raise TrainingError(f"Landmarks are learned without masks and classes: leave {option} out.")


def _find_pairs(
    options: argparse.Namespace, dataset: LandmarkDataset
) -> tuple[list[LandmarkPair], list[LandmarkPair], int]:
    """Return the images to train on, those held out, and the number of files and entries that are unused."""
    search = match_images(find_images(options.images), dataset)
    pairs, missing = list(search.pairs), {image.name for image in search.without_image}
    unused = [f"{path} has no landmarks." for path in search.without_landmarks]
    problems, left_out = [*dataset.problems, *search.problems], 0
    if options.val_images:
        others = match_images(find_images(options.val_images), dataset)
        held_out = list(others.pairs)
        missing &= {image.name for image in others.without_image}
        unused += [f"{path} has no landmarks." for path in others.without_landmarks]
        problems += others.problems
    else:
        stems, left_out = hold_out_stems(options.images, [pair.path.stem for pair in pairs])
        held_out = [pair for pair in pairs if pair.path.stem in stems]
        pairs = [pair for pair in pairs if pair.path.stem not in stems]
    if not pairs:
        raise TrainingError(
            f"None of the images in {' '.join(options.images)} has landmarks in {options.landmarks}."
        )
    unused += [f"{name} has landmarks, but is not among the images." for name in sorted(missing)]
    for line in unused[:MOST_NAMES]:
        print_error(line)
    if len(unused) > MOST_NAMES:
        print_error(f"{len(unused) - MOST_NAMES} more files are left out for such reasons.")
    _print_problems(problems)
    return pairs, held_out, left_out + len(unused) + sum(problem.left_out for problem in problems)


def _read_all(pairs: Sequence[LandmarkPair], side: int, room: tuple[int, int]) -> list[CachedPair]:
    """Read images into memory; those that cannot be read are named."""
    cached = []
    with progress_bar("Reading images", len(pairs)) as (progress, task):
        for pair in pairs:
            try:
                image = read_image(pair.path)
                shape = (image.shape[0], image.shape[1])
                inside = [keep_inside(person, shape) for person in pair.image.people]
                cached.append(cache_landmarks(pair.path.stem, image, inside, side, room))
            except LesionSegError as error:
                print_error(name_image(pair.path, str(error)))
            progress.advance(task)
    return cached


def _run(trainer: LandmarkTrainer) -> dict[str, Any]:
    """Train, print a line for every pass, and return the last scores, for the card."""
    scores: dict[str, Any] = {}
    with progress_bar("Training", 0) as (progress, task):
        for event in trainer.steps():
            if isinstance(event, EpochResult):
                found = event.landmarks
                if found is not None:
                    scores["held out"] = {"pck@0.1": found.pck, "oks_ap": found.precision}
                print_result(describe_pass(event))
            else:
                progress.update(task, completed=event.step, total=round(event.step / event.progress))
    return scores


def describe_pass(result: EpochResult) -> str:
    """Describe a pass over the images in one line."""
    text = f"pass {result.epoch}/{result.epochs}  {result.seconds:7.0f} s  loss {result.loss:.4f}"
    scores = result.landmarks
    if scores is None:
        return text
    return f"{text}  held out: PCK@0.1 {scores.pck:.1%}  OKS-AP {scores.precision:.3f}"


def _print_problems(problems: Sequence[Problem]) -> None:
    for problem in problems:
        print_error(f"{problem.name}: {problem.reason}")
