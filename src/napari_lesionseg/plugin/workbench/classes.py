"""The classes of the study at work: shown on its outlines, offered for painting, and changed by a dialog."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QObject

from napari_lesionseg.plugin.workbench.class_change import ClassChange, show_classes
from napari_lesionseg.plugin.workbench.classes_dialog import ClassesDialog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_lesionseg.plugin.editor.editor import MaskEditor
    from napari_lesionseg.plugin.editor.panel import CorrectPanel
    from napari_lesionseg.plugin.widgets.model_picker import ModelPicker
    from napari_lesionseg.plugin.workbench.session import StudySession
    from napari_lesionseg.study.events import StudyClass


class ClassEditing(QObject):
    """Keeps the correct panel, the outline and the model at the classes of a study.

    Parameters
    ----------
    panel : CorrectPanel
        Where classes are chosen, and where the button for the dialog is.
    models : ModelPicker
        Where a model with the new classes is chosen.
    """

    def __init__(self, panel: CorrectPanel, models: ModelPicker) -> None:
        super().__init__(panel)
        self._panel, self._models = panel, models
        self._session: StudySession | None = None
        self.change: ClassChange | None = None
        """What is being changed; None when nothing is."""
        panel.edit_classes.clicked.connect(self.ask)

    def begin(self, session: StudySession) -> None:
        """Take the classes of a study that was opened."""
        self._session = session
        session.opened.connect(self._on_opened)
        self._panel.edit_classes.setVisible(True)
        self._show()

    def end(self) -> None:
        """Let go of the study."""
        if self.change is not None:
            self.change.abandon()
            self.change = None
        self._session = None
        self._panel.edit_classes.setVisible(False)

    def ask(self) -> None:
        """Open the dialog, and do what it says."""
        if self._session is None:
            return
        dialog = ClassesDialog(self._session.study.info.classes, self._panel.window())
        if dialog.exec() and dialog.classes:
            self.apply(dialog.classes, teach=dialog.teach.isChecked())
        dialog.deleteLater()

    def apply(self, classes: Sequence[StudyClass], *, teach: bool) -> None:
        """Change the classes of the study, and perhaps those of the model."""
        session = self._session
        if session is None:
            return
        self._panel.edit_classes.setEnabled(False)
        self.change = ClassChange(session.study, classes, session.model if teach else None, self)
        self.change.changed.connect(self._show)
        self.change.fitted.connect(self._on_fitted)
        self.change.failed.connect(self._on_failed)
        self.change.ended.connect(partial(self._panel.edit_classes.setEnabled, True))

    def _on_opened(self, editor: MaskEditor | None) -> None:
        if editor is not None and self._session is not None:
            show_classes(editor.labels, self._session.study.info.classes)

    def _show(self) -> None:
        session = self._session
        if session is not None:
            self._panel.set_classes([entry.name for entry in session.study.info.classes])
            self._on_opened(session.editor)

    def _on_fitted(self, name: str) -> None:
        self._models.choose(name)
        show_info(f"“{name}” outlines from now on; it learns the new classes by Fine-tune.")

    def _on_failed(self, error: Exception) -> None:
        show_error(str(error))
