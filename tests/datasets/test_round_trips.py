"""Real collections come in, are corrected, go out and come in again: identical by hash."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.datasets.formats.test_dicom import write_photograph

from napari_lesionseg.datasets.export import export_dataset
from napari_lesionseg.datasets.formats import FORMATS, ExportConfig
from napari_lesionseg.datasets.formats.dicom_files import read_photograph
from napari_lesionseg.datasets.import_ import import_dataset, read_dataset
from napari_lesionseg.datasets.records import Dataset, Provenance, Record

KEEP = ExportConfig(pseudonymize="nothing")


def smallest(dataset: Dataset) -> Dataset:
    """Two images that are quick to write; benchmarks/datasets.py takes them all."""
    records = sorted(dataset.records, key=lambda record: record.image.stat().st_size)[:2]
    return replace(dataset, records=tuple(records))


def corrected(dataset: Dataset) -> Dataset:
    """Paint a little into every mask, as an annotator would."""

    def paint(record):
        labels = record.load().labels.copy()
        labels[3:9, 4:12] = 1
        return replace(record, mask=labels)

    return replace(dataset, records=tuple(paint(record) for record in dataset.records))


@pytest.mark.parametrize("name", ["ph2-sample", "isic-crop512-val", "isic2017-val-256", "pad-smartphone"])
@pytest.mark.parametrize("convention", ["isic", "coco", "folder"])
def test_import_correct_export_import_is_identical(
    kit, real_data: Path, tmp_path: Path, name: str, convention: str
) -> None:
    source = smallest(read_dataset(real_data / name))
    kit.last(export_dataset(source.records, tmp_path / "first", "folder", config=KEEP))
    changed = corrected(read_dataset(tmp_path / "first"))
    expected = kit.digests(changed)
    assert set(expected.values()).isdisjoint(kit.digests(source).values())
    kit.last(export_dataset(changed.records, tmp_path / "out", convention, config=KEEP))
    kit.last(import_dataset(tmp_path / "out", tmp_path / "back"))
    back = read_dataset(tmp_path / "back")
    assert back.problems == ()
    if convention != "folder":  # colors of lesions have no place in ISIC and COCO
        without = replace(changed, records=tuple(replace(record, regions={}) for record in changed.records))
        expected = kit.digests(without)
    assert kit.digests(back) == expected


def test_the_originals_come_in_unchanged(kit, real_data: Path, tmp_path: Path) -> None:
    for name in ("ph2-sample", "isic-crop512-val", "pad-smartphone"):
        source = smallest(read_dataset(real_data / name))
        kit.last(export_dataset(source.records, tmp_path / name, "folder", config=KEEP))
        assert kit.digests(read_dataset(tmp_path / name)) == kit.digests(source)


@pytest.fixture
def various(kit, tmp_path: Path) -> list[Record]:
    """Ten images of two classes; one without a lesion, one all lesion, one with an accent in its name."""
    records = [kit.record(seed, classes=3, lesion=f"L{seed // 2}") for seed in range(10)]
    signed = Provenance("am", "", None, "no lesion", "2026-01-02T03:04:05+00:00")
    records[3] = replace(records[3], mask=np.zeros((40, 56), np.uint8), provenance=signed)
    records[4] = replace(records[4], mask=np.ones((40, 56), np.uint8), name="bl\u00e5")
    records[5] = replace(records[5], metadata={"sex": "female"}, mask=records[5].mask * (records[5].mask > 1))
    return records


def from_dicom(records: list[Record], folder: Path) -> list[Record]:
    """Give every record a photograph that it came from."""
    folder.mkdir()
    made = []
    for record in records:
        path = folder / f"{record.name}.dcm"
        write_photograph(path, record.image, record.patient)
        made.append(replace(record, image=functools.partial(read_photograph, path), origin=path))
    return made


@pytest.mark.parametrize(
    "name", [name for name, found in FORMATS.items() if found.write and not found.landmarks]
)
def test_every_export_can_be_imported(kit, various: list[Record], tmp_path: Path, name: str) -> None:
    records = from_dicom(various, tmp_path / "camera") if name == "dicom" else various
    kit.last(export_dataset(records, tmp_path / "out", name, config=KEEP))
    dataset = read_dataset(tmp_path / "out")
    assert (dataset.format, dataset.problems) == (name, ())
    report = kit.last(import_dataset(tmp_path / "out", tmp_path / "back"))
    assert report.problems == ()
    parts = {
        line.split(",")[0]: line.split(",")[1]
        for line in (tmp_path / "out/provenance.csv").read_text(encoding="utf-8").splitlines()[1:]
    }
    before = {record.name: record for record in records}
    for found in (dataset, read_dataset(tmp_path / "back")):
        without = [replace(record, regions={}) for record in found.records]  # ISIC's attributes
        assert kit.digests(Dataset(name, without)) == kit.digests(Dataset(name, records))
        for record in found.records:
            one = before[record.name]
            assert record.classes == one.classes
            assert (record.patient, record.part) == (one.patient, parts[record.name])
            assert record.provenance == one.provenance
            if name != "dicom":  # whose header has no place for them
                assert (record.lesion, record.diagnosis) == (one.lesion, one.diagnosis)
