"""A data set as a study: its outlines come along, for an annotator to correct and to sign."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np

from napari_lesionseg.datasets.records import Dataset, Provenance, Record
from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io.atomic import sha256_file
from napari_lesionseg.study.events import LESION, StudyClass
from napari_lesionseg.study.images import Progress
from napari_lesionseg.study.state import ImageState, Status
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import LabelImage

_COLORS = (
    "#56b4e9",
    "#f0e442",
    "#009e73",
    "#cc79a7",
    "#0072b2",
    "#d55e00",
)  # Okabe and Ito's, but the lesion's


IMPORTED = "imported"
"""The annotator in whose name outlines are saved that came with the images; it signs nothing."""


def import_masks(study: Study, records: Sequence[Record], progress: Progress | None = None) -> int:
    """Save the outlines of a data set in a study that has its images.

    They count as corrected by the annotator `IMPORTED`: they are shown as they are, no network takes their
    place, and nobody has signed them in this study. An image that has any outline or verdict already is left
    alone, and so is one whose outline is empty, cannot be read or has a class that the study lacks. A blinded
    study, in which annotators see their own work alone, takes none.

    Parameters
    ----------
    study : Study
        With the images of the records, found by their SHA-256, or by names that come once.
    records : sequence of Record
        The data set.
    progress : callable, optional
        Told about each record; may raise `CancelledError`.

    Returns
    -------
    int
        Number of outlines that were taken.

    Raises
    ------
    StudyError
        When they cannot be saved.
    """
    if study.info.blinded:
        return 0
    known = ("background", *(entry.name for entry in study.info.classes))
    names = Counter(state.name for state in study.state.images.values())
    by_name = {state.name: image for image, state in study.state.images.items() if names[state.name] == 1}
    taken = 0
    with Study.open(study.folder, IMPORTED) as importer:
        for done, record in enumerate(records, start=1):
            if record.mask is not None and record.classes == known[: len(record.classes)]:
                taken += _take(importer, by_name, record)
            if progress is not None:
                progress(done, len(records))
    study.refresh()
    return taken


def _take(study: Study, by_name: Mapping[str, str], record: Record) -> int:
    """Save the outline of one record, if nobody has looked at its image; tell how many that are."""
    try:
        sha256 = sha256_file(record.image) if isinstance(record.image, Path) else ""
        image = sha256 if sha256 in study.state.images else by_name.get(record.name, "")
        state = study.state.images.get(image)
        if state is None or state.status is not Status.UNREVIEWED:
            return 0
        labels = record.load().labels
    except (DatasetError, OSError):
        return 0
    if labels.shape != state.shape or not labels.any():
        return 0
    study.save_correction(image, labels)
    return 1


def study_from_dataset(
    folder: str | Path, annotator: str, dataset: Dataset, progress: Progress | None = None
) -> int:
    """Make a study of a data set: its images where they are, its classes, patients and outlines.

    Parameters
    ----------
    folder : str or Path
        A new or empty folder.
    annotator : str
        Who works in it.
    dataset : Dataset
        Images that are files are taken in.
    progress : callable, optional
        Told about each image, twice: as it is taken in, and as its outline is.

    Returns
    -------
    int
        Number of outlines that were taken.

    Raises
    ------
    StudyError, PairingError
        As `Study.create` and `import_masks`.
    """
    files = [record.image for record in dataset.records if isinstance(record.image, Path)]
    study = Study.create(
        folder,
        annotator,
        paths=files,
        classes=_study_classes(dataset.records[0].classes),
        groups=[record.split_item() for record in dataset.records],
        progress=progress,
    )
    with study:
        return import_masks(study, dataset.records, progress)


def _study_classes(names: Sequence[str]) -> list[StudyClass]:
    """Give a data set's classes colors; a lesion keeps its own."""
    others = cycle(_COLORS)
    return [
        LESION if name == LESION.name else StudyClass(name=name, color=next(others)) for name in names[1:]
    ]


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
    if state.current is None and state.status is not Status.NO_LESION:
        return None
    return functools.partial(final_mask, study, state)


def final_mask(study: Study, state: ImageState) -> LabelImage:
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
    if state.status is Status.NO_LESION or state.current is None:
        return np.zeros(state.shape, np.uint8)
    signed = state.approved if state.status is Status.APPROVED else None
    return study.read_revision(signed or state.current)


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
    before, after = study.read_revision(state.predicted), final_mask(study, state)
    return float(np.mean(before != after))
