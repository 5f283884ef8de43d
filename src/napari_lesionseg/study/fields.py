"""Fields of a study: facts about images, lesions and patients that annotators fill in.

Which fields there are says a template, a small JSON file; that of dermoscopy is the default. A value is an
event of the image that it was filled in for, and holds for all images of the lesion or patient if its field
is about these. So it goes along when an image is found to show another lesion. What does not fit the template
is kept and reported.
"""

from __future__ import annotations

import datetime
import functools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, ValidationError, model_validator

from napari_lesionseg.datasets.facts import UNKNOWN
from napari_lesionseg.datasets.records import Problem, Record
from napari_lesionseg.errors import FieldError, StudyError
from napari_lesionseg.io.atomic import write_atomically
from napari_lesionseg.study.event_log import explain
from napari_lesionseg.study.events import (
    Described,
    FieldName,
    FieldValue,
    Identified,
    Label,
    StrictModel,
)
from napari_lesionseg.study.state import ImageState
from napari_lesionseg.study.study import Study

TEMPLATE_FILE = "fields.json"
"""Name of the template in a study's folder; a study without one uses that of dermoscopy."""

MAX_TEMPLATE = 1 << 20
_YES = {"yes", "y", "true", "1", "1.0", "present"}
_NO = {"no", "n", "false", "0", "0.0", "absent"}

Scope: TypeAlias = Literal["image", "lesion", "patient"]
_SHARED: tuple[Scope, ...] = ("lesion", "patient")
_SCOPES: tuple[Scope, ...] = ("image", *_SHARED)
Kind: TypeAlias = Literal["choice", "number", "yes/no", "text", "date"]


class StudyField(StrictModel):
    """One field. Values are read from the table columns of its name and its `columns`."""

    name: FieldName
    title: Label
    scope: Scope = "image"
    kind: Kind = "text"
    choices: tuple[Label, ...] = ()
    open: bool = False  # whether other text than the choices may be typed
    aliases: dict[str, Label] = Field(default_factory=dict)  # choices by what tables say instead
    minimum: float | None = None
    maximum: float | None = None
    columns: tuple[str, ...] = ()
    help: str = ""
    # Free text and dates could name a person.
    export: bool | None = None

    @property
    def is_exported(self) -> bool:
        """Whether values are exported with a dataset; by default, free text and dates are not."""
        return self.kind not in ("text", "date") if self.export is None else self.export

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.kind == "choice") != bool(self.choices):
            raise ValueError(f"the field {self.name} needs choices if it is a choice, and none if it is not")
        unknown = sorted(set(self.aliases.values()) - set(self.choices))
        if unknown:
            raise ValueError(f"the field {self.name} has an alias for {unknown[0]}, which is no choice of it")
        return self

    def parse(self, value: FieldValue) -> FieldValue:
        """Return a value in the type and words of the field; None for an empty one.

        Raises `FieldError` when it does not fit.
        """
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        match self.kind:
            case "choice":
                return self._choice(_text(value).strip())
            case "number":
                return self._number(value)
            case "yes/no":
                return self._yes_or_no(value)
            case "date":
                return self._date(_text(value).strip())
        return _text(value)

    def _choice(self, text: str) -> str:
        known = {choice.casefold(): choice for choice in self.choices}
        known |= {alias.casefold(): choice for alias, choice in self.aliases.items()}
        found = known.get(text.casefold())
        if found is None and not self.open:
            raise FieldError(
                f"“{text}” is no choice of {self.title}; choose one of {', '.join(self.choices)}."
            )
        return found or text

    def _number(self, value: bool | float | str) -> float:
        try:
            number = math.nan if isinstance(value, bool) else float(str(value).replace(",", "."))
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise FieldError(f"“{_text(value)}” is not a number, which {self.title} needs.")
        if self.minimum is not None and number < self.minimum:
            raise FieldError(f"{self.title} must be at least {self.minimum:g}; {number:g} is less.")
        if self.maximum is not None and number > self.maximum:
            raise FieldError(f"{self.title} must be at most {self.maximum:g}; {number:g} is more.")
        return number

    def _yes_or_no(self, value: bool | float | str) -> bool:
        text = _text(value).strip().casefold()
        if text not in _YES | _NO:
            raise FieldError(f"“{_text(value)}” is neither yes nor no, which {self.title} needs.")
        return text in _YES

    def _date(self, text: str) -> str:
        try:
            # A time of day may follow, as in the dates of cameras; it is not kept.
            return datetime.date.fromisoformat(text[:10].replace(":", "-").replace("/", "-")).isoformat()
        except ValueError:
            raise FieldError(f"“{text}” is no date; write {self.title} as 2026-02-28.") from None


