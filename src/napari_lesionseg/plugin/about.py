"""*Help > About LesionSeg*: version, the model's card, and the licenses of all parts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from qtpy.QtGui import QAction
from qtpy.QtWidgets import (
    QAbstractItemView,
    QDialog,
    QDialogButtonBox,
    QHeaderView,
    QLabel,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_lesionseg import __version__

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_lesionseg.models.card import ModelCard

DISTRIBUTION = "napari-lesionseg"
_SIZE = (640, 560)
_LONGEST_NAME = 60  # of a license, in letters


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """A package that is used."""

    name: str
    version: str
    license: str


def find_parts(name: str = DISTRIBUTION) -> tuple[Part, ...]:
    """List the installed packages that a package needs, directly or not, with their licenses."""
    found: dict[str, Part] = {}
    waiting = [name]
    while waiting:
        key = _normalize(waiting.pop())
        if key in found:
            continue
        try:
            package = metadata.distribution(key)
        except metadata.PackageNotFoundError:  # an extra that is not installed
            continue
        found[key] = Part(package.metadata["Name"], package.version, license_of(package.metadata))
        waiting += [re.split(r"[^\w.-]", needed, maxsplit=1)[0] for needed in package.requires or ()]
    return tuple(sorted(found.values(), key=lambda part: part.name.lower()))


def license_of(package: metadata.PackageMetadata) -> str:
    """Return the license that a package states: an SPDX expression, a short text, or its classifiers."""
    if "License-Expression" in package:
        return package["License-Expression"]
    text = package["License"].strip() if "License" in package else ""
    if text and len(text) < _LONGEST_NAME and "\n" not in text:  # others quote the whole license
        return text
    classifiers = [entry for entry in package.get_all("Classifier") or () if entry.startswith("License ::")]
    names = [entry.rpartition(" :: ")[2] for entry in classifiers]
    return ", ".join(names) or "see its license file"


def describe_model(card: ModelCard) -> str:
    """Describe a model in a few lines: what it was trained on, how good it is, its license."""
    lines = [f"Model {card.name}, license {card.license or 'not stated'}."]
    data = card.training.get("data")
    if isinstance(data, dict) and "pairs" in data:
        lines.append(f"Trained on {data['pairs']} images.")
    for name, scores in card.scores.items():
        lines.append(f"{name}: Jaccard index {scores['jaccard']:.3f} on {scores['images']} images.")
    return "\n".join([*lines, card.notes or ""]).strip()


def _normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


class AboutDialog(QDialog):
    """Version, model and licenses."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("About LesionSeg")
        self.resize(*_SIZE)
        self.summary = QLabel(
            f"<b>LesionSeg {__version__}</b><br>"
            "Outline skin lesions: segment, correct, approve, fine-tune, export.<br>"
            "For annotation and research. Not a medical device; it does not make diagnoses.<br>"
            "BSD 3-Clause license, \N{COPYRIGHT SIGN} the napari-lesionseg developers."
        )
        from napari_lesionseg.models.store import ModelStore  # imports PyTorch: the window opens without it

        shipped = next((entry.card for entry in ModelStore().list() if entry.shipped and entry.card), None)
        self.model = QLabel("" if shipped is None else describe_model(shipped))
        self.parts = _table(find_parts())
        self.buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        self.buttons.rejected.connect(self.reject)
        column = QVBoxLayout(self)
        for label in (self.summary, self.model):
            label.setWordWrap(True)
            column.addWidget(label)
        column.addWidget(QLabel("Parts and their licenses:"))
        column.addWidget(self.parts)
        column.addWidget(self.buttons)


def _table(parts: tuple[Part, ...]) -> QTableWidget:
    table = QTableWidget(len(parts), 3)
    table.setHorizontalHeaderLabels(["Part", "Version", "License"])
    table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
    table.verticalHeader().hide()
    for row, part in enumerate(parts):
        for column, text in enumerate((part.name, part.version, part.license)):
            table.setItem(row, column, QTableWidgetItem(text))
    table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
    table.horizontalHeader().setStretchLastSection(True)
    return table


def add_about(viewer: Viewer) -> QAction:
    """Add *About LesionSeg* to the Help menu of a window."""
    menu = viewer.window.help_menu
    action = QAction("About LesionSeg", menu)
    action.setMenuRole(QAction.MenuRole.NoRole)  # on macOS napari's own About keeps its place
    action.triggered.connect(lambda: AboutDialog(menu.parentWidget()).exec())
    menu.addAction(action)
    return action
