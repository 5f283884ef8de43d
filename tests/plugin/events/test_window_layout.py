"""The image fills the window, and LesionSeg's docks do not stand side by side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.settings import get_settings
from PIL import Image
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QAbstractButton, QDockWidget, QLabel, QMenu

from napari_lesionseg.plugin import commands
from napari_lesionseg.plugin.workbench.panels.base import ModelPanel
from napari_lesionseg.plugin.workbench.panels.export import ExportPanel
from napari_lesionseg.plugin.workbench.panels.fields import FieldsPanel
from napari_lesionseg.plugin.workbench.panels.queue import QueuePanel
from napari_lesionseg.plugin.workbench.panels.queue_columns import SIDE
from napari_lesionseg.plugin.workbench.panels.review_bar import ReviewBar
from napari_lesionseg.plugin.workbench.widget import Workbench

NAPARI_DOCKS = ("layer list", "layer controls")


@pytest.fixture
def own(
    qtbot: Any, make_napari_viewer: Any, network: Any, folder: Any, plugins: Any, monkeypatch: Any
) -> Iterator[Any]:
    """The window of `lesionseg FOLDER`."""
    monkeypatch.setattr("os.fsync", lambda file: None)
    monkeypatch.setattr(commands.napari, "Viewer", lambda **more: make_napari_viewer(show=True, **more))
    viewer = commands.make_viewer(None, (), ())
    bench = viewer.window._qt_window.findChild(Workbench)
    bench.annotator.setText("am")
    qtbot.waitUntil(lambda: bench.panel(ModelPanel).models.loaded is not None, timeout=15_000)
    bench.open_folder(folder)
    qtbot.waitUntil(lambda: bench.session is not None and bench.session.editor is not None, timeout=15_000)
    yield viewer
    bench.close_study(ask=False)


@pytest.fixture
def sizes(tmp_path: Path) -> Path:
    """Images of very different sizes."""
    made = tmp_path / "sizes"
    made.mkdir()
    for name, shape in {"large": (1500, 2000), "tiny": (60, 50), "wide": (200, 900)}.items():
        image = np.full((*shape, 3), 230, np.uint8)
        image[shape[0] // 4 : shape[0] // 2, shape[1] // 4 : shape[1] // 2] = 40
        Image.fromarray(image).save(made / f"{name}.png")
    return made


def set_size(qtbot: Any, viewer: Any, width: int, height: int) -> float:
    """Make the window as large as a screen; return the share of it that the canvas has."""
    main, canvas = viewer.window._qt_window, viewer.window._qt_viewer.canvas.native
    main.showNormal()
    main.resize(width, height)
    qtbot.waitUntil(lambda: main.width() <= width, timeout=5000)
    qtbot.wait(200)
    return float(canvas.width() * canvas.height() / (width * height))


@pytest.mark.parametrize(("width", "height", "least"), [(1366, 728, 0.6), (2560, 1400, 0.75)])
def test_the_image_has_most_of_the_screen(
    qtbot: Any, own: Any, width: int, height: int, least: float
) -> None:
    """The window is 40 pixels lower than the screen, for its title and the task bar."""
    assert set_size(qtbot, own, width, height) * height / (height + 40) >= least


def test_the_title_of_the_dock_is_whole_docked_and_floating(qtbot: Any, own: Any) -> None:
    set_size(qtbot, own, 1024, 700)
    dock = next(
        dock
        for dock in own.window._qt_window.findChildren(QDockWidget)
        if dock.objectName().startswith("LesionSeg workbench")
    )

    def title() -> QLabel:
        (label,) = dock.titleBarWidget().findChildren(QLabel)
        return label

    for floating in (False, True, False):
        dock.setFloating(floating)
        qtbot.waitUntil(lambda: title().text() == "LesionSeg workbench", timeout=5000)
        qtbot.waitUntil(lambda: title().width() >= title().sizeHint().width(), timeout=5000)
        label = title()
        left = label.mapTo(dock.titleBarWidget(), label.rect().topLeft()).x()
        assert left + label.width() <= dock.titleBarWidget().width()


@pytest.fixture
def font_size(request: Any) -> Iterator[int]:
    """A size of the font, from napari's preferences."""
    appearance = get_settings().appearance
    before = appearance.font_size
    appearance.font_size = request.param
    yield request.param
    appearance.font_size = before


@pytest.mark.parametrize(("font_size", "least"), [(9, 0.6), (14, 0.5)], indirect=["font_size"])
def test_the_verdicts_are_visible_with_everything_unfolded(
    qtbot: Any, own: Any, font_size: int, least: float
) -> None:
    main = own.window._qt_window
    bench = main.findChild(Workbench)
    for panel in bench.panels:
        panel.unfold.emit()
    assert set_size(qtbot, own, 1366, 728) * 728 / 768 >= least
    assert main.width() == 1366
    bar = bench.panel(ReviewBar)
    for button in (bar.back, bar.no_lesion, bar.flag, bar.approve):
        corner = button.mapTo(main, button.rect().bottomRight())
        assert button.isVisible()
        assert main.rect().contains(corner)
    for panel in bench.panels:
        assert panel.width() >= panel.minimumSizeHint().width(), "a row is cut off"


