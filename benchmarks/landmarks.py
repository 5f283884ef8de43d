"""Measure landmarks: train on drawn people whose joints are known, and score other drawn people.

Prints a table::

    python benchmarks/landmarks.py [--images N] [--steps N] [--side PIXELS] [--threads N] [--start MODEL]
    python benchmarks/landmarks.py --drawn-fields

- One person in each image; then one to three, separated by a map of centers with offsets, as the package
  does it, and by part affinity fields (`part_affinity.py`), with the same network, images and steps.
- A landmark is found (PCK@0.1) within a tenth of the longer side of its person's box; OKS-AP is that of
  pycocotools, with a standard deviation of 0.05 for every landmark.
- The time is that of training alone, without drawing and scoring.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from importlib import resources

import torch
from rich.console import Console
from rich.table import Table

from napari_lesionseg.config import TrainConfig
from napari_lesionseg.datasets.synthetic import FIGURE_SKELETON, Sample, synthetic_figure
from napari_lesionseg.evaluation.keypoints import score_landmarks
from napari_lesionseg.inference.landmarks import LandmarkModel
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.models.checkpoint import load_checkpoint
from napari_lesionseg.models.landmark_head import replace_head
from napari_lesionseg.models.store import ModelStore
from napari_lesionseg.training.dataset import CachedPair
from napari_lesionseg.training.landmarks import (
    LandmarkTrainer,
    cache_landmarks,
    people_of,
    start_landmarks,
)
from part_affinity import FieldModel, FieldTrainer, decode_drawn

HELD_OUT = 60
MOST_PEOPLE = 3
ONE, CENTERS, FIELDS = "-", "centers and offsets", "part affinity fields"
LINES = (*FIGURE_SKELETON.edges, (0, 3), (0, 4))
"""Fields need a skeleton in one piece: the head is joined to the shoulders."""


def draw(count: int, first: int, side: int, *, several: bool) -> list[CachedPair]:
    """Draw people, from a seed on."""
    shape = (side, side * 5 // 4) if several else (side, side)
    samples: Sequence[Sample] = [
        synthetic_figure(seed, shape, people=1 + seed % MOST_PEOPLE if several else 1)
        for seed in range(first, first + count)
    ]
    room = MOST_PEOPLE, len(FIGURE_SKELETON.names)
    return [cache_landmarks(s.name, s.image, s.landmarks, round(side * 1.25), room) for s in samples]


def measure(options: argparse.Namespace, method: str) -> tuple[str, ...]:
    """Train and score; return a row of the table."""
    recipe = json.loads((resources.files("napari_lesionseg") / "recipes" / "landmarks.json").read_text())
    several = method != ONE
    learn = draw(options.images, 0, options.side, several=several)
    held_out = draw(HELD_OUT, 10_000, options.side, several=several)
    changes = {
        "epochs": max(1, options.steps * recipe["batch_size"] // options.images),
        "sizes": [[0.0, options.side]],
        "num_threads": options.threads,
    }
    config = TrainConfig.model_validate(recipe | changes)
    start = load_checkpoint(ModelStore().resolve(options.start))
    count = len(FIGURE_SKELETON.names)
    network, card = start_landmarks(config, FIGURE_SKELETON, MOST_PEOPLE if several else 1, start)
    if method == FIELDS:
        replace_head(network, count + 2 * len(LINES))
        with torch.no_grad():
            network.head.bias[count:] = 0  # the first logit of a heat map would be a very long vector
        trainer = FieldTrainer(network, card, learn, [], config, device="cpu", edges=LINES)
    else:
        trainer = LandmarkTrainer(network, card, learn, [], config, device="cpu")
    last = list(trainer.run())[-1]
    trained = Model(trainer.averaged_network, card, "cpu")
    model = FieldModel(trained, count, LINES) if method == FIELDS else LandmarkModel(trained)
    begun = time.perf_counter()
    found = [model.predict(pair.image) for pair in held_out]
    seconds = (time.perf_counter() - begun) / HELD_OUT
    scores = score_landmarks([people_of(pair) for pair in held_out], found)
    people = f"1 to {MOST_PEOPLE}" if several else "1"
    times = f"{last.seconds:.0f} s", f"{1000 * seconds:.0f} ms"
    return people, method, str(last.step), *times, f"{scores.pck:.3f}", f"{scores.precision:.3f}"


def check_decoding(side: int) -> None:
    """Print the scores of the fields that are drawn, not learned: what is lost in decoding alone."""
    pairs = draw(HELD_OUT, 10_000, side, several=True)
    found = [decode_drawn(pair.labels, pair.image.shape[:2], LINES) for pair in pairs]
    scores = score_landmarks([people_of(pair) for pair in pairs], found)
    Console().print(f"drawn fields: PCK@0.1 {scores.pck:.3f}, OKS-AP {scores.precision:.3f}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--start", help="model whose weights the training starts from (default: the shipped)")
    parser.add_argument("--drawn-fields", action="store_true", help="only decode fields that are drawn")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.drawn_fields:
        check_decoding(options.side)
        return
    columns = ("people", "separated by", "steps", "training", "an image", "PCK@0.1", "OKS-AP")
    table = Table(*columns)
    for method in (ONE, CENTERS, FIELDS):
        table.add_row(*measure(options, method))
        Console().print(table)  # after each row, since a row takes minutes


if __name__ == "__main__":
    main()
