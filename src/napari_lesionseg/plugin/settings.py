"""What the user set in napari's Preferences, on the page of this plugin."""

from __future__ import annotations

from dataclasses import dataclass

from napari.settings import get_plugin_settings

PLUGIN = "napari-lesionseg"


@dataclass(frozen=True, slots=True)
class Preferences:
    """The plugin's page in napari's preferences."""

    model: str = ""
    device: str = "auto"
    working_size: int = 0


def read_preferences() -> Preferences:
    """Read the preferences; the defaults where napari knows of none, as when the plugin is switched off."""
    try:
        page = get_plugin_settings(PLUGIN).segmentation
    except (KeyError, AttributeError):
        return Preferences()
    return Preferences(page.default_model.strip(), page.device, page.working_size)
