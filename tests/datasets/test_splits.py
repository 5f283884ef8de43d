from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter

from napari_lesionseg.datasets.splits import (
    SplitItem,
    _count_bits,
    assign_parts,
    describe_unknown_patients,
    find_duplicates,
    group_items,
    image_hash,
    leaks,
    split_folds,
)
from napari_lesionseg.datasets.synthetic import synthetic_sample
from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io.images import read_image
from napari_lesionseg.types import ByteImage

names = st.one_of(st.none(), st.integers(0, 6).map(str))
item_lists = st.lists(st.tuples(names, names, names), max_size=40).map(
    lambda rows: [SplitItem(f"p{i:02}", *row) for i, row in enumerate(rows)]
)


@settings(max_examples=150)
@given(item_lists, st.integers(0, 5))
def test_no_patient_or_lesion_is_torn_apart(items: list[SplitItem], seed: int) -> None:
    parts = assign_parts(items, seed=seed)
    assert set(parts) == {item.stem for item in items}
    assert leaks(items, parts) == []
    for item in items:
        for other in items:
            same_patient = item.patient is not None and item.patient == other.patient
            loose = item.patient is None or other.patient is None
            if same_patient or (item.lesion is not None and item.lesion == other.lesion and loose):
                assert parts[item.stem] == parts[other.stem]


@given(item_lists, st.randoms())
def test_order_of_the_images_does_not_matter(items: list[SplitItem], random: object) -> None:
    shuffled = list(items)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert assign_parts(shuffled, seed=3) == assign_parts(items, seed=3)


def test_strata_and_shares_come_out_even() -> None:
    items = [SplitItem(f"{i:03}", stratify_by="melanoma" if i % 5 == 0 else "nevus") for i in range(200)]
    parts = assign_parts(items)
    assert Counter(parts.values()) == {"train": 140, "test": 40, "val": 20}
    melanomas = Counter(parts[item.stem] for item in items if item.stratify_by == "melanoma")
    assert abs(melanomas["train"] - 28) <= 1
    assert abs(melanomas["val"] - 4) <= 1
    assert abs(melanomas["test"] - 8) <= 1


def test_many_rare_strata_do_not_all_go_to_one_part() -> None:
    parts = assign_parts([SplitItem(f"{i:03}", stratify_by=str(i)) for i in range(100)])
    assert abs(Counter(parts.values())["train"] - 70) <= 2


def test_another_seed_gives_another_split() -> None:
    items = [SplitItem(f"{i:03}") for i in range(60)]
    assert assign_parts(items, seed=0) == assign_parts(items, seed=0)
    assert assign_parts(items, seed=0) != assign_parts(items, seed=1)


def test_every_part_gets_something_where_there_is_enough() -> None:
    parts = assign_parts([SplitItem(name) for name in "abc"])
    assert set(parts.values()) == {"train", "val", "test"}


def test_a_part_without_a_share_stays_empty() -> None:
    parts = assign_parts([SplitItem(str(i)) for i in range(10)], {"train": 1, "val": 1})
    assert Counter(parts.values()) == {"train": 5, "val": 5}


def test_an_earlier_answer_is_kept_and_joined() -> None:
    old = [SplitItem(f"a{i}", patient=str(i)) for i in range(12)]
    parts = assign_parts(old)
    new = [SplitItem(f"b{i}", patient=str(i)) for i in range(12)]
    grown = assign_parts(old + new, keep=parts, seed=9)
    assert {stem: grown[stem] for stem in parts} == parts
    assert all(grown[f"b{i}"] == parts[f"a{i}"] for i in range(12))


def test_images_of_unknown_patients_are_described_beside_known_ones() -> None:
    known, lesion, unknown = SplitItem("a", "1"), SplitItem("b", None, "left"), SplitItem("c")
    assert "1 of 3 images, such as c, have no patient" in describe_unknown_patients([known, lesion, unknown])
    assert describe_unknown_patients([known, lesion]) == ""
    assert describe_unknown_patients([unknown, SplitItem("d")]) == ""


