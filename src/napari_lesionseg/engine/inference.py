"""Models at work: from a picture, and clicks, to a probability and an outline."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.files import sha256_file
from napari_lesionseg.data.transforms import normalise, resize_picture, working_shape
from napari_lesionseg.errors import PictureError
from napari_lesionseg.models.blocks import SegmentationNetwork, logits_to_probability
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import load_checkpoint
from napari_lesionseg.models.registry import ModelRegistry
from napari_lesionseg.types import ByteImage, Click, LabelImage, Probability
from napari_lesionseg.engine.clicks import guidance_planes, honour_clicks
from napari_lesionseg.engine.device import autocast, choose_device, describe_device
from napari_lesionseg.engine.postprocessing import postprocess as clean_up
from napari_lesionseg.engine.postprocessing import resolve_threshold

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


class Model:
    """A network with its card, ready to outline pictures.

    Prediction changes nothing in the model, so several threads may use one at the same time.

    Parameters
    ----------
    network : SegmentationNetwork
        The network; it is moved to the device and set to evaluation.
    card : ModelCard
        Its card.
    device : str or torch.device
        See `choose_device`.
    sha256 : str, optional
        Hash of the file it came from.
    precision : {"auto", "float32", "bfloat16"}
        See `autocast`.
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
        self.card, self.sha256, self.precision = card, sha256, precision
        self.device = choose_device(device)
        self.network = network.to(self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def encode(self, image: ByteImage) -> EncodedPicture:
        """Run the part of the network that clicks do not change.

        Parameters
        ----------
        image : ByteImage
            Shape (H, W, 3), RGB, 0 to 255.

        Raises
        ------
        PictureError
            If ``image`` is of another shape or type.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise PictureError(
                f"A picture must be bytes of shape (height, width, 3), not {image.dtype} of shape {image.shape}."
            )
        shape = (image.shape[0], image.shape[1])
        small = resize_picture(image, working_shape(shape, self.card.working_size))
        views = torch.from_numpy(normalise(small, self.card.mean, self.card.std))[None]
        if self.card.test_time_flips:
            views = torch.cat([views, views.flip(-1)])
        return EncodedPicture(self, shape, views)

    def predict(
        self, image: ByteImage, clicks: Sequence[Click] = (), previous: Probability | None = None
    ) -> Probability:
        """Say how likely each pixel belongs to the lesion.

        Parameters
        ----------
        image : ByteImage
            Shape (H, W, 3), RGB, 0 to 255.
        clicks : sequence of Click
            Points that the answer must contain, or must leave out.
        previous : Probability, optional
            The answer before the last click, shape (H, W) or (C, H, W).

        Returns
        -------
        Probability
            float32 in [0, 1] of shape (H, W), or (C, H, W) for C classes with the background first.
        """
        return self.encode(image).predict(clicks, previous)

    def move_to_cpu(self) -> None:
        """Move to the processor, as happens by itself when a graphics card runs out of memory."""
        self.network.to("cpu")
        self.device = torch.device("cpu")


class EncodedPicture:
    """A picture that a model has looked at: each further click costs the decoder alone.

    Made by `Model.encode`.
    """

    def __init__(self, model: Model, shape: tuple[int, int], views: Tensor) -> None:
        self._model, self._views = model, views
        self.shape = shape
        """Height and width of the picture."""
        self._features = self._on_device(self._encode)

    @torch.inference_mode()
    def predict(self, clicks: Sequence[Click] = (), previous: Probability | None = None) -> Probability:
        """Answer as `Model.predict` does."""
        probability = self._on_device(functools.partial(self._decode, clicks, previous)).cpu().numpy()
        if len(probability) == 1:
            return honour_clicks(probability[0], clicks)
        return probability

    @torch.inference_mode()
    def _encode(self) -> tuple[Tensor, ...]:
        model = self._model
        views = self._views.to(model.device).contiguous(memory_format=torch.channels_last)
        with autocast(model.device, model.precision):
            return model.network.encode(views)

    def _decode(self, clicks: Sequence[Click], previous: Probability | None) -> Tensor:
        """Return the probability (C, H, W) of the mean of all views."""
        model = self._model
        with autocast(model.device, model.precision):
            logits = model.network.decode(self._features, self._guidance(clicks, previous))
        full = functional.interpolate(logits.float(), self.shape, mode="bilinear", align_corners=False)
        probability = logits_to_probability(full, model.card.temperature)
        if len(probability) == 1:
            return probability[0]
        return (probability[0] + probability[1].flip(-1)) / 2

    def _guidance(self, clicks: Sequence[Click], previous: Probability | None) -> Tensor | None:
        if not self._model.network.guided or (not clicks and previous is None):
            return None
        planes_shape = (self._views.shape[-2], self._views.shape[-1])
        planes = guidance_planes(clicks, _shrink(previous, planes_shape), self.shape, planes_shape)
        guidance = torch.from_numpy(planes)[None].to(self._model.device)
        if len(self._views) == 2:
            guidance = torch.cat([guidance, guidance.flip(-1)])
        return guidance.contiguous(memory_format=torch.channels_last)

    def _on_device(self, work: Callable[[], Result]) -> Result:
        """Do ``work``; when the graphics card's memory is not enough, go on with the processor, and say so."""
        try:
            return work()
        except torch.OutOfMemoryError:
            model = self._model
            crowded = describe_device(model.device)
            model.move_to_cpu()
            torch.cuda.empty_cache()
            logger.warning("%s ran out of memory; going on with %s.", crowded, describe_device(model.device))
            self._features = self._encode()
            return work()


def _shrink(previous: Probability | None, shape: tuple[int, int]) -> Probability | None:
    """Bring a probability (H, W) or (C, H, W) to the foreground's at ``shape``."""
    if previous is None:
        return None
    foreground = previous if previous.ndim == 2 else 1 - previous[0]
    tensor = torch.from_numpy(np.ascontiguousarray(foreground, np.float32))[None, None]
    shrunk = functional.interpolate(tensor, shape, mode="bilinear", align_corners=False, antialias=True)
    return shrunk[0, 0].numpy()


def load_model(name: str | Path | None = None, device: str | torch.device = "auto") -> Model:
    """Load a model.

    Parameters
    ----------
    name : str or Path, optional
        A registered name or a ``.safetensors`` file; None: the model that is shipped.
    device : str
        "auto", "cpu", "cuda" or "mps".

    Raises
    ------
    ModelNotFoundError, CheckpointError, DeviceError
        With a sentence that says what to do.
    """
    path = ModelRegistry().resolve(name)
    target = choose_device(device)
    network, card = load_checkpoint(path)
    return Model(network, card, target, sha256=sha256_file(path))


def segment(
    image: ByteImage,
    model: Model | None = None,
    threshold: float | None = None,
    clicks: Sequence[Click] = (),
    postprocess: PostprocessConfig | None = None,
) -> LabelImage:
    """Outline the lesions of a picture.

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
