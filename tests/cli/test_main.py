from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from napari_lesionseg import __version__
from napari_lesionseg.cli import app, console, datasets, main
from napari_lesionseg.cli.main import COMMANDS
from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.io.images import write_image
from napari_lesionseg.study.study import Study

PROGRAM = [sys.executable, "-c", "import sys; from napari_lesionseg.cli import main; sys.exit(main())"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(run: Callable, command: str) -> None:
    result = run(command, "--help")
    assert result.code == 0
    assert f"lesionseg {command}" in result.out
    assert "example" in result.out


def test_help_and_version(run: Callable) -> None:
    result = run("--help")
    assert result.code == 0
    assert all(f"\n    {command}" in result.out for command in COMMANDS)
    assert run("--version").out.strip() == f"napari-lesionseg {__version__}"


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["no/such/folder"],
        ["segmnet", "x.png", "--out", "y"],
        ["--nonsense"],
        ["segment"],
        ["segment", "x.png"],
        ["segment", "x.png", "--out", "y", "--color", "red"],
        ["models", "explode"],
        ["evaluate"],
        ["train"],
        [""],
        ["æøå\n\x1b[31m"],
        ["\udce6"],
    ],
)
def test_nonsense_is_wrong_usage(run: Callable, words: list[str]) -> None:
    result = run(*words)
    assert result.code == 2
    assert not result.out
    assert result.errors[-1].startswith("lesionseg")


def test_a_wrong_word_is_answered_in_one_line(run: Callable) -> None:
    result = run("nonsense")
    assert len(result.errors) == 1
    assert "lesionseg --help" in result.errors[0]


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["segmant", "im"], "'segmant' (did you mean segment?); `lesionseg --help`"),
        (["--vers"], None),  # a part of an option is enough
        (["--bogus"], "There is no option --bogus; `lesionseg --help`"),
        (["segment", "x.png", "--ouy=y"], "no option --ouy (did you mean --out?); `lesionseg seg"),
        (["models", "compare", "--mask", "x", "--devise", "cpu"], "--devise (did you mean --device?)"),
        (["segment"], "are required: INPUT, --out; `lesionseg segment --help`"),
        (["segment", "x", "--out", "y", "--smallest", "few"], "--smallest: 'few' does not fit;"),
        (["segment", "x", "--out", "y", "--threshold", "2"], "--threshold: must lie between 0 and 1;"),
        (["evaluate", "x", "y"], "Unrecognized arguments: y; `lesionseg evaluate --help`"),
        (["models", "show", "x", "y z"], "Unrecognized arguments: 'y z'; `lesionseg models show --help`"),
    ],
)
def test_the_nearest_command_or_option_is_named(run: Callable, words: list[str], answer: str | None) -> None:
    result = run(*words)
    assert result.code == (0 if answer is None else 2)
    assert len(result.errors) == (answer is not None)
    assert answer is None or answer in result.err


@pytest.mark.parametrize(
    ("words", "empty"),
    [
        (["segment", "images", "--out", ""], "--out: the value is empty;"),
        (["segment", "images", "--out="], "--out: the value is empty;"),
        (["segment", "", "--out", "masks"], "An argument is empty;"),
        (["train", "images", "", "--masks", "a", "b"], "An argument is empty;"),
        (["import", "--out", "new", "--", ""], "An argument is empty;"),
        (["models", "export", "tiny", "--out", ""], "--out: the value is empty;"),
        (["verify", ""], "An argument is empty;"),
    ],
)
def test_an_empty_path_is_not_the_current_folder(
    run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], empty: str
) -> None:
    here = tmp_path / "here"
    (here / "images").mkdir(parents=True)
    write_image(here / "images" / "x.png", np.zeros((8, 8, 3), np.uint8))
    monkeypatch.chdir(here)
    result = run(*words)
    assert (result.code, len(result.errors)) == (2, 1)
    assert empty in result.err
    assert [path.name for path in here.iterdir()] == ["images"]


