"""The images that benchmarks measure on, and how alike two outlines are."""

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
    """Let the annotator say where the data sets are."""
    default = Path(os.environ.get("LESIONSEG_DATA", DATA))
    parser.add_argument("--data", type=Path, default=default, help="folder of the data sets")


def find_set(folder: Path, limit: int | None = None) -> Sequence[Pair]:
    """Find the pairs of a data set, be it two folders or PH2's tree, or so many of them, evenly spread."""
    two_folders = (folder / "images").is_dir()
    pairs = (find_pairs(folder / "images", folder / "masks") if two_folders else find_pairs(folder)).pairs
    if limit is None or limit >= len(pairs):
        return pairs
    return [pairs[round(index)] for index in np.linspace(0, len(pairs) - 1, limit)]


def jaccard(predicted: LabelImage, truth: LabelImage) -> float:
    """Return the Jaccard index, 1 for two empty masks."""
    union = np.count_nonzero(predicted | truth)
    return np.count_nonzero(predicted & truth) / union if union else 1.0
