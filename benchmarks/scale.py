"""How segmenting many files scales: processes of this computer, dask's cost per image, many images.

    python benchmarks/scale.py [--images 64] [--many 1000 10000 100000]

- Throughput: images a second with the shipped model in one and in two processes of one thread each.
- Batches: CPU time of the network for each image, alone and with others.
- Cost: what dask adds to each image, with a function that does nothing.
- Growth: the same for many more images, with the peak memory of this process.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from napari_lesionseg.cluster.engine import ClusterOptions, Engine, cut, open_engine
from napari_lesionseg.cluster.segment import CHUNK, segment_files
from napari_lesionseg.cluster.segment_chunk import SegmentJob
from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.datasets.synthetic import synthetic_sample
from napari_lesionseg.inference.predictor import load_model
from napari_lesionseg.io.atomic import sha256_file
from napari_lesionseg.io.images import write_image
from napari_lesionseg.models.store import ModelStore

console = Console()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=64, help="images to segment")
    parser.add_argument(
        "--many", type=int, nargs="+", default=[1000, 10_000, 100_000], help="images to schedule"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        throughput(Path(folder), options.images)
    batches(options.images)
    growth(options.many)


def throughput(folder: Path, count: int) -> None:
    """Measure images a second in one and two processes; the second round counts, with the model loaded.

    On a computer that does other work at the same time, the CPU times are more reliable than the rates. With
    two idle cores, one worker and the client have a core each; two workers share theirs with the client.
    """
    images = []
    for number in range(count):
        images.append(folder / f"{number:05}.png")
        write_image(images[-1], synthetic_sample(number, (384, 512)).image)
    table = Table(title=f"{count} images of 384 x 512, one thread each")
    for title in (
        "processes",
        "images a second",
        "times one",
        "CPU ms an image, workers",
        "CPU ms an image, client and scheduler",
        "times one, two idle cores",
    ):
        table.add_column(title, justify="right")
    first = Load(0, 0, 0)
    for workers in (1, 2):
        with open_engine(ClusterOptions(workers=workers), threads=1) as engine:
            run(engine, images[: 2 * CHUNK], folder / f"first {workers}")
            before = Load.of(engine)
            run(engine, images, folder / f"counted {workers}")
            load = Load.of(engine).since(before, count)
        first = load if workers == 1 else first
        expected = workers * first.workers / (load.workers + (load.client if workers > 1 else 0))
        table.add_row(
            str(workers),
            f"{1 / load.wall:.1f}",
            f"{first.wall / load.wall:.2f}",
            f"{1e3 * load.workers:.1f}",
            f"{1e3 * load.client:.2f}",
            f"{expected:.2f}",
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
        "images", "seconds", "ms an image", "peak memory of this process, MB", title="No work, two processes"
    )
    with open_engine(ClusterOptions(workers=2), threads=1) as engine:
        engine.install_model(ModelStore().resolve())
        for count in counts:
            names = [Path(f"images/{number:07}.png") for number in range(count)]
            begin = time.perf_counter()
            done = sum(len(results) for results in engine.map(nothing, cut(names, CHUNK)))
            seconds = time.perf_counter() - begin
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            table.add_row(str(done), f"{seconds:.2f}", f"{1e3 * seconds / count:.3f}", f"{peak:.0f}")
    console.print(table)


def nothing(model: Path, chunk: Sequence[Path]) -> list[str]:
    """Return an empty chunk of results."""
    del model
    return [path.name for path in chunk]


if __name__ == "__main__":
    main()