def test_lesions_numbered_per_patient_are_not_joined() -> None:
    groups, _ = group_items([SplitItem("a", "1", "left"), SplitItem("b", "2", "left")])
    assert groups == [("a",), ("b",)]


def test_names_that_differ_in_spelling_alone_are_one_patient() -> None:
    items = [
        SplitItem("a", "p1"),
        SplitItem("b", "P1"),
        SplitItem("c", None, "Arm"),
        SplitItem("d", "2", "arm"),
        SplitItem("e", "007"),
        SplitItem("f", "7"),
        SplitItem("g", "7.0"),
        SplitItem("h", "Bl\u00e5  B"),
        SplitItem("i", "bla\u030a\u00a0b"),
        SplitItem("j", "7.5"),
    ]
    assert group_items(items)[0] == [("a", "b"), ("c", "d"), ("e", "f", "g"), ("h", "i"), ("j",)]


def test_duplicates_stay_together() -> None:
    items = [SplitItem(f"{i:02}") for i in range(30)]
    parts = assign_parts(items, duplicates=[("00", "17", "29", "unknown")])
    assert len({parts["00"], parts["17"], parts["29"]}) == 1


def test_leaks_are_named() -> None:
    items = [SplitItem("a", "P1"), SplitItem("b", "P1"), SplitItem("c")]
    assert leaks(items, {"a": "train", "b": "test", "c": "val"}) == [
        "a, b show the same patient or lesion but are in test and train."
    ]


@given(item_lists.filter(lambda items: len(group_items(items)[0]) >= 3))
def test_folds_keep_groups_and_leave_none_empty(items: list[SplitItem]) -> None:
    folds = split_folds(items, 3)
    assert set(folds.values()) == {0, 1, 2}
    for group in group_items(items)[0]:
        assert len({folds[stem] for stem in group}) == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda: assign_parts([SplitItem("a"), SplitItem("a")]),
        lambda: assign_parts([SplitItem("a")], {"train": 0}),
        lambda: assign_parts([SplitItem("a")], {"train": 1, "val": -1}),
        lambda: assign_parts([SplitItem("a")], {"train": 1, "dev": 1}),
        lambda: assign_parts([SplitItem("a", "P"), SplitItem("b", "P")], keep={"a": "train", "b": "val"}),
        lambda: split_folds([SplitItem("a")], 2),
        lambda: split_folds([SplitItem("a"), SplitItem("b")], 1),
    ],
)
def test_nonsense_is_refused(call: object) -> None:
    with pytest.raises(DatasetError):
        call()  # type: ignore[operator]


def test_resized_and_recompressed_copies_are_found(kit) -> None:
    original = kit.image(1, (200, 280))
    buffer = io.BytesIO()
    Image.fromarray(original).resize((150, 110)).save(buffer, "JPEG", quality=60)
    copies = {
        "original": image_hash(original),
        "small": image_hash(np.asarray(Image.open(buffer).convert("RGB"))),
        "bright": image_hash(np.clip(original.astype(int) + 20, 0, 255).astype(np.uint8)),
        "other": image_hash(kit.image(2, (200, 280))),
    }
    assert find_duplicates(copies) == [("original", "small", "bright")]


def test_groups_grow_through_common_members() -> None:
    base = np.full(48, ~np.uint64(0))
    near, far = base.copy(), base.copy()
    near[0] = ~np.uint64(2**30 - 1)
    far[0] = ~np.uint64(2**60 - 1)
    other = np.concatenate([~base[:8], base[8:]])
    assert find_duplicates({"a": base, "c": far, "b": near, "d": other}) == [("a", "c", "b")]


