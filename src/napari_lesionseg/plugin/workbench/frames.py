"""When an opened image is on the screen: the canvas has painted it, and the window has shown the frame."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtCore import QEvent, QObject
from qtpy.QtOpenGLWidgets import QOpenGLWidget
from qtpy.QtWidgets import QWidget

from napari_lesionseg.plugin.layout import canvas_of


class FrameWatch(QObject):
    """Calls a function once the canvas of a widget's window shows what was opened."""

    def __init__(self, widget: QWidget) -> None:
        super().__init__(widget)
        self._widget = widget
        self._canvas: QOpenGLWidget | None = None
        self._awaited: tuple[Callable[[], bool], Callable[[], object]] | None = None
        self._is_painted = False

    def wait_for(self, is_loaded: Callable[[], bool], appeared: Callable[[], object]) -> None:
        """Call `appeared` after the next frame that is painted while `is_loaded`."""
        self._awaited, self._is_painted = (is_loaded, appeared), False
        self.find_canvas()

    def find_canvas(self) -> None:
        """Watch the canvas of the window that the widget is in now, if a frame is awaited."""
        if self._awaited is None:
            return
        canvas = canvas_of(self._widget)
        if canvas is not self._canvas:
            if self._canvas is not None:
                self._canvas.removeEventFilter(self)
                self._canvas.frameSwapped.disconnect(self._on_swapped)
            if canvas is not None:
                canvas.frameSwapped.connect(self._on_swapped)
            self._canvas = canvas
        if canvas is not None:
            canvas.installEventFilter(self)
            canvas.update()  # it may be painted already

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802  Qt's name
        """Note that the canvas is being painted."""
        if event is not None and event.type() == QEvent.Type.Paint and self._awaited is not None:
            self._is_painted = self._awaited[0]()
        return False

    def _on_swapped(self) -> None:
        if self._is_painted and self._awaited is not None and self._canvas is not None:
            appeared = self._awaited[1]
            self._awaited, self._is_painted = None, False
            self._canvas.removeEventFilter(self)
            appeared()
