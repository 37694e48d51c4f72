"""How a CSV file is written, by its own look: its encoding, what parts its values, and the marks of its numbers.

Knows no request and no option; what was only found, the caller can tell.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final, TextIO

from service.schemas.datasets import told_delimiter as told_delimiter
from service.schemas.marks import Marks, marks_of

TABLES: Final = {".csv": "csv", ".tsv": "csv", ".txt": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}
"""Files of tables, by their suffix."""
DELIMITERS: Final = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|"}
DECIMALS: Final = {"point": ".", "comma": ","}
THOUSANDS: Final = {"point": ".", "comma": ",", "apostrophe": "'", "space": " ", "none": ""}
_OF_PROGRAMS: Final = Marks(".")
_NONE: Final = Marks()
_LOOKED_AT: Final = 1000
"""Lines of a file whose numbers show their marks."""
_PIECE: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a CSV file is to be read, as far as somebody says it; an empty `thousands` says that there are no marks."""

    delimiter: str | None = None
    decimal: str | None = None
    thousands: str | None = None
    encoding: str | None = None
    missing_texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a CSV file is written.

    `found` has the marks that nobody asked for; an empty one where numbers are as programs write them.
    """

    delimiter: str = ","
    marks: Marks = _OF_PROGRAMS
    found: Marks = _NONE

    def members(self) -> dict[str, str]:
        """What a source says of it."""
        return ({} if self.delimiter == "," else {"delimiter": self.delimiter}) | self.marks.members()


@dataclass(frozen=True, slots=True)
class Table:
    """A file as the server takes it: what its source says, and its bytes, in UTF-8.

    `was` is the encoding of a file that is in another one, `found` has the marks that nobody asked for.
    """

    name: str
    source: dict[str, Any]
    content: Path | bytes
    media_type: str | None = None
    was: str | None = None
    found: Marks = _NONE


def reading_of(
    *,
    delimiter: str | None = None,
    decimal: str | None = None,
    thousands: str | None = None,
    encoding: str | None = None,
    missing_texts: Iterable[str] | None = None,
    option: str = "",
) -> Reading:
    """How a file is to be read; what parts values and marks are characters, or words for these.

    Args:
        delimiter: comma, semicolon, tab or bar.
        decimal: point or comma.
        thousands: point, comma, apostrophe, space or none.
        encoding: a name that Python knows.
        missing_texts: cells that are missing values too.
        option: what stands before a name in errors.

    Raises:
        ValueError: it is none of these.
    """
    return Reading(
        delimiter=_asked(f"{option}delimiter", delimiter, DELIMITERS),
        decimal=_asked(f"{option}decimal", decimal, DECIMALS),
        thousands=_asked(f"{option}thousands", thousands, THOUSANDS),
        encoding=None if encoding is None else _known(f"{option}encoding", encoding),
        missing_texts=tuple(missing_texts or ()),
    )


def table_of(path: Path, kind: str, reading: Reading) -> Table:
    """A file of a table as the server takes it.

    Raises:
        UnicodeDecodeError: it is not in the encoding that is asked for, or in none that is looked for.
    """
    if kind != "csv":
        return Table(path.name, {"type": kind}, path)
    was = reading.encoding or encoding_of(path)
    with path.open(encoding=was or "utf-8-sig", newline="") as lines:
        dialect = dialect_of(lines, reading)
    source: dict[str, Any] = {"type": kind, **dialect.members()}
    if reading.missing_texts:
        source |= {"missing": "keep", "missing_texts": list(reading.missing_texts)}
    if was is None:
        return Table(path.name, source, path, found=dialect.found)
    content = path.read_bytes().decode(was).removeprefix("\ufeff").encode()
    return Table(path.name, source, content, "text/csv", None if reading.encoding else was, dialect.found)


def dialect_of(lines: TextIO, reading: Reading) -> Dialect:
    """How a CSV text is written, from its first line on: what is asked for, else what the first lines show."""
    first = lines.readline(65536)
    delimiter = reading.delimiter or told_delimiter(first) or delimiter_of(first)
    try:
        rows = islice(csv.reader(lines, delimiter=delimiter), _LOOKED_AT)
        return marked(delimiter, chain.from_iterable(rows), reading)
    except csv.Error:  # the server says what is wrong, and where
        return marked(delimiter, (), reading)


def delimiter_of(first: str) -> str:
    """What parts the values of a first line most often; what stands in quotes parts nothing."""
    return max(DELIMITERS.values(), key=re.sub('"[^"]*"', "", first).count)


def marked(delimiter: str, cells: Iterable[str], reading: Reading, *, usual: Marks | None = None) -> Dialect:
    """The dialect of these cells, by the marks that are asked for, else those that they show, else the `usual` ones."""
    shown = marks_of(cells, without=(delimiter,), decimal=reading.decimal)
    if usual is not None and reading.decimal is None and shown.decimal is None and delimiter != ",":
        shown = Marks(usual.decimal, shown.thousands or usual.thousands)
    thousands = shown.thousands if reading.thousands is None else reading.thousands or None
    decimal = reading.decimal or shown.decimal or "."
    if reading.decimal is None and decimal == thousands:
        decimal = "," if thousands == "." else "."
    found = Marks(
        "," if reading.decimal is None and decimal == "," else None,
        thousands if reading.thousands is None else None,
        shown.shown,
    )
    return Dialect(delimiter, Marks(decimal, thousands), found if found.members() and shown.shown else _NONE)


def text_of(content: bytes, encoding: str | None = None) -> tuple[str, str | None]:
    """A text file's content, and what it is written in where that is not UTF-8: Excel's plain CSV is in Windows-1252.

    Raises:
        UnicodeDecodeError: it is not in `encoding`, or in none that is looked for.
    """
    was = encoding or _encoding_of((content,))
    return content.decode(was or "utf-8").removeprefix("\ufeff"), None if encoding else was


def encoding_of(path: Path) -> str | None:
    """What a text file is written in; None where that is UTF-8."""
    with path.open("rb") as file:
        return _encoding_of(iter(lambda: file.read(_PIECE), b""))


def _known(name: str, encoding: str) -> str:
    with suppress(LookupError):
        if codecs.lookup(encoding)._is_text_encoding:  # what open() asks too
            return encoding
    raise ValueError(f"{name}: no encoding {encoding!r} is known here; such are utf-8, windows-1252, utf-16 and cp437")


def _asked(name: str, value: str | None, known: dict[str, str]) -> str | None:
    if value is not None and value not in known and value not in known.values():
        raise ValueError(f"{name} is one of {', '.join(known)}")
    return None if value is None else known.get(value, value)


def _encoding_of(pieces: Iterable[bytes]) -> str | None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    first = True
    try:
        for piece in pieces:
            if first and piece[:2] in _WIDE:
                return "utf-16"
            first = False
            decoder.decode(piece)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return "windows-1252"
    return None


_WIDE: Final[Collection[Any]] = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
