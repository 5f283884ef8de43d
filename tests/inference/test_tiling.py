from __future__ import annotations

import functools
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage import measure

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.datasets.synthetic import synthetic_sample
from napari_lesionseg.errors import CancelledError, ImageError, MaskError, SettingsError
from napari_lesionseg.inference import tiling_io
from napari_lesionseg.inference.postprocess import postprocess
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.inference.tiling import TileConfig, _Axis, predict_large, predict_tiles, predict_whole
from napari_lesionseg.inference.tiling_io import (
    NpyFile,
    as_probability,
    choose_level,
    new_output,
    remove_specks,
    threshold_strips,
)
from napari_lesionseg.io.resize import normalize
from napari_lesionseg.models.base import SegmentationNetwork, logits_to_probability
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.lite_unet import DESCRIPTION_LENGTH
from napari_lesionseg.models.mixture import (
    GATE_THRESHOLD,
    Direction,
    ExpertNetwork,
    card_with_experts,
    with_expert,
)
from napari_lesionseg.models.registry import build_network
from napari_lesionseg.types import Click

WINDOWS = {"window": 96, "overlap": 32}


def tiny_model(*classes: str) -> Model:
    """Make an untrained network whose answers vary from pixel to pixel, as its norms have seen an image."""
    torch.manual_seed(5)
    card = ModelCard(
        arch="unet",
        arch_settings={"width": 4, "depth": 2},
        working_size=64,
        classes=classes or ("skin", "lesion"),
        temperature=1.3,
    )
    network = build_network(card.arch, card.out_channels, **card.arch_settings)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean of all images seen, and one is all
    with torch.no_grad():
        network.head.weight.mul_(4)
        network.train()(torch.from_numpy(normalize(random_image(64, 64), card.mean, card.std))[None])
    return Model(network, card, "cpu", precision="float32")


@functools.cache
def random_image(height: int = 120, width: int = 170) -> np.ndarray:
    return synthetic_sample(8, (height, width), n_lesions=3).image


def tiled(model: Model, image: Any, **config: Any) -> np.ndarray:
    made = predict_large(model, image, config=TileConfig(**WINDOWS | config), store="float32")
    assert isinstance(made, np.ndarray)
    return made


class Watched:
    """An image generated as it is read, which records the largest part read at once."""

    def __init__(self, height: int, width: int, channels: int = 3) -> None:
        self.shape, self.dtype = (height, width, channels), np.dtype(np.uint8)
        self.reads: list[tuple[int, int]] = []

    def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
        rows, cols = (np.arange(part.start, part.stop) for part in index)
        self.reads.append((len(rows), len(cols)))
        waves = 128 + 60 * np.sin(rows / 9)[:, None] + 60 * np.cos(cols / 13)
        return np.repeat(waves.astype(np.uint8)[..., None], self.shape[2], axis=2)


# ---------------------------------------------------------------------------------------- same answers


def test_any_tile_size_gives_the_same() -> None:
    model, image = tiny_model(), random_image()
    whole = tiled(model, image, tile=1024)
    assert np.ptp(whole) > 0.2
    for tile in (64, 128, 160, 200):
        assert np.abs(tiled(model, image, tile=tile) - whole).max() < 1e-5


@pytest.mark.parametrize("scale", [0.5, 0.37, 2.0])
def test_any_tile_size_gives_the_same_at_any_scale(scale: float) -> None:
    model, image = tiny_model(), random_image(150, 130)
    whole = tiled(model, image, tile=1024, scale=scale)
    assert whole.shape == (150, 130)
    assert np.abs(tiled(model, image, tile=100, scale=scale) - whole).max() < 1e-5


def test_the_number_of_windows_at_once_does_not_matter() -> None:
    model, image = tiny_model(), random_image()
    one = tiled(model, image, batch=1)
    assert np.abs(tiled(model, image, batch=5) - one).max() < 1e-5


def test_one_window_is_what_the_network_says_of_the_mirrored_image() -> None:
    model, image = tiny_model(), random_image(96, 128)
    mirrored = np.pad(image, ((64, 96), (64, 64), (0, 0)), mode="reflect")
    views = torch.from_numpy(normalize(mirrored, model.card.mean, model.card.std))[None]
    with torch.inference_mode():
        expected = logits_to_probability(model.network(views), model.card.temperature)
    found = tiled(model, image, window=256, overlap=64)
    assert np.abs(found - expected[0, 0, 64:-96, 64:-64].numpy()).max() < 1e-5


def test_windows_fade_into_each_other() -> None:
    model, image = tiny_model(), random_image()
    faded, cut = tiled(model, image, overlap=32), tiled(model, image, overlap=0)
    assert np.abs(faded - cut).max() > 1e-3  # what windows see does matter: tiles do not agree by themselves
    jumps, smooth = (np.abs(np.diff(found, axis=1))[:, 95].mean() for found in (cut, faded))
    assert jumps > 1.5 * smooth  # between the first window and the second


