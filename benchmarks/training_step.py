"""Time a training step by precision, frozen parts, clicks and size.

    python benchmarks/training_step.py [--threads 1 2] [--batch 8] [--steps 10] [--device cpu]

The default network has random weights, which cost the same as trained ones. The first steps are not counted.
On the CPU, the last table compares float32 steps whose memory is returned to the system with steps that
reuse it, as ``lesionseg train`` does.
The effect on accuracy is described in ``docs/development/fine-tuning.md``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from napari_lesionseg.config import AugmentConfig, FineTuneConfig
from napari_lesionseg.datasets.synthetic import synthetic_sample
from napari_lesionseg.inference.device import choose_device, describe_device
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.registry import build_network
from napari_lesionseg.training.dataset import BatchSource, CachedPair
from napari_lesionseg.training.learner import Learner
from napari_lesionseg.training.resources import ThreadLimit, reuse_memory

VARIANTS = {
    "float32": {"precision": "float32"},
    "bfloat16": {"precision": "bfloat16"},
    "bfloat16, no clicks": {"precision": "bfloat16", "click_fraction": 0.0},
    "bfloat16, all stages trained": {"precision": "bfloat16", "frozen_stages": 0},
    "bfloat16, 4 stages frozen": {"precision": "bfloat16", "frozen_stages": 4},
    "bfloat16, encoder frozen": {"precision": "bfloat16", "encoder_lr": 0.0},
}
UNCOUNTED = 2


def milliseconds(work: Callable[[int], object], times: int) -> float:
    """Time some calls and return the median."""
    seconds = []
    for number in range(times + UNCOUNTED):
        started = time.perf_counter()
        work(number)
        seconds.append(time.perf_counter() - started)
    return 1000 * median(seconds[UNCOUNTED:])


def time_step(
    source: BatchSource, size: int, settings: dict[str, object], device: torch.device, times: int
) -> float:
    """Time the steps of a network with first weights, in milliseconds."""
    torch.manual_seed(0)
    network, config = build_network("lite-unet"), FineTuneConfig.model_validate(settings)
    frozen = network.early_modules(config.frozen_stages)
    learner = Learner(network, ModelCard(), config, device, frozen=frozen)
    batch = source.batch(0, size)
    return milliseconds(lambda number: learner.step(batch, number, 1.0), times)


def compare_memory(source: BatchSource, sizes: list[int], times: int) -> Table:
    """Time steps before and after memory is reused, which cannot be undone."""
    cpu, table = torch.device("cpu"), Table("ms a step", *(f"{size} pixels" for size in sizes))
    returned, reused = [], []
    for into in (returned, reused):
        into.extend(time_step(source, size, VARIANTS["float32"], cpu, times) for size in sizes)
        reuse_memory()
    table.add_row("memory returned", *(f"{value:.0f}" for value in returned))
    table.add_row("memory reused", *(f"{value:.0f}" for value in reused))
    ratios = (before / after for before, after in zip(returned, reused, strict=True))
    table.add_row("ratio", *(f"{ratio:.2f}" for ratio in ratios))
    return table


def main() -> None:
    """Print a table for every number of threads."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 320])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device, console = choose_device(options.device), Console()
    samples = [synthetic_sample(seed, (288, 352)) for seed in range(4)]
    pairs = [CachedPair(sample.name, sample.image, sample.mask) for sample in samples]
    source = BatchSource(pairs, AugmentConfig(), options.batch, 0)
    for threads in options.threads:
        with ThreadLimit(threads):
            title = f"Milliseconds a step of {options.batch} images, {describe_device(device)}"
            table = Table(
                "", *(f"{size} pixels" for size in options.sizes), title=title, title_justify="left"
            )
            making = [
                milliseconds(lambda n, s=size: source.batch(n, s), options.steps) for size in options.sizes
            ]
            table.add_row("images made, 1 thread aside", *(f"{value:.0f}" for value in making))
            for name, settings in VARIANTS.items():
                times = [time_step(source, size, settings, device, options.steps) for size in options.sizes]
                table.add_row(name, *(f"{value:.0f}" for value in times))
            console.print(table)
    if device.type == "cpu":
        with ThreadLimit(1):
            console.print(compare_memory(source, options.sizes, options.steps))


if __name__ == "__main__":
    main()
