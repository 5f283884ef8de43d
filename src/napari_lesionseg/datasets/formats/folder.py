"""Plain folders: ``images/`` and ``masks/``, or images and masks side by side.

Masks hold 0 and 255, class indices, or colors. ``classes.csv`` (index, name, color), ``labelmap.txt``, as
CVAT writes it, or Roboflow's ``_classes.csv`` beside the images says what indices and colors mean; without
any, the masks are looked through once and the colors numbered in their order, black first.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from napari_lesionseg.datasets.deidentify import safe_name
from napari_lesionseg.datasets.facts import find_tables, name_key, read_facts
from napari_lesionseg.datasets.formats.base import (
    Format,
    Placed,
    Plan,
    is_image,
    part_of,
    put_facts,
    put_image,
    put_instances,
    put_mask,
    read_provenance,
)
from napari_lesionseg.datasets.records import (
    LESION_CLASSES,
    NOT_OUTLINED,
    Dataset,
    Problem,
    Provenance,
    Record,
    Source,
    natural_order,
)
from napari_lesionseg.errors import DatasetError, MaskError, PairingError
from napari_lesionseg.io.decoding import Decoded, DecodingError, decode, gray_depth
from napari_lesionseg.io.folders import (
    FolderScan,
    contained,
    has_folders,
    is_dir,
    is_file,
    is_placeholder,
    spelled,
    stays_inside,
)
from napari_lesionseg.io.labels import MAX_COLORS, VOID_COLOR, decoded_labels, labels_by_colors, mask_colors
from napari_lesionseg.io.pairing import PairSearch, search_pairs, search_tree
from napari_lesionseg.io.tables import read_header, read_table, write_table
from napari_lesionseg.types import IGNORED, MAX_CLASS_INDEX, LabelImage

CLASSES_NAME = "classes.csv"
_UNKNOWN = Provenance()
_SAMPLE = 64  # masks that say of what kind gray ones are
_ODD_INDICES = "The mask holds class indices, while most others are black and white."
_ODD_IGNORED = "The mask has pixels to be ignored, 255, which is the lesion in most others."
_ODD_LESION = "The mask has only 0 and 255, which is to be ignored in most others."
_ODD_GRAY = "The mask has no colors, while others stand for several classes by their colors."
_ODD_COLORS = "The mask has colors, while most others have none."
_UNCLEAR = "The mask has only 0 and 255, which may be to be ignored, while the legend names several classes."
_NO_BACKGROUND = "No mask has pixels of 0, the background; number the classes from 0, background first."
_ODD_WHITE = "The mask is black and white, while most others hold class indices."
_HEX = re.compile(r"#([0-9a-fA-F]{6})")
_WHITE = 0xFFFFFF
_RGB = re.compile(r"(\d{1,3}),(\d{1,3}),(\d{1,3})")


@dataclass(frozen=True, slots=True)
class Legend:
    """What indices and colors mean.

    Parameters
    ----------
    classes : tuple of str
        Names of the class indices, background first.
    colors : mapping
        Class index of each color, as 0xRRGGBB; empty when masks hold no colors.
    white : bool
        The masks are black and white: 255 is the lesion, and never to be ignored.
    indices : bool
        The masks hold class indices: 255 is to be ignored, and never the lesion.
    """

    classes: tuple[str, ...]
    colors: Mapping[int, int]
    white: bool = False
    indices: bool = False

    def source(self, mask: Path | None) -> Source | None:
        """Return what reads a mask by this legend."""
        if mask is None or not (self.colors or self.white or self.indices):
            return mask
        return functools.partial(read_by_legend, mask, self)


def recognizes(scan: FolderScan) -> bool:
    """Tell whether images lie in a folder or below it, with or without masks."""
    return any(map(is_image, scan.files)) or _holds_images(scan.root)


def _holds_images(folder: Path) -> bool:
    """Whether there are images, or links to some that are not there, which `read` names."""
    try:
        search_pairs(folder)
    except PairingError:
        return False
    return True


def read(scan: FolderScan) -> Dataset:
    """List the images of a folder and the masks that belong to them.

    ``metadata.csv`` gives patients, lesions, diagnoses and parts; names such as ``PAT_355_732_102``
    (PAD-UFES-20) give patient and lesion by themselves.

    Parameters
    ----------
    scan : FolderScan
        Holds ``images/`` and ``masks/``, or images and masks.

    Returns
    -------
    Dataset
        With the objects in ``instances/`` and the regions in ``regions/<name>/`` of an earlier export.
        Images without a mask are records without one. Where no image of the folder itself has a mask, folders
        below are searched, whose names may say the part; images of one name are called by their folders too.

    Raises
    ------
    DatasetError
        When no image has a mask, an image has several, or a legend is damaged.
    """
    folder = scan.root
    found = _search(scan)
    problems = [Problem(path.name, f"The image {reason}.") for path, reason in found.left_out]
    problems += [Problem(path.name, "The mask has no image.") for path in found.without_image]
    several = [path for path, reason in found.left_out if "masks" in reason]
    everything: list[tuple[Path, Path | None]] = [(pair.image, pair.mask) for pair in found.pairs]
    everything += [(path, None) for path in (*found.without_mask, *several)]
    images, unusable = _inside(scan, everything)
    problems += unusable
    masks = [mask for _, mask in images if mask]
    roboflow = _roboflow_legends(scan)
    given = read_legend(folder) or _shared_legend(roboflow)
    legend, odd = (given, []) if given else look_through(masks)
    problems += [Problem(path.name, reason) for path, reason in odd]
    left_out = {path for path, _ in odd}
    images = [(image, None if mask in left_out else mask) for image, mask in images]
    tables = [path for path in find_tables(scan) if path not in roboflow]
    names = _distinct_names([image for image, _ in images], folder)
    facts = read_facts(tables, [names[image] for image, _ in images])
    build = functools.partial(
        _record, folder, legend=legend, further=_further_masks(folder), provenance=read_provenance(folder)
    )
    records = [facts.applied(build(image, mask, names[image])) for image, mask in images]
    files = {path for pair in everything for path in pair if path}
    files |= {
        *tables,
        *roboflow,
        *found.without_image,
        *found.ambiguous,
        *(path for path, _ in found.left_out),
        *_legends(folder),
    }
    objects = (source for record in records for source in (record.instances, *record.regions.values()))
    files |= {source for source in objects if isinstance(source, Path)}
    return Dataset("folder", natural_order(records), (*problems, *facts.problems), frozenset(files))


def _search(scan: FolderScan) -> PairSearch:
    """Find the images of a folder; below it where none of its own has a mask."""
    try:
        found = search_pairs(scan.root)
        reason = None
    except PairingError as error:
        found, reason = PairSearch((), ()), error
    below = search_tree(scan) if not found.pairs and has_folders(scan.root) else found
    if below.pairs or (reason and (below.without_mask or below.left_out)):
        return below
    if reason:
        raise DatasetError(f"{str(reason)[0].upper()}{str(reason)[1:]}.") from reason
    return found


def _distinct_names(images: Iterable[Path], folder: Path) -> dict[Path, str]:
    """Return the name of each image: its stem, and the folders that it lies in where others have that."""
    images = list(images)
    count = Counter(name_key(image.name) for image in images)
    return {
        image: image.stem
        if count[name_key(image.name)] == 1
        else "_".join([*image.parent.relative_to(folder).parts, image.stem])
        for image in images
    }


def _inside(
    scan: FolderScan, pairs: Iterable[tuple[Path, Path | None]]
) -> tuple[list[tuple[Path, Path | None]], list[Problem]]:
    """Return the images that can be read, with their masks if these can be too, and what is left out."""
    usable: list[tuple[Path, Path | None]] = []
    problems: list[Problem] = []
    listed = set(scan.files)  # which are inside: asking for each of 10 000 takes as long as all the rest

    def is_usable(path: Path) -> bool:
        return path in listed or (
            is_file(path) and stays_inside(path, scan.root) and not is_placeholder(path.name)
        )

    for image, mask in pairs:  # links that are not followed are named by `read_dataset`
        if is_usable(image):
            readable = mask is not None and is_usable(mask)
            usable.append((image, mask if readable else None))
            continue
        if not is_file(image) and not image.is_symlink():
            problems.append(Problem(image.name, "The image cannot be reached."))
        if mask is not None and mask.name != image.name:  # else the image's own problem names both
            problems.append(Problem(mask.name, f"Its image {image.name} cannot be used."))
    return usable, problems


def _record(
    folder: Path,
    image: Path,
    mask: Path | None,
    name: str,
    legend: Legend,
    further: Mapping[str, Path],
    provenance: Mapping[str, Provenance],
) -> Record:
    masks = {title: spelled(path / f"{name}.png") for title, path in further.items()}
    return Record(
        name,
        image,
        legend.source(mask),
        instances=masks.pop("", None),
        regions={title: path for title, path in masks.items() if path is not None},
        classes=legend.classes,
        provenance=NOT_OUTLINED if mask is None else _provenance_of(name, provenance),
        part=part_of(image, folder),
    )


def _provenance_of(name: str, provenance: Mapping[str, Provenance]) -> Provenance:
    return provenance.get(name_key(name), _UNKNOWN) if provenance else _UNKNOWN


def _further_masks(folder: Path) -> dict[str, Path]:
    """Return the folders of an earlier export's regions by their names, and that of its objects by ""."""
    objects, regions = folder / "instances", folder / "regions"
    found = {"": objects} if is_dir(objects) else {}
    if is_dir(regions):
        found |= {path.name: path for path in sorted(regions.iterdir()) if is_dir(path)}
    return found


