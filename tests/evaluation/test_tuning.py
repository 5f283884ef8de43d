from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import special

from napari_lesionseg.errors import TrainingError
from napari_lesionseg.evaluation.tuning import THRESHOLDS, jaccard_curve, tune
from napari_lesionseg.io.images import write_image, write_mask
from napari_lesionseg.types import Pair


class OverconfidentModel:
    """Answers with the odds that the red channel tells, three times too sure of itself."""

    card = SimpleNamespace(classes=("background", "lesion"), temperature=1.0)

    def predict(self, image):
        odds = (image[..., 0].astype(np.float32) - 128) / 32
        return special.expit(3 * odds).astype(np.float32)


@pytest.fixture
def pairs(tmp_path, rng):
    made = []
    for index in range(6):
        red = rng.integers(0, 256, (48, 64))
        lesion = rng.random((48, 64)) < special.expit((red - 128) / 32)
        image = np.repeat(red[..., None], 3, axis=2).astype(np.uint8)
        write_image(tmp_path / f"{index}.png", image)
        write_mask(tmp_path / f"{index}_mask.png", lesion.astype(np.uint8))
        made.append(Pair(str(index), tmp_path / f"{index}.png", tmp_path / f"{index}_mask.png"))
    return made


def test_temperature_undoes_overconfidence(pairs):
    found = tune(OverconfidentModel(), pairs)
    assert found.temperature == pytest.approx(3, rel=0.1)
    assert found.calibration_error < 0.25 * found.calibration_error_before


def test_threshold_is_the_best_of_all(pairs):
    found = tune(OverconfidentModel(), pairs)
    assert found.threshold in THRESHOLDS
    assert found.threshold < 0.5  # Jaccard rewards a generous outline where the truth is noisy
    assert found.jaccard > found.jaccard_at_half


class SureModel(OverconfidentModel):
    """Answers with one probability for red skin, another for the rest: all thresholds between do as well."""

    def predict(self, image):
        return np.where(image[..., 0] > 128, 0.75, 0.25).astype(np.float32)


def test_of_thresholds_that_do_as_well_the_highest_is_taken(pairs):
    found = tune(SureModel(), pairs)
    above = special.expit(special.logit(0.75) / found.temperature)
    assert found.threshold == max(t for t in THRESHOLDS if np.float32(t) <= np.float32(above))


def test_curve_agrees_with_counting(rng):
    probability = rng.random((20, 30)).astype(np.float32)
    truth = (rng.random((20, 30)) < probability).astype(np.uint8)
    for threshold, value in zip(THRESHOLDS, jaccard_curve(probability, truth, THRESHOLDS), strict=True):
        predicted = probability >= np.float32(threshold)
        assert value == pytest.approx((predicted & (truth > 0)).sum() / (predicted | (truth > 0)).sum())


def test_curve_of_an_empty_mask_is_one_where_nothing_is_predicted():
    curve = jaccard_curve(np.full((4, 4), 0.3, np.float32), np.zeros((4, 4), np.uint8), np.array([0.2, 0.5]))
    assert curve.tolist() == [0, 1]


def test_no_images_or_many_classes_are_refused(pairs):
    with pytest.raises(TrainingError, match="at least one"):
        tune(OverconfidentModel(), [])
    model = OverconfidentModel()
    model.card = SimpleNamespace(classes=("background", "nevus", "melanoma"), temperature=1.0)
    with pytest.raises(TrainingError, match="one class"):
        tune(model, pairs)
