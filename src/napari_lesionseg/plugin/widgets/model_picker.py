"""Which model is to run on which device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, QSignalBlocker, Qt
from qtpy.QtGui import QStandardItemModel
from qtpy.QtWidgets import QComboBox, QGridLayout, QLabel

from napari_lesionseg.plugin.segment.task import ModelChoice
from napari_lesionseg.plugin.settings import read_preferences
from napari_lesionseg.plugin.shortcuts import bind_key, set_tip
from napari_lesionseg.plugin.tasks import run_task
from napari_lesionseg.plugin.widgets.forms import keep_narrow

if TYPE_CHECKING:
    from napari_lesionseg.inference.predictor import Model
    from napari_lesionseg.models.store import ModelEntry

SHIPPED = "LesionSeg"

DEVICES = {"auto": "Automatic", "cpu": "Processor", "cuda": "NVIDIA GPU", "mps": "Apple GPU"}
"""Names of the devices, as settings know them and as users read them."""


@dataclass(frozen=True, slots=True)
class AvailableModels:
    """Models, the default first, and a description of each device that works, by its name."""

    models: tuple[ModelEntry, ...]
    devices: dict[str, str]


def available_models() -> AvailableModels:
    """Find models and devices; runs in another thread, since PyTorch takes seconds to start."""
    from napari_lesionseg.inference.device import available_devices, choose_device, describe_device
    from napari_lesionseg.models.store import ModelStore

    devices = {name: describe_device(choose_device(name)) for name in available_devices()}
    drawing = (model for model in ModelStore().list() if model.card is None or model.card.landmarks is None)
    return AvailableModels(tuple(drawing), devices)


class ModelPicker(QObject):
    """Lists for the model and the device; remembers the model that was loaded last.

    Models and devices are found in another thread, since PyTorch takes seconds to start.
    """

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._preferences = read_preferences()
        self._loaded: tuple[ModelChoice, Model] | None = None
        self.model = QComboBox()
        self.device = QComboBox()
        keep_narrow(self.model)
        keep_narrow(self.device)
        self._fill(AvailableModels((), {}))
        set_tip(self.model, "The model that draws the outlines", "model")
        set_tip(self.device, "Where the model runs; a GPU is faster, but not needed", "device")
        bind_key(self.model, "model")
        bind_key(self.device, "device")
        self._job = run_task(
            "looking for models and devices", available_models, done=self._fill, failed=_ignore
        )

    @property
    def choice(self) -> ModelChoice:
        """What is chosen."""
        return ModelChoice(
            self.model.currentData(), self.device.currentData(), self._preferences.working_size
        )

    @property
    def loaded(self) -> Model | None:
        """The model of the choice, if it is loaded."""
        return self._loaded[1] if self._loaded is not None and self._loaded[0] == self.choice else None

    @property
    def threshold(self) -> float | None:
        """The model's own threshold, if it is loaded."""
        return self.loaded.card.threshold if self.loaded is not None else None

    def remember(self, choice: ModelChoice, model: Model) -> None:
        """Keep a loaded model, in place of the previous one."""
        self._loaded = (choice, model)

    def offer(self, name: str) -> None:
        """Add a new model of the model store to the list."""
        if self._place_of(name) < 0:
            self.model.addItem(name, name)
            self.model.setItemData(self.model.count() - 1, name, Qt.ItemDataRole.ToolTipRole)

    def choose(self, name: str) -> None:
        """Choose a model of the store, as if the user had."""
        self.offer(name)
        self.model.setCurrentIndex(self._place_of(name))

    def _place_of(self, name: str) -> int:
        """Return the index of a model in the list, or -1; the shipped one has a name, but no value."""
        place = int(self.model.findData(name))
        return place if place >= 0 else int(self.model.findText(f"{name} (shipped)"))

    def add_to(self, grid: QGridLayout, row: int) -> int:
        """Add the choices to the rows of a form; return the first free row."""
        for name, box in (("Model", self.model), ("Device", self.device)):
            grid.addWidget(QLabel(name), row, 0)
            grid.addWidget(box, row, 1)
            row += 1
        return row

    def close(self) -> None:
        """Cancel the search for models and devices."""
        self._job.close()

    def _fill(self, found: AvailableModels) -> None:
        """List what was found, and keep the choice."""
        wanted = self.model.currentData() if self.model.count() else self._preferences.model or None
        _list_choices(self.model, _model_entries(found, self._preferences.model), wanted)
        wanted = self.device.currentData() if self.device.count() else self._preferences.device
        _list_choices(self.device, _device_entries(found), wanted)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A line of a list: its value, its text, and why it cannot be chosen."""

    value: str | None
    text: str
    problem: str = ""


def _model_entries(found: AvailableModels, preferred: str) -> list[_Entry]:
    """List the shipped model, whose value is None, the user's own ones, and the one of the preferences."""
    entries = [_Entry(model.name, model.name, model.problem) for model in found.models]
    if found.models and found.models[0].shipped:
        entries[0] = _Entry(None, f"{entries[0].text} (shipped)", entries[0].problem)
    else:
        entries.insert(0, _Entry(None, SHIPPED))
    if preferred and all(preferred != entry.value for entry in entries):
        entries.append(_Entry(preferred, Path(preferred).stem))
    return entries


def _device_entries(found: AvailableModels) -> list[_Entry]:
    """List all devices; they can all be chosen until the search is done."""
    if not found.devices:
        return [_Entry(name, text) for name, text in DEVICES.items()]
    return [
        _Entry(name, f"{text}: {found.devices[name]}")
        if name in found.devices
        else _Entry(name, text, "PyTorch finds none on this computer.")
        for name, text in DEVICES.items()
    ]


def _list_choices(box: QComboBox, entries: list[_Entry], wanted: str | None) -> None:
    """Fill a list, and choose the wanted entry, or the first one if it is not available."""
    with QSignalBlocker(box):
        box.clear()
        for index, entry in enumerate(entries):
            box.addItem(entry.text, entry.value)
            box.setItemData(index, entry.problem or entry.text, Qt.ItemDataRole.ToolTipRole)
            if entry.problem:
                _disable(box, index)
            if entry.value == wanted and not entry.problem:
                box.setCurrentIndex(index)


def _disable(box: QComboBox, index: int) -> None:
    """Show an entry that cannot be chosen."""
    entries = box.model()
    item = entries.item(index) if isinstance(entries, QStandardItemModel) else None
    if item is not None:
        item.setEnabled(False)


def _ignore(error: Exception) -> None:
    """Do nothing: the default model can still be chosen, and using it shows the error."""
