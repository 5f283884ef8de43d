"""Frozen settings: one object feeds the form, the command line, the checks and the checkpoint."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from napari_lesionseg.errors import SettingsError

MIN_SIDE, MAX_SIDE = 32, 2048
"""Smallest and largest side of training images, in pixels."""


class Settings(BaseModel):
    """Base of all settings: frozen, and strict about unknown names and infinite or undefined numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingsError(describe_setting(type(self), error)) from error

    # Otherwise pydantic calls `__init__` for settings inside of others too, and errors would lack the place.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]


def describe_setting(kind: type[Settings], error: ValidationError) -> str:
    """Return in one sentence what is wrong with the first setting that has a wrong name or value."""
    first = error.errors(include_url=False, include_input=False)[0]
    name = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return f"There is no setting '{name}'; choose from {', '.join(kind.model_fields)}."
    reason = first["msg"].removeprefix("Value error, ")
    return f"The setting '{name}' is wrong: {reason}." if name else f"{reason[:1].upper()}{reason[1:]}."


def _check_order(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError("the first number must not be larger than the second")
    return limits


def _check_sizes(sizes: tuple[tuple[float, int], ...]) -> tuple[tuple[float, int], ...]:
    starts = [start for start, _ in sizes]
    if starts[0] != 0 or starts != sorted(set(starts)):
        raise ValueError("the first pair must start at 0, and each later one after the one before it")
    return sizes


Interpolation = Annotated[float, Field(ge=0, le=1)]
Side = Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE)]
TrainingSize = tuple[Annotated[float, Field(ge=0, lt=1)], Side]


class Skeleton(Settings):
    """Names of the landmarks of a person, a face or a ruler, and which of them are joined or mirrored."""

    names: tuple[Annotated[str, Field(min_length=1, max_length=100)], ...] = Field(
        min_length=1, max_length=500, description="One for each landmark."
    )
    edges: tuple[tuple[int, int], ...] = Field(
        (), max_length=5000, description="Pairs of landmarks that a line joins, counted from 0."
    )
    symmetries: tuple[tuple[int, int], ...] = Field(
        (), max_length=500, description="Pairs of landmarks that a mirrored image swaps, counted from 0."
    )

    @model_validator(mode="after")
    def _names_and_pairs_fit(self) -> Self:
        if len(set(self.names)) < len(self.names) or not all(name.isprintable() for name in self.names):
            raise ValueError("every landmark needs a printable name of its own")
        for pair in (*self.edges, *self.symmetries):
            if pair[0] == pair[1] or not all(0 <= index < len(self.names) for index in pair):
                raise ValueError(f"{pair} does not join two of the {len(self.names)} landmarks")
        swapped = [index for pair in self.symmetries for index in pair]
        if len(set(swapped)) < len(swapped):
            raise ValueError("a landmark has two mirror images")
        return self

    @property
    def mirrored(self) -> list[int]:
        """The landmark that each one becomes in a mirrored image."""
        order = list(range(len(self.names)))
        for one, other in self.symmetries:
            order[one], order[other] = other, one
        return order

    @classmethod
    def from_names(cls, names: Sequence[str], edges: Sequence[tuple[int, int]] = ()) -> Skeleton:
        """Make a skeleton whose symmetries follow from the names, as left_eye and right_eye."""
        return cls(names=tuple(names), edges=tuple(edges), symmetries=find_symmetries(names))


