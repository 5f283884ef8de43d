"""Write the tables of keys from the tables in the code: those of `napari.yaml` and of the documentation.

python tools/generate_tool_tables.py            write them
python tools/generate_tool_tables.py --check    exit with 1 if they are out of date
"""

from __future__ import annotations

import argparse
import sys
from itertools import groupby
from pathlib import Path

from napari_lesionseg.plugin.editor.tools import TOOLS
from napari_lesionseg.plugin.shortcuts import REVIEW_KEYS, REVIEW_TIPS, all_keys, setting_of

ROOT = Path(__file__).parents[1]
MANIFEST = ROOT / "src" / "napari_lesionseg" / "napari.yaml"
PAGE = ROOT / "docs" / "reference" / "keys.md"
BEGIN = "    # Written by tools/generate_tool_tables.py\n"
"""Starts the last section of the manifest."""


def manifest() -> str:
    """Return the manifest with the section of keys, which is its last."""
    kept, found, _ = MANIFEST.read_text(encoding="utf-8").partition(BEGIN)
    if not found:
        raise SystemExit(f"{MANIFEST} has no line {BEGIN.strip()!r}")
    lines = ["    keys:", "      title: Keys", "      properties:"]
    entries = [(tool.id, tool.title, tool.key, tool.tooltip) for tool in TOOLS]
    entries += [
        (setting_of(name), name.capitalize(), key, REVIEW_TIPS[name]) for name, key in REVIEW_KEYS.items()
    ]
    for name, title, key, description in entries:
        lines += [f"        {name}:", f'          title: "{title}"', "          type: string"]
        lines += [f'          default: "{key}"']
        lines += [f'          description: "{description}."'] if description else []
    return kept + BEGIN + "\n".join(lines) + "\n"


GROUPS = {
    "Correction tools": "These keys work while an image is open, whichever layer is selected.",
    "Review": "These keys work in the whole window, also while the dock floats.",
    "Landmarks": "These keys work while the layer of the landmarks is selected. They cannot be changed.",
    "Window": "",
    "Widgets": "These keys work in the whole window while the widget is visible. They cannot be changed.",
    "napari": "napari's own keys that are useful here. Change them in *Preferences > Shortcuts*.",
}


def page() -> str:
    """Return the page of the documentation."""
    lines = [
        "# Keys",
        "",
        "<!-- Written by tools/generate_tool_tables.py -->",
        "",
        "Change the keys of the correction tools and of the review in *Preferences > LesionSeg > Keys*.",
    ]
    for group, rows in groupby(all_keys(), key=lambda row: row.group):
        lines += ["", f"## {group}", ""]
        lines += [GROUPS[group], ""] if GROUPS[group] else []
        lines += ["| Action | Key | What it does |", "|---|---|---|"]
        lines += [f"| {row.title} | `{row.key}` | {row.tip}{'.' * bool(row.tip)} |" for row in rows]
    return "\n".join([*lines, ""])


def main() -> int:
    """Write or check the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if out of date")
    arguments = parser.parse_args()
    status = 0
    for path, text in ((MANIFEST, manifest()), (PAGE, page())):
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        if arguments.check:
            sys.stderr.write(f"{path.relative_to(ROOT)} is out of date: run tools/generate_tool_tables.py\n")
            status = 1
        else:
            path.write_text(text, encoding="utf-8")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
