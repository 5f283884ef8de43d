"""Scores of landmarks: PCK, and average precision by object keypoint similarity (OKS)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_lesionseg.types import Landmarks

PCK_FRACTION = 0.1
OKS_SIGMA = 0.05
"""Standard deviation of annotators, relative to a person's size; COCO's own lie between 0.025 and 0.107."""

AREA_OF_BOX = 0.53
"""Area of a person as a share of the box around it, as in COCO's annotations."""


@dataclass(frozen=True, slots=True)
class LandmarkScores:
    """Scores over some images, each in [0, 1]."""

    pck: float
    """Share of the labeled landmarks found within `PCK_FRACTION` of the person's size."""
    precision: float
    """Average precision over the OKS thresholds 0.50 to 0.95."""


def score_landmarks(
    truth: Sequence[Sequence[Landmarks]], found: Sequence[Sequence[Landmarks]]
) -> LandmarkScores:
    """Score what was found against what is true, each a list of people for each image."""
    return LandmarkScores(pck(truth, found), average_precision(truth, found))


def pck(
    truth: Sequence[Sequence[Landmarks]],
    found: Sequence[Sequence[Landmarks]],
    fraction: float = PCK_FRACTION,
) -> float:
    """Return the percentage of correct keypoints, as a share.

    A labeled landmark is found if it is closer than ``fraction`` of the longer side of its person's bounding
    box (Yang and Ramanan 2013, doi:10.1109/TPAMI.2012.261). People are matched one to one, most landmarks
    first; those of a person that was missed count as missed. 0 if there are no labeled landmarks.
    """
    correct = total = 0
    for people, others in zip(truth, found, strict=True):
        hits = np.array([[_hits(person, other, fraction) for other in others] for person in people], int)
        hits = hits.reshape(len(people), len(others))
        total += sum(int(person.labeled.sum()) for person in people)
        while hits.size and hits.max() > 0:
            person, other = np.unravel_index(int(hits.argmax()), hits.shape)
            correct += int(hits[person, other])
            hits[person], hits[:, other] = 0, 0
    return correct / total if total else 0.0


def _hits(person: Landmarks, other: Landmarks, fraction: float) -> int:
    gaps = np.linalg.norm(person.points - other.points, axis=1)[person.labeled & other.labeled]
    return int((gaps <= fraction * person_size(person)).sum())


def person_size(person: Landmarks) -> float:
    """Return the longer side of the box around the labeled landmarks, in pixels, at least 1."""
    top, left, bottom, right = map(float, person.bounds)
    return max(bottom - top, right - left, 1.0)


def person_area(person: Landmarks) -> float:
    """Return about how many pixels a person covers, at least 1."""
    top, left, bottom, right = map(float, person.bounds)
    return max(AREA_OF_BOX * (bottom - top) * (right - left), 1.0)


def similarity(people: Sequence[Landmarks], others: Sequence[Landmarks]) -> float:
    """Return the mean object keypoint similarity (OKS, 0 to 1) of two annotators' people in an image.

    People are matched one to one, the most similar first; one who has no match counts as 0. Landmarks that
    only one of the two labeled count as 0 as well. 1 if both marked nobody.
    """
    count = max(len(people), len(others))
    if not count:
        return 1.0
    from scipy.optimize import linear_sum_assignment  # slow to import, and datasets are read without it

    table = np.array([[_oks(person, other) for other in others] for person in people], float)
    table = table.reshape(len(people), len(others))
    rows, cols = linear_sum_assignment(-table)
    return float(table[rows, cols].sum() / count)


def _oks(person: Landmarks, other: Landmarks) -> float:
    either = person.labeled | other.labeled
    both = person.labeled & other.labeled
    gaps = np.linalg.norm(person.points - other.points, axis=1)[both].astype(float)
    # The area of one and of the other, so that the order of the annotators does not matter.
    area = (person_area(person) + person_area(other)) / 2
    return float(np.exp(-(gaps**2) / (2 * area * (2 * OKS_SIGMA) ** 2)).sum() / max(int(either.sum()), 1))


def average_precision(
    truth: Sequence[Sequence[Landmarks]],
    found: Sequence[Sequence[Landmarks]],
    sigmas: Sequence[float] | None = None,
) -> float:
    """Return the average precision over the OKS thresholds 0.50, 0.55, ... 0.95, by pycocotools.

    Parameters
    ----------
    truth, found : sequence of sequences of Landmarks
        The people of each image.
    sigmas : sequence of float, optional
        How exactly annotators place each landmark, relative to a person's size; None: `OKS_SIGMA` for all.
    """
    from pycocotools.coco import COCO  # slow to import, as above
    from pycocotools.cocoeval import COCOeval

    count = next((len(person.points) for people in truth for person in people), 0)
    if not count or not any(found):
        return 0.0
    images = [{"id": number} for number in range(1, len(truth) + 1)]
    categories = [{"id": 1, "name": "person"}]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        ground, results = COCO(), COCO()
        ground.dataset = {"images": images, "categories": categories, "annotations": _entries(truth)}
        results.dataset = {"images": images, "categories": categories, "annotations": _entries(found)}
        ground.createIndex()
        results.createIndex()
        evaluation = COCOeval(ground, results, "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array(sigmas or [OKS_SIGMA] * count)
        evaluation.params.areaRng = [[0, 1e10]]
        evaluation.params.areaRngLbl = ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision: NDArray[Any] = evaluation.eval["precision"]  # (thresholds, recalls, 1, 1, 1)
    return float(np.clip(precision, 0, None).mean())


def _entries(images: Sequence[Sequence[Landmarks]]) -> list[dict[str, Any]]:
    """Convert people to COCO's annotations, numbered from 1."""
    entries: list[dict[str, Any]] = []
    for number, people in enumerate(images, 1):
        for person in people:
            if not person.labeled.any():
                continue
            top, left, bottom, right = map(float, person.bounds)
            marks = np.column_stack([np.nan_to_num(person.points[:, ::-1]), person.visibility])
            entries.append(
                {
                    "id": len(entries) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "keypoints": marks.ravel().tolist(),
                    "num_keypoints": int(person.labeled.sum()),
                    "bbox": [left, top, right - left, bottom - top],
                    "area": person_area(person),
                    "iscrowd": 0,
                    "score": person.score,
                }
            )
    return entries
