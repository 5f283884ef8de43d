"""Finding images, and the masks that belong to them.

A mask belongs to an image when its stem is the image's stem, alone or followed by one of the `MASK_WORDS`
(``_segmentation``, ``-mask``), in any case. PH2's folders (``IMDnnn/IMDnnn_Dermoscopic_Image`` and
``IMDnnn_lesion``) and ISIC's (superpixel images beside the photographs) are understood.
"""

from __future__ import annotations

import functools
import glob
import os
import re
import string
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from napari_lesionseg.errors import PairingError
from napari_lesionseg.io.folders import (
    FolderScan,
    awaited_file,
    exists,
    folders_in,
    is_dir,
    is_file,
    is_placeholder,
    walk,
)
from napari_lesionseg.io.images import image_suffixes, unread_suffixes
from napari_lesionseg.types import Pair

Inputs: TypeAlias = str | Path | Iterable[str | Path]
"""One file, folder or glob pattern, or several of them."""

MASK_WORDS = (
    "segmentation", "mask", "lesion", "segmentations", "masks", "seg", "label", "labels", "gt",
    "groundtruth", "ground_truth", "annotation", "annotations", "binary",
)  # fmt: skip
"""Words that a mask's stem may have after its image's stem and one of ``_-. ``, in lower case."""

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages")
MASK_FOLDERS = (
    "masks", "mask", "labels", "segmentations", "segmentation", "groundtruth", "ground_truth", "gt",
    "annotations", "segmentationclass",
)  # fmt: skip
"""Names, in lower case, of two folders side by side that hold images and their masks."""

_Chunks: TypeAlias = tuple[tuple[int, int, str], ...]
_ENDING = re.compile(rf"(?<=.)[_\-. ](?P<word>{'|'.join(sorted(MASK_WORDS, key=len, reverse=True))})\Z")
_MASKS_ALONE = {"segmentation", "mask"}  # files with other words are images where no image has the bare stem

NO_IMAGES = ("_superpixels", "_overlay")
"""What the stems of files end in that are no images: ISIC's superpixels, and this program's own overlays."""

_FOLDER_WORDS = tuple(
    re.compile(rf"(?:(?<=^)|(?<=[/_\-. ]))(?:{'|'.join(words)})(?=$|[/_\-. ])")
    for words in (IMAGE_FOLDERS, MASK_FOLDERS)
)
_MOST_LISTED = 5000  # files checked for the message that a folder holds no images
_SEVERAL = 3

_PH2_IMAGE_FOLDER = "_Dermoscopic_Image"
_PH2_ROOTS = ("", "PH2 Dataset images", "PH2Dataset/PH2 Dataset images", "PH2 Dataset/PH2 Dataset images")


@dataclass(frozen=True, slots=True)
class PairSearch:
    """Images with masks, and images without."""

    pairs: tuple[Pair, ...]
    without_mask: tuple[Path, ...]
    left_out: tuple[tuple[Path, str], ...] = ()  # images, and the rest of a sentence that says why
    without_image: tuple[Path, ...] = ()  # masks
    ambiguous: tuple[Path, ...] = ()  # masks of images that have several

    def unused(self) -> Iterator[str]:
        """Yield a sentence for every file that is in no pair."""
        yield from (f"{path} {reason}." for path, reason in self.left_out)
        yield from (f"{path} has no mask." for path in self.without_mask)
        yield from (f"{path} is a mask without an image." for path in self.without_image)


def check_pairs(pairs: object, *others: type) -> None:
    """Raise a `PairingError` for anything but a list of `Pair`, or of ``others``, such as a list of names."""
    if isinstance(pairs, PairSearch):
        raise PairingError("A search is not a list of pairs; use its .pairs.")
    for pair in pairs if isinstance(pairs, Sequence) else [pairs]:
        if not isinstance(pair, (Pair, *others)):
            raise PairingError(
                "Images and masks must be a list of Pair, as in find_pairs(images, masks).pairs, "
                f"not of {type(pair).__name__}."
            )


