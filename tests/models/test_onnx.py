from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from napari_lesionseg.errors import CheckpointError, DeviceError
from napari_lesionseg.inference.predictor import Model, load_model
from napari_lesionseg.inference.tiling import TileConfig, predict_large
from napari_lesionseg.io.atomic import sha256_file
from napari_lesionseg.models import onnx as onnx_module
from napari_lesionseg.models.base import SegmentationNetwork
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import CARD_KEY
from napari_lesionseg.models.lite_unet import DESCRIPTION_LENGTH
from napari_lesionseg.models.mixture import GATE_THRESHOLD, Direction, card_with_experts, with_expert
from napari_lesionseg.models.onnx import TOLERANCE, OnnxNetwork, export_onnx, load_onnx
from napari_lesionseg.models.registry import build_network
from napari_lesionseg.types import Click

onnx = pytest.importorskip("onnx", reason="the extra [onnx] is not installed")
for package in ("onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason="the extra [onnx] is not installed")

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


TINY = {"width": 2, "depth": 1}
TINY_CARD = ModelCard(name="tiny", arch="unet", arch_settings=TINY, working_size=64, threshold=0.4)


@pytest.fixture(scope="module")
def network() -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network("unet", **TINY)


@pytest.fixture(scope="module")
def exported(network: SegmentationNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "sub" / "tiny æø.onnx"
    assert export_onnx(network, TINY_CARD, path) <= TOLERANCE
    return path


def test_the_file_runs_like_the_network(exported: Path, network: SegmentationNetwork) -> None:
    model = load_model(exported)
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    wanted = Model(network, TINY_CARD, "cpu", precision="float32").predict(image, [Click(3, 4)])
    np.testing.assert_allclose(model.predict(image, [Click(3, 4)]), wanted, atol=TOLERANCE)
    assert model.card == TINY_CARD
    assert model.sha256 == sha256_file(exported)
    assert model.device.type == "cpu"


def test_the_file_contains_no_path_of_this_computer(exported: Path) -> None:
    payload = exported.read_bytes()
    assert str(Path(onnx_module.__file__).parents[2]).encode() not in payload
    assert b"stack_trace" not in payload


def test_it_runs_on_the_cpu_only(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert load_model(exported, "auto").device.type == "cpu"
    assert load_model(exported, "cpu").device.type == "cpu"
    with pytest.raises(DeviceError, match="CPU only"):
        load_model(exported, "cuda")


def test_an_export_that_differs_is_not_written(
    network: SegmentationNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(SegmentationNetwork):
        def __init__(self, model: object) -> None:
            super().__init__()

        def encode(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return (image,)

        def decode(
            self, features: tuple[torch.Tensor, ...], guidance: torch.Tensor | None = None
        ) -> torch.Tensor:
            return features[0][:, :1] * float("nan")

    monkeypatch.setattr(onnx_module, "_convert", lambda network, card: None)
    monkeypatch.setattr(onnx_module, "OnnxNetwork", Wrong)
    with pytest.raises(CheckpointError, match="Nothing was written"):
        export_onnx(network, TINY_CARD, tmp_path / "wrong.onnx")
    assert not list(tmp_path.iterdir())


def test_a_network_that_cannot_be_exported(tmp_path: Path) -> None:
    class Odd(SegmentationNetwork):
        def encode(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return (image * 1,)

        def decode(
            self, features: tuple[torch.Tensor, ...], guidance: torch.Tensor | None = None
        ) -> torch.Tensor:
            return features[0] if float(features[0].sum()) > 0 else -features[0]

    with pytest.raises(CheckpointError, match="'odd' cannot be exported"):
        export_onnx(Odd(), ModelCard(arch="odd"), tmp_path / "odd.onnx")
    assert logging.getLogger("torch.onnx").level == logging.NOTSET


def test_a_place_that_cannot_be_written(
    network: SegmentationNetwork, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(onnx_module, "_convert", lambda network, card: onnx.load(exported))
    with pytest.raises(CheckpointError, match="cannot be written"):
        export_onnx(network, TINY_CARD, tmp_path / "file" / "tiny.onnx")


def test_the_default_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_network("lite-unet")
    for projection in network.guidance.projections:
        nn.init.normal_(projection.weight, std=0.3)
    path = tmp_path / "default.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing that the exporter says comes through
        export_onnx(network, ModelCard(working_size=64), path)
    model = load_model(path)
    image = np.random.default_rng(0).integers(0, 256, (100, 60, 3), np.uint8)
    exact = Model(network, model.card, "cpu", precision="float32")
    encoded, wanted = model.encode(image), exact.encode(image)
    for clicks in ([], [Click(30, 30)], [Click(30, 30), Click(80, 10, False)]):
        np.testing.assert_allclose(encoded.predict(clicks), wanted.predict(clicks), atol=TOLERANCE)
    assert abs(encoded.predict([Click(30, 30)]) - encoded.predict()).mean() > 1e-4


# ------------------------------------------------------------------------------------- several experts


@pytest.fixture(scope="module")
def experts() -> Model:
    """The first outlines dark images, the second bright ones."""
    torch.manual_seed(0)
    first, second = build_network("lite-unet").eval(), build_network("lite-unet").eval()
    for network in (first, second):
        # The exporter takes its time for every layer: one block of each stage is as good as all of them.
        network.encoder.stages = nn.ModuleList(stage[:1] for stage in network.encoder.stages)
        network.context = network.context[:1]
        nn.init.normal_(network.head.weight)
        for projection in network.guidance.projections:
            nn.init.normal_(projection.weight, std=0.3)
    describer = Model(first, ModelCard(working_size=64), "cpu")
    dark, bright = (describer.describe(np.full((64, 64, 3), value, np.uint8)) for value in (20, 230))
    weight = 2 * GATE_THRESHOLD * (bright - dark) / np.square(bright - dark).sum()
    kind = Direction(weight, -float(weight @ dark), bright, np.eye(DESCRIPTION_LENGTH, dtype=np.float32))
    made, card = with_expert(first, 1, second, kind), card_with_experts(ModelCard(working_size=64), 2)
    return Model(made, card, "cpu", precision="float32")


@pytest.fixture(scope="module")
def exported_experts(experts: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("onnx") / "experts.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_module, "CHECKED_SHAPES", ((1, 64, 96), (2, 32, 32)))
        assert export_onnx(experts.network, experts.card, path) <= TOLERANCE
    return load_model(path)


def test_several_experts(experts: Model, exported_experts: Model) -> None:
    dark, bright = (np.full((60, 90, 3), value, np.uint8) for value in (20, 230))
    views = torch.cat(
        [experts.network_input(dark), experts.network_input(bright), experts.network_input(dark)]
    )
    guidance = torch.rand(views.shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert experts.network.choose(views).tolist() == [0, 1, 0]
        for planes in (None, guidance):
            expected = experts.network(views, planes)
            torch.testing.assert_close(exported_experts.network(views, planes), expected, rtol=0, atol=1e-3)
        assert (expected[0] - experts.network.expert(1)(views[:1], guidance[:1])).abs().max() > 0.01
    for image in (dark, bright):
        for clicks in ([], [Click(30, 30)]):
            wanted = experts.predict(image, clicks)
            np.testing.assert_allclose(exported_experts.predict(image, clicks), wanted, atol=TOLERANCE)
    assert exported_experts.card == experts.card


def test_a_part_is_predicted_by_the_expert_of_the_whole_image(
    experts: Model, exported_experts: Model
) -> None:
    whole = np.full((80, 100, 3), 230, np.uint8)
    whole[20:60, 30:70] = 20
    part = whole[24:56, 34:66].copy()
    answers = [model.encode(part, model.encode(whole)).predict() for model in (experts, exported_experts)]
    np.testing.assert_allclose(answers[1], answers[0], atol=TOLERANCE)
    assert abs(answers[1] - exported_experts.predict(part)).max() > 0.01
    config = TileConfig(window=64, overlap=16)
    large = [
        predict_large(model, whole, config=config, store="float32") for model in (experts, exported_experts)
    ]
    np.testing.assert_allclose(large[1], large[0], atol=TOLERANCE)
