"""How a CSV file is written, by its own look."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from service.client.dialects import dialect_of, reading_of, table_of, text_of


@pytest.mark.parametrize(
    ("text", "members"),
    [
        pytest.param("a,b\n1.5,2\n", {}, id="as programs write it"),
        pytest.param('"x;y;z",b\n1.5,2\n', {}, id="semicolons in quotes"),
        pytest.param("a;b\n1,5;2\n", {"delimiter": ";", "decimal": ","}, id="decimal commas"),
        pytest.param(
            "a;b\n1.234,5;2\n", {"delimiter": ";", "decimal": ",", "thousands": "."}, id="points between thousands"
        ),
        pytest.param("a;b\n1.234;2\n", {"delimiter": ";"}, id="a point that may be either"),
        pytest.param("sep=;\na,b,c;d\n1,5;2\n", {"delimiter": ";", "decimal": ","}, id="a delimiter that is named"),
        pytest.param('a;b\n"open;1,5\n', {"delimiter": ";"}, id="a quote that is left open"),
    ],
)
def test_a_dialect_is_found(text: str, members: dict[str, str]) -> None:
    assert dialect_of(io.StringIO(text), reading_of()).members() == members


def test_what_is_asked_for_is_not_found() -> None:
    def asked(text: str, **options: str) -> tuple[dict[str, str], dict[str, str]]:
        dialect = dialect_of(io.StringIO(text), reading_of(**options))
        return dialect.members(), dialect.found.members()

    assert asked("a;b\n1.234;2\n", thousands="point") == ({"delimiter": ";", "decimal": ",", "thousands": "."}, {})
    assert asked("a;b\n1,234;2\n", thousands=",") == ({"delimiter": ";", "thousands": ","}, {})
    assert asked("a;b\n1.234,5;2\n", thousands="none") == ({"delimiter": ";", "decimal": ","}, {"decimal": ","})
    assert asked("a;b\n1.234,5;2\n", decimal="point", delimiter="tab") == ({"delimiter": "\t"}, {})
    with pytest.raises(ValueError, match="--decimal is one of point, comma"):
        reading_of(decimal="dot", option="--")


def test_a_file_is_sent_in_utf8(tmp_path: Path) -> None:
    path, text = tmp_path / "a.csv", "größe;preis\n1,5;2\n"
    path.write_text(text, encoding="utf-8-sig")
    plain = table_of(path, "csv", reading_of())
    path.write_text(text, encoding="cp1252")
    windows = table_of(path, "csv", reading_of())
    path.write_text(text, encoding="utf-16")
    wide = table_of(path, "csv", reading_of(missing_texts=["k.A."]))

    assert (plain.content, plain.was) == (path, None)
    assert (windows.content, windows.was) == (text.encode(), "windows-1252")
    assert (wide.content, wide.was, wide.source["missing_texts"]) == (text.encode(), "utf-16", ["k.A."])
    assert text_of(text.encode("cp850"), "cp850") == (text, None)
    with pytest.raises(UnicodeDecodeError):
        text_of(b"\x81\xff")


def test_a_first_line_that_only_names_the_delimiter_is_sent_so_that_lines_are_those_of_the_file(tmp_path: Path) -> None:
    path, text = tmp_path / "a.csv", '"sep=\t"\r\ngröße\tpreis\r\n1,5\t2\r\n'
    for encoding in ("utf-8", "utf-8-sig", "cp1252", "utf-16"):
        path.write_bytes(text.encode(encoding))
        table = table_of(path, "csv", reading_of())
        content = table.content if isinstance(table.content, bytes) else table.content.read_bytes()

        assert (content.decode("utf-8-sig"), table.source["delimiter"]) == (text, "\t")
    path.write_text("sep=x\n1\n")
    assert table_of(path, "csv", reading_of()).content == path
