"""Where studies come from: a folder, sample images, or the images open in the viewer. No Qt in here."""

from __future__ import annotations

import contextlib
import getpass
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from napari_lesionseg.datasets.import_ import read_dataset
from napari_lesionseg.datasets.records import Record
from napari_lesionseg.datasets.synthetic import sample_set
from napari_lesionseg.errors import CancelledError, DatasetError, PairingError, StudyError
from napari_lesionseg.plugin.napari_layers.layers import CLASS_COLORS
from napari_lesionseg.study.datasets import import_masks
from napari_lesionseg.study.events import LESION, StudyClass
from napari_lesionseg.study.images import Progress
from napari_lesionseg.study.layout import STUDY_FOLDER, is_free, is_study
from napari_lesionseg.study.study import Study, check_annotator
from napari_lesionseg.types import ByteImage

MAX_ANNOTATOR = 32


@dataclass(frozen=True, slots=True)
class NewStudy:
    """What a new study is to be.

    Parameters
    ----------
    folder : Path
        Where it is made.
    annotator : str
        Who works in it.
    images_folder : Path, optional
        The folder of its images: plain, PH2's or ISIC's.
    images : mapping of str to ndarray
        Instead of a folder: images by name, (H, W, 3) uint8; they are saved in the study.
    classes : tuple of str
        What is outlined.
    copy : bool
        Copy the files into the study, as PNG without EXIF.
    key_file : Path, optional
        Give images, patients and lesions pseudonyms, and keep the key here.
    blinded : bool
        Annotators do not see each other's outlines.
    """

    folder: Path
    annotator: str
    images_folder: Path | None = None
    images: Mapping[str, ByteImage] = field(default_factory=dict)
    classes: tuple[str, ...] = (LESION.name,)
    copy: bool = False
    key_file: Path | None = None
    blinded: bool = False

    @property
    def problem(self) -> str:
        """Why it cannot be made, as far as can be seen without reading images; empty when it can."""
        try:
            check_annotator(self.annotator)
        except StudyError as error:
            return str(error)
        return self._problem_of_images() or self._problem_of_folder() or self._problem_of_classes()

    def _problem_of_images(self) -> str:
        if self.images_folder is None and not self.images:
            return "Choose the folder that holds the images."
        if self.images_folder is not None and not self.images_folder.is_dir():
            return f"There is no folder {self.images_folder}."
        return ""

    def _problem_of_folder(self) -> str:
        """Say why the study cannot be where it is to be, or its key."""
        if self.folder == Path():
            return "Choose a new or an empty folder for the study."
        try:
            if is_study(self.folder):
                return f"There is a study in {self.folder} already; open it, or choose another folder."
            if self.folder.exists() and not is_free(self.folder):
                return f"{self.folder} is not empty; choose a new or an empty folder for the study."
        except OSError as error:
            return f"{self.folder} cannot be used ({error.strerror}); choose another folder."
        if self.key_file is not None and self.key_file.resolve().is_relative_to(self.folder.resolve()):
            return "The key of the pseudonyms would be inside the study; keep it somewhere else."
        return ""

    def _problem_of_classes(self) -> str:
        if not self.classes:
            return "Name at least one thing that is outlined, such as lesion."
        if len(set(self.classes)) < len(self.classes):
            return "Two classes have the same name."
        return ""


class Watched:
    """Tells how far the making of a study is, and stops it; the two threads share nothing else.

    Attributes
    ----------
    done, total : int
        Images read, and images in all; 0 as long as they are being looked for.
    """

    def __init__(self) -> None:
        self.done = self.total = 0
        self._stopped = False

    def __call__(self, done: int, total: int) -> None:
        """Take note; called by the thread that reads.

        Raises
        ------
        CancelledError
            After `stop`.
        """
        self.done, self.total = done, total
        if self._stopped:
            raise CancelledError("Opening was cancelled; what was taken in until then is kept.")

    def stop(self) -> None:
        """Let it end at the next image: without a study while images are read, else without the rest."""
        self._stopped = True

    def __str__(self) -> str:
        if not self.total:
            return "Opening\N{HORIZONTAL ELLIPSIS}"
        return f"Reading the images: {self.done} of {self.total}"


