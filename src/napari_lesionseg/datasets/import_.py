"""Reading a dataset of any known convention, from a folder or an archive, and bringing it in."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Container, Iterator
from dataclasses import replace
from pathlib import Path

from napari_lesionseg.datasets.export import ExportReport, keep_parts, run_export
from napari_lesionseg.datasets.export_checks import Step
from napari_lesionseg.datasets.facts import name_key
from napari_lesionseg.datasets.formats import (
    FORMATS,
    DatasetInfo,
    ExportConfig,
    coco,
    coco_panoptic,
    get_format,
    keypoints,
    recognize,
)
from napari_lesionseg.datasets.formats.base import OWN_FILES, is_image
from napari_lesionseg.datasets.records import Dataset, Problem, image_problems, mask_problems
from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io import folders
from napari_lesionseg.io.archives import ARCHIVE_SUFFIXES, is_archive, unpack
from napari_lesionseg.io.decoding import holds_image
from napari_lesionseg.io.folders import FolderScan, exists, is_dir, is_file
from napari_lesionseg.io.images import unread_suffixes
from napari_lesionseg.io.pairing import NO_IMAGES
from napari_lesionseg.io.tables import UNREAD_TABLES

_DATA_SUFFIXES = (
    ".json", ".jsonl", ".geojson", ".xml", ".npy", ".npz", ".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".mat",
    ".h5", ".hdf5", ".svs", ".ndpi", ".czi", ".mrxs", ".scn", ".vsi", ".svg", ".roi", ".7z", ".rar",
    ".part", ".crdownload", ".lnk", ".mp4", ".mov", ".avi", ".mkv", ".wmv", *unread_suffixes,
)  # fmt: skip
_IMPORT = ExportConfig(unapproved="include", pseudonymize="nothing", facts=None)


def read_dataset(
    folder: str | Path,
    format: str | None = None,  # noqa: A002
    *,
    follow_links: Path | None = None,
) -> Dataset:
    """List what a folder holds; no pixel is read yet.

    Parameters
    ----------
    folder : str or Path
        A dataset, a folder that holds nothing but one, or a COCO file.
    format : str, optional
        A key of `formats.FORMATS`; detected by default.

    Returns
    -------
    Dataset
        Records, and what was left out.

    Raises
    ------
    DatasetError
        When it is no dataset of a known convention.
    """
    with folders.follow_links(follow_links):
        return _read(Path(folder), format)


def _read(folder: Path, format: str | None) -> Dataset:  # noqa: A002
    if is_file(folder) and folder.suffix.lower() == ".json":
        root = folder.parent.parent if folder.parent.name == "annotations" else folder.parent
        name = format or _kind_of(folder)
        readers = {"coco-panoptic": coco_panoptic.read, "coco-keypoints": keypoints.read_coco}
        return readers.get(name, coco.read)(FolderScan(root), [folder])
    if not is_dir(folder):
        raise DatasetError(_no_folder(folder))
    folder = _descend(folder)
    scan = FolderScan(folder)
    convention = get_format(format) if format else recognize(scan)
    if convention is None:
        known = ", ".join(found.title for found in FORMATS.values() if found.read)
        raise DatasetError(f"{folder} holds no dataset that can be read: no images, and none of {known}.")
    if convention.read is None:
        raise DatasetError(f"{folder} is {convention.title}, a format that is written, not read.")
    dataset = convention.read(scan)
    links = [Problem(path.name, reason) for path, reason in scan.passed_over]
    return replace(dataset, problems=(*dataset.problems, *links, *_unused(scan, dataset)))


def _kind_of(file: Path) -> str:
    """Return which of COCO's files this is."""
    if coco_panoptic.is_panoptic(file):
        return "coco-panoptic"
    return "coco-keypoints" if keypoints.holds_keypoints(file) else "coco"


def _unused(scan: FolderScan, dataset: Dataset) -> Iterator[Problem]:
    """Name the files that may hold data, and that the convention says nothing of, folder by folder."""
    unused: dict[tuple[Path, str], list[str]] = {}
    # Text files count as tables, or as notes; one named like an image is YOLO's outline of it.
    texts = set(scan.with_suffix(".txt"))
    left = [path for path in scan.files if path not in dataset.files or path in texts]
    stems = {name_key(record.name) for record in dataset.records} if left else set()
    for path in left:
        handled = path in dataset.files and name_key(path.stem) not in stems
        if not handled and path.name not in OWN_FILES and _may_hold_data(path, stems):
            unused.setdefault((path.parent, path.suffix.lower()), []).append(path.name)
    for (place, suffix), names in sorted(unused.items()):
        where = "" if place == scan.root else f"{place.relative_to(scan.root).as_posix()}/"
        listed = f"{where}{names[0]}" if len(names) == 1 else f"{where}*{suffix} ({len(names)} files)"
        yield Problem(listed, f"Not part of the dataset ({dataset.format}), and not used.")


