from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from napari_lesionseg.config import Skeleton
from napari_lesionseg.datasets.landmarks import read_landmarks, write_landmarks
from napari_lesionseg.datasets.landmarks.records import LandmarkDataset, LandmarkImage, marks_of, match_images
from napari_lesionseg.errors import DatasetError
from napari_lesionseg.types import make_landmarks

SKELETON = Skeleton.from_names(["nose", "left_eye", "right_eye"], [(0, 1), (0, 2)])
NAN = float("nan")


def dataset() -> LandmarkDataset:
    first = make_landmarks([(10.1, 20.7), (8, 18), (NAN, NAN)], [2, 1, 0])
    second = make_landmarks([(30.3, 40), (28, 38), (28, 42)], scores=[0.9, 0.8, 0.7], id="anna")
    return LandmarkDataset(
        SKELETON, (LandmarkImage("a.png", (first, second), (50, 60)), LandmarkImage("b/c.png", (), (40, 40)))
    )


def content() -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "a.png", "width": 60, "height": 50}],
        "categories": [{"id": 3, "name": "face", "keypoints": ["nose", "left_eye"], "skeleton": [[1, 2]]}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "keypoints": [20, 10, 2, 0, 0, 0], "num_keypoints": 1}
        ],
    }


def read(tmp_path: Path, **changes: Any) -> LandmarkDataset:
    (tmp_path / "k.json").write_text(json.dumps(content() | changes))
    return read_landmarks(tmp_path / "k.json")


def annotation(**changes: Any) -> dict[str, Any]:
    return content()["annotations"][0] | changes


def test_facts_of_images_are_read(tmp_path: Path) -> None:
    image = {"id": 7, "file_name": "a.png", "width": 60, "height": 50, "Patient ID": "P1", "license": 2}
    assert read(tmp_path, images=[image]).images[0].facts == {"patient_id": "P1"}


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    before = dataset()
    assert write_landmarks(tmp_path / "k.json", before) == []
    after = read_landmarks(tmp_path / "k.json")
    assert after.skeleton == before.skeleton
    assert after.problems == ()
    for mine, theirs in zip(before.images, after.images, strict=True):
        assert (mine.name, mine.shape, len(mine.people)) == (theirs.name, theirs.shape, len(theirs.people))
        for person, again in zip(mine.people, theirs.people, strict=True):
            assert person.id == again.id
            for name in ("points", "visibility", "scores"):
                assert np.array_equal(getattr(person, name), getattr(again, name), equal_nan=True), name


def test_pycocotools_scores_the_file_as_exact(tmp_path: Path) -> None:
    write_landmarks(tmp_path / "k.json", dataset())
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "k.json"))
        results = [a | {"score": a.get("score", 1.0)} for a in truth.dataset["annotations"]]
        evaluation = COCOeval(truth, truth.loadRes(results), "keypoints")
        evaluation.params.kpt_oks_sigmas = np.full(3, 0.05)
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    assert evaluation.eval["precision"].mean() == pytest.approx(1)
    category = truth.loadCats(1)[0]
    assert category["keypoints"] == list(SKELETON.names)
    assert category["skeleton"] == [[1, 2], [1, 3]]
    assert truth.dataset["annotations"][0]["keypoints"][6:] == [0, 0, 0]
    assert truth.dataset["annotations"][0]["num_keypoints"] == 2


