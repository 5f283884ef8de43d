from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from napari_lesionseg.errors import CheckpointError
from napari_lesionseg.models import onnx as onnx_module
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import CARD_KEY
from napari_lesionseg.models.onnx import OnnxNetwork, load_onnx

onnx = pytest.importorskip("onnx", reason="the extra [onnx] is not installed")
pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")

CARD = ModelCard(name="twice the mean")


def planes(name: str, channels: int | None = 3) -> Any:
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, channels, None, None])


def make_model(
    inputs: tuple[str, ...] = ("image", "guidance"),
    outputs: tuple[str, ...] = ("logits", "features_0"),
    operator: str = "Add",
) -> Any:
    """A network whose features are twice the image, and whose logits are these plus the guidance."""
    helper = onnx.helper
    nodes = [
        helper.make_node("Mul", ["image", "two"], ["features_0"]),
        helper.make_node(operator, ["features_0", inputs[-1]], ["logits"]),
    ]
    two = helper.make_tensor("two", onnx.TensorProto.FLOAT, [1], [2.0])
    graph = helper.make_graph(nodes, "net", [planes(n) for n in inputs], [planes(n) for n in outputs], [two])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {CARD_KEY: CARD.model_dump_json()})
    return model


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def write_bytes(payload: bytes) -> Path:
        path = tmp_path / "modèle.onnx"
        path.write_bytes(payload)
        return path

    return write_bytes


def test_cut_in_two_it_answers_as_the_whole(write: Callable[[bytes], Path]) -> None:
    network, card = load_onnx(write(make_model().SerializeToString()))
    image, guidance = torch.randn(2, 3, 8, 5), torch.rand(2, 3, 8, 5)
    features = network.encode(image)
    assert card == CARD
    assert network.guided
    assert features[0] is image
    assert torch.equal(features[1], 2 * image)
    assert torch.equal(network.decode(features, guidance), 2 * image + guidance)
    assert torch.equal(network(image), 2 * image)


def test_any_order_of_memory(write: Callable[[bytes], Path]) -> None:
    network = load_onnx(write(make_model().SerializeToString())).network
    image = torch.randn(1, 3, 8, 5)
    assert torch.equal(network(image.contiguous(memory_format=torch.channels_last)), 2 * image)
    assert torch.equal(network(image, image.flip(-1)), 2 * image + image.flip(-1))


def test_a_network_without_clicks() -> None:
    network = OnnxNetwork(make_model(inputs=("image",)))
    image = torch.randn(1, 3, 4, 4)
    assert not network.guided
    assert torch.equal(network(image, torch.rand(1, 3, 4, 4)), 3 * image)


def test_it_cannot_be_trained() -> None:
    network = OnnxNetwork(make_model())
    assert network.for_inference() is network
    with pytest.raises(CheckpointError, match="cannot be trained"):
        copy.deepcopy(network)


@pytest.mark.parametrize(
    "payload", [b"", b"\x00", b"PK\x03\x04 zip", b"\xff" * 50, make_model().SerializeToString()[:-40]]
)
def test_damaged_and_foreign_files(write: Callable[[bytes], Path], payload: bytes) -> None:
    with pytest.raises(CheckpointError):
        load_onnx(write(payload))


def test_models_of_others(write: Callable[[bytes], Path]) -> None:
    without_card = make_model()
    del without_card.metadata_props[:]
    with pytest.raises(CheckpointError, match="not written by"):
        load_onnx(write(without_card.SerializeToString()))
    for model in (make_model(outputs=("logits",)), make_model(outputs=("features_0",))):
        with pytest.raises(CheckpointError, match="not exported by"):
            load_onnx(write(model.SerializeToString()))


def test_operators_that_do_not_exist(write: Callable[[bytes], Path]) -> None:
    with pytest.raises(CheckpointError):
        load_onnx(write(make_model(operator="FormatDisk").SerializeToString()))


def test_weights_in_other_files_are_not_followed(write: Callable[[bytes], Path]) -> None:
    model = make_model()
    weights = model.graph.initializer[0]
    weights.ClearField("float_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="../../etc/passwd")
    with pytest.raises(CheckpointError, match="other files"):
        load_onnx(write(model.SerializeToString()))


def test_missing_packages_are_named(write: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"pip install .*\[onnx\]"):
        load_onnx(write(make_model().SerializeToString()))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        load_onnx(tmp_path / "none.onnx")
