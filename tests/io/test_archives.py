from __future__ import annotations

import contextlib
import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io import archives
from napari_lesionseg.io.archives import unpack

CLIMBING = [
    "../x.png",
    "/etc/passwd",
    "a/../../x",
    "..\\x.png",
    "C:\\x.png",
    "c:/x",
    "\\\\host\\x",
    "",
    ".",
    "a\0b",
]


def make_zip(
    path: Path, entries: dict[str, bytes], mode: int = 0, compression: int = zipfile.ZIP_DEFLATED
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, payload in entries.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = compression
            archive.writestr(info, payload)
    return path


def make_tar(path: Path, *members: tarfile.TarInfo, payload: bytes = b"") -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for member in members:
            member.size = len(payload) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(payload))
    return path


def tar_info(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def unpack_all(archive: Path, folder: Path) -> list[str]:
    folder.mkdir()
    return list(unpack(archive, folder))


@pytest.mark.parametrize("make", [
    lambda path: make_zip(path / "a.zip", {"x/1.png": b"one", "x/2.png": b"two"}),
    lambda path: make_tar(path / "a.tar", tar_info("x/1.png"), payload=b"one"),
    lambda path: make_tar(
        path / "a.tar.gz", tar_info("x", tarfile.DIRTYPE), tar_info("x/1.png"), payload=b"one"
    ),
])  # fmt: skip
def test_sound_archives_are_unpacked(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    names = unpack_all(make(tmp_path), tmp_path / "out")
    assert "x/1.png" in names
    assert (tmp_path / "out/x/1.png").read_bytes() == b"one"


@pytest.mark.parametrize("name", [name for name in CLIMBING if name and "\0" not in name])
def test_archives_that_climb_out_are_refused_whole(tmp_path: Path, name: str) -> None:
    archive = make_zip(tmp_path / "a.zip", {"first.png": b"x", name: b"x"})
    with pytest.raises(DatasetError):
        unpack_all(archive, tmp_path / "out")
    assert list((tmp_path / "out").rglob("*")) == []
    with pytest.raises(DatasetError):
        unpack_all(make_tar(tmp_path / "a.tar", tar_info(name), payload=b"x"), tmp_path / "out2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "a.zip", "out", "out2"]


@pytest.mark.parametrize(
    ("kind", "link"),
    [(tarfile.SYMTYPE, "/etc"), (tarfile.LNKTYPE, "x"), (tarfile.FIFOTYPE, ""), (tarfile.CHRTYPE, "")],
)
def test_links_and_devices_in_archives_are_refused(tmp_path: Path, kind: bytes, link: str) -> None:
    with pytest.raises(DatasetError, match="link or device"):
        unpack_all(make_tar(tmp_path / "a.tar", tar_info("x", kind, link)), tmp_path / "out")


def test_links_in_zip_archives_are_refused(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"x": b"/etc/passwd"}, mode=stat.S_IFLNK | 0o777)
    with pytest.raises(DatasetError, match="link or device"):
        unpack_all(archive, tmp_path / "out")


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_SLACK", 0)
    bomb = make_zip(tmp_path / "a.zip", {"x": bytes(2_000_000)})
    with pytest.raises(DatasetError, match="grow too large"):
        unpack_all(bomb, tmp_path / "out")
    tar = make_tar(tmp_path / "a.tar.gz", tar_info("x"), payload=bytes(2_000_000))
    with pytest.raises(DatasetError, match="grow too large"):
        unpack_all(tar, tmp_path / "out2")


def test_an_entry_that_lies_about_its_size_is_cut_off(tmp_path: Path) -> None:
    target = io.BytesIO()
    with pytest.raises(DatasetError, match="larger than it says"):
        archives._copy(io.BytesIO(bytes(100)), target, 10)


def test_too_many_entries_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_ENTRIES", 2)
    with pytest.raises(DatasetError, match="more than 2"):
        unpack_all(make_zip(tmp_path / "a.zip", {"1": b"", "2": b"", "3": b""}), tmp_path / "out")


def test_huge_tar_headers_are_not_read_into_memory(tmp_path: Path) -> None:
    header = tarfile.TarInfo("PaxHeaders/x")
    header.type, header.size = tarfile.XHDTYPE, 40 * 1024**2
    archive = tmp_path / "a.tar.gz"
    with gzip.open(archive, "wb", compresslevel=1) as stream:
        stream.write(header.tobuf(tarfile.USTAR_FORMAT) + bytes(header.size))
    with pytest.raises(DatasetError, match="header"):
        unpack_all(archive, tmp_path / "out")


def test_encrypted_and_doubled_entries_are_refused(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"x.png": b"x", "X.PNG": b"y"})
    with pytest.raises(DatasetError, match="same name"):
        unpack_all(archive, tmp_path / "out")
    payload = bytearray(make_zip(tmp_path / "b.zip", {"x.png": b"x"}).read_bytes())
    payload[6] |= 1
    payload[payload.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "b.zip").write_bytes(payload)
    with pytest.raises(DatasetError, match="encrypted"):
        unpack_all(tmp_path / "b.zip", tmp_path / "out2")


SOUND_ZIP = io.BytesIO()
with zipfile.ZipFile(SOUND_ZIP, "w", zipfile.ZIP_DEFLATED) as _archive:
    _archive.writestr("a/x.png", bytes(range(256)))
SOUND_TAR = io.BytesIO()
with tarfile.open(fileobj=SOUND_TAR, mode="w:gz") as _tar:
    _tar.addfile(tar_info("a/x.png"), io.BytesIO(b""))


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    sound=st.sampled_from([(".zip", SOUND_ZIP.getvalue()), (".tar.gz", SOUND_TAR.getvalue())]),
    flips=st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 1000),
)
def test_damaged_archives_give_one_kind_of_error(
    tmp_path_factory: pytest.TempPathFactory, sound: tuple[str, bytes], flips: list[tuple[int, int]], cut: int
) -> None:
    payload = bytearray(sound[1])
    for place, value in flips:
        payload[place % len(payload)] = value
    folder = tmp_path_factory.mktemp("damaged")
    archive = folder / f"a{sound[0]}"
    archive.write_bytes(payload[: len(payload) - cut % 40])
    with contextlib.suppress(DatasetError):
        unpack_all(archive, folder / "out")
    outside = [path for path in folder.rglob("*") if path.is_file() and path != archive]
    assert all(path.is_relative_to(folder / "out") for path in outside)
