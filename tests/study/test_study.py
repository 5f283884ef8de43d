from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import SHAPE, revision_path
from napari_lesionseg.errors import StudyError
from napari_lesionseg.study.agreement import read_verdicts
from napari_lesionseg.study.events import Approved, MaskEvent, MaskOrigin, StudyClass
from napari_lesionseg.study.state import Status
from napari_lesionseg.study.study import Study, find_damage
from napari_lesionseg.types import Box, Click, Prompts

MODEL = "c" * 64


def test_an_image_from_prediction_to_approval(study: Study, images: list[str], outline: np.ndarray) -> None:
    image_id = images[0]
    origin = MaskOrigin(MODEL, 0.46, (Click(3.5, 4.0), Click(1, 2, positive=False)), quality=0.7)
    assert study.state.images[image_id].status is Status.UNREVIEWED
    assert study.read_mask(image_id) is None
    state = study.record_prediction(image_id, outline, origin)
    assert (state.status, state.quality) == (Status.PREDICTED, 0.7)
    corrected = np.roll(outline, 1)
    assert study.save_correction(image_id, corrected).status is Status.CORRECTED
    state = study.approve(image_id)
    assert state.status is Status.APPROVED
    assert study.read_mask(image_id, "predicted").tolist() == outline.tolist()
    assert study.read_mask(image_id, "approved").tolist() == corrected.tolist()
    predicted = state.predicted
    assert predicted is not None
    assert (predicted.model, predicted.threshold, predicted.annotator) == (MODEL, 0.46, "am")
    assert predicted.as_strokes() == origin.strokes


def test_boxes_and_lassos_survive_a_restart(study: Study, images: list[str], outline: np.ndarray) -> None:
    areas = (Prompts(box=Box(-2, 3, 40, 50)), Prompts(lasso=((1.5, 2.0), (30.0, 4.0), (9.0, 25.25))))
    study.save_correction(images[0], outline, MaskOrigin(MODEL, 0.65, areas=areas))
    with Study.open(study.folder, "am") as again:
        current = again.state.images[images[0]].current
        assert MaskOrigin.of(current).areas == areas
        assert MaskOrigin.of(again.approve(images[0]).current).areas == areas


def test_approving_keeps_where_the_outline_came_from(
    study: Study, images: list[str], outline: np.ndarray
) -> None:
    origin = MaskOrigin(MODEL, 0.3, (Click(1, 1),), 0.5)
    study.save_correction(images[0], outline, origin)
    approved = study.approve(images[0], np.roll(outline, 1)).approved
    assert approved is not None
    assert (approved.model, approved.threshold, approved.as_strokes()) == (MODEL, 0.3, origin.strokes)


def test_all_is_there_after_reopening(study: Study, images: list[str], outline: np.ndarray) -> None:
    study.record_prediction(images[0], outline)
    study.approve(images[0])
    study.flag(images[1], "hår i bildet?")
    study.no_lesion(images[2])
    view = {"zoom": 2.5, "center": [3.0, 4.5], "hidden": False, "theme": None}
    study.save_session(images[1], view)
    study.close()
    with Study.open(study.folder, "am") as again:
        assert again.state == study.state
        assert again.session is not None
        assert (again.session.image_id, again.session.view) == (images[1], view)
        assert again.problems == ()
        assert find_damage(again) == ()
    assert [state.status for state in again.state.images.values()] == [
        Status.APPROVED,
        Status.FLAGGED,
        Status.NO_LESION,
    ]


def test_no_lesion_shows_nothing_and_reopening_brings_the_outline_back(
    study: Study, images: list[str], outline: np.ndarray
) -> None:
    study.save_correction(images[0], outline)
    study.no_lesion(images[0])
    assert not study.read_mask(images[0]).any()
    study.reopen(images[0])
    assert study.read_mask(images[0]).tolist() == outline.tolist()


