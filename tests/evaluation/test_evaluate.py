from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import DeviceError, PairingError
from napari_lesionseg.evaluation.evaluate import (
    FailedImage,
    ImageResult,
    collect,
    evaluate,
    iter_evaluate,
    measure_pair,
)
from napari_lesionseg.evaluation.metrics import score_masks
from napari_lesionseg.io.pairing import PairSearch, find_pairs
from napari_lesionseg.types import Pair

RAW = PostprocessConfig(fill_holes=False, largest_only=False, min_area=0)


@dataclass(frozen=True)
class FakeCard:
    name: str = "darker than gray"
    threshold: float = 0.5
    classes: tuple[str, ...] = ("background", "lesion")


@dataclass
class DarkIsLesion:
    """The darker the red channel, the more probable the lesion."""

    card: FakeCard = field(default_factory=FakeCard)
    sha256: str = "0" * 64
    seen: int = 0

    def predict(self, image: np.ndarray) -> np.ndarray:
        self.seen += 1
        return (1 - image[..., 0] / np.float32(255)).astype(np.float32)


@dataclass
class ChannelsAreClasses:
    """Red, green and blue are the probabilities of three classes."""

    card: FakeCard = field(
        default_factory=lambda: FakeCard("channels", classes=("background", "nevus", "veil", "milia"))
    )
    sha256: None = None

    def predict(self, image: np.ndarray) -> np.ndarray:
        lesion = image.transpose(2, 0, 1).astype(np.float32) / 255
        return np.concatenate([1 - lesion.sum(axis=0, keepdims=True), lesion])


def write_pair(folder: Path, stem: str, image: np.ndarray, mask: np.ndarray) -> Pair:
    pair = Pair(stem, folder / f"{stem}.png", folder / f"{stem}_segmentation.png")
    Image.fromarray(image).save(pair.image)
    Image.fromarray(mask).save(pair.mask)
    return pair


def dark_square(folder: Path, stem: str, shift: int) -> Pair:
    """Write an image whose dark square lies ``shift`` pixels to the right of the true one."""
    image = np.full((40, 60, 3), 200, np.uint8)
    image[10:30, 10 + shift : 30 + shift] = 30
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 10:30] = 255
    return write_pair(folder, stem, image, mask)


@pytest.fixture
def pairs(tmp_path: Path) -> list[Pair]:
    return [dark_square(tmp_path, f"square{shift}", shift) for shift in (0, 2, 10)]


def test_scores_of_every_image_and_their_mean(pairs: list[Pair]) -> None:
    evaluation = evaluate(DarkIsLesion(), pairs)
    jaccards = [image.scores.jaccard for image in evaluation.images]
    assert jaccards == pytest.approx([1, 18 / 22, 10 / 30])
    assert [image.stem for image in evaluation.images] == ["square0", "square2", "square10"]
    assert evaluation.summary.jaccard.mean == pytest.approx(np.mean(jaccards))
    assert evaluation.summary.failure_rate.mean == pytest.approx(1 / 3)
    assert (evaluation.model, evaluation.model_sha256) == ("darker than gray", "0" * 64)
    assert evaluation.failed_inputs == ()
    assert evaluation.classes == ()


def test_quality_is_told(pairs: list[Pair]) -> None:
    (result, *_) = evaluate(DarkIsLesion(), pairs).images
    inside, outside = 225 / 255, 55 / 255
    assert result.quality == pytest.approx(400 * inside / (400 + 2000 * outside), rel=1e-5)


def test_bad_images_are_listed_and_the_others_measured(pairs: list[Pair], tmp_path: Path) -> None:
    broken = Pair("broken", tmp_path / "broken.png", pairs[0].mask)
    broken.image.write_bytes(b"no image at all")
    misfit = write_pair(tmp_path, "misfit", np.zeros((8, 8, 3), np.uint8), np.zeros((9, 9), np.uint8))
    missing = Pair("missing", tmp_path / "missing.png", tmp_path / "missing_mask.png")
    evaluation = evaluate(DarkIsLesion(), [broken, pairs[0], misfit, missing, pairs[1]])
    assert [image.stem for image in evaluation.images] == ["square0", "square2"]
    assert [failed.stem for failed in evaluation.failed_inputs] == ["broken", "misfit", "missing"]
    assert all(failed.reason for failed in evaluation.failed_inputs)
    assert evaluation.summary.images == 2


def test_an_image_too_large_for_the_device_is_listed(pairs: list[Pair]) -> None:
    class OutOfMemory(DarkIsLesion):
        def predict(self, image: np.ndarray) -> np.ndarray:
            raise DeviceError("The image does not fit into the memory.")

    evaluation = evaluate(OutOfMemory(), pairs)
    assert evaluation.summary is None
    assert evaluation.images == ()
    assert evaluation.failed_inputs[0] == FailedImage("square0", "The image does not fit into the memory.")


