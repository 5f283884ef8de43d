"""Run models: from an image and clicks to a probability and a mask."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import CheckpointError, DeviceError, ImageError
from napari_lesionseg.inference.box_fit import automatic_trust, fit_box
from napari_lesionseg.inference.clicks import guidance_planes, strokes_inside
from napari_lesionseg.inference.device import (
    DeviceModel,
    choose_device,
    describe_device,
    is_out_of_memory,
)
from napari_lesionseg.inference.postprocess import postprocess as run_postprocess
from napari_lesionseg.inference.postprocess import resolve_threshold
from napari_lesionseg.inference.prediction import Prediction
from napari_lesionseg.inference.prompts import (
    area_prior,
    check_prompts,
    combine_evidence,
    enclosing_box,
    fill_area,
    lesion_margin,
    prompt_window,
    read_prompts,
    share_among_classes,
    stroke_window,
    view_of_part,
    weights_of,
)
from napari_lesionseg.inference.window_view import WindowView
from napari_lesionseg.io.atomic import sha256_file
from napari_lesionseg.io.resize import normalize, resize_image, resize_plane, working_shape
from napari_lesionseg.models.base import SegmentationNetwork, logits_to_probability
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import load_checkpoint, read_card
from napari_lesionseg.models.onnx import load_onnx
from napari_lesionseg.models.store import ONNX_SUFFIX, ModelStore
from napari_lesionseg.types import (
    NO_PROMPTS,
    Box,
    ByteImage,
    Click,
    LabelImage,
    Probability,
    Prompts,
    Scribble,
    Stroke,
)

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

SMALLEST = 1e-6  # keeps logits of probabilities finite


class Model:
    """A network with its card, ready to segment images.

    Several threads may use one model at the same time.

    Parameters
    ----------
    network : SegmentationNetwork
        The network; it is set to evaluation mode. Predictions come from a copy made for speed: after further
        training, make a new model of it.
    card : ModelCard
        Its card.
    device : str or torch.device
        See `choose_device`.
    sha256 : str, optional
        Hash of the file it came from.
    precision : {"auto", "float32", "bfloat16"}
        Of the decoder; see `autocast`.
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        card: ModelCard,
        device: str | torch.device = "auto",
        *,
        sha256: str | None = None,
        precision: str = "auto",
    ) -> None:
        self.network, self.card, self.sha256, self.precision = network.eval(), card, sha256, precision
        self.device_model = self.prepare(choose_device(device))

    @property
    def device(self) -> torch.device:
        """Device that computes predictions."""
        return self.device_model.device

    def encode(self, image: ByteImage, whole: EncodedImage | None = None) -> EncodedImage:
        """Run the part of the network that clicks do not change.

        Parameters
        ----------
        image : ByteImage
            Shape (H, W, 3), RGB, 0 to 255.
        whole : EncodedImage, optional
            The image that ``image`` is a part of; it decides which of several experts is used.

        Raises
        ------
        ImageError
            If ``image`` is of another shape or type.
        DeviceError
            If the computer has too little memory.
        """
        planes = self.network_input(image)
        return EncodedImage(self, image, planes, planes if whole is None else whole.network_input)

    def network_input(self, image: ByteImage) -> Tensor:
        """Resize and normalize an image (H, W, 3) for the network, to (1, 3, h, w) on the CPU.

        Raises
        ------
        ImageError
            If ``image`` is of another shape or type.
        """
        _check_image(image)
        small = resize_image(image, working_shape((image.shape[0], image.shape[1]), self.card.working_size))
        return torch.from_numpy(normalize(small, self.card.mean, self.card.std))[None]

    @torch.inference_mode()
    def describe(self, image: ByteImage) -> NDArray[np.float32] | None:
        """Return features of the kind of image (H, W, 3) it is, see `SegmentationNetwork.describe`."""
        description = self.network.describe(
            self.network_input(image).to(next(self.network.parameters()).device)
        )
        return None if description is None else description[0].cpu().numpy()

    def predict(
        self,
        image: ByteImage,
        clicks: Sequence[Click] = (),
        previous: Probability | None = None,
        *,
        box: Box | Sequence[float] | None = None,
        lasso: Sequence[tuple[float, float]] = (),
        scribbles: Sequence[Scribble] = (),
        augment: bool = True,
    ) -> Probability:
        """Return the probability that each pixel belongs to the lesion.

        Parameters
        ----------
        image : ByteImage
            Shape (H, W, 3), RGB, 0 to 255.
        clicks : sequence of Click
            Points that belong to the lesion, or do not; those outside the image are ignored.
        previous : Probability, optional
            The prediction before the last click, shape (H, W) or (C, H, W).
        box : Box or (top, left, bottom, right), optional
            A rectangle around the lesion; outside it there is none.
        lasso : sequence of (row, column)
            A closed stroke around the lesion, of three points or more; outside it there is none.
        scribbles : sequence of Scribble
            Strokes on the lesion, or beside it.
        augment : bool
            Average over the quarter turns of the image if the card asks for it. False: four times as fast,
            slightly worse.

        Returns
        -------
        Probability
            float32 in [0, 1] of shape (H, W), or (C, H, W) for C classes with the background first.

        Raises
        ------
        ImageError
            If ``image`` is of another shape or type, or ``previous`` is of another size or holds anything but
            probabilities.
        PromptError
            If the box, the lasso or a scribble is outside the image or too small, or a number is missing.
        DeviceError
            If the computer has too little memory.
        """
        return self.encode(image).predict(
            clicks, previous, box=box, lasso=lasso, scribbles=scribbles, augment=augment
        )

    def move_to_cpu(self) -> DeviceModel:
        """Move to the CPU, as happens automatically when a GPU runs out of memory."""
        if self.device_model.device.type != "cpu":
            self.device_model = self.prepare(torch.device("cpu"))
        return self.device_model

    def prepare(self, device: torch.device) -> DeviceModel:
        """Return a copy of the network on a device."""
        network = self.network.for_inference().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return DeviceModel(network, device, self.precision)


