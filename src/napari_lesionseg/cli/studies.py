"""``lesionseg fields`` and ``agreement``: what annotators of a study said, and how well they agree."""

from __future__ import annotations

import argparse
import itertools
import re
from collections import Counter
from pathlib import Path
from statistics import fmean

from rich.table import Table

from napari_lesionseg.cli.console import print_result, results
from napari_lesionseg.cli.datasets import print_problems
from napari_lesionseg.cli.options import check_file, check_partners, make_folder, positive
from napari_lesionseg.datasets.facts import DIAGNOSIS_COLUMNS, ONE_HOT, name_key, read_facts
from napari_lesionseg.datasets.records import Problem, Record
from napari_lesionseg.errors import MaskError, StudyError
from napari_lesionseg.io.folders import exists, is_dir
from napari_lesionseg.io.images import write_mask
from napari_lesionseg.io.tables import write_table
from napari_lesionseg.study.agreement import (
    find_consensus,
    measure_agreement,
    measure_field_agreement,
    read_verdicts,
)
from napari_lesionseg.study.datasets import IMPORTED, field_problems
from napari_lesionseg.study.fields import (
    StudyFields,
    field_counts,
    ratings_of,
    read_template,
    text_of,
)
from napari_lesionseg.study.followup import (
    VisitMeasurement,
    followed_lesions,
    measure_visits,
    write_followup,
)
from napari_lesionseg.study.layout import READ_ONLY, find_study
from napari_lesionseg.study.review import mix_in_gold, summarize_reviews, write_gold_scores
from napari_lesionseg.study.study import Study

FIELDS_EXAMPLE = """examples:
  lesionseg fields my-study/
  lesionseg fields my-study/ --template fields.json
  lesionseg fields my-study/ --import metadata.csv --out values.csv"""
FOLLOWUP_EXAMPLE = """example:
  lesionseg followup my-study/ --out followup.csv"""
REVIEW_EXAMPLE = """examples:
  lesionseg review my-study/ --out gold.csv
  lesionseg review my-study/ --gold 20 --expert chief"""
AGREEMENT_EXAMPLE = """example:
  lesionseg agreement my-study/ --consensus consensus/"""
_MOST_VALUES = 8
_LAST = 10  # comparisons that show how an annotator does now


def open_study(folder: Path, annotator: str = READ_ONLY) -> Study:
    """Open a study, or the one inside a folder of images, with the work of all annotators."""
    place = find_study(folder)
    if place is None:
        found = "holds no study" if is_dir(folder) else "is no folder" if exists(folder) else "does not exist"
        raise StudyError(f"{folder} {found}; choose the folder of a study.")
    return Study.open(place, annotator, unblind=True)


