"""The records of a study: ``study.json``, and the entries of its journals.

Everything read from disk passes through these models, so nothing hostile, foreign or of a newer version gets
past them: unknown names, NaN, paths that lead out of the study and numbers out of range are refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath, PureWindowsPath
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

from napari_lesionseg.io.images import MAX_CLASS_INDEX
from napari_lesionseg.types import Click

SCHEMA_VERSION: Literal[1] = 1
"""Version of ``study.json`` and of the journal's entries that this package writes and reads."""

STUDY_FORMAT: Literal["napari-lesionseg study"] = "napari-lesionseg study"
MAX_CLICKS = 10_000
MAX_NOTE = 4_000
MAX_VIEW = 16_000


def _check_relative(path: str) -> str:
    """Refuse a path that could lead out of its folder on any operating system."""
    parts = path.split("/")
    windows = PureWindowsPath(path)
    if PurePosixPath(path).is_absolute() or windows.drive or windows.root or "\\" in path:
        raise ValueError("the path is not relative")
    if "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise ValueError("the path does not stay inside its folder")
    return path


def _check_time(time: datetime) -> datetime:
    """Refuse times that leave no room for what comes after them."""
    if not 2000 <= time.year < 2200:
        raise ValueError("the time is far in the past or in the future; set the computer's clock")
    return time


