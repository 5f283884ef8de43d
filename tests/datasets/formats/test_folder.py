from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_erosion

from napari_lesionseg.datasets import formats
from napari_lesionseg.datasets.export import export_dataset
from napari_lesionseg.datasets.formats import ExportConfig
from napari_lesionseg.datasets.formats.folder import CLASSES_NAME, read_legend
from napari_lesionseg.datasets.import_ import import_dataset, read_dataset
from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io import decoding
from napari_lesionseg.io.images import read_mask, write_image, write_mask
from napari_lesionseg.types import IGNORED

COLORS = np.array([[0, 0, 0], [255, 0, 0], [0, 200, 30]], np.uint8)


def lay_out(kit, folder: Path, masks: dict[str, np.ndarray], beside: bool = False) -> Path:
    """Write images and masks, in two folders or side by side."""
    images = folder if beside else folder / "images"
    places = folder if beside else folder / "masks"
    for place in (images, places):
        place.mkdir(parents=True, exist_ok=True)
    for seed, (name, mask) in enumerate(masks.items()):
        write_image(images / f"{name}.png", kit.image(seed))
        Image.fromarray(mask).save(places / f"{name}{'_mask' if beside else ''}.png")
    return folder


@pytest.mark.parametrize("beside", [True, False])
def test_black_and_white_masks(kit, tmp_path: Path, beside: bool) -> None:
    masks = {name: kit.labels(seed) * np.uint8(255) for seed, name in enumerate("ab")}
    dataset = read_dataset(lay_out(kit, tmp_path, masks, beside))
    assert dataset.format == "folder"
    assert dataset.records[0].classes == ("background", "lesion")
    assert np.array_equal(dataset.records[1].load().labels, kit.labels(1))


def test_class_indices_get_names_from_the_legend(kit, tmp_path: Path) -> None:
    lay_out(kit, tmp_path, {"a": kit.labels(0, classes=3), "b": kit.labels(1)})
    assert read_dataset(tmp_path).records[1].classes == ("background", "lesion", "class 2")
    (tmp_path / CLASSES_NAME).write_text("index,name\n0,skin\n1,nevus\n2,hair\n3,ruler\n")
    record = read_dataset(tmp_path).records[0]
    assert record.classes == ("skin", "nevus", "hair", "ruler")
    assert np.array_equal(record.load().labels, kit.labels(0, classes=3))


def test_colors_are_numbered_in_their_order(kit, tmp_path: Path) -> None:
    lay_out(kit, tmp_path, {"a": COLORS[kit.labels(0, classes=3)], "b": COLORS[kit.labels(1)]})
    first, second = read_dataset(tmp_path).records
    assert first.classes == second.classes == ("background", "#00c81e", "#ff0000")
    swapped = np.array([0, 2, 1], np.uint8)
    assert np.array_equal(first.load().labels, swapped[kit.labels(0, classes=3)])
    assert np.array_equal(second.load().labels, swapped[kit.labels(1)])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (CLASSES_NAME, "index,name,color\n0,background,#000000\n1,lesion,#FF0000\n2,hair,#00c81e\n"),
        (
            "labelmap.txt",
            "# label:color_rgb:parts:actions\nlesion:255,0,0::\nhair:0,200,30::\nbackground:0,0,0::\n",
        ),
    ],
)
def test_a_legend_names_the_colors(kit, tmp_path: Path, name: str, text: str) -> None:
    lay_out(kit, tmp_path, {"a": COLORS[kit.labels(0, classes=3)]})
    (tmp_path / name).write_text(text)
    record = read_dataset(tmp_path).records[0]
    assert record.classes == kit.classes
    assert np.array_equal(record.load().labels, kit.labels(0, classes=3))


def test_one_color_is_the_lesion_however_dark(kit, tmp_path: Path) -> None:
    dark = np.array([[0, 0, 0], [0, 9, 7]], np.uint8)
    lay_out(kit, tmp_path, {"a": dark[kit.labels(0)], "b": dark[kit.labels(1) * 0]})
    first, second = read_dataset(tmp_path).records
    assert first.classes == ("background", "lesion")
    assert np.array_equal(first.load().labels, kit.labels(0))
    assert not second.load().labels.any()


