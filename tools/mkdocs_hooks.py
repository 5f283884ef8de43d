"""Pages of the documentation site that are made from files elsewhere: see ``hooks`` in mkdocs.yml."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
COPIED = {"CHANGELOG.md": "development/changelog.md", "CONTRIBUTING.md": "development/contributing.md"}
EXAMPLE, EXAMPLE_PAGE = ROOT / "docs" / "examples" / "loop.py", "tutorial/python.md"
SOURCES = re.compile(r"(?<=\]\()(?:\.\./)+(?=src/|benchmarks/|tools/|tests/)")
LINK = re.compile(r"(?<=\]\()(?!https?://|#)([^)#\s]+)")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for source, page in COPIED.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=LINK.sub(_from_development, text)))
    files.append(
        File.generated(config, EXAMPLE_PAGE, content=example_page(EXAMPLE.read_text(encoding="utf-8")))
    )
    return files


def on_page_markdown(markdown: str, *, page: object, config: MkDocsConfig, files: Files) -> str:
    """Link to source files, which are not part of the site, in the repository."""
    del page, files
    return re.sub(
        r"(?<=\]\()(?:\.\./)+(?=src/|benchmarks/|tools/|tests/)", f"{config.repo_url}/blob/main/", markdown
    )


def _from_development(link: re.Match[str]) -> str:
    """Return a link of a file in the root of the repository as seen from the folder `development`."""
    target = link[1]
    if target in COPIED:
        return Path(COPIED[target]).name
    return f"../{target.removeprefix('docs/')}" if target.startswith("docs/") else f"../../{target}"


def example_page(script: str) -> str:
    """Return a script of cells as a page: `# %% [markdown]` cells are text, the others are code."""
    cells = re.split(r"^# %%", script, flags=re.MULTILINE)[1:]
    return "\n\n".join(filter(None, (_cell(cell) for cell in cells))) + "\n"


def _cell(cell: str) -> str:
    kind, _, body = cell.partition("\n")
    if kind.strip() == "[markdown]":
        return re.sub(r"^# ?", "", body.strip(), flags=re.MULTILINE)
    return f"```python\n{body.strip()}\n```"
