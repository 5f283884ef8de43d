"""A short run of the fuzzer: damaged files give clear errors only."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fuzz.parsers import TARGETS, fuzz


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_damaged_files_are_read_or_refused(name: str) -> None:
    outcome = fuzz(TARGETS[name], 120, seed=5)
    assert outcome.other == ()
    assert outcome.read + outcome.refused == 120


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_sound_files_are_read(name: str, tmp_path: Path) -> None:
    for number, seed in enumerate(TARGETS[name].seeds):
        (tmp_path / str(number)).mkdir()
        TARGETS[name].run(seed, tmp_path / str(number))
