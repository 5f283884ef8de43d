"""The result of a fine-tuning: old and new model in figures, and in the images that changed most."""

from __future__ import annotations

import re
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import (
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_lesionseg.io.overlay import OUTLINE_COLORS, draw_outline
from napari_lesionseg.io.resize import resize_image, resize_labels
from napari_lesionseg.masks.components import bounding_box
from napari_lesionseg.models.store import ModelStore
from napari_lesionseg.plugin.widgets.forms import NameLabel, small
from napari_lesionseg.plugin.workbench.finetune_task import FEW

if TYPE_CHECKING:
    from napari_lesionseg.finetuning.comparison import (
        Candidate,
        Change,
        Comparison,
        ImageChange,
        ScoredPrediction,
    )
    from napari_lesionseg.types import ByteImage, LabelImage

_USE = "Use the new model from now on. The old one stays in the list"
_USE_ANYWAY = f"The test is not certain. {_USE}"
_NOT_OFFERED = "The new model is not better in the test. Keep both to try it anyway"

SHOWN = 3
"""Images that are shown."""

SIDE = 150
"""Pixels of the longer side of an image."""

MARGIN = 0.15
"""Part of the outline's size that is shown around it."""

APPROVED, PREDICTED = OUTLINE_COLORS[0], OUTLINE_COLORS[1]


class FineTuneReport(QWidget):
    """Figures of both models, their outlines side by side, and the buttons to decide."""

    def __init__(self) -> None:
        super().__init__()
        self.figures = small(QLabel())
        self.figures.setWordWrap(True)
        self.name = QLineEdit()
        self.name.setToolTip("Name of the new model in the list")
        self.use = QPushButton("Use")
        self.keep = QPushButton("Keep both")
        self.discard = QPushButton("Discard")
        self.legend = small(QLabel(_legend()))
        self.legend.setTextFormat(Qt.TextFormat.RichText)
        self.keep.setToolTip("Add the new model to the list, and keep using the old one")
        self.discard.setToolTip("Delete the new model, and keep using the old one")
        # The buttons come right below the figures, where they need no scrolling.
        buttons = QHBoxLayout()
        for button in (self.use, self.keep, self.discard):
            buttons.addWidget(button)
        self._grid = QGridLayout()
        self._grid.setSpacing(3)
        self._grid.setColumnStretch(2, 1)  # both images of a row stand side by side
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.figures)
        named = QHBoxLayout()
        named.addWidget(QLabel("Name"))
        named.addWidget(self.name, 1)
        column.addLayout(named)
        column.addLayout(buttons)
        column.addWidget(self.legend)
        column.addLayout(self._grid)
        self.hide()

    def set_candidate(self, candidate: Candidate) -> None:
        """Take the result of a fine-tuning, to be shown."""
        self.clear()
        comparison = candidate.comparison
        self.name.setText(suggest_name(candidate.model.card.name, date.today()))
        self.figures.setText(describe_result(comparison))
        self.figures.setToolTip("" if comparison is None else describe_change(comparison.dice))
        self.legend.setVisible(comparison is not None)
        if comparison is not None:
            for row, change in enumerate(comparison.most_changed(SHOWN)):
                self._add_row(row, change)
        certain = comparison is not None and comparison.better
        self.use.setText("Use" if certain or not candidate.offered else "Use anyway")
        self.use.setEnabled(candidate.offered)
        self.use.setToolTip(_USE if certain else _USE_ANYWAY if candidate.offered else _NOT_OFFERED)

    def clear(self) -> None:
        """Show nothing."""
        while (item := self._grid.takeAt(0)) is not None:
            widget = item.widget()
            if widget is not None:
                widget.deleteLater()
        self.hide()

    def images(self) -> list[str]:
        """Return the names of the images that are shown, from top to bottom."""
        names = (self._grid.itemAtPosition(2 * row, 0) for row in range(SHOWN))
        return [item.widget().text() for item in names if item is not None]

    def _add_row(self, row: int, change: ImageChange) -> None:
        before, after = change.before, change.after
        name = NameLabel()
        name.setText(change.stem)
        name.setSizePolicy(
            QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred
        )  # the images set the width
        caption = small(QLabel(f"{before.scores.dice:.0%} \N{RIGHTWARDS ARROW} {after.scores.dice:.0%}"))
        caption.setToolTip("Agreement with the approved outline (Dice): old model, then new model")
        self._grid.addWidget(small(name), 2 * row, 0)
        self._grid.addWidget(caption, 2 * row, 1)
        window = window_around(before, after)
        for column, (outlined, words) in enumerate(((before, "Old model"), (after, "New model"))):
            label = QLabel()
            label.setPixmap(as_pixmap(draw_both(outlined, window)))
            label.setToolTip(f"{words}: its outline is orange, the approved one blue")
            self._grid.addWidget(label, 2 * row + 1, column)


