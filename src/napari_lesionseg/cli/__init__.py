"""The command line: ``lesionseg COMMAND``. Commands are thin."""

from __future__ import annotations

from napari_lesionseg.cli.main import main

__all__ = ["main"]
