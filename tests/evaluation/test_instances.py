from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_lesionseg.errors import MaskError
from napari_lesionseg.evaluation.instances import (
    MatchCounts,
    Ranked,
    add_counts,
    average_precision,
    count_matches,
    match_instances,
    overlaps,
)

maps = hnp.arrays(np.int32, (7, 9), elements=st.integers(0, 4))


def boxes(*places: tuple[int, int, int, int]) -> np.ndarray:
    """Draw boxes (top, left, bottom, right), numbered from 1."""
    ids = np.zeros((40, 60), np.int32)
    for number, (top, left, bottom, right) in enumerate(places, 1):
        ids[top:bottom, left:right] = number
    return ids


TRUTH = boxes((0, 0, 10, 10), (0, 20, 10, 30), (20, 0, 30, 10))
FOUND = boxes((0, 0, 10, 8), (2, 25, 12, 35), (20, 0, 30, 10), (30, 40, 40, 50))


def test_overlaps() -> None:
    found = overlaps(FOUND, TRUTH)
    assert found.jaccard.shape == (4, 3)
    assert found.jaccard[0] == pytest.approx([0.8, 0, 0])
    assert found.jaccard[1] == pytest.approx([0, 40 / 160, 0])
    assert found.jaccard[2] == pytest.approx([0, 0, 1])
    assert not found.jaccard[3].any()


def test_known_counts() -> None:
    counts = count_matches(FOUND, TRUTH)
    assert (counts.matched, counts.extra, counts.missed) == (2, 2, 1)
    assert counts.precision == pytest.approx(0.5)
    assert counts.recall == pytest.approx(2 / 3)
    assert counts.f1 == pytest.approx(4 / 7)
    assert counts.mean_jaccard == pytest.approx(0.9)
    assert counts.quality == pytest.approx(1.8 / 3.5)


def test_a_low_threshold_takes_more() -> None:
    assert count_matches(FOUND, TRUTH, 0.2).matched == 3
    assert count_matches(FOUND, TRUTH, 0.9).matched == 1


def test_exactly_half_is_enough() -> None:
    assert count_matches(boxes((0, 0, 10, 5)), boxes((0, 0, 10, 10)), 0.5).matched == 1


def test_as_many_as_possible_are_matched_below_a_half() -> None:
    # greedily the first would take the only partner of the second
    truth = boxes((0, 0, 10, 10), (0, 10, 10, 20))
    found = boxes((0, 2, 10, 14), (0, 0, 10, 2))
    assert match_instances(overlaps(found, truth), 0.15) == {1: 2, 2: 1}


def test_empty_maps() -> None:
    nothing = boxes()
    assert count_matches(nothing, nothing) == MatchCounts()
    assert not MatchCounts().present
    assert MatchCounts().f1 == MatchCounts().quality == 1
    assert count_matches(nothing, TRUTH).f1 == 0
    assert count_matches(TRUTH, nothing) == MatchCounts(extra=3)


def test_counts_of_images_add_up() -> None:
    total = add_counts([count_matches(FOUND, TRUTH), count_matches(TRUTH, TRUTH)])
    assert (total.matched, total.extra, total.missed) == (5, 2, 1)
    assert total.jaccard_sum == pytest.approx(4.8)


@given(maps, maps, st.sampled_from([0.1, 0.5, 0.75]))
def test_matches_are_one_to_one_and_good_enough(found: np.ndarray, truth: np.ndarray, level: float) -> None:
    overlap = overlaps(found, truth)
    pairs = match_instances(overlap, level)
    assert len(set(pairs.values())) == len(pairs)
    for one, two in pairs.items():
        both = ((found == one) & (truth == two)).sum()
        assert both / ((found == one) | (truth == two)).sum() >= level
    counts = count_matches(found, truth, level)
    assert counts.matched + counts.extra == len(overlap.predicted)
    assert counts.matched + counts.missed == len(overlap.truth)
    assert count_matches(truth, found, level).f1 == pytest.approx(counts.f1)


@given(maps)
def test_a_map_matches_itself(ids: np.ndarray) -> None:
    assert count_matches(ids, ids, 1.0).f1 == 1