def suggest_name(parent: str, day: date) -> str:
    """Return a name for a model that was fine-tuned from another on a day; no model has it yet."""
    stem = re.sub(r" \d{4}-\d\d-\d\d(-\d+)?$", "", parent)  # the parent's own day
    return ModelStore().free_name(f"{stem[:80]} {day.isoformat()}")


def describe_result(comparison: Comparison | None) -> str:
    """Describe whether the new model is better, and how much is known of it."""
    if comparison is None:
        return "It is not known whether the new model is better: there were too few images for a test."
    count, dice = len(comparison.images), comparison.dice
    tested = "1 image" if count == 1 else f"{count} images"
    figures = (
        f"Agreement with your outlines: {dice.before:.1%} with the old model, {dice.after:.1%} with the new "
        f"one ({tested}, outlined by models that had not seen them)."
    )
    if comparison.better:
        headline = "The new model is better."
    elif comparison.gains:
        headline = "The new model may be better, but this could be chance. Look at the images below."
    else:
        headline = "The new model is no better."
    few = f"\nWith {tested}, this says little about others. Approve more, and try again." * (count < FEW)
    return f"{headline}\n{figures}{few}"


def describe_change(change: Change) -> str:
    """Describe a difference of the Dice index with its interval."""
    difference = change.difference
    text = f"Change of the mean Dice index: {difference.mean:+z.3f}"
    if difference.low is None or difference.high is None:
        return f"{text}; a single image is a weak test"
    return f"{text} (95 % interval {difference.low:+z.3f} to {difference.high:+z.3f})"


def window_around(before: ScoredPrediction, after: ScoredPrediction) -> tuple[slice, slice]:
    """Return the part of an image that holds the approved outline and both models', with a margin."""
    inside = (before.pair.labels == 1) | (before.labels > 0) | (after.labels > 0)
    box = bounding_box(inside)
    if box is None:
        return slice(None), slice(None)
    rows, cols = (_with_margin(part, side) for part, side in zip(box, inside.shape, strict=True))
    return rows, cols


def _with_margin(part: slice, side: int) -> slice:
    margin = 2 + round(MARGIN * (part.stop - 1 - part.start))
    return slice(max(0, part.start - margin), min(side, part.stop + margin))


def draw_both(outlined: ScoredPrediction, window: tuple[slice, slice]) -> ByteImage:
    """Draw the approved outline and a model's into a copy of an image with a longer side of `SIDE` pixels."""
    image = outlined.pair.image[window]
    factor = SIDE / max(image.shape[:2])
    shape = (max(1, round(image.shape[0] * factor)), max(1, round(image.shape[1] * factor)))
    drawn = draw_outline(resize_image(image, shape), _resized(outlined.pair.labels == 1, window, shape))
    return draw_outline(drawn, 2 * _resized(outlined.labels > 0, window, shape))


def _resized(
    inside: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
    window: tuple[slice, slice],
    shape: tuple[int, int],
) -> LabelImage:
    return resize_labels(inside[window].astype(np.uint8), shape)


def as_pixmap(image: ByteImage) -> QPixmap:
    """Convert an image, (h, w, 3) uint8, for Qt."""
    height, width = image.shape[:2]
    pixels = np.ascontiguousarray(image).tobytes()
    return QPixmap.fromImage(QImage(pixels, width, height, 3 * width, QImage.Format.Format_RGB888).copy())


def _legend() -> str:
    approved, predicted = (f"rgb{color}" for color in (APPROVED, PREDICTED))
    return (
        f'<span style="color: {approved}">\N{BLACK SQUARE}</span> approved &nbsp; '
        f'<span style="color: {predicted}">\N{BLACK SQUARE}</span> left: old model, right: new model'
    )
