"""DICOM photographs and segmentations as files: read with care, cleaned, written.

Needs the packages pydicom and highdicom (``pip install "napari-lesionseg[dicom]"``).
"""

from __future__ import annotations

import contextlib
import logging
import struct
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_lesionseg.datasets.formats.base import objects_of
from napari_lesionseg.datasets.records import InstanceImage, Pixels, Record
from napari_lesionseg.errors import DatasetError, ImageError, how_to_install
from napari_lesionseg.io.decoding import MAX_PIXELS
from napari_lesionseg.io.images import to_byte_image
from napari_lesionseg.types import ByteImage, LabelImage

if TYPE_CHECKING:
    import highdicom
    import pydicom

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
LABELMAP = "1.2.840.10008.5.1.4.1.1.66.7"
PHOTOGRAPHS = {
    "1.2.840.10008.5.1.4.1.1.77.1.4": "VL Photographic Image",
    "1.2.840.10008.5.1.4.1.1.77.1.7": "Dermoscopic Photography Image",
    "1.2.840.10008.5.1.4.1.1.7": "Secondary Capture Image",
}
"""The kinds of object that are read as photographs."""

KEPT = (
    "SOPClassUID",
    "Modality",
    "ImageType",
    "Manufacturer",
    "ManufacturerModelName",
    "BodyPartExamined",
    "ImageLaterality",
    "Laterality",
    "PatientOrientation",
    "PatientSex",
    "PixelSpacing",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
    "BurnedInAnnotation",
)
"""Header elements of a photograph that stay."""

