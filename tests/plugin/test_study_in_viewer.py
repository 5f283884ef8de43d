"""Ten real pictures in the window with the network that comes along: worked on, closed, reopened."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from napari_lesionseg.models.registry import ModelRegistry
from napari_lesionseg.plugin import app, study_session
from napari_lesionseg.plugin.workbench import Workbench
from napari_lesionseg.study.fold import Status

LONG = 60_000


@pytest.fixture
def nevi(real_data, tmp_path):
    found = sorted((real_data / "ph2-sample").rglob("*_Dermoscopic_Image/*.bmp"))[:10]
    if len(found) < 10:
        pytest.skip(f"fewer than ten pictures of PH2 under {real_data}")
    folder = tmp_path / "nevi"
    folder.mkdir()
    for path in found:
        shutil.copy(path, folder)
    return folder


@pytest.fixture
def open_window(qtbot, make_napari_viewer, monkeypatch, nevi):
    if not any(entry.shipped and not entry.problem for entry in ModelRegistry().list()):
        pytest.skip("the model that comes with the program is not in this checkout")
    monkeypatch.setattr("os.fsync", lambda file: None)
    monkeypatch.setattr(study_session, "PAUSE_MS", 20)
    monkeypatch.setattr(app.napari, "Viewer", lambda **more: make_napari_viewer(**more))

    def open_one():
        viewer = app.make_viewer(nevi, (), ())
        bench = viewer.window._qt_window.findChild(Workbench)
        ready(qtbot, bench)
        return viewer, bench

    return open_one


def ready(qtbot, bench, name=None):
    """Wait until a picture is shown with its outline, and the network has nothing to do."""

    def there() -> bool:
        session = bench.session
        if session is None or session.editor is None or bench.models.loaded is None:
            return False
        return not session.editor.is_busy and name in (None, session.state.name) and session.model is not None

    qtbot.waitUntil(there, timeout=LONG)
    qtbot.waitUntil(lambda: bench.session.unsaved == 0, timeout=LONG)


def facts(session):
    return [
        (state.name, state.status, state.note, None if state.outline is None else state.outline.revision)
        for state in session.study.state.pictures.values()
    ]


def test_ten_pictures_are_worked_on_and_come_back_as_they_were(qtbot, open_window):
    viewer, bench = open_window()
    names = [state.name for state in bench.session.queue]
    assert len(names) == 10
    assert bench.session.editor.mask.any()

    for place, act in enumerate((approve_as_it_is, approve_after_a_click, approve_painted, undo_and_approve)):
        ready(qtbot, bench, names[place])
        act(qtbot, bench)
    ready(qtbot, bench, names[4])
    bench.session.flag("hair over the border")
    ready(qtbot, bench, names[5])
    bench.verdict.no_lesion.click()
    for place in range(6, 9):
        ready(qtbot, bench, names[place])
        bench.verdict.approve.click()
    ready(qtbot, bench, names[9])
    bench.session.editor.labels.paint((20, 30), 1)
    viewer.scene.camera.zoom = 2.25
    mask, clicks = bench.session.editor.mask, bench.session.editor.clicks
    qtbot.waitUntil(lambda: bench.session.unsaved == 0)
    before = facts(bench.session)
    viewer.close()
    assert bench.session is None

    viewer, bench = open_window()
    assert bench.session.state.name == names[9]
    assert np.array_equal(bench.session.editor.mask, mask)
    assert bench.session.editor.clicks == clicks
    assert viewer.scene.camera.zoom == pytest.approx(2.25)
    assert facts(bench.session) == before
    statuses = [status for _, status, _, _ in before]
    approved = Status.APPROVED
    assert statuses[:4] == [approved] * 4
    assert statuses[4:] == [Status.FLAGGED, Status.NO_LESION, approved, approved, approved, Status.CORRECTED]


def approve_as_it_is(qtbot, bench):
    bench.verdict.approve.click()


def approve_after_a_click(qtbot, bench):
    editor = bench.session.editor
    editor.add_click(5, 5)
    qtbot.waitUntil(lambda: not editor.is_busy, timeout=LONG)
    assert editor.mask[5, 5] == 1
    bench.verdict.approve.click()


def approve_painted(qtbot, bench):
    bench.session.editor.labels.paint((40, 60), 1)
    bench.verdict.approve.click()


def undo_and_approve(qtbot, bench):
    editor = bench.session.editor
    mask = editor.mask
    editor.labels.paint((40, 60), 1)
    editor.add_click(10, 10)
    qtbot.waitUntil(lambda: not editor.is_busy, timeout=LONG)
    editor.undo()
    editor.undo()
    assert np.array_equal(editor.mask, mask)
    bench.verdict.approve.click()
