"""Test an installed program: segment, measure, fine-tune, and, where xdotool is, review and export.

python installers/smoke_test.py dist/lesionseg [--root EMPTY_ROOT] [--screenshots DIR]

Needs nothing but Python's standard library. With ``--root``, the program is started in that folder as its
root (chroot), which holds the libraries of a plain desktop and no Python.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE_S = 600
IMAGES = "images"


class Program:
    """The installed program, run in a folder, in an empty root if there is one."""

    def __init__(self, program: Path, root: Path | None, folder: Path) -> None:
        self.root, self.folder = root, folder
        self.executable = str(program) if root is None else "/" + program.relative_to(root).as_posix()

    def command(self, *arguments: str) -> list[str]:
        """Return the command line."""
        if self.root is None:
            return [self.executable, *arguments]
        inside = "/" + self.folder.relative_to(self.root).as_posix()
        script = f'cd "{inside}" && exec "{self.executable}" "$@"'
        return ["chroot", str(self.root), "/bin/sh", "-c", script, "sh", *arguments]

    def environment(self) -> dict[str, str]:
        """Return the environment of a fresh user."""
        home = self.folder if self.root is None else Path("/tmp")  # noqa: S108  of the empty root
        kept = ("DISPLAY", "XAUTHORITY", "SYSTEMROOT", "TEMP", "TMP", "OMP_NUM_THREADS", "LANG")
        return {"HOME": str(home), "PATH": "/usr/bin:/bin"} | {
            k: os.environ[k] for k in kept if k in os.environ
        }

    def run(self, *arguments: str) -> float:
        """Run a command to its end; return its seconds."""
        begin = time.monotonic()
        subprocess.run(
            self.command(*arguments), check=True, timeout=PATIENCE_S, cwd=self.folder, env=self.environment()
        )
        seconds = time.monotonic() - begin
        print(f"{' '.join(arguments)}: {seconds:.1f} s", flush=True)
        return seconds


def main() -> int:
    """Run all steps; any failure raises an error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the installed folder, or on macOS the .app")
    parser.add_argument("--root", type=Path, help="run in this root, which must contain the folder")
    parser.add_argument("--screenshots", type=Path, help="folder for screenshots of the window (Linux)")
    options = parser.parse_args()
    work = (options.root or Path.cwd()).resolve() / "smoke-test"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    program = Program(find_program(options.folder.resolve()), options.root and options.root.resolve(), work)
    check_commands(program)
    if shutil.which("xdotool") and os.environ.get("DISPLAY"):
        check_window(program, options.screenshots)
    print("The installed program works.")
    return 0


def find_program(folder: Path) -> Path:
    """Return the executable file."""
    names = ("lesionseg", "lesionseg.exe", "Contents/MacOS/lesionseg")
    return next(folder / name for name in names if (folder / name).is_file())


def check_commands(program: Program) -> None:
    """Make sample images, segment, evaluate, fine-tune for ten seconds, import and export."""
    work = program.folder
    program.run("--version")
    program.run("demo", "--no-viewer", "--out", "demo")
    (work / IMAGES).mkdir()
    (work / "masks").mkdir()
    for path in sorted((work / "demo").iterdir()):
        if not path.stem.endswith(("_overlay", "_segmentation")):
            shutil.copy(path, work / IMAGES)
        elif path.stem.endswith("_segmentation"):
            shutil.copy(path, work / "masks")
    program.run("segment", IMAGES, "--out", "segmented")
    program.run("evaluate", IMAGES, "--masks", "masks", "--json", "scores.json")
    tuned = ("--seconds", "10", "--out", "tuned.safetensors")
    program.run("finetune", IMAGES, "--masks", "masks", *tuned)
    for name in ("segmented", "scores.json"):
        if not (work / name).exists():
            raise SystemExit(f"{name} was not written.")


def check_window(program: Program, screenshots: Path | None) -> None:
    """Open the images in the window, approve all of them with the keyboard, and export the study."""
    work = program.folder
    begin = time.monotonic()
    process = subprocess.Popen(program.command(IMAGES), cwd=work, env=program.environment())
    try:
        window = wait(find_window, "the window", process)
        print(f"window: {time.monotonic() - begin:.1f} s", flush=True)
        wait(lambda: count_events(work, "predicted"), "the first outline", process)
        print(f"first outline: {time.monotonic() - begin:.1f} s", flush=True)
        take(screenshots, "installed-start")
        images = len(list((work / IMAGES).glob("*.png")))
        for number in range(images):
            wait(lambda n=number: count_events(work, "predicted") > n, "an outline", process)
            time.sleep(1)
            press(window, "w")
            wait(lambda n=number: count_events(work, "approved") > n, "an approval", process)
        take(screenshots, "installed-approved")
    finally:
        process.terminate()
        process.wait(60)
    program.run("export", IMAGES, "--format", "isic", "--out", "exported")
    if not list((work / "exported").rglob("*_segmentation.png")):
        raise SystemExit("No outline was exported.")


def wait(done: Callable[[], object], what: str, process: subprocess.Popen[bytes]) -> object:
    """Wait for something and return it."""
    end = time.monotonic() + PATIENCE_S
    while not (found := done()):
        if process.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"The program did not get to {what}.")
        time.sleep(0.05)
    return found


def find_window() -> str:
    """Return the number of the visible window, or an empty string."""
    search = ["xdotool", "search", "--onlyvisible", "--name", "^LesionSeg"]
    return subprocess.run(search, capture_output=True, text=True, check=False).stdout.split("\n")[0]


def press(window: object, key: str) -> None:
    """Click into the image, and press a key."""
    subprocess.run(["xdotool", "windowfocus", "--sync", str(window), "key", key], check=True)


def count_events(work: Path, kind: str) -> int:
    """Count what the study recorded."""
    logs = (work / IMAGES).glob("lesionseg-study/events/*.jsonl")
    return sum(log.read_text(encoding="utf-8").count(f'"event":"{kind}"') for log in logs)


def take(folder: Path | None, name: str) -> None:
    """Take a screenshot of the whole screen."""
    if folder is not None and shutil.which("import"):
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["import", "-window", "root", str(folder / f"{name}.png")], check=True)


if __name__ == "__main__":
    sys.exit(main())
