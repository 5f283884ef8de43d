"""What is seen of an image while it is corrected, and the one history behind it. No network in here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image, Labels
from psygnal import Signal

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.plugin.editor import compose
from napari_lesionseg.plugin.editor.prediction_cache import AnyAnswer
from napari_lesionseg.plugin.editor.undo_history import History, Snapshot
from napari_lesionseg.plugin.napari_layers.layers import read_frame
from napari_lesionseg.plugin.napari_layers.managed_labels import ManagedLabels
from napari_lesionseg.plugin.napari_layers.overlays import ClickOverlay, add_overlay
from napari_lesionseg.types import ByteImage, Click, LabelImage

if TYPE_CHECKING:
    from napari.components import ViewerModel

CLICKS_BUDGET = 128 << 20
"""Bytes of answers kept so that clicks can be taken back without asking the network."""


class MaskDocument:
    """The outline of one image: a layer, the clicks over it, and the snapshot that both are drawn from.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        The viewer that shows the image.
    image : napari.layers.Image
        The image, a single one.
    labels : napari.layers.Labels
        Its outline, of the same size. What it holds is where the history begins.
    config : PostprocessConfig
        How a mask is made of the network's answers.
    level : float
        Threshold of the model.

    Attributes
    ----------
    changed : psygnal.Signal
        Emitted after any change with what was done.
    unanswered : callable
        Gives the clicks that the network has not answered yet; they are shown as well.

    Raises
    ------
    MaskError
        If the outline does not fit the image, or the image is a stack.
    """

    changed = Signal(str)

    def __init__(
        self, viewer: ViewerModel, image: Image, labels: Labels, config: PostprocessConfig, level: float
    ) -> None:
        self.layer = ManagedLabels(viewer, image, labels)
        self.overlay = add_overlay(labels, ClickOverlay)
        self.unanswered: Callable[[], Iterable[Click]] = tuple
        self.no_hand = np.zeros(labels.data.shape, dtype=bool)
        self.history = History(Snapshot(self.layer.mask, self.no_hand, config, level=level))
        self._image, self._labels = image, labels
        self._looked_at: Snapshot | None = None
        self._any = False

    @property
    def now(self) -> Snapshot:
        """The snapshot in force."""
        return self.history.current

    @property
    def mask(self) -> LabelImage:
        """A copy of what is seen, (H, W) uint8."""
        return self.layer.mask if self.layer.usable else self.now.mask.copy()

    @property
    def kept_mask(self) -> LabelImage:
        """The same, with what was painted taken notice of, as it is kept: it is never changed."""
        if self.layer.usable:
            self.take_notice()
        return self.now.mask

    @property
    def has_outline(self) -> bool:
        """Whether any pixel is outlined."""
        if self._looked_at is not self.now:  # buttons ask again and again about millions of pixels
            self._looked_at, self._any = self.now, bool(self.now.mask.max(initial=0))
        return self._any

    @property
    def active_class(self) -> int:
        """The class that is painted next, from 1."""
        return max(1, int(self._labels.selected_label))

    @property
    def is_painted(self) -> bool:
        """Whether the layer shows something else than the history knows of."""
        return self.layer.usable and not self.layer.shows(self.now.mask)

    def take_notice(self) -> bool:
        """Record what was painted since the last step; tell whether anything was."""
        if not self.is_painted:
            return False
        mask = self.layer.mask
        hand = self.now.hand | (mask != self.now.mask)
        self.history.record(replace(self.now, mask=mask, hand=hand), "stroke")
        self.changed.emit("stroke")
        return True

    def redraw(self, snapshot: Snapshot, kind: str, *, merge: bool = False) -> None:
        """Draw the outline of a snapshot anew and put it in force."""
        self.record(compose.redrawn(snapshot, self.active_class), kind, merge=merge)

    def record(self, snapshot: Snapshot, kind: str, *, merge: bool = False) -> None:
        """Put a snapshot in force, as a step that can be undone; `merge` as for `History.record`."""
        trimmed = replace(snapshot, answers=compose.within_budget(snapshot.answers, CLICKS_BUDGET))
        self.history.record(trimmed, kind, merge=merge)
        self.show(trimmed, kind)

    def show(self, snapshot: Snapshot, kind: str) -> None:
        """Show a snapshot and tell what was done."""
        self.layer.write(snapshot.mask)
        self.show_clicks()
        self.changed.emit(kind)

    def show_clicks(self, more: Sequence[Click] = ()) -> None:
        """Show the clicks in force, those without an answer, and some more."""
        self.overlay.show([*self.now.clicks, *self.unanswered(), *more])

    def draw_prediction(
        self, answer: AnyAnswer, asked_at: Snapshot, kind: str = "prediction", level: float | None = None
    ) -> None:
        """Draw the network's own answer; what was painted since it was asked stays."""
        since = self.no_hand if asked_at is self.now else (self.now.mask != asked_at.mask)
        then = replace(
            self._bare(since, answer), prediction=answer, level=self.now.level if level is None else level
        )
        self.redraw(then, kind)

    def clear(self) -> None:
        """Say that there is no lesion."""
        shape = (self.now.mask.shape[0], self.now.mask.shape[1])
        self.record(self._bare(self.no_hand, compose.nothing(shape)), "tool")

    def reshape(self, mask: LabelImage, asked_at: Snapshot, *, by_hand: bool) -> None:
        """Take what a tool made of an outline; what was painted since it began stays."""
        now = self.now
        if asked_at is not now:
            mask = np.where(now.mask != asked_at.mask, now.mask, mask)
        if not np.array_equal(mask, now.mask):
            hand = now.hand | (mask != now.mask) if by_hand else now.hand
            self.record(replace(now, mask=mask, hand=hand), "tool")

    def restore(self, base: Snapshot) -> None:
        """Let the history begin anew."""
        self.history.reset(base)
        self.show(base, "restored")

    def read_image(self) -> ByteImage:
        """Copy the image, (H, W, 3) uint8."""
        return read_frame(self._image, ())

    def close(self) -> None:
        """Let go of the layer."""
        self.overlay.clear()
        self.layer.close()

    def _bare(self, hand: np.typing.NDArray[np.bool_], answer: AnyAnswer) -> Snapshot:
        """Give a snapshot without clicks and finds, with the pixels of the hand and nothing else."""
        mask = np.zeros(self.now.mask.shape, np.uint8)
        if hand is not self.no_hand:
            np.copyto(mask, self.now.mask, where=hand)
        return replace(self.now, mask=mask, hand=hand, clicks=(), groups=(), answers=(answer,), finds=())
