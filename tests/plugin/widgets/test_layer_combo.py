from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels
from pytestqt.qtbot import QtBot

from napari_lesionseg.plugin.widgets.layer_combo import LayerCombo


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def combo(qtbot: QtBot, viewer: ViewerModel) -> LayerCombo:
    made = LayerCombo(viewer, Labels, "no outline is open")
    qtbot.addWidget(made.native)
    return made


def add(viewer: ViewerModel, name: str) -> Labels:
    return viewer.add_labels(np.zeros((4, 5), np.uint8), name=name)


def texts(combo: LayerCombo) -> list[str]:
    return [combo.native.itemText(index) for index in range(combo.native.count())]


def test_without_a_layer_nothing_is_chosen(combo: LayerCombo) -> None:
    assert combo.layer is None
    assert combo.native.placeholderText() == "no outline is open"


def test_only_layers_of_the_kind_are_listed_in_their_order(viewer: ViewerModel, combo: LayerCombo) -> None:
    first, _ = add(viewer, "a"), add(viewer, "b")
    viewer.add_image(np.zeros((4, 5)))
    assert texts(combo) == ["a", "b"]
    viewer.layers.move(viewer.layers.index(first), 2)
    assert texts(combo) == ["b", "a"]


def test_the_active_layer_is_chosen(viewer: ViewerModel, combo: LayerCombo) -> None:
    first, second = add(viewer, "a"), add(viewer, "b")
    assert combo.layer is second
    viewer.layers.selection.active = first
    assert combo.layer is first
    viewer.layers.selection.active = viewer.add_image(np.zeros((4, 5)))
    assert combo.layer is first


def test_a_renamed_layer_stays_chosen(viewer: ViewerModel, combo: LayerCombo) -> None:
    first, _ = add(viewer, "a"), add(viewer, "b")
    viewer.layers.selection.active = first
    first.name = "z"
    assert combo.layer is first
    assert texts(combo) == ["z", "b"]


def test_each_other_choice_is_announced_once(viewer: ViewerModel, combo: LayerCombo) -> None:
    chosen: list[Labels | None] = []
    combo.changed.connect(chosen.append)
    first = add(viewer, "a")
    assert chosen == [first]
    second = add(viewer, "b")
    assert chosen == [first, second]
    viewer.layers.remove(second)
    assert chosen == [first, second, first]
    viewer.layers.remove(first)
    assert chosen[-1] is None


def test_it_stops_following_the_viewer(viewer: ViewerModel, combo: LayerCombo) -> None:
    combo.disconnect_viewer()
    add(viewer, "a")
    assert texts(combo) == []


def test_what_is_seen_is_chosen_when_hidden_layers_are_added(viewer: ViewerModel, combo: LayerCombo) -> None:
    seen = add(viewer, "a")
    for name in "bc":
        viewer.add_labels(np.zeros((4, 5), np.uint8), name=name, visible=False)
    assert combo.layer is seen
    viewer.layers.remove(seen)
    assert combo.layer is viewer.layers["c"]
