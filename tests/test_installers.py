"""The installer's scripts, as far as they can run without a built program."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINUX = ROOT / "installers" / "linux"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the scripts are those of Linux")


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """An unpacked archive with a program that only prints its arguments."""
    folder = tmp_path / "down loads" / "lesionseg"
    shutil.copytree(LINUX, folder)
    shutil.copy(ROOT / "docs" / "images" / "logo.svg", folder / "lesionseg.svg")
    program = folder / "lesionseg"
    program.write_text('#!/bin/sh\necho "started $*"\n')
    program.chmod(0o755)
    return folder


def run(script: Path, prefix: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(prefix.parent), "PREFIX": str(prefix)}
    return subprocess.run(["sh", script], capture_output=True, text=True, env=environment)


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def test_install_adds_a_command_a_menu_entry_and_an_icon(unpacked: Path, tmp_path: Path) -> None:
    prefix = tmp_path / "pre fix"
    assert run(unpacked / "install.sh", prefix).returncode == 0
    started = subprocess.run([prefix / "bin" / "lesionseg", "images"], capture_output=True, text=True)
    assert started.stdout == "started images\n"
    entry = (prefix / "share" / "applications" / "lesionseg.desktop").read_text()
    assert f'Exec="{prefix}/lib/lesionseg/lesionseg" %f' in entry
    assert (prefix / "share" / "icons" / "hicolor" / "scalable" / "apps" / "lesionseg.svg").is_file()


def test_install_again_replaces_the_old_version(unpacked: Path, tmp_path: Path) -> None:
    run(unpacked / "install.sh", tmp_path / "prefix")
    (tmp_path / "prefix" / "lib" / "lesionseg" / "old").touch()
    assert run(unpacked / "install.sh", tmp_path / "prefix").returncode == 0
    assert not (tmp_path / "prefix" / "lib" / "lesionseg" / "old").exists()


def test_uninstall_removes_everything_and_nothing_else(unpacked: Path, tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    other = prefix / "bin" / "other"
    other.parent.mkdir(parents=True)
    other.touch()
    run(unpacked / "install.sh", prefix)
    assert run(prefix / "lib" / "lesionseg" / "uninstall.sh", prefix).returncode == 0
    assert {name for name in files_in(prefix) if not name.endswith("mimeinfo.cache")} == {"bin/other"}


def test_uninstall_does_not_remove_a_folder_that_is_not_installed(unpacked: Path, tmp_path: Path) -> None:
    done = run(unpacked / "uninstall.sh", tmp_path / "prefix")
    assert done.returncode == 1
    assert "Run uninstall.sh in the folder where LesionSeg was installed" in done.stderr
    assert (unpacked / "lesionseg").exists()
