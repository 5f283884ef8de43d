from __future__ import annotations

from napari_lesionseg.evaluation.metrics import Estimate
from napari_lesionseg.finetuning.comparison import Change
from napari_lesionseg.plugin.workbench.finetune_report import describe_change


def test_next_to_nothing_has_no_minus() -> None:
    change = Change(0.9, 0.9, Estimate(-0.0001, -0.0004, 0.002))
    assert describe_change(change) == "Agreement +0.000 (95 % interval +0.000 to +0.002)"


def test_one_image_has_no_interval() -> None:
    change = Change(0.9, 0.95, Estimate(0.05, None, None))
    assert describe_change(change) == "Agreement +0.050; a single image is a weak test"