def test_columns_are_x_and_rows_are_y(tmp_path: Path) -> None:
    person = read(tmp_path).images[0].people[0]
    assert person.points[0].tolist() == [10, 20]
    assert person.visibility.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": [annotation(keypoints=[1, 2, 2])]}, "not 3 for each"),
        ({"annotations": [annotation(keypoints=[1, 2, 7, 0, 0, 0])]}, "neither 0, 1 nor 2"),
        ({"annotations": [annotation(category_id=9)]}, "unknown category 9"),
        ({"annotations": [annotation(image_id=9)]}, "no image 9"),
        ({"annotations": [annotation(), "x"]}, "broken"),
        ({"images": [*content()["images"], content()["images"][0] | {"file_name": "b.png"}]}, "the id 7"),
        ({"categories": [content()["categories"][0] | {"skeleton": [[0, 2]]}]}, "does not join"),
    ],
)
def test_a_broken_entry_is_named_and_the_rest_is_kept(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    found = read(tmp_path, **changes)
    assert len(found.images) == 1
    (problem,) = found.problems
    assert problem.left_out
    assert message in problem.reason


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": [annotation(keypoints=[NAN, 10, 2, 5, 5, 2])]}, "no position"),
        ({"annotations": [annotation(keypoints=[90, 10, 2, 5, 5, 2])]}, "nose lies outside the image"),
        ({"annotations": [annotation(), annotation()]}, "2 annotations have this id; all are kept"),
        ({"annotations": [{"id": 4, "image_id": 7, "category_id": 5, "bbox": [0, 0, 1, 1]}]}, "no keypoints"),
        ({"images": [content()["images"][0], content()["images"][0] | {"id": 8}]}, "listed twice"),
    ],
)
def test_what_needs_a_look_is_named_and_kept(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    found = read(tmp_path, **changes)
    (problem,) = found.problems
    assert not problem.left_out
    assert message in problem.reason
    kept = [a for a in changes.get("annotations", content()["annotations"]) if "keypoints" in a]
    assert sum(len(image.people) for image in found.images) == len(kept)


@pytest.mark.parametrize(
    "broken",
    [
        "[]",
        "{",
        json.dumps(content() | {"categories": []}),
        json.dumps(content() | {"categories": [{"id": 1, "name": "x"}]}),
        json.dumps(content() | {"categories": [{"id": 1, "keypoints": ["a", "a"]}]}),
        json.dumps(content() | {"categories": content()["categories"] * 2}),
    ],
)
def test_a_file_without_names_of_landmarks_is_refused(tmp_path: Path, broken: str) -> None:
    (tmp_path / "k.json").write_text(broken)
    with pytest.raises(DatasetError, match=r"k\.json"):
        read_landmarks(tmp_path / "k.json")


def test_images_are_matched_by_name_and_then_by_folder() -> None:
    images = tuple(LandmarkImage(name, ()) for name in ("one/a.png", "two/a.png", "B.PNG", "lost.png"))
    paths = [Path("/data/two/a.png"), Path("/data/b.png"), Path("/data/new.png")]
    search = match_images(paths, LandmarkDataset(SKELETON, images))
    assert [(pair.path.name, pair.image.name) for pair in search.pairs] == [
        ("a.png", "two/a.png"),
        ("b.png", "B.PNG"),
    ]
    assert search.without_landmarks == (paths[2],)
    assert [image.name for image in search.without_image] == ["one/a.png", "lost.png"]
    ambiguous = match_images([Path("/x/a.png")], LandmarkDataset(SKELETON, images))
    assert len(ambiguous.problems) == 1


def test_two_people_of_one_id_are_kept_and_named(tmp_path: Path) -> None:
    twice = content()
    one = {**twice["annotations"][0], "attributes": {"id": "anna"}}
    twice["annotations"] = [one, {**one, "id": 2, "keypoints": [30, 12, 2, 0, 0, 0]}]
    (tmp_path / "k.json").write_text(json.dumps(twice))
    found = read_landmarks(tmp_path / "k.json")
    (problem,) = found.problems
    assert problem.reason.startswith("2 people have the id “anna”; all are kept")
    assert not problem.left_out
    marks = marks_of(found.images[0].people, found.skeleton)
    assert [(mark.id, mark.col) for mark in marks] == [("anna", 20.0), ("2", 30.0)]


@pytest.mark.parametrize("position", [1e300, -1e30, 2e6])
def test_a_position_that_cannot_be_one_counts_as_not_labeled(tmp_path: Path, position: float) -> None:
    far = content()
    far["annotations"][0]["keypoints"] = [position, 10, 2, 12, 10, 2]
    (tmp_path / "k.json").write_text(json.dumps(far))
    found = read_landmarks(tmp_path / "k.json")
    assert [problem.reason for problem in found.problems] == [
        "1 labeled keypoints have no position and count as not labeled."
    ]
    assert found.images[0].people[0].labeled.tolist() == [False, True]
