"""``python -m napari_lesionseg``: the command line, as torchrun and clusters start it."""

import sys

from napari_lesionseg.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
