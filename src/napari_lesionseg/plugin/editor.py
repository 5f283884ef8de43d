"""One picture being corrected: strokes, clicks, settings, tools and the network's answers, with one history.

What is seen is always drawn from a `Snapshot`: the network's answer in force, thresholded and cleaned by
the settings, then what it found within boxes, then the pixels set by hand, which stay as the hand left
them. So moving the threshold, or clicking elsewhere, never costs a painted stroke. A click that says otherwise than the hand did, on
the very part that was painted, gives that part back to the network.

What counts as the hand: strokes of napari's brush, eraser, bucket and polygon, and the tools that add or take
away whole parts or holes. Smoothing and snapping reshape the outline as it stands; the next answer of the network, or
move of the threshold, replaces them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels
from numpy.typing import NDArray
from psygnal import Signal

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.engine import mask_tools
from napari_lesionseg.errors import LesionSegError, MaskError, ModelNotFoundError, PictureError
from napari_lesionseg.plugin import drawing
from napari_lesionseg.plugin.answers import Answer
from napari_lesionseg.plugin.edits import write_masks
from napari_lesionseg.plugin.history import Find, History, Snapshot
from napari_lesionseg.plugin.layers import fits, read_frame
from napari_lesionseg.plugin.marks import ClickMarks
from napari_lesionseg.plugin.workers import Job
from napari_lesionseg.types import Box, ByteImage, Click, LabelImage, Probability

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_lesionseg.engine.inference import EncodedPicture, Model

NO_MODEL = "Choose a model first; without one only the brushes work."
CLICKS_BUDGET = 128 << 20
"""Bytes of answers kept so that clicks can be taken back without asking the network."""

SPACING = 1 / 60
"""Distance between the clicks of a drawn row, as a share of the picture's diagonal."""


@dataclass(frozen=True)
class _Request:
    """What the network is asked, as plain values for another thread."""

    model: Model
    encoded: EncodedPicture | None
    image: ByteImage | None
    known: tuple[Click, ...]
    added: tuple[Click, ...]
    previous: Probability | None
    ask_base: bool


@dataclass(frozen=True)
class _Reply:
    """What it said: before the new clicks, if that was not known, and with them."""

    encoded: EncodedPicture
    base: Answer | None
    answer: Answer


def _ask(request: _Request) -> _Reply:
    """Ask the network; runs in another thread."""
    encoded = request.encoded
    if encoded is None:
        assert_image = request.image
        if assert_image is None:
            raise PictureError("The picture has gone; open it again.")
        encoded = request.model.encode(assert_image)
    base = Answer.of(encoded.predict(request.known)) if request.ask_base else None
    if request.ask_base and not request.added:
        return _Reply(encoded, None, base or Answer.of(encoded.predict(request.known)))
    answer = encoded.predict((*request.known, *request.added), request.previous)
    return _Reply(encoded, base, Answer.of(answer))
