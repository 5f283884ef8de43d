"""Each private name of napari in use has a test, which fails by that name when napari changes it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from timeit import default_timer

import numpy as np
import pytest
from napari._vispy.overlays.base import LayerOverlayMixin, VispySceneOverlay
from napari._vispy.utils.visual import overlay_to_visual
from napari._vispy.visuals.labels import LabelNode
from napari.components import ViewerModel
from napari.components._viewer_mouse_bindings import double_click_to_zoom, drag_to_zoom
from napari.components.overlays.base import SceneOverlay
from napari.layers import Labels
from vispy.app.base import BaseCanvasBackend
from vispy.app.canvas import Canvas

PLUGIN = Path(str(resources.files("napari_lesionseg"))) / "plugin"


def drawn_labels() -> Labels:
    labels = ViewerModel().add_labels(np.zeros((8, 9), np.uint8))
    labels.paint((4, 4), 1)
    return labels


def check_vispy_overlays_base() -> None:
    assert issubclass(LayerOverlayMixin, object)
    for name in ("reset", "close"):
        assert callable(getattr(VispySceneOverlay, name))


def check_vispy_utils_visual() -> None:
    assert any(issubclass(model, SceneOverlay) for model in overlay_to_visual)


def check_overlays() -> None:
    labels, overlay = drawn_labels(), SceneOverlay()
    labels._overlays["test"] = overlay
    assert labels._overlays.get("test") is overlay
    del labels._overlays["test"]


def check_transforms() -> None:
    to_data = drawn_labels()._transforms["tile2data"]
    assert np.array_equal(to_data.inverse(np.array([[2.0, 3.0]])), [[2, 3]])


def check_calculate_contour() -> None:
    labels = drawn_labels()
    labels.contour = 1
    contour = Labels._calculate_contour(labels, labels.data, (slice(0, 8), slice(0, 9)))
    assert contour is not None
    assert contour.shape == (8, 9)


def check_vispy_canvas() -> None:
    canvas = Canvas.__new__(Canvas)  # without a window
    assert BaseCanvasBackend(canvas)._vispy_canvas is canvas


def check_last_time() -> None:
    canvas = BaseCanvasBackend(Canvas.__new__(Canvas))
    canvas._last_time = default_timer()
    assert canvas._vispy_mouse_move() is None  # too soon


def check_vispy_visuals_labels() -> None:
    assert callable(LabelNode)


def check_viewer_mouse_bindings() -> None:
    viewer = ViewerModel()
    assert double_click_to_zoom in viewer.mouse_double_click_callbacks
    assert drag_to_zoom in viewer.mouse_drag_callbacks


def check_interpolation_fun() -> None:
    node = LabelNode(np.zeros((2, 2), np.uint8), texture_format="r8")
    assert "nearest" in node._interpolation_fun


def check_need_interpolation_update() -> None:
    assert LabelNode(np.zeros((2, 2), np.uint8), texture_format="r8")._need_interpolation_update


def check_slice() -> None:
    assert drawn_labels()._slice.image.view.shape == (8, 9)


def check_data_to_texture() -> None:
    labels = drawn_labels()
    assert labels.colormap._data_to_texture(labels.data).shape == (8, 9)


def check_accumulate_updated_slice() -> None:
    drawn_labels()._accumulate_updated_slice((slice(0, 2), slice(0, 2)))


def check_partial_labels_refresh() -> None:
    labels, refreshed = drawn_labels(), []
    labels.events.labels_update.connect(refreshed.append)
    labels._accumulate_updated_slice((slice(0, 2), slice(0, 2)))
    labels._partial_labels_refresh()
    assert len(refreshed) == 1


def check_reset_history() -> None:
    labels = drawn_labels()
    labels._reset_history()
    assert not labels._undo_history


def check_history_limit() -> None:
    labels = ViewerModel().add_labels(np.zeros((8, 9), np.uint8))
    vars(labels)["_history_limit"] = 0
    labels._reset_history()
    labels.paint((4, 4), 1)
    assert not labels._undo_history


def check_block_history() -> None:
    labels = drawn_labels()
    assert not labels._block_history
    with labels.block_history():
        assert labels._block_history


NAMED_TUPLE = {"_replace", "_asdict", "_fields", "_make"}
"""Public names of named tuples, which begin with an underscore so that they clash with no field."""

CHECKS: dict[str, Callable[[], None]] = {
    "napari._vispy.overlays.base": check_vispy_overlays_base,
    "napari._vispy.utils.visual": check_vispy_utils_visual,
    "napari._vispy.visuals.labels": check_vispy_visuals_labels,
    "napari.components._viewer_mouse_bindings": check_viewer_mouse_bindings,
    "_vispy_canvas": check_vispy_canvas,
    "_last_time": check_last_time,
    "_interpolation_fun": check_interpolation_fun,
    "_need_interpolation_update": check_need_interpolation_update,
    "_overlays": check_overlays,
    "_transforms": check_transforms,
    "_calculate_contour": check_calculate_contour,
    "_slice": check_slice,
    "_data_to_texture": check_data_to_texture,
    "_accumulate_updated_slice": check_accumulate_updated_slice,
    "_partial_labels_refresh": check_partial_labels_refresh,
    "_reset_history": check_reset_history,
    "_block_history": check_block_history,
    "_history_limit": check_history_limit,
}


@pytest.mark.parametrize("name", CHECKS)
def test_napari_still_has(name: str) -> None:
    CHECKS[name]()


def test_every_private_name_in_use_is_checked() -> None:
    used = {name for path in (PLUGIN / "napari_layers").glob("*.py") for name in private_names(path)}
    assert used == set(CHECKS)


def test_no_other_module_uses_private_names() -> None:
    others = [path for path in PLUGIN.rglob("*.py") if path.parent.name != "napari_layers"]
    found = {str(path.relative_to(PLUGIN)): sorted(private_names(path)) for path in others}
    assert {path: names for path, names in found.items() if names} == {}


def test_private_names_are_found_however_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "from napari._qt import a\nimport vispy._b\nlayer._c\ngetattr(layer, '_d')\n"
        "vars(layer)['_e'] = vars(layer).update(_f=0)\nself._own, cls._own, layer.__class__\n"
    )
    assert private_names(path) == {"napari._qt", "vispy._b", "_c", "_d", "_e", "_f"}


def private_names(path: Path) -> set[str]:
    """Return the private modules of napari and vispy, and the private attributes of others, in a module."""
    return {name for node in ast.walk(ast.parse(path.read_text("utf-8"))) for name in _names_in(node)}


def _names_in(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.ImportFrom) and _is_private_module(node.module or ""):
        yield node.module or ""
    elif isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if _is_private_module(alias.name))
    elif isinstance(node, ast.Attribute) and _is_private(node.attr):
        if not _is_own(node.value):
            yield node.attr
    elif isinstance(node, ast.Call) and _calls(node.func, "getattr", "setattr"):
        yield from (text for text in map(_text, node.args[1:2]) if _is_private(text))
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_vars(node.func.value):
        texts = [*map(_text, node.args), *(keyword.arg or "" for keyword in node.keywords)]
        yield from (text for text in texts if _is_private(text))
    elif isinstance(node, ast.Subscript) and _is_vars(node.value) and _is_private(_text(node.slice)):
        yield _text(node.slice)


def _is_private_module(module: str) -> bool:
    root, *parts = module.split(".")
    return root in {"napari", "vispy"} and any(part.startswith("_") for part in parts)


def _is_private(name: str) -> bool:
    return name.startswith("_") and name not in NAMED_TUPLE and not name.startswith("__")


def _is_own(node: ast.expr) -> bool:
    return (isinstance(node, ast.Name) and node.id in {"self", "cls"}) or (
        isinstance(node, ast.Call) and _calls(node.func, "super")
    )


def _calls(function: ast.expr, *names: str) -> bool:
    return isinstance(function, ast.Name) and function.id in names


def _is_vars(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and _calls(node.func, "vars")


def _text(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
