"""The editor of one image's landmarks: a Points layer, the skeleton that follows it, and one undo history."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from napari.layers import Image, Points, Vectors
from psygnal import Signal

from napari_lesionseg.config import Skeleton
from napari_lesionseg.datasets.landmarks.records import people_of
from napari_lesionseg.errors import LandmarkError
from napari_lesionseg.masks.measurements import Scale
from napari_lesionseg.plugin.editor.undo_history import UndoHistory
from napari_lesionseg.plugin.instances.pixel_size import set_scale
from napari_lesionseg.plugin.napari_layers.layers import CLASS_COLORS, image_shape, placement
from napari_lesionseg.plugin.shortcuts import LayerKeys
from napari_lesionseg.types import OCCLUDED, VISIBLE, Landmarks, Mark

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_lesionseg.inference.prediction import Prediction

RULER = ("ruler_start", "ruler_end")
"""Landmarks whose distance in millimeters gives the scale of an image."""

COLUMNS = ("label", "id", "likelihood", "occluded")
"""Columns of a Points layer's features."""

COLORS = (CLASS_COLORS[1], CLASS_COLORS[0], *CLASS_COLORS[2:])
"""Of the people in an image, the yellow that is seen best on skin first."""

_DRAG = 4  # pixels of the screen from which a press was meant to move a point
_BRIGHT = 127  # mean of a thumbnail's bytes from which names are black
_BYTES = 200  # of a mark in memory
_DONE = ("added", "changed", "removed")


@dataclass(frozen=True, slots=True)
class Marks:
    """The landmarks of an image as a snapshot that undo restores."""

    marks: tuple[Mark, ...] = ()

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return _BYTES * len(self.marks)

    def pack(self) -> Marks:
        """Return itself, which is small."""
        return self

    def unpack(self) -> Marks:
        """Return itself."""
        return self

    def all_predictions(self) -> Iterator[Prediction]:
        """Yield nothing: the marks are all there is."""
        return iter(())


def new_landmark_layers(image: Image) -> tuple[Vectors, Points]:
    """Make empty layers for the skeleton and the landmarks of an image, at the same place in the world."""
    place = placement(image)
    bones = Vectors(
        np.empty((0, 2, 2)), name=f"{image.name} skeleton", vector_style="line", edge_color=COLORS[0], **place
    )
    points = Points(
        np.empty((0, 2)),
        features=_table([]),
        name=f"{image.name} landmarks",
        face_color=COLORS[0],
        border_color="#222222",
        text={"string": "{label}", "size": 8, "color": "white"},
        **place,
    )
    return bones, points


