from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from napari_lesionseg.cli.options import make_settings
from napari_lesionseg.config import (
    AugmentConfig,
    FineTuneConfig,
    PostprocessConfig,
    PromptConfig,
    Settings,
    Skeleton,
    TrainConfig,
)
from napari_lesionseg.datasets.formats import ExportConfig
from napari_lesionseg.errors import SettingsError
from napari_lesionseg.inference.tiling import TileConfig
from napari_lesionseg.training.augmentation import augment
from napari_lesionseg.training.prompt_samples import make_sample


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("left_eye", "right_eye"),
        ("Left Eye", "Right Eye"),
        ("l_eye", "r_eye"),
        ("eye_L", "eye_R"),
        ("lefteye", "righteye"),
    ],
)
def test_symmetries_follow_from_the_names(left: str, right: str) -> None:
    skeleton = Skeleton.from_names(["nose", left, right])
    assert skeleton.symmetries == ((1, 2),)
    assert skeleton.mirrored == [0, 2, 1]


def test_names_without_a_mirror_image_stay() -> None:
    assert Skeleton.from_names(["ruler_0", "ruler_10", "ball", "left_ear"]).symmetries == ()


@pytest.mark.parametrize(
    "settings",
    [
        {"names": ["a", "a"]},
        {"names": ["a\n"]},
        {"names": ["a", "b"], "edges": [(0, 2)]},
        {"names": ["a", "b"], "edges": [(1, 1)]},
        {"names": ["a", "b", "c"], "symmetries": [(0, 1), (1, 2)]},
        {"names": []},
    ],
)
def test_unsound_skeletons_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Skeleton.model_validate(settings)


@pytest.mark.parametrize(
    ("kind", "values", "answer"),
    [
        (PostprocessConfig, {"threshold": 3}, "The setting 'threshold' is wrong: Input should be less "),
        (PostprocessConfig, {"level": 0.5}, "There is no setting 'level'; choose from threshold, "),
        (TrainConfig, {"augment": {"blur": -1}}, "The setting 'augment.blur' is wrong: "),
        (FineTuneConfig, {"expert": {"refit": -1}}, "The setting 'expert.refit' is wrong: "),
        (Skeleton, {"names": ["a", "a"]}, "Every landmark needs a printable name of its own."),
    ],
)
def test_a_wrong_value_is_named_in_one_sentence(
    kind: type[Settings], values: dict[str, Any], answer: str
) -> None:
    with pytest.raises(SettingsError) as raised:
        kind(**values)
    assert str(raised.value).startswith(answer)
    assert str(raised.value).endswith(".")
    assert "\n" not in str(raised.value)


KINDS: tuple[type[Settings], ...] = (TrainConfig, FineTuneConfig, PostprocessConfig, ExportConfig, TileConfig)
ODD = (0, 1, -1, 0.5, 1.5, 10, 31, 32, 33, 2048, 2049, 10**9, 2**63, 1e300, float("nan"), float("inf"))
NUMBERS = st.sampled_from(ODD)
LEAVES = NUMBERS | st.integers() | st.floats() | st.booleans() | st.none() | st.text(max_size=4)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=3) | st.sampled_from(["scale", "margin", "train"]), inner, max_size=2
        )
    ),
    max_leaves=6,
)
PAIRS = st.lists(st.tuples(NUMBERS | st.floats(0, 1), NUMBERS | st.integers(32, 2048)).map(list), max_size=3)
RANGES = st.tuples(NUMBERS, NUMBERS).map(list)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.sampled_from(KINDS))
def test_a_setting_is_understood_or_refused_in_one_sentence(
    data: st.DataObject, kind: type[Settings]
) -> None:
    name = data.draw(st.sampled_from([*kind.model_fields, "unknown"]))
    value = data.draw(VALUES | PAIRS | RANGES)
    reason = ""
    try:
        config = make_settings(kind, {name: value})
    except SettingsError as error:
        reason = str(error)
    if reason:
        assert reason.startswith((f"The setting '{name}", f"There is no setting '{name}"))
        assert "\n" not in reason
        return
    assert kind.model_validate_json(config.model_dump_json()) == config


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_what_is_understood_works(data: st.DataObject) -> None:
    """The settings that draw random numbers and sizes, at the ends of what they allow."""
    image = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    labels = np.zeros((40, 48), np.uint8)
    labels[10:30, 12:30] = 1
    field = data.draw(st.sampled_from(["augment", "prompts", "sizes"]))
    if field == "sizes":
        value: Any = data.draw(PAIRS)
    else:
        model = {"augment": AugmentConfig, "prompts": PromptConfig}[field]
        name = data.draw(st.sampled_from(list(model.model_fields)))
        value = {name: data.draw(RANGES | NUMBERS | st.floats(0, 1))}
    try:
        config = make_settings(TrainConfig, {field: value})
    except SettingsError:
        return
    assert all(32 <= config.size_at(progress) <= 2048 for progress in (0, 0.25, 0.999, 1))
    rng = np.random.default_rng(1)
    for _ in range(3):
        sample = augment(image, labels, config.augment, 32, rng)
        assert (sample.image.shape, set(sample.labels.unique().tolist()) <= {0, 1}) == ((3, 32, 32), True)
        if config.prompts:
            made = make_sample(image, labels, config.prompts, 32, rng)
            assert torch.isfinite(made.image.float()).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sizes", []),
        ("sizes", [[1, 32]]),
        ("sizes", [[0.5, 64]]),
        ("sizes", [[0, 64], [0.5, 64], [0.2, 96]]),
        ("sizes", [[0, 8]]),
        ("sizes", [[0, 5000]]),
        ("augment", {"scale": [0, 1]}),
        ("augment", {"scale": [2, 1]}),
        ("augment", {"color": float("inf")}),
        ("prompts", {"margin": [0.5, 0.25]}),
        ("decoder_lr", float("inf")),
        ("encoder_lr", 2),
        ("seed", 2**64),
        ("num_threads", 10**6),
        ("class_weights", [-1, 1]),
        ("arch_settings", {"width": -1}),
        ("max_seconds", float("nan")),
        ("batch_size", 0),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=f"The setting '{name}"):
        make_settings(TrainConfig, {name: value})


@pytest.mark.parametrize("value", [[], [-0.5], [1.5], [float("nan")], [0.5] * 21])
def test_interpolations_out_of_range_are_refused(value: list[float]) -> None:
    with pytest.raises(SettingsError, match="The setting 'interpolations"):
        make_settings(FineTuneConfig, {"interpolations": value})
    with pytest.raises(SettingsError, match="The setting 'expert"):
        make_settings(FineTuneConfig, {"expert": {"interpolations": value}})
