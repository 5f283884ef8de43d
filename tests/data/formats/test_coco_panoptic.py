from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from napari_lesionseg.data.exporting import export_dataset
from napari_lesionseg.data.formats import ExportConfig


def test_every_pixel_belongs_to_its_segment(kit, tmp_path: Path) -> None:
    records = {f"case_{seed:02}": kit.record(seed, classes=3) for seed in range(6)}
    kit.last(export_dataset(list(records.values()), tmp_path / "out", "coco-panoptic",
                            config=ExportConfig(split_parts=True)))  # fmt: skip
    seen = 0
    for path in (tmp_path / "out/annotations").glob("panoptic_*.json"):
        content = json.loads(path.read_text())
        assert {category["id"]: category["isthing"] for category in content["categories"]} == {1: 1, 2: 1}
        files = {image["id"]: image["file_name"] for image in content["images"]}
        for annotation in content["annotations"]:
            with Image.open(path.with_suffix("") / annotation["file_name"]) as opened:
                colours = np.asarray(opened).astype(int)
            numbers = colours @ [1, 256, 65536]
            labels = np.zeros(numbers.shape, np.uint8)
            for segment in annotation["segments_info"]:
                labels[numbers == segment["id"]] = segment["category_id"]
                assert (numbers == segment["id"]).sum() == segment["area"]
                left, top, width, height = segment["bbox"]
                assert (numbers[top : top + height, left : left + width] == segment["id"]).sum() == segment[
                    "area"
                ]
            record = records[Path(annotation["file_name"]).stem]
            assert np.array_equal(labels, record.mask)
            assert Path(files[annotation["image_id"]]).stem == record.name
            seen += 1
    assert seen == 6
