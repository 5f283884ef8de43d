"""The file formats of a study: ``study.json``, and the events of its log.

Everything read from disk passes through these models, so nothing hostile, foreign or of a newer version gets
past them: unknown names, NaN, paths that lead out of the study and numbers out of range are refused.
Documented in ``docs/reference/study.md``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    TypeAdapter,
)

from napari_lesionseg.config import Skeleton
from napari_lesionseg.types import MAX_CLASS_INDEX, Box, Click, Mark, Prompts, Scribble, Stroke, points_of

SCHEMA_VERSION: Literal[1] = 1
"""Version of ``study.json`` and of the events that this package writes and reads."""

STUDY_FORMAT: Literal["napari-lesionseg study"] = "napari-lesionseg study"
MAX_STROKES = MAX_POINTS = 10_000
MAX_AREAS = 1_000
MAX_MARKS = 5_000
MAX_NOTE = 4_000
MAX_VIEW = 16_000
_DRIVE = re.compile("[A-Za-z]:")  # of Windows


def _check_relative(path: str) -> str:
    """Raise if a path could lead out of its folder on any operating system."""
    # Without pathlib, which would take a third of the time that opening a study of 10 000 images does.
    if path.startswith("/") or "\\" in path or _DRIVE.match(path):
        raise ValueError("the path is not relative")
    if "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError("the path does not stay inside its folder")
    return path


def _check_time(time: datetime) -> datetime:
    """Raise for times that leave no room for later events."""
    if not 2000 <= time.year < 2200:
        raise ValueError("the time is far in the past or in the future; set the computer's clock")
    return time


def _check_view(view: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Raise for views that are too long, and for NaN and infinity, which `JsonValue` accepts."""
    if len(json.dumps(view, allow_nan=False)) > MAX_VIEW:
        raise ValueError("the view is too long")
    return view


Sha256: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Uuid: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Revision: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
AnnotatorName: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$")]
Time: TypeAlias = Annotated[AwareDatetime, AfterValidator(_check_time)]
Label: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=255)]
RelativePath: TypeAlias = Annotated[
    str, StringConstraints(min_length=1, max_length=1024), AfterValidator(_check_relative)
]
Fraction: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Coordinate: TypeAlias = Annotated[float, Field(ge=-1e6, le=1e6)]
MarkName: TypeAlias = Annotated[str, StringConstraints(max_length=100)]
MarkRecord: TypeAlias = tuple[MarkName, Coordinate, Coordinate, Literal[1, 2], Fraction, MarkName]
"""Label, row, column, visibility, score and person of a `Mark`."""
Side: TypeAlias = Annotated[int, Field(ge=1, le=10_000_000)]
Pixel: TypeAlias = Annotated[int, Field(ge=-1_000_000, le=10_000_000)]
Note: TypeAlias = Annotated[str, StringConstraints(max_length=MAX_NOTE)]
FieldName: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
FieldValue: TypeAlias = bool | float | Note | None
"""Value of a field: yes or no, a number, or text, which choices and dates are too; None: it was cleared."""


