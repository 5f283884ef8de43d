from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from napari_lesionseg.io import atomic
from napari_lesionseg.io.atomic import sha256_file, sweep_temporaries, sync_folder, write_atomically

NAMES = ["mask.png", "with spaces.png", "blåbærsyltetøy æøå.png", "no suffix", "n" * 240 + ".png"]


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="needs the devices of Unix")
def test_an_open_pipe_is_written_into_by_its_number() -> None:
    end, start = os.pipe()  # /dev/stdout is such a link, to no path
    try:
        write_atomically(f"/dev/fd/{start}", b"figures")
    finally:
        os.close(start)
    with os.fdopen(end, "rb") as stream:
        assert stream.read() == b"figures"


@pytest.mark.parametrize("name", NAMES)
def test_the_file_holds_the_payload_and_nothing_else_is_left(tmp_path: Path, name: str) -> None:
    write_atomically(tmp_path / name, b"first")
    write_atomically(str(tmp_path / name), b"second")
    assert (tmp_path / name).read_bytes() == b"second"
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_folders_are_not_opened_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = list[object]()

    def refuse(path: object, flags: int) -> int:
        opened.append(path)
        raise PermissionError(errno.EACCES, "a folder cannot be opened", path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        patched.setattr(os, "name", "nt")
        sync_folder(tmp_path)
    assert opened == []


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_atomically(tmp_path / "atomic", b"")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_keeps_the_old_file_and_removes_the_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "mask.png"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic.os, call, full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interruption_removes_the_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "mask.png", b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_atomically(tmp_path / "nowhere" / "mask.png", b"")


def test_a_folder_in_the_place_of_the_file_is_kept(tmp_path: Path) -> None:
    (tmp_path / "mask.png").mkdir()
    with pytest.raises(OSError, match=r"mask\.png"):
        write_atomically(tmp_path / "mask.png", b"")
    assert [entry.name for entry in tmp_path.iterdir()] == ["mask.png"]


def test_a_sweep_during_a_write_does_not_lose_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swept: list[Path] = []
    replace = os.replace

    def sweep_first(source: Path, target: Path) -> None:
        if not swept:
            swept.extend(sweep_temporaries(tmp_path))
        replace(source, target)

    monkeypatch.setattr(atomic.os, "replace", sweep_first)
    write_atomically(tmp_path / "mask.png", b"new")
    assert len(swept) == 1
    assert (tmp_path / "mask.png").read_bytes() == b"new"


@pytest.mark.parametrize(("number", "raised"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_folder_that_cannot_be_synced_is_no_failure_but_a_broken_disk_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, raised: bool
) -> None:
    sync = os.fsync

    def only_files(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    if not Path("/proc/self/fd").is_dir() and os.name != "nt":
        pytest.skip("tells folders from files through /proc")
    monkeypatch.setattr(atomic.os, "fsync", only_files)
    if raised and os.name != "nt":
        with pytest.raises(OSError, match=os.strerror(number)):
            write_atomically(tmp_path / "mask.png", b"new")
    else:
        write_atomically(tmp_path / "mask.png", b"new")
    assert (tmp_path / "mask.png").read_bytes() == b"new"


WRITER = """
import itertools, sys
from napari_lesionseg.io.atomic import write_atomically
for count in itertools.count():
    write_atomically(sys.argv[1], bytes([count % 256]) * 2_000_000)
    print(count, flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_writer_never_tears_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for _ in range(3):
                process.stdout.readline()
            process.kill()
        contents = path.read_bytes()
        assert len(contents) == 2_000_000
        assert len(set(contents)) == 1
    sweep_temporaries(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_sweeping_takes_temporaries_and_nothing_else(tmp_path: Path) -> None:
    stale = tmp_path / ".mask æ.png.4711-0123456789ab.tmp"
    kept = [tmp_path / name for name in ("mask.png", ".hidden", "notes.tmp", ".mask.png.tmp", "a.1-0a.tmp")]
    for path in (stale, *kept):
        path.write_bytes(b"")
    assert sweep_temporaries(tmp_path) == [stale]
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    assert sweep_temporaries(str(tmp_path)) == []


def test_sweeping_no_folder_finds_nothing(tmp_path: Path) -> None:
    assert sweep_temporaries(tmp_path / "nowhere") == []


def test_the_hash_is_sha256_of_the_contents(tmp_path: Path) -> None:
    payload = bytes(range(256)) * 9999
    (tmp_path / "x").write_bytes(payload)
    assert sha256_file(tmp_path / "x") == hashlib.sha256(payload).hexdigest()
    with pytest.raises(FileNotFoundError):
        sha256_file(tmp_path / "y")


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "out.json"
    link.symlink_to("elsewhere/real.json")
    for payload in (b"first", b"second"):
        write_atomically(link, payload)
        assert link.is_symlink()
        assert (tmp_path / "elsewhere/real.json").read_bytes() == payload
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["real.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no /dev/stdout")
def test_the_output_that_goes_into_a_file_is_not_replaced(tmp_path: Path) -> None:
    code = (
        "from napari_lesionseg.io.atomic import write_atomically as write\n"
        "print('before'); write('/dev/stdout', b'payload\\n'); print('after')"
    )
    with (tmp_path / "log.txt").open("wb") as log:
        subprocess.run([sys.executable, "-c", code], stdout=log, check=True)
    assert (tmp_path / "log.txt").read_text() == "before\npayload\nafter\n"


def test_devices_and_pipes_are_written_into(tmp_path: Path) -> None:
    write_atomically("/dev/null", b"x")
    assert not Path("/dev/null").is_file()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_bytes)
        write_atomically(pipe, b"payload")
        assert read.result(timeout=10) == b"payload"
    assert pipe.is_fifo()
