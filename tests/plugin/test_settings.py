from __future__ import annotations

from typing import Any

import napari.settings
import pytest
from napari.settings import get_plugin_settings

from napari_lesionseg.plugin.settings import PLUGIN, Preferences, read_preferences, remember_annotator


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


def test_the_annotator_is_remembered(plugins: Any) -> None:
    remember_annotator("am")
    napari.settings._clear_plugin_settings_cache()  # as when napari is started again
    assert read_preferences().annotator == "am"


def test_without_the_plugin_no_annotator_is_remembered(plugin_settings: Any) -> None:
    remember_annotator("am")
    assert read_preferences().annotator == ""
