from __future__ import annotations

import pytest

from napari_lesionseg.datasets.deidentify import betrays_patient, final_records
from napari_lesionseg.datasets.formats import FORMATS, ExportConfig


def finish(records, convention="folder", **settings):
    config = ExportConfig(**settings)
    return final_records(records, {record.name: "train" for record in records}, config, FORMATS[convention])


def test_nothing_changes_when_nothing_should(kit) -> None:
    records = [kit.record(seed, lesion="L1", metadata={"sex": "female"}) for seed in range(4)]
    final, names = finish(records, pseudonymize="nothing")
    assert names == {record.name: record.name for record in records}
    assert [(r.name, r.patient, r.lesion, r.provenance) for r in final] == [
        (r.name, r.patient, r.lesion, r.provenance) for r in records
    ]


def test_patients_and_lesions_get_numbers_and_stay_apart(kit) -> None:
    records = [kit.record(seed, lesion="left") for seed in range(6)]
    final, names = finish(records)
    assert {record.patient for record in final} == {"patient_1", "patient_2", "patient_3"}
    assert [record.patient for record in final][::2] == [record.patient for record in final][1::2]
    assert len({record.lesion for record in final}) == 3
    assert all(record.provenance.annotator == "am" for record in final)
    assert names["case_00"] == "case_00"


def test_all_names_can_be_replaced(kit) -> None:
    records = [kit.record(seed) for seed in range(30)]
    final, names = finish(records, pseudonymize="all")
    assert sorted(names.values()) == [f"image_{number:05d}" for number in range(1, 31)]
    assert list(names.values()) != sorted(names.values())
    assert {record.provenance.annotator for record in final} == {"annotator_1"}
    assert {record.provenance.time for record in final} == {"2026-01-02"}


def test_the_new_order_does_not_tell_the_old(kit) -> None:
    records = [kit.record(seed) for seed in range(30)]
    for mode in ("patients", "all"):
        final, names = finish(records, "isic", pseudonymize=mode)
        assert [record.name for record in final] == sorted(names.values())
        old = {new: name for name, new in names.items()}
        assert [old[record.name] for record in final] != [record.name for record in records]


@pytest.mark.parametrize(
    ("name", "patient", "betrays"),
    [
        ("PAT_355_732_102", "355", True),
        ("doe-jane left", "Doe", True),
        ("x20260417y", "20260417", True),
        ("img35512", "355", False),
        ("IMD002", "2", False),
        ("IMD002", None, False),
    ],
)
def test_names_that_betray_the_patient_are_replaced(
    kit, name: str, patient: str | None, betrays: bool
) -> None:
    record = kit.record(0, name=name, patient=patient)
    assert betrays_patient(record) is betrays
    _, names = finish([record])
    assert names[name].startswith("image_") is betrays


def test_names_stay_unique_when_made_safe(kit) -> None:
    records = [kit.record(seed, name=name, patient=None) for seed, name in enumerate(("a b", "a/b", "A?B"))]
    _, names = finish(records)
    assert names == {"a b": "a_b", "a/b": "a_b_2", "A?B": "A_B_3"}


def test_names_that_the_tools_refuse_are_replaced(kit) -> None:
    records = [kit.record(seed, patient=None) for seed in range(4)]
    records += [
        kit.record(5, name="ISIC_0000002", patient=None),
        kit.record(6, name="ISIC_0024306", patient=None),
    ]
    _, names = finish(records, convention="isic")
    assert (names["ISIC_0000002"], names["ISIC_0024306"]) == ("ISIC_0000002", "ISIC_0024306")
    new = sorted(names[record.name] for record in records[:4])
    assert new == ["ISIC_0000001", "ISIC_0000003", "ISIC_0000004", "ISIC_0000005"]
    _, names = finish(records, convention="isic", pseudonymize="nothing")
    assert names["case_00"] == "case_00"


def test_only_listed_facts_leave_the_house(kit) -> None:
    record = kit.record(0, metadata={"sex": "male", "birth_date": "1960-01-01", "comment": "Jane"})
    final, _ = finish([record])
    assert final[0].metadata == {"sex": "male"}
    final, _ = finish([record], facts=None)
    assert set(final[0].metadata) == {"sex", "birth_date", "comment"}
