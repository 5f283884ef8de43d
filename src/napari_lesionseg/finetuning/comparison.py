"""Compare two models on the same images, and decide whether to offer the new one."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_lesionseg.config import FineTuneConfig, PostprocessConfig
from napari_lesionseg.errors import TrainingError
from napari_lesionseg.evaluation.metrics import Estimate, ImageScores, score_masks
from napari_lesionseg.inference.postprocess import postprocess, resolve_threshold
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.models.checkpoint import save_checkpoint
from napari_lesionseg.training.dataset import CachedPair
from napari_lesionseg.training.trainer import EpochResult
from napari_lesionseg.types import IGNORED, LabelImage

SHOWN = 4
CONFIDENCE = 0.95
RESAMPLES = 2000
SMALLEST_GAIN = 0.001  # of the mean Jaccard; with three decimals, less would look like no change
ENOUGH = 0.9  # of the best gain: a smaller interpolation that keeps this much changes less on other images


@dataclass(frozen=True, slots=True, eq=False)
class ScoredPrediction:
    """An image with a model's outline, and how good it is."""

    pair: CachedPair
    labels: LabelImage
    scores: ImageScores


@dataclass(frozen=True, slots=True, eq=False)
class ImageChange:
    """One image under the old and the new model."""

    before: ScoredPrediction
    after: ScoredPrediction

    @property
    def stem(self) -> str:
        """Name of the image."""
        return self.before.pair.stem

    @property
    def changed(self) -> float:
        """Fraction of the pixels inside either outline that are inside only one, 0 to 1."""
        old, new = self.before.labels > 0, self.after.labels > 0
        union = np.count_nonzero(old | new)
        return float(np.count_nonzero(old ^ new) / union) if union else 0.0


@dataclass(frozen=True, slots=True)
class Change:
    """A score under two models."""

    before: float
    after: float
    difference: Estimate


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Two models on the same images."""

    dice: Change
    jaccard: Change
    failures: Change
    images: tuple[ImageChange, ...]

    @property
    def gains(self) -> bool:
        """Whether the new model's mean Jaccard is higher by more than `SMALLEST_GAIN`, perhaps by chance."""
        return self.jaccard.difference.mean > SMALLEST_GAIN

    @property
    def better(self) -> bool:
        """Whether it gains, and the interval of the gain excludes zero."""
        low = self.jaccard.difference.low
        return self.gains and low is not None and low > 0

    def most_changed(self, count: int = SHOWN) -> tuple[ImageChange, ...]:
        """Return the images whose outlines differ most, the most different first."""
        order = sorted(self.images, key=lambda change: change.changed, reverse=True)
        return tuple(order[:count])

    def to_record(self) -> dict[str, float | int | None]:
        """Return the figures that a model's card keeps."""
        return {
            "images": len(self.images),
            "dice": round(self.dice.after, 4),
            "jaccard": round(self.jaccard.after, 4),
            "dice_before": round(self.dice.before, 4),
            "jaccard_before": round(self.jaccard.before, 4),
            "jaccard_change_low": _rounded(self.jaccard.difference.low),
            "jaccard_change_high": _rounded(self.jaccard.difference.high),
        }


def predict_pair(
    model: Model, pair: CachedPair, config: PostprocessConfig | None = None, *, augment: bool = True
) -> ScoredPrediction:
    """Outline an image as a user would get it, and score the outline."""
    config = config or PostprocessConfig()
    level = resolve_threshold(None, config, model.card.threshold)
    labels = postprocess(model.predict(pair.image, augment=augment), config, level)
    counted = pair.labels != IGNORED
    return ScoredPrediction(pair, labels, score_masks(labels * counted, pair.labels * counted))


def compare(
    before: Sequence[ScoredPrediction], after: Sequence[ScoredPrediction], *, seed: int = 0
) -> Comparison:
    """Compare outlines of the same images."""
    if not before or [o.pair.stem for o in before] != [o.pair.stem for o in after]:
        raise TrainingError("Two models can only be compared on the same images, at least one.")
    old = np.array([[o.scores.dice, o.scores.jaccard, o.scores.failed] for o in before], np.float64)
    new = np.array([[o.scores.dice, o.scores.jaccard, o.scores.failed] for o in after], np.float64)
    dice, jaccard, failures = (_change(old[:, column], new[:, column], seed) for column in range(3))
    return Comparison(dice, jaccard, failures, tuple(map(ImageChange, before, after)))


def compare_pair(
    old: Model, new: Model, pair: CachedPair, config: PostprocessConfig | None = None
) -> ImageChange:
    """Outline an image with two models."""
    return ImageChange(predict_pair(old, pair, config), predict_pair(new, pair, config))


def collect_changes(changes: Sequence[ImageChange]) -> Comparison:
    """Summarize the changes of all images."""
    return compare([change.before for change in changes], [change.after for change in changes])


def _change(old: NDArray[np.float64], new: NDArray[np.float64], seed: int) -> Change:
    return Change(float(old.mean()), float(new.mean()), _estimate(new - old, seed))


def _estimate(values: NDArray[np.float64], seed: int) -> Estimate:
    """Mean with its interval; a single image has none."""
    if len(values) < 2:
        return Estimate(float(values.mean()), None, None)
    from scipy import stats  # slow to import, and the window opens without it

    interval = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",  # BCa is undefined where all images have the same value
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(float(values.mean()), float(interval.low), float(interval.high))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A fine-tuned model that has not been taken yet."""

    model: Model
    comparison: Comparison | None
    offered: bool
    reason: str
    interpolation: float
    rounds: tuple[EpochResult, ...]

    def save(self, path: Path) -> None:
        """Write the model to a ``.safetensors`` file."""
        save_checkpoint(path, self.model.network, self.model.card)


def choose_interpolation(
    before: Sequence[ScoredPrediction], after: Mapping[float, Sequence[ScoredPrediction]]
) -> float:
    """Return the smallest interpolation with at least `ENOUGH` of the best gain in mean Jaccard."""
    start = mean_jaccard(before)
    gains = {interpolation: mean_jaccard(predicted) - start for interpolation, predicted in after.items()}
    best = max(gains.values())
    if best <= 0:
        return max(gains, key=lambda interpolation: gains[interpolation])
    return min(interpolation for interpolation, gain in gains.items() if gain >= ENOUGH * best)


def mean_jaccard(predictions: Sequence[ScoredPrediction]) -> float:
    """Average the Jaccard index over one or more images."""
    return fmean(image.scores.jaccard for image in predictions)


def judge(comparison: Comparison | None) -> tuple[bool, str]:
    """Return whether to offer a candidate, and the reason in one sentence."""
    if comparison is None:
        return False, "No image could be held out, so it is unknown whether the new model is better."
    before, after = comparison.dice.before, comparison.dice.after
    figures = f"Dice {before:.3f} before, {after:.3f} after, on {len(comparison.images)} held-out images"
    if comparison.better:
        return True, f"The new model is better: {figures}."
    if comparison.gains:
        return True, f"The new model may be better, but this could be chance: {figures}."
    return False, f"The new model is no better: {figures}."


def describe_training(
    parent: Model, config: FineTuneConfig, hashes: Sequence[str], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the record of a fine-tuning for the card, without image names: they may identify patients."""
    return {
        "method": "fine-tuning",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "parent_name": parent.card.name,
        "settings": config.model_dump(mode="json"),
        "data": {
            "pairs": len(hashes),
            "sha256": hashlib.sha256("".join(sorted(hashes)).encode()).hexdigest(),
            "images": sorted(hashes),
        },
        **facts,
    }