class StrictModel(BaseModel):
    """Base of everything a study writes: frozen, strict, and without unknown names or NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class StudyClass(StrictModel):
    """One class; the first of a study has label 1, the next label 2, and so on."""

    name: Label
    color: Annotated[str, StringConstraints(pattern=r"^#[0-9a-f]{6}$")]


LESION = StudyClass(name="lesion", color="#e69f00")
"""The class of a study that does not say otherwise; orange of the Okabe-Ito palette."""


class StudyInfo(StrictModel):
    """Content of ``study.json``; classes are those of the foreground, the background has label 0."""

    format: Literal["napari-lesionseg study"] = STUDY_FORMAT
    version: Literal[1] = SCHEMA_VERSION
    study: Uuid
    created: Time
    classes: Annotated[tuple[StudyClass, ...], Field(min_length=1, max_length=MAX_CLASS_INDEX)] = (LESION,)
    # What is marked in a study of landmarks, which has no outlines; None: outlines.
    landmarks: Skeleton | None = None
    # Relative to the study, and may lead out of it with "..": an image counts only when its SHA-256 is known.
    # None: all images are in the study's own folder.
    images_folder: Annotated[str, StringConstraints(min_length=1, max_length=4096)] | None = None
    blinded: bool = False
    pseudonymized: bool = False


class Event(StrictModel):
    """What every event says: who did it in which run of the program (`writer`), and when (UTC)."""

    v: Literal[1] = SCHEMA_VERSION
    writer: Uuid
    seq: Annotated[int, Field(ge=0, lt=2**53)]  # its number in the writer's file; none comes twice
    annotator: AnnotatorName
    time: Time

    @property
    def order(self) -> tuple[datetime, str, int]:
        """Key that sorts the events of all writers: by time, then writer, then number."""
        return self.time, self.writer, self.seq


class ImageEvent(Event):
    """An event of one image, known by the SHA-256 of its file."""

    image_id: Sha256


class Added(ImageEvent):
    """An image was added."""

    event: Literal["added"] = "added"
    name: Label
    path: RelativePath  # in the study's own folder of images (own), or in images_folder
    own: bool
    size: Annotated[int, Field(ge=1)]  # bytes of the file
    shape: tuple[Side, Side]  # rows and columns of the image, upright
    patient: Label | None = None
    lesion: Label | None = None
    stratify_by: Label | None = None


class Identified(ImageEvent):
    """Which patient and lesion an image shows, set by hand; replaces what was known when it was added."""

    event: Literal["identified"] = "identified"
    patient: Label | None = None
    lesion: Label | None = None


class Described(ImageEvent):
    """The annotator filled in fields, such as the diagnosis; fields that are not named stay."""

    event: Literal["described"] = "described"
    values: Annotated[dict[FieldName, FieldValue], Field(min_length=1, max_length=200)]


class CarriedMask(StrictModel):
    """The mask of an earlier image of the lesion that another mask was made of, and how it was moved."""

    image_id: Sha256
    revision: Revision
    matrix: tuple[Coordinate, Coordinate, Coordinate, Coordinate, Coordinate, Coordinate]
    """Rows one and two of the matrix that takes (x, y, 1) in the earlier image to x and y in this one."""


class Area(StrictModel):
    """A box (top, left, bottom, right) or a lasso (rows and columns) that an outline keeps to."""

    model_config = ConfigDict(revalidate_instances="always")  # `of` leaves the checks to the event

    box: tuple[Pixel, Pixel, Pixel, Pixel] | None = None
    lasso: Annotated[tuple[tuple[Coordinate, Coordinate], ...], Field(max_length=MAX_POINTS)] = ()

    @classmethod
    def of(cls, prompts: Prompts) -> Area:
        """Return the area of prompts."""
        box = prompts.box
        sides = None if box is None else (box.top, box.left, box.bottom, box.right)
        return cls.model_construct(box=sides, lasso=tuple(prompts.lasso))

    def as_prompts(self) -> Prompts:
        """Return the area as the rest of the package knows it."""
        return Prompts(box=None if self.box is None else Box(*self.box), lasso=self.lasso)


class DrawnStroke(StrictModel):
    """A click, which is a single point (row, column), or a scribble."""

    model_config = ConfigDict(revalidate_instances="always")  # `of` leaves the checks to the event

    points: Annotated[tuple[tuple[Coordinate, Coordinate], ...], Field(min_length=1, max_length=MAX_POINTS)]
    positive: bool

    @classmethod
    def of(cls, stroke: Stroke) -> DrawnStroke:
        """Return what is written of a stroke."""
        points = tuple((row, col) for row, col in points_of(stroke))
        return cls.model_construct(points=points, positive=stroke.positive)

    def as_stroke(self) -> Stroke:
        """Return the stroke as the rest of the package knows it."""
        if len(self.points) == 1:
            return Click(*self.points[0], self.positive)
        return Scribble(self.points, self.positive)


class MaskEvent(ImageEvent):
    """A revision of an image's mask, or of its landmarks, and what it came from (see `MaskOrigin`)."""

    revision: Revision  # of masks/<image>/<revision>.png; the same pixels have the same name
    sha256: Sha256  # of that file, or of the marks
    # Landmarks are in the event itself: a few hundred bytes need no file of their own.
    marks: Annotated[tuple[MarkRecord, ...], Field(max_length=MAX_MARKS)] | None = None
    model: Sha256 | None = None
    threshold: Fraction | None = None
    strokes: Annotated[tuple[DrawnStroke, ...], Field(max_length=MAX_STROKES)] = ()  # oldest first
    areas: Annotated[tuple[Area, ...], Field(max_length=MAX_AREAS)] = ()
    quality: Fraction | None = None
    label: Annotated[int, Field(ge=1, le=MAX_CLASS_INDEX)] = 1
    carried: CarriedMask | None = None

    def as_strokes(self) -> tuple[Stroke, ...]:
        """Return the strokes as the rest of the package knows them."""
        return tuple(stroke.as_stroke() for stroke in self.strokes)

    def as_marks(self) -> tuple[Mark, ...]:
        """Return the landmarks as the rest of the package knows them."""
        return tuple(Mark(*mark) for mark in self.marks or ())


