"""PH2, the dermoscopy dataset of Hospital Pedro Hispano, as it is handed out.

``PH2 Dataset images/IMDnnn/`` holds ``IMDnnn_Dermoscopic_Image/IMDnnn.bmp``,
``IMDnnn_lesion/IMDnnn_lesion.bmp`` and, where colors were outlined, ``IMDnnn_roi/IMDnnn_R1_Label4.bmp``;
beside it lie ``PH2_dataset.xlsx`` and ``PH2_dataset.txt`` with the diagnoses and dermoscopic criteria.
Either table will do.

T. Mendonça et al., "PH2 - a dermoscopic image database for research and benchmarking", EMBC 2013.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from napari_lesionseg.datasets.formats.base import Format, is_image
from napari_lesionseg.datasets.records import Dataset, Problem, Record, Source, natural_order
from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io.folders import FolderScan
from napari_lesionseg.io.images import read_mask
from napari_lesionseg.io.workbooks import WORKBOOK_SUFFIXES, read_sheet
from napari_lesionseg.types import LabelImage

COLORS = ("white", "red", "light-brown", "dark-brown", "blue-gray", "black")
"""Colors by their number, from 1."""

DIAGNOSES = ("common nevus", "atypical nevus", "melanoma")
"""Clinical diagnoses by their number, from 0."""

_CRITERIA = (
    "asymmetry",
    "pigment_network",
    "dots_globules",
    "streaks",
    "regression_areas",
    "blue_whitish_veil",
)
_CASE = re.compile(r"IMD\d+")
_ROI = re.compile(r"IMD\d+_R\d+_Label([1-6])", re.IGNORECASE)
_MAX_TEXT = 16 * 1024**2


def recognizes(scan: FolderScan) -> bool:
    """Tell whether a folder is PH2, its unpacked archive, or the folder of its cases."""
    return any(folder.name.endswith("_Dermoscopic_Image") for folder in scan.folders)


def read(scan: FolderScan) -> Dataset:
    """List the cases of PH2.

    Parameters
    ----------
    scan : FolderScan
        PH2 or a folder above it.

    Returns
    -------
    Dataset
        Records with the color ROIs as regions, and the facts of the table where there is one.

    Raises
    ------
    DatasetError
        When there is no case in it.
    """
    folder = scan.root
    cases: dict[str, list[Path]] = {}
    tables: list[Path] = []
    for path in scan.files:
        if path.stem.lower() == "ph2_dataset":
            tables.append(path)
        elif is_image(path) and _CASE.match(path.name):
            cases.setdefault(path.name.split("_")[0].split(".")[0], []).append(path)
    if not cases:
        raise DatasetError(f"{folder} holds no PH2 cases (folders IMDnnn_Dermoscopic_Image).")
    facts, problems = _read_facts(tables)
    records = []
    for name, files in cases.items():
        try:
            records.append(_record(name, files, facts.get(name, {})))
        except DatasetError as error:
            problems.append(Problem(name, str(error)))
    used = frozenset([*tables, *(path for files in cases.values() for path in files)])
    return Dataset("ph2", natural_order(records), tuple(problems), used)


def _record(name: str, files: list[Path], facts: dict[str, str]) -> Record:
    image = _only(files, f"{name}_Dermoscopic_Image", f"{name} has no dermoscopic image.")
    mask = _only(files, f"{name}_lesion", f"{name} has no lesion mask.")
    regions: dict[str, list[Path]] = {}
    for path in files:
        match = _ROI.fullmatch(path.stem)
        if match:
            regions.setdefault(COLORS[int(match.group(1)) - 1], []).append(path)
    sources: dict[str, Source] = {
        color: functools.partial(_union, tuple(paths)) for color, paths in sorted(regions.items())
    }
    return Record(
        name,
        image,
        mask,
        regions=sources,
        diagnosis=facts.get("diagnosis"),
        metadata={key: value for key, value in facts.items() if value and key != "diagnosis"},
    )


def _only(files: list[Path], folder: str, complaint: str) -> Path:
    """Return the one file that lies in a folder of that name."""
    found = [path for path in files if path.parent.name.lower() == folder.lower()]
    if len(found) != 1:
        raise DatasetError(complaint if not found else f"{folder} holds several images.")
    return found[0]


def _union(paths: tuple[Path, ...]) -> LabelImage:
    """Return the pixels that are in any of some masks."""
    masks = [read_mask(path) > 0 for path in paths]
    if len({mask.shape for mask in masks}) > 1:
        raise DatasetError(f"The color masks beside {paths[0]} differ in size.")
    union: LabelImage = np.logical_or.reduce(masks).astype(np.uint8)
    return union


def _read_facts(tables: list[Path]) -> tuple[dict[str, dict[str, str]], list[Problem]]:
    """Read the table, the workbook before the text; a damaged one is a problem, not the end."""
    problems: list[Problem] = []
    for path in sorted(tables, key=lambda path: path.suffix.lower() not in WORKBOOK_SUFFIXES):
        try:
            if path.suffix.lower() in WORKBOOK_SUFFIXES:
                return dict(facts_of_sheet(read_sheet(path))), problems
            if path.suffix.lower() == ".txt":
                return dict(facts_of_text(_text(path))), problems
        except DatasetError as error:
            problems.append(Problem(path.name, str(error)))
    return {}, problems


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return stream.read(_MAX_TEXT).decode("utf-8", errors="replace")
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}.") from error


def facts_of_sheet(rows: Iterable[list[str]]) -> Iterator[tuple[str, dict[str, str]]]:
    """Read the facts out of the rows of ``PH2_dataset.xlsx``.

    Parameters
    ----------
    rows : iterable of list of str
        Name, histological diagnosis, three columns of which one holds an X, six criteria, six colors.

    Yields
    ------
    (str, dict)
        Name and facts; rows that are no cases are passed over.
    """
    for row in rows:
        cells = [*(cell.strip() for cell in row), *[""] * 17][:17]
        if _CASE.fullmatch(cells[0]):
            marked = [DIAGNOSES[index] for index in range(3) if cells[2 + index].upper() == "X"]
            colors = [COLORS[index] for index in range(6) if cells[11 + index].upper() == "X"]
            yield cells[0], _facts(cells[1], marked[0] if marked else "", cells[5:11], colors)


def facts_of_text(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Read the facts out of ``PH2_dataset.txt``.

    Parameters
    ----------
    text : str
        Lines such as ``|| IMD003 ||  ||  0 ||  0 | T | A | A | A | A ||  4 ||``: name, histological
        diagnosis, clinical diagnosis (0 to 2), six criteria, colors (1 to 6).

    Yields
    ------
    (str, dict)
        Name and facts; lines that are no cases are passed over.
    """
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("||")]
        if len(cells) < 6 or not _CASE.fullmatch(cells[1]):
            continue
        criteria = [cell.strip() for cell in "|".join(cells[4:-2]).split("|") if cell.strip()]
        clinical = DIAGNOSES[int(cells[3])] if cells[3] in ("0", "1", "2") else ""
        colors = [COLORS[int(number) - 1] for number in re.findall(r"[1-6]", cells[-2])]
        yield cells[1], _facts(cells[2], clinical, criteria, colors)


def _facts(histology: str, diagnosis: str, criteria: list[str], colors: list[str]) -> dict[str, str]:
    facts = {"diagnosis": diagnosis, "histological_diagnosis": histology, "colors": ";".join(colors)}
    return facts | dict(zip(_CRITERIA, criteria, strict=False))


FORMATS = (Format("ph2", "PH2", recognizes, read),)
