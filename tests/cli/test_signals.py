"""Commands that are stopped, or whose output cannot be written, in processes of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from napari_lesionseg.cli import main as main_function
from napari_lesionseg.cli.signals import CLEANUP_SECONDS, default_signals, stop_on_signals
from napari_lesionseg.io.images import write_image

MAIN = sys.modules[main_function.__module__]
PROGRAM = [sys.executable, "-c", "import sys; from napari_lesionseg.cli import main; sys.exit(main())"]
SCRIPT = "import sys; from napari_lesionseg.__main__ import main; sys.exit(main())"
SLOW = """
import sys, tempfile, time
from napari_lesionseg.cli import datasets, main

def run(options):
    with tempfile.TemporaryDirectory(dir=options.folder):
        try:
            print("working", flush=True)
            time.sleep(60)
        finally:
            for _ in range(20):
                time.sleep(0.02)  # a cleanup that takes a while

datasets.run_verify = run
sys.exit(main())
"""

posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


@posix
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_command_that_is_stopped_again_and_again_cleans_up(tmp_path: Path, name: str, code: int) -> None:
    command = [sys.executable, "-c", SLOW, "verify", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "working\n"
        while process.poll() is None:
            process.send_signal(getattr(signal, name))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.05)
        assert process.stderr.read() == "lesionseg: Stopped.\n"
    assert process.returncode == code
    assert list(tmp_path.iterdir()) == []


@posix
def test_a_ctrl_c_that_got_lost_can_be_repeated_at_once(tmp_path: Path) -> None:
    sleeping = '            print("working", flush=True)\n            time.sleep(60)\n'
    losing = (
        '            try:\n                print("working", flush=True)\n                time.sleep(60)\n'
        "            except BaseException:\n                pass\n"
    )
    command = [sys.executable, "-c", SLOW.replace(sleeping, losing + sleeping), "verify", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for _ in range(2):
            assert process.stdout.readline() == "working\n"
            process.send_signal(signal.SIGINT)
        assert process.wait(timeout=CLEANUP_SECONDS / 2) == 130
        assert process.stderr.read() == "lesionseg: Stopped.\n"
    assert list(tmp_path.iterdir()) == []


@posix
def test_ctrl_c_waits_for_the_end_of_an_import(tmp_path: Path) -> None:
    """NumPy takes any exception for a part that is missing, and then nothing works."""
    (tmp_path / "swallowing.py").write_text(
        "import os, signal\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\n    print('whole', flush=True)\n"
        "except BaseException:\n    print('half', flush=True)\n"
    )
    code = SLOW.replace('print("working", flush=True)', "import swallowing")
    done = subprocess.run(
        [sys.executable, "-c", code, "verify", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "whole\n", "lesionseg: Stopped.\n")


@posix
@pytest.mark.parametrize("start", [["-m", "napari_lesionseg"], ["-c", SCRIPT]])
@pytest.mark.parametrize("module", ["argparse", "lazy_loader", "signal"])
def test_ctrl_c_while_the_command_line_is_imported(tmp_path: Path, start: list[str], module: str) -> None:
    interrupting = "import os, time\nos.kill(os.getpid(), 2)\ntime.sleep(60)\n"
    (tmp_path / f"{module}.py").write_text(interrupting)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *start, "--version"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "lesionseg: Stopped.\n")


def test_the_program_imports_hardly_anything_before_it_answers_ctrl_c() -> None:
    code = "import sys; old = {*sys.modules}; import napari_lesionseg.__main__; print(*{*sys.modules} - old)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"napari_lesionseg", "napari_lesionseg.__main__"}


def test_ctrl_c_while_a_command_is_loading(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(role: str, command: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(MAIN, "_function", interrupt)
    result = run("models")
    assert result.code == 130
    assert result.errors == ["lesionseg: Stopped."]


@posix
def test_handlers_are_restored_where_the_process_goes_on() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop_on_signals(until_exit=False):
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


@posix
def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals(until_exit=False):
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            with default_signals():
                assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@posix
def test_a_terminal_that_is_gone(tmp_path: Path) -> None:
    """Nothing can be said there, but the exit code tells."""
    read, write = os.pipe()
    command = [sys.executable, "-c", SLOW, "verify", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=write, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        os.close(write)
        os.close(read)
        process.send_signal(signal.SIGHUP)
    assert process.returncode == 129
    assert list(tmp_path.iterdir()) == []


@full
@pytest.mark.parametrize("words", [["--help"], ["--version"], ["models"], ["models", "--help"]])
def test_a_full_disk_under_the_output_is_one_line(words: list[str], tmp_path: Path) -> None:
    environment = {**os.environ, "LESIONSEG_MODELS": str(tmp_path)}
    with Path("/dev/full").open("w") as output:
        done = subprocess.run(
            [*PROGRAM, *words], stdout=output, stderr=subprocess.PIPE, text=True, check=False, env=environment
        )
    assert done.stderr == "lesionseg: The output cannot be written: No space left on device.\n"
    assert done.returncode == 2


@posix
def test_a_reader_that_ends_is_one_line_and_the_errors_may_have_none(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "LESIONSEG_MODELS": str(tmp_path)}
    done = subprocess.run(
        [*PROGRAM, "models"], stdout=write, stderr=subprocess.PIPE, text=True, check=False, env=environment
    )
    assert done.stderr == "lesionseg: The output cannot be written: Broken pipe.\n"
    assert done.returncode == 2
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.png").write_bytes(b"no image")
        write_image(folder / f"{name}1.png", np.zeros((64, 64, 3), np.uint8))
    words = ["segment", str(folder), "--out", str(tmp_path / "out"), "--device", "cpu"]
    done = subprocess.run([*PROGRAM, *words], stdout=subprocess.PIPE, stderr=write, text=True, check=False)
    os.close(write)
    assert done.returncode == 1
    assert done.stdout.startswith("2 of 4 images outlined")


@posix
@pytest.mark.parametrize("words", ["--help", "--version", "models", "models --help"])
def test_an_output_that_is_closed_is_no_error(words: str, tmp_path: Path) -> None:
    command = f'"$0" -m napari_lesionseg {words} >&-'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "LESIONSEG_MODELS": str(tmp_path)},
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)


def test_ctrl_c_where_the_errors_are_closed(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(role: str, command: str) -> None:
        monkeypatch.setattr(sys, "stderr", None)
        raise KeyboardInterrupt

    monkeypatch.setattr(MAIN, "_function", interrupt)
    assert run("models").code == 130


@full
def test_a_full_disk_under_the_errors_changes_nothing_else() -> None:
    with Path("/dev/full").open("w") as errors:
        done = subprocess.run([*PROGRAM, "nonsense"], capture_output=False, stderr=errors, check=False)
    assert done.returncode == 2