@pytest.mark.parametrize("font_size", [9, 16], indirect=True)
def test_no_button_is_cut_off_in_a_narrow_window(qtbot: Any, own: Any, font_size: int) -> None:
    main = own.window._qt_window
    bench = main.findChild(Workbench)
    for panel in bench.panels:
        panel.unfold.emit()
    set_size(qtbot, own, 1024, 700)
    assert main.width() == 1024
    buttons = [button for button in bench.findChildren(QAbstractButton) if button.isVisible()]
    assert len(buttons) > 40
    for button in buttons:
        words = button.fontMetrics().size(Qt.TextFlag.TextShowMnemonic, button.text())
        assert button.width() >= words.width(), f"{button.text()} is cut off"
        inside = button.mapTo(bench, QPoint()).x() + button.width()
        assert inside <= bench.width(), f"{button.text()} is not in the dock"


@pytest.mark.parametrize("unfolded", [False, True])
@pytest.mark.parametrize("font_size", [9, 14], indirect=True)
def test_every_heading_is_visible_without_scrolling(
    qtbot: Any, own: Any, font_size: int, unfolded: bool
) -> None:
    main = own.window._qt_window
    bench = main.findChild(Workbench)
    if unfolded:
        for panel in bench.panels:
            panel.unfold.emit()
    set_size(qtbot, own, 1366, 728)
    panels = [panel for panel in bench.panels if panel.title and panel.only_for != "landmarks"]
    headings = [bench.sections.headings[panel] for panel in panels]
    assert [heading.text() for heading in headings] == [panel.title for panel in panels]
    for heading in headings:
        assert heading.visibleRegion().boundingRect() == heading.rect()
    assert bench.panel(QueuePanel).table.viewport().height() >= 1.5 * (SIDE + 4)


def test_a_heading_shows_and_hides_its_panel(qtbot: Any, own: Any) -> None:
    bench = own.window._qt_window.findChild(Workbench)
    set_size(qtbot, own, 1366, 728)
    panel = bench.panel(ExportPanel)
    heading = bench.sections.headings[panel]
    for shown in (True, False):
        qtbot.mouseClick(heading, Qt.MouseButton.LeftButton)
        assert panel.isVisible() == heading.isChecked() == shown


def test_a_section_that_is_unfolded_is_in_view(qtbot: Any, own: Any) -> None:
    bench = own.window._qt_window.findChild(Workbench)
    set_size(qtbot, own, 1366, 768)
    for panel_type in (FieldsPanel, ExportPanel):
        panel = bench.panel(panel_type)
        qtbot.mouseClick(bench.sections.headings[panel], Qt.MouseButton.LeftButton)
        qtbot.waitUntil(lambda panel=panel: not panel.visibleRegion().isEmpty(), timeout=5000)
        shown = panel.visibleRegion().boundingRect().height()
        assert shown >= min(panel.height(), bench.sections.below.viewport().height()) - 8


def test_the_image_on_the_screen_stays_in_view_in_the_list(qtbot: Any, own: Any) -> None:
    bench = own.window._qt_window.findChild(Workbench)
    table = bench.panel(QueuePanel).table
    set_size(qtbot, own, 1366, 1000)
    bench.session.open_image(bench.session.navigation.queue[-1].image_id)
    qtbot.waitUntil(lambda: table.currentIndex().row() == 3, timeout=15_000)
    set_size(qtbot, own, 1366, 640)
    for panel in bench.panels:
        panel.unfold.emit()
    qtbot.waitUntil(
        lambda: table.viewport().rect().contains(table.visualRect(table.currentIndex()).center()),
        timeout=10_000,
    )


@pytest.mark.parametrize("height", [728, 1000])
def test_the_list_of_images_takes_the_height_that_is_left(qtbot: Any, own: Any, height: int) -> None:
    bench = own.window._qt_window.findChild(Workbench)
    table, below = bench.panel(QueuePanel).table, bench.sections.below
    set_size(qtbot, own, 1366, height)
    qtbot.waitUntil(
        lambda: not below.verticalScrollBar().isVisible() and table.height() >= 4.5 * (SIDE + 4),
        timeout=10_000,
    )
    low = table.height()
    set_size(qtbot, own, 1366, height + 272)
    qtbot.waitUntil(lambda: abs(table.height() - low - 272) <= 5, timeout=10_000)


def test_the_dock_is_narrow(qtbot: Any, own: Any) -> None:
    set_size(qtbot, own, 1366, 728)
    assert 320 <= own.window._qt_window.findChild(Workbench).width() <= 360


def test_one_key_unfolds_and_folds_the_layer_list(qtbot: Any, own: Any) -> None:
    main = own.window._qt_window
    docks = [dock for dock in main.findChildren(QDockWidget) if dock.objectName() in NAPARI_DOCKS]
    assert [dock.isVisible() for dock in docks] == [False, False]
    main.activateWindow()
    qtbot.waitUntil(main.isActiveWindow, timeout=10_000)
    for shown in (True, False):
        QTest.keyClick(own.window._qt_viewer.canvas.native, Qt.Key.Key_F9)
        assert [dock.isVisible() for dock in docks] == [shown, shown]


