from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_lesionseg.io.images import write_mask


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
    result = run("evaluate", images, "--masks", masks, "--threshold", "0.01")
    assert result.code == 0
    assert "on 1 images" in result.out
    assert "0.500" in result.out


def test_images_without_a_mask(run: Callable, images: Path, masks: Path) -> None:
    (masks / "plain_segmentation.png").unlink()
    result = run("evaluate", images, "--masks", masks)
    assert result.code == 1
    assert result.errors == [f"lesionseg: {images / 'plain.png'}: has no mask"]
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
