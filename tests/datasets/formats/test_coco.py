from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import coco as pycocotools
from pycocotools import cocoeval as evaluation

from napari_lesionseg.datasets.export import export_dataset
from napari_lesionseg.datasets.formats import ExportConfig, coco
from napari_lesionseg.datasets.formats.coco import (
    draw_polygons,
    draw_runs,
    encode_mask,
    recognizes,
    trace_polygons,
)
from napari_lesionseg.datasets.import_ import read_dataset
from napari_lesionseg.datasets.records import Provenance
from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io.folders import FolderScan
from napari_lesionseg.io.images import read_mask, write_image


@pytest.fixture
def several(kit):
    """Three classes, two numbered lesions, one image without a lesion."""
    records = []
    for seed in range(6):
        labels = kit.labels(seed, classes=3)
        instances = np.where(labels == 1, 1, 0).astype(np.uint16)
        instances[:, 28:] *= 5
        records.append(kit.record(seed, classes=3, mask=labels, instances=instances))
    nothing = np.zeros((40, 56), np.uint8)
    empty = kit.record(6, classes=3, mask=nothing, provenance=Provenance(status="no lesion"))
    return [*records, empty, kit.record(7, classes=3)]


@pytest.mark.parametrize("polygons", [True, False])
def test_pycocotools_sees_the_same_masks_and_objects(kit, several, tmp_path: Path, polygons: bool) -> None:
    config = ExportConfig(pseudonymize="nothing", polygons=polygons)
    kit.last(export_dataset(several, tmp_path / "out", "coco", config=config))
    by_name = {record.name: record for record in several}
    for path in (tmp_path / "out/annotations").glob("*.json"):
        with contextlib.redirect_stdout(io.StringIO()):
            coco = pycocotools.COCO(str(path))
        assert [category["id"] for category in coco.dataset["categories"]] == [1, 2]
        for image in coco.dataset["images"]:
            record = by_name[Path(image["file_name"]).stem]
            labels = np.zeros_like(record.mask)
            for annotation in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])):
                mask = coco.annToMask(annotation)
                assert mask.sum() == annotation["area"]
                left, top, width, height = annotation["bbox"]
                assert mask[top : top + height, left : left + width].sum() == mask.sum()
                assert annotation["id"] >= 1
                labels[mask > 0] = annotation["category_id"]
            assert np.array_equal(labels, record.mask)


def test_pycocotools_scores_the_export_against_itself(kit, several, tmp_path: Path) -> None:
    kit.last(export_dataset(several, tmp_path / "out", "coco", parts={r.name: "train" for r in several}))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = pycocotools.COCO(str(tmp_path / "out/annotations/instances_train.json"))
        found = coco.loadRes([{**annotation, "score": 1.0} for annotation in coco.dataset["annotations"]])
        judge = evaluation.COCOeval(coco, found, "segm")
        for step in (judge.evaluate, judge.accumulate, judge.summarize):
            step()
    assert judge.stats[0] == 1.0


@pytest.mark.parametrize("polygons", [True, False])
def test_masks_and_objects_survive_the_round_trip(kit, several, tmp_path: Path, polygons: bool) -> None:
    config = ExportConfig(pseudonymize="nothing", polygons=polygons)
    kit.last(export_dataset(several, tmp_path / "out", "coco", config=config))
    dataset = read_dataset(tmp_path / "out")
    assert dataset.problems == ()
    for before, after in zip(several, dataset.records, strict=True):
        pixels = after.load()
        assert np.array_equal(pixels.labels, before.mask)
        assert (after.classes, after.patient, after.provenance.status) == (
            before.classes, before.patient, before.provenance.status,
        )  # fmt: skip
        if before.instances is not None:
            pairs = np.unique(
                np.stack([before.instances, pixels.labels, pixels.instances])[:, pixels.labels > 0], axis=1
            )
            assert pairs.shape[1] == len(np.unique(pairs[2])) == len(np.unique(pairs[:2], axis=1).T)


def test_parts_become_objects_on_request(kit, tmp_path: Path) -> None:
    labels = np.zeros((40, 56), np.uint8)
    labels[2:9, 2:9] = labels[20:30, 30:40] = 1
    records = [kit.record(seed, mask=labels) for seed in range(3)]
    for split, count in ((False, 3), (True, 6)):
        folder = tmp_path / str(split)
        kit.last(export_dataset(records, folder, "coco", config=ExportConfig(split_parts=split)))
        found = [json.loads(path.read_text())["annotations"] for path in folder.glob("annotations/*.json")]
        assert sum(map(len, found)) == count


