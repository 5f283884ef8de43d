from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import special

from napari_lesionseg.errors import MaskError, TrainingError
from napari_lesionseg.evaluation.calibration import (
    THRESHOLDS,
    calibration_error,
    expected_calibration_error,
    fit_temperature,
    jaccard_curve,
    reliability_table,
    tune,
)
from napari_lesionseg.io.images import write_image, write_mask
from napari_lesionseg.types import Pair


def test_table_counts_every_pixel_once() -> None:
    probability = np.array([[0.0, 0.1, 0.5, 0.74, 0.75, 1.0]], np.float32)
    truth = np.array([[0, 1, 0, 255, 255, 255]], np.uint8)
    table = reliability_table([probability], [truth], n_bins=4)
    assert [part.pixels for part in table] == [2, 0, 2, 2]
    assert [part.low for part in table] == [0, 0.25, 0.5, 0.75]
    assert table[0].predicted == pytest.approx(0.05)
    assert table[0].observed == 0.5
    assert (table[1].predicted, table[1].observed) == (0.375, 0.375)
    assert table[3].high == 1
    assert calibration_error(table) == pytest.approx((2 * 0.45 + 2 * 0.12 + 2 * 0.125) / 6)


def test_images_add_up_and_may_differ_in_size(rng: np.random.Generator) -> None:
    images = [rng.random((5, 7)).astype(np.float32), rng.random((9, 4)).astype(np.float32)]
    truths = [rng.random(image.shape) < 0.5 for image in images]
    flat = reliability_table(
        [np.concatenate([p.ravel() for p in images])[None]],
        [np.concatenate([t.ravel() for t in truths])[None]],
    )
    for ours, all_at_once in zip(reliability_table(iter(images), iter(truths)), flat, strict=True):
        assert ours.pixels == all_at_once.pixels
        assert ours.predicted == pytest.approx(all_at_once.predicted)


def test_calibrated_probabilities_have_no_error(rng: np.random.Generator) -> None:
    probability = rng.random((400, 500)).astype(np.float32)
    truth = rng.random(probability.shape) < probability
    assert expected_calibration_error([probability], [truth]) < 0.01
    assert expected_calibration_error([probability**2], [truth]) > 0.1


def test_probabilities_that_are_always_wrong_have_the_whole_error() -> None:
    probability = np.array([[0.0, 1.0]], np.float32)
    assert expected_calibration_error([probability], [np.array([[1, 0]])]) == 1


def test_no_images_have_no_error() -> None:
    assert expected_calibration_error([], []) == 0


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_again(rng: np.random.Generator, temperature: float) -> None:
    logits = rng.normal(0, 3, (300, 400))
    truth = rng.random(logits.shape) < special.expit(logits)
    assert fit_temperature([logits * temperature], [truth]) == pytest.approx(temperature, rel=0.03)


def test_a_share_of_the_pixels_is_enough_and_the_choice_repeats(rng: np.random.Generator) -> None:
    logits = rng.normal(0, 3, (300, 400))
    truth = rng.random(logits.shape) < special.expit(logits)
    first = fit_temperature([2 * logits], [truth], max_pixels=20_000, seed=1)
    assert first == fit_temperature([2 * logits], [truth], max_pixels=20_000, seed=1)
    assert first == pytest.approx(2, rel=0.1)


def test_huge_logits_do_no_harm() -> None:
    logits = np.array([[-2000.0, 2000.0, 3.0, -3.0]])
    assert 0.05 <= fit_temperature([logits], [np.array([[0, 1, 1, 0]])]) < 0.1


def test_masks_must_fit() -> None:
    with pytest.raises(MaskError, match="does not fit"):
        reliability_table([np.zeros((2, 3), np.float32)], [np.zeros((3, 2))])
    with pytest.raises(MaskError, match="does not fit"):
        fit_temperature([np.zeros((2, 3))], [np.zeros((3, 2))])
    with pytest.raises(MaskError, match="no pixels"):
        fit_temperature([], [])
    with pytest.raises(ValueError, match="zip"):
        reliability_table([np.zeros((2, 3), np.float32)], [])


class OverconfidentModel:
    """Answers with the odds that the red channel tells, three times overconfident."""

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
    counted: list[int] = []
    found = tune(SureModel(), pairs, lambda: counted.append(1))
    assert len(counted) == len(pairs)
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
