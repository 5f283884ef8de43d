from __future__ import annotations

import numpy as np
import pytest

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.plugin.workbench import autosave
from napari_lesionseg.plugin.workbench.batch_prediction import StudyRun
from napari_lesionseg.plugin.workbench.save_queue import SaveQueue
from napari_lesionseg.study.state import Status

CONFIG = PostprocessConfig(min_area=0)


class Bench:
    def __init__(self, study) -> None:
        self.study = study
        self.ids = list(study.state.images)
        self.save_queue = SaveQueue(study)
        self.on_screen = None
        self.run = StudyRun(study, self.save_queue, lambda: self.on_screen)
        self.steps, self.ends = [], []
        self.run.progressed.connect(lambda done, total: self.steps.append((done, total)))
        self.run.finished.connect(self.ends.append)

    def statuses(self) -> list[Status]:
        return [state.status for state in self.study.state.images.values()]


@pytest.fixture
def bench(qtbot, make_study, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda file: None)
    monkeypatch.setattr(autosave, "RETRY_MS", 20)
    made = Bench(make_study(5))
    yield made
    made.run.cancel()
    made.save_queue.close()


def test_all_that_nobody_looked_at_is_outlined_as_predicted(qtbot, bench, network):
    bench.study.flag(bench.ids[1])
    bench.on_screen = bench.ids[3]
    bench.run.start(bench.ids, network, CONFIG)
    qtbot.waitUntil(lambda: bench.ends == [()])
    predicted, untouched = Status.PREDICTED, Status.UNREVIEWED
    assert bench.statuses() == [predicted, Status.FLAGGED, predicted, untouched, predicted]
    assert bench.steps[-1] == (3, 3)
    outline = bench.study.state.images[bench.ids[0]].current
    assert (outline.model, outline.threshold) == (network.sha256, pytest.approx(0.6))
    assert outline.quality is not None
    assert not bench.run.is_active


def test_cancelled_it_leaves_what_is_done_and_nothing_comes_after(qtbot, bench, network):
    bench.run.start(bench.ids, network, CONFIG)
    qtbot.waitUntil(lambda: Status.PREDICTED in bench.statuses())
    bench.run.cancel()
    assert len(bench.ends) == 1
    qtbot.waitUntil(lambda: bench.save_queue.pending == 0)
    assert Status.UNREVIEWED in bench.statuses()
    bench.run.start(bench.ids, network, CONFIG)
    qtbot.waitUntil(lambda: len(bench.ends) == 2)
    assert set(bench.statuses()) == {Status.PREDICTED}


def test_what_the_reader_looked_at_in_the_meantime_is_hers(qtbot, bench, network):
    network.gate.clear()
    bench.run.start(bench.ids, network, CONFIG)
    assert network.started.wait(10)
    mine = np.ones((40, 60), np.uint8)
    bench.study.save_correction(bench.ids[0], mine)
    network.gate.set()
    qtbot.waitUntil(lambda: bool(bench.ends))
    state = bench.study.state.images[bench.ids[0]]
    assert state.status is Status.CORRECTED
    assert state.predicted is None


def test_an_image_that_cannot_be_read_is_told_at_the_end(qtbot, bench, network):
    bench.study.image_path(bench.ids[2]).unlink()
    bench.run.start(bench.ids, network, CONFIG)
    qtbot.waitUntil(lambda: bool(bench.ends))
    assert len(bench.ends[0]) == 1
    assert "P3" in bench.ends[0][0]
    assert bench.statuses().count(Status.PREDICTED) == 4


def test_a_full_disk_halts_it_and_it_goes_on(qtbot, bench, network, trouble):
    trouble.on = True
    bench.run.start(bench.ids, network, CONFIG)
    qtbot.waitUntil(lambda: bool(bench.save_queue.problem))
    assert len(network.seen) == 1
    trouble.on = False
    qtbot.waitUntil(lambda: bench.ends == [()])
    assert set(bench.statuses()) == {Status.PREDICTED}
