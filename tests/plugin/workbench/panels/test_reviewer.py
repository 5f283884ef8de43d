"""A reviewer at work in the workbench, and the annotator who gets images back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QInputDialog

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.plugin.workbench.panels.review_bar import ReviewBar
from napari_lesionseg.plugin.workbench.panels.reviewer import ReviewerPanel
from napari_lesionseg.plugin.workbench.session import StudySession
from napari_lesionseg.study.review import mark_gold, summarize_reviews
from napari_lesionseg.study.state import Status
from napari_lesionseg.study.study import Study

OUTLINE = np.zeros((40, 60), np.uint8)
OUTLINE[10:30, 20:45] = 1


@pytest.fixture
def study(make_study: Any, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Three images, two of which the annotator am has approved."""
    monkeypatch.setattr("os.fsync", lambda file: None)
    made: Study = make_study(3)
    for image_id in list(made.state.images)[:2]:
        made.approve(image_id, OUTLINE)
    return made


@pytest.fixture
def session(qtbot: QtBot, study: Study) -> Iterator[StudySession]:
    viewer = ViewerModel()  # a session does not keep its viewer alive
    chief = Study.open(study.folder, "chief", reviewer=True)
    made = StudySession(viewer, chief, PostprocessConfig(min_area=0))
    made.begin()
    wait_for(qtbot, made, "P1")
    yield made
    made.close(discard=True)
    viewer.layers.clear()


@pytest.fixture
def panel(qtbot: QtBot, session: StudySession) -> Iterator[ReviewerPanel]:
    made = ReviewerPanel(ViewerModel())
    qtbot.addWidget(made)
    made.set_session(session)
    yield made
    made.set_session(None)


def wait_for(qtbot: QtBot, session: StudySession, name: str) -> None:
    qtbot.waitUntil(lambda: session.state is not None and session.state.name == name, timeout=15000)


def counts(session: StudySession) -> tuple[int, int, int, int]:
    assert session.save_queue.flush() == ""
    (found,) = (one for one in summarize_reviews(session.study) if one.annotator == "am")
    return found.waiting, found.accepted, found.edited, found.returned


def test_a_reviewer_accepts_and_edits_one_image_after_the_other(
    qtbot: QtBot, session: StudySession, panel: ReviewerPanel
) -> None:
    assert panel.message.text() == "2 to review, 0 returned. This outline is by am."
    assert session.review is not None
    session.review.approve()
    wait_for(qtbot, session, "P2")  # not P3, which nobody has decided about
    assert session.editor is not None
    session.editor.document.apply_mask(
        np.roll(OUTLINE, 3, axis=0), session.editor.document.snapshot, manual=True
    )
    session.review.save()
    assert counts(session) == (1, 1, 0, 0)  # what is drawn changes nothing yet
    state = session.state
    assert state is not None
    assert state.status is Status.APPROVED
    session.review.approve()
    assert counts(session) == (0, 1, 1, 0)
    qtbot.waitUntil(lambda: panel.message.text().startswith("0 to review"), timeout=15000)
    qtbot.waitUntil(lambda: panel.table.rowCount() == 1, timeout=15000)
    qtbot.waitUntil(lambda: panel.table.item(0, 3).text() == "1", timeout=15000)
    assert [panel.table.item(0, column).text() for column in range(5)] == ["am", "0", "1", "1", "0"]


def test_taking_an_edit_back_lets_the_annotator_s_outline_count_again(
    qtbot: QtBot, session: StudySession, study: Study
) -> None:
    image_id = next(iter(study.state.images))
    session.study.approve(image_id, np.roll(OUTLINE, 3, axis=0))
    session.study.reopen(image_id)
    state = session.study.state.images[image_id]
    assert state.status is Status.APPROVED
    assert np.array_equal(session.study.read_mask(image_id, "approved"), OUTLINE)
    assert np.array_equal(session.study.read_mask(image_id), OUTLINE)
    assert counts(session) == (2, 0, 0, 0)


