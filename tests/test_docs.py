"""The documentation tells the truth: links lead somewhere, pages match the code, examples run."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import yaml
from tools import check_site, release_notes

import napari_lesionseg
from napari_lesionseg.cli.main import COMMANDS
from napari_lesionseg.datasets.formats import FORMATS
from napari_lesionseg.datasets.synthetic import synthetic_sample
from napari_lesionseg.io.images import read_mask, write_image
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.mixture import ARCHITECTURE as EXPERTS
from napari_lesionseg.models.registry import ARCHITECTURES
from tests.architecture_page import PAGE

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
GENERATED = {"development/changelog.md", "development/contributing.md", "tutorial/python.md"}
"""Pages that exist on the site only; `mkdocs build --strict` checks them too."""
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def is_generated(page: Path) -> bool:
    """Whether a page exists on the site only."""
    docs = ROOT / "docs"
    return page.resolve().is_relative_to(docs) and page.resolve().relative_to(docs).as_posix() in GENERATED


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [link for link in LINK.findall(text) if "://" not in link]
    targets = [page.parent / link for link in links]
    assert [target for target in targets if not target.exists() and not is_generated(target)] == []


USER_PAGES = sorted(
    page for folder in ("tutorial", "how-to") for page in (ROOT / "docs" / folder).glob("*.md")
)


@pytest.mark.parametrize("page", USER_PAGES, ids=lambda page: page.name)
def test_user_page_is_short(page: Path) -> None:
    assert len(page.read_text(encoding="utf-8").splitlines()) <= 60


def test_architecture_page_is_short() -> None:
    assert len(PAGE.read_text(encoding="utf-8").splitlines()) <= 120


def test_every_file_on_the_architecture_page_exists() -> None:
    text = PAGE.read_text(encoding="utf-8")
    names = {name for name in re.findall(r"`([\w./]+/[\w.]*)`", text) if "NAME" not in name}
    assert len(names) > 20
    places = (ROOT, ROOT / "src" / "napari_lesionseg")
    assert [name for name in names if not any((place / name).exists() for place in places)] == []


def pages_of(nav: object) -> Iterator[str]:
    """Yield the pages of a section of the site."""
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, dict) else cast("list[object]", nav):
            yield from pages_of(entry)


def test_site_lists_every_page() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = set(pages_of(settings["nav"]))
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert listed == pages | GENERATED


def test_api_reference_has_every_public_name() -> None:
    page = (ROOT / "docs" / "reference" / "api" / "index.md").read_text(encoding="utf-8")
    public = set(napari_lesionseg.__all__) - {"__version__"}
    assert set(re.findall(r"^::: napari_lesionseg\.(\w+)$", page, re.MULTILINE)) == public


def test_changelog_has_the_notes_of_the_first_release(capsys: pytest.CaptureFixture[str]) -> None:
    assert release_notes.main(["0.1.0"]) == 0
    notes = capsys.readouterr().out
    assert notes.startswith("### Added")
    assert "https://" not in notes.splitlines()[-1]
    assert release_notes.main(["9.9.9"]) == 1


def test_site_check_names_broken_links(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.html").write_text('<p id="x"></p><a href="b/#y"></a><a href="b/#z"></a><img src="c.png">')
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "index.html").write_text(
        '<p id="y"></p><a href="../a.html#x"></a><a href="https://x.org">'
    )
    assert check_site.main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        *("a.html: b/#z", "a.html: c.png"),
        "2 pages, 5 links, 2 broken",
    ]


@pytest.mark.timeout(900)
def test_example_of_the_loop_runs() -> None:
    cells = runpy.run_path(str(ROOT / "docs" / "examples" / "loop.py"))
    assert cells["after"] > cells["before"]
    assert cells["report"].written == len(cells["samples"])
    tuned = napari_lesionseg.load_model(cells["folder"] / "our-clinic.safetensors")
    assert tuned.card.parent == cells["model"].sha256


def test_command_reference_is_what_the_commands_say() -> None:
    made = subprocess.run(
        [sys.executable, ROOT / "tools" / "command_reference.py"], capture_output=True, check=True
    )
    assert made.stdout.decode() == (ROOT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"app"}))
def test_readme_names_command(command: str) -> None:
    assert f"`lesionseg {command}" in (ROOT / "README.md").read_text(encoding="utf-8")


def first_column(page: str) -> set[str]:
    """Names in code quotes in the first column of all tables of a page."""
    rows = re.findall(r"^\| (`.+?`) \|", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([\w.-]+)", row)}


def test_model_card_reference_lists_the_fields() -> None:
    assert first_column("reference/model-card.md") == set(ModelCard.model_fields)


def test_every_export_format_has_a_row() -> None:
    assert {name for name, found in FORMATS.items() if found.write} <= first_column("how-to/export.md")


def test_every_network_has_a_row() -> None:
    assert set(ARCHITECTURES) - {EXPERTS} <= first_column("reference/networks.md")


def test_python_reference_lists_the_public_names() -> None:
    public = set(napari_lesionseg.__all__) - {"__version__"}
    assert public <= first_column("reference/python.md")


def test_python_example_of_the_readme_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    sample = synthetic_sample(3)
    write_image(tmp_path / "image.jpg", sample.image)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert read_mask(tmp_path / "image_segmentation.png", sample.mask.shape).any()


LONG_DOCSTRINGS = (
    *("config.py", "datasets", "evaluation", "finetuning/session.py", "inference/predictor.py"),
    *("inference/landmarks.py", "masks/measurements.py", "models", "study/study.py", "training/losses.py"),
    "types.py",
)
"""The public API, formats, networks, metrics and the study; everything else has one line."""


def test_only_the_public_api_has_docstrings_with_sections() -> None:
    source = ROOT / "src" / "napari_lesionseg"
    long = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*.py")
        if re.search(
            r"^ +(Parameters|Returns|Raises)\n +-{4,}$", path.read_text(encoding="utf-8"), re.MULTILINE
        )
    }
    assert {path for path in long if not path.startswith(LONG_DOCSTRINGS)} == set()
