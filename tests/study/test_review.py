"""Reviewers accept, edit or return; gold standards measure annotators without their knowing."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from napari_lesionseg.errors import StudyError
from napari_lesionseg.study.agreement import measure_agreement, read_verdicts
from napari_lesionseg.study.datasets import final_mask, study_records
from napari_lesionseg.study.events import Approved, GoldStandard, Returned
from napari_lesionseg.study.queue import arrange, next_image
from napari_lesionseg.study.review import (
    gold_scores,
    mark_gold,
    mix_in_gold,
    return_image,
    summarize_reviews,
    verdict_to_review,
    withdraw_gold,
    write_gold_scores,
)
from napari_lesionseg.study.state import Status
from napari_lesionseg.study.study import Study, find_damage


@pytest.fixture
def decided(study: Study, images: list[str], outline: np.ndarray) -> Study:
    """Two images approved and one without a lesion, by the annotator am."""
    study.approve(images[0], outline)
    study.approve(images[1], outline)
    study.no_lesion(images[2])
    return study


@pytest.fixture
def chief(decided: Study) -> Study:
    return Study.open(decided.folder, "chief", reviewer=True)


def summary(study: Study, annotator: str = "am") -> tuple[int, int, int, int, int]:
    (found,) = (one for one in summarize_reviews(study) if one.annotator == annotator)
    return found.decided, found.waiting, found.accepted, found.edited, found.returned


def test_the_same_outline_accepts_and_another_one_edits(
    chief: Study, decided: Study, images: list[str], outline: np.ndarray
) -> None:
    assert summary(chief) == (3, 3, 0, 0, 0)
    accepted = chief.approve(images[0])
    edited = chief.approve(images[1], np.roll(outline, 2))
    chief.no_lesion(images[2])
    assert summary(chief) == (3, 0, 2, 1, 0)
    assert [verdict_to_review(state, "chief") for state in chief.state.images.values()] == [None] * 3
    assert accepted.verdicts["chief"].review_of == "am"
    (found,) = summarize_reviews(chief)
    assert found.edit_dice is not None
    assert 0.5 < found.edit_dice < 1
    assert final_mask(chief, edited).tolist() == np.roll(outline, 2).tolist()
    decided.refresh()  # a reviewer has seen the outline: this is no agreement of two annotators
    assert measure_agreement(read_verdicts(decided, image) for image in images).annotators == ("am",)


def test_what_is_returned_comes_first_and_is_reviewed_again(
    chief: Study, decided: Study, images: list[str], outline: np.ndarray
) -> None:
    chief.approve(images[0])
    state = return_image(chief, images[1], "too wide at the top")
    assert (state.status, summary(chief)) == (Status.RETURNED, (2, 1, 1, 0, 1))
    decided.refresh()
    found = decided.state.images[images[1]]
    assert (found.status, found.note, found.annotator) == (Status.RETURNED, "too wide at the top", "chief")
    queue = arrange(decided.state.images.values())
    assert queue[0] is found
    assert next_image(queue, None) is found
    decided.approve(images[1], np.roll(outline, 1))
    chief.refresh()
    assert summary(chief) == (3, 2, 1, 0, 0)
    verdict = verdict_to_review(chief.state.images[images[1]], "chief")
    assert isinstance(verdict, Approved)
    assert verdict.annotator == "am"


def test_a_review_can_be_changed_to_a_return(chief: Study, images: list[str]) -> None:
    chief.approve(images[0])
    state = return_image(chief, images[0], "look again")
    assert dict(state.verdicts) == {}
    assert summary(chief) == (2, 2, 0, 0, 1)


def test_nothing_can_be_returned_to_nobody(study: Study, images: list[str]) -> None:
    with Study.open(study.folder, "chief", reviewer=True) as chief:
        with pytest.raises(StudyError, match="nobody to return it to"):
            return_image(chief, images[0], "")
        chief.approve(images[0], np.ones((12, 17), np.uint8))
        assert chief.state.images[images[0]].verdicts["chief"].review_of is None


def test_a_reviewer_sees_a_blinded_study_and_its_annotators_see_what_is_returned(
    tmp_path: Path, make_images: Callable[..., Path], outline: np.ndarray
) -> None:
    with Study.create(tmp_path / "study", "am", paths=make_images(1), blinded=True) as am:
        (image_id,) = am.state.images
        am.approve(image_id, outline)
        bo = Study.open(am.folder, "bo")
        bo.approve(image_id, np.roll(outline, 1))
        with Study.open(am.folder, "chief", reviewer=True) as chief:
            assert set(chief.state.images[image_id].verdicts) == {"am", "bo"}
            return_image(chief, image_id, "hair?")  # the latest one
            am.refresh()
            bo.refresh()
            assert am.state.images[image_id].status is Status.APPROVED
            assert bo.state.images[image_id].status is Status.RETURNED
            bo.approve(image_id, outline)
            chief.refresh()
            chief.approve(image_id)
            assert chief.state.images[image_id].verdicts["chief"].review_of == "bo"
            # One verdict settles the image for both.
            assert verdict_to_review(chief.state.images[image_id], "chief") is None
            assert [summary(chief, name) for name in ("am", "bo")] == [(1, 0, 1, 0, 0)] * 2
            am.approve(image_id, np.roll(outline, 3))
            chief.refresh()
            assert [summary(chief, name) for name in ("am", "bo")] == [(1, 1, 0, 0, 0), (1, 0, 1, 0, 0)]


def test_annotators_are_measured_by_a_gold_standard_that_they_do_not_see(
    study: Study, images: list[str], outline: np.ndarray, tmp_path: Path
) -> None:
    study.approve(images[0], outline)
    study.no_lesion(images[1])
    mark_gold(study, images[0])
    mark_gold(study, images[1])
    with Study.open(study.folder, "bo") as bo:
        states = list(bo.state.images.values())
        assert [state.status for state in states] == [Status.UNREVIEWED] * 3
        assert [state.gold for state in states] == [None] * 3
        assert all(bo.read_mask(image_id) is None for image_id in images)
        bo.approve(images[0], np.roll(outline, 2, axis=1))
        bo.approve(images[1], outline)
        bo.save_correction(images[0], np.roll(outline, 2, axis=1))
        bo.approve(images[0])
        bo.flag(images[2], "hair?")
    with Study.open(study.folder, "lesionseg", unblind=True) as everybody:
        first, second = gold_scores(everybody)  # by the time of the last verdict
        assert (first.annotator, first.image, first.dice) == ("bo", "IMD2", 0)
        assert (second.image, second.dice) == ("IMD1", pytest.approx(0.75))
        (am, bo_summary) = summarize_reviews(everybody)
        assert (am.gold, bo_summary.gold_dice) == ((), pytest.approx(0.375))
        # The export contains the expert's outline, not the one that was measured against it.
        (record, _, _) = study_records(everybody)
        assert (record.provenance.annotator, record.provenance.status) == ("am", "approved")
        assert final_mask(everybody, everybody.state.images[images[0]]).tolist() == outline.tolist()
        assert everybody.state.images[images[1]].status is Status.NO_LESION
        assert find_damage(everybody) == ()
        write_gold_scores(tmp_path / "gold.csv", [first, second])
    rows = list(csv.DictReader((tmp_path / "gold.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["dice"] for row in rows] == ["0.000000", "0.750000"]


def test_only_images_that_others_have_not_decided_about_are_mixed_in(
    study: Study, images: list[str], outline: np.ndarray
) -> None:
    study.approve(images[0], outline)
    study.approve(images[1], outline)
    study.no_lesion(images[2])
    with Study.open(study.folder, "bo") as bo:
        bo.approve(images[0], outline)
    with Study.open(study.folder, "am", unblind=True) as am:
        with pytest.raises(StudyError, match="am has approved 1 images"):
            mix_in_gold(am, 2)
        assert mix_in_gold(am, 1) == (images[1],)
        with pytest.raises(StudyError, match="fewer than 1"):
            mix_in_gold(am, 1)


def test_a_gold_standard_can_be_withdrawn(study: Study, images: list[str], outline: np.ndarray) -> None:
    with pytest.raises(StudyError, match="Approve IMD1 first"):
        mark_gold(study, images[0])
    study.approve(images[0], outline)
    state = mark_gold(study, images[0])
    assert isinstance(state.gold, GoldStandard)
    assert state.status is Status.APPROVED
    assert withdraw_gold(study, images[0]).gold is None
    with Study.open(study.folder, "bo") as bo:
        assert bo.state.images[images[0]].status is Status.APPROVED


def test_a_note_is_kept_whole(chief: Study, images: list[str]) -> None:
    note = "Øvre kant, se også hår " * 20
    return_image(chief, images[0], note)
    with Study.open(chief.folder, "am") as am:
        event = am.history(images[0])[-1]
        assert isinstance(event, Returned)
        assert (event.note, event.to) == (note, "am")