def find_symmetries(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Return the pairs of names that differ in left and right, or in l and r as a part of their own."""
    places = {name.casefold(): index for index, name in enumerate(names)}
    pairs = []
    for name, index in places.items():
        for left, right in (("left", "right"), (r"(?<![a-z])l(?![a-z])", "r")):
            other = places.get(re.sub(left, right, name))
            if other is not None and other != index:
                pairs.append((index, other))
                break
    return tuple(pairs)


class PostprocessConfig(Settings):
    """How a probability map becomes a mask."""

    threshold: float | None = Field(
        None,
        gt=0,
        lt=1,
        title="Threshold",
        description="Probability above which a pixel belongs to the lesion; None: the model's own.",
    )
    fill_holes: bool = Field(True, title="Fill holes", description="Close holes inside the outline.")
    largest_only: bool = Field(
        True, title="Largest part only", description="Keep the largest part, and parts with a click in them."
    )
    min_area: int = Field(
        64,
        ge=0,
        title="Smallest part",
        description="Remove parts with fewer pixels.",
        json_schema_extra={"form": {"unit": "px"}},
    )


class AugmentConfig(Settings):
    """Strength of the random changes made to training images; 0 switches one off."""

    scale: Annotated[
        tuple[Annotated[float, Field(ge=0.01, le=100)], Annotated[float, Field(ge=0.01, le=100)]],
        AfterValidator(_check_order),
    ] = Field((0.6, 1.6), description="Range of the zoom factor; below 1 shows more surroundings.")
    aspect: float = Field(0.25, ge=0, le=4, description="Largest logarithm of the stretch between the axes.")
    shift: float = Field(0.15, ge=0, le=1, description="Largest shift, as a share of the side.")
    rotation: float = Field(180, ge=0, le=180, description="Largest rotation, in degrees.")
    color: float = Field(
        1.0, ge=0, le=10, description="Strength of brightness, contrast, saturation and color-cast changes."
    )
    artifacts: float = Field(
        0.35,
        ge=0,
        le=1,
        description="Share of images that get hairs, bubbles, rulers, ink or dark corners.",
    )
    blur: float = Field(
        0.15, ge=0, le=1, description="Share of images blurred, pixelated by JPEG, or made noisy."
    )


class LearningConfig(Settings):
    """Settings that training and fine-tuning share."""

    max_seconds: float | None = Field(None, gt=0, description="Budget in seconds; None: no limit.")
    batch_size: int = Field(
        16, ge=1, le=4096, description="Images per step, at most; short runs use fewer to have enough steps."
    )
    frozen_stages: int = Field(
        2,
        ge=0,
        description="Stages of a pretrained encoder, finest first, that are not trained.",
    )
    encoder_lr: float = Field(
        4e-4, ge=0, le=1, description="Peak learning rate of the encoder; 0 freezes it."
    )
    decoder_lr: float = Field(2e-3, gt=0, le=1, description="Peak learning rate of everything else.")
    weight_decay: float = Field(1e-2, ge=0, le=1)
    warmup: float = Field(0.05, ge=0, lt=1, description="Share of the run in which the learning rate rises.")
    average: float = Field(
        0.998,
        ge=0,
        lt=1,
        description="Decay of the moving average of the weights, which never covers more than a tenth of the "
        "steps; 0 turns it off.",
    )
    loss: Literal["bce-dice", "bce", "focal-dice"] = Field("bce-dice")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    class_weights: tuple[Annotated[float, Field(ge=0, le=1e6)], ...] | None = Field(
        None,
        description="Weight of each class, background first; None: all equal.",
    )
    click_fraction: float = Field(
        0.5, ge=0, le=1, description="Share of the images of a step that get simulated clicks."
    )
    click_rounds: int = Field(
        4, ge=1, le=100, description="Largest number of rounds of simulated clicks in a step."
    )
    freeze_norm: bool = Field(False, description="Do not update the batch normalization statistics.")
    augment: AugmentConfig = AugmentConfig()
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 where the device supports it natively, otherwise float32."
    )
    seed: int = Field(0, ge=0, lt=2**63)
    num_threads: int | None = Field(None, ge=1, le=1024, description="CPU threads; None: PyTorch's default.")


class PromptConfig(Settings):
    """How the part of a network that answers to boxes, lassos and strokes is trained."""

    strokes_only: float = Field(
        0.25, ge=0, le=1, description="Share of the samples without a box or a lasso, with strokes alone."
    )
    lasso: float = Field(
        0.3, ge=0, le=1, description="Share of the samples with a lasso; the rest get a box."
    )
    margin: Annotated[
        tuple[Annotated[float, Field(ge=0, le=10)], Annotated[float, Field(ge=0, le=10)]],
        AfterValidator(_check_order),
    ] = Field((0.25, 0.65), description="Range of the margin around a lesion, as a share of its longer side.")
    recolor: float = Field(
        1.0, ge=0, le=1, description="Strength of the random changes of color, contrast and texture."
    )
    artifacts: float = Field(
        0.35, ge=0, le=1, description="Share of images that get hairs, bubbles, rulers, ink or dark corners."
    )
    judged: float = Field(
        0.25, gt=0, le=1, description="Share of the held-out images scored after each pass, with a box."
    )


class TrainConfig(LearningConfig):
    """Settings of a training run."""

    arch: str = Field("lite-unet", description="Name of the network.")
    arch_settings: dict[str, Annotated[int, Field(ge=0, le=4096)]] = Field(
        default_factory=dict, description="Settings of the network, such as its width."
    )
    pretrained: bool = Field(
        True, description="Start the encoder from ImageNet weights where the network has them."
    )
    epochs: int = Field(30, ge=1, le=1_000_000, description="Passes over the images.")
    prompts: PromptConfig | None = Field(
        None,
        description="Train the part that answers to boxes, lassos and strokes, and nothing else; None: the "
        "automatic outline and clicks.",
    )
    start_weight: float = Field(
        0.0, ge=0, lt=1, description="Share of the initial weights in the final weights."
    )
    sizes: Annotated[tuple[TrainingSize, ...], AfterValidator(_check_sizes)] = Field(
        ((0.0, 256),),
        min_length=1,
        description="(progress, side in pixels) pairs: from that share of the run on, train at that side.",
    )

    def size_at(self, progress: float) -> int:
        """Return the side of the training images at a share of the run, in pixels."""
        return [size for start, size in self.sizes if start <= progress][-1]


class ExpertConfig(Settings):
    """How a new expert is trained on images of a new domain."""

    interpolations: tuple[Interpolation, ...] = Field(
        (0.5,),
        min_length=1,
        max_length=20,
        description="Interpolations between old (0) and new (1) weights to compare on the held-out images.",
    )
    refit_interpolation: float = Field(
        0.75, gt=0, le=1, description="Interpolation after training on all images."
    )
    size_fraction: float = Field(
        0.75, ge=0.1, le=1, description="Side of the training images, as a share of the model's own."
    )
    click_fraction: float = Field(
        0.25, ge=0, le=1, description="Share of the images of a step that get simulated clicks."
    )
    refit: float = Field(
        3.4,
        ge=0,
        le=100,
        description="Final steps on all images, per step of a cross-validation model.",
    )
    recognized: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of held-out images that must look different from the training data.",
    )


class FineTuneConfig(LearningConfig):
    """How a model is fine-tuned on an annotator's corrected images.

    See ``docs/explanation/fine-tuning.md`` for the experiments behind the defaults.
    """

    max_seconds: float | None = Field(
        None,
        gt=0,
        title="Time",
        description="Budget in seconds; None: no limit.",
        json_schema_extra={
            "form": {
                "tooltip": "Time for the fine-tuning",
                "unit": "s",
                "decimals": 0,
                "min": 10,
                "max": 3600,
                "step": 1,
                "value": 60,
            }
        },
    )
    epochs: int | None = Field(
        None, ge=1, le=1_000_000, description="Passes over the images; None: chosen from their number."
    )
    rounds: int = Field(8, ge=1, le=1000, description="Number of times the held-out images are scored.")
    patience: float = Field(
        0.5,
        gt=0,
        le=100,
        description="Stop early after this share of the rounds without a better held-out score.",
    )
    folds: int = Field(
        3,
        ge=2,
        le=100,
        description="Folds of the cross-validation.",
    )
    interpolations: tuple[Interpolation, ...] = Field(
        (0.25, 0.5),
        min_length=1,
        max_length=20,
        description="Interpolations between old (0) and new (1) weights that are compared on the held-out "
        "images; for a new domain, those of `expert`.",
    )
    expert: ExpertConfig | None = Field(
        ExpertConfig(),
        description="Settings for images of a new domain, which get an expert; None: no experts.",
    )
    unmeasured_interpolation: float = Field(
        0.5, gt=0, le=1, description="Interpolation when no image can be held out."
    )
    size: Side | None = Field(None, description="Side of the training images; None: the model's own.")
    batch_size: int = Field(4, ge=1, le=4096, description="Images per step.")
    encoder_lr: float = Field(
        1e-4, ge=0, le=1, description="Peak learning rate of the encoder; 0 freezes it."
    )
    decoder_lr: float = Field(5e-4, gt=0, le=1, description="Peak learning rate of everything else.")
    weight_decay: float = Field(0.0, ge=0, le=1)
    warmup: float = Field(0.1, ge=0, lt=1, description="Share of the run in which the learning rate rises.")
    average: float = Field(
        0.0, ge=0, lt=1, description="Decay of the moving average of the weights; 0 switches it off."
    )
    label_smoothing: float = Field(0.02, ge=0, lt=0.5)
    freeze_norm: bool = Field(True, description="Do not update the batch normalization statistics.")

    @classmethod
    def from_train_config(cls, config: LearningConfig) -> FineTuneConfig:
        """Copy the values set explicitly in other settings; the rest has the defaults of this class."""
        if isinstance(config, FineTuneConfig):
            return config
        chosen = config.model_dump(include=config.model_fields_set & set(cls.model_fields))
        return cls.model_validate(chosen)
