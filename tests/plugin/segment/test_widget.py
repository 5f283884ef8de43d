from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from napari.layers import Image
from napari.settings import get_settings
from napari.utils import progress
from napari.utils.notifications import notification_manager
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import QAbstractButton, QAbstractSpinBox, QApplication, QComboBox, QSlider

from napari_lesionseg.errors import CheckpointError
from napari_lesionseg.plugin.segment import task
from napari_lesionseg.plugin.segment.widget import SegmentWidget, StudyRow
from napari_lesionseg.plugin.shortcuts import KEYS, LANDMARK_KEYS, key_of
from napari_lesionseg.plugin.widgets import postprocess_form
from napari_lesionseg.plugin.workbench.panels.start import NewStudyDialog
from napari_lesionseg.types import ByteImage


@pytest.fixture
def viewer(make_napari_viewer: Any) -> Any:
    notification_manager.records.clear()
    return make_napari_viewer()


@pytest.fixture
def widget(viewer: Any, network: Any, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> SegmentWidget:
    monkeypatch.setattr(postprocess_form, "SETTLE_MS", 1)
    _, made = viewer.window.add_plugin_dock_widget("napari-lesionseg", "Segment lesions")
    qtbot.waitUntil(lambda: "threads" in made.models.device.currentText(), timeout=20_000)
    return made


@pytest.fixture
def outline(widget: SegmentWidget, qtbot: QtBot) -> Any:
    """Press Segment and wait until all is done."""

    def press() -> None:
        widget.segment.click()
        qtbot.waitUntil(widget.segment.isEnabled, timeout=20_000)

    return press


def shown_errors() -> list[str]:
    return [record.message for record in notification_manager.records if str(record.severity) == "error"]


def test_without_an_image_the_button_says_why(widget: SegmentWidget) -> None:
    assert not widget.segment.isEnabled()
    assert "Open an image first" in widget.segment.toolTip()
    assert "Open an image first" in widget.status.text()
    assert not widget.cancel.isEnabled()
    assert "Nothing is being outlined" in widget.cancel.toolTip()


def test_an_image_is_outlined(viewer: Any, widget: SegmentWidget, outline: Any, spot: ByteImage) -> None:
    image = viewer.add_image(spot, rgb=True, name="IMD002")
    outline()
    assert [layer.name for layer in viewer.layers] == ["IMD002", "IMD002 outline"]
    labels = viewer.layers[1]
    assert labels.data.sum() == 20 * 25
    assert labels.contour > 0
    assert viewer.layers.selection.active is labels
    assert widget.images.images() == [image]
    assert widget.status.text() == "Outlined IMD002."
    assert not shown_errors()


def test_running_again_is_one_undoable_edit(
    viewer: Any, widget: SegmentWidget, outline: Any, spot: ByteImage
) -> None:
    viewer.add_image(spot, rgb=True)
    outline()
    labels = viewer.layers[1]
    labels.paint((2, 2), 1)
    painted = labels.data.copy()
    outline()
    assert len(viewer.layers) == 2
    assert labels.data.sum() == 20 * 25
    labels.undo()
    np.testing.assert_array_equal(labels.data, painted)


def test_the_slider_redraws_without_the_network_in_one_step(
    viewer: Any, widget: SegmentWidget, outline: Any, network: Any, qtbot: QtBot
) -> None:
    ramp = np.tile(np.linspace(0, 255, 100), (50, 1)).astype(np.uint8)
    viewer.add_image(ramp)
    outline()
    labels = viewer.layers[1]
    before = labels.data.copy()
    slider = widget.controls.threshold.slider
    slider.setSliderDown(True)
    for looseness in (50, 70, 80):
        slider.setValue(looseness)
        expected = int((1 - ramp / np.float32(255) >= 1 - looseness / 100).sum())
        qtbot.waitUntil(lambda expected=expected: abs(int(labels.data.sum()) - expected) <= 100)
    slider.setSliderDown(False)
    assert len(network.seen) == 1
    labels.undo()
    np.testing.assert_array_equal(labels.data, before)


def test_an_outline_keeps_its_own_settings(
    viewer: Any, widget: SegmentWidget, outline: Any, spot: ByteImage, qtbot: QtBot
) -> None:
    first = viewer.add_image(spot, rgb=True, name="first")
    outline()
    with qtbot.waitSignal(widget.controls.settled):
        widget.controls.threshold.slider.setValue(30)
    second = viewer.add_image(spot, rgb=True, name="second")
    assert widget.images.images() == [second]
    assert widget.controls.config.threshold is None
    viewer.layers.selection.active = first
    assert widget.controls.config.threshold == pytest.approx(0.7)


def test_a_setting_moved_for_several_images_leaves_the_others_of_each(
    viewer: Any, widget: SegmentWidget, outline: Any, spot: ByteImage, qtbot: QtBot
) -> None:
    images = [viewer.add_image(spot, rgb=True, name=name) for name in ("first", "second")]
    for image, looseness in zip(images, (30, 60), strict=True):
        viewer.layers.selection.active = image
        outline()
        with qtbot.waitSignal(widget.controls.settled):
            widget.controls.threshold.slider.setValue(looseness)
    widget.images.native.setCurrentIndex(widget.images.native.count() - 1)
    viewer.layers.selection = set(images)
    with qtbot.waitSignal(widget.controls.settled):
        widget.controls.min_area.setValue(5)
    configs = [widget._editors.editor_for(image).document.snapshot.config for image in images]
    assert [config.min_area for config in configs] == [5, 5]
    assert [config.threshold for config in configs] == pytest.approx([0.7, 0.4])


def test_settings_changed_during_a_run_are_used_in_the_end(
    viewer: Any, widget: SegmentWidget, network: Any, spot: ByteImage, qtbot: QtBot
) -> None:
    spot[0:20, 50:60] = 40
    viewer.add_image(spot, rgb=True)
    network.gate.clear()
    widget.segment.click()
    qtbot.waitUntil(network.started.is_set, timeout=20_000)
    widget.controls.largest_only.click()
    network.gate.set()
    qtbot.waitUntil(widget.segment.isEnabled, timeout=20_000)
    assert viewer.layers[1].data.sum() == 20 * 25 + 20 * 10


def test_the_models_own_threshold_is_known_after_a_run(
    viewer: Any, widget: SegmentWidget, outline: Any, spot: ByteImage
) -> None:
    viewer.add_image(spot, rgb=True)
    assert widget.controls.threshold.caption == "(default)"
    outline()
    assert widget.controls.threshold.caption == "0.60 (default)"


def test_all_selected_images_are_outlined(
    viewer: Any, widget: SegmentWidget, outline: Any, spot: ByteImage
) -> None:
    images = [viewer.add_image(spot, rgb=True, name=name) for name in "abc"]
    widget.images.native.setCurrentIndex(widget.images.native.count() - 1)
    viewer.layers.selection = {images[0], images[2]}
    assert widget.images.native.currentText() == "All selected images (2)"
    assert widget.segment.text() == "Segment 2 images"
    outline()
    assert [layer.name for layer in viewer.layers] == ["a", "a outline", "b", "c", "c outline"]
    assert widget.status.text() == "Outlined 2 images."
    assert widget.segment.text() == "Segment 2 images"


def test_with_nothing_selected_the_button_says_why(
    viewer: Any, widget: SegmentWidget, spot: ByteImage
) -> None:
    viewer.add_image(spot, rgb=True)
    widget.images.native.setCurrentIndex(widget.images.native.count() - 1)
    viewer.layers.selection.clear()
    assert not widget.segment.isEnabled()
    assert "Select images" in widget.segment.toolTip()


def test_the_list_of_images_follows_the_viewer(viewer: Any, widget: SegmentWidget, spot: ByteImage) -> None:
    first, second = (viewer.add_image(spot, rgb=True, name=name) for name in "ab")
    viewer.add_labels(np.zeros((4, 4), dtype=int))
    assert [widget.images.native.itemText(i) for i in range(widget.images.native.count())][:2] == ["a", "b"]
    first.name = "renamed"
    assert widget.images.native.itemText(0) == "renamed"
    assert widget.images.images() == [second]
    viewer.layers.move(0, 2)
    assert widget.images.images() == [second]
    viewer.layers.remove(second)
    assert widget.images.images() == [first]
    viewer.layers.clear()
    assert widget.images.images() == []
    assert not widget.segment.isEnabled()


def test_while_it_works_it_shows_progress_and_can_be_cancelled(
    viewer: Any, widget: SegmentWidget, network: Any, spot: ByteImage, qtbot: QtBot
) -> None:
    bars = len(progress._all_instances)
    viewer.add_image(np.stack([spot] * 3), rgb=True, name="stack")
    network.gate.clear()
    widget.segment.click()
    qtbot.waitUntil(network.started.is_set, timeout=20_000)
    assert not widget.segment.isEnabled()
    assert "Wait" in widget.segment.toolTip()
    assert not widget.progress_bar.isHidden()
    assert widget.progress_bar.maximum() == 3
    assert widget.status.text() == "Outlining stack"
    assert len(progress._all_instances) == bars + 1
    widget.cancel.click()
    assert "Stopping" in widget.status.text()
    network.gate.set()
    qtbot.waitUntil(widget.segment.isEnabled, timeout=20_000)
    assert widget.status.text() == "Canceled; nothing was changed."
    assert widget.progress_bar.isHidden()
    assert len(progress._all_instances) == bars
    assert len(viewer.layers) == 1


def test_errors_are_one_sentence(
    viewer: Any, widget: SegmentWidget, outline: Any, network: Any, spot: ByteImage
) -> None:
    network.error = RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
    viewer.add_image(spot, rgb=True)
    outline()
    (message,) = shown_errors()
    assert message.startswith("There is not enough memory")
    assert widget.status.text() == "Nothing was outlined."
    network.error = None
    outline()
    assert widget.status.text().startswith("Outlined")


def test_many_errors_are_one_notification(
    viewer: Any, widget: SegmentWidget, outline: Any, network: Any, spot: ByteImage
) -> None:
    network.error = RuntimeError("no kernel image")
    for _ in range(3):
        viewer.add_image(spot, rgb=True)
    viewer.layers.select_all()
    widget.images.native.setCurrentIndex(widget.images.native.count() - 1)
    outline()
    (message,) = shown_errors()
    assert message.endswith("(2 more did not work.)")


def test_a_damaged_model_leaves_the_loaded_one_in_place(
    viewer: Any,
    widget: SegmentWidget,
    outline: Any,
    network: Any,
    spot: ByteImage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    viewer.add_image(spot, rgb=True)
    outline()

    def refuse(choice: Any) -> None:
        raise CheckpointError("The model file is damaged.")

    monkeypatch.setattr(task, "load", refuse)
    widget.models.device.setCurrentIndex(1)
    outline()
    assert shown_errors() == ["The model file is damaged."]
    widget.models.device.setCurrentIndex(0)
    outline()
    assert widget.status.text().startswith("Outlined")


def test_outlines_can_be_filled(viewer: Any, widget: SegmentWidget, outline: Any, spot: ByteImage) -> None:
    viewer.add_image(spot, rgb=True)
    outline()
    widget.shown_as.filled.click()
    assert viewer.layers[1].contour == 0
    widget.shown_as.contour.click()
    assert viewer.layers[1].contour > 0


def test_deleting_the_outline_allows_a_new_start(
    viewer: Any, widget: SegmentWidget, outline: Any, spot: ByteImage
) -> None:
    viewer.add_image(spot, rgb=True)
    outline()
    del viewer.layers[1]
    widget.controls.threshold.slider.setValue(20)
    widget.controls.settled.emit()
    outline()
    assert len(viewer.layers) == 2


def test_closing_the_viewer_during_a_run_writes_nothing(
    viewer: Any, widget: SegmentWidget, network: Any, spot: ByteImage, qtbot: QtBot
) -> None:
    image = viewer.add_image(spot, rgb=True)
    network.gate.clear()
    widget.segment.click()
    qtbot.waitUntil(network.started.is_set, timeout=20_000)
    run = widget._task
    viewer.close()
    network.gate.set()
    qtbot.waitUntil(lambda: not running_workers(), timeout=20_000)
    QApplication.processEvents()
    assert not run.done
    assert not run.errors
    assert image not in viewer.layers
    assert not shown_errors()


def running_workers() -> set:
    from superqt.utils._qthreading import WorkerBase

    return WorkerBase._worker_set


def test_removing_the_widget_ends_its_work(
    viewer: Any, widget: SegmentWidget, network: Any, spot: ByteImage, qtbot: QtBot
) -> None:
    viewer.add_image(spot, rgb=True)
    network.gate.clear()
    widget.segment.click()
    qtbot.waitUntil(network.started.is_set, timeout=20_000)
    run = widget._task
    viewer.window.remove_dock_widget(widget)
    widget.deleteLater()
    qtbot.waitUntil(lambda: run.cancelled, timeout=20_000)
    network.gate.set()
    qtbot.waitUntil(lambda: not running_workers(), timeout=20_000)
    viewer.add_image(spot, rgb=True)
    assert all(isinstance(layer, Image) for layer in viewer.layers)
    assert not shown_errors()


def test_every_control_has_a_tooltip_with_its_key(widget: SegmentWidget) -> None:
    kinds = (QAbstractButton, QSlider, QComboBox, QAbstractSpinBox)
    inputs = [child for kind in kinds for child in widget.findChildren(kind)]
    inputs.remove(widget.findChild(StudyRow).button)  # it is in the menu File as well
    assert len(inputs) == 12
    for child in inputs:
        assert child.toolTip().endswith(tuple(f"({key_of(action)})" for action in KEYS)), child


def test_no_key_of_the_window_is_given_twice_nor_taken_by_napari(viewer: Any) -> None:
    from napari._app_model import get_app_model

    # Landmarks are in a layer of their own, and have the keys for undo and redo that outlines have.
    keys = [key for action, key in KEYS.items() if action not in LANDMARK_KEYS]
    own = [QKeySequence(key).toString() for key in keys if "+" in key]
    menus = [action.text() for action in viewer.window._qt_window.menuBar().actions()]
    theirs = {f"Alt+{text.split('&')[1][0].upper()}" for text in menus if "&" in text}
    theirs |= {str(rule.keybinding) for rule in get_app_model().keybindings}
    theirs |= {str(key) for keys in get_settings().shortcuts.shortcuts.values() for key in keys}
    assert len(own) == len(set(own))
    assert len(theirs) > 50
    assert theirs.isdisjoint(own)


def test_it_works_by_keys_from_the_canvas(
    make_napari_viewer: Any, network: Any, spot: ByteImage, qtbot: QtBot
) -> None:
    viewer = make_napari_viewer(show=True)
    viewer.add_image(spot, rgb=True)
    _, widget = viewer.window.add_plugin_dock_widget("napari-lesionseg", "Segment lesions")
    window, canvas = viewer.window._qt_window, viewer.window._qt_viewer.canvas.native
    window.activateWindow()
    qtbot.waitUntil(window.isActiveWindow)
    qtbot.keyClick(canvas, Qt.Key_Return, Qt.ControlModifier)
    qtbot.waitUntil(lambda: len(viewer.layers) == 2, timeout=20_000)
    labels = viewer.layers[1]
    assert labels.data.any()
    qtbot.keyClick(canvas, Qt.Key_R, Qt.AltModifier)
    assert widget.controls.threshold.slider.hasFocus()
    outlined = labels.data.copy()
    labels.paint((2, 2), 1)
    qtbot.keyClick(widget.controls.threshold.slider, Qt.Key_Z, Qt.ControlModifier)
    np.testing.assert_array_equal(labels.data, outlined)


def test_it_fits_a_small_screen(widget: SegmentWidget) -> None:
    hint = widget.minimumSizeHint()
    assert hint.width() <= 360
    assert hint.height() <= 500


def test_decisions_are_made_in_a_study_of_the_open_images(
    viewer: Any, widget: SegmentWidget, outline: Any, spot: ByteImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer.add_image(spot, rgb=True, name="IMD002")
    outline()
    offered: list[str] = []
    monkeypatch.setattr(NewStudyDialog, "exec", lambda dialog: offered.append(dialog.from_viewer.text()))
    row = widget.findChild(StudyRow)
    assert "approve" in row.text.text()
    row.button.click()
    assert offered == ["From the viewer (1)"]
