from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_lesionseg.datasets.export import export_dataset
from napari_lesionseg.datasets.formats import ExportConfig
from napari_lesionseg.datasets.formats.dicom import with_originals
from napari_lesionseg.datasets.formats.dicom_files import read_photograph, read_spacing
from napari_lesionseg.datasets.import_ import import_dataset, read_dataset
from napari_lesionseg.datasets.manifest import verify
from napari_lesionseg.errors import DatasetError, ImageError

pydicom = pytest.importorskip("pydicom", reason="needs the extra dicom")
highdicom = pytest.importorskip("highdicom", reason="needs the extra dicom")
DERMOSCOPIC = "1.2.840.10008.5.1.4.1.1.77.1.7"
PHOTOGRAPHIC = "1.2.840.10008.5.1.4.1.1.77.1.4"


def write_photograph(path: Path, image: np.ndarray, patient: str, kind: str = PHOTOGRAPHIC) -> None:
    """Write a photograph with a header full of names."""
    dataset = pydicom.Dataset()
    dataset.SOPClassUID = kind
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(dataset, keyword, pydicom.uid.generate_uid())
    dataset.StudyInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[patient])
    dataset.PatientName, dataset.PatientID = "SECRET^Jane", patient
    dataset.PatientBirthDate, dataset.PatientSex, dataset.StudyDate = "19600101", "F", "20240102"
    dataset.InstitutionName = dataset.StudyDescription = dataset.ImageComments = "SECRET"
    dataset.Modality, dataset.ImageType = "XC", ["ORIGINAL", "PRIMARY"]
    dataset.Manufacturer = "DermLite"
    dataset.add_new(0x00091010, "LO", "SECRET")
    dataset.set_pixel_data(image, "RGB", 8)
    dataset.save_as(path, enforce_file_format=True)


@pytest.fixture
def photographs(kit, tmp_path: Path) -> Path:
    folder = tmp_path / "camera"
    folder.mkdir()
    for seed in range(4):
        kind = DERMOSCOPIC if seed % 2 else PHOTOGRAPHIC
        write_photograph(folder / f"photo{seed}.dcm", kit.image(seed), f"SECRET{seed // 2}", kind)
    return folder


@pytest.fixture
def outlined(kit, photographs: Path):
    """Records of the photographs; the second has two lesions and a hair, the last no lesion."""
    records = []
    for seed in range(4):
        path = photographs / f"photo{seed}.dcm"
        labels = kit.labels(seed, classes=3 if seed == 1 else 2)
        halves = np.where(labels == 1, 1 + (np.arange(56) > 28), 0).astype(np.uint16)
        records.append(
            kit.record(
                seed,
                name=path.stem,
                classes=3,
                mask=labels,
                instances=halves if seed == 1 else None,
                origin=path,
                patient=f"SECRET{seed // 2}",
                image=functools.partial(read_photograph, path),
            )
        )
    empty = np.zeros((40, 56), np.uint8)
    records[3] = replace(
        records[3], mask=empty, provenance=replace(records[3].provenance, status="no lesion")
    )
    return records


def test_photographs_are_read(kit, photographs: Path) -> None:
    dataset = read_dataset(photographs)
    assert dataset.format == "dicom"
    assert [record.patient for record in dataset.records] == ["SECRET0", "SECRET0", "SECRET1", "SECRET1"]
    pixels = dataset.records[2].load(bare=True)
    assert np.array_equal(pixels.image, kit.image(2))
    assert dataset.records[2].provenance.status == "unreviewed"


