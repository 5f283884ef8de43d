"""Old against new: two models on the same pictures, paired picture by picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.training.dataset import CachedPair
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.evaluation.metrics import Estimate, PictureScores, score_masks
from napari_lesionseg.inference.postprocess import postprocess as clean_up
from napari_lesionseg.inference.postprocess import resolve_threshold
from napari_lesionseg.errors import TrainingError
from napari_lesionseg.types import IGNORED, LabelImage

SHOWN = 4
CONFIDENCE = 0.95
SMALLEST_GAIN = 0.001  # of the mean Jaccard; less would be told as the same figure before and after
RESAMPLES = 2000


@dataclass(frozen=True, slots=True, eq=False)
class Outlined:
    """A picture with a model's outline, and how good it is.

    Parameters
    ----------
    pair : CachedPair
        The picture and its true labels.
    labels : ndarray, shape (H, W), uint8
        The model's outline, as class indices.
    scores : PictureScores
        All classes together against the background.
    """

    pair: CachedPair
    labels: LabelImage
    scores: PictureScores


@dataclass(frozen=True, slots=True, eq=False)
class PictureChange:
    """One picture under the old and the new model.

    Parameters
    ----------
    before, after : Outlined
        By the old and by the new model.
    """

    before: Outlined
    after: Outlined

    @property
    def stem(self) -> str:
        """Name of the picture."""
        return self.before.pair.stem

    @property
    def changed(self) -> float:
        """Share of the pixels inside either outline that are inside one only, 0 to 1."""
        old, new = self.before.labels > 0, self.after.labels > 0
        union = np.count_nonzero(old | new)
        return float(np.count_nonzero(old ^ new) / union) if union else 0.0


@dataclass(frozen=True, slots=True)
class Change:
    """A score under two models.

    Parameters
    ----------
    before, after : float
        Means over the pictures.
    difference : Estimate
        Mean of the paired differences, after minus before, with a 95 % interval over pictures.
    """

    before: float
    after: float
    difference: Estimate


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Two models on the same pictures.

    Parameters
    ----------
    dice, jaccard : Change
        Overlap in [0, 1].
    failures : Change
        Share of the pictures with a Jaccard below 0.65.
    pictures : tuple of PictureChange
        In the order given.
    """

    dice: Change
    jaccard: Change
    failures: Change
    pictures: tuple[PictureChange, ...]

    @property
    def better(self) -> bool:
        """Whether the new model's mean Jaccard is higher by more than `SMALLEST_GAIN`."""
        return self.jaccard.difference.mean > SMALLEST_GAIN

    def most_changed(self, count: int = SHOWN) -> tuple[PictureChange, ...]:
        """Return the pictures whose outlines differ most, the most different first."""
        order = sorted(self.pictures, key=lambda change: change.changed, reverse=True)
        return tuple(order[:count])

    def to_record(self) -> dict[str, float | int | None]:
        """Return the figures that a model's card keeps."""
        return {
            "pictures": len(self.pictures),
            "dice": round(self.dice.after, 4),
            "jaccard": round(self.jaccard.after, 4),
            "dice_before": round(self.dice.before, 4),
            "jaccard_before": round(self.jaccard.before, 4),
            "jaccard_change_low": _rounded(self.jaccard.difference.low),
            "jaccard_change_high": _rounded(self.jaccard.difference.high),
        }


def outline_pair(
    model: Model, pair: CachedPair, postprocess: PostprocessConfig | None = None, *, upright: bool = False
) -> Outlined:
    """Outline a picture as a user would get it, and score the outline.

    Parameters
    ----------
    model : Model
    pair : CachedPair
        Pixels labelled 255 count for nothing.
    postprocess : PostprocessConfig, optional
        How outlines are cleaned; the default settings if left out.
    upright : bool
        See `Model.predict`.
    """
    config = postprocess or PostprocessConfig()
    level = resolve_threshold(None, config, model.card.threshold)
    labels = clean_up(model.predict(pair.image, upright=upright), config, level)
    counted = pair.labels != IGNORED
    return Outlined(pair, labels, score_masks(labels * counted, pair.labels * counted))


def compare(before: Sequence[Outlined], after: Sequence[Outlined], *, seed: int = 0) -> Comparison:
    """Compare outlines of the same pictures.

    Parameters
    ----------
    before, after : sequence of Outlined
        By the old and the new model, in the same order.
    seed : int
        Seed of the bootstrap; the same seed gives the same intervals.

    Raises
    ------
    TrainingError
        If there are no pictures, or they are not the same.

    Notes
    -----
    The interval of a difference is a percentile bootstrap over pictures: what varies from one picture to the
    next alike under both models cancels out, so that a small gain shows with few pictures.
    """
    if not before or [o.pair.stem for o in before] != [o.pair.stem for o in after]:
        raise TrainingError("Two models can be compared on one or more pictures that both have outlined.")
    old = np.array([[o.scores.dice, o.scores.jaccard, o.scores.failed] for o in before], np.float64)
    new = np.array([[o.scores.dice, o.scores.jaccard, o.scores.failed] for o in after], np.float64)
    dice, jaccard, failures = (_change(old[:, column], new[:, column], seed) for column in range(3))
    return Comparison(dice, jaccard, failures, tuple(map(PictureChange, before, after)))


def iter_compare(
    old: Model, new: Model, pairs: Sequence[CachedPair], postprocess: PostprocessConfig | None = None
) -> Iterator[PictureChange]:
    """Outline pictures with two models, one by one, so that the caller can show progress or stop.

    `collect_changes` makes a `Comparison` of them.
    """
    for pair in pairs:
        yield PictureChange(outline_pair(old, pair, postprocess), outline_pair(new, pair, postprocess))


def collect_changes(changes: Sequence[PictureChange]) -> Comparison:
    """Sum up what `iter_compare` gave.

    Raises
    ------
    TrainingError
        If there are no pictures.
    """
    return compare([change.before for change in changes], [change.after for change in changes])


def compare_models(
    old: Model, new: Model, pairs: Sequence[CachedPair], postprocess: PostprocessConfig | None = None
) -> Comparison:
    """Compare two models on pictures with true labels.

    Raises
    ------
    TrainingError
        If there are no pictures.
    """
    return collect_changes(list(iter_compare(old, new, pairs, postprocess)))


def _change(old: NDArray[np.float64], new: NDArray[np.float64], seed: int) -> Change:
    return Change(float(old.mean()), float(new.mean()), _estimate(new - old, seed))


def _estimate(values: NDArray[np.float64], seed: int) -> Estimate:
    """Mean with its interval; a single picture tells nothing of the spread."""
    if len(values) < 2:
        return Estimate(float(values.mean()), None, None)
    interval = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",  # BCa is undefined where all pictures have the same value
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(float(values.mean()), float(interval.low), float(interval.high))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
