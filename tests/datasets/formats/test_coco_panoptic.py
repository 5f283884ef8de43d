from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from napari_lesionseg.datasets.export import export_dataset
from napari_lesionseg.datasets.formats import ExportConfig
from napari_lesionseg.datasets.import_ import read_dataset
from napari_lesionseg.errors import DatasetError
from napari_lesionseg.evaluation.panoptic import PanopticMap, make_panoptic, panoptic_quality
from napari_lesionseg.types import IGNORED, LabelImage

SHARES = {"train": 1, "val": 0, "test": 0}


@pytest.fixture
def exported(kit, tmp_path: Path) -> Path:
    """Six images of two classes, each part of an outline a segment, all in one part."""
    records = [kit.record(seed, classes=3) for seed in range(6)]
    config = ExportConfig(pseudonymize="nothing", split_parts=True, shares=SHARES)
    kit.last(export_dataset(records, tmp_path / "out", "coco-panoptic", config=config))
    return tmp_path / "out"


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    path = folder / "annotations/panoptic_train.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    return path


def test_segments_are_the_objects(kit, exported: Path) -> None:
    for record in read_dataset(exported).records:
        pixels = record.load()
        assert np.array_equal(pixels.instances > 0, pixels.labels > 0)
        content = json.loads((exported / "annotations/panoptic_train.json").read_text())
        entry = next(one for one in content["annotations"] if one["file_name"] == f"{record.name}.png")
        assert int(pixels.instances.max()) == len(entry["segments_info"])
        for number, segment in enumerate(entry["segments_info"], 1):
            assert (pixels.instances == number).sum() == segment["area"]
            assert set(pixels.labels[pixels.instances == number].tolist()) == {segment["category_id"]}


def test_the_list_alone_can_be_given(kit, exported: Path) -> None:
    whole = read_dataset(exported)
    path = exported / "annotations/panoptic_train.json"
    assert kit.digests(read_dataset(path)) == kit.digests(whole)
    other = path.rename(path.with_name("segments.json"))
    (exported / "annotations/panoptic_train").rename(exported / "annotations/segments")
    (exported / "images/train").rename(exported / "images/segments")
    with pytest.raises(DatasetError, match="--format coco-panoptic"):
        read_dataset(other)
    assert {record.name for record in read_dataset(other, "coco-panoptic").records} == {
        record.name for record in whole.records
    }


def test_layout_and_numbers_of_coco_2017(kit, tmp_path: Path) -> None:
    """Large numbers of segments, gaps between categories, things and stuff, images beside the lists."""
    labels = kit.labels(0, classes=3)
    numbers = np.choose(labels, [0, 3226956, 6972565])
    for place in ("train2017", "annotations/panoptic_train2017"):
        (tmp_path / place).mkdir(parents=True)
    Image.fromarray(kit.image(0)).save(tmp_path / "train2017/000000000009.jpg")
    colors = np.stack([numbers & 255, numbers >> 8 & 255, numbers >> 16], -1).astype(np.uint8)
    Image.fromarray(colors).save(tmp_path / "annotations/panoptic_train2017/000000000009.png")
    image = {"id": 9, "file_name": "000000000009.jpg", "width": 56, "height": 40}
    segments = [{"id": 6972565, "category_id": 17, "iscrowd": 0}, {"id": 3226956, "category_id": 1}]
    content = {
        "images": [image],
        "categories": [{"id": 1, "name": "lesion", "isthing": 1}, {"id": 17, "name": "hair", "isthing": 0}],
        "annotations": [{"image_id": 9, "file_name": "000000000009.png", "segments_info": segments}],
    }
    (tmp_path / "annotations/panoptic_train2017.json").write_text(json.dumps(content))
    dataset = read_dataset(tmp_path)
    (record,) = dataset.records
    assert (dataset.format, dataset.problems, record.part) == ("coco-panoptic", (), "train")
    assert record.classes == kit.classes
    assert np.array_equal(record.load().labels, labels)


def test_an_image_whose_segments_do_not_fit_is_named(exported: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        first, second, third, fourth, fifth, _ = content["annotations"]
        first["segments_info"].pop()  # drawn but not listed
        second["segments_info"].append({"id": 99, "category_id": 1})  # not drawn
        third["segments_info"][0]["category_id"] = 7
        fourth["file_name"] = "none.png"
        fifth["image_id"] = "x"

    change(exported, edit)
    dataset = read_dataset(exported)
    assert len(dataset.records) == 3
    assert sum("segment" in problem.reason or "mask" in problem.reason for problem in dataset.problems) >= 3
    reasons = []
    for record in dataset.records:
        try:
            record.load()
        except DatasetError as error:
            reasons.append(str(error))
    assert ["drawn but not listed" in reasons[0], "99 is not drawn" in reasons[1]] == [True, True]


def test_two_entries_of_one_image_are_left_out(exported: Path) -> None:
    def repeat(content: dict[str, Any]) -> None:
        image = {**content["images"][0], "id": 77}
        content["images"].append(image)
        content["annotations"].append({**content["annotations"][0], "image_id": 77})

    change(exported, repeat)
    dataset = read_dataset(exported)
    assert len(dataset.records) == 5
    assert [problem.reason for problem in dataset.problems] == [
        "Several entries have this file; all are left out."
    ]


def test_gray_masks_are_refused(exported: Path) -> None:
    path = next((exported / "annotations/panoptic_train").iterdir())
    Image.fromarray(np.zeros((40, 56), np.uint8)).save(path)
    dataset = read_dataset(exported)
    record = next(found for found in dataset.records if found.name == path.stem)
    with pytest.raises(DatasetError, match="24-bit color"):
        record.load()


def test_a_folder_without_lists_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no file of panoptic segments"):
        read_dataset(tmp_path, "coco-panoptic")


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
