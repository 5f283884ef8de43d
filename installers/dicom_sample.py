"""Write a DICOM photograph with nothing but Python's standard library, to test the installed program with.

The program's packages for DICOM are what is tested, so they cannot write it.
"""

from __future__ import annotations

import struct
import uuid
from pathlib import Path

DERMOSCOPY = "1.2.840.10008.5.1.4.1.1.77.1.7"  # Dermoscopic Photography Image Storage
PLAIN = "1.2.840.10008.1.2.1"  # Explicit VR Little Endian
WIDTH, HEIGHT = 384, 288
SKIN, LESION = bytes((225, 180, 160)), bytes((120, 80, 60))


def write_photograph(target: Path) -> None:
    """Write a photograph of a dark ellipse on skin, with the name and number of a patient."""
    instance, study, series = (f"2.25.{uuid.uuid4().int}" for _ in range(3))
    meta = [
        element(0x00020001, "OB", b"\0\1"),
        element(0x00020002, "UI", DERMOSCOPY),
        element(0x00020003, "UI", instance),
        element(0x00020010, "UI", PLAIN),
        element(0x00020012, "UI", "2.25.1"),  # the program that wrote it
    ]
    content = [
        element(0x00080016, "UI", DERMOSCOPY),
        element(0x00080018, "UI", instance),
        element(0x00080060, "CS", "XC"),
        element(0x00100010, "PN", "Doe^Jane"),
        element(0x00100020, "LO", "P1"),
        element(0x0020000D, "UI", study),
        element(0x0020000E, "UI", series),
        element(0x00280002, "US", 3),  # red, green, blue
        element(0x00280004, "CS", "RGB"),
        element(0x00280006, "US", 0),  # one pixel after the other
        element(0x00280010, "US", HEIGHT),
        element(0x00280011, "US", WIDTH),
        element(0x00280100, "US", 8),
        element(0x00280101, "US", 8),
        element(0x00280102, "US", 7),
        element(0x00280103, "US", 0),
        element(0x7FE00010, "OB", draw()),
    ]
    length = struct.pack("<I", sum(map(len, meta)))
    parts = [bytes(128), b"DICM", element(0x00020000, "UL", length), *meta, *content]
    target.write_bytes(b"".join(parts))


def element(tag: int, kind: str, value: bytes | str | int) -> bytes:
    """Return an element of a DICOM file; a number has two bytes, and any value an even length."""
    content = struct.pack("<H", value) if isinstance(value, int) else value
    content = content.encode("ascii") if isinstance(content, str) else content
    content += (b" " if kind in {"CS", "LO", "PN"} else b"\0") * (len(content) % 2)
    length = struct.pack("<HI", 0, len(content)) if kind == "OB" else struct.pack("<H", len(content))
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF) + kind.encode("ascii") + length + content


def draw() -> bytes:
    """Return the pixels."""
    return b"".join(
        LESION if (4 * x / WIDTH - 2) ** 2 + (4 * y / HEIGHT - 2) ** 2 < 1 else SKIN
        for y in range(HEIGHT)
        for x in range(WIDTH)
    )