def test_everything_ever_approved_can_be_had_back(
    study: Study, images: list[str], outline: np.ndarray
) -> None:
    versions = [np.roll(outline, shift) for shift in (0, 3, 5)]
    for version in versions:
        study.approve(images[0], version)
        study.reopen(images[0])
    study.no_lesion(images[0])
    with Study.open(study.folder, "bo") as other:
        found = [
            other.read_revision(entry) for entry in other.history(images[0]) if isinstance(entry, Approved)
        ]
    assert [labels.tolist() for labels in found] == [version.tolist() for version in versions]


def test_the_same_outline_is_kept_once(study: Study, images: list[str], outline: np.ndarray) -> None:
    study.record_prediction(images[0], outline)
    study.save_correction(images[0], outline)
    study.approve(images[0], outline)
    assert len(list((study.folder / "masks").rglob("*.png"))) == 1


def test_other_programs_can_read_the_folder(study: Study, images: list[str], outline: np.ndarray) -> None:
    entry = study.approve(images[0], outline).approved
    assert entry is not None
    path = study.folder / "masks" / images[0] / f"{entry.revision}.png"
    assert path == revision_path(study, entry)
    assert np.array_equal(np.asarray(Image.open(path)), outline * 255)
    texts = [file.read_text() for file in (study.folder / "events").iterdir()]
    lines = [json.loads(line) for text in texts for line in text.splitlines()]
    assert {line["event"] for line in lines} == {"added", "approved"}
    assert json.loads((study.folder / "study.json").read_text())["classes"][0]["name"] == "lesion"


def test_several_classes(tmp_path: Path, outline: np.ndarray) -> None:
    classes = [StudyClass(name=name, color="#56b4e9") for name in ("lesion", "network")]
    images = {"a": np.zeros((*SHAPE, 3), np.uint8)}
    study = Study.create(tmp_path / "study", "am", images=images, classes=classes)
    (image_id,) = study.state.images
    outline[4, 5] = 2
    study.approve(image_id, outline, MaskOrigin(label=2))
    assert Study.open(study.folder, "am").read_mask(image_id).tolist() == outline.tolist()


def test_classes_are_renamed_and_added(study: Study, images: list[str], outline: np.ndarray) -> None:
    study.approve(images[0], outline)
    nevus, hair = StudyClass(name="nevus", color="#56b4e9"), StudyClass(name="hair", color="#f0e442")
    study.set_classes([nevus, hair])
    study.save_correction(images[1], outline * 2)
    folder = study.folder
    study.close()
    with Study.open(folder, "bm") as again:
        assert again.info.classes == (nevus, hair)
        assert np.array_equal(again.read_mask(images[0]), outline)  # saved while there was one class
        assert np.array_equal(again.read_mask(images[1]), outline * 2)
        assert find_damage(again) == ()


def test_a_class_in_use_cannot_be_removed(study: Study, images: list[str], outline: np.ndarray) -> None:
    nevus, hair = StudyClass(name="nevus", color="#56b4e9"), StudyClass(name="hair", color="#f0e442")
    study.set_classes([nevus, hair])
    study.save_correction(images[0], outline * 2)
    study.save_correction(images[0], outline)  # an earlier revision still has the class
    with pytest.raises(StudyError, match="“hair” cannot be removed"):
        study.set_classes([nevus])
    assert study.info.classes == (nevus, hair)


def test_a_class_nobody_used_can_be_removed(study: Study, images: list[str], outline: np.ndarray) -> None:
    nevus, hair = StudyClass(name="nevus", color="#56b4e9"), StudyClass(name="hair", color="#f0e442")
    study.set_classes([nevus, hair])
    study.save_correction(images[0], outline)
    study.set_classes([nevus])
    assert np.array_equal(study.read_mask(images[0]), outline)
    for wrong in ([], [nevus, nevus]):
        with pytest.raises(StudyError, match="different name"):
            study.set_classes(wrong)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.ones((17, 12), np.uint8), "belongs to another image"),
        (np.ones((12, 17, 3), np.uint8), "belongs to another image"),
        (np.full(SHAPE, 2, np.uint8), "labels from 0 to 1"),
        (np.full(SHAPE, -1), "labels from 0 to 1"),
        (np.full(SHAPE, 0.5), "labels from 0 to 1"),
    ],
)
def test_outlines_that_do_not_fit_are_refused(
    study: Study, images: list[str], labels: np.ndarray, message: str
) -> None:
    before = study.state
    with pytest.raises(StudyError, match=message):
        study.save_correction(images[0], labels)
    assert study.state is before


