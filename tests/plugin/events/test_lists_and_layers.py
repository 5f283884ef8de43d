"""Clicks, double clicks and drags over lists and over napari's layer docks: keys work, nothing is changed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QKeySequence, QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSlider,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QLineEdit,
    QListView,
    QStyle,
    QStyleOptionViewItem,
    QWidget,
)

from napari_lesionseg.plugin.editor.tools import SELECTABLE, TOOLS
from napari_lesionseg.plugin.instances.panel import InstancesPanel
from napari_lesionseg.plugin.layout import layer_docks
from napari_lesionseg.plugin.workbench.classes import CorrectSection
from napari_lesionseg.plugin.workbench.panels.queue import QueuePanel

LEFT, NONE = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
CTRL = Qt.KeyboardModifier.ControlModifier


def sweep(widget: QWidget, *places: QPoint) -> None:
    """Press the left button at the first place, move over the others, and release at the last."""
    QTest.mousePress(widget, LEFT, NONE, places[0])
    for place in places[1:]:
        where = QPointF(place), QPointF(widget.mapToGlobal(place))
        move = QMouseEvent(QEvent.Type.MouseMove, *where, Qt.MouseButton.NoButton, LEFT, NONE)
        QApplication.sendEvent(widget, move)
        QTest.qWait(10)
    QTest.mouseRelease(widget, LEFT, NONE, places[-1])


def double_click(widget: QWidget, place: QPoint) -> None:
    QTest.mouseClick(widget, LEFT, NONE, place)
    QTest.mouseDClick(widget, LEFT, NONE, place)
    QTest.mouseRelease(widget, LEFT, NONE, place)


def press(window: Any, key: str) -> None:
    """Press a key of the table of tools where the focus is."""
    combination = QKeySequence(key)[0]
    window.key(combination.key(), combination.keyboardModifiers())


def is_free(window: Any) -> bool:
    """Whether keys go to the canvas; the main window passes on all it gets."""
    return QApplication.focusWidget() in (window.canvas, window.main)


def check_keys(window: Any) -> None:
    """Try the keys of all tools that stay selected, of the view, and of all verdicts, and undo these."""
    assert is_free(window), QApplication.focusWidget()
    mask, reviewed, name = window.mask.copy(), window.reviewed(), window.name
    tools = window.bench.panel(CorrectSection).tools
    tools.mouse.start("off")
    window.labels.mode = "pan_zoom"
    for tool in TOOLS:
        if isinstance(tool.function, SELECTABLE):
            press(window, tool.key)
            assert tool.function.is_selected(tools._context), tool.id
            press(window, tool.key)
            assert not tool.function.is_selected(tools._context), tool.id
    camera = window.viewer.scene.camera
    press(window, "Home")
    fitted = camera.zoom
    press(window, "End")
    assert camera.zoom != fitted
    press(window, "Home")
    assert camera.zoom == pytest.approx(fitted)
    assert np.array_equal(window.mask, mask)
    for key in (Qt.Key.Key_W, Qt.Key.Key_F3):
        window.look()
        window.key(key)
        window.qtbot.waitUntil(lambda: window.editor is not None and window.name != name, timeout=20_000)
        window.key(Qt.Key.Key_Z, CTRL)
        window.shown(name)
        assert window.reviewed() == reviewed
    window.key(Qt.Key.Key_F8)
    window.qtbot.waitUntil(lambda: window.editor is not None and window.name != name, timeout=20_000)
    window.key(Qt.Key.Key_Q)
    window.shown(name)
    assert np.array_equal(window.mask, mask)


def selected_rows(view: QAbstractItemView) -> list[int]:
    return [index.row() for index in view.selectionModel().selectedRows()]


def test_a_drag_over_the_images_marks_only_the_one_on_the_screen(window: Any) -> None:
    table = window.bench.panel(QueuePanel).table
    places = [table.visualRect(table.model().index(row, 1)).center() for row in range(3)]
    for gesture in (places, places[::-1], [places[2], places[0], places[2]]):
        sweep(table.viewport(), *gesture)
        window.qtbot.waitUntil(lambda: window.editor is not None, timeout=20_000)
        shown = table.model().image_at(selected_rows(table)[0])
        assert shown == window.session.image_id
        window.shown(window.name)
    assert window.reviewed() == []
    assert window.name == "P3"  # where the last drag began and ended, as a click does
    check_keys(window)


def test_a_double_click_on_an_image_opens_that_one(window: Any) -> None:
    """The list scrolls as the image is opened, and the second click is on another row."""
    window.main.resize(1000, 500)
    table = window.bench.panel(QueuePanel).table
    window.wait(100)
    bottom = QPoint(20, table.viewport().height() - 3)
    row = table.indexAt(bottom).row()
    assert 0 < row < 3
    name = table.model().data(table.model().index(row, 0))
    QTest.mouseClick(table.viewport(), LEFT, NONE, bottom)
    window.shown(name)
    QTest.mouseDClick(table.viewport(), LEFT, NONE, bottom)
    QTest.mouseRelease(table.viewport(), LEFT, NONE, bottom)
    window.wait(100)
    window.qtbot.waitUntil(lambda: window.editor is not None, timeout=20_000)
    assert window.name == name
    check_keys(window)


def test_a_drag_over_headings_signs_and_opens_nothing(window: Any) -> None:
    table = window.bench.panel(QueuePanel).table
    header = table.horizontalHeader()
    middle = header.height() // 2
    columns = [header.sectionViewportPosition(column) + 5 for column in (0, 1, 2)]
    sweep(header.viewport(), *(QPoint(across, middle) for across in (*columns, *columns[::-1])))
    double_click(header.viewport(), QPoint(columns[1], middle))
    window.wait(50)
    assert window.name == "P1"
    assert window.reviewed() == []
    check_keys(window)


def list_lesions(window: Any) -> Any:
    """Number the two lesions of the outline in the dock *Single lesions*."""
    window.labels.data_setitem(np.nonzero(window.mask), 0)
    window.labels.data_setitem(np.nonzero(np.pad(np.ones((20, 20)), ((10, 90), (10, 130)))), 1)
    window.labels.data_setitem(np.nonzero(np.pad(np.ones((30, 30)), ((60, 30), (100, 30)))), 1)
    panel = InstancesPanel(window.viewer)
    window.viewer.window.add_dock_widget(panel, name="Single lesions", area="right")
    window.qtbot.waitUntil(panel.isVisible)
    window.click(panel.numbering.button)
    window.qtbot.waitUntil(
        lambda: panel.current is not None and len(panel.current.model.rows) == 2, timeout=30_000
    )
    return panel


def test_the_window_keeps_its_size_when_the_study_is_closed_beside_the_list_of_lesions(window: Any) -> None:
    # The buttons to start with were shown before the panels of the study were hidden. The window grew while
    # a layer was drawn, which crashes some drivers.
    list_lesions(window)
    window.wait(100)
    size = window.main.size()
    window.bench.close_study(ask=False)
    assert window.main.size() == size


def test_the_list_of_lesions_leaves_keys_and_outline_alone(window: Any) -> None:
    panel = list_lesions(window)
    lesions, table = panel.current.labels.data.copy(), panel.table
    outline = window.mask.copy()
    places = [table.visualRect(table.model().index(row, 1)).center() for row in range(2)]
    for gesture in (
        lambda: QTest.mouseClick(table.viewport(), LEFT, NONE, places[0]),
        lambda: sweep(table.viewport(), *places, places[0], places[1]),
        lambda: double_click(table.viewport(), places[1]),
    ):
        gesture()
        window.wait(50)
        assert is_free(window), QApplication.focusWidget()
        assert np.array_equal(panel.current.labels.data, lesions)
        assert np.array_equal(window.mask, outline)
    assert panel.table.selected == (2,)
    window.key(Qt.Key.Key_Delete)  # the selected lesion, of the layer that is active
    window.qtbot.waitUntil(lambda: not panel.current.is_busy and len(panel.current.model.rows) == 1)
    window.key(Qt.Key.Key_Z, CTRL)
    window.qtbot.waitUntil(lambda: np.array_equal(panel.current.labels.data, lesions))
    check_keys(window)
    window.viewer.window.remove_dock_widget(panel)


def test_a_number_is_typed_into_the_list_of_lesions(window: Any) -> None:
    panel = list_lesions(window)
    table = panel.table
    place = table.visualRect(table.model().index(0, 0)).center()
    QTest.mouseClick(table.viewport(), LEFT, NONE, place)
    window.wait(QApplication.doubleClickInterval() + 100)  # else it is a double click
    QTest.mouseClick(table.viewport(), LEFT, NONE, place)
    window.qtbot.waitUntil(lambda: isinstance(QApplication.focusWidget(), QAbstractSpinBox | QLineEdit))
    for key in (Qt.Key.Key_9, Qt.Key.Key_Return):
        QTest.keyClick(QApplication.focusWidget(), key)
    window.qtbot.waitUntil(lambda: 9 in {row.index for row in panel.current.model.rows}, timeout=10_000)
    window.qtbot.waitUntil(lambda: is_free(window))
    assert window.reviewed() == []
    window.viewer.window.remove_dock_widget(panel)


def layer_list(window: Any) -> QListView:
    found = [view for dock in layer_docks(window.bench) for view in dock.findChildren(QListView)]
    return next(view for view in found if view.toolTip() == "Layer list")


def place_of(window: Any, layer: Any) -> QPoint:
    """Return where the name of a layer is in the layer list."""
    view = layer_list(window)
    rows = range(view.model().rowCount())
    row = next(row for row in rows if view.model().index(row, 0).data() == layer.name)
    return view.visualRect(view.model().index(row, 0)).center()


def eye_of(window: Any, layer: Any) -> QPoint:
    """Return where the eye of a layer is in the layer list."""
    view, option = layer_list(window), QStyleOptionViewItem()
    index = view.indexAt(place_of(window, layer))
    view.initViewItemOption(option)
    option.rect = view.visualRect(index)
    view.itemDelegate().initStyleOption(option, index)
    check_box = QStyle.SubElement.SE_ItemViewItemCheckIndicator
    return view.style().subElementRect(check_box, option, view).center()


@pytest.mark.parametrize("which", ["outline", "image"])
def test_keys_work_after_clicks_in_the_layer_list(window: Any, which: str) -> None:
    layer = window.labels if which == "outline" else window.editor.image
    view, mask = layer_list(window).viewport(), window.mask.copy()
    QTest.mouseClick(view, LEFT, NONE, place_of(window, layer))
    assert window.viewer.layers.selection.active is layer
    check_keys(window)
    assert np.array_equal(window.mask, mask)
    assert window.viewer.layers.selection.active is window.labels  # which the keys of the tools select


def test_a_layer_is_renamed_and_the_keys_work(window: Any) -> None:
    view = layer_list(window).viewport()
    for key, expected in ((Qt.Key.Key_Escape, "P1 outline"), (Qt.Key.Key_Return, "w")):
        double_click(view, place_of(window, window.labels))
        window.qtbot.waitUntil(lambda: isinstance(QApplication.focusWidget(), QLineEdit))
        window.key(Qt.Key.Key_W)  # is typed, and approves nothing
        window.key(key)
        window.qtbot.waitUntil(lambda: is_free(window))
        assert window.labels.name == expected
    assert window.reviewed() == []
    check_keys(window)


def test_a_click_on_the_eye_hides_the_outline_which_is_not_signed_then(window: Any) -> None:
    view = layer_list(window).viewport()
    eye = eye_of(window, window.labels)
    QTest.mouseClick(view, LEFT, NONE, eye)
    assert not window.labels.visible
    window.look()
    window.key(Qt.Key.Key_W)
    assert "hidden" in window.bar.message.text()
    assert window.reviewed() == []
    double_click(view, eye)  # hides and shows
    if not window.labels.visible:
        QTest.mouseClick(view, LEFT, NONE, eye)
    assert window.labels.visible
    check_keys(window)


@pytest.mark.skipif(shutil.which("xdotool") is None, reason="needs xdotool")
def test_a_layer_that_was_dragged_over_the_outline_is_noticed(window: Any) -> None:
    """Qt runs a loop of its own while a layer is dragged, so the mouse must be a real one."""
    view = layer_list(window).viewport()
    image, labels = (place_of(window, layer) for layer in (window.editor.image, window.labels))
    start, end = view.mapToGlobal(image), view.mapToGlobal(QPoint(labels.x(), labels.y() - 15))
    words = ["mousemove", str(start.x()), str(start.y()), "sleep", "0.2", "mousedown", "1"]
    for step in range(1, 11):
        place = start + (end - start) * step / 10
        words += ["sleep", "0.1", "mousemove", str(place.x()), str(place.y())]
    with subprocess.Popen(["xdotool", *words, "sleep", "0.3", "mouseup", "1"]) as hands:
        window.qtbot.waitUntil(lambda: hands.poll() is not None, timeout=30_000)
    window.wait(300)
    window.look()
    if list(window.viewer.layers)[-1] is window.editor.image:
        window.key(Qt.Key.Key_W)
        assert "covers" in window.bar.message.text()
        assert window.reviewed() == []
        window.viewer.layers.reverse()
        window.look()
    check_keys(window)


def shown_in_docks(window: Any, *kinds: type[QWidget]) -> list[Any]:
    """Return what can be clicked in napari's layer docks: those of the outline, or of its image."""
    docks = layer_docks(window.bench)
    found = [widget for dock in docks for widget in dock.widget().findChildren(QWidget)]
    return [
        widget for widget in found if isinstance(widget, kinds) and widget.isVisible() and widget.isEnabled()
    ]


