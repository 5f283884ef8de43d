"""The form for the fields of the image on the screen: diagnosis, site, and what else the template has."""

from __future__ import annotations

import itertools
from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtGui import QKeySequence, QShowEvent
from qtpy.QtWidgets import (
    QComboBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_lesionseg.errors import FieldError
from napari_lesionseg.plugin.layout import canvas_of
from napari_lesionseg.plugin.qt_events import as_key
from napari_lesionseg.plugin.shortcuts import WindowKeys, set_tip
from napari_lesionseg.plugin.widgets.forms import MessageLabel, ignore_wheel, small, when_gone
from napari_lesionseg.plugin.workbench.panels.base import Panel
from napari_lesionseg.plugin.workbench.session import StudySession
from napari_lesionseg.study.events import FieldValue
from napari_lesionseg.study.fields import StudyField, text_of

if TYPE_CHECKING:
    from napari.components import ViewerModel

_NARROW = 60  # pixels; a dock of 340 has room for three columns, with the captions above
_WIDE = 170  # of an open list, whose box cuts long choices off
_LEAVE = (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Escape)
_COLUMNS = 3
_SHOWN = 2  # values that do not fit and are named
_REFUSED = "border: 1px solid #e69f00;"
_FOCUS = "QComboBox:focus, QLineEdit:focus { border: 1px solid #56b4e9; }"


class FieldsPanel(Panel):
    """The fields of the image on the screen, filled in with the keyboard: Tab goes on, Enter goes back."""

    title = "Fields"

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer)
        self.widgets: dict[str, QComboBox | QLineEdit] = {}
        self._image_id: str | None = None  # that the form shows
        self._refused: dict[tuple[str, str], str] = {}  # what was typed and does not fit, by image and field
        self.patient, self.lesion = QLineEdit(), QLineEdit()
        self.message = MessageLabel()
        self.undo = QPushButton("Undo")
        self._form = QWidget()
        self._lay_out()
        self.undo.clicked.connect(self._on_undo)
        for edit in (self.patient, self.lesion):
            edit.editingFinished.connect(self._on_identified)
            edit.installEventFilter(self)
        self.keys = WindowKeys(self, {"fields": self.focus_first})
        self.keys.bind()
        when_gone(self, self.keys.close)

    def show_session(self, session: StudySession) -> None:
        """Make the form for the study's template."""
        self.keys.bind()  # here too: a folded section is not shown
        self._build(session)
        self.listen(session.opened, self._update)
        self.listen(session.changed, self._update)
        self.listen(session.fields.changed, self._update)
        self.listen(session.fields.closing, self._enter_typed)
        self._image_id = None
        self._show_problems(session)
        self._update()

    def focus_first(self) -> None:
        """Unfold the form and go to its first field."""
        if self.session is not None:
            self.unfold.emit()
            first = next(iter(self.widgets.values()), self.patient)
            first.setFocus(Qt.FocusReason.TabFocusReason)

    def _lay_out(self) -> None:
        self.patient.setToolTip("Patient that the image shows")
        self.lesion.setToolTip("Lesion that the image shows; images of one lesion make a follow-up")
        set_tip(self, "Fields of the image on the screen", "fields")
        self.undo.setToolTip("Take back what was filled in last (Ctrl+Z in the form)")
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(3)
        column.addWidget(self._form)
        row = QHBoxLayout()
        row.addWidget(self.message, 1)
        row.addWidget(self.undo, 0, Qt.AlignmentFlag.AlignRight)
        column.addLayout(row)

    def _build(self, session: StudySession) -> None:
        """Make a widget for each field, row by row."""
        former = self._form
        for edit in (self.patient, self.lesion):
            edit.setParent(self)
        self._form = QWidget()
        self._form.setStyleSheet(_FOCUS)
        self._refused.clear()
        self.layout().replaceWidget(former, self._form)
        former.deleteLater()
        grid = QGridLayout(self._form)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setVerticalSpacing(2)
        self.widgets = {}
        for field in session.fields.template.fields:
            self.widgets[field.name] = self._widget_for(field)
        rows = [
            *((field.title, self.widgets[field.name]) for field in session.fields.template.fields),
            ("Patient", self.patient),
            ("Lesion", self.lesion),
        ]
        for place, (caption, widget) in enumerate(rows):
            down, across = divmod(place, _COLUMNS)
            widget.setMinimumWidth(_NARROW)
            cell = QVBoxLayout()
            cell.setSpacing(0)
            cell.addWidget(small(QLabel(caption)))
            cell.addWidget(widget)
            grid.addLayout(cell, down, across)
        for across in range(_COLUMNS):
            grid.setColumnStretch(across, 1)
        # Children get the order of the Tab key by when they were made; those of an earlier study come first.
        for (_, before), (_, after) in itertools.pairwise(rows):
            QWidget.setTabOrder(before, after)

    def _widget_for(self, field: StudyField) -> QComboBox | QLineEdit:
        if field.kind in ("choice", "yes/no"):
            box = QComboBox()
            box.addItems(["", *(field.choices if field.kind == "choice" else ("yes", "no"))])
            box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            box.setMinimumContentsLength(4)
            box.view().setMinimumWidth(_WIDE)
            box.setEditable(field.open)
            # Without a popup, each letter that is typed is a choice already.
            box.activated.connect(partial(self._on_filled_in, field.name))
            if field.open:
                box.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
                box.lineEdit().editingFinished.connect(partial(self._on_filled_in, field.name))
                box.lineEdit().installEventFilter(self)
            made: QComboBox | QLineEdit = box
        else:
            made = QLineEdit()
            made.editingFinished.connect(partial(self._on_filled_in, field.name))
        help_text = f"{field.title}: {field.help}" if field.help else field.title
        shared = "" if field.scope == "image" else f"\nHolds for all images of the {field.scope}"
        made.setToolTip(help_text + shared)
        made.installEventFilter(self)
        if isinstance(made, QComboBox):
            ignore_wheel(made)
        return made

    def _on_filled_in(self, name: str, *_: object) -> None:
        session, widget = self.session, self.widgets[name]
        if session is None or self._image_id is None:
            return
        key = self._image_id, name
        try:
            self._refused.pop(key, None)
            session.fields.set(self._image_id, name, _text_in(widget))
        except FieldError as error:
            self._refused[key] = _text_in(widget)
            self.message.setText(str(error))
            widget.setStyleSheet(_REFUSED)
            return
        self.message.clear()
        widget.setStyleSheet("")

    def _on_identified(self) -> None:
        session = self.session
        if session is not None and self._image_id is not None:
            patient, lesion = self.patient.text().strip(), self.lesion.text().strip()
            session.fields.identify(self._image_id, patient, lesion)

    def _enter_typed(self) -> None:
        """Fill in what is being typed: a click on Approve leaves the field without a word."""
        for name, widget in self.widgets.items():
            if _is_typed_into(widget):
                self._on_filled_in(name)
        if _is_typed_into(self.patient) or _is_typed_into(self.lesion):
            self._on_identified()

    def _on_undo(self) -> None:
        if self.session is not None:
            image_id = self.session.fields.undo()
            if image_id is not None and image_id != self.session.image_id:
                self.session.open_image(image_id)

    def _update(self, *_: object) -> None:
        """Show the values of the image on the screen; what is being typed about it stays."""
        session = self.session
        if session is None:
            return
        is_other = session.image_id != self._image_id
        if is_other:
            self._enter_typed()
            self._image_id = session.image_id
            self._show_problems(session)
        state = session.state
        values = {} if state is None else session.fields.values(state.image_id)
        for name, widget in self.widgets.items():
            widget.setEnabled(state is not None)
            refused = self._refused.get((self._image_id or "", name))
            if is_other or not _is_typed_into(widget):
                _show(widget, values.get(name) if refused is None else refused)
                widget.setStyleSheet("" if refused is None else _REFUSED)
        known = ("", "") if state is None else session.fields.identity(state.image_id)
        for edit, text in zip((self.patient, self.lesion), known, strict=True):
            edit.setEnabled(state is not None)
            if is_other or not _is_typed_into(edit):
                edit.setText(text)
        self.undo.setEnabled(session.fields.can_undo)

    def _show_problems(self, session: StudySession) -> None:
        """Say why there are no fields, or what is wrong with the values of the image."""
        found = [] if self._image_id is None else session.fields.problems(self._image_id)
        text = session.fields.problem or " ".join(found[:_SHOWN])
        self.message.setText(text)

    def showEvent(self, event: QShowEvent | None) -> None:  # noqa: N802  Qt's name
        """Bind the key in the window that the dock is in now."""
        super().showEvent(event)
        self.keys.bind()

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802  Qt's name
        """Keep letters in the form, which would approve an image elsewhere; Enter leaves it."""
        key = as_key(event)
        if key is None:
            return False
        is_undo = key.matches(QKeySequence.StandardKey.Undo)
        if key.type() == QEvent.Type.ShortcutOverride and (key.text().isprintable() or is_undo):
            key.accept()
            return False
        if key.type() != QEvent.Type.KeyPress:
            return False
        if is_undo and not (isinstance(watched, QLineEdit) and watched.isUndoAvailable()):
            self._on_undo()
            return True
        if key.key() in _LEAVE:
            canvas = canvas_of(self)
            if canvas is not None:
                canvas.setFocus()
        return False


def _is_typed_into(widget: QComboBox | QLineEdit) -> bool:
    return bool(widget.hasFocus()) and (isinstance(widget, QLineEdit) or bool(widget.isEditable()))


def _text_in(widget: QComboBox | QLineEdit) -> str:
    return str(widget.currentText() if isinstance(widget, QComboBox) else widget.text())


def _show(widget: QComboBox | QLineEdit, value: FieldValue) -> None:
    """Show a value; one that is not among the choices is added to them."""
    text = text_of(value)
    if isinstance(widget, QLineEdit):
        widget.setText(text)
        return
    if widget.findText(text) < 0:
        widget.addItem(text)
    widget.setCurrentIndex(widget.findText(text))