def test_segmentations_are_read_back(kit, outlined, tmp_path: Path) -> None:
    report = kit.last(export_dataset(outlined, tmp_path / "out", "dicom"))
    assert kit.last(verify(tmp_path / "out")).intact
    by_name = {report.names[record.name]: record for record in outlined}
    for path in (tmp_path / "out").rglob("*_segmentation.dcm"):
        found = highdicom.seg.segread(path)
        photograph = pydicom.dcmread(path.with_name(path.name.replace("_segmentation", "")))
        frames = found.get_pixels_by_source_instance([photograph.SOPInstanceUID])[0]
        record = by_name.pop(path.stem.removesuffix("_segmentation"))
        labels = np.zeros((40, 56), np.uint8)
        for number in range(found.number_of_segments):
            label = found.get_segment_description(number + 1).segment_label
            labels[frames[..., number] > 0] = kit.classes.index(label)
        assert np.array_equal(labels, record.mask)
        assert np.array_equal(photograph.pixel_array, record.load().image)
        assert found.number_of_segments == (3 if record.instances is not None else 1)
    assert [record.provenance.status for record in by_name.values()] == ["no lesion"]


def test_a_segment_has_the_codes_of_diagnosis_and_site(kit, outlined, tmp_path: Path) -> None:
    described = {"anatom_site_general": "upper extremity"}
    known = replace(outlined[0], diagnosis="melanoma", attributes=described)
    kit.last(export_dataset([known, *outlined[1:3]], tmp_path / "set", "dicom"))
    segments = [
        segment
        for path in (tmp_path / "set").rglob("*_segmentation.dcm")
        for segment in pydicom.dcmread(path).SegmentSequence
    ]
    codes = {segment.SegmentedPropertyTypeCodeSequence[0].CodeValue: segment for segment in segments}
    assert {"372244006", "95324001"} <= codes.keys()
    assert codes["372244006"].AnatomicRegionSequence[0].CodeValue == "371311000"
    assert "AnatomicRegionSequence" not in codes["95324001"]


def test_our_own_reader_gives_the_same(kit, outlined, tmp_path: Path) -> None:
    kit.last(export_dataset(outlined, tmp_path / "out", "dicom"))
    masks = {record.name: record.mask for record in outlined}
    dataset = read_dataset(tmp_path / "out")
    assert dataset.problems == ()
    for record in dataset.records:
        assert record.classes == kit.classes
        assert np.array_equal(record.load(bare=True).labels, masks[record.name])


def test_no_name_is_left_in_the_header(kit, outlined, tmp_path: Path) -> None:
    kit.last(export_dataset(outlined, tmp_path / "out", "dicom"))
    originals = {str(pydicom.dcmread(record.origin).SOPInstanceUID) for record in outlined}
    studies: dict[str, set[str]] = {}
    for path in (tmp_path / "out").rglob("*"):
        assert not path.is_file() or b"SECRET" not in path.read_bytes()
        if path.suffix != ".dcm":
            continue
        header = pydicom.dcmread(path)
        assert header.PatientIdentityRemoved == "YES" or path.stem.endswith("_segmentation")
        assert header.PatientBirthDate == header.StudyDate == ""
        assert not [element for element in header.iterall() if element.tag.is_private]
        assert str(header.SOPInstanceUID) not in originals
        studies.setdefault(str(header.PatientID), set()).add(str(header.StudyInstanceUID))
    assert sorted(map(len, studies.values())) == [1, 1]


def test_other_images_cannot_become_dicom(kit, records, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="did not come as DICOM"):
        kit.last(export_dataset(records, tmp_path / "out", "dicom"))
    assert list(tmp_path.iterdir()) == []


def test_photographs_come_in_without_outlines_and_go_out_with_them(
    kit, photographs: Path, tmp_path: Path
) -> None:
    report = kit.last(import_dataset(photographs, tmp_path / "study"))
    assert report.written == 4
    assert len(kit.files(tmp_path / "study/images")) == 4
    assert not (tmp_path / "study/masks").exists()
    outlined = [kit.record(seed, name=f"photo{seed}", patient=None) for seed in range(5)]
    found = with_originals(outlined, photographs)
    assert [record.origin is not None for record in found] == [True] * 4 + [False]
    assert found[0].patient == "SECRET0"
    config = ExportConfig(pseudonymize="all")
    assert kit.last(export_dataset(found[:4], tmp_path / "out", "dicom", config=config)).written == 4


