from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from PIL import Image

from napari_lesionseg.errors import MaskError
from napari_lesionseg.io.images import read_mask
from napari_lesionseg.plugin.writers import write_labels
from napari_lesionseg.types import IGNORED


@pytest.fixture
def viewer(plugins: Any) -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def mask(spot: Any) -> np.ndarray:
    return (spot[..., 0] < 100).astype(np.uint8)


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("kind", [np.uint8, np.int64, bool])
def test_an_outline_becomes_8_bit_black_and_white(
    viewer: ViewerModel, tmp_path: Path, mask: np.ndarray, ending: Any, kind: Any
) -> None:
    path = tmp_path / f"IMD002_segmentation.{ending}"
    layer = viewer.add_labels(mask.astype(kind))
    assert layer.save(path, plugin="napari-lesionseg") == [str(path)]
    saved = np.asarray(Image.open(path))
    assert saved.dtype == np.uint8
    np.testing.assert_array_equal(saved, mask * 255)


def test_napari_takes_this_writer_for_png_by_itself(
    viewer: ViewerModel, tmp_path: Path, mask: np.ndarray
) -> None:
    path = tmp_path / "outline.png"
    assert viewer.add_labels(mask).save(path) == [str(path)]
    assert path.exists()


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_saved_outlines_come_back_as_they_were(
    viewer: ViewerModel, tmp_path: Path, mask: np.ndarray, ending: Any
) -> None:
    path = tmp_path / f"IMD002_segmentation.{ending}"
    viewer.add_labels(mask).save(path, plugin="napari-lesionseg")
    (opened,) = viewer.open(path, plugin="napari-lesionseg")
    np.testing.assert_array_equal(opened.data, mask)


def test_classes_keep_their_indices(viewer: ViewerModel, tmp_path: Path, mask: np.ndarray) -> None:
    mask[0:5, 0:5] = 2
    path = tmp_path / "classes_mask.png"
    viewer.add_labels(mask).save(path, plugin="napari-lesionseg")
    np.testing.assert_array_equal(np.asarray(Image.open(path)), mask)
    (opened,) = viewer.open(path, plugin="napari-lesionseg")
    np.testing.assert_array_equal(opened.data, mask)


def test_an_empty_outline_is_all_black(tmp_path: Path) -> None:
    write_labels(str(tmp_path / "none.png"), np.zeros((4, 5), dtype=np.uint8), {})
    assert not np.asarray(Image.open(tmp_path / "none.png")).any()


@pytest.mark.parametrize("highest", [1, 3])
def test_stacks_become_pages(tmp_path: Path, mask: np.ndarray, highest: Any) -> None:
    stack = np.stack([mask, mask * highest, mask * 0])
    write_labels(str(tmp_path / "stack.tif"), stack, {})
    saved = tifffile.imread(tmp_path / "stack.tif")
    assert saved.dtype == np.uint8
    np.testing.assert_array_equal(saved, stack * 255 if highest == 1 else stack)


def test_many_numbered_parts_fit_into_a_tiff(tmp_path: Path) -> None:
    labels = np.arange(4000).reshape(50, 80)
    write_labels(str(tmp_path / "parts.tif"), labels, {})
    saved = tifffile.imread(tmp_path / "parts.tif")
    assert saved.dtype == np.uint16
    np.testing.assert_array_equal(saved, labels)


@pytest.mark.parametrize(
    ("labels", "what"),
    [(np.arange(4000).reshape(50, 80), "labels up to 3999"), (np.zeros((3, 5, 5), dtype=int), "3 frames")],
)
def test_what_a_png_cannot_hold_is_refused_with_a_way_out(tmp_path: Path, labels: Any, what: Any) -> None:
    path = tmp_path / "parts.png"
    with pytest.raises(MaskError, match=f"a PNG cannot hold {what}; save it as .tif instead"):
        write_labels(str(path), labels, {})
    assert not path.exists()


@pytest.mark.parametrize("name", ["missing/outline.png", "missing/stack.tif"])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, name: Any) -> None:
    labels = np.zeros((2, 5, 5) if name.endswith("tif") else (5, 5), dtype=np.uint8)
    with pytest.raises(MaskError, match="cannot be written"):
        write_labels(str(tmp_path / name), labels, {})


def test_a_refused_mask_leaves_the_old_file(tmp_path: Path, mask: np.ndarray) -> None:
    path = tmp_path / "outline.png"
    write_labels(str(path), mask, {})
    before = path.read_bytes()
    with pytest.raises(MaskError):
        write_labels(str(path), mask.astype(int) * -1, {})
    assert path.read_bytes() == before


@pytest.mark.parametrize("by_napari", [True, False])
def test_a_multiscale_outline_is_saved_at_full_size(
    viewer: ViewerModel, tmp_path: Path, mask: np.ndarray, by_napari: bool
) -> None:
    path = tmp_path / "outline.png"
    levels = [mask, mask[::2, ::2]]
    if by_napari:
        viewer.add_labels(levels, multiscale=True).save(path, plugin="napari-lesionseg")
    else:
        write_labels(str(path), levels, {"multiscale": True})
    np.testing.assert_array_equal(np.asarray(Image.open(path)), mask * 255)


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("lesion", [1, 3])
def test_pixels_to_be_ignored_are_saved_and_read_again(
    tmp_path: Path, mask: np.ndarray, lesion: int, ending: str
) -> None:
    labels = mask * np.uint8(lesion)
    labels[0] = IGNORED
    path = tmp_path / f"outline.{ending}"
    write_labels(str(path), labels, {})
    np.testing.assert_array_equal(read_mask(path), labels)
