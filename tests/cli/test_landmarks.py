"""Landmarks on the command line: train on a file of keypoints, and find them in images."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.cli.conftest import Result

from napari_lesionseg.cli.landmarks import _find_pairs
from napari_lesionseg.config import Skeleton
from napari_lesionseg.datasets.landmarks import read_landmarks, write_landmarks
from napari_lesionseg.datasets.landmarks.records import LandmarkDataset, LandmarkImage
from napari_lesionseg.io.images import read_image, write_image
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import read_card, save_checkpoint
from napari_lesionseg.study.landmarks import current_marks, import_landmarks
from napari_lesionseg.study.study import Study
from napari_lesionseg.training.landmarks import make_landmark_network
from napari_lesionseg.types import Mark, make_landmarks

SETTINGS: dict[str, Any] = {
    "arch": "unet",
    "arch_settings": {"width": 2, "depth": 1},
    "pretrained": False,
    "epochs": 1,
    "batch_size": 2,
    "sizes": [[0.0, 32]],
    "precision": "float32",
}
EYES = Skeleton.from_names(["left_eye", "right_eye"])


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    folder = tmp_path / "faces"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        write_image(folder / f"face-{number}.png", rng.integers(0, 255, (40, 48, 3), np.uint8))
    return folder


@pytest.fixture
def keypoints(faces: Path, tmp_path: Path) -> Path:
    people = make_landmarks([(10, 12), (11, 30)])
    images = [LandmarkImage(path.name, (people,), (40, 48)) for path in sorted(faces.iterdir())]
    write_landmarks(tmp_path / "keypoints.json", LandmarkDataset(EYES, tuple(images)))
    return tmp_path / "keypoints.json"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "recipe.json").write_text(json.dumps(SETTINGS))
    return tmp_path / "recipe.json"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    settings = {"width": 2, "depth": 1}
    card = ModelCard(arch="unet", arch_settings=settings, working_size=32, landmarks=EYES, name="eyes")
    save_checkpoint(tmp_path / "eyes.safetensors", make_landmark_network(card), card)
    return tmp_path / "eyes.safetensors"


def test_trains_on_keypoints_and_finds_them(
    run: Callable[..., Result], faces: Path, keypoints: Path, recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "eyes.safetensors"
    trained = run(
        "train", faces, "--landmarks", keypoints, "--out", out, "--recipe", recipe, "--device", "cpu"
    )
    assert trained.code == 0, trained.err
    assert "held out: PCK@0.1" in trained.out
    card = read_card(out)
    assert card.landmarks == EYES
    assert (card.individuals, card.name, card.working_size) == ("one", "eyes", 32)
    assert set(card.scores["held out"]) == {"pck@0.1", "oks_ap"}
    result = run("landmarks", faces, "--model", out, "--out", tmp_path / "found.json", "--min-score", 0)
    assert result.code == 0, result.err
    assert "6 of 6 images" in result.out
    found = read_landmarks(tmp_path / "found.json")
    assert found.skeleton == EYES
    assert [image.name for image in found.images] == [f"face-{n}.png" for n in range(6)]
    assert all(0 < score < 1 for image in found.images for p in image.people for score in p.scores)


def test_several_people_get_a_center_map(
    run: Callable[..., Result], faces: Path, recipe: Path, tmp_path: Path
) -> None:
    two = (make_landmarks([(10, 2), (11, 8)]), make_landmarks([(10, 32), (11, 38)]))
    images = [LandmarkImage(f"face-{n}.png", two[: n % 3], (40, 48)) for n in range(6)]
    write_landmarks(tmp_path / "k.csv", LandmarkDataset(EYES, tuple(images)))
    out = tmp_path / "m.safetensors"
    result = run("train", faces, "--landmarks", tmp_path / "k.csv", "--out", out, "--recipe", recipe)
    assert result.code == 0, result.err
    assert read_card(out).individuals == "several"


def test_what_is_not_used_is_named(
    run: Callable[..., Result], faces: Path, keypoints: Path, recipe: Path, tmp_path: Path
) -> None:
    content = json.loads(keypoints.read_text())
    content["images"][0]["file_name"] = "elsewhere.png"
    content["annotations"][1]["keypoints"] = [1, 2]
    keypoints.write_text(json.dumps(content))
    (faces / "face-5.png").write_bytes(b"no image")
    out = tmp_path / "m.safetensors"
    result = run("train", faces, "--landmarks", keypoints, "--out", out, "--recipe", recipe)
    assert result.code == 1
    assert any("face-0.png has no landmarks" in line for line in result.errors)
    assert any("elsewhere.png has landmarks, but is not among the images" in line for line in result.errors)
    assert any("annotation 2" in line for line in result.errors)
    assert any("face-5.png" in line for line in result.errors)
    assert out.exists()


@pytest.mark.parametrize("option", ["--masks", "--classes-from", "--classes"])
def test_options_of_masks_are_refused(
    run: Callable[..., Result], faces: Path, keypoints: Path, tmp_path: Path, option: str
) -> None:
    out = tmp_path / "m.safetensors"
    result = run("train", faces, "--landmarks", keypoints, option, "x", "--out", out)
    assert result.code == 2
    assert f"leave {option} out" in result.err


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_done(
    run: Callable[..., Result], faces: Path, model: Path, tmp_path: Path
) -> None:
    (faces / "face-2.png").write_bytes(b"no image")
    result = run("landmarks", faces, "--model", model, "--out", tmp_path / "new" / "found.csv")
    assert result.code == 1
    assert "face-2.png" in result.err
    assert "5 of 6 images" in result.out
    assert len(read_landmarks(tmp_path / "new" / "found.csv").images) == 5


def test_wrong_usage_ends_before_the_work(
    run: Callable[..., Result], faces: Path, model: Path, tmp_path: Path
) -> None:
    assert run("landmarks", faces, "--model", model, "--out", tmp_path / "found.txt").code == 2
    assert run("landmarks", faces, "--model", "tiny", "--out", tmp_path / "found.json").code == 2
    assert run("segment", faces, "--model", model, "--out", tmp_path / "masks").code != 0
    assert not (tmp_path / "found.json").exists()


def test_no_patient_is_both_learned_from_and_held_out(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    images = []
    person = make_landmarks([[3, 4], [5, 6]])
    for number in range(30):
        write_image(folder / f"f{number}.png", np.full((32, 32, 3), number, np.uint8))
        images.append(LandmarkImage(f"f{number}.png", (person,)))
    rows = "".join(f"f{number}.png,{number % 6}\n" for number in range(30))
    (folder / "metadata.csv").write_text(f"image,patient_id\n{rows}")
    dataset = LandmarkDataset(Skeleton.from_names(["a", "b"]), tuple(images))
    options = argparse.Namespace(images=[str(folder)], val_images=[], landmarks=tmp_path / "a.json")
    learn, held_out, left_out = _find_pairs(options, dataset)
    assert left_out == 0
    patients = [{int(pair.path.stem[1:]) % 6 for pair in part} for part in (learn, held_out)]
    assert patients[1]
    assert not patients[0] & patients[1]


def test_exported_faces_have_no_eyes_and_those_without_known_eyes_stay_here(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    images = {name: np.full((60, 80, 3), level, np.uint8) for name, level in (("f1", 200), ("f2", 100))}
    images["f1"][5:9] = 10
    with Study.create(tmp_path / "study", "am", images=images) as study:
        for image in study.state.images:
            study.approve(image, np.ones((60, 80), np.uint8))
    eyes = LandmarkImage("f1.png", (make_landmarks([[30, 25], [30, 55]]),))
    write_landmarks(tmp_path / "eyes.json", LandmarkDataset(EYES, (eyes,)))
    export = ("export", tmp_path / "study", "--format", "folder", "--names", "nothing", "--black-out-eyes")
    refused = run(*export, "--out", tmp_path / "none")
    assert refused.code == 2
    assert "needs either --landmark-model or --landmarks" in refused.err
    result = run(*export, "--landmarks", tmp_path / "eyes.json", "--out", tmp_path / "out")
    assert result.code == 1
    assert "f2: Its eyes were not found" in result.err
    written = [path for path in (tmp_path / "out").rglob("*.png") if "mask" not in path.as_posix().casefold()]
    assert len(written) == 1
    pixels = read_image(written[0])
    assert not pixels[30, [25, 55]].any()
    assert (pixels[-1] == 200).all()


def test_eyes_are_taken_from_a_study_of_landmarks(run: Callable[..., Result], tmp_path: Path) -> None:
    images = {"f1": np.full((60, 80, 3), 200, np.uint8)}
    with Study.create(tmp_path / "study", "am", images=images) as study:
        study.approve(next(iter(study.state.images)), np.ones((60, 80), np.uint8))
    with Study.create(tmp_path / "eyes", "am", images=images, landmarks=EYES) as marked:
        (image,) = marked.state.images
        marked.approve(image, [Mark("left_eye", 30, 25), Mark("right_eye", 30, 55)])
    export = ("export", tmp_path / "study", "--format", "folder", "--black-out-eyes")
    assert run(*export, "--landmarks", tmp_path / "eyes", "--out", tmp_path / "out").code == 0


def test_a_model_of_landmarks_finds_the_eyes_or_nothing_is_written(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    card = ModelCard(arch="unet", arch_settings={"width": 2, "depth": 1}, landmarks=EYES, working_size=32)
    save_checkpoint(tmp_path / "m.safetensors", make_landmark_network(card), card)
    images = {"f1": np.full((60, 80, 3), 200, np.uint8)}
    with Study.create(tmp_path / "study", "am", images=images) as study:
        study.approve(next(iter(study.state.images)), np.ones((60, 80), np.uint8))
    export = ("export", tmp_path / "study", "--format", "folder", "--black-out-eyes")
    result = run(*export, "--landmark-model", tmp_path / "m.safetensors", "--out", tmp_path / "out")
    assert result.code == 2
    assert "found in no image" in result.err
    assert not (tmp_path / "out").exists()


def test_a_landmark_model_is_refused_where_outlines_are_drawn(
    run: Callable[..., Result], faces: Path, tmp_path: Path
) -> None:
    card = ModelCard(arch="unet", arch_settings={"width": 2, "depth": 1}, landmarks=EYES, working_size=32)
    model = tmp_path / "m.safetensors"
    save_checkpoint(model, make_landmark_network(card), card)
    result = run("segment", faces, "--out", tmp_path / "out", "--model", model)
    assert result.code == 2
    assert "finds landmarks and draws no outlines" in result.err


def test_approved_landmarks_of_a_study_are_written(run: Callable[..., Result], tmp_path: Path) -> None:
    images = {name: np.full((60, 80, 3), level, np.uint8) for name, level in (("f1", 200), ("f2", 100))}
    with Study.create(tmp_path / "eyes", "am", images=images, landmarks=EYES) as study:
        image = next(iter(study.state.images))
        study.approve(image, [Mark("left_eye", 30, 25), Mark("tail", 30, 55), Mark("right_eye", 30, 900)])
    result = run("landmarks", tmp_path / "eyes", "--out", tmp_path / "eyes.json")
    assert result.code == 0
    assert "no landmark 'tail'" in result.err
    assert "right_eye lies outside the image" in result.err
    (found,) = read_landmarks(tmp_path / "eyes.json").images
    assert found.people[0].labeled.tolist() == [True, True]
    refused = run("export", tmp_path / "eyes", "--format", "isic", "--out", tmp_path / "out")
    assert refused.code == 2
    assert "choose the format coco-keypoints or deeplabcut" in refused.err
    assert "--model" in run("landmarks", tmp_path, "--out", tmp_path / "a.json").err
    assert run("verify", tmp_path / "eyes").code == 0


@pytest.mark.parametrize(
    ("form", "file"),
    [
        (None, "annotations/keypoints.json"),
        ("deeplabcut", "labeled-data/images/CollectedData_lesionseg.csv"),
    ],
)
def test_a_study_of_landmarks_is_exported_with_its_images_and_imported_again(
    run: Callable[..., Result], tmp_path: Path, form: str | None, file: str
) -> None:
    rng = np.random.default_rng(3)
    images = {f"f{n}": rng.integers(0, 255, (60, 80, 3), np.uint8) for n in range(3)}
    with Study.create(tmp_path / "eyes", "am", images=images, landmarks=EYES) as study:
        first, second, _ = study.state.images
        study.approve(first, [Mark("left_eye", 30.123, 25.5), Mark("right_eye", 1 / 3, 55)])
        study.approve(second, [Mark("left_eye", 30, 25), Mark("tail", 30, 55)])
    chosen = () if form is None else ("--format", form)
    result = run("export", tmp_path / "eyes", *chosen, "--out", tmp_path / "out")
    assert result.code == 1  # one image is not decided
    assert "The image has no landmarks yet" in result.err
    assert "no landmark 'tail'" in result.err
    assert "2 images written" in result.out
    folder = tmp_path / "out" / Path(file).parent if form else tmp_path / "out/images"
    with Study.create(tmp_path / "again", "bo", paths=folder, landmarks=EYES) as again:
        saved, problems = import_landmarks(again, read_landmarks(tmp_path / "out" / file))
        assert (saved, problems) == (2, ())
        found = {state.name: current_marks(state) for state in again.state.images.values()}
    assert found["f0"] == (
        Mark("left_eye", float(np.float32(30.123)), 25.5),
        Mark("right_eye", float(np.float32(1 / 3)), 55.0),
    )
    assert found["f1"] == (Mark("left_eye", 30.0, 25.0),)
    assert run("verify", tmp_path / "out").code == 0
