"""Models at work: from an image, and clicks, to a probability and an outline."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import DeviceError, ImageError
from napari_lesionseg.inference.clicks import clicks_inside, guidance_planes
from napari_lesionseg.inference.device import autocast, choose_device, describe_device, is_out_of_memory
from napari_lesionseg.inference.postprocess import postprocess as clean_up
from napari_lesionseg.inference.postprocess import resolve_threshold
from napari_lesionseg.inference.prediction import Prediction
from napari_lesionseg.io.atomic import sha256_file
from napari_lesionseg.io.resize import normalize, resize_image, working_shape
from napari_lesionseg.models.base import SegmentationNetwork, logits_to_probability
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import load_checkpoint
from napari_lesionseg.models.onnx import load_onnx
from napari_lesionseg.models.store import ONNX_SUFFIX, ModelStore
from napari_lesionseg.types import ByteImage, Click, LabelImage, Probability

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
SMALLEST = 1e-6  # keeps logits of probabilities finite


class Runner(NamedTuple):
    """A network made ready to answer on a device; never changed, so that threads can share it."""

    network: SegmentationNetwork
    device: torch.device
    precision: str

    def for_image(self, view: Tensor) -> Runner:
        """Return what is to outline an image (1, 3, h, w), where several networks share the work."""
        return self._replace(network=self.network.network_for(self._place(view)))

    def encode(self, view: Tensor) -> tuple[Tensor, ...]:
        """Encode an image (1, 3, h, w), in float32: what is lost to rounding here grows on its way.

        With the decoder alone in bfloat16 the answers differ four times less from those in float32 than with
        both, and take hardly longer: the encoder's filters are thin, and wait for memory rather than reckon.
        """
        return self.network.encode(self._place(view))

    def decode(self, features: tuple[Tensor, ...], guidance: Tensor | None) -> Tensor:
        """Decode features, with guidance (1, 3, h, w), into logits (1, C, h, w) in float32."""
        placed = None if guidance is None else self._place(guidance)
        with autocast(self.device, self.precision):
            return self.network.decode(features, placed).float()

    def _place(self, planes: Tensor) -> Tensor:
        return planes.to(self.device).contiguous(memory_format=torch.channels_last)


class Model:
    """A network with its card, ready to outline images.

    Several threads may use one model at the same time.

    Parameters
    ----------
    network : SegmentationNetwork
        The network; it is set to evaluation. What answers is a copy made for speed: when the network has
        learned more, make a new model of it.
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
        self.runner = self._make_runner(choose_device(device))

    @property
    def device(self) -> torch.device:
        """Where images are outlined."""
        return self.runner.device

    def encode(self, image: ByteImage, whole: EncodedImage | None = None) -> EncodedImage:
        """Run the part of the network that clicks do not change.

        Parameters
        ----------
        image : ByteImage
            Shape (H, W, 3), RGB, 0 to 255.
        whole : EncodedImage, optional
            The image that ``image`` is a part of: which of several experts looks at it is decided by that.

        Raises
        ------
        ImageError
            If ``image`` is of another shape or type.
        DeviceError
            If the memory of the computer is not enough.
        """
        view = self.view(image)
        height, width = image.shape[:2]
        return EncodedImage(self, (height, width), view, view if whole is None else whole.view)

    def view(self, image: ByteImage) -> Tensor:
        """Bring an image (H, W, 3) to what the network sees of it, shape (1, 3, h, w), on the processor.

        Raises
        ------
        ImageError
            If ``image`` is of another shape or type.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise ImageError(
                "An image must be bytes of shape (height, width, 3), "
                f"not {image.dtype} of shape {image.shape}."
            )
        small = resize_image(image, working_shape((image.shape[0], image.shape[1]), self.card.working_size))
        return torch.from_numpy(normalize(small, self.card.mean, self.card.std))[None]

    @torch.inference_mode()
    def describe(self, image: ByteImage) -> NDArray[np.float32] | None:
        """Say what kind of image (H, W, 3) it is; None if the network has no words for that.

        See `SegmentationNetwork.describe`.
        """
        description = self.network.describe(self.view(image).to(next(self.network.parameters()).device))
        return None if description is None else description[0].cpu().numpy()

    def predict(
        self,
        image: ByteImage,
        clicks: Sequence[Click] = (),
        previous: Probability | None = None,
        *,
        upright: bool = False,
    ) -> Probability:
        """Say how likely each pixel belongs to the lesion.

        Parameters
        ----------
        image : ByteImage
            Shape (H, W, 3), RGB, 0 to 255.
        clicks : sequence of Click
            Points that the answer must contain, or must leave out; those outside the image are ignored.
        previous : Probability, optional
            The answer before the last click, shape (H, W) or (C, H, W).
        upright : bool
            Leave out the quarter turns, where the card asks for them: four times as quick, a bit worse.

        Returns
        -------
        Probability
            float32 in [0, 1] of shape (H, W), or (C, H, W) for C classes with the background first.

        Raises
        ------
        ImageError
            If ``image`` is of another shape or type, or ``previous`` is of another size.
        DeviceError
            If the memory of the computer is not enough.
        """
        return self.encode(image).predict(clicks, previous, upright=upright)

    def move_to_cpu(self) -> Runner:
        """Move to the processor, as happens by itself when a graphics card runs out of memory."""
        if self.runner.device.type != "cpu":
            self.runner = self._make_runner(torch.device("cpu"))
        return self.runner

    def _make_runner(self, device: torch.device) -> Runner:
        network = self.network.for_inference().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return Runner(network, device, self.precision)


class EncodedImage:
    """An image that a model has looked at: each further click costs the decoder alone.

    Made by `Model.encode`. Where the model's card says so, the outline before the first click is the mean
    over the image's four quarter turns, which go through the network one after the other: that takes the
    least memory. Clicks are answered from the image as it stands, for they cannot wait four times as long.
    """

    def __init__(self, model: Model, shape: tuple[int, int], view: Tensor, whole: Tensor) -> None:
        self.shape = shape
        """Height and width of the image."""
        self.view = view
        """What the network sees of it, shape (1, 3, h, w)."""
        self._model, self._whole, self._runner = model, whole, model.runner
        self._encoded_by: Runner | None = None
        self._with_enough_memory(self._encode)

    @torch.inference_mode()
    def predict(
        self, clicks: Sequence[Click] = (), previous: Probability | None = None, *, upright: bool = False
    ) -> Probability:
        """Answer as `Model.predict` does."""
        if previous is not None and previous.shape[-2:] != self.shape:
            raise ImageError(
                f"The previous answer is of shape {previous.shape}, its image of shape {self.shape}."
            )
        return self._with_enough_memory(self.answer(clicks, previous, upright=upright).probability)

    @torch.inference_mode()
    def answer(
        self, clicks: Sequence[Click] = (), previous: Probability | None = None, *, upright: bool = False
    ) -> Prediction:
        """Answer as `predict` does, at the size the network works at, from which outlines are drawn quicker.

        Parameters
        ----------
        clicks : sequence of Click
            In pixels of the image.
        previous : Probability, optional
            The answer before the last click, at any size.
        upright : bool
            See `Model.predict`.
        """
        guidance = self._guidance(clicks_inside(clicks, self.shape), previous)
        logits = self._with_enough_memory(functools.partial(self._decode, guidance, upright))
        return Prediction(logits, self.shape, tuple(clicks))

    @torch.inference_mode()
    def _encode(self) -> tuple[Tensor, ...]:
        """Return the features of the image, by the runner that is in use now."""
        if self._encoded_by is not self._runner:
            self._expert = self._runner.for_image(self._whole)
            self._features = self._expert.encode(self.view)
            self._encoded_by = self._runner
        return self._features

    def _decode(self, guidance: Tensor | None, upright: bool) -> NDArray[np.float32]:
        """Return the logits (C, h, w)."""
        features = self._encode()
        logits = self._expert.decode(features, guidance) / self._model.card.temperature
        if guidance is None and self._model.card.test_time_augmentation and not upright:
            logits = self._predict_augmented(logits)
        answer: NDArray[np.float32] = logits[0].cpu().contiguous().numpy()
        return answer

    def _predict_augmented(self, upright: Tensor) -> Tensor:
        """Return logits (1, C, h, w) whose probability is the mean over the quarter turns."""
        mean = logits_to_probability(upright)
        for turns in (1, 2, 3):
            features = self._expert.encode(self.view.rot90(turns, (-2, -1)))
            logits = self._expert.decode(features, None) / self._model.card.temperature
            mean += logits_to_probability(logits).rot90(-turns, (-2, -1))
        mean /= 4
        return torch.logit(mean, SMALLEST) if mean.shape[1] == 1 else mean.clamp(min=SMALLEST).log()

    def _guidance(self, clicks: Sequence[Click], previous: Probability | None) -> Tensor | None:
        if not self._model.network.guided or (not clicks and previous is None):
            return None
        shape = (self.view.shape[-2], self.view.shape[-1])
        return torch.from_numpy(guidance_planes(clicks, _shrink(previous, shape), self.shape, shape))[None]

    def _with_enough_memory(self, work: Callable[[], Result]) -> Result:
        """Do ``work``; when a graphics card's memory is not enough, go on with the processor, and say so."""
        try:
            return work()
        except MemoryError as error:
            raise DeviceError(_TOO_LITTLE_MEMORY) from error
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if self._runner.device.type == "cpu":
                raise DeviceError(_TOO_LITTLE_MEMORY) from error
        crowded, self._runner = self._runner.device, self._model.move_to_cpu()
        logger.warning(
            "%s ran out of memory; going on with %s.",
            describe_device(crowded),
            describe_device(self._runner.device),
        )
        return self._with_enough_memory(work)


