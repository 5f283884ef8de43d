"""A network, jobs and an editor under the control of a test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from napari.components import ViewerModel
from numpy.typing import NDArray
from tests.fakes import prediction_of

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.inference.postprocess import stroke_pixels
from napari_lesionseg.inference.prediction import Prediction
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.plugin.editor.editor import MaskEditor
from napari_lesionseg.plugin.editor.mouse import EditMouse
from napari_lesionseg.plugin.editor.tools import REMOVE_PART, TOOLS, MaskEdit, ToolContext
from napari_lesionseg.plugin.napari_layers.layers import new_outline
from napari_lesionseg.types import NO_PROMPTS, ByteImage, LabelImage, Probability, Prompts, Stroke

PLAIN = PostprocessConfig(threshold=0.5, fill_holes=False, largest_only=False, min_area=0)
SHAPE = (40, 60)
REACH = 4
EDITS = (
    *(tool.id for tool in TOOLS if isinstance(tool.function, MaskEdit)),
    "back_to_prediction",
    "clear",
)
"""Tools that change the mask."""


def base_probability(shape: tuple[int, int] = SHAPE) -> Probability:
    """A lesion in rows 10 to 29 and columns 20 to 44, with a less certain rim of three pixels."""
    probability = np.full(shape, 0.1, dtype=np.float32)
    probability[7:33, 17:48] = 0.4
    probability[10:30, 20:45] = 0.9
    return probability


def base_mask(threshold: float = 0.5) -> LabelImage:
    return (base_probability() >= threshold).astype(np.uint8)


def stamped(probability: NDArray[Any], strokes: Iterable[Stroke]) -> NDArray[Any]:
    """The network's probability after strokes: each changes a square around its pixels."""
    stamped, strokes = probability.copy(), list(strokes)
    for stroke in strokes:
        for row, col in stroke_pixels(stroke, probability.shape).tolist():
            square = np.s_[max(row - REACH, 0) : row + REACH + 1, max(col - REACH, 0) : col + REACH + 1]
            stamped[square] = 0.8 if stroke.positive else 0.2
    for stroke in strokes:
        rows, cols = stroke_pixels(stroke, probability.shape).T
        stamped[rows, cols] = 0.8 if stroke.positive else 0.2
    return stamped


class Network:
    """Stands for the network; its inputs are recorded."""

    def __init__(self) -> None:
        self.card = ModelCard(name="fake", threshold=0.5)
        self.inputs: list[tuple[tuple[Stroke, ...], Probability | None]] = []
        self.encoded = 0
        self.gate, self.started = threading.Event(), threading.Event()
        self.gate.set()
        self.error: Exception | None = None

    def encode(self, image: ByteImage) -> Encoded:
        self.encoded += 1
        return Encoded(self, image)


class Encoded:
    def __init__(self, model: Network, image: ByteImage) -> None:
        self.model, self.shape = model, image.shape[:2]

    def predict_logits(
        self, prompts: Prompts = NO_PROMPTS, previous: Probability | None = None
    ) -> Prediction:
        strokes = prompts.strokes
        self.model.inputs.append((strokes, previous))
        self.model.started.set()
        if not self.model.gate.wait(timeout=20):
            raise TimeoutError("the test never opened the gate")
        if self.model.error is not None:
            raise self.model.error
        if not prompts.has_area:
            return prediction_of(stamped(base_probability(self.shape), strokes))
        whole = prediction_of(stamped(np.full(self.shape, 0.7, np.float32), strokes))
        return replace(whole, prompts=prompts.area)


class SlowJobs:
    """Jobs that run on demand of the test, in the test's own thread."""

    def __init__(self) -> None:
        self.waiting: list[SlowJob] = []

    def __call__(self, title: str, function: Callable[..., Any], *arguments: Any, **after: Any) -> SlowJob:
        job = SlowJob(lambda: function(*arguments), **after)
        self.waiting.append(job)
        return job

    def finish_one(self) -> None:
        """Finish the oldest job."""
        job = self.waiting.pop(0)
        try:
            value = job.work()
        except LesionSegError as error:
            if job.wanted:
                job.failed(error)
            return
        if job.wanted:
            job.done(value)

    def finish(self) -> None:
        """Finish all jobs."""
        while self.waiting:
            self.finish_one()


class SlowJob:
    def __init__(
        self,
        work: Callable[[], Any],
        done: Callable[[Any], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self.work, self.done, self.failed, self.wanted = work, done, failed, True

    def close(self) -> None:
        self.wanted = False


class RecordedEditor(MaskEditor):
    """Records what was done, and what failed."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.kinds: list[str] = []
        self.errors: list[Exception] = []
        self.changed.connect(self.kinds.append)
        self.failed.connect(self.errors.append)


def make_editor(
    config: PostprocessConfig = PLAIN, model: Any = "new", shape: tuple[int, int] = SHAPE
) -> RecordedEditor:
    viewer = ViewerModel()
    image = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    sample = viewer.add_image(image, rgb=True, name="IMD003")
    labels = new_outline(sample)
    viewer.add_layer(labels)
    return RecordedEditor(viewer, sample, labels, config=config, model=Network() if model == "new" else model)


def paint(editor: MaskEditor, rows: range, cols: range, value: int = 1) -> None:
    """Paint as napari's own tools do: through the layer, which emits it."""
    at = np.array([(row, col) for row in rows for col in cols]).T
    editor.labels.data_setitem(tuple(at), value)


def apply_tool(editor: MaskEditor, name: str, row: float | None = None, col: float | None = None) -> None:
    """Use a tool as its key does, or remove the part at a point."""
    if row is not None and col is not None and name == "remove_part":
        editor.apply(REMOVE_PART, (row, col))
        return
    mouse = EditMouse(editor)
    next(tool for tool in TOOLS if tool.id == name).function(ToolContext(editor, mouse))
    mouse.close()