def test_an_image_in_place_of_a_command_names_its_folder(
    run: Callable, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(images / "plain.png")
    assert (result.code, len(result.errors)) == (2, 1)
    assert f"`lesionseg app '{images}'`" in result.err
    monkeypatch.chdir(images)
    assert "`lesionseg app .`" in run("plain.png", "other.png").err
    assert run("app", "plain.png").errors == [
        "lesionseg: plain.png is a file; name the folder that it is in."
    ]
    assert run("app", tmp_path / "none").errors == [f"lesionseg: {tmp_path / 'none'} does not exist."]


def test_the_program_itself() -> None:
    done = subprocess.run([*PROGRAM, "nonsense"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert not done.stdout


def test_help_waits_for_nothing_heavy() -> None:
    code = (
        "import sys; from napari_lesionseg.cli.main import build_parser as b; b('app'); print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "napari", "qtpy", "scipy", "skimage"} & set(loaded)


def test_letters_the_terminal_lacks_end_nothing(tmp_path: Path) -> None:
    environment = {"PYTHONIOENCODING": "ascii", "PATH": "", "LESIONSEG_MODELS": str(tmp_path)}
    done = subprocess.run([*PROGRAM, "皮膚"], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert "\\u76ae\\u819a" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_in_place_of_a_command_opens_the_viewer(
    run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path | None] = []
    monkeypatch.setattr(app, "open_viewer", lambda folder=None, **how: opened.append(folder))
    assert [run().code, run(tmp_path).code, run("app", tmp_path).code] == [0, 0, 0]
    assert opened == [None, tmp_path, tmp_path]


def test_the_annotator_is_named_on_the_command_line(
    run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    monkeypatch.setattr(
        app, "open_viewer", lambda folder, annotator, **how: opened.append((folder, annotator))
    )
    assert run("app", tmp_path, "--annotator", "am").code == 0
    assert run("app", tmp_path, "--annotator", "a/m").code == 2
    assert opened == [(tmp_path, "am")]


def test_the_images_of_a_study_are_relocated(
    run: Callable, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path | None] = []
    monkeypatch.setattr(app, "open_viewer", lambda folder=None, **how: opened.append(folder))
    study = tmp_path / "study"
    Study.create(study, "am", paths=images).close()
    moved = images.rename(tmp_path / "archive")
    assert run("app", study, "--images", moved).code == 0
    assert opened == [study]
    with Study.open(study, "am") as again:
        assert again.missing_images() == ()
    result = run("app", study, "--images", tmp_path / "models")
    assert (result.code, len(result.errors)) == (2, 1)
    assert "None of the study's images is in" in result.err
    assert "needs a study" in run("app", moved, "--images", moved).err
    assert opened == [study]


@pytest.mark.parametrize(
    ("napari", "display", "reason"),
    [(False, True, "pip install"), (True, False, "no display"), (True, True, "only unpacked")],
)
def test_why_the_viewer_cannot_be_opened(
    run: Callable, monkeypatch: pytest.MonkeyPatch, napari: bool, display: bool, reason: str
) -> None:
    monkeypatch.setattr(app, "find_spec", lambda name: SimpleNamespace() if napari else None)
    monkeypatch.setattr(app, "has_display", lambda: display)
    monkeypatch.setattr(app, "entry_points", lambda group: ())
    result = run("app")
    assert result.code == 2
    assert reason in result.err


def test_displays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv("DISPLAY", raising=False)
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        assert not app.has_display()
        monkeypatch.setenv(name, ":0")
        assert app.has_display()
    monkeypatch.delenv("WAYLAND_DISPLAY")
    for platform in ("win32", "darwin"):
        monkeypatch.setattr(app.sys, "platform", platform)
        assert app.has_display()


def test_the_viewer_gets_what_it_is_to_show(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shown = []
    monkeypatch.setattr(app, "why_no_viewer", lambda: "")
    monkeypatch.setattr(app, "load_libraries", lambda: None)
    entry = SimpleNamespace(load=lambda: lambda *what, **how: shown.append((*what, *how.values())))
    monkeypatch.setattr(app, "entry_points", lambda group: (entry,))
    app.open_viewer(tmp_path, [tmp_path / "a.png"], [])
    app.open_viewer(tmp_path, annotator="am", reviewer=True, landmarks="eyes")
    assert shown == [
        (tmp_path, [tmp_path / "a.png"], [], None, False, ""),
        (tmp_path, (), (), "am", True, "eyes"),
    ]


def test_a_study_is_opened_for_review_or_made_for_landmarks(
    run: Callable, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[dict[str, Any]] = []
    monkeypatch.setattr(app, "open_viewer", lambda folder=None, **how: opened.append(how))
    refused = run("app", images, "--review")
    assert refused.code == 2
    assert "--review needs a study" in refused.err
    wrong = run("app", images, "--landmarks", "eye,,nose")
    assert wrong.code == 2
    assert "A name is missing" in wrong.err
    study = tmp_path / "study"
    Study.create(study, "am", paths=images).close()
    assert run("app", study, "--review").code == 0
    assert run("app", images, "--landmarks", "eyes").code == 0
    assert [(how["reviewer"], how["landmarks"]) for how in opened] == [(True, ""), (False, "eyes")]


def test_libraries_are_loaded_while_the_window_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    loading, opening = threading.Event(), threading.Event()
    met = []

    def load_libraries() -> None:
        loading.set()
        met.append(opening.wait(60))

    def show(*what: object, **options: object) -> None:
        opening.set()
        met.append(loading.wait(60))

    monkeypatch.setattr(app, "why_no_viewer", lambda: "")
    monkeypatch.setattr(app, "load_libraries", load_libraries)
    monkeypatch.setattr(app, "entry_points", lambda group: (SimpleNamespace(load=lambda: show),))
    app.open_viewer()
    for thread in threading.enumerate():
        if thread.name == "load libraries":
            thread.join(60)
    assert met == [True, True]


def test_the_libraries_of_the_first_outline_exist() -> None:
    pytest.importorskip("pandas", reason="comes with napari")
    app.load_libraries()
    assert {"pandas", "torch"} <= set(sys.modules)


def test_stopped_by_hand(run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(folder: Path, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "open_viewer", interrupt)
    result = run(tmp_path)
    assert result.code == 130
    assert result.errors == ["lesionseg: Stopped."]


def test_errors_are_one_line_whatever_they_say(
    run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path, **options: object) -> None:
        raise LesionSegError("a\nb\x1b[31m [/red] :smile: \udce6 æ")

    monkeypatch.setattr(app, "open_viewer", fail)
    result = run(tmp_path)
    assert result.errors == ["lesionseg: a\\nb\\x1b[31m [/red] :smile: \\udce6 æ"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such rights on folders")
def test_a_folder_that_may_not_be_looked_into_is_one_line(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    command = [sys.executable, "-m", "napari_lesionseg"]
    if os.geteuid() == 0:  # may look into everything
        if shutil.which("setpriv") is None:
            pytest.skip("root may look into everything")
        rights = "--bounding-set=-dac_override,-dac_read_search"
        command = ["setpriv", rights, *command]
    closed.chmod(0)
    for words in (["verify"], ["export", "--out", str(tmp_path / "out")], ["agreement"]):
        done = subprocess.run([*command, words[0], str(closed), *words[1:]], capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("\n") == 1
        assert "Traceback" not in done.stderr
    closed.chmod(0o755)


def test_errors_of_the_system_are_one_line(
    run: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def lost(options: object) -> int:
        raise OSError(errno.EIO, "Input/output error", "share/a.png")

    monkeypatch.setattr(datasets, "run_verify", lost)
    result = run("verify", tmp_path)
    assert result.code == 2
    assert result.errors == ["lesionseg: share/a.png cannot be used: Input/output error."]


def test_program_errors_are_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Path, **options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(app, "open_viewer", fail)
    with pytest.raises(ZeroDivisionError):
        main([str(tmp_path)])


def test_no_progress_bar_in_a_log_file(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress_bar("Working", 3) as (progress, task):
        progress.advance(task)
    assert capsys.readouterr() == ("", "")


def test_a_log_file_gets_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.progress_bar("Outlining", 40) as (progress, task):
        for _ in range(4):
            now[0] += 10
            progress.advance(task, 5)
    assert capsys.readouterr().err.splitlines() == ["Outlining: 15 of 40, 0.5 a second, 0:00:50 left"]


def test_a_log_file_shows_life_while_nothing_is_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a network is measured after a pass, or a cluster has no free worker."""
    monkeypatch.setattr(console, "LOG_SECONDS", 0.01)
    deadline, said = time.monotonic() + 60, ""
    with console.progress_bar("Training", 20) as (progress, task):
        progress.advance(task, 5)
        capsys.readouterr()
        while not said and time.monotonic() < deadline:
            time.sleep(0.05)
            said = capsys.readouterr().err
    assert said.splitlines()[0].startswith("Training: 5 of 20")


def test_a_stage_that_has_just_begun_has_no_rate_yet(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.progress_bar("Training", 20) as (progress, task):
        progress.advance(task, 20)
        now[0] += 40
        progress.update(task, description="Measuring", completed=1)
        now[0] += 40
        progress.update(task, completed=5)
    assert capsys.readouterr().err.splitlines() == [
        "Measuring: 1 of 20",
        "Measuring: 5 of 20, 0.1 a second, 0:02:30 left",
    ]
