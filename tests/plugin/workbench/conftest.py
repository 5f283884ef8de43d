"""What the tests of the workbench share."""

from __future__ import annotations

import pytest

from napari_lesionseg.plugin.workbench import verdict_guard
from napari_lesionseg.plugin.workbench.frames import FrameWatch


@pytest.fixture(autouse=True)
def quick_verdicts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let verdicts count at once; that they wait is tested in two modules, and with real events."""
    if request.path.stem not in ("test_verdict_guard", "test_frames"):
        monkeypatch.setattr(verdict_guard, "SEEN_SECONDS", 0)
        guard = verdict_guard.VerdictGuard
        monkeypatch.setattr(guard, "note_opening", guard.note_image)  # as if it were drawn at once
        monkeypatch.setattr(FrameWatch, "wait_for", lambda *arguments: None)
