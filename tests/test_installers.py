"""The installer's scripts, as far as they can run without a built program."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from installers.launcher import find_library
from installers.shrink import filter_icu_data, is_loadable, shrink

ROOT = Path(__file__).parents[1]
LINUX = ROOT / "installers" / "linux"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the scripts are those of Linux")


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """An unpacked archive with a program that only prints its arguments."""
    folder = tmp_path / "down loads" / "lesionseg"
    shutil.copytree(LINUX, folder)
    shutil.copy(ROOT / "docs" / "images" / "logo.svg", folder / "lesionseg.svg")
    program = folder / "lesionseg"
    program.write_text('#!/bin/sh\necho "started $*"\n')
    program.chmod(0o755)
    return folder


def run(script: Path, prefix: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(prefix.parent), "PREFIX": str(prefix)}
    return subprocess.run(["sh", script], capture_output=True, text=True, env=environment)


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def test_install_adds_a_command_a_menu_entry_and_an_icon(unpacked: Path, tmp_path: Path) -> None:
    prefix = tmp_path / "pre fix"
    assert run(unpacked / "install.sh", prefix).returncode == 0
    started = subprocess.run([prefix / "bin" / "lesionseg", "images"], capture_output=True, text=True)
    assert started.stdout == "started images\n"
    entry = (prefix / "share" / "applications" / "lesionseg.desktop").read_text()
    assert f'Exec="{prefix}/lib/lesionseg/lesionseg" %f' in entry
    assert (prefix / "share" / "icons" / "hicolor" / "scalable" / "apps" / "lesionseg.svg").is_file()


def test_install_again_replaces_the_old_version(unpacked: Path, tmp_path: Path) -> None:
    run(unpacked / "install.sh", tmp_path / "prefix")
    (tmp_path / "prefix" / "lib" / "lesionseg" / "old").touch()
    assert run(unpacked / "install.sh", tmp_path / "prefix").returncode == 0
    assert not (tmp_path / "prefix" / "lib" / "lesionseg" / "old").exists()


def test_uninstall_removes_everything_and_nothing_else(unpacked: Path, tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    other = prefix / "bin" / "other"
    other.parent.mkdir(parents=True)
    other.touch()
    run(unpacked / "install.sh", prefix)
    assert run(prefix / "lib" / "lesionseg" / "uninstall.sh", prefix).returncode == 0
    assert {name for name in files_in(prefix) if not name.endswith("mimeinfo.cache")} == {"bin/other"}


def test_uninstall_does_not_remove_a_folder_that_is_not_installed(unpacked: Path, tmp_path: Path) -> None:
    done = run(unpacked / "uninstall.sh", tmp_path / "prefix")
    assert done.returncode == 1
    assert "Run uninstall.sh in the folder where LesionSeg was installed" in done.stderr
    assert (unpacked / "lesionseg").exists()


def test_icu_keeps_what_qt_needs_and_stays_readable() -> None:
    items = {
        "icudt73l/coll/de.res": b"German",
        "icudt73l/coll/root.res": b"sorting",
        "icudt73l/curr/de.res": b"currencies",
        "icudt73l/nfc.nrm": b"letters with accents",
        "icudt73l/zone/zu.res": b"the last one",
    }
    kept = read_icu(filter_icu_data(icu_package(items)))
    assert {name: item.rstrip(b"\0") for name, item in kept.items()} == {
        "icudt73l/coll/root.res": b"sorting",
        "icudt73l/nfc.nrm": b"letters with accents",
    }


def icu_package(items: dict[str, bytes]) -> bytes:
    header = struct.pack("<H", 32) + b"\xda\x27" + bytes(28)
    names_at = 4 + 8 * len(items)
    at = names_at + sum(len(name) + 1 for name in items)
    at += -(len(header) + at) % 16
    table, names, data = struct.pack("<I", len(items)), b"", b""
    for name, item in items.items():
        table += struct.pack("<II", names_at + len(names), at + len(data))
        names += name.encode() + b"\0"
        data += item + bytes(-len(item) % 16)
    start = table + names
    return header + start + bytes(at - len(start)) + data


def read_icu(package: bytes) -> dict[str, bytes]:
    table = package[struct.unpack_from("<H", package)[0] :]
    count = struct.unpack_from("<I", table)[0]
    places = [struct.unpack_from("<II", table, 4 + 8 * index) for index in range(count)]
    assert all((len(package) - len(table) + place) % 16 == 0 for _, place in places)
    ends = [*(place for _, place in places[1:]), len(table)]
    names = [table[at : table.index(b"\0", at)].decode() for at, _ in places]
    return {name: table[place:end] for name, (_, place), end in zip(names, places, ends, strict=True)}


def test_shrinking_removes_symbols_and_records_but_no_content(tmp_path: Path) -> None:
    source = tmp_path / "library.c"
    source.write_text("static int hidden(int x) { return x + 1; }\nint shown(int x) { return hidden(x); }\n")
    library = tmp_path / "library.so"
    subprocess.run(["cc", "-g", "-shared", "-fPIC", "-o", library, source], check=True)
    table = {"modules": [{"name": "patient", "attributes": list(range(300_000))}]}
    (tmp_path / "table.json").write_text(json.dumps(table, indent=2))
    info = tmp_path / "part-1.0.dist-info"
    info.mkdir()
    (info / "RECORD").touch()
    (info / "METADATA").touch()
    size, length = library.stat().st_size, (tmp_path / "table.json").stat().st_size
    shrink(tmp_path)
    assert library.stat().st_size < size
    assert is_loadable(library)
    assert (tmp_path / "table.json").stat().st_size < length
    assert json.loads((tmp_path / "table.json").read_bytes()) == table
    assert [path.name for path in info.iterdir()] == ["METADATA"]


def test_a_library_with_misplaced_segments_is_not_loadable(tmp_path: Path) -> None:
    header = b"\x7fELF" + bytes(28) + struct.pack("<QQIHHHHHH", 64, 0, 0, 64, 56, 1, 0, 0, 0)
    for place, loadable in ((0x1000, True), (0x1008, False)):
        segment = struct.pack("<IIQQQQQQ", 1, 5, place, 0x5000, 0x5000, 8, 8, 0x1000)
        library = tmp_path / "library.so"
        library.write_bytes(header + segment)
        assert is_loadable(library) == loadable


def test_the_libraries_of_the_installed_folder_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("installers.launcher.__file__", str(tmp_path / "launcher.py"))
    (tmp_path / "libfontconfig.so.1").touch()
    system = {"GL": "libGL.so.1"}.get
    assert find_library("fontconfig", system) == str(tmp_path / "libfontconfig.so.1")
    assert find_library("GL", system) == "libGL.so.1"
    assert find_library("missing", system) is None
