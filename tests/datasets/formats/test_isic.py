from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_lesionseg.datasets.export import export_dataset
from napari_lesionseg.datasets.formats import ExportConfig
from napari_lesionseg.datasets.import_ import read_dataset
from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io.images import read_mask, write_mask

KEEP = ExportConfig(pseudonymize="nothing")


@pytest.fixture
def isic(kit, tmp_path: Path) -> Path:
    """The challenge's folders, endings in any case, a superpixel image and a table."""
    for part in ("ISIC-2017_Training_Data", "ISIC-2017_Training_Part1_GroundTruth", "ISIC-2017_Test_v2_Data"):
        (tmp_path / part).mkdir()
    for seed, part in enumerate(("ISIC-2017_Training_Data", "ISIC-2017_Test_v2_Data")):
        Image.fromarray(kit.image(seed)).save(tmp_path / part / f"ISIC_000000{seed}.jpg")
        ending = ("_segmentation.png", "_Segmentation.PNG")[seed]
        mask = Image.fromarray(kit.labels(seed) * np.uint8(255))
        mask.save(tmp_path / f"ISIC-2017_Training_Part1_GroundTruth/ISIC_000000{seed}{ending}", "PNG")
    Image.fromarray(kit.image(5)).save(tmp_path / "ISIC-2017_Training_Data/ISIC_0000000_superpixels.png")
    (tmp_path / "metadata.csv").write_text(
        "isic_id,age_approx,sex,patient_id,lesion_id,diagnosis\nISIC_0000000,55,female,IP_1,IL_2,nevus\n"
    )
    (tmp_path / "ISIC-2017_Training_Classes.csv").write_text("image_id,melanoma\nISIC_0000001,1.0\n")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    return tmp_path


def test_the_challenge_folders_are_read(kit, isic: Path) -> None:
    dataset = read_dataset(isic)
    assert dataset.format == "isic"
    assert [problem.name for problem in dataset.problems] == ["other.csv"]
    first, second = dataset.records
    assert (first.patient, first.lesion, first.diagnosis, first.part) == ("IP_1", "IL_2", "nevus", "train")
    assert first.metadata == {"age_approx": "55", "sex": "female"}
    assert (second.diagnosis, second.part) == ("melanoma", "test")
    assert np.array_equal(second.load().labels, kit.labels(1))
    assert first.classes == ("background", "lesion")


def test_attributes_become_classes_and_stay_whole(kit, isic: Path) -> None:
    folder = isic / "ISIC2018_Task2_Training_GroundTruth_v3"
    folder.mkdir()
    streaks, globules = np.zeros((2, 40, 56), np.uint8)
    streaks[10:20, 10:40] = 1
    globules[15:25, 20:30] = 1
    write_mask(folder / "ISIC_0000000_attribute_streaks.png", streaks)
    write_mask(folder / "ISIC_0000000_attribute_globules.png", globules)
    write_mask(folder / "ISIC_0000001_attribute_streaks.png", np.zeros_like(streaks))
    first, second = read_dataset(isic).records
    assert first.classes == second.classes == ("background", "lesion", "streaks", "globules")
    pixels = first.load()
    assert np.array_equal(pixels.regions["streaks"], streaks)
    assert np.array_equal(pixels.labels == 3, globules > 0)
    assert np.array_equal(pixels.labels == 2, (streaks > 0) & (globules == 0))
    assert np.array_equal(second.load().labels, kit.labels(1))


def test_what_is_incomplete_is_listed(kit, isic: Path) -> None:
    Image.fromarray(kit.image(7)).save(isic / "ISIC-2017_Training_Data/ISIC_0000007.jpg")
    Image.fromarray(kit.image(7)).save(isic / "ISIC-2017_Test_v2_Data/ISIC_0000001.png")
    write_mask(isic / "ISIC_0000009_segmentation.png", kit.labels(1))
    dataset = read_dataset(isic)
    reasons = {problem.name: problem.reason for problem in dataset.problems}
    assert reasons["ISIC_0000009_segmentation.png"] == "The mask has no image."
    reason = reasons.pop("ISIC_0000001.jpg")
    assert "ISIC-2017_Test_v2_Data/ISIC_0000001.jpg and ISIC-2017_Test_v2_Data/ISIC_0000001.png" in reason
    assert reasons.keys() == {
        "ISIC_0000009_segmentation.png", "ISIC_0000001_Segmentation.PNG", "other.csv",
        "ISIC-2017_Training_Classes.csv",
    }  # fmt: skip
    assert [record.name for record in dataset.records if record.mask is None] == ["ISIC_0000007"]


def test_masks_are_written_as_the_challenge_wants_them(kit, records, tmp_path: Path) -> None:
    kit.last(export_dataset(records, tmp_path / "out", "isic", config=KEEP))
    masks = sorted(tmp_path.glob("out/Task1_*_GroundTruth/*"))
    assert len(masks) == 10
    for path in masks:
        with Image.open(path) as mask:
            assert mask.mode == "L"
            assert set(np.unique(np.asarray(mask))) == {0, 255}
            sample = path.parent.name.replace("Task1_", "Task1-2_").replace("GroundTruth", "Input")
            name = path.stem.removesuffix("_segmentation")
            with Image.open(tmp_path / "out" / sample / f"{name}.png") as image:
                assert image.size == mask.size
    assert {path.parent.name for path in masks} == {
        f"Task1_{part}_GroundTruth" for part in ("Training", "Validation", "Test")
    }


