"""Started by torchrun: train a small network on discs, and write the loss of each step."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from napari_lesionseg.config import AugmentConfig, TrainConfig
from napari_lesionseg.models.checkpoint import load_checkpoint
from napari_lesionseg.models.store import ModelStore
from napari_lesionseg.training.dataset import CachedPair
from napari_lesionseg.training.distributed import join_ranks
from napari_lesionseg.training.trainer import EpochResult, StepResult, Trainer

CONFIG = TrainConfig(
    pretrained=False,
    epochs=200,
    encoder_lr=2e-6,  # small steps: rounding grows with every one
    decoder_lr=1e-5,
    batch_size=5,
    sizes=((0.0, 64), (0.02, 96)),
    precision="float32",
    augment=AugmentConfig(artifacts=0, blur=0),
)


def disc(number: int) -> CachedPair:
    rng = np.random.default_rng(number)
    rows, cols = np.mgrid[:80, :80]
    labels = ((rows - rng.uniform(30, 50)) ** 2 + (cols - rng.uniform(30, 50)) ** 2 < 400).astype(np.uint8)
    if number % 3 == 0:
        labels[:20] = 255  # ranks count different numbers of pixels
    image = np.where(labels[..., None] == 1, 90, 200) + rng.integers(-20, 20, (80, 80, 3))
    return CachedPair(str(number), image.astype(np.uint8), labels)


def main(out: Path, state: Path, steps: int) -> None:
    losses: dict[int, float] = {}
    with join_ranks("cpu") as joined:
        # Trained weights: with random ones, rounding alone changes the gradients by some percent.
        network, card = load_checkpoint(ModelStore().resolve())
        pairs = [disc(number) for number in range(8)]
        trainer = Trainer(
            network,
            card,
            pairs[:5],
            pairs[5:],
            CONFIG,
            device=joined.device,
            state_path=state,
            ranks=joined.ranks,
        )
        if state.exists():
            trainer.load_state(state)
        scores = []
        for event in trainer.steps():
            if isinstance(event, EpochResult) and event.validation is not None:
                scores.append(event.validation.jaccard)
            if isinstance(event, StepResult):
                losses[event.step] = event.loss
                if event.step == steps:
                    break
        trainer.save_state()
        if joined.ranks.is_first:
            out.write_text(json.dumps({"losses": losses, "scores": scores}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
