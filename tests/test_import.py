"""The package as installed: what importing it costs, and that nothing was left out of it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata, resources
from importlib.util import find_spec
from pathlib import Path

import pytest

import napari_lesionseg

VIEWER = {"napari", "PyQt5", "PyQt6", "PySide2", "PySide6", "vispy"}
TOOLKIT = {"magicgui", "pyqtgraph", "qtpy", "superqt"}
MAX_WEIGHTS_BYTES = 16_000_000


def loaded_by(code: str) -> set[str]:
    """Names of the top-level modules in a fresh interpreter after ``code``."""
    report = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = {"torch", "scipy", "skimage", "PIL", "pydantic", "numpy"}
    assert not loaded_by("import napari_lesionseg") & (VIEWER | TOOLKIT | heavy)


def test_pydantic_is_complete_before_qt() -> None:
    code = "import sys, napari_lesionseg.plugin; print('pydantic._internal._validators' in sys.modules)"
    assert {"True", "pydantic"} <= (loaded := loaded_by(code))
    assert not loaded & (VIEWER | TOOLKIT)


@pytest.mark.parametrize(("own", "expected"), [(None, "500"), ("7", "7")])
def test_threads_that_wait_do_not_spin_for_long(own: str | None, expected: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    if own is not None:
        environment["GOMP_SPINCOUNT"] = own
    code = "import napari_lesionseg, os; print(os.environ['GOMP_SPINCOUNT'])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == expected


def test_settings_and_values_need_no_torch() -> None:
    code = "import napari_lesionseg as ls; ls.Click(1, 2); ls.TrainConfig(); ls.PostprocessConfig()"
    assert not loaded_by(code) & (VIEWER | TOOLKIT | {"torch"})


def test_public_names_exist_and_need_no_viewer() -> None:
    code = "import napari_lesionseg as ls; [getattr(ls, name) for name in ls.__all__]"
    loaded = loaded_by(code)
    assert "torch" in loaded
    assert not loaded & (VIEWER | TOOLKIT)


def test_commands_need_no_viewer_to_start() -> None:
    code = "from napari_lesionseg.cli.main import COMMANDS, build_parser; [build_parser(c) for c in COMMANDS]"
    assert not loaded_by(code) & (VIEWER | TOOLKIT)


@pytest.mark.skipif(
    "LESIONSEG_WITHOUT_VIEWER" not in os.environ,
    reason="only in an environment that is meant to have no viewer (tox -e headless)",
)
@pytest.mark.parametrize("name", sorted(VIEWER))
def test_viewer_is_not_installed(name: str) -> None:
    assert find_spec(name) is None


def test_version_is_the_installed_one() -> None:
    assert napari_lesionseg.__version__ == metadata.version("napari-lesionseg")


@pytest.mark.parametrize(
    "name", ["__init__.pyi", "py.typed", "napari.yaml", "recipes/default.json", "cli/__init__.py"]
)
def test_package_contains(name: str) -> None:
    assert (resources.files("napari_lesionseg") / name).is_file()


def test_package_contains_a_small_model() -> None:
    models = list((Path(napari_lesionseg.__file__).parent / "weights").glob("*.safetensors"))
    assert models
    assert sum(file.stat().st_size for file in models) <= MAX_WEIGHTS_BYTES


def test_entry_points_are_declared() -> None:
    own = metadata.distribution("napari-lesionseg").entry_points
    assert {(entry.group, entry.name) for entry in own} == {
        ("console_scripts", "lesionseg"),
        ("napari.manifest", "napari-lesionseg"),
        ("napari_lesionseg.viewer", "viewer"),
    }