def test_further_classes_are_written_as_attributes(kit, tmp_path: Path) -> None:
    records = [kit.record(seed, classes=3) for seed in range(4)]
    before = {record.name: record.mask for record in records}
    kit.last(export_dataset(records, tmp_path / "out", "isic", config=KEEP))
    assert len(list(tmp_path.glob("out/Task2_*/*_attribute_hair.png"))) == 4
    dataset = read_dataset(tmp_path / "out")
    assert dataset.records[0].classes == kit.classes
    for record in dataset.records:
        assert np.array_equal(record.load().labels, before[record.name])


def test_one_region_on_request(kit, records, tmp_path: Path) -> None:
    from scipy import ndimage

    config = ExportConfig(pseudonymize="nothing", single_region=True)
    kit.last(export_dataset(records, tmp_path / "out", "isic", config=config))
    for record in read_dataset(tmp_path / "out").records:
        labels = record.load().labels
        assert ndimage.label(labels, np.ones((3, 3)))[1] == 1
        assert np.array_equal(ndimage.binary_fill_holes(labels), labels > 0)


def test_new_names_look_like_isics(kit, records, tmp_path: Path) -> None:
    kit.last(export_dataset(records, tmp_path / "out", "isic", config=ExportConfig(pseudonymize="all")))
    names = sorted(record.name for record in read_dataset(tmp_path / "out").records)
    assert names == [f"ISIC_{number:07d}" for number in range(1, 11)]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no images"):
        read_dataset(tmp_path, "isic")


def test_an_image_with_two_masks_gets_none(kit, tmp_path: Path) -> None:
    for folder in ("img", "novice", "expert"):
        (tmp_path / folder).mkdir()
    for number, folders in ((1, ("novice", "expert")), (2, ("expert",))):
        Image.fromarray(kit.image(number)).save(tmp_path / f"img/ISIC_000000{number}.jpg")
        for folder in folders:
            write_mask(tmp_path / folder / f"ISIC_000000{number}_segmentation.png", kit.labels(number))
    dataset = read_dataset(tmp_path)
    assert dataset.format == "isic"
    assert [record.mask is None for record in dataset.records] == [True, False]
    assert len(dataset.problems) == 1
    assert "novice/ISIC_0000001" in dataset.problems[0].reason
    assert "expert/ISIC_0000001" in dataset.problems[0].reason


def test_attributes_are_no_mask_where_the_lesion_has_two(kit, tmp_path: Path) -> None:
    for number in (1, 2):
        name = f"ISIC_000000{number}"
        for folder in ("img", "novice", "expert"):
            (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(kit.image(number)).save(tmp_path / f"img/{name}.jpg")
        write_mask(tmp_path / f"expert/{name}_attribute_streaks.png", kit.labels(number))
        write_mask(tmp_path / f"expert/{name}_segmentation.png", kit.labels(number))
    write_mask(tmp_path / "novice/ISIC_0000001_segmentation.png", kit.labels(1))
    dataset = read_dataset(tmp_path)
    assert [record.mask is None for record in dataset.records] == [True, False]
    assert "attributes are not used" in " ".join(problem.reason for problem in dataset.problems)


def test_masks_with_other_endings_are_no_images(kit, tmp_path: Path) -> None:
    for number, ending in enumerate(("segmentation", "mask", "lesion")):
        Image.fromarray(kit.image(number)).save(tmp_path / f"ISIC_{number}.jpg")
        write_mask(tmp_path / f"ISIC_{number}_{ending}.png", kit.labels(number))
    dataset = read_dataset(tmp_path)
    assert dataset.problems == ()
    assert [record.mask is None for record in dataset.records] == [False] * 3


@pytest.mark.parametrize(
    ("classes", "inside"),
    [
        (("melanoma", "nevus", "hair"), {1, 2}),
        (("hair", "lesion", "ruler"), {2}),
        (("Ruler", "nevus", "healthy skin"), {2}),
        (("lesion", "streaks", "hair"), {1, 2}),
    ],
)
def test_the_segmentation_is_the_union_of_the_lesions(
    kit, tmp_path: Path, classes: tuple[str, ...], inside: set[int]
) -> None:
    labels = np.tile(np.arange(56, dtype=np.uint8) // 14, (40, 1))
    record = replace(kit.record(0), mask=labels, classes=("background", *classes))
    kit.last(export_dataset([record], tmp_path / "out", "isic"))
    mask = read_mask(next((tmp_path / "out").rglob("*_segmentation.png")))
    assert set(np.unique(labels[mask > 0]).tolist()) == inside


@pytest.mark.parametrize(
    ("classes", "back"),
    [
        (("hair", "lesion"), ("lesion", "hair")),
        (("melanoma", "nevus", "hair"), ("lesion", "hair", "melanoma", "nevus")),
        (("lesion", "Lesion 2"), ("lesion", "lesion_2")),
        (("hair-a", "hair a", "nevus"), ("lesion", "hair_a", "hair_a_2")),
        (("ink", "streaks", "lesion"), ("lesion", "streaks", "ink")),
        (("hair", "ruler"), ("lesion", "hair", "ruler")),
    ],
)
def test_no_class_is_lost_whatever_their_order(
    kit, tmp_path: Path, classes: tuple[str, ...], back: tuple[str, ...]
) -> None:
    count = len(classes) + 1
    labels = np.tile(np.arange(56, dtype=np.uint8) * count // 56, (40, 1))
    record = replace(kit.record(0), mask=labels, classes=("background", *classes))
    kit.last(export_dataset([record], tmp_path / "out", "isic", config=KEEP))
    (found,) = read_dataset(tmp_path / "out").records
    assert found.classes == ("background", *back)
    read = found.load().labels
    values = [np.unique(read[labels == index]).tolist() for index in range(count)]
    assert values[0] == [0]
    assert all(len(value) == 1 for value in values)
    assert len({value for (value,) in values}) == count
