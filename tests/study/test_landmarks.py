"""Studies of landmarks: saved as events, hidden like masks, reviewed, compared, exported and imported."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from napari_lesionseg.config import Skeleton
from napari_lesionseg.datasets.landmarks import read_landmarks, write_landmarks
from napari_lesionseg.datasets.landmarks.records import LandmarkDataset, LandmarkImage, marks_of, people_of
from napari_lesionseg.errors import StudyError
from napari_lesionseg.study.agreement import find_consensus, measure_agreement, read_verdicts
from napari_lesionseg.study.events import Approved, Corrected, StudyInfo
from napari_lesionseg.study.landmarks import approved_landmarks, current_marks, import_landmarks
from napari_lesionseg.study.review import gold_scores, mark_gold, return_image, summarize_reviews
from napari_lesionseg.study.state import Status
from napari_lesionseg.study.study import Study, find_damage
from napari_lesionseg.types import OCCLUDED, VISIBLE, Mark, make_landmarks

EYES = Skeleton.from_names(["left_eye", "right_eye"], [(0, 1)])
MARKS = (Mark("left_eye", 10.5, 12.25), Mark("right_eye", 11, 30, OCCLUDED, 0.5))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    images = {f"face{n}": np.full((40, 60, 3), n, np.uint8) for n in range(4)}
    return Study.create(tmp_path / "faces", "am", images=images, landmarks=EYES)


def test_landmarks_are_on_the_disk_when_saving_returns(study: Study) -> None:
    image, other, *_ = study.state.images
    study.record_prediction(image, MARKS)
    assert study.state.images[image].status is Status.PREDICTED
    study.save_correction(image, MARKS[:1])
    study.approve(image)
    with Study.open(study.folder, "reader") as again:
        state = again.state.images[image]
        assert state.status is Status.APPROVED
        assert current_marks(state) == MARKS[:1]
        assert state.predicted is not None
        assert state.predicted.as_marks() == MARKS
        assert again.info.landmarks == EYES
        assert again.read_mask(image) is None
        assert current_marks(again.state.images[other]) == ()
        assert again.problems == find_damage(again) == ()


def test_nothing_to_mark_is_a_decision(study: Study) -> None:
    image = next(iter(study.state.images))
    study.save_correction(image, MARKS)
    study.no_lesion(image)
    assert current_marks(study.state.images[image]) == ()
    study.reopen(image)
    assert current_marks(study.state.images[image]) == MARKS


def test_an_outline_and_no_landmark_at_all_cannot_be_approved(study: Study) -> None:
    image = next(iter(study.state.images))
    with pytest.raises(StudyError, match="No landmark is marked"):
        study.approve(image)
    with pytest.raises(StudyError, match="No landmark is marked"):
        study.approve(image, [])
    with pytest.raises(StudyError, match="outline cannot be saved"):
        study.save_correction(image, np.ones((40, 60), np.uint8))


def test_a_position_that_is_no_number_is_refused_and_nothing_is_lost(study: Study) -> None:
    image = next(iter(study.state.images))
    study.save_correction(image, MARKS)
    with pytest.raises(StudyError):
        study.save_correction(image, [Mark("left_eye", math.nan, 3.0)])
    assert current_marks(study.state.images[image]) == MARKS


def test_events_of_the_other_task_are_left_out_and_named(study: Study, tmp_path: Path) -> None:
    image = next(iter(study.state.images))
    study.save_correction(image, MARKS)
    info = study.info.model_copy(update={"landmarks": None})
    (study.folder / "study.json").write_text(info.model_dump_json())
    with Study.open(study.folder, "am") as again:
        assert again.state.images[image].status is Status.UNREVIEWED
        assert "it has landmarks" in str(again.problems[0])


def test_a_changed_point_in_the_log_is_damage(study: Study) -> None:
    image = next(iter(study.state.images))
    study.save_correction(image, MARKS)
    log = next(f for f in (study.folder / "events").iterdir() if "corrected" in f.read_text())
    log.write_text(log.read_text().replace("12.25", "13.25"))
    with Study.open(study.folder, "reader") as again:
        assert "not those that were saved" in str(find_damage(again)[0])


def test_blinded_annotators_do_not_see_each_others_landmarks(tmp_path: Path) -> None:
    images = {"a": np.zeros((40, 60, 3), np.uint8)}
    with Study.create(tmp_path / "s", "am", images=images, landmarks=EYES, blinded=True) as study:
        (image,) = study.state.images
        study.approve(image, MARKS)
    with Study.open(tmp_path / "s", "bo") as other:
        assert current_marks(other.state.images[image]) == ()
        other.approve(image, MARKS[:1])
        with pytest.raises(StudyError, match="do not see each other's work"):
            import_landmarks(other, LandmarkDataset(EYES, ()))
    with Study.open(tmp_path / "s", "lead", unblind=True) as lead:
        assert set(read_verdicts(lead, image)) == {"am", "bo"}


def test_agreement_is_object_keypoint_similarity(study: Study) -> None:
    first, second, *_ = study.state.images
    study.approve(first, MARKS)
    study.approve(second, MARKS)
    with Study.open(study.folder, "bo") as bo:
        bo.approve(first, MARKS)
        bo.approve(second, MARKS[:1])
    study.refresh()
    found = measure_agreement(read_verdicts(study, image) for image in (first, second))
    assert found.images[0, 1] == 2
    assert found.mean == pytest.approx((1 + 0.5) / 2)
    with pytest.raises(StudyError, match="none of landmarks"):
        find_consensus(read_verdicts(study, first))


def test_a_reviewer_accepts_edits_and_returns_landmarks(study: Study) -> None:
    accepted, edited, returned, _ = study.state.images
    for image in (accepted, edited, returned):
        study.approve(image, MARKS)
    with Study.open(study.folder, "lead", reviewer=True) as lead:
        lead.approve(accepted)
        lead.approve(edited, MARKS[:1])
        return_image(lead, returned, "the right eye is covered")
        (summary,) = summarize_reviews(lead)
        assert (summary.accepted, summary.edited, summary.returned) == (1, 1, 1)
        assert summary.edit_dice == pytest.approx(0.5)
    study.refresh()
    assert study.state.images[returned].note == "the right eye is covered"


def test_landmarks_can_be_a_gold_standard(study: Study) -> None:
    image = next(iter(study.state.images))
    study.approve(image, MARKS)
    mark_gold(study, image)
    with Study.open(study.folder, "bo") as bo:
        assert current_marks(bo.state.images[image]) == ()
        bo.approve(image, MARKS)
    with Study.open(study.folder, "am", unblind=True) as lead:
        (score,) = gold_scores(lead)
        assert (score.annotator, score.dice) == ("bo", pytest.approx(1))


@pytest.mark.parametrize("ending", [".json", ".csv"])
def test_export_and_import_give_the_same_landmarks_again(study: Study, tmp_path: Path, ending: str) -> None:
    visible = tuple(mark._replace(visibility=VISIBLE) for mark in MARKS)
    marks = MARKS if ending == ".json" else visible  # DeepLabCut has no mark for what is occluded
    first, second, third, _ = study.state.images
    study.approve(first, marks)
    study.no_lesion(second)
    study.save_correction(third, marks)  # not approved
    dataset = approved_landmarks(study)
    assert [image.name for image in dataset.images] == ["face0.png", "face1.png"]
    file = tmp_path / f"faces{ending}"
    write_landmarks(file, dataset)
    images = {f"face{n}": np.full((40, 60, 3), n, np.uint8) for n in range(4)}
    with Study.create(tmp_path / "again", "bo", images=images, landmarks=EYES) as again:
        saved, problems = import_landmarks(again, read_landmarks(file))
        assert (saved, problems) == (1, ())
        state = again.state.images[first]
        assert current_marks(state) == marks
        assert (state.status, state.annotator) == (Status.CORRECTED, "imported")
        saved, problems = import_landmarks(again, read_landmarks(file))
        assert saved == 0
        assert "marked or decided already" in problems[0].reason


def test_what_an_import_cannot_use_is_named_and_kept_where_possible(study: Study) -> None:
    first = next(iter(study.state.images))
    skeleton = Skeleton.from_names(["left_eye", "tail"])
    person = make_landmarks([[1, 2], [3, 4]])
    images = (LandmarkImage("photos/face0.jpg", (person,)), LandmarkImage("nobody.jpg", (person,)))
    saved, problems = import_landmarks(study, LandmarkDataset(skeleton, images))
    assert saved == 1
    assert [problem.name for problem in problems] == ["tail", "nobody.jpg"]
    marks = current_marks(study.state.images[first])
    assert [mark.label for mark in marks] == ["left_eye", "tail"]
    people, unused = people_of(marks, EYES)
    assert people[0].labeled.tolist() == [True, False]
    assert "no landmark 'tail'" in unused[0].reason
    study.approve(first)
    assert "no landmark 'tail'" in approved_landmarks(study).problems[0].reason


def test_points_outside_the_image_are_kept_and_named(study: Study) -> None:
    first = next(iter(study.state.images))
    study.approve(first, [Mark("left_eye", 10, 500)])
    (problem,) = approved_landmarks(study).problems
    assert "left_eye lies outside the image" in problem.reason
    assert current_marks(study.state.images[first])[0].col == 500


def test_marks_that_come_twice_are_named_and_the_first_is_used() -> None:
    people, problems = people_of([*MARKS, Mark("left_eye", 0, 0), Mark("left_eye", 5, 5, id="2")], EYES, "a")
    assert [person.id for person in people] == ["", "2"]
    assert people[0].points[0].tolist() == [10.5, 12.25]
    assert "marked twice" in problems[0].reason
    assert marks_of(people[:1], EYES) == MARKS


def test_landmarks_in_the_settings_of_a_study_are_checked(study: Study) -> None:
    content = json.loads((study.folder / "study.json").read_text())
    content["landmarks"]["names"] = ["eye", "eye"]
    (study.folder / "study.json").write_text(json.dumps(content))
    with pytest.raises(StudyError, match="damaged"):
        Study.open(study.folder, "am")
    assert StudyInfo.model_validate_json(study.info.model_dump_json()) == study.info


def test_the_same_marks_have_the_same_revision(study: Study) -> None:
    image = next(iter(study.state.images))
    one = study.save_correction(image, MARKS).current
    two = study.approve(image).current
    assert isinstance(one, Corrected)
    assert isinstance(two, Approved)
    assert one.revision == two.revision
