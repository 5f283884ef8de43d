"""The annotator's name is asked for once, remembered, and can be changed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QInputDialog

from napari_lesionseg.plugin.settings import read_preferences
from napari_lesionseg.plugin.workbench import annotator
from napari_lesionseg.plugin.workbench.annotator import AnnotatorField, default_annotator


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str | None]]:
    """What the annotator enters when asked for a name, in turn; None cancels."""
    given: list[str | None] = []

    def ask(parent: Any, title: str, question: str, text: str = "") -> tuple[str, bool]:
        answer = given.pop(0)
        return (text, False) if answer is None else (answer, True)

    monkeypatch.setattr(QInputDialog, "getText", ask)
    yield given
    assert not given


@pytest.fixture
def field(qtbot: QtBot, plugins: Any) -> AnnotatorField:
    made = AnnotatorField()
    qtbot.addWidget(made)
    return made


def test_the_name_is_asked_for_once(qtbot: QtBot, field: AnnotatorField, answers: list[str | None]) -> None:
    assert field.text() == ""
    answers.append("am")
    assert [field.name(), field.name()] == ["am", "am"]
    another = AnnotatorField()
    qtbot.addWidget(another)
    assert another.name() == "am"


def test_no_name_is_taken_after_cancel(field: AnnotatorField, answers: list[str | None]) -> None:
    answers.append(None)
    assert field.name() == ""
    assert read_preferences().annotator == ""


def test_a_name_that_a_study_does_not_take_is_asked_for_again(
    field: AnnotatorField, answers: list[str | None]
) -> None:
    answers += ["Anna Møller", "", "anna"]
    assert field.name() == "anna"


def test_a_name_that_is_typed_is_remembered(qtbot: QtBot, field: AnnotatorField) -> None:
    qtbot.keyClicks(field, "bk")
    qtbot.keyClick(field, "\r")
    assert read_preferences().annotator == "bk"


def test_a_name_cannot_be_typed_over_while_a_study_is_open(qtbot: QtBot, field: AnnotatorField) -> None:
    field.setText("am")
    field.show_open(True)
    qtbot.keyClicks(field, "x")
    assert field.text() == "am"


def test_the_default_annotator_is_a_valid_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotator.getpass, "getuser", lambda: "anna.møller@hospital")
    assert default_annotator() == "annamllerhospital"
    monkeypatch.setattr(annotator.getpass, "getuser", lambda: "x" * 99)
    assert re.fullmatch("x{1,40}", default_annotator())


def test_there_is_a_default_annotator_without_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise OSError("no account")

    monkeypatch.setattr(annotator.getpass, "getuser", nobody)
    assert default_annotator() == "annotator"
