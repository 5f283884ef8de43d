"""A study's outlines and verdicts on their way to the disk, and what of them is not there yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from psygnal import Signal

from napari_lesionseg.plugin.workbench.autosave import Autosaver
from napari_lesionseg.study.events import Provenance
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import Click, LabelImage

Quality: TypeAlias = Callable[[], float]
"""Estimates how good an outline is; runs in another thread."""


@dataclass(frozen=True, slots=True, eq=False)
class UnsavedMask:
    """An outline that is newer than what the disk has.

    Parameters
    ----------
    mask : ndarray
        (H, W) uint8.
    clicks : tuple of Click
        Clicks that it agrees with.
    by_reader : bool
        Whether an annotator changed or signed it; False for what the network drew.
    """

    mask: LabelImage
    clicks: tuple[Click, ...]
    by_annotator: bool


class SaveQueue:
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
        self._drafts: dict[str, UnsavedMask] = {}
        self._with_verdict: set[str] = set()
        self.problem = ""
        self._autosaver = Autosaver()
        self._autosaver.saved.connect(self._on_saved)
        self._autosaver.failed.connect(self._on_failed)

    @property
    def pending(self) -> int:
        """How many things are not on the disk yet."""
        return self._autosaver.pending

    @property
    def signed(self) -> frozenset[str]:
        """Images whose verdict is on its way."""
        return frozenset(self._with_verdict)

    def draft(self, image_id: str) -> UnsavedMask | None:
        """Give the outline of an image as long as the disk may have an older one."""
        return self._drafts.get(image_id)

    def prediction(
        self, image_id: str, mask: LabelImage, origin: Provenance, quality: Quality | None = None
    ) -> None:
        """Save what the network drew; its quality, if it is not known yet, is estimated in the background."""
        self._keep(image_id, mask, origin, by_annotator=False)
        save = partial(_save, self._study.record_prediction, image_id, mask, origin, quality)
        self._autosaver.put(save, ("prediction", image_id), image_id)

    def correction(
        self, image_id: str, mask: LabelImage, origin: Provenance, quality: Quality | None = None
    ) -> None:
        """Save what the annotator drew."""
        self._keep(image_id, mask, origin, by_annotator=True)
        self._with_verdict.discard(image_id)
        save = partial(_save, self._study.save_correction, image_id, mask, origin, quality)
        self._autosaver.put(save, ("correction", image_id), image_id)

    def approve(
        self, image_id: str, mask: LabelImage, origin: Provenance, quality: Quality | None = None
    ) -> None:
        """Save an outline that the annotator signs."""
        self._keep(image_id, mask, origin, by_annotator=True)
        self._sign(image_id, partial(_save, self._study.approve, image_id, mask, origin, quality))

    def no_lesion(self, image_id: str, shape: tuple[int, int]) -> None:
        """Save that the annotator signs that there is no lesion."""
        self._drafts[image_id] = UnsavedMask(np.zeros(shape, np.uint8), (), by_annotator=True)
        self._sign(image_id, partial(self._study.no_lesion, image_id))

    def flag(self, image_id: str, note: str) -> None:
        """Save that the annotator sets an image aside."""
        self._sign(image_id, partial(self._study.flag, image_id, note))

    def reopen(self, image_id: str) -> None:
        """Save that the annotator takes a verdict back."""
        self._with_verdict.discard(image_id)
        self._autosaver.put(partial(self._study.reopen, image_id), group=image_id)

    def place(self, image_id: str, view: Mapping[str, Any]) -> None:
        """Save where the annotator is."""
        self._autosaver.put(partial(self._study.save_session, image_id, view), "place", "place")

    def flush(self) -> str:
        """Save all that waits.

        Returns
        -------
        str
            Why something could not be saved; empty when all is on the disk.
        """
        self.problem = self._autosaver.flush()
        if not self.problem:
            self._on_saved()
        return self.problem

    def close(self) -> None:
        """End; what still waits is not saved."""
        self._autosaver.close()
        self._drafts.clear()

    def _keep(self, image_id: str, mask: LabelImage, origin: Provenance, *, by_annotator: bool) -> None:
        self._drafts[image_id] = UnsavedMask(mask, tuple(origin.clicks), by_annotator)

    def _sign(self, image_id: str, save: Callable[[], object]) -> None:
        self._with_verdict.add(image_id)
        self._autosaver.put(save, group=image_id)

    def _on_saved(self) -> None:
        if not self._autosaver.pending:
            self._drafts.clear()
            self._with_verdict.clear()
            self.problem = ""
        self.saved.emit()

    def _on_failed(self, problem: str) -> None:
        self.problem = problem
        self.failed.emit(problem)


def _save(
    save: Callable[[str, LabelImage, Provenance], object],
    image_id: str,
    mask: LabelImage,
    origin: Provenance,
    quality: Quality | None,
) -> None:
    """Save an outline with its quality; runs in another thread."""
    save(image_id, mask, origin if quality is None else replace(origin, quality=quality()))
