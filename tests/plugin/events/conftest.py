"""The workbench in a real window, driven by mouse and keyboard through Qt."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.viewer import Viewer
from PIL import Image
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QWidget
from tests.plugin.canvas_mouse import turn_wheel

from napari_lesionseg.plugin.workbench import image_review, verdict_guard
from napari_lesionseg.plugin.workbench.panels.base import ModelPanel, OutlinePanel
from napari_lesionseg.plugin.workbench.panels.review_bar import ReviewBar
from napari_lesionseg.plugin.workbench.widget import Workbench
from napari_lesionseg.study.state import ImageState, Status

SHAPE = (120, 160)
SPOT = (slice(30, 90), slice(50, 110))


class Window:
    """A window with the workbench, and what a user does in it."""

    def __init__(self, qtbot: Any, viewer: Viewer, bench: Workbench) -> None:
        self.qtbot, self.viewer, self.bench = qtbot, viewer, bench
        self.main: QWidget = viewer.window._qt_window
        self.canvas: QWidget = viewer.window._qt_viewer.canvas.native

    @property
    def session(self) -> Any:
        return self.bench.session

    @property
    def editor(self) -> Any:
        return self.session.editor

    @property
    def labels(self) -> Any:
        return self.editor.labels

    @property
    def mask(self) -> Any:
        return self.editor.labels.data

    @property
    def bar(self) -> ReviewBar:
        return self.bench.panel(ReviewBar)

    @property
    def name(self) -> str:
        return str(self.session.state.name)

    def state(self, name: str) -> ImageState:
        return next(state for state in self.session.study.state.images.values() if state.name == name)

    def reviewed(self) -> list[str]:
        """Return the names of the images that have a verdict on the disk."""
        self.saved()
        return [state.name for state in self.session.study.state.images.values() if state.status.done]

    def status(self, name: str) -> Status:
        self.saved()
        return self.state(name).status

    def saved(self) -> None:
        self.qtbot.waitUntil(lambda: self.session.save_queue.unsaved == 0, timeout=20_000)

    def shown(self, name: str) -> None:
        """Wait until an image is on the screen and outlined."""
        try:
            self.qtbot.waitUntil(
                lambda: self.editor is not None and self.name == name and self.mask.any(), timeout=30_000
            )
        except self.qtbot.TimeoutError as error:
            error.add_note(f"The window shows {self.name} and says {self.bar.message.text()!r}.")
            raise

    def look(self) -> None:
        """Wait for as long as it takes to see an outline."""
        session = self.session
        if session is not None and session.review is not None:
            guard = session.verdicts.guard
            self.qtbot.waitUntil(lambda: math.isfinite(guard._image_since), timeout=20_000)
        self.wait(1000 * verdict_guard.SEEN_SECONDS + 60)

    def wait(self, milliseconds: float) -> None:
        self.qtbot.wait(round(milliseconds))

    def key(self, key: Any, modifier: Any = Qt.KeyboardModifier.NoModifier) -> None:
        """Press and release a key where the focus is."""
        QTest.keyClick(QApplication.focusWidget() or self.canvas, key, modifier)

    def click(self, widget: QWidget, pos: QPoint | None = None) -> None:
        QTest.mouseClick(
            widget, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, pos or widget.rect().center()
        )

    def double_click(self, widget: QWidget) -> None:
        """Click twice, with the events that Qt does with it."""
        button, modifier, pos = (
            Qt.MouseButton.LeftButton,
            Qt.KeyboardModifier.NoModifier,
            widget.rect().center(),
        )
        QTest.mouseClick(widget, button, modifier, pos)
        QTest.mouseDClick(widget, button, modifier, pos)
        QTest.mouseRelease(widget, button, modifier, pos)

    def at(self, row: float, col: float) -> QPoint:
        """Return the point of the canvas where a pixel of the image is shown."""
        camera = self.viewer.scene.camera if hasattr(self.viewer, "scene") else self.viewer.camera
        size, center = self.canvas.size(), camera.center[-2:]
        return QPoint(
            round(size.width() / 2 + (col - center[1]) * camera.zoom),
            round(size.height() / 2 + (row - center[0]) * camera.zoom),
        )

    def click_image(self, row: float, col: float, button: Qt.MouseButton = Qt.MouseButton.LeftButton) -> None:
        QTest.mouseClick(self.canvas, button, Qt.KeyboardModifier.NoModifier, self.at(row, col))

    def scroll(self, row: float, col: float, steps: int) -> None:
        """Turn the wheel over the image, away from the user for positive steps."""
        for _ in range(abs(steps)):
            turn_wheel(self.canvas, self.at(row, col), 120 if steps > 0 else -120)

    def drag(
        self,
        *places: tuple[float, float],
        modifier: Qt.KeyboardModifier = Qt.KeyboardModifier.NoModifier,
    ) -> None:
        """Drag the left button over the image."""
        button = Qt.MouseButton.LeftButton
        QTest.mouseMove(self.canvas, self.at(*places[0]))
        QTest.mousePress(self.canvas, button, modifier, self.at(*places[0]))
        for start, end in itertools.pairwise(places):
            for share in (0.25, 0.5, 0.75, 1.0):  # as a hand moves: a busy window skips some places
                row, col = (first + share * (last - first) for first, last in zip(start, end, strict=True))
                QTest.mouseMove(self.canvas, self.at(row, col))
                self.wait(10)
        QTest.mouseRelease(self.canvas, button, modifier, self.at(*places[-1]))


def make_images(folder: Path) -> Path:
    """Draw four images with a dark spot."""
    for number in range(4):
        image = np.full((*SHAPE, 3), 230, np.uint8)
        image[SPOT] = 40 + number
        Image.fromarray(image).save(folder / f"P{number + 1}.png")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "nevi"
    made.mkdir()
    return make_images(made)


@pytest.fixture
def window(
    qtbot: Any, make_napari_viewer: Callable[..., Viewer], network: Any, folder: Path, monkeypatch: Any
) -> Iterator[Window]:
    """A window in which the first of four images is open and outlined."""
    monkeypatch.setattr("os.fsync", lambda file: None)  # takes seconds on a busy disk
    monkeypatch.setattr(image_review, "PAUSE_MS", 5)
    viewer = make_napari_viewer(show=True)
    bench = Workbench(viewer)
    viewer.window.add_dock_widget(bench, name="LesionSeg", area="right")
    bench.annotator.setText("am")
    bench.panel(OutlinePanel).form.min_area.setValue(0)
    made = Window(qtbot, viewer, bench)
    made.main.resize(1300, 850)
    QApplication.setActiveWindow(made.main)
    qtbot.waitUntil(lambda: bench.panel(ModelPanel).models.loaded is not None, timeout=15_000)
    bench.open_folder(folder)
    qtbot.waitUntil(lambda: made.session is not None, timeout=15_000)
    made.shown("P1")
    qtbot.waitUntil(made.main.isActiveWindow, timeout=10_000)
    made.canvas.setFocus()
    yield made
    bench.close_study(ask=False)
    vars(made).clear()  # pytest keeps the object until napari has looked for windows that leak
