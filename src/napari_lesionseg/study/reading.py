"""A study as one annotator sees it: its state, its images, its outlines and their history."""

from __future__ import annotations

import threading
from collections.abc import Collection
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from napari_lesionseg.errors import StudyError
from napari_lesionseg.io.images import read_image
from napari_lesionseg.study.errors import explained
from napari_lesionseg.study.event_log import JournalReader, Problem
from napari_lesionseg.study.events import (
    Added,
    AnyEntry,
    Approved,
    ImageEntry,
    OutlineEntry,
    Session,
    StudyInfo,
)
from napari_lesionseg.study.images import ImageFiles
from napari_lesionseg.study.importing import Progress
from napari_lesionseg.study.layout import CACHE, IMAGES, JOURNALS, MASKS
from napari_lesionseg.study.mask_store import Revisions
from napari_lesionseg.study.state import ImageState, Status, StudyState
from napari_lesionseg.study.state_store import StateStore
from napari_lesionseg.types import ByteImage, LabelImage

Which: TypeAlias = Literal["current", "predicted", "corrected", "approved"]
"""Which of an image's outlines is meant."""


class StudyReader:
    """What can be looked at in a study that is open; `Study` adds what can be saved.

    `state` is a frozen value that is replaced, so other threads may read it at any time.

    Parameters
    ----------
    folder : Path
        The study's folder, resolved.
    info : StudyInfo
        Content of its ``study.json``.
    annotator : str
        Who works in it.
    unblind : bool
        Show every annotator's work though the study is blinded.
    """

    def __init__(self, folder: Path, info: StudyInfo, annotator: str, *, unblind: bool = False) -> None:
        self.folder = folder
        self.info = info
        self.annotator = annotator
        self._lock = threading.RLock()
        self._refused: list[Problem] = []
        self._store = StateStore(annotator, blinded=info.blinded and not unblind)
        self._files = self._make_files()
        self._revisions = self._make_revisions()
        self._journals = JournalReader(folder / JOURNALS, self._refuse)

    @property
    def state(self) -> StudyState:
        """Where the study stands, as far as this annotator may see it."""
        return self._store.state

    @property
    def blinded(self) -> bool:
        """Whether this annotator sees the own work alone."""
        return self._store.blinded

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What was left out: bad lines of journals, and images that could not be taken in."""
        unknown = [
            Problem(JOURNALS, 0, f"entries about the image {image_id}, which nobody added")
            for image_id in sorted(self.state.unknown)
        ]
        return (*self._journals.problems, *self._refused, *unknown)

    @property
    def session(self) -> Session | None:
        """Where the annotator was; None the first time."""
        return self.state.sessions.get(self.annotator)

    def refresh(self) -> frozenset[str]:
        """Take in what other annotators wrote since the last look.

        Returns
        -------
        frozenset of str
            Images about which there is something new.

        Raises
        ------
        StudyError
            When the study's folder cannot be reached; what was known stays.
        """
        with self._lock, explained("Looking for news in the study"):
            self._files.forget_listing()
            return self._store.apply(self._journals.read_new(skip=self._own_files))

    def image_path(self, image_id: str) -> Path:
        """Find an image's file, also when it was moved or renamed.

        Parameters
        ----------
        image_id : str
            SHA-256 of the image.

        Returns
        -------
        Path
            A file that has this SHA-256.

        Raises
        ------
        StudyError
            When it is nowhere to be found.
        """
        with explained("Reading the image"):
            return self._files.find(self._state_of(image_id).added)

    def read_image(self, image_id: str) -> ByteImage:
        """Read an image, and make sure that it is the one that was added.

        Parameters
        ----------
        image_id : str
            SHA-256 of the image.

        Returns
        -------
        ndarray
            (H, W, 3) uint8.

        Raises
        ------
        StudyError
            When it is nowhere to be found, or has another size than the journal says.
        ImageError
            When it cannot be read.
        """
        state = self._state_of(image_id)
        image = read_image(self.image_path(image_id))
        if image.shape[:2] != state.shape:
            raise StudyError(f"The image {state.name} is not of the size it was added with; add it anew.")
        return image

    def missing_images(self) -> tuple[str, ...]:
        """List images whose files are not where they were, by a quick look that opens no file.

        Returns
        -------
        tuple of str
            They may still be found elsewhere by `image_path`.
        """
        states = self.state.images.items()
        return tuple(image_id for image_id, state in states if not self._files.present(state.added))

    def outline(self, image_id: str, which: Which = "current") -> LabelImage | None:
        """Read one of an image's outlines.

        Parameters
        ----------
        image_id : str
            SHA-256 of the image.
        which : {"current", "predicted", "corrected", "approved"}
            "current" is what is to be shown: nothing but background where there is no lesion, else the latest
            outline an annotator made or signed, else the latest prediction.

        Returns
        -------
        ndarray or None
            (H, W) uint8, a new array; None when there is none.

        Raises
        ------
        StudyError
            When the file is missing, damaged, or does not fit the image.
        """
        state = self._state_of(image_id)
        if which == "current" and state.status is Status.NO_LESION:
            return np.zeros(state.shape, np.uint8)
        entry = state.outline if which == "current" else getattr(state, which)
        return None if entry is None else self.read_revision(entry)

    def read_revision(self, entry: OutlineEntry) -> LabelImage:
        """Read the outline of any entry of the history.

        Parameters
        ----------
        entry : OutlineEntry
            From `history` or from an image's state.

        Returns
        -------
        ndarray
            (H, W) uint8, a new array.

        Raises
        ------
        StudyError
            When the file is missing, damaged, or does not fit the image.
        """
        with explained("Reading the outline"):
            return self._revisions.read(entry, self._state_of(entry.image_id).shape)

    def revision_path(self, entry: OutlineEntry) -> Path:
        """Return where the mask of an entry is.

        Parameters
        ----------
        entry : OutlineEntry
            From `history` or from an image's state.

        Returns
        -------
        Path
        """
        return self._revisions.path(entry.image_id, entry.revision)

    def verdict_masks(self, image_id: str) -> dict[str, LabelImage]:
        """Read what each annotator signed, as far as this annotator may see it.

        Parameters
        ----------
        image_id : str
            SHA-256 of the image.

        Returns
        -------
        dict of str to ndarray
            (H, W) uint8 by annotator, in the order of the names; "no lesion" is all background.

        Raises
        ------
        StudyError
            When a file is missing, damaged, or does not fit the image.
        """
        state = self._state_of(image_id)
        return {
            annotator: self.read_revision(verdict)
            if isinstance(verdict, Approved)
            else np.zeros(state.shape, np.uint8)
            for annotator, verdict in sorted(state.verdicts.items())
        }

    def history(self, image_id: str) -> tuple[ImageEntry, ...]:
        """List everything that happened to an image, as far as this annotator may see it.

        Parameters
        ----------
        image_id : str
            SHA-256 of the image.

        Returns
        -------
        tuple of ImageEntry
            The oldest first. Each outline ever saved is there, and can be had by `read_revision`.
        """
        return self._store.history(image_id)

    def check(self, progress: Progress | None = None) -> tuple[Problem, ...]:
        """Read every image and every outline, and say what is missing or damaged.

        Parameters
        ----------
        progress : callable, optional
            Told about each image.

        Returns
        -------
        tuple of Problem
            Empty when all is well.
        """
        found: list[Problem] = []
        states = list(self.state.images.values())
        for done, state in enumerate(states, start=1):
            found.extend(self._check_image(state))
            if progress is not None:
                progress(done, len(states))
        return tuple(found)

    # ---------------------------------------------------------------------------------- inside

    @property
    def _own_files(self) -> Collection[str]:
        """Journals that this run writes itself, which need not be read."""
        return ()

    def _make_revisions(self) -> Revisions:
        return Revisions(self.folder / MASKS, "binary" if len(self.info.classes) == 1 else "index")

    def _state_of(self, image_id: str) -> ImageState:
        try:
            return self.state.images[image_id]
        except KeyError:
            raise StudyError(f"The study has no image {image_id}; add it first.") from None

    def _refuse(self, entry: AnyEntry) -> str | None:
        """Say why an entry that is well formed is still not taken in."""
        if isinstance(entry, Added) and self._files.leads_out(entry):
            return "a link leads the path out of the folder of the images"
        if isinstance(entry, OutlineEntry) and entry.label > len(self.info.classes):
            return f"the study has no class {entry.label}"
        return None

    def _make_files(self) -> ImageFiles:
        outside = (
            None if self.info.images_folder is None else (self.folder / self.info.images_folder).resolve()
        )
        return ImageFiles(self.folder / IMAGES, outside, self.folder / CACHE / "moved.json")

    def _check_image(self, state: ImageState) -> list[Problem]:
        """Say what is wrong with one image and its outlines."""
        found: list[Problem] = []
        try:
            self.image_path(state.image_id)
        except StudyError as error:
            found.append(Problem(state.added.path, 0, str(error)))
        outlines = {e.revision: e for e in self.history(state.image_id) if isinstance(e, OutlineEntry)}
        for entry in outlines.values():
            try:
                self.read_revision(entry)
            except StudyError as error:
                found.append(Problem(f"{MASKS}/{entry.image_id}/{entry.revision}.png", 0, str(error)))
        return found
