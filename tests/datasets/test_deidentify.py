from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from napari_lesionseg.datasets.deidentify import betrays_patient, clean_jpeg, final_records, safe_name
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


SECRET = b"Jane Doe 1960"


def jpeg(mode: str = "RGB", **options: object) -> bytes:
    rng = np.random.default_rng(3)
    small = Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8)).resize(
        (53, 37), Image.Resampling.BICUBIC
    )
    buffer = io.BytesIO()
    small.convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def with_secrets() -> bytes:
    exif = Image.Exif()
    exif[0x010E] = SECRET.decode()
    exif[0x0112] = 1
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    payload = jpeg(exif=exif, comment=SECRET, icc_profile=profile, dpi=(300, 300))
    unknown = b"\xff\xed" + (len(SECRET) + 2).to_bytes(2, "big") + SECRET
    return payload[:2] + unknown + payload[2:] + jpeg(comment=SECRET)


def pixels(payload: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(payload)).convert("RGB"))


def test_everything_but_the_pixels_goes() -> None:
    payload = with_secrets()
    assert payload.count(SECRET) >= 4
    cleaned = clean_jpeg(payload)
    assert cleaned is not None
    assert SECRET not in cleaned
    assert b"Exif" not in cleaned
    assert b"ICC_PROFILE" not in cleaned
    assert np.array_equal(pixels(cleaned), pixels(payload))
    assert not Image.open(io.BytesIO(cleaned)).getexif()
    assert clean_jpeg(cleaned) == cleaned


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {"progressive": True}),
        ("RGB", {"restart_marker_blocks": 2, "optimize": True}),
        ("L", {}),
        ("CMYK", {}),
        ("RGB", {"subsampling": 0, "quality": 100, "keep_rgb": True}),
    ],
)
def test_all_kinds_of_jpeg_keep_their_pixels(mode: str, options: dict[str, object]) -> None:
    payload = jpeg(mode, **options)
    cleaned = clean_jpeg(payload)
    assert cleaned is not None
    assert np.array_equal(pixels(cleaned), pixels(payload))


def test_the_thumbnail_in_the_first_header_goes() -> None:
    payload = jpeg()
    assert payload[2:4] == b"\xff\xe0"
    thumbnail = (
        payload[:4] + (16 + 12).to_bytes(2, "big") + payload[6:18] + b"\2\2" + b"SECRETSECRET" + payload[20:]
    )
    cleaned = clean_jpeg(thumbnail)
    assert cleaned is not None
    assert b"SECRET" not in cleaned
    assert np.array_equal(pixels(cleaned), pixels(payload))


def test_what_is_not_understood_is_left_alone() -> None:
    payload = jpeg()
    assert clean_jpeg(b"") is None
    assert clean_jpeg(b"\x89PNG\r\n") is None
    assert clean_jpeg(payload[: len(payload) // 2]) is None
    assert clean_jpeg(payload[:2] + b"\xff\xd8" + payload[2:]) is None
    assert clean_jpeg(payload[:2] + b"\xff\xe1\0\1" + payload[2:]) is None


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=10), st.integers(0, 300))
def test_damaged_files_never_raise_and_never_grow(flips: list[tuple[int, int]], cut: int) -> None:
    payload = bytearray(with_secrets())
    for place, value in flips:
        payload[place % len(payload)] = value
    cleaned = clean_jpeg(bytes(payload[: len(payload) - cut]))
    assert cleaned is None or len(cleaned) <= len(payload)


@given(st.text())
def test_safe_names_are_plain(name: str) -> None:
    safe = safe_name(name)
    assert safe
    assert len(safe) <= 81
    assert not safe.startswith(".")
    assert not set(safe) & set('/\\:*?"<>| \0')
    assert safe_name(safe) == safe


@pytest.mark.parametrize(
    ("name", "safe"), [("a b/c", "a_b_c"), ("NUL", "_NUL"), ("com1.x", "_com1.x"), ("æ-1", "æ-1")]
)
def test_names_stay_readable(name: str, safe: str) -> None:
    assert safe_name(name) == safe
