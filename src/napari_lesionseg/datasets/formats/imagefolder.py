"""Hugging Face imagefolder: a folder a part with ``metadata.jsonl``, and a dataset card.

``load_dataset("imagefolder", data_dir=...)`` gives the columns ``image`` and ``mask``, both images. Every
cell is text and every row has every column, since the loader takes the types from the first rows of each
part.

https://huggingface.co/docs/datasets/image_dataset
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from napari_lesionseg.datasets.facts import find_tables, read_facts, with_facts
from napari_lesionseg.datasets.formats.base import (
    Format,
    Placed,
    Plan,
    facts_of,
    part_of,
    put_image,
    put_mask,
    read_provenance,
)
from napari_lesionseg.datasets.formats.folder import (
    CLASSES_NAME,
    Legend,
    look_through,
    put_legend,
    read_legend,
)
from napari_lesionseg.datasets.records import (
    NOT_OUTLINED,
    Dataset,
    Problem,
    Provenance,
    Record,
    natural_order,
)
from napari_lesionseg.datasets.splits import Part
from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io.folders import FolderScan, contained, is_file
from napari_lesionseg.io.tables import read_table

_TABLE = "metadata.jsonl"
_FOLDERS: Mapping[Part, str] = {"train": "train", "val": "validation", "test": "test"}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**12, "n>100K"))


def recognizes(scan: FolderScan) -> bool:
    """Tell whether a folder holds a table of its images as JSON lines."""
    return bool(_tables(scan))


def _tables(scan: FolderScan) -> list[Path]:
    return [path for path in scan.with_suffix(".jsonl") if path.name == _TABLE]


def read(scan: FolderScan) -> Dataset:
    """List the images that the tables name, with their masks and facts.

    Parameters
    ----------
    scan : FolderScan
        Holds ``metadata.jsonl``, or folders that do; ``file_name`` and ``mask_file_name`` are relative to it.

    Returns
    -------
    Dataset
        Images without a mask are records without one.

    Raises
    ------
    DatasetError
        When no table names an image.
    """
    folder = scan.root
    problems: list[Problem] = []
    rows = [(path, row) for path in _tables(scan) for row in read_table(path)]
    nested = {name for _, row in rows for name, cell in row.items() if cell.startswith(("[", "{"))}
    if nested:
        reason = f"What is listed in the column {', '.join(sorted(nested))}, such as boxes, is not used."
        problems.append(Problem(_TABLE, reason))
    found, refused = _sort_out(rows)
    problems += refused
    if not found:
        raise DatasetError(f"{folder} holds no image that a {_TABLE} names.")
    masks = [mask for mask, _ in found.values() if mask is not None]
    given = read_legend(folder)
    legend, odd = (given, []) if given else look_through(masks)
    problems += [Problem(path.name, reason) for path, reason in odd]
    unusable = {path for path, _ in odd}
    provenance = read_provenance(folder)
    records = [
        _record(image, None if mask in unusable else mask, legend, part_of(image, folder))
        for image, (mask, _) in found.items()
    ]
    described = [
        with_facts(replace(record, provenance=provenance.get(record.name.casefold(), record.provenance)), row)
        for record, (_, row) in zip(records, found.values(), strict=True)
    ]
    tables = [path for path in find_tables(scan) if path.name != _TABLE]
    facts = read_facts(tables, [record.name for record in described])
    own = (folder / "README.md", folder / CLASSES_NAME)
    files = frozenset([*found, *masks, *tables, *(table for table, _ in rows), *own])
    known = natural_order(map(facts.applied, described))
    return Dataset("imagefolder", known, (*problems, *facts.problems), files)


def _sort_out(
    rows: Iterable[tuple[Path, dict[str, str]]],
) -> tuple[dict[Path, tuple[Path | None, dict[str, str]]], list[Problem]]:
    """Return the mask and the row of each image that the rows of the tables name, and what is wrong."""
    problems: list[Problem] = []
    found: dict[Path, tuple[Path | None, dict[str, str]]] = {}
    for table, row in rows:
        try:
            image = contained(table.parent, row.get("file_name", ""))
            mask = contained(table.parent, row["mask_file_name"]) if row.get("mask_file_name") else None
        except DatasetError as error:
            problems.append(Problem(table.name, str(error)))
            continue
        if not is_file(image):
            problems.append(Problem(image.name, "The image is missing."))
            continue
        if image in found:
            if mask == found[image][0]:
                problems.append(Problem(image.name, "The image is listed twice."))
            else:
                problems.append(Problem(image.name, "The image is listed with several masks; none is used."))
                found[image] = (None, found[image][1])
            continue
        if mask is not None and not is_file(mask):
            problems.append(Problem(mask.name, "The mask is missing."))
            mask = None
        found[image] = (mask, row)
    return found, problems


def _record(image: Path, mask: Path | None, legend: Legend, part: Part | None) -> Record:
    provenance = Provenance() if mask is not None else NOT_OUTLINED
    source = legend.source(mask)
    return Record(image.stem, image, source, classes=legend.classes, provenance=provenance, part=part)


def write(plan: Plan) -> Iterator[Placed]:
    """Write ``<part>/images/``, ``<part>/masks/``, ``<part>/metadata.jsonl`` and ``README.md``.

    Where there are several classes, ``classes.csv`` names them.

    Parameters
    ----------
    plan : Plan
        What to write.

    Yields
    ------
    Placed
        After each record.
    """
    columns = list(dict.fromkeys(name for record in plan.records for name in facts_of(record)))
    index = len(plan.classes) > 2
    for part, records in plan.parts().items():
        folder = plan.folder / _FOLDERS[part]
        lines = []
        for record in records:
            pixels = plan.load(record)
            image = put_image(plan, record, pixels.image, folder / "images" / record.name)
            mask = put_mask(plan, pixels.labels, folder / "masks" / f"{record.name}.png", index=index)
            files = {"file_name": _below(image), "mask_file_name": _below(mask)}
            facts = facts_of(record)
            lines.append(
                json.dumps({name: facts.get(name, "") for name in columns} | files, ensure_ascii=False)
            )
            yield Placed(record.name, image, mask)
        (folder / "metadata.jsonl").write_bytes("".join(f"{line}\n" for line in lines).encode())
    if index:
        put_legend(plan)
    (plan.folder / "README.md").write_bytes(card(plan).encode())


def _below(path: str) -> str:
    """Drop the part's folder from a path."""
    return path.split("/", 1)[1]