_EMPTIED = ("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "PatientBirthDate")

MAX_BYTES = 1024**3
_DEFLATED = {"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"}
# All that pydicom and its decoders were seen to raise on damaged files, besides errors of their own.
_DAMAGED = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


@dataclass(frozen=True, slots=True)
class Header:
    """What is asked of a file before its pixels are read.

    Parameters
    ----------
    uid : str
        Its identifier.
    patient : str
        The patient's number, "" when unknown.
    sex : str
        "F", "M", "O" or "".
    photograph : str
        Of a segmentation, the identifier of the photograph it belongs to, else "".
    classes : tuple of str
        Of a segmentation, the names of the classes, background first.
    """

    uid: str
    patient: str = ""
    sex: str = ""
    photograph: str = ""
    classes: tuple[str, ...] = ()


def read_header(path: Path) -> Header:
    """Read what is asked of a photograph or a segmentation before its pixels.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    Header
        Of a photograph when `photograph` is empty.

    Raises
    ------
    ImageError
        When it is damaged, or neither photograph nor segmentation.
    DatasetError
        When the package pydicom is missing.
    """
    with _guarded(path):
        dataset = _read(path, stop_before_pixels=True)
        uid = str(dataset.SOPInstanceUID)
        if dataset.SOPClassUID in (SEGMENTATION, LABELMAP):
            names = dict.fromkeys(_segment_names(dataset).values())
            instances = [
                str(instance.ReferencedSOPInstanceUID)
                for series in dataset.ReferencedSeriesSequence
                for instance in series.ReferencedInstanceSequence
            ]
            if len(set(instances)) > 1:
                raise ImageError("The file outlines several photographs, and segmentations of one are read.")
            return Header(uid, photograph=instances[0], classes=("background", *names))
        _check_photograph(dataset)
        return Header(uid, str(dataset.get("PatientID", "")), str(dataset.get("PatientSex", "")))


def read_spacing(path: Path) -> tuple[float, float] | None:
    """Read how large a pixel of a DICOM photograph is on the skin.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    (float, float) or None
        Millimeters from row to row and from column to column, by the element Pixel Spacing (0028,0030); None
        where it says nothing. The spacing at the camera's sensor is another element, and is not taken.

    Raises
    ------
    ImageError
        When the file is damaged, or no photograph.
    DatasetError
        When the package pydicom is missing.
    """
    with _guarded(path):
        dataset = _read(path, stop_before_pixels=True)
        _check_photograph(dataset)
        spacing = dataset.get("PixelSpacing")
        return None if not spacing else (float(spacing[0]), float(spacing[1]))


def read_photograph(path: Path) -> ByteImage:
    """Read the pixels of a DICOM photograph.

    Parameters
    ----------
    path : Path
        A file of one of the `PHOTOGRAPHS`, with one frame.

    Returns
    -------
    ndarray
        (H, W, 3) uint8, RGB.

    Raises
    ------
    ImageError
        When it is damaged, too large, or something else.
    DatasetError
        When the package pydicom is missing.
    """
    with _guarded(path):
        dataset = _read(path)
        _check_photograph(dataset)
        return to_byte_image(_displayed(dataset))


def read_segments(path: Path, classes: tuple[str, ...]) -> tuple[LabelImage, InstanceImage]:
    """Read the segments of a segmentation.

    Parameters
    ----------
    path : Path
        A Segmentation object of one frame a segment.
    classes : tuple of str
        Names of the classes, which are the segments' labels.

    Returns
    -------
    labels : ndarray
        (H, W) uint8, class indices.
    instances : ndarray
        (H, W) uint16, the segments numbered from 1.

    Raises
    ------
    ImageError
        When it is damaged.
    DatasetError
        When the package pydicom is missing.
    """
    with _guarded(path):
        dataset = _read(path)
        _check_size(dataset)
        names = _segment_names(dataset)
        frames = np.asarray(dataset.pixel_array).reshape(-1, int(dataset.Rows), int(dataset.Columns))
        labels = np.zeros(frames.shape[1:], np.uint8)
        instances = np.zeros(frames.shape[1:], np.uint16)
        for number, inside in _segments(dataset, frames):
            if (instances[inside] > 0).any():
                raise ImageError("The file has segments that overlap, of which one mask holds only one.")
            labels[inside] = classes.index(names[number])
            instances[inside] = number
    return labels, instances


def _segment_names(dataset: pydicom.Dataset) -> dict[int, str]:
    """Return the segments' labels by number; 0 is the background of a label map."""
    names = {int(item.SegmentNumber): str(item.SegmentLabel) for item in dataset.SegmentSequence}
    return {number: name for number, name in names.items() if number}


def _segments(dataset: pydicom.Dataset, frames: NDArray[Any]) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Yield the number of each segment, and where it is, (H, W)."""
    kind = str(dataset.SegmentationType)
    if kind == "LABELMAP":
        if len(frames) != 1:
            raise ImageError("The file has several frames, and label maps of one frame are read.")
        for number in np.unique(frames[frames > 0]).tolist():
            yield number, frames[0] == number
        return
    if kind not in ("BINARY", "FRACTIONAL"):
        raise ImageError(f"The file is a segmentation of the kind {kind}, which is not read.")
    least = 1 if kind == "BINARY" else (int(dataset.MaximumFractionalValue) + 1) // 2
    for frame, groups in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        yield _segment_number(groups, dataset), frame >= least


def _segment_number(groups: pydicom.Dataset, dataset: pydicom.Dataset) -> int:
    """Return the segment that a frame shows; said once for all frames where there is but one."""
    if "SegmentIdentificationSequence" not in groups:
        groups = dataset.SharedFunctionalGroupsSequence[0]
    return int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)


def _displayed(dataset: pydicom.Dataset) -> NDArray[Any]:
    """Return the values that are shown, in 0 to 255: (H, W) or (H, W, 3)."""
    pixels = np.asarray(dataset.pixel_array)
    kind, bits = str(dataset.PhotometricInterpretation), int(dataset.BitsStored)
    if int(dataset.get("HighBit", bits - 1)) != bits - 1:
        raise ImageError("The file does not hold its values in the lowest bits.")
    if int(dataset.get("PixelRepresentation") or 0):
        raise ImageError("The file has signed values, which stand for no brightness.")
    if kind == "PALETTE COLOR":
        pixels = _pydicom().pixels.apply_color_lut(pixels, dataset)
        bits = 8 * pixels.dtype.itemsize
    elif pixels.max(initial=0) >= 1 << bits:
        raise ImageError(f"The file holds values of more than the {bits} bits that it says.")
    inverse = kind == "MONOCHROME2" and str(dataset.get("PresentationLUTShape", "")) == "INVERSE"
    if kind == "MONOCHROME1" or inverse:
        pixels = ((1 << bits) - 1) - pixels
    return pixels if bits == 8 else np.rint(pixels * (255 / ((1 << bits) - 1))).astype(np.uint8)


def _check_photograph(dataset: pydicom.Dataset) -> None:
    """Refuse what is not a photograph of one frame."""
    if dataset.SOPClassUID not in PHOTOGRAPHS:
        raise ImageError("The file is not a photograph.")
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise ImageError("The file holds several frames, and photographs of one frame are read.")
    _check_size(dataset)


def _check_size(dataset: pydicom.Dataset) -> None:
    """Refuse what does not fit into memory, before any is taken."""
    frames = int(dataset.get("NumberOfFrames") or 1)
    if not 0 < int(dataset.Rows) * int(dataset.Columns) * frames <= MAX_PIXELS:
        raise ImageError(f"The file has {dataset.Columns} x {dataset.Rows} pixels, more than are read.")


def _read(path: Path, **options: Any) -> pydicom.Dataset:
    """Read a file that may be a bomb; inside `_guarded` only."""
    dicom = _pydicom()
    if path.stat().st_size > MAX_BYTES:
        raise ImageError(f"The file is larger than {MAX_BYTES // 1024**2} MB.")
    meta = dicom.filereader.read_file_meta_info(path)
    if str(meta.get("TransferSyntaxUID", "")) in _DEFLATED:
        raise ImageError("The file is deflated as a whole, which is not read.")
    dataset: pydicom.Dataset = dicom.dcmread(path, **options)
    return dataset


@contextlib.contextmanager
def _guarded(path: Path) -> Iterator[None]:
    """Turn whatever pydicom raises into a ImageError; elements are decoded only when they are asked for.

    What pydicom itself says is dropped, its warnings and log included: it quotes names of patients.
    """
    own = _pydicom().errors
    try:
        with _quiet():
            yield
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    except (own.InvalidDicomError, own.BytesLengthException, *_DAMAGED) as error:
        raise ImageError(f"{path} is damaged, or of a kind that is not read.") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _pydicom() -> ModuleType:
    try:
        import pydicom
    except ImportError as error:
        raise DatasetError(f"DICOM needs two more packages: {how_to_install('dicom')}.") from error
    return pydicom


def _highdicom() -> ModuleType:
    try:
        import highdicom
    except ImportError as error:
        raise DatasetError(f"DICOM needs two more packages: {how_to_install('dicom')}.") from error
    return highdicom


def clean_photograph(record: Record, image: ByteImage, salt: str) -> pydicom.Dataset:
    """Return a DICOM photograph without what could name a person.

    Parameters
    ----------
    record : Record
        `origin` is the file it came as; `name` and `patient` are what it is called from now on.
    image : ndarray
        (H, W, 3) uint8, its pixels.
    salt : str
        Secret of one export: images of one study stay together, and nobody can work out the old
        identifiers.

    Returns
    -------
    pydicom.Dataset
        Explicit VR little endian, uncompressed.

    Raises
    ------
    DatasetError
        When the record did not come as DICOM.
    ImageError
        When its file cannot be read any more.
    """
    if record.origin is None:
        raise DatasetError(f"{record.name} did not come as DICOM; export it in another format.")
    with _guarded(record.origin):
        clean = _kept_header(_read(record.origin, stop_before_pixels=True), salt)
    _replace_names(clean, record.patient or record.name)
    clean.set_pixel_data(image, "RGB", 8)
    clean.file_meta.MediaStorageSOPClassUID = clean.SOPClassUID
    return clean


def _kept_header(source: pydicom.Dataset, salt: str) -> pydicom.Dataset:
    """Return what stays of a header, with new identifiers; inside `_guarded` only."""
    dicom = _pydicom()
    clean: pydicom.Dataset = dicom.Dataset()
    for keyword in KEPT:
        if keyword in source:
            clean[keyword] = source[keyword]
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        old = str(source.get(keyword, ""))
        setattr(clean, keyword, dicom.uid.generate_uid(entropy_srcs=[salt, old]))
    return clean


def _replace_names(clean: pydicom.Dataset, patient: str) -> None:
    """Fill in what every photograph must have, and say that its names are gone."""
    for keyword in _EMPTIED:
        setattr(clean, keyword, "")
    clean.PatientID = patient
    clean.PatientName = f"{patient}^"  # the caret says that it is a family name alone
    clean.PatientSex = clean.get("PatientSex", "")
    clean.StudyID, clean.SeriesNumber, clean.InstanceNumber = "", 1, 1
    clean.AcquisitionContextSequence = []
    clean.PatientIdentityRemoved = "YES"
    clean.LongitudinalTemporalInformationModified = "REMOVED"
    clean.DeidentificationMethod = "Kept elements only, new identifiers, pixels encoded again"
    clean.DeidentificationMethodCodeSequence = [
        _code("113100", "DCM", "Basic Application Confidentiality Profile")
    ]


def _code(value: str, scheme: str, meaning: str) -> Any:
    item = _pydicom().Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def segmentation(photograph: pydicom.Dataset, pixels: Pixels, record: Record) -> highdicom.seg.Segmentation:
    """Return the segmentation of one photograph."""
    hd = _highdicom()
    objects = list(objects_of(pixels, split=False))
    descriptions = [
        _description(number, record.classes[found.category], record)
        for number, found in enumerate(objects, 1)
    ]
    made: highdicom.seg.Segmentation = hd.seg.Segmentation(
        source_images=[photograph],
        pixel_array=np.stack([found.whole(pixels.labels.shape) for found in objects], axis=-1)[None],
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        series_instance_uid=hd.UID(),
        series_number=2,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="napari-lesionseg",
        manufacturer_model_name="napari-lesionseg",
        software_versions="1",
        device_serial_number="0",
        content_creator_name=f"{record.provenance.annotator}^" if record.provenance.annotator else None,
        content_label="LESIONS",
    )
    return made


DIAGNOSES: Mapping[str, tuple[str, str]] = {
    "melanoma": ("372244006", "Malignant melanoma"),
    "basal cell carcinoma": ("254701007", "Basal cell carcinoma of skin"),
    "squamous cell carcinoma": ("254651007", "Squamous cell carcinoma of skin"),
    "actinic keratosis": ("201101007", "Actinic keratosis"),
}
"""Diagnoses as types of a segment, with their codes in SNOMED CT."""

SITES: Mapping[str, tuple[str, str]] = {
    "anterior torso": ("181491009", "Skin of anterior trunk"),
    "upper extremity": ("371311000", "Skin of upper extremity"),
    "lower extremity": ("371304004", "Skin of lower extremity"),
}
"""Anatomical sites of the ISIC archive that DICOM has a code of SNOMED CT for (CID 4029, CID 8134)."""


def _description(number: int, label: str, record: Record) -> highdicom.seg.SegmentDescription:
    """Describe one segment: what it shows, where, and whether a program helped."""
    hd = _highdicom()
    provenance = record.provenance
    kind = (_private(label), "99LESIONSEG", label[:64])
    if label == "lesion":
        value, meaning = DIAGNOSES.get(record.diagnosis or "", ("95324001", "Skin lesion"))
        kind = (value, "SCT", meaning)
    site = SITES.get(record.attributes.get("anatom_site_general", ""))
    algorithm = None
    if provenance.model:
        algorithm = hd.AlgorithmIdentificationSequence(
            name="napari-lesionseg",
            family=hd.sr.CodedConcept("123110", "DCM", "Artificial Intelligence"),
            version=provenance.model[:64],
        )
    description: highdicom.seg.SegmentDescription = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=label[:64],
        segmented_property_category=hd.sr.CodedConcept(
            "49755003", "SCT", "Morphologically Abnormal Structure"
        ),
        segmented_property_type=hd.sr.CodedConcept(*kind),
        algorithm_type="SEMIAUTOMATIC" if provenance.model else "MANUAL",
        algorithm_identification=algorithm,
        anatomic_regions=None if site is None else [hd.sr.CodedConcept(site[0], "SCT", site[1])],
        tracking_uid=hd.UID(),
        tracking_id=f"{label[:58]} {number}",
    )
    return description


def _private(label: str) -> str:
    """Return a code value of at most 16 characters."""
    return "".join(character for character in label.upper() if character.isalnum())[:16] or "REGION"
