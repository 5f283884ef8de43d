"""A window of an image, encoded by the part of a network that answers to boxes, lassos and strokes."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_lesionseg.inference.clicks import draw_disc
from napari_lesionseg.inference.device import DeviceModel
from napari_lesionseg.inference.prompts import (
    area_prior,
    color_features,
    prompt_planes,
    to_view,
    undo_normalization,
)
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.types import Box, Prompts


class PromptView:
    """A window of an image; each further prompt in it runs the decoder alone."""

    def __init__(self, model: DeviceModel, card: ModelCard, planes: Tensor, window: Box) -> None:
        self.model, self.window = model, window
        self.shape: tuple[int, int] = (planes.shape[-2], planes.shape[-1])
        self._card, self._planes = card, planes  # (1, 3, h, w)
        self._features = model.encode(planes)

    def logit(self, prompts: Prompts, previous: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Return the logit (h, w) of the lesion; ``previous`` (h, w) is the probability before."""
        seen = np.zeros(self.shape, np.float32) if previous is None else self._centered(previous)
        prior = area_prior(prompts.area, self.window, self.shape)
        guidance = prompt_planes(self._strokes(prompts), seen, prior, self._colors)
        logit = self.model.decode(self._features, torch.from_numpy(guidance)[None])[0, 0]
        threshold = self._card.threshold  # where the annotator sees the outline; the network places it at 0
        return np.asarray(logit.cpu().numpy() + math.log(threshold / (1 - threshold)), np.float32)

    @functools.cached_property
    def _colors(self) -> Tensor:
        return color_features(undo_normalization(self._planes[0], self._card))

    def _strokes(self, prompts: Prompts) -> NDArray[np.float32]:
        """Draw the points of the prompts: positive ones, then negative ones, (2, h, w)."""
        strokes = np.zeros((2, *self.shape), np.float32)
        for click in prompts.points:
            row, col = to_view((click.row, click.col), self.window, self.shape)
            strokes[0 if click.positive else 1][draw_disc(self.shape, row, col)] = 1
        return strokes

    def _centered(self, probability: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a probability that is 0.5 where the annotator sees the outline."""
        inside, outside = probability * (1 - self._card.threshold), (1 - probability) * self._card.threshold
        return np.asarray(inside / (inside + outside), np.float32)
