"""The window of `lesionseg FOLDER`, with xdotool for hands; what was done is read from the disk.

They take minutes, so they run on request only, and need openbox and xdotool::

    LESIONSEG_JOURNEYS=1 python tools/with_screen.py pytest tests/plugin/journeys
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_lesionseg.study.layout import READ_ONLY, STUDY_FOLDER, is_study
from napari_lesionseg.study.state import Status
from napari_lesionseg.study.study import Study

PATIENCE_S = 90
NEEDED = ("openbox", "xdotool")
SIZES = {"small": (265, 300), "usual": (560, 768), "large": (4000, 6000)}

pytestmark = pytest.mark.skipif(
    not (os.environ.get("LESIONSEG_JOURNEYS") and all(map(shutil.which, NEEDED))),
    reason="runs on request, with openbox and xdotool",
)


class Hands:
    """What a person does at the screen, and what is on the disk afterwards."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.window = ""

    def do(self, *words: str) -> str:
        """Run xdotool."""
        done = subprocess.run(["xdotool", *words], capture_output=True, text=True, check=False, timeout=60)
        return done.stdout.strip()

    def find_window(self) -> None:
        """Wait for the window, and put it in front."""
        self.until(lambda: bool(self.do("search", "--onlyvisible", "--name", "^LesionSeg$")))
        self.window = self.do("search", "--onlyvisible", "--name", "^LesionSeg$").splitlines()[-1]
        self.do("windowactivate", "--sync", self.window)

    def press(self, *keys: str) -> None:
        """Press and release keys, one after the other."""
        for key in keys:
            self.do("key", "--delay", "40", key)

    def move(self, across: float, down: float) -> None:
        """Move the mouse to a place of the image's part of the window, in shares of the screen."""
        width, height = map(int, self.do("getdisplaygeometry").split())
        self.do("mousemove", str(round(across * width)), str(round(down * height)))

    def click(self, *buttons: str) -> None:
        """Click where the mouse is."""
        for button in buttons or ("1",):
            self.do("click", button)

    def drag(self, first: tuple[float, float], last: tuple[float, float]) -> None:
        """Drag over the image."""
        self.move(*first)
        self.do("mousedown", "1")
        for step in range(1, 6):
            part = step / 5
            self.move(first[0] + part * (last[0] - first[0]), first[1] + part * (last[1] - first[1]))
            time.sleep(0.03)
        self.do("mouseup", "1")

    def look(self) -> None:
        """Look at an outline for long enough to judge it."""
        time.sleep(0.6)

    def until(self, true: Callable[[], bool]) -> None:
        """Wait for something."""
        end = time.monotonic() + PATIENCE_S
        while not true():
            assert time.monotonic() < end, "it did not happen"
            time.sleep(0.2)

    def press_until(self, key: str, true: Callable[[], bool]) -> None:
        """Press a key again as long as the window says that it is too soon, as for an image just opened."""
        end = time.monotonic() + PATIENCE_S
        while not true():
            assert time.monotonic() < end, "it did not happen"
            self.look()
            self.press(key)
            time.sleep(2)

    def reviewed(self) -> int:
        """Count the images with a decision on the disk."""
        return sum(status.done for status in self.statuses().values())

    def statuses(self) -> dict[str, Status]:
        """Read the status of each image from the disk."""
        place = self.folder / STUDY_FOLDER
        if not is_study(place):
            return {}
        with Study.open(place, READ_ONLY) as study:
            return {state.name: state.status for state in study.state.images.values()}

    def mask(self, name: str) -> np.ndarray:
        """Read the mask of an image from the disk."""
        with Study.open(self.folder / STUDY_FOLDER, READ_ONLY) as study:
            state = next(state for state in study.state.images.values() if state.name == name)
            mask = study.read_mask(state.image_id)
        assert mask is not None
        return mask

    def until_status(self, name: str, *statuses: Status) -> None:
        """Wait until an image has one of some statuses on the disk."""
        self.until(lambda: self.statuses().get(name) in statuses)