def test_booleans_are_outlines(study: Study, images: list[str], outline: np.ndarray) -> None:
    study.approve(images[0], outline.astype(bool))
    assert study.read_mask(images[0]).tolist() == outline.tolist()


@pytest.mark.parametrize(
    "origin",
    [
        MaskOrigin(model="short"),
        MaskOrigin(threshold=1.5),
        MaskOrigin(threshold=float("nan")),
        MaskOrigin(quality=-1),
        MaskOrigin(strokes=(Click(float("inf"), 0),)),
        MaskOrigin(strokes=(Click(1, 1),) * 10_001),
        MaskOrigin(areas=(Prompts(lasso=((1, float("nan")), (2, 3), (4, 5))),)),
        MaskOrigin(areas=(Prompts(box=Box(1, 2, 3, 10**9)),)),
        MaskOrigin(label=0),
    ],
)
def test_impossible_origins_are_refused(
    study: Study, images: list[str], outline: np.ndarray, origin: MaskOrigin
) -> None:
    with pytest.raises(StudyError, match="cannot be saved"):
        study.save_correction(images[0], outline, origin)
    assert Study.open(study.folder, "am").problems == ()


def test_an_empty_outline_is_not_approved(study: Study, images: list[str]) -> None:
    with pytest.raises(StudyError, match="choose No lesion"):
        study.approve(images[0])
    with pytest.raises(StudyError, match="choose No lesion"):
        study.approve(images[0], np.zeros(SHAPE, np.uint8))


def test_an_image_that_is_not_there(study: Study, outline: np.ndarray) -> None:
    with pytest.raises(StudyError, match="no image"):
        study.approve("f" * 64, outline)


def test_a_closed_study_takes_nothing(study: Study, images: list[str], outline: np.ndarray) -> None:
    study.close()
    for save in (
        lambda: study.approve(images[0], outline),
        lambda: study.flag(images[0]),
        lambda: study.save_session(None, {}),
        lambda: study.set_images_folder(study.folder),
    ):
        with pytest.raises(StudyError, match="was closed"):
            save()


# ------------------------------------------------------------------- masks and their images


def test_a_mask_never_lands_on_another_image(study: Study, images: list[str], outline: np.ndarray) -> None:
    """Swapping mask files between images of one size is noticed."""
    first = study.approve(images[0], outline).approved
    second = study.approve(images[1], np.roll(outline, 4)).approved
    assert first is not None
    assert second is not None
    shutil.copy(revision_path(study, second), revision_path(study, first))
    with pytest.raises(StudyError, match="not the one that was saved"):
        study.read_mask(images[0])
    assert study.read_mask(images[1]) is not None
    assert [problem.file for problem in find_damage(study)] == [f"masks/{images[0]}/{first.revision}.png"]


def test_a_mask_that_another_program_saved_again_is_not_the_one_that_was_approved(
    study: Study, images: list[str], outline: np.ndarray
) -> None:
    entry = study.approve(images[0], outline).approved
    assert entry is not None
    path = revision_path(study, entry)
    Image.fromarray(np.asarray(Image.open(path))).save(path, compress_level=0)
    with pytest.raises(StudyError, match="not the one that was saved"):
        study.read_mask(images[0])


def forge(study: Study, **change: object) -> Study:
    """Change the last event, and open the study again."""
    for path in (study.folder / "events").iterdir():
        lines = path.read_text().splitlines()
        last = json.loads(lines[-1])
        if last["event"] != "added":
            path.write_text("\n".join([*lines[:-1], json.dumps({**last, **change})]) + "\n")
    return Study.open(study.folder, "am")


def test_a_line_cannot_bring_in_another_images_mask(
    study: Study, images: list[str], outline: np.ndarray
) -> None:
    study.approve(images[0], outline)
    forged = forge(study, image_id=images[1])
    with pytest.raises(StudyError, match="missing"):
        forged.read_mask(images[1])


