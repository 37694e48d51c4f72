"""How people write numbers in a CSV file: with a point or a comma, and with marks between thousands.

Knows no file and no column: texts of cells come in, and what they are as plain numbers goes out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

THOUSANDS: Final = {".": "points", ",": "commas", "'": "apostrophes", " ": "spaces"}
"""The marks between thousands, with what they are called; a space stands for each that does not break a line too."""
_SAME: Final = str.maketrans({"\u2019": "'", "\u00a0": " ", "\u202f": " ", "\u2009": " "})
_GROUPED: Final = re.compile(r"[+-]?[1-9][0-9]{0,2}([.,' ])[0-9]{3}(?:\1[0-9]{3})*(?:([.,])[0-9]+)?")
_PLAIN: Final = re.compile(r"[+-]?[0-9]*([.,])[0-9]+(?:[eE][+-]?[0-9]+)?")
_GROUPS: Final = {
    mark: re.compile(rf"[+-]?[1-9][0-9]{{0,2}}(?:[{mark}][0-9]{{3}})+(?:[^0-9{mark}][^{mark}]*)?") for mark in THOUSANDS
}


@dataclass(frozen=True, slots=True)
class Marks:
    """What stands in numbers, and a cell that shows it.

    `decimal` is None where nothing tells it; `thousands` is None where there are no marks, or where these may be
    decimal ones: 1,234 alone is either.
    """

    decimal: str | None = None
    thousands: str | None = None
    shown: str = ""

    def members(self) -> dict[str, str]:
        """What a CSV source says of these."""
        found = {} if self.decimal in (None, ".") else {"decimal": str(self.decimal)}
        return found if self.thousands is None else {**found, "thousands": self.thousands}


def ungrouped(cell: str, thousands: str) -> str | None:
    """The number without its marks between thousands; None where they do not stand between groups of three."""
    text = cell.strip()
    if not text.isascii():
        text = text.translate(_SAME)
    if thousands not in text:
        return text
    return text.replace(thousands, "") if _GROUPS[thousands].fullmatch(text) else None


def marks_of(cells: Iterable[str], *, without: Collection[str] = (), decimal: str | None = None) -> Marks:
    """The marks that these cells show; none where some contradict others.

    Args:
        cells: of numbers, and of anything else, which tells nothing.
        without: what can be no decimal mark, since it parts the values; a cell that has it stood in quotes.
        decimal: the decimal mark, where it is known.
    """
    decimals: dict[str, str] = {} if decimal is None else {decimal: ""}
    sure: dict[str, str] = {}
    maybe: dict[str, str] = {}
    for cell in cells:
        if cell.isdecimal() or ("," in without and cell.replace(".", "", 1).isdecimal()):
            continue  # most cells of most files: they tell nothing, and this is told soon
        text = cell.strip().translate(_SAME)
        if found := _GROUPED.fullmatch(text):
            mark, point = found[1], found[2]
            if (point is not None and point in without) or mark == point:
                continue
            if mark in ".," and point is None and text.count(mark) == 1 and mark not in without:
                maybe.setdefault(mark, cell.strip())
                continue
            if point is None and mark in _OTHER and _OTHER[mark] in without:
                continue  # points alone where commas part the values: an address or a number of a part
            sure.setdefault(mark, cell.strip())
            if point is not None or mark in ".,":
                decimals.setdefault(point or _OTHER[mark], cell.strip())
        elif (plain := _PLAIN.fullmatch(text)) and plain[1] not in without:
            decimals.setdefault(plain[1], cell.strip())
    if not decimals and "," in maybe:  # in a file of another delimiter a comma is rather no mark between thousands
        return Marks(",", None, maybe[","])
    if len(decimals) > 1 or (len(sure) > 1 and not decimals):
        return Marks(decimal or ("." if "." in decimals else None))
    point, shown = next(iter(decimals.items()), (None, ""))
    between = ({} if point is None else maybe) | sure
    marks = [mark for mark in between if mark != point]
    if len(marks) != 1 or (point is not None and point in sure):
        return Marks(point, None, shown)
    return Marks(point, marks[0], between[marks[0]])


def read_as(cell: str, marks: Marks) -> str | None:
    """The number as programs write it, with a decimal point and nothing else; None where marks are at odd places."""
    text: str | None = cell.strip() if marks.thousands is None else ungrouped(cell, marks.thousands)
    if marks.decimal == "," and text is not None:
        text = None if "." in text else text.replace(",", ".")
    return text


def is_number(cell: str, marks: Marks) -> bool:
    """Whether the cell is a number that is written with these marks."""
    text = read_as(cell, marks)
    return text is not None and _NUMBER.fullmatch(text) is not None


_OTHER: Final = {".": ",", ",": "."}
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
