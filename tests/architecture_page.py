"""The examples on the page about the architecture, which must work."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "development" / "architecture.md"


def run_example(text: str, folder: Path, *, start: str = "", **names: object) -> dict[str, Any]:
    """Run the only example that contains a text, after `start`, and return the names it has then."""
    examples = re.findall(r"^```\w*\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (found,) = (example for example in examples if text in example)
    path = folder / "example.py"
    path.write_text(start + found, encoding="utf-8")
    return runpy.run_path(str(path), names)