def read_legend(folder: Path) -> Legend | None:
    """Read ``classes.csv`` or ``labelmap.txt``.

    Parameters
    ----------
    folder : Path
        Where they may lie.

    Returns
    -------
    Legend or None
        None when there is neither.

    Raises
    ------
    DatasetError
        When indices or colors are none, or come twice.
    """
    table, labelmap = _legends(folder)
    if is_file(table):
        rows = read_table(contained(folder, CLASSES_NAME))
        return _legend((row.get("index", ""), row.get("name", ""), row.get("color", "")) for row in rows)
    if is_file(labelmap):
        lines = read_table(contained(folder, labelmap.name), delimiter=":")
        cells = sorted(([*line.values(), "", ""] for line in lines), key=lambda row: row[1] != "0,0,0")
        return _legend((str(number), row[0], row[1]) for number, row in enumerate(cells))
    return None


def _roboflow_legends(scan: FolderScan) -> dict[Path, Legend]:
    """Read the tables of values and classes that Roboflow writes beside masks of class indices."""
    found: dict[Path, Legend] = {}
    for path in scan.with_suffix(".csv"):
        if (
            path.name == "_classes.csv"
            and "pixel_value" in (header := read_header(path))
            and "class" in header
        ):
            rows = read_table(path)
            found[path] = _legend((row["pixel_value"], row["class"], "") for row in rows)
    return found


