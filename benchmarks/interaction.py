"""Measure the response time of editing in a real window.

Prints tables of ``docs/development/benchmarks.md``::

    xvfb-run -a -s "-screen 0 1366x768x24" python benchmarks/interaction.py [--model M] [--repeats N]

- "outline" is the time from the mouse or slider event until the new outline is in its layer, "screen" until
  the next frame was drawn, including the window's own work. Without a GPU (Xvfb with Mesa) the frame is
  rendered on the CPU.
- "late" is how late a 10 ms timer fires meanwhile: how responsive the interface feels.
- The network runs once before clicks are timed, as when an image is opened.
- Each box and lasso is another part of the image, which the network has not seen yet.
- "threshold" is a move of the slider, and "slider let go" the last one. Tools start from the predicted
  outline.
- "next image" is a prefetched image of a study, while the previous one is being saved.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import napari
import numpy as np
import torch
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QApplication
from rich.console import Console
from rich.table import Table

import napari_lesionseg as ls
from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.datasets.synthetic import synthetic_sample
from napari_lesionseg.inference.prompts import enclosing_box
from napari_lesionseg.io.images import write_image
from napari_lesionseg.plugin.editor.editor import MaskEditor
from napari_lesionseg.plugin.editor.mouse import EditMouse
from napari_lesionseg.plugin.editor.tools import TOOLS, ToolContext
from napari_lesionseg.plugin.napari_layers.layers import new_outline, show_as
from napari_lesionseg.plugin.workbench.session import StudySession
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import Click, Prompts, Scribble

SIZES = ((560, 768), (4000, 6000))
TICK_MS = 10
GOALS_MS = {"click": 100, "box": 100, "lasso": 100, "scribble": 100, "threshold": 30, "next image": 150}
BREATH_S = 0.0005
NEXT = 5
TIMEOUT_S = 120


@dataclass(frozen=True)
class Timing:
    """Times of one kind of change, in milliseconds."""

    size: str
    change: str
    repeats: int
    outline_median: float
    outline_p95: float
    screen_median: float
    screen_p95: float
    late_p99: float
    late_max: float


class Window:
    """A viewer with one image being corrected, and the clocks around it."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.viewer = napari.Viewer()
        self.viewer.window.resize(1366, 768)
        self.shape = shape
        self._changed_at = self._drawn_at = 0.0
        self._canvas = self.viewer.window._qt_viewer.canvas._scene_canvas
        self._canvas.events.draw.connect(self._on_drawn, position="last")

    def correct(self, model: Any) -> MaskEditor:
        """Show an image that is being corrected."""
        image = self.viewer.add_image(synthetic_sample(3, size=self.shape).image, rgb=True)
        labels = new_outline(image)
        show_as(labels, filled=False)
        self.viewer.add_layer(labels)
        editor = MaskEditor(self.viewer, image, labels, config=PostprocessConfig(), model=model)
        editor.changed.connect(self.on_changed)
        return editor

    def run(self, change: Callable[[], Any], before: Callable[[], Any] | None = None) -> tuple[float, float]:
        """Make a change; return the milliseconds until the outline is in its layer and on the screen."""
        if before is not None:
            before()
        self._settle()
        self._changed_at = self._drawn_at = 0.0
        started = time.perf_counter()
        change()
        self._wait(lambda: self._changed_at > 0 and self._drawn_at > 0)
        return 1000 * (self._changed_at - started), 1000 * (self._drawn_at - started)

    def on_changed(self, what: object = None) -> None:
        """Note that the outline is in its layer."""
        self._changed_at = time.perf_counter()
        self._canvas.update()  # a frame even where nothing is new, as after a box in which nothing was found

    def _on_drawn(self, event: Any) -> None:
        if self._changed_at and not self._drawn_at:
            self._drawn_at = time.perf_counter()

    def _settle(self) -> None:
        for _ in range(5):
            QApplication.processEvents()
            time.sleep(0.01)

    def _wait(self, done: Callable[[], bool]) -> None:
        end = time.perf_counter() + TIMEOUT_S
        while not done():
            QApplication.processEvents()
            time.sleep(BREATH_S)  # else this loop takes the time that the network's thread needs
            if time.perf_counter() > end:
                raise TimeoutError("nothing was drawn")

    def wait_for(self, done: Callable[[], bool]) -> None:
        """Process events until a condition holds."""
        self._wait(done)
        self._settle()


@contextmanager
def lateness() -> Iterator[list[float]]:
    """Collect by how many milliseconds a timer is late."""
    late: list[float] = []
    last = [time.perf_counter()]

    def tick() -> None:
        now = time.perf_counter()
        late.append(max(0.0, 1000 * (now - last[0]) - TICK_MS))
        last[0] = now

    timer = QTimer()
    timer.setTimerType(Qt.TimerType.PreciseTimer)
    timer.timeout.connect(tick)
    timer.start(TICK_MS)
    yield late
    timer.stop()


def measure(
    window: Window,
    name: str,
    changes: Sequence[Callable[[], Any]],
    before: Callable[[], Any] | None = None,
) -> Timing:
    """Time a row of changes; the first one is left out, and so is what is done before each."""
    with lateness() as late:
        times = np.array([window.run(change, before) for change in changes])[1:]
    height, width = window.shape
    (outline, screen), (outline_95, screen_95) = np.median(times, axis=0), np.percentile(times, 95, axis=0)
    p99, most = (float(np.percentile(late, share)) if late else 0.0 for share in (99, 100))
    return Timing(f"{width}x{height}", name, len(times), outline, outline_95, screen, screen_95, p99, most)


