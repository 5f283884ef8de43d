from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt

from napari_lesionseg.config import Skeleton
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import save_checkpoint
from napari_lesionseg.models.store import FOLDER_VARIABLE
from napari_lesionseg.plugin.landmarks.controls import list_landmark_models
from napari_lesionseg.plugin.segment.task import ModelChoice
from napari_lesionseg.plugin.settings import Preferences
from napari_lesionseg.plugin.widgets import model_picker
from napari_lesionseg.plugin.widgets.model_picker import (
    DEVICES,
    SHIPPED,
    AvailableModels,
    ModelPicker,
    available_models,
)
from napari_lesionseg.training.landmarks import make_landmark_network

DEFAULTS = Preferences()


def entry(name: str, *, shipped: bool = False, problem: str = "") -> SimpleNamespace:
    return SimpleNamespace(name=name, shipped=shipped, problem=problem)


@pytest.fixture
def pick(qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make a picker with preferences, once the search has found what it was given."""

    def make(preferences: Any = DEFAULTS, models: Any = (), devices: Any = ("auto", "cpu")) -> Any:
        found = AvailableModels(tuple(models), dict.fromkeys(devices, "CPU, 2 threads"))
        monkeypatch.setattr(model_picker, "read_preferences", lambda: preferences)
        monkeypatch.setattr(model_picker, "available_models", lambda: found)
        picker = ModelPicker()
        qtbot.waitUntil(lambda: "threads" in picker.device.itemText(0), timeout=20_000)
        return picker

    return make


def texts(box: Any) -> list[str]:
    return [box.itemText(index) for index in range(box.count())]


def enabled(box: Any, index: int) -> bool:
    return bool(box.model().index(index, 0).flags() & Qt.ItemFlag.ItemIsEnabled)


def test_the_shipped_model_is_the_default(pick: Any) -> None:
    picker = pick(models=[entry("lesionseg-1.0", shipped=True), entry("clinic")])
    assert texts(picker.model) == ["lesionseg-1.0 (shipped)", "clinic"]
    assert picker.choice == ModelChoice(None, "auto", 0)
    picker.model.setCurrentIndex(1)
    assert picker.choice.name == "clinic"


def test_without_models_the_shipped_one_can_still_be_asked_for(pick: Any) -> None:
    picker = pick()
    assert texts(picker.model) == [SHIPPED]
    assert picker.choice.name is None


def test_damaged_models_are_shown_but_cannot_be_chosen(pick: Any) -> None:
    picker = pick(models=[entry("a", shipped=True), entry("b", problem="b.safetensors is damaged.")])
    assert not enabled(picker.model, 1)
    assert picker.model.itemData(1, Qt.ItemDataRole.ToolTipRole) == "b.safetensors is damaged."
    assert enabled(picker.model, 0)


def test_devices_are_told_in_words(pick: Any) -> None:
    picker = pick()
    assert texts(picker.device)[:2] == ["Automatic: CPU, 2 threads", "Processor: CPU, 2 threads"]
    assert [enabled(picker.device, index) for index in range(len(DEVICES))] == [True, True, False, False]
    assert "none on this computer" in picker.device.itemData(2, Qt.ItemDataRole.ToolTipRole)


def test_preferences_are_chosen(pick: Any) -> None:
    picker = pick(Preferences("clinic", "cpu", 384), models=[entry("a", shipped=True), entry("clinic")])
    assert picker.choice == ModelChoice("clinic", "cpu", 384)


def test_a_model_file_of_the_preferences_is_offered(pick: Any) -> None:
    picker = pick(Preferences("/models/clinic.safetensors"), models=[entry("a", shipped=True)])
    assert picker.model.currentText() == "clinic"
    assert picker.choice.name == "/models/clinic.safetensors"


def test_a_device_that_is_not_there_is_not_chosen(pick: Any) -> None:
    assert pick(Preferences(device="cuda")).choice.device == "auto"


def test_only_the_model_of_the_choice_is_given_back(pick: Any) -> None:
    picker = pick(models=[entry("a", shipped=True), entry("b")])
    model = SimpleNamespace(card=SimpleNamespace(threshold=0.4))
    assert picker.loaded is None
    assert picker.threshold is None
    picker.remember(picker.choice, model)
    assert picker.loaded is model
    assert picker.threshold == 0.4
    picker.model.setCurrentIndex(1)
    assert picker.loaded is None


def test_models_of_landmarks_are_not_offered_for_outlines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    eyes = Skeleton.from_names(["left_eye", "right_eye"])
    card = ModelCard(arch="unet", arch_settings={"width": 2, "depth": 1}, landmarks=eyes)
    save_checkpoint(tmp_path / "eyes.safetensors", make_landmark_network(card), card)
    (tmp_path / "damaged.safetensors").write_bytes(b"")
    names = [model.name for model in available_models().models]
    assert "eyes" not in names
    assert "damaged" in names
    assert list_landmark_models() == ["eyes"]
