"""The images of the benchmarks, and the similarity of two masks."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from napari_lesionseg.io.pairing import find_pairs
from napari_lesionseg.types import LabelImage, Pair

DATA = Path(__file__).parents[2] / "shared" / "data"


def add_data_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option for the folder of the datasets."""
    default = Path(os.environ.get("LESIONSEG_DATA", DATA))
    parser.add_argument("--data", type=Path, default=default, help="folder of the datasets")


def find_set(folder: Path, limit: int | None = None) -> Sequence[Pair]:
    """Find the pairs of a dataset (two folders or PH2's tree), or `limit` of them, evenly spaced."""
    two_folders = (folder / "images").is_dir()
    pairs = (find_pairs(folder / "images", folder / "masks") if two_folders else find_pairs(folder)).pairs
    if limit is None or limit >= len(pairs):
        return pairs
    return [pairs[round(index)] for index in np.linspace(0, len(pairs) - 1, limit)]


def jaccard(predicted: LabelImage, truth: LabelImage) -> float:
    """Return the Jaccard index, 1 for two empty masks."""
    union = np.count_nonzero(predicted | truth)
    return np.count_nonzero(predicted & truth) / union if union else 1.0