def click_buttons(window: Any) -> None:
    """Click each button, among them those that delete layers and change the tool, once and twice."""
    for button in shown_in_docks(window, QAbstractButton):
        if "onsole" not in button.toolTip():  # it opens another dock, where words are typed
            window.double_click(button)
            window.wait(20)


def drag_sliders(window: Any) -> None:
    for slider in shown_in_docks(window, QAbstractSlider):
        ends = [QPoint(across, slider.height() // 2) for across in (3, slider.width() // 2, slider.width())]
        sweep(slider, *ends, *ends[::-1], *ends)
        double_click(slider, slider.rect().center())


def open_lists(window: Any) -> None:
    for box in shown_in_docks(window, QComboBox):
        window.click(box)
        window.qtbot.waitUntil(box.view().isVisible)
        QTest.keyClick(box.view(), Qt.Key.Key_Down)
        QTest.keyClick(box.view(), Qt.Key.Key_Return)
        window.qtbot.waitUntil(lambda: not box.view().isVisible())  # noqa: B023


def turn_numbers(window: Any) -> None:
    for box in shown_in_docks(window, QAbstractSpinBox):
        window.click(box, QPoint(box.width() - 6, 5))
        double_click(box, QPoint(box.width() // 2, box.height() // 2))
        if not is_free(window):
            window.key(Qt.Key.Key_Escape)


GESTURES: dict[str, Callable[[Any], None]] = {
    "buttons": click_buttons,
    "sliders": drag_sliders,
    "lists": open_lists,
    "numbers": turn_numbers,
}


# napari keeps its window alive after a click on each button for images, which its fixture takes for a leak.
@pytest.mark.parametrize(
    ("what", "which"),
    [
        (what, which)
        for what in GESTURES
        for which in ("outline", "image")
        if (what, which) != ("buttons", "image")
    ],
)
def test_keys_work_after_layer_controls_were_used(window: Any, what: str, which: str) -> None:
    layer = window.labels if which == "outline" else window.editor.image
    image, labels, mask = window.editor.image, window.labels, window.mask.copy()
    window.viewer.layers.selection.active = layer
    window.wait(50)
    GESTURES[what](window)
    window.wait(50)
    assert {image, labels} <= set(window.viewer.layers)
    assert np.array_equal(window.mask, mask)
    assert window.reviewed() == []
    assert window.name == "P1"
    for added in set(window.viewer.layers) - {image, labels}:
        window.viewer.layers.remove(added)
    for shown in (image, labels):  # else it is not signed
        shown.visible, shown.opacity = True, 1.0
    labels.show_selected_label = False
    check_keys(window)
