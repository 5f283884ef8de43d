"""Make the collected program smaller without losing a function: symbols, Qt's languages, records of pip."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

ICU_KEPT = (
    "root.res", "en.res", "pool.res", "res_index.res", "likelySubtags.res", "supplementalData.res",
    "keyTypeData.res", "numberingSystems.res", "timezoneTypes.res", "zoneinfo64.res", "metaZones.res",
    "windowsZones.res", "coll/root.res", "coll/ucadata.icu", "coll/res_index.res",
)  # fmt: skip
"""What Qt needs of ICU: sorting and time zones. Its own tables have the languages' dates and numbers."""
ICU_SUFFIXES = (".icu", ".nrm")
ICU_MAGIC = b"\xda\x27"
LOAD = 1  # PT_LOAD, a segment of an ELF file


def shrink(folder: Path) -> None:
    """Shrink a collected program on Linux; elsewhere only what does not depend on the system."""
    for path in files(folder, ".json"):
        if path.stat().st_size > 1e6:  # highdicom's tables of the standard are indented
            path.write_text(
                json.dumps(json.loads(path.read_bytes()), separators=(",", ":")), encoding="utf-8"
            )
    for info in folder.rglob("*.dist-info"):
        (info / "RECORD").unlink(missing_ok=True)
        for name in ("licenses", "license_files", "sboms"):  # they are collected in one place
            shutil.rmtree(info / name, ignore_errors=True)
    if shutil.which("strip") is None or shutil.which("gcc") is None:
        return
    for path in files(folder, ".so"):
        if path.name.startswith("libicudata.so"):
            filter_icu(path)
        else:
            strip(path)


def files(folder: Path, suffix: str) -> Iterator[Path]:
    """Yield the files of a kind, without links; ``.so`` includes ``.so.6``."""
    found = [path for path in folder.rglob(f"*{suffix}*") if suffix in path.suffixes]
    yield from (path for path in found if path.is_file() and not path.is_symlink())


def strip(library: Path) -> None:
    """Remove the symbols of a library, unless it could not be loaded afterwards."""
    smaller = library.with_name(f"{library.name}.stripped")
    done = subprocess.run(
        ["strip", "--strip-unneeded", "-o", smaller, library], capture_output=True, check=False
    )
    # `strip` misplaces the segments of libraries that were patched for their wheels, such as OpenBLAS.
    if done.returncode == 0 and is_loadable(smaller):
        shutil.copymode(library, smaller)
        smaller.replace(library)
    smaller.unlink(missing_ok=True)


def is_loadable(library: Path) -> bool:
    """Whether each segment of a 64-bit ELF file is where the dynamic loader can map it."""
    with library.open("rb") as stream:
        header = stream.read(64)
        offset, count = struct.unpack_from("<Q", header, 32)[0], struct.unpack_from("<H", header, 56)[0]
        stream.seek(offset)
        segments = [struct.unpack("<IIQQQQQQ", stream.read(56)) for _ in range(count)]
    loaded = [segment for segment in segments if segment[0] == LOAD]
    return all((place - address) % alignment == 0 for _, _, place, address, *_, alignment in loaded)


def filter_icu(library: Path) -> None:
    """Build the library of ICU's data again with what Qt needs of it, 2 MB instead of 32."""
    data = library.read_bytes()
    start = data.index(ICU_MAGIC) - 2
    symbol = f"icudt{library.name.rpartition('.')[2]}_dat"
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "icu.dat").write_bytes(filter_icu_data(data[start:]))
        (place / "icu.s").write_text(
            f".section .rodata\n.balign 16\n.globl {symbol}\n.type {symbol}, @object\n"
            f'{symbol}:\n.incbin "icu.dat"\n.size {symbol}, . - {symbol}\n'
            '.section .note.GNU-stack,"",@progbits\n'
        )
        build = [
            "gcc",
            "-shared",
            "-nostdlib",
            f"-Wl,-soname,{library.name}",
            "-o",
            library.resolve(),
            "icu.s",
        ]
        subprocess.run(build, check=True, cwd=place)


def filter_icu_data(data: bytes) -> bytes:
    """Return a package of ICU data (a header, names and offsets, items) with fewer items."""
    header = struct.unpack_from("<H", data)[0]
    table = data[header:]
    count = struct.unpack_from("<I", table)[0]
    places = [struct.unpack_from("<II", table, 4 + 8 * index) for index in range(count)]
    ends = [place for _, place in places[1:]]  # the last item, a currency, is not kept
    kept = {}
    for (name_at, place), end in zip(places, ends, strict=False):
        name = table[name_at : table.index(b"\0", name_at)]
        if is_icu_kept(name.decode().partition("/")[2]):
            kept[name] = table[place:end]
    names_at = 4 + 8 * len(kept)
    items_at = names_at + sum(len(name) + 1 for name in kept)
    items_at += -(header + items_at) % 16
    entries, names, items = b"", b"", b""
    for name, item in kept.items():
        entries += struct.pack("<II", names_at + len(names), items_at + len(items))
        names += name + b"\0"
        items += item + bytes(-len(item) % 16)
    start = struct.pack("<I", len(kept)) + entries + names
    return data[:header] + start + bytes(items_at - len(start)) + items


def is_icu_kept(name: str) -> bool:
    """Whether an item, such as ``coll/root.res``, is kept."""
    return name in ICU_KEPT or ("/" not in name and name.endswith(ICU_SUFFIXES))
