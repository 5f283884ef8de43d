"""Datasets as studies, and studies as the records that exporters take."""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np

from napari_lesionseg.datasets.landmarks.records import marks_of
from napari_lesionseg.datasets.records import Dataset, Problem, Provenance, Record, mask_problems
from napari_lesionseg.errors import DatasetError, StudyError
from napari_lesionseg.io.atomic import sha256_file
from napari_lesionseg.io.folders import exists
from napari_lesionseg.study.events import LESION, StudyClass
from napari_lesionseg.study.fields import StudyFields
from napari_lesionseg.study.images import Progress
from napari_lesionseg.study.layout import CACHE, EVENTS, IMAGES, INFO_FILE, MASKS, UNFINISHED, is_free
from napari_lesionseg.study.state import ImageState, Status
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import LabelImage

IMPORTED = "imported"
"""The annotator in whose name masks are saved that came with the images; it never approves anything."""

_EMPTY = "The mask is empty, and the image is still to be outlined; press No lesion if that is right."
_IGNORED = "A study cannot mark pixels to be ignored; they become background."

# Okabe and Ito's palette, without the lesion's orange.
_COLORS = ("#56b4e9", "#f0e442", "#009e73", "#cc79a7", "#0072b2", "#d55e00")


def study_from_dataset(
    folder: str | Path, annotator: str, dataset: Dataset, progress: Progress | None = None
) -> tuple[int, list[Problem]]:
    """Make a study of a dataset's images, classes or landmarks, and patients.

    Returns how many are annotated, and what is not in the study as it is in the dataset. Progress is reported
    twice for each image: when it is added, and when its mask or landmarks are. What is interrupted leaves no
    study, which would lack outlines.
    """
    files = [record.image for record in dataset.records if isinstance(record.image, Path)]
    with removed_on_error(folder, annotator):
        study = Study.create(
            folder,
            annotator,
            paths=files,
            classes=_study_classes(dataset.records[0].classes),
            landmarks=dataset.records[0].skeleton,
            groups=[record.split_item() for record in dataset.records],
            progress=progress,
        )
        with study:
            return _import_annotations(study, dataset.records, progress)


@contextlib.contextmanager
def removed_on_error(folder: str | Path, annotator: str) -> Iterator[None]:
    """Remove the study that is made in a new or empty folder if an error occurs, since it lacks outlines.

    A study in which others have saved something meanwhile is kept. One whose making is killed is marked by a
    file, see `UNFINISHED`.
    """
    folder = Path(folder)
    was_there, marker = exists(folder), folder / UNFINISHED
    try:
        is_new = not was_there or is_free(folder)
    except OSError:
        is_new = False
    try:
        if is_new:
            with contextlib.suppress(OSError):  # whatever is wrong, making the study says it
                folder.mkdir(parents=True, exist_ok=True)
                marker.touch()
        yield
        if is_new:
            marker.unlink(missing_ok=True)
    except BaseException:
        if is_new and _writers(folder) <= {annotator, IMPORTED}:
            remove_study(folder)
            if not was_there:
                with contextlib.suppress(OSError):
                    folder.rmdir()
        raise


def _writers(folder: Path) -> set[str]:
    """Return the names of all who have saved events."""
    try:
        return {path.name.rpartition("-")[0] for path in (folder / EVENTS).glob("*.jsonl")}
    except OSError:
        return set()


def remove_study(folder: Path) -> None:
    """Remove the files of a study, first the one without which the others are no study."""
    for file in (INFO_FILE, UNFINISHED):
        with contextlib.suppress(OSError):
            (folder / file).unlink()
    for part in (EVENTS, MASKS, IMAGES, CACHE):
        shutil.rmtree(folder / part, ignore_errors=True)


def _study_classes(names: Sequence[str]) -> list[StudyClass]:
    others = cycle(_COLORS)
    return [
        LESION if name == LESION.name else StudyClass(name=name, color=next(others)) for name in names[1:]
    ]


def import_annotations(study: Study, records: Sequence[Record], progress: Progress | None = None) -> int:
    """Save masks or landmarks and facts of a dataset in a study of its images; return of how many images.

    Facts that the study has fields for are filled in. Masks count as corrected by the annotator `IMPORTED`:
    no prediction replaces them, and they are still to be approved. An image that has any mask or verdict is
    left alone, and so is one whose mask is empty. This is among the study's `problems`, as is a mask that
    cannot be read, has a class that the study lacks, or pixels to be ignored. A blinded study, in which
    annotators see only their own work, imports nothing. The same holds for landmarks, of which a study of
    outlines takes none, and the other way round.
    """
    saved, problems = _import_annotations(study, records, progress)
    study.add_problems(problems)
    return saved


def _import_annotations(
    study: Study, records: Sequence[Record], progress: Progress | None
) -> tuple[int, list[Problem]]:
    if study.info.blinded:
        return 0, []
    images = _match(study, records)
    _, misfits = StudyFields(study).import_records(images, IMPORTED)
    image_of = {record: image for image, record in images.items()}
    saved = 0
    problems = list(misfits)
    with Study.open(study.folder, IMPORTED) as importer:
        import_one = _import_mask if study.info.landmarks is None else _import_people
        for done, record in enumerate(records, start=1):
            saved += import_one(importer, image_of.get(record, ""), record, problems)
            if progress is not None:
                progress(done, len(records))
    study.refresh()
    return saved, _in_short(problems)


