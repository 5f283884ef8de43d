"""How the window is arranged: the image first in LesionSeg's own window, tabs in anybody else's."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtGui import QAction, QKeySequence
from qtpy.QtOpenGLWidgets import QOpenGLWidget
from qtpy.QtWidgets import QDockWidget, QLabel, QMainWindow, QWidget

from napari_lesionseg.plugin.napari_layers.mouse_moves import keep_drags_whole
from napari_lesionseg.plugin.tasks import call_soon

if TYPE_CHECKING:
    from napari.viewer import Viewer

DOCK_WIDTH = 340
"""Width of the dock in pixels, if its content leaves the choice."""

FOLD_KEY = "F9"
_NAPARI_DOCKS = frozenset({"layer controls", "layer list"})
# How napari ends the title of a plugin's dock that a program opens, and of one from the menu.
_OURS = ("(napari-lesionseg)", "(LesionSeg)")


class ImageFirst(QObject):
    """A window of our own: maximized, the image as large as it gets, napari's layer docks folded away."""

    def __init__(self, viewer: Viewer, dock: QDockWidget) -> None:
        self._window = cast("QMainWindow", dock.window())
        super().__init__(self._window)
        self.setObjectName("LesionSeg layout")
        self._folded = layer_docks(dock)
        self._dock = dock
        self.action = QAction("Layer list and controls", self._window)
        self.action.setCheckable(True)
        self.action.setShortcut(QKeySequence(FOLD_KEY))
        self.action.toggled.connect(self.show_layers)
        viewer.window.view_menu.addAction(self.action)
        self._window.addAction(self.action)  # the key works also while the menu bar is hidden
        self.show_layers(False)
        self._window.showMaximized()
        call_soon(self, self._narrow)

    def show_layers(self, shown: bool) -> None:
        """Show napari's layer list and controls, or fold them away."""
        for dock in self._folded:
            dock.setVisible(shown)
        self._narrow()

    def _narrow(self) -> None:
        self._window.resizeDocks([self._dock], [DOCK_WIDTH], Qt.Orientation.Horizontal)


class DockTabs(QObject):
    """Puts a widget's dock behind or before the other LesionSeg docks beside it, when it is first shown.

    It also keeps the title of the dock short, and keeps drags whole.
    """

    def __init__(self, widget: QWidget) -> None:
        super().__init__(widget)
        self._widget = widget
        widget.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802  Qt's name
        """Wait for the widget to be shown in a dock."""
        if event is not None and event.type() == QEvent.Type.Show:
            self._widget.removeEventFilter(self)
            call_soon(self, self._on_shown)
        return False

    def _on_shown(self) -> None:
        dock = _dock_of(self._widget)
        if dock is not None:
            # Both make napari draw the title again.
            dock.topLevelChanged.connect(self._shorten_soon)
            dock.dockLocationChanged.connect(self._shorten_soon)
            self._shorten_title()
            canvas = canvas_of(dock)
            if canvas is not None:
                keep_drags_whole(canvas)
        self._tabify()

    def _shorten_soon(self) -> None:
        call_soon(self, self._shorten_title)

    def _shorten_title(self) -> None:
        """Leave out the name of the plugin, for which a narrow dock has no room."""
        dock = _dock_of(self._widget)
        bar = None if dock is None else dock.titleBarWidget()
        for label in [] if bar is None else bar.findChildren(QLabel):
            label.setText(_shortened(label.text()))
        if dock is not None:
            dock.setWindowTitle(_shortened(dock.windowTitle()))  # which its tab shows

    def _tabify(self) -> None:
        dock = _dock_of(self._widget)
        window = None if dock is None else dock.parentWidget()
        if dock is None or not isinstance(window, QMainWindow) or dock.isFloating():
            return
        area = window.dockWidgetArea(dock)
        others = [
            other
            for other in window.findChildren(QDockWidget)
            if other is not dock and not other.isHidden() and not other.isFloating()
            if other.objectName().endswith(_OURS) and window.dockWidgetArea(other) == area
        ]
        if others and len(window.tabifiedDockWidgets(dock)) < len(others):
            for other in (*others[1:], dock):  # all of them: a new dock beside tabs may have split them
                window.tabifyDockWidget(others[0], other)
            dock.raise_()


def _shortened(title: str) -> str:
    for ending in _OURS:
        title = title.removesuffix(ending).rstrip()
    return title


def outermost(widget: QWidget) -> QWidget:
    """Return the window that a widget is in; of a floating dock, the window that it belongs to."""
    found = widget
    while (parent := found.parentWidget()) is not None:
        found = parent
    return found


def canvas_of(widget: QWidget) -> QOpenGLWidget | None:
    """Return the canvas of the window that a widget is in."""
    window = outermost(widget)
    center = window.centralWidget() if isinstance(window, QMainWindow) else None
    return None if center is None else center.findChild(QOpenGLWidget)


def layer_docks(widget: QWidget) -> list[QDockWidget]:
    """Return napari's layer list and layer controls in the window that a widget is in."""
    docks = outermost(widget).findChildren(QDockWidget)
    return [dock for dock in docks if dock.objectName() in _NAPARI_DOCKS]


def _dock_of(widget: QWidget) -> QDockWidget | None:
    parent: QWidget | None = widget
    while parent is not None and not isinstance(parent, QDockWidget):
        parent = parent.parentWidget()
    return parent
