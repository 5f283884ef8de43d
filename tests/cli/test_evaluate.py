from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from napari_lesionseg.datasets.synthetic import synthetic_sample
from napari_lesionseg.io.images import write_image, write_mask
from napari_lesionseg.masks.plausibility import INVERTED
from napari_lesionseg.models.checkpoint import read_card


@pytest.fixture
def masks(images: Path, tmp_path: Path) -> Path:
    """Masks of both images: all of the first, half of the second."""
    folder = tmp_path / "masks"
    folder.mkdir()
    write_mask(folder / "plain_segmentation.png", np.ones((40, 50), np.uint8))
    half = np.zeros((33, 60), np.uint8)
    half[:, :30] = 1
    write_mask(folder / "IMD 7 [b] ñ_mask.png", half)
    return folder


def test_figures_can_be_printed(run: Callable, images: Path, masks: Path, tmp_path: Path) -> None:
    words = ("evaluate", images, "--masks", masks, "--model", "tiny", "--threshold", "0.01", "--json")
    printed = json.loads(run(*words, "-").out)
    assert run(*words, tmp_path / "scores.json").code == 0
    assert printed == json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))


def sample_with_mask(folder: Path, number: int) -> tuple[NDArray[np.bool_], Path]:
    """Write a synthetic image; return its mask and where that belongs."""
    for name in ("images", "masks"):
        (folder / name).mkdir(exist_ok=True)
    sample = synthetic_sample(number, (64, 80))
    write_image(folder / "images" / f"p{number}.png", sample.image)
    return sample.mask > 0, folder / "masks" / f"p{number}.png"


def test_a_mask_in_which_white_means_something_else_is_named(run: Callable, tmp_path: Path) -> None:
    """The import of the same folder leaves the same masks out."""
    for number in range(4):
        mask, path = sample_with_mask(tmp_path, number)
        values = {1: np.where(mask, 255, 1), 2: np.where(mask, 2, 0)}.get(number, 255 * mask)
        Image.fromarray(values.astype(np.uint8)).save(path)
    result = run("evaluate", tmp_path / "images", "--masks", tmp_path / "masks")
    assert result.code == 1
    assert sorted(result.errors) == [
        f"lesionseg: {tmp_path / 'masks/p1.png'}: "
        "The mask has pixels to be ignored, 255, which is the lesion in most others.",
        f"lesionseg: {tmp_path / 'masks/p2.png'}: "
        "The mask holds class indices, while most others are black and white.",
    ]
    assert "on 2 images" in result.out


def test_a_doubtful_mask_is_measured_and_named(run: Callable, tmp_path: Path) -> None:
    for number in range(3):
        mask, path = sample_with_mask(tmp_path, number)
        write_mask(path, ~mask if number == 1 else mask)
    result = run("evaluate", tmp_path / "images", "--masks", tmp_path / "masks")
    assert result.code == 1
    assert [error.partition(": ")[2] for error in result.errors] == [f"p1: {INVERTED}"]
    assert "on 3 images" in result.out


def test_table_and_figures(run: Callable, images: Path, masks: Path, tmp_path: Path) -> None:
    file = tmp_path / "scores æ.json"
    result = run(
        "evaluate", images, "--masks", masks, "--model", "tiny", "--threshold", "0.01", "--json", file
    )
    assert result.code == 0
    assert not result.err
    assert "tiny [/b] on 2 images, threshold 0.01" in result.out
    for row in ("Dice", "Jaccard", "0.65", "failure rate", "sensitivity", "specificity", "HD95"):
        assert row in result.out
    assert "0.750" in result.out  # mean Jaccard of 1 and 1/2
    figures = json.loads(file.read_text(encoding="utf-8"))
    assert [entry["stem"] for entry in figures["images"]] == ["IMD 7 [b] ñ", "plain"]
    assert [entry["scores"]["jaccard"] for entry in figures["images"]] == [0.5, 1.0]
    assert figures["threshold"] == 0.01
    assert len(figures["model_sha256"]) == 64


def test_one_image_has_no_interval(run: Callable, images: Path, masks: Path) -> None:
    (images / "plain.png").unlink()
    (masks / "plain_segmentation.png").unlink()
    result = run("evaluate", images, "--masks", masks, "--threshold", "0.01")
    assert result.code == 0
    assert "on 1 images" in result.out
    assert "0.500" in result.out


def test_images_without_a_mask(run: Callable, images: Path, masks: Path) -> None:
    (masks / "plain_segmentation.png").unlink()
    result = run("evaluate", images, "--masks", masks)
    assert result.code == 1
    assert result.errors == [f"lesionseg: {images / 'plain.png'} has no mask."]
    assert "on 1 images" in result.out


