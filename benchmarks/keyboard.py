"""Review images in the real window by keyboard alone, as a careful new user would; print time and actions.

Prints a line for each image, and a table of ``docs/development/benchmarks.md``::

    python tools/with_screen.py python benchmarks/keyboard.py IMAGES --masks MASKS [--count 10]

The user looks at each outline for 0.6 s and approves it with W if it is good enough: if it agrees with the
expert's mask to a Jaccard index of 0.8. Otherwise they press Alt+R and move the threshold with the arrow keys
as long as the outline gets better. If it is still not good enough, they place a box with Shift+R, the arrow
keys and Enter, as near to the lesion's own as whole steps allow, and move the threshold again if need be.
Then they approve it, or flag it with F4 if it is poor (below 0.65). Each key is an action. Keys are sent
through Qt to whatever has the focus.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from qtpy.QtCore import QEventLoop, Qt, QTimer
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QInputDialog
from rich.console import Console
from rich.table import Table

from napari_lesionseg.io.images import read_mask
from napari_lesionseg.io.pairing import find_pairs
from napari_lesionseg.masks.components import bounding_box
from napari_lesionseg.plugin.commands import make_viewer
from napari_lesionseg.plugin.editor.box_keys import STEP
from napari_lesionseg.plugin.workbench.panels.base import ModelPanel
from napari_lesionseg.plugin.workbench.widget import Workbench

GOOD, POOR = 0.8, 0.65
LOOK_S, PATIENCE_S, MOST_MOVES = 0.6, 120, 12
PRESS_AGAIN_S = 3


@dataclass(frozen=True)
class Reviewed:
    """One image, and what it took."""

    name: str
    seconds: float
    actions: int
    before: float
    after: float
    approved: bool


class KeyboardUser:
    """A person at the window, without a mouse."""

    def __init__(self, bench: Workbench, truths: dict[str, Path]) -> None:
        self.bench, self.truths = bench, truths
        self.actions = 0

    def press(self, key: Any, modifier: Any = Qt.KeyboardModifier.NoModifier) -> None:
        """Press a key where the focus is."""
        QTest.keyClick(QApplication.focusWidget() or self.bench, key, modifier)
        self.actions += 1
        spin(0.05)

    def jaccard(self) -> float:
        """Return how well the outline on the screen agrees with the expert's."""
        session: Any = self.bench.session
        drawn = session.editor.snapshot.mask > 0
        truth = read_mask(self.truths[session.state.name]) == 1
        union = np.count_nonzero(drawn | truth)
        return float(np.count_nonzero(drawn & truth) / union) if union else 1.0

    def review(self) -> Reviewed:
        """Review the image on the screen, and wait for the next one."""
        session: Any = self.bench.session
        start, self.actions = time.monotonic(), 0
        name, image_id = session.state.name, session.image_id
        spin(LOOK_S)
        before = after = self.jaccard()
        if before < GOOD:
            after = self.move_threshold(before)
        if after < GOOD:
            after = self.place_box(after)
            after = self.move_threshold(after) if after < GOOD else after
        approved = after >= POOR
        self.decide(Qt.Key.Key_W if approved else Qt.Key.Key_F4, image_id)
        seconds = time.monotonic() - start
        return Reviewed(name, seconds, self.actions, before, after, approved)

    def decide(self, key: Any, image_id: str) -> None:
        """Press a key until it counts: the window may say that it was too soon."""
        session: Any = self.bench.session
        patience = time.monotonic() + PATIENCE_S
        while session.image_id == image_id and not decided(session, image_id):
            if time.monotonic() > patience:
                raise TimeoutError("the key does not decide")
            self.press(key)
            end = time.monotonic() + PRESS_AGAIN_S
            while time.monotonic() < end and not decided(session, image_id):
                spin(0.02)
        wait_for(lambda: decided(session, image_id))

    def move_threshold(self, jaccard: float) -> float:
        """Move the threshold with the arrow keys, in the direction that helps."""
        self.press(Qt.Key.Key_R, Qt.KeyboardModifier.AltModifier)
        for forth, back in (
            (Qt.Key.Key_PageUp, Qt.Key.Key_PageDown),
            (Qt.Key.Key_PageDown, Qt.Key.Key_PageUp),
        ):
            for _ in range(MOST_MOVES):
                self.press(forth)
                spin(0.2)
                now = self.jaccard()
                if now <= jaccard:
                    self.press(back)
                    spin(0.2)
                    break
                jaccard = now
        self.press(Qt.Key.Key_Escape)
        spin(LOOK_S)
        return self.jaccard()

    def place_box(self, jaccard: float) -> float:
        """Place a box around the lesion; take it back if the outline was better before."""
        session: Any = self.bench.session
        rows, cols = bounding_box(read_mask(self.truths[session.state.name]) == 1) or (slice(0, 0),) * 2
        self.press(Qt.Key.Key_R, Qt.KeyboardModifier.ShiftModifier)
        shown, step = session.editor.document.overlay, max(1, round(STEP * max(session.state.shape)))
        top, left, bottom, right = shown.box or (0, 0, 0, 0)
        alt, plain = Qt.KeyboardModifier.AltModifier, Qt.KeyboardModifier.NoModifier
        moves = (
            (rows.start + rows.stop - top - bottom, 2 * step, Qt.Key.Key_Down, Qt.Key.Key_Up, plain),
            (cols.start + cols.stop - left - right, 2 * step, Qt.Key.Key_Right, Qt.Key.Key_Left, plain),
            (rows.stop - rows.start - bottom + top, step, Qt.Key.Key_Up, Qt.Key.Key_Down, alt),
            (cols.stop - cols.start - right + left, step, Qt.Key.Key_Right, Qt.Key.Key_Left, alt),
        )
        for distance, unit, more, less, modifier in moves:
            for _ in range(abs(round(distance / unit))):
                self.press(more if distance > 0 else less, modifier)
        self.press(Qt.Key.Key_Return)
        wait_for(lambda: not session.editor.requests.queue)
        spin(LOOK_S)
        if (now := self.jaccard()) >= jaccard:
            return now
        self.press(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
        spin(LOOK_S)
        return self.jaccard()


def decided(session: Any, image_id: str) -> bool:
    """Whether an image has a decision, and another one is on the screen, if there is one left."""
    state = session.study.state.images[image_id]
    on_disk = state.status.done or state.status.value == "flagged"
    return on_disk and session.editor is not None


def spin(seconds: float) -> None:
    """Process events for a while."""
    loop = QEventLoop()
    QTimer.singleShot(round(1000 * seconds), loop.quit)
    loop.exec()


def wait_for(done: Callable[[], bool]) -> None:
    """Process events until something is done."""
    end = time.monotonic() + PATIENCE_S
    while not done():
        spin(0.02)
        if time.monotonic() > end:
            raise TimeoutError("the window did not finish in time")


def run(images: Path, masks: Path, count: int) -> list[Reviewed]:
    """Review the first images of a folder, copied so that no study is made in it."""
    pairs = find_pairs(images, masks).pairs[:count]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "images"
        place.mkdir()
        for pair in pairs:
            shutil.copy(pair.image, place / pair.image.name)
        QInputDialog.getText = lambda *words, **more: ("poor outline", True)  # the note of a flag
        viewer = make_viewer(None, (), (), "am")
        bench: Any = viewer.window._qt_window.findChild(Workbench)
        wait_for(lambda: bench.panel(ModelPanel).models.loaded is not None)
        bench.open_folder(place)
        wait_for(lambda: bench.session is not None and bench.session.editor is not None)
        QApplication.setActiveWindow(viewer.window._qt_window)  # without a window manager, nothing else does
        wait_for(viewer.window._qt_window.isActiveWindow)
        user = KeyboardUser(bench, {pair.image.stem: pair.mask for pair in pairs})
        done = []
        for number in range(len(pairs)):
            done.append(user.review())
            Console().print(f"{number + 1} of {len(pairs)}:", " ".join(cells_of(done[-1])), highlight=False)
        bench.close_study(ask=False)
        viewer.close()
    return done


def cells_of(image: Reviewed) -> tuple[str, ...]:
    """Return the row of an image."""
    figures = f"{image.seconds:.1f}", str(image.actions), f"{image.before:.2f}", f"{image.after:.2f}"
    return image.name, *figures, "approved" if image.approved else "flagged"


def main() -> None:
    """Print a row for each image, and the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("--masks", type=Path, required=True)
    parser.add_argument("--count", type=int, default=10)
    options = parser.parse_args()
    done = run(options.images, options.masks, options.count)
    table = Table("image", "seconds", "actions", "Jaccard before", "after", "decision")
    for image in done:
        table.add_row(*cells_of(image))
    seconds, actions = median(i.seconds for i in done), median(i.actions for i in done)
    table.add_row("median", f"{seconds:.1f}", f"{actions:g}", "", "", "")
    Console().print(table)


if __name__ == "__main__":
    main()
