"""The annotation study: a folder in which nothing that was approved is ever lost."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike
from pydantic import TypeAdapter, ValidationError

from napari_lesionseg.config import Skeleton
from napari_lesionseg.datasets.records import Problem
from napari_lesionseg.datasets.splits import SplitItem
from napari_lesionseg.errors import StudyError
from napari_lesionseg.io.folders import is_dir
from napari_lesionseg.io.images import read_image
from napari_lesionseg.study.errors import explained
from napari_lesionseg.study.event_log import EventReader, EventWriter, StudyProblem, explain
from napari_lesionseg.study.events import (
    LESION,
    NO_ORIGIN,
    Added,
    AnnotatorName,
    AnyEvent,
    Approved,
    Corrected,
    Flagged,
    ImageEvent,
    MaskEvent,
    MaskOrigin,
    NoLesion,
    Predicted,
    Reopened,
    Session,
    StudyClass,
    StudyInfo,
)
from napari_lesionseg.study.images import (
    ImageFiles,
    Progress,
    common_folder,
    describe,
    find_files,
    list_sources,
    pseudonymize_all,
)
from napari_lesionseg.study.layout import (
    CACHE,
    EVENTS,
    IMAGES,
    MASKS,
    READ_ONLY,
    is_free,
    is_study,
    make_folders,
    new_info,
    read_info,
    sweep,
    write_info,
)
from napari_lesionseg.study.mask_store import REVISION_DIGITS, MaskStore
from napari_lesionseg.study.state import ImageState, StateStore, Status, StudyState
from napari_lesionseg.types import ByteImage, LabelImage, Mark

_ANNOTATOR: TypeAdapter[str] = TypeAdapter(AnnotatorName)

NOTHING_DRAWN = "The outline is empty; draw one, or choose No lesion."
NOTHING_MARKED = "No landmark is marked; mark one, or choose None visible."

Content: TypeAlias = ArrayLike | Sequence[Mark]
"""What is saved of an image: a mask (H, W), or marks in a study of landmarks."""

Which: TypeAlias = Literal["current", "predicted", "corrected", "approved"]
"""Which of an image's masks is meant."""


