"""A data set as a study: its outlines come along, for a reader to correct and to sign."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from napari_lesionseg.data.records import Dataset, Record
from napari_lesionseg.errors import DatasetError
from napari_lesionseg.study.fold import Status
from napari_lesionseg.study.importing import Progress
from napari_lesionseg.study.schema import LESION, StudyClass
from napari_lesionseg.study.study import Study

_COLOURS = (
    "#56b4e9",
    "#f0e442",
    "#009e73",
    "#cc79a7",
    "#0072b2",
    "#d55e00",
)  # Okabe and Ito's, but the lesion's


def take_outlines(study: Study, records: Sequence[Record], progress: Progress | None = None) -> int:
    """Save the outlines of a data set in a study that has its pictures.

    They count as predicted: nobody has signed them in this study. A picture that has any outline or verdict
    already is left alone, and so is one whose outline cannot be read or has a class that the study lacks.

    Parameters
    ----------
    study : Study
        With the pictures of the records, found by their names.
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
    pictures = {
        state.name: picture
        for picture, state in study.state.pictures.items()
        if state.status is Status.NOT_LOOKED_AT
    }
    known = ("background", *(entry.name for entry in study.info.classes))
    taken = 0
    for done, record in enumerate(records, start=1):
        if record.mask is not None and record.name in pictures and _fits(record, known):
            taken += _take(study, pictures[record.name], record)
        if progress is not None:
            progress(done, len(records))
    return taken


def _fits(record: Record, known: tuple[str, ...]) -> bool:
    """Tell whether the study's classes begin as the record's do."""
    return record.classes == known[: len(record.classes)]


def _take(study: Study, picture: str, record: Record) -> int:
    try:
        labels = record.load().labels
    except DatasetError:
        return 0
    study.record_prediction(picture, labels)
    return 1


def study_of_dataset(
    folder: str | Path, reader: str, dataset: Dataset, progress: Progress | None = None
) -> int:
    """Make a study of a data set: its pictures where they are, its classes, patients and outlines.

    Parameters
    ----------
    folder : str or Path
        A new or empty folder.
    reader : str
        Who works in it.
    dataset : Dataset
        Pictures that are files are taken in.
    progress : callable, optional
        Told about each picture, twice: as it is taken in, and as its outline is.

    Returns
    -------
    int
        Number of outlines that were taken.

    Raises
    ------
    StudyError, PairingError
        As `Study.create` and `take_outlines`.
    """
    files = [record.picture for record in dataset.records if isinstance(record.picture, Path)]
    study = Study.create(
        folder,
        reader,
        pictures=files,
        classes=_study_classes(dataset.records[0].classes),
        groups=[record.split_item() for record in dataset.records],
        progress=progress,
    )
    with study:
        return take_outlines(study, dataset.records, progress)


def _study_classes(names: Sequence[str]) -> list[StudyClass]:
    """Give a data set's classes colours; a lesion keeps its own."""
    others = cycle(_COLOURS)
    return [
        LESION if name == LESION.name else StudyClass(name=name, colour=next(others)) for name in names[1:]
    ]
