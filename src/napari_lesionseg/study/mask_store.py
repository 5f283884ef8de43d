"""Mask revisions: small PNG files that are written once and never changed.

A revision is named after its pixels, so the same outline saved twice is one file, and a file that was damaged
or swapped cannot pass for another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from napari_lesionseg.errors import MaskError, StudyError
from napari_lesionseg.io.atomic import sha256_file, sync_folder
from napari_lesionseg.io.images import read_mask, write_mask
from napari_lesionseg.study.events import MaskEvent
from napari_lesionseg.types import LabelImage

_REVISION_DIGITS = 16


def name_revision(labels: LabelImage) -> str:
    """Name a mask after its pixels.

    Parameters
    ----------
    labels : ndarray
        (H, W) uint8.

    Returns
    -------
    str
        16 hexadecimal digits of the SHA-256 of size and pixels.
    """
    digest = hashlib.sha256(f"{labels.shape[0]}x{labels.shape[1]}:".encode())
    digest.update(np.ascontiguousarray(labels).data)
    return digest.hexdigest()[:_REVISION_DIGITS]


class MaskStore:
    """The folder ``masks`` of a study.

    Parameters
    ----------
    folder : Path
        The folder, resolved.
    style : {"binary", "index"}
        How labels are stored: 0 and 255, or class indices.
    """

    def __init__(self, folder: Path, style: Literal["binary", "index"]) -> None:
        self._folder = folder
        self._style = style
        self._durable: set[str] = set()

    def path(self, image_id: str, revision: str) -> Path:
        """Return where a revision is or will be.

        Parameters
        ----------
        image, revision : str
            As in the journal.

        Returns
        -------
        Path

        Raises
        ------
        StudyError
            When the image's folder is a link that leads elsewhere.
        """
        folder = self._folder / image_id
        if folder.is_symlink():
            raise StudyError(f"{folder} is a link, which is not followed; put the folder itself there.")
        return folder / f"{revision}.png"

    def write(self, image_id: str, labels: LabelImage, known: Mapping[str, str]) -> tuple[str, str]:
        """Keep a mask; when this returns it is on the disk.

        Parameters
        ----------
        image_id : str
            SHA-256 of the image.
        labels : ndarray
            (H, W) uint8.
        known : mapping of str to str
            SHA-256 by revision, of what the journal has: a sound file is not written again.

        Returns
        -------
        revision, sha256 : str
            Name of the revision, and hash of its file.

        Raises
        ------
        OSError, MaskError
            When it cannot be written. Trying again does no harm.
        """
        revision = name_revision(labels)
        path = self.path(image_id, revision)
        if revision in known and path.is_file() and sha256_file(path) == known[revision]:
            return revision, known[revision]
        self._make_folder(image_id)
        write_mask(path, labels, style=self._style)
        return revision, sha256_file(path)

    def read(self, entry: MaskEvent, shape: tuple[int, int]) -> LabelImage:
        """Read a mask, and make sure that it is the one the journal means.

        Parameters
        ----------
        entry : MaskEvent
            What the journal says.
        shape : (int, int)
            Rows and columns of the image.

        Returns
        -------
        ndarray
            (H, W) uint8.

        Raises
        ------
        StudyError
            When the file is missing, is not the one that was saved, or does not fit the image.
        """
        path = self.path(entry.image_id, entry.revision)
        if not path.is_file():
            raise StudyError(f"The outline {path} is missing; take it from a backup, or draw it again.")
        damaged = StudyError(
            f"The outline {path} is not the one that was saved; take it from a backup, or draw it again."
        )
        if sha256_file(path) != entry.sha256:
            raise damaged
        try:
            labels = read_mask(path, shape)
        except MaskError as error:
            raise damaged from error
        if name_revision(labels) != entry.revision:
            raise damaged
        return labels

    def _make_folder(self, image_id: str) -> None:
        """Make an image's folder, and the name of it durable."""
        folder = self._folder / image_id
        if image_id not in self._durable or not folder.is_dir():
            folder.mkdir(exist_ok=True)
            sync_folder(self._folder)
            self._durable.add(image_id)
