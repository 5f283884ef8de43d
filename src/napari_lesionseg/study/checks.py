"""What a study refuses before it writes anything, each with a sentence that says what to do."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from pydantic import TypeAdapter, ValidationError

from napari_lesionseg.errors import StudyError
from napari_lesionseg.study.events import AnnotatorName
from napari_lesionseg.study.state import ImageState
from napari_lesionseg.types import LabelImage

_ANNOTATOR: TypeAdapter[str] = TypeAdapter(AnnotatorName)


def check_annotator(annotator: str) -> str:
    """Return an annotator's name as it is.

    Raises
    ------
    StudyError
        When it is not made of 1 to 40 letters, digits, ``-`` and ``_``.
    """
    try:
        return _ANNOTATOR.validate_python(annotator)
    except ValidationError as error:
        raise StudyError(
            f"{annotator!r} cannot be an annotator's name; use 1 to 40 letters, digits, - or _."
        ) from error


def check_labels(labels: ArrayLike, state: ImageState, classes: int) -> LabelImage:
    """Return the labels of an outline as bytes.

    Parameters
    ----------
    labels : array_like
        (H, W) class indices.
    state : ImageState
        The image that they belong to.
    classes : int
        How many classes the study has.

    Raises
    ------
    StudyError
        When they have another size than the image, or other values than the classes.
    """
    values = np.asarray(labels)
    if values.shape != state.shape:
        raise StudyError(
            f"The outline has the shape {values.shape}, the image {state.name} {state.shape}; it "
            "belongs to another image."
        )
    if values.dtype.kind not in "biu" or values.min() < 0 or values.max() > classes:
        raise StudyError(f"An outline of this study holds labels from 0 to {classes}.")
    return np.ascontiguousarray(values, np.uint8)
