"""What a fine-tuning ends with: a new model, old against new, and whether it is worth taking."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from napari_lesionseg.config import FineTuneConfig
from napari_lesionseg.finetuning.comparison import Comparison, Outlined
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.models.checkpoint import save_checkpoint
from napari_lesionseg.training.trainer import EpochResult

ENOUGH = 0.9  # of the best gain: a shorter way that keeps this much is taken, as it forgets less


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A fine-tuned model that has not been taken yet.

    Parameters
    ----------
    model : Model
        Learned from all images; its card names its parent and its data.
    comparison : Comparison or None
        Old against new on images that the outlines' model had not seen; None if none could be held out.
    offered : bool
        Whether the held-out images say that it is better.
    reason : str
        One sentence on that.
    share : float
        How far it went from the old weights to the new, 0 to 1.
    rounds : tuple of EpochResult
        The curve.
    """

    model: Model
    comparison: Comparison | None
    offered: bool
    reason: str
    share: float
    rounds: tuple[EpochResult, ...]

    def save(self, path: Path) -> None:
        """Write the model to a ``.safetensors`` file.

        Raises
        ------
        CheckpointError
            If the place cannot be written.
        """
        save_checkpoint(path, self.model.network, self.model.card)


def choose_interpolation(before: Sequence[Outlined], after: Mapping[float, Sequence[Outlined]]) -> float:
    """Choose how far to go from the old weights to the new.

    Parameters
    ----------
    before : sequence of Outlined
        The held-out images by the old model.
    after : mapping
        The same by the copies, for each share of the way.

    Returns
    -------
    float
        The smallest share with at least nine tenths of the best gain in mean Jaccard.
    """
    start = mean_jaccard(before)
    gains = {share: mean_jaccard(outlined) - start for share, outlined in after.items()}
    best = max(gains.values())
    if best <= 0:
        return max(gains, key=lambda share: gains[share])
    return min(share for share, gain in gains.items() if gain >= ENOUGH * best)


def mean_jaccard(outlined: Sequence[Outlined]) -> float:
    """Average the Jaccard index over images, of which there must be one."""
    return fmean(image.scores.jaccard for image in outlined)


def judge(comparison: Comparison | None) -> tuple[bool, str]:
    """Say whether a candidate is to be offered, and why, in one sentence."""
    if comparison is None:
        return False, "No image could be held out, so nothing tells whether the new model is better."
    before, after = comparison.dice.before, comparison.dice.after
    figures = f"Dice {before:.3f} before, {after:.3f} after, on {len(comparison.images)} held-out images"
    if comparison.better:
        return True, f"The new model is better: {figures}."
    return False, f"The new model is no better: {figures}."


def describe_training(
    parent: Model, config: FineTuneConfig, hashes: Sequence[str], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Make the record of a fine-tuning for the card: nothing in it tells a patient's name.

    Parameters
    ----------
    parent : Model
        What it started from.
    config : FineTuneConfig
        How it learned.
    hashes : sequence of str
        Of the images with their masks.
    facts : mapping
        Further entries.
    """
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
