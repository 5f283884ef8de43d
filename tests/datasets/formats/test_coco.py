from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_lesionseg.datasets.export import export_dataset
from napari_lesionseg.datasets.formats import ExportConfig, coco
from napari_lesionseg.datasets.formats.coco import recognizes
from napari_lesionseg.datasets.import_ import read_dataset
from napari_lesionseg.datasets.records import Provenance
from napari_lesionseg.errors import DatasetError

pycocotools = pytest.importorskip("pycocotools.coco", reason="pycocotools is the judge (extra test)")
evaluation = pytest.importorskip("pycocotools.cocoeval", reason="pycocotools is the judge (extra test)")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # numpy 2


@pytest.fixture
def several(kit):
    """Three classes, two lesions told apart, one image without a lesion."""
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
        (lambda c: c["images"].append(dict(c["images"][0], id=77)), "taken before"),
    ],
)
def test_broken_entries_are_listed_and_skipped(small, edit, words: str) -> None:
    dataset = read_dataset(small(edit))
    assert 1 <= len(dataset.records) <= 2
    assert any(words in problem.reason for problem in dataset.problems)


def test_more_work_than_an_image_is_worth_is_refused(small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco, "_MOST_WORK", 10 * coco._LEAST_WORK)
    dataset = read_dataset(small(lambda c: c["annotations"].extend([c["annotations"][0]] * 10)))
    assert [record.name for record in dataset.records] == ["case_01"]
    assert "too many" in dataset.problems[0].reason


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


def test_files_with_different_categories_are_refused(small, tmp_path: Path) -> None:
    folder = small(lambda content: None)
    text = (folder / "annotations/instances_train.json").read_text().replace('"lesion"', '"nevus"')
    (folder / "annotations/instances_val.json").write_text(text)
    with pytest.raises(DatasetError, match="other categories"):
        read_dataset(folder)


def test_other_json_files_are_not_taken_for_coco(tmp_path: Path) -> None:
    (tmp_path / "captions_train.json").write_text("{}")
    assert not recognizes(tmp_path)
    with pytest.raises(DatasetError, match="no COCO file"):
        read_dataset(tmp_path, "coco")