def test_files_without_an_ending_are_known_by_their_beginning(photographs: Path) -> None:
    for number, path in enumerate(sorted(photographs.glob("*.dcm"))):
        path.rename(photographs / f"1.2.840.{number}" if number else photographs / "IM0001")
    (photographs / "README").write_text("no image")
    dataset = read_dataset(photographs)
    assert [record.name for record in dataset.records] == ["1.2.840.1", "1.2.840.2", "1.2.840.3", "IM0001"]
    assert dataset.problems == ()


def test_what_is_no_photograph_is_listed(photographs: Path) -> None:
    (photographs / "text.dcm").write_text("no image")
    header = pydicom.dcmread(photographs / "photo0.dcm")
    header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    header.save_as(photographs / "ct.dcm")
    header.SOPClassUID, header.NumberOfFrames = PHOTOGRAPHIC, 3
    header.save_as(photographs / "film.dcm")
    dataset = read_dataset(photographs)
    assert len(dataset.records) == 4
    assert sorted(problem.name for problem in dataset.problems) == ["ct.dcm", "film.dcm", "text.dcm"]
    assert not any("SECRET" in problem.reason for problem in dataset.problems)


def test_a_folder_without_photographs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no DICOM photographs"):
        read_dataset(tmp_path, "dicom")
    (tmp_path / "a.dcm").write_bytes(b"x")
    with pytest.raises(DatasetError, match=r"no DICOM photographs\. The first reason: .*a\.dcm is damaged"):
        read_dataset(tmp_path, "dicom")


def test_deflated_and_huge_files_are_refused(photographs: Path) -> None:
    path = photographs / "photo0.dcm"
    header = pydicom.dcmread(path)
    header.Rows = header.Columns = 60_000
    header.save_as(path)
    with pytest.raises(ImageError, match="60000"):
        read_photograph(path)
    header = pydicom.dcmread(photographs / "photo1.dcm")
    header.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    header.save_as(path)
    with pytest.raises(ImageError, match="deflated"):
        read_photograph(path)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6), st.integers(0, 7000))
def test_damaged_files_give_one_kind_of_error(
    kit, tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]], cut: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    source = folder / "sound.dcm"
    if not source.exists():
        write_photograph(source, kit.image(0), "SECRET")
    payload = bytearray(source.read_bytes())
    for place, value in flips:
        payload[place % len(payload)] = value
    path = folder / "damaged.dcm"
    path.write_bytes(payload[: len(payload) - cut % len(payload)])
    try:
        image = read_photograph(path)
    except ImageError:
        return
    assert image.dtype == np.uint8
    assert image.ndim == 3


def test_spacing_is_read_where_it_is_told(kit, tmp_path: Path) -> None:
    path = tmp_path / "photo.dcm"
    write_photograph(path, kit.image(1), "P1")
    assert read_spacing(path) is None
    dataset = pydicom.dcmread(path)
    dataset.PixelSpacing = [0.05, 0.06]
    dataset.save_as(path)
    assert read_spacing(path) == (0.05, 0.06)
    path.write_bytes(b"no DICOM")
    with pytest.raises(ImageError, match="damaged"):
        read_spacing(path)


def test_a_photograph_with_two_segmentations_gets_none(kit, outlined, tmp_path: Path) -> None:
    kit.last(export_dataset(outlined, tmp_path / "out", "dicom"))
    segmentations = sorted((tmp_path / "out").rglob("*_segmentation.dcm"))
    copied = pydicom.dcmread(segmentations[0])
    copied.SOPInstanceUID = copied.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    copied.save_as(segmentations[0].with_name("second.dcm"))
    before = {record.name for record in read_dataset(tmp_path / "out").records if record.mask is not None}
    dataset = read_dataset(tmp_path / "out")
    assert len(dataset.problems) == 1
    assert "several segmentations" in dataset.problems[0].reason
    assert {segmentations[0].name, "second.dcm"} == set(dataset.problems[0].name.split(", "))
    assert segmentations[0].stem.removesuffix("_segmentation") not in before


