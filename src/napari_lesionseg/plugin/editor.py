"""One picture being corrected: strokes, clicks, settings, tools and the network's answers, with one history.

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
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels
from psygnal import Signal

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.engine import mask_tools
from napari_lesionseg.engine.postprocessing import resolve_threshold
from napari_lesionseg.errors import LesionSegError, MaskError, ModelNotFoundError
from napari_lesionseg.plugin import drawing
from napari_lesionseg.plugin.answers import Answer
from napari_lesionseg.plugin.asking import Errands, Question, Reply, Wish, ask, look
from napari_lesionseg.plugin.history import Find, History, Snapshot
from napari_lesionseg.plugin.layers import read_frame
from napari_lesionseg.plugin.marks import Marks
from napari_lesionseg.plugin.outline_layer import OutlineLayer
from napari_lesionseg.plugin.tools import RESHAPING, TOOLS, apply_to_mask
from napari_lesionseg.types import Box, ByteImage, Click, LabelImage, Probability

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_lesionseg.engine.inference import EncodedPicture, Model

CLICKS_BUDGET = 128 << 20
"""Bytes of answers kept so that clicks can be taken back without asking the network."""

SPACING = 1 / 50
"""Distance between the clicks of a drawn row, as a share of the picture's diagonal."""

SMALLEST_BOX = 8
"""Pixels; a smaller rectangle was a slip of the hand."""

_NO_MODEL = "Choose a model first; without one the brushes and tools work, clicks and boxes do not."


_editors: weakref.WeakKeyDictionary[Labels, weakref.ref[OutlineEditor]] = weakref.WeakKeyDictionary()


def editor_of(labels: Labels) -> OutlineEditor | None:
    """Give the editor that a layer is the outline of, if it is being corrected."""
    return _editors[labels]() if labels in _editors else None