def find_images(inputs: Inputs) -> list[Path]:
    """Find the images among files, folders and glob patterns.

    A folder gives its own images, not those of its subfolders, but for two layouts: PH2 (the folder of the
    cases, one case, or the unpacked archive) and a folder without images of its own that has one named
    ``images``. Left out are hidden files, ISIC's ``*_superpixels``, and masks: stems that end in
    ``_segmentation`` or ``_mask``, and in another of the `MASK_WORDS` where the image with the bare stem is
    found as well (``arm_lesion.jpg`` alone may be the image). A file that is named explicitly is kept
    whatever its ending, so that reading it can say what is wrong.
    """
    given = _as_list(inputs)
    found = _unique(path for item in given for path in _expand(item, _images_in))
    images = without_masks(found)
    if not images:
        names = ", ".join(str(item) for item in given) or "nothing"
        reason = " (only masks)" if found else _folders_below(given)
        raise PairingError(f"No images were found in {names}{reason}; give image files or their folder.")
    return images


def find_pairs(images: Inputs, masks: Inputs | None = None) -> PairSearch:
    """Find images and the masks that belong to them.

    Without `masks`, they are looked for in the folders ``masks`` (`MASK_FOLDERS`) beside ``images`` when
    `images` is a folder that holds both; otherwise beside each image, and in PH2's lesion folders. Color ROIs
    are no masks.

    Two images of the same stem are refused, even in different folders: the stem is what a pair, and every
    file made from it, is known by.
    """
    search = search_pairs(images, masks)
    if search.left_out:
        path, reason = search.left_out[0]
        raise PairingError(f"{path} {reason}.")
    if not search.pairs:
        first = search.without_mask[0]
        raise PairingError(
            f"None of {len(search.without_mask)} images has a mask (such as {first.stem}_segmentation.png "
            f"for {first.name})."
        )
    return search


def search_pairs(images: Inputs, masks: Inputs | None = None) -> PairSearch:
    """Find pairs as `find_pairs` does, but leave out what is ambiguous; there may be no pair at all."""
    if masks is None or _same(images, masks):
        images, masks = image_and_mask_folders(images) or (images, masks)
    found = find_images(images)
    distinct, repeated = _distinct_stems(found)
    candidates = _masks_beside(found) if masks is None else _masks_given(masks)
    search = _match(distinct, candidates, found)
    return replace(search, left_out=(*repeated, *search.left_out))


def search_tree(scan: FolderScan) -> PairSearch:
    """Find pairs anywhere below a folder, such as in ``train/images`` and ``train/masks``; there may be none.

    A mask lies in the folder of its image, or in one whose path differs by the words of `IMAGE_FOLDERS` and
    `MASK_FOLDERS` alone; else it belongs to the only image of its name.
    """
    places: dict[str, tuple[list[Path], list[Path]]] = {}  # files among images, and in folders of masks
    for path in scan.files:
        if is_image_name(path.name):
            place, is_mask = _place(path.parent.relative_to(scan.root))
            places.setdefault(place, ([], []))[is_mask].append(path)
    searches = []
    for beside, masks in places.values():
        images = without_masks(beside)
        distinct, repeated = _distinct_stems(images)
        found = _match(distinct, _by_stem([*beside, *masks]), images)
        searches.append(replace(found, left_out=(*repeated, *found.left_out)))
    alone = [image for search in searches for image in search.without_mask]
    lost = [mask for search in searches for mask in search.without_image]
    distinct, repeated = _distinct_stems(alone)
    rest = _match(distinct, _by_stem(lost), alone)
    return PairSearch(
        pairs=(*(pair for search in searches for pair in search.pairs), *rest.pairs),
        without_mask=(*rest.without_mask, *(path for path, _ in repeated)),
        left_out=(*(entry for search in searches for entry in search.left_out), *rest.left_out),
        without_image=rest.without_image,
        ambiguous=(*(path for search in searches for path in search.ambiguous), *rest.ambiguous),
    )


