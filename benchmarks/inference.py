"""Measure inference time per image, and how close it is to the processor's peak.

Prints a table of ``docs/development/benchmarks.md``::

    python benchmarks/inference.py [--model M] [--size 768x560] [--threads 1 2] [--repeats N] [--json F]

- "image" is the time from bytes to the probability of every pixel; "encode" is the part done once per image,
  "click" the time of every further click.
- "arithmetic" counts the multiply-adds of the network's convolutions at its working size.
- "peak" is measured in the same run: the fastest of several convolutions with many channels, in the same
  number format and with the same number of threads. "of peak" is the time that the network's arithmetic would
  take at the peak, divided by the actual time without resizing.
- "float32 + bfloat16" encodes in float32 and decodes in bfloat16, the default where the processor supports
  it; its peak is mixed in that proportion.
- ONNX Runtime is measured in float32 if the extra ``[onnx]`` is installed.

Run it on an idle machine: all times are wall-clock times.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import napari_lesionseg as ls
from napari_lesionseg.datasets.synthetic import synthetic_sample
from napari_lesionseg.inference.device import has_fast_bfloat16
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.io.resize import working_shape
from napari_lesionseg.models.onnx import export_onnx
from napari_lesionseg.types import ByteImage

CPU = torch.device("cpu")
PEAK_SHAPES = ((128, 64), (256, 32), (512, 32))
"""Channels and side of the 3x3 convolutions; the fastest counts as the peak."""
PEAK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds on the clock."""

    median: float
    p95: float

    @classmethod
    def of(cls, work: Callable[[], object], repeats: int) -> Times:
        """Time ``work``, after some goes to warm up."""
        for _ in range(3):
            work()
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
        return cls(float(np.median(seconds)), float(np.percentile(seconds, 95)))


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Multiply-adds of the network's halves, at its working size."""

    encoder: float
    decoder: float


@dataclass(frozen=True, slots=True)
class Row:
    """One way to run the network with one number of threads."""

    runtime: str
    precision: str
    threads: int
    image: Times
    encode: Times
    click: Times
    network: float
    """Seconds in the network alone, both halves, median."""
    of_peak: float


def count(model: Model, shape: tuple[int, int]) -> Arithmetic:
    """Count the multiply-adds for one image."""
    planes = torch.zeros(1, 3, *working_shape(shape, model.card.working_size))
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        features = model.device_model.network.encode(planes)
        encoder = counter.get_total_flops()
        model.device_model.network.decode(features, planes)
    return Arithmetic(encoder / 2, (counter.get_total_flops() - encoder) / 2)


@torch.inference_mode()
def measure_peak(dtype: torch.dtype) -> float:
    """Measure the most multiply-adds a second that convolutions reach here."""
    return max(_convolution_speed(channels, side, dtype) for channels, side in PEAK_SHAPES)


def _convolution_speed(channels: int, side: int, dtype: torch.dtype) -> float:
    features = torch.rand(1, channels, side, side).to(dtype).contiguous(memory_format=torch.channels_last)
    filters = torch.rand(channels, channels, 3, 3).to(dtype).contiguous(memory_format=torch.channels_last)
    quickest, end = float("inf"), time.perf_counter() + PEAK_SECONDS / len(PEAK_SHAPES)
    while time.perf_counter() < end:
        start = time.perf_counter()
        functional.conv2d(features, filters, padding=1)
        quickest = min(quickest, time.perf_counter() - start)
    return 9 * channels**2 * side**2 / quickest


def measure(model: Model, image: ByteImage, repeats: int) -> tuple[Times, Times, Times, float]:
    """Time a whole image, its encoding, a click, and the network alone."""
    encoded = model.encode(image)
    previous, clicks = encoded.predict(), [ls.Click(image.shape[0] / 2, image.shape[1] / 2)]
    planes = torch.rand(1, 3, *working_shape((image.shape[0], image.shape[1]), model.card.working_size))

    @torch.inference_mode()
    def network_alone() -> None:
        model.device_model.decode(model.device_model.encode(planes), planes)

    return (
        Times.of(lambda: model.predict(image), repeats),
        Times.of(lambda: model.encode(image), repeats),
        Times.of(lambda: encoded.predict(clicks, previous), repeats),
        Times.of(network_alone, repeats).median,
    )


def ways(model: Model, onnx: Path | None) -> Iterator[tuple[str, str, Model]]:
    """Yield the ways to run the network: the runtime, the number formats, and a model for it."""
    yield "PyTorch", "float32", Model(model.network, model.card, CPU, precision="float32")
    if has_fast_bfloat16(CPU):
        yield "PyTorch", "float32 + bfloat16", Model(model.network, model.card, CPU, precision="bfloat16")
    if onnx is not None:
        yield "ONNX Runtime", "float32", ls.load_model(onnx)


def measure_all(
    model: Model, image: ByteImage, arguments: argparse.Namespace, onnx: Path | None
) -> list[Row]:
    """Measure every way with every number of threads."""
    arithmetic, rows = count(model, (image.shape[0], image.shape[1])), []
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        exact, rough = measure_peak(torch.float32), measure_peak(torch.bfloat16)
        peaks = f"{exact / 1e9:.0f} (float32) and {rough / 1e9:.0f} (bfloat16) GMAC/s"
        print(f"peak with {threads} threads: {peaks}")
        for runtime, precision, way in ways(model, onnx):
            sample, encode, click, network = measure(way, image, arguments.repeats)
            decoder_peak = rough if "bfloat16" in precision else exact
            ideal = arithmetic.encoder / exact + arithmetic.decoder / decoder_peak
            rows.append(Row(runtime, precision, threads, sample, encode, click, network, ideal / network))
    return rows


def make_table(rows: list[Row], title: str) -> Table:
    """Lay out the figures."""
    heads = (
        "runtime",
        "arithmetic in",
        "threads",
        "image",
        "p95",
        "encode",
        "p95",
        "click",
        "p95",
        "network",
    )
    table = Table(*heads, "of peak", title=title, caption="milliseconds; medians and 95th percentiles")
    for row in rows:
        times = [
            f"{1e3 * t:.1f}" for each in (row.image, row.encode, row.click) for t in (each.median, each.p95)
        ]
        share = f"{row.of_peak:.0%}"
        table.add_row(row.runtime, row.precision, str(row.threads), *times, f"{1e3 * row.network:.1f}", share)
    return table


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="name or file of the model (default: the shipped one)")
    parser.add_argument("--size", default="768x560", help="width and height of the image in pixels")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--json", type=Path, help="write all results to this file")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments()
    width, height = map(int, arguments.size.split("x"))
    model, image = ls.load_model(arguments.model, "cpu"), synthetic_sample(0, (height, width)).image
    with tempfile.TemporaryDirectory() as folder:
        onnx = Path(folder) / "model.onnx" if find_spec("onnxruntime") and find_spec("onnxscript") else None
        if onnx:
            export_onnx(model.network, model.card, onnx)
        rows = measure_all(model, image, arguments, onnx)
    arithmetic = count(model, (height, width))
    rows_seen, cols_seen = working_shape((height, width), model.card.working_size)
    title = (
        f"{model.card.name}, an image of {width}x{height} seen at {cols_seen}x{rows_seen}: "
        f"{arithmetic.encoder / 1e9:.2f} + {arithmetic.decoder / 1e9:.2f} GMAC (encoder + decoder)"
    )
    Console(width=150).print(make_table(rows, title))
    print(f"{torch.cpu.get_capabilities()['cpu_name']}, torch {torch.__version__}")
    if arguments.json:
        figures = {"arithmetic": asdict(arithmetic), "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
