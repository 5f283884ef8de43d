"""Parsers of files from strangers, sound inputs for each, and ways to damage them."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import json
import shutil
import tarfile
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import tifffile
from PIL import Image

from napari_lesionseg.datasets.deidentify import clean_jpeg
from napari_lesionseg.datasets.formats import coco, coco_panoptic, folder, imagefolder, isic, nnunet, ph2
from napari_lesionseg.datasets.formats.base import read_provenance
from napari_lesionseg.datasets.formats.coco import draw_polygons, encode_mask, trace_polygons
from napari_lesionseg.datasets.formats.dicom_files import (
    read_header,
    read_photograph,
    read_segments,
    segmentation,
)
from napari_lesionseg.datasets.manifest import read_manifest
from napari_lesionseg.datasets.records import Dataset, Pixels, Record
from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.io.archives import unpack
from napari_lesionseg.io.decoding import date_taken
from napari_lesionseg.io.folders import FolderScan
from napari_lesionseg.io.images import read_image, read_mask, unread_pages
from napari_lesionseg.io.tables import read_table
from napari_lesionseg.io.workbooks import read_sheet
from napari_lesionseg.study.fields import default_template, read_template

SIZE = (24, 32)
NASTY = (
    b"\0",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"\x7f\xff\xff\xff",
    b"-1",
    b"1e999",
    b"NaN",
    b"../",
    b"\n",
)
NASTY_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**63, 10**400, 1e308, float("nan"), float("-inf"), "", "../x.png",
    "/etc/passwd", "\0", "~" * 40, [], {}, [[]], [[0] * 6], [1e9] * 6, {"size": [1, 1]}, "a" * 5000,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """A parser: sound inputs, and how to feed it one; it gets the bytes and an empty folder."""

    seeds: tuple[bytes, ...]
    run: Callable[[bytes, Path], object]
    structured: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the inputs of one parser; `other` are errors that are not the package's own."""

    inputs: int
    read: int
    refused: int
    other: tuple[str, ...]
    slowest: float


def fuzz(target: Target, inputs: int, seed: int = 0) -> Outcome:
    """Feed damaged inputs to one parser.

    Parameters
    ----------
    target : Target
        The parser.
    inputs : int
        How many.
    seed : int
        Same seed, same inputs.

    Returns
    -------
    Outcome
        At most ten other errors are kept, each with its last lines.
    """
    rng = np.random.default_rng(seed)
    read = refused = 0
    slowest = 0.0
    other: list[str] = []
    memory = Path("/dev/shm")  # noqa: S108 - files that live for milliseconds wear out no disk there
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        place = Path(name)
        for _ in range(inputs):
            payload = mutate(target, rng)
            start = time.process_time()
            try:
                target.run(payload, place)
                read += 1
            except LesionSegError:
                refused += 1
            except Exception:  # noqa: BLE001 - finding these is what this script is for
                other.append(f"{payload[:300]!r}\n{''.join(traceback.format_exc()[-1500:])}")
            slowest = max(slowest, time.process_time() - start)
            _empty(place)
            if len(other) == 10:
                break
    return Outcome(read + refused + len(other), read, refused, tuple(other), slowest)


def _empty(place: Path) -> None:
    for entry in place.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def mutate(target: Target, rng: np.random.Generator) -> bytes:
    """Return a damaged copy of one of a parser's sound inputs."""
    payload = target.seeds[rng.integers(len(target.seeds))]
    if target.structured and rng.random() < 0.8:
        content = json.loads(payload)
        for _ in range(rng.integers(1, 4)):
            _change_value(content, rng)
        return json.dumps(content).encode()
    for _ in range(rng.integers(1, 6)):
        payload = MUTATIONS[rng.integers(len(MUTATIONS))](payload, rng)
    return payload


def _change_value(content: Any, rng: np.random.Generator) -> None:
    """Replace, drop or double one value somewhere in a JSON document."""
    while True:
        keys = list(content) if isinstance(content, dict) else list(range(len(content)))
        if not keys:
            return
        key = keys[rng.integers(len(keys))]
        child = content[key]
        if not isinstance(child, dict | list) or not child or rng.random() < 0.15:
            break
        content = child
    choice = rng.random()
    if choice < 0.15:
        del content[key]
    elif choice < 0.3 and isinstance(content, list):
        content.append(copy.deepcopy(child))
    else:
        content[key] = copy.deepcopy(NASTY_VALUES[rng.integers(len(NASTY_VALUES))])


