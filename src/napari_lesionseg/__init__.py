"""Outline skin lesions: segment, correct, fine-tune, export.

Public names are loaded on first use, so that importing the package costs neither torch nor Qt. So is what
finds them: the command line answers Ctrl+C as soon as this package is imported.
"""

import os
import sys

# Before torch is loaded: threads of OpenMP (libgomp) that wait for others would spin for long, and on a busy
# computer keep the cores from those they wait for.
os.environ.setdefault("GOMP_SPINCOUNT", "500")


def __getattr__(name: str) -> object:
    """Load the lazy loader, which replaces this function, and return a public name."""
    _attach()
    return getattr(sys.modules[__name__], name)


def __dir__() -> list[str]:
    """List the public names."""
    _attach()
    return dir(sys.modules[__name__])


def _attach() -> None:
    from importlib.metadata import version

    import lazy_loader

    names = ("__getattr__", "__dir__", "__all__")
    globals().update(zip(names, lazy_loader.attach_stub(__name__, __file__), strict=True))
    globals()["__version__"] = version("napari-lesionseg")
