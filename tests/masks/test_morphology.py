from __future__ import annotations

import os
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from napari_lesionseg.masks import morphology
from napari_lesionseg.masks.components import connected_components
from napari_lesionseg.masks.instances import split_touching

EIGHT = np.ones((3, 3))


def disc(shape=(120, 160), center=(60, 80), radius=40, value=1) -> np.ndarray:
    rows, cols = np.ogrid[: shape[0], : shape[1]]
    return (((rows - center[0]) ** 2 + (cols - center[1]) ** 2 <= radius**2) * value).astype(np.uint8)


def parts(mask) -> int:
    return ndimage.label(mask, structure=EIGHT)[1]


def dice(first, second) -> float:
    return 2 * np.sum((first > 0) & (second > 0)) / (np.sum(first > 0) + np.sum(second > 0))


def edge_length(mask) -> int:
    return int((mask != ndimage.minimum_filter(mask, 3)).sum())


UNARY = [
    morphology.smooth,
    morphology.fill_holes,
    morphology.largest_part,
    morphology.split,
    morphology.merge,
    lambda mask: morphology.snap(np.zeros((*mask.shape, 3), dtype=np.uint8), mask),
    lambda mask: morphology.remove_part(mask, 3, 3),
]


@pytest.mark.parametrize("tool", UNARY)
def test_nothing_stays_nothing(tool):
    assert not tool(np.zeros((20, 30), dtype=np.uint8)).any()


@pytest.mark.parametrize("tool", UNARY)
@pytest.mark.parametrize("fill", ["full", "one pixel", "border"])
def test_extremes_give_masks_and_leave_their_arguments_alone(tool, fill):
    mask = np.zeros((20, 30), dtype=np.uint8)
    if fill == "full":
        mask[:] = 1
    elif fill == "one pixel":
        mask[0, 0] = 1
    else:
        mask[[0, -1]] = 1
    before = mask.copy()
    changed = tool(mask)
    assert changed.dtype == np.uint8
    assert changed.shape == mask.shape
    assert set(np.unique(changed)) <= {0, 1}
    assert changed is not mask
    np.testing.assert_array_equal(mask, before)


@pytest.mark.parametrize(
    "tool",
    [morphology.smooth, morphology.fill_holes, morphology.largest_part, morphology.split, morphology.merge],
)
def test_other_classes_stay(tool, rng):
    mask = disc() * 2
    mask[rng.random(mask.shape) < 0.02] = 1
    mask[:10, :10] = 1
    changed = tool(mask, 2)
    np.testing.assert_array_equal(changed == 1, mask == 1)


def test_smoothing_shortens_a_ragged_outline_and_keeps_its_place(rng):
    clean = disc()
    ragged = (ndimage.gaussian_filter(clean + rng.normal(0, 0.8, clean.shape), 1) > 0.5).astype(np.uint8)
    ragged = morphology.largest_part(ragged)
    smoothed = morphology.smooth(ragged)
    assert edge_length(smoothed) < 0.7 * edge_length(ragged)
    assert dice(smoothed, clean) > 0.97


def test_smoothing_hardly_changes_a_disc():
    assert dice(morphology.smooth(disc()), disc()) > 0.99


def test_holes_are_filled_but_not_bays():
    mask = disc()
    mask[50:60, 70:80] = 0
    mask[60, 80:] = 0
    filled = morphology.fill_holes(mask)
    assert filled[50:60, 70:80].all()
    assert not filled[60, 81:].any()


def test_the_largest_part_stays():
    mask = disc(radius=20) | disc(center=(15, 15), radius=8)
    np.testing.assert_array_equal(morphology.largest_part(mask), disc(radius=20))


def test_the_part_under_a_point_goes():
    small = disc(center=(15, 15), radius=8)
    mask = disc(radius=20) | small
    np.testing.assert_array_equal(morphology.remove_part(mask, 15.4, 14.6), disc(radius=20))


@pytest.mark.parametrize("point", [(0, 159), (-5, 3), (500, 3), (3, 1e6)])
def test_a_point_on_nothing_removes_nothing(point):
    np.testing.assert_array_equal(morphology.remove_part(disc(), *point), disc())


def test_removing_takes_one_class_only():
    mask = disc()
    mask[60:] *= 2
    assert set(np.unique(morphology.remove_part(mask, 40, 80))) == {0, 2}


def test_two_lesions_are_cut_at_their_narrow_point():
    two = disc(center=(60, 50), radius=30) | disc(center=(60, 105), radius=30)
    assert parts(two) == 1
    cut = morphology.split(two)
    assert parts(cut) == 2
    assert (two.astype(int) - cut).sum() < 80
    assert np.all(cut <= two)
    lost = np.argwhere(two != cut)
    assert np.all(np.abs(lost[:, 1] - 77.5) < 6)


@pytest.mark.parametrize("axes", [(40, 40), (25, 55)])
def test_one_lesion_is_not_cut(axes):
    rows, cols = np.ogrid[:120, :160]
    one = (((rows - 60) / axes[0]) ** 2 + ((cols - 80) / axes[1]) ** 2 <= 1).astype(np.uint8)
    np.testing.assert_array_equal(morphology.split(one), one)


