from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from napari_lesionseg.datasets.export_checks import Step, check_records, looks_like_mask, prepare
from napari_lesionseg.datasets.formats.base import ExportConfig
from napari_lesionseg.datasets.records import Provenance
from napari_lesionseg.errors import DatasetError


def check(kit, records, **settings):
    return kit.last(check_records(records, ExportConfig(**settings)))


def reasons(checked) -> dict[str, str]:
    return {problem.name: problem.reason for problem in checked.problems}


def test_sound_records_pass(kit, records) -> None:
    *steps, checked = check_records(records, ExportConfig())
    assert steps[0] == Step("checking", 1, 10, "case_00")
    assert list(checked.records) == records
    assert checked.sizes["case_03"] == (40, 56)
    assert checked.problems == checked.duplicates == ()


def test_the_mask_of_an_image_that_cannot_be_read_is_named_with_it(kit, records, tmp_path) -> None:
    for name in ("a.png", "a_mask.png"):
        (tmp_path / name).write_bytes(b"x")
    records[2] = replace(records[2], image=tmp_path / "a.png", mask=tmp_path / "a_mask.png")
    assert "a_mask.png is left out with it" in reasons(check(kit, records))["case_02"]


@pytest.mark.parametrize("status", ["predicted", "corrected", "flagged", "unreviewed"])
def test_unsigned_outlines_stay_out_unless_asked_for(kit, records, status) -> None:
    records[2] = replace(records[2], provenance=Provenance(status=status))
    checked = check(kit, records)
    assert records[2] not in checked.records
    assert status in reasons(checked)["case_02"]
    assert len(check(kit, records, unapproved="include").records) == 10
    with pytest.raises(DatasetError, match=status):
        check(kit, records, unapproved="refuse")


def test_empty_masks_need_the_word_no_lesion(kit, records) -> None:
    empty = np.zeros((40, 56), np.uint8)
    records[0] = replace(records[0], mask=empty)
    records[1] = replace(records[1], mask=empty, provenance=Provenance(status="no lesion"))
    records[2] = replace(records[2], provenance=Provenance(status="no lesion"))
    checked = check(kit, records)
    assert "empty" in reasons(checked)["case_00"]
    assert records[1] in checked.records
    assert "not empty" in reasons(checked)["case_02"]


def test_broken_entries_are_listed_and_left_out(kit, records) -> None:
    records[4] = replace(records[4], mask=np.zeros((3, 3), np.uint8))
    records[5] = replace(records[5], name="CASE_06")
    records[7] = replace(records[7], mask=None)
    checked = check(kit, records)
    assert [record.name for record in checked.records][-4:] == ["CASE_06", "case_06_2", "case_08", "case_09"]
    assert set(reasons(checked)) == {"case_04", "case_06", "case_07"}


def test_copies_are_treated_as_asked(kit, records) -> None:
    records[8] = replace(records[8], image=records[1].image)
    checked = check(kit, records)
    assert checked.duplicates == (("case_01", "case_08"),)
    assert "copy of case_01" in reasons(checked)["case_08"]
    skipped = check(kit, records, duplicates="skip")
    assert records[8] not in skipped.records
    assert skipped.duplicates == ()
    with pytest.raises(DatasetError, match="copies"):
        check(kit, records, duplicates="refuse")


def test_nothing_to_export_is_an_error_with_a_reason(kit) -> None:
    with pytest.raises(DatasetError, match="None of 0"):
        check(kit, [])
    with pytest.raises(DatasetError, match="no outline"):
        check(kit, [kit.record(0, mask=None)])


def test_classes_must_agree(kit, records) -> None:
    with pytest.raises(DatasetError, match="different classes"):
        check(kit, [*records, kit.record(11, classes=3)])


def test_one_region_without_holes(kit) -> None:
    labels = np.zeros((40, 56), np.uint8)
    labels[5:30, 5:30] = 1
    labels[10:12, 10:20] = 2
    labels[15:20, 15:20] = 0
    labels[35:38, 40:50] = 1
    instances = (labels > 0).astype(np.uint16) * 7
    instances[35:] = 9 * (labels[35:] > 0)
    record = kit.record(0, mask=labels, instances=instances, classes=3, regions={"far": labels > 0})
    pixels = prepare(record, ExportConfig(single_region=True))
    expected = labels.copy()
    expected[15:20, 15:20] = 1
    expected[35:] = 0
    assert np.array_equal(pixels.labels, expected)
    assert set(np.unique(pixels.instances)) == {0, 7}
    assert np.array_equal(pixels.instances > 0, expected > 0)
    assert not pixels.regions["far"][35:].any()
    assert np.array_equal(prepare(record, ExportConfig()).labels, labels)


def test_an_image_that_is_a_mask_by_its_looks_is_left_out(kit, records) -> None:
    mask = np.repeat(kit.labels(1)[..., None] * np.uint8(255), 3, axis=2)
    bare = [replace(record, mask=None) for record in records]
    bare[2] = replace(bare[2], image=mask)
    checked = kit.last(check_records(bare, ExportConfig(unapproved="include"), bare=True))
    assert len(checked.records) == 9
    assert "may be a mask" in reasons(checked)["case_02"]


def test_masks_are_told_from_images_by_their_colors(kit) -> None:
    labels = np.kron(kit.labels(1, classes=3), np.ones((4, 4), np.uint8))
    soft = ndimage.gaussian_filter((labels > 0) * 255.0, 0.7)
    noisy = np.clip(soft + np.random.default_rng(1).integers(-9, 9, soft.shape), 0, 255)
    for mask in (labels, labels * 100, soft, noisy):
        assert looks_like_mask(np.repeat(mask[..., None], 3, axis=2).astype(np.uint8))
    assert looks_like_mask(np.array([[0, 0, 0], [200, 0, 0], [0, 99, 0]], np.uint8)[labels])
    for seed in range(5):
        assert not looks_like_mask(kit.image(seed))
    assert not looks_like_mask(np.zeros((40, 56, 3), np.uint8))
    assert not looks_like_mask(np.full((40, 56, 3), 200, np.uint8))