class Study:
    """An open study, as one annotator sees it.

    Open one with `Study.create` or `Study.open`. An image is known by its SHA-256, `image_id`, which is a key
    of `state.images`. `state` is a frozen value that is replaced, so other threads may read it at any time.

    Methods that save return only when the data is on the disk, most of them with the image's new state. They
    raise `StudyError` when that failed, and can then simply be called again. Save from one thread, so that
    events come in the order they are meant. Other methods raise `StudyError` for an image that the study does
    not have, and for files that are missing or damaged.

    Parameters
    ----------
    folder : Path
        The study's folder, resolved.
    info : StudyInfo
        Content of its ``study.json``.
    annotator : str
        Who works in it.
    unblind : bool
        Show every annotator's work though the study is blinded, and the gold standard.
    reviewer : bool
        Review the work of others, which is shown as with `unblind`: verdicts count as reviews.
    """

    def __init__(
        self, folder: Path, info: StudyInfo, annotator: str, *, unblind: bool = False, reviewer: bool = False
    ) -> None:
        self.folder = folder
        self.info = info
        self.annotator = annotator
        self.is_reviewer = reviewer
        self._lock = threading.RLock()
        self._closed = False
        self._left_out: list[StudyProblem] = []
        sees_all = unblind or reviewer
        self._store = StateStore(annotator, blinded=info.blinded and not sees_all, sees_gold=sees_all)
        self._files = self._make_files()
        self._masks = self._make_mask_store()
        self._reader = EventReader(folder / EVENTS, self._refuse)
        self._writer = EventWriter(folder / EVENTS, annotator)

    # ---- opening and closing

    @classmethod
    def create(
        cls,
        folder: str | Path,
        annotator: str,
        *,
        paths: str | Path | Iterable[str | Path] = (),
        images: Mapping[str, ArrayLike] | None = None,
        classes: Sequence[StudyClass] = (LESION,),
        landmarks: Skeleton | None = None,
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
            A new or empty folder. A study without images, left by a failed attempt, is recreated.
        annotator : str
            Who works in it: letters, digits, ``-`` and ``_``, such as initials.
        paths, images, copy, groups, progress
            As for `add_images`.
        classes : sequence of StudyClass
            Classes to outline; the first has label 1.
        landmarks : Skeleton, optional
            Landmarks to mark in each image, in place of outlines.
        blinded : bool
            Whether annotators must not see each other's work.
        key_file : str or Path, optional
            Replace the names of images, patients and lesions by pseudonyms, with the key in this file, which
            must be outside the study.

        Returns
        -------
        Study
            Images that could not be added are among its `problems`.

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
            info = new_info(
                classes=tuple(classes),
                landmarks=landmarks,
                blinded=blinded,
                pseudonymized=key_file is not None,
            )
            write_info(folder, info)
        study = cls.open(folder, annotator)
        study.add_images(files, images=images, copy=copy, key_file=key_file, groups=groups, progress=progress)
        return study

    @classmethod
    def open(
        cls, folder: str | Path, annotator: str, *, unblind: bool = False, reviewer: bool = False
    ) -> Self:
        """Open a study.

        Parameters
        ----------
        folder : str or Path
            The study's folder.
        annotator : str
            Who works in it: letters, digits, ``-`` and ``_``, such as initials.
        unblind, reviewer : bool
            As for `Study`.

        Returns
        -------
        Study
            Parts of its event log that were left out are among its `problems`.

        Raises
        ------
        StudyError
            When there is no study, or it is of a newer version, or cannot be read.
        """
        annotator = check_annotator(annotator)
        with explained("Opening the study"):
            folder = Path(folder).resolve()
            study = cls(folder, read_info(folder), annotator, unblind=unblind, reviewer=reviewer)
            make_folders(folder)
            if annotator != READ_ONLY:  # who only reads must not get in the way of a writer at work
                sweep(folder)
            study.refresh()
        return study

    def close(self) -> None:
        """Close the study. Everything is saved already, except the cache of where images were found."""
        with self._lock:
            self._closed = True
            with contextlib.suppress(OSError):
                self._files.hashes.save()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- reading

    @property
    def state(self) -> StudyState:
        """The state of the study, as far as this annotator may see it."""
        return self._store.state

    @property
    def blinded(self) -> bool:
        """Whether this annotator sees only their own work."""
        return self._store.blinded

    @property
    def problems(self) -> tuple[StudyProblem, ...]:
        """What was left out: bad lines of the event log, and images that could not be added."""
        unknown = [
            StudyProblem(EVENTS, 0, f"events of the image {image_id}, which nobody added")
            for image_id in sorted(self.state.unknown)
        ]
        return (*self._reader.problems, *self._left_out, *unknown)

    def add_problems(self, problems: Iterable[Problem]) -> None:
        """Take in what is wrong with the dataset that the images are from, each once."""
        told = [StudyProblem(problem.name, 0, problem.reason) for problem in problems]
        self._left_out = list(dict.fromkeys((*self._left_out, *told)))

    @property
    def session(self) -> Session | None:
        """Where the annotator was; None the first time."""
        return self.state.sessions.get(self.annotator)

    def refresh(self) -> frozenset[str]:
        """Read what others have saved since the last call, and return the images with new events.

        The state stays as it was when the study's folder cannot be reached, which is a `StudyError`.
        """
        with self._lock, explained("Reading the study"):
            self._files.clear_listing()
            return self._store.apply(self._reader.read_new(skip=self._writer.own_files))

    def image_path(self, image_id: str) -> Path:
        """Find an image's file by its SHA-256, also when it was moved or renamed."""
        with explained("Reading the image"):
            return self._files.find(self._state_of(image_id).added)

    def read_image(self, image_id: str) -> ByteImage:
        """Read an image (H, W, 3), and make sure that it is the one that was added.

        Raises `ImageError` when its file cannot be read.
        """
        state = self._state_of(image_id)
        image = read_image(self.image_path(image_id))
        if image.shape[:2] != state.shape:
            raise StudyError(f"The image {state.name} changed its size; add it again.")
        return image

    def missing_images(self) -> tuple[str, ...]:
        """List images whose files are not where they were, without opening any file.

        `image_path` may still find them elsewhere.
        """
        states = self.state.images.items()
        return tuple(image_id for image_id, state in states if not self._files.is_present(state.added))

    def read_mask(self, image_id: str, which: Which = "current") -> LabelImage | None:
        """Read one of an image's masks (H, W) as a new array; None when there is none.

        "current" is the mask to show: all background where there is no lesion, else the latest mask that an
        annotator drew or approved, else the latest prediction. A study of landmarks has no masks.
        """
        state = self._state_of(image_id)
        if which == "current" and state.status is Status.NO_LESION:
            return np.zeros(state.shape, np.uint8)
        event: MaskEvent | None = getattr(state, which)
        return None if event is None or event.marks is not None else self.read_revision(event)

    def read_revision(self, event: MaskEvent) -> LabelImage:
        """Read the mask (H, W) of any event, from `history` or an image's state, as a new array."""
        with explained("Reading the outline"):
            return self._masks.read(event, self._state_of(event.image_id).shape)

    def history(self, image_id: str) -> tuple[ImageEvent, ...]:
        """List the events of an image, the oldest first, as far as this annotator may see them.

        Every mask that was ever saved can be read with `read_revision`.
        """
        return self._store.history(image_id)

    # ---- saving

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
        """Add images; those that the study has are left alone.

        Parameters
        ----------
        paths : path or iterable of paths
            Files, folders, patterns, PH2's and ISIC's layouts, as `find_images` understands them.
        images : mapping of str to array, optional
            Images that are not files, by name; they are saved in the study.
        copy : bool
            Copy the files into the study as PNG without EXIF, instead of leaving them where they are.
        key_file : str or Path, optional
            Key of the pseudonyms, which a pseudonymized study needs; its images are always copied.
        groups : iterable of SplitItem
            Patients, lesions and diagnoses by the name of the image (the stem of its file).
        progress : callable, optional
            Called after each image with the number done and the total; may raise `CancelledError`, and no
            image is added.

        Returns
        -------
        tuple of str
            SHA-256 of the images that are new. Images that could not be added are among the `problems`.

        Raises
        ------
        StudyError
            When they cannot be saved. No image is added then.
        PairingError
            When no images are found.
        """
        with self._lock, explained("Adding images"):
            files = find_files(paths, self.folder)
            sources = list_sources(files, images or {}, groups)
            if self.info.pseudonymized:
                sources = pseudonymize_all(sources, key_file, self.folder)
                copy = True
            if files and not copy and self._files.outside is None:
                self._set_outside(common_folder(files))
            described = list(describe(sources, self._files, self.state.images, progress, copy=copy))
            self._left_out.extend(item for item in described if isinstance(item, StudyProblem))
            return self._record_added([item for item in described if not isinstance(item, StudyProblem)])

    def record(self, kind: type[ImageEvent], image_id: str, **fields: Any) -> ImageState:
        """Save an event of an image; its `kind` and `fields` are those of `study.events`."""
        with self._lock, explained("Saving"):
            self._check_open()
            self._state_of(image_id)
            time = self._store.next_time(image_id)
            event: Any = self._writer.append(kind, time=time, image_id=image_id, **fields)
            self._store.apply([event])
            return self.state.images[image_id]

    def record_mask(
        self,
        kind: type[MaskEvent],
        image_id: str,
        content: Content,
        origin: MaskOrigin = NO_ORIGIN,
        **fields: Any,
    ) -> ImageState:
        """Save a mask (H, W) of class indices, with the model, threshold and clicks it came from.

        In a study of landmarks, save marks instead. Raises `StudyError` when the mask does not fit the image.
        """
        if self.info.landmarks is not None:
            record = record_of_marks(check_marks(content))
            return self.record(kind, image_id, **record, **origin.fields(), **fields)
        with self._lock, explained("Saving the outline"):
            self._check_open()
            checked = check_labels(content, self._state_of(image_id), len(self.info.classes))
            # The mask must be on the disk before the event that refers to it.
            revision, sha256 = self._masks.write(image_id, checked, self._store.hashes(image_id))
            return self.record(kind, image_id, revision=revision, sha256=sha256, **origin.fields(), **fields)

    def record_together(
        self, kind: type[ImageEvent], records: Sequence[Mapping[str, Any]]
    ) -> tuple[str, ...]:
        """Save events of several images in one step, all or none, and return the images."""
        with self._lock, explained("Saving"):
            self._check_open()
            times = [self._store.next_time(record["image_id"]) for record in records]
            events: Any = self._writer.append_together(
                kind, records, time=max(times, default=datetime.now(UTC))
            )
            self._store.apply(events)
            return tuple(event.image_id for event in events)

    def record_prediction(
        self, image_id: str, content: Content, origin: MaskOrigin = NO_ORIGIN
    ) -> ImageState:
        """Save a mask that the model predicted; it never replaces an annotator's mask."""
        return self.record_mask(Predicted, image_id, content, origin)

    def save_correction(self, image_id: str, content: Content, origin: MaskOrigin = NO_ORIGIN) -> ImageState:
        """Save a mask that the annotator changed, by hand, by clicks or by the threshold."""
        review_of = self._reviewed(self._state_of(image_id))
        return self.record_mask(Corrected, image_id, content, origin, review_of=review_of)

    def approve(
        self, image_id: str, content: Content | None = None, origin: MaskOrigin | None = None
    ) -> ImageState:
        """Approve a mask, by default the current one; an empty one is a `StudyError`."""
        state, current = self._state_of(image_id), self._state_of(image_id).current
        has_marks = self.info.landmarks is not None
        if content is None and current is not None:
            content = current.as_marks() if has_marks else self.read_revision(current)
        if content is None or not np.size(content) or not (has_marks or np.any(content)):
            raise StudyError(NOTHING_MARKED if has_marks else NOTHING_DRAWN)
        origin = origin or MaskOrigin.of(current)
        return self.record_mask(Approved, image_id, content, origin, review_of=self._reviewed(state))

    def no_lesion(self, image_id: str) -> ImageState:
        """Record the verdict that the image shows no lesion."""
        return self.record(NoLesion, image_id, review_of=self._reviewed(self._state_of(image_id)))

    def flag(self, image_id: str, note: str = "") -> ImageState:
        """Set an image aside, with a note of at most 4000 characters."""
        return self.record(Flagged, image_id, note=note)

    def reopen(self, image_id: str) -> ImageState:
        """Withdraw a verdict or a flag; the masks stay."""
        return self.record(Reopened, image_id)

    def save_session(self, image_id: str | None, view: Mapping[str, Any]) -> None:
        """Save where the annotator is, to return there.

        `view` is what the viewer needs to look the same again: names, finite numbers, texts, lists.
        """
        with self._lock, explained("Saving where you are"):
            self._check_open()
            time = self._store.next_session_time()
            self._store.apply([self._writer.append(Session, time=time, image_id=image_id, view=dict(view))])

    def set_images_folder(self, folder: str | Path) -> None:
        """Set the folder of the images that were not copied, after they were moved.

        They may be in the same subfolders of it or in others; it is a `StudyError` if none is there.
        """
        with self._lock, explained("Saving where the images are"):
            self._check_open()
            if not is_dir(Path(folder)):
                raise StudyError(f"{folder} is not a folder; choose the one that holds the images.")
            outside = Path(folder).resolve()
            moved = [state.added for state in self.state.images.values() if not state.added.own]
            if moved and not self._make_files(outside).holds_any(moved):
                raise StudyError(f"None of the study's images is in {folder}; choose another folder.")
            self._set_outside(outside)

    def set_classes(self, classes: Sequence[StudyClass]) -> None:
        """Rename or recolor classes, add some at the end, or remove the last ones.

        Masks refer to classes by number, so their order cannot change. It is a `StudyError` when a name comes
        twice, or a mask that was ever saved uses a class that would go. Annotators who have the study open
        see new classes when they open it the next time.
        """
        with self._lock, explained("Saving the classes"):
            self._check_open()
            names = [entry.name for entry in classes]
            if not names or len(set(names)) != len(names):
                raise StudyError("Every class needs a different name, and a study needs at least one class.")
            if len(names) < len(self.info.classes) and _highest_label(self) > len(names):
                last = self.info.classes[-1].name
                raise StudyError(f"“{last}” cannot be removed: a saved outline uses a class that would go.")
            try:
                info = StudyInfo.model_validate(self.info.model_dump() | {"classes": tuple(classes)})
            except ValidationError as error:
                raise StudyError(f"These classes cannot be used: {explain(error)}.") from error
            write_info(self.folder, info)
            self.info = info
            self._masks = self._make_mask_store()

    # ---- internal

    def _reviewed(self, state: ImageState) -> str | None:
        """Return the annotator whose verdict a reviewer's own verdict is about; None: no review."""
        if not self.is_reviewer:
            return None
        others = [v for v in state.verdicts.values() if v.annotator != self.annotator and v.review_of is None]
        latest = max(others, key=lambda verdict: verdict.order, default=None)
        return None if latest is None else latest.annotator

    def _record_added(self, records: list[dict[str, Any]]) -> tuple[str, ...]:
        """Write the events of new images in one step; of two images with one hash, the first counts."""
        new: dict[str, dict[str, Any]] = {}
        for record in records:
            if record["image_id"] not in self.state.images:
                new.setdefault(record["image_id"], record)
        return self.record_together(Added, list(new.values()))

    def _check_open(self) -> None:
        if self._closed:
            raise StudyError("The study was closed; open it again to continue.")

    def _state_of(self, image_id: str) -> ImageState:
        try:
            return self.state.images[image_id]
        except KeyError:
            raise StudyError(f"The study has no image {image_id}; add it first.") from None

    def _refuse(self, event: AnyEvent) -> str | None:
        """Return why a well-formed event is still left out, or None."""
        if isinstance(event, Added) and self._files.leads_out(event):
            return "a link leads the path out of the folder of the images"
        if isinstance(event, MaskEvent) and (event.marks is None) != (self.info.landmarks is None):
            return "it has landmarks" if event.marks is not None else "it has an outline, but no landmarks"
        if isinstance(event, MaskEvent) and event.label > len(self.info.classes):
            return f"the study has no class {event.label}"
        return None

    def _set_outside(self, outside: Path) -> None:
        try:
            relative = Path(os.path.relpath(outside, self.folder)).as_posix()
        except ValueError as error:
            raise StudyError(f"{outside} is on another drive; have the images copied.") from error
        info = self.info.model_copy(update={"images_folder": relative})
        write_info(self.folder, info)
        self.info = info
        self._files = self._make_files()

    def _make_files(self, outside: Path | None = None) -> ImageFiles:
        if outside is None and self.info.images_folder is not None:
            outside = (self.folder / self.info.images_folder).resolve()
        return ImageFiles(self.folder / IMAGES, outside, self.folder / CACHE / "files.json")

    def _make_mask_store(self) -> MaskStore:
        return MaskStore(self.folder / MASKS, "binary" if len(self.info.classes) == 1 else "index")


def find_damage(study: Study, progress: Progress | None = None) -> tuple[StudyProblem, ...]:
    """Read every image and every mask of a study, and report what is missing or damaged."""
    found: list[StudyProblem] = []
    states = list(study.state.images.values())
    for done, state in enumerate(states, start=1):
        found.extend(_find_damage_of(study, state))
        if progress is not None:
            progress(done, len(states))
    return tuple(found)


def _find_damage_of(study: Study, state: ImageState) -> Iterator[StudyProblem]:
    try:
        study.image_path(state.image_id)
    except StudyError as error:
        yield StudyProblem(state.added.path, 0, str(error))
    masks = {e.revision: e for e in study.history(state.image_id) if isinstance(e, MaskEvent)}
    for event in masks.values():
        try:
            if event.marks is None:
                study.read_revision(event)
            elif record_of_marks(event.as_marks())["sha256"] != event.sha256:
                yield StudyProblem(EVENTS, 0, f"landmarks of {state.name} are not those that were saved")
        except StudyError as error:
            yield StudyProblem(f"{MASKS}/{event.image_id}/{event.revision}.png", 0, str(error))
        if event.carried is not None and event.carried.image_id not in study.state.images:
            reason = f"an outline of {state.name} was made from that of an image that nobody added"
            yield StudyProblem(EVENTS, 0, reason)


def _highest_label(study: Study) -> int:
    """Return the highest label in any mask that was ever saved."""
    events = (event for image_id in study.state.images for event in study.history(image_id))
    masks = (event for event in events if isinstance(event, MaskEvent))
    return max((int(study.read_revision(event).max(initial=0)) for event in masks), default=0)


def check_annotator(annotator: str) -> str:
    """Return an annotator's name as it is, or raise `StudyError`."""
    try:
        return _ANNOTATOR.validate_python(annotator)
    except ValidationError as error:
        raise StudyError(
            f"{annotator!r} cannot be an annotator's name; use 1 to 40 letters, digits, - or _."
        ) from error


def check_marks(content: Content) -> tuple[Mark, ...]:
    """Return marks in the types that are saved, or raise `StudyError` if they are a mask."""
    found: list[Mark] = []
    for mark in () if isinstance(content, np.ndarray) else cast("Sequence[Any]", content):
        if not isinstance(mark, Mark):
            break
        place = float(mark.row), float(mark.col)
        found.append(Mark(mark.label, *place, int(mark.visibility), float(mark.score), mark.id))
    if len(found) < len(cast("Sequence[Any]", content)):
        raise StudyError("This study has landmarks; an outline cannot be saved in it.")
    return tuple(found)


def record_of_marks(marks: Sequence[Mark]) -> dict[str, Any]:
    """Return the fields of an event that hold marks; the same marks have the same revision."""
    sha256 = hashlib.sha256(json.dumps(marks).encode()).hexdigest()
    return {"marks": tuple(marks), "sha256": sha256, "revision": sha256[:REVISION_DIGITS]}


def check_labels(labels: Content, state: ImageState, classes: int) -> LabelImage:
    """Return the labels of a mask (H, W) as uint8, or raise `StudyError` if it does not fit the image."""
    values = np.asarray(labels)
    if values.shape != state.shape:
        raise StudyError(
            f"The outline has the shape {values.shape}, the image {state.name} {state.shape}; it "
            "belongs to another image."
        )
    if values.dtype.kind not in "biu" or values.min() < 0 or values.max() > classes:
        raise StudyError(f"An outline of this study holds labels from 0 to {classes}.")
    return np.ascontiguousarray(values, np.uint8)


def _check_free(folder: Path, annotator: str) -> None:
    """Raise `StudyError` if a folder is in use; a study without images may be recreated."""
    if is_study(folder):
        with Study.open(folder, annotator) as study:
            if study.state.images or study.state.unknown:
                raise StudyError(f"{folder} holds a study already; open it instead.")
    elif not is_free(folder):
        raise StudyError(f"{folder} is not empty; choose a new or an empty folder for the study.")
