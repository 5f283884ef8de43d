"""How segmenting many files scales: processes of this computer, dask's cost per image, many images.

    python benchmarks/scale.py [--images 256] [--many 1000 10000 100000]
        [--only throughput batches growth folds]

- Throughput: images a second with the shipped model in one and in two processes of one thread each, by the
  clock and in CPU time, with the peak memory.
- Batches: CPU time of the network for each image, alone and with others.
- Growth: what dask adds to each image, with a function that does nothing in place of the network, for more
  and more images, with the peak memory of this process.
- Folds: steps of a fine-tuning of three folds, in one process and in several.

The times by the clock mean something on a computer that does nothing else; the CPU times also on a busy one.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from napari_lesionseg.cluster.engine import ClusterOptions, Engine, cut, open_engine
from napari_lesionseg.cluster.segment import CHUNK, segment_files
from napari_lesionseg.cluster.segment_chunk import SegmentJob
from napari_lesionseg.config import FineTuneConfig, PostprocessConfig
from napari_lesionseg.datasets.synthetic import synthetic_sample
from napari_lesionseg.finetuning.cross_validation import Ensemble, make_folds
from napari_lesionseg.finetuning.fold import Step
from napari_lesionseg.finetuning.fold_processes import FoldProcesses
from napari_lesionseg.inference.predictor import load_model
from napari_lesionseg.io.atomic import sha256_file
from napari_lesionseg.io.images import write_image
from napari_lesionseg.models.store import ModelStore
from napari_lesionseg.training.dataset import CachedPair

console = Console()

PARTS = ("throughput", "batches", "growth", "folds")
FOLDS, STEPS = 3, 10


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=256, help="images to segment")
    parser.add_argument(
        "--many", type=int, nargs="+", default=[1000, 10_000, 100_000], help="images to schedule"
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure")
    options = parser.parse_args()
    if "throughput" in options.only:
        with tempfile.TemporaryDirectory() as folder:
            throughput(Path(folder), options.images)
    if "batches" in options.only:
        batches(min(64, options.images))
    if "growth" in options.only:
        growth(options.many)
    if "folds" in options.only:
        folds()


def throughput(folder: Path, count: int) -> None:
    """Measure images a second in one and two processes; the second round counts, with the model loaded.

    On two idle cores, one worker and the client have a core each; two workers share theirs with the client.
    The column "in CPU time" computes from the CPU times what that gives.
    """
    images = []
    for number in range(count):
        images.append(folder / f"{number:05}.png")
        write_image(images[-1], synthetic_sample(number, (384, 512)).image)
    table = Table(title=f"{count} images of 384 x 512, one thread each")
    for title in (
        "processes",
        "images a second, by the clock",
        "times one, by the clock",
        "CPU ms an image, workers",
        "CPU ms an image, client and scheduler",
        "times one, in CPU time on two cores",
        "peak MB of a worker",
        "peak MB of the client",
    ):
        table.add_column(title, justify="right")
    first = Load(0, 0, 0)
    for workers in (1, 2):
        with open_engine(ClusterOptions(workers=workers), threads=1) as engine:
            run(engine, images[: 2 * CHUNK], folder / f"first {workers}")
            before = Load.of(engine)
            run(engine, images, folder / f"counted {workers}")
            load = Load.of(engine).since(before, count)
            worker_memory = max(engine.client.run(peak_memory).values())
        first = load if workers == 1 else first
        expected = workers * first.workers / (load.workers + (load.client if workers > 1 else 0))
        table.add_row(
            str(workers),
            f"{1 / load.wall:.1f}",
            f"{first.wall / load.wall:.2f}",
            f"{1e3 * load.workers:.1f}",
            f"{1e3 * load.client:.2f}",
            f"{expected:.2f}",
            f"{worker_memory:.0f}",
            f"{peak_memory():.0f}",
        )
    console.print(table)


class Load(NamedTuple):
    """Seconds on the clock, and of CPU time of all workers and of this process, which holds the scheduler."""

    wall: float
    workers: float
    client: float

    @classmethod
    def of(cls, engine: Engine) -> Load:
        """Measure."""
        spent = engine.client.run(time.process_time).values()
        return cls(time.perf_counter(), sum(spent), time.process_time())

    def since(self, before: Load, count: int) -> Load:
        """Return what an image took."""
        return Load(*((now - then) / count for now, then in zip(self, before, strict=True)))


def batches(count: int) -> None:
    """Measure whether the network takes less CPU time for each image when several go through at once."""
    torch.set_num_threads(1)
    model = load_model(device="cpu")
    images = torch.cat([model.network_input(synthetic_sample(n, (384, 512)).image) for n in range(8)])
    network = model.device_model
    alone = torch.cat([network.decode(network.encode(images[n : n + 1]), None) for n in range(8)])
    table = Table(
        "batch", "CPU ms an image", "same bytes as one by one", title="The network alone, one thread"
    )
    with torch.inference_mode():
        for size in (1, 2, 4, 8):
            begin, same = time.process_time(), True
            for _ in range(max(1, count // 8)):
                for start in range(0, 8, size):
                    part = slice(start, start + size)
                    logits = network.decode(network.encode(images[part]), None)
                    same &= torch.equal(logits, alone[part])
            spent = (time.process_time() - begin) / (8 * max(1, count // 8))
            table.add_row(str(size), f"{1e3 * spent:.1f}", "yes" if same else "no")
    console.print(table)


def run(engine: Engine, images: Sequence[Path], out: Path) -> None:
    """Segment all images with the shipped model."""
    path = ModelStore().resolve()
    out.mkdir()
    engine.install_model(path)
    job = SegmentJob(sha256_file(path), PostprocessConfig().model_dump_json(), "cpu")
    if any(result.error for result in segment_files(engine, job, images, out)):
        raise SystemExit("an image failed")


def growth(counts: Sequence[int]) -> None:
    """Measure what dask adds to each image when the work itself takes no time."""
    table = Table(
        "images",
        "seconds, by the clock",
        "ms an image, by the clock",
        "CPU ms an image, client and scheduler",
        "peak MB of the client",
        title="No work, two processes",
    )
    with open_engine(ClusterOptions(workers=2), threads=1) as engine:
        engine.install_model(ModelStore().resolve())
        for count in counts:
            names = [Path(f"images/{number:07}.png") for number in range(count)]
            begin, used = time.perf_counter(), time.process_time()
            done = sum(len(results) for results in engine.map(nothing, cut(names, CHUNK)))
            seconds = time.perf_counter() - begin
            spent = time.process_time() - used
            table.add_row(
                str(done),
                f"{seconds:.2f}",
                f"{1e3 * seconds / count:.3f}",
                f"{1e3 * spent / count:.3f}",
                f"{peak_memory():.0f}",
            )
    console.print(table)


def nothing(model: Path, chunk: Sequence[Path]) -> list[str]:
    """Return an empty chunk of results."""
    del model
    return [path.name for path in chunk]


def folds() -> None:
    """Measure the steps of three folds: in one process with one and two threads, and in three."""
    model = load_model(device="cpu")
    samples = [synthetic_sample(number, (240, 320)) for number in range(12)]
    pairs = [CachedPair(str(n), s.image, (s.mask > 0).astype(np.uint8)) for n, s in enumerate(samples)]
    parts = make_folds(pairs, [number % FOLDS for number in range(len(pairs))])
    table = Table(
        "where", "ms a step, by the clock", "times the first", title=f"{FOLDS} folds, {STEPS} steps of each"
    )
    first, workers = 0.0, FoldProcesses()
    for where, threads in (
        ("one process, one thread", 1),
        ("one process, two threads", 2),
        ("processes", None),
    ):
        if threads is None:
            workers.begin(model, FOLDS)
            while not workers.wait():
                pass
        torch.set_num_threads(threads or 1)
        ensemble = Ensemble(model, parts, FineTuneConfig(), workers=None if threads else workers)
        begin = 0.0
        for number in range(STEPS + 1):
            for _ in ensemble.step(Step(number, STEPS + 1, 192, 0.5)):
                pass
            begin = begin or time.perf_counter()  # after the first one, which allocates memory
        seconds = (time.perf_counter() - begin) / (STEPS * FOLDS)
        first = first or seconds
        table.add_row(where, f"{1e3 * seconds:.0f}", f"{first / seconds:.2f}")
    workers.close()
    console.print(table)


def peak_memory() -> float:
    """Return the largest memory this process has had so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
