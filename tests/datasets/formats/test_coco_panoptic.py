from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_lesionseg.datasets.export import export_dataset
from napari_lesionseg.datasets.formats import ExportConfig
from napari_lesionseg.evaluation.panoptic import PanopticMap, make_panoptic, panoptic_quality
from napari_lesionseg.types import IGNORED, LabelImage


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
                colors = np.asarray(opened).astype(int)
            numbers = colors @ [1, 256, 65536]
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


def test_the_quality_of_exported_files_is_that_of_the_pixels(kit, tmp_path: Path) -> None:
    """Read both exports back and count as panopticapi's ``pq_compute_single_core`` does; 0 is void there."""
    truths = [kit.labels(seed, classes=3) for seed in range(6)]
    guesses = [np.roll(kit.labels(seed, classes=3), (seed % 3, 2 * seed), (0, 1)) for seed in range(6)]
    for name, masks in (("truth", truths), ("guess", guesses)):
        records = [kit.record(seed, classes=3, mask=mask) for seed, mask in enumerate(masks)]
        kit.last(
            export_dataset(records, tmp_path / name, "coco-panoptic", config=ExportConfig(split_parts=True))
        )
    expected = judge(read_segments(tmp_path / "truth"), read_segments(tmp_path / "guess"))
    pairs = zip(guesses, truths, strict=True)
    qualities = [panoptic_quality(things(guess), without_void(truth), 3, {1, 2}) for guess, truth in pairs]
    total = sum(qualities[1:], qualities[0])
    for kind in (1, 2):
        assert total.classes[kind].quality == pytest.approx(expected[kind], abs=1e-12)
    assert 0.1 < expected[1] < 1


def things(labels: LabelImage) -> PanopticMap:
    return make_panoptic(labels, np.zeros(labels.shape, np.int32), {1, 2})


def without_void(labels: LabelImage) -> PanopticMap:
    made = things(labels)
    return PanopticMap(np.where(made.classes == 0, np.uint8(IGNORED), made.classes), made.ids)


def read_segments(folder: Path) -> dict[str, tuple[np.ndarray, dict[int, int]]]:
    """The numbers of every pixel, and the class of every number, by the image's name."""
    found = {}
    for path in (folder / "annotations").glob("panoptic_*.json"):
        for annotation in json.loads(path.read_text())["annotations"]:
            with Image.open(path.with_suffix("") / annotation["file_name"]) as opened:
                numbers = np.asarray(opened).astype(int) @ [1, 256, 65536]
            kinds = {segment["id"]: segment["category_id"] for segment in annotation["segments_info"]}
            found[Path(annotation["file_name"]).stem] = (numbers, kinds)
    return found


def judge(truth: dict, guess: dict) -> dict[int, float]:
    """Panoptic quality by class."""
    overlap, matched, extra, missed = Counter(), Counter(), Counter(), Counter()
    assert truth.keys() == guess.keys()
    for name, (real, real_kinds) in truth.items():
        found, found_kinds = guess[name]
        shared = Counter(zip(real.ravel().tolist(), found.ravel().tolist(), strict=True))
        real_areas, found_areas = Counter(real.ravel().tolist()), Counter(found.ravel().tolist())
        real_done, found_done = set(), set()
        for (one, two), both in shared.items():
            if not one or not two or real_kinds[one] != found_kinds[two]:
                continue
            ratio = both / (real_areas[one] + found_areas[two] - both - shared[0, two])
            if ratio > 0.5:
                matched[real_kinds[one]] += 1
                overlap[real_kinds[one]] += ratio
                real_done.add(one)
                found_done.add(two)
        missed.update(kind for number, kind in real_kinds.items() if number not in real_done)
        extra.update(
            kind
            for number, kind in found_kinds.items()
            if number not in found_done and shared[0, number] / found_areas[number] <= 0.5
        )
    return {kind: overlap[kind] / (matched[kind] + extra[kind] / 2 + missed[kind] / 2) for kind in (1, 2)}