def test_bits_are_counted_without_numpy_2(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    words = rng.integers(0, 2**64, (5, 4), np.uint64)
    expected = [sum(int(word).bit_count() for word in row) for row in words]
    assert _count_bits(words).tolist() == expected
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert _count_bits(words).tolist() == expected


def test_nothing_and_one_image_have_no_duplicates(kit) -> None:
    assert find_duplicates({}) == []
    assert find_duplicates({"a": image_hash(kit.image(0))}) == []


def test_different_lesions_of_one_collection_are_told_apart(real_data: Path) -> None:
    paths = sorted((real_data / "isic-crop512-val" / "images").iterdir())[:40]
    assert find_duplicates({path.stem: image_hash(read_image(path)) for path in paths}) == []


def lesion_in_a_dark_frame(seed: int, noise: float, *, smooth: bool) -> np.ndarray:
    """A small lesion anywhere on even skin, seen through a round aperture or darkened towards the rim."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[:192, :256]
    row, col = rng.uniform(60, 130), rng.uniform(80, 170)
    lesion = np.hypot(rows - row, cols - col) < rng.uniform(14, 34)
    image = np.where(lesion[..., None], [95.0, 60, 45], [225, 180, 160])
    distance = np.hypot(rows - 96, cols - 128) / 120
    frame = np.clip(1.4 - distance**2, 0, 1) if smooth else distance < 1
    image = image * frame[..., None] + rng.normal(0, noise, (192, 256, 3))
    return image.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("noise", [0.0, 6.0])
@pytest.mark.parametrize("smooth", [False, True])
def test_different_lesions_in_one_dark_frame_are_told_apart(noise: float, smooth: bool) -> None:
    images = {str(seed): lesion_in_a_dark_frame(seed, noise, smooth=smooth) for seed in range(20)}
    buffer = io.BytesIO()
    Image.fromarray(images["3"]).resize((128, 96)).save(buffer, "JPEG", quality=70)
    images["copy"] = np.asarray(Image.open(buffer))
    hashes = {name: image_hash(image) for name, image in images.items()}
    assert find_duplicates(hashes) == [("3", "copy")]


@pytest.mark.parametrize("share", [float("nan"), float("inf"), -0.1])
def test_shares_are_numbers(share: float) -> None:
    with pytest.raises(DatasetError, match="shares"):
        assign_parts([SplitItem("a")], {"train": 0.5, "val": share})


def dark_frame(image: ByteImage, power: float) -> ByteImage:
    """Darken an image toward its corners, as a dermatoscope does."""
    height, width = image.shape[:2]
    rows, columns = np.ogrid[:height, :width]
    distance = np.hypot((rows - height / 2) / (height / 2), (columns - width / 2) / (width / 2))
    light = np.clip(1 - (distance / 1.3) ** power, 0, 1)[..., None]
    return np.asarray(image * light, dtype=np.uint8)


def pale_lesion(seed: int) -> ByteImage:
    """A lesion of no sharp border on even skin, of its own place, size and color."""
    rng = np.random.default_rng(seed)
    rows, columns = np.ogrid[:240, :320]
    row, column, depth = rng.uniform(80, 160), rng.uniform(100, 220), rng.uniform(20, 80)
    spread = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / rng.uniform(15, 50) ** 2)
    return np.asarray((200 - depth * spread)[..., None].repeat(3, axis=2), dtype=np.uint8)


@pytest.mark.parametrize("power", [1.5, 3, 6])
def test_pale_lesions_in_one_dark_frame_are_told_apart(power: float) -> None:
    lesions = {f"{seed}": image_hash(dark_frame(pale_lesion(seed), power)) for seed in range(20)}
    assert find_duplicates(lesions) == []


COPIES = {
    "jpeg": lambda image: _saved(image, quality=30),
    "half": lambda image: image.resize((160, 120)),
    "square": lambda image: image.resize((224, 224)),
    "large": lambda image: image.resize((1280, 960)),
    "bright": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.2),
    "gray": lambda image: image.convert("L").convert("RGB"),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(2)),
}


def _saved(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


@pytest.mark.parametrize("framed", [False, True])
@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_found_whatever_was_done_to_them(kind: str, framed: bool) -> None:
    for seed in range(6):
        image = pale_lesion(seed) if seed % 2 else synthetic_sample(seed, (240, 320)).image
        original = dark_frame(image, 3) if framed else image
        copy = np.asarray(COPIES[kind](Image.fromarray(original)))
        assert find_duplicates({"a": image_hash(original), "b": image_hash(copy)}) == [("a", "b")], seed
