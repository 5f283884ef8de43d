"""Final names: safe for every system, and without what could name a patient."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count, islice

from napari_lesionseg.datasets.cleaning import safe_name
from napari_lesionseg.datasets.formats.base import ExportConfig, Format
from napari_lesionseg.datasets.formats.listing import natural_order
from napari_lesionseg.datasets.records import Provenance, Record
from napari_lesionseg.datasets.splits import Part

_LONG = 4  # shorter numbers occur in other numbers by chance


def final_records(
    records: Sequence[Record], parts: Mapping[str, Part], config: ExportConfig, convention: Format
) -> tuple[tuple[Record, ...], dict[str, str]]:
    """Give records their final names, parts and facts.

    Parameters
    ----------
    records : sequence of Record
        With unique names.
    parts : mapping
        Part by name.
    config : ExportConfig
        `pseudonymize` and `facts`.
    convention : Format
        Its pattern of new names, and the names it asks for.

    Returns
    -------
    records : tuple of Record
        In the order of their final names: the old order would tell old names.
    names : dict
        New name by old name: the key that undoes the pseudonyms. It is not part of the export.
    """
    names = _names(records, config, convention)
    patients = _numbers((record.patient for record in records), "patient_{}", config)
    lesions = _numbers((_lesion_key(record) for record in records), "lesion_{}", config)
    annotators = _numbers(
        (record.provenance.annotator for record in records), "annotator_{}", config, names_too=True
    )
    finished = [
        replace(
            record,
            name=names[record.name],
            patient=patients.get(record.patient or ""),
            lesion=lesions.get(_lesion_key(record) or "")
            if config.pseudonymize != "nothing"
            else record.lesion,
            part=parts.get(record.name),
            metadata=_shared(record.metadata, config),
            provenance=_told(record.provenance, annotators, config),
        )
        for record in records
    ]
    return natural_order(finished), names


def _told(source: Provenance, annotators: Mapping[str, str], config: ExportConfig) -> Provenance:
    """Return what may be told of an outline; the hours would tell the order in which images were read."""
    time = source.time[: len("2026-01-31")] if config.pseudonymize == "all" else source.time
    return replace(source, annotator=annotators.get(source.annotator, ""), time=time)


def _shared(facts: Mapping[str, str], config: ExportConfig) -> dict[str, str]:
    return {name: value for name, value in facts.items() if config.facts is None or name in config.facts}


def _lesion_key(record: Record) -> str | None:
    """Tell lesions of several patients apart that have the same name."""
    return record.lesion and f"{record.patient or ''}\0{record.lesion}"


def _numbers(
    values: Iterable[str | None], pattern: str, config: ExportConfig, *, names_too: bool = False
) -> dict[str, str]:
    """Map each value to itself, or to a running number in random order."""
    known = sorted({value for value in values if value})
    if config.pseudonymize == "nothing" or (names_too and config.pseudonymize == "patients"):
        return {value: value for value in known}
    return {value: pattern.format(number) for value, number in zip(known, _order(len(known)), strict=True)}


def _order(count: int) -> list[int]:
    """Return 1 to `count` in an order that nobody can work out."""
    numbers = list(range(1, count + 1))
    secrets.SystemRandom().shuffle(numbers)
    return numbers


def _names(records: Sequence[Record], config: ExportConfig, convention: Format) -> dict[str, str]:
    """Map old names to new, all different even where case does not count."""
    names: dict[str, str] = {}
    taken = set[str]()
    renamed = {record.name for record in records if _must_change(record, config, convention)}
    for record in records:
        if record.name not in renamed:
            names[record.name] = _free_name(safe_name(record.name), taken)
    pseudonyms = (convention.pseudonym.format(number) for number in count(1))
    free = [name for name in islice(pseudonyms, len(records)) if name.casefold() not in taken]
    free += [name for name in islice(pseudonyms, len(taken)) if name.casefold() not in taken]
    for name, place in zip(sorted(renamed), _order(len(renamed)), strict=True):
        names[name] = free[place - 1]
    return {record.name: names[record.name] for record in records}


def _free_name(name: str, taken: set[str]) -> str:
    """Return the name, with a number behind it if it is taken, and take it."""
    candidate, copy = name, 1
    while candidate.casefold() in taken:
        copy += 1
        candidate = f"{name}_{copy}"
    taken.add(candidate.casefold())
    return candidate


def _must_change(record: Record, config: ExportConfig, convention: Format) -> bool:
    if config.pseudonymize == "patients":
        wrong = convention.names is not None and not re.fullmatch(convention.names, record.name)
        return wrong or betrays_patient(record)
    return config.pseudonymize == "all"


def betrays_patient(record: Record) -> bool:
    """Tell whether an image's name holds the patient's name or number."""
    if not record.patient:
        return False
    name, patient = record.name.casefold(), record.patient.casefold()
    words = re.split(r"[\W_]+", name)
    return patient in words or (len(patient) >= _LONG and patient in name)
