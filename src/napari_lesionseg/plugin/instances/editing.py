"""Edits of the lesions of a layer, each one undoable step. No widgets in here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
from psygnal import Signal

from napari_lesionseg.errors import MaskError
from napari_lesionseg.masks import instance_edits
from napari_lesionseg.masks.instances import InstanceMap
from napari_lesionseg.plugin.instances.layer_links import full_size, next_number, outline_of, read_numbers
from napari_lesionseg.plugin.instances.model import InstanceModel, without_ignored
from napari_lesionseg.plugin.napari_layers.labels_writing import Frame, write_masks
from napari_lesionseg.plugin.tasks import Task, run_task
from napari_lesionseg.types import LabelImage


@dataclass(frozen=True, slots=True)
class _Edit:
    """Lesions after an edit, and the numbers that are new or grew."""

    ids: InstanceMap
    touched: tuple[int, ...]


def _apply(change: Callable[..., InstanceMap], before: InstanceMap) -> _Edit:
    """Edit lesions; runs in another thread."""
    after = change(before)
    numbers = np.unique(after[after != before])
    return _Edit(after, tuple(int(number) for number in numbers if number))


class InstanceEditor:
    """Edits lesions in another thread, on copies, one edit at a time."""

    edited = Signal(tuple)  # the numbers that are to be selected
    busy = Signal(bool)
    failed = Signal(Exception)  # its text is a sentence for the user

    def __init__(self, model: InstanceModel) -> None:
        self._model = model
        self._task: Task[_Edit] | None = None

    @property
    def is_editing(self) -> bool:
        """Whether an edit is being computed."""
        return self._task is not None

    @property
    def why_not(self) -> str:
        """Why the lesions cannot be edited; empty when they can."""
        labels = self._model.labels
        if labels.multiscale or not isinstance(labels.data, np.ndarray):
            return "This layer is read from disk piece by piece and cannot be edited"
        return "Wait until the last edit is done" if self.is_editing else ""

    def merge(self, chosen: Collection[int]) -> None:
        """Merge lesions under the lowest of their numbers."""
        self._edit(partial(instance_edits.merge_instances, chosen=chosen), keep=[min(chosen, default=0)])

    def delete(self, chosen: Collection[int]) -> None:
        """Delete lesions."""
        self._edit(partial(instance_edits.delete_instances, chosen=chosen))

    def renumber(self, old: int, new: int) -> None:
        """Change the number of a lesion."""
        self._edit(partial(instance_edits.renumber_instance, old=old, new=new), keep=[new])

    def cut_by_line(self, target: int, line: Sequence[tuple[float, float]]) -> None:
        """Cut a lesion along a line of (row, col)."""
        self._edit(partial(instance_edits.split_by_line, target=target, line=line), fresh=True, keep=[target])

    def cut_by_seeds(self, target: int, seeds: Sequence[tuple[float, float]]) -> None:
        """Cut a lesion between points (row, col), one in each part."""
        cut = partial(instance_edits.split_by_seeds, target=target, seeds=seeds)
        self._edit(cut, fresh=True, keep=[target])

    def cut_at_narrow_point(self, target: int) -> None:
        """Cut a lesion where it is narrow."""
        self._edit(partial(instance_edits.split_at_narrow_point, target=target), fresh=True, keep=[target])

    def follow_outline(self) -> None:
        """Apply the corrections of the outline that the lesions were numbered from."""
        outline = outline_of(self._model.labels, self._model.viewer)
        if outline is not None:
            mask = without_ignored(read_numbers(outline, self._model.frame))
            self._edit(partial(instance_edits.follow_outline, outline=mask), fresh=True)

    def set_class(self, chosen: Collection[int], class_index: int) -> None:
        """Set the class of lesions in their outline, as an undoable step of that layer."""
        model = self._model
        outline = outline_of(model.labels, model.viewer)
        if outline is None or not chosen:
            return
        ids, mask = full_size(model.labels)[model.frame], read_numbers(outline, model.frame)
        for row in (row for row in model.rows if row.index in chosen):
            box = (slice(row.top, row.bottom), slice(row.left, row.right))
            mask[box][(ids[box] == row.index) & (mask[box] > 0)] = class_index
        write_masks(outline, {model.frame: cast("LabelImage", mask)})
        model.refresh()

    def close(self) -> None:
        """Discard the edit that is being computed."""
        if self._task is not None:
            self._task.close()

    def _edit(
        self, change: Callable[..., InstanceMap], *, fresh: bool = False, keep: Sequence[int] = ()
    ) -> None:
        """Compute an edit; `fresh` ones need an unused number, and `keep` are selected first afterwards."""
        if self.why_not:
            self.failed.emit(MaskError(f"{self.why_not}."))
            return
        labels, frame = self._model.labels, self._model.frame
        before = read_numbers(labels, frame)
        unused = next_number(labels, before)
        if fresh:
            change = partial(change, unused=unused)
        self._task = run_task(
            f"editing the lesions of {labels.name}",
            _apply,
            change,
            before,
            done=partial(self._on_edited, before, frame, tuple(keep)),
            failed=self._on_failed,
        )
        self.busy.emit(True)

    def _on_edited(self, before: InstanceMap, frame: Frame, keep: tuple[int, ...], edit: _Edit) -> None:
        self._task = None
        labels = self._model.labels
        if labels not in self._model.viewer.layers:
            self.busy.emit(False)
            return
        if not np.array_equal(read_numbers(labels, frame), before):
            self._on_failed(MaskError("The lesions changed in the meantime; try again."))
            return
        write_masks(labels, {frame: cast("LabelImage", edit.ids)})
        next_number(labels, edit.ids)
        self._model.refresh()
        self.edited.emit((*keep, *(number for number in edit.touched if number not in keep)))
        self.busy.emit(False)

    def _on_failed(self, error: Exception) -> None:
        self._task = None
        self.busy.emit(False)
        self.failed.emit(error)
