from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from napari_lesionseg.datasets.export import export_dataset
from napari_lesionseg.datasets.formats import DatasetInfo, ExportConfig
from napari_lesionseg.datasets.splits import leaks


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
