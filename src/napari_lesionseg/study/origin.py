"""What an outline came from, as the journal keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from napari_lesionseg.study.events import OutlineEntry
from napari_lesionseg.types import Click


@dataclass(frozen=True, slots=True)
class Provenance:
    """What an outline came from.

    Parameters
    ----------
    model : str, optional
        SHA-256 of the model's file.
    threshold : float, optional
        Probability above which a pixel was taken as lesion.
    clicks : sequence of Click
        Clicks that took part.
    quality : float, optional
        Estimate of how good the outline is, 0 to 1.
    label : int
        Class that was being drawn.
    """

    model: str | None = None
    threshold: float | None = None
    clicks: Sequence[Click] = ()
    quality: float | None = None
    label: int = 1

    @classmethod
    def of(cls, entry: OutlineEntry | None) -> Self:
        """Give what the outline of an entry came from."""
        if entry is None:
            return cls()
        return cls(entry.model, entry.threshold, entry.as_clicks(), entry.quality, entry.label)

    def fields(self) -> dict[str, Any]:
        """Give what an entry says of it."""
        return {
            "model": self.model,
            "threshold": self.threshold,
            "clicks": tuple((click.row, click.col, click.positive) for click in self.clicks),
            "quality": self.quality,
            "label": self.label,
        }


NO_PROVENANCE = Provenance()
