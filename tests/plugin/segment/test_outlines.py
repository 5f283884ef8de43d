from __future__ import annotations

import gc
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels
from numpy.typing import NDArray
from tests.fakes import prediction_of

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import ImageError
from napari_lesionseg.plugin.editor.editor import MaskEditor, editor_of
from napari_lesionseg.plugin.napari_layers.labels_writing import Frame
from napari_lesionseg.plugin.napari_layers.layers import image_shape, new_outline
from napari_lesionseg.plugin.segment.outlines import ImageEditors, Result
from napari_lesionseg.types import ByteImage, LabelImage

CONFIG = PostprocessConfig(largest_only=False, min_area=0)


def cone(shape: tuple[int, int] = (40, 60)) -> NDArray[np.float32]:
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    return np.clip(1 - np.hypot(rows - 20, cols - 30) / 20, 0, 1).astype(np.float32)


def result(probabilities: Mapping[Frame, NDArray[Any]], config: PostprocessConfig = CONFIG) -> Result:
    predictions = {frame: prediction_of(probability) for frame, probability in probabilities.items()}
    return Result(predictions, None, config)


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def editors(viewer: ViewerModel) -> ImageEditors:
    return ImageEditors(viewer)


@pytest.fixture
def image(viewer: ViewerModel, spot: ByteImage) -> Image:
    return viewer.add_image(spot, rgb=True, name="IMD002")


def outlined(editors: ImageEditors, image: Image) -> Labels:
    return editors.accept(image, image_shape(image), result({(): cone()})).labels


def disc(threshold: float) -> LabelImage:
    return (cone() >= threshold).astype(np.uint8)


def test_a_session_does_not_keep_its_viewer_alive() -> None:
    viewer = ViewerModel()
    editors, gone = ImageEditors(viewer), weakref.ref(viewer)
    viewer.layers.clear()
    del viewer
    gc.collect()
    assert gone() is None
    assert editors.images() == []


def test_an_outline_is_put_right_above_its_image(
    viewer: ViewerModel, editors: ImageEditors, spot: ByteImage
) -> None:
    first = viewer.add_image(spot, rgb=True, name="a")
    second = viewer.add_image(spot, rgb=True, name="b")
    for image in (first, second):
        outlined(editors, image)
    assert [layer.name for layer in viewer.layers] == ["a", "a outline", "b", "b outline"]


def test_a_new_outline_leaves_the_selection_alone(
    viewer: ViewerModel, editors: ImageEditors, spot: ByteImage
) -> None:
    images = [viewer.add_image(spot, rgb=True) for _ in range(3)]
    viewer.layers.selection = set(images[:2])
    for image in images:
        outlined(editors, image)
    assert viewer.layers.selection == set(images[:2])


@pytest.mark.parametrize("filled", [False, True])
def test_a_new_outline_is_hidden_if_its_image_is(
    viewer: ViewerModel, editors: ImageEditors, image: Image, filled: bool
) -> None:
    editors.filled = filled
    image.visible = False
    labels = outlined(editors, image)
    assert not labels.visible
    np.testing.assert_array_equal(labels.data, disc(0.5))
    editors.redraw(image, CONFIG.model_copy(update={"threshold": 0.3}))
    np.testing.assert_array_equal(labels.data, disc(0.3))


def test_undo_never_removes_the_first_outline(editors: ImageEditors, image: Image) -> None:
    labels = outlined(editors, image)
    labels.undo()
    np.testing.assert_array_equal(labels.data, disc(0.5))


def test_a_second_outline_is_one_edit_of_the_same_layer(
    viewer: ViewerModel, editors: ImageEditors, image: Image
) -> None:
    labels = outlined(editors, image)
    labels.paint((2, 2), 1)
    before = labels.data.copy()
    config = CONFIG.model_copy(update={"threshold": 0.43, "fill_holes": False})
    inverse = result({(): 1 - cone()}, config)
    editors.accept(image, (40, 60), inverse)
    assert len(viewer.layers) == 2
    np.testing.assert_array_equal(labels.data, 1 - cone() >= 0.43)
    labels.undo()
    np.testing.assert_array_equal(labels.data, before)


def test_names_do_not_matter(
    viewer: ViewerModel, editors: ImageEditors, image: Image, spot: ByteImage
) -> None:
    foreign = viewer.add_labels(np.zeros((40, 60), dtype=np.uint8), name="IMD002 outline")
    labels = outlined(editors, image)
    assert labels is not foreign
    assert not foreign.data.any()
    labels.name, image.name = "hers", "renamed"
    assert outlined(editors, image) is labels


@pytest.mark.parametrize("change", ["delete", "reshape", "replace"])
def test_an_outline_that_cannot_be_used_is_replaced(
    viewer: ViewerModel, editors: ImageEditors, image: Image, change: str
) -> None:
    labels = outlined(editors, image)
    if change == "delete":
        viewer.layers.remove(labels)
    elif change == "reshape":
        labels.data = np.zeros((10, 10), dtype=np.uint8)
    else:
        viewer.layers.remove(labels)
        viewer.add_labels(labels.data, name=labels.name)
    new = outlined(editors, image)
    assert new is not labels
    assert new in viewer.layers
    np.testing.assert_array_equal(new.data, disc(0.5))


def test_a_closed_image_gets_no_outline(viewer: ViewerModel, editors: ImageEditors, image: Image) -> None:
    viewer.layers.remove(image)
    with pytest.raises(ImageError, match="“IMD002” was closed"):
        outlined(editors, image)
    assert not viewer.layers