def test_what_is_returned_is_the_first_that_the_annotator_sees(
    qtbot: QtBot,
    session: StudySession,
    panel: ReviewerPanel,
    study: Study,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session.open_image(list(study.state.images)[1])
    wait_for(qtbot, session, "P2")
    monkeypatch.setattr(QInputDialog, "getText", lambda *args, **named: (" too wide ", True))
    panel.give_back.click()
    wait_for(qtbot, session, "P1")
    assert counts(session) == (1, 0, 0, 1)
    qtbot.waitUntil(lambda: panel.message.text().startswith("1 to review, 1 returned"), timeout=15000)
    viewer = ViewerModel()
    annotator = StudySession(viewer, Study.open(study.folder, "am"), PostprocessConfig(min_area=0))
    bar = ReviewBar(ViewerModel())
    qtbot.addWidget(bar)
    bar.set_session(annotator)
    annotator.begin()
    wait_for(qtbot, annotator, "P2")
    assert bar.decision.text().startswith("returned by chief")
    assert bar.decision.text().endswith(": too wide")
    bar.set_session(None)
    annotator.close(discard=True)
    viewer.layers.clear()


def test_only_own_approvals_become_gold_standards(
    qtbot: QtBot, session: StudySession, panel: ReviewerPanel, study: Study
) -> None:
    assert not panel.gold.isEnabled()
    image_id = session.image_id
    assert session.review is not None
    session.review.approve()
    wait_for(qtbot, session, "P2")
    qtbot.waitUntil(lambda: session.save_queue.unsaved == 0, timeout=15000)
    session.open_image(image_id or "")
    wait_for(qtbot, session, "P1")
    assert panel.gold.isEnabled()
    panel.gold.click()
    qtbot.waitUntil(lambda: session.state is not None and session.state.gold is not None, timeout=15000)
    qtbot.waitUntil(panel.gold.isChecked, timeout=15000)  # shown a moment later
    panel.gold.click()
    qtbot.waitUntil(lambda: session.state is not None and session.state.gold is None, timeout=15000)


def test_scores_against_the_gold_standard_are_shown(
    qtbot: QtBot, session: StudySession, panel: ReviewerPanel, study: Study
) -> None:
    mark_gold(study, next(iter(study.state.images)))  # of am, for others
    with Study.open(study.folder, "bo") as bo:
        bo.approve(next(iter(study.state.images)), OUTLINE)
    session.study.refresh()
    session.changed.emit()
    qtbot.waitUntil(lambda: panel.table.rowCount() == 2, timeout=15000)
    assert panel.table.item(1, 5).text() == "1.00 (1)"
    assert len(panel.plot.listDataItems()) == 1


def test_images_are_mixed_in(
    qtbot: QtBot,
    session: StudySession,
    panel: ReviewerPanel,
    study: Study,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    third = list(study.state.images)[2]
    session.study.approve(third, OUTLINE)
    monkeypatch.setattr(QInputDialog, "getInt", lambda *args: (1, True))
    panel.mix_in.click()
    qtbot.waitUntil(lambda: session.study.state.images[third].gold is not None, timeout=15000)


def test_an_annotator_is_offered_to_review(
    qtbot: QtBot, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer = ViewerModel()
    annotator = StudySession(viewer, Study.open(study.folder, "am"), PostprocessConfig())
    made = ReviewerPanel(ViewerModel())
    qtbot.addWidget(made)
    made.set_session(annotator)
    assert made.give_back.isHidden()
    assert made.table.isHidden()
    monkeypatch.setattr(QInputDialog, "getText", lambda *args, **named: ("chief", True))
    asked: list[tuple[Path, str]] = []
    made.requested.connect(lambda folder, name: asked.append((folder, name)))
    made.begin.click()
    assert asked == [(study.folder, "chief")]
    made.set_session(None)
    annotator.close(discard=True)
    viewer.layers.clear()