class FieldTemplate(StrictModel):
    """The fields of a study, in the order of the form."""

    name: Label
    fields: Annotated[tuple[StudyField, ...], Field(max_length=200)] = ()

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names = [field.name for field in self.fields]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"two fields have the name {repeated[0]}")
        return self

    def find(self, name: str) -> StudyField | None:
        """Return the field of a name."""
        return next((field for field in self.fields if field.name == name), None)


@functools.cache
def default_template() -> FieldTemplate:
    """Return the template of dermoscopy, which is read once."""
    file = resources.files("napari_lesionseg") / "study" / "templates" / "dermoscopy.json"
    return FieldTemplate.model_validate_json(file.read_bytes())


def read_template(path: Path) -> FieldTemplate:
    """Read a template; a `StudyError` says what is wrong with it."""
    try:
        with path.open("rb") as stream:
            return FieldTemplate.model_validate_json(stream.read(MAX_TEMPLATE))
    except OSError as error:
        raise StudyError(f"{path} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        raise StudyError(f"{path} is not a template of fields ({explain(error)}).") from error


class StudyFields:
    """The fields of an open study, and their values as far as the annotator may see them."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._file = study.folder / TEMPLATE_FILE
        self._use(read_template(self._file) if self._file.is_file() else default_template())
        self._images: Mapping[str, ImageState] = {}  # of the state that the groups are from
        self._groups: dict[str, list[ImageState]] = {}

    def set_template(self, template: FieldTemplate) -> None:
        """Use other fields; all values are kept, those of fields that are gone too."""
        write_atomically(self._file, template.model_dump_json(indent=2, exclude_defaults=True).encode())
        self._use(template)

    def _use(self, template: FieldTemplate) -> None:
        self.template = template
        self._scopes = {field.name: field.scope for field in template.fields}
        self._known: dict[str, dict[str, FieldValue]] = {}

    def values(self, image_id: str, annotator: str | None = None) -> dict[str, FieldValue]:
        """Return the latest value of each field of an image, of one annotator or of all."""
        self._follow_study()
        if annotator is None and image_id in self._known:
            return dict(self._known[image_id])
        found: dict[str, Described] = {}
        for scope in _SCOPES:
            for state in self._together(image_id, scope):
                for event in state.described:
                    if annotator in (None, event.annotator):
                        self._take_latest(event, scope, found)
        values = {name: event.values[name] for name, event in found.items()}
        known: dict[str, FieldValue] = {name: value for name, value in values.items() if value is not None}
        if annotator is None:
            self._known[image_id] = dict(known)
        return known

    def _take_latest(self, event: Described, scope: Scope, found: dict[str, Described]) -> None:
        """Note an event for each field of a scope that it fills in later than others."""
        for name in event.values:
            # A field that is not in the template any more is about the image.
            is_about_it = self._scopes.get(name, "image") == scope
            if is_about_it and (name not in found or found[name].order <= event.order):
                found[name] = event

    def set(self, image_id: str, values: Mapping[str, FieldValue]) -> dict[str, FieldValue]:
        """Save values of an image, and return what they were before; a `FieldError` if one does not fit."""
        checked: dict[str, FieldValue] = {}
        for name, value in values.items():
            field = self.template.find(name)
            if field is None:
                raise FieldError(f"The study has no field {name}; add it to the template first.")
            checked[name] = field.parse(value)
        before = self.values(image_id)
        self._study.record(Described, image_id, values=checked)
        return {name: before.get(name) for name in checked}

    def take_back(self, image_id: str, before: Mapping[str, FieldValue]) -> None:
        """Save values as they were, whether they fit the template or not."""
        self._study.record(Described, image_id, values=dict(before))

    def problems(self, image_id: str) -> Iterator[Problem]:
        """Yield what does not fit the template among the values of an image; it is kept."""
        for name, value in self.values(image_id).items():
            field = self.template.find(name)
            reason = f"The template has no field {name} any more; its value is kept, but not exported."
            if field is not None:
                reason = _misfit(field, value)
            if reason:
                yield Problem(self._study.state.images[image_id].name, reason, left_out=False)

    def exported(self, image_id: str) -> dict[str, str]:
        """Return as text the values of an image that may be exported and fit the template."""
        found = self.values(image_id)
        return {
            field.name: text_of(found[field.name])
            for field in self.template.fields
            if field.is_exported and field.name in found and not _misfit(field, found[field.name])
        }

    @property
    def columns(self) -> frozenset[str]:
        """The columns of tables that fields are filled in from."""
        return frozenset(name for field in self.template.fields for name in (field.name, *field.columns))

    def import_records(self, images: Mapping[str, Record], annotator: str) -> tuple[int, tuple[Problem, ...]]:
        """Save what the records of a dataset, by image, say of fields, patients and lesions.

        Return for how many images fields were filled in, and what did not fit: it is kept as it is, and
        reported once for each kind. What was imported before is not written again.
        """
        events: dict[str, dict[str, FieldValue]] = {}
        identities = list(self._new_identities(images))
        misfits: dict[tuple[str, str], int] = defaultdict(int)
        for image_id, record in images.items():
            found = dict(self._of_record(record, misfits))
            known = self.values(image_id, annotator)
            new = {name: value for name, value in found.items() if known.get(name) != value}
            if new:
                events[image_id] = new
        with Study.open(self._study.folder, annotator) as importer:
            importer.record_together(Identified, identities)
            importer.record_together(
                Described, [{"image_id": key, "values": values} for key, values in events.items()]
            )
        self._study.refresh()
        reports = (
            Problem(name, f"{reason} The value is kept ({count} image{'s' * (count > 1)}).", left_out=False)
            for (name, reason), count in misfits.items()
        )
        return len(events), tuple(reports)

    def _new_identities(self, images: Mapping[str, Record]) -> Iterator[dict[str, str | None]]:
        """Yield patient and lesion of images of which something else was known; a pseudonym stays."""
        for image_id, record in images.items() if not self._study.info.pseudonymized else ():
            state = self._study.state.images[image_id]
            patient, lesion = record.patient or state.patient, record.lesion or state.lesion
            if (patient, lesion) != (state.patient, state.lesion):
                yield {"image_id": image_id, "patient": patient, "lesion": lesion}

    def _of_record(
        self, record: Record, misfits: dict[tuple[str, str], int]
    ) -> Iterator[tuple[str, FieldValue]]:
        facts = {"diagnosis": record.diagnosis or "", **record.metadata, **record.attributes}
        for field in self.template.fields:
            texts = (facts.get(column, "").strip() for column in (field.name, *field.columns))
            text = next((text for text in texts if text.casefold() not in UNKNOWN), "")
            if not text:
                continue
            try:
                yield field.name, field.parse(text)
            except FieldError as error:
                misfits[field.name, str(error)] += 1
                yield field.name, text

    def _follow_study(self) -> None:
        """Forget what was known of an earlier state of the study."""
        images = self._study.state.images
        if images is not self._images:
            groups: dict[str, list[ImageState]] = defaultdict(list)
            for state in images.values():
                for scope in _SHARED:
                    groups[group_of(state, scope)].append(state)
            self._images, self._groups = images, groups
            self._known.clear()

    def _together(self, image_id: str, scope: Scope) -> Sequence[ImageState]:
        """Return the images that share a value of this scope with an image."""
        state = self._images[image_id]
        return [state] if scope == "image" else self._groups[group_of(state, scope)]


def ratings_of(fields: StudyFields, states: Iterable[ImageState], field: StudyField) -> list[dict[str, str]]:
    """Return what each annotator filled in, for each image, lesion or patient that the field is about."""
    found: dict[str, dict[str, str]] = {}
    for state in states:
        key = state.image_id if field.scope == "image" else group_of(state, field.scope)
        annotators = {event.annotator for event in state.described if field.name in event.values}
        for annotator in annotators:
            value = fields.values(state.image_id, annotator).get(field.name)
            if value is not None:
                found.setdefault(key, {})[annotator] = text_of(value)
    return list(found.values())


def group_of(state: ImageState, scope: Scope) -> str:
    """Return what the images of a lesion or patient have in common; of an image alone, its own ID.

    Lesions of several patients may have one name, so the patient is part of it.
    """
    if scope == "patient":
        return f"patient {state.patient}" if state.patient else f"patient of {state.image_id}"
    return f"lesion {state.patient or ''}\0{state.lesion}" if state.lesion else f"lesion of {state.image_id}"


def text_of(value: FieldValue) -> str:
    """Return a value as tables have it."""
    return "" if value is None else _text(value)


def matches(values: Mapping[str, FieldValue], word: str) -> bool:
    """Whether values have a word of a search, or the value of a field as in ``diagnosis=nevus``."""
    name, equals, wanted = word.partition("=")
    if equals:
        return text_of(values.get(name)).casefold().replace(" ", "_") == wanted.replace(" ", "_")
    return any(word in text_of(value).casefold() for value in values.values())


def field_counts(values: Iterable[Mapping[str, FieldValue]]) -> dict[str, dict[str, int]]:
    """Count how often each field has each value."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for found in values:
        for name, value in found.items():
            counts[name][text_of(value)] += 1
    return counts


def _misfit(field: StudyField, value: FieldValue) -> str:
    """Return why a value does not fit its field; empty if it does."""
    try:
        field.parse(value)
    except FieldError as error:
        return str(error)
    return ""


def _text(value: bool | float | str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.10g}" if isinstance(value, float | int) else value
