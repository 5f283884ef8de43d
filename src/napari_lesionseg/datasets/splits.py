"""Splits that do not leak: whole patients, else whole lesions, go to one part together.

The one place where images are assigned to train, validation and test, or to folds. The same images and
the same seed give the same answer on every machine, whatever order the images come in.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_lesionseg.errors import DatasetError
from napari_lesionseg.types import ByteImage

T = TypeVar("T")
Part: TypeAlias = Literal["train", "val", "test"]
"""Name of a part of a dataset."""

PARTS: tuple[Part, ...] = ("train", "val", "test")
HELD_OUT_SHARE = 0.1
"""Share of the images that training is tested on, where nothing else is said."""
DEFAULT_SHARES: Mapping[Part, float] = {"train": 0.7, "val": 0.1, "test": 0.2}
WHOLE: Mapping[Part, float] = {"train": 1.0}
"""Shares of a dataset that is not split."""

_NUMBER = re.compile(r"0*(\d+)(?:\.0+)?")  # spreadsheets make 7 or 7.0 of 007
_SIDE = 16
_WORDS = 2 * _SIDE * _SIDE // 64
_CONTRAST = 2
"""Least difference of two neighbors, in gray levels, whose sign says anything of an image."""

SAME_FRACTION = 40 / 512
"""Most bits, of those that say anything, in which two copies differ.

Among the 1997 images of the ISIC 2017 training set four pairs differ in at most 31 of 512 bits, all of them
copies, and the next pair, of different lesions, in 53.
"""

_LEAST_BITS = 32  # images with less contrast are not compared
# Most gray levels in which the twentieth of the cells that differ most differs. Copies that were resized,
# saved as JPEG of quality 30, made brighter or richer in contrast differ by up to 3.9; of 435 pairs of pale
# lesions in one dark frame 430 differ by more.
_SAME_GRAYS = 4.0
_EDGE = 0.05  # of the range around a cell: so much it may differ when edges fall otherwise on the grid
_LEAST_CELLS = 64


@dataclass(frozen=True, slots=True)
class SplitItem:
    """What a split must know about one image."""

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
    """Deal images out to train, validation and test."""
    parts = [part for part in PARTS if shares.get(part, 0.0) > 0]
    if (
        not parts
        or not all(0 <= share < math.inf for share in shares.values())
        or not set(shares) <= set(PARTS)
    ):
        raise DatasetError("Give shares of at least 0 for train, val and test, one of them above 0.")
    total = sum(shares[part] for part in parts)
    groups, strata = group_items(items, duplicates=duplicates)
    fixed = [_kept_part(group, keep or {}) for group in groups]
    indices = [None if part is None else PARTS.index(part) for part in fixed]
    weights = np.array([shares.get(part, 0.0) / total for part in PARTS])
    assigned = _deal(groups, strata, weights, seed, indices)
    return dict(
        sorted((stem, PARTS[index]) for group, index in zip(groups, assigned, strict=True) for stem in group)
    )


def hold_out(items: Iterable[SplitItem], share: float = HELD_OUT_SHARE) -> frozenset[str]:
    """Return the images to hold out of training: whole patients and lesions, the same ones each time."""
    parts = assign_parts(items, {"train": 1 - share, "val": share})
    return frozenset(stem for stem, part in parts.items() if part == "val")


def split_folds(
    items: Iterable[SplitItem], folds: int = 5, *, seed: int = 0, duplicates: Iterable[Iterable[str]] = ()
) -> dict[str, int]:
    """Deal images out to `folds` folds of about equal size for cross-validation."""
    groups, strata = group_items(items, duplicates=duplicates)
    if folds < 2 or len(groups) < folds:
        raise DatasetError(
            f"{folds} folds need at least 2 folds and as many patients; there are {len(groups)}."
        )
    assigned = _deal(groups, strata, np.full(folds, 1.0 / folds), seed, [None] * len(groups))
    return dict(
        sorted((stem, index) for group, index in zip(groups, assigned, strict=True) for stem in group)
    )


def group_items(
    items: Iterable[SplitItem], *, duplicates: Iterable[Iterable[str]] = ()
) -> tuple[list[tuple[str, ...]], dict[str, str]]:
    """Find the images that must not be torn apart."""
    ordered = sorted(items, key=lambda item: item.stem)
    strata = {item.stem: item.stratify_by or "" for item in ordered}
    if len(strata) != len(ordered):
        raise DatasetError("Two images have the same name; rename one of them before splitting.")
    together = [
        *_stems_by_key(ordered),
        *([stem for stem in stems if stem in strata] for stems in duplicates),
    ]
    links = ((stems[0], stem) for stems in together for stem in stems[1:])
    return sorted(tuple(sorted(group)) for group in _connected(list(strata), links)), strata


def leaks(
    items: Iterable[SplitItem], parts: Mapping[str, Part], *, duplicates: Iterable[Iterable[str]] = ()
) -> list[str]:
    """Name the patients and lesions that a split tears apart."""
    groups, _ = group_items(items, duplicates=duplicates)
    torn = []
    for group in groups:
        seen = sorted({parts[stem] for stem in group if stem in parts})
        if len(seen) > 1:
            torn.append(
                f"{', '.join(group)} show the same patient or lesion but are in {' and '.join(seen)}."
            )
    return torn


def describe_unknown_patients(items: Iterable[SplitItem]) -> str:
    """Say how many images have no patient and no lesion, if others have; "" if there are none.

    They are assigned one by one, though they may be further images of those patients: some tables name a
    patient in the first of its rows only.
    """
    ordered = list(items)
    unknown = [item.stem for item in ordered if not (item.patient or item.lesion)]
    if not unknown or len(unknown) == len(ordered):
        return ""
    return (
        f"{len(unknown)} of {len(ordered)} images, such as {unknown[0]}, have no patient; "
        "images of one patient may be in several parts."
    )


def _stems_by_key(items: Sequence[SplitItem]) -> Iterable[list[str]]:
    """Return the stems of each patient, and of each lesion of an unknown patient."""
    # Without a patient, a lesion's name may be another patient's lesion too: better together than torn.
    # Names that tables may spell in several ways are taken for the same, too, for that reason.
    loose = {_spelled_alike(item.lesion) for item in items if item.lesion and not item.patient}
    stems: dict[tuple[str, str], list[str]] = defaultdict(list)
    for item in items:
        if item.patient:
            stems["patient", _spelled_alike(item.patient)].append(item.stem)
        if item.lesion and _spelled_alike(item.lesion) in loose:
            stems["lesion", _spelled_alike(item.lesion)].append(item.stem)
    return stems.values()


def _spelled_alike(name: str) -> str:
    """Return what a name's spellings have in common: letter case, spaces, and 007, 7 or 7.0."""
    plain = " ".join(unicodedata.normalize("NFC", name).casefold().split())
    return bare_number(plain) or plain