def test_gray_colors_are_indices(kit, tmp_path: Path) -> None:
    lay_out(kit, tmp_path, {"a": np.repeat(kit.labels(0, classes=3)[..., None], 3, axis=2)})
    record = read_dataset(tmp_path).records[0]
    assert len(record.classes) == 3
    assert np.array_equal(record.load().labels, kit.labels(0, classes=3))


def test_a_color_outside_the_legend_is_named(kit, tmp_path: Path) -> None:
    lay_out(kit, tmp_path, {"a": COLORS[kit.labels(0, classes=3)]})
    (tmp_path / CLASSES_NAME).write_text("index,name,color\n0,b,#000000\n1,lesion,#ff0000\n")
    with pytest.raises(DatasetError, match="#00c81e"):
        read_dataset(tmp_path).records[0].load()


@pytest.mark.parametrize(
    "rows",
    [
        "0,a,\n2,b,\n",
        "0,a,\n0,b,\n",
        "x,a,\n",
        "0,a,red\n1,b,\n",
        "0,a,#000000\n1,b,#000000\n",
        "0,a,\n",
        "999,a,\n",
    ],
)
def test_a_damaged_legend_is_refused(tmp_path: Path, rows: str) -> None:
    (tmp_path / CLASSES_NAME).write_text(f"index,name,color\n{rows}")
    with pytest.raises(DatasetError, match="legend"):
        read_legend(tmp_path)


