"""Export of models to ONNX, checked against the network they came from."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from napari_lesionseg.errors import CheckpointError
from napari_lesionseg.io.atomic import write_atomically
from napari_lesionseg.io.resize import STRIDE
from napari_lesionseg.models.base import SegmentationNetwork
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import CARD_KEY
from napari_lesionseg.models.mixture import ExpertNetwork
from napari_lesionseg.models.onnx import (
    CHOSEN,
    FEATURES,
    GUIDANCE,
    IMAGE,
    LOGITS,
    OnnxNetwork,
    check_onnx_packages,
)

TOLERANCE = 1e-4
MAX_SIDE = 4096
CHECKED_SHAPES = ((1, 256, 256), (1, 192, 352), (2, 96, 64))
"""Batch, height and width of the random images on which both forms have to agree."""


def export_onnx(network: SegmentationNetwork, card: ModelCard, path: Path) -> float:
    """Write a model as an ONNX file that `napari_lesionseg.load_model` and other programs can run.

    Its inputs are ``image``, a normalized image (B, 3, H, W), and for networks that take clicks
    ``guidance`` of the same shape; its output is ``logits`` (B, C, H, W). B is free, H and W are any
    multiples of 32. The features that clicks do not change are further outputs; see `OnnxNetwork`.

    Parameters
    ----------
    network : SegmentationNetwork
        Left as it is.
    card : ModelCard
        Its card, which goes into the file.
    path : Path
        The ``.onnx`` file; missing folders are made.

    Returns
    -------
    float
        Largest difference to torch's logits on random images.

    Raises
    ------
    CheckpointError
        If a package is missing, the network cannot be exported, its answers differ by more than `TOLERANCE`
        (per unit of logit, above one), or the file cannot be written.
    """
    check_onnx_packages()
    folded = network.for_inference().cpu()
    model = _convert(folded, card)
    difference = _compare(folded, OnnxNetwork(model))
    if not difference <= TOLERANCE:
        raise CheckpointError(
            f"Nothing was written: the exported network's answers are {difference:.2g} off the original's."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, model.SerializeToString())
    except OSError as error:
        raise CheckpointError(f"The model cannot be written to {path}: {error.strerror}.") from error
    return difference


class _Graph(nn.Module):
    """What is exported: logits, followed by the features at which the graph can be cut."""

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, guidance: Tensor | None = None) -> tuple[Tensor, ...]:
        features = self.network.encode(image)
        maps = [feature for feature in features if feature is not image]
        return (self.network.decode(features, guidance), *maps)


def _convert(network: SegmentationNetwork, card: ModelCard) -> Any:
    """Return the ``onnx.ModelProto`` of a network, without the traces of how and where it was made."""
    import onnx

    inputs = (IMAGE, GUIDANCE) if network.guided else (IMAGE,)
    examples = tuple(torch.zeros(2, 3, 2 * STRIDE, 3 * STRIDE) for _ in inputs)
    batch = torch.export.Dim("batch", max=1024)
    sides = [STRIDE * torch.export.Dim(side, max=MAX_SIDE // STRIDE) for side in ("rows", "cols")]
    maps = sum(feature is not examples[0] for feature in network.encode(examples[0]))
    names = [f"{FEATURES}{index}" for index in range(maps)]
    if isinstance(network, ExpertNetwork):
        names[-1] = CHOSEN
    try:
        with _quietly():
            program = torch.onnx.export(
                _Graph(network).eval(),
                examples,
                dynamo=True,
                verbose=False,
                input_names=inputs,
                output_names=(LOGITS, *names),
                dynamic_shapes={name: {0: batch, 2: sides[0], 3: sides[1]} for name in inputs},
            )
    except torch.onnx.OnnxExporterError as error:
        raise CheckpointError(f"The network '{card.arch}' cannot be exported to ONNX.") from error
    model = program.model_proto  # type: ignore[union-attr]
    for entry in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        entry.ClearField("metadata_props")
        entry.ClearField("doc_string")
    onnx.helper.set_model_props(model, {CARD_KEY: card.model_dump_json()})
    return model


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep to itself what the exporter has to say about its own workings."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@torch.inference_mode()
def _compare(network: SegmentationNetwork, exported: SegmentationNetwork) -> float:
    """Return the largest difference between two networks' logits, per unit of logit above one."""
    chance, differences = torch.Generator().manual_seed(0), []
    for batch, height, width in CHECKED_SHAPES:
        image = torch.randn(batch, 3, height, width, generator=chance)
        for guidance in (None, torch.rand(batch, 3, height, width, generator=chance)):
            wanted = network(image, guidance)
            difference = (exported(image, guidance) - wanted).abs() / wanted.abs().clamp(min=1)
            differences.append(difference.max())
    return float(torch.stack(differences).max())  # torch's maximum, unlike Python's, does not overlook nan