def bare_number(name: str) -> str | None:
    """Return the digits that 007, 7 and 7.0 have in common; None for what is no such number."""
    match = _NUMBER.fullmatch(name)
    return match[1] if match else None


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
    weights: NDArray[np.float64],
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

    def __init__(self, weights: NDArray[np.float64], strata: Mapping[str, str]) -> None:
        self._weights = weights
        self._strata = strata
        self._all = np.zeros(len(weights))
        self._of: dict[str, NDArray[np.float64]] = defaultdict(lambda: np.zeros(len(weights)))

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
    weights: NDArray[np.float64],
    fixed: Sequence[int | None],
) -> None:
    """Move the smallest group of the part with most groups into each part that was left without any."""
    for index in np.flatnonzero(weights > 0):
        counts = [answer.count(other) for other in range(len(weights))]
        donor = int(np.argmax(counts))
        movable = [g for g, part in enumerate(answer) if part == donor and fixed[g] is None]
        if counts[index] == 0 and counts[donor] > 1 and movable:
            answer[min(movable, key=lambda g: len(groups[g]))] = int(index)


def image_hash(image: ByteImage) -> NDArray[np.uint64]:
    """Hash an image (H, W, 3) so that copies, resized or saved again, get nearly the same hash, (48,).

    512 bits are the signs of the brightness differences between neighbors on a grid of 16 x 16, along rows
    and along columns (the difference hash of N. Krawetz, "Kind of like that", 2013, in both directions), 512
    bits say which of them have contrast, and 256 bytes are the grid itself: different lesions on even skin in
    one dark frame differ in few signs, but much where the lesions are.
    """
    gray = Image.fromarray(image).convert("L")
    wide = np.asarray(gray.resize((_SIDE + 1, _SIDE), Image.Resampling.BOX)).astype(np.int16)
    tall = np.asarray(gray.resize((_SIDE, _SIDE + 1), Image.Resampling.BOX)).astype(np.int16)
    steps = np.concatenate([np.diff(wide, axis=1).ravel(), np.diff(tall, axis=0).ravel()])
    bits = np.packbits(np.concatenate([steps > 0, np.abs(steps) >= _CONTRAST]))
    grid = np.asarray(gray.resize((_SIDE, _SIDE), Image.Resampling.BOX)).ravel()
    return np.concatenate([bits, grid]).view(np.uint64)


