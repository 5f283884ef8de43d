"""A study as the records that exporters take."""

from __future__ import annotations

import functools

import numpy as np

from napari_lesionseg.datasets.records import Provenance, Record
from napari_lesionseg.study.state import ImageState, Status
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import LabelImage


def study_records(study: Study) -> list[Record]:
    """List all images of a study with what was signed, or at least drawn, of each.

    Parameters
    ----------
    study : Study
        The study, which must stay open while the records are loaded.

    Returns
    -------
    list of Record
        In the natural order of the names; no pixel is read yet. Images that nobody outlined have no mask.
    """
    return [_record(study, state) for state in study.state.images.values()]


def _record(study: Study, state: ImageState) -> Record:
    added = state.added
    return Record(
        name=state.name,
        image=functools.partial(study.read_image, state.image_id),
        mask=_mask_source(study, state),
        classes=("background", *(entry.name for entry in study.info.classes)),
        patient=added.patient,
        lesion=added.lesion,
        diagnosis=added.stratify_by,
        provenance=_provenance(study, state),
    )


def _mask_source(study: Study, state: ImageState) -> functools.partial[LabelImage] | None:
    if state.outline is None and state.status is not Status.NO_LESION:
        return None
    return functools.partial(signed_outline, study, state)


def signed_outline(study: Study, state: ImageState) -> LabelImage:
    """Read what counts: the signed outline as it was signed, else the latest one.

    Parameters
    ----------
    study : Study
        The study.
    state : ImageState
        The image's state.

    Returns
    -------
    ndarray
        (H, W) uint8; nothing but background where there is no lesion.

    Raises
    ------
    StudyError
        When the file is missing, damaged, or does not fit the image.
    """
    if state.status is Status.NO_LESION or state.outline is None:
        return np.zeros(state.shape, np.uint8)
    signed = state.approved if state.status is Status.APPROVED else None
    return study.read_revision(signed or state.outline)


def _provenance(study: Study, state: ImageState) -> Provenance:
    """Say who drew the outline, with which model, and how much of it by hand."""
    return Provenance(
        annotator=state.annotator or "",
        model="" if state.predicted is None else state.predicted.model or "",
        corrected=_corrected_share(study, state),
        status=state.status.value,
        time=state.when.isoformat(),
    )


def _corrected_share(study: Study, state: ImageState) -> float | None:
    """Share of the pixels that differ from the model's own outline; None without one."""
    if state.predicted is None or not state.status.done:
        return None
    before, after = study.read_revision(state.predicted), signed_outline(study, state)
    return float(np.mean(before != after))
