"""Test an installed program: segment, review in the window, export, fine-tune, DICOM.

python installers/smoke_test.py dist/lesionseg [--empty-root] [--screenshots DIR]

Needs nothing but Python's standard library; the window is driven where xdotool and a display are (Linux).
With ``--empty-root`` (Linux, needs bubblewrap) the program runs in a root of its own, which holds the
program, the C library, X and OpenGL, a font and a shell: no Python, and nothing else of this computer.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from dicom_sample import write_photograph

PATIENCE_S = 600
IMAGES, MASKS = "demo/images", "masks"
SYSTEM_LIBRARIES = ("libGL.so.1", "libEGL.so.1", "libxcb.so.1", "libGLX_mesa.so.0", "libEGL_mesa.so.0")
"""What the program needs of the system besides the C library: X and OpenGL, the last two being Mesa's."""
SYSTEM_FILES = (
    "bin/sh", "sbin/ldconfig", "etc/fonts", "usr/share/fonts/truetype/dejavu", "usr/share/X11/xkb",
    "usr/share/fontconfig", "usr/lib/*/dri/swrast_dri.so", "usr/share/glvnd/egl_vendor.d",
)  # fmt: skip


class Program:
    """The installed program, run by a user with an empty home, in an empty root if there is one."""

    def __init__(self, program: Path, folder: Path, root: Path | None = None) -> None:
        self.program, self.folder, self.root = program, folder, root

    def command(self, *arguments: str) -> list[str]:
        """Return the command line."""
        if self.root is None:
            return [str(self.program), *arguments]
        inside, folder = (
            "/" + path.relative_to(self.root).as_posix() for path in (self.program, self.folder)
        )
        fresh = ["--bind", self.root, "/", "--proc", "/proc", "--dev", "/dev", "--ro-bind", "/sys", "/sys"]
        command = [
            "bwrap",
            *fresh,
            "--unshare-pid",
            "--die-with-parent",
            "--chdir",
            folder,
            inside,
            *arguments,
        ]
        return [str(part) for part in command]

    def environment(self) -> dict[str, str]:
        """Return the environment of a fresh user."""
        kept = ("DISPLAY", "XAUTHORITY", "SYSTEMROOT", "TEMP", "TMP", "OMP_NUM_THREADS", "LANG")
        own = {name: os.environ[name] for name in kept if name in os.environ}
        own |= {"PATH": "/usr/bin:/bin", "HOME": str(self.folder)}
        if self.root is not None:
            own |= {"HOME": "/home", "XAUTHORITY": "/Xauthority"}
        return own

    def run(self, *arguments: str) -> None:
        """Run a command to its end, and print its seconds."""
        begin = time.monotonic()
        command, environment = self.command(*arguments), self.environment()
        subprocess.run(command, check=True, timeout=PATIENCE_S, cwd=self.folder, env=environment)
        print(f"{' '.join(arguments)}: {time.monotonic() - begin:.1f} s", flush=True)


def main() -> int:
    """Run all steps; any failure raises an error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the installed folder, or on macOS the .app")
    parser.add_argument("--empty-root", action="store_true", help="run in an empty root (Linux)")
    parser.add_argument("--screenshots", type=Path, help="folder for screenshots of the window (Linux)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        place, folder = Path(name).resolve(), options.folder.resolve()
        print(f"{folder}: {size_of(folder) / 1e6:.0f} MB", flush=True)
        check_parts(folder)
        root = make_root(folder, place / "root") if options.empty_root else None
        work = (root or place) / "work"
        work.mkdir()
        test(
            Program(find_program(folder if root is None else root / folder.name), work, root),
            options.screenshots,
        )
    print("The installed program works.")
    return 0


def check_parts(folder: Path) -> None:
    """Check that the list of parts has all packages of the folder, and no path of where it was built."""
    text = next(folder.rglob("sbom.cdx.json")).read_text(encoding="utf-8")
    listed = {spell(part["name"]) for part in json.loads(text)["components"]}
    present = {spell(info.name.partition("-")[0]) for info in folder.rglob("*.dist-info")}
    if present - listed or not present or "python" not in listed or "file://" in text:
        raise SystemExit(f"The list of parts is wrong; it lacks {sorted(present - listed)}.")
    print(f"{len(listed)} parts are listed, {len(present)} of them packages", flush=True)


def spell(name: str) -> str:
    """Return the name of a package in one spelling."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test(program: Program, screenshots: Path | None) -> None:
    """Segment sample images, review them, export, fine-tune for ten seconds, and go through DICOM."""
    work = program.folder
    program.run("--version")
    program.run("demo", "--no-viewer", "--out", "demo")
    (work / MASKS).mkdir()
    for path in (work / "demo").glob("*_segmentation.png"):
        shutil.copy(path, work / MASKS)
    program.run("segment", IMAGES, "--out", "segmented")
    program.run("evaluate", IMAGES, "--masks", MASKS, "--json", "scores.json")
    images, masks = IMAGES, MASKS
    if can_review():
        review(program, IMAGES, screenshots)
        images, masks = export(program)
    tuned = "tuned.safetensors"
    program.run("finetune", images, "--masks", masks, "--seconds", "10", "--insist", "--out", tuned)
    program.run("segment", IMAGES, "--model", tuned, "--out", "segmented-again")
    for name in ("segmented", "scores.json", tuned, "segmented-again"):
        if not (work / name).exists():
            raise SystemExit(f"{name} was not written.")
    test_dicom(program)


