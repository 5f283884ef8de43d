from __future__ import annotations

from pathlib import Path

import napari.layers
import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from PIL import Image

from napari_lesionseg.data.io import write_mask, write_picture
from napari_lesionseg.errors import PairingError, PictureError
from napari_lesionseg.plugin import readers
from napari_lesionseg.plugin.readers import get_reader, read_layers


@pytest.fixture
def viewer(plugins) -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def open_file(viewer):
    """Open a path with the plugin's reader; give the layers."""

    def open_path(path: Path, **options):
        return viewer.open(path, plugin="napari-lesionseg", **options)

    return open_path


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "tiff"])
def test_pictures_are_opened_as_they_are(open_file, tmp_path, spot, ending):
    path = tmp_path / f"IMD 002 æøå.{ending}"
    write_picture(path, spot)
    (layer,) = open_file(path)
    assert isinstance(layer, napari.layers.Image)
    assert layer.name == "IMD 002 æøå"
    assert layer.rgb
    np.testing.assert_array_equal(layer.data, spot)


@pytest.mark.parametrize("name", ["a.jpg", "b.JPEG"])
def test_jpegs_are_opened(open_file, tmp_path, spot, name):
    write_picture(tmp_path / name, spot)
    (layer,) = open_file(tmp_path / name)
    assert layer.rgb
    assert np.abs(layer.data.astype(int) - spot).mean() < 3


def test_small_pictures_are_colours_too(open_file, tmp_path):
    write_picture(tmp_path / "tiny.png", np.full((1, 1, 3), 7, dtype=np.uint8))
    (layer,) = open_file(tmp_path / "tiny.png")
    assert layer.rgb
    assert layer.data.shape == (1, 1, 3)


def test_exif_turns_a_picture_once(open_file, tmp_path, spot):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(spot).save(tmp_path / "turned.png", exif=exif)
    (layer,) = open_file(tmp_path / "turned.png")
    np.testing.assert_array_equal(layer.data, np.rot90(spot, -1))


def test_pages_become_a_stack(open_file, tmp_path, spot):
    stack = np.stack([spot, 255 - spot, spot // 2])
    tifffile.imwrite(tmp_path / "stack.tif", stack, photometric="rgb")
    (layer,) = open_file(tmp_path / "stack.tif")
    assert layer.rgb
    np.testing.assert_array_equal(layer.data, stack)


@pytest.mark.parametrize("frames", [1, 4])
def test_deep_grey_keeps_its_values(open_file, tmp_path, rng, frames):
    values = rng.integers(0, 4096, (frames, 40, 60), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "deep.tif", values, photometric="minisblack")
    (layer,) = open_file(tmp_path / "deep.tif")
    assert not layer.rgb
    assert layer.data.dtype == np.uint16
    np.testing.assert_array_equal(layer.data, values if frames > 1 else values[0])


def test_deep_colours_become_bytes(open_file, tmp_path, spot):
    tifffile.imwrite(tmp_path / "deep.tif", spot.astype(np.uint16) * 257, photometric="rgb")
    (layer,) = open_file(tmp_path / "deep.tif")
    np.testing.assert_array_equal(layer.data, spot)


def test_palettes_become_colours(open_file, tmp_path, spot):
    Image.fromarray(spot).convert("P").save(tmp_path / "palette.png")
    (layer,) = open_file(tmp_path / "palette.png")
    np.testing.assert_array_equal(layer.data, Image.open(tmp_path / "palette.png").convert("RGB"))


@pytest.mark.parametrize("ending", ["_segmentation", "_mask", "_MASK"])
def test_masks_become_labels(open_file, tmp_path, spot, ending):
    mask = spot[..., 0] < 100
    write_mask(tmp_path / f"IMD002{ending}.png", mask)
    (layer,) = open_file(tmp_path / f"IMD002{ending}.png")
    assert isinstance(layer, napari.layers.Labels)
    np.testing.assert_array_equal(layer.data, mask)


def test_a_folder_becomes_one_layer_a_picture_in_natural_order(open_file, tmp_path, spot):
    for name in ("IMD10", "IMD2", "IMD1"):
        write_picture(tmp_path / f"{name}.png", spot)
    write_mask(tmp_path / "IMD2_segmentation.png", spot[..., 0] < 100)
    (tmp_path / "notes.txt").write_text("no picture")
    layers = open_file(tmp_path)
    assert [layer.name for layer in layers] == ["IMD1", "IMD2", "IMD10"]
    assert [layer.visible for layer in layers] == [True, False, False]


def test_several_files_are_opened_together(viewer, tmp_path, spot):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        write_picture(path, spot)
    assert [layer.name for layer in viewer.open(paths, plugin="napari-lesionseg")] == ["a", "b"]


def test_a_large_folder_is_refused_with_a_sentence(tmp_path, spot, monkeypatch):
    monkeypatch.setattr(readers, "MAX_PICTURES", 2)
    for index in range(3):
        write_picture(tmp_path / f"{index}.png", spot)
    with pytest.raises(PictureError, match="holds 3 pictures, too many at once; open up to 2 of them"):
        read_layers(str(tmp_path))


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(PairingError, match="no pictures found"):
        read_layers(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"hello, I am a text", b"\x89PNG\r\n\x1a\n truncated"])
def test_what_is_no_picture_is_named(tmp_path, content):
    path = tmp_path / "fake.png"
    path.write_bytes(content)
    with pytest.raises(PictureError, match=r"fake\.png"):
        read_layers(str(path))


def test_other_files_are_left_to_other_readers(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("a,b")
    assert get_reader(str(path)) is None
    assert get_reader([str(path), str(tmp_path / "a.png")]) is None
    assert get_reader([str(tmp_path / "a.png"), str(tmp_path)]) is read_layers


def test_real_pictures_of_the_ph2_layout_are_opened(open_file, real_data):
    layers = open_file(real_data / "ph2-sample")
    assert len(layers) == 20
    assert all(layer.rgb for layer in layers)
