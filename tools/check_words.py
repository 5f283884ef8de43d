"""Refuse phrases that this project replaces with plain language; codespell checks single words.

python tools/check_words.py [FILE ...]
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

PHRASES = {
    "all its might": "fully",
    "all the same": "anyway",
    "comes of": "results from",
    "data set": "dataset",
    "data sets": "datasets",
    "give up": "cancel, stop",
    "gives up": "cancels, stops",
    "in vain": "without success",
    "leave the house": "are exported",
    "leaves the house": "is exported",
    "let nothing": "discard",
    "looked at": "reviewed, examined",
    "makes of": "does with",
    "of a kind of their own": "different",
    "of its own kind": "different",
    "says so": "reports it",
    "takes notice": "reacts",
    "the hand": "the user",
    "told apart": "distinguished, separated",
}
PATTERN = re.compile(rf"\b({'|'.join(PHRASES)})\b".replace(" ", r"[\s#]+"), re.IGNORECASE)
PATHS = ["*.md", "*.py", "*.pyi", "*.yaml", "*.toml", "*.ini", "*.json"]


def main(files: Sequence[str]) -> int:
    """Print every phrase with its file, its line and a replacement; return 1 if there are any."""
    found = [line for file in files or _tracked_files() for line in _check(Path(file))]
    print("\n".join(found), end="\n" * bool(found))
    return int(bool(found))


def _check(path: Path) -> Iterator[str]:
    if path.resolve() == Path(__file__).resolve():
        return
    text = path.read_text(encoding="utf-8")
    for match in PATTERN.finditer(text):
        phrase = " ".join(re.sub("#", "", match[0]).split())
        line = text.count("\n", 0, match.start()) + 1
        yield f"{path}:{line}: {phrase} ==> {PHRASES[phrase.lower()]}"


def _tracked_files() -> list[str]:
    listed = subprocess.run(["git", "ls-files", *PATHS], capture_output=True, check=True, text=True)
    return listed.stdout.splitlines()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