def test_a_mask_under_another_revisions_name_is_not_handed_out(
    study: Study, images: list[str], outline: np.ndarray
) -> None:
    entry = study.approve(images[0], outline).approved
    assert entry is not None
    path = revision_path(study, entry)
    path.rename(path.with_name("0123456789abcdef.png"))
    forged = forge(study, revision="0123456789abcdef")
    with pytest.raises(StudyError, match="not the one that was saved"):
        forged.read_mask(images[0])


def test_a_mask_of_another_shape_is_not_handed_out(
    study: Study, images: list[str], outline: np.ndarray
) -> None:
    study.approve(images[0], outline)
    for path in (study.folder / "events").iterdir():
        path.write_text(path.read_text().replace('"shape":[12,17]', '"shape":[17,12]'))
    again = Study.open(study.folder, "am")
    with pytest.raises(StudyError, match="not the one that was saved"):
        again.read_mask(images[0])
    with pytest.raises(StudyError, match="changed its size"):
        again.read_image(images[0])


def test_a_damaged_mask_is_healed_by_saving_it_again(
    study: Study, images: list[str], outline: np.ndarray
) -> None:
    entry = study.approve(images[0], outline).approved
    assert entry is not None
    revision_path(study, entry).write_bytes(b"torn")
    with pytest.raises(StudyError, match="restore it from a backup"):
        study.approve(images[0])
    study.approve(images[0], outline)
    assert find_damage(study) == ()
    assert study.read_revision(entry).tolist() == outline.tolist()


def test_a_lost_folder_of_masks_is_made_again(study: Study, images: list[str], outline: np.ndarray) -> None:
    study.approve(images[0], outline)
    shutil.rmtree(study.folder / "masks" / images[0])
    with pytest.raises(StudyError, match="missing"):
        study.read_mask(images[0])
    study.approve(images[0], np.roll(outline, 1))
    assert study.read_mask(images[0]) is not None


def test_links_in_the_place_of_masks_are_not_followed(
    study: Study, images: list[str], outline: np.ndarray, tmp_path: Path
) -> None:
    entry = study.approve(images[0], outline).approved
    assert entry is not None
    elsewhere = tmp_path / "elsewhere"
    (study.folder / "masks" / images[0]).rename(elsewhere)
    (study.folder / "masks" / images[0]).symlink_to(elsewhere)
    with pytest.raises(StudyError, match="is a link"):
        study.read_mask(images[0])
    with pytest.raises(StudyError, match="is a link"):
        study.approve(images[0], np.roll(outline, 1))
    assert len(list(elsewhere.iterdir())) == 1


@pytest.mark.parametrize("name", ["events", "masks", "images"])
def test_links_in_the_place_of_folders_are_not_followed(study: Study, tmp_path: Path, name: str) -> None:
    (study.folder / name).rename(tmp_path / name)
    (study.folder / name).symlink_to(tmp_path / name)
    with pytest.raises(StudyError, match="is a link"):
        Study.open(study.folder, "am")


# ------------------------------------------------------------------------------- two annotators


def test_annotators_see_each_others_work(study: Study, images: list[str], outline: np.ndarray) -> None:
    with Study.open(study.folder, "bo") as other:
        study.approve(images[0], outline)
        assert other.state.images[images[0]].status is Status.UNREVIEWED
        assert other.refresh() == {images[0]}
        assert other.refresh() == frozenset()
        assert other.state.images[images[0]].annotator == "am"
        assert other.read_mask(images[0]).tolist() == outline.tolist()
        other.approve(images[0], np.roll(outline, 1))
        study.refresh()
    assert set(read_verdicts(study, images[0])) == {"am", "bo"}
    assert study.state.images[images[0]].annotator == "bo"


def test_an_answer_comes_after_what_it_answers_though_clocks_differ(
    study: Study, images: list[str], outline: np.ndarray
) -> None:
    study.approve(images[0], outline)
    forge(study, time="2150-01-01T00:00:00Z")
    with Study.open(study.folder, "bo") as other:
        assert other.reopen(images[0]).status is Status.CORRECTED
    assert Study.open(study.folder, "am").state.images[images[0]].status is Status.CORRECTED


