"""Measure very large images: time and memory, tile sizes, small and large lesions.

Prints tables of ``docs/development/benchmarks.md``::

    python benchmarks/large.py [--model M] [--megapixels 1 6 24 100] [--data DIR] [--json F] [--quick]

- Time and memory: the image is generated as it is read and the probabilities go to a file, so memory is that
  of the computation. Every measurement runs in its own process. "more" is the peak beyond a process that has
  segmented an image of 768 x 560. "CPU s" does not depend on other load.
- Tile sizes: the difference between results and those with the largest tiles.
- Windows: the size of the network's input window is part of the method and changes the result.
- Small lesions: an image with many small lesions, by tiles and as a whole; a lesion is found at a Jaccard
  index of 0.5. Large lesion: one lesion that fills a good part of the image, and the images of
  ``isic2017-val-fullres`` if present.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

import napari_lesionseg as ls
from images import add_data_argument
from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.datasets.synthetic import synthetic_sample
from napari_lesionseg.evaluation.instances import MatchCounts, count_matches
from napari_lesionseg.evaluation.metrics import score_masks
from napari_lesionseg.inference.postprocess import postprocess
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.inference.tiling import TileConfig, TileProgress, predict_tiles, predict_whole
from napari_lesionseg.inference.tiling_io import as_probability, new_output
from napari_lesionseg.io.images import read_image, read_mask
from napari_lesionseg.io.pairing import find_pairs
from napari_lesionseg.masks.instances import find_instances
from napari_lesionseg.types import ByteImage

ASPECT = 1.5
WAYS = ("tiles", "whole")
TABLES = ("cost", "tolerance", "accuracy")


class Wallpaper:
    """An image of any size that repeats a drawn one, and exists only where it is read."""

    def __init__(self, pattern: ByteImage, megapixels: float) -> None:
        height = round(math.sqrt(megapixels * 1e6 / ASPECT))
        self.shape, self.dtype = (height, round(height * ASPECT), 3), pattern.dtype
        self._pattern = pattern

    def __getitem__(self, index: tuple[slice, slice]) -> ByteImage:
        rows, cols = (
            np.arange(*part.indices(side)) for part, side in zip(index, self.shape[:2], strict=True)
        )
        return self._pattern[rows % len(self._pattern)][:, cols % self._pattern.shape[1]]


@dataclass(frozen=True, slots=True)
class Cost:
    """What an image cost."""

    megapixels: float
    way: str
    seconds: float
    cpu_seconds: float
    peak_megabytes: float
    more_megabytes: float


def peak_megabytes() -> float:
    """Return the highest memory in use so far."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage includes the parent process on Linux
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1024**2 if sys.platform == "darwin" else 1024)


def predict(model: Model, image: ByteImage | Wallpaper, out: object, way: str, config: TileConfig) -> None:
    """Do all the work of one way, showing the progress."""
    steps: Iterable[TileProgress] = (
        predict_tiles(model, image, out, config) if way == "tiles" else predict_whole(model, image, out)  # type: ignore[arg-type]
    )
    for _ in steps:
        pass


def measure_cost(arguments: argparse.Namespace) -> Cost:
    """Measure one image in this process."""
    model = ls.load_model(arguments.model, device="cpu")
    model.predict(synthetic_sample(1).image)
    image = Wallpaper(synthetic_sample(2, (700, 900), n_lesions=4).image, arguments.one)
    before = peak_megabytes()
    with tempfile.TemporaryDirectory() as folder:
        out = new_output(image.shape[:2], path=Path(folder) / "probability.npy")
        started, worked = time.perf_counter(), time.process_time()
        predict(model, image, out, arguments.way, TileConfig())
        seconds, busy = time.perf_counter() - started, time.process_time() - worked
    peak = peak_megabytes()
    return Cost(arguments.one, arguments.way, seconds, busy, peak, peak - before)


def costs(arguments: argparse.Namespace) -> list[Cost]:
    """Measure every image in its own process."""
    found = []
    jobs = [(way, size) for way in WAYS for size in arguments.megapixels]
    for way, size in track(jobs, "Time and memory", console=Console(stderr=True)):
        command = [sys.executable, __file__, "--one", str(size), "--way", way]
        command += ["--model", arguments.model] if arguments.model else []
        answer = subprocess.run(command, check=True, capture_output=True, text=True)
        found.append(Cost(**json.loads(answer.stdout)))
    return found


def tolerance_table(model: Model, megapixels: float) -> Table:
    """Compare results for tiles and windows of different sizes."""
    image = Wallpaper(synthetic_sample(2, (700, 900), n_lesions=4).image, megapixels)
    trials = [TileConfig(tile=tile) for tile in (4096, 2048, 1024, 768)]
    trials += [
        TileConfig(window=512),
        TileConfig(window=1024),
        TileConfig(overlap=128),
        TileConfig(overlap=384),
    ]
    made = Table(
        "window",
        "overlap",
        "tile",
        "largest difference",
        "99.9 % below",
        "other mask",
        title="Tiles and windows",
    )
    reference = None
    for config in track(trials, "Tiles of any size", console=Console(stderr=True)):
        answer = np.zeros(image.shape[:2], np.float32)
        predict(model, image, answer, "tiles", config)
        reference = answer if reference is None else reference
        apart, level = np.abs(answer - reference), model.card.threshold
        other = ((answer >= level) != (reference >= level)).mean()
        sizes = (str(config.window), str(config.overlap), str(config.tile))
        made.add_row(*sizes, f"{apart.max():.6f}", f"{np.quantile(apart, 0.999):.6f}", f"{other:.4%}")
    return made


