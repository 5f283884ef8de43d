"""``lesionseg`` and ``python -m napari_lesionseg``, as torchrun and clusters start it.

It imports only what Python itself has loaded, so that Ctrl+C ends in one line from the beginning.
"""

import os
import sys


def main() -> int:
    """Run the command line of this process and return its exit code."""
    try:
        import signal

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _exit)
    except KeyboardInterrupt:
        _exit(2, None)
    from napari_lesionseg.cli.main import main as run  # takes long enough for Ctrl+C

    return run()


def _exit(number: int, _: object) -> None:
    """End at once: while the command line is imported there is nothing to clean up."""
    try:
        os.write(2, b"lesionseg: Stopped.\n")
    finally:
        os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