def test_the_classes_of_roboflow_are_read(kit, tmp_path: Path) -> None:
    for part in ("train", "valid"):
        (tmp_path / part).mkdir()
        write_image(tmp_path / part / f"{part}.jpg", kit.image(len(part)))
        Image.fromarray(kit.labels(0) * np.uint8(2)).save(tmp_path / part / f"{part}_mask.png")
        (tmp_path / part / "_classes.csv").write_text(
            "Pixel Value, Class\n0, background\n1, hair\n2, nevus\n"
        )
    dataset = read_dataset(tmp_path)
    assert dataset.problems == ()
    assert {record.classes for record in dataset.records} == {("background", "hair", "nevus")}
    (tmp_path / "train" / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, nevus\n")
    with pytest.raises(DatasetError, match="name different classes"):
        read_dataset(tmp_path)
    (tmp_path / "train" / "_classes.csv").write_text(
        "filename, patient\ntrain.jpg, P1\n"
    )  # of another export
    assert {record.name: record.patient for record in read_dataset(tmp_path).records}["train"] == "P1"


def test_a_photograph_as_mask_is_named_and_left_out(kit, tmp_path: Path) -> None:
    lay_out(kit, tmp_path, {"a": kit.image(3)})
    dataset = read_dataset(tmp_path)
    assert "photograph" in dataset.problems[0].reason
    assert dataset.records[0].mask is None


def test_names_of_pad_tell_patient_and_lesion(kit, tmp_path: Path) -> None:
    lay_out(kit, tmp_path, {"PAT_355_732_102": kit.labels(0) * np.uint8(255)})
    record = read_dataset(tmp_path).records[0]
    assert (record.patient, record.lesion) == ("355", "732")


def test_links_that_lead_out_are_listed(kit, tmp_path: Path) -> None:
    lay_out(kit, tmp_path / "set", {"a": kit.labels(0) * np.uint8(255), "b": kit.labels(1) * np.uint8(255)})
    (tmp_path / "set/images/a.png").rename(tmp_path / "a.png")
    (tmp_path / "set/images/a.png").symlink_to(tmp_path / "a.png")
    dataset = read_dataset(tmp_path / "set")
    assert [record.name for record in dataset.records] == ["b"]
    assert [problem.name for problem in dataset.problems] == ["a.png"]
    assert "--follow-links" in dataset.problems[0].reason
    followed = read_dataset(tmp_path / "set", follow_links=tmp_path)
    assert followed.problems == ()
    assert np.array_equal(followed.records[0].load().image, kit.image(0))
    assert len(read_dataset(tmp_path / "set", follow_links=tmp_path / "set").problems) == 1


def test_a_mask_that_is_not_fetched_is_named(kit, tmp_path: Path) -> None:
    lay_out(kit, tmp_path, {"a": kit.labels(0) * np.uint8(255), "b": kit.labels(1) * np.uint8(255)})
    (tmp_path / "masks/a.png").unlink()
    (tmp_path / "masks/a.png").symlink_to("../.git/annex/objects/a.png")
    dataset = read_dataset(tmp_path)
    assert [record.mask is None for record in dataset.records] == [True, False]
    assert [(problem.name, "not there" in problem.reason) for problem in dataset.problems] == [
        ("a.png", True)
    ]


def test_folders_elsewhere_are_followed_when_allowed(kit, tmp_path: Path) -> None:
    lay_out(kit, tmp_path / "cache", {"a": kit.labels(0) * np.uint8(255)})
    (tmp_path / "set").mkdir()
    for name in ("images", "masks"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "cache" / name)
    assert {problem.name for problem in read_dataset(tmp_path / "set").problems} == {"images", "masks"}
    dataset = read_dataset(tmp_path / "set", follow_links=tmp_path / "cache")
    assert dataset.problems == ()
    assert np.array_equal(dataset.records[0].load().labels, kit.labels(0))


@pytest.mark.parametrize("forms", [("NFC", "NFD", "NFC"), ("NFD", "NFC", "NFD")])
def test_names_pair_however_their_letters_are_composed(
    kit, tmp_path: Path, forms: tuple[str, str, str]
) -> None:
    image, mask, row = (unicodedata.normalize(form, "blåbær") for form in forms)
    for place in ("images", "masks"):
        (tmp_path / place).mkdir()
    write_image(tmp_path / f"images/{image}.png", kit.image(0))
    write_mask(tmp_path / f"masks/{mask}_mask.png", kit.labels(0))
    (tmp_path / "facts.csv").write_text(f"name,patient\n{row},P1\n")
    dataset = read_dataset(tmp_path)
    assert dataset.problems == ()
    assert [(record.patient, record.mask is None) for record in dataset.records] == [("P1", False)]


def test_what_systems_leave_behind_is_skipped(kit, tmp_path: Path) -> None:
    lay_out(kit, tmp_path, {"a": kit.labels(0) * np.uint8(255)})
    for name in ("@eaDir/a.png", "__MACOSX/a.png", "images/._a.png", "images/@eaDir/b.png", ".DS_Store"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    dataset = read_dataset(tmp_path)
    assert dataset.problems == ()
    assert [record.name for record in dataset.records] == ["a"]


@pytest.mark.skipif(getattr(os, "getuid", int)() == 0, reason="root, and Windows, may read everything")
def test_a_folder_that_cannot_be_listed_is_named(kit, tmp_path: Path) -> None:
    lay_out(kit, tmp_path, {"a": kit.labels(0) * np.uint8(255)})
    (tmp_path / "locked").mkdir(mode=0)
    assert [problem.name for problem in read_dataset(tmp_path).problems] == ["locked"]


def test_everything_comes_back(kit, tmp_path: Path) -> None:
    numbers = [(kit.labels(seed, classes=3) * np.uint16(seed + 1)) for seed in range(4)]
    records = [
        kit.record(seed, classes=3, instances=numbers[seed], regions={"blue-gray": kit.labels(seed + 1)},
                   lesion="L", metadata={"sex": "male"})
        for seed in range(4)
    ]  # fmt: skip
    config = ExportConfig(pseudonymize="nothing")
    kit.last(export_dataset(records, tmp_path / "out", "folder", config=config))
    for before, after in zip(records, read_dataset(tmp_path / "out").records, strict=True):
        pixels = after.load()
        assert np.array_equal(pixels.image, before.image)
        assert np.array_equal(pixels.labels, before.mask)
        assert np.array_equal(pixels.instances, before.instances)
        assert np.array_equal(pixels.regions["blue-gray"], before.regions["blue-gray"])
        assert (after.name, after.patient, after.lesion, after.diagnosis, after.classes, after.metadata) == (
            before.name, before.patient, before.lesion, before.diagnosis, before.classes, before.metadata,
        )  # fmt: skip


def test_images_without_masks_come_along(kit, tmp_path: Path) -> None:
    lay_out(kit, tmp_path, {"a": kit.labels(0) * np.uint8(255)})
    write_image(tmp_path / "images/b.png", kit.image(1))
    write_mask(tmp_path / "masks/c.png", kit.labels(1))
    dataset = read_dataset(tmp_path)
    assert [(problem.name, problem.reason) for problem in dataset.problems] == [
        ("c.png", "The mask has no image.")
    ]
    assert [record.mask is None for record in dataset.records] == [False, True]
    assert dataset.records[1].provenance.status == "unreviewed"


def test_links_that_lead_in_a_circle_are_named_and_the_others_are_taken(kit, tmp_path: Path) -> None:
    root = lay_out(kit, tmp_path / "set", {"a": kit.labels(0)})
    for place in (root / "round.png", root / "images/round.png", root / "masks/b.png", root / "tables.csv"):
        place.symlink_to(place.name)
    dataset = read_dataset(root)
    assert [record.name for record in dataset.records] == ["a"]
    assert {problem.name for problem in dataset.problems} == {"round.png", "b.png", "tables.csv"}


def test_one_odd_mask_is_named_and_the_others_are_taken(kit, tmp_path: Path) -> None:
    masks = {name: kit.labels(seed) * np.uint8(255) for seed, name in enumerate("abc")}
    dataset = read_dataset(lay_out(kit, tmp_path, masks | {"odd": kit.labels(3) * np.uint8(3)}))
    assert [(problem.name, problem.left_out) for problem in dataset.problems] == [("odd.png", True)]
    assert "class indices" in dataset.problems[0].reason
    assert {record.name: record.mask is None for record in dataset.records} == {
        "a": False, "b": False, "c": False, "odd": True,
    }  # fmt: skip
    assert dataset.records[0].classes == ("background", "lesion")


@pytest.mark.parametrize(("background", "lesion"), [(1, 2), (2, 1), (255, 1)])
def test_masks_without_any_background_are_named(kit, tmp_path: Path, background: int, lesion: int) -> None:
    masks = {name: np.where(kit.labels(seed), lesion, background) for seed, name in enumerate("ab")}
    dataset = read_dataset(
        lay_out(kit, tmp_path, {name: mask.astype(np.uint8) for name, mask in masks.items()})
    )
    assert [problem.name for problem in dataset.problems] == ["a.png", "b.png"]
    assert "No mask has pixels of 0" in dataset.problems[0].reason
    assert [record.mask for record in dataset.records] == [None, None]


def test_a_mask_full_of_classes_among_others_is_taken(kit, tmp_path: Path) -> None:
    masks = {"a": kit.labels(0, classes=3), "b": kit.labels(1) + np.uint8(1)}
    assert read_dataset(lay_out(kit, tmp_path, masks)).problems == ()


@pytest.mark.parametrize("name", ["SegmentationClass", "segmentationclass"])
def test_the_folders_of_voc_and_cvat_are_read(kit, tmp_path: Path, name: str) -> None:
    for folder in ("JPEGImages", name):
        (tmp_path / folder).mkdir()
    write_image(tmp_path / "JPEGImages" / "a.png", kit.image(1))
    write_mask(tmp_path / name / "a.png", kit.labels(1))
    (record,) = read_dataset(tmp_path).records
    assert np.array_equal(record.load().labels, kit.labels(1))


def test_a_black_and_white_mask_among_class_indices_is_named(kit, tmp_path: Path) -> None:
    masks = {name: kit.labels(seed, classes=3) for seed, name in enumerate("abc")}
    dataset = read_dataset(lay_out(kit, tmp_path, masks | {"odd": kit.labels(3) * np.uint8(255)}))
    assert [problem.name for problem in dataset.problems] == ["odd.png"]
    assert dataset.records[0].classes == ("background", "lesion", "class 2")


def test_class_indices_with_a_border_are_not_black_and_white(kit, tmp_path: Path) -> None:
    masks = {name: kit.labels(seed, classes=3) for seed, name in enumerate("abc")} | {"d": kit.labels(3)}
    for mask in masks.values():
        mask[:3] = IGNORED
    dataset = read_dataset(lay_out(kit, tmp_path, masks))
    assert dataset.problems == ()
    assert all(np.array_equal(record.load().labels, masks[record.name]) for record in dataset.records)


def fill(kit, root: Path, count: int, odd: dict[int, np.ndarray]) -> Path:
    """Lay out many black-and-white masks, and some odd ones by their number."""
    masks = {f"{number:03}": kit.labels(number) * np.uint8(255) for number in range(count)}
    return lay_out(kit, root, masks | {f"{number:03}": mask for number, mask in odd.items()})


def test_of_many_black_and_white_masks_a_sample_is_decoded(
    kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = fill(kit, tmp_path, 200, {77: COLORS[kit.labels(77)]})
    decoded: list[str] = []
    monkeypatch.setattr(
        formats.folder, "decode", lambda path: (decoded.append(path.stem), decoding.decode(path))[1]
    )
    dataset = read_dataset(root)
    assert len(decoded) < 70
    assert "077" in decoded  # its header shows the colors
    assert len([record for record in dataset.records if record.mask]) == 200


@pytest.mark.parametrize("number", range(80, 84))
def test_an_odd_mask_among_many_is_named_when_it_is_loaded(kit, tmp_path: Path, number: int) -> None:
    root = fill(kit, tmp_path / "set", 140, {number: kit.labels(number, classes=3)})
    report = kit.last(import_dataset(root, tmp_path / "in"))
    assert f"{number:03}" in " ".join(problem.name for problem in report.problems if problem.left_out)
    assert len([record for record in read_dataset(tmp_path / "in").records if record.mask]) == 139


def with_border(labels: np.ndarray) -> np.ndarray:
    bordered = labels.copy()
    bordered[:3] = IGNORED
    return bordered


@pytest.mark.parametrize("count", [6, 140])
def test_a_mask_in_which_255_is_to_be_ignored_is_odd_where_it_is_the_lesion(
    kit, tmp_path: Path, count: int
) -> None:
    for number in (1, count - 2):
        root = fill(kit, tmp_path / f"{number}", count, {number: with_border(kit.labels(number))})
        report = kit.last(import_dataset(root, tmp_path / f"in{number}"))
        (problem,) = (problem for problem in report.problems if problem.left_out)
        assert f"{number:03}" in problem.name
        assert "255, which is the lesion in most others" in problem.reason


def test_a_mask_without_classes_is_odd_where_255_is_to_be_ignored(kit, tmp_path: Path) -> None:
    masks = {name: with_border(kit.labels(seed)) for seed, name in enumerate("abc")}
    only_border = with_border(np.zeros_like(masks["a"]))
    dataset = read_dataset(lay_out(kit, tmp_path, masks | {"odd": only_border}))
    assert [(problem.name, problem.left_out) for problem in dataset.problems] == [("odd.png", True)]
    assert "to be ignored in most others" in dataset.problems[0].reason


def test_a_mask_without_classes_is_unclear_where_a_legend_names_several(kit, tmp_path: Path) -> None:
    masks = {name: with_border(kit.labels(seed, classes=3)) for seed, name in enumerate("ab")}
    root = lay_out(kit, tmp_path / "set", masks | {"odd": with_border(np.zeros_like(masks["a"]))})
    (root / "classes.csv").write_text("index,name\n0,background\n1,lesion\n2,hair\n")
    report = kit.last(import_dataset(root, tmp_path / "in"))
    assert [(problem.name, problem.left_out) for problem in report.problems] == [("odd", True)]
    assert "which may be to be ignored" in report.problems[0].reason


@pytest.mark.parametrize(("color", "index"), [("#ffffff", 2), ("#00ff00", None)])
def test_white_stands_for_what_a_legend_of_colors_says(
    kit, tmp_path: Path, color: str, index: int | None
) -> None:
    root = lay_out(kit, tmp_path, {"a": kit.labels(1) * np.uint8(255)})
    table = f"index,name,color\n0,background,#000000\n1,hair,#ff0000\n2,lesion,{color}\n"
    (root / "classes.csv").write_text(table)
    (record,) = read_dataset(root).records
    if index is None:
        with pytest.raises(DatasetError, match="#ffffff stands for no class"):
            record.load()
    else:
        assert np.array_equal(record.load().labels, kit.labels(1) * index)


@pytest.mark.parametrize(("colored", "gray"), [(4, 1), (2, 3)])
def test_masks_with_and_without_colors_do_not_mix(kit, tmp_path: Path, colored: int, gray: int) -> None:
    masks = {f"color{seed}": COLORS[kit.labels(seed, classes=3)] for seed in range(colored)}
    masks |= {f"gray{seed}": kit.labels(9 + seed) * np.uint8(255) for seed in range(gray)}
    dataset = read_dataset(lay_out(kit, tmp_path, masks))
    odd = "gray" if colored > gray else "color"
    assert {problem.name for problem in dataset.problems} == {
        f"{name}.png" for name in masks if name.startswith(odd)
    }
    assert len(dataset.records[0].classes) == (3 if odd == "gray" else 2)


def test_an_inverted_mask_is_taken_and_named(kit, tmp_path: Path) -> None:
    root = fill(kit, tmp_path / "set", 4, {2: (1 - kit.labels(2)) * np.uint8(255)})
    report = kit.last(import_dataset(root, tmp_path / "in"))
    assert [(problem.name, problem.left_out) for problem in report.problems] == [("002", False)]
    assert "may be inverted" in report.problems[0].reason


def test_a_line_around_a_lesion_is_taken_and_named(kit, tmp_path: Path) -> None:
    labels = kit.labels(2)
    line = labels & ~binary_erosion(labels, iterations=2)
    root = fill(kit, tmp_path / "set", 4, {2: line * np.uint8(255)})
    report = kit.last(import_dataset(root, tmp_path / "in"))
    assert [(problem.name, problem.left_out) for problem in report.problems] == [("002", False)]
    assert "not filled" in report.problems[0].reason


def test_class_indices_are_found_in_any_of_many_masks(kit, tmp_path: Path) -> None:
    masks = {f"{number:03}": kit.labels(number) for number in range(140)}
    for number in range(80, 84):
        masks[f"{number:03}"] = kit.labels(number, classes=3)
        dataset = read_dataset(lay_out(kit, tmp_path / f"{number}", masks))
        assert dataset.records[0].classes == ("background", "lesion", "class 2")
        masks[f"{number:03}"] = kit.labels(number)


def test_masks_of_one_bit_are_not_decoded(kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = lay_out(kit, tmp_path, {f"{number:03}": kit.labels(number) > 0 for number in range(140)})
    decoded: list[Path] = []
    monkeypatch.setattr(
        formats.folder, "decode", lambda path: (decoded.append(path), decoding.decode(path))[1]
    )
    dataset = read_dataset(root)
    assert len(decoded) < 70
    assert all(record.load().labels.any() for record in dataset.records)


@pytest.mark.parametrize("payload", [b"", b"not an image"])
def test_a_damaged_mask_is_named_and_the_others_are_taken(kit, tmp_path: Path, payload: bytes) -> None:
    lay_out(kit, tmp_path, {name: kit.labels(seed) * np.uint8(255) for seed, name in enumerate("ab")})
    (tmp_path / "masks/a.png").write_bytes(payload)
    dataset = read_dataset(tmp_path)
    assert [problem.name for problem in dataset.problems] == ["a.png"]
    assert np.array_equal(dataset.records[1].load().labels, kit.labels(1))


def test_soft_edges_of_one_color_are_the_lesion(kit, tmp_path: Path) -> None:
    soft = Image.fromarray(kit.labels(0, (160, 224)) * np.uint8(255)).resize(
        (56, 40), Image.Resampling.BICUBIC
    )
    red = np.zeros((40, 56, 3), np.uint8)
    red[..., 0] = soft
    lay_out(kit, tmp_path, {"a": red})
    record = read_dataset(tmp_path).records[0]
    assert record.classes == ("background", "lesion")
    assert np.array_equal(record.load().labels, read_mask(tmp_path / "masks/a.png"))


@pytest.fixture
def ignored(kit, tmp_path: Path) -> tuple[Path, np.ndarray]:
    """Two masks with two classes and a border to be ignored, one stored with a palette."""
    labels = [kit.labels(seed, classes=3) for seed in range(2)]
    for mask in labels:
        mask[:2] = IGNORED
    lay_out(kit, tmp_path / "set", {"a": labels[0], "b": labels[1]})
    image = Image.fromarray(labels[1])
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [224] * 759)
    image.save(tmp_path / "set/masks/b.png")
    return tmp_path / "set", np.stack(labels)


def test_ignored_pixels_come_back(kit, ignored: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    folder, labels = ignored
    records = read_dataset(folder).records
    assert records[0].classes == ("background", "lesion", "class 2")
    report = kit.last(export_dataset(records, tmp_path / "out", "folder"))
    assert report.problems == ()
    for record, expected in zip(read_dataset(tmp_path / "out").records, labels, strict=True):
        assert np.array_equal(record.load().labels, expected)


@pytest.mark.parametrize("name", ["coco", "coco-panoptic", "isic"])
def test_ignored_pixels_that_become_background_are_named(
    kit, ignored: tuple[Path, np.ndarray], tmp_path: Path, name: str
) -> None:
    report = kit.last(export_dataset(read_dataset(ignored[0]).records, tmp_path / "out", name))
    assert len(report.problems) == 2
    assert all("background" in problem.reason for problem in report.problems)


@pytest.mark.parametrize("name", ["coco", "isic", "nnunet", "imagefolder", "folder"])
@pytest.mark.parametrize("kind", ["gray", "palette"])
def test_the_border_of_a_mask_is_never_a_lesion(kit, tmp_path: Path, name: str, kind: str) -> None:
    """Through import, export and import again; VOC's palette gives 224, 224, 192 to the index 255."""
    labels = {"a": kit.labels(0, classes=3), "b": kit.labels(1, classes=3)}
    root = lay_out(kit, tmp_path / "set", labels)
    for stem, mask in labels.items():
        mask[:3] = IGNORED
        stored = Image.fromarray(mask)
        if kind == "palette":
            table = np.zeros((256, 3), np.uint8)
            table[1], table[2], table[255] = (128, 0, 0), (0, 128, 0), (224, 224, 192)
            stored.putpalette(table.tobytes())
        stored.save(root / f"masks/{stem}.png")
    kept = ExportConfig(pseudonymize="nothing", unapproved="include")
    kit.last(export_dataset(read_dataset(root).records, tmp_path / "out", name, config=kept))
    assert kit.last(import_dataset(tmp_path / "out", tmp_path / "in")).left_out == 0
    for record in read_dataset(tmp_path / "in").records:
        assert len(record.classes) == 3
        found, expected = record.load().labels, labels[record.name]
        assert np.array_equal(found == 1, expected == 1)
        assert np.array_equal(found == 2, expected == 2)


def test_nnunet_has_a_label_for_ignored_pixels(kit, ignored: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    kit.last(export_dataset(read_dataset(ignored[0]).records, tmp_path / "out", "nnunet"))
    content = json.loads(next((tmp_path / "out").rglob("dataset.json")).read_text())
    assert content["labels"] == {"background": 0, "lesion": 1, "class 2": 2, "ignore": 3}
    masks = [np.asarray(Image.open(path)) for path in (tmp_path / "out").rglob("labels*/*.png")]
    assert {int(value) for mask in masks for value in np.unique(mask)} == {0, 1, 2, 3}


def test_masks_with_different_endings_belong_to_their_images(kit, tmp_path: Path) -> None:
    for place in ("images", "masks"):
        (tmp_path / place).mkdir()
    for seed, ending in enumerate(("_segmentation", "_mask", "_MASK", "_lesion", "")):
        write_image(tmp_path / f"images/p{seed}.png", kit.image(seed))
        write_mask(tmp_path / f"masks/p{seed}{ending}.png", kit.labels(seed))
    dataset = read_dataset(tmp_path)
    assert dataset.problems == ()
    assert len(dataset.records) == 5
    for seed, record in enumerate(dataset.records):
        assert np.array_equal(record.load().labels, kit.labels(seed))


def test_an_image_with_several_masks_gets_none(kit, tmp_path: Path) -> None:
    lay_out(kit, tmp_path, {name: kit.labels(seed) * np.uint8(255) for seed, name in enumerate("ab")})
    write_mask(tmp_path / "masks/a_mask.png", kit.labels(2))
    dataset = read_dataset(tmp_path)
    assert [problem.name for problem in dataset.problems] == ["a.png"]
    assert "several masks" in dataset.problems[0].reason
    assert [record.mask is None for record in dataset.records] == [True, False]


def test_two_images_of_one_name_are_named_and_the_others_are_taken(kit, tmp_path: Path) -> None:
    lay_out(kit, tmp_path, {name: kit.labels(seed) * np.uint8(255) for seed, name in enumerate("ab")})
    write_image(tmp_path / "images/a.jpg", kit.image(5))
    dataset = read_dataset(tmp_path)
    assert {problem.name for problem in dataset.problems} == {"a.png", "a.jpg"}
    assert [record.name for record in dataset.records] == ["b"]


LAYOUTS = {
    "part_images": ("{part}/images/{name}.png", "{part}/masks/{name}.png"),
    "images_part": ("images/{part}/{name}.png", "masks/{part}/{name}.png"),
    "words": ("{part}_images/{name}.png", "{part}-Labels/{name}.png"),
    "beside": ("{part}/{name}.png", "{part}/{name}_mask.png"),
    "flat_masks": ("images/{part}/{name}.png", "masks/{name}.png"),
    "deep": ("set/{part}/img/{name}.jpg", "set/{part}/ground_truth/{name}.png"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_in_folders_for_each_part(kit, tmp_path: Path, layout: str) -> None:
    for number, part in enumerate(("train", "train", "valid", "test")):
        for path, pixels in zip(LAYOUTS[layout], (kit.image(number), kit.labels(number) * 255), strict=True):
            file = tmp_path / path.format(part=part, name=f"p{number}")
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
    (tmp_path / "notes.md").write_text("two cameras")
    (tmp_path / "patients.csv").write_text("image,patient\np0,A\np1,A\np2,B\np3,C\n")
    dataset = read_dataset(tmp_path)
    assert (dataset.format, dataset.problems) == ("folder", ())
    assert [(record.name, record.part, record.patient) for record in dataset.records] == [
        ("p0", "train", "A"), ("p1", "train", "A"), ("p2", "val", "B"), ("p3", "test", "C"),
    ]  # fmt: skip
    for number, record in enumerate(dataset.records):
        assert np.array_equal(record.load().labels, kit.labels(number))


def test_one_name_in_several_folders_is_several_images(kit, tmp_path: Path) -> None:
    """A folder for each patient, whose images have the same names."""
    for number, patient in enumerate(("Ann", "Bob", "Cyd")):
        (tmp_path / patient).mkdir()
        Image.fromarray(kit.image(number)).save(tmp_path / patient / "left.jpg", quality=100, subsampling=0)
        Image.fromarray(kit.labels(number) * 255).save(tmp_path / patient / "left_mask.png")
    Image.fromarray(kit.image(3)).save(tmp_path / "Cyd" / "right.png")
    Image.fromarray(kit.labels(3) * 255).save(tmp_path / "Cyd" / "none_mask.png")
    Image.fromarray(kit.image(4)).save(tmp_path / "Cyd" / "twice.png")
    for ending in ("mask", "seg"):
        Image.fromarray(kit.labels(4) * 255).save(tmp_path / "Cyd" / f"twice_{ending}.png")
    dataset = read_dataset(tmp_path)
    assert [record.name for record in dataset.records] == [
        "Ann_left",
        "Bob_left",
        "Cyd_left",
        "right",
        "twice",
    ]
    assert [record.mask is None for record in dataset.records] == [False, False, False, True, True]
    for number, record in enumerate(dataset.records[:3]):
        assert np.array_equal(record.load().labels, kit.labels(number))
    assert sorted(problem.name for problem in dataset.problems) == ["none_mask.png", "twice.png"]
