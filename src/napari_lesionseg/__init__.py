"""Outline skin lesions: segment, correct, fine-tune, export.

Public names are loaded on first use, so that importing the package costs neither torch nor Qt.
"""

from __future__ import annotations

from importlib.metadata import version

import lazy_loader

__version__ = version("napari-lesionseg")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