def _check_view(view: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Refuse NaN and infinity, which pydantic lets through inside `JsonValue`, and endless views."""
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
Side: TypeAlias = Annotated[int, Field(ge=1, le=10_000_000)]


class Record(BaseModel):
    """Base of everything a study writes: frozen, strict, and without unknown names or NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class StudyClass(Record):
    """One class of the outlines; the first of a study has label 1, the next label 2, and so on.

    Parameters
    ----------
    name : str
        What a doctor calls it.
    color : str
        Color of its outline, as ``#rrggbb``.
    """

    name: Label
    color: Annotated[str, StringConstraints(pattern=r"^#[0-9a-f]{6}$")]


LESION = StudyClass(name="lesion", color="#e69f00")
"""The class of a study that does not say otherwise; orange of the Okabe-Ito palette."""


class StudyInfo(Record):
    """Content of ``study.json``.

    Parameters
    ----------
    format, version
        What the file is; others are refused.
    study : str
        Identity of the study, 32 hexadecimal digits.
    created : datetime
        UTC.
    classes : tuple of StudyClass
        Foreground classes; the background is label 0.
    images_folder : str, optional
        Folder of the images that were not copied, relative to the study (here ``..`` is allowed: an image
        counts only when its SHA-256 is the one in the journal). None: all are in ``images/``.
    blinded : bool
        Whether annotators must not see each other's work.
    pseudonymized : bool
        Whether new images get pseudonyms instead of their names.
    """

    format: Literal["napari-lesionseg study"] = STUDY_FORMAT
    version: Literal[1] = SCHEMA_VERSION
    study: Uuid
    created: Time
    classes: Annotated[tuple[StudyClass, ...], Field(min_length=1, max_length=MAX_CLASS_INDEX)] = (LESION,)
    images_folder: Annotated[str, StringConstraints(min_length=1, max_length=4096)] | None = None
    blinded: bool = False
    pseudonymized: bool = False


class Event(Record):
    """What every journal entry says.

    Parameters
    ----------
    v : int
        Version of the schema.
    writer : str
        One run of the program, 32 hexadecimal digits, the same as in the name of the journal.
    seq : int
        Number of the entry in its journal; none comes twice.
    annotator : str
        Who did it.
    time : datetime
        When, UTC.
    """

    v: Literal[1] = SCHEMA_VERSION
    writer: Uuid
    seq: Annotated[int, Field(ge=0, lt=2**53)]
    annotator: AnnotatorName
    time: Time

    @property
    def order(self) -> tuple[datetime, str, int]:
        """Place of the entry among those of all journals: by time, then writer, then number."""
        return self.time, self.writer, self.seq


class ImageEvent(Event):
    """An entry about one image.

    Parameters
    ----------
    image_id : str
        SHA-256 of the image's file, which is what an image goes by in a study.
    """

    image_id: Sha256


class Added(ImageEvent):
    """An image came into the study.

    Parameters
    ----------
    name : str
        What the image is called.
    path : str
        Where it was, relative to the folder of the images, with forward slashes.
    own : bool
        True: `path` is inside the study's own ``images`` folder.
    size : int
        Bytes of the file.
    shape : tuple of int
        Rows and columns of the image, upright.
    patient, lesion, stratum : str, optional
        What belongs together and what is spread evenly when the study is split.
    """

    event: Literal["added"] = "added"
    name: Label
    path: RelativePath
    own: bool
    size: Annotated[int, Field(ge=1)]
    shape: tuple[Side, Side]
    patient: Label | None = None
    lesion: Label | None = None
    stratify_by: Label | None = None


class MaskEvent(ImageEvent):
    """A revision of an image's mask, and what it came from.

    Parameters
    ----------
    revision : str
        Name of the file, ``masks/<image>/<revision>.png``; the same pixels have the same name.
    sha256 : str
        Of the mask's file.
    model : str, optional
        SHA-256 of the model that took part.
    threshold : float, optional
        Probability above which a pixel was taken as lesion.
    clicks : tuple of (row, col, positive)
        Clicks that took part, in pixels of the image.
    quality : float, optional
        Estimate of how good the outline is, 0 to 1.
    label : int
        Class that was being drawn.
    """

    revision: Revision
    sha256: Sha256
    model: Sha256 | None = None
    threshold: Fraction | None = None
    clicks: Annotated[tuple[tuple[Coordinate, Coordinate, bool], ...], Field(max_length=MAX_CLICKS)] = ()
    quality: Fraction | None = None
    label: Annotated[int, Field(ge=1, le=MAX_CLASS_INDEX)] = 1

    def as_clicks(self) -> tuple[Click, ...]:
        """Return the clicks as the rest of the package knows them."""
        return tuple(Click(*click) for click in self.clicks)


class Predicted(MaskEvent):
    """The model outlined the image on its own."""

    event: Literal["predicted"] = "predicted"


class Corrected(MaskEvent):
    """The annotator changed the outline: by hand, by clicks, by the threshold."""

    event: Literal["corrected"] = "corrected"


class Approved(MaskEvent):
    """The annotator signs the outline."""

    event: Literal["approved"] = "approved"


class NoLesion(ImageEvent):
    """The annotator signs that there is no lesion."""

    event: Literal["no lesion"] = "no lesion"


class Flagged(ImageEvent):
    """The annotator sets the image aside.

    Parameters
    ----------
    note : str
        Why.
    """

    event: Literal["flagged"] = "flagged"
    note: Annotated[str, StringConstraints(max_length=MAX_NOTE)] = ""


class Reopened(ImageEvent):
    """The annotator takes the last verdict back."""

    event: Literal["reopened"] = "reopened"


class Session(Event):
    """Where the annotator is, to come back there.

    Parameters
    ----------
    image_id : str, optional
        The image on the screen.
    view : dict
        Whatever the viewer needs to look the same again: names, numbers, texts, lists; 16 000 characters.
    """

    event: Literal["session"] = "session"
    image_id: Sha256 | None = None
    view: Annotated[dict[str, JsonValue], AfterValidator(_check_view)] = Field(default_factory=dict)


AnyEvent: TypeAlias = Added | Predicted | Corrected | Approved | NoLesion | Flagged | Reopened | Session
EVENT: TypeAdapter[AnyEvent] = TypeAdapter(Annotated[AnyEvent, Field(discriminator="event")])
"""Reads one line of a journal."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """What an outline came from.

    Parameters
    ----------
    model : str, optional
        SHA-256 of the model's file.
    threshold : float, optional
        Probability above which a pixel was taken as lesion.
    clicks : sequence of Click
        Clicks that took part.
    quality : float, optional
        Estimate of how good the outline is, 0 to 1.
    label : int
        Class that was being drawn.
    """

    model: str | None = None
    threshold: float | None = None
    clicks: Sequence[Click] = ()
    quality: float | None = None
    label: int = 1

    @classmethod
    def of(cls, entry: MaskEvent | None) -> Self:
        """Give what the outline of an entry came from."""
        if entry is None:
            return cls()
        return cls(entry.model, entry.threshold, entry.as_clicks(), entry.quality, entry.label)

    def fields(self) -> dict[str, Any]:
        """Give what an entry says of it."""
        return {
            "model": self.model,
            "threshold": self.threshold,
            "clicks": tuple((click.row, click.col, click.positive) for click in self.clicks),
            "quality": self.quality,
            "label": self.label,
        }


NO_PROVENANCE = Provenance()
