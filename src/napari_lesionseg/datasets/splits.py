"""Splits that do not leak: whole patients, else whole lesions, go to one part together.

The one place where images are dealt out to train, validation and test, or to folds. The same images and
the same seed give the same answer on every machine, whatever order the images come in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from napari_lesionseg.errors import DatasetError

Part: TypeAlias = Literal["train", "val", "test"]
"""Name of a part of a data set."""

PARTS: tuple[Part, ...] = ("train", "val", "test")
DEFAULT_SHARES: Mapping[Part, float] = {"train": 0.7, "val": 0.1, "test": 0.2}


@dataclass(frozen=True, slots=True)
class SplitItem:
    """What a split must know about one image.

    Parameters
    ----------
    stem : str
        Name of the image, unique in the set.
    patient : str, optional
        Images of one patient stay together.
    lesion : str, optional
        Images of one lesion stay together. Lesion names of two known patients are never taken for the same
        lesion.
    stratum : str, optional
        What should be spread evenly, such as the diagnosis.
    """

    stem: str
    patient: str | None = None
    lesion: str | None = None
    stratify_by: str | None = None


def assign_parts(
    items: Iterable[SplitItem],
    shares: Mapping[Part, float] = DEFAULT_SHARES,
    *,
    seed: int = 0,
    duplicates: Iterable[Iterable[str]] = (),
    keep: Mapping[str, Part] | None = None,
) -> dict[str, Part]:
    """Deal images out to train, validation and test.

    Parameters
    ----------
    items : iterable of SplitItem
        The images.
    shares : mapping
        Share of each part, at least 0; scaled to sum to 1. A part with share 0 stays empty.
    seed : int
        Same seed, same answer.
    twins : iterable of groups of stems
        Images that show the same thing under several names and must stay together.
    keep : mapping, optional
        An earlier answer that stays as it is: a new image of a known patient joins the others of that
        patient.

    Returns
    -------
    dict
        Part of every stem, in the order of the stems. Where there are enough patients, no part with a share
        is empty.

    Raises
    ------
    DatasetError
        When a stem comes twice, the shares are no shares, or `keep` tears a patient or lesion apart.
    """
    parts = [part for part in PARTS if shares.get(part, 0.0) > 0]
    if not parts or min(shares.values()) < 0 or not set(shares) <= set(PARTS):
        raise DatasetError("Give shares of at least 0 for train, val and test, one of them above 0.")
    total = sum(shares[part] for part in parts)
    groups, strata = group_items(items, duplicates=duplicates)
    fixed = [_kept_part(group, keep or {}) for group in groups]
    indices = [None if part is None else PARTS.index(part) for part in fixed]
    weights = np.array([shares.get(part, 0.0) / total for part in PARTS])
    dealt = _deal(groups, strata, weights, seed, indices)
    return dict(
        sorted((stem, PARTS[index]) for group, index in zip(groups, dealt, strict=True) for stem in group)
    )


def split_folds(
    items: Iterable[SplitItem], folds: int = 5, *, seed: int = 0, duplicates: Iterable[Iterable[str]] = ()
) -> dict[str, int]:
    """Deal images out to `folds` folds of about equal size for cross-validation.

    Parameters
    ----------
    items, seed, twins
        As for `assign_parts`.
    folds : int
        Number of folds, at least 2.

    Returns
    -------
    dict
        Fold, 0 to ``folds - 1``, of every stem, in the order of the stems.

    Raises
    ------
    DatasetError
        When a stem comes twice, or there are fewer patients than folds.
    """
    groups, strata = group_items(items, duplicates=duplicates)
    if folds < 2 or len(groups) < folds:
        raise DatasetError(
            f"{folds} folds need at least 2 folds and as many patients; there are {len(groups)}."
        )
    dealt = _deal(groups, strata, np.full(folds, 1.0 / folds), seed, [None] * len(groups))
    return dict(sorted((stem, index) for group, index in zip(groups, dealt, strict=True) for stem in group))


def group_items(
    items: Iterable[SplitItem], *, duplicates: Iterable[Iterable[str]] = ()
) -> tuple[list[tuple[str, ...]], dict[str, str]]:
    """Find the images that must not be torn apart.

    Parameters
    ----------
    items : iterable of SplitItem
        The images.
    twins : iterable of groups of stems
        Further images that belong together; unknown stems are ignored.

    Returns
    -------
    groups : list of tuple of str
        Stems that belong together, each stem in one group, in the order of the first stem.
    strata : dict
        Stratum of every stem, "" where there is none.

    Raises
    ------
    DatasetError
        When a stem comes twice.
    """
    ordered = sorted(items, key=lambda item: item.stem)
    strata = {item.stem: item.stratify_by or "" for item in ordered}
    if len(strata) != len(ordered):
        raise DatasetError("Two images have the same name; rename one of them before splitting.")
    joined = _Groups(strata)
    for key, stem in _shared_keys(ordered):
        joined.join(key, stem)
    for number, stems in enumerate(duplicates):
        for stem in stems:
            if stem in strata:
                joined.join(("twins", str(number)), stem)
    return joined.groups(), strata


def leaks(
    items: Iterable[SplitItem], parts: Mapping[str, Part], *, duplicates: Iterable[Iterable[str]] = ()
) -> list[str]:
    """Name the patients and lesions that a split tears apart.

    Parameters
    ----------
    items, twins
        As for `assign_parts`.
    parts : mapping
        The split to check.

    Returns
    -------
    list of str
        One sentence for each group of images that sits in several parts; empty when the split is clean.
    """
    groups, _ = group_items(items, duplicates=duplicates)
    torn = []
    for group in groups:
        seen = sorted({parts[stem] for stem in group if stem in parts})
        if len(seen) > 1:
            torn.append(
                f"{', '.join(group)} show the same patient or lesion but are in {' and '.join(seen)}."
            )
    return torn


def _shared_keys(items: Sequence[SplitItem]) -> Iterable[tuple[tuple[str, str], str]]:
    """Yield (key, stem) so that stems with a common key belong together."""
    loose = {item.lesion for item in items if item.lesion and not item.patient}
    for item in items:
        if item.patient:
            yield ("patient", item.patient), item.stem
        if item.lesion and item.lesion in loose:
            yield ("lesion", item.lesion), item.stem


class _Groups:
    """Disjoint sets of stems, joined through keys they share."""

    def __init__(self, stems: Iterable[str]) -> None:
        self._parent = {stem: stem for stem in stems}
        self._first: dict[tuple[str, str], str] = {}

    def _root(self, stem: str) -> str:
        while self._parent[stem] != stem:
            self._parent[stem] = self._parent[self._parent[stem]]
            stem = self._parent[stem]
        return stem

    def join(self, key: tuple[str, str], stem: str) -> None:
        roots = sorted((self._root(self._first.setdefault(key, stem)), self._root(stem)))
        self._parent[roots[1]] = roots[0]

    def groups(self) -> list[tuple[str, ...]]:
        members: dict[str, list[str]] = defaultdict(list)
        for stem in self._parent:
            members[self._root(stem)].append(stem)
        return sorted(tuple(sorted(group)) for group in members.values())


def _kept_part(group: Sequence[str], keep: Mapping[str, Part]) -> Part | None:
    """Return the part that an earlier split gave to the group, if any."""
    parts = sorted({keep[stem] for stem in group if stem in keep})
    if len(parts) > 1:
        raise DatasetError(
            f"The earlier split has {', '.join(group)} in {' and '.join(parts)}, "
            "though they show the same patient or lesion; split again from the start."
        )
    return parts[0] if parts else None


def _deal(
    groups: Sequence[Sequence[str]],
    strata: Mapping[str, str],
    weights: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    seed: int,
    fixed: Sequence[int | None],
) -> list[int]:
    """Give every group a part: large groups first, each to the part that is furthest behind its share.

    Behind is counted twice, over all images and over the group's own strata, so that both come out even.
    """
    table = _Tally(weights, strata)
    chosen = list(fixed)
    for group, index in zip(groups, fixed, strict=True):
        if index is not None:
            table.add(group, index)
    shuffled = np.random.default_rng(seed).permutation(len(groups))
    rank = {int(group): place for place, group in enumerate(shuffled)}
    order = sorted(range(len(groups)), key=lambda g: (-len(groups[g]), strata[groups[g][0]], rank[g]))
    for g in order:
        if chosen[g] is None:
            chosen[g] = table.neediest(groups[g])
            table.add(groups[g], chosen[g] or 0)
    answer = [index or 0 for index in chosen]
    _fill_empty(answer, groups, weights, fixed)
    return answer


class _Tally:
    """How many images each part has, in all and of each stratum."""

    def __init__(
        self, weights: np.ndarray[tuple[int, ...], np.dtype[np.float64]], strata: Mapping[str, str]
    ) -> None:
        self._weights = weights
        self._strata = strata
        self._all = np.zeros(len(weights))
        self._of: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]] = defaultdict(
            lambda: np.zeros(len(weights))
        )

    def add(self, group: Sequence[str], index: int) -> None:
        self._all[index] += len(group)
        for stem in group:
            self._of[self._strata[stem]][index] += 1

    def neediest(self, group: Sequence[str]) -> int:
        """Return the part with a share that is furthest behind once the group is counted in."""
        size = len(group)
        behind = self._weights * (self._all.sum() + size) - self._all
        for stem in group:
            have = self._of[self._strata[stem]]
            behind = behind + (self._weights * (have.sum() + size) - have) / size
        return int(np.argmax(np.where(self._weights > 0, np.round(behind, 9), -np.inf)))


def _fill_empty(
    answer: list[int],
    groups: Sequence[Sequence[str]],
    weights: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    fixed: Sequence[int | None],
) -> None:
    """Move the smallest group of the part with most groups into each part that was left without any."""
    for index in np.flatnonzero(weights > 0):
        counts = [answer.count(other) for other in range(len(weights))]
        donor = int(np.argmax(counts))
        movable = [g for g, part in enumerate(answer) if part == donor and fixed[g] is None]
        if counts[index] == 0 and counts[donor] > 1 and movable:
            answer[min(movable, key=lambda g: len(groups[g]))] = int(index)
