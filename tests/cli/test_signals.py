"""Commands that are stopped, or whose output cannot be written, in processes of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from napari_lesionseg.cli import main as main_function
from napari_lesionseg.cli.signals import stop_on_signals

MAIN = sys.modules[main_function.__module__]
PROGRAM = [sys.executable, "-c", "import sys; from napari_lesionseg.cli import main; sys.exit(main())"]
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
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_stopped_again_and_again_cleans_up(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    command = [sys.executable, "-c", SLOW, "verify", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "working\n"
        while process.poll() is None:
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.05)
        assert process.stderr.read() == "lesionseg: Stopped.\n"
    assert process.returncode == code
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


@full
def test_a_full_disk_under_the_errors_changes_nothing_else() -> None:
    with Path("/dev/full").open("w") as errors:
        done = subprocess.run([*PROGRAM, "nonsense"], capture_output=False, stderr=errors, check=False)
    assert done.returncode == 2