def test_dicom(program: Program) -> None:
    """Import a DICOM photograph, outline it, export both as DICOM, and read them back."""
    work, source = program.folder, "from-dicom/images"
    (work / "dicom").mkdir()
    write_photograph(work / "dicom" / "lesion.dcm")
    program.run("import", "dicom", "--out", "from-dicom")
    if can_review():
        review(program, source)
    else:
        program.run("segment", source, "--out", "outlined/masks")
        shutil.copytree(work / source, work / "outlined" / "images")
        source = "outlined"
    program.run("export", source, "--format", "dicom", "--originals", "dicom", "--out", "as-dicom")
    program.run("import", "as-dicom", "--out", "read-back")
    if not (work / "read-back" / "masks" / "lesion.png").is_file():
        raise SystemExit("The outline did not come back from DICOM.")


def can_review() -> bool:
    """Whether a window can be shown and driven here."""
    return bool(os.environ.get("DISPLAY") and shutil.which("xdotool"))


def export(program: Program) -> tuple[str, str]:
    """Export the approved outlines; return the folders of their images and masks."""
    work = program.folder
    program.run("export", IMAGES, "--format", "isic", "--out", "exported")
    found = sorted((work / "exported").rglob("*_segmentation.png"))
    if len(found) != count_images(work / IMAGES):
        raise SystemExit(f"Of the approved outlines, {len(found)} were exported.")
    images, masks = work / "approved-images", work / "approved-masks"
    for folder in (images, masks):
        folder.mkdir()
    for mask in found:
        others = (work / "exported").rglob(f"{mask.stem.removesuffix('_segmentation')}.*")
        shutil.copy(next(path for path in others if path.suffix in {".jpg", ".png"}), images)
        shutil.copy(mask, masks)
    return images.name, masks.name


def count_images(folder: Path) -> int:
    """Count the images that are reviewed."""
    return len(list(folder.glob("*.png")))


def review(program: Program, images: str, screenshots: Path | None = None) -> None:
    """Open the images in the window, smooth and approve all outlines with the keyboard, and quit."""
    folder = program.folder / images
    manager = subprocess.Popen(["openbox"]) if shutil.which("openbox") else None
    begin = time.monotonic()
    process = subprocess.Popen(program.command(images), cwd=program.folder, env=program.environment())
    try:
        window = wait(lambda: find_window("^LesionSeg"), "the window", process)
        print(f"window after {time.monotonic() - begin:.1f} s", flush=True)
        answer_name(folder, process)
        wait(lambda: count_events(folder, "predicted"), "the first outline", process)
        print(f"first outline after {time.monotonic() - begin:.1f} s", flush=True)
        time.sleep(3)
        take(screenshots, "installed-start")
        for number in range(count_images(folder)):
            wait(lambda n=number: count_events(folder, "predicted") > n, "an outline", process)
            time.sleep(2)
            press(window, "s")
            time.sleep(1)
            if number == 0:
                take(screenshots, "installed-corrected")
            press(window, "w")
            wait(lambda n=number: count_events(folder, "approved") > n, "an approval", process)
        time.sleep(2)
        take(screenshots, "installed-approved")
        press(window, "ctrl+q")
        wait_for_end(process)
    finally:
        for running in (process, manager):
            if running is not None:
                running.kill()
                running.wait(60)


