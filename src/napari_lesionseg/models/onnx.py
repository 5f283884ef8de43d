"""Networks in ONNX form, run by ONNX Runtime instead of torch.

The file is one graph from an image and guidance to logits, which any ONNX program can run, with the model
card among its metadata. Its further outputs are the features that clicks do not change; at these the graph is
cut in two here, so that an image is encoded once.
"""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_lesionseg.errors import CheckpointError
from napari_lesionseg.models.base import SegmentationNetwork
from napari_lesionseg.models.checkpoint import Checkpoint, check_size, parse_card

IMAGE, GUIDANCE, LOGITS, FEATURES = "image", "guidance", "logits", "features_"
CHOSEN = f"{FEATURES}expert"
"""The feature that says which of several experts each image (B,) is given to."""
PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def check_onnx_packages() -> None:
    """Refuse to go on without the packages of the extra ``[onnx]``.

    Raises
    ------
    CheckpointError
        If one is missing.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise CheckpointError(
            f'ONNX models need {", ".join(missing)}: run `pip install "napari-lesionseg[onnx]"`.'
        )


class OnnxNetwork(SegmentationNetwork):
    """A network that ONNX Runtime runs on the processor; it cannot learn.

    Parameters
    ----------
    model : onnx.ModelProto
        What `napari_lesionseg.models.onnx_export` makes.

    Raises
    ------
    CheckpointError
        If it has other inputs or outputs, or ONNX Runtime cannot run it.
    """

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
        (chosen._expert,) = self._gate.run([CHOSEN], {IMAGE: _to_array(view)})
        return chosen

    def for_inference(self) -> SegmentationNetwork:
        """Return the network itself, which is as fast as it gets."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        raise CheckpointError("A model in ONNX form cannot learn: use the .safetensors file it came from.")


def load_onnx(path: Path) -> Checkpoint:
    """Load a model in ONNX form.

    Parameters
    ----------
    path : Path
        An ``.onnx`` file that was exported by this package.

    Raises
    ------
    CheckpointError
        With one sentence that says what is wrong with the file, or which package is missing.
    """
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


def _start(model: Any) -> Any:
    """Make a session of ONNX Runtime with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what is wrong is said by the exception
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
