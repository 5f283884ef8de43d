"""What annotators fill in about images, until it is saved, and how it is taken back. No widgets in here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from psygnal import Signal

from napari_lesionseg.errors import FieldError, StudyError
from napari_lesionseg.plugin.instances.pixel_size import scale_of, set_scale
from napari_lesionseg.study.events import FieldValue, Identified
from napari_lesionseg.study.fields import FieldTemplate, StudyFields
from napari_lesionseg.study.followup import SCALE_FIELD, scale_in

if TYPE_CHECKING:
    from napari.layers import Image

    from napari_lesionseg.plugin.workbench.autosave import SaveQueue
    from napari_lesionseg.plugin.workbench.viewer_layers import AnyReview
    from napari_lesionseg.study.study import Study


class FieldEdits:
    """The fields of a study's images, with what is not on the disk yet, and an undo history."""

    changed = Signal(str)
    closing = Signal()  # what was typed and not entered yet is to be filled in now

    def __init__(self, study: Study, save_queue: SaveQueue) -> None:
        self._study, self._save_queue = study, save_queue
        self._unsaved: dict[str, dict[str, FieldValue]] = {}
        self._identities: dict[str, tuple[str, str]] = {}  # patients and lesions that are not saved yet
        self._past: list[tuple[str, Callable[[], None]]] = []  # images, and what takes a change back
        self.problem = ""  # why there are no fields
        self._fields: StudyFields | None = None
        try:
            self._fields = StudyFields(study)
        except StudyError as error:
            self.problem = str(error)
        save_queue.all_saved.connect(self._on_all_saved)

    @property
    def template(self) -> FieldTemplate:
        """The fields, in the order of the form."""
        return FieldTemplate(name="none") if self._fields is None else self._fields.template

    @property
    def can_undo(self) -> bool:
        """Whether something was filled in since the study was opened."""
        return bool(self._past)

    def values(self, image_id: str) -> Mapping[str, FieldValue]:
        """Return the values of an image, those that are not saved yet included."""
        saved = {} if self._fields is None else self._fields.values(image_id)
        merged = {**saved, **self._unsaved.get(image_id, {})}
        return {name: value for name, value in merged.items() if value is not None}

    def problems(self, image_id: str) -> list[str]:
        """Return what is wrong with the saved values of an image, a sentence each; they are kept."""
        found = () if self._fields is None else self._fields.problems(image_id)
        return [problem.reason for problem in found]

    def set(self, image_id: str, name: str, text: FieldValue) -> None:
        """Fill in a field; a `FieldError` if the value does not fit, and nothing is changed."""
        field = self.template.find(name)
        if field is None or self._fields is None:
            return
        value, before = field.parse(text), self.values(image_id).get(name)
        if value != before:
            self._past.append((image_id, partial(self._save, image_id, {name: before})))
            self._save(image_id, {name: value})

    def undo(self) -> str | None:
        """Take back what was filled in last, and return its image; None if there is nothing."""
        if not self._past:
            return None
        image_id, take_back = self._past.pop()
        take_back()
        return image_id

    def identity(self, image_id: str) -> tuple[str, str]:
        """Return the patient and the lesion that an image shows; empty: it is not known."""
        state = self._study.state.images[image_id]
        return self._identities.get(image_id, (state.patient or "", state.lesion or ""))

    def identify(self, image_id: str, patient: str, lesion: str) -> None:
        """Save which patient and lesion an image shows; empty: it is not known."""
        before = self.identity(image_id)
        if (patient, lesion) != before:
            self._past.append((image_id, partial(self._save_identity, image_id, *before)))
            self._save_identity(image_id, patient, lesion)

    def _save_identity(self, image_id: str, patient: str, lesion: str) -> None:
        self._identities[image_id] = patient, lesion
        fields = {"patient": patient or None, "lesion": lesion or None}
        self._save_queue.put(partial(self._study.record, Identified, image_id, **fields), image_id)
        self.changed.emit(image_id)

    def _save(self, image_id: str, values: dict[str, FieldValue]) -> None:
        if self._fields is not None:
            self._unsaved.setdefault(image_id, {}).update(values)
            self._save_queue.put(partial(self._fields.take_back, image_id, values), image_id)
            self.changed.emit(image_id)

    def _on_all_saved(self, all_saved: bool) -> None:
        if all_saved:
            self._unsaved.clear()
            self._identities.clear()


class StudyScale:
    """Keeps the scale of the image on the screen and its field ``mm_per_pixel`` the same.

    So a ruler that is measured anywhere in the viewer gives millimeters in tables, curves and exports.
    """

    failed = Signal(str)

    def __init__(self, fields: FieldEdits) -> None:
        self._fields = fields
        self._image: Image | None = None
        self._image_id = ""
        fields.changed.connect(self.update)

    def follow(self, review: AnyReview | None) -> None:
        """Follow another image, or none."""
        if self._image is not None:
            self._image.events.metadata.disconnect(self._on_metadata)
        self._image = None if review is None else review.editor.image
        if review is not None:
            self._image_id = review.image_id
            review.editor.image.events.metadata.connect(self._on_metadata)
            self.update()

    def update(self, *_: object) -> None:
        """Show in the image what was filled in."""
        if self._image is None or self._fields.template.find(SCALE_FIELD) is None:
            return
        wanted, known = scale_in(self._fields.values(self._image_id)), scale_of(self._image)
        if wanted != (None if known is None else known.scale):
            with self._image.events.metadata.blocker(self._on_metadata):
                set_scale(self._image, wanted, "study")

    def _on_metadata(self) -> None:
        """Fill in what a ruler or a file said."""
        known = scale_of(self._image)
        value = None if known is None else float(f"{known.scale.millimeters:.6g}")
        try:
            self._fields.set(self._image_id, SCALE_FIELD, value)
        except FieldError as error:
            self.failed.emit(str(error))
        self.update()
