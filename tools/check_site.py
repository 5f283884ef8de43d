"""Check the links of a built documentation site: every page, image and anchor of the site must exist.

python tools/check_site.py SITE
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The links and anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect what a tag links to and what can link to it."""
        for name, value in attrs:
            if value and name in {"href", "src"} and tag != "base":
                self.links.append(value)
            elif value and name in {"id", "name"}:
                self.anchors.add(value)


def main(arguments: list[str]) -> int:
    """Print every broken link; return 1 if there are any."""
    if len(arguments) != 1:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    site = Path(arguments[0]).resolve()
    pages = {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    broken = [
        f"{page.path.relative_to(site)}: {link}"
        for page in pages.values()
        for link in broken_links(page, pages)
    ]
    links = sum(len(page.links) for page in pages.values())
    print("\n".join([*broken, f"{len(pages)} pages, {links} links, {len(broken)} broken"]))
    return int(bool(broken))


def broken_links(page: Page, pages: dict[Path, Page]) -> Iterator[str]:
    """Yield the links of a page that lead nowhere inside the site."""
    for link in page.links:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path
        if target.is_dir():
            target /= "index.html"
        if not target.exists() or (
            parts.fragment
            and target in pages
            and unquote(parts.fragment) not in pages[target].anchors | {"__skip"}
        ):
            yield link


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
