"""What users are told reads as sentences: a capital or a value first, a period or a value last."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import napari_lesionseg
from napari_lesionseg import errors

SOURCE = Path(napari_lesionseg.__file__).parent
NAMES = {name for name in vars(errors) if name.endswith("Error")} | {"DecodingError"}
VALUE = "…"


def written(node: ast.expr) -> str | None:
    """Return a text as it stands in the source, `VALUE` for what is filled in; None if it is no text."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else VALUE for part in node.values)
    return None


def messages() -> Iterator[tuple[str, str]]:
    """Yield every message of an error of this package, and where it is."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in NAMES:
                text = written(node.args[0]) if node.args else None
                if text is not None:
                    yield f"{path.relative_to(SOURCE)}:{node.lineno}", text


def is_sentence(text: str) -> bool:
    first = text.lstrip("'“")[0]
    leads = first == VALUE or first.isupper() or text.startswith(("“", "'", "--"))
    return leads and text.endswith((".", VALUE)) and "  " not in text


def test_every_message_is_a_sentence() -> None:
    found = list(messages())
    assert len(found) > 300
    assert not [(place, text) for place, text in found if not is_sentence(text)]


def test_a_missing_package_is_installed_with_pip_but_not_into_the_installed_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert errors.how_to_install("heic") == 'pip install "napari-lesionseg[heic]"'
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert errors.how_to_install("heic").startswith("install LesionSeg with uv or pip as")
