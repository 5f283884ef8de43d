"""The parts of a study's folder: ``study.json``, and the folders for events, masks and images."""

from __future__ import annotations

import os
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from napari_lesionseg.errors import StudyError
from napari_lesionseg.io.atomic import sweep_temporaries, sync_folder, write_atomically
from napari_lesionseg.io.folders import is_dir, is_file
from napari_lesionseg.study.event_log import explain
from napari_lesionseg.study.events import StudyInfo

STUDY_FOLDER = "lesionseg-study"
"""Name of the study inside a folder of images."""

READ_ONLY = "lesionseg"
"""The annotator in whose name a program opens a study to read it; nothing is saved under this name."""

INFO_FILE = "study.json"
UNFINISHED = ".unfinished"
"""File in a study from its beginning until all images and outlines are in it."""

EVENTS, MASKS, IMAGES, CACHE = "events", "masks", "images", "cache"

_HARMLESS = {"thumbs.db", "desktop.ini"}
_MAX_INFO = 1 << 20


def study_name(folder: Path) -> str:
    """Return the name of a study's folder, or of the folder of images that it is in."""
    return folder.parent.name if folder.name in {STUDY_FOLDER, "study"} else folder.name


def is_study(folder: Path) -> bool:
    """Whether a folder holds a study."""
    return is_file(folder / INFO_FILE)


def find_study(folder: Path) -> Path | None:
    """Return the study that a folder is, or that is inside a folder of images; None: there is none."""
    return next((place for place in (folder, folder / STUDY_FOLDER) if is_study(place)), None)


def is_free(folder: Path) -> bool:
    """Whether a folder holds nothing but files that systems and killed writers leave behind."""
    names = (path.name for path in folder.iterdir())
    return all(name.startswith(".") or name.lower() in _HARMLESS for name in names)


def new_info(**fields: Any) -> StudyInfo:
    """Return the content of ``study.json`` for a new study."""
    try:
        return StudyInfo(study=uuid.uuid4().hex, created=datetime.now(UTC), **fields)
    except ValidationError as error:
        raise StudyError(f"The study cannot be made: {explain(error)}.") from error


def write_info(folder: Path, info: StudyInfo) -> None:
    """Write ``study.json`` in one step."""
    write_atomically(folder / INFO_FILE, info.model_dump_json(indent=2).encode() + b"\n")


def read_info(folder: Path) -> StudyInfo:
    """Read ``study.json``."""
    path = folder / INFO_FILE
    if not is_file(path):
        raise StudyError(f"{folder} holds no study; choose the folder that has a {INFO_FILE} in it.")
    with path.open("rb") as stream:
        payload = stream.read(_MAX_INFO)
    try:
        return StudyInfo.model_validate_json(payload)
    except ValidationError as error:
        raise StudyError(
            f"{path} is damaged or of a newer version of the program ({explain(error)}); update the program, "
            "or restore the file from a backup."
        ) from error


def make_folders(folder: Path) -> None:
    """Make the folders that are missing, and force their names to disk."""
    paths = [folder / name for name in (EVENTS, MASKS, IMAGES)]
    for path in paths:
        if path.is_symlink():
            raise StudyError(f"{path} is a link, which is not followed; put the folder itself there.")
    missing = [path for path in paths if not is_dir(path)]
    for path in missing:
        path.mkdir(exist_ok=True)
    if missing:
        sync_folder(folder)


def sweep(folder: Path) -> None:
    """Remove the temporary files of killed writers; one that cannot be removed does no harm."""
    for path in (folder, folder / EVENTS, folder / IMAGES, folder / CACHE):
        sweep_temporaries(path)
    with os.scandir(folder / MASKS) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                sweep_temporaries(entry.path)
