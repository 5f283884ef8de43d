from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels
from tests.fakes import prediction_of

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import ImageError
from napari_lesionseg.plugin.napari_layers.layers import image_shape
from napari_lesionseg.plugin.segment.outlines import PredictionCache, Result, Session, session_of

CONFIG = PostprocessConfig(largest_only=False, min_area=0)


def cone(shape=(40, 60)) -> np.ndarray:
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    return np.clip(1 - np.hypot(rows - 20, cols - 30) / 20, 0, 1).astype(np.float32)


def result(probabilities, config=CONFIG) -> Result:
    masks = {frame: (probability >= 0.5).astype(np.uint8) for frame, probability in probabilities.items()}
    return Result({f: prediction_of(p) for f, p in probabilities.items()}, masks, "fake", 0.5, config)


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def session(viewer) -> Session:
    return session_of(viewer)


@pytest.fixture
def image(viewer, spot) -> Image:
    return viewer.add_image(spot, rgb=True, name="IMD002")


def outlined(session, image) -> Labels:
    return session.accept(image, image_shape(image), result({(): cone()})).labels


def disc(threshold: float) -> np.ndarray:
    return (cone() >= threshold).astype(np.uint8)


def test_a_viewer_has_one_session(viewer):
    assert session_of(viewer) is session_of(viewer)
    assert session_of(ViewerModel()) is not session_of(viewer)


def test_a_session_does_not_keep_its_viewer_alive():
    viewer = ViewerModel()
    session, gone = session_of(viewer), weakref.ref(viewer)
    viewer.layers.clear()
    del viewer
    gc.collect()
    assert gone() is None
    assert session.images() == []


def test_an_outline_is_put_right_above_its_image(viewer, session, spot):
    first = viewer.add_image(spot, rgb=True, name="a")
    second = viewer.add_image(spot, rgb=True, name="b")
    for image in (first, second):
        outlined(session, image)
    assert [layer.name for layer in viewer.layers] == ["a", "a outline", "b", "b outline"]


def test_a_new_outline_leaves_the_selection_alone(viewer, session, spot):
    images = [viewer.add_image(spot, rgb=True) for _ in range(3)]
    viewer.layers.selection = set(images[:2])
    for image in images:
        outlined(session, image)
    assert viewer.layers.selection == set(images[:2])


@pytest.mark.parametrize("filled", [False, True])
def test_a_new_outline_is_hidden_if_its_image_is(viewer, session, image, filled):
    session.filled = filled
    image.visible = False
    labels = outlined(session, image)
    assert not labels.visible
    np.testing.assert_array_equal(labels.data, disc(0.5))
    session.redraw(image, CONFIG.model_copy(update={"threshold": 0.3}))
    np.testing.assert_array_equal(labels.data, disc(0.3))


def test_the_first_outline_can_be_undone(session, image):
    labels = outlined(session, image)
    np.testing.assert_array_equal(labels.data, disc(0.5))
    labels.undo()
    assert not labels.data.any()


def test_a_second_outline_is_one_edit_of_the_same_layer(viewer, session, image):
    labels = outlined(session, image)
    labels.paint((2, 2), 1)
    before = labels.data.copy()
    answer = result({(): 1 - cone()})
    session.accept(image, (40, 60), answer)
    assert len(viewer.layers) == 2
    np.testing.assert_array_equal(labels.data, answer.masks[()])
    labels.undo()
    np.testing.assert_array_equal(labels.data, before)


def test_names_mean_nothing(viewer, session, image, spot):
    foreign = viewer.add_labels(np.zeros((40, 60), dtype=np.uint8), name="IMD002 outline")
    labels = outlined(session, image)
    assert labels is not foreign
    assert not foreign.data.any()
    labels.name, image.name = "hers", "renamed"
    assert outlined(session, image) is labels


@pytest.mark.parametrize("change", ["delete", "reshape", "replace"])
def test_an_outline_that_cannot_be_used_is_replaced(viewer, session, image, change):
    labels = outlined(session, image)
    if change == "delete":
        viewer.layers.remove(labels)
    elif change == "reshape":
        labels.data = np.zeros((10, 10), dtype=np.uint8)
    else:
        viewer.layers.remove(labels)
        viewer.add_labels(labels.data, name=labels.name)
    new = outlined(session, image)
    assert new is not labels
    assert new in viewer.layers
    np.testing.assert_array_equal(new.data, disc(0.5))


