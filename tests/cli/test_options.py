from __future__ import annotations

import pytest

from napari_lesionseg.cli.options import make_settings, parse_changes
from napari_lesionseg.config import FineTuneConfig
from napari_lesionseg.errors import TrainingError


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
    with pytest.raises(TrainingError, match=r"expert\.refit"):
        make_settings(FineTuneConfig, parse_changes(['expert={"refit": -1}']))