class EncodedImage:
    """An image encoded by a model, see `Model.encode`: each further click runs the decoder alone."""

    def __init__(self, model: Model, image: ByteImage, network_input: Tensor, whole: Tensor) -> None:
        self.image = image
        """Shape (H, W, 3)."""
        self.shape: tuple[int, int] = (image.shape[0], image.shape[1])
        """Height and width of the image."""
        self.network_input = network_input
        """Shape (1, 3, h, w)."""
        self._model, self._whole, self._device_model = model, whole, model.device_model
        self._encoded_by: DeviceModel | None = None
        self._views: dict[DeviceModel, WindowView] = {}  # of the last window
        self._automatic: dict[bool, NDArray[np.float32]] = {}  # with and without test-time augmentation
        self._with_enough_memory(self._encode)

    @torch.inference_mode()
    def predict(
        self,
        clicks: Sequence[Click] = (),
        previous: Probability | None = None,
        *,
        box: Box | Sequence[float] | None = None,
        lasso: Sequence[tuple[float, float]] = (),
        scribbles: Sequence[Scribble] = (),
        augment: bool = True,
    ) -> Probability:
        """Predict as `Model.predict` does."""
        if previous is not None:
            previous = np.asarray(previous)
            _check_previous(previous, self.shape)
        prompts = read_prompts(clicks, box, lasso, scribbles)
        return self._with_enough_memory(self.predict_logits(prompts, previous, augment=augment).probability)

    @torch.inference_mode()
    def predict_logits(
        self,
        prompts: Prompts = NO_PROMPTS,
        previous: Probability | None = None,
        *,
        augment: bool = True,
    ) -> Prediction:
        """Answer as `predict` does, at the size the network works at, from which outlines are drawn quicker.

        Parameters
        ----------
        prompts : Prompts
            In pixels of the image.
        previous : Probability, optional
            The answer before the last click, at any size.
        augment : bool
            See `Model.predict`.
        """
        check_prompts(prompts, self.shape)
        strokes = strokes_inside(prompts.strokes, self.shape)
        window = prompt_window(prompts, self.shape)
        if window is None and strokes and self._prompted(prompts) is not None:
            if previous is None:
                previous = Prediction(self.network_logits((), None, augment), self.shape).low_resolution()
            outline = _lesion(previous) >= self._model.card.threshold
            window = stroke_window(Prompts(tuple(strokes)).points, outline, self.shape)
        if window is None:
            return Prediction(self.network_logits(strokes, previous, augment), self.shape, prompts)
        work = functools.partial(self._logits_of_window, prompts, window, previous, augment)
        return Prediction(self._with_enough_memory(work), self.shape, prompts, window)

    def network_logits(
        self, strokes: Sequence[Stroke], previous: Probability | None, augment: bool
    ) -> NDArray[np.float32]:
        """Return the network's logits (C, h, w); those without clicks are kept, as boxes use them too."""
        guidance = self._guidance(strokes_inside(strokes, self.shape), previous)
        decode = functools.partial(self._decode, guidance, augment)
        if guidance is not None:
            return self._with_enough_memory(decode)
        if augment not in self._automatic:
            self._automatic[augment] = self._with_enough_memory(decode)
        return self._automatic[augment]

    def _prompted(self, prompts: Prompts) -> DeviceModel | None:
        """Return the part of the model for prompts, which an expert of another domain lacks.

        Strokes alone are answered better by such an expert itself, boxes and lassos by the first one's part.
        """
        self._encode()
        model = self._expert if enclosing_box(prompts) is None else self._device_model
        return model.for_prompts()

    def _logits_of_window(
        self, prompts: Prompts, window: Box, previous: Probability | None, augment: bool
    ) -> NDArray[np.float32]:
        """Return the logits (C, h, w) of a window around a box, a lasso or strokes."""
        threshold, prompted = self._model.card.threshold, self._prompted(prompts)
        cut, weights = math.log(threshold / (1 - threshold)), weights_of(prompts, prompted is not None)
        view = self._view(window, prompted or self._expert)
        before = previous if prompts.strokes else None  # a box or a lasso alone starts over
        seen = None if before is None else _cut_out(before, window, self.shape, view.shape)
        prior = area_prior(prompts, window, view.shape)
        far = None
        if weights.whole:
            whole = torch.from_numpy(self.network_logits(prompts.strokes, before, augment))
            far = lesion_margin(view_of_part(whole, window, self.shape, view.shape), cut)
        near = view.margin(prompts, seen, cut)
        color = view.color(prior) if weights.color else None
        if prompts.lasso or prompts.box is None:
            lesion = combine_evidence(weights, near, far, prior, color) + cut
        else:
            inside = fill_area(Prompts(box=prompts.box), window, view.shape)
            if prompted is not None and far is not None:
                weights = weights.trusting(automatic_trust(far.numpy(), inside))
            lesion = combine_evidence(weights, near, far, prior, color)
            lesion = lesion + fit_box(lesion.numpy(), inside).shift + cut
        if self._model.card.out_channels == 1:
            return np.asarray(lesion[None].numpy())
        return share_among_classes(lesion, self._view(window, self._expert).automatic(prompts, seen))

    def _view(self, window: Box, model: DeviceModel) -> WindowView:
        """Return a window of the image, encoded by a part of the model."""
        views = {key: view for key, view in self._views.items() if view.window == window}
        if model not in views:
            crop = self.image[window.top : window.bottom, window.left : window.right]
            planes = self._model.network_input(np.ascontiguousarray(crop))
            views[model] = WindowView(model, self._model.card, planes, window)
        self._views = views
        return views[model]

    @torch.inference_mode()
    def _encode(self) -> tuple[Tensor, ...]:
        """Return the features of the image, computed by the device model now in use."""
        if self._encoded_by is not self._device_model:
            self._expert = self._device_model.for_image(self._whole)
            self._features = self._expert.encode(self.network_input)
            self._encoded_by = self._device_model
        return self._features

    def _decode(self, guidance: Tensor | None, augment: bool) -> NDArray[np.float32]:
        """Return the logits (C, h, w)."""
        features = self._encode()
        logits = self._expert.decode(features, guidance) / self._model.card.temperature
        # Not after a click: the user cannot wait four times as long.
        if guidance is None and self._model.card.test_time_augmentation and augment:
            temperature = self._model.card.temperature
            logits = average_quarter_turns(self._expert, self.network_input, logits, temperature)
        return np.asarray(logits[0].cpu().contiguous().numpy())

    def _guidance(self, strokes: Sequence[Stroke], previous: Probability | None) -> Tensor | None:
        if not self._model.network.guided or (not strokes and previous is None):
            return None
        shape = (self.network_input.shape[-2], self.network_input.shape[-1])
        if previous is not None:
            previous = resize_plane(_lesion(previous), shape)
        return torch.from_numpy(guidance_planes(strokes, previous, self.shape, shape))[None]

    def _with_enough_memory(self, work: Callable[[], Result]) -> Result:
        """Do ``work``; if the GPU runs out of memory, fall back to the CPU with a warning."""
        try:
            return work()
        except MemoryError as error:
            raise DeviceError(TOO_LITTLE_MEMORY) from error
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if self._device_model.device.type == "cpu":
                raise DeviceError(TOO_LITTLE_MEMORY) from error
        crowded, self._device_model = self._device_model.device, self._model.move_to_cpu()
        logger.warning(
            "%s ran out of memory; falling back to %s.",
            describe_device(crowded),
            describe_device(self._device_model.device),
        )
        return self._with_enough_memory(work)


