"""``lesionseg models``: list, show, add, rename, remove, compare and export models."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from rich.table import Table

from napari_lesionseg.cli.console import one_line, print_error, print_result, progress_bar, results
from napari_lesionseg.cli.options import add_device, check_file, find_all_pairs, positive
from napari_lesionseg.errors import CheckpointError, LesionSegError
from napari_lesionseg.finetuning.comparison import Comparison, ImageChange, collect_changes, compare_pair
from napari_lesionseg.inference.predictor import load_model
from napari_lesionseg.io.images import read_image, read_mask
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import checkpoint_bytes, load_checkpoint, read_card
from napari_lesionseg.models.convert import SUFFIXES, import_weights
from napari_lesionseg.models.onnx import export_onnx
from napari_lesionseg.models.store import ONNX_SUFFIX, ModelStore
from napari_lesionseg.training.dataset import CachedPair

EXAMPLE = """examples:
  lesionseg models
  lesionseg models add my-model.safetensors --name my-clinic
  lesionseg models rename my-clinic our-clinic
  lesionseg models compare lesionseg-2.0 our-clinic images/ --masks masks/
  lesionseg models export our-clinic --out for-others/
  lesionseg models export-onnx our-clinic --out our-clinic.onnx"""


def configure_models(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EXAMPLE
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("list", help="list all models (the default)")
    show = actions.add_parser("show", help="print a model's card")
    show.add_argument("name")
    add = actions.add_parser("add", help="add a model file, or a .pt or .pth file of a known network")
    add.add_argument("file", type=Path)
    add.add_argument("--name", help="default: the file's name")
    add.add_argument(
        "--working-size", type=positive, help="for .pt files: side of its training images (default: 256)"
    )
    add.add_argument("--license", help="for .pt files: license of the weights (default: unknown)")
    history = actions.add_parser("history", help="list the models that a model was fine-tuned from")
    history.add_argument("name")
    compare = actions.add_parser("compare", help="measure two models on the same images")
    compare.add_argument("old", help="name of a model, or a .safetensors file")
    compare.add_argument("new", help="the model to compare it with")
    compare.add_argument("images", help="folder of images")
    compare.add_argument("--masks", help="folder of masks (default: the same folder)")
    add_device(compare)
    export = actions.add_parser("export", help="write a model with its card and license into a folder")
    export.add_argument("name")
    export.add_argument("--out", type=Path, required=True, metavar="DIR")
    rename = actions.add_parser("rename", help="rename a model")
    rename.add_argument("name")
    rename.add_argument("new_name")
    remove = actions.add_parser("remove", help="delete a model; shipped models cannot be deleted")
    remove.add_argument("name")
    export = actions.add_parser("export-onnx", help="write a model as an ONNX file, for other programs")
    export.add_argument("name")
    export.add_argument("--out", type=Path, required=True, metavar="FILE.onnx", help="the file to write")


def run_models(options: argparse.Namespace) -> int:
    """Run an action; 1 if a listed model is damaged or an image could not be read."""
    return _ACTIONS.get(options.action, _list)(ModelStore(), options)


def _show(store: ModelStore, options: argparse.Namespace) -> int:
    """Print a card without the statistics of the training images, which are a thousand numbers."""
    lists = {"domain": {"mean", "covariance"}}
    results.print_json(read_card(store.resolve(options.name)).model_dump_json(exclude=lists))
    return 0


def _rename(store: ModelStore, options: argparse.Namespace) -> int:
    print_result(f"renamed to {store.rename(options.name, options.new_name).stem}")
    return 0


def _remove(store: ModelStore, options: argparse.Namespace) -> int:
    store.remove(options.name)
    print_result(f"{options.name} removed")
    return 0


def _export(store: ModelStore, options: argparse.Namespace) -> int:
    for path in store.export(options.name, options.out):
        print_result(f"{path} written")
    return 0


def _add(store: ModelStore, options: argparse.Namespace) -> int:
    if not options.file.is_file():
        raise CheckpointError(f"There is no file {options.file}.")
    if options.file.suffix == ONNX_SUFFIX:
        raise CheckpointError(f"{options.file} is not added; use it where it is, as --model {options.file}.")
    source, name = options.file, options.name or options.file.stem
    settings = {"working_size": options.working_size, "license_id": options.license}
    given = {key: value for key, value in settings.items() if value is not None}
    if options.file.suffix in SUFFIXES:
        imported = import_weights(options.file, name=name, **given)
        print_result(imported.card.notes)
        source = checkpoint_bytes(*imported)
    elif given:
        raise CheckpointError("--working-size and --license are for .pt files: leave them out.")
    print_result(f"added as {store.add(source, name).stem}")
    return 0


def _history(store: ModelStore, options: argparse.Namespace) -> int:
    table = Table("name", "date", "trained on", "held-out Jaccard")
    for entry in store.history(options.name):
        card = entry.card or ModelCard()
        pairs = card.training.get("data", {}).get("pairs", "")
        date = str(card.training.get("date", ""))[:10]
        table.add_row(one_line(entry.name), date, f"{pairs} images" if pairs else "", _jaccard(card.scores))
    results.print(table)
    return 0


def _compare(_: ModelStore, options: argparse.Namespace) -> int:
    """Print both models' scores and what changed; 1 if an image could not be read."""
    pairs, failed = find_all_pairs([options.images], [options.masks] if options.masks else [])
    old, new = (load_model(name, options.device) for name in (options.old, options.new))
    changes = list[ImageChange]()
    with progress_bar("Measuring", len(pairs)) as (progress, task):
        for pair in pairs:
            try:
                image = read_image(pair.image)
                cached = CachedPair(pair.stem, image, read_mask(pair.mask, image.shape[:2]))
                changes.append(compare_pair(old, new, cached))
            except LesionSegError as error:
                failed += 1
                print_error(str(error))
            progress.advance(task)
    _print_comparison(collect_changes(changes))
    return 1 if failed else 0


