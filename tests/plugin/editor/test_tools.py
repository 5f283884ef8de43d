from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage
from tests.architecture_page import run_example
from tests.plugin.editor.fakes import (
    EDITS,
    PLAIN,
    RecordedEditor,
    SlowJobs,
    apply_tool,
    base_mask,
    base_probability,
    make_editor,
    paint,
)

from napari_lesionseg.plugin.editor import editor as editor_module
from napari_lesionseg.plugin.editor.tools import MaskEdit, Tool
from napari_lesionseg.plugin.shortcuts import KEYS
from napari_lesionseg.types import Click


@pytest.mark.parametrize("tool", EDITS)
def test_every_tool_can_be_undone(predicted: RecordedEditor, jobs: SlowJobs, tool: str) -> None:
    predicted.set_config(PLAIN.model_copy(update={"threshold": 0.95}))
    predicted.set_config(PLAIN)
    paint(predicted, range(15, 18), range(30, 33), value=0)
    paint(predicted, range(36, 38), range(2, 5))
    paint(predicted, range(18, 22), range(45, 52))
    before = predicted.snapshot.mask
    apply_tool(predicted, tool, 37, 3)
    jobs.finish()
    if tool not in ("split", "snap"):
        assert not np.array_equal(predicted.snapshot.mask, before)
    if not np.array_equal(predicted.snapshot.mask, before):
        assert predicted.kinds[-1] == "tool"
        predicted.undo()
    np.testing.assert_array_equal(predicted.snapshot.mask, before)


def test_a_tool_that_changes_nothing_is_no_step(predicted: RecordedEditor) -> None:
    apply_tool(predicted, "largest_part")
    apply_tool(predicted, "remove_part", 0, 0)
    apply_tool(predicted, "remove_part")
    assert predicted.kinds == []


def test_removed_parts_stay_away_when_the_threshold_moves(predicted: RecordedEditor, jobs: SlowJobs) -> None:
    predicted.add_stroke(Click(3, 55))
    jobs.finish()
    apply_tool(predicted, "largest_part")
    predicted.set_config(PLAIN.model_copy(update={"threshold": 0.6}))
    assert not predicted.snapshot.mask[:8, 50:].any()


def test_back_to_prediction_discards_clicks_and_strokes(predicted: RecordedEditor, jobs: SlowJobs) -> None:
    paint(predicted, range(35, 39), range(2, 8))
    predicted.add_stroke(Click(3, 50))
    jobs.finish()
    apply_tool(predicted, "back_to_prediction")
    np.testing.assert_array_equal(predicted.snapshot.mask, base_mask())
    assert predicted.snapshot.strokes == ()
    predicted.undo()
    assert predicted.snapshot.strokes == (Click(3, 50),)
    assert predicted.snapshot.mask[35, 2]


def test_a_cleared_mask_stays_empty_until_a_click(predicted: RecordedEditor, jobs: SlowJobs) -> None:
    apply_tool(predicted, "clear")
    predicted.set_config(PLAIN.model_copy(update={"threshold": 0.3}))
    assert not predicted.snapshot.mask.any()
    predicted.add_stroke(Click(20, 30))
    jobs.finish()
    assert predicted.snapshot.mask[20, 30]
    predicted.undo()
    apply_tool(predicted, "back_to_prediction")
    np.testing.assert_array_equal(predicted.snapshot.mask, base_mask(0.3))


@pytest.mark.parametrize("name", ["smooth", "snap"])
def test_large_masks_are_reshaped_in_another_thread(
    monkeypatch: pytest.MonkeyPatch, predicted: RecordedEditor, jobs: SlowJobs, name: str
) -> None:
    monkeypatch.setattr(editor_module, "THREAD_PIXELS", 0)
    before = predicted.snapshot.mask
    apply_tool(predicted, name)
    assert np.array_equal(predicted.snapshot.mask, before)
    assert predicted.requests.queue.is_busy
    predicted.labels.paint((2, 2), 1)
    painted = predicted.snapshot.mask
    jobs.finish()
    after = predicted.snapshot.mask
    assert after[2, 2] == 1
    assert not np.array_equal(after, painted)
    predicted.undo()
    assert np.array_equal(predicted.snapshot.mask, painted)


def test_a_running_tool_can_be_cancelled(
    monkeypatch: pytest.MonkeyPatch, predicted: RecordedEditor, jobs: SlowJobs
) -> None:
    monkeypatch.setattr(editor_module, "THREAD_PIXELS", 0)
    before = predicted.snapshot.mask
    apply_tool(predicted, "smooth")
    predicted.undo()
    jobs.finish()
    assert np.array_equal(predicted.snapshot.mask, before)
    assert not predicted.requests.queue.is_busy


def test_reshaping_in_another_thread_needs_no_model(monkeypatch: pytest.MonkeyPatch, jobs: SlowJobs) -> None:
    monkeypatch.setattr(editor_module, "THREAD_PIXELS", 0)
    editor = make_editor(model=None)
    with editor.labels.block_history():
        editor.labels.data_setitem(np.nonzero(base_probability() > 0.5), 1)
    apply_tool(editor, "smooth")
    jobs.finish()
    assert not editor.snapshot.mask[10, 20]
    assert editor.snapshot.mask[20, 30]


def test_the_tool_on_the_architecture_page_works(predicted: RecordedEditor, tmp_path: Path) -> None:
    grow = SimpleNamespace(grow=lambda mask, label: ndimage.binary_dilation(mask).astype(np.uint8))
    page = run_example(
        'Tool("grow"', tmp_path, start="tools = ", Tool=Tool, MaskEdit=MaskEdit, morphology=grow
    )
    (tool,) = page["tools"]
    assert tool.key not in KEYS.values()
    before = int(predicted.snapshot.mask.sum())
    predicted.apply(tool.function)
    assert int(predicted.snapshot.mask.sum()) > before
    assert predicted.kinds == ["tool"]
