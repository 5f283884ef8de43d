"""Studies of landmarks: their points as people, as datasets, and taken in from datasets."""

from __future__ import annotations

import functools
from pathlib import PurePosixPath

from napari_lesionseg.config import Skeleton
from napari_lesionseg.datasets.facts import name_key
from napari_lesionseg.datasets.landmarks.records import (
    LandmarkDataset,
    LandmarkImage,
    check_places,
    marks_of,
    people_of,
)
from napari_lesionseg.datasets.records import Problem, Record
from napari_lesionseg.errors import StudyError
from napari_lesionseg.study.datasets import IMPORTED, provenance_of
from napari_lesionseg.study.events import MaskEvent
from napari_lesionseg.study.fields import StudyFields
from napari_lesionseg.study.state import ImageState, Status
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import Landmarks, Mark


def skeleton_of(study: Study) -> Skeleton:
    """Return the landmarks of a study; a `StudyError` if it has outlines instead."""
    if study.info.landmarks is None:
        raise StudyError(f"The study in {study.folder} has outlines, no landmarks.")
    return study.info.landmarks


def current_marks(state: ImageState) -> tuple[Mark, ...]:
    """Return the marks to show of an image: none where there is nothing to mark."""
    if state.current is None or state.status is Status.NO_LESION:
        return ()
    return state.current.as_marks()


def status_words(status: Status, study: Study) -> str:
    """Return a status as the annotator of a study reads it."""
    of_landmarks = {Status.PREDICTED: "predicted", Status.NO_LESION: "none visible"}
    return status.words if study.info.landmarks is None else of_landmarks.get(status, status.words)


def people_in(study: Study, event: MaskEvent | None) -> tuple[Landmarks, ...]:
    """Return the people of an event, without marks that do not fit the skeleton."""
    return () if event is None else people_of(event.as_marks(), skeleton_of(study))[0]


def approved_landmarks(study: Study) -> LandmarkDataset:
    """Return the landmarks of the images that are decided; the problems name marks that are left out."""
    skeleton = skeleton_of(study)
    images, problems = [], []
    for state in study.state.images.values():
        if state.status.done:
            approved = state.approved if state.status is Status.APPROVED else None
            marks = () if approved is None else approved.as_marks()
            people, unused = people_of(marks, skeleton, state.name)
            image = LandmarkImage(file_name(state), people, state.shape)
            images.append(image)
            problems += [*unused, *check_places(image, skeleton.names)]
    return LandmarkDataset(skeleton, tuple(images), tuple(problems))


def landmark_records(study: Study) -> tuple[list[Record], tuple[Problem, ...]]:
    """List all images of a study with their landmarks, and marks that are left out; pixels are read later."""
    skeleton, fields = skeleton_of(study), StudyFields(study)
    records: list[Record] = []
    problems: list[Problem] = []
    for state in study.state.images.values():
        approved = state.approved if state.status is Status.APPROVED else None
        marks = current_marks(state) if approved is None else approved.as_marks()
        people, unused = people_of(marks, skeleton, state.name)
        if state.status.done:
            problems += [
                *unused,
                *check_places(LandmarkImage(state.name, people, state.shape), skeleton.names),
            ]
        is_marked = state.current is not None or state.status is Status.NO_LESION
        attributes = fields.exported(state.image_id)
        records.append(
            Record(
                name=state.name,
                image=functools.partial(study.read_image, state.image_id),
                people=people if is_marked else None,
                skeleton=skeleton,
                patient=state.patient,
                lesion=state.lesion,
                diagnosis=attributes.pop("diagnosis", state.added.stratify_by),
                attributes=attributes,
                provenance=provenance_of(study, state),
            )
        )
    return records, tuple(problems)


def file_name(state: ImageState) -> str:
    """Return what an image's file is called in datasets; a copy inside the study has the image's name."""
    return f"{state.name}.png" if state.added.own else state.added.path


def import_landmarks(study: Study, dataset: LandmarkDataset) -> tuple[int, tuple[Problem, ...]]:
    """Save landmarks of a dataset; return in how many images, and what was left out or does not fit.

    They count as corrected by the annotator `IMPORTED`, and are still to be approved. Images that somebody
    has marked or decided about are left alone.
    """
    skeleton_of(study)
    if study.blinded:
        raise StudyError("Annotators of this study do not see each other's work: nothing can be imported.")
    problems = list(dataset.problems)
    unknown = set(dataset.skeleton.names) - set(skeleton_of(study).names)
    problems += [
        Problem(name, "The study has no landmark of this name; its points are kept, but not used.")
        for name in sorted(unknown)
    ]
    saved = 0
    found = _match(study, dataset)
    with Study.open(study.folder, IMPORTED) as importer:
        for image in dataset.images:
            image_id = found.get(image.name)
            if image_id is None:
                problems.append(Problem(image.name, "The study has no image of this name."))
            elif study.state.images[image_id].status not in (Status.UNREVIEWED, Status.PREDICTED):
                problems.append(Problem(image.name, "The image was marked or decided already; it is kept."))
            elif image.people:
                importer.save_correction(image_id, marks_of(image.people, dataset.skeleton))
                saved += 1
    study.refresh()
    return saved, tuple(problems)


def _match(study: Study, dataset: LandmarkDataset) -> dict[str, str]:
    """Return the image of each entry, of the same file name, else of the same name without its ending."""
    found: dict[str, str] = {}
    for key_of in (_last_part, name_key):
        images: dict[str, list[str]] = {}
        for image_id, state in study.state.images.items():
            images.setdefault(key_of(file_name(state)), []).append(image_id)
        for entry in dataset.images:
            named = images.get(key_of(entry.name), [])
            if entry.name not in found and len(named) == 1 and named[0] not in found.values():
                found[entry.name] = named[0]
    return found


def _last_part(name: str) -> str:
    return PurePosixPath(name).name.casefold()
