from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Labels
from napari.settings import get_plugin_settings
from napari.utils.key_bindings import coerce_keybinding

from napari_lesionseg.plugin.shortcuts import (
    KEYS,
    LANDMARK_KEYS,
    REVIEW_KEYS,
    TOOL_KEYS,
    LayerKeys,
    chosen_key,
    is_key,
    key_of,
    setting_of,
)

PLUGIN = "napari-lesionseg"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def labels() -> Labels:
    return Labels(np.zeros((5, 6), dtype=np.uint8))


def press(layer: Labels, key: str) -> Any:
    return layer.keymap[coerce_keybinding(key)](layer)


def test_every_key_can_be_pressed_and_none_is_given_twice() -> None:
    assert all(is_key(key) for key in TOOL_KEYS.values())
    # Outlines and landmarks are in different layers, of which one is active.
    in_window = {
        action: key for action, key in KEYS.items() if action not in TOOL_KEYS.keys() | LANDMARK_KEYS
    }
    for of_a_layer in (TOOL_KEYS, LANDMARK_KEYS):
        keys = [*in_window.values(), *of_a_layer.values()]
        assert len(set(keys)) == len(keys)


def test_the_preferences_list_every_key_of_the_outline_with_its_default() -> None:
    page = type(get_plugin_settings(PLUGIN).keys).model_fields
    shown = {name: entry.default for name, entry in page.items()}
    assert shown == {setting_of(action): key for action, key in (dict(TOOL_KEYS) | dict(REVIEW_KEYS)).items()}


@pytest.mark.parametrize("text", ["", " ", "nonsense", "Ctrl+", "Ctrl+Ctrl"])
def test_text_that_is_not_a_key_is_rejected(text: str) -> None:
    assert not is_key(text)


def test_a_key_calls_its_handler(labels: Labels) -> None:
    called = []
    keys = LayerKeys(labels, {"smooth": lambda: called.append("smooth")})
    press(labels, "S")
    assert called == ["smooth"]
    keys.close()
    assert coerce_keybinding("S") not in labels.keymap


def test_a_held_key_continues_when_released(labels: Labels) -> None:
    said = []

    def hold() -> Iterator[None]:
        said.append("down")
        yield
        said.append("up")

    keys = LayerKeys(labels, {"hide": hold})
    held = press(labels, "H")
    next(held)
    assert said == ["down"]
    with pytest.raises(StopIteration):
        next(held)
    assert said == ["down", "up"]
    keys.close()


def test_keys_that_were_bound_before_come_back(labels: Labels) -> None:
    called = []
    labels.bind_key("S", lambda layer: called.append("mine"))
    LayerKeys(labels, {"smooth": lambda: called.append("smooth")}).close()
    press(labels, "S")
    assert called == ["mine"]


def test_a_key_of_the_preferences_is_bound_at_once(labels: Labels) -> None:
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


def test_if_two_tools_have_the_same_key_the_first_gets_it(labels: Labels) -> None:
    get_plugin_settings(PLUGIN).keys.snap = "S"
    called = []
    handlers = {"snap": lambda: called.append("snap"), "smooth": lambda: called.append("smooth")}
    keys = LayerKeys(labels, handlers)
    press(labels, "S")
    assert called == ["smooth"]
    keys.close()


def test_an_invalid_key_in_the_preferences_is_ignored() -> None:
    get_plugin_settings(PLUGIN).keys.smooth = "no such key"
    assert chosen_key("smooth") == "S"


def test_the_manifest_and_the_documentation_list_the_keys_of_the_tables() -> None:
    script = ROOT / "tools" / "generate_tool_tables.py"
    checked = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
