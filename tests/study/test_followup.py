"""Visits of a lesion: their order, what is measured, and outlines that are carried over."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.transform import SimilarityTransform, warp

from napari_lesionseg.datasets.synthetic import synthetic_sample
from napari_lesionseg.errors import StudyError
from napari_lesionseg.io.decoding import date_taken
from napari_lesionseg.io.images import write_image
from napari_lesionseg.masks.registration import move_mask
from napari_lesionseg.study.agreement import dice
from napari_lesionseg.study.events import Identified, Predicted
from napari_lesionseg.study.fields import StudyFields
from napari_lesionseg.study.followup import (
    carry_outline,
    followed_lesions,
    measure_visits,
    visits_with,
    write_followup,
)
from napari_lesionseg.study.state import Status
from napari_lesionseg.study.study import Study, find_damage

SIZE = (200, 260)
SAMPLE = synthetic_sample(3, SIZE)
MOTION = SimilarityTransform(rotation=0.3, scale=1.1, translation=(10, -25))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Visits in March, February and an unknown month of one lesion, and another lesion."""
    march = (255 * warp(SAMPLE.image, MOTION.inverse, mode="reflect")).astype(np.uint8)
    images = {"a": march, "b": SAMPLE.image, "c": np.roll(SAMPLE.image, 9, axis=1)}
    images["other"] = synthetic_sample(8, SIZE).image
    made = Study.create(tmp_path / "study", "am", images=images)
    fields = StudyFields(made)
    for name in "abc":
        made.record(Identified, image_of(made, name), patient="017", lesion="2")
    fields.set(image_of(made, "a"), {"taken_on": "2026-03-01"})
    fields.set(image_of(made, "b"), {"taken_on": "2026-02-01"})
    return made


def image_of(study: Study, name: str) -> str:
    return next(image for image, state in study.state.images.items() if state.name == name)


def names(study: Study, image: str) -> list[str]:
    return [visit.state.name for visit in visits_with(study, StudyFields(study), image_of(study, image))]


def test_visits_come_in_order_of_date_and_those_without_one_last(study: Study) -> None:
    assert names(study, "c") == ["b", "a", "c"]
    assert names(study, "other") == ["other"]
    (lesion,) = followed_lesions(study, StudyFields(study))
    assert [visit.state.name for visit in lesion] == ["b", "a", "c"]


def test_the_date_of_the_camera_counts_where_none_was_filled_in(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2026:01:05 10:11:12"
    Image.fromarray(SAMPLE.image).save(path, exif=exif)
    write_image(tmp_path / "plain.png", SAMPLE.image)
    assert date_taken(path) == "2026-01-05"
    assert date_taken(tmp_path / "plain.png") is None
    assert date_taken(tmp_path / "none.jpg") is None
    (tmp_path / "torn.jpg").write_bytes(path.read_bytes()[:30])
    assert date_taken(tmp_path / "torn.jpg") is None
    with Study.create(tmp_path / "study", "am", paths=[path]) as study:
        (image_id,) = study.state.images
        (visit,) = visits_with(study, StudyFields(study), image_id)
        assert str(visit.day) == "2026-01-05"
        StudyFields(study).set(image_id, {"taken_on": "2025-12-24"})
        (visit,) = visits_with(study, StudyFields(study), image_id)
        assert str(visit.day) == "2025-12-24"


def test_sizes_and_their_changes_are_measured(study: Study, tmp_path: Path) -> None:
    first, second = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
    first[50:90, 50:90], second[50:90, 50:110] = 1, 1
    study.approve(image_of(study, "b"), first)
    study.approve(image_of(study, "a"), second)
    study.save_correction(image_of(study, "c"), first)
    visits = visits_with(study, StudyFields(study), image_of(study, "a"))
    b, a, c = measure_visits(study, visits)
    assert (b.unit, b.area, b.area_change, b.taken_on) == ("px", 1600, None, "2026-02-01")
    assert (a.area, a.area_change) == (2400, pytest.approx(0.5))
    assert a.longest_diameter == pytest.approx(np.hypot(40, 60))
    assert a.asymmetry is not None
    assert a.contrast is not None
    assert (c.area, c.status) == (None, "corrected")  # not approved, so not measured
    write_followup(tmp_path / "out.csv", [b, a, c])
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["area_change"] for row in rows] == ["", "0.5", ""]
    with pytest.raises(StudyError, match="cannot be written"):
        write_followup(tmp_path / "none" / "out.csv", [b])


def test_sizes_are_in_millimeters_where_the_scale_is_known(study: Study) -> None:
    mask = np.zeros(SIZE, np.uint8)
    mask[50:90, 50:90] = 1
    for name, scale in (("b", 0.1), ("a", 0.05)):
        study.approve(image_of(study, name), mask)
        StudyFields(study).set(image_of(study, name), {"mm_per_pixel": scale})
    study.approve(image_of(study, "c"), mask)
    b, a, c = measure_visits(study, visits_with(study, StudyFields(study), image_of(study, "a")))
    assert (b.unit, b.area) == ("mm", pytest.approx(16))
    assert (a.area, a.area_change) == (pytest.approx(4), pytest.approx(-0.75))
    assert (c.unit, c.area_change) == ("px", None)  # pixels and millimeters are not compared


def test_the_last_approved_outline_is_carried_over(study: Study) -> None:
    earlier, later = image_of(study, "b"), image_of(study, "a")
    fields = StudyFields(study)
    assert carry_outline(study, fields, later) is None  # nothing is approved yet
    approved = study.approve(earlier, SAMPLE.mask).approved
    assert approved is not None
    carried = carry_outline(study, fields, later)
    assert carried is not None
    truth = move_mask(SAMPLE.mask, MOTION.params, SIZE)
    assert dice(carried.mask, truth) > 0.95
    source = carried.origin.carried
    assert source is not None
    assert (source.image_id, source.revision) == (earlier, approved.revision)
    assert np.allclose(np.reshape(source.matrix, (2, 3)), MOTION.params[:2], atol=1.5)
    study.record_mask(Predicted, later, carried.mask, carried.origin)
    with Study.open(study.folder, "am") as again:
        current = again.state.images[later].current
        assert current is not None
        assert current.carried == source
        assert again.state.images[later].status is Status.PREDICTED
        assert find_damage(again) == ()
    assert carry_outline(study, fields, later) is None  # once
    study.approve(earlier, np.roll(SAMPLE.mask, 1, axis=0))
    assert carry_outline(study, fields, later) is not None  # until the last visit changes


def test_nothing_is_carried_over_from_later_visits_or_onto_work(study: Study) -> None:
    fields = StudyFields(study)
    study.approve(image_of(study, "a"), SAMPLE.mask)
    assert carry_outline(study, fields, image_of(study, "b")) is None
    assert carry_outline(study, fields, image_of(study, "other")) is None
    study.save_correction(image_of(study, "c"), SAMPLE.mask)
    assert carry_outline(study, fields, image_of(study, "c")) is None


def test_nothing_is_carried_over_where_images_have_nothing_in_common(study: Study) -> None:
    other = image_of(study, "other")
    study.record(Identified, other, patient="017", lesion="2")
    study.approve(image_of(study, "b"), SAMPLE.mask)
    assert carry_outline(study, StudyFields(study), other) is None