def test_an_error_in_the_model_is_not_swallowed(pairs: list[Pair]) -> None:
    class Broken(DarkIsLesion):
        def predict(self, image: np.ndarray) -> np.ndarray:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        evaluate(Broken(), pairs)


def test_nothing_to_measure_is_an_error() -> None:
    with pytest.raises(PairingError, match="no images"):
        evaluate(DarkIsLesion(), [])


def test_only_pairs_can_be_measured(pairs: list[Pair]) -> None:
    for wrong in (["a.png"], [("a.png", "b.png")], PairSearch(tuple(pairs), ()), 5):
        with pytest.raises(PairingError, match=r"\.pairs"):
            evaluate(DarkIsLesion(), wrong)  # type: ignore[arg-type]


def test_work_is_done_one_by_one_so_that_it_can_be_stopped(pairs: list[Pair]) -> None:
    model = DarkIsLesion()
    outcomes = iter_evaluate(model, pairs)
    first = next(outcomes)
    assert isinstance(first, ImageResult)
    assert model.seen == 1
    evaluation = collect(model, [first])
    assert evaluation.summary.images == 1


@pytest.mark.parametrize(("asked", "setting", "used"), [(0.9, 0.1, 0.9), (None, 0.1, 0.1), (None, None, 0.5)])
def test_threshold_in_force(
    pairs: list[Pair], asked: float | None, setting: float | None, used: float
) -> None:
    config = PostprocessConfig(threshold=setting)
    evaluation = evaluate(DarkIsLesion(), pairs, postprocess=config, threshold=asked)
    assert evaluation.threshold == used
    jaccard = evaluation.images[0].scores.jaccard
    assert jaccard == pytest.approx({0.9: 0, 0.1: 400 / 2400, 0.5: 1}[used])


def test_cleaning_is_on_unless_switched_off(tmp_path: Path) -> None:
    image = np.full((40, 60, 3), 200, np.uint8)
    image[10:30, 10:30] = 30
    image[15:17, 15:17] = 200
    image[2:4, 50:52] = 30
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 10:30] = 255
    pair = write_pair(tmp_path, "specks", image, mask)
    assert evaluate(DarkIsLesion(), [pair]).images[0].scores.jaccard == 1
    assert evaluate(DarkIsLesion(), [pair], postprocess=RAW).images[0].scores.jaccard == 396 / 404


def test_everything_can_be_written_as_json(pairs: list[Pair]) -> None:
    failing = Pair("missing", Path("missing.png"), Path("missing_mask.png"))
    evaluation = evaluate(DarkIsLesion(), [*pairs, failing])
    back = json.loads(json.dumps(evaluation.to_json()))
    assert back["images"][1]["scores"]["jaccard"] == evaluation.images[1].scores.jaccard
    assert back["images"][2]["scores"]["failed"] is True
    assert back["failed_inputs"][0]["stem"] == "missing"
    assert back["summary"]["dice"]["low"] <= back["summary"]["dice"]["mean"]


def test_classes_are_measured_too(tmp_path: Path) -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[5:35, 5:35, 0] = 255
    image[10:20, 10:30] = [0, 255, 0]
    truth = np.zeros((40, 60), np.uint8)
    truth[5:35, 5:35] = 1
    truth[10:20, 10:20] = 2
    pair = write_pair(tmp_path, "classes", image, truth)
    evaluation = evaluate(ChannelsAreClasses(), [pair])
    assert evaluation.model_sha256 is None
    (result,) = evaluation.images
    assert result.scores.jaccard == 1
    assert [scores.name for scores in result.classes] == ["nevus", "veil", "milia"]
    assert [scores.jaccard for scores in result.classes] == [700 / 800, 100 / 200, 1]
    assert [(means.images, means.jaccard) for means in evaluation.classes] == [
        (1, 700 / 800),
        (1, 0.5),
        (0, None),
    ]


def test_a_mask_with_an_unknown_class_is_listed(tmp_path: Path) -> None:
    truth = np.zeros((40, 60), np.uint8)
    truth[5:35, 5:35] = 7
    truth[5:7, 5:7] = 1
    pair = write_pair(tmp_path, "unknown", np.zeros((40, 60, 3), np.uint8), truth)
    (failed,) = evaluate(ChannelsAreClasses(), [pair]).failed_inputs
    assert "class 7" in failed.reason


def test_what_led_to_a_result_can_be_had(pairs: list[Pair]) -> None:
    measured = measure_pair(DarkIsLesion(), pairs[1])
    assert measured.probability.shape == measured.predicted.shape == measured.truth.shape == (40, 60)
    assert score_masks(measured.predicted, measured.truth) == measured.result.scores


def test_real_images_with_dark_lesions(real_data: Path) -> None:
    search = find_pairs(real_data / "ph2-sample")
    evaluation = evaluate(DarkIsLesion(), search.pairs[:4], threshold=0.4)
    assert evaluation.failed_inputs == ()
    assert evaluation.summary.images == 4
    assert evaluation.summary.jaccard.mean > 0.3