class Predicted(MaskEvent):
    """The model predicted the mask."""

    event: Literal["predicted"] = "predicted"


class Corrected(MaskEvent):
    """The annotator changed the mask: by hand, by clicks, by the threshold."""

    event: Literal["corrected"] = "corrected"
    review_of: AnnotatorName | None = None  # whose decision stands until the reviewer replaces it


class Approved(MaskEvent):
    """The annotator approved the mask."""

    event: Literal["approved"] = "approved"
    review_of: AnnotatorName | None = None  # whose decision a reviewer accepted or replaced by this


class NoLesion(ImageEvent):
    """The annotator decided that there is no lesion."""

    event: Literal["no lesion"] = "no lesion"
    review_of: AnnotatorName | None = None


class Returned(ImageEvent):
    """A reviewer returned the image to an annotator."""

    event: Literal["returned"] = "returned"
    to: AnnotatorName
    note: Note = ""


class GoldStandard(MaskEvent):
    """An expert's mask became a standard that annotators are measured by; it is hidden from them."""

    event: Literal["gold standard"] = "gold standard"


class GoldWithdrawn(ImageEvent):
    """The image is no longer a gold standard."""

    event: Literal["gold standard withdrawn"] = "gold standard withdrawn"


class Flagged(ImageEvent):
    """The annotator set the image aside."""

    event: Literal["flagged"] = "flagged"
    note: Note = ""


class Reopened(ImageEvent):
    """The annotator withdrew the last verdict or flag."""

    event: Literal["reopened"] = "reopened"


class Session(Event):
    """Where the annotator is, to return there."""

    event: Literal["session"] = "session"
    image_id: Sha256 | None = None
    view: Annotated[dict[str, JsonValue], AfterValidator(_check_view)] = Field(default_factory=dict)


AnyEvent: TypeAlias = (
    Added
    | Identified
    | Described
    | Predicted
    | Corrected
    | Approved
    | NoLesion
    | Returned
    | GoldStandard
    | GoldWithdrawn
    | Flagged
    | Reopened
    | Session
)
EVENT: TypeAdapter[AnyEvent] = TypeAdapter(Annotated[AnyEvent, Field(discriminator="event")])
"""Parses one line of the event log."""


@dataclass(frozen=True, slots=True)
class MaskOrigin:
    """What a mask came from."""

    model: str | None = None  # SHA-256 of the model's file
    threshold: float | None = None  # probability above which a pixel belongs to the lesion
    strokes: Sequence[Stroke] = ()
    quality: float | None = None  # estimated, 0 to 1
    label: int = 1  # class that was being drawn
    carried: CarriedMask | None = None  # the mask of the last visit, if it was made of that
    areas: Sequence[Prompts] = ()  # boxes and lassos

    @classmethod
    def of(cls, event: MaskEvent | None) -> Self:
        """Return what the mask of an event came from."""
        if event is None:
            return cls()
        areas = tuple(area.as_prompts() for area in event.areas)
        known = (event.model, event.threshold, event.as_strokes(), event.quality, event.label, event.carried)
        return cls(*known, areas)

    def fields(self) -> dict[str, Any]:
        """Return the fields of a `MaskEvent`."""
        return {
            "model": self.model,
            "threshold": self.threshold,
            "strokes": tuple(DrawnStroke.of(stroke) for stroke in self.strokes),
            "areas": tuple(Area.of(area) for area in self.areas),
            "quality": self.quality,
            "label": self.label,
            "carried": self.carried,
        }


NO_ORIGIN = MaskOrigin()
