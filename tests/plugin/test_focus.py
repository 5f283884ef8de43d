"""The mouse leaves the keyboard focus on the canvas, in whatever is in a dock, or is added to it later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from napari.layers import Points
from pytestqt.qtbot import QtBot
from qtpy.compat import isalive
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import (
    QAbstractItemView,
    QApplication,
    QComboBox,
    QDialog,
    QLineEdit,
    QListView,
    QListWidget,
    QPushButton,
    QSlider,
    QSpinBox,
    QTableWidget,
    QVBoxLayout,
    QWidget,
)

from napari_lesionseg.plugin.focus import DockFocus
from napari_lesionseg.plugin.layout import layer_docks

LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def shown(qtbot: QtBot, make_napari_viewer: Any) -> Iterator[Any]:
    """A window with a dock, and the keys that reach the viewer."""
    viewer = make_napari_viewer(show=True)
    viewer.add_points([[1, 2]], name="moles")
    dock = QWidget()
    column = QVBoxLayout(dock)
    viewer.window.add_dock_widget(dock)
    pressed: list[str] = []
    viewer.bind_key("C", lambda viewer: pressed.append("C"), overwrite=True)
    main, canvas = viewer.window._qt_window, viewer.window._qt_viewer.canvas.native
    QApplication.setActiveWindow(main)
    qtbot.waitUntil(main.isActiveWindow, timeout=10_000)
    canvas.setFocus()
    made = SimpleNamespace(viewer=viewer, main=main, canvas=canvas, dock=dock, column=column, pressed=pressed)
    yield made
    viewer.keymap.clear()
    vars(made).clear()  # pytest keeps the object until napari has looked for windows that leak


def is_free(shown: Any) -> bool:
    """Whether keys go to the canvas; the main window passes on all it gets."""
    return QApplication.focusWidget() in (shown.canvas, shown.main)


def filled(kind: type[QWidget]) -> QWidget:
    """Make a widget with something in it."""
    made = kind()
    if isinstance(made, QComboBox | QListWidget):
        made.addItems(["cat", "dog"])
    if isinstance(made, QAbstractItemView):
        made.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
    if isinstance(made, QTableWidget):
        made.setRowCount(3)
        made.setColumnCount(1)
    return made


@pytest.mark.parametrize("kind", [QPushButton, QSlider, QListWidget, QTableWidget])
@pytest.mark.parametrize("nested", [False, True])
def test_keys_work_after_a_click_on_what_was_added_later(
    qtbot: QtBot, shown: Any, kind: type[QWidget], nested: bool
) -> None:
    container = QWidget()
    inside = QVBoxLayout(container)
    shown.column.addWidget(container)
    DockFocus(shown.dock)
    qtbot.wait(50)
    widget = filled(kind)
    (inside if nested else shown.column).addWidget(widget)
    qtbot.waitUntil(widget.isVisible)
    qtbot.wait(50)
    target = widget.viewport() if isinstance(widget, QListWidget | QTableWidget) else widget
    QTest.mouseClick(target, LEFT)
    QTest.mouseDClick(target, LEFT)
    assert is_free(shown), QApplication.focusWidget()
    QTest.keyClick(QApplication.focusWidget(), Qt.Key.Key_C)
    assert shown.pressed == ["C"]


def test_a_list_that_drops_down_returns_the_focus(qtbot: QtBot, shown: Any) -> None:
    DockFocus(shown.dock)
    box = filled(QComboBox)
    shown.column.addWidget(box)
    qtbot.waitUntil(box.isVisible)
    qtbot.wait(50)
    QTest.mouseClick(box, LEFT)
    qtbot.waitUntil(box.view().isVisible)
    second = box.view().visualRect(box.model().index(1, 0)).center()
    qtbot.wait(QApplication.doubleClickInterval())  # else Qt takes it for the end of the first click
    QTest.mouseMove(box.view().viewport(), second)
    QTest.mouseClick(box.view().viewport(), LEFT, pos=second)
    qtbot.waitUntil(lambda: not box.view().isVisible())
    assert box.currentText() == "dog"
    qtbot.waitUntil(lambda: is_free(shown))


def test_a_list_that_is_chosen_from_by_keyboard_keeps_the_focus(qtbot: QtBot, shown: Any) -> None:
    DockFocus(shown.dock)
    box = filled(QComboBox)
    shown.column.addWidget(box)
    qtbot.waitUntil(box.isVisible)
    box.setFocus(Qt.FocusReason.TabFocusReason)
    QTest.keyClick(box, Qt.Key.Key_Down)
    assert box.currentText() == "dog"
    assert box.hasFocus()
    QTest.keyClick(box, Qt.Key.Key_Escape)
    assert is_free(shown)


@pytest.mark.parametrize("make", [QLineEdit, QSpinBox, lambda: QComboBox(editable=True)])
def test_a_field_that_was_added_later_is_typed_into_and_left(
    qtbot: QtBot, shown: Any, make: Callable[[], QWidget]
) -> None:
    DockFocus(shown.dock)
    field = make()
    shown.column.addWidget(field)
    qtbot.waitUntil(field.isVisible)
    qtbot.wait(50)
    QTest.mouseClick(field.lineEdit() if hasattr(field, "lineEdit") else field, LEFT)
    assert field.hasFocus()
    QTest.keyClick(QApplication.focusWidget(), Qt.Key.Key_7)
    QTest.keyClick(QApplication.focusWidget(), Qt.Key.Key_Return)
    text = field.currentText() if isinstance(field, QComboBox) else field.text()
    assert "7" in text
    assert is_free(shown)


def test_an_entry_that_was_edited_returns_the_focus(qtbot: QtBot, shown: Any) -> None:
    DockFocus(shown.dock)
    table = filled(QTableWidget)
    table.setEditTriggers(QAbstractItemView.EditTrigger.DoubleClicked)
    shown.column.addWidget(table)
    qtbot.waitUntil(table.isVisible)
    qtbot.wait(50)
    for key, text in ((Qt.Key.Key_Escape, ""), (Qt.Key.Key_Return, "7")):
        where = table.visualRect(table.model().index(0, 0)).center()
        QTest.mouseClick(table.viewport(), LEFT, pos=where)
        QTest.mouseDClick(table.viewport(), LEFT, pos=where)
        qtbot.waitUntil(lambda: isinstance(QApplication.focusWidget(), QLineEdit))
        QTest.keyClick(QApplication.focusWidget(), Qt.Key.Key_7)
        QTest.keyClick(QApplication.focusWidget(), key)
        qtbot.waitUntil(lambda: is_free(shown))
        assert (table.item(0, 0).text() if table.item(0, 0) else "") == text


def test_a_dialog_of_the_dock_keeps_its_own_rules(qtbot: QtBot, shown: Any) -> None:
    DockFocus(shown.dock)
    dialog = QDialog(shown.dock)
    button = QPushButton("Yes", dialog)
    dialog.show()
    qtbot.waitUntil(dialog.isVisible)
    qtbot.wait(50)
    assert button.focusPolicy() == Qt.FocusPolicy.StrongFocus
    dialog.close()


def layer_list(shown: Any) -> QListView:
    found = [view for dock in layer_docks(shown.dock) for view in dock.findChildren(QListView)]
    return next(view for view in found if view.toolTip() == "Layer list")


def test_the_layer_list_follows_the_rules_only_while_it_is_included(qtbot: QtBot, shown: Any) -> None:
    focus, layers = DockFocus(shown.dock), layer_list(shown)
    before = layers.focusPolicy()
    focus.include_layers()
    where = layers.visualRect(layers.model().index(0, 0)).center()
    QTest.mouseClick(layers.viewport(), LEFT, pos=where)
    assert is_free(shown)
    shown.viewer.layers.append(Points([[3, 4]], name="more"))  # napari makes other layer controls for it
    qtbot.wait(50)
    for dock in layer_docks(shown.dock):
        for button in dock.findChildren(QPushButton):
            assert not button.focusPolicy() & Qt.FocusPolicy.ClickFocus
    focus.release_layers()
    assert layers.focusPolicy() == before
    QTest.mouseClick(layers.viewport(), LEFT, pos=where)
    assert layers.hasFocus()


def test_the_layer_list_is_given_back_when_the_dock_is_removed(qtbot: QtBot, shown: Any) -> None:
    layers = layer_list(shown)
    before = layers.focusPolicy()
    focus = DockFocus(shown.dock)
    focus.include_layers()
    assert layers.focusPolicy() != before
    shown.viewer.window.remove_dock_widget(shown.dock)
    shown.dock.deleteLater()  # as happens once nothing refers to it
    qtbot.waitUntil(lambda: not isalive(shown.dock))
    focus.release_layers()
    assert layers.focusPolicy() == before
