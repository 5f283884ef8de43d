"""The card of a model: what it is, how to use it and where it comes from, kept in the header of its file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, field_validator

from napari_lesionseg.config import Settings, Skeleton
from napari_lesionseg.models.mixture import DomainStatistics

FORMAT_VERSION = 1
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def _one_line(text: str) -> str:
    """Raise for line breaks and control characters, which would garble terminals, tables and file names."""
    if not text.isprintable():
        raise ValueError("must be printable and on one line")
    return text


Line = Annotated[str, AfterValidator(_one_line)]


class ModelCard(Settings):
    """Everything needed to use a model's weights, and to judge them.

    A model of one class against the background has two class names and one output channel.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    format_version: int = Field(FORMAT_VERSION, ge=1, le=FORMAT_VERSION)
    name: Line = Field("unnamed", min_length=1, max_length=100)
    version: Line = Field("1", description="Version of the weights.")
    arch: Line = Field("lite-unet", description="Name of the network.")
    arch_settings: dict[str, int] = Field(
        default_factory=dict, description="Settings of the network, such as its width."
    )
    working_size: int = Field(
        256, ge=32, le=2048, description="Root of the number of pixels the network sees."
    )
    mean: tuple[float, float, float] = Field(IMAGENET_MEAN, description="Subtracted from RGB in [0, 1].")
    std: tuple[float, float, float] = Field(
        IMAGENET_STD, description="Divides RGB after the mean was subtracted."
    )
    classes: tuple[Line, ...] = Field(("background", "lesion"), min_length=2, max_length=256)
    landmarks: Skeleton | None = Field(None, description="Landmarks it finds; None: it outlines `classes`.")
    individuals: Literal["one", "several"] = Field(
        "one", description="How many people, or other owners of a set of landmarks, an image may show."
    )
    threshold: float = Field(
        0.5, gt=0, lt=1, description="Probability above which a pixel belongs to the class."
    )
    temperature: float = Field(
        1.0, gt=0, description="Divisor of the logits that makes probabilities calibrated."
    )
    test_time_augmentation: bool = Field(
        False, description="Average the outline before the first click over the image's quarter turns."
    )
    largest_only: bool = Field(
        True, description="Keep the largest part of an outline by default; False: its masks have several."
    )
    domain: DomainStatistics | None = Field(
        None, description="Statistics of the training images, to recognize images of another domain."
    )
    parent: Line | None = Field(None, description="SHA-256 of the model this one was fine-tuned from.")
    training: dict[str, Any] = Field(
        default_factory=dict, description="Command, settings, hashes and counts of the data."
    )
    scores: dict[str, Any] = Field(default_factory=dict, description="Scores by dataset.")
    license: Line = Field("unknown", description="License of the weights.")
    notes: str = Field("", max_length=10_000)

    @field_validator("std")
    @classmethod
    def _std_is_positive(cls, std: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(std) <= 0:
            raise ValueError("std must be positive")
        return std

    @field_validator("classes")
    @classmethod
    def _classes_have_names_of_their_own(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(classes)) < len(classes) or "" in classes:
            raise ValueError("every class needs a name of its own")
        return classes

    @property
    def out_channels(self) -> int:
        """Channels of the network's output: 1 for one class against the background, else one a class.

        For landmarks: a heat map each; for several people a heat map of their centers as well, and the
        distances down and across from a center to each of its landmarks.
        """
        if self.landmarks is not None:
            count = len(self.landmarks.names)
            return count if self.individuals == "one" else 3 * count + 1
        return 1 if len(self.classes) == 2 else len(self.classes)