def test_what_cannot_be_measured_is_named(run: Callable, images: Path, masks: Path) -> None:
    (images / "plain.png").write_text("not an image")
    write_mask(masks / "IMD 7 [b] ñ_mask.png", np.zeros((5, 5), np.uint8))
    result = run("evaluate", images, "--masks", masks)
    assert result.code == 1
    assert len(result.errors) == 3
    assert "plain.png: " in result.err
    assert "5 x 5" in result.err
    assert "No image could be measured" in result.errors[-1]
    assert not result.out


def test_classes_have_rows_of_their_own(
    run: Callable, save_model: Callable, images: Path, masks: Path, models: Path
) -> None:
    save_model(models / "three.safetensors", name="three", classes=("skin", "nevus [/x]", "melanoma"))
    result = run("evaluate", images, "--masks", masks, "--model", "three", "--threshold", "0.05")
    assert result.code == 0
    assert "Jaccard of nevus [/x]" in result.out


def test_masks_beside_the_images(run: Callable, images: Path) -> None:
    Image.new("1", (50, 40), 1).save(images / "plain_lesion.bmp")
    result = run("evaluate", images)
    assert result.code == 1
    assert "on 1 images" in result.out


def test_wrong_usage(run: Callable, images: Path, masks: Path, tmp_path: Path) -> None:
    for words in (
        (tmp_path / "none",),
        (images, "--masks", tmp_path / "none"),
        (images, "--masks", masks, "--model", "none"),
        (images, "--masks", masks, "--json", tmp_path / "none" / "scores.json"),
    ):
        result = run("evaluate", *words)
        assert result.code == 2
        assert len(result.errors) == 1


def test_lesions_are_counted(run: Callable, images: Path, masks: Path, tmp_path: Path) -> None:
    two = np.zeros((33, 60), np.uint8)
    two[2:10, 2:10] = two[20:30, 40:58] = 1
    write_mask(masks / "IMD 7 [b] ñ_mask.png", two)
    file = tmp_path / "scores.json"
    words = ("--masks", masks, "--threshold", "0.01", "--instances", "--json", file)
    result = run("evaluate", images, *words)
    assert result.code == 0
    assert "3 lesions" in result.out
    figures = json.loads(file.read_text(encoding="utf-8"))["instances"]
    # everything is lesion at this threshold: the whole image "plain" is found, two lesions are missed
    assert figures["lesions"] == 3
    assert (figures["precision"], figures["recall"]) == (0.5, pytest.approx(1 / 3))
    assert figures["mean_jaccard"] == 1
    assert 0 < figures["average_precision"] < 1


def test_panoptic_quality(
    run: Callable, save_model: Callable, images: Path, masks: Path, models: Path, tmp_path: Path
) -> None:
    save_model(models / "three.safetensors", name="three", classes=("skin", "nevus", "hair"))
    file = tmp_path / "scores.json"
    words = ("--masks", masks, "--model", "three", "--panoptic", "--stuff", "hair", "--json", file)
    result = run("evaluate", images, *words)
    assert result.code == 0
    assert "panoptic quality" in result.out
    figures = json.loads(file.read_text(encoding="utf-8"))["panoptic"]
    assert set(figures) == {"quality", "quality_of_things", "quality_of_stuff"}
    assert all(0 <= value <= 1 for value in figures.values())
    wrong = run("evaluate", images, *words[:-4], "--stuff", "wart")
    assert wrong.code == 2
    assert "no class 'wart'" in wrong.err


def test_panoptic_quality_of_a_perfect_model_is_one(run: Callable, images: Path, masks: Path) -> None:
    write_mask(masks / "IMD 7 [b] ñ_mask.png", np.ones((33, 60), np.uint8))
    result = run("evaluate", images, "--masks", masks, "--threshold", "0.01", "--panoptic")
    assert result.code == 0
    assert result.out.count("1.000") >= 3


def test_tune_names_missing_folders_of_masks(
    run: Callable, images: Path, masks: Path, tmp_path: Path
) -> None:
    result = run("tune", "tiny", images, images, "--masks", masks, "--out", tmp_path / "tuned.safetensors")
    assert result.code != 0
    assert result.errors == [
        "lesionseg: Give one folder of masks for each folder of images, in the same order."
    ]


def test_tune_writes_a_model_with_threshold_and_temperature(
    run: Callable, images: Path, masks: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tuned.safetensors"
    words = ("--masks", masks, "--out", out, "--name", "tuned", "--test-time-augmentation")
    result = run("tune", "tiny", images, *words)
    assert result.code == 0
    card = read_card(out)
    assert card.name == "tuned"
    assert card.test_time_augmentation
    assert f"threshold: {card.threshold:.4f}" in result.out
    assert f"temperature: {card.temperature:.4f}" in result.out
    assert card.scores[images.name]["images"] == 2
