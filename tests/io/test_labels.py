"""What the values and colors of masks mean, whatever program wrote them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_lesionseg.datasets.import_ import read_dataset
from napari_lesionseg.errors import MaskError
from napari_lesionseg.io.decoding import decode
from napari_lesionseg.io.images import read_mask
from napari_lesionseg.io.labels import mask_colors
from napari_lesionseg.types import IGNORED

ROWS, COLUMNS = np.ogrid[:96, :128]
LESION = (ROWS - 48) ** 2 + (COLUMNS - 60) ** 2 < 24**2
OTHER = (ROWS - 20) ** 2 + (COLUMNS - 100) ** 2 < 12**2
SHAPE = LESION.shape


def save(path: Path, array: np.ndarray, palette: list[int] | None = None, **options: object) -> Path:
    image = Image.fromarray(np.asarray(array, np.uint8))
    if palette is not None:
        image = Image.frombytes("P", image.size, image.tobytes())
        image.putpalette(palette)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def soften(mask: np.ndarray) -> np.ndarray:
    """Return soft edges, 0 to 255."""
    small = Image.fromarray(mask.astype(np.uint8) * 255).resize((64, 48), Image.Resampling.BOX)
    return np.asarray(small.resize(SHAPE[::-1], Image.Resampling.BICUBIC))


def photograph(seed: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    blotches = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), np.uint8)
    return np.asarray(Image.fromarray(blotches).resize(shape[::-1], Image.Resampling.BICUBIC))


def rgb(red: np.ndarray, green: np.ndarray | int = 0, blue: np.ndarray | int = 0) -> np.ndarray:
    return np.stack(np.broadcast_arrays(red, green, blue), axis=-1).astype(np.uint8)


def rgba(color: tuple[int, int, int], alpha: np.ndarray, outside: tuple[int, int, int]) -> np.ndarray:
    colors = np.where((alpha > 0)[..., None], color, outside)
    return np.concatenate([colors, alpha[..., None]], axis=-1)


def with_border(labels: np.ndarray, value: int = IGNORED) -> np.ndarray:
    labels = labels.astype(np.uint8)
    labels[:4] = value
    return labels


@pytest.mark.parametrize(
    ("array", "palette"),
    [
        (LESION, [0, 0, 0, 255, 0, 0]),
        (~LESION, [255, 0, 0, 0, 0, 0]),
        (~LESION, [255, 255, 255, 0, 0, 0]),
        (np.where(LESION, 9, 5), [255, 0, 0] * 5 + [0, 0, 0] + [9, 9, 9] * 3 + [255, 0, 0]),
        (LESION, [0, 0, 0, 255, 255, 255]),
        (rgb(LESION * 255), None),
        (rgb(LESION * 100), None),
        (rgb(soften(LESION)), None),
        (rgb(soften(LESION), soften(LESION)), None),
        (soften(LESION), None),
        (rgba((0, 0, 0), LESION * 255, (0, 0, 0)), None),
        (rgba((255, 255, 255), LESION * 255, (255, 255, 255)), None),
        (rgba((255, 0, 0), LESION * 77, (255, 0, 0)), None),
        (rgba((255, 0, 0), LESION * 255, (255, 255, 255)), None),
    ],
)
def test_a_lesion_is_found_however_it_is_written(
    tmp_path: Path, array: np.ndarray, palette: list[int] | None
) -> None:
    labels = read_mask(save(tmp_path / "a.png", array, palette))
    soft_edges = len(np.unique(array)) > 9
    expected = soften(LESION) > 127 if soft_edges else LESION
    assert np.array_equal(labels, expected)


def test_transparent_colors_of_a_palette_are_no_lesion(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", LESION, [255, 255, 255] * 2, transparency=0)
    assert np.array_equal(read_mask(path), LESION)


@pytest.mark.parametrize(
    ("array", "palette"),
    [
        (with_border(LESION * 2), None),
        (with_border(LESION * 2), [0, 0, 0, 128, 0, 0, 0, 128, 0] + [0] * 252 * 3 + [224, 224, 192]),
        (with_border(LESION * 2), [0, 0, 0, 128, 128, 128, 255, 255, 255] + [0] * 252 * 3 + [99, 99, 99]),
    ],
)
def test_the_border_is_ignored_and_the_class_kept(
    tmp_path: Path, array: np.ndarray, palette: list[int] | None
) -> None:
    assert np.array_equal(read_mask(save(tmp_path / "a.png", array, palette)), with_border(LESION * 2))


def test_the_border_of_voc_in_colors_is_ignored(tmp_path: Path) -> None:
    colors = rgb(LESION * 128)
    colors[:4] = (224, 224, 192)
    assert np.array_equal(read_mask(save(tmp_path / "a.png", colors)), with_border(LESION))


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (with_border(LESION * 128), "areas of gray"),
        (np.where(LESION, 170, np.where(OTHER, 85, 0)) + 85 * (ROWS < 4), "areas of gray"),
        (rgb(np.full(SHAPE, 255), 255 - soften(LESION), 255 - soften(LESION)), "no black background"),
        (rgb(LESION * 255, ~LESION * 255), "no black background"),
        (rgba((0, 0, 0), ~LESION * 255, (255, 255, 255)), "transparent holes"),
    ],
)
def test_what_may_mean_the_opposite_is_refused(tmp_path: Path, array: np.ndarray, reason: str) -> None:
    with pytest.raises(MaskError, match=reason):
        read_mask(save(tmp_path / "a.png", array))


def test_class_indices_in_a_jpeg_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MaskError, match="too dark"):
        read_mask(save(tmp_path / "a.jpg", LESION * 2))
    assert not read_mask(save(tmp_path / "b.jpg", LESION * 0)).any()


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (rgb(0, 0, LESION * 120), "too dark"),
        (LESION * 120, "too dark"),
        (rgb(255, ~LESION * 255, ~LESION * 255), "no black background"),
        (rgb(LESION * 255, 0, ~LESION * 255), "no black background"),
    ],
)
def test_lossy_colors_without_black_and_white_are_refused(
    tmp_path: Path, array: np.ndarray, reason: str
) -> None:
    for options in ({"quality": 80}, {"quality": 95, "subsampling": 0}):
        with pytest.raises(MaskError, match=reason):
            read_mask(save(tmp_path / "a.jpg", array, **options))


@pytest.mark.parametrize("array", [LESION * 255, soften(LESION), rgb(LESION * 255), rgb(0, LESION * 200, 0)])
def test_lossy_lesions_on_black_are_read(tmp_path: Path, array: np.ndarray) -> None:
    labels = read_mask(save(tmp_path / "a.jpg", array, quality=80))
    assert np.count_nonzero(labels != LESION) <= 40


@pytest.mark.parametrize("gray", [85, 128, 170])
@pytest.mark.parametrize("quality", [40, 95])
def test_lossy_areas_of_gray_are_refused(tmp_path: Path, gray: int, quality: int) -> None:
    with pytest.raises(MaskError, match="areas of gray"):
        read_mask(save(tmp_path / "a.jpg", LESION * 255 + OTHER * gray, quality=quality))


@pytest.mark.parametrize("bits", [4, 8])
def test_a_bmp_of_two_colors_is_read_with_all_its_bits(tmp_path: Path, bits: int) -> None:
    """As programs write masks that have a palette of black and white."""
    rows = LESION[::-1].astype(np.uint8)
    pixels = (rows[:, ::2] << 4 | rows[:, 1::2] if bits == 4 else rows).tobytes()
    header = struct.pack("<IiiHHIIiiII", 40, 128, 96, 1, bits, 0, len(pixels), 0, 0, 2, 0)
    palette = bytes([0, 0, 0, 0, 255, 255, 255, 0])
    start = 14 + len(header) + len(palette)
    path = tmp_path / "a.bmp"
    path.write_bytes(
        b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + header + palette + pixels
    )
    assert np.array_equal(read_mask(path), LESION)


def test_the_order_of_a_palette_on_white_does_not_matter(tmp_path: Path) -> None:
    """Two programs save a red lesion on white: as class indices, and with the colors sorted."""
    indices = save(tmp_path / "a.png", LESION, [255, 255, 255, 255, 0, 0])
    assert np.array_equal(read_mask(indices), LESION)
    with pytest.raises(MaskError, match="no black background"):
        read_mask(save(tmp_path / "b.png", ~LESION, [255, 0, 0, 255, 255, 255]))


def both(red: np.ndarray, green: np.ndarray) -> np.ndarray:
    """Two lesions in colors that touch."""
    return rgb(np.where(green > red, 0, red), green)


SETS: dict[str, Callable[[], np.ndarray]] = {
    "hard": lambda: both(LESION * 255, OTHER * 255),
    "soft": lambda: both(soften(LESION), soften(OTHER)),
    "dark and soft": lambda: both(soften(LESION) // 2, soften(OTHER)),
    "few levels": lambda: both(soften(LESION) // 64 * 85, soften(OTHER) // 64 * 85),
    "thin lines": lambda: np.where((COLUMNS == 9)[..., None], (0, 0, 255), both(LESION * 255, OTHER * 255)),
    "with a border": lambda: np.where(
        (ROWS < 4)[..., None], (224, 224, 192), both(LESION * 255, OTHER * 255)
    ),
}


@pytest.mark.parametrize("name", SETS)
def test_colors_are_the_same_lesions_for_every_command(tmp_path: Path, name: str) -> None:
    save(tmp_path / "images" / "a.png", photograph(0))
    path = save(tmp_path / "masks" / "a.png", SETS[name]())
    (record,) = read_dataset(tmp_path).records
    labels, measured = record.load().labels, read_mask(path)
    assert np.array_equal(np.where(labels == IGNORED, IGNORED, labels > 0), measured)
    assert len(record.classes) == 3 + (name == "thin lines")
    assert {labels[48, 60], labels[20, 100]} == {1, 2} or name == "thin lines"


def test_soft_and_hard_masks_of_one_data_set_have_the_same_classes(tmp_path: Path) -> None:
    for number, name in enumerate(("hard", "soft")):
        save(tmp_path / "images" / f"{name}.png", photograph(number))
        save(tmp_path / "masks" / f"{name}.png", SETS[name]())
    hard, soft = (record.load().labels for record in read_dataset(tmp_path).records)
    assert np.mean(hard != soft) < 0.01


def test_a_photograph_has_no_colors_of_classes(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", photograph(1, (300, 400)))
    assert mask_colors(decode(path)) is None
    with pytest.raises(MaskError, match="photograph"):
        read_mask(path)
