"""One image being corrected: strokes, clicks, settings, tools and the network's answers, with one history.

What is seen is drawn from a `Snapshot`: the network's answer in force, thresholded and cleaned as the
settings say, with what it found in boxes, and then the pixels set by hand, which stay as the hand left them.
So moving the threshold, or clicking elsewhere, never costs a painted stroke. A click that says otherwise than
the hand did, on the very part that was painted, gives that part back to the network.

The hand's work is: strokes of napari's brush, eraser, bucket and polygon, and the tools that add or take away
parts or holes. Smoothing and snapping reshape the outline as it stands; the next answer of the network, and
the next move of the threshold, begin again without them.

The network works in another thread, on copies, one question at a time. Clicks set in the meantime wait and
are asked together. What is undone, replaced or closed while it works is dropped.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image, Labels
from psygnal import Signal

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import LesionSegError, MaskError
from napari_lesionseg.inference.postprocess import resolve_threshold
from napari_lesionseg.masks import morphology
from napari_lesionseg.plugin.editor import compose
from napari_lesionseg.plugin.editor.document import MaskDocument
from napari_lesionseg.plugin.editor.prediction_cache import Answer, AnyAnswer
from napari_lesionseg.plugin.editor.requests import Conversation
from napari_lesionseg.plugin.editor.tools import RESHAPING, TOOLS, apply_to_mask
from napari_lesionseg.plugin.editor.undo_history import Snapshot
from napari_lesionseg.types import Box, Click, LabelImage, Probability

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_lesionseg.inference.predictor import EncodedImage, Model

SPACING = 1 / 50
"""Distance between the clicks of a drawn row, as a share of the image's diagonal."""

SMALLEST_BOX = 8
"""Pixels; a smaller rectangle was a slip of the hand."""

AT_ONCE_PIXELS = 1 << 21
"""Images up to this size are smoothed and snapped at once, larger ones in another thread."""


_editors: weakref.WeakKeyDictionary[Labels, weakref.ref[MaskEditor]] = weakref.WeakKeyDictionary()


def editor_of(labels: Labels) -> MaskEditor | None:
    """Give the editor that a layer is the outline of, if it is being corrected."""
    return _editors[labels]() if labels in _editors else None


