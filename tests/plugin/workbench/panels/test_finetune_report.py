from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from napari_lesionseg.evaluation.metrics import Estimate
from napari_lesionseg.finetuning.comparison import Change, Comparison
from napari_lesionseg.models.store import FOLDER_VARIABLE
from napari_lesionseg.plugin.workbench.panels.finetune_report import (
    describe_change,
    describe_result,
    suggest_name,
)


def test_next_to_nothing_has_no_minus() -> None:
    change = Change(0.9, 0.9, Estimate(-0.0001, -0.0004, 0.002))
    assert describe_change(change) == "Change of the mean Dice index: +0.000 (95 % interval +0.000 to +0.002)"


def test_one_image_has_no_interval() -> None:
    change = Change(0.9, 0.95, Estimate(0.05, None, None))
    assert describe_change(change) == "Change of the mean Dice index: +0.050; a single image is a weak test"


def compared(count: int, mean: float, low: float | None) -> Comparison:
    change = Change(0.871, 0.871 + mean, Estimate(mean, low, None if low is None else 2 * mean - low))
    return Comparison(change, change, change, (None,) * count)  # type: ignore[arg-type]  # only counted


def test_better_is_what_the_interval_shows() -> None:
    text = describe_result(compared(20, 0.04, 0.01))
    assert text.splitlines() == [
        "The new model is better.",
        "Agreement with your outlines: 87.1% with the old model, 91.1% with the new one (20 images, outlined "
        "by models that had not seen them).",
    ]


def test_a_gain_that_could_be_chance_is_called_one() -> None:
    assert "could be chance" in describe_result(compared(20, 0.04, -0.01))


def test_no_gain_is_called_none() -> None:
    assert "is no better" in describe_result(compared(20, -0.01, -0.02))


def test_few_images_say_little() -> None:
    assert "With 3 images, this says little" in describe_result(compared(3, 0.04, 0.01))
    assert "too few images" in describe_result(None)


def test_a_new_model_gets_a_name_that_no_model_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    day = date(2026, 11, 29)
    assert suggest_name("our clinic", day) == "our clinic 2026-11-29"
    (tmp_path / "our clinic 2026-11-29.safetensors").touch()
    assert suggest_name("our clinic", day) == "our clinic 2026-11-29-2"
    assert suggest_name("our clinic 2026-11-29-2", date(2026, 12, 1)) == "our clinic 2026-12-01"
    assert len(suggest_name("a" * 100, day)) < 100