def test_other_shapes_are_refused() -> None:
    with pytest.raises(MaskError, match="shape"):
        overlaps(TRUTH, TRUTH[:5])


# ------------------------------------------------------------------------------- average precision


def test_all_found_is_perfect_whatever_the_confidence() -> None:
    scored = average_precision([Ranked(TRUTH, {1: 0.2, 2: 0.9, 3: 0.0}, TRUTH)])
    assert scored is not None
    assert scored.mean == 1
    assert len(scored.values) == 10


def test_false_finds_cost_only_if_they_were_confident() -> None:
    found = boxes((0, 0, 10, 10), (0, 20, 10, 30), (20, 0, 30, 10), (30, 40, 40, 50))
    low = average_precision([Ranked(found, {1: 0.9, 2: 0.8, 3: 0.7, 4: 0.1}, TRUTH)], [0.5])
    high = average_precision([Ranked(found, {1: 0.9, 2: 0.8, 3: 0.7, 4: 0.95}, TRUTH)], [0.5])
    assert low is not None
    assert high is not None
    assert low.mean == 1
    assert high.mean == pytest.approx(0.75)  # precisions 1/2, 2/3, 3/4, made to fall with the recall


def test_no_lesions_no_precision() -> None:
    assert average_precision([Ranked(TRUTH, {1: 1, 2: 1, 3: 1}, boxes())]) is None
    nothing = average_precision([Ranked(boxes(), {}, TRUTH)])
    assert nothing is not None
    assert nothing.mean == 0


def drawn(seed: int, images: int = 5) -> list[Ranked]:
    """Draw discs, some of which were moved, missed or made up."""
    rng, made = np.random.default_rng(seed), []
    rows, cols = np.ogrid[:40, :50]
    for _ in range(images):
        truth, found = np.zeros((2, 40, 50), np.int32)
        for number in range(1, 8):
            row, col, radius = rng.uniform(0, 40), rng.uniform(0, 50), rng.uniform(3, 9)
            down, right = rng.normal(0, 1.5, 2)
            if rng.random() < 0.8:
                truth[(rows - row) ** 2 + (cols - col) ** 2 < radius**2] = number
            if rng.random() < 0.8:
                found[(rows - row - down) ** 2 + (cols - col - right) ** 2 < radius**2] = number
        values = np.unique(found[found > 0]).tolist()
        made.append(Ranked(found, {value: round(float(rng.random()), 1) for value in values}, truth))
    return made


def judged_by_coco(images: Sequence[Ranked]) -> np.ndarray:
    coco_module = pytest.importorskip("pycocotools.coco", reason="pycocotools is the judge (extra test)")
    evaluation = pytest.importorskip("pycocotools.cocoeval", reason="pycocotools is the judge (extra test)")
    masks = pytest.importorskip("pycocotools.mask", reason="pycocotools is the judge (extra test)")

    def entry(image: int, ids: np.ndarray, number: int) -> dict[str, object]:
        own = np.asfortranarray((ids == number).astype(np.uint8))
        return {"image_id": image, "category_id": 1, "segmentation": masks.encode(own)}

    real, found = [], []
    for image, sample in enumerate(images, 1):
        for number in np.unique(sample.truth[sample.truth > 0]):
            extra = {"id": len(real) + 1, "iscrowd": 0, "area": 1, "bbox": [0, 0, 1, 1]}
            real.append(entry(image, sample.truth, number) | extra)
        found += [entry(image, sample.predicted, n) | {"score": c} for n, c in sample.confidences.items()]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = coco_module.COCO()
        coco.dataset = {
            "images": [{"id": image, "height": 40, "width": 50} for image in range(1, len(images) + 1)],
            "categories": [{"id": 1}],
            "annotations": real,
        }
        coco.createIndex()
        judge = evaluation.COCOeval(coco, coco.loadRes(found), "segm")
        judge.evaluate()
        judge.accumulate()
    return judge.eval["precision"][:, :, 0, 0, 2].mean(axis=1)


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_that_of_pycocotools(seed: int) -> None:
    images = drawn(seed)
    scored = average_precision(images)
    assert scored is not None
    assert scored.values == pytest.approx(judged_by_coco(images), abs=1e-12)
    assert 0 < scored.mean < 1