def _place(folder: Path) -> tuple[str, bool]:
    """Return a folder's path without the words for images and masks, and whether it is one of masks."""
    path = folder.as_posix().casefold()
    without = _FOLDER_WORDS[1].sub("", path)
    place = _FOLDER_WORDS[0].sub("", without)
    return "/".join(part for name in place.split("/") if (part := name.strip("_-. "))), without != path


def _folders_below(given: Iterable[str | Path]) -> str:
    """Say which folders below hold images, where those that were given do not."""
    roots = [Path(item) for item in given if is_dir(Path(item))]
    found = {
        str(path.parent)
        for root in roots
        for path in islice(walk(root), _MOST_LISTED)
        if is_image_name(path.name) and not _place(path.parent.relative_to(root))[1]
    }
    names = ", ".join(sorted(found)[:_SEVERAL])
    return f", but in {names}{' and others' if len(found) > _SEVERAL else ''}" if found else ""


def natural_key(path: str | Path) -> tuple[_Chunks, ...]:
    """Return a sort key that counts: ``IMD2`` before ``IMD10``."""
    # Strings and cached keys: with pathlib alone, 10 000 paths take half of the time of opening a study.
    folder, name = os.path.split(path)
    stem, suffix = os.path.splitext(name)  # noqa: PTH122
    return (*_folder_key(folder), _chunks(stem), _suffix_key(suffix))


@functools.lru_cache(maxsize=1024)
def _folder_key(folder: str) -> tuple[_Chunks, ...]:
    return tuple(map(_chunks, Path(folder).parts))


def _chunks(text: str) -> _Chunks:
    """Cut a name into numbers and what lies between."""
    chunks = re.findall(r"[0-9]+|[^0-9]+", text.casefold())
    return tuple((0, int(chunk), chunk) if chunk[0] in string.digits else (1, 0, chunk) for chunk in chunks)


_suffix_key = functools.lru_cache(maxsize=1024)(_chunks)


def _as_list(inputs: Inputs) -> list[str | Path]:
    return [inputs] if isinstance(inputs, str | Path) else list(inputs)


def image_and_mask_folders(images: Inputs) -> tuple[list[Path], list[Path]] | None:
    """Return the folders of images and of masks in a folder that holds both."""
    given = _as_list(images)
    if len(given) != 1 or not is_dir(Path(given[0])):
        return None
    folders = _named_folders(Path(given[0]), IMAGE_FOLDERS), _named_folders(Path(given[0]), MASK_FOLDERS)
    return folders if all(folders) else None


def _named_folders(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """Return the folders of these names, in any case, that hold images."""
    try:
        found = sorted(entry for entry in folder.iterdir() if entry.name.casefold() in names)
    except OSError as error:
        raise PairingError(f"{folder} cannot be listed: {error.strerror}.") from error
    return [entry for entry in found if is_dir(entry) and _holds_images(entry)]


def _same(images: Inputs, masks: Inputs) -> bool:
    """Tell whether both are one file or folder."""
    if isinstance(images, str | Path) and isinstance(masks, str | Path):
        return os.path.abspath(images) == os.path.abspath(masks)  # noqa: PTH100
    return False


def _unique(paths: Iterable[Path]) -> list[Path]:
    """Drop repetitions and sort."""
    absolute = _AbsolutePaths()
    return sorted({absolute.find(path): path for path in paths}.values(), key=natural_key)


class _AbsolutePaths:
    """Makes paths of files absolute; asked for each of 10 000 files, the system takes most of the time."""

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}

    def find(self, path: Path) -> str:
        """Return the absolute path of a file, in lower case where the system does not tell cases apart."""
        text = os.fspath(path)
        folder = text[: text.rfind(os.sep) + 1]
        if folder not in self._folders:
            self._folders[folder] = os.path.abspath(folder)  # noqa: PTH100
        return os.path.normcase(f"{self._folders[folder]}{os.sep}{text[len(folder) :]}")


