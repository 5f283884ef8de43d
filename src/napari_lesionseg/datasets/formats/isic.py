"""ISIC, the challenges and the archive: ``ISIC_nnnnnnn.jpg`` and ``ISIC_nnnnnnn_segmentation.png``.

Written as the challenge of 2018 handed it out: a folder of images and one of masks for each part, masks
as 8-bit PNG with 0 and 255 of the image's size. Further classes are attribute masks (task 2), which may
overlap.

N. Codella et al., "Skin lesion analysis toward melanoma detection 2018", arXiv:1902.03368.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from napari_lesionseg.datasets.facts import find_tables, name_key, read_facts
from napari_lesionseg.datasets.formats.base import (
    Format,
    Placed,
    Plan,
    is_image,
    part_of,
    put_facts,
    put_image,
    put_mask,
    read_provenance,
)
from napari_lesionseg.datasets.records import (
    LESION_CLASSES,
    NOT_OUTLINED,
    Dataset,
    Pixels,
    Problem,
    Provenance,
    Record,
    Source,
    natural_order,
    region_of,
)
from napari_lesionseg.datasets.splits import Part
from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io.folders import FolderScan
from napari_lesionseg.io.images import read_mask
from napari_lesionseg.io.pairing import image_and_mask_folders, split_stem, without_masks
from napari_lesionseg.types import IGNORED, LabelImage

ATTRIBUTES = ("pigment_network", "negative_network", "streaks", "milia_like_cyst", "globules")
"""The dermoscopic attributes of task 2, all of which lie inside the lesion."""

_ATTRIBUTE_MASK = re.compile(r"(?P<name>.+?)_attribute_(?P<attribute>\w+)", re.IGNORECASE)
_NOT_LESION = re.compile(
    r"\b(background|skin|hairs?|rulers?|ink|markers?|bubbles?|stickers?|gel|dark corners?|artifacts?)\b",
    re.IGNORECASE,
)
_FOLDERS: Mapping[Part, str] = {"train": "Training", "val": "Validation", "test": "Test"}


def recognizes(scan: FolderScan) -> bool:
    """Tell whether a folder holds masks with ISIC's endings, in other folders than `images` and `masks`."""
    plain = image_and_mask_folders(scan.root) is not None
    return any(_is_isic_mask(path.stem, plain=plain) and is_image(path) for path in scan.files)


def _is_isic_mask(stem: str, *, plain: bool) -> bool:
    if _ATTRIBUTE_MASK.fullmatch(stem):
        return True
    return not plain and split_stem(stem)[1] == "segmentation"


def read(scan: FolderScan) -> Dataset:
    """List ISIC's images and the masks that belong to them, wherever they lie below the folder.

    Parameters
    ----------
    scan : FolderScan
        A challenge's or the archive's folders, or an export.

    Returns
    -------
    Dataset
        Where there are attribute masks, class 1 is the lesion and the attributes follow; where masks
        overlap, the later attribute is painted over. The masks themselves are kept whole as regions.
        Images without a mask are records without one.

    Raises
    ------
    DatasetError
        When there is no image in it.
    """
    folder = scan.root
    found = _sort_out(scan)
    if not found.images:
        raise DatasetError(f"{folder} holds no images.")
    classes = _classes(found.masks)
    tables = find_tables(scan)
    facts = read_facts(tables, [image.stem for image in found.images.values()])
    provenance = read_provenance(folder)
    records = []
    for key, image in found.images.items():
        source = provenance.get(key, Provenance()) if key in found.masks else NOT_OUTLINED
        record = _record(image, found.masks.get(key, {}), classes, folder, source)
        records.append(facts.applied(record))
    lost = [path for key, files in found.masks.items() if key not in found.images for path in files.values()]
    problems = [*found.problems, *facts.problems]
    problems += [Problem(path.name, "The mask has no image.") for path in lost]
    return Dataset("isic", natural_order(records), tuple(problems), frozenset([*tables, *found.files]))