def test_nothing_is_written_for_a_changed_image(
    viewer: ViewerModel, editors: ImageEditors, image: Image, spot: ByteImage
) -> None:
    image.data = spot[:30]
    with pytest.raises(ImageError, match="was changed"):
        editors.accept(image, (40, 60), result({(): cone()}))
    assert len(viewer.layers) == 1


def test_the_threshold_redraws_in_one_step(editors: ImageEditors, image: Image) -> None:
    labels = outlined(editors, image)
    for threshold in (0.41, 0.71, 0.31):
        editors.redraw(image, CONFIG.model_copy(update={"threshold": threshold}))
        np.testing.assert_array_equal(labels.data, disc(threshold))
    editors.settle(image)
    editors.redraw(image, CONFIG.model_copy(update={"threshold": 0.9}))
    editors.settle(image)
    labels.undo()
    np.testing.assert_array_equal(labels.data, disc(0.31))
    labels.undo()
    np.testing.assert_array_equal(labels.data, disc(0.5))


def test_a_stack_is_redrawn_frame_by_frame_in_one_step(
    viewer: ViewerModel, editors: ImageEditors, spot: ByteImage
) -> None:
    image = viewer.add_image(np.stack([spot] * 3), rgb=True)
    probabilities = {(index,): cone() for index in range(3)}
    labels = editors.accept(image, (3, 40, 60), result(probabilities)).labels
    loose = CONFIG.model_copy(update={"threshold": 0.2})
    assert editors.redraw(image, loose, [(1,)])
    np.testing.assert_array_equal(labels.data, [disc(0.5), disc(0.2), disc(0.5)])
    assert editors.redraw(image, loose)
    editors.settle(image)
    np.testing.assert_array_equal(labels.data, [disc(0.2)] * 3)
    labels.undo()
    np.testing.assert_array_equal(labels.data, [disc(0.5)] * 3)


def test_painted_pixels_survive_redrawing(editors: ImageEditors, image: Image) -> None:
    labels = outlined(editors, image)
    labels.paint((2, 2), 1)
    painted = labels.data.copy()
    editors.redraw(image, CONFIG)
    np.testing.assert_array_equal(labels.data, painted)
    editors.redraw(image, CONFIG.model_copy(update={"threshold": 0.31}))
    assert labels.data[2, 2] == 1
    assert labels.data.sum() > painted.sum()


def test_painted_pixels_of_a_stack_survive_redrawing(
    viewer: ViewerModel, editors: ImageEditors, spot: ByteImage
) -> None:
    image = viewer.add_image(np.stack([spot] * 3), rgb=True)
    labels = editors.accept(image, (3, 40, 60), result({(index,): cone() for index in range(3)})).labels
    labels.data_setitem((np.array([1]), np.array([2]), np.array([2])), 1)
    editors.redraw(image, CONFIG.model_copy(update={"threshold": 0.31}))
    assert labels.data[1, 2, 2] == 1
    np.testing.assert_array_equal(labels.data[0], disc(0.31))
    labels.undo()
    labels.undo()
    np.testing.assert_array_equal(labels.data, [disc(0.5)] * 3)
    labels.redo()
    assert labels.data[1, 2, 2] == 1


def test_without_a_prediction_there_is_no_redrawing(
    viewer: ViewerModel, editors: ImageEditors, image: Image
) -> None:
    assert not editors.redraw(image, CONFIG)
    editors.settle(image)
    labels = outlined(editors, image)
    assert editors.redraw(image, CONFIG)
    labels.data = np.zeros((10, 10), dtype=np.uint8)
    assert not editors.redraw(image, CONFIG)


def test_a_removed_layer_has_no_editor(viewer: ViewerModel, editors: ImageEditors, image: Image) -> None:
    labels = outlined(editors, image)
    viewer.layers.remove(labels)
    assert editors.editor_for(image) is None
    outlined(editors, image)
    viewer.layers.clear()
    assert editors.editor_for(image) is None


def test_an_image_that_is_being_edited_keeps_its_editor(
    viewer: ViewerModel, editors: ImageEditors, image: Image
) -> None:
    labels = new_outline(image)
    viewer.add_layer(labels)
    editor = MaskEditor(viewer, image, labels, config=CONFIG, model=None)
    assert editors.accept(image, (40, 60), result({(): cone()})) is editor
    np.testing.assert_array_equal(labels.data, disc(0.5))
    editor.undo()
    np.testing.assert_array_equal(labels.data, disc(0.5))


def test_a_duplicated_layer_has_no_editor(viewer: ViewerModel, editors: ImageEditors, image: Image) -> None:
    labels = outlined(editors, image)
    duplicate = Labels(labels.data.copy(), metadata=labels.metadata)
    viewer.add_layer(duplicate)
    assert editor_of(labels) is not None
    assert editor_of(duplicate) is None


def test_outlines_lead_to_their_images(
    viewer: ViewerModel, editors: ImageEditors, image: Image, spot: ByteImage
) -> None:
    other = viewer.add_image(spot, rgb=True, name="other")
    labels = outlined(editors, image)
    assert editors.image_of(labels) is image
    assert editors.image_of(other) is other
    assert editors.image_of(viewer.add_points()) is None
    viewer.layers.selection = {labels, image, other}
    assert editors.selected_images() == [image, other]


def test_all_outlines_are_filled_at_once(
    viewer: ViewerModel, editors: ImageEditors, image: Image, spot: ByteImage
) -> None:
    labels = outlined(editors, image)
    editors.filled = True
    assert labels.contour == 0
    other = outlined(editors, viewer.add_image(spot, rgb=True))
    assert other.contour == 0
    editors.filled = False
    assert labels.contour > 0
    assert other.contour > 0