_TOO_LITTLE_MEMORY = (
    "This computer has too little free memory for the image; close other programs or make it smaller."
)


def _shrink(previous: Probability | None, shape: tuple[int, int]) -> Probability | None:
    """Bring a probability (H, W) or (C, H, W) to the foreground's at ``shape``."""
    if previous is None:
        return None
    foreground = previous if previous.ndim == 2 else 1 - previous[0]
    tensor = torch.from_numpy(np.ascontiguousarray(foreground, np.float32))[None, None]
    shrunk = functional.interpolate(tensor, shape, mode="bilinear", align_corners=False, antialias=True)
    answer: Probability = shrunk[0, 0].numpy()
    return answer


def load_model(name: str | Path | None = None, device: str | torch.device = "auto") -> Model:
    """Load a model.

    Parameters
    ----------
    name : str or Path, optional
        The name of a model, or a ``.safetensors`` or ``.onnx`` file; None: the shipped model.
    device : str
        "auto", "cpu", "cuda" or "mps"; ONNX models run on the processor.

    Raises
    ------
    ModelNotFoundError, CheckpointError, DeviceError
        With a sentence that says what to do.
    """
    path = ModelStore().resolve(name)
    target = choose_device(device)
    if path.suffix == ONNX_SUFFIX:
        if device != "auto" and target.type != "cpu":
            raise DeviceError(f"Models in ONNX form run on the processor only, not on {target}.")
        return Model(*load_onnx(path), "cpu", sha256=sha256_file(path))
    return Model(*load_checkpoint(path), target, sha256=sha256_file(path))


def segment(
    image: ByteImage,
    model: Model | None = None,
    threshold: float | None = None,
    clicks: Sequence[Click] = (),
    postprocess: PostprocessConfig | None = None,
) -> LabelImage:
    """Outline the lesions of an image.

    Parameters
    ----------
    image : ByteImage
        Shape (H, W, 3), RGB, 0 to 255.
    model : Model, optional
        None: the model that is shipped, loaded once and kept.
    threshold : float, optional
        Probability above which a pixel belongs to the lesion; None: the settings', then the model's own.
    clicks : sequence of Click
        Points that the outline must contain, or must leave out.
    postprocess : PostprocessConfig, optional
        How the probability becomes a mask.

    Returns
    -------
    LabelImage
        uint8 of shape (H, W): class indices, 0 is background.
    """
    model = model or _shipped_model()
    settings = postprocess or PostprocessConfig()
    level = resolve_threshold(threshold, settings, model.card.threshold)
    return clean_up(model.predict(image, clicks), settings, level, clicks)


@functools.cache
def _shipped_model() -> Model:
    return load_model()