def _flip(payload: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(payload)
    for _ in range(rng.integers(1, 8)):
        if changed:
            changed[rng.integers(len(changed))] = rng.integers(256)
    return bytes(changed)


def _cut_end(payload: bytes, rng: np.random.Generator) -> bytes:
    return payload[: rng.integers(len(payload) + 1)]


def _cut_out(payload: bytes, rng: np.random.Generator) -> bytes:
    start, stop = np.sort(rng.integers(len(payload) + 1, size=2))
    return payload[:start] + payload[min(stop, start + 64) :]


def _double(payload: bytes, rng: np.random.Generator) -> bytes:
    start, stop = np.sort(rng.integers(len(payload) + 1, size=2))
    return payload[:stop] + payload[max(start, stop - 256) :]


def _insert(payload: bytes, rng: np.random.Generator) -> bytes:
    place = rng.integers(len(payload) + 1)
    return payload[:place] + NASTY[rng.integers(len(NASTY))] + payload[place:]


def _overwrite(payload: bytes, rng: np.random.Generator) -> bytes:
    place, piece = rng.integers(len(payload) + 1), NASTY[rng.integers(len(NASTY))]
    return payload[:place] + piece + payload[place + len(piece) :]


MUTATIONS = (_flip, _flip, _cut_end, _cut_out, _double, _insert, _overwrite)


def _image(seed: int = 0) -> Image.Image:
    blotches = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(blotches).resize(SIZE[::-1], Image.Resampling.BICUBIC)


def _labels() -> np.ndarray[Any, np.dtype[np.uint8]]:
    rows, columns = np.ogrid[: SIZE[0], : SIZE[1]]
    distance = np.hypot(rows - 12, columns - 16)
    return ((distance < 9) & (distance > 2)).astype(np.uint8)


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _images() -> tuple[bytes, ...]:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = _image()
    return (
        _encoded(image, "JPEG", exif=exif, comment=b"x" * 20),
        _encoded(image, "JPEG", progressive=True),
        _encoded(image.convert("CMYK"), "JPEG"),
        _encoded(image, "PNG"),
        _encoded(image.convert("P"), "PNG"),
        _encoded(image, "BMP"),
        _encoded(image.convert("1"), "BMP"),
        _encoded(image, "TIFF", compression="tiff_lzw"),
        _encoded(image, "TIFF"),
        _encoded(image, "PPM"),
        b"P2 3 2 255 0 9 9 1 2 255",
        _encoded(image, "WEBP"),
        _encoded(image, "GIF"),
        _encoded(image, "AVIF"),
        _encoded(image, "JPEG2000"),
        _encoded(image, "DIB"),
    )


def _stacks() -> tuple[bytes, ...]:
    """Return images of several pages or frames, in every format that has them."""
    frames = [_image(seed) for seed in range(3)]
    gray = np.stack([np.asarray(frame.convert("L")) for frame in frames])
    imagej = io.BytesIO()
    tifffile.imwrite(imagej, gray, imagej=True)
    kinds = ("TIFF", "PNG", "GIF", "WEBP", "AVIF", "MPO")
    return (
        imagej.getvalue(),
        *(_encoded(frames[0], kind, save_all=True, append_images=frames[1:]) for kind in kinds),
    )


def _masks() -> tuple[bytes, ...]:
    gray = Image.fromarray(_labels() * np.uint8(255))
    return (
        _encoded(gray, "PNG"),
        _encoded(Image.fromarray(_labels() * np.uint8(3)), "PNG"),
        _encoded(gray.convert("1"), "BMP"),
        _encoded(gray.convert("RGB"), "BMP"),
        _encoded(gray, "TIFF", compression="tiff_lzw"),
        _encoded(gray, "JPEG"),
    )


def _file(place: Path, name: str, payload: bytes) -> Path:
    path = place / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(payload)
    return path


def _load_all(dataset: Dataset) -> None:
    for record in dataset.records:
        record.load()


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("set/images/a.png", bytes(range(256)))
        archive.writestr("set/masks/a.png", b"x" * 1000)
    return buffer.getvalue()


def _tar(mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name in ("set/images/a.png", "set/" + "long" * 40 + ".png"):
            info = tarfile.TarInfo(name)
            info.size = 300
            archive.addfile(info, io.BytesIO(b"x" * 300))
    return buffer.getvalue()


def _workbook() -> dict[str, bytes]:
    """Return the parts of a small workbook."""
    book, buffer = openpyxl.Workbook(), io.BytesIO()
    for row in (["Name", "n"], ["IMD003", 2.0], [None, "X", True]):
        book.active.append(row)
    book.save(buffer)
    with zipfile.ZipFile(buffer) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _zipped(parts: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as book:
        for name, payload in parts.items():
            book.writestr(name, payload)
    return buffer.getvalue()


def _read_sheet(payload: bytes, place: Path) -> None:
    """Read a workbook of which one part is damaged, which no checksum betrays."""
    if b"table:" in payload:
        read_sheet(
            _file(
                place,
                "a.ods",
                _zipped({"content.xml": payload, "META-INF/manifest.xml": b""}),
            )
        )
        return
    sheet = b"<worksheet" in payload[:200]
    part = "xl/worksheets/sheet1.xml" if sheet else "xl/workbook.xml"
    read_sheet(_file(place, "a.xlsx", _zipped(WORKBOOK | {part: payload})))


def _unpack_names(payload: bytes, place: Path) -> None:
    """Unpack a sound archive whose entries have damaged names and kinds."""
    with zipfile.ZipFile(place / "a.zip", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of doubled names
        for line in payload.decode("latin-1").split("\n"):
            info = zipfile.ZipInfo(line[1:] or "a")
            info.external_attr = (ord(line[:1] or "0") & 127) << 25
            archive.writestr(info, b"x")
    (place / "out").mkdir()
    for _ in unpack(place / "a.zip", place / "out"):
        pass


def _coco() -> bytes:
    mask = _labels()
    edges = np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=0, append=0))
    runs = np.diff(edges, prepend=0, append=mask.size).tolist()
    shapes: list[Any] = [
        encode_mask(mask),
        {"size": list(SIZE), "counts": runs},
        trace_polygons(mask),
    ]
    return json.dumps(
        {
            "images": [
                {
                    "id": number,
                    "file_name": f"{number}.png",
                    "width": SIZE[1],
                    "height": SIZE[0],
                    "facts": {"sex": "male"},
                }
                for number in (1, 2, 3)
            ],
            "categories": [{"id": 1, "name": "lesion"}, {"id": 2, "name": "hair"}],
            "annotations": [
                {"id": number, "image_id": number, "category_id": 1, "segmentation": shape}
                for number, shape in enumerate(shapes, 1)
            ],
        }
    ).encode()


def _read_coco(payload: bytes, place: Path) -> None:
    for number in (1, 2, 3):
        _file(place, f"{number}.png", PNG)
    _file(place, "instances_train.json", payload)
    dataset = coco.read(FolderScan(place))
    for record in dataset.records:
        try:
            record.load()
        except LesionSegError:
            continue


def _panoptic() -> bytes:
    content = json.loads(_coco())
    segments = [{"id": 1, "category_id": 1, "area": int(_labels().sum()), "iscrowd": 0}]
    content["annotations"] = [
        {"image_id": number, "file_name": f"{number}.png", "segments_info": segments} for number in (1, 2, 3)
    ]
    return json.dumps(content).encode()


def _read_panoptic(payload: bytes, place: Path) -> None:
    (place / "panoptic_train").mkdir()
    for number in (1, 2, 3):
        _file(place, f"{number}.png", PNG)
        _file(place, f"panoptic_train/{number}.png", SEGMENTS)
    _file(place, "panoptic_train.json", payload)
    _load_all(coco_panoptic.read(FolderScan(place)))


CARD = b'{"labels": {"background": 0, "lesion": 1, "ignore": 2}, "file_ending": ".png"}'
SPLITS = b'[{"train": ["a"], "val": ["b"]}]'


def _read_nnunet(payload: bytes, place: Path) -> None:
    is_card = b"labels" in payload
    for case in "ab":
        _file(place, f"imagesTr/{case}_0000.png", PNG)
        _file(place, f"labelsTr/{case}.png", INDEX)
    _file(place, "dataset.json", payload if is_card else CARD)
    _file(place, "splits_final.json", SPLITS if is_card else payload)
    _load_all(nnunet.read(FolderScan(place)))


def _read_isic(payload: bytes, place: Path) -> None:
    _file(place, "ISIC_0000001.png", PNG)
    _file(place, "ISIC_0000001_segmentation.png", MASK)
    _file(place, "metadata.csv", payload)
    _file(place, "provenance.csv", payload)
    _load_all(isic.read(FolderScan(place)))
    read_table(place / "metadata.csv")


LINES = (
    b'{"file_name": "images/a.png", "mask_file_name": "masks/a.png", "diagnosis": "nevus", "age": 55}\n'
    b'{"file_name": "images/b.png", "mask_file_name": "masks/a.png", "streaks": "P", "fitzpatrick": 2.0}\n'
)


def _read_imagefolder(payload: bytes, place: Path) -> None:
    for name in ("images/a.png", "images/b.png"):
        _file(place, name, PNG)
    _file(place, "masks/a.png", MASK)
    _file(place, "metadata.jsonl", payload)
    _load_all(imagefolder.read(FolderScan(place)))


def _read_template(payload: bytes, place: Path) -> None:
    template = read_template(_file(place, "fields.json", payload))
    for field in template.fields:
        for value in ("nevus", "nan", "2026-02-30", 0.5, True, None):
            with contextlib.suppress(LesionSegError):
                field.parse(value)


def _photograph() -> bytes:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2026:03:01 10:11:12"
    return _encoded(_image(), "JPEG", exif=exif)


def _read_colors(payload: bytes, place: Path) -> None:
    _file(place, "images/a.png", PNG)
    _file(place, "masks/a.png", payload)
    _load_all(folder.read(FolderScan(place)))


def _read_legend(payload: bytes, place: Path) -> None:
    _file(place, "labelmap.txt" if payload.startswith(b"#") else "classes.csv", payload)
    folder.read_legend(place)


def _read_manifest(payload: bytes, place: Path) -> None:
    _file(place, "manifest.json", payload)
    read_manifest(place)


def _unpack(ending: str) -> Callable[[bytes, Path], None]:
    def run(payload: bytes, place: Path) -> None:
        archive = _file(place, f"a{ending}", payload)
        (place / "out").mkdir()
        for _ in unpack(archive, place / "out"):
            pass

    return run


def _clean(payload: bytes, place: Path) -> None:
    cleaned = clean_jpeg(payload)
    if cleaned is not None and len(cleaned) > len(payload):
        raise ValueError("a cleaned file grew")


def _draw(payload: bytes, place: Path) -> None:
    numbers = np.frombuffer(payload[: len(payload) // 8 * 8], np.float64)[:40]
    draw_polygons([numbers.tolist()], *SIZE)


def _dicom() -> tuple[bytes, ...]:
    import pydicom

    dataset = pydicom.Dataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.4"
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        setattr(dataset, keyword, f"1.2.3.{len(keyword)}")
    dataset.PatientID, dataset.PatientName, dataset.Modality = "1", "A^B", "XC"
    dataset.set_pixel_data(np.asarray(_image()), "RGB", 8)
    plain = io.BytesIO()
    dataset.save_as(plain, enforce_file_format=True)
    dataset.PixelData = pydicom.encaps.encapsulate([_encoded(_image(), "JPEG")])
    dataset["PixelData"].is_undefined_length = True
    dataset.PhotometricInterpretation = "YBR_FULL_422"
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
    compressed = io.BytesIO()
    dataset.save_as(compressed, enforce_file_format=True)
    return plain.getvalue(), compressed.getvalue()


def _read_dicom(payload: bytes, place: Path) -> None:
    path = _file(place, "a.dcm", payload)
    read_header(path)
    read_photograph(path)


def _dicom_segmentations() -> tuple[bytes, ...]:
    """Two segments over a photograph, uncompressed as they are written."""
    import pydicom

    photograph = pydicom.dcmread(io.BytesIO(_dicom()[0]))
    photograph.SOPClassUID = photograph.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.7"
    photograph.AcquisitionContextSequence = []
    for keyword in ("PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime"):
        setattr(photograph, keyword, "")
    instances = (_labels() * (1 + (np.arange(SIZE[1]) > 16))).astype(np.uint16)
    pixels = Pixels(np.asarray(_image()), _labels(), instances, {})
    record = Record("a", np.asarray(_image()), _labels())
    stream = io.BytesIO()
    segmentation(photograph, pixels, record).save_as(stream)
    return (stream.getvalue(),)


def _read_segmentation(payload: bytes, place: Path) -> None:
    path = _file(place, "a.dcm", payload)
    read_header(path)
    read_segments(path, ("background", "lesion"))


def _read_objects(payload: bytes, place: Path) -> None:
    _file(place, "images/a.png", PNG)
    _file(place, "masks/a.png", MASK)
    _file(place, "instances/a.png", payload)
    _file(place, "provenance.csv", b"name\n")
    _load_all(folder.read(FolderScan(place)))


PNG = _encoded(_image(), "PNG")
MASK = _encoded(Image.fromarray(_labels() * np.uint8(255)), "PNG")
INDEX = _encoded(Image.fromarray(_labels()), "PNG")
SEGMENTS = _encoded(Image.fromarray(_labels()[..., None] * np.array([1, 0, 0], np.uint8)), "PNG")
WORKBOOK = _workbook()
ODS = b"""<office:spreadsheet xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0"
xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0"
xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0"><table:table table:name="a">
<table:table-row><table:table-cell office:value-type="string"><text:p>Name</text:p></table:table-cell>
<table:table-cell office:value-type="float" office:value="2.0" table:number-rows-spanned="2"/>
</table:table-row>
<table:table-row table:number-rows-repeated="3"><table:table-cell table:number-columns-repeated="9"/>
<table:covered-table-cell office:value-type="boolean" office:boolean-value="true"/></table:table-row>
</table:table></office:spreadsheet>"""
TEXT = (
    b"|| IMD003 || Nevus || 0 || 0 | T | A | A | A | A || 4 ||\n"
    b"|| IMD409 || || 2 || 2 | AT | A | P | P | P || 1 3 ||\n"
)
TABLE = (
    b"isic_id,name,sex,patient_id,melanoma,part,status,corrected_share\n"
    b'ISIC_0000001,"ISIC_0000001",male,IP_1,1.0,train,approved,0.25\n'
)
MANIFEST = json.dumps(
    {"version": 1, "format": "isic", "files": [{"path": "a/b.png", "sha256": "0" * 64, "bytes": 3}]}
)
COLORS = _encoded(
    Image.fromarray(
        np.array([[0, 0, 0], [255, 0, 0], [0, 9, 9]], np.uint8)[np.cumsum(_labels(), axis=0) // 8]
    ),
    "PNG",
)
LEGENDS = (
    b"index,name,color\n0,skin,#000000\n1,lesion,#ff0000\n",
    b"# label:color_rgb:parts:actions\na:0,0,0::\nb:1,2,3::\n",
)

TARGETS = {
    "jpeg cleaning": Target(_images()[:3], _clean),
    "images": Target(_images(), lambda payload, place: read_image(_file(place, "a.png", payload))),
    "pages": Target(_stacks(), lambda payload, place: unread_pages(_file(place, "a.tif", payload))),
    "masks": Target(_masks(), lambda payload, place: read_mask(_file(place, "a.png", payload))),
    "masks in colors": Target((COLORS, MASK), _read_colors),
    "objects": Target(
        (_encoded(Image.fromarray(_labels().astype(np.uint16) * 300), "PNG"), MASK), _read_objects
    ),
    "legends": Target(LEGENDS, _read_legend),
    "PH2 text": Target(
        (TEXT,), lambda payload, place: dict(ph2.facts_of_text(payload.decode("utf-8", "replace")))
    ),
    "sheets": Target((WORKBOOK["xl/worksheets/sheet1.xml"], WORKBOOK["xl/workbook.xml"], ODS), _read_sheet),
    "workbooks": Target(
        (_zipped(WORKBOOK),), lambda payload, place: read_sheet(_file(place, "a.xlsx", payload))
    ),
    "ISIC tables": Target((TABLE,), _read_isic),
    "imagefolder": Target((LINES,), _read_imagefolder),
    "field templates": Target(
        (default_template().model_dump_json().encode(),), _read_template, structured=True
    ),
    "dates of photographs": Target(
        (_photograph(),), lambda payload, place: date_taken(_file(place, "a.jpg", payload))
    ),
    "provenance": Target(
        (TABLE,), lambda payload, place: read_provenance(_file(place, "provenance.csv", payload).parent)
    ),
    "COCO": Target((_coco(),), _read_coco, structured=True),
    "COCO panoptic": Target((_panoptic(),), _read_panoptic, structured=True),
    "nnU-Net": Target((CARD, SPLITS), _read_nnunet, structured=True),
    "COCO polygons": Target((np.arange(16, dtype=np.float64).tobytes(),), _draw),
    "manifest": Target((MANIFEST.encode(),), _read_manifest, structured=True),
    "ZIP": Target((_zip(),), _unpack(".zip")),
    "ZIP names": Target((b"@set/images/a.png\n@set/masks/a.png\n set/b/",), _unpack_names),
    "TAR": Target((_tar("w"),), _unpack(".tar")),
    "TAR.GZ": Target((_tar("w:gz"),), _unpack(".tar.gz")),
}
if importlib.util.find_spec("pydicom") and importlib.util.find_spec("highdicom"):
    TARGETS["DICOM"] = Target(_dicom(), _read_dicom)
    TARGETS["DICOM segmentations"] = Target(_dicom_segmentations(), _read_segmentation)
