"""Training of a `PromptUNet`: first a gesture, then corrections of the network's answer."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_lesionseg.config import PromptConfig
from napari_lesionseg.errors import TrainingError
from napari_lesionseg.evaluation.metrics import FAILURE_LIMIT, overlap
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.inference.prompts import color_features, prompt_planes
from napari_lesionseg.models.base import SegmentationNetwork
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.lite_unet import LiteUNet, PromptUNet
from napari_lesionseg.training.dataset import Batch, BatchSource, CachedPair
from napari_lesionseg.training.learner import Learner, boundary_of
from napari_lesionseg.training.prompt_samples import PromptBatch, PromptSource
from napari_lesionseg.training.simulated_prompts import correct, simulate_box
from napari_lesionseg.training.trainer import Trainer, ValidationScores, fit_batch_size
from napari_lesionseg.types import IGNORED

UNCORRECTED = 0.3  # share of the gestures that no correction follows
FORGET_PREVIOUS = 0.1


class PromptLearner(Learner):
    """A `PromptUNet` that learns from gestures and corrections of its own errors."""

    def __init__(
        self, network: PromptUNet, automatic: SegmentationNetwork, *args: Any, **settings: Any
    ) -> None:
        super().__init__(network, *args, **settings)
        self._automatic = automatic.for_inference().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _calibrate(self, logits: Tensor) -> Tensor:
        """Return the logits as they are: the temperature and the threshold are the automatic network's."""
        return logits

    def _add_guided(
        self, batch: Batch, features: tuple[Tensor, ...], labels: Tensor, number: int
    ) -> tuple[tuple[Tensor, ...], Tensor, Tensor | None]:
        """Return the guidance (B, 5, S, S) after the gestures and up to so many corrections."""
        gestures: PromptBatch = batch  # type: ignore[assignment]
        detached = tuple(f.detach() for f in features)
        self.network.eval()
        rng = np.random.default_rng((self._config.seed, 2, number))
        guidance = self._simulate(gestures, detached, labels, rng)
        self._set_training()
        return features, labels, guidance

    @torch.no_grad()
    def _simulate(
        self, batch: PromptBatch, features: tuple[Tensor, ...], labels: Tensor, rng: np.random.Generator
    ) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            colors = [color_features(image.float() / 255) for image in batch.images]
        count, (height, width) = len(labels), labels.shape[1:]
        strokes = np.zeros((count, 2, height, width), np.float32)
        previous = np.zeros((count, height, width), np.float32)
        alone = np.array([not prior.logit.any() for prior in batch.priors])
        if alone.any():  # strokes alone correct the automatic outline
            previous[alone] = self._automatic_outlines(features[0][torch.from_numpy(alone)])
        rounds = rng.integers(1, self._config.click_rounds + 1, size=count)
        rounds[~alone & (rng.random(count) < UNCORRECTED)] = 0
        truth = labels[:, ::2, ::2].cpu().numpy() == 1

        def planes(rows: Sequence[int]) -> Tensor:
            with torch.autocast("cpu", enabled=False):
                made = [prompt_planes(strokes[i], previous[i], batch.priors[i], colors[i]) for i in rows]
            return torch.from_numpy(np.stack(made)).to(labels.device)

        for turn in range(int(rounds.max())):
            rows = np.flatnonzero(rounds > turn).tolist()
            answered = [i for i in rows if turn or not alone[i]]
            if answered:
                chosen = torch.tensor(answered, device=labels.device)
                logits = self.network.decode(tuple(f[chosen] for f in features), planes(answered))
                previous[answered] = torch.sigmoid(logits.float())[:, 0].cpu().numpy()
            for i in rows:
                correct(previous[i, ::2, ::2] >= 0.5, truth[i], strokes[i], rng)
        previous[rng.random(count) < FORGET_PREVIOUS] = 0
        return planes(range(count))

    def _automatic_outlines(self, images: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return the automatic probability of normalized images, (B, S, S), 0.5 at its boundary."""
        logits = self._automatic(images).float()[:, 0] / self._card.temperature - boundary_of(self._card)
        return np.asarray(torch.sigmoid(logits).cpu().numpy())


class PromptTrainer(Trainer):
    """Training of the part of a `LiteUNet` that answers to boxes, lassos and strokes; the rest stays."""

    one_process = "Boxes and lassos are learned by one process; start it without torchrun."

    @property
    def averaged_network(self) -> SegmentationNetwork:
        """The whole network, with the moving average of the part that is trained."""
        whole = copy.deepcopy(self._whole)
        whole.prompt_network = copy.deepcopy(self._learner.averaged_network)  # type: ignore[assignment]
        return whole.eval()

    def _new_source(self, pairs: Sequence[CachedPair]) -> BatchSource:
        return PromptSource(pairs, self._config, fit_batch_size(self._config, len(pairs)))

    def _new_learner(self, network: SegmentationNetwork) -> Learner:
        self._whole = with_prompts(network, self._card)
        prompted = self._whole.for_prompts()
        if prompted is None:
            raise TrainingError("This network has no part for boxes and lassos.")
        return PromptLearner(
            prompted,
            self._whole,
            self._card,
            self._config,
            self._device,
            frozen=prompted.early_modules(self._config.frozen_stages),
        )

    def _score(self) -> ValidationScores | None:
        """Score the outlines after one box, without postprocessing."""
        model, scores = Model(self.averaged_network, self._card, self._device), []
        share = (self._config.prompts or PromptConfig()).judged
        for number, pair in enumerate(self._held_out[:: max(1, round(1 / share))]):
            truth = (pair.labels > 0) & (pair.labels != IGNORED)
            if truth.any():
                box = simulate_box(truth, np.random.default_rng(number))
                found = model.predict(pair.image, box=box) >= self._card.threshold
                scores.append(overlap(found, truth))
        if not scores:
            return None
        dice, jaccard = np.mean(scores, axis=0).tolist()
        failed = float((np.array(scores)[:, 1] < FAILURE_LIMIT).mean())
        return ValidationScores(dice, jaccard, failed)


def with_prompts(network: SegmentationNetwork, card: ModelCard) -> LiteUNet:
    """Return a copy of a network with a part for boxes, lassos and strokes, new unless it had one."""
    if type(network) is not LiteUNet or card.out_channels != 1:
        raise TrainingError(
            "Boxes and lassos are learned by networks 'lite-unet' with one class; choose another --start."
        )
    whole = LiteUNet(prompts=1)
    prompted = network.for_prompts() or PromptUNet.starting_from(network, card.temperature, boundary_of(card))
    whole.load_state_dict(
        network.state_dict() | {f"prompt_network.{k}": v for k, v in prompted.state_dict().items()}
    )
    return whole.eval()
