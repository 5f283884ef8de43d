from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from napari_lesionseg.datasets.formats.base import put_instances
from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io.images import write_image, write_mask


def test_files_arrays_and_functions_give_the_same_pixels(kit, tmp_path: Path) -> None:
    record = kit.record(1)
    write_image(tmp_path / "x.png", record.image)
    write_mask(tmp_path / "m.png", record.mask)
    put_instances(tmp_path / "i.png", record.mask.astype(np.uint16) * 300)
    from_files = replace(
        record, image=tmp_path / "x.png", mask=tmp_path / "m.png", instances=tmp_path / "i.png",
        regions={"red": tmp_path / "m.png"},
    ).load()  # fmt: skip
    from_calls = replace(record, image=lambda: record.image, mask=lambda: record.mask).load()
    for pixels in (from_files, from_calls, record.load()):
        assert np.array_equal(pixels.image, record.image)
        assert np.array_equal(pixels.labels, record.mask)
        assert pixels.labels.dtype == np.uint8
    assert from_files.instances is not None
    assert from_files.instances.max() == 300
    assert np.array_equal(from_files.regions["red"], record.mask)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mask": None}, "no outline"),
        ({"mask": np.zeros((3, 4), np.uint8)}, "56 x 40"),
        ({"mask": np.full((40, 56), 2, np.uint8)}, "class 2"),
        ({"mask": np.full((40, 56), -1)}, "whole numbers"),
        ({"mask": np.zeros((40, 56), float)}, "whole numbers"),
        ({"mask": Path("none.png")}, "none.png"),
        ({"image": Path("none.png")}, "none.png"),
        ({"image": np.zeros((40, 56), np.uint8)}, "bytes"),
        ({"instances": np.zeros((3, 4), np.uint16)}, "56 x 40"),
        ({"instances": Path("none.png")}, "none.png"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(kit, change: dict[str, object], words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        replace(kit.record(0), **change).load()


def test_an_image_without_an_outline_can_be_asked_for(kit) -> None:
    assert not kit.record(0, mask=None).load(bare=True).labels.any()


def test_color_images_are_no_object_numbers(kit, tmp_path: Path) -> None:
    write_image(tmp_path / "i.png", kit.image(1))
    with pytest.raises(DatasetError, match="gray"):
        kit.record(0, instances=tmp_path / "i.png").load()
