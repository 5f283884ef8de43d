"""The workbench's panels below their headings, which are always visible, and the notice below them."""

from __future__ import annotations

from functools import partial

from qtpy.QtCore import QEvent, QObject, QSize, Qt, QTimer
from qtpy.QtGui import QResizeEvent
from qtpy.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)
from superqt import QFlowLayout

from napari_lesionseg.plugin.tasks import call_soon
from napari_lesionseg.plugin.widgets.forms import MessageLabel
from napari_lesionseg.plugin.workbench.panels.base import Panel

_HEADING = """
    QToolButton { padding: 2px 3px; border: none; border-bottom: 2px solid transparent; }
    QToolButton:checked { font-weight: bold; border-bottom: 2px solid #56b4e9; }
    QToolButton:focus { border-bottom: 2px solid #909090; }
"""
_NOTICE = "#notice { border: 1px solid #e69f00; border-radius: 3px; }"

LEAST_ROWS = 10
"""Lines of text that the panels below the list get at least, if they need them."""


class Sections(QWidget):
    """A heading for each panel, which shows and hides it.

    The panel that grows, the list of images, stands above the headings and takes the height that is left. The
    others stand below, and scroll if the window is too low for all that are shown.
    """

    def __init__(self, top: QWidget, notice: QWidget) -> None:
        super().__init__()
        self._notice = notice
        # Otherwise napari adds a stretch below, which takes the height from the list.
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)
        self.headings: dict[Panel, QToolButton] = {}
        self._row = QWidget()
        self._buttons = QFlowLayout(self._row)
        self._buttons.setContentsMargins(0, 0, 0, 0)
        self._buttons.setHorizontalSpacing(2)
        self._buttons.setVerticalSpacing(0)
        self.below = _Scrolling()
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(3)
        for widget in (top, self._row, self.below):
            self._column.addWidget(widget)
        self._column.addStretch()  # takes the height while no study is open

    def add(self, panel: Panel) -> None:
        """Add a panel, and its heading after those of the others."""
        heading = self.headings[panel] = QToolButton()
        heading.setText(panel.title)
        heading.setCheckable(True)
        heading.setChecked(not panel.folded)
        heading.setStyleSheet(_HEADING)
        heading.toggled.connect(partial(self._on_toggled, panel))
        heading.clicked.connect(partial(self._on_clicked, panel))
        self._buttons.addWidget(heading)
        if panel.grows:
            self._column.insertWidget(1, panel, 1)
            self._place_notice(panel, not panel.folded)
        else:
            self.below.add(panel)
        self.set_available(panel, True)

    def set_available(self, panel: Panel, available: bool) -> None:
        """Show the heading of a panel, and the panel if it is unfolded; or neither."""
        heading = self.headings[panel]
        heading.setVisible(available)
        heading.setToolTip(f"Show or hide {panel.title.lower()}")
        panel.setVisible(available and heading.isChecked())

    def fold(self, panel: Panel) -> None:
        """Hide a panel."""
        self.headings[panel].setChecked(False)

    def reveal(self, panel: Panel) -> None:
        """Show a panel, and scroll to it."""
        self.headings[panel].setChecked(True)
        if not panel.grows:
            self.below.widget().layout().activate()  # else the new size is not known yet
            self.below.ensureWidgetVisible(panel)

    def fit_width(self, *_: object) -> None:
        """Be wide enough for the widest row."""
        self.setMinimumWidth(self.below.minimumSizeHint().width())

    def _place_notice(self, panel: Panel, shown: bool) -> None:
        """Put the notice where height is given and taken, so that it moves no button when it appears."""
        if shown:
            panel.add_notice(self._notice)
        else:
            self._column.addWidget(self._notice)  # below the stretch

    def _on_toggled(self, panel: Panel, shown: bool) -> None:
        panel.setVisible(shown)
        if panel.grows:
            self._place_notice(panel, shown)
        self.fit_width()

    def _on_clicked(self, panel: Panel) -> None:
        if self.headings[panel].isChecked():
            # Once more when the panel has its height; else what was unfolded may be out of sight.
            self.reveal(panel)
            call_soon(self, partial(self.reveal, panel))


class _Scrolling(QScrollArea):
    """A column that is as high as its content if there is room, and scrolls vertically only."""

    def __init__(self) -> None:
        super().__init__()
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setFrameShape(QScrollArea.Shape.NoFrame)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        inside = QWidget()
        self._column = QVBoxLayout(inside)
        self._column.setContentsMargins(0, 2, 4, 2)
        self._column.setSpacing(8)
        self._column.addStretch()
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.timeout.connect(self.updateGeometry)
        self.setWidget(inside)

    def add(self, panel: Panel) -> None:
        """Add a panel below the others."""
        self._column.insertWidget(self._column.count() - 1, panel)

    def sizeHint(self) -> QSize:  # noqa: N802  Qt's name
        """Return the size of all that is shown."""
        # Words that wrap need more height than the layout's own hint says, and a scroll area gives the least.
        wrapped = self._column.totalHeightForWidth(self.viewport().width())
        least, usual = self._column.totalMinimumSize().height(), self._column.totalSizeHint().height()
        margins = self.contentsMargins()  # napari's style has a border
        height = max(least, wrapped if wrapped >= 0 else usual) + margins.top() + margins.bottom()
        return QSize(self.minimumSizeHint().width(), height)

    def minimumSizeHint(self) -> QSize:  # noqa: N802  Qt's name
        """Return the width of the widest row, with the scroll bar, and the height of some rows."""
        inner = self._column.totalMinimumSize()
        rows = LEAST_ROWS * self.fontMetrics().lineSpacing()
        width = inner.width() + self.verticalScrollBar().sizeHint().width()
        return QSize(width, min(inner.height(), rows))

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802  Qt's name
        """Take another height when a row is shown or hidden."""
        if event is not None and event.type() == QEvent.Type.LayoutRequest:
            self._soon.start()  # the height is known once the rows are laid out
        return bool(super().eventFilter(watched, event))

    def resizeEvent(self, event: QResizeEvent | None) -> None:  # noqa: N802  Qt's name
        """Take another height when words wrap elsewhere."""
        super().resizeEvent(event)
        self._soon.start()


class Notice(QFrame):
    """A sentence about what a panel has to show, with a button that leads there."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("notice")
        self.setStyleSheet(_NOTICE)
        self.text = MessageLabel()
        self.show_panel = QPushButton("Show")
        self.close_notice = QPushButton("\N{MULTIPLICATION SIGN}")
        self.close_notice.setFixedWidth(24)
        self.close_notice.setToolTip("Close this notice")
        self._panel: Panel | None = None
        row = QHBoxLayout(self)
        row.setContentsMargins(5, 3, 3, 3)
        row.addWidget(self.text, 1)
        row.addWidget(self.show_panel)
        row.addWidget(self.close_notice)
        self.show_panel.clicked.connect(self._on_show)
        self.close_notice.clicked.connect(self.hide)
        self.hide()

    def show_text(self, panel: Panel, text: str) -> None:
        """Show what a panel reports; an empty text takes its last report back."""
        if text or self._panel is panel:
            self._panel = panel
            self.text.setText(text)
            self.setVisible(bool(text))

    def _on_show(self) -> None:
        self.hide()
        if self._panel is not None:
            self._panel.unfold.emit()