def _print_comparison(comparison: Comparison) -> None:
    table = Table("score", "old", "new", "change", "95 % interval", title_justify="left")
    rows = {"Dice": comparison.dice, "Jaccard": comparison.jaccard, "failure rate": comparison.failures}
    for title, change in rows.items():
        mean, low, high = change.difference.mean, change.difference.low, change.difference.high
        interval = "" if low is None or high is None else f"{low:+.3f} to {high:+.3f}"
        table.add_row(title, f"{change.before:.3f}", f"{change.after:.3f}", f"{mean:+.3f}", interval)
    results.print(table)
    for image in comparison.most_changed():
        before, after = image.before.scores.jaccard, image.after.scores.jaccard
        print_result(f"{image.stem}: {image.changed:.0%} changed, Jaccard {before:.3f} to {after:.3f}")


def _export_onnx(store: ModelStore, options: argparse.Namespace) -> int:
    out = options.out
    if out.suffix != ONNX_SUFFIX:
        raise CheckpointError(f"The name of an ONNX file ends in {ONNX_SUFFIX}, which '{out}' does not.")
    check_file(out)
    difference = export_onnx(*load_checkpoint(store.resolve(options.name)), out)
    print_result(f"{out} written; its outputs differ by at most {difference:.1g} from the original's")
    return 0


def _list(store: ModelStore, _: argparse.Namespace) -> int:
    table = Table("name", "network", "size", "held-out Jaccard", "license", "")
    damaged = 0
    for entry in store.list():
        if entry.card is None:
            damaged += 1
            table.add_row(one_line(entry.name), "", "", "", "", "damaged")
            print_error(entry.problem)
            continue
        card = entry.card
        table.add_row(
            one_line(entry.name),
            card.arch,
            str(card.working_size),
            _jaccard(card.scores),
            card.license,
            "shipped" if entry.shipped else "",
        )
    results.print(table)
    return 1 if damaged else 0


def _jaccard(scores: dict[str, object]) -> str:
    found = [
        f"{name} {values['jaccard']:.3f}"
        for name, values in scores.items()
        if isinstance(values, dict) and "jaccard" in values
    ]
    return ", ".join(found)


_ACTIONS: dict[str | None, Callable[[ModelStore, argparse.Namespace], int]] = {
    "show": _show,
    "add": _add,
    "rename": _rename,
    "remove": _remove,
    "history": _history,
    "compare": _compare,
    "export": _export,
    "export-onnx": _export_onnx,
}
