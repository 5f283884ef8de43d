"""All visits of a lesion side by side, in order of date."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDialog, QGridLayout, QLabel, QScrollArea, QVBoxLayout, QWidget

from napari_lesionseg.plugin.tasks import Task, run_task
from napari_lesionseg.plugin.widgets.forms import small, when_gone
from napari_lesionseg.plugin.workbench.panels.queue_columns import as_pixmap, make_thumbnail
from napari_lesionseg.study.followup import Visit, VisitMeasurement
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import ByteImage

SIDE = 320
"""Pixels of an image's longer side."""


class VisitsDialog(QDialog):
    """The images of a lesion with their outlines, dates and sizes; the window can stay open."""

    def __init__(
        self, study: Study, visits: Sequence[Visit], rows: Sequence[VisitMeasurement], parent: QWidget
    ) -> None:
        super().__init__(parent)
        self.setWindowTitle(f"Lesion {rows[0].lesion or rows[0].image}: {len(rows)} visits")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.images = [QLabel("reading\N{HORIZONTAL ELLIPSIS}") for _ in rows]
        inside = QWidget()
        grid = QGridLayout(inside)
        for column, (label, row) in enumerate(zip(self.images, rows, strict=True)):
            label.setMinimumSize(SIDE, SIDE // 2)
            label.setAlignment(Qt.AlignmentFlag.AlignCenter)
            grid.addWidget(QLabel(f"{row.taken_on or 'no date'}   {row.image}"), 0, column)
            grid.addWidget(label, 1, column)
            grid.addWidget(small(QLabel(describe_visit(row))), 2, column)
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setWidget(inside)
        QVBoxLayout(self).addWidget(scroll)
        self.resize(min(3, len(rows)) * (SIDE + 16) + 40, SIDE + 120)
        images = [visit.state.image_id for visit in visits]
        self._task: Task[list[ByteImage]] = run_task(
            "drawing the visits", _draw_all, study, images, done=self._show, failed=self._on_failed
        )
        when_gone(self, self._task.close)

    def _show(self, made: list[ByteImage]) -> None:
        for label, pixels in zip(self.images, made, strict=True):
            label.setPixmap(as_pixmap(pixels))

    def _on_failed(self, error: Exception) -> None:
        for label in self.images:
            label.setText(str(error))
            label.setWordWrap(True)


def describe_visit(row: VisitMeasurement) -> str:
    """Describe what was measured, such as "25.5 mm² (+17%), diameter 6.66 mm"."""
    if row.area is None:
        return f"{row.status}: not measured"
    change = "" if row.area_change is None else f" ({row.area_change:+.0%})"
    return f"{row.area:.4g} {row.unit}²{change}, diameter {row.longest_diameter:.3g} {row.unit}"


def _draw_all(study: Study, images: Sequence[str]) -> list[ByteImage]:
    """Read and shrink the images and draw their outlines; runs in another thread."""
    return [make_thumbnail(study, image_id, SIDE) for image_id in images]
