"""Killed at any moment, and with the power cut, a study is as before or as after; approved work is there.

``LESIONSEG_KILLS`` sets the number of kills at random moments (20 where it is not set).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the victims are forked")

RANDOM_KILLS = int(os.environ.get("LESIONSEG_KILLS", "20"))
SAVE_PATH = {
    "before opening of mask",
    "before writing of mask",
    "middle of writing of mask",
    "after writing of mask",
    "before fsync of mask",
    "after fsync of mask",
    "before replacing of mask",
    "after replacing of mask",
    "before opening of journal",
    "before writing of journal",
    "middle of writing of journal",
    "after writing of journal",
    "before fsync of journal",
    "after fsync of journal",
    "before fsync of folder journal",
    "after fsync of folder journal",
}


def kill(base: Path, how: str, writer: str = "careful", **options: int) -> dict[str, Any]:
    script = Path(__file__).with_name("killing.py")
    command = [sys.executable, str(script), str(base), "--how", how, "--writer", writer]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_killed_at_every_point_of_the_save_path(tmp_path: Path) -> None:
    found = kill(tmp_path, "points", rounds=3)
    assert found["failures"] == []
    assert found["kills"] >= 200
    assert set(found["points"]) >= SAVE_PATH


def test_killed_at_any_moment(tmp_path: Path) -> None:
    found = kill(tmp_path, "random", rounds=30, times=RANDOM_KILLS)
    assert found["failures"] == []
    assert found["kills"] > RANDOM_KILLS // 2


def test_the_power_cut_at_every_point(tmp_path: Path) -> None:
    """Only what was forced to the disk is left."""
    found = kill(tmp_path, "power", rounds=2)
    assert found["failures"] == []
    assert found["kills"] >= 100


@pytest.mark.parametrize("writer", ["line_first", "mask_in_place", "journal_in_place"])
def test_careless_writers_are_found_out(tmp_path: Path, writer: str) -> None:
    """The check above is worth something: it fails where saving is not done with care."""
    assert kill(tmp_path, "points", writer, rounds=2, stride=3)["failures"]


def test_a_writer_that_forces_nothing_to_the_disk_is_found_out(tmp_path: Path) -> None:
    assert kill(tmp_path, "power", "no_fsync", stride=5)["failures"]
