"""Splitting a study's pictures, with the dealing itself left to `napari_lesionseg.datasets.splits`."""

from __future__ import annotations

from collections.abc import Iterable

from napari_lesionseg.datasets.splits import SplitItem
from napari_lesionseg.study.state import PictureState


def split_items(pictures: Iterable[PictureState]) -> list[SplitItem]:
    """Say what `assign_parts` and `assign_folds` must know of a study's pictures.

    Parameters
    ----------
    pictures : iterable of PictureState
        Such as the approved ones.

    Returns
    -------
    list of SplitItem
        The stem is the picture's SHA-256, since two pictures of a study may have one name. A picture without
        a stratum is spread by whether it shows a lesion.
    """
    return [
        SplitItem(
            stem=state.image_id,
            patient=state.added.patient,
            lesion=state.added.lesion,
            stratum=state.added.stratum or state.status.value,
        )
        for state in pictures
    ]
