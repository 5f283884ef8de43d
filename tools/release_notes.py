"""Print the section of a version in CHANGELOG.md, for a release.

python tools/release_notes.py 0.1.0
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

CHANGELOG = Path(__file__).resolve().parents[1] / "CHANGELOG.md"


def main(arguments: list[str]) -> int:
    """Print the section; return 1 if the version is not in the changelog."""
    if len(arguments) != 1:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    notes = section(CHANGELOG.read_text(encoding="utf-8"), arguments[0])
    if notes is None:
        sys.stderr.write(f"CHANGELOG.md has no section {arguments[0]}.\n")
        return 1
    print(notes)
    return 0


def section(changelog: str, version: str) -> str | None:
    """Return what the changelog says about a version, or None."""
    found = re.search(
        rf"^## \[{re.escape(version)}\][^\n]*\n(.*?)(?=^## |^\[|\Z)", changelog, re.MULTILINE | re.DOTALL
    )
    return found[1].strip() if found else None


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
