"""Real collections come in, are corrected, go out and come in again: identical by hash."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from napari_lesionseg.datasets.export import export_dataset
from napari_lesionseg.datasets.formats import ExportConfig
from napari_lesionseg.datasets.import_ import import_dataset, read_dataset
from napari_lesionseg.datasets.records import Dataset

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