class MaskEditor:
    """One image being corrected: its outline, clicks, settings and one history over all of them.

    While it is open, Ctrl+Z and Ctrl+Shift+Z on the outline's layer, and ``layer.undo()`` and
    ``layer.redo()`` however they are called, go to this history; napari's own one stays empty.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        The viewer that shows the image.
    image : napari.layers.Image
        The image, a single one.
    labels : napari.layers.Labels
        Its outline, of the same size. What it holds is where the history begins.
    config : PostprocessConfig
        How a mask is made of the network's answer.
    model : Model or None
        The network; None: `set_model` gives it later.

    Attributes
    ----------
    changed : psygnal.Signal
        Emitted after any change with what was done: "prediction", "click", "box", "stroke", "threshold",
        "tool", "undo", "redo" or "restored".
    busy : psygnal.Signal
        Emitted with True when the network begins to work, and with False when it has finished.
    failed : psygnal.Signal
        Emitted with the exception when something could not be done; its text is a sentence for the user.

    Raises
    ------
    MaskError
        If the outline does not fit the image, or the image is a stack.
    """

    changed = Signal(str)
    busy = Signal(bool)
    failed = Signal(Exception)

    def __init__(
        self,
        viewer: ViewerModel,
        image: Image,
        labels: Labels,
        *,
        config: PostprocessConfig,
        model: Model | None,
    ) -> None:
        level = 0.5 if model is None else model.card.threshold
        self._seen = MaskDocument(viewer, image, labels, config, level)
        self._talk = Conversation(self._seen, lambda: image.name, model)
        self.viewer, self.image, self.labels = viewer, image, labels
        self._closed = False
        self.overlay = self._seen.overlay
        self._seen.changed.connect(self.changed.emit)
        self._talk.failed.connect(self.failed.emit)
        self._talk.requests.busy.connect(self.busy.emit)
        self._seen.layer.take_over(self.undo, self.redo, self._seen.take_notice, self._on_image_changed)
        _editors[labels] = weakref.ref(self)

    @property
    def mask(self) -> LabelImage:
        """A copy of the outline, (H, W) uint8, class indices."""
        return self._seen.mask

    @property
    def kept_mask(self) -> LabelImage:
        """The outline as it is kept: never changed, so that another thread can look at it."""
        return self._seen.kept_mask

    @property
    def clicks(self) -> tuple[Click, ...]:
        """The clicks that the outline agrees with, oldest first."""
        return self._now.clicks

    @property
    def config(self) -> PostprocessConfig:
        """The settings in force, or about to be."""
        return self._talk.requests.config or self._now.config

    @property
    def probability(self) -> Probability | None:
        """The network's answer in force, (H, W) or (C, H, W) float32; None when there is none."""
        return None if self._now.answer is None else self._now.answer.probability()

    @property
    def answer(self) -> AnyAnswer | None:
        """The same, as it is kept: never changed, so that another thread can look at it."""
        return self._now.answer

    @property
    def threshold(self) -> float:
        """The threshold in force: that of the settings, else the model's own."""
        return resolve_threshold(None, self.config, self._now.level)

    @property
    def model(self) -> Model | None:
        """The network that is asked."""
        return self._talk.model

    @property
    def has_outline(self) -> bool:
        """Whether any pixel is outlined."""
        return self._seen.has_outline

    @property
    def has_prediction(self) -> bool:
        """Whether there is an outline of the network's own to go back to."""
        return self._now.prediction is not None

    @property
    def is_busy(self) -> bool:
        """Whether the network is at work."""
        return self._talk.requests.is_busy

    @property
    def can_undo(self) -> bool:
        """Whether there is something to take back."""
        return bool(self._talk.requests) or self._seen.history.can_undo or self._seen.is_painted

    @property
    def can_redo(self) -> bool:
        """Whether there is something to bring back."""
        return self._seen.history.can_redo and not self._seen.is_painted

    @property
    def active_class(self) -> int:
        """The class that is painted next, from 1."""
        return self._seen.active_class

    @active_class.setter
    def active_class(self, label: int) -> None:
        self.labels.selected_label = label

    def set_model(self, model: Model | None) -> None:
        """Take another network from now on; the outline stays as it is."""
        if model is not self._talk.model:
            self._talk.model = model

    def predict(self) -> None:
        """Outline the image anew; clicks and the hand's work go, until undo brings them back."""
        self._talk.requests.drop()
        self._talk.want("prediction")

    def set_prediction(
        self, given: Probability | AnyAnswer, encoded: EncodedImage | None = None, *, draw: bool = True
    ) -> None:
        """Take an answer that the network gave before.

        Parameters
        ----------
        given : ndarray or Answer
            (H, W) or (C, H, W) float32, without clicks.
        encoded : EncodedImage, optional
            The image as the network keeps it for clicks.
        draw : bool
            True: draw the outline anew. False: it stays, and what differs from the answer counts as done by
            hand.
        """
        self._talk.requests.drop()
        if not self._ready():
            return
        if given.shape[-2:] != self._now.mask.shape:
            self.failed.emit(MaskError("The prepared outline is of another image; outline this one again."))
            return
        self._talk.encoded = encoded if encoded is not None else self._talk.encoded
        answer = Answer.of(given) if isinstance(given, np.ndarray) else given
        if draw:
            self._seen.draw_prediction(answer, self._now, level=self._talk.level)
        elif not self._now.clicks:
            self._seen.history.amend(compose.learnt(self._now, answer, self._talk.level))
        else:
            answers = (answer, *self._now.answers[1:])
            self._seen.history.amend(replace(self._now, prediction=answer, answers=answers))

    def set_config(self, config: PostprocessConfig) -> None:
        """Draw the outline anew with other settings, from the answer in force; the network is not asked.

        Several calls in a row are one step of undo. About an outline that was restored, it is asked once.
        """
        if config == self.config or not self._ready():
            return
        then = replace(self._now, config=config)
        if self._answered():
            self._seen.redraw(then, "threshold", merge=True)
        elif self._seen.has_outline and self._talk.model is not None:
            self._talk.want("redraw", config=config)
        else:
            self._seen.record(then, "threshold", merge=True)

    def add_click(self, row: float, col: float, positive: bool = True) -> None:
        """Say that a point belongs to the lesion, or does not.

        Parameters
        ----------
        row, col : float
            In pixels of the image; points outside it are ignored.
        positive : bool
            Whether the point belongs to it.
        """
        self._add_clicks([Click(float(row), float(col), positive)])

    def add_scribble(self, points: Sequence[tuple[float, float]], positive: bool = True) -> None:
        """Say so of a drawn line: a row of clicks, which undo and Backspace take back together.

        Parameters
        ----------
        points : sequence of (float, float)
            Rows and columns along the line.
        positive : bool
            Whether the line belongs to the lesion.
        """
        self._add_clicks(self._row(points, positive))

    def preview(self, points: Sequence[tuple[float, float]], positive: bool = True) -> None:
        """Show the clicks that a line would make, while it is being drawn."""
        self._seen.show_clicks(self._row(points, positive))

    def remove_last_click(self) -> None:
        """Take the last click, or row of clicks, back; the strokes painted since stay."""
        if self._talk.forget_click() or not self._now.groups or not self._ready():
            return
        then = compose.without_last_click(self._now)
        if then.answer is not None or (not then.clicks and not self._answered()):
            self._seen.redraw(then, "click")
        else:
            self._talk.want("retract")

    def box(self, box: Box) -> None:
        """Let the network look at a part of the image at its full working size; what it finds is added.

        Parameters
        ----------
        box : Box
            In pixels of the image; it is cut at the image's border.
        """
        height, width = self._now.mask.shape
        cut = Box(max(box.top, 0), max(box.left, 0), min(box.bottom, height), min(box.right, width))
        if min(cut.bottom - cut.top, cut.right - cut.left) >= SMALLEST_BOX and self._ready():
            self._talk.want("box", box=cut)

    def apply_tool(self, name: str, row: float | None = None, col: float | None = None) -> None:
        """Do with the outline what one press of a button does.

        Parameters
        ----------
        name : str
            "smooth", "fill_holes", "largest_part", "remove_part" (under ``row``, ``col``), "snap", "split",
            "merge", "back_to_prediction" or "clear" (there is no lesion).
        row, col : float, optional
            A point in pixels of the image.

        Raises
        ------
        ValueError
            If there is no tool of that name.
        """
        if name not in TOOLS:
            raise ValueError(f"no tool is called {name!r}; there are {', '.join(TOOLS)}")
        if not self._ready():
            return
        if name == "back_to_prediction":
            self._back_to_prediction()
        elif name == "clear":
            self._talk.requests.drop()
            self._seen.clear()
        elif name in RESHAPING and self._now.mask.size > AT_ONCE_PIXELS:
            self._talk.want("tool", tool=name)
        else:
            self._change(name, None if row is None or col is None else (row, col))

    def undo(self) -> None:
        """Take the last step back; a click that the network is still at work on goes first."""
        if not self._ready():
            return
        if self._talk.forget_last():
            self.changed.emit("undo")
        elif self._seen.history.can_undo:
            self._seen.show(self._seen.history.undo(), "undo")

    def redo(self) -> None:
        """Bring the step back that was taken back last."""
        if self._ready() and self._seen.history.can_redo:
            self._talk.requests.drop()
            self._seen.show(self._seen.history.redo(), "redo")

    def restore(
        self, mask: LabelImage, clicks: Sequence[Click] = (), config: PostprocessConfig | None = None
    ) -> None:
        """Take a state that was saved before; the history begins anew with it.

        Parameters
        ----------
        mask : ndarray
            (H, W) uint8.
        clicks : sequence of Click
            The clicks it was made with.
        config : PostprocessConfig, optional
            The settings it was made with; None: those in force.
        """
        self._talk.requests.drop()
        if not self._seen.layer.usable:
            return
        if mask.shape != self._now.mask.shape:
            self.failed.emit(MaskError("The saved outline is of another size; outline the image again."))
            return
        count = len(clicks)
        self._seen.restore(
            Snapshot(
                mask.astype(np.uint8),
                self._seen.no_hand,
                config if config is not None else self.config,
                tuple(clicks),
                (1,) * count,
                (None,) * (count + 1),
                level=self._talk.level,
            )
        )

    def close(self) -> None:
        """Let go of the layer and the viewer; what the network still answers is dropped."""
        if self._closed:
            return
        self._talk.requests.drop()
        self._closed = True
        self._talk.encoded = None
        _editors.pop(self.labels, None)
        self._seen.close()

    @property
    def _now(self) -> Snapshot:
        return self._seen.now

    def _ready(self) -> bool:
        """Take notice of what was painted, and tell whether anything can be done; say why if not."""
        if self._seen.layer.usable:
            self._seen.take_notice()
            return True
        self._talk.requests.drop()
        if not self._closed:
            self.failed.emit(MaskError("The outline or its image was closed or changed; open it again."))
        return False

    def _on_image_changed(self) -> None:
        self._talk.encoded = None

    def _answered(self) -> bool:
        """Whether the outline can be drawn without asking the network."""
        return self._now.answer is not None or bool(self._now.finds)

    def _change(self, name: str, point: tuple[float, float] | None) -> None:
        """Apply a tool that makes a mask of a mask."""
        now, seen = self._now, self._seen
        try:
            mask = apply_to_mask(name, now.mask, seen.active_class, seen.read_image, point)
        except LesionSegError as error:
            self.failed.emit(error)
            return
        seen.reshape(mask, now, by_hand=name not in RESHAPING)

    def _back_to_prediction(self) -> None:
        prediction = self._now.prediction
        if prediction is None:
            self.predict()
            return
        self._talk.requests.drop()
        self._seen.draw_prediction(prediction, self._now, "tool")

    def _row(self, points: Sequence[tuple[float, float]], positive: bool) -> list[Click]:
        """Turn a drawn line into a row of clicks."""
        spacing = SPACING * float(np.hypot(*self._now.mask.shape))
        return [Click(row, col, positive) for row, col in morphology.thin_path(points, spacing)]

    def _add_clicks(self, clicks: Sequence[Click]) -> None:
        shape = self._now.mask.shape
        within = tuple(click for click in clicks if compose.inside(click, shape))
        if within and self._ready():
            self._talk.want("click", within)
