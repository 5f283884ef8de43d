"""Mask revisions: small PNG files that are written once and never changed.

A revision is named after its pixels, so the same mask saved twice is one file, and a file that was damaged or
swapped cannot pass for another.
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

REVISION_DIGITS = 16


def name_revision(labels: LabelImage) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a mask's size and pixels."""
    digest = hashlib.sha256(f"{labels.shape[0]}x{labels.shape[1]}:".encode())
    digest.update(np.ascontiguousarray(labels).data)
    return digest.hexdigest()[:REVISION_DIGITS]


class MaskStore:
    """The folder ``masks`` of a study; labels are stored as 0 and 255 ("binary") or as they are ("index")."""

    def __init__(self, folder: Path, style: Literal["binary", "index"]) -> None:
        self._folder = folder
        self._style = style
        self._durable: set[str] = set()  # images whose folder is on the disk for certain

    def path(self, image_id: str, revision: str) -> Path:
        """Return the path of a revision, whether it is there or not."""
        folder = self._folder / image_id
        if folder.is_symlink():
            raise StudyError(f"{folder} is a link, which is not followed; put the folder itself there.")
        return folder / f"{revision}.png"

    def write(self, image_id: str, labels: LabelImage, known: Mapping[str, str]) -> tuple[str, str]:
        """Save a mask (H, W) and return its revision and the SHA-256 of its file, which is on the disk then.

        A file that has the SHA-256 `known` of its revision is not written again. After an error, writing can
        be tried again.
        """
        revision = name_revision(labels)
        path = self.path(image_id, revision)
        if revision in known and path.is_file() and sha256_file(path) == known[revision]:
            return revision, known[revision]
        self._make_folder(image_id)
        write_mask(path, labels, style=self._style)
        return revision, sha256_file(path)

    def read(self, event: MaskEvent, shape: tuple[int, int]) -> LabelImage:
        """Read the mask (H, W) of an event, after making sure that the file is the one that was saved."""
        path = self.path(event.image_id, event.revision)
        if not path.is_file():
            raise StudyError(f"The outline {path} is missing; restore it from a backup, or draw it again.")
        damaged = StudyError(
            f"The outline {path} is not the one that was saved; restore it from a backup, or draw it again."
        )
        if sha256_file(path) != event.sha256:
            raise damaged
        try:
            labels = read_mask(path, shape)
        except MaskError as error:
            raise damaged from error
        if name_revision(labels) != event.revision:
            raise damaged
        return labels

    def _make_folder(self, image_id: str) -> None:
        folder = self._folder / image_id
        if image_id not in self._durable or not folder.is_dir():
            folder.mkdir(exist_ok=True)
            sync_folder(self._folder)
            self._durable.add(image_id)
