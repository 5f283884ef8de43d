from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from napari_lesionseg.datasets.export import export_dataset
from napari_lesionseg.datasets.formats import DatasetInfo, ExportConfig
from napari_lesionseg.datasets.import_ import read_dataset
from napari_lesionseg.datasets.records import natural_order
from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io.images import read_image, read_mask, write_image, write_mask


def test_every_row_names_an_image_and_its_mask(kit, tmp_path: Path) -> None:
    records = {
        f"case_{seed:02}": kit.record(seed, metadata={"sex": "male"} if seed % 2 else {})
        for seed in range(10)
    }
    info = DatasetInfo(title='Nævi: a "set"', license="CC BY 4.0")
    kit.last(export_dataset(list(records.values()), tmp_path / "out", "imagefolder", info=info))
    columns, seen = set(), 0
    for part in ("train", "validation", "test"):
        folder = tmp_path / "out" / part
        for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            record = records[row["name"]]
            assert np.array_equal(read_image(folder / row["file_name"]), record.image)
            assert np.array_equal(read_mask(folder / row["mask_file_name"]), record.mask)
            assert all(isinstance(value, str) for value in row.values())
            columns.add(tuple(row))
            seen += 1
    assert seen == 10
    assert len(columns) == 1
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert card.startswith('---\npretty_name: "Nævi: a \\"set\\""\nlicense: "cc-by-4.0"\n')
    assert "0 background, 255 lesion" in card


def test_what_was_written_is_read_again(kit, tmp_path: Path) -> None:
    records = [kit.record(seed, diagnosis="nevus", metadata={"sex": "male"}) for seed in range(6)]
    kept = ExportConfig(pseudonymize="nothing")
    kit.last(export_dataset(records, tmp_path / "out", "imagefolder", config=kept))
    found = read_dataset(tmp_path / "out")
    assert (found.format, found.problems) == ("imagefolder", ())
    for record, again in zip(natural_order(records), found.records, strict=True):
        assert (again.name, again.diagnosis, again.metadata["sex"]) == (record.name, "nevus", "male")
        assert again.part is not None
        assert np.array_equal(again.load().labels, record.mask)
        assert "mask_file_name" not in again.metadata


def test_rows_that_name_no_image_inside_are_listed(kit, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    write_image(tmp_path / "set" / "a.png", kit.image(1))
    (tmp_path / "secret.png").write_bytes((tmp_path / "set" / "a.png").read_bytes())
    lines = [{"file_name": name} for name in ("a.png", "a.png", "b.png", "../secret.png")]
    table = tmp_path / "set" / "metadata.jsonl"
    table.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    found = read_dataset(tmp_path / "set")
    assert [record.name for record in found.records] == ["a"]
    assert len(found.problems) == 3
    table.write_text("[1]\n")
    with pytest.raises(DatasetError, match="no JSON object"):
        read_dataset(tmp_path / "set")
    table.write_text("{\n")
    with pytest.raises(DatasetError, match="not a readable file of JSON lines"):
        read_dataset(tmp_path / "set")


def test_boxes_and_other_lists_are_named(kit, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", kit.image(1))
    row = {"file_name": "a.png", "objects": {"bbox": [[1, 2, 3, 4]]}, "empty": [], "site": "arm"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    (problem,) = read_dataset(tmp_path).problems
    assert "column objects, such as boxes" in problem.reason
    assert problem.left_out


def test_an_image_that_is_listed_with_two_masks_gets_none(kit, tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        write_image(tmp_path / f"{name}.png", kit.image(seed))
    for name in ("one", "two"):
        write_mask(tmp_path / f"{name}.png", kit.labels(0))
    lines = [("a.png", "one.png"), ("b.png", "one.png"), ("a.png", "two.png")]
    text = "".join(json.dumps({"file_name": image, "mask_file_name": mask}) + "\n" for image, mask in lines)
    (tmp_path / "metadata.jsonl").write_text(text)
    found = read_dataset(tmp_path)
    assert [record.mask is None for record in found.records] == [True, False]
    assert "several masks" in found.problems[0].reason


def test_a_table_beside_gives_patients_too(kit, records, tmp_path: Path) -> None:
    unknown = [replace(record, patient=None) for record in records]
    kit.last(
        export_dataset(unknown, tmp_path / "out", "imagefolder", config=ExportConfig(pseudonymize="nothing"))
    )
    rows = "".join(f"{record.name};P{number // 2}\n" for number, record in enumerate(records))
    (tmp_path / "out/patients.csv").write_text(f"image;patient\n{rows}")
    (tmp_path / "out/other.csv").write_text("a,b\n1,2\n")
    dataset = read_dataset(tmp_path / "out")
    assert [record.patient for record in dataset.records] == [f"P{number // 2}" for number in range(10)]
    assert [problem.name for problem in dataset.problems] == ["other.csv"]