def _check_image(image: object) -> None:
    """Raise an `ImageError` that names the function to use, unless this is an image (H, W, 3) of bytes."""
    if not isinstance(image, np.ndarray):
        raise ImageError(
            f"An image must be an array, not {type(image).__name__}: "
            "napari_lesionseg.io.images.read_image reads a file."
        )
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ImageError(
            f"An image must be uint8 of shape (height, width, 3), not {image.dtype} of shape {image.shape}: "
            "napari_lesionseg.io.images.to_byte_image converts it."
        )
    if not image.size:
        raise ImageError(f"The image has no pixels: its shape is {image.shape}.")


def _check_previous(previous: Probability, shape: tuple[int, int]) -> None:
    """Raise an `ImageError` unless these are probabilities, (H, W) or (C, H, W), of an image (H, W)."""
    if (
        np.shape(previous)[-2:] != shape
        or np.ndim(previous) not in (2, 3)
        or len(previous) < np.ndim(previous) - 1
    ):
        raise ImageError(
            f"The previous prediction has shape {np.shape(previous)}, but the image has shape {shape}."
        )
    if not (np.min(previous) >= 0 and np.max(previous) <= 1):  # not so for NaN either
        raise ImageError("The previous prediction must hold probabilities between 0 and 1.")


TOO_LITTLE_MEMORY = (
    "There is too little free memory for this image; close other programs or make the image smaller."
)


