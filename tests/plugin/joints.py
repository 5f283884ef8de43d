"""Drawn people with six joints that tests mark, and a network that is trained on them at once."""

from __future__ import annotations

import numpy as np

from napari_lesionseg.config import TrainConfig
from napari_lesionseg.datasets.synthetic import FIGURE_SKELETON, Sample, synthetic_figure

SIDE = 96
JOINTS = ("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_hip", "right_hip")
LINES = "left_shoulder - right_shoulder, left_elbow, right_elbow, left_hip - right_hip"
TINY = TrainConfig(
    arch="unet",
    arch_settings={"width": 2, "depth": 1},
    pretrained=False,
    epochs=2,
    batch_size=4,
    sizes=((0.0, 32),),
    precision="float32",
    num_threads=1,
)


def figure_of(seed: int) -> Sample:
    """Draw a person."""
    return synthetic_figure(seed, (SIDE, SIDE), people=1)


def joints_of(seed: int) -> np.ndarray:
    """Return where the joints of a person are, (6, 2)."""
    person = figure_of(seed).landmarks[0]
    return np.array([person.points[FIGURE_SKELETON.names.index(name)] for name in JOINTS])