def answer_name(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Accept the name of the annotator if it is asked for, which it is at the first start only."""
    asked = wait(
        lambda: find_window("^Annotator") or count_events(folder, "predicted"), "the first image", process
    )
    if isinstance(asked, str):
        press(asked, "Return")


def wait(done: Callable[[], object], what: str, process: subprocess.Popen[bytes]) -> object:
    """Wait for something and return it."""
    end = time.monotonic() + PATIENCE_S
    while not (found := done()):
        if process.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"The program did not get to {what}.")
        time.sleep(0.05)
    return found


def wait_for_end(process: subprocess.Popen[bytes]) -> None:
    """Wait until the program quits, and agree if it asks."""
    for _ in range(30):
        try:
            process.wait(2)
            return
        except subprocess.TimeoutExpired:
            if question := find_window("^Close (Application|Window)"):
                press(question, "ctrl+q")
    raise SystemExit("The program did not quit.")


def find_window(name: str) -> str:
    """Return the number of the visible window, or an empty string."""
    search = ["xdotool", "search", "--onlyvisible", "--name", name]
    return subprocess.run(search, capture_output=True, text=True, check=False).stdout.split("\n")[0]


def press(window: object, key: str) -> None:
    """Press a key in a window."""
    subprocess.run(["xdotool", "windowfocus", "--sync", str(window), "key", key], check=True)


def count_events(folder: Path, kind: str) -> int:
    """Count what the study of the images recorded."""
    logs = folder.glob("lesionseg-study/events/*.jsonl")
    return sum(log.read_text(encoding="utf-8").count(f'"event":"{kind}"') for log in logs)


def take(folder: Path | None, name: str) -> None:
    """Take a screenshot of the whole screen."""
    if folder is not None and shutil.which("import"):
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["import", "-window", "root", str(folder / f"{name}.png")], check=True)


def find_program(folder: Path) -> Path:
    """Return the executable file."""
    names = ("lesionseg", "lesionseg.exe", "Contents/MacOS/lesionseg")
    return next(folder / name for name in names if (folder / name).is_file())


def size_of(folder: Path) -> int:
    """Return the size of all files of a folder in bytes."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def make_root(folder: Path, root: Path) -> Path:
    """Make a root with the program and what it needs of the system; print the latter."""
    shutil.copytree(folder, root / folder.name, symlinks=True)
    libraries = [locate(name) for name in SYSTEM_LIBRARIES]
    others = [path for pattern in SYSTEM_FILES for path in sorted(Path("/").glob(pattern))]
    linked = (other for path in (*libraries, *others) if path.is_file() for other in linked_libraries(path))
    for path in {*libraries, *others, *linked, Path("/lib64/ld-linux-x86-64.so.2")}:
        copy_into(root, path)
    for name in ("libdl.so.2", "libpthread.so.0", "librt.so.1", "libm.so.6", "libresolv.so.2"):
        copy_into(root, locate(name))
    for name in ("tmp", "home", "proc", "dev", "sys"):
        (root / name).mkdir(exist_ok=True)
    subprocess.run(["/sbin/ldconfig", "-r", str(root)], check=True)
    if "XAUTHORITY" in os.environ:
        shutil.copy(os.environ["XAUTHORITY"], root / "Xauthority")
    print("Of the system: the C library, " + ", ".join(SYSTEM_LIBRARIES), flush=True)
    return root


def copy_into(root: Path, path: Path) -> None:
    """Copy a file or folder of this computer to the same place in a root, links as what they point to."""
    target = root / path.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.copytree(path, target, dirs_exist_ok=True, ignore_dangling_symlinks=True)
    else:
        shutil.copy(path, target)


def locate(library: str) -> Path:
    """Return where the dynamic loader finds a library."""
    known = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    found = re.search(rf"{re.escape(library)} \(libc6,x86-64.*=> (\S+)", known)
    if found is None:
        raise SystemExit(f"The system has no {library}.")
    return Path(found[1])


def linked_libraries(binary: Path) -> Iterable[Path]:
    """Yield the libraries that a binary is linked to, directly or not."""
    listed = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, check=False).stdout
    yield from (Path(found) for found in re.findall(r"=> (/\S+)", listed))


if __name__ == "__main__":
    sys.exit(main())