def average_quarter_turns(
    model: DeviceModel, network_input: Tensor, logits: Tensor, temperature: float
) -> Tensor:
    """Return logits (B, C, h, w) whose probability is the mean over the quarter turns of (B, 3, h, w)."""
    mean = logits_to_probability(logits)
    for turns in (1, 2, 3):  # one after the other takes less memory than a batch
        features = model.encode(network_input.rot90(turns, (-2, -1)))
        logits = model.decode(features, None) / temperature
        mean += logits_to_probability(logits).rot90(-turns, (-2, -1))
    mean /= 4
    return torch.logit(mean, SMALLEST) if mean.shape[1] == 1 else mean.clamp(min=SMALLEST).log()


def _lesion(probability: Probability) -> NDArray[np.float32]:
    """Return the probability (H, W) of anything but background."""
    return probability if probability.ndim == 2 else 1 - probability[0]


def _cut_out(
    previous: Probability, window: Box, size: tuple[int, int], shape: tuple[int, int]
) -> NDArray[np.float32]:
    """Return the lesion of a prediction of an image, at any size, in a view (h, w) of a window."""
    lesion = _lesion(previous)
    rows, cols = lesion.shape[0] / size[0], lesion.shape[1] / size[1]
    part = (window.top * rows, window.left * cols, window.bottom * rows, window.right * cols)
    return resize_plane(lesion, shape, part)


