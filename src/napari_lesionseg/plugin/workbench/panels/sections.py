"""The scrolling column of foldable sections, one a panel, and the notice below it."""

from __future__ import annotations

from functools import partial

from qtpy.QtCore import Qt
from qtpy.QtGui import QColor, QPalette
from qtpy.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from napari_lesionseg.plugin.workbench.panels.base import Panel

_HEADING = "text-align: left; border: none; outline: none; background: transparent; font-weight: bold;"
_ARROW = "#909090"  # visible on dark and on light
_NOTICE = "#notice { border: 1px solid #e69f00; border-radius: 3px; }"
_UNLIMITED = 16_777_215  # Qt's own QWIDGETSIZE_MAX


class Sections(QScrollArea):
    """Panels with a title, each in a section that can be folded; it scrolls vertically only."""

    def __init__(self, top: QWidget) -> None:
        super().__init__()
        self._sections: dict[Panel, QCollapsible] = {}
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setFrameShape(QScrollArea.Shape.NoFrame)
        inside = QWidget()
        self._column = QVBoxLayout(inside)
        self._column.setContentsMargins(4, 0, 4, 0)
        self._column.setSpacing(2)
        self._column.addWidget(top)
        self._column.addStretch()
        self.setWidget(inside)

    def add(self, panel: Panel) -> QWidget:
        """Add a panel below the others; return its section."""
        section = self._sections[panel] = _section(panel)
        section.toggled.connect(self.fit_width)
        self._column.insertWidget(self._column.count() - 1, section, int(panel.grows))
        return section

    def fold(self, panel: Panel) -> None:
        """Fold the section of a panel."""
        self._sections[panel].collapse(animate=False)

    def reveal(self, panel: Panel) -> None:
        """Unfold the section of a panel, and scroll to it."""
        section = self._sections[panel]
        section.expand(animate=False)
        self.widget().layout().activate()  # else the new size is not known yet
        self.ensureWidgetVisible(section)

    def fit_width(self, *_: object) -> None:
        """Be wide enough for the widest row."""
        needed = self.widget().minimumSizeHint().width() + self.verticalScrollBar().sizeHint().width()
        self.setMinimumWidth(needed)


class Notice(QFrame):
    """A sentence about what a panel has to show, with a button that leads there."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("notice")
        self.setStyleSheet(_NOTICE)
        self.text = QLabel()
        self.text.setWordWrap(True)
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


def _section(panel: Panel) -> QCollapsible:
    """Put a panel into a foldable section."""
    section = QCollapsible(panel.title)
    _draw_heading(section)
    section.setDuration(0)
    section.layout().setSpacing(3)
    section.layout().setContentsMargins(0, 0, 0, 0)
    section.toggled.connect(partial(_release_height, section, panel))
    section.content().hide()  # the empty one that it comes with
    section.setContent(panel)
    section.toggled.connect(panel.setVisible)  # superqt leaves what is folded in the order of the Tab key
    if panel.folded:
        panel.setMaximumHeight(0)
        panel.hide()
    else:
        section.expand(animate=False)
    return section


def _draw_heading(section: QCollapsible) -> None:
    button = section.toggleButton()
    palette = button.palette()
    palette.setColor(QPalette.ColorRole.WindowText, QColor(_ARROW))
    button.setPalette(palette)
    section.setCollapsedIcon("\N{BLACK RIGHT-POINTING TRIANGLE}")
    section.setExpandedIcon("\N{BLACK DOWN-POINTING TRIANGLE}")
    button.setStyleSheet(_HEADING)


def _release_height(section: QCollapsible, panel: Panel, unfolded: bool) -> None:
    """Remove the limit that superqt sets to the height that the panel had at first."""
    if unfolded:
        panel.setMaximumHeight(_UNLIMITED)
    vertical = QSizePolicy.Policy.Expanding if unfolded and panel.grows else QSizePolicy.Policy.Maximum
    section.setSizePolicy(QSizePolicy.Policy.Preferred, vertical)
