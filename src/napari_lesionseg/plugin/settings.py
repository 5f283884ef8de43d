"""What the user set in napari's Preferences, on the page of this plugin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from napari.settings import get_plugin_settings, get_settings

from napari_lesionseg.io.images import image_suffixes

PLUGIN = "napari-lesionseg"


@dataclass(frozen=True, slots=True)
class Preferences:
    """The plugin's page in napari's preferences."""

    model: str = ""
    device: str = "auto"
    working_size: int = 0
    annotator: str = ""
    scheduler: str = ""  # address of a dask cluster


@dataclass(frozen=True, slots=True)
class OutlineStyle:
    """How outlines are drawn."""

    color: str = "sky blue"
    width: int = 3  # pixels of the screen
    opacity: float = 1.0


WIDTHS = range(1, 11)
OPACITIES = (0.1, 1.0)


def read_preferences() -> Preferences:
    """Read the preferences; the defaults where napari knows of none, as when the plugin is switched off."""
    try:
        settings = get_plugin_settings(PLUGIN)
        page, annotator = settings.segmentation, settings.review.annotator.strip()
        scheduler = settings.compute.scheduler.strip()
    except (KeyError, AttributeError):
        return Preferences()
    return Preferences(page.default_model.strip(), page.device, page.working_size, annotator, scheduler)


def open_images_without_asking() -> None:
    """Open images with this plugin where the user has not chosen a reader; napari would ask for each file."""
    plugins = get_settings().plugins
    own = {f"*{suffix}": PLUGIN for suffix in image_suffixes}
    plugins.extension2reader = own | plugins.extension2reader


def read_outline_style() -> OutlineStyle:
    """Read how outlines are drawn; the defaults where napari knows of none."""
    try:
        page = get_plugin_settings(PLUGIN).outline
    except (KeyError, AttributeError):
        return OutlineStyle()
    return OutlineStyle(page.color, page.width, page.opacity)


def save_outline_style(style: OutlineStyle) -> None:
    """Draw outlines in another way from now on; what is out of bounds is set to the bound."""
    try:
        page = get_plugin_settings(PLUGIN).outline
    except (KeyError, AttributeError):
        return
    page.color = style.color
    page.width = min(max(style.width, WIDTHS[0]), WIDTHS[-1])
    page.opacity = round(min(max(style.opacity, OPACITIES[0]), OPACITIES[1]), 2)


def outline_style_events() -> Any:
    """Return the events of the outline's style; None if napari has no page for it."""
    try:
        return get_plugin_settings(PLUGIN).outline.events
    except (KeyError, AttributeError):
        return None


def remember_annotator(name: str) -> None:
    """Save the annotator's name in the preferences, if napari knows of them."""
    try:
        get_plugin_settings(PLUGIN).review.annotator = name
    except (KeyError, AttributeError):
        return


def remember_scheduler(address: str) -> None:
    """Save the address of the dask cluster in the preferences, if napari knows of them."""
    try:
        get_plugin_settings(PLUGIN).compute.scheduler = address
    except (KeyError, AttributeError):
        return
