from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from napari_lesionseg.datasets.export import export_dataset
from napari_lesionseg.datasets.formats import DatasetInfo, ExportConfig
from napari_lesionseg.datasets.import_ import read_dataset
from napari_lesionseg.datasets.splits import leaks
from napari_lesionseg.errors import DatasetError
from napari_lesionseg.types import IGNORED


def export(kit, records, folder: Path, **settings: object) -> Path:
    config = ExportConfig(pseudonymize="nothing", dataset_id=7, **settings)
    info = DatasetInfo(title="Skin: lesions!")
    kit.last(export_dataset(records, folder, "nnunet", config=config, info=info))
    return folder / "Dataset007_SkinLesions"


def test_cases_labels_and_description_agree(kit, tmp_path: Path) -> None:
    records = {f"case_{seed:02}": kit.record(seed, classes=3) for seed in range(10)}
    folder = export(kit, list(records.values()), tmp_path / "out")
    description = json.loads((folder / "dataset.json").read_text())
    assert description["labels"] == {"background": 0, "lesion": 1, "hair": 2}
    assert description["channel_names"] == {"0": "R", "1": "G", "2": "B"}
    assert description["file_ending"] == ".png"
    labels = sorted((folder / "labelsTr").iterdir())
    assert description["numTraining"] == len(labels) == len(list((folder / "imagesTr").iterdir()))
    for path in [*labels, *(folder / "labelsTs").iterdir()]:
        images = path.parent.with_name(path.parent.name.replace("labels", "images"))
        with Image.open(path) as mask, Image.open(images / f"{path.stem}_0000.png") as image:
            assert (mask.mode, image.mode) == ("L", "RGB")
            assert np.array_equal(np.asarray(mask), records[path.stem].mask)
            assert np.array_equal(np.asarray(image), records[path.stem].image)


def test_the_given_split_is_the_first_fold(kit, records, tmp_path: Path) -> None:
    folder = export(kit, records, tmp_path / "out")
    (split,) = json.loads((folder / "splits_final.json").read_text())
    parts = {name: part for part in ("train", "val") for name in split[part]}
    assert set(parts) == {path.stem for path in (folder / "labelsTr").iterdir()}
    assert leaks([record.split_item() for record in records if record.name in parts], parts) == []


def test_without_validation_there_are_five_folds_by_patient(kit, tmp_path: Path) -> None:
    records = [kit.record(seed) for seed in range(16)]
    folder = export(kit, records, tmp_path / "out", shares={"train": 0.8, "test": 0.2})
    splits = json.loads((folder / "splits_final.json").read_text())
    assert len(splits) == 5
    patients = {record.name: record.patient for record in records}
    held_out = [name for split in splits for name in split["val"]]
    assert len(held_out) == len(set(held_out)) == len(list((folder / "labelsTr").iterdir()))
    for split in splits:
        assert not {patients[name] for name in split["train"]} & {patients[name] for name in split["val"]}


def test_too_few_patients_for_folds_give_one(kit, tmp_path: Path) -> None:
    folder = export(kit, [kit.record(0), kit.record(2)], tmp_path / "out", shares={"train": 1})
    assert json.loads((folder / "splits_final.json").read_text()) == [
        {"train": ["case_00", "case_02"], "val": []}
    ]


@pytest.fixture
def exported(kit, records, tmp_path: Path) -> Path:
    return export(kit, records, tmp_path / "out")


