from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from napari.layers import Labels
from napari.settings import get_plugin_settings
from napari.utils.key_bindings import coerce_keybinding

from napari_lesionseg.plugin.shortcuts import (
    KEYS,
    OUTLINE_KEYS,
    VERDICT_KEYS,
    LayerKeys,
    chosen_key,
    is_key,
    key_of,
    setting_of,
)

PLUGIN = "napari-lesionseg"


@pytest.fixture
def labels() -> Labels:
    return Labels(np.zeros((5, 6), dtype=np.uint8))


def press(layer, key: str):
    return layer.keymap[coerce_keybinding(key)](layer)


def test_every_key_can_be_pressed_and_none_is_given_twice():
    assert all(is_key(key) for key in OUTLINE_KEYS.values())
    assert len(set(KEYS.values())) == len(KEYS)


def test_the_preferences_list_every_key_of_the_outline_with_its_default():
    page = type(get_plugin_settings(PLUGIN).keys).model_fields
    shown = {name: entry.default for name, entry in page.items()}
    assert shown == {setting_of(action): key for action, key in (OUTLINE_KEYS | VERDICT_KEYS).items()}


@pytest.mark.parametrize("text", ["", " ", "nonsense", "Ctrl+", "Ctrl+Ctrl"])
def test_what_is_no_key_is_told(text):
    assert not is_key(text)


def test_a_key_calls_its_handler(labels):
    called = []
    keys = LayerKeys(labels, {"smooth": lambda: called.append("smooth")})
    press(labels, "S")
    assert called == ["smooth"]
    keys.close()
    assert coerce_keybinding("S") not in labels.keymap


def test_a_held_key_goes_on_when_let_go(labels):
    said = []

    def hold():
        said.append("down")
        yield
        said.append("up")

    keys = LayerKeys(labels, {"hide while held": hold})
    held = press(labels, "H")
    next(held)
    assert said == ["down"]
    with pytest.raises(StopIteration):
        next(held)
    assert said == ["down", "up"]
    keys.close()


def test_keys_that_were_bound_before_come_back(labels):
    called = []
    labels.bind_key("S", lambda layer: called.append("mine"))
    LayerKeys(labels, {"smooth": lambda: called.append("smooth")}).close()
    press(labels, "S")
    assert called == ["mine"]


def test_a_key_of_the_preferences_is_bound_at_once(labels):
    called = []
    told = []
    keys = LayerKeys(
        labels, {"smooth": lambda: called.append("smooth")}, lambda: told.append(key_of("smooth"))
    )
    get_plugin_settings(PLUGIN).keys.smooth = "Ctrl+K"
    assert told == ["Ctrl+K"]
    assert coerce_keybinding("S") not in labels.keymap
    press(labels, "Ctrl+K")
    assert called == ["smooth"]
    keys.close()


def test_of_two_actions_with_one_key_the_first_has_it(labels):
    get_plugin_settings(PLUGIN).keys.snap_to_edges = "S"
    called = []
    handlers = {"snap to edges": lambda: called.append("snap"), "smooth": lambda: called.append("smooth")}
    keys = LayerKeys(labels, handlers)
    press(labels, "S")
    assert called == ["smooth"]
    keys.close()


def test_nonsense_in_the_preferences_leaves_the_default():
    get_plugin_settings(PLUGIN).keys.smooth = "no such key"
    assert chosen_key("smooth") == "S"


def test_the_documentation_lists_the_keys_of_the_table():
    page = Path(__file__).parents[2] / "docs" / "how-to" / "correct-and-approve.md"
    listed = dict(re.findall(r"^\| (.+) \| `(.+)` \|$", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert listed == VERDICT_KEYS | OUTLINE_KEYS