def configure_fields(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = FIELDS_EXAMPLE
    parser.add_argument("study", type=Path, help="a study, or a folder of images with a study in it")
    parser.add_argument("--template", type=Path, metavar="FILE", help="use the fields of this JSON file")
    parser.add_argument(
        "--import",
        dest="table",
        type=Path,
        metavar="TABLE",
        help="fill in fields from a table with a row for each image (.csv, .tsv, .xlsx, .ods, .jsonl)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="write all values as a table")


def run_fields(options: argparse.Namespace) -> int:
    """Print the fields and their values; 1 if something does not fit."""
    check_file(options.out)
    with open_study(options.study) as study:
        fields = StudyFields(study)
        problems = []
        if options.template is not None:
            fields.set_template(read_template(options.template))
        if options.table is not None:
            problems += import_table(study, fields, options.table)
        problems += field_problems(study)
        print_fields(study, fields)
        if options.out is not None:
            write_values(study, fields, options.out)
    print_problems(problems)
    return int(bool(problems))


def import_table(study: Study, fields: StudyFields, path: Path) -> list[Problem]:
    """Fill in fields from a table; return what could not be used of it."""
    states = list(study.state.images.values())
    facts = read_facts([path], [state.name for state in states])
    found = [facts.applied(Record(state.name, Path(state.added.path))) for state in states]
    images = {state.image_id: record for state, record in zip(states, found, strict=True)}
    filled, misfits = fields.import_records(images, IMPORTED)
    print_result(f"Fields of {filled} images filled in from {path}")
    columns = {column for record in found for column in record.metadata}
    columns -= {*fields.columns, *DIAGNOSIS_COLUMNS, *ONE_HOT}
    unused = [Problem(path.name, f"No field is filled in from the columns {', '.join(sorted(columns))}.")]
    return [*facts.problems, *misfits, *(unused if columns else ())]


def print_fields(study: Study, fields: StudyFields) -> None:
    """Print each field, what it is about, and its commonest values."""
    counts = field_counts(fields.values(image_id) for image_id in study.state.images)
    title = f"Fields ({fields.template.name})"
    table = Table("field", "of", "kind", "images", "values", title=title, title_justify="left")
    for field in fields.template.fields:
        found = counts.get(field.name, {})
        common = sorted(found.items(), key=lambda item: -item[1])[:_MOST_VALUES]
        shown = ", ".join(f"{value} {count}" for value, count in common)
        more = ", ..." if len(found) > _MOST_VALUES else ""
        images = str(sum(found.values()))
        table.add_row(field.name, field.scope, field.kind, images, f"{shown}{more}")
    results.print(table)


def write_values(study: Study, fields: StudyFields, path: Path) -> None:
    """Write all values as a table, those that do not fit the template too."""
    rows = [
        {"name": state.name, "patient_id": state.patient or "", "lesion_id": state.lesion or ""}
        | {name: text_of(value) for name, value in fields.values(state.image_id).items()}
        for state in study.state.images.values()
    ]
    known = ["name", "patient_id", "lesion_id", *(field.name for field in fields.template.fields)]
    columns = list(dict.fromkeys([*known, *(name for row in rows for name in row)]))
    try:
        write_table(path, rows, columns)
    except OSError as error:
        raise StudyError(f"{path} cannot be written: {error.strerror}.") from error
    print_result(f"Values of {len(rows)} images written to {path}")


def configure_followup(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = FOLLOWUP_EXAMPLE
    parser.add_argument("study", type=Path, help="a study with several images of a lesion")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.csv", help="write all figures, a row for each image"
    )


def run_followup(options: argparse.Namespace) -> int:
    """Print sizes and their changes for each lesion with several images."""
    check_file(options.out)
    with open_study(options.study) as study:
        lesions = followed_lesions(study, StudyFields(study))
        if not lesions:
            raise StudyError(
                "No lesion has several images; fill in their patient and lesion in the section Fields of "
                "the workbench, or in a table for `lesionseg fields STUDY --import TABLE`."
            )
        rows = [row for visits in lesions for row in measure_visits(study, visits)]
    table = Table(
        "lesion", "date", "image", "area", "change", "diameter", "asymmetry", "contrast",
        title="Follow-up: measurements, no diagnosis", title_justify="left",
    )  # fmt: skip
    for row in rows:
        table.add_row(*visit_cells(row))
    results.print(table)
    if options.out is not None:
        write_followup(options.out, rows)
        print_result(f"{len(rows)} visits of {len(lesions)} lesions written to {options.out}")
    return 0


def visit_cells(row: VisitMeasurement) -> tuple[str, ...]:
    """Return what the table shows of a visit; its status where nothing was measured."""
    lesion = f"{row.patient}/{row.lesion}" if row.patient else row.lesion
    if row.area is None:
        return lesion, row.taken_on, row.image, row.status, "", "", "", ""
    return (
        lesion,
        row.taken_on,
        row.image,
        f"{row.area:.4g} {row.unit}²",
        "" if row.area_change is None else f"{row.area_change:+.1%}",
        f"{row.longest_diameter:.4g} {row.unit}",
        f"{row.asymmetry:.2f}",
        "" if row.contrast is None else f"{row.contrast:.1f}",
    )


def configure_review(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = REVIEW_EXAMPLE
    parser.add_argument("study", type=Path, help="a study with the work of several annotators")
    parser.add_argument(
        "--gold",
        type=positive,
        metavar="N",
        help="mix N images that --expert approved into the others' queues, to measure them by",
    )
    parser.add_argument("--expert", metavar="NAME", help="whose approved outlines are the gold standard")
    parser.add_argument("--seed", type=int, help="another seed draws other images (default: 0)")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="write all Dice values over time")


def run_review(options: argparse.Namespace) -> int:
    """Print how the work of each annotator was reviewed, and how it compares with the gold standard."""
    check_file(options.out)
    check_partners(options, "--gold", "--expert", "--seed")
    if options.gold is not None:
        if options.expert is None:
            raise StudyError("Name the expert whose outlines are the gold standard: --expert NAME.")
        with open_study(options.study, options.expert) as study:
            marked = mix_in_gold(study, options.gold, options.seed or 0)
        print_result(f"{len(marked)} images of {options.expert} are gold standards now")
    with open_study(options.study) as study:
        summaries = summarize_reviews(study)
    if not summaries:
        raise StudyError("Nobody has decided about an image of this study yet.")
    table = Table(
        "annotator", "waiting", "accepted", "edited", "returned", "gold: Dice", "last 10",
        title="Review", title_justify="left",
    )  # fmt: skip
    for found in summaries:
        last = [score.dice for score in found.gold[-_LAST:]]
        table.add_row(
            found.annotator,
            *map(str, (found.waiting, found.accepted, found.edited, found.returned)),
            "" if found.gold_dice is None else f"{found.gold_dice:.3f} ({len(found.gold)})",
            f"{fmean(last):.3f}" if last else "",
        )
    results.print(table)
    if options.out is not None:
        scores = [score for found in summaries for score in found.gold]
        write_gold_scores(options.out, scores)
        print_result(f"{len(scores)} comparisons with the gold standard written to {options.out}")
    return 0


def configure_agreement(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = AGREEMENT_EXAMPLE
    parser.add_argument("study", type=Path, help="a study with several annotators")
    parser.add_argument(
        "--consensus",
        type=Path,
        metavar="DIR",
        help="write the annotators' STAPLE consensus masks into this new folder",
    )


def run_agreement(options: argparse.Namespace) -> int:
    """Print how well annotators agree on outlines (Dice), landmarks (OKS) and fields (kappa)."""
    if options.consensus is not None:
        make_folder(options.consensus)
        if any(options.consensus.iterdir()):
            raise StudyError(
                f"{options.consensus} is not empty; choose a new folder for the consensus masks."
            )
    with open_study(options.study) as study:
        if not print_agreement(study) | print_field_agreement(study):
            raise StudyError("No image was decided about or described by two annotators yet.")
        if options.consensus is None:
            return 0
        written, problems = write_consensus(study, options.consensus)
        print_problems(problems)
        print_result(f"{written} consensus masks written to {options.consensus}")
    return int(any(problem.left_out for problem in problems))


def print_agreement(study: Study) -> bool:
    """Print how well each pair of annotators agrees on outlines or landmarks; return whether there is any."""
    found = measure_agreement(read_verdicts(study, image) for image in study.state.images)
    if found.mean is None:
        return False
    figure = "mean Dice" if study.info.landmarks is None else "mean OKS"
    table = Table("annotators", "images", figure, title="Agreement", title_justify="left")
    for (i, first), (j, second) in itertools.combinations(enumerate(found.annotators), 2):
        if found.images[i, j]:
            table.add_row(f"{first} and {second}", str(found.images[i, j]), f"{found.similarity[i, j]:.3f}")
    results.print(table)
    return True


def print_field_agreement(study: Study) -> bool:
    """Print how well annotators agree on each field that two of them filled in; return whether any was."""
    fields = StudyFields(study)
    table = Table("field", "annotators", "images", "Cohen's kappa", title="Fields", title_justify="left")
    for field in fields.template.fields:
        ratings = ratings_of(fields, study.state.images.values(), field)
        found = measure_field_agreement(field.name, ratings)
        if found is None or field.kind not in ("choice", "yes/no"):
            continue
        for (first, second), (images, kappa) in found.cohen.items():
            table.add_row(field.name, f"{first} and {second}", str(images), f"{kappa:.3f}")
        if found.fleiss is not None and len(found.cohen) > 1:
            table.add_row(field.name, "all (Fleiss)", "", f"{found.fleiss:.3f}")
    if table.row_count:
        results.print(table)
    return bool(table.row_count)


def write_consensus(study: Study, folder: Path) -> tuple[int, list[Problem]]:
    """Write the consensus of every image with two verdicts; return how many, and what is in none."""
    states = study.state.images.values()
    repeated = Counter(name_key(_stem(state.name)) for state in states)
    written, problems = 0, []
    classes = [entry.name for entry in study.info.classes]
    if len(classes) > 1:
        reason = f"The consensus masks show {classes[0]} only, not {', '.join(classes[1:])}."
        problems.append(Problem(study.folder.name, reason, left_out=False))
    for state in states:
        masks = read_verdicts(study, state.image_id)
        if len(masks) < 2:
            reason = "Fewer than two annotators decided about the image, so it has no consensus."
            problems.append(Problem(state.name, reason, left_out=False))
            continue
        stem = _stem(state.name)
        # Images of one name, from different folders, must not overwrite each other.
        unique = stem if repeated[name_key(stem)] == 1 else f"{stem}-{state.image_id[:8]}"
        try:
            write_mask(folder / f"{unique}_segmentation.png", find_consensus(masks).labels)
        except MaskError as error:
            problems.append(Problem(state.name, str(error)))
            continue
        written += 1
    return written, problems


def _stem(name: str) -> str:
    """Return the name of an image as part of a file name; names of arrays may hold any letter."""
    return re.sub(r'[<>:"/\\|?*\x00-\x1f]', "_", name)
