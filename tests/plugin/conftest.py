"""What the viewer tests share: a network that answers at once, and isolation from the user's settings."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import napari.settings
import numpy as np
import pytest
from npe2 import PluginManager
from tests.fakes import prediction_of

from napari_lesionseg.errors import StudyError
from napari_lesionseg.inference.postprocess import stroke_pixels
from napari_lesionseg.inference.prediction import Prediction
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.plugin.garbage import collector
from napari_lesionseg.plugin.widgets.model_picker import AvailableModels
from napari_lesionseg.study.layout import is_study
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import NO_PROMPTS, ByteImage, Probability, Prompts, Stroke


class FakeModel:
    """Says that dark is lesion: its probability is 1 minus the mean brightness.

    Attributes
    ----------
    gate : threading.Event
        Predictions wait while it is cleared, so that tests can act while the network is at work.
    error : Exception or None
        Raised by the next predictions.
    seen : list of ndarray
        The images it was given.
    """

    def __init__(self) -> None:
        self.card = ModelCard(name="fake", threshold=0.6)
        self.device = "cpu"
        self.sha256 = "fa" * 32
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()
        self.error: Exception | None = None
        self.seen: list[ByteImage] = []
        self.threads: list[int] = []

    def predict(self, image: ByteImage, clicks: Any = (), previous: Probability | None = None) -> Probability:
        self.seen.append(image)
        self.threads.append(threading.get_ident())
        self.started.set()
        if not self.gate.wait(timeout=20):
            raise TimeoutError("the test never opened the gate")
        if self.error is not None:
            raise self.error
        return (1 - image.mean(axis=2) / 255).astype(np.float32)

    def encode(self, image: ByteImage) -> FakeEncoded:
        return FakeEncoded(self, image)


class FakeEncoded:
    """An image as the fake network keeps it: strokes are honored in discs of three pixels around them."""

    def __init__(self, model: FakeModel, image: ByteImage) -> None:
        self.model, self.image = model, image

    def predict(self, strokes: Sequence[Stroke] = (), previous: Probability | None = None) -> Probability:
        probability = self.model.predict(self.image)
        rows, cols = np.indices(probability.shape)
        for stroke in strokes:
            for row, col in stroke_pixels(stroke, probability.shape):
                probability[np.hypot(rows - row, cols - col) <= 3] = 0.99 if stroke.positive else 0.01
        return probability

    def predict_logits(
        self, prompts: Prompts = NO_PROMPTS, previous: Probability | None = None
    ) -> Prediction:
        return replace(prediction_of(self.predict(prompts.strokes, previous)), prompts=prompts.area)


@pytest.fixture(autouse=True)
def own_settings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep the plugin's page of the preferences apart from the user's, and fresh for each test."""
    napari.settings._clear_plugin_settings_cache()
    monkeypatch.setattr(
        napari.settings, "_CFG_PATH", str(tmp_path_factory.mktemp("config") / "settings.yaml")
    )
    yield
    napari.settings._clear_plugin_settings_cache()


@pytest.fixture(autouse=True)
def annotator_agrees(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the annotator accept the name that is suggested; a dialog would wait for an answer forever."""
    if request.path.stem != "test_annotator":
        dialog = SimpleNamespace(getText=lambda parent, title, question, text: (text, True))
        monkeypatch.setattr("napari_lesionseg.plugin.workbench.annotator.QInputDialog", dialog)


@pytest.fixture(autouse=True)
def collect_only_what_is_new() -> None:
    """Leave the objects of earlier tests out of garbage collections: napari makes one for each layer removed.

    With the objects of hundreds of tests, each took two seconds.
    """
    gc.freeze()


@pytest.fixture(autouse=True)
def python_collects_again() -> Iterator[None]:
    """Give the garbage collection back to Python, for tests without an event loop."""
    yield
    collector.stop()


@pytest.fixture
def plugins() -> PluginManager:
    """Let npe2 find the installed plugins, as napari does when a window opens."""
    manager = PluginManager.instance()
    manager.discover()
    return manager


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> FakeModel:
    """A quick network in the place of any that would be loaded."""
    model = FakeModel()
    monkeypatch.setattr("napari_lesionseg.plugin.segment.task.load", lambda choice: model)
    entry = SimpleNamespace(name="fake", shipped=True, problem="")
    found = AvailableModels((entry,), {"auto": "CPU, 2 threads", "cpu": "CPU, 2 threads"})
    monkeypatch.setattr("napari_lesionseg.plugin.widgets.model_picker.available_models", lambda: found)
    return model


@pytest.fixture
def spot() -> ByteImage:
    """A bright image, 40 x 60, with a dark square in rows 10 to 29 and columns 20 to 44."""
    return spot_image()


def spot_image(shape: tuple[int, int] = (40, 60)) -> ByteImage:
    image = np.full((*shape, 3), 230, dtype=np.uint8)
    image[10:30, 20:45] = 40
    return image


@pytest.fixture
def make_study(tmp_path: Path) -> Callable[..., Study]:
    """Make a study of small images that all differ, or open the one that was made before."""

    def make(count: int = 4, annotator: str = "am", **more: Any) -> Study:
        folder = tmp_path / "study"
        if is_study(folder):
            return Study.open(folder, annotator)
        images = {f"P{number + 1}": numbered_spot(number) for number in range(count)}
        return Study.create(folder, annotator, images=images, **more)

    return make


def numbered_spot(number: int) -> ByteImage:
    image = spot_image()
    image[0, number % 60] = number // 60 + 1
    return image


class Trouble:
    """Lets a study refuse to save."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on = False
        for name in ("record_prediction", "save_correction", "approve", "no_lesion", "flag", "save_session"):
            monkeypatch.setattr(Study, name, self._refusing(getattr(Study, name)))

    def _refusing(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            if self.on:
                raise StudyError("the disk is full")
            return method(*arguments, **more)

        call.__name__ = method.__name__
        return call


@pytest.fixture
def trouble(monkeypatch: pytest.MonkeyPatch) -> Trouble:
    """A study that saves nothing while ``trouble.on``."""
    return Trouble(monkeypatch)


SPOT_AREA = 20 * 25
