"""Follow-up of a lesion: its images in order of date, measured, and the last outline as the next one's first.

Measurements describe outlines; they are no diagnosis. Sizes are in millimeters where the field
``mm_per_pixel`` is filled in, else in pixels, which say nothing about growth if the camera was moved.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.color import rgb2lab

from napari_lesionseg.errors import LesionSegError, StudyError
from napari_lesionseg.io.decoding import date_taken
from napari_lesionseg.io.tables import write_table
from napari_lesionseg.masks.measurements import Scale, measure_instances
from napari_lesionseg.masks.registration import move_mask, register
from napari_lesionseg.study.events import CarriedMask, FieldValue, MaskOrigin
from napari_lesionseg.study.fields import StudyFields, group_of
from napari_lesionseg.study.state import ImageState, Status
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import ByteImage, LabelImage

DATE_FIELD, SCALE_FIELD = "taken_on", "mm_per_pixel"
_RING = 0.15  # width of the skin around a lesion that it is compared with, as a share of its diameter


@dataclass(frozen=True, slots=True)
class Visit:
    """One image of a lesion that is followed."""

    state: ImageState
    day: date | None  # on which it was taken
    scale: Scale | None


@dataclass(frozen=True, slots=True)
class VisitMeasurement:
    """What was measured at one visit; of images without an approved outline, nothing.

    Changes are those since the last visit that was measured in the same unit, as a share: 0.1 is 10 % more.
    """

    patient: str
    lesion: str
    image: str
    taken_on: str
    status: str
    unit: str = ""  # "px" or "mm"; areas are in its square
    area: float | None = None
    area_change: float | None = None
    longest_diameter: float | None = None
    diameter_change: float | None = None
    shortest_diameter: float | None = None
    asymmetry: float | None = None  # 0 to 1
    colors: int | None = None  # of the six of the ABCD rule
    contrast: float | None = None  # mean color, lesion against the skin around it (CIE76)


def followed_lesions(study: Study, fields: StudyFields) -> list[tuple[Visit, ...]]:
    """Return the visits of each lesion that is known by name and has several images."""
    groups: dict[str, list[ImageState]] = defaultdict(list)
    if study.info.landmarks is not None:
        return []  # there are no outlines to measure
    for state in study.state.images.values():
        if state.lesion:
            groups[group_of(state, "lesion")].append(state)
    return [visits_of(study, fields, states) for states in groups.values() if len(states) > 1]


def visits_with(study: Study, fields: StudyFields, image_id: str) -> tuple[Visit, ...]:
    """Return the visits of the lesion that an image shows, that image included."""
    state = study.state.images[image_id]
    key = group_of(state, "lesion")
    together = [other for other in study.state.images.values() if group_of(other, "lesion") == key]
    return visits_of(study, fields, together)


def visits_of(study: Study, fields: StudyFields, states: Iterable[ImageState]) -> tuple[Visit, ...]:
    """Return images in order of date; those without one come last, in the order of their names."""
    visits = []
    for state in states:
        values = fields.values(state.image_id)
        visits.append(Visit(state, _day_of(study, state, values), scale_in(values)))
    return tuple(sorted(visits, key=lambda visit: visit.day or date.max))


def _day_of(study: Study, state: ImageState, values: Mapping[str, FieldValue]) -> date | None:
    """Return the date that was filled in, else the one in the file of the image."""
    text = values.get(DATE_FIELD)
    try:
        if text is None:
            text = date_taken(study.image_path(state.image_id))
        return date.fromisoformat(str(text))
    except (StudyError, ValueError):
        return None


def scale_in(values: Mapping[str, FieldValue]) -> Scale | None:
    """Return the scale that was filled in for an image."""
    value = values.get(SCALE_FIELD)
    # A value that does not fit its field is kept, and may be text.
    return Scale(value) if isinstance(value, float) and math.isfinite(value) and value > 0 else None


def measure_visits(study: Study, visits: Sequence[Visit]) -> list[VisitMeasurement]:
    """Measure the approved outlines of a lesion's visits, in their order."""
    rows: list[VisitMeasurement] = []
    last: dict[str, VisitMeasurement] = {}  # by unit
    for visit in visits:
        row = _measure(study, visit, last)
        rows.append(row)
        if row.area:
            last[row.unit] = row
    return rows