def test_several_classes() -> None:
    model, image = tiny_model("skin", "nevus", "hair"), random_image()
    whole = tiled(model, image, tile=1024)
    assert whole.shape == (3, 120, 170)
    assert whole.sum(axis=0) == pytest.approx(1, abs=1e-5)
    assert np.abs(tiled(model, image, tile=100) - whole).max() < 1e-5


@pytest.mark.parametrize("shape", [(1, 1), (2, 300), (33, 31), (64, 64), (65, 129)])
def test_any_size_of_image(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    found = tiled(tiny_model(), image, tile=128)
    assert found.shape == shape
    assert np.isfinite(found).all()


@given(st.integers(1, 500), st.integers(1, 60), st.floats(0, 0.5), st.integers(1, 300))
def test_weights_add_up_to_one_everywhere(length: int, window: int, share: float, tile: int) -> None:
    axis = _Axis(length, window, int(share * window))
    total = np.zeros(length)
    for index in range(axis.count):
        part = axis.covered(index)
        assert part.stop > part.start
        total[part] += axis.weights(index)
        places = axis.read(index, index)
        assert len(places) == window
        assert places.min() >= 0
        assert places.max() < length
    assert total == pytest.approx(1, abs=1e-5)
    groups = axis.tiles(tile)
    assert [index for group in groups for index in group] == list(range(axis.count))
    assert all(len(axis.read(group[0], group[-1])) <= max(tile, window) for group in groups)


# ------------------------------------------------------------------------------------ several experts


def lite_unet(seed: int) -> SegmentationNetwork:
    torch.manual_seed(seed)
    network = build_network("lite-unet").eval()
    torch.nn.init.normal_(network.head.weight)
    return network


@pytest.fixture(scope="module")
def experts() -> Model:
    """The first outlines dark images, the second bright ones."""
    return Model(
        bright_and_dark(lite_unet(1), lite_unet(2)), card_with_experts(ModelCard(working_size=64), 2), "cpu"
    )


def bright_and_dark(first: SegmentationNetwork, second: SegmentationNetwork) -> SegmentationNetwork:
    with torch.inference_mode():
        dark, bright = first.describe(torch.tensor([-2.0, 2.0]).view(2, 1, 1, 1).expand(2, 3, 64, 64)).clone()
    weight = 2 * GATE_THRESHOLD * (bright - dark) / (bright - dark).square().sum()
    kind = Direction(
        weight.numpy(), -float(weight @ dark), bright.numpy(), np.eye(DESCRIPTION_LENGTH, dtype=np.float32)
    )
    return with_expert(first, 1, second, kind)


def half_bright(share: float) -> np.ndarray:
    """An image whose left is bright and whose right is dark."""
    image = random_image(160, 300) // 8
    image[:, : round(share * 300)] += 220
    return image


@pytest.mark.parametrize(("share", "place"), [(0.75, 1), (0.25, 0)])
def test_all_windows_go_to_the_expert_of_the_whole_image(experts: Model, share: float, place: int) -> None:
    network, image = experts.network, half_bright(share)
    assert isinstance(network, ExpertNetwork)
    sides = [
        int(network.choose(experts.network_input(image[:, part]))[0]) for part in (slice(60), slice(240, 300))
    ]
    assert sides == [1, 0]  # each for itself, they would go to different ones
    assert int(network.choose(experts.network_input(image))[0]) == place
    alone = Model(network.expert(place), ModelCard(working_size=64), "cpu")
    for config in ({"tile": 96}, {"tile": 200, "batch": 3}):
        np.testing.assert_array_equal(tiled(experts, image, **config), tiled(alone, image, **config))


def test_the_expert_of_a_lazy_image_is_found_strip_by_strip(
    experts: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiling_io, "_STRIP_PIXELS", 50_000)
    image = Watched(700, 500)
    found = tiled(experts, image, tile=256)
    assert max(height * width for height, width in image.reads) <= 256 * 256
    assert np.array_equal(found, tiled(experts, image[0:700, 0:500], tile=256))


# ------------------------------------------------------------------------------------- bounded memory


def test_no_more_than_a_tile_is_read_at_once() -> None:
    image = Watched(500, 600)
    tiled(tiny_model(), image, tile=256)
    assert max(height for height, _ in image.reads) <= 256
    assert max(width for _, width in image.reads) <= 256


def test_memory_grows_by_a_seam_across_the_image_and_no_more() -> None:
    model, config = tiny_model(), TileConfig(**WINDOWS, tile=256)

    def most(width: int) -> int:
        image, out = Watched(400, width), new_output((400, width))
        tracemalloc.start()
        for _ in predict_tiles(model, image, out, config):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    most(600)  # what is loaded or kept at the first time
    seam = config.overlap * 4 * 3000
    assert most(3600) - most(600) < 1.5 * seam


def test_lazy_images_give_the_same_as_those_in_memory() -> None:
    model, image = tiny_model(), Watched(200, 300)
    assert (tiled(model, image, tile=128) == tiled(model, image[0:200, 0:300], tile=128)).all()


def test_dask(tmp_path: Path) -> None:
    array = pytest.importorskip("dask.array", reason="dask comes with napari")
    model, image = tiny_model(), random_image()
    lazy = array.from_array(image, chunks=(64, 64, 3))
    assert (tiled(model, lazy, tile=128) == tiled(model, image, tile=128)).all()
    out = new_output((120, 170), path=tmp_path / "whole.npy")
    list(predict_whole(model, lazy, out))
    assert isinstance(out, NpyFile)
    assert out.mapped().any()


@pytest.mark.parametrize("channels", [1, 4])
def test_gray_and_transparent_images(channels: int) -> None:
    model, image = tiny_model(), Watched(100, 120, channels)
    color = Watched(100, 120)
    assert (tiled(model, image, tile=128) == tiled(model, color, tile=128)).all()
    assert (tiled(model, image[0:100, 0:120][..., 0], tile=128) == tiled(model, color, tile=128)).all()


@pytest.mark.parametrize(("store", "tolerance"), [("uint8", 0.002), ("float16", 5e-4)])
def test_smaller_types(store: Any, tolerance: float) -> None:
    model, image = tiny_model(), random_image()
    exact = tiled(model, image, tile=128)
    kept = predict_large(model, image, config=TileConfig(**WINDOWS, tile=96), store=store)
    assert kept.dtype == store
    assert np.abs(as_probability(kept) - exact).max() < tolerance


def test_on_disk(tmp_path: Path) -> None:
    model, image = tiny_model("skin", "nevus", "hair"), random_image()
    config, path = TileConfig(**WINDOWS, tile=96), tmp_path / "sannsynlighet.npy"
    kept = predict_large(model, image, config=config, path=path)
    assert isinstance(kept, np.memmap)
    assert (kept == predict_large(model, image, config=config)).all()
    assert (np.load(path) == kept).all()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(MaskError, match="cannot be written"):
        new_output((10, 10), path=tmp_path / "no" / "such.npy")


# ------------------------------------------------------------------------------- progress and cancel


def test_progress_tile_by_tile() -> None:
    image, out = random_image(), np.zeros((120, 170), np.float32)
    seen = []
    for progress in predict_tiles(tiny_model(), image, out, TileConfig(**WINDOWS, tile=96)):
        seen.append(progress)
        assert out[: progress.rows].all()  # what is final is written
        assert not out[progress.box.bottom :].any()
    assert [progress.done for progress in seen] == list(range(1, len(seen) + 1))
    assert {progress.total for progress in seen} == {len(seen)}
    assert len(seen) > 4
    assert seen[-1].rows == 120
    covered = np.zeros((120, 170), bool)
    for progress in seen:
        covered[progress.box.top : progress.box.bottom, progress.box.left : progress.box.right] = True
    assert covered.all()


def test_who_stops_asking_has_cancelled() -> None:
    image, out = Watched(300, 300), np.zeros((300, 300), np.float32)
    work = predict_tiles(tiny_model(), image, out, TileConfig(**WINDOWS, tile=96))
    for _ in range(3):
        next(work)
    work.close()
    assert len(image.reads) == 3


def test_stopped_from_outside() -> None:
    asked: list[int] = []

    def should_stop() -> bool:
        asked.append(1)
        return len(asked) == 2

    config = TileConfig(**WINDOWS, tile=96)
    with pytest.raises(CancelledError):
        predict_large(tiny_model(), random_image(), config=config, should_stop=should_stop)
    assert len(asked) == 2


# ------------------------------------------------------------------------------------ the whole image


def test_whole_image_is_that_of_the_model_when_it_is_small() -> None:
    model, image = tiny_model(), random_image(120, 160)
    out = np.zeros((120, 160), np.float32)
    progress = list(predict_whole(model, image, out))
    assert np.abs(out - model.predict(image)).max() < 1e-6
    assert progress[-1].rows == 120
    assert progress[-1].done == progress[-1].total == 2


def test_whole_image_from_afar() -> None:
    model = tiny_model()
    image = np.repeat(np.repeat(random_image(100, 130), 8, axis=0), 8, axis=1)[:793, :1035]
    out = np.zeros((793, 1035), np.float32)
    list(predict_whole(model, image, out))
    assert np.abs(out - model.predict(image)).mean() < 0.02


def test_strips_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    model, outs = tiny_model(), []
    for pixels in (10**9, 20_000):
        monkeypatch.setattr("napari_lesionseg.inference.tiling_io._STRIP_PIXELS", pixels)
        watched = Watched(700, 500)
        outs.append(np.zeros((700, 500), np.float32))
        list(predict_whole(model, watched, outs[-1]))
        assert max(height * width for height, width in watched.reads) <= pixels
    np.testing.assert_allclose(outs[0], outs[1], rtol=0, atol=1e-5)  # far below the step of uint8


def test_a_small_level_answers_for_the_full_image() -> None:
    model, image = tiny_model(), Watched(512, 640)[0:512, 0:640]
    levels = [image, image[::2, ::2], image[::4, ::4]]
    place = choose_level(levels, 256)
    assert place == 1
    full, small = np.zeros((2, 512, 640), np.float32)
    list(predict_whole(model, image, full))
    list(predict_whole(model, levels[place], small))
    assert np.abs(full - small).mean() < 0.05
    assert choose_level(levels, 10_000) == 0


def test_clicks_are_honored_in_pixels_of_the_output() -> None:
    model, image = tiny_model(), random_image(300, 400)
    out = np.zeros((300, 400), np.float32)
    clicks = [Click(50, 100), Click(200, 300, positive=False)]
    list(predict_whole(model, image, out, clicks))
    assert out[50, 100] > 0.9
    assert out[200, 300] < 0.1


# ------------------------------------------------------------------------------------------ the masks


@pytest.mark.parametrize("classes", [("skin", "lesion"), ("skin", "nevus", "hair")])
def test_masks_strip_by_strip(classes: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_lesionseg.inference.tiling_io._STRIP_PIXELS", 5000)
    kept = predict_large(tiny_model(*classes), random_image(), config=TileConfig(**WINDOWS, tile=96))
    mask = np.zeros((120, 170), np.uint8)
    threshold_strips(kept, 0.4, mask)
    plain = PostprocessConfig(fill_holes=False, largest_only=False, min_area=0)
    assert (mask == postprocess(as_probability(kept), plain, 0.4)).all()
    assert mask.any()


# ------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((5, 5, 2), np.uint8),
        np.zeros((5, 5, 3), np.float32),
        np.zeros(5, np.uint8),
        np.zeros((0, 5, 3), np.uint8),
    ],
)
def test_what_is_no_image_is_refused(image: np.ndarray) -> None:
    for predict in (predict_tiles, predict_whole):
        with pytest.raises(ImageError, match="Only 8-bit"):
            predict(tiny_model(), image, np.zeros((5, 5), np.float32))


