"""The annotation study: a folder in which nothing that was approved is ever lost."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from pydantic import ValidationError

from napari_lesionseg.datasets.splits import SplitItem
from napari_lesionseg.errors import StudyError
from napari_lesionseg.study.checks import check_annotator, check_labels
from napari_lesionseg.study.errors import explained
from napari_lesionseg.study.event_log import JournalWriter, Problem, explain
from napari_lesionseg.study.events import (
    LESION,
    Added,
    Approved,
    Corrected,
    Flagged,
    ImageEntry,
    NoLesion,
    OutlineEntry,
    Predicted,
    Reopened,
    Session,
    StudyClass,
    StudyInfo,
)
from napari_lesionseg.study.importing import (
    Progress,
    common_folder,
    describe,
    find_files,
    list_sources,
    pseudonymize_all,
)
from napari_lesionseg.study.layout import (
    JOURNALS,
    is_free,
    is_study,
    make_folders,
    new_info,
    read_info,
    sweep,
    write_info,
)
from napari_lesionseg.study.origin import NO_PROVENANCE, Provenance
from napari_lesionseg.study.reading import StudyReader
from napari_lesionseg.study.state import ImageState

__all__ = ["NO_PROVENANCE", "Provenance", "Study"]


class Study(StudyReader):
    """A study that is open, as one annotator sees it.

    Make one with `Study.create` or `Study.open`. Whatever saves returns only when the disk has it, raises
    `StudyError` when that did not work, and can then simply be called again. `state` is a frozen value that
    is replaced, so other threads may read it at any time. Calls that save are done one after the other; save
    from one thread, so that they come in the order they are meant.

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
        super().__init__(folder, info, annotator, unblind=unblind)
        self._closed = False
        self._writer = JournalWriter(folder / JOURNALS, annotator)

    # ---------------------------------------------------------------- making, opening and closing

    @classmethod
    def create(
        cls,
        folder: str | Path,
        annotator: str,
        *,
        paths: str | Path | Iterable[str | Path] = (),
        images: Mapping[str, ArrayLike] | None = None,
        classes: Sequence[StudyClass] = (LESION,),
        blinded: bool = False,
        copy: bool = False,
        key_file: str | Path | None = None,
        groups: Iterable[SplitItem] = (),
        progress: Progress | None = None,
    ) -> Self:
        """Make a study and open it.

        Parameters
        ----------
        folder : str or Path
            A new or empty folder. A study without images, left by an attempt that failed, is made anew.
        annotator : str
            Who works in it: letters, digits, ``-`` and ``_``, such as initials.
        paths, images, copy, groups, progress
            As for `add_images`.
        classes : sequence of StudyClass
            What is outlined; the first has label 1.
        blinded : bool
            Whether annotators must not see each other's work.
        key_file : str or Path, optional
            Give images, patients and lesions pseudonyms, and keep the key in this file outside the study.

        Returns
        -------
        Study
            Images that could not be taken in are among its `problems`.

        Raises
        ------
        StudyError
            When the folder is in use, or cannot be written.
        PairingError
            When no images are found.
        """
        folder = Path(folder)
        with explained("Making the study"):
            files = find_files(paths, folder)
            folder.mkdir(parents=True, exist_ok=True)
            _check_free(folder, check_annotator(annotator))
            info = new_info(classes=tuple(classes), blinded=blinded, pseudonymized=key_file is not None)
            write_info(folder, info)
        study = cls.open(folder, annotator)
        study.add_images(files, images=images, copy=copy, key_file=key_file, groups=groups, progress=progress)
        return study

    @classmethod
    def open(cls, folder: str | Path, annotator: str, *, unblind: bool = False) -> Self:
        """Open a study.

        Parameters
        ----------
        folder : str or Path
            The study's folder.
        annotator : str
            Who works in it: letters, digits, ``-`` and ``_``, such as initials.
        unblind : bool
            Show every annotator's work though the study is blinded: for whoever compares the annotators.

        Returns
        -------
        Study
            What was left out of its journals is in `problems`.

        Raises
        ------
        StudyError
            When there is no study, or it is of a newer version, or cannot be read.
        """
        annotator = check_annotator(annotator)
        with explained("Opening the study"):
            folder = Path(folder).resolve()
            study = cls(folder, read_info(folder), annotator, unblind=unblind)
            make_folders(folder)
            sweep(folder)
            study.refresh()
        return study

    def close(self) -> None:
        """Leave the study. Everything is saved already; only where moved images were found is noted."""
        with self._lock:
            self._closed = True
            with contextlib.suppress(OSError):
                self._files.save()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------------------------- saving

    def add_images(
        self,
        paths: str | Path | Iterable[str | Path] = (),
        *,
        images: Mapping[str, ArrayLike] | None = None,
        copy: bool = False,
        key_file: str | Path | None = None,
        groups: Iterable[SplitItem] = (),
        progress: Progress | None = None,
    ) -> tuple[str, ...]:
        """Take images in; those that are in already are left alone.

        Parameters
        ----------
        paths : path or iterable of paths
            Files, folders, patterns, PH2's and ISIC's layouts, as `find_images` understands them.
        images : mapping of str to array, optional
            Images that are no files, by name; they are saved in the study.
        copy : bool
            Copy the files into the study as PNG without EXIF, instead of leaving them where they are.
        key_file : str or Path, optional
            Key of the pseudonyms, which a pseudonymized study needs; its images are always copied.
        groups : iterable of SplitItem
            Patients, lesions and strata by the name of the image (the stem of its file).
        progress : callable, optional
            Told about each image; may raise `CancelledError`, and nothing is taken in.

        Returns
        -------
        tuple of str
            SHA-256 of the images that are new. What could not be taken in is among the `problems`.

        Raises
        ------
        StudyError
            When it cannot be saved. Nothing is taken in then.
        PairingError
            When no images are found.
        """
        with self._lock, explained("Taking images in"):
            files = find_files(paths, self.folder)
            sources = list_sources(files, images or {}, groups)
            if self.info.pseudonymized:
                sources = pseudonymize_all(sources, key_file, self.folder)
            outside = None if copy or self.info.pseudonymized or not files else self._outside_for(files)
            described = list(describe(sources, self._files.own, outside, self.state.images, progress))
            self._refused.extend(item for item in described if isinstance(item, Problem))
            return self._record_added([item for item in described if not isinstance(item, Problem)])

    def record_prediction(
        self, image_id: str, labels: ArrayLike, origin: Provenance = NO_PROVENANCE
    ) -> ImageState:
        """Save what the model outlined on its own; it never takes the place of an annotator's outline.

        Parameters
        ----------
        image_id : str
            SHA-256 of the image.
        labels : array_like
            (H, W) class indices of the image's size.
        origin : Origin
            What it came from.

        Returns
        -------
        ImageState
            The image's new state.

        Raises
        ------
        StudyError
            When it does not fit the image, or cannot be saved; then it can be tried again.
        """
        return self._save_outline(Predicted, image_id, labels, origin)

    def save_correction(
        self, image_id: str, labels: ArrayLike, origin: Provenance = NO_PROVENANCE
    ) -> ImageState:
        """Save an outline that the annotator changed, by hand, by clicks or by the threshold.

        Parameters
        ----------
        image, labels, origin
            As for `record_prediction`.

        Returns
        -------
        ImageState
            The image's new state.

        Raises
        ------
        StudyError
            As `record_prediction`.
        """
        return self._save_outline(Corrected, image_id, labels, origin)

    def approve(
        self, image_id: str, labels: ArrayLike | None = None, origin: Provenance | None = None
    ) -> ImageState:
        """Sign an outline.

        Parameters
        ----------
        image_id : str
            SHA-256 of the image.
        labels : array_like, optional
            (H, W) class indices. None: the current outline.
        origin : Origin, optional
            What it came from. None: what the current outline came from.

        Returns
        -------
        ImageState
            The image's new state.

        Raises
        ------
        StudyError
            As `record_prediction`, and when there is no outline to approve.
        """
        current = self._state_of(image_id).outline
        if labels is None:
            if current is None:
                raise StudyError("There is no outline to approve; draw one, or choose No lesion.")
            labels = self.read_revision(current)
        if not np.any(labels):
            raise StudyError("The outline is empty; draw one, or choose No lesion.")
        return self._save_outline(Approved, image_id, labels, origin or Provenance.of(current))

    def no_lesion(self, image_id: str) -> ImageState:
        """Sign that the image shows no lesion.

        Parameters
        ----------
        image_id : str
            SHA-256 of the image.

        Returns
        -------
        ImageState
            The image's new state.

        Raises
        ------
        StudyError
            When it cannot be saved; then it can be tried again.
        """
        return self._save_entry(NoLesion, image_id)

    def flag(self, image_id: str, note: str = "") -> ImageState:
        """Set an image aside.

        Parameters
        ----------
        image_id : str
            SHA-256 of the image.
        note : str
            Why, in at most 4000 characters.

        Returns
        -------
        ImageState
            The image's new state.

        Raises
        ------
        StudyError
            When it cannot be saved; then it can be tried again.
        """
        return self._save_entry(Flagged, image_id, note=note)

    def reopen(self, image_id: str) -> ImageState:
        """Take back a verdict or a flag; the outlines stay.

        Parameters
        ----------
        image_id : str
            SHA-256 of the image.

        Returns
        -------
        ImageState
            The image's new state.

        Raises
        ------
        StudyError
            When it cannot be saved; then it can be tried again.
        """
        return self._save_entry(Reopened, image_id)

    def save_session(self, image_id: str | None, view: Mapping[str, Any]) -> None:
        """Save where the annotator is, to come back there.

        Parameters
        ----------
        image_id : str, optional
            SHA-256 of the image on the screen.
        view : mapping
            What the viewer needs to look the same again: names, finite numbers, texts, lists.

        Raises
        ------
        StudyError
            When it cannot be saved; then it can be tried again.
        """
        with self._lock, explained("Saving where you are"):
            self._check_open()
            time = self._store.next_session_time()
            self._store.apply([self._writer.append(Session, time=time, image_id=image_id, view=dict(view))])

    def set_images_folder(self, folder: str | Path) -> None:
        """Say where the images are now that were not copied.

        Parameters
        ----------
        folder : str or Path
            The folder that holds them, in the same subfolders or in others.

        Raises
        ------
        StudyError
            When there is no such folder, or it cannot be saved.
        """
        with self._lock, explained("Saving where the images are"):
            self._check_open()
            if not Path(folder).is_dir():
                raise StudyError(f"{folder} is not a folder; choose the one that holds the images.")
            self._set_outside(Path(folder).resolve())

    def set_classes(self, classes: Sequence[StudyClass]) -> None:
        """Rename or recolor classes, add some at the end, or take the last ones away.

        Parameters
        ----------
        classes : sequence of StudyClass
            All classes from now on. Outlines keep theirs by number, so that the order cannot change.

        Raises
        ------
        StudyError
            When a name comes twice, an outline that was ever saved uses a class that would go, or it cannot
            be saved. Annotators who have the study open see new classes when they open it the next time.
        """
        with self._lock, explained("Saving the classes"):
            self._check_open()
            names = [entry.name for entry in classes]
            if not names or len(set(names)) != len(names):
                raise StudyError("Give every class a name of its own; a study needs one class at least.")
            if len(names) < len(self.info.classes) and self._highest_class() > len(names):
                last = self.info.classes[-1].name
                raise StudyError(f"“{last}” cannot be removed: a saved outline uses a class that would go.")
            try:
                info = StudyInfo.model_validate(self.info.model_dump() | {"classes": tuple(classes)})
            except ValidationError as error:
                raise StudyError(f"The classes cannot be like this: {explain(error)}.") from error
            write_info(self.folder, info)
            self.info = info
            self._revisions = self._make_revisions()

    # ---------------------------------------------------------------------------------- inside

    def _highest_class(self) -> int:
        """Find the highest class in any outline that was ever saved."""
        entries = (entry for image_id in self.state.images for entry in self.history(image_id))
        outlines = (entry for entry in entries if isinstance(entry, OutlineEntry))
        return max((int(self.read_revision(entry).max(initial=0)) for entry in outlines), default=0)

    @property
    def _own_files(self) -> Collection[str]:
        return self._writer.own_files

    def _check_open(self) -> None:
        if self._closed:
            raise StudyError("The study was closed; open it again to go on.")

    def _save_entry(self, kind: type[ImageEntry], image_id: str, **fields: Any) -> ImageState:
        """Append an entry about an image, later than all that is known of it."""
        with self._lock, explained("Saving"):
            self._check_open()
            self._state_of(image_id)
            time = self._store.next_time(image_id)
            entry: Any = self._writer.append(kind, time=time, image_id=image_id, **fields)
            self._store.apply([entry])
            return self.state.images[image_id]

    def _save_outline(
        self, kind: type[OutlineEntry], image_id: str, labels: ArrayLike, origin: Provenance
    ) -> ImageState:
        """Put a mask on the disk, then the entry that speaks of it."""
        with self._lock, explained("Saving the outline"):
            self._check_open()
            checked = check_labels(labels, self._state_of(image_id), len(self.info.classes))
            revision, sha256 = self._revisions.write(image_id, checked, self._store.hashes(image_id))
            return self._save_entry(kind, image_id, revision=revision, sha256=sha256, **origin.fields())

    def _outside_for(self, files: Sequence[Path]) -> Path:
        """Return the folder in which files stay; the first images decide on it."""
        outside = self._files.outside
        if outside is None:
            outside = common_folder(files)
            self._set_outside(outside)
        return outside

    def _set_outside(self, outside: Path) -> None:
        """Write down the folder of the images."""
        try:
            relative = Path(os.path.relpath(outside, self.folder)).as_posix()
        except ValueError as error:
            raise StudyError(f"{outside} is on another drive; have the images copied.") from error
        info = self.info.model_copy(update={"images_folder": relative})
        write_info(self.folder, info)
        self.info = info
        self._files = self._make_files()

    def _record_added(self, records: list[dict[str, Any]]) -> tuple[str, ...]:
        """Write the entries of new images in one step."""
        self._check_open()
        new = {record["image_id"]: record for record in reversed(records)}
        fresh = [
            new[image_id]
            for image_id in dict.fromkeys(record["image_id"] for record in records)
            if image_id not in self.state.images
        ]
        entries = self._writer.append_together(Added, fresh, time=datetime.now(UTC))
        self._store.apply(entries)
        return tuple(entry.image_id for entry in entries)


def _check_free(folder: Path, annotator: str) -> None:
    """Refuse a folder in which there is something already; a study without images is nothing."""
    if is_study(folder):
        with Study.open(folder, annotator) as study:
            if study.state.images or study.state.unknown:
                raise StudyError(f"{folder} holds a study already; open it instead.")
    elif not is_free(folder):
        raise StudyError(f"{folder} is not empty; choose a new or an empty folder for the study.")
