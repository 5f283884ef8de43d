"""Build the folder, and its archive, that runs LesionSeg on a computer without Python.

python installers/build_installer.py --out dist

It has to run on the system that it is built for. It makes a virtual environment with the versions in
constraints.txt, lets PyInstaller collect what is needed, adds licenses and a list of all parts (SBOM,
CycloneDX), and packs the folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from parts import complete_sbom, copy_licenses, find_metadata, find_packages, find_system_parts
from shrink import shrink

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
QT = "PySide6-Essentials"  # LGPL; PyQt6 is GPL, under which the whole installer would have to be
LEFT_OUT = (
    "napari-console", "qtconsole", "ipykernel", "ipython", "jupyter-client", "jupyter-core", "debugpy",
    "jedi", "parso", "pyzmq", "tornado", "stack-data", "matplotlib-inline", "comm", "lxml",
)  # fmt: skip
"""What napari's console needs, which the program does not have: PyInstaller must not find it."""

LIMIT_MB = 700
"""Half of it is PyTorch; see docs/development/installer.md."""
ARCHIVES = {"linux": "xztar", "win32": "zip", "darwin": "zip"}


def main() -> int:
    """Build, check the size, and pack."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("dist"), help="folder to write")
    parser.add_argument("--work", type=Path, default=HERE / "build", help="folder for intermediate files")
    parser.add_argument("--no-archive", action="store_true", help="build the folder only")
    options = parser.parse_args()
    os.environ.pop("PYTHONPATH", None)  # only what is in the environment is collected
    out, work = options.out.resolve(), options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    python = make_environment(work / "venv")
    draw_icons(python, work)
    folder = run_pyinstaller(python, out, work)
    add_parts(python, folder, work)
    shrink(folder)
    add_files(folder)
    size = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    print(f"{folder}: {size:.0f} MB")
    if size > LIMIT_MB:
        return 1
    if not options.no_archive:
        print(pack(folder, out))
    return 0


def make_environment(folder: Path) -> Path:
    """Make a virtual environment with the pinned versions of all parts; return its Python."""
    venv.create(folder, with_pip=True, clear=True)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    pinned = ["-c", str(ROOT / "constraints.txt")]
    run(python, "-m", "pip", "install", "--quiet", *pinned, f"{ROOT}[dicom,viewer]", QT)
    run(python, "-m", "pip", "uninstall", "--quiet", "--yes", *LEFT_OUT)
    return python


def list_environment(python: Path, work: Path) -> Path:
    """List the packages of the environment in the format CycloneDX; return the file."""
    tools = work / "tools"
    venv.create(tools, with_pip=True, clear=True)
    scripts = tools / ("Scripts" if sys.platform == "win32" else "bin")
    pinned = ["-c", str(ROOT / "constraints.txt")]
    run(scripts / "python", "-m", "pip", "install", "--quiet", *pinned, "cyclonedx-bom")
    listed = work / "environment.cdx.json"
    run(scripts / "cyclonedx-py", "environment", "--output-reproducible", "--output-file", listed, python)
    return listed


def draw_icons(python: Path, work: Path) -> None:
    """Draw the icon in the formats of Windows and macOS from the logo."""
    code = (
        "import sys; from PySide6.QtGui import QGuiApplication, QIcon; from PIL import Image;"
        "app = QGuiApplication([]); QIcon(sys.argv[1]).pixmap(1024, 1024).save(sys.argv[2] + '.png');"
        "image = Image.open(sys.argv[2] + '.png');"
        "image.save(sys.argv[2] + '.ico', sizes=[(s, s) for s in (16, 32, 48, 256)]);"
        "image.save(sys.argv[2] + '.icns')"
    )
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    logo = ROOT / "docs" / "images" / "logo.svg"
    subprocess.run([python, "-c", code, logo, work / "lesionseg"], check=True, env=environment)


def run_pyinstaller(python: Path, out: Path, work: Path) -> Path:
    """Collect the program; return its folder."""
    run(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", "pyinstaller")
    places = ["--distpath", out, "--workpath", work / "pyinstaller"]
    environment = {**os.environ, "QT_API": "pyside6", "LESIONSEG_WORK": str(work)}
    environment["PYINSTALLER_ZLIB_COMPRESSION_LEVEL"] = "9"
    command = [python, "-m", "PyInstaller", "--noconfirm", *places, HERE / "lesionseg.spec"]
    subprocess.run([str(part) for part in command], check=True, env=environment)
    return out / ("LesionSeg.app" if sys.platform == "darwin" else "lesionseg")


def add_parts(python: Path, folder: Path, work: Path) -> None:
    """Add the list of parts and their licenses; remove the metadata of packages that were not collected."""
    place = find_place(folder)
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([python, "-c", code], text=True).strip())
    sources = [Path(source) for source in json.loads((work / "collected.json").read_bytes())]
    packages = find_packages(sources, site) | {"pyinstaller"}  # its loader is what starts the program
    others = find_system_parts(sources, work, ROOT)
    environment = json.loads(list_environment(python, work).read_bytes())
    sbom = complete_sbom(environment, packages, site, others)
    (place / "sbom.cdx.json").write_text(json.dumps(sbom, indent=1), encoding="utf-8")
    copy_licenses(place / "licenses", packages, site, others)
    for infos in {info.parent for info in folder.rglob("*.dist-info")}:
        for info in set(infos.glob("*.dist-info")) - set(find_metadata(infos, packages)):
            shutil.rmtree(info)


def find_place(folder: Path) -> Path:
    """Return where files for people are put."""
    return folder / "Contents" / "Resources" if sys.platform == "darwin" else folder


def add_files(folder: Path) -> None:
    """Add the license, and on Linux what installs and removes the program."""
    shutil.copy(ROOT / "LICENSE", find_place(folder) / "LICENSE.txt")
    if sys.platform == "linux":
        shutil.copy(ROOT / "docs" / "images" / "logo.svg", folder / "lesionseg.svg")
        for path in (HERE / "linux").iterdir():
            shutil.copy(path, folder)


def pack(folder: Path, out: Path) -> Path:
    """Pack the folder into one file, named after the system."""
    name = out / f"lesionseg-{ {'win32': 'windows', 'darwin': 'macos'}.get(sys.platform, sys.platform) }"
    if sys.platform == "darwin":  # keeps links and signatures
        run("ditto", "-c", "-k", "--keepParent", folder, f"{name}.zip")
        return Path(f"{name}.zip")
    return Path(shutil.make_archive(str(name), ARCHIVES[sys.platform], folder.parent, folder.name))


def run(*command: object) -> None:
    """Run a command, and stop if it fails."""
    subprocess.run([str(part) for part in command], check=True)


if __name__ == "__main__":
    raise SystemExit(main())
