from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import DeviceError, ModelNotFoundError
from napari_lesionseg.plugin.segment import task
from napari_lesionseg.plugin.segment.outlines import ImageEditors
from napari_lesionseg.plugin.segment.task import ModelChoice, SegmentTask
from napari_lesionseg.types import ByteImage


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def begin(viewer: ViewerModel, network: Any) -> Any:
    """Begin a run over images; give the run and the list that holds it once it has finished."""

    def begin_run(*images: Any, model: Any = None, config: Any = None) -> Any:
        run = SegmentTask(ImageEditors(viewer), images, config or PostprocessConfig())
        over = []
        run.finished.connect(over.append)
        run.start(ModelChoice(), model)
        return run, over

    return begin_run


@pytest.fixture
def complete(begin: Any, qtbot: QtBot) -> Any:
    """Run over images to the end."""

    def complete_run(*images: Any, **options: Any) -> Any:
        run, over = begin(*images, **options)
        qtbot.waitUntil(lambda: bool(over), timeout=20_000)
        return run

    return complete_run


def outline(viewer: ViewerModel, image: Any) -> np.ndarray:
    return ImageEditors(viewer).editor_for(image).labels.data


def is_spot(mask: np.ndarray) -> bool:
    expected = np.zeros((40, 60), dtype=bool)
    expected[10:30, 20:45] = True
    return np.array_equal(mask, expected)


def test_an_image_is_outlined(viewer: ViewerModel, complete: Any, network: Any, spot: ByteImage) -> None:
    image = viewer.add_image(spot, rgb=True)
    run = complete(image)
    assert run.done == [image]
    assert run.model is network
    assert not run.errors
    assert is_spot(outline(viewer, image))
    assert ImageEditors(viewer).editor_for(image).document.snapshot.threshold == 0.6


def test_several_images_are_outlined_in_their_order(
    viewer: ViewerModel, complete: Any, spot: ByteImage
) -> None:
    images = [viewer.add_image(spot, rgb=True) for _ in range(3)]
    assert complete(*images[::-1]).done == images[::-1]
    assert all(is_spot(outline(viewer, image)) for image in images)


def test_progress_counts_frames(viewer: ViewerModel, qtbot: QtBot, network: Any, spot: ByteImage) -> None:
    stack = viewer.add_image(np.stack([spot, spot]), rgb=True, name="stack")
    single = viewer.add_image(spot, rgb=True, name="single")
    run = SegmentTask(ImageEditors(viewer), [stack, single], PostprocessConfig())
    seen, over = [], []
    run.progressed.connect(lambda *now: seen.append(now))
    run.finished.connect(over.append)
    run.start(ModelChoice())
    qtbot.waitUntil(lambda: bool(over), timeout=20_000)
    assert seen == [(0, 3, ""), (0, 3, "stack"), (1, 3, "stack"), (2, 3, "single")]


def test_every_frame_of_a_stack_is_one_outline(
    viewer: ViewerModel, complete: Any, network: Any, spot: ByteImage
) -> None:
    image = viewer.add_image(np.stack([spot, np.roll(spot, 5, axis=1), spot]), rgb=True)
    complete(image)
    labels = ImageEditors(viewer).editor_for(image).labels
    assert len(network.seen) == 3
    assert [frame[:, 20].any() for frame in labels.data] == [True, False, True]
    labels.undo()
    assert labels.data[0].any()


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda spot: (spot, {"rgb": True}), id="RGB"),
        pytest.param(lambda spot: (np.dstack([spot, spot[..., 0]]), {"rgb": True}), id="RGBA"),
        pytest.param(lambda spot: (spot[..., 0], {}), id="gray"),
        pytest.param(lambda spot: (spot[..., 0].astype(np.uint16) * 16, {}), id="12-bit"),
        pytest.param(lambda spot: (spot / np.float32(255), {"rgb": True}), id="float RGB"),
        pytest.param(lambda spot: (spot[..., 1] / 255, {}), id="float gray"),
        pytest.param(lambda spot: (da.from_array(spot, chunks=(16, 16, 3)), {"rgb": True}), id="dask"),
        pytest.param(
            lambda spot: ([spot, spot[::2, ::2]], {"rgb": True, "multiscale": True}), id="multiscale"
        ),
    ],
)
def test_every_kind_of_image_is_outlined(
    viewer: ViewerModel, complete: Any, network: Any, spot: ByteImage, make: Any
) -> None:
    data, options = make(spot)
    image = viewer.add_image(data, **options)
    run = complete(image)
    assert not run.errors
    assert is_spot(outline(viewer, image))
    assert network.seen[0].dtype == np.uint8
    assert network.seen[0].shape == (40, 60, 3)


