"""Fine-tunes a tiny model until it is killed: one line for every round, then a line for every step."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from napari_lesionseg.config import FineTuneConfig
from napari_lesionseg.finetuning.session import fine_tune
from napari_lesionseg.training.trainer import EpochResult, StepResult


def main() -> None:
    spec = importlib.util.spec_from_file_location("small_world", Path(__file__).parents[1] / "fakes.py")
    world = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(world)
    config = FineTuneConfig.model_validate_json(sys.argv[1])
    pairs = [world.draw_disc(number) for number in range(5)]
    rounds = 0
    for event in fine_tune(world.make_model(), pairs, config, state_path=sys.argv[2]).steps():
        if isinstance(event, EpochResult):
            rounds += 1
            sys.stdout.write(f"{event.loss!r}\n")
        elif isinstance(event, StepResult) and rounds == 2:
            sys.stdout.write("step\n")
        sys.stdout.flush()
    raise SystemExit("it was to be killed before it ended")


if __name__ == "__main__":
    main()
