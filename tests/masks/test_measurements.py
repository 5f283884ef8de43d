from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from napari_lesionseg.datasets.synthetic import synthetic_sample
from napari_lesionseg.errors import ImageError, MaskError
from napari_lesionseg.masks.measurements import (
    COLORS,
    Measurement,
    Scale,
    asymmetry,
    border_irregularity,
    color_shares,
    diameters,
    measure_instances,
    measurement_columns,
    perimeter,
    write_measurements,
)


def ellipse(long: float, short: float, angle: float = 0.0, side: int = 160) -> np.ndarray:
    rows, cols = np.mgrid[:side, :side] - (side - 1) / 2
    along = cols * math.cos(angle) + rows * math.sin(angle)
    across = rows * math.cos(angle) - cols * math.sin(angle)
    return (along / long) ** 2 + (across / short) ** 2 <= 1


def rectangle(height: int, width: int) -> np.ndarray:
    return np.pad(np.ones((height, width), dtype=bool), 3)


# -------------------------------------------------------------------------------------------- shape


@pytest.mark.parametrize("radius", [8, 20, 60])
def test_a_disc(radius: int) -> None:
    own = ellipse(radius, radius)
    longest, shortest = diameters(own)
    assert longest == pytest.approx(2 * radius, abs=1.5)
    assert shortest == pytest.approx(2 * radius, abs=1.5)
    assert perimeter(own) == pytest.approx(2 * math.pi * radius, rel=0.01)
    assert border_irregularity(perimeter(own), own.sum()) == pytest.approx(1, abs=0.02)
    assert asymmetry(own) < 0.02


@pytest.mark.parametrize("angle", [0, 0.4, math.pi / 4, 2])
def test_an_ellipse_however_it_lies(angle: float) -> None:
    own = ellipse(60, 30, angle)
    longest, shortest = diameters(own)
    assert longest == pytest.approx(120, abs=1.5)
    assert shortest == pytest.approx(60, abs=1.5)
    # Ramanujan's second approximation
    h = (30 / 90) ** 2
    around = math.pi * 90 * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))
    assert perimeter(own) == pytest.approx(around, rel=0.02)
    assert asymmetry(own) < 0.04


def test_rectangles_are_measured_at_the_corners_of_pixels() -> None:
    assert diameters(rectangle(1, 1)) == pytest.approx((math.sqrt(2), 1))
    assert diameters(rectangle(30, 40)) == pytest.approx((50, 30))
    assert diameters(rectangle(1, 9)) == pytest.approx((math.sqrt(82), 1))


def test_the_shortest_diameter_may_be_slanted() -> None:
    longest, shortest = diameters(ndimage.rotate(rectangle(20, 80).astype(np.uint8), 30, order=0) > 0)
    assert shortest == pytest.approx(20, abs=2)
    assert longest == pytest.approx(math.hypot(20, 80), abs=2)


def test_a_ragged_border_is_more_irregular_than_a_smooth_one(rng: np.random.Generator) -> None:
    smooth = ellipse(50, 50)
    ragged = smooth ^ ((rng.random(smooth.shape) < 0.3) & ellipse(54, 54) & ~ellipse(46, 46))
    values = [border_irregularity(perimeter(own), own.sum()) for own in (smooth, ellipse(70, 35), ragged)]
    assert values == sorted(values)
    assert values[2] > 2


def test_asymmetry_of_known_shapes() -> None:
    # A right triangle with equal sides is symmetric about one axis only: folded along the other one, through
    # the center and along the hypotenuse, the share that finds no partner is 1/9 + 2/9 of the area.
    rows, cols = np.mgrid[:120, :120]
    triangle = rows + cols < 120
    assert asymmetry(triangle) == pytest.approx(1 / 6, abs=0.02)
    assert asymmetry(rectangle(40, 80)) < 0.02


def test_asymmetry_does_not_change_when_a_shape_is_turned_or_enlarged() -> None:
    blob = ellipse(50, 30) | np.roll(ellipse(25, 20), (20, 35), (0, 1))
    value = asymmetry(blob)
    assert value > 0.03
    assert asymmetry(np.rot90(blob)) == pytest.approx(value, abs=0.01)
    assert asymmetry(np.kron(blob, np.ones((4, 4), dtype=bool))) == pytest.approx(value, abs=0.02)


def test_one_pixel_can_be_measured() -> None:
    (row,) = measure_instances(np.pad([[1]], 2).astype(np.int32))
    assert row.area == 1
    assert row.asymmetry == 0
    assert math.isfinite(row.border_irregularity)


# ------------------------------------------------------------------------------------------ colors