def _expand(item: str | Path, list_folder: Callable[[Path], list[Path]]) -> list[Path]:
    """Return the files that one input stands for."""
    path = Path(item)
    if is_dir(path):
        return list_folder(path)
    if exists(path) or os.path.islink(path):  # noqa: PTH114 - a link that leads nowhere is named when it is read
        return [path]
    if not glob.has_magic(str(item)):
        raise PairingError(f"{item} does not exist.")
    # A folder name may itself hold brackets: only what is not there is taken as a pattern.
    parent = glob.escape(str(path.parent)) if is_dir(path.parent) else str(path.parent)
    found = [Path(name) for name in glob.glob(str(Path(parent) / path.name), recursive=True)]  # noqa: PTH207
    if not found:
        raise PairingError(f"No file matches {item}.")
    return [file for file in found if _is_image_file(file)]


def _is_image_file(path: Path) -> bool:
    """Whether a path is an image file, by its name; links that lead nowhere are named when they are read."""
    return is_image_name(path.name) and (is_file(path) or path.is_symlink())


def is_image_name(name: str) -> bool:
    """Whether files of this name are images or masks; hidden files and `NO_IMAGES` are neither."""
    stem, suffix = os.path.splitext(name.lower())  # noqa: PTH122
    return suffix in image_suffixes and not name.startswith(".") and not stem.endswith(NO_IMAGES)


def _files(folder: Path) -> list[Path]:
    """Return the image files of one folder, and images that are not read, so that reading names them."""
    names = list(_file_names(folder))
    images = [folder / name for name in names if is_image_name(name)]
    others = [folder / name for name in names if _is_unread(name)]
    awaited = [folder / name for name in names if is_placeholder(name) and _stands_for_image(folder / name)]
    known = {_key(path) for path in images} if others else set()
    # Cameras save raw photos beside JPEG files of the same name, and editors their layers.
    return [*images, *(path for path in others if _key(path) not in known), *awaited]


def _stands_for_image(path: Path) -> bool:
    """Whether a placeholder stands for an image that is not there."""
    awaited = awaited_file(path)
    return awaited is not None and is_image_name(awaited.name)


def _holds_images(folder: Path) -> bool:
    """Whether `_files` has any."""
    return any(is_image_name(name) or _is_unread(name) for name in _file_names(folder))


def _file_names(folder: Path) -> Iterator[str]:
    """Yield the names of the files and links in a folder."""
    try:
        with os.scandir(folder) as entries:
            yield from (entry.name for entry in entries if entry.is_symlink() or entry.is_file())
    except OSError as error:
        raise PairingError(f"{folder} cannot be listed: {error.strerror}.") from error


def _is_unread(name: str) -> bool:
    """Whether files of this name are images of a kind that is not read."""
    return os.path.splitext(name.lower())[1] in unread_suffixes and not name.startswith(".")  # noqa: PTH122


def _images_in(folder: Path) -> list[Path]:
    """Return a folder's images, and its masks that lie among them."""
    cases = _ph2_cases(folder)
    if cases:
        return [file for case in cases for file in _files(case / f"{case.name}{_PH2_IMAGE_FOLDER}")]
    files = _files(folder)
    # A stray raw photo or DICOM file must not hide the images in `images/`.
    has_images = any(is_image_name(file.name) for file in files)
    inside = [] if has_images else _named_folders(folder, IMAGE_FOLDERS)
    return [file for images in inside for file in _files(images)] or files


def _masks_in(folder: Path) -> list[Path]:
    """Return a folder's mask files."""
    cases = _ph2_cases(folder)
    return [file for case in cases for file in _ph2_masks(case)] if cases else _files(folder)


def _ph2_cases(folder: Path) -> list[Path]:
    """Return the case folders (IMDnnn) of a PH2 folder, of its unpacked archive, or of one case."""
    whole = folder.absolute()  # "." has no name
    if is_dir(whole / f"{whole.name}{_PH2_IMAGE_FOLDER}"):
        return [whole]
    for root in (folder / name for name in _PH2_ROOTS):
        entries = folders_in(root) if os.access(root, os.R_OK) and is_dir(root) else ()
        cases = [entry for entry in entries if is_dir(entry / f"{entry.name}{_PH2_IMAGE_FOLDER}")]
        if cases:
            return cases
    return []