@dataclass(frozen=True, slots=True)
class _Found:
    """The files of a folder: images by name, masks by name and attribute ("" for the lesion)."""

    images: dict[str, Path] = field(default_factory=dict)
    masks: dict[str, dict[str, Path]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


def _sort_out(scan: FolderScan) -> _Found:
    """Tell a folder's files apart by their names; what has a name that another has is left out."""
    files = [path for path in scan.files if is_image(path)]
    images: dict[str, list[Path]] = {}
    masks: dict[tuple[str, str], list[Path]] = {}
    attributes = {path: match for path in files if (match := _ATTRIBUTE_MASK.fullmatch(path.stem))}
    plain_images = set(without_masks(path for path in files if path not in attributes))
    for path in files:
        if path in attributes:
            name, attribute = attributes[path].group("name", "attribute")
            masks.setdefault((name_key(name), attribute.lower()), []).append(path)
        elif path in plain_images:
            images.setdefault(name_key(path.stem), []).append(path)
        else:
            masks.setdefault((split_stem(path.stem)[0], ""), []).append(path)
    found = _Found(files=files)
    for name, paths in images.items():
        if len(paths) == 1:
            found.images[name] = paths[0]
        else:
            reason = f"Images have the same name, {_places(paths, scan.root)}; none is used."
            found.problems.append(Problem(paths[0].name, reason))
    incomplete = set[str]()
    for (name, attribute), paths in masks.items():
        if len(paths) == 1:
            found.masks.setdefault(name, {})[attribute] = paths[0]
        else:
            reason = f"The image has several masks, {_places(paths, scan.root)}; none is used."
            found.problems.append(Problem(paths[0].name, reason))
            if not attribute:
                incomplete.add(name)
    for name in incomplete & found.masks.keys():  # attributes alone would be a mask without the lesion
        reason = "Its lesion has several masks, so the masks of its attributes are not used."
        found.problems.append(Problem(name, reason))
        del found.masks[name]
    return found


def _places(paths: Iterable[Path], folder: Path) -> str:
    return " and ".join(str(path.relative_to(folder)) for path in paths)


def _classes(masks: Mapping[str, Mapping[str, Path]]) -> tuple[str, ...]:
    """Name the classes: the lesion, then ISIC's attributes in their order, then others."""
    found = {attribute for files in masks.values() for attribute in files if attribute}
    known = [name for name in ATTRIBUTES if name in found]
    return (*LESION_CLASSES, *known, *sorted(found.difference(known)))


def _record(
    image: Path, files: Mapping[str, Path], classes: tuple[str, ...], root: Path, provenance: Provenance
) -> Record:
    attributes = {name: files[name] for name in classes[2:] if name in files}
    mask: Source | None = files.get("")
    if attributes:
        mask = functools.partial(_paint, dict(files), classes)
    return Record(
        image.stem,
        image,
        mask,
        regions=dict(attributes),
        classes=classes,
        provenance=provenance,
        part=part_of(image, root),
    )


def _paint(files: Mapping[str, Path], classes: tuple[str, ...]) -> LabelImage:
    """Paint the lesion, then each attribute over it; there is one of them at least."""
    found = {index: files[name] for index, name in enumerate(("", *classes[2:]), 1) if name in files}
    first = next(iter(found.values()))
    labels = np.zeros_like(read_mask(first))
    for index, path in found.items():
        mask = read_mask(path, (labels.shape[0], labels.shape[1]))
        labels[mask > 0] = index
        labels[mask == IGNORED] = IGNORED
    return labels


def write(plan: Plan) -> Iterator[Placed]:
    """Write the folders of images and masks for each part, and ``metadata.csv``.

    Parameters
    ----------
    plan : Plan
        What to write.

    Yields
    ------
    Placed
        After each record.
    """
    put_facts(plan, plan.folder / "metadata.csv", "isic_id")
    for part, records in plan.parts().items():
        title = _FOLDERS[part]
        for record in records:
            pixels = plan.load(record)
            image = put_image(
                plan, record, pixels.image, plan.folder / f"Task1-2_{title}_Input" / record.name
            )
            mask = plan.folder / f"Task1_{title}_GroundTruth" / f"{record.name}_segmentation.png"
            placed = put_mask(plan, _lesion(pixels.labels, record.classes), mask, index=False)
            folder = plan.folder / f"Task2_{title}_GroundTruth"
            for name, region in _attributes(pixels, record).items():
                put_mask(plan, region, folder / f"{record.name}_attribute_{name}.png", index=False)
            yield Placed(record.name, image, placed)


def _lesion(labels: LabelImage, classes: tuple[str, ...]) -> LabelImage:
    """Return the whole lesion: all classes of lesions, and the attributes, which lie inside it."""
    inside = [index for index, name in enumerate(classes) if index and _is_lesion(name, classes)]
    lesion: LabelImage = np.isin(labels, inside).astype(np.uint8)
    return lesion


def _is_lesion(name: str, classes: tuple[str, ...]) -> bool:
    """Tell by its name whether a class is a lesion, or a part of one.

    Where one is called a lesion, the others are not, such as hair; else all are but skin and artifacts.
    """
    if name in ATTRIBUTES:
        return True
    if any("lesion" in other.casefold() for other in classes[1:]):
        return "lesion" in name.casefold()
    return not _NOT_LESION.search(name)


def _attributes(pixels: Pixels, record: Record) -> dict[str, LabelImage]:
    """Return the attribute masks: whole where the record has them, else the further classes.

    Regions of other kinds (PH2's colors) have no place in this convention.
    """
    further = _attribute_names(record.classes)
    masks = {name: region_of(pixels.labels, record.classes.index(name)) for name in further}
    others = {name: mask for name, mask in pixels.regions.items() if name in masks or name in ATTRIBUTES}
    return {further.get(name, name): mask for name, mask in (masks | others).items()}


def _attribute_names(classes: tuple[str, ...]) -> dict[str, str]:
    """Return how files of each class are named, but for the class that is the whole lesion anyway."""
    lesions = [name for name in classes[1:] if name not in ATTRIBUTES and _is_lesion(name, classes)]
    whole = lesions[0] if len(lesions) == 1 else next((n for n in lesions if n.casefold() == "lesion"), None)
    names: dict[str, str] = {}
    for index, name in enumerate(classes):
        if index and name != whole:
            word = re.sub(r"\W+", "_", name.lower())
            names[name] = f"{word}_{index}" if word in {"lesion", *names.values()} else word
    return names


FORMATS = (Format("isic", "ISIC", recognizes, read, write, pseudonym="ISIC_{:07d}", names=r"ISIC_\d{7}"),)
