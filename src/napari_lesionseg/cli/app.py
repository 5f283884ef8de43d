"""``lesionseg [app] [FOLDER]``: open the viewer with the workbench.

The command line does not import napari: the plugin registers its function under an entry point, which is
called where napari is installed.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from napari_lesionseg.cli.signals import default_signals
from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.io.folders import follow_links, is_dir, is_file

EXAMPLE = """examples:
  lesionseg app images/
  lesionseg app my-study/ --annotator am
  lesionseg app my-study/ --images /media/archive/images
  lesionseg app photos/ --landmarks eyes
  lesionseg app my-study/ --review"""
ENTRY_POINTS = "napari_lesionseg.viewer"


def configure_app(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EXAMPLE
    parser.add_argument("folder", nargs="?", type=Path, help="a folder of images or a study")
    parser.add_argument("--annotator", metavar="NAME", help="your name or initials, saved with every outline")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="where the images of the study are, after they were moved"
    )
    parser.add_argument(
        "--review", action="store_true", help="review the work of all annotators of the study"
    )
    parser.add_argument(
        "--landmarks",
        default="",
        metavar="NAMES",
        help='make a study of landmarks: eyes, face, ruler, person, or names such as "nose, neck - hand", '
        "where a dash is a line",
    )
    parser.add_argument(
        "--follow-links",
        type=Path,
        metavar="ROOT",
        help="follow links out of the folder into this one, such as a cache; others are named",
    )


def run_app(options: argparse.Namespace) -> int:
    """Open the viewer."""
    if options.folder is not None and not is_dir(options.folder):
        kind = "is a file; name the folder that it is in" if is_file(options.folder) else "does not exist"
        raise LesionSegError(f"{options.folder} {kind}.")
    if options.images is not None:
        relocate_images(options.folder, options.images)
    if options.annotator is not None:
        from napari_lesionseg.study.study import check_annotator  # help need not wait for it

        check_annotator(options.annotator)
    check_opening(options)
    with follow_links(options.follow_links):
        open_viewer(
            options.folder,
            annotator=options.annotator,
            reviewer=options.review,
            landmarks=options.landmarks,
        )
    return 0


def check_opening(options: argparse.Namespace) -> None:
    """Raise a `LesionSegError` for what can be known to be wrong before the window opens."""
    if options.folder is None and options.landmarks:
        raise LesionSegError("--landmarks needs a folder: lesionseg app FOLDER --landmarks NAMES.")
    if options.folder is None and options.follow_links is not None:
        raise LesionSegError("--follow-links needs a folder: lesionseg app FOLDER --follow-links ROOT.")
    if options.landmarks:
        from napari_lesionseg.datasets.landmarks.skeletons import parse_skeleton

        parse_skeleton(options.landmarks)
    if options.review:
        from napari_lesionseg.study.layout import find_study

        if options.folder is None or find_study(options.folder) is None:
            raise LesionSegError("--review needs a study: lesionseg app STUDY --review.")


def relocate_images(folder: Path | None, images: Path) -> None:
    """Set the folder of a study's images."""
    from napari_lesionseg.study.layout import READ_ONLY, find_study  # help need not wait for these
    from napari_lesionseg.study.study import Study

    place = None if folder is None else find_study(folder)
    if place is None:
        raise LesionSegError("--images needs a study: lesionseg app STUDY --images DIR.")
    with Study.open(place, READ_ONLY) as study:
        study.set_images_folder(images)


def open_viewer(
    folder: Path | None = None,
    images: Sequence[Path] = (),
    masks: Sequence[Path] = (),
    annotator: str | None = None,
    *,
    reviewer: bool = False,
    landmarks: str = "",
) -> None:
    """Open a folder in the workbench, or images with their masks, and wait until the viewer is closed."""
    reason = why_no_viewer()
    if reason:
        raise LesionSegError(f"The viewer cannot be opened: {reason}.")
    entry = next(iter(entry_points(group=ENTRY_POINTS)), None)
    if entry is None:
        raise LesionSegError("The viewer cannot be opened: napari-lesionseg is not installed, only unpacked.")
    threading.Thread(target=load_libraries, name="load libraries").start()
    show = entry.load()
    with default_signals():
        show(folder, images, masks, annotator, reviewer=reviewer, landmarks=landmarks)


def load_libraries() -> None:
    """Import what the first outline needs and the window does not.

    Runs in another thread: much of it is reading and linking files, meanwhile the window opens.
    """
    for library in ("torch", "pandas"):  # napari imports pandas with the first layer
        importlib.import_module(library)


def why_no_viewer() -> str:
    """Return why the viewer cannot be opened, or an empty string when it can."""
    if find_spec("napari") is None:
        return 'napari is not installed; install it with pip install "napari-lesionseg[all]"'
    return "" if has_display() else "there is no display"


def has_display() -> bool:
    """Whether a window can be shown here."""
    if sys.platform in {"win32", "darwin"}:
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