def _measure(study: Study, visit: Visit, last: Mapping[str, VisitMeasurement]) -> VisitMeasurement:
    state = visit.state
    day = visit.day.isoformat() if visit.day else ""
    bare = VisitMeasurement(state.patient or "", state.lesion or "", state.name, day, state.status.words)
    mask = study.read_mask(state.image_id, "approved") if state.status is Status.APPROVED else None
    if mask is None or not mask.any():
        return bare
    image = study.read_image(state.image_id)
    lesion = mask > 0
    (found,) = measure_instances(lesion.astype(np.int32), image, visit.scale)
    before = last.get(found.unit)
    side = visit.scale.millimeters if visit.scale else 1.0
    return VisitMeasurement(
        bare.patient,
        bare.lesion,
        bare.image,
        bare.taken_on,
        bare.status,
        unit=found.unit,
        area=found.area,
        area_change=_change(found.area, before.area if before else None),
        longest_diameter=found.longest_diameter,
        diameter_change=_change(found.longest_diameter, before.longest_diameter if before else None),
        shortest_diameter=found.shortest_diameter,
        asymmetry=found.asymmetry,
        colors=found.colors,
        contrast=_contrast(image, lesion, found.longest_diameter / side),
    )


def _change(now: float, before: float | None) -> float | None:
    return None if not before else now / before - 1


def _contrast(image: ByteImage, lesion: NDArray[np.bool_], diameter: float) -> float | None:
    """Return how far the mean color of a lesion is from that of the skin around it, in CIELAB.

    The skin is in the same image, so that light and camera matter less than for colors by themselves.
    """
    distance = ndimage.distance_transform_edt(~lesion)
    skin = (distance > 2) & (distance <= max(4.0, _RING * diameter))
    if not skin.any():
        return None
    means = [rgb2lab(image[part][None]).reshape(-1, 3).mean(axis=0) for part in (lesion, skin)]
    return float(np.linalg.norm(means[0] - means[1]))


def write_followup(path: Path, rows: Iterable[VisitMeasurement]) -> None:
    """Write visits as CSV, one a line; a `StudyError` if that cannot be done."""
    cells = [{name: _cell(value) for name, value in asdict(row).items()} for row in rows]
    try:
        write_table(path, cells, VisitMeasurement.__dataclass_fields__)
    except OSError as error:
        raise StudyError(f"{path} cannot be written: {error.strerror}.") from error


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = "" if value is None else str(value)
    # A spreadsheet would read such a name as a formula.
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


@dataclass(frozen=True, slots=True, eq=False)
class CarriedOutline:
    """The outline of the last visit as it is seen in a later image."""

    mask: LabelImage  # (H, W)
    origin: MaskOrigin
    day: date | None  # of the last visit


def carry_outline(study: Study, fields: StudyFields, image_id: str) -> CarriedOutline | None:
    """Return the approved outline of the last visit, moved to an image; None where there is none to be had.

    Only an image that nobody worked on gets one, once for each approval. None too if the images have too
    little in common, or cannot be read: then the model's own outline is as good a start.
    """
    state = study.state.images[image_id]
    last = _last_approved(visits_with(study, fields, image_id), image_id) if state.lesion else None
    if last is None or last.state.approved is None or not _is_untouched(state, last.state):
        return None
    approved = last.state.approved
    try:
        matrix = register(study.read_image(last.state.image_id), study.read_image(image_id))
        mask = move_mask(study.read_revision(approved), matrix, state.shape)
    except LesionSegError:
        return None
    if not mask.any():
        return None
    a, b, c, d, e, f = (float(value) for value in matrix[:2].ravel())
    source = CarriedMask(image_id=approved.image_id, revision=approved.revision, matrix=(a, b, c, d, e, f))
    return CarriedOutline(mask, MaskOrigin(carried=source), last.day)


def _last_approved(visits: Sequence[Visit], image_id: str) -> Visit | None:
    """Return the last visit with an approved outline before that of an image."""
    places = [place for place, visit in enumerate(visits) if visit.state.image_id == image_id]
    earlier = [visit for visit in visits[: places[0]] if visit.state.status is Status.APPROVED]
    return earlier[-1] if earlier else None


def _is_untouched(state: ImageState, last: ImageState) -> bool:
    """Whether nobody worked on an image, and its prediction is older than the approval of the last visit."""
    if state.status is not Status.PREDICTED or state.predicted is None or last.approved is None:
        return state.status is Status.UNREVIEWED
    return state.predicted.order < last.approved.order