class LandmarkEditor:
    """Edits the landmarks of one image with napari's own tools; each click marks the next landmark.

    `changed` is emitted with what was done: "added", "changed", "dragged", "removed", "occluded",
    "prediction", "undo", "redo", "restored", or "chosen" if only another landmark comes next.
    """

    changed = Signal(str)
    failed = Signal(Exception)
    noted = Signal(str)  # why something had no effect
    undo_offered = Signal()  # `undo_verdict` was set

    def __init__(
        self, viewer: ViewerModel, image: Image, bones: Vectors, points: Points, skeleton: Skeleton
    ) -> None:
        self.viewer, self.image, self.bones, self.points = viewer, image, bones, points
        self.skeleton = skeleton
        self.history = UndoHistory(Marks(read_marks(points)))
        self.undo_verdict: Callable[[], bool] | None = None  # tried before a step is undone
        self.label = skeleton.names[0]
        """What the next click marks; empty if this person is complete."""
        self._person, self.is_writing, self.button = "", False, 1
        self.pressed: int | None = None  # the point on which the button was pressed
        size = max(4.0, max(image_shape(image)[-2:]) / 60)
        points.selected_data = set()  # else these would get the size as well
        points.current_size = size
        points.text.translation = np.array([-size, 0.0])
        bones.edge_width = size / 4
        points.text.color = "black" if np.mean(image.thumbnail[..., :3]) > _BRIGHT else "white"
        points.events.data.connect(self._on_data)
        self._select = _selecting(self)
        points.events.features.connect(self._select)
        self._drag = _dragging(self)
        points.mouse_drag_callbacks.append(self._drag)
        self._keys = LayerKeys(
            points,
            {
                "undo landmark": self.undo,
                "redo landmark": self.redo,
                "occluded": self.toggle_occluded,
                "next person": self.start_person,
                "next landmark": lambda: self.choose(1),
                "previous landmark": lambda: self.choose(-1),
            },
        )
        self._show("restored")

    @property
    def marks(self) -> tuple[Mark, ...]:
        """The landmarks as they are marked."""
        return self.history.current.marks

    @property
    def people(self) -> tuple[Landmarks, ...]:
        """The landmarks, one set for each id, without marks that fit no skeleton."""
        return people_of(self.marks, self.skeleton)[0]

    def choose(self, step: int) -> None:
        """Choose the landmark that the next click marks, so many further in the list."""
        names = self.skeleton.names
        place = names.index(self.label) + step if self.label else (0 if step > 0 else -1)
        self.label = names[place % len(names)]
        self.changed.emit("chosen")

    def start_person(self) -> None:
        """Mark another person from now on."""
        numbers = {mark.id for mark in self.marks}
        if self._person in numbers:
            self._person = next(str(n) for n in range(2, len(numbers) + 3) if str(n) not in numbers)
        self.label = self.skeleton.names[0]
        self.changed.emit("chosen")

    def toggle_occluded(self) -> None:
        """Mark the selected landmarks, or else the last one, as occluded, or as visible again."""
        selected = set(self.points.selected_data)
        chosen = selected or {len(self.marks) - 1}
        marks = [mark for row, mark in enumerate(self.marks) if row in chosen]
        if not marks:
            self.noted.emit("Mark or select a landmark first.")
            return
        state = VISIBLE if all(mark.visibility == OCCLUDED for mark in marks) else OCCLUDED
        changed = [
            mark._replace(visibility=state) if row in chosen else mark for row, mark in enumerate(self.marks)
        ]
        self.put(changed, "occluded")
        self.points.selected_data = selected

    def put(self, marks: Iterable[Mark], kind: str, *, merge: bool = False) -> None:
        """Replace all landmarks, as a step that can be undone; `merge` as in `UndoHistory.record`."""
        self.history.record(Marks(tuple(marks)), kind, merge=merge)
        self._show(kind)

    def use_skeleton(self, skeleton: Skeleton) -> None:
        """Mark other landmarks from now on; marks that these lack stay, but belong to no person."""
        self.skeleton = skeleton
        self._show("restored")

    def restore(self, history: UndoHistory[Marks]) -> None:
        """Use a history that was kept when the image was left, or one that starts with saved landmarks."""
        self.history = history
        self._show("restored")

    def undo(self) -> None:
        """Undo the last step, or the verdict that led to this image."""
        if self.undo_verdict is not None and self.undo_verdict():
            return
        if self.history.depth:
            self.history.undo()
            self._show("undo")
        else:
            self.noted.emit("There is nothing to undo.")

    def redo(self) -> None:
        """Redo the step that was undone last."""
        if self.history.can_redo:
            self.history.redo()
            self._show("redo")
        else:
            self.noted.emit("There is nothing to redo.")

    def close(self) -> None:
        """Stop following the layers."""
        self.points.events.data.disconnect(self._on_data)
        self.points.events.features.disconnect(self._select)
        self.points.mouse_drag_callbacks.remove(self._drag)
        self._keys.close()

    def _on_data(self, event: Any) -> None:
        """Record what napari's tools did."""
        action = str(getattr(event.action, "value", event.action))
        if self.is_writing or action not in _DONE:
            return
        marks = read_marks(self.points)
        if action == "added":
            marks = self._added(marks, event.data_indices)
        if marks != self.marks:
            self.put(marks, action)
        else:
            self._show("chosen")  # nothing has changed, and an approval stands
        if action == "removed":
            self.pressed = None

    def _added(self, marks: Sequence[Mark], added: Sequence[int]) -> tuple[Mark, ...]:
        """Return marks of which the added ones have names; one that was marked before is moved."""
        new = {index % len(marks) for index in added}
        kept = [mark for row, mark in enumerate(marks) if row not in new]
        if self.button != 1 or self.pressed is not None:
            return tuple(kept)  # the other buttons zoom and move the image; a click on a point selects it
        for row in sorted(new):
            if not self.label:
                self.noted.emit("All landmarks of this person are marked.")
            elif _nearest_inside(self.image, marks[row]) != marks[row]:
                self.noted.emit(f"Click inside the image to mark {self.label}.")
            else:
                kept = [mark for mark in kept if (mark.label, mark.id) != (self.label, self._person)]
                kept.append(Mark(self.label, marks[row].row, marks[row].col, id=self._person))
                self.label = label_after(self.label, self.skeleton, kept, self._person)
        return tuple(kept)

    def _show(self, kind: str) -> None:
        """Write the current landmarks into the layers; what is occluded becomes a ring."""
        marks, skeleton = self.marks, self.skeleton
        if kind in {"undo", "redo", "removed", "restored", "prediction"}:
            self.label = label_after(skeleton.names[-1], skeleton, marks, self._person)
        numbers = list(dict.fromkeys(mark.id for mark in marks))
        color = {number: COLORS[place % len(COLORS)] for place, number in enumerate(numbers)}
        self.is_writing = True
        try:
            if marks != read_marks(self.points):
                _write_marks(self.points, marks)
            if marks:
                self.points.size = np.full(len(marks), self.points.current_size)
                self.points.symbol = ["ring" if mark.visibility == OCCLUDED else "disc" for mark in marks]
                self.points.face_color = [color[mark.id] for mark in marks]
        finally:
            self.is_writing = False
        bones, colors = [], []
        for person in self.people:
            for one, other in skeleton.edges:
                if person.labeled[one] and person.labeled[other]:
                    bones.append((person.points[one], person.points[other] - person.points[one]))
                    colors.append(color[person.id])
        self.bones.data = np.array(bones, float).reshape(-1, 2, 2)
        if colors:
            self.bones.edge_color = colors
        self.changed.emit(kind)