def measure_size(shape: tuple[int, int], model: Any, repeats: int) -> list[Timing]:
    """Time everything at one size of image."""
    rows = measure_corrections(shape, model, repeats)
    with tempfile.TemporaryDirectory() as folder:
        rows.append(measure_next(shape, model, Path(folder)))
    return rows


def measure_corrections(shape: tuple[int, int], model: Any, repeats: int) -> list[Timing]:
    """Time what is done to one image."""
    window, rng = Window(shape), np.random.default_rng(0)
    editor = window.correct(model)
    window.run(editor.predict)
    spots = rng.uniform(0.2, 0.8, (repeats + 1, 2)) * shape
    thresholds = np.resize([0.3, 0.33, 0.36, 0.4, 0.45, 0.5, 0.45, 0.4], repeats + 1)
    few = max(2, repeats // 4)
    rows = [
        measure(
            window,
            "click",
            [lambda at=at: editor.add_stroke(Click(*at, rng.random() < 0.5)) for at in spots],
        ),
        measure(window, "take a click back", [editor.undo] * few),
        measure(window, "threshold", [lambda t=t: set_threshold(editor, t) for t in thresholds]),
        measure(window, "slider let go", [lambda t=t: let_go(editor, t) for t in thresholds[: few + 1]]),
    ]
    for tool in ("smooth", "snap"):  # on the network's outline, so that there is something to change
        changes = [lambda t=tool: apply_tool(editor, t)] * few
        rows.append(measure(window, tool, changes, lambda: apply_tool(editor, "back_to_prediction")))
    areas = [area_around(shape, number) for number in range(few + 1)]  # each in another part of the image
    boxes = [Prompts(box=enclosing_box(area)) for area in areas]
    rows.append(measure(window, "box", [lambda a=a: editor.add_area(a) for a in boxes]))
    rows.append(measure(window, "lasso", [lambda a=a: editor.add_area(a) for a in areas]))
    strokes = [Scribble(area.lasso[:8]) for area in areas]
    rows.append(measure(window, "scribble", [lambda s=s: editor.add_stroke(s) for s in strokes]))
    editor.close()
    window.viewer.close()
    return rows


def area_around(shape: tuple[int, int], number: int) -> Prompts:
    """Return a lasso around the middle of the image, each a little larger than the one before."""
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    radius = (0.2 + 0.01 * number) * min(shape)
    rows, cols = shape[0] / 2 + radius * np.sin(angles), shape[1] / 2 + radius * np.cos(angles)
    return Prompts(lasso=tuple(zip(rows.tolist(), cols.tolist(), strict=True)))


def measure_next(shape: tuple[int, int], model: Any, folder: Path) -> Timing:
    """Time the way from Approve to the next image, which was got ready ahead."""
    image = synthetic_sample(3, size=shape).image
    for number in range(NEXT + 2):
        write_image(folder / f"P{number}.png", np.roll(image, 16 * number, axis=1))
    window = Window(shape)
    study = Study.create(folder / "study", "bench", paths=folder)
    session = StudySession(window.viewer, study, PostprocessConfig())
    session.set_model(model)
    session.begin()
    session.opened.connect(lambda editor: editor is not None and window.on_changed())
    times = []
    with lateness() as late:
        for _ in range(NEXT):
            window.wait_for(lambda: is_ready(session))
            late.clear()
            times.append(window.run(session.review.approve))
    session.close(discard=True)
    window.viewer.close()
    (outline, screen), (outline_95, screen_95) = np.median(times, axis=0), np.percentile(times, 95, axis=0)
    p99, most = np.percentile(late, 99), max(late)
    size = f"{shape[1]}x{shape[0]}"
    return Timing(size, "next image", NEXT, outline, outline_95, screen, screen_95, p99, most)


def is_ready(session: StudySession) -> bool:
    """Whether the next image is ready and nothing else is running."""
    editor = session.editor
    return bool(
        editor and editor.document.has_mask and not session.save_queue.unsaved and not session.display.is_busy
    )


def apply_tool(editor: MaskEditor, name: str) -> None:
    """Use a tool as its button does."""
    mouse = EditMouse(editor)
    next(tool for tool in TOOLS if tool.id == name).function(ToolContext(editor, mouse))
    mouse.close()


def let_go(editor: MaskEditor, threshold: float) -> None:
    """Draw an outline in full."""
    editor.set_config(editor.requests.config.model_copy(update={"threshold": float(threshold) + 0.01}))


def set_threshold(editor: MaskEditor, threshold: float) -> None:
    """Move the threshold as the slider does while it is held."""
    editor.set_config(editor.requests.config.model_copy(update={"threshold": float(threshold)}))


def show(rows: Sequence[Timing]) -> None:
    """Print the table."""
    table = Table("image", "change", "n", "outline ms", "p95", "screen ms", "p95", "late p99 ms", "most")
    for row in rows:
        values = (
            row.outline_median,
            row.outline_p95,
            row.screen_median,
            row.screen_p95,
            row.late_p99,
            row.late_max,
        )
        table.add_row(row.size, row.change, str(row.repeats), *(f"{value:.1f}" for value in values))
    Console(width=120).print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="name in the model store or path of a model file")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--size", choices=("small", "large", "both"), default="both")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args()
    QApplication.instance() or QApplication([])
    model = ls.load_model(arguments.model)
    sizes = {"small": SIZES[:1], "large": SIZES[1:], "both": SIZES}[arguments.size]
    rows = [row for shape in sizes for row in measure_size(shape, model, arguments.repeats)]
    show(rows)
    if arguments.json is not None:
        machine = {
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
        }
        figures = {"machine": machine, "goals_ms": GOALS_MS, "timings": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