def _in_short(problems: Sequence[Problem]) -> list[Problem]:
    """Say once what holds for many images of a usual dataset."""
    short = [problem for problem in problems if problem.reason not in (_EMPTY, _IGNORED)]
    for reason in (_EMPTY, _IGNORED):
        if names := [problem.name for problem in problems if problem.reason == reason]:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            short.append(Problem(f"{names[0]}{more}", reason, left_out=False))
    return short


def _match(study: Study, records: Sequence[Record]) -> dict[str, Record]:
    """Find the image of each record: by its hash, since it may have a pseudonym, else by its name."""
    names = Counter(state.name for state in study.state.images.values())
    by_name = {state.name: image for image, state in study.state.images.items() if names[state.name] == 1}
    found: dict[str, Record] = {}
    for record in records:
        try:
            sha256 = sha256_file(record.image) if isinstance(record.image, Path) else ""
        except OSError:
            continue  # reported when the image was to be added
        image = sha256 if sha256 in study.state.images else by_name.get(record.name)
        if image is not None:
            found.setdefault(image, record)
    return found


def _import_mask(study: Study, image: str, record: Record, problems: list[Problem]) -> bool:
    """Save the mask of one record, unless its image has one."""
    state = study.state.images.get(image)
    known = ("background", *(entry.name for entry in study.info.classes))
    if record.mask is not None and record.classes != known[: len(record.classes)]:
        lacking = ", ".join(name for name in record.classes if name not in known) or "other classes"
        problems.append(Problem(record.name, f"The mask has {lacking}, which the study does not."))
        return False
    if record.mask is None or state is None or state.status is not Status.UNREVIEWED:
        return False
    try:
        pixels = record.load()
    except DatasetError as error:
        problems.append(Problem(record.name, str(error)))
        return False
    if pixels.labels.shape != state.shape:
        problems.append(Problem(record.name, "The mask has another size than the image."))
        return False
    if pixels.is_empty:
        problems.append(Problem(record.name, _EMPTY, left_out=False))
        return False
    if doubt := pixels.doubt:
        problems.append(Problem(record.name, doubt, left_out=False))
    problems += mask_problems(record)
    if pixels.has_ignored:
        problems.append(Problem(record.name, _IGNORED, left_out=False))
    study.save_correction(image, pixels.without_ignored().labels)
    return True


def _import_people(study: Study, image: str, record: Record, problems: list[Problem]) -> bool:
    """Save the landmarks of one record, unless its image has any."""
    state = study.state.images.get(image)
    mine, theirs = study.info.landmarks, record.skeleton
    if mine is None or theirs is None or not record.people:
        return False
    if state is None or state.status is not Status.UNREVIEWED:
        return False
    lacking = [name for name in theirs.names if name not in mine.names]
    if lacking:
        reason = f"The study has no landmark {', '.join(lacking)}; its points are kept, but not used."
        problems.append(Problem(record.name, reason, left_out=False))
    study.save_correction(image, marks_of(record.people, theirs))
    return True


def study_records(study: Study) -> list[Record]:
    """List all images of a study with their final masks; pixels are read later, while the study is open."""
    if study.info.landmarks is not None:
        raise StudyError("This study has landmarks, no outlines.")
    fields = StudyFields(study)
    return [_record(study, state, fields) for state in study.state.images.values()]


def field_problems(study: Study) -> tuple[Problem, ...]:
    """List the values that do not fit their fields, and so are in no record."""
    fields = StudyFields(study)
    return tuple(problem for image in study.state.images for problem in fields.problems(image))


def _record(study: Study, state: ImageState, fields: StudyFields) -> Record:
    attributes = fields.exported(state.image_id)
    has_mask = state.current is not None or state.status is Status.NO_LESION
    return Record(
        name=state.name,
        image=functools.partial(study.read_image, state.image_id),
        mask=functools.partial(final_mask, study, state) if has_mask else None,
        classes=("background", *(entry.name for entry in study.info.classes)),
        patient=state.patient,
        lesion=state.lesion,
        diagnosis=attributes.pop("diagnosis", state.added.stratify_by),
        attributes=attributes,
        provenance=provenance_of(study, state),
    )


def final_mask(study: Study, state: ImageState) -> LabelImage:
    """Read the approved mask as it was approved, else the latest one; all background for "no lesion"."""
    if state.status is Status.NO_LESION or state.current is None:
        return np.zeros(state.shape, np.uint8)
    approved = state.approved if state.status is Status.APPROVED else None
    return study.read_revision(approved or state.current)


def provenance_of(study: Study, state: ImageState) -> Provenance:
    """Return who decided about an image, and with what help."""
    return Provenance(
        annotator=state.annotator or "",
        model="" if state.predicted is None else state.predicted.model or "",
        corrected=_corrected_fraction(study, state),
        status=state.status.value,
        time=state.when.isoformat(),
    )


def _corrected_fraction(study: Study, state: ImageState) -> float | None:
    """Return the fraction of pixels that differ from the model's prediction; None without one."""
    if state.predicted is None or not state.status.done or study.info.landmarks is not None:
        return None
    before, after = study.read_revision(state.predicted), final_mask(study, state)
    return float(np.mean(before != after))
