"""Make the collected program smaller without losing a function: symbols, copies, Qt's languages."""

from __future__ import annotations

import ast
import hashlib
import lzma
import os
import platform
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import NamedTuple

ICU_KEPT = (
    "root.res", "en.res", "pool.res", "res_index.res", "likelySubtags.res", "supplementalData.res",
    "keyTypeData.res", "numberingSystems.res", "timezoneTypes.res", "zoneinfo64.res", "metaZones.res",
    "windowsZones.res", "coll/root.res", "coll/ucadata.icu", "coll/res_index.res",
)  # fmt: skip
"""What Qt needs of ICU: sorting and time zones. Its own tables have the languages' dates and numbers."""
ICU_SUFFIXES = (".icu", ".nrm")
ICU_MAGIC = b"\xda\x27"
ELF_64 = b"\x7fELF\x02"
SEGMENT = "<IIQQQQQQ"
LOAD = 1  # the kind of segment that is mapped into memory
PAGE = 0x1000 if platform.machine() == "x86_64" else 0x10000  # of the computers that may run the program
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
SAME_FROM = 100_000  # bytes; smaller copies do not matter


class Segment(NamedTuple):
    """A program header of an ELF file."""

    kind: int
    flags: int
    offset: int
    address: int
    physical: int
    size: int
    memory: int
    alignment: int

    def holds(self, other: Segment) -> bool:
        """Whether another segment starts in this one."""
        return self.address <= other.address < self.address + self.memory


def shrink(folder: Path) -> None:
    """Shrink a collected program on Linux; elsewhere only what does not depend on the system."""
    for path in list(folder.rglob("highdicom/_standard/module_attribute_map.json")):  # launcher.py reads it
        path.with_name(f"{path.name}.xz").write_bytes(lzma.compress(path.read_bytes()))
        path.unlink()
    for info in folder.rglob("*.dist-info"):
        for name in ("RECORD", "direct_url.json"):  # files and places of the machine that builds
            (info / name).unlink(missing_ok=True)
        for name in ("licenses", "license_files", "sboms"):  # they are collected in one place
            shutil.rmtree(info / name, ignore_errors=True)
    if sys.platform != "linux":
        return
    for path in files(folder, ".so"):
        if path.name.startswith("libicudata.so") and shutil.which("gcc"):
            filter_icu(path)
        pack_segments(path)
    link_copies(folder)


def files(folder: Path, suffix: str) -> Iterator[Path]:
    """Yield the files of a kind, without links; ``.so`` includes ``.so.6``."""
    found = [path for path in folder.rglob(f"*{suffix}*") if suffix in path.suffixes]
    yield from (path for path in found if path.is_file() and not path.is_symlink())


def compile_without_docstrings(source: Path) -> CodeType:
    """Compile a module without the documentation of its functions and classes; checks are kept."""
    tree = ast.parse(source.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body[:1] = [] if len(node.body) > 1 else [ast.copy_location(ast.Pass(), node.body[0])]
    return compile(tree, source, "exec", dont_inherit=True)


def link_copies(folder: Path) -> None:
    """Replace copies of a library, such as that of Fortran in NumPy and in SciPy, by links to the first."""
    first: dict[bytes, Path] = {}
    for path in sorted(files(folder, ".so")):
        if path.stat().st_size < SAME_FROM:
            continue
        original = first.setdefault(hashlib.sha256(path.read_bytes()).digest(), path)
        if original != path and original.name == path.name:
            path.unlink()
            path.symlink_to(os.path.relpath(original, path.parent))


def pack_segments(library: Path) -> None:
    """Write a 64-bit ELF library again with only what is loaded: no symbols, no sections, no gaps.

    `strip` cannot do it for the libraries that were patched for their wheels: it misplaces their segments.
    """
    data = library.read_bytes()
    if data[:5] != ELF_64:
        return
    table, count = struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<H", data, 56)[0]
    segments = [Segment(*struct.unpack_from(SEGMENT, data, table + 56 * index)) for index in range(count)]
    loaded = sorted((one for one in segments if one.kind == LOAD), key=lambda one: one.offset)
    home = next((one for one in loaded if one.offset <= table < one.offset + one.size), None)
    if home is None or loaded[0].offset > 0 or not all(is_loaded(one, loaded) for one in segments):
        return  # something that is read is outside of what is loaded
    packed, places = bytearray(), {}
    for segment in loaded:
        packed += bytes((segment.offset - len(packed)) % min(segment.alignment, PAGE))
        places[segment.address] = len(packed)
        packed += data[segment.offset : segment.offset + segment.size]
    table += places[home.address] - home.offset
    struct.pack_into("<QQ", packed, 32, table, 0)
    packed[60:64] = bytes(4)  # the number of sections, and which of them has their names
    for index, segment in enumerate(segments):
        struct.pack_into(SEGMENT, packed, table + 56 * index, *move(segment, loaded, places))
    library.write_bytes(packed)


def is_loaded(segment: Segment, loaded: list[Segment]) -> bool:
    """Whether a segment has no content, or lies in one that is loaded."""
    return segment.size == 0 or any(other.holds(segment) for other in loaded)


def move(segment: Segment, loaded: list[Segment], places: dict[int, int]) -> Segment:
    """Return a segment at its new place in the file."""
    home = next((other for other in loaded if other.holds(segment)), None)
    if home is not None:
        segment = segment._replace(offset=places[home.address] + segment.address - home.address)
    if segment.kind == LOAD:
        segment = segment._replace(alignment=min(segment.alignment, PAGE))
    return segment


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