def default_annotator() -> str:
    """Suggest the annotator's name: that of the user's account, as far as a study takes its letters."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):
        name = ""
    return re.sub(r"[^A-Za-z0-9_-]", "", name)[:MAX_ANNOTATOR] or "annotator"


def make_study(plan: NewStudy, progress: Progress | None = None) -> Study:
    """Make a study; to be called in a worker, since every image is read once.

    Patients, lesions, diagnoses and outlines are taken over where the folder is a data set that has them.

    Parameters
    ----------
    plan : NewStudy
        What it is to be.
    progress : callable, optional
        Told about each image; may raise `CancelledError`.

    Raises
    ------
    StudyError, PairingError, ImageError, CancelledError
        With a sentence that says why it cannot be made.
    """
    if plan.problem:
        raise StudyError(plan.problem)
    records = () if plan.images_folder is None else _records_in(plan.images_folder)
    study = Study.create(
        plan.folder,
        plan.annotator,
        paths=() if plan.images_folder is None else plan.images_folder,
        images=plan.images,
        classes=_study_classes(plan.classes),
        blinded=plan.blinded,
        copy=plan.copy,
        key_file=plan.key_file,
        groups=[record.split_item() for record in records],
        progress=progress,
    )
    with _closed_on_error(study):
        import_masks(study, records, progress)
    return study


def open_folder(folder: Path, annotator: str, progress: Progress | None = None) -> Study:
    """Open a study, or the study of a folder of images, which is made the first time.

    To be called in a worker, since every image is read once when a study is made.

    Parameters
    ----------
    folder : Path
        A study, or a folder of images as `find_images` understands them.
    annotator : str
        Who works in it.
    progress : callable, optional
        Told about each image; may raise `CancelledError`.

    Raises
    ------
    StudyError, PairingError, CancelledError
        With a sentence that says why it cannot be opened.
    """
    if is_study(folder):
        return Study.open(folder, annotator)
    inside = folder / STUDY_FOLDER
    if not is_study(inside):
        return make_study(NewStudy(inside, annotator, images_folder=folder), progress)
    study = Study.open(inside, annotator)
    if study.info.images_folder is not None:  # else it holds copies, and takes more only when it is told to
        # Its images may have been moved; the study knows them.
        with _closed_on_error(study), contextlib.suppress(PairingError):
            if study.add_images(folder, progress=progress):
                import_masks(study, _records_in(folder), progress)
    return study


@contextlib.contextmanager
def _closed_on_error(study: Study) -> Iterator[None]:
    """Leave a study if something goes wrong, or was cancelled, before it is handed on."""
    with contextlib.ExitStack() as leaving:
        leaving.enter_context(study)
        yield
        leaving.pop_all()


def open_samples(annotator: str, progress: Progress | None = None) -> Study:
    """Make a study of synthetic images in a temporary folder, to try things out."""
    folder = Path(tempfile.mkdtemp(prefix="lesionseg-samples-")) / "study"
    images = {sample.name: sample.image for sample in sample_set()}
    return make_study(NewStudy(folder, annotator, images=images), progress)


def _study_classes(names: tuple[str, ...]) -> tuple[StudyClass, ...]:
    """Give classes their colors; the one of a study of lesions keeps its own."""
    if names == (LESION.name,):
        return (LESION,)
    colors = (CLASS_COLORS[place % len(CLASS_COLORS)] for place in range(len(names)))
    return tuple(StudyClass(name=name, color=color) for name, color in zip(names, colors, strict=True))


def _records_in(folder: Path) -> Sequence[Record]:
    """List what is known of the images of a folder, as far as it is a data set."""
    try:
        return read_dataset(folder).records
    except DatasetError:
        return ()
