"""A study's outlines and verdicts on their way to the disk, and what of them is not there yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from psygnal import Signal

from napari_lesionseg.plugin.workbench.autosave import Saver
from napari_lesionseg.study.study import Origin, Study
from napari_lesionseg.types import Click, LabelImage

Quality: TypeAlias = Callable[[], float]
"""Estimates how good an outline is; runs in another thread."""


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """An outline that is newer than what the disk has.

    Parameters
    ----------
    mask : ndarray
        (H, W) uint8.
    clicks : tuple of Click
        Clicks that it agrees with.
    by_reader : bool
        Whether a reader changed or signed it; False for what the network drew.
    """

    mask: LabelImage
    clicks: tuple[Click, ...]
    by_reader: bool


class Outbox:
    """Saves in the background, and knows what is not saved yet.

    Parameters
    ----------
    study : Study
        Where everything is saved.

    Attributes
    ----------
    saved : psygnal.Signal
        Something was saved.
    failed : psygnal.Signal
        Something could not be saved and will be tried again; emitted with a sentence that says why.
    """

    saved = Signal()
    failed = Signal(str)

    def __init__(self, study: Study) -> None:
        self._study = study
        self._drafts: dict[str, Draft] = {}
        self._signed: set[str] = set()
        self.problem = ""
        self._saver = Saver()
        self._saver.saved.connect(self._on_saved)
        self._saver.failed.connect(self._on_failed)

    @property
    def pending(self) -> int:
        """How many things are not on the disk yet."""
        return self._saver.pending

    @property
    def signed(self) -> frozenset[str]:
        """Pictures whose verdict is on its way."""
        return frozenset(self._signed)

    def draft(self, image_id: str) -> Draft | None:
        """Give the outline of a picture as long as the disk may have an older one."""
        return self._drafts.get(image_id)

    def prediction(
        self, image_id: str, mask: LabelImage, origin: Origin, quality: Quality | None = None
    ) -> None:
        """Save what the network drew; its quality, if it is not known yet, is estimated in the background."""
        self._keep(image_id, mask, origin, by_reader=False)
        save = partial(_save, self._study.record_prediction, image_id, mask, origin, quality)
        self._saver.put(save, ("prediction", image_id), image_id)

    def correction(
        self, image_id: str, mask: LabelImage, origin: Origin, quality: Quality | None = None
    ) -> None:
        """Save what the reader drew."""
        self._keep(image_id, mask, origin, by_reader=True)
        self._signed.discard(image_id)
        save = partial(_save, self._study.save_correction, image_id, mask, origin, quality)
        self._saver.put(save, ("correction", image_id), image_id)

    def approve(self, image_id: str, mask: LabelImage, origin: Origin, quality: Quality | None = None) -> None:
        """Save an outline that the reader signs."""
        self._keep(image_id, mask, origin, by_reader=True)
        self._sign(image_id, partial(_save, self._study.approve, image_id, mask, origin, quality))

    def no_lesion(self, image_id: str, shape: tuple[int, int]) -> None:
        """Save that the reader signs that there is no lesion."""
        self._drafts[image_id] = Draft(np.zeros(shape, np.uint8), (), by_reader=True)
        self._sign(image_id, partial(self._study.no_lesion, image_id))

    def flag(self, image_id: str, note: str) -> None:
        """Save that the reader sets a picture aside."""
        self._sign(image_id, partial(self._study.flag, image_id, note))

    def reopen(self, image_id: str) -> None:
        """Save that the reader takes a verdict back."""
        self._signed.discard(image_id)
        self._saver.put(partial(self._study.reopen, image_id), group=image_id)

    def place(self, image_id: str, view: Mapping[str, Any]) -> None:
        """Save where the reader is."""
        self._saver.put(partial(self._study.save_session, image_id, view), "place", "place")

    def flush(self) -> str:
        """Save all that waits.

        Returns
        -------
        str
            Why something could not be saved; empty when all is on the disk.
        """
        self.problem = self._saver.flush()
        if not self.problem:
            self._on_saved()
        return self.problem

    def close(self) -> None:
        """End; what still waits is not saved."""
        self._saver.close()
        self._drafts.clear()

    def _keep(self, image_id: str, mask: LabelImage, origin: Origin, *, by_reader: bool) -> None:
        self._drafts[image_id] = Draft(mask, tuple(origin.clicks), by_reader)

    def _sign(self, image_id: str, save: Callable[[], object]) -> None:
        self._signed.add(image_id)
        self._saver.put(save, group=image_id)

    def _on_saved(self) -> None:
        if not self._saver.pending:
            self._drafts.clear()
            self._signed.clear()
            self.problem = ""
        self.saved.emit()

    def _on_failed(self, problem: str) -> None:
        self.problem = problem
        self.failed.emit(problem)


def _save(
    save: Callable[[str, LabelImage, Origin], object],
    image_id: str,
    mask: LabelImage,
    origin: Origin,
    quality: Quality | None,
) -> None:
    """Save an outline with its quality; runs in another thread."""
    save(image_id, mask, origin if quality is None else replace(origin, quality=quality()))
