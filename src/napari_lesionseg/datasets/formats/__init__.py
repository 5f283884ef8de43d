"""Data set conventions, one module each, all with the same small interface (`Format`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from napari_lesionseg.datasets.formats import coco
from napari_lesionseg.datasets.formats import coco_panoptic
from napari_lesionseg.datasets.formats import dicom
from napari_lesionseg.datasets.formats import folder
from napari_lesionseg.datasets.formats import imagefolder
from napari_lesionseg.datasets.formats import isic
from napari_lesionseg.datasets.formats import nnunet
from napari_lesionseg.datasets.formats import ph2
from napari_lesionseg.datasets.formats.base import DatasetInfo, ExportConfig, Format
from napari_lesionseg.datasets.manifest import MANIFEST_NAME, read_manifest
from napari_lesionseg.errors import DatasetError

__all__ = ["FORMATS", "DatasetInfo", "ExportConfig", "Format", "get_format", "recognise"]

FORMATS: Mapping[str, Format] = {
    module.FORMAT.name: module.FORMAT
    for module in (ph2, coco, coco_panoptic, isic, nnunet, imagefolder, dicom, folder)
}
"""All conventions by name; a folder is tried against them in this order."""


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


def recognise(folder: Path) -> Format | None:
    """Find out which convention a folder follows.

    Parameters
    ----------
    folder : Path
        Any folder.

    Returns
    -------
    Format or None
        What its manifest says, else the first convention that can be read and recognises it.
    """
    if (folder / MANIFEST_NAME).is_file():
        try:
            return FORMATS.get(read_manifest(folder).format)
        except DatasetError:
            pass  # a damaged list does not make the pictures unreadable
    return next((found for found in FORMATS.values() if found.recognises and found.recognises(folder)), None)
