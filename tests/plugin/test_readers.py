from __future__ import annotations

from pathlib import Path
from typing import Any

import napari.layers
import numpy as np
import pytest
import tifffile
from napari._qt.dialogs.qt_reader_dialog import QtReaderDialog
from napari.components import ViewerModel
from PIL import Image
from qtpy.QtCore import QMimeData, QPointF, Qt, QTimer, QUrl
from qtpy.QtGui import QDropEvent
from qtpy.QtWidgets import QApplication, QRadioButton

from napari_lesionseg.datasets.export import export_dataset
from napari_lesionseg.datasets.formats import ExportConfig
from napari_lesionseg.datasets.records import Record
from napari_lesionseg.errors import DatasetError, ImageError, PairingError
from napari_lesionseg.io.images import write_image, write_mask
from napari_lesionseg.plugin import readers
from napari_lesionseg.plugin.readers import get_reader, read_layers
from napari_lesionseg.types import ByteImage


@pytest.fixture
def viewer(plugins: Any) -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def open_file(viewer: ViewerModel) -> Any:
    """Open a path with the plugin's reader; give the layers."""

    def open_path(path: Path, **options: Any) -> Any:
        return viewer.open(path, plugin="napari-lesionseg", **options)

    return open_path


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "tiff"])
def test_images_are_opened_as_they_are(open_file: Any, tmp_path: Path, spot: ByteImage, ending: Any) -> None:
    path = tmp_path / f"IMD 002 æøå.{ending}"
    write_image(path, spot)
    (layer,) = open_file(path)
    assert isinstance(layer, napari.layers.Image)
    assert layer.name == "IMD 002 æøå"
    assert layer.rgb
    np.testing.assert_array_equal(layer.data, spot)


@pytest.mark.parametrize("name", ["a.jpg", "b.JPEG"])
def test_jpegs_are_opened(open_file: Any, tmp_path: Path, spot: ByteImage, name: Any) -> None:
    write_image(tmp_path / name, spot)
    (layer,) = open_file(tmp_path / name)
    assert layer.rgb
    assert np.abs(layer.data.astype(int) - spot).mean() < 3


def test_small_images_are_colors_too(open_file: Any, tmp_path: Path) -> None:
    write_image(tmp_path / "tiny.png", np.full((1, 1, 3), 7, dtype=np.uint8))
    (layer,) = open_file(tmp_path / "tiny.png")
    assert layer.rgb
    assert layer.data.shape == (1, 1, 3)


def test_exif_turns_an_image_once(open_file: Any, tmp_path: Path, spot: ByteImage) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(spot).save(tmp_path / "turned.png", exif=exif)
    (layer,) = open_file(tmp_path / "turned.png")
    np.testing.assert_array_equal(layer.data, np.rot90(spot, -1))


