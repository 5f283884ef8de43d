"""``lesionseg models``: list, show, add, rename, remove and hand on models."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from napari_lesionseg.cli.console import one_line, results, say, say_error
from napari_lesionseg.engine.onnx_export import export_onnx
from napari_lesionseg.errors import CheckpointError
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import checkpoint_bytes, load_checkpoint, read_card
from napari_lesionseg.models.importing import SUFFIXES, import_weights
from napari_lesionseg.models.registry import ONNX_SUFFIX, ModelEntry, ModelRegistry

EXAMPLE = """examples:
  lesionseg models
  lesionseg models add my-model.safetensors --name my-clinic
  lesionseg models rename my-clinic our-clinic
  lesionseg models export-onnx our-clinic --out our-clinic.onnx"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EXAMPLE
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("list", help="list all models (the default)")
    show = actions.add_parser("show", help="print a model's card")
    show.add_argument("name")
    add = actions.add_parser("add", help="add a model file, or weights in a .pt or .pth file that fit")
    add.add_argument("file", type=Path)
    add.add_argument("--name", help="default: the file's name")
    add.add_argument("--working-size", type=int, default=256, help="of .pt: side of its training pictures")
    add.add_argument("--licence", default="unknown", help="of .pt: licence of the weights")
    history = actions.add_parser("history", help="list what a model was fine-tuned from")
    history.add_argument("name")
    export = actions.add_parser("export", help="write a model with its card and licence into a folder")
    export.add_argument("name")
    export.add_argument("--out", type=Path, required=True, metavar="DIR")
    rename = actions.add_parser("rename", help="give a model another name")
    rename.add_argument("name")
    rename.add_argument("new_name")
    remove = actions.add_parser("remove", help="delete a model of your own")
    remove.add_argument("name")
    export = actions.add_parser("export-onnx", help="write a model as an ONNX file, for other programs")
    export.add_argument("name")
    export.add_argument("--out", type=Path, required=True, metavar="FILE.onnx", help="the file to write")


def run(options: argparse.Namespace) -> int:
    """Do what was asked; 1 if a listed model is damaged."""
    registry = ModelRegistry()
    if options.action == "show":
        results.print_json(read_card(registry.resolve(options.name)).model_dump_json())
    elif options.action == "add":
        if not options.file.is_file():
            raise CheckpointError(f"There is no file {options.file}.")
        say(f"added as {_add(registry, options).stem}")
    elif options.action == "history":
        _tell_history(registry.history(options.name))
    elif options.action == "export":
        for path in registry.export(options.name, options.out):
            say(f"{path} written")
    elif options.action == "rename":
        say(f"renamed to {registry.rename(options.name, options.new_name).stem}")
    elif options.action == "remove":
        registry.remove(options.name)
        say(f"{options.name} removed")
    elif options.action == "export-onnx":
        _export_onnx(registry.resolve(options.name), options.out)
    else:
        return _list(registry)
    return 0


def _add(registry: ModelRegistry, options: argparse.Namespace) -> Path:
    name = options.name or options.file.stem
    if options.file.suffix not in SUFFIXES:
        return registry.add(options.file, name)
    imported = import_weights(
        options.file, name=name, working_size=options.working_size, licence=options.licence
    )
    say(imported.card.notes)
    return registry.add(checkpoint_bytes(*imported), name)


def _tell_history(line: Sequence[ModelEntry]) -> None:
    table = Table("name", "date", "learned from", "held-out Jaccard")
    for entry in line:
        card = entry.card or ModelCard()
        pairs = card.training.get("data", {}).get("pairs", "")
        date = str(card.training.get("date", ""))[:10]
        table.add_row(one_line(entry.name), date, f"{pairs} pictures" if pairs else "", _jaccard(card.scores))
    results.print(table)


def _export_onnx(model: Path, out: Path) -> None:
    if out.suffix != ONNX_SUFFIX:
        raise CheckpointError(f"The name of an ONNX file ends in {ONNX_SUFFIX}, which '{out}' does not.")
    difference = export_onnx(*load_checkpoint(model), out)
    say(f"{out} written; its answers are within {difference:.1g} of the original's")


def _list(registry: ModelRegistry) -> int:
    table = Table("name", "network", "size", "held-out Jaccard", "licence", "")
    damaged = 0
    for entry in registry.list():
        if entry.card is None:
            damaged += 1
            table.add_row(one_line(entry.name), "", "", "", "", "damaged")
            say_error(entry.problem)
            continue
        card = entry.card
        table.add_row(
            one_line(entry.name),
            card.arch,
            str(card.working_size),
            _jaccard(card.scores),
            card.licence,
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
