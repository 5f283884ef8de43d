from __future__ import annotations

import subprocess
import sys
from importlib import resources
from typing import Any

import pytest
import yaml
from napari.layers import Image, Labels
from npe2 import PluginManifest
from qtpy.QtWidgets import QLabel

from napari_lesionseg.datasets.synthetic import synthetic_sample
from napari_lesionseg.plugin import sample_data
from napari_lesionseg.plugin.workbench.panels.start import StartPanel

PLUGIN = "napari-lesionseg"


@pytest.fixture(scope="module")
def manifest() -> PluginManifest:
    return PluginManifest.from_distribution(PLUGIN)


def test_npe2_finds_nothing_wrong(manifest: PluginManifest) -> None:
    path = resources.files("napari_lesionseg") / "napari.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "npe2", "validate", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_command_can_be_called(manifest: PluginManifest, plugins: Any) -> None:
    commands = manifest.contributions.commands
    assert len(commands) >= 5
    for command in commands:
        assert callable(plugins.commands.get(command.id))


def titles(menu: Any) -> dict:
    return {action.text(): action for action in menu.actions()}


@pytest.mark.parametrize("menu", ["plugins", "layers"])
def test_a_menu_entry_opens_the_widget(make_napari_viewer: Any, network: Any, menu: Any) -> None:
    window = make_napari_viewer().window
    parent, name = (
        (window.plugins_menu, "LesionSeg") if menu == "plugins" else (window.layers_menu, "Segment")
    )
    entries = titles(titles(parent)[name].menu())
    (entry,) = (action for title, action in entries.items() if title.startswith("Segment lesions"))
    entry.trigger()
    assert "Segment lesions (LesionSeg)" in window.dock_widgets


def test_every_widget_follows_the_rules_for_docks(
    make_napari_viewer: Any, manifest: PluginManifest, network: Any, qtbot: Any
) -> None:
    viewer = make_napari_viewer(show=True)
    names = [widget.display_name for widget in manifest.contributions.widgets]
    assert len(names) >= 5
    for name in names:
        dock, _ = viewer.window.add_plugin_dock_widget(PLUGIN, name)
        (title,) = dock.titleBarWidget().findChildren(QLabel)
        qtbot.waitUntil(lambda title=title, name=name: title.text() == name, timeout=10_000)
        assert dock.windowTitle() == name  # which its tab shows


@pytest.fixture
def small_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the samples small, which is quick."""
    drawn = [synthetic_sample(seed, (48, 64)) for seed in range(6)]
    monkeypatch.setattr(sample_data, "sample_set", lambda n: drawn[:n])


@pytest.mark.parametrize(("key", "samples"), [("lesion", 1), ("six-lesions", 6)])
def test_samples_open(make_napari_viewer: Any, small_samples: Any, key: Any, samples: Any) -> None:
    viewer = make_napari_viewer()
    viewer.open_sample(PLUGIN, key)
    images = [layer for layer in viewer.layers if isinstance(layer, Image)]
    masks = [layer for layer in viewer.layers if isinstance(layer, Labels)]
    assert len(images) == len(masks) == samples
    for image, mask in zip(images, masks, strict=True):
        assert image.rgb
        assert mask.name == f"{image.name} exact mask"
        assert mask.data.shape == image.data.shape[:2]
        assert mask.data.max() == 1
        assert not mask.visible
    assert [image.visible for image in images] == [True] + [False] * (samples - 1)


def test_the_sample_that_is_seen_is_segmented(
    make_napari_viewer: Any, small_samples: Any, network: Any
) -> None:
    viewer = make_napari_viewer()
    _, widget = viewer.window.add_plugin_dock_widget(PLUGIN, "Segment lesions")
    viewer.open_sample(PLUGIN, "six-lesions")
    (seen,) = (layer for layer in viewer.layers if isinstance(layer, Image) and layer.visible)
    assert widget.images.images() == [seen]


def test_settings_have_a_page_of_their_own(manifest: PluginManifest) -> None:
    page = manifest.contributions.configurations["segmentation"]
    assert set(page.properties) == {"default_model", "device", "working_size"}


def test_the_manifest_imports_nothing_by_itself() -> None:
    text = (resources.files("napari_lesionseg") / "napari.yaml").read_text(encoding="utf-8")
    assert "on_activate" not in yaml.safe_load(text)


def test_the_file_menu_asks_for_a_new_study_in_the_workbench(
    make_napari_viewer: Any, network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(StartPanel, "ask_for_new", lambda panel: asked.append(panel))
    window = make_napari_viewer().window
    entries = titles(titles(window.file_menu)["IO Utilities"].menu())
    (entry,) = (action for title, action in entries.items() if title.startswith("New LesionSeg study"))
    entry.trigger()
    assert [panel.new_button.text() for panel in asked] == ["New study\N{HORIZONTAL ELLIPSIS}"]
    assert "LesionSeg workbench (napari-lesionseg)" in window.dock_widgets
