"""How well annotators agree on each image, worked out in the background for the queue."""

from __future__ import annotations

from napari_lesionseg.plugin.widgets.lazy_cache import LazyCache
from napari_lesionseg.study.agreement import measure_agreement
from napari_lesionseg.study.events import Approved
from napari_lesionseg.study.state import ImageState
from napari_lesionseg.study.study import Study

KEPT = 20_000
"""Figures kept in memory."""

WAITING = 60
"""Images that may wait to be compared; more were scrolled past."""


class AgreementColumn(LazyCache[float | None]):
    """Compares the outlines that annotators signed, image by image.

    Parameters
    ----------
    study : Study
        The study, as one annotator sees it.
    """

    def __init__(self, study: Study) -> None:
        super().__init__("comparing the annotators", KEPT, WAITING)
        self._study = study

    def of(self, state: ImageState) -> float | None:
        """Give the mean Dice of all pairs of annotators.

        Returns
        -------
        float or None
            In [0, 1]; None where fewer than two signed, and while it is worked out.
        """
        if len(state.verdicts) < 2:
            return None
        signed = (
            (annotator, verdict.revision if isinstance(verdict, Approved) else "")
            for annotator, verdict in sorted(state.verdicts.items())
        )
        return self.get(state.image_id, tuple(signed))

    def _make(self, image_id: str) -> float | None:
        return measure_agreement([self._study.verdict_masks(image_id)]).mean

    def _finish(self, made: float | None) -> float | None:
        return made

    def _instead(self) -> None:
        """Give nothing where an outline cannot be read; opening the image says what is wrong with it."""