def test_pages_become_a_stack(open_file: Any, tmp_path: Path, spot: ByteImage) -> None:
    stack = np.stack([spot, 255 - spot, spot // 2])
    tifffile.imwrite(tmp_path / "stack.tif", stack, photometric="rgb")
    (layer,) = open_file(tmp_path / "stack.tif")
    assert layer.rgb
    np.testing.assert_array_equal(layer.data, stack)


@pytest.mark.parametrize("frames", [1, 4])
def test_deep_gray_keeps_its_values(
    open_file: Any, tmp_path: Path, rng: np.random.Generator, frames: Any
) -> None:
    values = rng.integers(0, 4096, (frames, 40, 60), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "deep.tif", values, photometric="minisblack")
    (layer,) = open_file(tmp_path / "deep.tif")
    assert not layer.rgb
    assert layer.data.dtype == np.uint16
    np.testing.assert_array_equal(layer.data, values if frames > 1 else values[0])


def test_deep_colors_become_bytes(open_file: Any, tmp_path: Path, spot: ByteImage) -> None:
    tifffile.imwrite(tmp_path / "deep.tif", spot.astype(np.uint16) * 257, photometric="rgb")
    (layer,) = open_file(tmp_path / "deep.tif")
    np.testing.assert_array_equal(layer.data, spot)


def test_palettes_become_colors(open_file: Any, tmp_path: Path, spot: ByteImage) -> None:
    Image.fromarray(spot).convert("P").save(tmp_path / "palette.png")
    (layer,) = open_file(tmp_path / "palette.png")
    np.testing.assert_array_equal(layer.data, Image.open(tmp_path / "palette.png").convert("RGB"))


@pytest.mark.parametrize("ending", ["_segmentation", "_mask", "_MASK", "_attribute_streaks"])
def test_masks_become_labels(open_file: Any, tmp_path: Path, spot: ByteImage, ending: Any) -> None:
    mask = spot[..., 0] < 100
    write_mask(tmp_path / f"IMD002{ending}.png", mask)
    (layer,) = open_file(tmp_path / f"IMD002{ending}.png")
    assert isinstance(layer, napari.layers.Labels)
    np.testing.assert_array_equal(layer.data, mask)


def test_a_folder_becomes_one_layer_an_image_in_natural_order(
    open_file: Any, tmp_path: Path, spot: ByteImage
) -> None:
    for name in ("IMD10", "IMD2", "IMD1"):
        write_image(tmp_path / f"{name}.png", spot)
    write_mask(tmp_path / "IMD2_segmentation.png", spot[..., 0] < 100)
    (tmp_path / "notes.txt").write_text("no image")
    layers = open_file(tmp_path)
    assert [layer.name for layer in layers] == ["IMD1", "IMD2", "IMD2 outline", "IMD10"]
    assert [layer.visible for layer in layers] == [True, False, False, False]
    np.testing.assert_array_equal(layers[2].data, spot[..., 0] < 100)


def test_several_files_are_opened_together(viewer: ViewerModel, tmp_path: Path, spot: ByteImage) -> None:
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        write_image(path, spot)
    assert [layer.name for layer in viewer.open(paths, plugin="napari-lesionseg")] == ["a", "b"]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the user is told, in place of a pop-up."""
    said: list[str] = []
    monkeypatch.setattr(readers, "show_info", said.append)
    monkeypatch.setattr(readers, "show_warning", said.append)
    return said


@pytest.mark.parametrize(("limit", "value"), [("MAX_IMAGES", 2), ("MAX_PIXELS", 40 * 60)])
def test_of_a_large_folder_the_first_images_are_opened(
    tmp_path: Path, spot: ByteImage, monkeypatch: pytest.MonkeyPatch, told: list[str], limit: Any, value: Any
) -> None:
    monkeypatch.setattr(readers, limit, value)
    for index in range(3):
        write_image(tmp_path / f"{index}.png", spot)
    assert [options["name"] for _, options, _ in read_layers(str(tmp_path))] == ["0", "1"]
    (said,) = told
    assert said.startswith(f"The first 2 of 3 images in {tmp_path.name} are open.")


def test_deep_gray_of_a_folder_keeps_its_values(
    open_file: Any, tmp_path: Path, rng: np.random.Generator
) -> None:
    values = rng.integers(0, 4096, (40, 60), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "deep.tif", values, photometric="minisblack")
    (layer,) = open_file(tmp_path)
    np.testing.assert_array_equal(layer.data, values)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PairingError, match="No images were found"):
        read_layers(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"hello, I am a text", b"\x89PNG\r\n\x1a\n truncated"])
def test_what_is_no_image_is_named(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "fake.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"fake\.png"):
        read_layers(str(path))


def test_other_files_are_left_to_other_readers(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a,b")
    assert get_reader(str(path)) is None
    assert get_reader([str(path), str(tmp_path / "a.png")]) is None
    assert get_reader([str(tmp_path / "a.png"), str(tmp_path)]) is read_layers


def test_real_images_of_the_ph2_layout_are_opened(open_file: Any, real_data: Path) -> None:
    layers = open_file(real_data / "ph2-sample")
    assert [layer.name for layer in layers[:2]] == ["IMD032", "IMD032 outline"]
    assert len(layers) == 40
    assert all(layer.rgb for layer in layers[::2])
    assert all(layer.data.max() == 1 for layer in layers[1::2])


@pytest.fixture
def records() -> Any:
    """Two images of two patients with a lesion and a hair."""
    found = []
    for number in range(2):
        rng = np.random.default_rng(number)
        labels = np.zeros((40, 60), np.uint8)
        labels[5 : 25 + number, 10:40] = 1
        labels[12:14, 10:40] = 2
        image = rng.integers(0, 256, (40, 60, 3), np.uint8)
        classes = ("background", "lesion", "hair")
        found.append(Record(f"p{number}", image, labels, classes=classes, patient=str(number)))
    return found


@pytest.mark.parametrize("convention", ["isic", "coco", "folder"])
def test_a_data_set_is_opened_with_its_outlines(
    open_file: Any, records: Any, tmp_path: Path, convention: Any
) -> None:
    *_, report = export_dataset(
        records, tmp_path / "set", convention, config=ExportConfig(pseudonymize="nothing")
    )
    layers = open_file(report.folder)
    assert [layer.name for layer in layers] == ["p0", "p0 outline", "p1", "p1 outline"]
    assert [layer.visible for layer in layers] == [True, True, False, False]
    for record, image, outline in zip(records, layers[::2], layers[1::2], strict=True):
        np.testing.assert_array_equal(image.data, record.image)
        np.testing.assert_array_equal(outline.data, record.mask)
        assert isinstance(outline, napari.layers.Labels)


def test_a_data_set_can_be_dropped_on_the_window(
    make_napari_viewer: Any, plugins: Any, records: Any, tmp_path: Path
) -> None:
    config = ExportConfig(pseudonymize="nothing")
    *_, report = export_dataset(records, tmp_path / "set", "isic", config=config)
    viewer = make_napari_viewer()
    chooser = QTimer()
    chooser.timeout.connect(choose_lesionseg)
    chooser.start(50)
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(report.folder))])
    actions = (Qt.DropAction.CopyAction, data, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier)
    viewer.window._qt_viewer.dropEvent(QDropEvent(QPointF(40, 40), *actions))
    chooser.stop()
    assert [layer.name for layer in viewer.layers] == ["p0", "p0 outline", "p1", "p1 outline"]


def choose_lesionseg() -> None:
    """Answer napari's question which plugin shall open a folder; it opens folders of TIFF itself."""
    for window in QApplication.topLevelWidgets():
        if isinstance(window, QtReaderDialog) and window.isVisible():
            (choice,) = (
                button for button in window.findChildren(QRadioButton) if "LesionSeg" in button.text()
            )
            choice.setChecked(True)
            window.accept()


def test_a_coco_file_is_opened_and_other_json_is_not(open_file: Any, records: Any, tmp_path: Path) -> None:
    config = ExportConfig(pseudonymize="nothing", shares={"train": 1})
    *_, report = export_dataset(records, tmp_path / "set", "coco", config=config)
    assert len(open_file(report.folder / "annotations/instances_train.json")) == 4
    assert get_reader(str(report.folder / "manifest.json")) is None
    assert get_reader(str(report.folder / "croissant.json")) is None


def test_photographs_that_came_as_dicom_are_opened(open_file: Any, tmp_path: Path, spot: ByteImage) -> None:
    pydicom = pytest.importorskip("pydicom", reason="needs the extra dicom")
    dataset = pydicom.Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.77.1.7", "1.2.3"
    dataset.set_pixel_data(spot, "RGB", 8)
    dataset.save_as(tmp_path / "photo.dcm", enforce_file_format=True)
    for path in (tmp_path / "photo.dcm", tmp_path):
        (layer,) = open_file(path)
        assert layer.rgb
        assert layer.name.startswith("photo")
        np.testing.assert_array_equal(layer.data, spot)


def test_broken_entries_of_a_data_set_are_told_and_left_out(
    tmp_path: Path, spot: ByteImage, told: list[str]
) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.png", spot)
        write_mask(tmp_path / f"{name}_mask.png", spot[..., 0] < 100)
    (tmp_path / "a.png").write_bytes(b"broken")
    assert [options["name"] for _, options, _ in read_layers(str(tmp_path))] == ["b", "b outline"]
    (said,) = told
    assert said.startswith(f"Left out of {tmp_path.name}: a: ")
    told.clear()
    (tmp_path / "b_mask.png").write_bytes(b"broken")
    assert [options["name"] for _, options, _ in read_layers(str(tmp_path))] == ["b"]
    assert any("b_mask.png" in message for message in told)
    (tmp_path / "b.png").write_bytes(b"broken")
    with pytest.raises(DatasetError, match="has no image that can be read"):
        read_layers(str(tmp_path))


def test_frames_that_are_not_shown_are_told(tmp_path: Path, spot: ByteImage, told: list[str]) -> None:
    frames = [Image.fromarray(spot), Image.fromarray(255 - spot)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    read_layers(str(tmp_path / "moving.gif"))
    (said,) = told
    assert "moving.gif" in said
    assert "1 further page is left out" in said
    told.clear()
    frames[0].save(tmp_path / "stack.tif", save_all=True, append_images=frames[1:])
    ((stack, _, _),) = read_layers(str(tmp_path / "stack.tif"))
    assert stack.shape == (2, *spot.shape)
    assert not told  # all pages are shown