def _may_hold_data(path: Path, stems: Container[str]) -> bool:
    """Whether a file is an image, an annotation, an archive, or belongs to an image by its name."""
    name = path.name.lower()
    if folders.is_placeholder(name):  # what it stands for is there
        return False
    if name.endswith((*_DATA_SUFFIXES, *ARCHIVE_SUFFIXES)) or path.suffix.lower() in UNREAD_TABLES:
        return True
    if not path.suffix and holds_image(path):
        return True
    return is_image(path) or (name_key(path.stem) in stems and not path.stem.lower().endswith(NO_IMAGES))


def _no_folder(path: Path) -> str:
    if not exists(path):
        return f"{path} does not exist."
    return f"{path} is neither a folder nor a COCO file nor an archive ({', '.join(ARCHIVE_SUFFIXES)})."


def _descend(folder: Path) -> Path:
    """Go down as long as there is nothing but one folder."""
    while True:
        try:
            entries = [path for path in folder.iterdir() if not folders.is_litter(path.name)]
        except OSError as error:
            raise DatasetError(f"{folder} cannot be listed: {error.strerror}.") from error
        if len(entries) != 1 or not is_dir(entries[0]) or entries[0].is_symlink():
            return folder
        folder = entries[0]


@contextlib.contextmanager
def open_dataset(
    source: str | Path,
    format: str | None = None,  # noqa: A002
    *,
    follow_links: Path | None = None,
) -> Iterator[Dataset]:
    """Open a folder or an archive; an archive is unpacked for as long as the context lasts.

    Parameters
    ----------
    source : str or Path
        A folder, a COCO file, or a ZIP or TAR archive.
    format, follow_links : optional
        As for `read_dataset`.

    Yields
    ------
    Dataset
        Its records can be loaded inside the context.

    Raises
    ------
    DatasetError
        As `read_dataset` and `containment.unpack`.
    """
    source = Path(source)
    if not is_archive(source):
        yield read_dataset(source, format, follow_links=follow_links)
        return
    with tempfile.TemporaryDirectory(prefix="lesionseg-") as folder:
        for _ in unpack(source, Path(folder)):
            pass
        yield read_dataset(folder, format)


def import_dataset(
    source: str | Path,
    destination: str | Path,
    format: str | None = None,  # noqa: A002
    *,
    info: DatasetInfo | None = None,
    follow_links: Path | None = None,
) -> Iterator[Step | ExportReport]:
    """Bring a dataset in: write it as a plain folder, or as COCO keypoints, that the workbench opens.

    Parts, patients, diagnoses and provenance are kept as they are; images lose their EXIF, and entries that
    cannot be read are left out and listed.

    Parameters
    ----------
    source : str or Path
        A folder, a COCO file, or a ZIP or TAR archive.
    destination : str or Path
        A folder that does not exist or is empty.
    format : str, optional
        As for `read_dataset`.
    info : DatasetInfo, optional
        For the datasheet.
    follow_links : Path, optional
        As for `read_dataset`.

    Yields
    ------
    Step
        Progress. Closing the iterator stops the work and leaves nothing behind.
    ExportReport
        Last: what was written.

    Raises
    ------
    DatasetError
        As `open_dataset` and `exporting.export_dataset`.
    """
    source, destination = Path(source), Path(destination)
    with tempfile.TemporaryDirectory(prefix="lesionseg-") as unpacked:
        if is_archive(source):
            for number, name in enumerate(unpack(source, Path(unpacked)), 1):
                yield Step("unpacking", number, number, name)
            source = Path(unpacked)
        dataset = read_dataset(source, format, follow_links=follow_links)
        _check_any(dataset)
        yield from run_export(
            dataset.records,
            destination,
            FORMATS["coco-keypoints" if dataset.records[0].skeleton is not None else "folder"],
            _IMPORT,
            info or DatasetInfo(title=destination.name, description=f"Imported from {dataset.format}."),
            keep_parts,
            [*dataset.problems, *file_problems(dataset)],
            bare=True,
        )


def file_problems(dataset: Dataset) -> Iterator[Problem]:
    """Name the images and masks that are not used as a whole, or may not fit each other."""
    for record in dataset.records:
        yield from image_problems(record)
        yield from mask_problems(record)


def _check_any(dataset: Dataset) -> None:
    """Refuse a dataset of which nothing can be read, with the first reason."""
    if not dataset.records:
        reasons = (f" {problem.name}: {problem.reason}" for problem in dataset.problems)
        raise DatasetError(f"No image of it can be read.{next(reasons, '')}")