def write_gray(path: Path, values: np.ndarray, kind: str, bits: int) -> None:
    write_photograph(path, np.zeros((*values.shape, 3), np.uint8), "P")
    dataset = pydicom.dcmread(path)
    dataset.set_pixel_data(values, kind, bits)
    dataset.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_brightness_is_scaled_by_the_bits_that_are_used(tmp_path: Path, bits: int) -> None:
    top = (1 << bits) - 1
    values = np.array([[0, top // 2, top]] * 2, np.uint8 if bits == 8 else np.uint16)
    write_gray(tmp_path / "a.dcm", values, "MONOCHROME2", bits)
    assert read_photograph(tmp_path / "a.dcm")[0, :, 0].tolist() == [0, 127, 255]
    write_gray(tmp_path / "b.dcm", values, "MONOCHROME1", bits)
    assert read_photograph(tmp_path / "b.dcm")[0, :, 0].tolist() == [255, 128, 0]


def test_palettes_are_applied(tmp_path: Path) -> None:
    write_gray(tmp_path / "a.dcm", np.array([[0, 1, 2]] * 2, np.uint8), "MONOCHROME2", 8)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    colors = np.array([[0, 0, 0], [65535, 0, 257], [0, 65535, 65535]], np.uint16)
    for name, column in zip(("Red", "Green", "Blue"), colors.T, strict=True):
        tag = pydicom.datadict.tag_for_keyword(f"{name}PaletteColorLookupTableDescriptor")
        dataset.add_new(tag, "US", [3, 0, 16])
        setattr(dataset, f"{name}PaletteColorLookupTableData", column.tobytes())
    dataset.save_as(tmp_path / "a.dcm")
    assert read_photograph(tmp_path / "a.dcm")[0].tolist() == [[0, 0, 0], [255, 0, 1], [0, 255, 255]]


@pytest.fixture
def segmented(tmp_path: Path, photographs: Path):
    """Write a segmentation of one photograph, of any kind, and read it back as labels."""

    def write(pixels: np.ndarray, kind: str, labels: tuple[str, ...]) -> np.ndarray:
        hd = highdicom
        code = hd.sr.CodedConcept("95324001", "SCT", "Skin lesion")
        source = pydicom.dcmread(photographs / "photo1.dcm")
        source.AccessionNumber = source.StudyTime = source.StudyID = ""
        descriptions = [
            hd.seg.SegmentDescription(number, label, code, code, "MANUAL")
            for number, label in enumerate(labels, 1)
        ]
        hd.seg.Segmentation(
            [source], pixels, kind, descriptions, hd.UID(), 2, hd.UID(), 1, "x", "x", "1", "0",
            omit_empty_frames=False,
        ).save_as(photographs / "segmentation.dcm")  # fmt: skip
        record = next(r for r in read_dataset(photographs).records if r.name == "photo1")
        assert record.classes == ("background", *dict.fromkeys(labels))
        return record.load().labels

    return write


def test_a_fraction_counts_from_one_half(segmented) -> None:
    fractions = np.zeros((1, 40, 56), np.float64)
    fractions[0, :10], fractions[0, 10:20], fractions[0, 20:30] = 1.0, 0.55, 0.3
    labels = segmented(fractions, "FRACTIONAL", ("lesion",))
    assert labels[:20].all()
    assert not labels[20:].any()


def test_label_maps_hold_segment_numbers(segmented) -> None:
    numbers = np.zeros((1, 40, 56), np.uint8)
    numbers[0, :10], numbers[0, 10:20] = 1, 2
    labels = segmented(numbers, "LABELMAP", ("lesion", "hair"))
    assert np.array_equal(labels, numbers[0])


def test_segments_that_overlap_are_refused(segmented) -> None:
    masks = np.zeros((1, 40, 56, 2), np.uint8)
    masks[0, :20, :, 0], masks[0, 10:30, :, 1] = 1, 1
    with pytest.raises(DatasetError, match="overlap"):
        segmented(masks, "BINARY", ("lesion", "hair"))
    masks[0, 10:20, :, 1] = 0
    assert set(np.unique(segmented(masks, "BINARY", ("lesion", "hair"))).tolist()) == {0, 1, 2}


def changed_photograph(path: Path, pixels: np.ndarray, kind: str, bits: int, **elements: object) -> Path:
    """Write a photograph of gray values with further elements."""
    write_photograph(path, np.zeros((40, 56, 3), np.uint8), "SECRET")
    dataset = pydicom.dcmread(path)
    dataset.set_pixel_data(pixels, kind, bits)
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_the_shape_of_the_presentation_says_what_is_white(kit, tmp_path: Path) -> None:
    gray = kit.image(0)[..., 0]
    for kind, shape, expected in (
        ("MONOCHROME2", "INVERSE", 255 - gray),
        ("MONOCHROME2", "IDENTITY", gray),
        ("MONOCHROME1", "INVERSE", 255 - gray),
    ):
        path = changed_photograph(tmp_path / "a.dcm", gray, kind, 8, PresentationLUTShape=shape)
        assert np.array_equal(read_photograph(path)[..., 0], expected)


def test_values_in_the_upper_bits_are_refused(kit, tmp_path: Path) -> None:
    values = kit.image(0)[..., 0].astype(np.uint16) * 16
    path = changed_photograph(tmp_path / "a.dcm", values, "MONOCHROME2", 12)
    dataset = pydicom.dcmread(path)
    dataset.HighBit, dataset.PixelData = 15, (values << 4).astype("<u2").tobytes()
    dataset.save_as(path)
    with pytest.raises(ImageError, match="lowest bits"):
        read_photograph(path)


def test_the_index_of_a_disc_is_no_photograph(photographs: Path) -> None:
    (photographs / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM" + b"x" * 40)
    dataset = read_dataset(photographs)
    assert (len(dataset.records), dataset.problems) == (4, ())


def test_a_segmentation_of_two_photographs_is_named(outlined, kit, tmp_path: Path) -> None:
    kit.last(export_dataset(outlined, tmp_path / "out", "dicom"))
    paths = sorted((tmp_path / "out").rglob("*_segmentation.dcm"))
    found = pydicom.dcmread(paths[0])
    other = pydicom.dcmread(paths[1]).ReferencedSeriesSequence[0].ReferencedInstanceSequence[0]
    found.ReferencedSeriesSequence[0].ReferencedInstanceSequence.append(other)
    found.save_as(paths[0])
    dataset = read_dataset(tmp_path / "out")
    assert [problem.name for problem in dataset.problems] == [paths[0].name]
    assert "several photographs" in dataset.problems[0].reason


def test_words_for_unknown_are_no_patient(kit, tmp_path: Path) -> None:
    for name, patient in (("a", "Unknown"), ("b", "ANONYMOUS"), ("c", " 7"), ("d", "")):
        write_photograph(tmp_path / f"{name}.dcm", kit.image(1), patient)
    assert [record.patient for record in read_dataset(tmp_path).records] == [None, None, "7", None]


def test_originals_of_one_name_are_not_mixed_up(kit, tmp_path: Path) -> None:
    for patient in ("A", "B"):
        (tmp_path / patient).mkdir()
        write_photograph(tmp_path / patient / "IM0001.dcm", kit.image(1), patient)
    with pytest.raises(DatasetError, match="are called IM0001"):
        with_originals([replace(kit.record(1), name="IM0001")], tmp_path)
    assert with_originals([kit.record(1)], tmp_path)[0].origin is None
