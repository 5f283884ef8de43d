"""Any sequence of real events in the window: what was signed is exactly the mask that was visible."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from napari.viewer import Viewer
from qtpy.QtCore import Qt
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import QApplication, QLineEdit
from tests.plugin.events.conftest import SHAPE, Window, make_images

from napari_lesionseg.plugin.workbench import image_review, verdict_guard
from napari_lesionseg.plugin.workbench.panels.base import ModelPanel, OutlinePanel
from napari_lesionseg.plugin.workbench.panels.queue import QueuePanel
from napari_lesionseg.plugin.workbench.widget import Workbench
from napari_lesionseg.study.events import Approved

EXAMPLES = int(os.environ.get("LESIONSEG_EVENT_EXAMPLES", "3"))
STEPS = int(os.environ.get("LESIONSEG_EVENT_STEPS", "15"))
KEYS = {
    "approve": Qt.Key.Key_W,
    "no lesion": Qt.Key.Key_F3,
    "reopen": Qt.Key.Key_F2,
    "back": Qt.Key.Key_Q,
    "previous": Qt.Key.Key_F7,
    "next": Qt.Key.Key_F8,
    "click tool": Qt.Key.Key_C,
    "negative": Qt.Key.Key_N,
    "brush": Qt.Key.Key_P,
    "eraser": Qt.Key.Key_E,
    "polygon": Qt.Key.Key_G,
    "smooth": Qt.Key.Key_S,
    "clear": Qt.Key.Key_0,
    "prediction": Qt.Key.Key_Y,
    "transform mode": Qt.Key.Key_7,
    "another class": Qt.Key.Key_M,
    "zoom": Qt.Key.Key_End,
    "fit": Qt.Key.Key_Home,
    "escape": Qt.Key.Key_Escape,
    "tab": Qt.Key.Key_Tab,
}
CONTROL = {"undo": Qt.Key.Key_Z, "redo": Qt.Key.Key_Y, "grid": Qt.Key.Key_G, "delete": Qt.Key.Key_Backspace}
PLACES = st.tuples(st.integers(2, SHAPE[0] - 3), st.integers(2, SHAPE[1] - 3))


class AnyEvents(RuleBasedStateMachine):
    """Hands that do anything in the window, and eyes that note what was on the screen at each verdict."""

    open_window: Callable[[], Window]
    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.window: Any = None

    @initialize()
    def begin(self) -> None:
        self.window = type(self).open_window()
        self.signed: list[tuple[str, np.ndarray]] = []
        self.window.session.save_queue.save_mask = self.watch(self.window.session.save_queue.save_mask)

    def watch(self, save_mask: Callable[..., None]) -> Callable[..., None]:
        """Note what can be seen at the moment of an approval, independently of the editor."""

        def save(kind: str, image_id: str, mask: np.ndarray, *more: Any) -> None:
            if kind == "approval":
                window, labels = self.window, self.window.labels
                assert window.session.image_id == image_id
                assert labels.visible
                assert labels.opacity > 0
                assert window.editor.image.visible
                assert window.viewer.dims.ndisplay == 2
                place = [np.asarray(getattr(labels, name)) for name in ("scale", "translate")]
                assert [list(values) for values in place] == [[1, 1], [0, 0]]
                np.testing.assert_array_equal(mask, labels.data)
                self.signed.append((image_id, labels.data.copy()))
            save_mask(kind, image_id, mask, *more)

        return save

    @property
    def ready(self) -> bool:
        return self.window is not None and self.window.session.editor is not None

    @precondition(lambda self: self.window is not None)
    @rule(name=st.sampled_from(sorted(KEYS)))
    def press(self, name: str) -> None:
        self.window.key(KEYS[name])

    @precondition(lambda self: self.window is not None)
    @rule(name=st.sampled_from(sorted(CONTROL)))
    def press_with_control(self, name: str) -> None:
        self.window.key(CONTROL[name], Qt.KeyboardModifier.ControlModifier)

    @precondition(lambda self: self.window is not None)
    @rule()
    def hold_the_key_to_approve(self) -> None:
        target = QApplication.focusWidget() or self.window.canvas
        for repeated in (False, True, True):
            event = QKeyEvent(
                QKeyEvent.Type.KeyPress, Qt.Key.Key_W, Qt.KeyboardModifier.NoModifier, "w", repeated
            )
            QApplication.sendEvent(target, event)
            self.window.wait(15)

    @precondition(lambda self: self.window is not None)
    @rule()
    def look(self) -> None:
        self.window.look()

    @precondition(lambda self: self.ready)
    @rule()
    def look_and_approve(self) -> None:
        self.window.look()
        self.window.key(Qt.Key.Key_W)

    @precondition(lambda self: self.window is not None)
    @rule(name=st.sampled_from(["approve", "no_lesion", "back"]), twice=st.booleans())
    def click_a_button(self, name: str, twice: bool) -> None:
        button = getattr(self.window.bar, name)
        (self.window.double_click if twice else self.window.click)(button)

    @precondition(lambda self: self.ready)
    @rule(place=PLACES)
    def click_the_image(self, place: tuple[int, int]) -> None:
        self.window.click_image(*place)

    @precondition(lambda self: self.ready)
    @rule(first=PLACES, last=PLACES)
    def drag_over_the_image(self, first: tuple[int, int], last: tuple[int, int]) -> None:
        self.window.drag(first, last)

    @precondition(lambda self: self.window is not None)
    @rule()
    def focus_a_field(self) -> None:
        self.window.click(self.window.bench.panel(QueuePanel).search)
        self.window.key(Qt.Key.Key_Escape)

    @precondition(lambda self: self.window is not None)
    @rule(given=st.booleans(), by_key=st.booleans())
    def flag(self, given: bool, by_key: bool) -> None:
        dialog = SimpleNamespace(getText=lambda *words: ("hair?", given))
        with patch("napari_lesionseg.plugin.workbench.panels.review_bar.QInputDialog", dialog):
            if by_key:
                self.window.key(Qt.Key.Key_F4)
            else:
                self.window.click(self.window.bar.flag)

    @precondition(lambda self: self.window is not None)
    @rule(key=st.sampled_from(sorted(KEYS)))
    def work_in_another_window(self, key: str) -> None:
        signed, other = len(self.signed), QLineEdit()
        other.show()
        QApplication.setActiveWindow(other)
        other.setFocus()
        self.window.key(KEYS[key])
        other.close()
        assert len(self.signed) == signed
        QApplication.setActiveWindow(self.window.main)

    @precondition(lambda self: self.ready)
    @rule(name=st.sampled_from(["am", "bk"]))
    def change_the_annotator(self, name: str) -> None:
        dialog = SimpleNamespace(getText=lambda parent, title, question, text: (name, True))
        with patch("napari_lesionseg.plugin.workbench.annotator.QInputDialog", dialog):
            self.window.bench.change_annotator()
        self.window.qtbot.waitUntil(lambda: self.window.session is not None, timeout=20_000)
        assert self.window.session.study.annotator == name
        self.window.session.save_queue.save_mask = self.watch(self.window.session.save_queue.save_mask)
        self.window.qtbot.waitUntil(lambda: self.ready, timeout=20_000)

    @precondition(lambda self: self.window is not None)
    @rule(threshold=st.integers(10, 90))
    def move_the_slider(self, threshold: int) -> None:
        self.window.bench.panel(OutlinePanel).form.threshold.slider.setValue(threshold)

    @precondition(lambda self: self.window is not None)
    @rule(width=st.integers(900, 1400), height=st.integers(600, 900))
    def resize(self, width: int, height: int) -> None:
        self.window.main.resize(width, height)

    @precondition(lambda self: self.ready)
    @rule(what=st.sampled_from(["outline", "image"]), visible=st.booleans())
    def hide_or_show_a_layer(self, what: str, visible: bool) -> None:
        (self.window.labels if what == "outline" else self.window.editor.image).visible = visible

    @precondition(lambda self: self.ready)
    @rule(opacity=st.sampled_from([0.0, 0.7]))
    def set_the_opacity(self, opacity: float) -> None:
        self.window.labels.opacity = opacity

    @precondition(lambda self: self.ready)
    @rule()
    def rename_the_outline(self) -> None:
        self.window.labels.name = "mine"

    @precondition(lambda self: self.ready)
    @rule(shift=st.integers(1, 20))
    def move_the_outline(self, shift: int) -> None:
        self.window.labels.translate = (shift, 0)

    @precondition(lambda self: self.ready)
    @rule()
    def add_and_remove_a_layer_above(self) -> None:
        covering = self.window.viewer.add_image(np.zeros((*SHAPE, 3), np.uint8), rgb=True)
        self.window.key(Qt.Key.Key_W)
        self.window.viewer.layers.remove(covering)
        if self.ready:
            self.window.viewer.layers.selection.active = self.window.labels

    @precondition(lambda self: self.ready)
    @rule()
    def delete_the_outline(self) -> None:
        session = self.window.session
        name = session.image_id
        self.window.viewer.layers.remove(self.window.labels)
        self.window.wait(30)
        session.open_image(name)

    @invariant()
    def what_was_signed_was_visible(self) -> None:
        if self.window is None:
            return
        AnyEvents.steps += 1
        self.window.wait(10)
        if not self.signed:
            return
        self.window.saved()
        study = self.window.session.study
        for image_id in {name for name, _ in self.signed}:
            seen = [mask for name, mask in self.signed if name == image_id]
            kept = [entry for entry in study.history(image_id) if isinstance(entry, Approved)]
            assert len(kept) == len(seen)
            for entry, mask in zip(kept, seen, strict=True):
                np.testing.assert_array_equal(study.read_revision(entry), mask)

    def teardown(self) -> None:
        if self.window is not None:
            self.window.bench.close_study(ask=False)
            self.window = None


def test_what_was_signed_is_what_was_visible(
    qtbot: Any,
    make_napari_viewer: Callable[..., Viewer],
    network: Any,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One window serves all examples, each with a study of its own."""
    monkeypatch.setattr("os.fsync", lambda file: None)
    monkeypatch.setattr(image_review, "PAUSE_MS", 5)
    monkeypatch.setattr(verdict_guard, "SEEN_SECONDS", 0.1)
    viewer = make_napari_viewer(show=True)
    bench = Workbench(viewer)
    viewer.window.add_dock_widget(bench, name="LesionSeg", area="right")
    bench.annotator.setText("am")
    bench.panel(OutlinePanel).form.min_area.setValue(0)
    qtbot.waitUntil(lambda: bench.panel(ModelPanel).models.loaded is not None, timeout=15_000)

    def open_window() -> Window:
        made = Window(qtbot, viewer, bench)
        bench.open_folder(make_images(Path(tmp_path_factory.mktemp("nevi"))))
        qtbot.waitUntil(lambda: bench.session is not None, timeout=15_000)
        made.shown("P1")
        QApplication.setActiveWindow(made.main)
        made.canvas.setFocus()
        return made

    monkeypatch.setattr(AnyEvents, "open_window", staticmethod(open_window), raising=False)
    run_state_machine_as_test(
        AnyEvents,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            phases=[Phase.reuse, Phase.generate],
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
