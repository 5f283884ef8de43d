"""``lesionseg train``: train a network from scratch, or from pretrained weights."""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from napari_lesionseg.cli.console import name_image, print_error, print_result, progress_bar, silenced
from napari_lesionseg.cli.landmarks import check_landmark_options, train_landmarks
from napari_lesionseg.cli.options import (
    add_device,
    add_out,
    check_out,
    check_partners,
    command_line,
    find_all_pairs,
    hold_out_stems,
    make_settings,
    parse_changes,
    state_path,
)
from napari_lesionseg.config import TrainConfig
from napari_lesionseg.datasets.facts import name_key, read_facts
from napari_lesionseg.errors import LesionSegError, MaskError, TrainingError
from napari_lesionseg.finetuning.domain_shift import measure_domain
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.io.atomic import sha256_file
from napari_lesionseg.masks.class_labels import label_as
from napari_lesionseg.masks.components import have_several_parts
from napari_lesionseg.masks.plausibility import find_doubt
from napari_lesionseg.models.base import SegmentationNetwork, blend
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import (
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
    without_prompts,
)
from napari_lesionseg.models.class_head import fit_classes
from napari_lesionseg.models.mixture import has_experts
from napari_lesionseg.models.registry import build_network
from napari_lesionseg.models.store import ModelStore
from napari_lesionseg.training.dataset import CachedPair, read_pair
from napari_lesionseg.training.distributed import Joined, join_ranks
from napari_lesionseg.training.prompt_training import PromptTrainer
from napari_lesionseg.training.resources import reuse_memory
from napari_lesionseg.training.trainer import EpochResult, Trainer
from napari_lesionseg.types import IGNORED, ByteImage, LabelImage, Pair

EXAMPLE = """example:
  lesionseg train images/ --masks masks/ --out my-model.safetensors --epochs 30
  lesionseg train images/ --masks masks/ --out diagnoses.safetensors --classes-from diagnosis
  lesionseg train images/ --landmarks keypoints.json --out landmarks.safetensors"""
DIVERGING, SMALLEST_RISE = 1.5, 0.1  # of the lowest loss; small losses may double by chance
FEWEST_STALLED, STALLED = 4, 0.25  # passes, and share of all, without a better score
RECENT_STEPS = 50  # whose mean loss is logged


