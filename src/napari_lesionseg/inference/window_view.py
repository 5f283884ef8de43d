"""A window of an image, encoded for one network."""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from napari_lesionseg.inference.clicks import draw_strokes, guidance_planes, move_stroke, strokes_inside
from napari_lesionseg.inference.device import DeviceModel
from napari_lesionseg.inference.prompts import (
    Prior,
    area_prior,
    color_features,
    color_logit,
    lesion_margin,
    prompt_planes,
    to_view,
    undo_normalization,
)
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.types import Box, Prompts


class WindowView:
    """A window of an image; each further prompt in it runs the decoder alone."""

    def __init__(self, model: DeviceModel, card: ModelCard, planes: Tensor, window: Box) -> None:
        self.model, self.window = model, window
        self.shape: tuple[int, int] = (planes.shape[-2], planes.shape[-1])
        self._card, self._planes = card, planes  # (1, 3, h, w)
        self._features = model.encode(planes)

    def automatic(self, prompts: Prompts, previous: NDArray[np.float32] | None) -> Tensor:
        """Return the logits (C, h, w) of a network that knows of strokes alone."""
        guidance, window = None, self.window
        size = (window.bottom - window.top, window.right - window.left)
        moved = [
            move_stroke(stroke, lambda at: (at[0] - window.top, at[1] - window.left))
            for stroke in prompts.strokes
        ]
        strokes = strokes_inside(moved, size)
        if self.model.network.guided and (strokes or previous is not None):
            guidance = torch.from_numpy(guidance_planes(strokes, previous, size, self.shape))[None]
        logits = self.model.decode(self._features, guidance).cpu() / self._card.temperature
        # Networks such as SegNet give fewer pixels than they get where sides are no multiples of theirs.
        return functional.interpolate(logits, self.shape, mode="bilinear", align_corners=False)[0]

    def margin(self, prompts: Prompts, previous: NDArray[np.float32] | None, cut: float) -> Tensor:
        """Return the logit (h, w) of the lesion, 0 at the outline; ``previous`` (h, w) is the probability."""
        if not self.model.answers_prompts:
            return lesion_margin(self.automatic(prompts, previous), cut)
        seen = np.zeros(self.shape, np.float32) if previous is None else self._centered(previous)
        prior = area_prior(prompts.area, self.window, self.shape)
        guidance = prompt_planes(self._strokes(prompts), seen, prior, self._colors)
        return self.model.decode(self._features, torch.from_numpy(guidance)[None])[0, 0].cpu()

    def color(self, prior: Prior) -> NDArray[np.float32]:
        """Return the logit (h, w) of the colors alone."""
        return color_logit(self._colors, prior.inside, prior.outside)

    @functools.cached_property
    def _colors(self) -> Tensor:
        return color_features(undo_normalization(self._planes[0], self._card))

    def _strokes(self, prompts: Prompts) -> NDArray[np.float32]:
        """Draw the strokes of the prompts: positive ones, then negative ones, (2, h, w)."""
        return draw_strokes(
            prompts.strokes, functools.partial(to_view, window=self.window, shape=self.shape), self.shape
        )

    def _centered(self, probability: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a probability that is 0.5 where the annotator sees the outline."""
        inside, outside = probability * (1 - self._card.threshold), (1 - probability) * self._card.threshold
        return np.asarray(inside / (inside + outside), np.float32)