@pytest.fixture
def small(kit, tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a COCO folder by hand, with changes."""
    kit.last(export_dataset([kit.record(0), kit.record(1)], tmp_path / "made", "coco",
                            parts={"case_00": "train", "case_01": "train"}))  # fmt: skip
    path = tmp_path / "made/annotations/instances_train.json"

    def change(edit: Callable[[dict[str, Any]], object]) -> Path:
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content))
        return tmp_path / "made"

    return change


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda c: c["images"][0].update(file_name="../../secret.png"), "not a path"),
        (lambda c: c["images"][0].update(file_name="/etc/passwd"), "not a path"),
        (lambda c: c["images"][0].update(file_name="none.png"), "not there"),
        (lambda c: c["images"][0].update(id=c["images"][1]["id"]), "number"),
        (lambda c: c["images"][0].update(width=100_000, height=100_000), "camera"),
        (lambda c: c["images"][0].update(width=-1), "broken"),
        (lambda c: c["images"][0].update(width=57), "another size"),
        (lambda c: c["annotations"][0].update(category_id=9), "unknown category"),
        (lambda c: c["annotations"][0]["segmentation"].update(size=[1, 1]), "another size"),
        (lambda c: c["annotations"][0].update(segmentation=None), "broken"),
        (
            lambda c: c["annotations"].append(
                {"image_id": 99, "category_id": 1, "segmentation": [[0, 0, 1, 0, 1, 1]]}
            ),
            "no image 99",
        ),
        (lambda c: c["annotations"][0].update(segmentation=[]), "a box alone"),
        (lambda c: c["annotations"].append(3), "broken"),
        (lambda c: c["images"].append(dict(c["images"][0], id=77)), "Several entries"),
    ],
)
def test_broken_entries_are_listed_and_skipped(small, edit, words: str) -> None:
    dataset = read_dataset(small(edit))
    assert 1 <= len(dataset.records) <= 2
    assert any(words in problem.reason for problem in dataset.problems)


def test_more_work_than_an_image_is_worth_is_refused(small, monkeypatch: pytest.MonkeyPatch) -> None:
    def edit(content: dict[str, Any]) -> None:
        squares = ([[0, 0, 56, 0, 56, 40 - n / 10, 0, 40 - n / 10]] for n in range(50))
        first = content["annotations"][0]
        content["annotations"] += [{**first, "id": 100 + n, "segmentation": x} for n, x in enumerate(squares)]

    names = {record.name for record in read_dataset(small(lambda c: None)).records}
    monkeypatch.setattr(coco, "_MOST_WORK", 40 * 56 * 5)
    reasons = []
    for record in read_dataset(small(edit)).records:
        try:
            record.load()
        except DatasetError as error:
            reasons.append(str(error))
    assert len(reasons) == 1
    assert "too many" in reasons[0]
    monkeypatch.setattr(coco, "MAX_OBJECTS", 30)
    assert len(names - {record.name for record in read_dataset(small(edit)).records}) == 1


@pytest.mark.parametrize(
    "edit",
    [
        lambda c: c["annotations"][0]["segmentation"].update(counts="~~"),
        lambda c: c["annotations"][0]["segmentation"].update(counts=[1, 2, 3]),
        lambda c: c["annotations"][0].update(segmentation=[[0, 0, 1]]),
        lambda c: c["annotations"][0].update(segmentation=[[0, 0, 1e300, 0, 1, 1]]),
    ],
)
def test_masks_that_cannot_be_drawn_are_refused_when_loaded(small, edit) -> None:
    dataset = read_dataset(small(edit))
    with pytest.raises(DatasetError):
        dataset.records[0].load()
    assert dataset.records[1].load().labels.any()


@pytest.mark.parametrize(
    "edit",
    [
        lambda c: c.update(categories=[]),
        lambda c: c.update(categories=[{"id": 1}]),
        lambda c: c.update(categories=[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]),
        lambda c: c.update(images={}),
        lambda c: c["categories"].extend({"id": i, "name": str(i)} for i in range(2, 200)),
    ],
)
def test_files_that_are_no_coco_are_refused(small, edit) -> None:
    with pytest.raises(DatasetError):
        read_dataset(small(edit), "coco")


def test_categories_with_gaps_and_windows_paths_are_read(small) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["categories"] = [{"id": 90, "name": "hair"}, {"id": 18, "name": "nevus"}]
        for annotation in content["annotations"]:
            annotation["category_id"] = 18
        for image in content["images"]:
            image["file_name"] = f"train\\{image['file_name']}"

    record = read_dataset(small(edit)).records[0]
    assert record.classes == ("background", "nevus", "hair")
    assert record.name == "case_00"
    assert set(np.unique(record.load().labels)) == {0, 1}


@pytest.mark.parametrize(
    ("attributes", "facts"),
    [
        ({"Pigment network": "atypical", "ulcer": True}, {"pigment_network": "atypical", "ulcer": "True"}),
        ({"size": 3, "nested": {"a": 1}, "empty": ""}, {"size": "3"}),
        (None, {}),
        (["nevus"], {}),
    ],
)
def test_attributes_that_objects_agree_on_are_facts(small, attributes, facts: dict[str, str]) -> None:
    def edit(content: dict[str, Any]) -> None:
        for annotation in content["annotations"]:
            annotation["attributes"] = attributes

    (record, *_) = read_dataset(small(edit)).records
    assert dict(record.metadata) == facts
    assert record.load().labels.any()


@pytest.mark.parametrize(
    "further",
    [
        {"patient_id": "P7", "diagnosis": "nevus", "age": 40},
        {"PatientID": "P7", "attributes": {"Diagnosis": "nevus", "age": 40, "tags": []}},
        {"extra": {"name": "old.jpg", "Patient ID": "P7"}, "metadata": {"dx": "nevus", "age": 40}},
    ],
)
def test_what_entries_of_images_say_are_facts(small, further: dict[str, object]) -> None:
    def edit(content) -> None:
        for image in content["images"]:
            image.pop("facts")
            image.update(further, license=1, date_captured="2026-01-02")

    record = read_dataset(small(edit)).records[0]
    assert (record.patient, record.diagnosis, record.metadata["age"]) == ("P7", "nevus", "40")
    assert not {"license", "date_captured"} & record.metadata.keys()


def test_files_with_different_categories_are_refused(small, tmp_path: Path) -> None:
    folder = small(lambda content: None)
    text = (folder / "annotations/instances_train.json").read_text().replace('"lesion"', '"nevus"')
    (folder / "annotations/instances_val.json").write_text(text)
    with pytest.raises(DatasetError, match="other categories"):
        read_dataset(folder)


def test_other_json_files_are_not_taken_for_coco(tmp_path: Path) -> None:
    (tmp_path / "captions_train.json").write_text("{}")
    assert not recognizes(FolderScan(tmp_path))
    with pytest.raises(DatasetError, match="no COCO file"):
        read_dataset(tmp_path, "coco")


masks = st.tuples(st.integers(1, 20), st.integers(1, 20)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 1))
)


def run_lengths(mask: np.ndarray) -> list[int]:
    """Count the runs the slow way."""
    lengths, value = [0], 0
    for pixel in mask.ravel(order="F"):
        if pixel != value:
            lengths.append(0)
            value = pixel
        lengths[-1] += 1
    return lengths


@given(masks)
def test_masks_survive_packed_and_plain_run_lengths(mask: np.ndarray) -> None:
    assert np.array_equal(draw_runs(encode_mask(mask)["counts"], *mask.shape), mask)
    assert np.array_equal(draw_runs(run_lengths(mask), *mask.shape), mask)


@given(masks)
def test_polygons_give_the_mask_back(mask: np.ndarray) -> None:
    assert np.array_equal(draw_polygons(trace_polygons(mask), *mask.shape), mask)


def test_several_polygons_are_united() -> None:
    squares = [[0, 0, 4, 0, 4, 4, 0, 4], [2, 2, 6, 2, 6, 6, 2, 6]]
    assert draw_polygons(squares, 6, 6).sum() == 16 + 16 - 4
    assert draw_polygons([], 3, 3).sum() == 0


def test_a_hole_is_cut_free_by_one_polygon() -> None:
    mask = np.ones((9, 9), np.uint8)
    mask[3:6, 3:6] = 0
    assert len(trace_polygons(mask)) == 1
    assert trace_polygons(np.zeros((4, 4))) == []


@pytest.mark.parametrize(
    "outline",
    [
        [200, 200, 220, 200, 220, 220],
        [0.1, 0.1, 0.9, 0.1, 0.9, 0.3],
        [0.1, 0.1, 0.9, 0.1, 0.9, 0.9, 0.1, 0.9],
        [3, 3, 3, 3, 3, 3],
    ],
)
def test_an_object_without_a_pixel_is_no_image_without_lesion(small, outline: list[float]) -> None:
    """Such as of an outline in shares of the width, or of another image."""
    folder = small(lambda content: content["annotations"][0].update(segmentation=[outline]))
    first, second = read_dataset(folder).records
    with pytest.raises(DatasetError, match="covers no pixel"):
        first.load()
    assert second.load().labels.any()


@pytest.mark.parametrize(
    "polygon",
    [[], [1, 2], [1, 2, 3, 4], [0, 0, 1, 1, 2], [0, 0, 1, float("nan"), 2, 2], [0, 0, float("inf"), 1, 2, 2],
     [0, 0, 1e9, 0, 0, 1e9], [-9e5, -9e5, 9e5, 9e5] * 4],
)  # fmt: skip
def test_polygons_that_are_none_are_refused(polygon: list[float]) -> None:
    with pytest.raises(DatasetError):
        draw_polygons([polygon], 10, 10)


@pytest.mark.parametrize(
    "counts",
    [
        [],
        [5],
        [9, -9, 9],
        [4, 6],
        [1.5, 7.5],
        ["9"],
        [10**30],
        [True, 8],
        "",
        "0",
        "o",
        "9\xff",
        "P",
        "ooooooooo0",
    ],
)
def test_run_lengths_that_do_not_fill_the_image_are_refused(counts: list[int] | str) -> None:
    with pytest.raises(DatasetError, match="run lengths"):
        draw_runs(counts, 3, 3)


@settings(max_examples=400)
@given(
    st.text(alphabet=[chr(code) for code in range(45, 115)], max_size=60),
    st.integers(1, 9),
    st.integers(1, 9),
)
def test_any_packed_text_is_drawn_or_refused(text: str, height: int, width: int) -> None:
    try:
        mask = draw_runs(text, height, width)
    except DatasetError:
        return
    assert mask.shape == (height, width)
    assert np.array_equal(draw_runs(encode_mask(mask)["counts"], height, width), mask)


@given(masks, st.data())
def test_damaged_packed_text_is_drawn_or_refused(mask: np.ndarray, data: st.DataObject) -> None:
    text = encode_mask(mask)["counts"]
    at = data.draw(st.integers(0, len(text)))
    try:
        draw_runs(
            text[:at] + data.draw(st.characters(min_codepoint=48, max_codepoint=111)) + text[at:], *mask.shape
        )
    except DatasetError:
        return


@pytest.mark.parametrize("number", ["1", 1.0, 1])
def test_ids_as_text_or_decimals_count(small, number: object) -> None:
    """An object that is a box alone makes its image incomplete, however the image's id is written."""
    whole = {record.name for record in read_dataset(small(lambda c: None)).records}
    box = {"id": 9, "image_id": number, "category_id": 1, "bbox": [1, 1, 9, 9]}
    dataset = read_dataset(small(lambda c: c["annotations"].append(box)))
    assert len(whole - {record.name for record in dataset.records}) == 1
    assert any("box alone" in problem.reason for problem in dataset.problems)


@pytest.mark.parametrize("key", ["annotation", "annotations"])
def test_images_of_a_file_without_objects_are_not_outlined(small, key: str) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["annotations" if key == "annotations" else key] = []
        if key != "annotations":
            del content["annotations"]

    dataset = read_dataset(small(edit))
    assert {record.provenance.status for record in dataset.records} == {"unreviewed"}
    assert all(record.mask is None for record in dataset.records)
    assert ["lists no objects" in problem.reason for problem in dataset.problems] == [True]


def test_an_object_that_later_ones_cover_is_not_lost(small) -> None:
    def cover(content: dict[str, Any]) -> None:
        everything = [[0, 0, 56, 0, 56, 40, 0, 40]]
        first = content["annotations"][0]
        content["annotations"].append(dict(first, id=99, segmentation=everything))

    first, second = read_dataset(small(cover)).records
    with pytest.raises(DatasetError, match="wholly covered"):
        first.load()
    assert second.load().labels.any()


def test_an_object_that_is_listed_again_is_one(small) -> None:
    whole = read_dataset(small(lambda c: None)).records[0].load()
    again = read_dataset(small(lambda c: c["annotations"].append(dict(c["annotations"][0], id=99)))).records[
        0
    ]
    assert np.array_equal(again.load().labels, whole.labels)
    assert again.load().instances.max() == whole.instances.max()


def test_two_entries_of_one_file_are_left_out(small) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["images"].append(dict(content["images"][0], id=77))
        triangle = [[0, 0, 1, 0, 1, 1]]
        content["annotations"].append({"id": 9, "image_id": 77, "category_id": 1, "segmentation": triangle})

    whole = {record.name for record in read_dataset(small(lambda c: None)).records}
    dataset = read_dataset(small(edit))
    assert len(whole - {record.name for record in dataset.records}) == 1
    assert all(problem.left_out for problem in dataset.problems)


def shapes(names: dict[int, tuple[str, str]], used: list[int]) -> dict[str, Any]:
    """A file with one image and a square for each used category."""
    squares = [[10 * n, 4, 10 * n + 8, 4, 10 * n + 8, 12, 10 * n, 12] for n in range(len(used))]
    return {
        "images": [{"id": 1, "file_name": "a.png", "width": 56, "height": 40}],
        "categories": [
            {"id": key, "name": name, "supercategory": group} for key, (name, group) in names.items()
        ],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": key, "segmentation": [square]}
            for n, (key, square) in enumerate(zip(used, squares, strict=True))
        ],
    }