def many_lesions(side: int, blocks: int) -> tuple[ByteImage, np.ndarray]:
    """Draw an image of skin with many small lesions; return it with the numbers of the lesions."""
    rows, numbers, count = [], [], 0
    for row in range(blocks):
        samples = [
            synthetic_sample(500 + row * blocks + col, (side, side), n_lesions=3) for col in range(blocks)
        ]
        ids = []
        for sample in samples:
            own = sample.instances.astype(np.int32)
            ids.append(np.where(own > 0, own + count, 0))
            count += int(own.max())
        rows.append(np.concatenate([sample.image for sample in samples], axis=1))
        numbers.append(np.concatenate(ids, axis=1))
    return np.concatenate(rows), np.concatenate(numbers)


def outline(model: Model, image: ByteImage, way: str, config: TileConfig) -> np.ndarray:
    """Outline all that is found; parts below 64 pixels are left out."""
    out = new_output(image.shape[:2])
    predict(model, image, out, way, config)
    everything = PostprocessConfig(largest_only=False)
    return postprocess(as_probability(np.asarray(out)), everything, model.card.threshold)


def accuracy_table(model: Model, arguments: argparse.Namespace) -> Table:
    """Compare both ways on small lesions and on large ones."""
    console = Console(stderr=True)
    made = Table("image", "way", "lesions found", "F1", "mean Jaccard", title="Small and large lesions")
    side, blocks = (256, 3) if arguments.quick else (384, 6)
    image, truth = many_lesions(side, blocks)
    trials = [("whole", 1.0)] + [("tiles", scale) for scale in (0.5, 0.75, 1.0)]
    for way, scale in track(trials, "Small lesions", console=console):
        counts = count_matches(find_instances(outline(model, image, way, TileConfig(scale=scale))), truth)
        name = way if way == "whole" else f"{way}, scale {scale}"
        made.add_row(f"{truth.max()} small lesions", name, *_figures(counts))
    for name, large, mask in large_lesions(arguments):
        for way in WAYS:
            found = outline(model, large, way, TileConfig())
            largest = postprocess(found.astype(np.float32), PostprocessConfig(), 0.5)
            made.add_row(name, way, "", "", f"{score_masks(largest, mask).jaccard:.3f}")
    return made


def _figures(counts: MatchCounts) -> tuple[str, str, str]:
    found = f"{counts.matched} of {counts.matched + counts.missed}, {counts.extra} false"
    return found, f"{counts.f1:.3f}", f"{counts.mean_jaccard:.3f}"


def large_lesions(arguments: argparse.Namespace) -> Iterable[tuple[str, ByteImage, np.ndarray]]:
    """Return images with one large lesion: a synthetic one, enlarged, and real ones."""
    sample = synthetic_sample(3)
    size = (1536, 1120) if arguments.quick else (6144, 4480)
    image = Image.fromarray(sample.image).resize(size, Image.Resampling.BICUBIC)
    mask = Image.fromarray(sample.mask).resize(size, Image.Resampling.NEAREST)
    yield f"drawn, {size[0] * size[1] / 1e6:.0f} MP", np.array(image), np.array(mask)
    folder = arguments.data / "isic2017-val-fullres"
    if folder.is_dir():
        for pair in find_pairs([folder / "images"], [folder / "masks"]).pairs[
            : 1 if arguments.quick else None
        ]:
            sample = read_image(pair.image)
            yield (
                f"{pair.stem}, {sample.size / 3e6:.0f} MP",
                sample,
                read_mask(pair.mask, sample.shape[:2]),
            )


def cost_table(found: list[Cost]) -> Table:
    """Lay out time and memory."""
    heads = ("way", "megapixels", "s", "CPU s", "CPU s a megapixel", "peak MB", "more MB")
    made = Table(*heads, title="Time and memory")
    for cost in found:
        times = (
            f"{cost.seconds:.1f}",
            f"{cost.cpu_seconds:.1f}",
            f"{cost.cpu_seconds / cost.megapixels:.2f}",
        )
        memory = (f"{cost.peak_megabytes:.0f}", f"{cost.more_megabytes:.0f}")
        made.add_row(cost.way, f"{cost.megapixels:g}", *times, *memory)
    return made


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="name or file of the model (default: the shipped one)")
    parser.add_argument("--megapixels", type=float, nargs="+", default=[1, 6, 24, 100])
    add_data_argument(parser)
    parser.add_argument("--json", type=Path, help="write time and memory to this file")
    parser.add_argument(
        "--tables", nargs="+", choices=TABLES, default=TABLES, help="tables to print (default: all)"
    )
    parser.add_argument("--quick", action="store_true", help="small images, for testing")
    parser.add_argument("--one", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.megapixels = [0.5, 2]
    return arguments


def main() -> None:
    """Measure, and print the tables."""
    arguments = parse_arguments()
    if arguments.one:
        print(json.dumps(asdict(measure_cost(arguments))))
        return
    console = Console() if sys.stdout.isatty() else Console(width=120)
    model = ls.load_model(arguments.model, device="cpu")
    if "cost" in arguments.tables:
        found = costs(arguments)
        console.print(cost_table(found))
        if arguments.json:
            arguments.json.write_text(json.dumps([asdict(cost) for cost in found], indent=1))
    if "tolerance" in arguments.tables:
        console.print(tolerance_table(model, 1 if arguments.quick else 6))
    if "accuracy" in arguments.tables:
        console.print(accuracy_table(model, arguments))


if __name__ == "__main__":
    main()
