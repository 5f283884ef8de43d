"""Dataset conventions, one module each, all with the same small interface (`Format`)."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from napari_lesionseg.datasets.formats.base import DatasetInfo, ExportConfig, Format
from napari_lesionseg.datasets.manifest import MANIFEST_NAME, read_manifest
from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io.folders import FolderScan, is_file

__all__ = ["FORMATS", "DatasetInfo", "ExportConfig", "Format", "get_format", "recognize"]

# Modules with a tuple FORMATS. A folder is tried against them in this order, so plain folders come last.
_MODULES = ("ph2", "keypoints", "coco", "coco_panoptic", "nnunet", "isic", "imagefolder", "dicom", "folder")

FORMATS: Mapping[str, Format] = {
    found.name: found for name in _MODULES for found in import_module(f".{name}", __package__).FORMATS
}
"""All conventions by name."""


def get_format(name: str) -> Format:
    """Return a convention by its name.

    Parameters
    ----------
    name : str
        A key of `FORMATS`.

    Returns
    -------
    Format
        The convention.

    Raises
    ------
    DatasetError
        When there is none of that name.
    """
    try:
        return FORMATS[name]
    except KeyError:
        raise DatasetError(f"There is no format {name!r}; choose one of {', '.join(FORMATS)}.") from None


def recognize(scan: FolderScan) -> Format | None:
    """Find out which convention a folder follows.

    Parameters
    ----------
    scan : FolderScan
        Any folder.

    Returns
    -------
    Format or None
        What its manifest says, else the first convention that can be read and recognizes it.
    """
    if is_file(scan.root / MANIFEST_NAME):
        try:
            return FORMATS.get(read_manifest(scan.root).format)
        except DatasetError:
            pass  # a damaged list does not make the images unreadable
    return next((found for found in FORMATS.values() if found.recognizes and found.recognizes(scan)), None)
