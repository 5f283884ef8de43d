from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from napari_lesionseg.datasets.export import export_dataset
from napari_lesionseg.datasets.formats import DatasetInfo
from napari_lesionseg.io.images import read_image, read_mask


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
