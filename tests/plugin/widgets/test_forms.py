from __future__ import annotations

from typing import Literal

import pytest
from pydantic import Field
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QLocale, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import (
    QApplication,
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QGridLayout,
    QLabel,
    QWidget,
)

from napari_lesionseg.config import PostprocessConfig, Settings
from napari_lesionseg.plugin.widgets.forms import (
    DecimalBox,
    NameLabel,
    SettingsForm,
    settings_form,
    whole_number_box,
)


class Example(Settings):
    count: int = Field(3, ge=1, le=9, title="Count", description="How many.")
    margin: int = Field(2, ge=0, title="Margin", json_schema_extra={"form": {"unit": "px"}})
    closed: bool = Field(True, title="Closed", description="Close it.")
    kind: Literal["a", "b"] = Field(
        "a", title="Kind", json_schema_extra={"form": {"choices": [("First", "a"), ("Second", "b")]}}
    )
    seconds: float | None = Field(
        None,
        gt=0,
        title="Time",
        json_schema_extra={"form": {"widget_type": "SpinBox", "min": 10, "max": 99, "value": 60}},
    )


@pytest.fixture
def form(qtbot: QtBot) -> SettingsForm[Example]:
    return settings_form(Example)


def test_widgets_take_title_description_and_bounds(form: SettingsForm[Example]) -> None:
    count = form.native("count")
    assert (count.minimum(), count.maximum(), count.value()) == (1, 9, 3)
    assert count.toolTip() == "How many."
    assert form.widgets["count"].label == "Count"
    assert form.widgets["margin"].label == "Margin (px)"
    closed = form.native("closed")
    assert isinstance(closed, QCheckBox)
    assert closed.text() == "Closed"


def test_a_field_can_narrow_what_the_form_offers(form: SettingsForm[Example]) -> None:
    seconds, kind = form.native("seconds"), form.native("kind")
    assert (seconds.minimum(), seconds.maximum(), seconds.value()) == (10, 99, 60)
    assert isinstance(kind, QComboBox)
    assert [kind.itemText(index) for index in range(kind.count())] == ["First", "Second"]


def test_settings_come_back_as_they_were_shown(form: SettingsForm[Example]) -> None:
    settings = Example(count=7, margin=0, closed=False, kind="b", seconds=20)
    form.show(settings)
    assert form.settings() == settings


def test_only_the_user_s_changes_are_announced(form: SettingsForm[Example], qtbot: QtBot) -> None:
    changes = []
    form.changed.connect(lambda: changes.append(form.settings()))
    form.show(Example(count=5, closed=False, seconds=30))
    assert not changes
    form.native("closed").click()
    form.native("kind").setCurrentIndex(1)
    assert [settings.closed for settings in changes] == [True, True]
    assert [settings.kind for settings in changes] == ["a", "b"]


def test_a_form_can_show_some_fields_only(qtbot: QtBot) -> None:
    form = settings_form(Example, "closed")
    assert form.settings(count=4) == Example(count=4)


def test_every_field_but_a_check_box_has_a_caption(form: SettingsForm[Example], qtbot: QtBot) -> None:
    window = QWidget()
    qtbot.addWidget(window)
    assert form.add_to(QGridLayout(window), 0) == len(Example.model_fields)
    captions = [label.text() for label in window.findChildren(QLabel)]
    assert [text for text in captions if text] == ["Count", "Margin (px)", "Kind", "Time"]


@pytest.mark.parametrize("language", ["C", "German", "Danish"])
@pytest.mark.parametrize("text", ["1.5", "1,5"])
def test_point_and_comma_mean_the_same_in_every_language(qtbot: QtBot, language: str, text: str) -> None:
    before = QLocale()
    QLocale.setDefault(QLocale(getattr(QLocale.Language, language)))
    try:
        box = DecimalBox()
        qtbot.addWidget(box)
        box.setSuffix(" mm")
        box.show()
        box.selectAll()
        QTest.keyClicks(box, text)
        QTest.keyClick(box, Qt.Key.Key_Return)
        assert box.value() == 1.5
        assert box.text() == "1.50 mm"
    finally:
        QLocale.setDefault(before)


@pytest.mark.parametrize("language", ["C", "German"])
@pytest.mark.parametrize("text", ["0.3", "0,3"])
def test_point_and_comma_mean_the_same_in_every_form(qtbot: QtBot, language: str, text: str) -> None:
    before = QLocale()
    QLocale.setDefault(QLocale(getattr(QLocale.Language, language)))
    try:
        form, window = settings_form(PostprocessConfig, "threshold"), QWidget()
        qtbot.addWidget(window)
        form.add_to(QGridLayout(window), 0)
        (box,) = window.findChildren(QDoubleSpinBox)
        window.show()
        box.selectAll()
        QTest.keyClicks(box, text)
        QTest.keyClick(box, Qt.Key.Key_Return)
        assert box.value() == 0.3
        QApplication.clipboard().setText(text.replace("3", "4"))
        box.selectAll()
        QTest.keyClick(box, Qt.Key.Key_V, Qt.KeyboardModifier.ControlModifier)
        QTest.keyClick(box, Qt.Key.Key_Return)
        assert box.value() == 0.4
    finally:
        QLocale.setDefault(before)


def test_thousands_have_no_separators(qtbot: QtBot) -> None:
    before = QLocale()
    QLocale.setDefault(QLocale(QLocale.Language.German))
    try:
        box = whole_number_box()
        qtbot.addWidget(box)
        box.setMaximum(5000)
        box.setValue(3000)
        assert box.text() == "3000"
        box.selectAll()
        QTest.keyClicks(box, "1.234")
        QTest.keyClick(box, Qt.Key.Key_Return)
        assert box.value() == 1234  # the point is not typed
    finally:
        QLocale.setDefault(before)


def test_a_long_name_is_cut_in_the_middle_and_told_by_the_tooltip(qtbot: QtBot) -> None:
    label = NameLabel()
    qtbot.addWidget(label)
    label.resize(80, 20)
    drawn = []
    for name in (
        "ISIC_0000001_downsampled_left",
        "ISIC_0000001_downsampled_right",
        "IMD2_0000001_downsampled_left",
    ):
        label.setText(name)
        assert label.text() == label.toolTip() == name
        assert label.minimumSizeHint().width() < label.fontMetrics().horizontalAdvance(name)
        drawn.append(label.grab().toImage())
    assert drawn[0] != drawn[1]  # the end is seen
    assert drawn[0] != drawn[2]  # and so is the beginning
