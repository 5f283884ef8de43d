"""The landmarks of one image: a Points layer, a skeleton that follows it, and their undo history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from napari.layers import Image, Points, Vectors
from numpy.typing import NDArray
from psygnal import Signal

from napari_lesionseg.config import Skeleton
from napari_lesionseg.datasets.records import Problem
from napari_lesionseg.types import NOT_LABELED, OCCLUDED, VISIBLE, Landmarks, make_landmarks

if TYPE_CHECKING:
    from napari.components import ViewerModel

COLUMNS = ("label", "id", "likelihood", "occluded")
MOST_STEPS = 100
_DONE = ("added", "changed", "removed")


class LandmarkLayer:
    """The landmarks of an image. Points can be added, moved and deleted with napari's own tools."""

    changed = Signal()

    def __init__(self, viewer: ViewerModel, image: Image, skeleton: Skeleton) -> None:
        self._viewer, self.image, self.skeleton = viewer, image, skeleton
        self._past: list[tuple[NDArray[Any], pd.DataFrame]] = []
        self._writing = False
        self._person = ""  # id of the person who is being marked
        place: dict[str, Any] = {"affine": image.affine, "scale": image.scale, "translate": image.translate}
        self.size = max(4.0, max(image.data.shape[:2]) / 60)
        self.points: Points = viewer.add_points(
            np.empty((0, 2)),
            features=_table([]),
            name=f"{image.name} landmarks",
            size=self.size,
            face_color="#ffd92f",
            border_color="#222222",
            text={"string": "{label}", "size": 8, "color": "white", "translation": [-self.size, 0]},
            **place,
        )
        self.bones: Vectors = viewer.add_vectors(
            np.empty((0, 2, 2)),
            name=f"{image.name} skeleton",
            vector_style="line",
            edge_width=self.size / 4,
            edge_color="#ffd92f",
            **place,
        )
        viewer.layers.selection.active = self.points
        self._kept = np.array(self.points.data), self.points.features.copy()
        self.points.events.data.connect(self._on_data)
        self.points.bind_key("Control-Z", lambda layer: self.undo(), overwrite=True)
        self.points.bind_key("H", lambda layer: self.toggle_occluded(), overwrite=True)

    # -------------------------------------------------------------------------------------------- reading

    @property
    def people(self) -> tuple[Landmarks, ...]:
        """The landmarks, one set for each id; what `problems` names is not in them."""
        return read_people(self.points, self.skeleton)[0]

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Points that cannot be used: unknown labels, repeated ones, and positions that are missing."""
        return read_people(self.points, self.skeleton)[1]

    # -------------------------------------------------------------------------------------------- marking

    @property
    def next_label(self) -> str:
        """The landmark that the next click marks: the first that this person lacks, else the first of all."""
        features = self.points.features
        marked = set(features["label"][features["id"] == self._person])
        return next((name for name in self.skeleton.names if name not in marked), self.skeleton.names[0])

    def start_person(self) -> None:
        """Mark another person from now on."""
        ids, number = set(self.points.features["id"]), 2
        while str(number) in ids:
            number += 1
        self._person = str(number)

    def _name_new(self, indices: Sequence[int]) -> None:
        """Name points that napari added."""
        # Not with the layer's feature defaults: napari sets these to what the selected point has, and selects
        # each new point.
        for index in indices:
            features = self.points.features.copy()
            row = len(features) + index if index < 0 else index
            features.loc[row, "label"] = ""
            self.points.features = features
            named = features.copy()
            named.loc[row, list(COLUMNS)] = [self.next_label, self._person, 1.0, False]
            self.points.features = named.astype({"likelihood": float, "occluded": bool})

    def toggle_occluded(self) -> None:
        """Mark the selected landmarks as occluded, or as visible again."""
        chosen = sorted(self.points.selected_data)
        if not chosen:
            return
        features = self.points.features.copy()
        column = features.columns.get_loc("occluded")
        features.iloc[chosen, column] = not features.iloc[chosen, column].all()
        self._write(self.points.data.copy(), features)

    def put(self, people: Sequence[Landmarks]) -> None:
        """Replace all landmarks, as one step that can be undone."""
        data, rows = [], []
        for person in people:
            for index in np.flatnonzero(person.labeled).tolist():
                data.append(person.points[index])
                occluded = bool(person.visibility[index] == OCCLUDED)
                rows.append((self.skeleton.names[index], person.id, float(person.scores[index]), occluded))
        self._write(np.array(data, float).reshape(-1, 2), _table(rows))

    def undo(self) -> bool:
        """Take back the last change; False if there is none."""
        if not self._past:
            return False
        data, features = self._past.pop()
        self._set(data, features)
        return True

    def close(self) -> None:
        """Stop following the layers."""
        self.points.events.data.disconnect(self._on_data)

    def _write(self, data: NDArray[Any], features: pd.DataFrame) -> None:
        self._remember()
        self._set(data, features)

    def _set(self, data: NDArray[Any], features: pd.DataFrame) -> None:
        self._writing = True
        try:
            self.points.selected_data = set()
            self.points.data = data
            self.points.features = features
        finally:
            self._writing = False
        self._refresh()

    def _on_data(self, event: Any) -> None:
        action = str(getattr(event.action, "value", event.action))
        if self._writing or action not in _DONE:
            return
        self._remember()
        if action == "added":
            self._name_new(event.data_indices)
        self._refresh()

    def _remember(self) -> None:
        self._past = [*self._past, self._kept][-MOST_STEPS:]

    def _refresh(self) -> None:
        """Draw the skeleton, and what is occluded as rings."""
        self._kept = np.array(self.points.data), self.points.features.copy()
        bones = []
        for person in self.people:
            for one, other in self.skeleton.edges:
                if person.labeled[one] and person.labeled[other]:
                    bones.append((person.points[one], person.points[other] - person.points[one]))
        self.bones.data = np.array(bones, float).reshape(-1, 2, 2)
        if len(self.points.data):
            occluded = self.points.features["occluded"].to_numpy(bool)
            self.points.symbol = np.where(occluded, "ring", "disc").tolist()
        self.changed.emit()


def read_people(points: Points, skeleton: Skeleton) -> tuple[tuple[Landmarks, ...], tuple[Problem, ...]]:
    """Return the landmarks of a layer, one set for each id, and the points that are in none."""
    found: dict[str, NDArray[Any]] = {}
    problems = []
    for place, (_, entry) in zip(points.data, points.features.iterrows(), strict=True):
        label = str(entry["label"])
        marks = found.setdefault(str(entry["id"]), np.full((len(skeleton.names), 4), np.nan))
        reason = _why_unusable(label, place, marks, skeleton)
        if reason:
            problems.append(Problem(points.name, reason, left_out=False))
            continue
        score = float(np.clip(np.nan_to_num(entry["likelihood"], nan=1), 0, 1))
        state = OCCLUDED if bool(entry["occluded"]) else VISIBLE
        marks[skeleton.names.index(label)] = *place, state, score
    people = []
    for person, marks in found.items():
        seen = np.nan_to_num(marks[:, 2], nan=NOT_LABELED)
        if seen.any():
            people.append(make_landmarks(marks[:, :2], seen, np.nan_to_num(marks[:, 3]), person))
    return tuple(people), tuple(problems)


def _why_unusable(label: str, place: NDArray[Any], marks: NDArray[Any], skeleton: Skeleton) -> str:
    if label not in skeleton.names:
        return f"The skeleton has no landmark '{label}'; the point is not used."
    if not np.isfinite(place).all():
        return f"The landmark '{label}' has no position and is not used."
    if np.isfinite(marks[skeleton.names.index(label)]).any():
        return f"The landmark '{label}' is marked twice; the first point is used."
    return ""


def _table(rows: Sequence[tuple[str, str, float, bool]]) -> pd.DataFrame:
    """Return the features of points."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(COLUMNS)
    types = ("object", "object", "float64", "bool")
    return pd.DataFrame(
        {
            name: pd.Series(list(values), dtype=kind)
            for name, values, kind in zip(COLUMNS, columns, types, strict=True)
        }
    )
