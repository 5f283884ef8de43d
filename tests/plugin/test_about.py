"""The About box: version, model, licenses."""

from __future__ import annotations

from email.message import Message
from importlib import metadata
from typing import cast

import pytest
from pytestqt.qtbot import QtBot

import napari_lesionseg
from napari_lesionseg.models.store import ModelStore
from napari_lesionseg.plugin.about import AboutDialog, describe_model, find_parts, license_of


def test_parts_are_what_the_package_needs_directly_or_not() -> None:
    parts = {part.name.lower(): part for part in find_parts()}
    assert {"napari-lesionseg", "torch", "numpy", "sympy"} <= parts.keys()  # torch needs SymPy
    assert parts["numpy"].version == metadata.version("numpy")
    assert "pytest" not in find_parts("numpy")


def test_parts_of_the_screen_state_their_licenses() -> None:
    licenses = {part.name.lower(): part.license for part in find_parts()}
    assert [name for name in ("torch", "numpy", "napari", "qtpy") if "see its" in licenses[name]] == []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"License-Expression": "BSD-3-Clause", "License": "BSD"}, "BSD-3-Clause"),
        ({"License": "MIT"}, "MIT"),
        (
            {"License": "Permission is granted " * 9, "Classifier": "License :: OSI Approved :: MIT License"},
            "MIT License",
        ),
        ({}, "see its license file"),
    ],
)
def test_license_is_taken_from_the_metadata(fields: dict[str, str], expected: str) -> None:
    message = Message()
    for name, value in fields.items():
        message[name] = value
    assert license_of(cast("metadata.PackageMetadata", message)) == expected


def test_model_is_described_with_license_and_training_data() -> None:
    card = next(entry.card for entry in ModelStore().list() if entry.shipped)
    assert card is not None
    text = describe_model(card)
    assert f"license {card.license}" in text
    assert f"Trained on {card.training['data']['pairs']} images." in text
    assert card.notes in text


def test_dialog_shows_version_model_and_parts(qtbot: QtBot) -> None:
    dialog = AboutDialog()
    qtbot.addWidget(dialog)
    assert napari_lesionseg.__version__ in dialog.summary.text()
    assert "license" in dialog.model.text()
    names = {dialog.parts.item(row, 0).text().lower() for row in range(dialog.parts.rowCount())}
    assert {"torch", "napari", "qtpy"} <= names
