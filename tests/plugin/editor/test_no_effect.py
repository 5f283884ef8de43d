"""What has no effect says why."""

from __future__ import annotations

import pytest
from tests.plugin.editor.fakes import EDITS, RecordedEditor, SlowJobs, apply_tool

from napari_lesionseg.plugin.editor.tools import TOOLS, MaskEdit
from napari_lesionseg.types import Box, Click, Prompts


def notes_of(editor: RecordedEditor) -> list[str]:
    notes: list[str] = []
    editor.noted.connect(notes.append)
    return notes


@pytest.mark.parametrize("name", ["fill_holes", "largest_part", "split", "merge", "back_to_prediction"])
def test_a_tool_that_changes_nothing_says_so(predicted: RecordedEditor, name: str) -> None:
    assert name in EDITS
    notes, before = notes_of(predicted), predicted.snapshot
    apply_tool(predicted, name)
    assert len(notes) == 1
    assert notes[0].endswith(".")
    assert predicted.snapshot is before
    assert not predicted.kinds


def test_a_part_is_removed_only_where_there_is_one(predicted: RecordedEditor) -> None:
    notes = notes_of(predicted)
    apply_tool(predicted, "remove_part", 2, 2)
    assert notes == ["There is no part here. Point at one, and try again."]


def test_undo_redo_and_clicks_say_why_nothing_happens(predicted: RecordedEditor, jobs: SlowJobs) -> None:
    notes = notes_of(predicted)
    predicted.undo()
    predicted.redo()
    predicted.remove_last_stroke()
    predicted.add_stroke(Click(500, 3))
    predicted.add_area(Prompts(box=Box(3, 3, 5, 9)))
    apply_tool(predicted, "next_class")
    assert len(notes) == 6
    assert not jobs.waiting


def test_every_tool_that_edits_says_what_is_missing() -> None:
    edits = [tool.function for tool in TOOLS if isinstance(tool.function, MaskEdit)]
    assert all(edit.no_effect.endswith(".") for edit in edits)
