"""Where studies come from: a folder, sample pictures, or the pictures open in the viewer."""

from __future__ import annotations

import contextlib
import getpass
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from napari_lesionseg.data.synthetic import sample_set
from napari_lesionseg.errors import PairingError
from napari_lesionseg.study.folder import is_study
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import ByteImage

STUDY_FOLDER = "lesionseg-study"
"""Made inside a folder of pictures; holds outlines and journals, not the pictures."""

MAX_READER = 32


def default_reader() -> str:
    """Suggest the reader's name: that of the user's account, as far as a study takes its letters."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):
        name = ""
    return re.sub(r"[^A-Za-z0-9_-]", "", name)[:MAX_READER] or "reader"


def open_folder(folder: Path, reader: str) -> Study:
    """Open a study, or the study of a folder of pictures, which is made the first time.

    To be called in a worker, since every picture is read once when a study is made.

    Parameters
    ----------
    folder : Path
        A study, or a folder of pictures as `find_pictures` understands them.
    reader : str
        Who works in it.

    Raises
    ------
    StudyError, PairingError
        With a sentence that says why it cannot be opened.
    """
    if is_study(folder):
        return Study.open(folder, reader)
    inside = folder / STUDY_FOLDER
    if not is_study(inside):
        return Study.create(inside, reader, pictures=folder)
    study = Study.open(inside, reader)
    with contextlib.suppress(PairingError):  # its pictures may have been moved; the study knows them
        study.add_pictures(folder)
    return study


def open_samples(reader: str) -> Study:
    """Make a study of synthetic pictures in a temporary folder, to try things out."""
    folder = Path(tempfile.mkdtemp(prefix="lesionseg-samples-")) / "study"
    return Study.create(folder, reader, images={sample.name: sample.image for sample in sample_set()})


def open_pictures(folder: Path, reader: str, images: Mapping[str, ByteImage]) -> Study:
    """Make a study of pictures that are open in the viewer; they are saved in it.

    Parameters
    ----------
    folder : Path
        A new or empty folder.
    reader : str
        Who works in it.
    images : mapping of str to ndarray
        (H, W, 3) uint8, by name.
    """
    return Study.create(folder, reader, images=images)