def ragged(seed: int, shape=(575, 765), roughness=10.0) -> np.ndarray:
    """Draw an outline like a network's: smooth noise on a slope, enlarged bilinearly, so full of plateaus."""
    rng = np.random.default_rng(seed)
    small = (shape[0] // 4, shape[1] // 4)
    rows, cols = np.ogrid[-1 : 1 : small[0] * 1j, -1 : 1 : small[1] * 1j]
    noise = ndimage.gaussian_filter(rng.normal(size=small), roughness)
    logits = 0.5 - np.hypot(rows, cols) + 0.4 * noise / noise.std()
    zoom = (shape[0] / small[0], shape[1] / small[1])
    return (ndimage.zoom(logits, zoom, order=1)[: shape[0], : shape[1]] > 0).astype(np.uint8)


def assert_is_split(mask, cut) -> None:
    """Only pixels beside a cut are gone, and what is left are the pieces of `split_touching`."""
    pieces = split_touching(connected_components(mask))
    assert parts(cut) >= pieces.max() >= parts(mask)
    assert np.all(cut <= mask)
    beside = ndimage.maximum_filter(pieces, 3) != ndimage.minimum_filter(np.where(mask, pieces, 10**6), 3)
    assert np.all(beside[mask != cut])


@given(st.integers(0, 10**6), st.floats(1.5, 20))
@settings(max_examples=15, deadline=None)
def test_ragged_outlines_are_split_in_less_than_a_second(seed, roughness):
    mask = ragged(seed, roughness=roughness)
    start = time.process_time()
    cut = morphology.split(mask)
    assert time.process_time() - start < 1
    assert_is_split(mask, cut)
    mirrored = morphology.split(np.ascontiguousarray(mask[:, ::-1]))[:, ::-1]
    assert np.mean(mirrored != cut) < 0.002


@pytest.mark.parametrize("name", ["split_hangs_imd004.png", "split_hangs_pat.png"])
def test_real_outlines_are_split_in_less_than_a_second(name):
    path = Path(os.environ.get("LESIONSEG_CASES", Path(__file__).parents[3] / "shared" / "cases")) / name
    if not path.is_file():
        pytest.skip(f"needs {path}: set LESIONSEG_CASES to the folder of cases")
    mask = (np.array(Image.open(path)) > 0).astype(np.uint8)
    start = time.process_time()
    cut = morphology.split(mask)
    assert time.process_time() - start < 1
    assert_is_split(mask, cut)


def test_splitting_a_huge_outline_takes_little_time_and_memory():
    mask = np.kron(ragged(0), np.ones((8, 8), np.uint8))  # 28 megapixels
    tracemalloc.start()
    start = time.process_time()
    cut = morphology.split(mask)
    assert time.process_time() - start < 10
    assert tracemalloc.get_traced_memory()[1] < 30 * mask.nbytes
    tracemalloc.stop()
    assert np.all(cut <= mask)


def test_neighbors_are_joined_and_a_third_stays_apart():
    mask = (
        disc(center=(60, 40), radius=20) | disc(center=(60, 90), radius=20) | disc(center=(20, 150), radius=5)
    )
    assert parts(mask) == 3
    joined = morphology.merge(mask)
    assert parts(joined) == 2
    assert np.all(joined >= mask)
    assert (joined - mask).sum() < 0.5 * mask.sum()


def test_two_distant_specks_are_joined():
    mask = np.zeros((60, 80), dtype=np.uint8)
    mask[10, 10] = mask[50, 70] = 1
    assert parts(morphology.merge(mask)) == 1


def test_one_part_needs_no_joining():
    np.testing.assert_array_equal(morphology.merge(disc()), disc())


def image(lesion, rng, shape=(120, 160)) -> np.ndarray:
    soft = ndimage.gaussian_filter(lesion.astype(float), 1.5)[..., None]
    colors = np.array([200, 160, 140]) * (1 - soft) + np.array([110, 70, 60]) * soft
    return np.clip(colors + rng.normal(0, 8, (*shape, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("radius", [36, 44])
def test_snapping_moves_the_outline_to_the_edge(radius, rng):
    lesion = disc()
    near = disc(radius=radius)
    snapped = morphology.snap(image(lesion, rng), near)
    assert dice(snapped, lesion) > 0.98 > dice(near, lesion)


def test_snapping_without_an_edge_changes_little(rng):
    even = rng.normal(150, 4, (120, 160, 3)).clip(0, 255).astype(np.uint8)
    assert dice(morphology.snap(even, disc()), disc()) > 0.93


def test_a_large_image_is_snapped_at_a_smaller_size(rng):
    shape = (900, 1200)
    lesion = disc(shape, (450, 600), 300)
    near = disc(shape, (450, 600), 315)
    assert dice(morphology.snap(image(lesion, rng, shape), near), lesion) > 0.99


def test_the_diameter_is_that_of_the_largest_part():
    both = disc(radius=20) | disc(center=(15, 15), radius=8)
    assert morphology.diameter(both > 0) == pytest.approx(40, rel=0.02)