@pytest.fixture
def blinded(tmp_path: Path, make_images: Callable[..., Path]) -> Study:
    return Study.create(tmp_path / "blinded", "am", paths=make_images(), blinded=True)


def test_blinded_annotators_do_not_see_each_others_work(blinded: Study, outline: np.ndarray) -> None:
    images = list(blinded.state.images)
    blinded.approve(images[0], outline)
    blinded.flag(images[1], "look!")
    with Study.open(blinded.folder, "bo") as other:
        assert list(other.state.images) == images
        assert {state.status for state in other.state.images.values()} == {Status.UNREVIEWED}
        assert other.read_mask(images[0]) is None
        assert read_verdicts(other, images[0]) == {}
        assert not any(isinstance(entry, MaskEvent) for entry in other.history(images[0]))
        other.approve(images[0], outline)
        assert set(read_verdicts(other, images[0])) == {"bo"}
    with Study.open(blinded.folder, "lead", unblind=True) as lead:
        assert set(read_verdicts(lead, images[0])) == {"am", "bo"}
        assert lead.state.images[images[1]].note == "look!"


def test_no_lesion_is_a_verdict_with_an_empty_mask(
    study: Study, images: list[str], outline: np.ndarray
) -> None:
    study.no_lesion(images[0])
    Study.open(study.folder, "bo").approve(images[0], outline)
    study.refresh()
    masks = read_verdicts(study, images[0])
    assert not masks["am"].any()
    assert masks["bo"].tolist() == outline.tolist()


def test_saving_from_several_threads_loses_nothing(
    study: Study, images: list[str], outline: np.ndarray
) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: study.approve(images[n % 3], np.roll(outline, n)), range(24)))
    again = Study.open(study.folder, "am")
    assert again.problems == ()
    assert again.state == study.state
    approved = [e for image_id in images for e in again.history(image_id) if isinstance(e, Approved)]
    assert len(approved) == 24


# --------------------------------------------------------------------------- opening, refusing


def test_what_is_no_study(tmp_path: Path, study: Study) -> None:
    with pytest.raises(StudyError, match="holds no study"):
        Study.open(tmp_path / "nowhere", "am")
    path = study.folder / "study.json"
    info = json.loads(path.read_text())
    for change in ({"version": 2}, {"format": "other"}, {"classes": []}, {"created": "never"}, {"x": 1}):
        path.write_text(json.dumps({**info, **change}))
        with pytest.raises(StudyError, match="damaged or of a newer version"):
            Study.open(study.folder, "am")


@pytest.mark.parametrize("annotator", ["", "a/b", "../x", "ann marie", "-a", "x" * 41, "å", "a\n"])
def test_names_that_are_no_file_names_are_refused(study: Study, annotator: str) -> None:
    with pytest.raises(StudyError, match="annotator's name"):
        Study.open(study.folder, annotator)


def test_stale_temporaries_are_swept(study: Study, images: list[str], outline: np.ndarray) -> None:
    study.approve(images[0], outline)
    name = ".0123456789abcdef.png.12345-0123456789ab.tmp"
    folders = [study.folder / part for part in ("", "events", "images", "masks/" + images[0])]
    for folder in folders:
        (folder / name).write_bytes(b"half")
    with Study.open(study.folder, "am") as again:
        assert again.problems == ()
    assert not list(study.folder.rglob("*.tmp"))


def test_a_class_the_study_does_not_have_is_refused(
    study: Study, images: list[str], outline: np.ndarray
) -> None:
    study.approve(images[0], outline)
    forged = forge(study, label=2)
    assert [problem.reason for problem in forged.problems] == ["the study has no class 2"]
    assert forged.state.images[images[0]].status is Status.UNREVIEWED


def test_entries_about_unknown_images_are_reported(
    study: Study, images: list[str], outline: np.ndarray
) -> None:
    study.approve(images[0], outline)
    forged = forge(study, image_id="e" * 64)
    assert ["which nobody added" in problem.reason for problem in forged.problems] == [True]
