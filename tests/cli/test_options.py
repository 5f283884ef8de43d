from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from napari_lesionseg.cli.options import find_all_pairs, install_model, make_settings, parse_changes
from napari_lesionseg.cluster.engine import InProcess
from napari_lesionseg.config import FineTuneConfig
from napari_lesionseg.errors import SettingsError


def test_later_settings_count_more_and_options_most() -> None:
    changes = parse_changes(["seed=2", "folds=4"])
    made = make_settings(FineTuneConfig, {"seed": 1, "rounds": 3}, changes, options={"folds": 5})
    assert (made.seed, made.rounds, made.folds) == (2, 3, 5)


def test_null_switches_off_and_an_option_that_was_not_given_changes_nothing() -> None:
    changes = parse_changes(["expert=null", "max_seconds=9"])
    made = make_settings(FineTuneConfig, changes, options={"max_seconds": None})
    assert made.expert is None
    assert made.max_seconds == 9


def test_a_wrong_setting_is_named() -> None:
    with pytest.raises(SettingsError, match=r"expert\.refit"):
        make_settings(FineTuneConfig, parse_changes(['expert={"refit": -1}']))


def test_pages_that_no_pair_uses_are_named_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [Image.new("L", (20, 12), value) for value in (0, 255)]
    for name in ("a", "b"):
        frames[0].save(tmp_path / f"{name}.png")
        frames[0].save(tmp_path / f"{name}_mask.tif", save_all=name == "b", append_images=frames[1:])
    pairs, unused = find_all_pairs([str(tmp_path)], [])
    assert (len(pairs), unused) == (2, 1)
    told = capsys.readouterr().err
    assert "b_mask.tif" in told
    assert "1 further page is left out" in " ".join(told.split())


def test_a_worker_that_cannot_take_part_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = InProcess()
    engine.problems = ("The worker tcp://one has no room.",)
    install_model(engine, tmp_path / "model.safetensors")
    assert engine.model == tmp_path / "model.safetensors"
    assert capsys.readouterr().err == "lesionseg: The worker tcp://one has no room.\n"