def test_plain_colors_are_named() -> None:
    image = np.zeros((10, 60, 3), np.uint8)
    for place, value in enumerate(COLORS.values()):
        image[:, 10 * place : 10 * place + 10] = value
    shares = color_shares(image, np.ones((10, 60), dtype=bool))
    assert shares == pytest.approx(dict.fromkeys(COLORS, 1 / 6))


def test_only_colors_with_some_share_count() -> None:
    image = np.full((20, 20, 3), COLORS["dark brown"], np.uint8)
    image[:8] = COLORS["black"]
    image[19, :10] = COLORS["red"]  # 2.5 %
    (row,) = measure_instances(np.ones((20, 20), np.int32), image)
    assert row.colors == 2
    assert row.color_names == "dark brown, black"


def test_colors_outside_the_lesion_do_not_count() -> None:
    image = np.full((20, 20, 3), COLORS["white"], np.uint8)
    image[5:15, 5:15] = COLORS["blue-gray"]
    own = np.zeros((20, 20), np.int32)
    own[5:15, 5:15] = 3
    (row,) = measure_instances(own, image)
    assert row.color_names == "blue-gray"


# -------------------------------------------------------------------------------------------- scale


def test_pixels_until_a_scale_is_set() -> None:
    ids = np.zeros((60, 60), np.int32)
    ids[10:40, 10:50] = 2
    (plain,) = measure_instances(ids)
    (scaled,) = measure_instances(ids, scale=Scale(0.1))
    assert (plain.unit, scaled.unit) == ("px", "mm")
    assert plain.area == 1200
    assert scaled.area == pytest.approx(12)
    assert scaled.longest_diameter == pytest.approx(5)
    assert scaled.perimeter == pytest.approx(plain.perimeter / 10)
    assert scaled.asymmetry == plain.asymmetry
    assert scaled.border_irregularity == plain.border_irregularity
    assert plain.colors is None


def test_a_scale_from_a_ruler_or_dicom() -> None:
    assert Scale.from_line((10, 10), (40, 50), 10).millimeters == pytest.approx(0.2)
    assert Scale.from_spacing(0.02, 0.02).millimeters == pytest.approx(0.02)


def test_impossible_scales_are_refused() -> None:
    for value in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ImageError, match="above 0"):
            Scale(value)
    with pytest.raises(ImageError, match="no length"):
        Scale.from_line((3, 3), (3, 3), 10)
    with pytest.raises(ImageError, match="not square"):
        Scale.from_spacing(0.02, 0.03)
    with pytest.raises(ImageError, match="above 0"):
        Scale.from_spacing(0, 0)


# ------------------------------------------------------------------------------------------- tables


def drawn() -> tuple[Measurement, ...]:
    sample = synthetic_sample(3, (120, 160), n_lesions=3)
    return measure_instances(sample.instances, sample.image)


def test_every_lesion_is_measured() -> None:
    rows = drawn()
    assert [row.index for row in rows] == [1, 2, 3]
    assert all(row.shortest_diameter <= row.longest_diameter for row in rows)
    assert all(0 <= row.asymmetry <= 1 for row in rows)


def test_lesions_at_the_border_are_marked() -> None:
    ids = np.zeros((30, 30), np.int32)
    ids[:5, 10:15], ids[10:20, 10:15], ids[10:20, 25:] = 1, 2, 3
    assert [row.cut_off for row in measure_instances(ids)] == [True, False, True]


def test_columns_say_their_unit() -> None:
    columns = measurement_columns(drawn())
    assert {"index", "area_px2", "longest_diameter_px", "perimeter_px", "asymmetry", "colors"} <= set(columns)
    assert "unit" not in columns
    assert measurement_columns([]) == {}
    ids = np.ones((5, 5), np.int32)
    mixed = [*measure_instances(ids), *measure_instances(ids, scale=Scale(1))]
    with pytest.raises(MaskError, match="one table"):
        measurement_columns(mixed)


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "målt.csv"
    rows = drawn()
    write_measurements(path, [("IMD002", rows), ("=1+1", rows[:1])])
    with path.open(newline="", encoding="utf-8") as stream:
        read = list(csv.DictReader(stream))
    assert [line["image"] for line in read] == ["IMD002"] * 3 + ["'=1+1"]
    assert [line["unit"] for line in read] == ["px"] * 4
    assert float(read[0]["area"]) == rows[0].area
    assert read[0]["color_names"] == rows[0].color_names


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(MaskError, match="cannot be written"):
        write_measurements(tmp_path / "no" / "such" / "folder.csv", [])


def test_an_image_of_another_size_is_refused() -> None:
    with pytest.raises(MaskError, match="shape"):
        measure_instances(np.ones((5, 5), np.int32), np.zeros((6, 5, 3), np.uint8))