@pytest.mark.parametrize(
    "out", [np.zeros((9, 10), np.float32), np.zeros((1, 10, 10), np.float32), np.zeros((10, 10), np.int32)]
)
def test_an_output_that_does_not_fit_is_refused_at_once(out: np.ndarray) -> None:
    with pytest.raises(MaskError, match=r"array of shape \(10, 10\)"):
        predict_tiles(tiny_model(), np.zeros((10, 10, 3), np.uint8), out)


def test_a_whole_image_needs_an_output_for_its_classes() -> None:
    model = tiny_model("skin", "nevus", "hair")
    for out in (np.zeros((10, 10), np.float32), np.zeros(10, np.float32), np.zeros((3, 10, 10), np.int8)):
        with pytest.raises(MaskError, match="array of shape"):
            predict_whole(model, np.zeros((10, 10, 3), np.uint8), out)


def test_impossible_settings_are_refused() -> None:
    for wrong in (
        {"tile": 10},
        {"overlap": -1},
        {"window": 100},
        {"window": 128, "overlap": 96},
        {"scale": 0},
        {"scale": 9},
        {"batch": 0},
    ):
        with pytest.raises(SettingsError):
            TileConfig(**wrong)


@pytest.mark.parametrize("strip", [7 * 60, 20 * 60, 200 * 60])
@given(seed=st.integers(0, 1000), smallest=st.integers(0, 30))
def test_specks_are_dropped_as_in_one_look(strip: int, seed: int, smallest: int) -> None:
    mask = (np.random.default_rng(seed).random((90, 60)) < 0.3).astype(np.uint8)
    mask[10:50, 5:9] = 2  # long enough to go through several strips
    parts = measure.label(mask > 0, connectivity=2)
    sizes = np.bincount(parts.ravel())
    expected = np.where(sizes[parts] >= smallest, mask, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiling_io, "_STRIP_PIXELS", strip)
        remove_specks(mask, smallest)
    assert np.array_equal(mask, expected)