def test_a_viewer_that_was_there_before_keeps_its_docks(make_napari_viewer: Any, plugins: Any) -> None:
    viewer = make_napari_viewer(show=True)
    commands.open_workbench(viewer)
    docks = viewer.window._qt_window.findChildren(QDockWidget)
    assert all(dock.isVisible() for dock in docks if dock.objectName() in NAPARI_DOCKS)


def test_several_widgets_become_tabs(qtbot: Any, make_napari_viewer: Any, network: Any, plugins: Any) -> None:
    viewer = make_napari_viewer(show=True)
    first, _ = viewer.window.add_plugin_dock_widget(commands.PLUGIN, commands.WORKBENCH)
    for name in ("Segment lesions", "Single lesions", "Measure lesions"):
        viewer.window.add_plugin_dock_widget(commands.PLUGIN, name)
    main = viewer.window._qt_window
    qtbot.waitUntil(lambda: len(main.tabifiedDockWidgets(first)) == 3, timeout=5000)


def test_widgets_opened_from_the_menu_become_tabs_with_short_titles(
    qtbot: Any, make_napari_viewer: Any, network: Any, plugins: Any
) -> None:
    viewer = make_napari_viewer(show=True)
    main = viewer.window._qt_window
    for name in ("Landmarks", "Single lesions", "Measure lesions"):
        choose_in_menu(viewer.window.plugins_menu, name)
    first = viewer.window._wrapped_dock_widgets["Landmarks (LesionSeg)"]
    qtbot.waitUntil(lambda: len(main.tabifiedDockWidgets(first)) == 2, timeout=5000)
    titles = {label.text() for label in first.titleBarWidget().findChildren(QLabel)}
    assert "Landmarks" in titles


def choose_in_menu(menu: QMenu, name: str) -> None:
    """Choose one of LesionSeg's widgets in the menu of plugins."""
    menu.aboutToShow.emit()
    for action in menu.actions():
        if action.text().startswith(name):
            action.trigger()
            return
        if action.text() == "LesionSeg":
            choose_in_menu(action.menu(), name)
            return
    raise LookupError(name)


def in_view(viewer: Any) -> float:
    """Return which part of the canvas the image fills, in the direction in which it is larger."""
    height, width = (
        viewer.window._qt_viewer.canvas.native.height(),
        viewer.window._qt_viewer.canvas.native.width(),
    )
    rows, cols = viewer.layers[0].data.shape[:2]
    return float(viewer.scene.camera.zoom * max(rows / height, cols / width))


def test_an_image_of_another_size_is_shown_whole(qtbot: Any, own: Any, sizes: Any) -> None:
    bench = own.window._qt_window.findChild(Workbench)
    bench.close_study(ask=False)
    bench.open_folder(sizes)
    for name in ("large", "tiny", "wide"):
        qtbot.waitUntil(
            lambda: bench.session is not None and bench.session.editor is not None, timeout=15_000
        )
        found = next(s for s in bench.session.study.state.images.values() if s.name == name)
        bench.session.open_image(found.image_id)
        qtbot.waitUntil(lambda f=found: bench.session.image_id == f.image_id, timeout=15_000)
        qtbot.wait(50)
        rows, cols = own.layers[0].data.shape[:2]
        assert 0.85 <= in_view(own) <= 1.0
        assert own.scene.camera.center[-2:] == pytest.approx(((rows - 1) / 2, (cols - 1) / 2), abs=1)


def test_the_image_is_fitted_again_after_a_resize(qtbot: Any, own: Any) -> None:
    for width, height in ((1366, 728), (900, 700), (1800, 1000)):
        set_size(qtbot, own, width, height)
        assert 0.85 <= in_view(own) <= 1.0


def test_the_image_is_fitted_again_when_the_dock_is_undocked_and_docked(qtbot: Any, own: Any) -> None:
    set_size(qtbot, own, 1366, 728)
    canvas, narrow = own.window._qt_viewer.canvas.native, own.window._qt_viewer.canvas.native.width()
    dock = own.window._qt_window.findChild(Workbench).parentWidget()
    while not isinstance(dock, QDockWidget):
        dock = dock.parentWidget()
    for floating in (True, False):
        dock.setFloating(floating)
        qtbot.waitUntil(lambda f=floating: (canvas.width() > narrow + 200) == f, timeout=10_000)
        qtbot.waitUntil(lambda: 0.85 <= in_view(own) <= 1.0, timeout=10_000)


def test_a_zoom_is_kept_relative_to_the_image(qtbot: Any, own: Any) -> None:
    set_size(qtbot, own, 1366, 728)
    own.scene.camera.zoom *= 3
    before, center = in_view(own), own.scene.camera.center
    set_size(qtbot, own, 1000, 640)
    assert in_view(own) == pytest.approx(before, rel=0.05)
    assert own.scene.camera.center == pytest.approx(center)
