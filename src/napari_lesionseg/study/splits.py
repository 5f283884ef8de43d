"""Splitting a study's images, with the dealing itself left to `napari_lesionseg.datasets.splits`."""

from __future__ import annotations

from collections.abc import Iterable

from napari_lesionseg.datasets.splits import SplitItem
from napari_lesionseg.study.state import ImageState


def split_items(images: Iterable[ImageState]) -> list[SplitItem]:
    """Say what `assign_parts` and `assign_folds` must know of a study's images.

    Parameters
    ----------
    images : iterable of ImageState
        Such as the approved ones.

    Returns
    -------
    list of SplitItem
        The stem is the image's SHA-256, since two images of a study may have one name. An image without
        a stratum is spread by whether it shows a lesion.
    """
    return [
        SplitItem(
            stem=state.image_id,
            patient=state.added.patient,
            lesion=state.added.lesion,
            stratify_by=state.added.stratify_by or state.status.value,
        )
        for state in images
    ]
