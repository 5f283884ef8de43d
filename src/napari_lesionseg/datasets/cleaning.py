"""Taking what is not pixels out of files, and what is not anonymous out of names."""

from __future__ import annotations

import re
import unicodedata

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


def clean_jpeg(payload: bytes) -> bytes | None:
    """Take everything but the image out of a JPEG file, without touching a pixel.

    EXIF, XMP, IPTC, comments, color profiles, thumbnails, maker notes, and whatever follows the image
    (second images, videos) are dropped. Kept are the tables, the scans, and the two headers that say how
    colors are stored (JFIF without its thumbnail, Adobe). The orientation goes with the EXIF.

    Parameters
    ----------
    payload : bytes
        Contents of a file.

    Returns
    -------
    bytes or None
        The same image, or None when the file is no JPEG whose parts are all understood.

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
    """Return a name that every system takes for a plain file name.

    Parameters
    ----------
    name : str
        Any text.

    Returns
    -------
    str
        Letters, digits, ``_``, ``-`` and ``.``, neither empty nor hidden nor a device's, at most 80
        characters.
    """
    plain = _UNSAFE.sub("_", unicodedata.normalize("NFC", name)).strip(".")[:_NAME_LENGTH]
    return f"_{plain}" if not plain or _RESERVED.fullmatch(plain) else plain
