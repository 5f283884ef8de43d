from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from napari_lesionseg.config import Skeleton
from napari_lesionseg.datasets.landmarks import read_landmarks, write_landmarks
from napari_lesionseg.datasets.landmarks.records import LandmarkDataset, LandmarkImage
from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io.images import write_image
from napari_lesionseg.types import make_landmarks

SKELETON = Skeleton.from_names(["snout", "tail"])
NAN = float("nan")
SINGLE = """scorer,me,me,me,me
bodyparts,snout,snout,tail,tail
coords,x,y,x,y
labeled-data/v/img1.png,10.5,20,,
labeled-data/v/img2.png,1,2,3,4
"""
SEVERAL = """scorer,,,me,me,me,me,me,me
individuals,,,a,a,b,b,single,single
bodyparts,,,snout,snout,snout,snout,corner,corner
coords,,,x,y,x,y,x,y
labeled-data,v,img1.png,10,20,30,40,5,6
labeled-data,v,img2.png,,,30,40,,
"""


def read(tmp_path: Path, text: str) -> LandmarkDataset:
    (tmp_path / "CollectedData_me.csv").write_text(text)
    return read_landmarks(tmp_path / "CollectedData_me.csv")


def test_one_animal(tmp_path: Path) -> None:
    found = read(tmp_path, SINGLE)
    assert found.skeleton.names == ("snout", "tail")
    assert [image.name for image in found.images] == ["labeled-data/v/img1.png", "labeled-data/v/img2.png"]
    person = found.images[0].people[0]
    assert person.points[0].tolist() == [20, 10.5]
    assert person.visibility.tolist() == [2, 0]


def test_several_animals_and_parts_that_occur_once(tmp_path: Path) -> None:
    found = read(tmp_path, SEVERAL)
    assert found.skeleton.names == ("snout", "corner")
    assert [person.id for person in found.images[0].people] == ["a", "b", "single"]
    assert [person.id for person in found.images[1].people] == ["b"]
    assert found.images[0].people[2].visibility.tolist() == [0, 2]


@pytest.mark.parametrize("ids", [("",), ("a", "b"), ("", "")])
def test_what_is_written_is_read_again(tmp_path: Path, ids: tuple[str, ...]) -> None:
    people = tuple(
        make_landmarks([(1.25 + n, 2.1), (NAN, NAN) if n else (3, 4)], scores=[0.123, 0.9], id=name)
        for n, name in enumerate(ids)
    )
    before = LandmarkDataset(SKELETON, (LandmarkImage("labeled-data/v/a.png", people),))
    assert write_landmarks(tmp_path / "x.csv", before) == []
    after = read_landmarks(tmp_path / "x.csv")
    assert after.images[0].name == "labeled-data/v/a.png"
    for mine, theirs in zip(people, after.images[0].people, strict=True):
        assert np.array_equal(mine.points, theirs.points, equal_nan=True)
        assert np.array_equal(mine.scores, theirs.scores)
        assert theirs.id == mine.id or not mine.id


def test_an_occluded_landmark_is_named(tmp_path: Path) -> None:
    person = make_landmarks([(1, 2), (3, 4)], [2, 1])
    (problem,) = write_landmarks(
        tmp_path / "x.csv", LandmarkDataset(SKELETON, (LandmarkImage("a.png", (person,)),))
    )
    assert "1 occluded" in problem.reason


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("labeled-data/v/img3.png,x7,2,3,4", "'x7'"),
        ("labeled-data/v/img3.png,,2,3,4", "one coordinate alone"),
        ("labeled-data/v/img1.png,1,2,3,4", "again"),
        (",1,2,3,4", "names no image"),
        ("labeled-data/v/img3.png,inf,2,3,4", "'inf'"),
        ("labeled-data/v/img3.png,1e39,2,3,4", "'1e39'"),
    ],
)
def test_a_broken_row_is_named_and_the_rest_is_kept(tmp_path: Path, row: str, message: str) -> None:
    found = read(tmp_path, SINGLE + row + "\n")
    assert any(message in problem.reason for problem in found.problems)
    assert len(found.images) >= 2
    assert found.images[1].people[0].points.tolist() == [[2, 1], [4, 3]]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "image,x,y\na.png,1,2\n",
        SINGLE.replace("coords,x,y,x,y", "coords,x,y,x,z"),
        SINGLE.replace("snout,snout,tail,tail", "snout,snout,snout,snout"),
        SINGLE.replace("coords,x,y,x,y", "coords,x,y,x"),
        "scorer\nbodyparts\ncoords\n",
    ],
)
def test_another_header_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(DatasetError, match="CollectedData"):
        read(tmp_path, text)


def test_sleap_io_reads_the_same_landmarks(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sleap_io = pytest.importorskip("sleap_io", reason="sleap-io is not installed: pip install sleap-io")
        people = tuple(
            make_landmarks([(1.5 + n, 2), (3, 4 + n)], id=name) for n, name in enumerate(("a", "b"))
        )
        folder = tmp_path / "labeled-data" / "v"
        folder.mkdir(parents=True)
        image = LandmarkImage("labeled-data/v/img1.png", people)
        write_landmarks(folder / "CollectedData_me.csv", LandmarkDataset(SKELETON, (image,)))
        write_image(folder / "img1.png", np.zeros((20, 20, 3), np.uint8))
        labels = sleap_io.load_file(str(folder / "CollectedData_me.csv"), format="dlc")
    (frame,) = labels.labeled_frames
    found = sorted((instance.numpy().tolist() for instance in frame.instances), key=str)
    assert found == sorted((person.points[:, ::-1].tolist() for person in people), key=str)