def card(plan: Plan) -> str:
    """Return the dataset card: what the hub reads (YAML), then the words.

    Parameters
    ----------
    plan : Plan
        What is written.

    Returns
    -------
    str
        Markdown.
    """
    size = next(name for limit, name in _SIZES if len(plan.records) < limit)
    license_id = re.sub(r"[^a-z0-9.]+", "-", plan.info.license.lower()).strip("-") or "unknown"
    head = {
        "pretty_name": plan.info.title,
        "license": license_id,
        "task_categories": ["image-segmentation"],
        "size_categories": [size],
        "tags": ["dermatology", "dermoscopy", "medical"],
    }
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items()]
    classes = ", ".join(f"{index} {name}" for index, name in enumerate(plan.classes))
    values = classes if len(plan.classes) > 2 else "0 background, 255 lesion"
    words = [
        f"# {plan.info.title}",
        plan.info.description,
        f"{len(plan.records)} images with masks. Values of the masks: {values}.",
        "Patients, and lesions of unknown patients, are in one part only. See `DATASHEET.md` for how the set "
        "came about and `provenance.csv` for who drew each mask.",
    ]
    return "---\n" + "\n".join(lines) + "\n---\n\n" + "\n\n".join(word for word in words if word) + "\n"


FORMATS = (Format("imagefolder", "Hugging Face imagefolder", recognizes, read, write, keeps_ignored=True),)
