"""The limits of the layout that no linter checks."""

import ast
from pathlib import Path

import napari_lesionseg

PACKAGE = Path(napari_lesionseg.__file__).parent
MEMBERS, FILES = 15, 18
FACADES = {"study.Study"}  # promised as one class


def test_classes_stay_small() -> None:
    sizes = {
        f"{path.stem}.{node.name}": (_methods(node), _attributes(node))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    assert len(sizes) > 100
    assert {name for name, size in sizes.items() if max(size) > MEMBERS} == FACADES


def test_folders_stay_small() -> None:
    counts = {path.parent.relative_to(PACKAGE): 0 for path in PACKAGE.rglob("*.py")}
    for path in PACKAGE.rglob("*.py"):
        counts[path.parent.relative_to(PACKAGE)] += 1
    assert {str(folder): count for folder, count in counts.items() if count > FILES} == {}


def _methods(node: ast.ClassDef) -> int:
    return sum(isinstance(member, ast.FunctionDef) for member in node.body)


def _attributes(node: ast.ClassDef) -> int:
    """Count what an object stores; the fields of settings and records are not counted."""
    stored = {
        part.attr
        for part in ast.walk(node)
        if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store)
        if isinstance(part.value, ast.Name) and part.value.id == "self"
    }
    return len(stored)
