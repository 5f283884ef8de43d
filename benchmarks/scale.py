"""How segmenting many files scales: processes of this computer, dask's cost per image, many images.

    python benchmarks/scale.py [--images 64] [--many 1000 10000 100000]

- Throughput: images a second with the shipped model in one and in two processes of one thread each.
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

from rich.console import Console
from rich.table import Table

from napari_lesionseg.cluster.engine import ClusterOptions, Engine, cut, open_engine
from napari_lesionseg.cluster.segment import CHUNK, SegmentJob, segment_files
from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.datasets.synthetic import synthetic_sample
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
    growth(options.many)


def throughput(folder: Path, count: int) -> None:
    """Measure images a second in one and two processes; the second round counts, with the model loaded."""
    images = []
    for number in range(count):
        images.append(folder / f"{number:05}.png")
        write_image(images[-1], synthetic_sample(number, (384, 512)).image)
    rates = {}
    for workers in (1, 2):
        with open_engine(ClusterOptions(workers=workers), threads=1) as engine:
            run(engine, images[: 2 * CHUNK], folder / f"first {workers}")
            begin = time.perf_counter()
            run(engine, images, folder / f"counted {workers}")
            rates[workers] = count / (time.perf_counter() - begin)
    table = Table(
        "processes", "images a second", "times one", title=f"{count} images of 384 x 512, one thread each"
    )
    for workers, rate in rates.items():
        table.add_row(str(workers), f"{rate:.1f}", f"{rate / rates[1]:.2f}")
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
