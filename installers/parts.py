"""Say what the collected program consists of: packages, Python, and libraries of the system.

PyInstaller takes from an environment what is needed. The files that it took are traced back to where they
come from, so that the list of parts (SBOM), the metadata and the licenses are those of the program.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

LICENSE_NAMES = ("LICENSE", "COPYING", "NOTICE", "AUTHORS")
STATED = ("type", "name", "version", "purl", "licenses")
"""What is taken over of the parts of which a package was built, as its own list states them."""


@dataclass(frozen=True, slots=True, order=True)
class SystemPart:
    """Python, or a library of the system that builds, with its package and license where these are known."""

    name: str
    version: str = ""
    purl: str = ""
    license_file: Path | None = None

    def component(self) -> dict[str, str]:
        """Return the entry in the list of parts."""
        entry = {"type": "library", "name": self.name, "version": self.version, "purl": self.purl}
        return {key: value for key, value in entry.items() if value}


def normalize(name: str) -> str:
    """Return the name of a package in the one spelling that is compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def find_packages(sources: Iterable[Path], site: Path) -> set[str]:
    """Name the packages that collected files come from, except for files of metadata."""
    inside = {path.relative_to(site).as_posix() for path in sources if path.is_relative_to(site)}
    inside = {path for path in inside if ".dist-info/" not in path}
    return {
        normalize(package.name)
        for package in distributions(path=[str(site)])
        if any(file.as_posix() in inside for file in package.files or ())
    }


def find_system_parts(sources: Iterable[Path], environment: Path, *others: Path) -> list[SystemPart]:
    """Find what collected files are from outside of the environment and of the other folders."""
    library, base = Path(sysconfig.get_path("stdlib")), Path(sys.base_prefix)
    interpreter = (library,) if base == Path("/usr") else (library, base)
    parts = set()
    for path in sources:
        if any(path.is_relative_to(folder) for folder in (environment, *others)):
            continue
        if any(path.is_relative_to(folder) for folder in interpreter):
            parts.add(describe_python(*interpreter))
        else:
            parts.add(describe_library(path))
    return sorted(parts, key=lambda part: (part.name, part.version))


def describe_python(*folders: Path) -> SystemPart:
    """Describe the interpreter, which is in these folders."""
    texts = [folder / "LICENSE.txt" for folder in folders]
    version = platform.python_version()
    purl = f"pkg:generic/python@{version}"
    return SystemPart("Python", version, purl, next((text for text in texts if text.is_file()), None))


def describe_library(path: Path) -> SystemPart:
    """Describe a library by the Debian package that it is from, or by the name of its file."""
    spellings = (path, path.resolve(), Path(f"/usr{path}"), Path("/", *path.parts[2:]))  # /lib is /usr/lib
    package = next((found for spelling in spellings if (found := ask_dpkg("-S", spelling))), "")
    if not package:
        return SystemPart(path.name)
    package = package.partition(": ")[0].partition(",")[0]
    version, architecture = ask_dpkg("-W", "-f=${Version} ${Architecture}", package).split()
    name, system = package.partition(":")[0], platform.freedesktop_os_release()["ID"]
    text = Path("/usr/share/doc", name, "copyright")
    purl = f"pkg:deb/{system}/{quote(name)}@{quote(version)}?arch={architecture}"
    return SystemPart(name, version, purl, text if text.is_file() else None)


def ask_dpkg(*query: object) -> str:
    """Return what Debian's list of packages answers; nothing on other systems."""
    if shutil.which("dpkg-query") is None:
        return ""
    command = ["dpkg-query", *map(str, query)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def complete_sbom(
    sbom: dict[str, Any], packages: set[str], site: Path, others: Iterable[SystemPart]
) -> dict[str, Any]:
    """Return the list of an environment's parts with those of the program only, and with all of them."""
    kept = [entry for entry in sbom["components"] if normalize(entry["name"]) in packages]
    for entry in kept:
        links = entry.get("externalReferences", ())
        entry["externalReferences"] = [link for link in links if not link["url"].startswith("file:")]
        if inner := list(find_inner_parts(entry["name"], site)):
            entry["components"] = inner
    names = {entry["bom-ref"] for entry in kept}
    dependencies = [entry for entry in sbom["dependencies"] if entry["ref"] in names]
    for entry in dependencies:
        entry["dependsOn"] = [name for name in entry.get("dependsOn", ()) if name in names]
    parts = kept + [part.component() for part in others]
    return {**sbom, "components": parts, "dependencies": dependencies}


def find_inner_parts(name: str, site: Path) -> Iterator[dict[str, Any]]:
    """Yield the libraries that a package says that it was built of."""
    seen = {normalize(name)}
    for info in find_metadata(site, {normalize(name)}):
        for path in sorted(info.glob("sboms/*.json")):
            for entry in json.loads(path.read_bytes()).get("components", ()):
                if normalize(entry["name"]) not in seen:
                    seen.add(normalize(entry["name"]))
                    yield {key: entry[key] for key in STATED if key in entry}


def find_metadata(folder: Path, packages: set[str]) -> list[Path]:
    """Return the folders of metadata of packages."""
    found = sorted(folder.glob("*.dist-info"))
    return [info for info in found if normalize(info.name.partition("-")[0]) in packages]


def copy_licenses(target: Path, packages: set[str], site: Path, others: Iterable[SystemPart]) -> None:
    """Copy the licenses of all parts, one folder for each."""
    for info in find_metadata(site, packages):
        for text in (path for path in info.rglob("*") if path.is_file() and is_license(path)):
            place = target / info.name.partition("-")[0] / text.relative_to(info)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(text, place)
    for part in others:
        if part.license_file is not None:
            (target / part.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(part.license_file, target / part.name)


def is_license(path: Path) -> bool:
    """Whether a file of a package's metadata is a license or a notice."""
    return path.name.upper().startswith(LICENSE_NAMES) or "licenses" in path.parts
