"""nnU-Net v2: ``imagesTr``, ``labelsTr``, ``dataset.json`` and the split.

Images and labels are PNG, labels are class indices without a gap. Training and validation go to
``imagesTr``, the test images to ``imagesTs`` with their labels in ``labelsTs``. ``splits_final.json``
belongs into ``nnUNet_preprocessed/<dataset>/`` before the training starts: without it nnU-Net splits by
image and patients leak.

F. Isensee et al., "nnU-Net", Nature Methods 18, 2021; documentation/dataset_format.md of nnU-Net 2.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from napari_lesionseg.datasets.facts import find_tables, name_key, read_facts
from napari_lesionseg.datasets.formats.base import (
    Format,
    Placed,
    Plan,
    put_facts,
    put_image,
    put_json,
    put_mask,
    read_provenance,
)
from napari_lesionseg.datasets.records import (
    NOT_OUTLINED,
    Dataset,
    Problem,
    Provenance,
    Record,
    natural_order,
)
from napari_lesionseg.datasets.splits import Part, group_items, split_folds
from napari_lesionseg.errors import DatasetError, MaskError
from napari_lesionseg.io.decoding import DecodingError, decode
from napari_lesionseg.io.folders import FolderScan, is_dir, is_file, walk
from napari_lesionseg.io.pairing import is_image_name
from napari_lesionseg.io.tables import read_json
from napari_lesionseg.types import IGNORED, MAX_CLASS_INDEX, LabelImage

FOLDS = 5
_CARD, _SPLITS = "dataset.json", "splits_final.json"
_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


class Card(BaseModel):
    """What is needed of ``dataset.json``: the names of the values, and the ending of all files."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    labels: dict[str, int] = Field(min_length=2)
    file_ending: str = Field(pattern=r"\.\w+")

    @property
    def ignored(self) -> int | None:
        """The value of pixels that are to be ignored."""
        return self.labels.get("ignore")

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the class indices, background first."""
        names = sorted(self.labels.keys() - {"ignore"}, key=self.labels.__getitem__)
        return ("background", *names[1:])


class _Fold(BaseModel):
    """A pair of lists in ``splits_final.json``."""

    train: list[str]
    val: list[str]


_FOLD_LIST = TypeAdapter(list[_Fold])


@dataclass(slots=True)
class _Case:
    """The files of one image."""

    images: list[Path]
    masks: list[Path]
    part: Part


def recognizes(scan: FolderScan) -> bool:
    """Whether a folder holds a ``dataset.json`` beside training images."""
    return any(map(_is_card, scan.with_suffix(".json")))


def _is_card(path: Path) -> bool:
    return path.name == _CARD and is_dir(path.parent / "imagesTr")


def read(scan: FolderScan) -> Dataset:
    """List the cases of a dataset.

    Parameters
    ----------
    scan : FolderScan
        ``DatasetNNN_Name``, or a folder that holds it, as the export does.

    Returns
    -------
    Dataset
        ``imagesTs`` is the part test. ``splits_final.json`` with one fold says which training images are for
        validation; several folds are no parts. Images without labels are records without a mask.

    Raises
    ------
    DatasetError
        When there are several datasets, or ``dataset.json`` or the split is damaged.
    """
    folder = scan.root
    cards = sorted(filter(_is_card, scan.with_suffix(".json")))
    if len(cards) != 1:
        names = ", ".join(path.parent.name for path in cards)
        raise DatasetError(
            f"{folder} holds several nnU-Net datasets ({names}); import them one by one."
            if cards
            else f"{folder} holds no nnU-Net dataset ({_CARD} beside imagesTr)."
        )
    root = cards[0].parent
    card = _read_card(cards[0])
    cases = _find_cases(root, card.file_ending.casefold())
    problems = list(_read_splits(root / _SPLITS, cases))
    provenance = read_provenance(folder)
    records = []
    for case in cases.values():
        try:
            records.append(_record(case, card, provenance))
        except DatasetError as error:
            problems.append(Problem((case.images or case.masks)[0].name, str(error)))
    tables = find_tables(scan)
    facts = read_facts(tables, [record.name for record in records])
    files = [path for case in cases.values() for path in (*case.images, *case.masks)]
    described = natural_order(facts.applied(record) for record in records)
    done = frozenset([cards[0], root / _SPLITS, *tables, *files])
    return Dataset("nnunet", described, (*problems, *facts.problems), done)


def _read_card(path: Path) -> Card:
    try:
        card = Card.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        hint = " Regions that share pixels are not read." if where.startswith("labels") else ""
        raise DatasetError(f"{path} is damaged ({where}: {first['msg']}).{hint}") from error
    values = sorted(card.labels.values())
    if card.labels.get("background") != 0 or values != list(range(len(values))):
        raise DatasetError(f"{path} does not number its labels 0, 1, 2 and so on, with background as 0.")
    if card.ignored not in (None, values[-1]) or len(card.classes) > MAX_CLASS_INDEX + 1:
        raise DatasetError(
            f'{path} has more than {MAX_CLASS_INDEX} labels, or its label "ignore" is not the highest.'
        )
    return card


def _find_cases(root: Path, ending: str) -> dict[str, _Case]:
    """Return the files of each case by `name_key`; one that lies in both parts has two images."""
    cases: dict[str, _Case] = {}
    parts: tuple[tuple[str, Part], ...] = (("Tr", "train"), ("Ts", "test"))
    for suffix, part in parts:
        for kind in ("images", "labels"):
            folder = root / f"{kind}{suffix}"
            for path in walk(folder) if is_dir(folder) else ():
                if path.suffix.casefold() != ending or not is_image_name(path.name):
                    continue
                named = _CHANNEL.fullmatch(path.stem) if kind == "images" else None
                key = name_key(f"{named['case']}{path.suffix}" if named else path.name)
                case = cases.setdefault(key, _Case([], [], part))
                (case.images if kind == "images" else case.masks).append(path)
    return cases


def _read_splits(path: Path, cases: Mapping[str, _Case]) -> Iterator[Problem]:
    """Move the images that the only fold holds out to validation; name what is not there."""
    if not is_file(path):
        return
    try:
        folds = _FOLD_LIST.validate_python(read_json(path))
    except ValidationError as error:
        raise DatasetError(f"{path} is no list of folds with train and val.") from error
    named = {name for fold in folds for name in (*fold.train, *fold.val)}
    if lost := sorted(name for name in named if name_key(name) not in cases):
        more = " and others" if len(lost) > 1 else ""
        yield Problem(path.name, f"It names {lost[0]}{more}, of which there is no image.")
    for name in folds[0].val if len(folds) == 1 else ():
        case = cases.get(name_key(name))
        if case is not None and case.part == "train":
            case.part = "val"


def _record(case: _Case, card: Card, provenance: Mapping[str, Provenance]) -> Record:
    if not case.images:
        raise DatasetError("The mask has no image.")
    if len(case.images) > 1 or len(case.masks) > 1:
        names = ", ".join(f"{path.parent.name}/{path.name}" for path in (*case.images, *case.masks))
        raise DatasetError(f"A case needs one color image and one mask, and this one has {names}.")
    (image,) = case.images
    named = _CHANNEL.fullmatch(image.stem)
    if named is None or int(named["channel"]):
        raise DatasetError("The name of a color image must end in _0000.")
    mask = functools.partial(_read_labels, case.masks[0], card) if case.masks else None
    known = provenance.get(name_key(f"{named['case']}{image.suffix}"), Provenance())
    return Record(
        named["case"],
        image,
        mask,
        classes=card.classes,
        provenance=known if mask else NOT_OUTLINED,
        part=case.part,
    )


def _read_labels(path: Path, card: Card) -> LabelImage:
    """Return class indices; the values are these, whatever other readers take 255 for."""
    try:
        array = decode(path).array
    except DecodingError as error:
        raise MaskError(f"{path}: {error}") from error
    if array.ndim != 2 or array.dtype.kind not in "bui" or int(array.max()) >= len(card.labels):
        raise MaskError(f"{path} holds other values than the {len(card.labels)} that {_CARD} names.")
    labels: LabelImage = array.astype(np.uint8)
    if card.ignored is not None:
        labels[labels == card.ignored] = IGNORED
    return labels


def write(plan: Plan) -> Iterator[Placed]:
    """Write ``Dataset<number>_<title>/``.

    Parameters
    ----------
    plan : Plan
        What to write; `config.dataset_id` is the number.

    Yields
    ------
    Placed
        After each record.
    """
    title = re.sub(r"[^A-Za-z0-9]+", "", plan.info.title.title()) or "Lesions"
    folder = plan.folder / f"Dataset{plan.config.dataset_id:03d}_{title}"
    put_facts(plan, plan.folder / "metadata.csv")
    ignore = len(plan.classes)  # nnU-Net wants the highest value
    has_ignored = False
    for part, records in plan.parts().items():
        ending = "Ts" if part == "test" else "Tr"
        for record in records:
            pixels = plan.load(record)
            image = put_image(
                plan, record, pixels.image, folder / f"images{ending}" / f"{record.name}_0000", png=True
            )
            has_ignored = has_ignored or pixels.has_ignored
            labels = np.where(pixels.labels == IGNORED, ignore, pixels.labels).astype(np.uint8)
            path = folder / f"labels{ending}" / f"{record.name}.png"
            mask = put_mask(plan, labels, path, index=True)
            yield Placed(record.name, image, mask)
    put_json(folder / _CARD, _description(plan, ignore=ignore if has_ignored else None))
    put_json(folder / _SPLITS, _splits(plan))


def _description(plan: Plan, ignore: int | None) -> dict[str, Any]:
    """Return the contents of ``dataset.json``."""
    return {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": _label_names(plan.classes) | ({} if ignore is None else {"ignore": ignore}),
        "numTraining": sum(record.part != "test" for record in plan.records),
        "file_ending": ".png",
        "name": plan.info.title,
        "description": plan.info.description,
        "license": plan.info.license,
        "citation": plan.info.citation,
    }


def _label_names(classes: Sequence[str]) -> dict[str, int]:
    """Return every index by a name of its own; nnU-Net reserves "background" for 0 and "ignore"."""
    taken = {"background": 0}
    for index, name in enumerate(classes[1:], 1):
        free = name if name not in taken and name != "ignore" else f"{name} {index}"
        taken[free] = index
    return taken


def _splits(plan: Plan) -> list[dict[str, list[str]]]:
    """Return one fold from training and validation, or folds by patient where there is no validation part."""
    parts = plan.parts()
    names = {part: [record.name for record in records] for part, records in parts.items()}
    if names.get("val"):
        return [{"train": names.get("train", []), "val": names["val"]}]
    items = [record.split_item() for record in parts.get("train", [])]
    if len(group_items(items)[0]) < FOLDS:
        return [{"train": names.get("train", []), "val": []}]
    folds = split_folds(items, FOLDS, seed=plan.config.seed)
    return [
        {
            "train": [name for name, fold in folds.items() if fold != number],
            "val": [name for name, fold in folds.items() if fold == number],
        }
        for number in range(FOLDS)
    ]


FORMATS = (
    Format("nnunet", "nnU-Net", recognizes, read, write, keeps_ignored=True, pseudonym="lesion_{:05d}"),
)
