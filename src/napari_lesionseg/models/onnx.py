"""Networks in ONNX form: exported, checked against the original, and run by ONNX Runtime instead of torch.

The file is one graph from an image and guidance to logits, which any ONNX program can run, with the model
card in its metadata. Its other outputs are the features that clicks do not change. Here the graph is split at
these features, so that an image is encoded only once.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_lesionseg.errors import CheckpointError, how_to_install
from napari_lesionseg.io.atomic import write_atomically
from napari_lesionseg.io.resize import STRIDE
from napari_lesionseg.models.base import SegmentationNetwork
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import CARD_KEY, Checkpoint, check_size, parse_card
from napari_lesionseg.models.mixture import ExpertNetwork

IMAGE, GUIDANCE, LOGITS, FEATURES = "image", "guidance", "logits", "features_"
CHOSEN = f"{FEATURES}expert"
"""The feature that says which of several experts each image (B,) is given to."""
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
TOLERANCE = 1e-4
MAX_SIDE = 4096
CHECKED_SHAPES = ((1, 256, 256), (1, 192, 352), (2, 96, 64))
"""Batch, height and width of the random images on which both forms have to agree."""


def check_onnx_packages() -> None:
    """Raise `CheckpointError` if a package of the extra ``[onnx]`` is missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise CheckpointError(f"ONNX models need {', '.join(missing)}: {how_to_install('onnx')}.")


class OnnxNetwork(SegmentationNetwork):
    """A network that ONNX Runtime runs on the CPU; it cannot be trained."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        from onnx.utils import Extractor

        inputs = [entry.name for entry in model.graph.input]
        outputs = [entry.name for entry in model.graph.output]
        self.guided = GUIDANCE in inputs
        self._features = [name for name in outputs if name.startswith(FEATURES)]
        if IMAGE not in inputs or LOGITS not in outputs or not self._features:
            raise CheckpointError("The ONNX model was not exported by napari-lesionseg.")
        extractor = Extractor(model)
        self._encoder = _start(extractor.extract_model([IMAGE], self._features))
        self._decoder = _start(extractor.extract_model([*self._features, *inputs], [LOGITS]))
        several = CHOSEN in self._features
        self._gate = _start(extractor.extract_model([IMAGE], [CHOSEN])) if several else None
        self._expert: NDArray[np.float32] | None = None

    def encode(self, image: Tensor) -> tuple[Tensor, ...]:
        """Take features from a normalized image of shape (B, 3, H, W), H and W multiples of 32."""
        found = self._encoder.run(self._features, {IMAGE: _to_array(image)})
        features = dict(zip(self._features, found, strict=True))
        if self._expert is not None:
            features[CHOSEN] = np.repeat(self._expert, len(image))
        return (image, *(torch.from_numpy(feature) for feature in features.values()))

    def decode(self, features: tuple[Tensor, ...], guidance: Tensor | None = None) -> Tensor:
        """Turn `encode`'s features, and guidance of shape (B, 3, H, W), into logits of shape (B, C, H, W)."""
        image, *_ = features
        feed = {
            name: _to_array(feature) for name, feature in zip((IMAGE, *self._features), features, strict=True)
        }
        if self.guided:
            feed[GUIDANCE] = _to_array(torch.zeros_like(image) if guidance is None else guidance)
        return torch.from_numpy(self._decoder.run([LOGITS], feed)[0])

    def network_for(self, view: Tensor) -> SegmentationNetwork:
        """Return a network that gives all images to the expert for an image (1, 3, h, w)."""
        if self._gate is None:
            return self
        chosen = copy.copy(self)
        (chosen._expert,) = self._gate.run([CHOSEN], {IMAGE: _to_array(view)})  # noqa: SLF001 - a copy of self
        return chosen

    def for_inference(self) -> SegmentationNetwork:
        """Return the network itself, which is already optimized."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        raise CheckpointError(
            "A model in ONNX form cannot be trained: use the .safetensors file it came from."
        )


def load_onnx(path: Path) -> Checkpoint:
    """Load a file written by `export_onnx`; raise `CheckpointError` if that is not possible."""
    check_size(path)
    check_onnx_packages()
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except (DecodeError, OSError) as error:
        raise CheckpointError(f"{path.name} is no readable ONNX file.") from error
    card = parse_card(path, {entry.key: entry.value for entry in model.metadata_props})
    if any(weights.external_data for weights in model.graph.initializer):
        raise CheckpointError(f"{path.name} keeps its weights in other files, which is not supported.")
    return Checkpoint(OnnxNetwork(model).eval(), card)


def export_onnx(network: SegmentationNetwork, card: ModelCard, path: Path) -> float:
    """Write a model as an ONNX file that `napari_lesionseg.load_model` and other programs can run.

    Its inputs are ``image``, a normalized image (B, 3, H, W), and for networks that take clicks
    ``guidance`` of the same shape; its output is ``logits`` (B, C, H, W). B is free, H and W are any
    multiples of 32. The features that clicks do not change are further outputs; see `OnnxNetwork`.
    """
    check_onnx_packages()
    folded = network.for_inference().cpu()
    model = _convert(folded, card)
    difference = _compare(folded, OnnxNetwork(model))
    if not difference <= TOLERANCE:
        raise CheckpointError(
            f"Nothing was written: the exported network's logits are off by {difference:.2g}."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, model.SerializeToString())
    except OSError as error:
        raise CheckpointError(f"The model cannot be written to {path}: {error.strerror}.") from error
    return difference


def _start(model: Any) -> Any:
    """Return a session of ONNX Runtime with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised as exceptions
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except _runtime_errors() as error:
        raise CheckpointError(f"The ONNX model cannot be run ({str(error).splitlines()[0]}).") from error


def _runtime_errors() -> tuple[type[Exception], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented")
    return tuple(getattr(state, name) for name in names)


def _to_array(tensor: Tensor) -> NDArray[Any]:
    return np.ascontiguousarray(tensor.numpy())


class _Graph(nn.Module):
    """The exported outputs: logits, followed by the features at which the graph can be split."""

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, guidance: Tensor | None = None) -> tuple[Tensor, ...]:
        features = self.network.encode(image)
        maps = [feature for feature in features if feature is not image]
        return (self.network.decode(features, guidance), *maps)


def _convert(network: SegmentationNetwork, card: ModelCard) -> Any:
    """Return the ``onnx.ModelProto`` of a network, without paths and versions of this machine."""
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
    """Suppress warnings and logs of the exporter about its own internals."""
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
    generator, differences = torch.Generator().manual_seed(0), []
    for batch, height, width in CHECKED_SHAPES:
        image = torch.randn(batch, 3, height, width, generator=generator)
        for guidance in (None, torch.rand(batch, 3, height, width, generator=generator)):
            wanted = network(image, guidance)
            difference = (exported(image, guidance) - wanted).abs() / wanted.abs().clamp(min=1)
            differences.append(difference.max())
    return float(torch.stack(differences).max())  # unlike Python's, torch's maximum keeps NaN
