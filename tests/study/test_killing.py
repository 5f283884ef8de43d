"""Killed at any moment, and with the power cut, a study is as before or as after; approved work is there.

The full run is asked for with ``LESIONSEG_KILLS=200``: that many kills at random moments (else 20), and every
point of the save path in three rounds of work instead of one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FULL_RUN = "LESIONSEG_KILLS" in os.environ

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the workers are forked"),
    pytest.mark.timeout(3600 if FULL_RUN else 300),
]

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
    "before opening of events",
    "before writing of events",
    "middle of writing of events",
    "after writing of events",
    "before fsync of events",
    "after fsync of events",
    "before fsync of folder events",
    "after fsync of folder events",
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


def test_killed_at_every_point_of_the_save_path(scratch: Path) -> None:
    found = kill(scratch, "points", rounds=3 if FULL_RUN else 1)
    assert found["failures"] == []
    assert found["kills"] >= (200 if FULL_RUN else 80)
    assert set(found["points"]) >= SAVE_PATH


def test_killed_at_any_moment(scratch: Path) -> None:
    found = kill(scratch, "random", rounds=12, times=RANDOM_KILLS)
    assert found["failures"] == []
    assert found["kills"] == RANDOM_KILLS


def test_the_power_cut_at_every_point(scratch: Path) -> None:
    """Only what was forced to the disk is left."""
    found = kill(scratch, "power", rounds=3 if FULL_RUN else 1)
    assert found["failures"] == []
    assert found["kills"] >= (200 if FULL_RUN else 80)


@pytest.mark.parametrize("writer", ["line_first", "mask_in_place", "events_in_place"])
def test_careless_writers_are_found_out(scratch: Path, writer: str) -> None:
    """The check above is worth something: it fails where saving is not done with care."""
    assert kill(scratch, "points", writer, stride=4)["failures"]


def test_a_writer_that_forces_nothing_to_the_disk_is_found_out(scratch: Path) -> None:
    assert kill(scratch, "power", "no_fsync", stride=5)["failures"]
