"""Measure the first start: seconds from the click to the window and to the first outlined image.

python tools/with_screen.py python benchmarks/first_start.py [--repeats 5] [--command PROGRAM [--cold]]

Each repeat is a new process that opens a new folder of images, as `lesionseg FOLDER` does; only the question
for the annotator's name is left out. An outline was shown when its prediction is in the study. The package is
compiled first, as pip does when it installs it. With ``--command``, an installed program is started instead;
with ``--cold`` its files are read from the disk, as after the computer was turned on (Linux).
"""

from __future__ import annotations

import argparse
import compileall
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

import napari_lesionseg
from napari_lesionseg.datasets.synthetic import sample_set
from napari_lesionseg.io.images import write_image
from napari_lesionseg.study.layout import STUDY_FOLDER

PATIENCE_S = 120
PREDICTED = b'"event":"predicted"'


def main() -> int:
    """Print a table of medians, minimum and maximum."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--command", type=Path, help="an installed program; default: this Python")
    parser.add_argument("--cold", action="store_true", help="first drop the program's files from memory")
    options = parser.parse_args()
    if options.cold and not options.command:
        parser.error("--cold needs --command")
    command = [options.command] if options.command else [sys.executable, "-m", "napari_lesionseg"]
    if not options.command:
        compileall.compile_dir(Path(napari_lesionseg.__file__).parent, quiet=1)
    runs = []
    for _ in range(options.repeats):
        if options.cold:
            drop_from_memory(options.command.resolve().parent)
        runs.append(first_start(command))
    print("| | median | min | max |\n|---|---|---|---|")
    for index, title in enumerate(("window", "first outline", "processor time until then")):
        values = [run[index] for run in runs]
        print(f"| {title} | {statistics.median(values):.1f} s | {min(values):.1f} s | {max(values):.1f} s |")
    print(f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {len(runs)} starts")
    return 0


def drop_from_memory(folder: Path) -> None:
    """Drop files from the cache of the system, so that they are read from the disk again."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def first_start(command: list[object]) -> tuple[float, float, float]:
    """Return the seconds to the window and to the first outline, and the processor seconds until then."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for sample in sample_set(6):
            write_image(folder / f"{sample.name}.png", sample.image)
        begin = time.monotonic()
        process = subprocess.Popen([str(part) for part in [*command, "app", folder, "--annotator", "am"]])
        try:
            window = wait(has_window, begin, process)
            outline = wait(lambda: has_outline(folder), begin, process)
            return window, outline, sum(psutil.Process(process.pid).cpu_times()[:2])
        finally:
            process.kill()
            process.wait()


def wait(done: Callable[[], bool], begin: float, process: subprocess.Popen[bytes]) -> float:
    """Wait for something; return the seconds since the beginning."""
    while not done():
        if process.poll() is not None or time.monotonic() - begin > PATIENCE_S:
            raise SystemExit("The program did not get that far.")
        time.sleep(0.02)
    return time.monotonic() - begin


def has_window() -> bool:
    """Whether the window is visible."""
    search = ["xdotool", "search", "--onlyvisible", "--name", "^LesionSeg"]
    return bool(subprocess.run(search, capture_output=True, check=False).stdout)


def has_outline(folder: Path) -> bool:
    """Whether an outline was shown, which the study records at once."""
    return any(PREDICTED in log.read_bytes() for log in (folder / STUDY_FOLDER / "events").glob("*.jsonl"))


if __name__ == "__main__":
    raise SystemExit(main())