def change_card(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    card = json.loads((folder / "dataset.json").read_text())
    change(card)
    (folder / "dataset.json").write_text(json.dumps(card))


def test_ignored_pixels_come_back(kit, tmp_path: Path) -> None:
    masks = {f"case_{seed:02}": kit.labels(seed) for seed in range(3)}
    masks["case_01"][:3] = IGNORED
    folder = export(
        kit, [kit.record(seed, mask=masks[f"case_{seed:02}"]) for seed in range(3)], tmp_path / "o"
    )
    dataset = read_dataset(folder)
    assert dataset.problems == ()
    for record in dataset.records:
        assert record.classes == ("background", "lesion")
        assert np.array_equal(record.load().labels, masks[record.name])


def test_several_folds_are_no_parts(kit, tmp_path: Path) -> None:
    records = [kit.record(seed) for seed in range(16)]
    folder = export(kit, records, tmp_path / "out", shares={"train": 0.8, "test": 0.2})
    assert {record.part for record in read_dataset(folder).records} == {"train", "test"}


def test_without_a_split_all_images_are_for_training_or_testing(exported: Path) -> None:
    (exported / "splits_final.json").unlink()
    dataset = read_dataset(exported)
    assert {record.part for record in dataset.records} == {"train", "test"}
    assert dataset.problems == ()


def test_what_a_case_lacks_or_has_twice_is_named(kit, exported: Path) -> None:
    cases = sorted((exported / "labelsTr").iterdir())
    cases[0].rename(cases[0].with_name("lost.png"))
    shutil.copy(
        exported / f"imagesTr/{cases[1].stem}_0000.png", exported / f"imagesTr/{cases[1].stem}_0001.png"
    )
    Image.fromarray(np.full((40, 56), 9, np.uint8)).save(cases[2])
    shutil.copy(
        exported / f"imagesTr/{cases[3].stem}_0000.png", exported / f"imagesTs/{cases[3].stem}_0000.png"
    )
    (exported / f"imagesTr/{cases[4].stem}_0000.png").rename(exported / f"imagesTr/{cases[4].stem}.png")
    shutil.copy(cases[5], exported / "labelsTr/another.bmp")
    shutil.copy(cases[5], exported / "overview.png")
    dataset = read_dataset(exported)
    reasons = {problem.name: problem.reason for problem in dataset.problems}
    assert reasons["lost.png"] == "The mask has no image."
    assert "one color image and one mask" in reasons[f"{cases[1].stem}_0000.png"]
    assert "one color image and one mask" in reasons[f"{cases[3].stem}_0000.png"]
    assert "_0000" in reasons[f"{cases[4].stem}.png"]
    assert "not used" in reasons["labelsTr/another.bmp"]
    assert "not used" in reasons["overview.png"]
    found = {record.name: record for record in dataset.records}
    assert len(found) == 7
    assert found[cases[0].stem].mask is None
    with pytest.raises(DatasetError, match="other values than the 2"):
        found[cases[2].stem].load()


def test_a_split_that_names_no_image_is_named(exported: Path) -> None:
    (exported / "splits_final.json").write_text('[{"train": ["case_99"], "val": ["CASE_00"]}]')
    dataset = read_dataset(exported)
    assert ["case_99" in problem.reason for problem in dataset.problems] == [True]
    (exported / "splits_final.json").write_text("{}")
    with pytest.raises(DatasetError, match="no list of folds"):
        read_dataset(exported)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ({"background": 0, "whole": [1, 2], "core": [2]}, "Regions that share pixels"),
        ({"background": 0, "lesion": 2}, "0, 1, 2 and so on"),
        ({"lesion": 0, "hair": 1}, "background as 0"),
        ({"background": 0, "ignore": 1, "lesion": 2}, "not the highest"),
        ({"0": "background", "1": "lesion"}, "damaged"),
        ({f"class {index}" if index else "background": index for index in range(300)}, "more than"),
        ({}, "damaged"),
    ],
)
def test_labels_that_are_not_understood_are_refused(
    exported: Path, labels: dict[str, object], reason: str
) -> None:
    change_card(exported, lambda card: card.update(labels=labels))
    with pytest.raises(DatasetError, match=reason):
        read_dataset(exported)


def test_two_datasets_are_read_one_by_one(exported: Path) -> None:
    shutil.copytree(exported, exported.with_name("Dataset008_Other"))
    with pytest.raises(DatasetError, match="Dataset007_SkinLesions, Dataset008_Other"):
        read_dataset(exported.parent, "nnunet")
    assert len(read_dataset(exported).records) == 10