def test_nothing_is_written_for_a_closed_image(viewer, session, image):
    viewer.layers.remove(image)
    with pytest.raises(ImageError, match="“IMD002” was closed"):
        outlined(session, image)
    assert not viewer.layers


def test_nothing_is_written_for_a_changed_image(viewer, session, image, spot):
    image.data = spot[:30]
    with pytest.raises(ImageError, match="was changed"):
        session.accept(image, (40, 60), result({(): cone()}))
    assert len(viewer.layers) == 1


def test_the_threshold_redraws_in_one_step(session, image):
    labels = outlined(session, image)
    for threshold in (0.41, 0.71, 0.31):
        session.redraw(image, CONFIG.model_copy(update={"threshold": threshold}))
        np.testing.assert_array_equal(labels.data, disc(threshold))
    session.settle(image)
    session.redraw(image, CONFIG.model_copy(update={"threshold": 0.9}))
    session.settle(image)
    labels.undo()
    np.testing.assert_array_equal(labels.data, disc(0.31))
    labels.undo()
    np.testing.assert_array_equal(labels.data, disc(0.5))


def test_a_stack_is_redrawn_frame_by_frame_in_one_step(viewer, session, spot):
    image = viewer.add_image(np.stack([spot] * 3), rgb=True)
    probabilities = {(index,): cone() for index in range(3)}
    labels = session.accept(image, (3, 40, 60), result(probabilities)).labels
    loose = CONFIG.model_copy(update={"threshold": 0.2})
    assert session.redraw(image, loose, [(1,)])
    np.testing.assert_array_equal(labels.data, [disc(0.5), disc(0.2), disc(0.5)])
    assert session.redraw(image, loose)
    session.settle(image)
    np.testing.assert_array_equal(labels.data, [disc(0.2)] * 3)
    labels.undo()
    np.testing.assert_array_equal(labels.data, [disc(0.5)] * 3)


def test_what_is_drawn_already_is_not_drawn_again(session, image):
    labels = outlined(session, image)
    labels.paint((2, 2), 1)
    painted = labels.data.copy()
    assert not session.redraw(image, CONFIG)
    np.testing.assert_array_equal(labels.data, painted)


def test_without_a_prediction_there_is_no_redrawing(viewer, session, image):
    assert not session.can_redraw(image)
    assert not session.redraw(image, CONFIG)
    session.settle(image)
    labels = outlined(session, image)
    assert session.can_redraw(image)
    labels.data = np.zeros((10, 10), dtype=np.uint8)
    assert not session.can_redraw(image)


def test_predictions_dropped_from_memory_leave_the_outline_alone(viewer, spot):
    session = Session(viewer, PredictionCache(budget=0))
    image = viewer.add_image(spot, rgb=True)
    labels = outlined(session, image)
    assert not session.redraw(image, CONFIG.model_copy(update={"threshold": 0.2}))
    np.testing.assert_array_equal(labels.data, disc(0.5))


def test_removed_layers_are_forgotten(viewer, session, image):
    forgotten = []
    session.forgotten.connect(forgotten.append)
    labels = outlined(session, image)
    viewer.layers.remove(labels)
    assert forgotten == [image]
    assert session.outline_of(image) is None
    outlined(session, image)
    viewer.layers.clear()
    assert forgotten == [image, image]


def test_outlines_lead_to_their_images(viewer, session, image, spot):
    other = viewer.add_image(spot, rgb=True, name="other")
    labels = outlined(session, image)
    assert session.image_of(labels) is image
    assert session.image_of(other) is other
    assert session.image_of(viewer.add_points()) is None
    viewer.layers.selection = {labels, image, other}
    assert session.selected_images() == [image, other]


def test_all_outlines_are_filled_at_once(viewer, session, image, spot):
    labels = outlined(session, image)
    session.filled = True
    assert labels.contour == 0
    other = outlined(session, viewer.add_image(spot, rgb=True))
    assert other.contour == 0
    session.filled = False
    assert labels.contour > 0
    assert other.contour > 0


def test_a_closed_session_forgets_and_listens_no_more(viewer, session, image):
    labels = outlined(session, image)
    session.close()
    assert session.outline_of(image) is None
    viewer.layers.remove(labels)
    assert not session.can_redraw(image)