def _ph2_masks(case: Path) -> list[Path]:
    """Return the lesion mask of a PH2 case; its regions of interest lie in another folder."""
    folder = case / f"{case.name}_lesion"
    return _files(folder) if is_dir(folder) else []


def split_stem(stem: str) -> tuple[str, str]:
    """Cut a mask's word off a stem; both in lower case and composed Unicode (macOS may decompose æøå)."""
    key = unicodedata.normalize("NFC", stem).casefold()
    match = _ENDING.search(key)
    return (key[: match.start()], match["word"]) if match else (key, "")


def _key(path: Path) -> str:
    return unicodedata.normalize("NFC", path.stem).casefold()


def without_masks(paths: Iterable[Path]) -> list[Path]:
    """Leave out the masks among images, by their names."""
    paths = list(paths)
    keys = {_key(path) for path in paths}
    images = []
    for path in paths:
        base, word = split_stem(path.stem)
        if not word or (word not in _MASKS_ALONE and base not in keys):
            images.append(path)
    return images


def _distinct_stems(images: list[Path]) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Separate the images whose stem another image has as well."""
    by_stem: dict[str, list[Path]] = {}
    for path in images:
        by_stem.setdefault(_key(path), []).append(path)
    if len(by_stem) == len(images):
        return images, []
    repeated = [
        (path, f"and {paths[path == paths[0]]} have the same name; rename one of them")
        for paths in by_stem.values()
        if len(paths) > 1
        for path in paths
    ]
    return [path for path in images if len(by_stem[_key(path)]) == 1], repeated


def _masks_given(masks: Inputs) -> dict[str, list[Path]]:
    """Group mask files by the stems of the images they may belong to."""
    given = _as_list(masks)
    found = _unique(path for item in given for path in _expand(item, _masks_in))
    if not found:
        raise PairingError(f"No masks were found in {', '.join(map(str, given)) or 'nothing'}.")
    return _by_stem(found)


def _masks_beside(images: list[Path]) -> dict[str, list[Path]]:
    """Group the files beside the images, and PH2's masks, by the stems they may belong to."""
    found: list[Path] = []
    for folder in dict.fromkeys(image.parent for image in images):
        whole = folder.absolute()
        found += _ph2_masks(whole.parent) if whole.name.endswith(_PH2_IMAGE_FOLDER) else _files(folder)
    return _by_stem(_unique(found))


def _by_stem(masks: list[Path]) -> dict[str, list[Path]]:
    grouped: dict[str, list[Path]] = {}
    for mask in masks:
        for stem in dict.fromkeys((_key(mask), split_stem(mask.stem)[0])):
            grouped.setdefault(stem, []).append(mask)
    return grouped


def _match(images: list[Path], candidates: dict[str, list[Path]], taken: list[Path]) -> PairSearch:
    """Find the mask of each image; what is `taken` as an image is no mask."""
    absolute = _AbsolutePaths()
    no_masks = set(map(absolute.find, taken))
    all_masks = dict.fromkeys(mask for masks in candidates.values() for mask in masks)
    free = {mask for mask in all_masks if absolute.find(mask) not in no_masks}
    pairs, without, left_out, ambiguous = [], [], [], list[Path]()
    used = set[Path]()
    for image in images:
        masks = [mask for mask in candidates.get(_key(image), []) if mask in free]
        used.update(masks)
        if len(masks) > 1:
            names = ", ".join(str(mask) for mask in masks)
            ambiguous += masks
            left_out.append((image, f"has several masks: {names}; keep one of them"))
        elif masks:
            pairs.append(Pair(image.stem, image, masks[0]))
        else:
            without.append(image)
    lost = [mask for mask in all_masks if mask in free and mask not in used]
    return PairSearch(tuple(pairs), tuple(without), tuple(left_out), tuple(lost), tuple(ambiguous))