def _connected(items: Sequence[T], links: Iterable[tuple[T, T]]) -> list[list[T]]:
    """Group items that are linked, directly or through others."""
    # SciPy's DisjointSet does the same, but importing its module takes 13 MB.
    root_of = {item: item for item in items}

    def root(item: T) -> T:
        while root_of[item] != item:
            root_of[item] = item = root_of[root_of[item]]
        return item

    for one, other in links:
        root_of[root(other)] = root(one)
    groups = dict[T, list[T]]()
    for item in items:
        groups.setdefault(root(item), []).append(item)
    return list(groups.values())


def find_duplicates(
    hashes: Mapping[str, NDArray[np.uint64]], fraction: float = SAME_FRACTION
) -> list[tuple[str, ...]]:
    """Group the names of images, by their hashes, that differ in at most this fraction of their bits."""
    names = list(hashes)
    table = np.array([hashes[name] for name in names], dtype=np.uint64).reshape(len(names), 6 * _WORDS)
    signs, contrast = table[:, :_WORDS], table[:, _WORDS : 2 * _WORDS]
    grids = np.ascontiguousarray(table[:, 2 * _WORDS :]).view(np.uint8)  # (N, 256)
    links = list[tuple[int, int]]()
    for row in range(1, len(names)):
        # One row against all before it: the whole table of 10 000 images would take 800 MB.
        counted = contrast[:row] | contrast[row]
        differ, bits = _count_bits((signs[:row] ^ signs[row]) & counted), _count_bits(counted)
        alike = np.flatnonzero((differ <= fraction * bits) & (bits >= _LEAST_BITS))
        for other in alike[[_gray_difference(grids[index], grids[row]) <= _SAME_GRAYS for index in alike]]:
            links.append((int(other), row))
    groups = _connected(range(len(names)), links)
    return [tuple(names[index] for index in group) for group in groups if len(group) > 1]


def _count_bits(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Count the ones in each row of words (N, words)."""
    if hasattr(np, "bitwise_count"):
        bits = np.bitwise_count(words)
    else:  # NumPy 1
        bits = np.unpackbits(words.view(np.uint8), axis=1)
    counts: NDArray[np.int64] = bits.sum(axis=1, dtype=np.int64)
    return counts


def _gray_difference(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Measure by how much two grids (256,) differ in the worst cells, beyond brightness and contrast."""
    counted = (np.minimum(first, second) > 2) & (np.maximum(first, second) < 253)  # clipped in neither
    if np.count_nonzero(counted) < _LEAST_CELLS:
        counted = np.ones(first.shape, bool)
    return max(_residual(first, second, counted), _residual(second, first, counted))


def _residual(first: NDArray[np.uint8], second: NDArray[np.uint8], counted: NDArray[np.bool_]) -> float:
    """Return what is left in the worst cells of the second grid when the first is fitted to it."""
    blocks = np.lib.stride_tricks.sliding_window_view(np.pad(second.reshape(_SIDE, _SIDE), 1, "edge"), (3, 3))
    ranges = (blocks.max(axis=(2, 3)).astype(float) - blocks.min(axis=(2, 3))).ravel()[counted]
    one, other = (grid[counted] - grid[counted].mean() for grid in (first, second))
    gain = (one * other).sum() / max(float((one**2).sum()), 1e-9)
    left = np.maximum(np.abs(gain * one - other) - _EDGE * ranges, 0)
    return float(np.sqrt((np.sort(left)[-max(1, len(left) // 20) :] ** 2).mean()))
