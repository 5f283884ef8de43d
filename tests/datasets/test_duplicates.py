from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from napari_lesionseg.datasets.duplicates import find_duplicates, image_hash
from napari_lesionseg.io.images import read_image


def test_resized_and_recompressed_copies_are_found(kit) -> None:
    original = kit.image(1, (200, 280))
    buffer = io.BytesIO()
    Image.fromarray(original).resize((150, 110)).save(buffer, "JPEG", quality=60)
    copies = {
        "original": image_hash(original),
        "small": image_hash(np.asarray(Image.open(buffer).convert("RGB"))),
        "bright": image_hash(np.clip(original.astype(int) + 20, 0, 255).astype(np.uint8)),
        "other": image_hash(kit.image(2, (200, 280))),
    }
    assert find_duplicates(copies) == [("original", "small", "bright")]


def test_groups_grow_through_common_members() -> None:
    base = np.zeros(8, np.uint64)
    near, far = base.copy(), base.copy()
    near[0] = np.uint64(2**30 - 1)
    far[0] = np.uint64(2**60 - 1)
    assert find_duplicates({"a": base, "c": far, "b": near, "d": ~base}) == [("a", "c", "b")]


def test_nothing_and_one_image_have_no_twins(kit) -> None:
    assert find_duplicates({}) == []
    assert find_duplicates({"a": image_hash(kit.image(0))}) == []


def test_different_lesions_of_one_collection_are_told_apart(real_data: Path) -> None:
    paths = sorted((real_data / "isic-crop512-val" / "images").iterdir())[:40]
    assert find_duplicates({path.stem: image_hash(read_image(path)) for path in paths}) == []