class OutlineEditor:
    """One picture being corrected: its outline, clicks, settings and one history over all of them.

    While it is open, Ctrl+Z and Ctrl+Shift+Z on the outline's layer, and ``layer.undo()`` and
    ``layer.redo()`` however they are called, go to this history; napari's own one stays empty.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        The viewer that shows the picture.
    picture : napari.layers.Image
        The picture, a single one.
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
        If the outline does not fit the picture, or the picture is a stack.
    """

    changed = Signal(str)
    busy = Signal(bool)
    failed = Signal(Exception)

    def __init__(
        self,
        viewer: ViewerModel,
        picture: Image,
        labels: Labels,
        *,
        config: PostprocessConfig,
        model: Model | None,
    ) -> None:
        self._layer = OutlineLayer(viewer, picture, labels)
        self.viewer, self.picture, self.labels = viewer, picture, labels
        self._model = model
        self._encoded: EncodedPicture | None = None
        self.marks = Marks(labels)
        self._no_hand = np.zeros(labels.data.shape, dtype=bool)
        self._history = History(Snapshot(self._layer.mask, self._no_hand, config, level=self._own_level()))
        self._looked_at: Snapshot | None = None
        self._any = False
        self._errands = Errands()
        self._errands.busy.connect(self.busy.emit)
        self._closed = self._is_draft = False
        self._layer.take_over(self.undo, self.redo, self._take_notice, self._on_picture_changed)
        _editors[labels] = weakref.ref(self)

    @property
    def mask(self) -> LabelImage:
        """A copy of the outline, (H, W) uint8, class indices."""
        self.settle()
        return self._layer.mask if self._layer.usable else self._now.mask.copy()

    @property
    def clicks(self) -> tuple[Click, ...]:
        """The clicks that the outline agrees with, oldest first."""
        return self._now.clicks

    @property
    def config(self) -> PostprocessConfig:
        """The settings in force, or about to be."""
        return self._errands.config or self._now.config

    @property
    def probability(self) -> Probability | None:
        """The network's answer in force, (H, W) or (C, H, W) float32; None when there is none."""
        return None if self._now.answer is None else self._now.answer.probability()

    @property
    def answer(self) -> Answer | None:
        """The same, as it is kept: never changed, so that another thread can look at it."""
        return self._now.answer

    @property
    def threshold(self) -> float:
        """The threshold in force: that of the settings, else the model's own."""
        return resolve_threshold(None, self.config, self._now.level)

    @property
    def model(self) -> Model | None:
        """The network that is asked."""
        return self._model

    @property
    def has_outline(self) -> bool:
        """Whether any pixel is outlined."""
        if (
            self._looked_at is not self._now
        ):  # buttons ask again and again, and there may be millions of pixels
            self._looked_at, self._any = self._now, bool(self._now.mask.max(initial=0))
        return self._any

    @property
    def has_prediction(self) -> bool:
        """Whether there is an outline of the network's own to go back to."""
        return self._now.prediction is not None

    @property
    def is_busy(self) -> bool:
        """Whether the network is at work."""
        return self._errands.is_busy

    @property
    def can_undo(self) -> bool:
        """Whether there is something to take back."""
        return bool(self._errands) or self._history.can_undo or self._painted()

    @property
    def can_redo(self) -> bool:
        """Whether there is something to bring back."""
        return self._history.can_redo and not self._painted()

    @property
    def active_class(self) -> int:
        """The class that is painted next, from 1."""
        return max(1, int(self.labels.selected_label))

    @active_class.setter
    def active_class(self, label: int) -> None:
        self.labels.selected_label = label

    def set_model(self, model: Model | None) -> None:
        """Take another network from now on; the outline stays as it is."""
        if model is not self._model:
            self._errands.drop()
            self._model, self._encoded = model, None

    def predict(self) -> None:
        """Outline the picture anew; clicks and the hand's work go, until undo brings them back."""
        self._errands.drop()
        self._want("prediction")

    def set_prediction(
        self, given: Probability | Answer, encoded: EncodedPicture | None = None, *, draw: bool = True
    ) -> None:
        """Take an answer that the network gave before.

        Parameters
        ----------
        given : ndarray or Answer
            (H, W) or (C, H, W) float32, without clicks.
        encoded : EncodedPicture, optional
            The picture as the network keeps it for clicks.
        draw : bool
            True: draw the outline anew. False: it stays, and what differs from the answer counts as done by
            hand.
        """
        self._errands.drop()
        if not self._ready():
            return
        if given.shape[-2:] != self._now.mask.shape:
            self.failed.emit(MaskError("The prepared outline is of another picture; outline this one again."))
            return
        self._encoded = encoded if encoded is not None else self._encoded
        answer = given if isinstance(given, Answer) else Answer.of(given)
        if draw:
            self._predicted(answer, self._history.current)
        elif not self._now.clicks:
            self._history.amend(drawing.learnt(self._now, answer, self._own_level()))
        else:
            answers = (answer, *self._now.answers[1:])
            self._history.amend(replace(self._now, prediction=answer, answers=answers))

    def set_config(self, config: PostprocessConfig, *, draft: bool = False) -> None:
        """Draw the outline anew with other settings, from the answer in force; the network is not asked.

        Several calls in a row are one step of undo. About an outline that was restored, it is asked once.

        Parameters
        ----------
        config : PostprocessConfig
            The settings.
        draft : bool
            Draw an outline of millions of pixels coarsely, while a slider is held and nothing else is done;
            `settle`, or whatever is done next, draws it in full.
        """
        if config == self.config:
            return
        if not (draft and self._is_draft and self._layer.usable) and not self._ready(settle=False):
            return
        then = replace(self._now, config=config)
        if self._answered():
            every = drawing.draft_step(then) if draft else 1
            self._record(drawing.redrawn(then, self.active_class, every), "threshold", merge=True)
            self._is_draft = every > 1
            return
        if self._now.mask.any() and self._model is not None:
            self._want("redraw", config=config)
        else:
            self._record(then, "threshold", merge=True)

    def settle(self) -> None:
        """Draw in full what was drafted."""
        if self._is_draft and self._layer.usable:
            self._take_notice()
            self._sharpen()
            self._show(self._now, "threshold")

    def add_click(self, row: float, col: float, positive: bool = True) -> None:
        """Say that a point belongs to the lesion, or does not.

        Parameters
        ----------
        row, col : float
            In pixels of the picture; points outside it are ignored.
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
        self._show_clicks(self._row(points, positive))

    def remove_last_click(self) -> None:
        """Take the last click, or row of clicks, back; the strokes painted since stay."""
        if self._forget_waiting_click():
            return
        if not self._now.groups or not self._ready():
            return
        then = drawing.without_last_click(self._now)
        if then.answer is not None or (not then.clicks and not self._answered()):
            self._record(drawing.redrawn(then, self.active_class), "click")
        else:
            self._want("retract")

    def box(self, box: Box) -> None:
        """Let the network look at a part of the picture at its full working size; what it finds is added.

        Parameters
        ----------
        box : Box
            In pixels of the picture; it is cut at the picture's border.
        """
        height, width = self._now.mask.shape
        cut = Box(max(box.top, 0), max(box.left, 0), min(box.bottom, height), min(box.right, width))
        if min(cut.bottom - cut.top, cut.right - cut.left) >= SMALLEST_BOX and self._ready():
            self._want("box", box=cut)

    def apply_tool(self, name: str, row: float | None = None, col: float | None = None) -> None:
        """Do with the outline what one press of a button does.

        Parameters
        ----------
        name : str
            "smooth", "fill_holes", "largest_part", "remove_part" (under ``row``, ``col``), "snap", "split",
            "merge", "back_to_prediction" or "clear" (there is no lesion).
        row, col : float, optional
            A point in pixels of the picture.

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
            self._clear()
        else:
            self._change(name, None if row is None or col is None else (row, col))

    def undo(self) -> None:
        """Take the last step back; a click that the network is still at work on goes first."""
        if not self._ready() or self._forget_waiting():
            return
        if self._history.can_undo:
            self._show(self._history.undo(), "undo")

    def redo(self) -> None:
        """Bring the step back that was taken back last."""
        if self._ready() and self._history.can_redo:
            self._errands.drop()
            self._show(self._history.redo(), "redo")

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
        self._errands.drop()
        if not self._layer.usable:
            return
        if mask.shape != self._now.mask.shape:
            self.failed.emit(MaskError("The saved outline is of another size; outline the picture again."))
            return
        count = len(clicks)
        base = Snapshot(
            mask.astype(np.uint8),
            self._no_hand,
            config if config is not None else self.config,
            tuple(clicks),
            (1,) * count,
            (None,) * (count + 1),
            level=self._own_level(),
        )
        self._history.reset(base)
        self._show(base, "restored")

    def close(self) -> None:
        """Let go of the layer and the viewer; what the network still answers is dropped."""
        if self._closed:
            return
        self._errands.drop()
        self._closed = True
        self.marks.close()
        self._encoded = None
        _editors.pop(self.labels, None)
        self._layer.close()

    # The layer

    def _ready(self, *, settle: bool = True) -> bool:
        """Take notice of what was painted, and tell whether anything can be done; say why if not."""
        if self._layer.usable:
            self._take_notice()
            if settle:
                self.settle()
            return True
        self._errands.drop()
        if not self._closed:
            self.failed.emit(MaskError("The outline or its picture was closed or changed; open it again."))
        return False

    def _painted(self) -> bool:
        """Whether the layer shows something else than the history knows of."""
        return self._layer.usable and not self._layer.shows(self._now.mask)

    def _take_notice(self) -> bool:
        """Record what was painted since the last step; tell whether anything was."""
        if not self._painted():
            return False
        mask = self._layer.mask
        painted = mask != self._now.mask
        drafted = self._is_draft
        if drafted:
            self._sharpen()
            np.copyto(mask, self._now.mask, where=~painted)
        self._history.record(replace(self._now, mask=mask, hand=self._now.hand | painted), "stroke")
        if drafted:
            self._layer.write(mask)
        self.changed.emit("stroke")
        return True

    def _on_picture_changed(self) -> None:
        self._encoded = None

    # Steps

    @property
    def _now(self) -> Snapshot:
        return self._history.current

    def _record(self, snapshot: Snapshot, kind: str, *, merge: bool = False) -> None:
        trimmed = replace(snapshot, answers=drawing.within_budget(snapshot.answers, CLICKS_BUDGET))
        self._history.record(trimmed, kind, merge=merge)
        self._show(trimmed, kind)

    def _sharpen(self) -> None:
        """Put the outline in full in the place of a draft, in the history alone."""
        self._is_draft = False
        self._history.amend(drawing.redrawn(self._now, self.active_class))

    def _show(self, snapshot: Snapshot, kind: str) -> None:
        self._is_draft = False
        self._layer.write(snapshot.mask)
        self._show_clicks()
        self.changed.emit(kind)

    def _show_clicks(self, more: Sequence[Click] = ()) -> None:
        self.marks.show([*self._now.clicks, *self._errands.clicks, *more])

    def _change(self, name: str, point: tuple[float, float] | None) -> None:
        """Apply a tool that makes a mask of a mask."""
        now = self._now
        try:
            mask = apply_to_mask(name, now.mask, self.active_class, self._read_picture, point)
        except LesionSegError as error:
            self.failed.emit(error)
            return
        if np.array_equal(mask, now.mask):
            return
        hand = now.hand if name in RESHAPING else now.hand | (mask != now.mask)
        self._record(replace(now, mask=mask, hand=hand), "tool")

    def _read_picture(self) -> ByteImage:
        return read_frame(self.picture, ())

    def _back_to_prediction(self) -> None:
        prediction = self._now.prediction
        if prediction is None:
            self.predict()
            return
        self._errands.drop()
        self._predicted(prediction, self._now, kind="tool")

    def _clear(self) -> None:
        self._errands.drop()
        now = self._now
        empty = np.zeros_like(now.mask)
        answer = drawing.nothing((empty.shape[0], empty.shape[1]))
        then = replace(now, mask=empty, hand=self._no_hand, clicks=(), groups=(), answers=(answer,), finds=())
        self._record(then, "tool")

    def _predicted(self, answer: Answer, asked_at: Snapshot, kind: str = "prediction") -> None:
        """Draw the network's own answer; what was painted since it was asked stays."""
        now = self._now
        since = self._no_hand if asked_at is now else (now.mask != asked_at.mask)
        kept = np.where(since, now.mask, np.uint8(0))
        then = replace(
            now, mask=kept, hand=since, clicks=(), groups=(), answers=(answer,), prediction=answer, finds=()
        )
        if kind == "prediction":
            then = replace(then, level=self._own_level())
        self._record(drawing.redrawn(then, self.active_class), kind)

    def _answered(self) -> bool:
        """Whether the outline can be drawn without asking the network."""
        return self._now.answer is not None or bool(self._now.finds)

    def _own_level(self) -> float:
        return self._model.card.threshold if self._model is not None else 0.5

    # The network

    def _row(self, points: Sequence[tuple[float, float]], positive: bool) -> list[Click]:
        """Turn a drawn line into a row of clicks."""
        spacing = SPACING * float(np.hypot(*self._now.mask.shape))
        return [Click(row, col, positive) for row, col in mask_tools.thin_path(points, spacing)]

    def _add_clicks(self, clicks: Sequence[Click]) -> None:
        shape = self._now.mask.shape
        within = tuple(click for click in clicks if drawing.inside(click, shape))
        if within and self._ready():
            self._want("click", within)

    def _want(self, kind: Any, clicks: tuple[Click, ...] = (), **more: Any) -> None:
        if self._model is None:
            self.failed.emit(ModelNotFoundError(_NO_MODEL))
            return
        self._errands.waiting.append(Wish(kind, self._history.depth, clicks, **more))
        self._go_on()
        self._show_clicks()

    def _go_on(self) -> None:
        """Ask the network the next question, if it is free and there is one."""
        while not self._errands.is_busy and self._errands.waiting and self._layer.usable:
            try:
                self._start()
            except LesionSegError as error:
                self._on_failed(error)
        self._errands.tell()

    def _start(self) -> None:
        waiting = self._errands.waiting
        if waiting[0].kind != "prediction" and self._now.answer is None and self._now.mask.any():
            # A restored outline: what of it is the network's is learnt first.
            self._send((), ask, self._question(self._now.clicks), done=self._on_learnt)
            return
        wish = waiting.popleft()
        if wish.kind == "prediction":
            self._send((wish,), ask, self._question(()), done=partial(self._on_predicted, self._now))
        elif wish.kind == "click":
            self._start_clicks(wish)
        elif wish.kind == "box":
            self._start_box(wish)
        elif wish.kind == "retract":
            self._start_retract(wish)
        elif wish.config is not None:
            then = replace(self._now, config=wish.config)
            self._record(drawing.redrawn(then, self.active_class), "threshold", merge=True)

    def _start_clicks(self, first: Wish) -> None:
        """Ask about a click, together with those that follow it directly."""
        wishes = self._errands.take_clicks(first)
        groups = [wish.clicks for wish in wishes]
        clicks = (*self._now.clicks, *(click for group in groups for click in group))
        question = self._question(clicks, self._now)
        self._send(wishes, ask, question, done=partial(self._on_clicked, groups))

    def _start_box(self, wish: Wish) -> None:
        box = wish.box
        if box is None:
            return
        window = drawing.with_margin(box, (self._now.mask.shape[0], self._now.mask.shape[1]))
        part = self._read_picture()[window.top : window.bottom, window.left : window.right].copy()
        self._send((wish,), look, self._model, part, box, window, self.threshold, done=self._on_found)

    def _start_retract(self, wish: Wish) -> None:
        if not self._now.groups:
            return
        remaining = drawing.without_last_click(self._now).clicks
        self._send((wish,), ask, self._question(remaining), done=self._on_retracted)

    def _question(self, clicks: tuple[Click, ...], before: Snapshot | None = None) -> Question:
        image = self._read_picture() if self._encoded is None else None
        return Question(self._model, self._encoded, image, clicks, before)

    def _send(
        self, wishes: tuple[Wish, ...], function: Any, *arguments: Any, done: Callable[[Any], None]
    ) -> None:
        self._errands.send(
            wishes,
            f"outlining {self.picture.name}",
            function,
            *arguments,
            done=partial(self._on_reply, done),
            failed=self._on_failed,
        )

    def _on_reply(self, done: Callable[[Any], None], reply: Any) -> None:
        if not self._layer.usable:
            self._errands.drop()
            return
        self._take_notice()
        if isinstance(reply, Reply):
            self._encoded = reply.encoded
        done(reply)
        self._go_on()

    def _on_failed(self, error: Exception) -> None:
        self._errands.drop()
        if self._layer.usable:
            self._show_clicks()
        self.failed.emit(error)

    def _on_learnt(self, reply: Reply) -> None:
        self._history.amend(drawing.learnt(self._now, reply.answer, self._own_level()))

    def _on_predicted(self, asked_at: Snapshot, reply: Reply) -> None:
        self._predicted(reply.answer, asked_at)

    def _on_clicked(self, groups: list[tuple[Click, ...]], reply: Reply) -> None:
        then = drawing.with_clicks(self._now, groups, reply.answer)
        self._record(drawing.redrawn(then, self.active_class), "click")

    def _on_retracted(self, reply: Reply) -> None:
        if not self._now.groups:
            return
        then = drawing.without_last_click(self._now)
        then = replace(then, answers=(*then.answers[:-1], reply.answer))
        self._record(drawing.redrawn(then, self.active_class), "click")

    def _on_found(self, find: Find) -> None:
        then = replace(self._now, finds=(*self._now.finds, find))
        self._record(drawing.redrawn(then, self.active_class), "box")

    def _forget_waiting(self) -> bool:
        """Take back what the network was asked last, if nothing else was done since."""
        if not self._errands.forget_last(self._history.depth):
            return False
        self._show_clicks()
        self.changed.emit("undo")
        return True

    def _forget_waiting_click(self) -> bool:
        """Take back the last click if the network has not answered it yet."""
        if not self._errands.forget_click():
            return False
        self._show_clicks()
        return True
