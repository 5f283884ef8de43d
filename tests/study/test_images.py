"""Adding images, and finding those that were moved, renamed, changed or removed."""

from __future__ import annotations

import csv
import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import SHAPE, noise, revision_path
from napari_lesionseg.datasets.splits import SplitItem
from napari_lesionseg.errors import CancelledError, ImageError, PairingError, StudyError
from napari_lesionseg.io.images import write_image
from napari_lesionseg.study import images as images_module
from napari_lesionseg.study.pseudonyms import KeyFile
from napari_lesionseg.study.study import Study, find_damage

MakeImages = Callable[..., Path]


@pytest.fixture
def photos(study: Study) -> Path:
    return study.folder.parent / "photos"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are hashed."""
    seen: list[str] = []
    real = images_module.sha256_file

    def counting(path: Path) -> str:
        seen.append(path.name)
        return real(path)

    monkeypatch.setattr(images_module, "sha256_file", counting)
    return seen


def test_opening_hashes_nothing_and_reading_hashes_once(
    study: Study, images: list[str], hashed: list[str]
) -> None:
    with Study.open(study.folder, "am") as again:
        assert hashed == []
        for _ in range(3):
            again.read_image(images[1])
    assert hashed == ["IMD2.png"]


def test_a_renamed_image_is_found(study: Study, images: list[str], photos: Path) -> None:
    (photos / "IMD2.png").rename(photos / "renamed.png")
    assert study.missing_images() == (images[1],)
    assert study.image_path(images[1]) == photos / "renamed.png"
    assert np.array_equal(study.read_image(images[1]), noise(2))


def test_two_images_that_changed_names_are_not_mixed_up(
    study: Study, images: list[str], photos: Path
) -> None:
    (photos / "IMD1.png").rename(photos / "x.png")
    (photos / "IMD2.png").rename(photos / "IMD1.png")
    (photos / "x.png").rename(photos / "IMD2.png")
    assert np.array_equal(study.read_image(images[0]), noise(1))
    assert np.array_equal(study.read_image(images[1]), noise(2))


def test_where_a_moved_image_was_found_is_remembered(
    study: Study, images: list[str], photos: Path, hashed: list[str]
) -> None:
    (photos / "deep" / "er").mkdir(parents=True)
    (photos / "IMD2.png").rename(photos / "deep" / "er" / "a b.png")
    study.image_path(images[1])
    study.close()
    hashed.clear()
    with Study.open(study.folder, "am") as again:
        assert again.image_path(images[1]) == photos / "deep" / "er" / "a b.png"
    assert hashed == ["a b.png"]


def test_a_folder_added_again_hashes_only_new_and_changed_files(
    study: Study, photos: Path, hashed: list[str]
) -> None:
    study.close()
    hashed.clear()
    with Study.open(study.folder, "am") as again:
        assert again.add_images(photos) == ()
    assert hashed == []
    Image.fromarray(noise(8)).save(photos / "IMD2.png")
    Image.fromarray(noise(9)).save(photos / "new.png")
    with Study.open(study.folder, "am") as again:
        assert len(again.add_images(photos)) == 2
    assert sorted(hashed) == ["IMD2.png", "new.png"]


def test_a_file_that_was_only_touched_is_hashed_again_and_not_added(
    study: Study, photos: Path, hashed: list[str]
) -> None:
    study.close()
    hashed.clear()
    os.utime(photos / "IMD2.png", ns=(1, 1))
    with Study.open(study.folder, "am") as again:
        assert again.add_images(photos) == ()
    assert hashed == ["IMD2.png"]


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"../../etc/passwd":[1,2,"0"]}', b"\xff"])
def test_a_damaged_cache_does_no_harm(study: Study, images: list[str], photos: Path, content: bytes) -> None:
    (study.folder / "cache").mkdir(exist_ok=True)
    (study.folder / "cache" / "files.json").write_bytes(content)
    (photos / "IMD2.png").rename(photos / "renamed.png")
    with Study.open(study.folder, "am") as again:
        assert again.image_path(images[1]) == photos / "renamed.png"


def test_a_wrong_cache_never_shows_another_image(study: Study, images: list[str], photos: Path) -> None:
    (photos / "IMD2.png").rename(photos / "renamed.png")
    status = (photos / "IMD1.png").stat()
    lie = {"IMD1.png": (status.st_size, status.st_mtime_ns, images[1])}
    (study.folder / "cache").mkdir(exist_ok=True)
    (study.folder / "cache" / "files.json").write_text(json.dumps(lie))
    with Study.open(study.folder, "am") as again:
        assert again.image_path(images[1]) == photos / "renamed.png"


def test_a_changed_image_is_another_image(study: Study, images: list[str], photos: Path) -> None:
    study.read_image(images[1])
    Image.fromarray(noise(99)).save(photos / "IMD2.png")
    with pytest.raises(StudyError, match="moved away or changed"):
        study.read_image(images[1])
    Image.fromarray(noise(2)).save(photos / "IMD2.png")
    assert np.array_equal(study.read_image(images[1]), noise(2))


def test_a_change_of_the_same_size_is_noticed(study: Study, images: list[str], photos: Path) -> None:
    study.read_image(images[1])
    payload = bytearray((photos / "IMD2.png").read_bytes())
    payload[-20] ^= 1
    (photos / "IMD2.png").write_bytes(payload)
    os.utime(photos / "IMD2.png", ns=(1, 1))
    with pytest.raises(StudyError, match="moved away or changed"):
        study.read_image(images[1])


def test_an_image_that_comes_back_is_found_after_a_refresh(
    study: Study, images: list[str], photos: Path, tmp_path: Path
) -> None:
    (photos / "IMD2.png").rename(tmp_path / "IMD2.png")
    with pytest.raises(StudyError, match="moved away or changed"):
        study.image_path(images[1])
    assert [problem.file for problem in find_damage(study)] == ["IMD2.png"]
    (tmp_path / "IMD2.png").rename(photos / "back.png")
    study.refresh()
    assert study.image_path(images[1]) == photos / "back.png"


def test_a_folder_of_images_that_moved(study: Study, images: list[str], photos: Path, tmp_path: Path) -> None:
    photos.rename(tmp_path / "moved")
    with pytest.raises(StudyError, match="Connect its disk"):
        study.read_image(images[0])
    with pytest.raises(StudyError, match="not a folder"):
        study.set_images_folder(tmp_path / "nowhere")
    study.set_images_folder(tmp_path / "moved")
    assert np.array_equal(study.read_image(images[0]), noise(1))
    with Study.open(study.folder, "am") as again:
        assert np.array_equal(again.read_image(images[0]), noise(1))


def test_study_and_images_can_move_together(study: Study, images: list[str], tmp_path: Path) -> None:
    (tmp_path / "new place").mkdir()
    for name in ("study", "photos"):
        (tmp_path / name).rename(tmp_path / "new place" / name)
    with Study.open(tmp_path / "new place" / "study", "am") as again:
        assert find_damage(again) == ()


def replace_path(study: Study, path: str) -> None:
    """Change the event log so that IMD2 is elsewhere."""
    for file in (study.folder / "events").iterdir():
        file.write_text(file.read_text().replace('"path":"IMD2.png"', f'"path":"{path}"'))


@pytest.mark.parametrize("path", ["../secret.png", "/etc/hostname", "a/../../secret.png"])
def test_an_event_cannot_lead_out_of_the_folder(study: Study, path: str) -> None:
    replace_path(study, path)
    with Study.open(study.folder, "am") as again:
        assert [state.name for state in again.state.images.values()] == ["IMD1", "IMD3"]
        assert len(again.problems) == 1


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_nor_can_a_link(study: Study, photos: Path, tmp_path: Path, kind: str) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (photos / "IMD2.png").rename(secret / "IMD2.png")
    if kind == "file":
        (photos / "IMD2.png").symlink_to(secret / "IMD2.png")
    else:
        (photos / "link").symlink_to(secret)
        replace_path(study, "link/IMD2.png")
    with Study.open(study.folder, "am") as again:
        assert [state.name for state in again.state.images.values()] == ["IMD1", "IMD3"]
        assert "link" in again.problems[0].reason


def test_a_link_that_appears_later_is_not_followed(
    study: Study, images: list[str], photos: Path, tmp_path: Path
) -> None:
    (photos / "IMD2.png").rename(tmp_path / "IMD2.png")
    (photos / "IMD2.png").symlink_to(tmp_path / "IMD2.png")
    with pytest.raises(StudyError, match="moved away or changed"):
        study.image_path(images[1])


def test_a_link_inside_the_folder_is_fine(study: Study, images: list[str], photos: Path) -> None:
    (photos / "IMD2.png").rename(photos / "real.png")
    (photos / "IMD2.png").symlink_to(photos / "real.png")
    with Study.open(study.folder, "am") as again:
        assert again.problems == ()
        assert np.array_equal(again.read_image(images[1]), noise(2))


# ---- adding


def names(study: Study) -> list[str]:
    return [state.name for state in study.state.images.values()]


def test_from_a_folder_the_images_stay_where_they_are(tmp_path: Path, make_images: MakeImages) -> None:
    folder = make_images(12)
    study = Study.create(tmp_path / "study", "am", paths=folder)
    assert names(study) == [f"IMD{n}" for n in range(1, 13)]
    assert study.info.images_folder == "../photos"
    assert list((study.folder / "images").iterdir()) == []
    for number, image in enumerate(study.state.images, start=1):
        assert study.image_path(image) == folder / f"IMD{number}.png"
        assert np.array_equal(study.read_image(image), noise(number))


def test_from_files_and_patterns(tmp_path: Path, make_images: MakeImages) -> None:
    folder = make_images(3)
    study = Study.create(tmp_path / "study", "am", paths=[folder / "IMD1.png", str(folder / "*3.png")])
    assert names(study) == ["IMD1", "IMD3"]


def test_from_a_ph2_folder(tmp_path: Path) -> None:
    for number in (9, 10):
        case = tmp_path / "PH2 Dataset images" / f"IMD{number}"
        for part in (f"IMD{number}_Dermoscopic_Image/IMD{number}", f"IMD{number}_lesion/IMD{number}_lesion"):
            path = case / f"{part}.bmp"
            path.parent.mkdir(parents=True)
            Image.fromarray(noise(number)).save(path)
    study = Study.create(tmp_path / "study", "am", paths=tmp_path / "PH2 Dataset images")
    assert names(study) == ["IMD9", "IMD10"]
    assert find_damage(study) == ()


def test_from_the_real_ph2(tmp_path: Path, real_data: Path) -> None:
    study = Study.create(tmp_path / "study", "am", paths=real_data / "ph2-sample")
    assert len(study.state.images) == 20
    assert study.problems == ()
    assert find_damage(study) == ()
    image = next(iter(study.state.images))
    assert study.read_image(image).shape[:2] == study.state.images[image].shape


def test_from_an_isic_folder_masks_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "ISIC"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(noise(number)).save(folder / f"ISIC_000000{number}.jpg")
        Image.fromarray(noise(number)).save(folder / f"ISIC_000000{number}_superpixels.png")
        mask = Image.fromarray(noise(number)[..., 0] // 128 * 255)
        mask.save(folder / f"ISIC_000000{number}_segmentation.png")
    study = Study.create(tmp_path / "study", "am", paths=folder)
    assert names(study) == [f"ISIC_000000{number}" for number in range(3)]


def test_from_images_that_are_open_in_the_viewer(tmp_path: Path) -> None:
    images = {"arm/left": noise(1), "arm left": noise(2), "gray": noise(3)[..., 0], "../../x": noise(4)}
    study = Study.create(tmp_path / "study", "am", images=images)
    assert sorted(names(study)) == sorted(images)
    assert study.info.images_folder is None
    by_name = {state.name: image for image, state in study.state.images.items()}
    assert np.array_equal(study.read_image(by_name["arm/left"]), images["arm/left"])
    assert study.read_image(by_name["gray"]).shape == (*SHAPE, 3)
    assert len(list((study.folder / "images").iterdir())) == 4
    assert all(study.image_path(image).parent == study.folder / "images" for image in by_name.values())


def test_an_array_that_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="not one image"):
        Study.create(tmp_path / "study", "am", images={"stack": np.zeros((3, 4, 5, 6))})


def test_upright_shapes_come_from_the_camera_turned_on_its_side(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(1)).save(tmp_path / "turned.jpg", exif=exif)
    study = Study.create(tmp_path / "study", "am", paths=tmp_path / "turned.jpg")
    (state,) = study.state.images.values()
    assert state.shape == (17, 12)
    assert study.read_image(state.image_id).shape == (17, 12, 3)


def test_copies_carry_no_exif(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 3, "Kari Nordmann"
    Image.fromarray(noise(1)).save(tmp_path / "a.jpg", exif=exif)
    study = Study.create(tmp_path / "study", "am", paths=tmp_path / "a.jpg", copy=True)
    (image,) = study.state.images
    path = study.image_path(image)
    assert path.parent == study.folder / "images"
    assert b"Kari" not in path.read_bytes()
    assert not Image.open(path).getexif()
    (tmp_path / "a.jpg").unlink()
    assert find_damage(study) == ()


def test_what_is_in_already_is_left_alone(tmp_path: Path, make_images: MakeImages) -> None:
    study = Study.create(tmp_path / "study", "am", paths=make_images(2))
    new = study.add_images(make_images(4))
    assert [study.state.images[image].name for image in new] == ["IMD3", "IMD4"]
    assert study.add_images(make_images(4)) == ()
    assert Study.open(study.folder, "am").state.images.keys() == study.state.images.keys()


def test_two_files_of_one_image_are_one_image(tmp_path: Path, make_images: MakeImages) -> None:
    folder = make_images(1)
    (folder / "IMD9.png").write_bytes((folder / "IMD1.png").read_bytes())
    study = Study.create(tmp_path / "study", "am", paths=folder)
    assert names(study) == ["IMD1"]


@pytest.mark.parametrize("content", ["files", "arrays"])
def test_copies_are_not_made_again_by_another_encoder(
    tmp_path: Path, make_images: MakeImages, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    def fill(study: Study) -> tuple[str, ...]:
        if content == "files":
            return study.add_images(make_images(2), copy=True)
        return study.add_images(images={"a": noise(1), "b": noise(2)})

    study = Study.create(tmp_path / "study", "am")
    assert len(fill(study)) == 2
    monkeypatch.setattr(
        images_module, "write_image", lambda path, image: Image.fromarray(image).save(path, compress_level=0)
    )
    assert fill(study) == ()
    assert find_damage(study) == ()


def test_an_image_that_stays_in_its_place_is_not_copied(tmp_path: Path, make_images: MakeImages) -> None:
    study = Study.create(tmp_path / "study", "am", paths=make_images(2))
    assert study.add_images(make_images(2), copy=True) == ()
    assert list((study.folder / "images").iterdir()) == []


def test_images_of_one_name(tmp_path: Path, make_images: MakeImages) -> None:
    make_images(1, "left")
    other = make_images(0, "right")
    Image.fromarray(noise(7)).save(other / "IMD1.png")
    study = Study.create(tmp_path / "study", "am", paths=[tmp_path / "left", tmp_path / "right"], copy=True)
    assert names(study) == ["IMD1", "IMD1"]
    assert find_damage(study) == ()


def test_files_that_cannot_be_read_are_named_and_the_others_taken(
    tmp_path: Path, make_images: MakeImages
) -> None:
    folder = make_images(2)
    (folder / "broken.png").write_bytes((folder / "IMD1.png").read_bytes()[:60])
    (folder / "notes.jpg").write_text("not an image")
    for copy in (False, True):
        study = Study.create(tmp_path / f"study {copy}", "am", paths=folder, copy=copy)
        assert names(study) == ["IMD1", "IMD2"]
        assert sorted(Path(problem.file).name for problem in study.problems) == ["broken.png", "notes.jpg"]
        assert all(problem.reason.startswith("The file is") for problem in study.problems)


def test_images_outside_the_folder_want_to_be_copied(tmp_path: Path, make_images: MakeImages) -> None:
    study = Study.create(tmp_path / "study", "am", paths=make_images(1))
    Image.fromarray(noise(8)).save(tmp_path / "elsewhere.png")
    assert study.add_images(tmp_path / "elsewhere.png") == ()
    assert "have it copied" in study.problems[0].reason
    assert len(study.add_images(tmp_path / "elsewhere.png", copy=True)) == 1


def test_links_out_of_the_folder_want_to_be_copied(tmp_path: Path, make_images: MakeImages) -> None:
    folder = make_images(1)
    Image.fromarray(noise(8)).save(tmp_path / "elsewhere.png")
    (folder / "link.png").symlink_to(tmp_path / "elsewhere.png")
    study = Study.create(tmp_path / "study", "am", paths=folder)
    assert names(study) == ["IMD1"]
    assert "have it copied" in study.problems[0].reason
    study.add_images(folder, copy=True)
    assert names(study) == ["IMD1", "link"]


def test_a_study_inside_its_images_folder(tmp_path: Path, make_images: MakeImages) -> None:
    folder = make_images(2)
    study = Study.create(folder / "study", "am", paths=folder)
    assert names(study) == ["IMD1", "IMD2"]
    assert study.info.images_folder == ".."


def test_the_studys_own_masks_are_no_images(
    tmp_path: Path, make_images: MakeImages, outline: np.ndarray
) -> None:
    study = Study.create(tmp_path / "study", "am", paths=make_images(1))
    entry = study.approve(next(iter(study.state.images)), outline).approved
    assert entry is not None
    assert study.add_images(revision_path(study, entry).parent) == ()
    assert study.problems == ()


def test_a_folder_in_use_is_refused(tmp_path: Path, make_images: MakeImages) -> None:
    folder = make_images(1)
    with pytest.raises(StudyError, match="not empty"):
        Study.create(folder, "am", paths=folder)
    Study.create(tmp_path / "study", "am", paths=folder)
    with pytest.raises(StudyError, match="holds a study already"):
        Study.create(tmp_path / "study", "am", paths=folder)


def test_nothing_is_made_when_there_are_no_images(tmp_path: Path) -> None:
    with pytest.raises(PairingError):
        Study.create(tmp_path / "study", "am", paths=tmp_path / "nowhere")
    assert not (tmp_path / "study").exists()


def test_importing_can_be_stopped_and_begun_again(tmp_path: Path, make_images: MakeImages) -> None:
    folder, seen = make_images(4), []

    def stop(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 2:
            raise CancelledError("stopped")

    with pytest.raises(CancelledError):
        Study.create(tmp_path / "study", "am", paths=folder, progress=stop)
    assert seen == [(1, 4), (2, 4)]
    assert not Study.open(tmp_path / "study", "am").state.images
    assert len(Study.create(tmp_path / "study", "am", paths=folder).state.images) == 4


def test_groups_are_kept(tmp_path: Path, make_images: MakeImages) -> None:
    groups = [SplitItem("IMD1", patient="p", lesion="l", stratify_by="melanoma")]
    study = Study.create(tmp_path / "study", "am", paths=make_images(2), groups=groups)
    first, second = (state.added for state in study.state.images.values())
    assert (first.patient, first.lesion, first.stratify_by) == ("p", "l", "melanoma")
    assert (second.patient, second.lesion, second.stratify_by) == (None, None, None)


# -------------------------------------------------------------------------------- pseudonyms


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    folder = tmp_path / "Kari Nordmann"
    folder.mkdir()
    for number in range(5):
        Image.fromarray(noise(number)).save(folder / f"Nordmann {number}.jpg", comment=b"Nordmann")
    return folder


def pseudonymized(tmp_path: Path, patients: Path) -> Study:
    groups = [SplitItem(f"Nordmann {n}", patient="Kari Nordmann", lesion=f"arm {n}") for n in range(5)]
    return Study.create(
        tmp_path / "study", "am", paths=patients, key_file=tmp_path / "key.csv", groups=groups
    )


def test_pseudonyms_leave_no_name_in_the_study(tmp_path: Path, patients: Path) -> None:
    study = pseudonymized(tmp_path, patients)
    assert len(study.state.images) == 5
    for path in study.folder.rglob("*"):
        assert "Nordmann" not in path.name
        assert path.is_dir() or b"Nordmann" not in path.read_bytes()
    patient = {state.added.patient for state in study.state.images.values()}
    lesions = {state.added.lesion for state in study.state.images.values()}
    assert len(patient) == 1
    assert len(lesions) == 5


def test_the_key_undoes_the_pseudonyms(tmp_path: Path, patients: Path) -> None:
    study = pseudonymized(tmp_path, patients)
    with (tmp_path / "key.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["kind"] == "image"]
    originals = {row["pseudonym"]: Path(row["original"]) for row in rows}
    for state in study.state.images.values():
        image = np.asarray(Image.open(originals[state.name]))
        assert np.array_equal(study.read_image(state.image_id), image)
    assert stat.S_IMODE((tmp_path / "key.csv").stat().st_mode) == 0o600


def test_the_key_goes_on(tmp_path: Path, patients: Path) -> None:
    study = pseudonymized(tmp_path, patients)
    before = names(study)
    assert study.add_images(patients, key_file=tmp_path / "key.csv") == ()
    Image.fromarray(noise(9)).save(patients / "new.jpg")
    with pytest.raises(StudyError, match="choose a file for their key"):
        study.add_images(patients)
    (new,) = study.add_images(patients, images={}, key_file=tmp_path / "key.csv")
    assert study.state.images[new].name not in before
    images = {"Nordmann": noise(10), "Nordmann 2": noise(11)}
    study.add_images(images=images, key_file=tmp_path / "key.csv")
    assert len(set(names(study))) == 8
    assert not any("Nordmann" in name for name in names(study))


def test_the_key_stays_outside(tmp_path: Path, patients: Path) -> None:
    with pytest.raises(StudyError, match="inside the study"):
        Study.create(tmp_path / "study", "am", paths=patients, key_file=tmp_path / "study" / "key.csv")


@pytest.mark.parametrize("content", [b"name,age\nKari,40\n", b"\xff\xfe\x00", b"", b'kind,"'])
def test_a_file_that_is_no_key_is_not_overwritten(tmp_path: Path, patients: Path, content: bytes) -> None:
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(StudyError, match="not a key"):
        Study.create(tmp_path / "study", "am", paths=patients, key_file=tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_bytes() == content


def test_names_that_a_study_cannot_hold_are_named_and_the_others_taken(tmp_path: Path) -> None:
    names = [b"a:b", b"back\\slash", b"bl\xe5", b"fine", b"x" * 245]
    for seed, name in enumerate(names):
        pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "t.png")
        (tmp_path / "t.png").rename(tmp_path / os.fsdecode(name + b".png"))
    table = [SplitItem("fine", "P" * 300)]
    with Study.create(tmp_path / "study", "am", paths=tmp_path, groups=table) as study:
        named = {Path(problem.file).name: problem.reason for problem in study.problems}
        assert named.keys() == {os.fsdecode(name + b".png") for name in names[:4]}
        assert "rename the file" in named["a:b.png"]
        assert "its patient cannot be saved" in named["fine.png"]
        assert [state.name for state in study.state.images.values()] == ["x" * 245]


@pytest.mark.parametrize("copy", [False, True])
def test_further_pages_are_among_the_problems(tmp_path: Path, copy: bool) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    frames = [Image.new("RGB", (60, 40), color) for color in ("red", "green", "blue")]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "still.png")
    with Study.create(tmp_path / "study", "Ann", paths=folder, copy=copy) as study:
        (problem,) = study.problems
        assert "moving.gif" in str(problem)
        assert "2 further pages are left out" in str(problem)


def test_an_image_that_was_not_fetched_is_named_and_the_others_are_added(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (60, 40), "red").save(folder / "here.png")
    (folder / "elsewhere.png").symlink_to(tmp_path / "not_fetched.png")
    with Study.create(tmp_path / "study", "Ann", paths=folder) as study:
        assert [image.name for image in study.state.images.values()] == ["here"]
        (problem,) = study.problems
        assert "elsewhere.png" in problem.file


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems refuse such names")
def test_names_that_are_no_text_get_pseudonyms(tmp_path: Path) -> None:
    folder, key = tmp_path / "images", tmp_path / "key.csv"
    folder.mkdir()
    write_image(tmp_path / "x.png", np.zeros((8, 9, 3), np.uint8))
    (tmp_path / "x.png").rename(folder / os.fsdecode(b"\xe9t\xe9.png"))
    with Study.create(tmp_path / "study", "am", paths=folder, copy=True, key_file=key) as study:
        assert [len(state.name) for state in study.state.images.values()] == [5]
    assert "\\udce9t\\udce9.png" in key.read_text(encoding="utf-8")
    KeyFile(key, tmp_path / "study")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_key_that_cannot_be_written_is_named_and_no_image_is_added(tmp_path: Path) -> None:
    images = {"Doe Jane": np.zeros((8, 9, 3), np.uint8)}
    with pytest.raises(StudyError, match="key of the pseudonyms cannot be written to /dev/full: No space"):
        Study.create(tmp_path / "study", "am", images=images, copy=True, key_file="/dev/full")
    assert [path.name for path in (tmp_path / "study").rglob("*") if path.is_file()] == ["study.json"]