def set_scale_from_ruler(editor: LandmarkEditor, millimeters: float) -> str:
    """Take the scale of an image from the two ends of its ruler; return what to tell the user."""
    places = dict[str, tuple[float, float]]()
    for mark in editor.marks:
        places.setdefault(_as_name(mark.label), (mark.row, mark.col))
    if not all(name in places for name in RULER):
        raise LandmarkError(f"Mark the landmarks {RULER[0]} and {RULER[1]} first.")
    scale = Scale.from_line(places[RULER[0]], places[RULER[1]], millimeters)
    set_scale(editor.image, scale, f"ruler of {millimeters:g} mm")
    return f"{editor.image.name}: a pixel is {scale.millimeters:.4g} mm wide; measurements use this."


def has_ruler(skeleton: Skeleton) -> bool:
    """Whether both ends of a ruler are among the landmarks."""
    return {_as_name(name) for name in skeleton.names} >= set(RULER)


def _as_name(label: str) -> str:
    return "_".join(label.casefold().split())


def label_after(label: str, skeleton: Skeleton, marks: Iterable[Mark], person: str) -> str:
    """Return the next landmark that a person lacks, from one on; an empty text if there is none."""
    names, known = skeleton.names, {mark.label for mark in marks if mark.id == person}
    place = names.index(label) + 1
    return next((name for name in (*names[place:], *names[:place]) if name not in known), "")


def _selecting(editor: LandmarkEditor) -> Callable[[], None]:
    """Return what selects the point that was clicked on, after napari selected what it tried to add."""

    def select() -> None:
        if editor.pressed is not None and not editor.is_writing:
            editor.points.selected_data = {editor.pressed}

    return select


def _dragging(editor: LandmarkEditor) -> Callable[[Points, Any], Iterator[None]]:
    """Return what moves a point that is dragged in napari's mode for adding points, which does not."""

    def drag(layer: Points, event: Any) -> Iterator[None]:
        # In that mode, napari adds a point at a click of any button.
        editor.button = event.button if str(layer.mode) == "add" else 1
        row = layer.get_value(event.position, world=True) if str(layer.mode) == "add" else None
        editor.pressed = row if event.button == 1 else None
        if row is None or event.button != 1:
            return
        before, start, moved = editor.marks, np.array(event.pos), False
        event.handled = True  # else the canvas moves as well
        layer.selected_data = {row}  # which the keys act on
        yield
        while event.type == "mouse_move":
            event.handled = True
            moved = moved or bool(np.linalg.norm(np.array(event.pos) - start) > _DRAG)
            if moved:
                at = layer.world_to_data(event.position)[-2:]
                mark = before[row]._replace(row=float(at[0]), col=float(at[1]))
                mark = _nearest_inside(editor.image, mark)
                # Not "changed", or a move made with napari's own tool just before would be joined to it.
                editor.put((*before[:row], mark, *before[row + 1 :]), "dragged", merge=True)
            yield
        editor.history.end_merging()
        layer.selected_data = {row}

    return drag


def _nearest_inside(image: Image, mark: Mark) -> Mark:
    """Return a mark itself, or at the edge of its image if it is outside."""
    row, col = np.clip((mark.row, mark.col), -0.5, np.array(image_shape(image)[-2:]) - 0.5).tolist()
    return mark._replace(row=row, col=col)


def read_marks(points: Points) -> tuple[Mark, ...]:
    """Return the landmarks of a layer as they are, whether they fit a skeleton or not."""
    rows = zip(points.data, points.features.to_dict("records"), strict=True)
    return tuple(
        Mark(
            str(entry.get("label", "")),
            float(place[-2]),
            float(place[-1]),
            OCCLUDED if entry.get("occluded") is True else VISIBLE,
            float(np.clip(np.nan_to_num(entry.get("likelihood", 1.0), nan=1), 0, 1)),
            str(entry.get("id", "")),
        )
        for place, entry in rows
    )


def _write_marks(points: Points, marks: Sequence[Mark]) -> None:
    """Show marks in a layer."""
    places = np.array([(mark.row, mark.col) for mark in marks], float).reshape(-1, 2)
    points.selected_data = set()
    points.data = places
    # napari draws texts at once, but a hidden layer still has the points of before in view: IndexError.
    with points.text.events.blocker_all():
        points.features = _table(marks)
    points.refresh()


def _table(marks: Sequence[Mark]) -> pd.DataFrame:
    """Return the features of points."""
    values = (
        [mark.label for mark in marks],
        [mark.id for mark in marks],
        [mark.score for mark in marks],
        [mark.visibility == OCCLUDED for mark in marks],
    )
    types = ("object", "object", "float64", "bool")
    columns = zip(COLUMNS, values, types, strict=True)
    return pd.DataFrame({name: pd.Series(column, dtype=kind) for name, column, kind in columns})
