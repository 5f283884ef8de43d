"""``lesionseg tune``: choose a model's temperature and threshold on held-out images."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from napari_lesionseg.cli.console import print_result
from napari_lesionseg.cli.options import add_device, check_out, find_all_pairs
from napari_lesionseg.evaluation.evaluate import evaluate
from napari_lesionseg.evaluation.tuning import tune
from napari_lesionseg.inference.predictor import Model, load_model
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import save_checkpoint
from napari_lesionseg.types import Pair

EXAMPLE = """example:
  lesionseg tune my-model.safetensors held-out/images --masks held-out/masks --out tuned.safetensors"""


def configure_tune(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EXAMPLE
    parser.add_argument("model", help="name of a model, or a .safetensors file")
    parser.add_argument("images", nargs="+", help="folders of images the model did not learn from")
    parser.add_argument(
        "--masks", nargs="+", help="folder of masks of each folder of images, in the same order"
    )
    parser.add_argument("--out", type=Path, required=True, help="the model to write, FILE.safetensors")
    parser.add_argument("--name", help="name of the model (default: it keeps its own)")
    parser.add_argument("--notes", default="", help="what else the card should say")
    parser.add_argument(
        "--turns", action="store_true", help="average outlines over the quarter turns of the image"
    )
    add_device(parser)


def run_tune(options: argparse.Namespace) -> int:
    """Choose, measure, and write the model with its new card."""
    check_out(options.out)
    model = load_model(options.model, options.device)
    if options.turns:
        model = Model(
            model.network, model.card.model_copy(update={"test_time_augmentation": True}), model.device
        )
    folders = {
        folder: find_all_pairs([folder], [options.masks[index]] if options.masks else [])
        for index, folder in enumerate(options.images)
    }
    found = tune(model, [pair for pairs in folders.values() for pair in pairs])
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
    return 0


def _scores(model: Model, card: ModelCard, folders: Mapping[str, Sequence[Pair]]) -> dict[str, Any]:
    """Measure the tuned model on each folder, as ``lesionseg evaluate`` does."""
    tuned = Model(model.network, card, model.device)
    scores = {}
    for folder, pairs in folders.items():
        summary = evaluate(tuned, pairs).summary
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
