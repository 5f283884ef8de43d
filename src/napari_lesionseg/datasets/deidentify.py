"""What is removed before images are shared: metadata of image files, and names that could name a patient."""

from __future__ import annotations

import re
import secrets
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count, islice
from typing import TYPE_CHECKING

from napari_lesionseg.datasets.records import Provenance, Record, natural_order
from napari_lesionseg.datasets.splits import Part

if TYPE_CHECKING:
    from napari_lesionseg.datasets.formats.base import ExportConfig, Format

_SOI, _EOI, _SOS, _TEM = 0xD8, 0xD9, 0xDA, 0x01
_APP0, _APP14 = 0xE0, 0xEE
_DECODING = {*range(0xC0, 0xD0), _SOS, 0xDB, 0xDC, 0xDD}  # frames, Huffman and other tables, scans
_RESTARTS = range(0xD0, 0xD8)
_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_JFIF, _ADOBE = b"JFIF\0", b"Adobe"
_JFIF_LENGTH = 14  # without the thumbnail that may follow
_UNSAFE = re.compile(r"[^\w.-]+")
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
_NAME_LENGTH = 80
_NAME_BYTES = 180  # file systems take 255, and endings such as _attribute_negative_network.png follow
_LONG = 4  # shorter numbers occur in other numbers by chance


def clean_jpeg(payload: bytes) -> bytes | None:
    """Take everything but the image out of a JPEG file, without touching a pixel.

    EXIF, XMP, IPTC, comments, color profiles, thumbnails, maker notes, and whatever follows the image
    (second images, videos) are dropped. Kept are the tables, the scans, and the two headers that say how
    colors are stored (JFIF without its thumbnail, Adobe). The orientation goes with the EXIF.

    Notes
    -----
    ITU-T T.81, annex B, gives the markers.
    """
    if payload[:2] != bytes((0xFF, _SOI)):
        return None
    kept = [payload[:2]]
    position = 2
    while True:
        marker, start = _next_marker(payload, position)
        if marker is None:
            return None
        if marker == _EOI:
            return b"".join([*kept, bytes((0xFF, _EOI))])
        length = int.from_bytes(payload[start : start + 2], "big")
        position = start + length
        if length < 2 or position > len(payload):
            return None
        segment = _kept_segment(marker, payload[start + 2 : position])
        if marker == _SOS:
            end = _SCAN_END.search(payload, position)
            if end is None:
                return None
            segment += payload[position : end.start()]
            position = end.start()
        kept.append(segment)


def _next_marker(payload: bytes, position: int) -> tuple[int | None, int]:
    """Return the marker at a position, and where its segment starts; None where there is no segment."""
    if payload[position : position + 1] != b"\xff":
        return None, position
    while payload[position : position + 1] == b"\xff":
        position += 1
    marker = payload[position] if position < len(payload) else 0
    no_segment = marker in (0, _SOI, _TEM) or marker in _RESTARTS
    return (None if no_segment else marker), position + 1


def _kept_segment(marker: int, body: bytes) -> bytes:
    """Return a segment as it may stay, b"" when it must go."""
    if marker == _APP0 and body.startswith(_JFIF) and len(body) >= _JFIF_LENGTH:
        body = body[: _JFIF_LENGTH - 2] + b"\0\0"
    elif marker == _APP14 and body.startswith(_ADOBE):
        body = body[:12]
    elif marker not in _DECODING:
        return b""
    return bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2, "big") + body


def safe_name(name: str) -> str:
    """Return a name that every system takes for a plain file name."""
    plain = _UNSAFE.sub("_", unicodedata.normalize("NFC", name)).strip(".")[:_NAME_LENGTH]
    plain = plain.encode()[:_NAME_BYTES].decode(errors="ignore")
    return f"_{plain}" if not plain or _RESERVED.fullmatch(plain) else plain


def final_records(
    records: Sequence[Record], parts: Mapping[str, Part], config: ExportConfig, convention: Format
) -> tuple[tuple[Record, ...], dict[str, str]]:
    """Give records their final names, parts and facts."""
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
