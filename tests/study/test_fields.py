"""Fields that annotators fill in: their template, their values, and what does not fit."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_lesionseg.datasets.records import Record
from napari_lesionseg.errors import FieldError, StudyError
from napari_lesionseg.study.datasets import field_problems, import_annotations, study_records
from napari_lesionseg.study.events import Described, Identified
from napari_lesionseg.study.fields import (
    TEMPLATE_FILE,
    FieldTemplate,
    StudyField,
    StudyFields,
    default_template,
    field_counts,
    matches,
    read_template,
)
from napari_lesionseg.study.study import Study


@pytest.fixture
def fields(study: Study) -> StudyFields:
    return StudyFields(study)


def field(kind: str, **settings: object) -> StudyField:
    if kind == "choice":
        settings = {"choices": ("typical", "atypical"), **settings}
    return StudyField(name="field", title="Field", kind=kind, **settings)


@pytest.mark.parametrize(
    ("kind", "given_as", "value"),
    [
        ("choice", "Atypical", "atypical"),
        ("choice", "", None),
        ("number", "2,5", 2.5),
        ("number", 3, 3.0),
        ("yes/no", "Yes", True),
        ("yes/no", "0.0", False),
        ("date", "2026-02-28", "2026-02-28"),
        ("date", "2026:02:28 10:11:12", "2026-02-28"),
        ("text", "hår", "hår"),
        ("text", None, None),
    ],
)
def test_values_are_read_in_the_words_that_people_use(kind: str, given_as: str, value: object) -> None:
    assert field(kind).parse(given_as) == value


@pytest.mark.parametrize(
    ("kind", "given_as", "message"),
    [
        ("choice", "strange", "“strange” is no choice of Field; choose one of typical, atypical."),
        ("number", "wide", "“wide” is not a number"),
        ("number", math.nan, "“nan” is not a number"),
        ("number", math.inf, "“inf” is not a number"),
        ("number", True, "“yes” is not a number"),
        ("number", "-1", "must be at least 0; -1 is less"),
        ("number", 20, "must be at most 10; 20 is more"),
        ("yes/no", "perhaps", "neither yes nor no"),
        ("date", "2026-02-30", "“2026-02-30” is no date; write Field as 2026-02-28."),
        ("date", "yesterday", "is no date"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_in_one_sentence(kind: str, given_as: str, message: str) -> None:
    with pytest.raises(FieldError) as raised:
        field(kind, minimum=0, maximum=10).parse(given_as)
    assert message in str(raised.value)


@given(st.one_of(st.text(), st.floats(), st.booleans(), st.none()))
def test_whatever_is_typed_is_read_or_refused_and_reading_it_again_changes_nothing(value: object) -> None:
    for template_field in default_template().fields:
        try:
            parsed = template_field.parse(value)
        except FieldError:
            continue
        assert template_field.parse(parsed) == parsed


def test_the_default_template_knows_dermoscopy() -> None:
    template = default_template()
    names = {entry.name: entry for entry in template.fields}
    assert names["diagnosis"].open
    assert (names["diagnosis"].scope, names["fitzpatrick_skin_type"].scope) == ("lesion", "patient")
    assert names["fitzpatrick_skin_type"].choices == ("I", "II", "III", "IV", "V", "VI")
    checklist = {"pigment_network", "blue_whitish_veil", "vascular_structures", "streaks", "pigmentation"}
    assert checklist | {"dots_globules", "regression_areas", "image_type", "remarks"} <= names.keys()
    assert not names["remarks"].is_exported
    assert not names["taken_on"].is_exported


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "not a template"),
        ('{"name": "x", "fields": [{"name": "Bad name", "title": "x"}]}', "not a template"),
        ('{"name": "x", "fields": [{"name": "a", "title": "A", "kind": "choice"}]}', "needs choices"),
        ('{"name": "x", "fields": [{"name": "a", "title": "A", "aliases": {"b": "c"}}]}', "no choice of it"),
        ('{"name": "x", "fields": [{"name": "a", "title": "A"}, {"name": "a", "title": "B"}]}', "two fields"),
        ('{"name": "x", "fields": [{"name": "a", "title": "A", "minimum": NaN}]}', "not a template"),
    ],
)
def test_a_broken_template_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "fields.json"
    path.write_text(content)
    with pytest.raises(StudyError, match=message):
        read_template(path)
    with pytest.raises(StudyError, match="cannot be read"):
        read_template(tmp_path / "none.json")


def test_values_are_there_after_reopening_and_can_be_taken_back(
    study: Study, images: list[str], fields: StudyFields
) -> None:
    assert fields.set(images[0], {"image_type": "Dermoscopy", "mm_per_pixel": "0.05"}) == {
        "image_type": None,
        "mm_per_pixel": None,
    }
    before = fields.set(images[0], {"image_type": "clinical: overview"})
    assert before == {"image_type": "dermoscopic"}
    fields.take_back(images[0], before)
    with Study.open(study.folder, "am") as again:
        assert StudyFields(again).values(images[0]) == {"image_type": "dermoscopic", "mm_per_pixel": 0.05}
        assert StudyFields(again).values(images[1]) == {}
        assert again.problems == ()
        assert [type(event) for event in again.history(images[0])].count(Described) == 3


def test_a_cleared_field_has_no_value(images: list[str], fields: StudyFields) -> None:
    fields.set(images[0], {"remarks": "hair"})
    fields.set(images[0], {"remarks": "  "})
    assert fields.values(images[0]) == {}


def test_values_that_do_not_fit_are_not_saved(study: Study, images: list[str], fields: StudyFields) -> None:
    with pytest.raises(FieldError, match="no choice of Streaks"):
        fields.set(images[0], {"remarks": "hair", "streaks": "many"})
    with pytest.raises(FieldError, match="no field shape"):
        fields.set(images[0], {"shape": "round"})
    assert fields.values(images[0]) == {}
    assert study.history(images[0])[1:] == ()


def test_what_is_said_of_a_lesion_or_patient_holds_for_all_its_images(
    study: Study, images: list[str], fields: StudyFields
) -> None:
    first, second, other = images
    fields.set(first, {"diagnosis": "nevus", "fitzpatrick_skin_type": "II", "remarks": "first visit"})
    for image_id, lesion in ((first, "1"), (second, "1"), (other, "2")):
        study.record(Identified, image_id, patient="A", lesion=lesion)
    assert fields.values(second) == {"diagnosis": "nevus", "fitzpatrick_skin_type": "II"}
    assert fields.values(other) == {"fitzpatrick_skin_type": "II"}
    fields.set(second, {"diagnosis": "melanoma"})
    assert fields.values(first)["diagnosis"] == "melanoma"
    study.record(Identified, other, patient="B", lesion="1")  # another patient's first lesion
    assert fields.values(other) == {}


def test_annotators_of_a_blinded_study_do_not_see_each_others_values(
    tmp_path: Path, make_images: Callable[..., Path]
) -> None:
    with Study.create(tmp_path / "study", "am", paths=make_images(1), blinded=True) as study:
        (image_id,) = study.state.images
        StudyFields(study).set(image_id, {"diagnosis": "nevus"})
        with Study.open(study.folder, "bo") as other:
            assert StudyFields(other).values(image_id) == {}
            StudyFields(other).set(image_id, {"diagnosis": "melanoma"})
        study.refresh()
        assert StudyFields(study).values(image_id) == {"diagnosis": "nevus"}
    with Study.open(study.folder, "cy", unblind=True) as everybody:
        fields = StudyFields(everybody)
        assert fields.values(image_id) == {"diagnosis": "melanoma"}
        assert fields.values(image_id, "am") == {"diagnosis": "nevus"}


def test_nothing_is_lost_when_a_field_is_removed_from_the_template(
    study: Study, images: list[str], fields: StudyFields
) -> None:
    fields.set(images[0], {"image_type": "dermoscopic", "streaks": "regular"})
    whole = fields.template
    smaller = [entry for entry in whole.fields if entry.name != "streaks"]
    narrow = StudyField(name="image_type", title="Type", kind="choice", choices=("photograph",))
    fields.set_template(FieldTemplate(name="new", fields=(narrow, *smaller[:2])))
    again = StudyFields(study)
    assert again.template.name == "new"
    assert again.values(images[0]) == {"image_type": "dermoscopic", "streaks": "regular"}
    assert again.exported(images[0]) == {}
    reasons = sorted(problem.reason for problem in field_problems(study))
    assert reasons[0].startswith("The template has no field streaks any more")
    assert reasons[1] == "“dermoscopic” is no choice of Type; choose one of photograph."
    again.set_template(whole)
    assert again.exported(images[0]) == {"image_type": "dermoscopic", "streaks": "regular"}


def test_the_template_file_is_small_and_readable(fields: StudyFields) -> None:
    fields.set_template(
        FieldTemplate(name="sizes", fields=(StudyField(name="width", title="Width", kind="number"),))
    )
    path = fields._file
    assert path.name == TEMPLATE_FILE
    assert json.loads(path.read_text()) == {
        "name": "sizes",
        "fields": [{"name": "width", "title": "Width", "kind": "number"}],
    }


def test_columns_of_a_data_set_fill_in_the_fields(study: Study, images: list[str]) -> None:
    facts = {"fitspatrick": "3.0", "streaks": "P", "dots_and_globules": "irregular", "sex": "female"}
    records = [
        Record("IMD1", np.zeros((12, 17, 3), np.uint8), diagnosis="MEL", metadata=facts),
        Record("IMD2", np.zeros((12, 17, 3), np.uint8), metadata={"streaks": "some", "taken_on": "31.2."}),
        Record("IMD3", np.zeros((12, 17, 3), np.uint8), metadata={"mm_per_pixel": "NaN"}),
    ]
    import_annotations(study, records)
    fields = StudyFields(study)
    assert fields.values(images[0]) == {
        "diagnosis": "melanoma",
        "fitzpatrick_skin_type": "III",
        "streaks": "present",
        "dots_globules": "atypical",
    }
    assert fields.values(images[1]) == {"streaks": "some", "taken_on": "31.2."}  # nothing is lost
    assert fields.values(images[2]) == {}
    said = [str(problem) for problem in study.problems]
    assert any("“some” is no choice of Streaks" in text and "1 image" in text for text in said)
    assert any("“31.2.” is no date" in text for text in said)
    before = [study.history(image_id) for image_id in images]
    import_annotations(study, records)
    assert [study.history(image_id) for image_id in images] == before


def test_records_have_what_may_leave_the_house(study: Study, images: list[str], fields: StudyFields) -> None:
    fields.set(
        images[0],
        {"diagnosis": "halo nevus", "streaks": "absent", "remarks": "Ola Nordmann", "taken_on": "2026-03-01"},
    )
    record = study_records(study)[0]
    assert (record.diagnosis, dict(record.attributes)) == ("halo nevus", {"streaks": "absent"})


def test_searching_by_value(images: list[str], fields: StudyFields) -> None:
    fields.set(images[0], {"diagnosis": "basal cell carcinoma", "mm_per_pixel": 0.05})
    values = fields.values(images[0])
    assert matches(values, "carcinoma")
    assert matches(values, "diagnosis=basal_cell_carcinoma")
    assert matches(values, "mm_per_pixel=0.05")
    assert matches(values, "streaks=")
    assert not matches(values, "diagnosis=carcinoma")
    assert not matches(values, "diagnosis=")


def test_values_are_counted() -> None:
    assert field_counts([{"a": True, "b": 2.0}, {"a": True}, {"a": False}]) == {
        "a": {"yes": 2, "no": 1},
        "b": {"2": 1},
    }
