"""Workbooks of LibreOffice (.ods): the cells of their sheets as text.

calamine, which reads those of Excel, does not tell which cells of an ODS are merged, and never ends with some
that are damaged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from xml.etree import ElementTree

_NAME = "{{urn:oasis:names:tc:opendocument:xmlns:{}:1.0}}{}".format
_TABLE, _ROW = _NAME("table", "table"), _NAME("table", "table-row")
_CELLS = {_NAME("table", "table-cell"), _NAME("table", "covered-table-cell")}
_STYLE, _PROPERTIES = _NAME("style", "style"), _NAME("style", "table-properties")
_BREAKS = {_NAME("text", "s"): " ", _NAME("text", "tab"): "\t", _NAME("text", "line-break"): "\n"}


@dataclass(slots=True)
class OdsSheet:
    """A sheet: its rows, up to the last that is filled, and its merged cells as top, bottom, column."""

    title: str
    hidden: bool
    rows: list[list[str]] = field(default_factory=list)
    merged: list[tuple[int, int, int]] = field(default_factory=list)


def read_ods(content: bytes, most_cells: int) -> list[OdsSheet]:
    """Return the sheets that the content.xml of a workbook holds; ValueError says what is wrong with it."""
    reader = _Reader(most_cells)
    parser = ElementTree.XMLParser(target=reader)  # noqa: S314 - entities are refused
    try:
        parser.feed(content)
        parser.close()
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from error
    if not reader.sheets:
        raise ValueError("it has no sheets")
    return reader.sheets


class _Reader(ElementTree.TreeBuilder):
    """Takes the rows of the sheets as soon as they are whole."""

    def __init__(self, most_cells: int) -> None:
        super().__init__()
        self.sheets: list[OdsSheet] = []
        self._left = most_cells
        self._hidden = set[str]()  # styles
        self._tables = 0  # that are open
        self._place = 0  # of the row in its sheet

    def doctype(self, *_: object) -> None:
        """Refuse what could declare entities, which may grow without bounds."""
        raise ValueError("it declares a type of document")

    def start(self, tag: str, attrs: dict[str, str], /) -> ElementTree.Element:
        """Begin a sheet."""
        if tag == _TABLE:
            self._tables += 1
            if self._tables > 1:
                raise ValueError("it has a table in a table")
            title, style = (attrs.get(_NAME("table", key), "") for key in ("name", "style-name"))
            self.sheets.append(OdsSheet(title, style in self._hidden))
            self._place = 0
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> ElementTree.Element:
        """Take an element that is whole."""
        element = super().end(tag)
        if tag in _BREAKS:
            element.text = _BREAKS[tag]
        elif tag == _STYLE:
            found = element.find(_PROPERTIES)
            if found is not None and found.get(_NAME("table", "display")) == "false":
                self._hidden.add(element.get(_NAME("style", "name"), ""))
        elif tag == _TABLE:
            self._tables -= 1
        elif tag == _ROW and self.sheets:
            self._take_row(element)
            element.clear()
        return element

    def _take_row(self, element: ElementTree.Element) -> None:
        sheet, row, column = self.sheets[-1], list[str](), 0
        repeated = _number(element, "rows-repeated")
        for cell in element:
            if cell.tag not in _CELLS:
                continue
            width, text = _number(cell, "columns-repeated"), _cell_text(cell)
            if text:
                self._use(column + width - len(row))
                row += [""] * (column - len(row)) + [text] * width
                tall = _number(cell, "rows-spanned")
                if tall > 1 and _number(cell, "columns-spanned") == 1:
                    sheet.merged.append((self._place, self._place + tall - 1, column))
            column += width
        if row:
            self._use((self._place - len(sheet.rows)) + repeated * (len(row) + 1) - len(row))
            sheet.rows += [[] for _ in range(self._place - len(sheet.rows))]
            sheet.rows += [[*row] for _ in range(repeated)]
        self._place += repeated

    def _use(self, cells: int) -> None:
        self._left -= cells
        if self._left < 0:
            raise ValueError("it has more cells than are read")


def _number(element: ElementTree.Element, name: str) -> int:
    return max(1, int(element.get(_NAME("table", f"number-{name}"), "1")))


def _cell_text(cell: ElementTree.Element) -> str:
    """Return what a cell shows; numbers and dates as they are, not as they are formatted."""
    for kind in ("value", "date-value", "boolean-value"):
        if value := cell.get(_NAME("office", kind)):
            return _plain(kind, value)
    # Paragraphs further down are those of comments and drawings.
    paragraphs = ["".join(part.itertext()) for part in cell.findall(_NAME("text", "p"))]
    return "\n".join(paragraphs) or cell.get(_NAME("office", "string-value"), "")


def _plain(kind: str, value: str) -> str:
    """Return a value as it is written in the cells of other workbooks."""
    if kind == "date-value":
        return value.replace("T", " ")
    if kind == "boolean-value":
        return value.capitalize()
    number = float(value)
    return str(int(number)) if number.is_integer() else str(number)