@pytest.fixture(scope="module")
def window_manager() -> Iterator[None]:
    """A window manager, without which nothing is maximized and no window gets the focus."""
    process = subprocess.Popen(["openbox"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(1)
    yield
    process.terminate()
    process.wait(timeout=20)


def draw(folder: Path, names: str, shape: tuple[int, int]) -> None:
    """Draw bright images with a dark spot in the middle."""
    folder.mkdir(exist_ok=True)
    rows, cols = np.indices(shape)
    spot = np.hypot(rows / shape[0] - 0.5, (cols / shape[1] - 0.5)) < 0.2
    for number, name in enumerate(names.split()):
        image = np.full((*shape, 3), (214, 160, 140), np.uint8)
        image[spot] = (90 + number, 50, 40)
        Image.fromarray(image).save(folder / f"{name}.png")


@pytest.fixture
def start(window_manager: None, tmp_path: Path) -> Iterator[Callable[..., Hands]]:
    """Start `lesionseg` on a folder, and wait until its first image is outlined."""
    processes: list[subprocess.Popen[bytes]] = []

    def run(folder: Path, first: str) -> Hands:
        environment = os.environ | {
            "NAPARI_CONFIG": str(tmp_path / "settings.yaml"),
            "QT_QPA_PLATFORM": "xcb",
        }
        command = [sys.executable, "-m", "napari_lesionseg", "app", str(folder), "--annotator", "am"]
        processes.append(subprocess.Popen(command, env=environment))
        hands = Hands(folder)
        hands.find_window()
        hands.until_status(first, *(status for status in Status if status is not Status.UNREVIEWED))
        hands.move(0.3, 0.5)
        hands.look()
        return hands

    yield run
    for process in processes:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture
def nevi(tmp_path: Path) -> Path:
    folder = tmp_path / "nevi"
    draw(folder, "A B C D", SIZES["usual"])
    return folder


def test_a_study_by_keyboard_alone(start: Callable[..., Hands], nevi: Path) -> None:
    hands = start(nevi, "A")
    for name in "ABCD":
        hands.until_status(name, Status.PREDICTED)
        hands.look()
        hands.press("w")
        hands.until_status(name, Status.APPROVED)
    assert set(hands.statuses().values()) == {Status.APPROVED}


def test_the_keys_of_all_verdicts(start: Callable[..., Hands], nevi: Path) -> None:
    hands = start(nevi, "A")
    hands.press("F3")
    hands.until_status("A", Status.NO_LESION)
    hands.until_status("B", Status.PREDICTED)
    hands.look()
    hands.press("w")
    hands.until_status("B", Status.APPROVED)
    hands.look()
    hands.press("ctrl+z")
    hands.until_status("B", Status.PREDICTED, Status.CORRECTED)
    assert hands.statuses()["A"] is Status.NO_LESION


def test_a_held_key_approves_one_image(start: Callable[..., Hands], nevi: Path) -> None:
    hands = start(nevi, "A")
    hands.do("keydown", "w")
    time.sleep(2.5)
    hands.do("keyup", "w")
    hands.until_status("A", Status.APPROVED)
    assert [name for name, status in hands.statuses().items() if status.done] == ["A"]


def test_a_key_pressed_twice_at_once_approves_one_image(start: Callable[..., Hands], nevi: Path) -> None:
    hands = start(nevi, "A")
    hands.do("key", "--delay", "15", "w", "w")
    hands.until_status("A", Status.APPROVED)
    hands.look()
    assert [name for name, status in hands.statuses().items() if status.done] == ["A"]


def test_painting_and_undo(start: Callable[..., Hands], nevi: Path) -> None:
    hands = start(nevi, "A")
    before = hands.mask("A")
    hands.press("p")
    hands.drag((0.12, 0.3), (0.2, 0.3))
    hands.until_status("A", Status.CORRECTED)
    hands.until(lambda: hands.mask("A").sum() > before.sum())
    hands.press("ctrl+z")
    hands.until(lambda: np.array_equal(hands.mask("A"), before))


def test_a_click_adds_to_the_outline(start: Callable[..., Hands], nevi: Path) -> None:
    hands = start(nevi, "A")
    hands.press("c")
    hands.move(0.15, 0.3)
    hands.click()
    hands.until_status("A", Status.CORRECTED)


@pytest.mark.parametrize("down", [0.16, 0.3, 0.5, 0.75, 0.9])
def test_keys_work_after_a_click_anywhere_in_the_dock(
    start: Callable[..., Hands], nevi: Path, down: float
) -> None:
    """Buttons, fields, the list and headings, as they come."""
    hands = start(nevi, "A")
    hands.move(0.8, down)
    hands.click()
    hands.press("Escape")
    hands.look()
    before = hands.reviewed()
    hands.press_until("w", lambda: hands.reviewed() > before)


def test_the_layer_list_is_unfolded_and_folded(start: Callable[..., Hands], nevi: Path) -> None:
    hands = start(nevi, "A")
    hands.press("F9")
    hands.look()
    hands.press("F9")
    hands.look()
    hands.press("w")
    hands.until_status("A", Status.APPROVED)


@pytest.mark.parametrize("size", SIZES)
def test_images_of_any_size(start: Callable[..., Hands], tmp_path: Path, size: str) -> None:
    folder = tmp_path / size
    draw(folder, "A B", SIZES[size])
    hands = start(folder, "A")
    hands.press("End", "Home")
    hands.look()
    hands.press("w")
    hands.until_status("A", Status.APPROVED)
    assert hands.mask("A").shape == SIZES[size]
    assert hands.mask("A").any()


def test_closing_the_window_keeps_everything(start: Callable[..., Hands], nevi: Path) -> None:
    hands = start(nevi, "A")
    hands.press("p")
    hands.drag((0.12, 0.3), (0.2, 0.3))
    hands.do("key", "alt+F4")
    hands.until(lambda: not hands.do("search", "--onlyvisible", "--name", "^LesionSeg$"))
    assert hands.statuses()["A"] is Status.CORRECTED
