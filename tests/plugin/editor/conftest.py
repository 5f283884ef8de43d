from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.plugin.editor.fakes import RecordedEditor, SlowJobs, make_editor

from napari_lesionseg.plugin.editor import requests


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> SlowJobs:
    """Jobs that run on demand of the test."""
    slow = SlowJobs()
    monkeypatch.setattr(requests, "run_task", slow)
    return slow


@pytest.fixture
def editor(jobs: SlowJobs) -> Iterator[RecordedEditor]:
    """An editor of an image without a prediction."""
    made = make_editor()
    yield made
    made.close()


@pytest.fixture
def predicted(editor: RecordedEditor, jobs: SlowJobs) -> RecordedEditor:
    """An editor with a prediction."""
    editor.predict()
    jobs.finish()
    editor.kinds.clear()
    return editor
