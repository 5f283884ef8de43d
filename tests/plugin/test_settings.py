from __future__ import annotations

from typing import Any

import pytest
from napari.settings import get_plugin_settings

from napari_lesionseg.plugin.settings import PLUGIN, Preferences, read_preferences


def test_defaults_are_read(plugins: Any) -> None:
    assert read_preferences() == Preferences("", "auto", 0)


def test_what_the_user_set_is_read(plugins: Any) -> None:
    page = get_plugin_settings(PLUGIN).segmentation
    page.default_model, page.device, page.working_size = " clinic-2026 ", "cpu", 384
    assert read_preferences() == Preferences("clinic-2026", "cpu", 384)


def test_a_device_that_does_not_exist_is_refused(plugins: Any) -> None:
    with pytest.raises(ValueError, match="abacus"):
        get_plugin_settings(PLUGIN).segmentation.device = "abacus"


def test_without_the_plugin_the_defaults_hold(plugin_settings: Any) -> None:
    assert read_preferences() == Preferences()
