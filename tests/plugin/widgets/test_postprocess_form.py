from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QGridLayout, QWidget

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.plugin.shortcuts import KEYS, key_of
from napari_lesionseg.plugin.widgets import postprocess_form
from napari_lesionseg.plugin.widgets.postprocess_form import PostprocessForm, ThresholdSlider


@pytest.fixture
def form(qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The controls in a shown form; they settle after 1 ms."""
    monkeypatch.setattr(postprocess_form, "SETTLE_MS", 1)
    window = QWidget()
    qtbot.addWidget(window)
    bundle = PostprocessForm(window)
    bundle.add_to(QGridLayout(window), 0)
    window.show()
    window.activateWindow()
    qtbot.waitUntil(window.isActiveWindow)
    yield bundle  # noqa: PT022 - the window lives as long as the fixture's frame


def test_settings_come_back_as_they_were_given(form: Any) -> None:
    for config in (
        PostprocessConfig(),
        PostprocessConfig(threshold=0.35, fill_holes=False, largest_only=False, min_area=1234),
    ):
        form.set_config(config, own=0.46)
        assert form.config == config


def test_showing_settings_emits_nothing(form: Any, qtbot: QtBot) -> None:
    with qtbot.assertNotEmitted(form.changed, wait=20), qtbot.assertNotEmitted(form.settled):
        form.set_config(PostprocessConfig(threshold=0.9, fill_holes=False, min_area=7), own=0.4)


def test_right_is_loose_and_left_is_tight(form: Any, qtbot: QtBot) -> None:
    form.set_config(PostprocessConfig(threshold=0.5), own=None)
    qtbot.keyClick(form.threshold.slider, Qt.Key_Right)
    assert form.config.threshold == pytest.approx(0.49)
    qtbot.keyClick(form.threshold.slider, Qt.Key_Left)
    qtbot.keyClick(form.threshold.slider, Qt.Key_Left)
    assert form.config.threshold == pytest.approx(0.51)


def test_a_drag_settles_when_it_is_let_go(form: Any, qtbot: QtBot) -> None:
    slider = form.threshold.slider
    slider.setSliderDown(True)
    with qtbot.assertNotEmitted(form.settled, wait=50):
        slider.setValue(30)
        slider.setValue(40)
    with qtbot.waitSignal(form.settled):
        slider.setSliderDown(False)
    assert form.config.threshold == pytest.approx(0.6)


def test_keys_settle_after_a_pause(form: Any, qtbot: QtBot) -> None:
    with qtbot.waitSignals([form.changed, form.settled]):
        qtbot.keyClick(form.threshold.slider, Qt.Key_Right)


@pytest.mark.parametrize("name", ["fill_holes", "largest_only"])
def test_a_box_settles_at_once(form: Any, name: Any) -> None:
    seen = []
    form.changed.connect(lambda: seen.append("changed"))
    form.settled.connect(lambda: seen.append("settled"))
    getattr(form, name).click()
    assert seen == ["changed", "settled"]
    assert not getattr(form.config, name)


def test_a_number_settles_after_a_pause(form: Any, qtbot: QtBot) -> None:
    with qtbot.waitSignals([form.changed, form.settled]):
        form.min_area.setValue(500)
    assert form.config.min_area == 500


def test_leaving_the_number_as_it_is_settles_nothing(form: Any, qtbot: QtBot) -> None:
    with qtbot.assertNotEmitted(form.settled, wait=20):
        form.min_area.editingFinished.emit()


def test_the_models_own_threshold_is_shown_until_another_is_chosen(form: Any, qtbot: QtBot) -> None:
    form.set_config(PostprocessConfig(), own=0.437)
    assert form.threshold.caption == "0.44 (default)"
    assert not form.threshold.reset.isEnabled()
    assert "already" in form.threshold.reset.toolTip()
    form.threshold.slider.setValue(30)
    assert form.threshold.caption == "0.70"
    with qtbot.waitSignal(form.settled):
        form.threshold.reset.click()
    assert form.config.threshold is None
    assert form.threshold.slider.value() == 56


def test_an_unknown_threshold_has_no_number(qtbot: QtBot) -> None:
    slider = ThresholdSlider()
    qtbot.addWidget(slider)
    assert slider.caption == "(default)"
    assert slider.threshold is None


def test_every_control_has_a_tooltip_with_its_key(form: Any) -> None:
    widgets = (form.threshold.slider, form.threshold.reset, form.fill_holes, form.largest_only, form.min_area)
    for widget in widgets:
        assert widget.toolTip().endswith(tuple(f"({key_of(action)})" for action in KEYS))


@pytest.mark.parametrize(("key", "name"), [(Qt.Key_O, "fill_holes"), (Qt.Key_G, "largest_only")])
def test_keys_tick_the_boxes(form: Any, qtbot: QtBot, key: Any, name: Any) -> None:
    box = getattr(form, name)
    with qtbot.waitSignal(box.toggled):
        qtbot.keyClick(form.min_area, key, Qt.AltModifier)


def test_keys_lead_to_the_slider(form: Any, qtbot: QtBot) -> None:
    form.min_area.setFocus()
    qtbot.keyClick(form.min_area, Qt.Key_R, Qt.AltModifier)
    qtbot.waitUntil(form.threshold.slider.hasFocus)