def _shared_legend(legends: Mapping[Path, Legend]) -> Legend | None:
    """Return the legend of all parts of a dataset."""
    different = list({legend.classes: legend for legend in legends.values()}.values())
    if len(different) > 1:
        raise DatasetError("The tables _classes.csv of its folders name different classes.")
    return different[0] if different else None


def _legends(folder: Path) -> tuple[Path, Path]:
    return folder / CLASSES_NAME, folder / "labelmap.txt"


def _legend(rows: Iterable[tuple[str, str, str]]) -> Legend:
    """Build a legend from (index, name, color)."""
    names: dict[int, str] = {}
    colors: dict[int, int] = {}
    for index, name, color in rows:
        if not index.isdecimal() or int(index) > MAX_CLASS_INDEX or int(index) in names:
            raise DatasetError(
                f"The legend of the classes has no index from 0 to {MAX_CLASS_INDEX}: {index!r}."
            )
        names[int(index)] = name or f"class {index}"
        if color and colors.setdefault(_color(color), int(index)) != int(index):
            raise DatasetError(f"The legend of the classes gives {color} to two classes.")
    if sorted(names) != list(range(len(names))) or len(names) < 2:
        raise DatasetError("The legend of the classes must number them 0, 1, 2 and so on, background first.")
    classes = tuple(names[index] for index in sorted(names))
    return Legend(classes, colors, indices=not colors and len(classes) > 2)


def _color(text: str) -> int:
    """Read ``#rrggbb`` or ``r,g,b``."""
    match = _HEX.fullmatch(text)
    if match:
        return int(match.group(1), 16)
    match = _RGB.fullmatch(text)
    if match and all(int(value) < 256 for value in match.groups()):
        red, green, blue = (int(value) for value in match.groups())
        return red << 16 | green << 8 | blue
    raise DatasetError(f"The legend of the classes has a color that is none: {text[:40]!r}.")


