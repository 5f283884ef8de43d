"""The visits of the lesion on the screen, in order of date: a table, and a curve of what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari.utils.notifications import show_error, show_info
from qtpy.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QPushButton,
    QVBoxLayout,
)

from napari_lesionseg.errors import StudyError
from napari_lesionseg.plugin.editor.editor import MaskEditor
from napari_lesionseg.plugin.instances.pixel_size import remove_ruler, scale_of
from napari_lesionseg.plugin.instances.scale_form import ScaleForm
from napari_lesionseg.plugin.tasks import Task, run_task
from napari_lesionseg.plugin.widgets.forms import MessageLabel
from napari_lesionseg.plugin.workbench.panels.base import Panel
from napari_lesionseg.plugin.workbench.panels.visit_curve import VisitCurve
from napari_lesionseg.plugin.workbench.panels.visit_table import VisitTable
from napari_lesionseg.plugin.workbench.panels.visits import VisitsDialog
from napari_lesionseg.plugin.workbench.session import StudySession
from napari_lesionseg.study.fields import StudyFields, group_of
from napari_lesionseg.study.followup import (
    Visit,
    VisitMeasurement,
    followed_lesions,
    measure_visits,
    visits_with,
    write_followup,
)
from napari_lesionseg.study.study import Study

if TYPE_CHECKING:
    from napari.components import ViewerModel

_UNKNOWN_LESION = "To follow a lesion, fill in Patient and Lesion in the section Fields (F6)."
_ALONE = "This is the only image of the lesion. Give another image the same Patient and Lesion."
_CAPTION = "Measurements of approved outlines; no diagnosis. Click a row to open the image."
_MIXED = "Some visits have a scale and others none. Draw along a ruler in those to compare the sizes."


class FollowUpPanel(Panel):
    """Table and curve of the visits of one lesion."""

    title, only_for = "Follow-up", "outlines"

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer)
        self.message = MessageLabel()
        self.message.setText(_UNKNOWN_LESION)
        self.scale = ScaleForm(viewer)
        self.table = VisitTable()
        self.compare = QPushButton("Side by side\N{HORIZONTAL ELLIPSIS}")
        self.export = QPushButton("CSV\N{HORIZONTAL ELLIPSIS}")
        self.curve = VisitCurve()
        self._task: Task[tuple[tuple[Visit, ...], list[VisitMeasurement]]] | None = None
        self._lay_out()
        self.table.cellClicked.connect(self._on_clicked)
        self.compare.clicked.connect(self._on_compare)
        self.export.clicked.connect(self._on_export)
        self.scale.changed.connect(self._show_scale)
        self.scale.was_set.connect(self._on_scale_set)
        self.scale.message.connect(show_info)

    def show_session(self, session: StudySession) -> None:
        """Follow the image on the screen."""
        self.table.show_study(session.study)
        self.listen(session.opened, self.update_visits)
        self.listen(session.opened, self._on_opened)
        self.listen(session.changed, self.update_visits)
        self.update_visits()

    def close_session(self) -> None:
        """Stop measuring."""
        if self._task is not None:
            self._task.close()
        self._task = None
        self.table.close_study()

    def update_visits(self, *_: object) -> None:
        """Measure the visits of the lesion on the screen in the background, if any is new or changed."""
        session = self.session
        state = None if session is None else session.state
        if session is None or state is None or self._task is not None or self.isHidden():
            return
        if state.lesion is None:
            self._show((), [])
            return
        key = group_of(state, "lesion")
        images = session.study.state.images.values()
        together = {id(other) for other in images if group_of(other, "lesion") == key}
        if together == {id(visit.state) for visit in self.table.visits}:
            self.table.select(state.image_id)
        else:
            self._task = run_task(
                "measuring the visits",
                _load,
                session.study,
                state.image_id,
                done=self._on_loaded,
                failed=self._on_failed,
            )

    def _lay_out(self) -> None:
        for button in (self.scale.dicom, self.scale.clear):
            button.hide()  # to leave the height to the table; the field can be filled in and cleared
        self.compare.setToolTip("Show all images of the lesion with their outlines, in order of date")
        self.export.setToolTip("Write all lesions of the study that have several images as a table")
        row = QHBoxLayout()
        row.addWidget(self.curve.choice, 1)
        row.addWidget(self.compare)
        row.addWidget(self.export)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(3)
        column.addWidget(self.message)
        column.addWidget(self.scale)
        column.addWidget(self.table)
        column.addWidget(self.curve)
        column.addLayout(row)
        self._show((), [])

    def setVisible(self, visible: bool) -> None:  # noqa: N802  Qt's name
        """Measure when the section is unfolded; before, nobody looks."""
        super().setVisible(visible)
        if visible:
            self.update_visits()

    def _on_loaded(self, loaded: tuple[tuple[Visit, ...], list[VisitMeasurement]]) -> None:
        self._task = None
        self._show(*loaded)
        self.update_visits()  # another image may have been opened in the meantime

    def _on_failed(self, error: Exception) -> None:
        self._task = None
        self.message.setText(str(error))

    def _show(self, visits: tuple[Visit, ...], rows: list[VisitMeasurement]) -> None:
        text = _UNKNOWN_LESION if not visits else _ALONE if len(visits) == 1 else _CAPTION
        self.message.setText(_MIXED if len({row.unit for row in rows if row.unit}) > 1 else text)
        for widget in (self.table, self.compare):
            widget.setVisible(len(visits) > 1)
        self.table.show_visits(visits, rows)
        if self.session is not None:
            self.table.select(self.session.image_id)
        self.curve.show_visits(visits, rows)

    def _on_opened(self, *_: object) -> None:
        remove_ruler(self.viewer)  # the line belongs to the image of before
        self._show_scale()

    def _show_scale(self) -> None:
        editor = None if self.session is None else self.session.editor
        image = None if editor is None else editor.image
        self.scale.show_image(image, scale_of(image))

    def _on_scale_set(self) -> None:
        """Go back to the outline; a line that stays would be over the next image."""
        editor = None if self.session is None else self.session.editor
        remove_ruler(self.viewer)
        if isinstance(editor, MaskEditor):
            self.viewer.layers.selection.active = editor.labels

    def _on_clicked(self, row: int, _: int) -> None:
        if self.session is not None and row < len(self.table.visits):
            self.session.open_image(self.table.visits[row].state.image_id)

    def _on_compare(self) -> None:
        if self.session is not None and self.table.rows:
            VisitsDialog(self.session.study, self.table.visits, self.table.rows, self).show()

    def _on_export(self) -> None:
        if self.session is None:
            return
        name, _ = QFileDialog.getSaveFileName(self, "Export the follow-up", "followup.csv", "Tables (*.csv)")
        if name:
            run_task(
                "exporting the follow-up",
                _export,
                self.session.study,
                Path(name),
                done=lambda count: show_info(f"{count} visits were written to {name}."),
                failed=lambda error: show_error(str(error)),
            )


def _load(study: Study, image_id: str) -> tuple[tuple[Visit, ...], list[VisitMeasurement]]:
    """Find and measure the visits of a lesion; runs in another thread."""
    visits = visits_with(study, StudyFields(study), image_id)
    return visits, measure_visits(study, visits) if len(visits) > 1 else [
        VisitMeasurement("", "", visit.state.name, "", "") for visit in visits
    ]


def _export(study: Study, path: Path) -> int:
    """Measure and write all lesions with several images; runs in another thread."""
    lesions = followed_lesions(study, StudyFields(study))
    if not lesions:
        raise StudyError("No lesion has several images yet.")
    rows = [row for visits in lesions for row in measure_visits(study, visits)]
    write_followup(path, rows)
    return len(rows)
