"""A short run of benchmarks/fuzz.py: damaged files give clear errors only."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz.py"
spec = importlib.util.spec_from_file_location("fuzz", SCRIPT)
assert spec is not None
assert spec.loader is not None
fuzz = importlib.util.module_from_spec(spec)
sys.modules["fuzz"] = fuzz
spec.loader.exec_module(fuzz)


@pytest.mark.parametrize("name", sorted(fuzz.TARGETS))
def test_damaged_files_are_read_or_refused(name: str) -> None:
    outcome = fuzz.fuzz(fuzz.TARGETS[name], 120, seed=5)
    assert outcome.other == ()
    assert outcome.read + outcome.refused == 120


@pytest.mark.parametrize("name", sorted(fuzz.TARGETS))
def test_sound_files_are_read(name: str, tmp_path: Path) -> None:
    for number, seed in enumerate(fuzz.TARGETS[name].seeds):
        (tmp_path / str(number)).mkdir()
        fuzz.TARGETS[name].run(seed, tmp_path / str(number))
