from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from napari_lesionseg.datasets.splits import SplitItem, assign_parts, leaks, split_folds
from napari_lesionseg.study.splits import split_items
from napari_lesionseg.study.study import Study


def test_patients_of_a_study_stay_together(
    tmp_path: Path, make_images: Callable[..., Path], outline: np.ndarray
) -> None:
    groups = [SplitItem(f"IMD{n}", patient=f"patient {n // 3}") for n in range(1, 31)]
    study = Study.create(tmp_path / "study", "am", paths=make_images(30), groups=groups)
    items = split_items(study.state.images.values())
    assert [item.stem for item in items] == list(study.state.images)
    parts = assign_parts(items, seed=3)
    assert leaks(items, parts) == []
    assert set(parts.values()) == {"train", "val", "test"}
    assert assign_parts(reversed(items), seed=3) == parts
    assert assign_parts(items, seed=4) != parts
    assert len(set(split_folds(items, 5, seed=3).values())) == 5


def test_images_without_a_lesion_are_spread(tmp_path: Path, make_images: Callable[..., Path]) -> None:
    study = Study.create(tmp_path / "study", "am", paths=make_images(20))
    empty = set(list(study.state.images)[:10])
    for image in empty:
        study.no_lesion(image)
    folds = split_folds(split_items(study.state.images.values()), 5)
    assert [sum(folds[image] == fold for image in empty) for fold in range(5)] == [2] * 5