@pytest.mark.parametrize(
    ("names", "used", "classes"),
    [
        ({0: ("lesions", "none"), 1: ("lesion", "lesions")}, [1], ["lesion"]),
        ({0: ("Background", ""), 1: ("nevus", "")}, [1], ["nevus"]),
        ({1: ("lesion", ""), 2: ("lesion", "")}, [1, 2], ["lesion", "lesion 2"]),
        ({0: ("background", ""), 1: ("lesion", "")}, [0, 1], ["background 0", "lesion"]),
        ({1: ("melanoma", "skin"), 2: ("nevus", "skin")}, [2], ["melanoma", "nevus"]),
    ],
)
def test_classes_are_named_apart_without_placeholders(
    kit, tmp_path: Path, names: dict[int, tuple[str, str]], used: list[int], classes: list[str]
) -> None:
    (tmp_path / "_annotations.coco.json").write_text(json.dumps(shapes(names, used)))
    write_image(tmp_path / "a.png", kit.image(0))
    dataset = read_dataset(tmp_path)
    assert dataset.problems == ()
    assert dataset.records[0].classes == ("background", *classes)
    assert dataset.records[0].load().labels.any()
    for name in ("isic", "nnunet"):
        kit.last(export_dataset(dataset.records, tmp_path / name, name))
    mask = next((tmp_path / "isic").rglob("*_segmentation.png"))
    assert read_mask(mask).any()
    labels = json.loads(next((tmp_path / "nnunet").rglob("dataset.json")).read_text())["labels"]
    assert sorted(labels.values()) == list(range(len(classes) + 1))


@pytest.mark.parametrize("polygons", [False, True])
def test_thousands_of_parts_go_out_and_come_back(kit, tmp_path: Path, polygons: bool) -> None:
    """The work grows with the parts' pixels, not with parts times pixels."""
    many = np.kron((np.arange(250) % 5 == 2)[:, None] & (np.arange(375) % 5 == 2), np.ones((8, 8), np.uint8))
    one = np.zeros_like(many)
    one[100:1900, 100:2900] = 1
    seconds = {}
    for name, mask in (("one", one), ("many", many)):
        record = kit.record(0, image=np.zeros((*mask.shape, 3), np.uint8), mask=mask)
        config = ExportConfig(split_parts=True, polygons=polygons)
        start = time.process_time()
        kit.last(export_dataset([record], tmp_path / name, "coco", config=config))
        seconds[name] = time.process_time() - start
        loaded = read_dataset(tmp_path / name).records[0].load()
        assert np.array_equal(loaded.labels, mask)
    assert int(loaded.instances.max()) == 50 * 75
    assert seconds["many"] < 3 * seconds["one"] + 2
