"""The installer's scripts, as far as they can run without a built program."""

from __future__ import annotations

import importlib
import json
import platform
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from installers import parts
from installers.dicom_sample import write_photograph
from installers.launcher import find_library, get_data
from installers.parts import SystemPart, complete_sbom, copy_licenses, find_packages
from installers.shrink import (
    compile_without_docstrings,
    filter_icu_data,
    link_copies,
    pack_segments,
    shrink,
)

from napari_lesionseg.cli import main as run_command
from napari_lesionseg.datasets.formats.dicom_files import read_header, read_photograph

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


def test_a_copy_that_fails_leaves_the_old_version(unpacked: Path, tmp_path: Path) -> None:
    run(unpacked / "install.sh", tmp_path / "prefix")
    full = "#!/bin/sh\ncp() { return 1; }\n"  # such as that of a full disk
    script = unpacked / "install.sh"
    script.write_text(full + script.read_text())
    assert run(script, tmp_path / "prefix").returncode == 1
    assert (tmp_path / "prefix" / "lib" / "lesionseg" / "lesionseg").is_file()


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


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A library with symbols, constants, data, and gaps of 2 MB between them in the file."""
    source = tmp_path / "library.c"
    source.write_text(
        'static int counted = 41; static __thread int own = 1; static const char text[] = "lesion";\n'
        "static int *there = &counted; int count(void) { return *there += own; }\n"
        "const char *name(void) { return text; }\n"
    )
    path = tmp_path / "folder" / "library.so.1"
    path.parent.mkdir()
    gaps = "-Wl,-z,max-page-size=0x200000,-z,separate-code"
    subprocess.run(["cc", "-g", "-shared", "-fPIC", gaps, "-o", path, source], check=True)
    return path


def use(library: Path) -> list[str]:
    """What the functions of the library return in a new process."""
    code = (
        "import ctypes, sys; library = ctypes.CDLL(sys.argv[1]); library.name.restype = ctypes.c_char_p;"
        "print(library.count(), library.count(), library.name().decode())"
    )
    return subprocess.check_output([sys.executable, "-c", code, library], text=True).split()


def test_a_library_without_symbols_and_gaps_does_the_same(library: Path) -> None:
    before = library.stat().st_size
    shrink(library.parent)
    assert library.stat().st_size < 20_000 < before
    assert use(library) == ["42", "43", "lesion"]
    once = library.read_bytes()
    shrink(library.parent)
    assert library.read_bytes() == once


@pytest.mark.parametrize("header", [b"\x7fELF\x02", b"\xcf\xfa\xed\xfe\x07"])
def test_a_library_that_cannot_be_made_smaller_is_left(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "library.so"  # one that does not load its headers, and one of macOS
    path.write_bytes(header + bytes(27) + struct.pack("<QQIHHHHHH", 64, 0, 0, 64, 56, 0, 0, 0, 0))
    before = path.read_bytes()
    pack_segments(path)
    assert path.read_bytes() == before


def test_copies_of_a_library_become_links(tmp_path: Path) -> None:
    content = bytes(200_000)
    for name in ("numpy.libs/libfortran.so.5", "scipy.libs/libfortran.so.5", "scipy.libs/libother.so.5"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    link_copies(tmp_path)
    linked = tmp_path / "scipy.libs" / "libfortran.so.5"
    assert linked.readlink() == Path("../numpy.libs/libfortran.so.5")
    assert linked.read_bytes() == content
    assert not (tmp_path / "scipy.libs" / "libother.so.5").is_symlink()


def test_shrinking_removes_what_is_of_the_machine_that_builds(tmp_path: Path) -> None:
    info = tmp_path / "part-1.0.dist-info"
    (info / "licenses").mkdir(parents=True)
    for name in ("RECORD", "direct_url.json", "METADATA", "licenses/LICENSE"):
        (info / name).touch()
    shrink(tmp_path)
    assert [path.name for path in info.iterdir()] == ["METADATA"]


def test_the_table_of_highdicom_is_compressed_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "highdicom" / "_standard" / "module_attribute_map.json"
    table.parent.mkdir(parents=True)
    (tmp_path / "highdicom" / "__init__.py").touch()
    content = b'{"patient": [1, 2, 3]}' * 1000
    table.write_bytes(content)
    shrink(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "highdicom", sys)  # the one of this folder is forgotten afterwards
    for name in [name for name in sys.modules if name.partition(".")[0] == "highdicom"]:
        monkeypatch.delitem(sys.modules, name)
    assert sum(path.stat().st_size for path in table.parent.iterdir()) < len(content) / 10
    assert get_data("highdicom", "_standard/module_attribute_map.json") == content
    with pytest.raises(FileNotFoundError):
        get_data("highdicom", "_standard/missing.json")


def test_modules_lose_their_documentation_but_no_checks(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text(
        '"""Module."""\nfrom __future__ import annotations\n\nclass Empty:\n    """Class."""\n\n'
        'def half(x):\n    """Function."""\n    assert x % 2 == 0\n    return x // 2\n'
    )
    namespace: dict[str, Any] = {"__name__": "module"}
    exec(compile_without_docstrings(source), namespace)  # noqa: S102  a module that this test wrote
    half = namespace["half"]
    assert [namespace.get("__doc__"), namespace["Empty"].__doc__, half.__doc__] == [None, None, None]
    assert half(4) == 2
    assert half.__code__.co_firstlineno == 7
    with pytest.raises(AssertionError):
        half(3)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """An environment with three packages, one of which was built of others."""
    site = tmp_path / "venv" / "site"
    packages = {
        "used": ["used/__init__.py", "used.libs/lib.so"],
        "Part_of.it": ["part/it.py"],
        "unused": ["unused.py"],
    }
    for name, files in packages.items():
        info = site / f"{name}-1.0.dist-info"
        (info / "licenses" / "inner").mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        for file in files:
            (site / file).parent.mkdir(exist_ok=True)
            (site / file).touch()
        (info / "RECORD").write_text("".join(f"{file},,\n" for file in [*files, f"{info.name}/METADATA"]))
        (info / "licenses" / "LICENSE").write_text(name)
        (info / "licenses" / "inner" / "LICENSE").write_text("inner")
    zlib = {"type": "library", "name": "zlib", "version": "2", "bom-ref": "x"}
    (site / "used-1.0.dist-info" / "sboms").mkdir()
    (site / "used-1.0.dist-info" / "sboms" / "used.json").write_text(
        json.dumps({"components": [zlib, {"name": "used"}]})
    )
    return site


def test_packages_are_those_that_files_were_collected_from(site: Path) -> None:
    collected = [site / "used.libs/lib.so", site / "part/it.py", site / "unused-1.0.dist-info/METADATA"]
    assert find_packages([*collected, Path("/usr/lib/libX11.so.6")], site) == {"used", "part-of-it"}


def test_the_list_of_parts_has_what_was_collected_only(site: Path) -> None:
    def entry(name: str, *links: str) -> dict[str, Any]:
        references = [{"url": link} for link in links]
        return {"bom-ref": f"{name}==1.0", "name": name, "externalReferences": references}

    sbom = {
        "bomFormat": "CycloneDX",
        "components": [entry("used", "file:///build", "https://used"), entry("Part_of.it"), entry("unused")],
        "dependencies": [
            {"ref": "used==1.0", "dependsOn": ["Part_of.it==1.0", "unused==1.0"]},
            {"ref": "unused==1.0"},
        ],
    }
    system = SystemPart("libxcb1", "1.15-1", "pkg:deb/debian/libxcb1@1.15-1?arch=amd64")
    listed = complete_sbom(sbom, {"used", "part-of-it"}, site, [system, SystemPart("libown.so.2")])
    used, *others = listed["components"]
    assert listed["bomFormat"] == "CycloneDX"
    assert used["externalReferences"] == [{"url": "https://used"}]
    assert used["components"] == [{"type": "library", "name": "zlib", "version": "2"}]
    assert [part["name"] for part in others] == ["Part_of.it", "libxcb1", "libown.so.2"]
    assert others[1]["version"] == "1.15-1"
    assert others[1]["purl"] == "pkg:deb/debian/libxcb1@1.15-1?arch=amd64"
    assert others[2] == {"type": "library", "name": "libown.so.2"}
    assert listed["dependencies"] == [{"ref": "used==1.0", "dependsOn": ["Part_of.it==1.0"]}]


def test_parts_of_the_system_are_python_and_libraries_with_their_packages(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = "/usr/lib/x86_64-linux-gnu/libxcb.so.1"
    answers = {
        ("-S", library): f"libxcb1:amd64: {library}\n",
        ("-W", "-f=${Version} ${Architecture}", "libxcb1:amd64"): "1:1.15-1+b1 amd64",
    }
    monkeypatch.setattr(parts, "ask_dpkg", lambda *query: answers.get(tuple(map(str, query)), ""))
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: {"ID": "debian"})
    ours = [site / "used" / "__init__.py", tmp_path / "project" / "launcher.py"]
    others = [json.__file__, "/lib/x86_64-linux-gnu/libxcb.so.1", "/opt/libown.so.2"]
    found = parts.find_system_parts([*ours, *map(Path, others)], site, tmp_path / "project")
    assert [(part.name, part.version) for part in found] == [
        ("Python", platform.python_version()),
        ("libown.so.2", ""),
        ("libxcb1", "1:1.15-1+b1"),
    ]
    assert found[2].purl == "pkg:deb/debian/libxcb1@1%3A1.15-1%2Bb1?arch=amd64"


def test_all_licenses_of_a_part_are_kept_even_with_the_same_name(site: Path, tmp_path: Path) -> None:
    text = tmp_path / "copyright"
    text.write_text("MIT")
    target = tmp_path / "licenses"
    copy_licenses(target, {"used"}, site, [SystemPart("libxcb1", license_file=text)])
    assert {name: (target / name).read_text() for name in files_in(target)} == {
        "used/licenses/LICENSE": "used",
        "used/licenses/inner/LICENSE": "inner",
        "libxcb1/copyright": "MIT",
    }


def test_the_libraries_of_the_installed_folder_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("installers.launcher.__file__", str(tmp_path / "launcher.py"))
    (tmp_path / "libfontconfig.so.1").touch()
    system = {"GL": "libGL.so.1"}.get
    assert find_library("fontconfig", system) == str(tmp_path / "libfontconfig.so.1")
    assert find_library("GL", system) == "libGL.so.1"
    assert find_library("missing", system) is None


def test_the_sample_for_dicom_is_a_photograph_of_a_patient(tmp_path: Path) -> None:
    write_photograph(tmp_path / "lesion.dcm")
    assert read_header(tmp_path / "lesion.dcm").patient == "P1"
    image = read_photograph(tmp_path / "lesion.dcm")
    assert image.shape == (288, 384, 3)
    assert image[0, 0].tolist() == [225, 180, 160]
    assert image[144, 192].tolist() == [120, 80, 60]


class ProgramOfThisProcess:
    """The program as it is here, instead of an installed one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *arguments: str) -> None:
        if code := run_command(arguments):
            raise subprocess.CalledProcessError(code, arguments)


@pytest.fixture
def smoke_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, where there is no window; it finds its modules as scripts do."""
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.syspath_prepend(str(ROOT / "installers"))
    monkeypatch.chdir(tmp_path)
    return importlib.import_module("smoke_test")


def test_the_test_of_dicom_gets_an_outline_back(smoke_test: ModuleType, tmp_path: Path) -> None:
    smoke_test.test_dicom(ProgramOfThisProcess(tmp_path))


@pytest.mark.parametrize("package", ["pydicom", "highdicom"])
def test_the_test_of_dicom_fails_without_its_packages(
    package: str, smoke_test: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(subprocess.CalledProcessError):
        smoke_test.test_dicom(ProgramOfThisProcess(tmp_path))
