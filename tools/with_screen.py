"""Run a command on the current display, or on a virtual one (Xvfb) with software OpenGL.

    python tools/with_screen.py pytest tests/plugin

On Linux, system libraries needed by Qt and OpenGL are checked first. On Debian and Ubuntu, missing ones are
installed if no password is needed; otherwise the command to install them is printed.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

LIBRARIES = {
    "libdbus-1.so.3": "libdbus-1-3",
    "libEGL.so.1": "libegl1",
    "libfontconfig.so.1": "libfontconfig1",
    "libGL.so.1": "libgl1",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libOpenGL.so.0": "libopengl0",
    "libxcb-cursor.so.0": "libxcb-cursor0",
    "libxcb-icccm.so.4": "libxcb-icccm4",
    "libxcb-image.so.0": "libxcb-image0",
    "libxcb-keysyms.so.1": "libxcb-keysyms1",
    "libxcb-randr.so.0": "libxcb-randr0",
    "libxcb-render-util.so.0": "libxcb-render-util0",
    "libxcb-shape.so.0": "libxcb-shape0",
    "libxcb-xinerama.so.0": "libxcb-xinerama0",
    "libxcb-xkb.so.1": "libxcb-xkb1",
    "libxkbcommon-x11.so.0": "libxkbcommon-x11-0",
}
"""Shared libraries needed by the PyQt6 wheel and OpenGL, and the Debian packages that contain them."""

PROGRAMS = {"Xvfb": "xvfb", "xauth": "xauth", "xvfb-run": "xvfb"}
"""Programs needed for a virtual display."""

MESA = "libgl1-mesa-dri"
"""Software OpenGL for a virtual display."""

MESA_DRIVERS = ("lib/*/dri/swrast_dri.so", "lib/dri/swrast_dri.so", "lib64/dri/swrast_dri.so")
SCREEN = "-screen 0 1400x900x24"


def main(command: Sequence[str]) -> int:
    """Run the command; return its exit code, or 1 if system libraries are missing."""
    if not command:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    if not sys.platform.startswith("linux"):
        return subprocess.call(command)
    missing = missing_packages(os.environ)
    if missing and not install(missing):
        return 1
    if os.environ.get("DISPLAY"):
        return subprocess.call(command)
    environment = {name: value for name, value in os.environ.items() if name != "WAYLAND_DISPLAY"}
    environment["QT_QPA_PLATFORM"] = "xcb"
    return subprocess.call(["xvfb-run", "-a", "-s", SCREEN, *command], env=environment)


def missing_packages(environment: Mapping[str, str]) -> list[str]:
    """Return the Debian packages that are missing."""
    missing = {package for library, package in LIBRARIES.items() if not _loads(library)}
    if not environment.get("DISPLAY"):
        missing |= {package for program, package in PROGRAMS.items() if shutil.which(program) is None}
        if not any(any(Path("/usr").glob(driver)) for driver in MESA_DRIVERS):
            missing.add(MESA)
    return sorted(missing)


def install(packages: Sequence[str]) -> bool:
    """Install Debian packages, or print how; return whether they are installed."""
    wanted = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
    prefix = [] if os.geteuid() == 0 else ["sudo"]
    line = " ".join([*prefix, "apt-get update &&", *prefix, *wanted])
    if shutil.which("apt-get") is None:
        sys.stderr.write(f"System libraries are missing; on Debian they are: {' '.join(packages)}\n")
        return False
    if prefix and not _sudo_needs_no_password():
        sys.stderr.write(f"System libraries are missing. Run this, then try again:\n{line}\n")
        return False
    keep = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive"]
    for step in (["apt-get", "update", "--quiet"], [*wanted, "--quiet"]):
        if subprocess.call([*keep, *step]):
            sys.stderr.write(f"Installation failed. Run this, then try again:\n{line}\n")
            return False
    return True


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _sudo_needs_no_password() -> bool:
    return shutil.which("sudo") is not None and subprocess.call(["sudo", "-n", "true"]) == 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