def configure_train(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EXAMPLE
    parser.add_argument("images", nargs="+", help="folders of images")
    parser.add_argument(
        "--masks", nargs="+", help="folder of masks of each folder of images, in the same order"
    )
    parser.add_argument(
        "--landmarks",
        type=Path,
        metavar="KEYPOINTS",
        help="learn landmarks instead of masks: COCO keypoints, FILE.json, or DeepLabCut, FILE.csv",
    )
    add_out(parser)
    parser.add_argument(
        "--val-images",
        nargs="+",
        default=[],
        help="folders of held-out images (default: a tenth is held out)",
    )
    parser.add_argument("--val-masks", nargs="+", default=[], help="their folders of masks")
    parser.add_argument(
        "--recipe",
        help="a recipe of the package, or a JSON file of settings (default: default, or landmarks)",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change a setting of the recipe"
    )
    parser.add_argument("--arch", help="name of the network")
    parser.add_argument("--epochs", type=int, help="passes over the images")
    parser.add_argument("--seconds", type=float, help="budget in seconds")
    parser.add_argument(
        "--classes",
        nargs="+",
        help="names of the classes, background first (default: background lesion, or those of --start)",
    )
    parser.add_argument(
        "--classes-from",
        metavar="COLUMN",
        help="give each lesion the class named in this column of --metadata, such as its diagnosis",
    )
    parser.add_argument(
        "--metadata",
        type=Path,
        metavar="FILE",
        help="table with one row per image (default: metadata.csv in the first folder of images)",
    )
    parser.add_argument(
        "--start",
        metavar="MODEL",
        help="model to start from; its network is kept, and its classes, unless --classes names others",
    )
    parser.add_argument("--name", help="name of the model (default: the file's)")
    parser.add_argument("--license", default="unknown", help="license of the weights")
    add_device(parser)
    parser.add_argument(
        "--resume", action="store_true", help="continue an interrupted training of the same --out"
    )


def run_train(options: argparse.Namespace) -> int:
    """Train and write the model; of several processes that torchrun started, the first one writes."""
    reuse_memory()
    with join_ranks(options.device) as joined, silenced(not joined.ranks.is_first):
        return _train(options, joined)


def _train(options: argparse.Namespace, joined: Joined) -> int:
    check_out(options)
    check_partners(options, "--val-images", "--val-masks")
    check_partners(options, "--classes-from", "--metadata")
    if options.landmarks:
        check_landmark_options(options)
    config = read_recipe(options)
    make_settings(ModelCard, _about(options), options={"classes": options.classes})  # before hours are spent
    if options.landmarks:
        return train_landmarks(options, config, joined)
    pairs, held_out, left_out = _find_all(options)
    side = max(size for _, size in config.sizes)
    class_names = _read_classes(options, [*pairs, *held_out]) if options.classes_from else None
    network, card = _start(options, config, side, class_names)
    # A window around a lesion is enlarged, so it needs more detail than the whole image.
    cached_side = round(side * (2 if config.prompts else 1.25))
    read = partial(_read_all, side=cached_side, class_names=class_names, classes=card.classes)
    learn = read(pairs, "Reading images")
    measure = read(held_out, "Reading held-out images")
    left_out += len(pairs) - len(learn) + len(held_out) - len(measure)
    doubtful = _name_doubtful({**learn, **measure})
    state = state_path(options)
    start = copy.deepcopy(network.state_dict())
    kind = PromptTrainer if config.prompts else Trainer
    images, ranks = list(learn.values()), joined.ranks
    measured = list(measure.values())
    trainer = kind(
        network, card, images, measured, config, device=joined.device, state_path=state, ranks=ranks
    )
    if options.resume:
        trainer.load_state(state)
    # Before the training: whoever moves the images meanwhile must not lose it.
    data = _data_record([pair for pair in pairs if pair in learn]) if ranks.is_first else {}
    history = _run(trainer)
    if ranks.is_first:
        training = {
            "command": command_line(),
            "settings": config.model_dump(mode="json"),
            "data": data,
            "last": history[-1:],
        }
        learned = blend(trainer.averaged_network, start, config.start_weight)
        _write(options.out, learned, card, training, images, prompts=config.prompts is not None)
        state.unlink(missing_ok=True)
    return 1 if left_out or doubtful else 0


def _write(
    out: Path,
    network: SegmentationNetwork,
    card: ModelCard,
    training: Mapping[str, Any],
    images: Sequence[CachedPair],
    *,
    prompts: bool,
) -> None:
    about: dict[str, Any] = {"training": training}
    if not prompts:
        about["largest_only"] = not have_several_parts(image.labels for image in images)
    if prompts:
        about["arch_settings"] = {**card.arch_settings, "prompts": 1}
    else:
        with progress_bar("Describing images", len(images)) as (progress, task):

            def described() -> Iterator[ByteImage]:
                for pair in images:
                    yield pair.image
                    progress.advance(task)

            about["domain"] = measure_domain(Model(network, card, "cpu"), described())
    save_checkpoint(out, network, card.model_copy(update=about))
    print_result(f"{out} written")


def _run(trainer: Trainer) -> list[dict[str, Any]]:
    """Train, print a line for every pass, and show progress in between; return what the card keeps."""
    history, passes = list[dict[str, Any]](), list[EpochResult]()
    losses = deque[float](maxlen=RECENT_STEPS)
    with progress_bar("Training", 0) as (progress, task):
        for event in trainer.steps():
            if isinstance(event, EpochResult):
                history.append(_as_record(event))
                passes.append(event)
                trend = describe_trend(passes)
                print_result(describe_epoch(event) + (f"  {trend}" if trend else ""))
            else:
                losses.append(event.loss)
                # A budget of time makes the number of steps an estimate.
                steps = round(event.step / event.progress)
                progress.update(task, completed=event.step, total=steps, loss=fmean(losses))
    return history


def read_recipe(options: argparse.Namespace) -> TrainConfig:
    """Join the recipe with what the command line changes."""
    recipe = options.recipe or ("landmarks" if options.landmarks else "default")
    source = resources.files("napari_lesionseg") / "recipes" / f"{recipe}.json"
    path = source if source.is_file() else Path(recipe)
    try:
        settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TrainingError(f"There is no recipe '{recipe}'.") from error
    except (ValueError, RecursionError) as error:
        raise TrainingError(f"The recipe '{recipe}' is no valid JSON: {error}.") from error
    if not isinstance(settings, dict):
        raise TrainingError(f"The recipe '{recipe}' holds no settings by name.")
    named = {"arch": options.arch, "epochs": options.epochs, "max_seconds": options.seconds}
    config = make_settings(TrainConfig, settings, parse_changes(options.set), options=named)
    if has_experts(config.arch):
        raise TrainingError(
            "Experts come from fine-tuning; train 'lite-unet', and fine-tune the model it gives."
        )
    return config


def _find_all(options: argparse.Namespace) -> tuple[list[Pair], list[Pair], int]:
    """Return the pairs to train on, those held out, and the number of files that are in neither."""
    pairs, unused = find_all_pairs(options.images, options.masks or [])
    if options.val_images:
        held_out, more = find_all_pairs(options.val_images, options.val_masks)
        return pairs, held_out, unused + more
    stems, left_out = hold_out_stems(options.images, [pair.stem for pair in pairs])
    held_out = [pair for pair in pairs if pair.stem in stems]
    return [pair for pair in pairs if pair.stem not in stems], held_out, unused + left_out


def _read_classes(options: argparse.Namespace, pairs: Sequence[Pair]) -> dict[str, str]:
    """Return the class of each image's lesion, by `name_key`, from a column of the metadata."""
    column = options.classes_from.casefold()
    path = options.metadata or Path(options.images[0]) / "metadata.csv"
    if not path.is_file():
        raise TrainingError(f"There is no table {path}; name one with --metadata.")
    facts = read_facts([path], {pair.stem for pair in pairs})
    for problem in facts.problems:
        print_error(f"{problem.name}: {problem.reason}")
    known = {name: row[column] for name, row in facts.rows.items() if row.get(column)}
    if not known:
        raise TrainingError(f"{path} has no value in a column '{column}' for any image.")
    return known


def _read_all(
    pairs: Sequence[Pair],
    description: str,
    *,
    side: int,
    class_names: Mapping[str, str] | None,
    classes: Sequence[str],
) -> dict[Pair, CachedPair]:
    """Read pairs into memory; those that cannot be read are named and left out."""
    cached: dict[Pair, CachedPair] = {}
    with progress_bar(description, len(pairs)) as (progress, task):
        for pair in pairs:
            try:
                sample = read_pair(pair, side)
                if class_names is not None:
                    name = class_names.get(name_key(pair.stem))
                    sample = sample._replace(labels=label_as(sample.labels, name, classes))
                _check_classes(pair, sample.labels, classes)
                cached[pair] = sample
            except LesionSegError as error:
                print_error(str(error))
            progress.advance(task)
    return cached


def _name_doubtful(cached: Mapping[Pair, CachedPair]) -> int:
    """Name masks that are probably not what somebody meant to draw, and return how many they are."""
    doubts = {pair: doubt for pair, sample in cached.items() if (doubt := find_doubt(sample.labels))}
    for pair, doubt in doubts.items():
        print_error(name_image(pair.mask.name, doubt))
    return len(doubts)


def _check_classes(pair: Pair, labels: LabelImage, classes: Sequence[str]) -> None:
    """Raise an error for a mask with a class that the network does not know."""
    highest = int(labels.max(initial=0, where=labels != IGNORED))
    if highest >= len(classes):
        raise MaskError(
            f"{pair.mask} has a class {highest}, which has no name; the classes are {', '.join(classes)}."
        )


def _start(
    options: argparse.Namespace, config: TrainConfig, side: int, class_names: Mapping[str, str] | None
) -> Checkpoint:
    """Return the network to train and its card: those of a model, or new ones."""
    torch.manual_seed(config.seed)  # the first weights are a part of the run, as is the order of the images
    about = _about(options) | {"working_size": side}
    if options.start:
        path = ModelStore().resolve(options.start)
        network, old = load_checkpoint(path)
        _check_start(options, config, old)
        if config.prompts:  # the automatic outline stays as it is, and so do its threshold and its scores
            kept = {"working_size": old.working_size, "parent": sha256_file(path)}
            return Checkpoint(network, old.model_copy(update=about | kept))
        names = _class_names(options, class_names, old.classes)
        if names != old.classes:
            network, old = fit_classes(network, old, names)
        # The part for prompts knows what the old model outlined: on people it made clicks worse than none.
        network, old = without_prompts(network, old)
        return Checkpoint(network, _card_after(old, parent=sha256_file(path), **about))
    classes = _class_names(options, class_names, ModelCard().classes)
    known = {"arch": config.arch, "arch_settings": config.arch_settings, "classes": classes}
    card = make_settings(ModelCard, known, about)
    network = build_network(card.arch, card.out_channels, **card.arch_settings)
    if config.pretrained:
        network.load_pretrained()
    return Checkpoint(network, card)


def _class_names(
    options: argparse.Namespace, class_names: Mapping[str, str] | None, default: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the classes to train: those named, else those of the table, unless the default has them all."""
    if options.classes:
        return tuple(options.classes)
    found = set(class_names.values()) if class_names is not None else set()
    return default if found <= set(default) else ("background", *sorted(found))


def _about(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the command line says of the model."""
    return {"name": options.name or options.out.stem, "license": options.license}


def _card_after(old: ModelCard, **about: Any) -> ModelCard:
    """Describe a model that starts from another one: what only training shows is open again."""
    kept = {name: getattr(old, name) for name in ("arch", "arch_settings", "classes", "mean", "std")}
    return ModelCard(**kept, **about)


def _check_start(options: argparse.Namespace, config: TrainConfig, old: ModelCard) -> None:
    """Raise `TrainingError` unless the starting model can be trained with these options."""
    if old.landmarks is not None:
        raise TrainingError(f"{options.start} finds landmarks: use it with --landmarks, not with masks.")
    if has_experts(old.arch):
        raise TrainingError(
            f"{options.start} has experts for several kinds of images, which learn by fine-tuning alone: "
            "use `lesionseg finetune`, or start from the model that it was fine-tuned from."
        )
    if options.arch not in (None, old.arch):
        raise TrainingError(f"{options.start} is of the network {old.arch}: leave --arch out.")
    if config.prompts and options.classes is not None and tuple(options.classes) != old.classes:
        names = " ".join(old.classes)
        raise TrainingError(
            f"{options.start} has the classes {names}, and training prompts keeps them: leave --classes out."
        )


def describe_epoch(epoch: EpochResult) -> str:
    """Describe a pass over the images in one line."""
    text = (
        f"pass {epoch.epoch}/{epoch.epochs}  {epoch.seconds:7.0f} s  side {epoch.size}  loss {epoch.loss:.4f}"
    )
    scores = epoch.validation
    if scores is None:
        return text
    overlap = f"Dice {scores.dice:.4f}  Jaccard {scores.jaccard:.4f}"
    return f"{text}  held out: {overlap}  failures {scores.failures:.1%}"


def describe_trend(passes: Sequence[EpochResult]) -> str:
    """Describe in a word or two whether the run diverges or has stalled; nothing if it does neither."""
    losses = [epoch.loss for epoch in passes]
    if losses[-1] > max(DIVERGING * min(losses), min(losses) + SMALLEST_RISE):
        return "diverging: try lower learning rates (--set decoder_lr=..., encoder_lr=...)"
    scores = [epoch.validation.jaccard for epoch in passes if epoch.validation]
    if not scores:
        return ""
    since = len(scores) - 1 - scores.index(max(scores))
    patience = max(FEWEST_STALLED, STALLED * passes[-1].epochs)
    return f"stalled: no better on the held-out images for {since} passes" if since >= patience else ""


def _as_record(epoch: EpochResult) -> dict[str, Any]:
    record = {
        "epoch": epoch.epoch,
        "step": epoch.step,
        "seconds": round(epoch.seconds),
        "loss": round(epoch.loss, 5),
    }
    if epoch.validation:
        record["held_out_jaccard"] = round(epoch.validation.jaccard, 4)
    return record


def _data_record(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Count the pairs and hash their files, in the order of their stems, into one figure."""
    digest = hashlib.sha256()
    with progress_bar("Hashing images", len(pairs)) as (progress, task):
        for pair in sorted(pairs, key=lambda pair: (pair.stem, pair.image.name)):
            digest.update(sha256_file(pair.image).encode() + sha256_file(pair.mask).encode())
            progress.advance(task)
    return {"pairs": len(pairs), "sha256": digest.hexdigest()}
