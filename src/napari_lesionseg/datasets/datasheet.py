"""What lies beside every export: the datasheet for people, Croissant for programs, and who drew each mask."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from napari_lesionseg.datasets.formats.base import PROVENANCE_COLUMNS, PROVENANCE_NAME, Placed, Plan
from napari_lesionseg.datasets.records import Problem, Record
from napari_lesionseg.io.atomic import sha256_file
from napari_lesionseg.io.tables import write_table

DATASHEET_NAME = "DATASHEET.md"
CROISSANT_NAME = "croissant.json"
_UNKNOWN = "not stated"
_MOST_VALUES = 20
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_MEDIA = {".png": "image/png", ".jpg": "image/jpeg", ".dcm": "application/dicom", ".json": "application/json"}


def write_provenance(plan: Plan, placed: Mapping[str, Placed], empty: Mapping[str, bool]) -> None:
    """Write who drew each mask, with what help."""
    rows = [_provenance_row(record, placed[record.name], empty=empty[record.name]) for record in plan.records]
    write_table(plan.folder / PROVENANCE_NAME, rows, PROVENANCE_COLUMNS)


def _provenance_row(record: Record, placed: Placed, *, empty: bool) -> dict[str, str]:
    source = record.provenance
    return {
        "name": record.name,
        "part": record.part or "",
        "image": placed.image,
        "mask": placed.mask,
        "status": source.status,
        "annotator": source.annotator,
        "model": source.model,
        "corrected_share": "" if source.corrected is None else f"{source.corrected:.6f}",
        "time": source.time,
        "empty": "yes" if empty else "no",
    }


def write_datasheet(plan: Plan, convention: str, created: str, problems: Sequence[Problem]) -> None:
    """Write the datasheet (after T. Gebru et al., "Datasheets for datasets", 2021)."""
    info = plan.info
    sections = [
        (f"# {info.title}", [info.description]),
        ("## What is in it", _contents(plan, convention, created)),
        ("## Who annotated", [f"Annotators: {info.annotators or _UNKNOWN}.", *_annotators(plan.records)]),
        ("## Where the images come from", _provenance(plan)),
        ("## What was done to them", _processing(plan)),
        ("## What is missing", [f"Known gaps: {info.known_gaps or _UNKNOWN}.", *_left_out(problems)]),
        ("## License and contact", _terms(plan)),
    ]
    text = "\n\n".join(part for head, lines in sections for part in (head, *lines) if part)
    (plan.folder / DATASHEET_NAME).write_bytes(f"{text}\n".encode())


def _contents(plan: Plan, convention: str, created: str) -> list[str]:
    patients = {record.patient for record in plan.records if record.patient}
    annotated = sum(record.is_annotated for record in plan.records)
    skeleton = plan.records[0].skeleton
    names = f"Classes: {', '.join(plan.classes)}"
    if skeleton is not None:
        names = f"Landmarks: {', '.join(skeleton.names)}"
    sizes = sorted(plan.sizes[record.name] for record in plan.records)
    parts = Counter(record.part or "none" for record in plan.records)
    diagnoses = Counter(record.diagnosis or "unknown" for record in plan.records)
    return [
        f"{len(plan.records)} images, {annotated} of them annotated, in the format {convention}, "
        f"written {created}.",
        f"Parts: {_counts(parts)}. Patients known: {len(patients)}.",
        f"{names}. Images from {sizes[0][1]} x {sizes[0][0]} to {sizes[-1][1]} x {sizes[-1][0]} pixels.",
        f"Diagnoses: {_counts(diagnoses)}.",
        *_attributes(plan.records),
    ]


def _attributes(records: Sequence[Record]) -> list[str]:
    """Count the values of each field that has few, as choices have."""
    names = dict.fromkeys(name for record in records for name in record.attributes)
    counts = {name: Counter(record.attributes.get(name, _UNKNOWN) for record in records) for name in names}
    return [f"{name}: {_counts(found)}." for name, found in counts.items() if len(found) <= _MOST_VALUES]


def _counts(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def _annotators(records: Sequence[Record]) -> list[str]:
    sources = [record.provenance for record in records]
    drawn = [source for source in sources if source.model]
    shares = [source.corrected for source in drawn if source.corrected is not None]
    times = sorted(source.time for source in sources if source.time)
    lines = [
        f"Annotated by: {_counts(Counter(source.annotator or 'unknown' for source in sources))}.",
        f"State: {_counts(Counter(source.status for source in sources))}.",
        f"First drawn by a model: {len(drawn)} ({_counts(Counter(source.model for source in drawn))}).",
    ]
    if shares:
        mean = sum(shares) / len(shares)
        lines.append(f"Of these the annotators changed {100 * mean:.2f} % of the pixels on average.")
    return [
        *lines,
        f"Signed between {times[0]} and {times[-1]}." if times else "Dates of signing: not stated.",
    ]


def _provenance(plan: Plan) -> list[str]:
    return [f"Cameras: {plan.info.cameras or _UNKNOWN}.", f"Collected: {plan.info.collected or _UNKNOWN}."]


def _processing(plan: Plan) -> list[str]:
    config = plan.config
    names = {
        "patients": "Patients and lesions have running numbers, and images whose names held a patient's.",
        "all": "Images, patients, lesions and annotators have running numbers in random order.",
        "nothing": "Names of images, patients and lesions are as they came.",
    }
    return [
        "All metadata of the image files (EXIF, places, serial numbers, previews) was removed.",
        names[config.pseudonymize],
        "Parts are as they came."
        if plan.imported
        else "Images were split by patient, then by lesion, with copies of an image kept together; seed "
        f"{config.seed}.",
        "Each outline was reduced to its largest part without holes." if config.single_region else "",
    ]


def _left_out(problems: Sequence[Problem]) -> list[str]:
    """Say how many images were left out, without their names."""
    count = sum(problem.left_out for problem in problems)
    return [f"{count} images or files were left out." if count else "Nothing was left out."]


def _terms(plan: Plan) -> list[str]:
    info = plan.info
    return [
        f"License: {info.license or _UNKNOWN}. Creators: {', '.join(info.creators) or _UNKNOWN}.",
        f"Contact: {info.contact or _UNKNOWN}. Citation: {info.citation or _UNKNOWN}.",
    ]


def write_croissant(plan: Plan, placed: Iterable[Placed], created: str) -> None:
    """Write Croissant metadata: the files, the table of masks, and what a responsible user asks.

    Notes
    -----
    http://mlcommons.org/croissant/1.0 and its vocabulary for responsible AI, RAI/1.0.
    """
    info = plan.info
    table = plan.folder / PROVENANCE_NAME
    places = list(placed)
    content = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"],
        "name": info.title,
        "description": info.description or info.title,
        "license": info.license or _UNKNOWN,
        "creator": [{"@type": "sc:Person", "name": name} for name in info.creators or (_UNKNOWN,)],
        "datePublished": created,
        "version": "1.0.0",
        "citeAs": info.citation or info.title,
        "rai:dataCollection": info.collected or _UNKNOWN,
        "rai:dataAnnotationProtocol": " ".join(
            [info.annotators or "Annotators not stated.", *_annotators(plan.records)]
        ),
        "rai:dataLimitations": info.known_gaps or _UNKNOWN,
        "rai:personalSensitiveInformation": "Images of skin; sex and age where the facts hold them.",
        "distribution": [_table_object(table), *_file_sets(places)],
        "recordSet": [_record_set()],
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    (plan.folder / CROISSANT_NAME).write_bytes(text.encode())


def _table_object(table: Path) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": table.name,
        "name": table.name,
        "contentUrl": table.name,
        "encodingFormat": "text/csv",
        "sha256": sha256_file(table),
    }


def _file_sets(places: Sequence[Placed]) -> Iterator[dict[str, Any]]:
    """Yield the images and the masks as sets of files, by folder and ending."""
    for name in ("images", "masks"):
        paths = [place.image if name == "images" else place.mask for place in places]
        patterns = sorted({_pattern(path) for path in paths if path})
        for number, pattern in enumerate(patterns, 1):
            yield {
                "@type": "cr:FileSet",
                "@id": f"{name}-{number}",
                "name": f"{name}-{number}",
                "encodingFormat": _MEDIA[PurePosixPath(pattern).suffix],
                "includes": pattern,
            }


def _pattern(path: str) -> str:
    """Return the pattern for all files like one: its folder, its ending, and a mask's last word."""
    pure = PurePosixPath(path)
    word = "_segmentation" if pure.stem.endswith("_segmentation") else ""
    return (pure.parent / f"*{word}{pure.suffix}").as_posix()


def _record_set() -> dict[str, Any]:
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"outlines/{column}",
            "name": column,
            "dataType": "sc:Text",
            "source": {"fileObject": {"@id": PROVENANCE_NAME}, "extract": {"column": column}},
        }
        for column in PROVENANCE_COLUMNS
    ]
    return {
        "@type": "cr:RecordSet",
        "@id": "outlines",
        "name": "outlines",
        "description": "One row an image: where its files are, and who drew the outline.",
        "key": {"@id": "outlines/name"},
        "field": fields,
    }
