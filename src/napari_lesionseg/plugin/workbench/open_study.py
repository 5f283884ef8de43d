"""Opens and makes studies: from a folder, sample images, or the images in the viewer. No widgets in here."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from napari_lesionseg.config import Skeleton
from napari_lesionseg.datasets.export import ExportReport
from napari_lesionseg.datasets.import_ import import_dataset, read_dataset
from napari_lesionseg.datasets.landmarks.skeletons import parse_skeleton
from napari_lesionseg.datasets.records import Dataset, Problem
from napari_lesionseg.datasets.synthetic import sample_set
from napari_lesionseg.errors import CancelledError, DatasetError, LandmarkError, PairingError, StudyError
from napari_lesionseg.io.folders import is_dir, is_file
from napari_lesionseg.plugin.napari_layers.layers import CLASS_COLORS
from napari_lesionseg.plugin.tasks import Task
from napari_lesionseg.study.datasets import (
    import_annotations,
    remove_study,
    removed_on_error,
    study_from_dataset,
)
from napari_lesionseg.study.events import LESION, StudyClass
from napari_lesionseg.study.images import Progress
from napari_lesionseg.study.layout import INFO_FILE, STUDY_FOLDER, UNFINISHED, is_free, is_study
from napari_lesionseg.study.study import Study, check_annotator
from napari_lesionseg.types import ByteImage

_INTERRUPTED = Problem(
    INFO_FILE,
    "The making of this study was interrupted, so images and outlines may be missing; open the folder of its "
    "images to add them.",
)


@dataclass(frozen=True, slots=True)
class NewStudy:
    """The settings of a new study."""

    folder: Path
    annotator: str
    images_folder: Path | None = None  # plain, or a dataset such as PH2's or ISIC's
    images: Mapping[str, ByteImage] = field(default_factory=dict)  # by name; saved in the study
    classes: tuple[str, ...] = (LESION.name,)
    landmarks: str = ""  # landmarks to mark in place of outlines, as `parse_skeleton` reads them
    as_dataset: bool = False  # mark landmarks if the images are a dataset of landmarks
    copy: bool = False  # copy the files into the study, as PNG without EXIF
    key_file: Path | None = None  # replace names by pseudonyms, and keep the key here
    blinded: bool = False  # annotators do not see each other's outlines

    @property
    def problem(self) -> str:
        """Why it cannot be made, as far as can be seen without reading images; empty when it can."""
        try:
            check_annotator(self.annotator)
        except StudyError as error:
            return str(error)
        return self._problem_of_images() or self._problem_of_folder() or self._problem_of_task()

    def _problem_of_images(self) -> str:
        if self.images_folder is None and not self.images:
            return "Choose the folder that holds the images."
        if self.images_folder is not None and not is_dir(self.images_folder):
            return f"There is no folder {self.images_folder}."
        return ""

    def _problem_of_folder(self) -> str:
        """Return why the study, or its key, cannot be saved there."""
        if self.folder == Path():
            return "Choose a new or empty folder for the study."
        try:
            if is_study(self.folder):
                return f"There is a study in {self.folder} already; open it, or choose another folder."
            if self.folder.exists() and not is_free(self.folder):
                return f"{self.folder} is not empty; choose a new or empty folder for the study."
        except OSError as error:
            return f"{self.folder} cannot be used ({error.strerror}); choose another folder."
        if self.key_file is not None and self.key_file.resolve().is_relative_to(self.folder.resolve()):
            return "The key file would be inside the study. Save it somewhere else."
        return ""

    def _problem_of_task(self) -> str:
        if self.landmarks:
            try:
                parse_skeleton(self.landmarks)
            except LandmarkError as error:
                return str(error)
        if not self.classes:
            return "Enter at least one class, such as lesion."
        if len(set(self.classes)) < len(self.classes):
            return "Two classes have the same name."
        return ""


class OpenStudyTask(Task[Study]):
    """Opens or makes a study; `progressed` is emitted with (images read, images in all)."""

    cancelled_message = "Opening was canceled."

    def __init__(self, open_study: Callable[[Progress], Study]) -> None:
        super().__init__("opening the study", self._open, open_study)

    def _open(self, open_study: Callable[[Progress], Study]) -> Study:
        return open_study(lambda done, total: self.report((done, total)))


def make_study(plan: NewStudy, progress: Progress | None = None) -> Study:
    """Make a study; runs in another thread, since every image is read once.

    Patients, lesions, diagnoses and outlines are imported where the folder is a dataset that has them. When
    canceled, it leaves no study, which would lack outlines.
    """
    if plan.problem:
        raise StudyError(plan.problem)
    dataset = Dataset("", ()) if plan.images_folder is None else _dataset_in(plan.images_folder)
    with removed_on_error(plan.folder, plan.annotator):
        study = Study.create(
            plan.folder,
            plan.annotator,
            paths=() if plan.images_folder is None else plan.images_folder,
            images=plan.images,
            classes=_study_classes(plan.classes),
            landmarks=_skeleton(plan, dataset),
            blinded=plan.blinded,
            copy=plan.copy,
            key_file=plan.key_file,
            groups=[record.split_item() for record in dataset.records],
            progress=progress,
        )
        with _closed_on_error(study):
            study.add_problems(dataset.problems)
            import_annotations(study, dataset.records, progress)
    return study


def _skeleton(plan: NewStudy, dataset: Dataset) -> Skeleton | None:
    """Return the landmarks of a new study, which were named or come with the images; None for outlines."""
    if plan.landmarks:
        return parse_skeleton(plan.landmarks)
    return dataset.records[0].skeleton if plan.as_dataset and dataset.records else None


def open_folder(
    folder: Path, annotator: str, progress: Progress | None = None, *, landmarks: str = ""
) -> Study:
    """Open a study, or the study of a folder of images, which is made the first time.

    With `landmarks`, it is one of landmarks, and any other is a `StudyError`. Runs in another thread, since
    every image is read once when a study is made.
    """
    inside = folder if is_study(folder) else folder / STUDY_FOLDER
    plan = NewStudy(inside, annotator, images_folder=folder, landmarks=landmarks, as_dataset=True)
    if not is_study(inside):
        return make_study(plan, progress)
    study, unfinished = Study.open(inside, annotator), is_file(inside / UNFINISHED)
    if unfinished and not study.state.images and inside != folder:
        study.close()
        remove_study(inside)
        return make_study(plan, progress)
    if landmarks and study.info.landmarks != parse_skeleton(landmarks):
        study.close()
        raise StudyError(f"The study in {inside} is there already, without these landmarks; make a new one.")
    if inside == folder:
        study.add_problems([_INTERRUPTED] if unfinished else [])
        return study
    if study.info.images_folder is not None:  # else it holds copies, and takes more only when it is told to
        # Its images may have been moved; the study knows them.
        with _closed_on_error(study), contextlib.suppress(PairingError):
            dataset = _dataset_in(folder)
            study.add_problems(dataset.problems)
            groups = [record.split_item() for record in dataset.records]
            if study.add_images(folder, groups=groups, progress=progress) or unfinished:
                _finish_import(study, dataset, progress)
            (inside / UNFINISHED).unlink(missing_ok=True)
    return study


def _finish_import(study: Study, dataset: Dataset, progress: Progress | None) -> None:
    """Import the outlines of images that were added; no later opening does, so it is canceled afterward."""

    def report(done: int, total: int) -> None:
        if progress is not None:
            with contextlib.suppress(CancelledError):
                progress(done, total)

    import_annotations(study, dataset.records, report)
    if progress is not None:
        progress(len(dataset.records), len(dataset.records))


@contextlib.contextmanager
def _closed_on_error(study: Study) -> Iterator[None]:
    """Close a study if an error occurs before it is returned."""
    with contextlib.ExitStack() as leaving:
        leaving.enter_context(study)
        yield
        leaving.pop_all()


def import_folder(source: Path, out: Path, annotator: str, progress: Progress | None = None) -> Study:
    """Import a dataset into a new folder, and open the study that is made of it.

    Runs in another thread, since every image is read and written.
    """
    problems: tuple[Problem, ...] = ()
    for event in import_dataset(source, out):
        if isinstance(event, ExportReport):
            problems = event.problems
        elif progress is not None:
            progress(event.done, event.total)
    _, lost = study_from_dataset(out / STUDY_FOLDER, annotator, read_dataset(out), progress)
    study = Study.open(out / STUDY_FOLDER, annotator)
    with _closed_on_error(study):
        study.add_problems((*problems, *lost))
    return study


def open_samples(annotator: str, progress: Progress | None = None) -> Study:
    """Make a study of synthetic images in a temporary folder, to try things out."""
    folder = Path(tempfile.mkdtemp(prefix="lesionseg-samples-")) / "study"
    images = {sample.name: sample.image for sample in sample_set()}
    return make_study(NewStudy(folder, annotator, images=images), progress)


def _study_classes(names: tuple[str, ...]) -> tuple[StudyClass, ...]:
    """Return the classes with their colors; that of a study of lesions keeps its own."""
    if names == (LESION.name,):
        return (LESION,)
    colors = (CLASS_COLORS[place % len(CLASS_COLORS)] for place in range(len(names)))
    return tuple(StudyClass(name=name, color=color) for name, color in zip(names, colors, strict=True))


def _dataset_in(folder: Path) -> Dataset:
    """List what is known of the images of a folder, as far as it is a dataset."""
    try:
        return read_dataset(folder)
    except DatasetError as error:
        return Dataset("", (), (Problem(folder.name, str(error)),))
