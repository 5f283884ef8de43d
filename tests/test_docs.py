"""The documentation tells the truth: links lead somewhere, pages match the code, examples run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import napari_lesionseg
from napari_lesionseg.cli.main import COMMANDS
from napari_lesionseg.datasets.synthetic import synthetic_sample
from napari_lesionseg.io.images import read_mask, write_image
from napari_lesionseg.models.card import ModelCard

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


USER_PAGES = sorted(
    page for folder in ("tutorial", "how-to") for page in (ROOT / "docs" / folder).glob("*.md")
)


@pytest.mark.parametrize("page", USER_PAGES, ids=lambda page: page.name)
def test_user_page_is_short(page: Path) -> None:
    assert len(page.read_text(encoding="utf-8").splitlines()) <= 60


def test_architecture_page_is_short() -> None:
    page = ROOT / "docs" / "development" / "architecture.md"
    assert len(page.read_text(encoding="utf-8").splitlines()) <= 120


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / link).resolve() for link in LINK.findall(index.read_text(encoding="utf-8"))}
    assert {page for page in (ROOT / "docs").rglob("*.md") if page != index} <= linked


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
    return {name for row in rows for name in re.findall(r"`([\w.]+)", row)}


def test_model_card_reference_lists_the_fields() -> None:
    assert first_column("reference/model-card.md") == set(ModelCard.model_fields)


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
    *("masks/measurements.py", "models", "study/study.py", "training/losses.py", "types.py"),
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