def load_model(name: str | Path | None = None, device: str | torch.device = "auto") -> Model:
    """Load a model.

    Parameters
    ----------
    name : str or Path, optional
        The name of a model, or a ``.safetensors`` or ``.onnx`` file; None: the shipped model.
    device : str
        "auto", "cpu", "cuda" or "mps"; ONNX models run on the CPU.

    Raises
    ------
    ModelNotFoundError, CheckpointError, DeviceError
        If there is no such model, its file is damaged or it finds landmarks, or the device is not available.
    """
    path = ModelStore().resolve(name)
    model = open_model(path, device)
    if model.card.landmarks is not None:
        raise CheckpointError(
            f"{path.name} finds landmarks and draws no outlines: use it with `lesionseg landmarks`."
        )
    return model


def open_model(path: Path, device: str | torch.device = "auto") -> Model:
    """Load a model of outlines or of landmarks from its file."""
    target = choose_device(device)
    if path.suffix == ONNX_SUFFIX:
        if device != "auto" and target.type != "cpu":
            raise DeviceError(f"ONNX models run on the CPU only, not on {target}.")
        return Model(*load_onnx(path), "cpu", sha256=sha256_file(path))
    return Model(*load_checkpoint(path), target, sha256=sha256_file(path))


def read_model_card(path: Path) -> ModelCard:
    """Read the card of a model file, in either form."""
    return load_onnx(path)[1] if path.suffix == ONNX_SUFFIX else read_card(path)


def segment(
    image: ByteImage,
    model: Model | str | Path | None = None,
    threshold: float | None = None,
    clicks: Sequence[Click] = (),
    postprocess: PostprocessConfig | None = None,
    *,
    box: Box | Sequence[float] | None = None,
    lasso: Sequence[tuple[float, float]] = (),
    scribbles: Sequence[Scribble] = (),
) -> LabelImage:
    """Segment the lesions of an image.

    Parameters
    ----------
    image : ByteImage
        Shape (H, W, 3), RGB, 0 to 255.
    model : Model, str or Path, optional
        The model, or what `load_model` loads; None: the shipped model, loaded once and kept.
    threshold : float, optional
        Probability above which a pixel belongs to the lesion; None: the settings', then the model's own.
    clicks : sequence of Click
        Points that belong to the lesion, or do not.
    postprocess : PostprocessConfig, optional
        How the probability becomes a mask; None: the defaults, with the largest part only or all of them, as
        the model's card says.
    box : Box or (top, left, bottom, right), optional
        A rectangle around the lesion; outside it there is none.
    lasso : sequence of (row, column)
        A closed stroke around the lesion, of three points or more; outside it there is none.
    scribbles : sequence of Scribble
        Strokes on the lesion, or beside it.

    Returns
    -------
    LabelImage
        uint8 of shape (H, W): class indices, 0 is background.

    Raises
    ------
    ImageError
        If ``image`` is of another shape or type.
    PromptError
        If the box, the lasso or a scribble is outside the image or too small, or a number is missing.
    SettingsError
        If the threshold is not between 0 and 1.
    """
    if not isinstance(model, Model):
        model = _shipped_model() if model is None else load_model(model)
    settings = postprocess or PostprocessConfig(largest_only=model.card.largest_only)
    level = resolve_threshold(threshold, settings, model.card.threshold)
    probability = model.predict(image, clicks, box=box, lasso=lasso, scribbles=scribbles)
    return run_postprocess(probability, settings, level, read_prompts(clicks, scribbles=scribbles).strokes)


@functools.cache
def _shipped_model() -> Model:
    return load_model()