@dataclass(frozen=True, slots=True)
class _MaskKind:
    """How a mask says what belongs to what: by its colors, by black and white, or by class indices."""

    colors: frozenset[int] = frozenset()  # 0xRRGGBB, where some are no grays
    highest: int = 0  # class index
    white: bool = False  # 255 is the lesion
    ignores: bool = False  # 255 is to be ignored
    background: bool = True  # some pixels are 0


def _kind_of(path: Path) -> _MaskKind:
    """Look at one mask."""
    decoded = decode(path)
    colors = mask_colors(decoded)
    labels = labels_by_colors(decoded, colors)
    if colors is not None:
        return _MaskKind(frozenset(np.unique(colors).tolist()))
    highest = int(labels.max(initial=0, where=labels != IGNORED))
    if highest > MAX_COLORS:
        raise MaskError(f"It has a class {highest}, which {CLASSES_NAME} would have to name.")
    ignores = bool((labels == IGNORED).any())  # what is white is no lesion
    white = highest == 1 and not ignores and int(decoded.array.max()) > MAX_CLASS_INDEX
    return _MaskKind(highest=highest, white=white, ignores=ignores, background=not labels.all())


def look_through(masks: Sequence[Path]) -> tuple[Legend, list[tuple[Path, str]]]:
    """Find the classes or colors of masks, and the masks that cannot be read or do not fit the others.

    Where a sample of many masks is black and white, gray ones among the rest are taken to be so, too; what
    else they hold is an error when they are loaded.
    """
    kinds: dict[Path, _MaskKind] = {}
    odd: list[tuple[Path, str]] = []
    # Decoding all takes ten times as long as all else that listing a folder does.
    sample = masks[:: len(masks) // _SAMPLE + 1]
    _examine(sample, kinds, odd)
    is_white = any(kind.white for kind in kinds.values()) and not any(
        kind.colors or (kind.highest and not kind.white) for kind in kinds.values()
    )
    decided = {1, 8} if is_white else {1}  # bits of a pixel's gray; one bit is always black and white
    sampled = set(sample)
    rest = [path for path in masks if path not in sampled and gray_depth(path) not in decided]
    _examine(rest, kinds, odd)
    white = sum(kind.white for kind in kinds.values())
    for path, reason in _misfits(kinds, white):
        odd.append((path, reason))
        del kinds[path]
    colors = _colors_of(kinds.values())
    if len(colors) > MAX_CLASS_INDEX:
        raise DatasetError(f"The masks hold more than {MAX_CLASS_INDEX} colors.")
    legend = _legend_of(colors, max([1, *(kind.highest for kind in kinds.values())]))
    return replace(legend, white=is_white), odd


def find_misfits(masks: Iterable[Path]) -> list[tuple[Path, str]]:
    """Find the masks in which white stands for something else than in most of them, each with the reason."""
    kinds: dict[Path, _MaskKind] = {}
    _examine(masks, kinds, [])  # what cannot be read is named by whoever reads it
    return _misfits(kinds, sum(kind.white for kind in kinds.values()))


def _misfits(kinds: Mapping[Path, _MaskKind], white: int) -> list[tuple[Path, str]]:
    """Find the masks in which white, or a color, does not stand for what it stands for in most of them."""
    indices = sum(kind.highest > 1 for kind in kinds.values())
    ignoring = sum(kind.ignores and not kind.colors for kind in kinds.values())
    found = _misfits_of_colors(kinds)
    if not any(kind.background for kind in kinds.values()):  # as where 1 is the background and 2 the lesion
        found |= {path: _NO_BACKGROUND for path, kind in kinds.items() if kind.highest > 1 or kind.ignores}
    for path, kind in kinds.items():
        if white and indices and (kind.highest > 1 if white >= indices else kind.white):
            found[path] = _ODD_INDICES if kind.highest > 1 else _ODD_WHITE
        elif white and ignoring and (kind.ignores if white >= ignoring else kind.white):
            found[path] = _ODD_IGNORED if kind.ignores else _ODD_LESION
    return list(found.items())


def _misfits_of_colors(kinds: Mapping[Path, _MaskKind]) -> dict[Path, str]:
    """Find the masks without colors where several colors stand for classes, or the other way round."""
    if len(_colors_of(kinds.values()) - {0}) < 2:
        return {}  # a single color is the lesion, as white is
    colored = [path for path, kind in kinds.items() if kind.colors - {0}]
    gray = [path for path, kind in kinds.items() if kind.highest]
    if len(colored) >= len(gray):
        return dict.fromkeys(gray, _ODD_GRAY)
    return dict.fromkeys(colored, _ODD_COLORS)


def _colors_of(kinds: Iterable[_MaskKind]) -> set[int]:
    return {color for kind in kinds for color in kind.colors} - {VOID_COLOR}


def _examine(masks: Iterable[Path], kinds: dict[Path, _MaskKind], odd: list[tuple[Path, str]]) -> None:
    """Find the kinds of masks; those that cannot be read are odd."""
    for path in masks:
        try:
            kinds[path] = _kind_of(path)
        except (DecodingError, MaskError) as error:
            odd.append((path, str(error)))


def _legend_of(colors: set[int], highest: int) -> Legend:
    if colors:
        ordered = [0, *sorted(colors - {0})]
        names = ("background", *(f"#{value:06x}" for value in ordered[1:]))
        index_of = {value: index for index, value in enumerate(ordered)}
        return Legend(LESION_CLASSES if len(ordered) == 2 else names, index_of)
    return Legend((*LESION_CLASSES, *(f"class {index}" for index in range(2, highest + 1))), {})


def read_by_legend(path: Path, legend: Legend) -> LabelImage:
    """Read a mask of colors; a mask without colors is read as any other, and may have to be white."""
    try:
        decoded = decode(path)
        colors = mask_colors(decoded, legend.colors.keys())
        if colors is None:
            return _read_plain(decoded, legend)
    except (DecodingError, MaskError, MemoryError) as error:
        raise MaskError(f"{path}: {error}") from error
    table = {VOID_COLOR: IGNORED, **legend.colors}
    values, inverse = np.unique(colors, return_inverse=True)
    unknown = [value for value in values.tolist() if value not in table]
    if unknown:
        raise MaskError(f"{path}: The color #{unknown[0]:06x} stands for no class.")
    indices = np.array([table[value] for value in values.tolist()], np.uint8)
    labels: LabelImage = indices[inverse.reshape(colors.shape)]
    return labels


def _read_plain(decoded: Decoded, legend: Legend) -> LabelImage:
    """Return the class indices of a mask without colors."""
    plain = np.ascontiguousarray(decoded_labels(decoded))
    if legend.white and (plain == IGNORED).any():
        raise MaskError(_ODD_IGNORED)
    is_white = plain.max() == 1 and decoded.array.max() > MAX_CLASS_INDEX
    if is_white and legend.colors and len(legend.classes) > 2:
        if _WHITE not in legend.colors:
            raise MaskError(f"The color #{_WHITE:06x} stands for no class.")
        plain *= np.uint8(legend.colors[_WHITE])
    elif legend.indices and is_white:
        raise MaskError(_UNCLEAR)
    return plain


def put_legend(plan: Plan) -> None:
    """Write ``classes.csv``."""
    rows = [{"index": str(index), "name": name} for index, name in enumerate(plan.classes)]
    write_table(plan.folder / CLASSES_NAME, rows, ("index", "name"))


def write(plan: Plan) -> Iterator[Placed]:
    """Write ``images/``, ``masks/``, the legend, the facts; objects and regions where there are any.

    Parameters
    ----------
    plan : Plan
        What to write.

    Yields
    ------
    Placed
        After each record.
    """
    put_facts(plan, plan.folder / "metadata.csv")
    put_legend(plan)
    index = len(plan.classes) > 2
    for record in plan.records:
        pixels = plan.load(record)
        image = put_image(plan, record, pixels.image, plan.folder / "images" / record.name)
        target = plan.folder / "masks" / f"{record.name}.png"
        mask = "" if record.mask is None else put_mask(plan, pixels.labels, target, index=index)
        for name, region in pixels.regions.items():
            put_mask(
                plan, region, plan.folder / "regions" / safe_name(name) / f"{record.name}.png", index=False
            )
        if pixels.instances is not None:
            put_instances(plan.folder / "instances" / f"{record.name}.png", pixels.instances)
        yield Placed(record.name, image, mask)


FORMATS = (Format("folder", "Plain folder", recognizes, read, write, keeps_ignored=True),)