def test_the_network_works_elsewhere_on_a_copy(
    viewer: ViewerModel, begin: Any, qtbot: QtBot, network: Any, spot: ByteImage
) -> None:
    image = viewer.add_image(spot.copy(), rgb=True)
    network.gate.clear()
    _, over = begin(image)
    qtbot.waitUntil(network.started.is_set, timeout=20_000)
    image.data[:] = 0
    network.gate.set()
    qtbot.waitUntil(lambda: bool(over), timeout=20_000)
    np.testing.assert_array_equal(network.seen[0], spot)
    assert is_spot(outline(viewer, image))


def test_a_loaded_model_is_not_loaded_again(
    viewer: ViewerModel, complete: Any, network: Any, spot: ByteImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(choice: Any) -> None:
        raise ModelNotFoundError("must not be asked for")

    monkeypatch.setattr(task, "load", refuse)
    image = viewer.add_image(spot, rgb=True)
    assert complete(image, model=network).done == [image]


def test_a_model_that_cannot_be_loaded_ends_the_run(
    viewer: ViewerModel, complete: Any, network: Any, spot: ByteImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(choice: Any) -> None:
        raise ModelNotFoundError("There is no model 'x'.")

    monkeypatch.setattr(task, "load", refuse)
    run = complete(viewer.add_image(spot, rgb=True))
    assert [str(error) for error in run.errors] == ["There is no model 'x'."]
    assert not run.done
    assert len(viewer.layers) == 1


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: launch failure"), DeviceError("no memory")])
def test_an_image_that_fails_is_named_and_the_others_are_done(
    viewer: ViewerModel, complete: Any, network: Any, spot: ByteImage, error: Any
) -> None:
    bad, good = viewer.add_image(spot, rgb=True), viewer.add_image(spot, rgb=True)
    predict, calls = network.predict, []

    def fail_once(image: Any) -> Any:
        calls.append(image)
        if len(calls) == 1:
            raise error
        return predict(image)

    network.predict = fail_once
    run = complete(bad, good)
    assert run.done == [good]
    assert len(run.errors) == 1
    assert isinstance(run.errors[0], DeviceError)
    assert ImageEditors(viewer).editor_for(bad) is None


def test_an_image_that_cannot_be_outlined_is_named_and_the_others_are_done(
    viewer: ViewerModel, complete: Any, spot: ByteImage
) -> None:
    huge = viewer.add_image(
        [da.zeros((60_000, 50_000, 3), dtype=np.uint8), da.zeros((60, 50, 3), dtype=np.uint8)],
        rgb=True,
        multiscale=True,
    )
    good = viewer.add_image(spot, rgb=True)
    run = complete(huge, good)
    assert run.done == [good]
    assert "megapixels" in str(run.errors[0])


def test_no_images_are_done_at_once(complete: Any) -> None:
    assert complete().done == []


def test_cancel_keeps_what_is_done_and_writes_nothing_more(
    viewer: ViewerModel, begin: Any, qtbot: QtBot, network: Any, spot: ByteImage
) -> None:
    images = [viewer.add_image(spot, rgb=True) for _ in range(3)]
    run, over = begin(*images)
    qtbot.waitUntil(lambda: len(run.done) == 1, timeout=20_000)
    network.gate.clear()
    network.started.clear()
    qtbot.waitUntil(network.started.is_set, timeout=20_000)
    done = list(run.done)
    run.cancel()
    network.gate.set()
    qtbot.waitUntil(lambda: bool(over), timeout=20_000)
    assert run.done == done
    assert run.cancelled
    assert ImageEditors(viewer).editor_for(images[-1]) is None


def test_a_cancelled_stack_is_left_alone(
    viewer: ViewerModel, begin: Any, qtbot: QtBot, network: Any, spot: ByteImage
) -> None:
    image = viewer.add_image(np.stack([spot] * 4), rgb=True)
    network.gate.clear()
    run, over = begin(image)
    qtbot.waitUntil(network.started.is_set, timeout=20_000)
    run.cancel()
    network.gate.set()
    qtbot.waitUntil(lambda: bool(over), timeout=20_000)
    assert len(network.seen) == 1
    assert len(viewer.layers) == 1


@pytest.fixture
def midway(viewer: ViewerModel, begin: Any, qtbot: QtBot, network: Any, spot: Any) -> Any:
    """Segment an image again; act while the network runs; return the task when it is done."""

    def act_midway(act: Any, data: Any = spot) -> Any:
        image = viewer.add_image(data, rgb=True, name="IMD002")
        network.gate.clear()
        run, over = begin(image)
        qtbot.waitUntil(network.started.is_set, timeout=20_000)
        act(image)
        network.gate.set()
        qtbot.waitUntil(lambda: bool(over), timeout=20_000)
        return run, image

    return act_midway


def test_an_image_renamed_meanwhile_is_outlined(viewer: ViewerModel, midway: Any) -> None:
    run, image = midway(lambda image: setattr(image, "name", "other"))
    assert run.done == [image]
    assert ImageEditors(viewer).editor_for(image).labels.name == "other outline"


def test_an_image_closed_meanwhile_is_no_error(viewer: ViewerModel, midway: Any) -> None:
    run, _ = midway(lambda image: viewer.layers.remove(image))
    assert not run.done
    assert not run.errors
    assert not viewer.layers


def test_an_image_changed_meanwhile_is_not_written(viewer: ViewerModel, midway: Any, spot: ByteImage) -> None:
    run, _ = midway(lambda image: setattr(image, "data", spot[:20]))
    assert "segment it again" in str(run.errors[0])
    assert len(viewer.layers) == 1


def test_a_stack_shortened_meanwhile_is_not_written(
    viewer: ViewerModel, midway: Any, spot: ByteImage
) -> None:
    stack = np.stack([spot] * 3)
    run, _ = midway(lambda image: setattr(image, "data", stack[:1]), data=stack)
    assert "segment it again" in str(run.errors[0])
    assert len(viewer.layers) == 1


def test_a_closed_task_emits_nothing(
    viewer: ViewerModel, begin: Any, qtbot: QtBot, network: Any, spot: ByteImage
) -> None:
    image = viewer.add_image(spot, rgb=True)
    network.gate.clear()
    run, over = begin(image)
    qtbot.waitUntil(network.started.is_set, timeout=20_000)
    run.close()
    network.gate.set()
    other, other_over = begin(viewer.add_image(spot, rgb=True))
    qtbot.waitUntil(lambda: bool(other_over), timeout=20_000)
    assert not over
    assert other.done
    assert ImageEditors(viewer).editor_for(image) is None


def test_settings_are_used(viewer: ViewerModel, complete: Any, spot: ByteImage) -> None:
    spot[0:3, 0:3] = 40
    image = viewer.add_image(spot, rgb=True)
    complete(image, config=PostprocessConfig(largest_only=False, min_area=0))
    assert outline(viewer, image)[0, 0] == 1
    complete(image, config=PostprocessConfig(largest_only=False, min_area=20))
    assert is_spot(outline(viewer, image))
    complete(image, config=PostprocessConfig(threshold=0.97))
    assert not outline(viewer, image).any()
