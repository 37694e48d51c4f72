"""CSV files: what is read, and how each mistake is told with its line and column."""

from __future__ import annotations

import json
import random
import re
import tracemalloc

import numpy as np
import pytest
from pydantic import ValidationError

from service.engine import csv_files
from service.engine.csv_files import read_csv
from service.errors import DatasetRefused
from service.schemas.datasets import Csv

UPLOAD = "up_" + "0" * 32


def source(**members) -> Csv:
    return Csv(type="csv", upload=UPLOAD, **members)


@pytest.fixture
def read(tmp_path):
    def _read(content: str | bytes, **members):
        path = tmp_path / "upload"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_csv(path, source(**members))

    return _read


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of two rows of two columns: what comes late in a long file comes soon."""
    monkeypatch.setattr(csv_files, "_BLOCK_CELLS", 4)


def test_numbers_texts_and_the_target_are_told_apart(read):
    raw = read("rooms,town,price\n3,Bonn,1.5\n4,Ahlen,2.25\n5,Bonn,3\n", target="price")

    assert [(c.name, c.role, c.dtype, c.classes) for c in raw.columns] == [
        ("rooms", "input", "int", None),
        ("town", "input", "text", ("Ahlen", "Bonn")),
        ("price", "target", "float", None),
    ]
    assert raw.arrays["numeric"].tolist() == [[3], [4], [5]]
    assert raw.arrays["codes"].tolist() == [[1], [0], [1]]
    assert raw.arrays["targets"].tolist() == [1.5, 2.25, 3]
    assert (raw.target, raw.target_flat, raw.target_labels) == ("number", True, False)


def test_inputs_keep_the_order_in_which_they_are_named_and_others_are_ignored(read):
    raw = read("a,b,c\n1,2,x\n3,4,\n", inputs=("b", "a"))

    assert raw.arrays["numeric"].tolist() == [[2, 1], [4, 3]]
    assert [(c.name, c.role) for c in raw.columns] == [("b", "input"), ("a", "input"), ("c", "ignored")]


def test_texts_in_the_target_are_classes_in_sorted_order(read):
    raw = read("x,kind\n1,setosa\n2,versicolor\n3,setosa\n", target="kind")

    assert (raw.target, raw.classes, raw.arrays["targets"].tolist()) == ("class", ("setosa", "versicolor"), [0, 1, 0])


def test_given_classes_fix_the_order_and_are_matched_as_texts(read):
    raw = read("x,digit\n1,10\n2,9\n3,10\n", target="digit", classes=("9", "10", "11"))

    assert (raw.target, raw.classes, raw.arrays["targets"].tolist()) == ("class", ("9", "10", "11"), [1, 0, 1])


def test_a_flat_row_is_folded(read):
    raw = read("y,a,b,c,d\n0,1,2,3,4\n1,5,6,7,8\n", target="y", shape=(1, 2, 2))

    assert (raw.layout, raw.row_shape) == ("array", (1, 2, 2))
    assert raw.arrays["inputs"][1].tolist() == [[[5, 6], [7, 8]]]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("a;b\n1;2\n", id="another delimiter"),
        pytest.param("\ufeffa;b\r\n1;2\r\n", id="a byte order mark and CRLF"),
        pytest.param('"a";"b"\n"1"; 2 \n\n\n', id="quotes, spaces and empty lines at the end"),
        pytest.param("a;b\n+1.0;2e0", id="no end of the last line"),
    ],
)
def test_the_same_table_is_read_however_it_is_written(read, content):
    assert read(content, delimiter=";").arrays["numeric"].tolist() == [[1, 2]]


def test_a_quoted_field_may_hold_the_delimiter_and_a_doubled_quote(read):
    raw = read('a,b\n1,"say ""x"", twice"\n')

    assert raw.columns[1].classes == ('say "x", twice',)


def test_a_column_that_turns_out_to_be_text_far_below_is_text_from_its_first_row(read, monkeypatch):
    rows = 250_000  # more than one block of two columns
    raw = read("a,b\n" + "".join(f"{i},{i % 7}\n" for i in range(rows)) + "7,seven\n")

    assert raw.columns[1].classes == ("0", "1", "2", "3", "4", "5", "6", "seven")
    assert raw.arrays["codes"][:3, 0].tolist() == [0, 1, 2]
    assert raw.arrays["codes"][-1, 0] == 7
    assert raw.arrays["numeric"].shape == (rows + 1, 1)


def test_numbers_are_kept_exactly(read):
    raw = read("a\n0.1\n1700000001\n")

    assert raw.arrays["numeric"][:, 0].tolist() == [0.1, 1700000001]


HOSTILE = {
    "an empty file": ("", "no-rows", "empty"),
    "only a header": ("a,b\n", "no-rows", "no rows"),
    "a short row": ("a,b\n1,2\n3\n", "ragged-row", "line 3: 1 values, but line 1 names 2 columns."),
    "a long row": ("a,b\n1,2,3\n", "ragged-row", "line 2: 3 values"),
    "an empty line inside": ("a,b\n1,2\n\n3,4\n", "ragged-row", "line 3: an empty line"),
    "a duplicate header": ("a,b,a\n1,2,3\n", "duplicate-column", "columns 1 and 3: the name 'a' stands twice"),
    "a header without a name": ("a,,c\n1,2,3\n", "bad-column-name", "line 1: column 2 has no name"),
    "a missing number": ("a,b\n1,\n", "missing-value", "line 2, column 'b'"),
    "a missing text": ("a,b\n1,x\n2, \n", "missing-value", "line 3, column 'b'"),
    "a word for a missing number": (
        "a,b\n1,2\n2,NA\n",
        "missing-value",
        "line 3, column 'b': A value is missing ('NA').",
    ),
    "nan": ("a\n1\nnan\n", "missing-value", "line 3, column 'a'"),
    "inf": ("a\n1\n-inf\n", "not-finite", "line 3, column 'a': '-inf' is not a finite float32 number."),
    "a number beyond float64": ("a\n1e999\n", "not-finite", "line 2, column 'a'"),
    "a number beyond float32": ("a\n1\n1e39\n", "not-finite", "line 3, column 'a'"),
    "an unclosed quote": ('a,b\n1,2\n3,"x\n4,5\n', "unclosed-quote", "line 3: a quote is opened and never closed."),
    "text after a quote": ('a\n"x"y\n', "bad-quoting", "line 2"),
    "a NUL": ("a,b\n1,x\0y\n", "bad-encoding", "line 2: a NUL"),
    "a formula": ("a,b\n1,=1+2\n2,x\n", "formula", "line 2, column 'b'"),
    "control characters": ("a\nx\x1b[31m\n", "bad-text", "line 2, column 'a'"),
    "a giant field": ("a\nx" + "y" * 70_000 + "\n", "too-large", "line 2: a field is longer than 65536 characters"),
    "a giant category": ("a\n" + "y" * 300 + "\n", "too-large", "line 2, column 'a': A category has at most 200"),
    "too many categories": ("a\n" + "".join(f"t{i}\n" for i in range(10_001)), "too-many-categories", "10000"),
}


@pytest.mark.parametrize(("content", "code", "detail"), HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_wrong_is_told_with_its_place(read, content, code, detail):
    with pytest.raises(DatasetRefused) as refused:
        read(content)

    entry = refused.value.errors[0]
    assert (entry.pointer, entry.code) == ("/source/upload", code)
    assert detail in entry.detail


@pytest.mark.parametrize(
    ("encoding", "byte", "source"),
    [
        pytest.param("cp1252", "0xfc, in Windows 'ü'", "WINDOWS-1252", id="Excel's CSV"),
        pytest.param("utf-16", "0xff, in Windows 'ÿ'", "UTF-16", id="Excel's Unicode text"),
    ],
)
def test_bytes_that_are_no_utf8_are_refused_with_the_way_to_utf8(read, encoding, byte, source):
    _, detail, hint = refusal(read, "a\nMünchen\n".encode(encoding))

    assert detail.endswith(f"the file is not UTF-8 (byte {byte}).")
    assert hint == f'In Excel, save it as "CSV UTF-8"; or convert it: iconv -f {source} -t UTF-8 old.csv > new.csv'


def test_a_ragged_row_hides_no_missing_value(read):
    with pytest.raises(DatasetRefused) as refused:
        read("a,b\n1,2\n3\n4,\n5,6,7\nx,8\n")

    assert [(entry.code, entry.detail) for entry in refused.value.errors] == [
        ("ragged-row", "line 3: 1 values, but line 1 names 2 columns."),
        ("missing-value", "line 4, column 'b': A value is missing ('')."),
        ("ragged-row", "line 5: 3 values, but line 1 names 2 columns."),
        ("nearly-numbers", "Column 'a' is taken as texts: 1 of 3 cells is no number (line 6: 'x')."),
    ]


def test_columns_that_are_nearly_of_numbers_are_told_with_what_is_wrong(read):
    rows = "".join(f"{n},{n % 7},{n % 5}\n" for n in range(200))
    with pytest.raises(DatasetRefused) as refused:
        read(f"a,b,c\nk. A.,1,2\n3\n{rows}4,n/b,1\n{',1,2' * 20}\n" + "5,,2\n" * 30, target="b")

    told = [(entry.code, entry.detail.partition(":")[0]) for entry in refused.value.errors]
    assert len(told) == 20
    assert told[:2] == [("ragged-row", "line 3"), ("ragged-row", "line 205")]
    assert set(told[2:18]) <= {("missing-value", f"line {line}, column 'b'") for line in range(206, 236)}
    assert told[18:] == [
        ("nearly-numbers", "Column 'a' is taken as texts"),
        ("nearly-numbers", "Column 'b' is taken as texts"),
    ]
    assert refused.value.errors[18].detail.endswith("1 of 232 cells is no number (line 2: 'k. A.').")


def test_all_mistakes_are_told_at_once_and_at_most_twenty(read):
    with pytest.raises(DatasetRefused) as refused:
        read("a,b\n" + "1,\n,2\n" * 50)

    assert len(refused.value.errors) == 20
    assert [e.detail.split(":")[0] for e in refused.value.errors[:2]] == ["line 2, column 'b'", "line 3, column 'a'"]


def test_mistakes_of_all_blocks_are_told_up_to_twenty_and_the_others_counted(read):
    names = ",".join(f"c{place}" for place in range(100))  # so wide that a block has 4,000 rows
    good, gap, text = ",".join("1" * 100), ",".join(["", *"1" * 99]), ",".join(["1"] * 99 + ["a"])
    rows = [good] * 12_000
    for place in (0, 5_000, 9_000):
        rows[place] = gap
    rows[9_001] += ",1"
    with pytest.raises(DatasetRefused) as refused:
        read("\n".join([names, *rows]) + "\n")
    assert [entry.detail.partition(":")[0] for entry in refused.value.errors] == [
        *("line 2, column 'c0'", "line 5002, column 'c0'", "line 9002, column 'c0'", "line 9003"),
    ]
    assert refused.value.more == 0

    rows[5_000:5_030] = [gap] * 30
    with pytest.raises(DatasetRefused) as refused:
        read("\n".join([names, *rows]) + "\n")
    assert (len(refused.value.errors), refused.value.more) == (20, 13)

    rows = [f"{'b' if place % 3_000 else '=1'}{good[1:]}" for place in range(9_000)]  # texts that are none
    rows[8_995] = text.replace("1", '"', 1)  # and a quote that is never closed, behind which nothing is read
    with pytest.raises(DatasetRefused) as refused:
        read("\n".join([names, *rows]) + "\n")
    assert [(entry.code, entry.detail.partition(",")[0].partition(":")[0]) for entry in refused.value.errors] == [
        *(("formula", "line 2"), ("formula", "line 3002"), ("formula", "line 6002")),
        ("unclosed-quote", "line 8997"),
    ]


@pytest.mark.parametrize(
    ("members", "pointer", "hint"),
    [
        pytest.param({"inputs": ("rooms", "towm")}, "/source/inputs/1", "Did you mean 'town'?", id="an unknown input"),
        pytest.param({"target": "Price"}, "/source/target", "Did you mean 'price'?", id="a target in other letters"),
        pytest.param({"inputs": ("rooms", "rooms")}, "/source/inputs/1", None, id="an input named twice"),
        pytest.param(
            {"inputs": ("rooms", "price"), "target": "price"}, "/source/inputs/1", None, id="a target as input"
        ),
        pytest.param({"shape": (2, 2)}, "/source/shape", None, id="a shape for texts"),
        pytest.param(
            {"inputs": ("rooms", "price"), "shape": (3,)}, "/source/shape", None, id="a shape of another size"
        ),
        pytest.param({"classes": ("a", "b")}, "/source/classes", None, id="classes without a target"),
        pytest.param({"classes": ("a", "a"), "target": "town"}, "/source/classes/1", None, id="a class named twice"),
        pytest.param(
            {"classes": ("Bon", "Ahlen"), "target": "town"},
            "/source/classes",
            "Did you mean 'Bon'?",
            id="an unknown class",
        ),
    ],
)
def test_a_request_that_does_not_fit_the_file_points_to_its_member(read, members, pointer, hint):
    with pytest.raises(DatasetRefused) as refused:
        read("rooms,town,price\n3,Bonn,1\n4,Ahlen,2\n", **members)

    assert (refused.value.errors[0].pointer, refused.value.errors[0].hint) == (pointer, hint)


def test_a_column_that_is_not_there_hides_nothing_that_is_wrong_with_the_rows(read):
    with pytest.raises(DatasetRefused) as refused:
        read("rooms,town,price\n3,Bonn\n,Ahlen,2\n4,Ahlen,3\n", target="prize", inputs=("rooms", "towm", "rooms"))

    assert [(entry.pointer, entry.code, entry.detail) for entry in refused.value.errors] == [
        ("/source/target", "unknown-column", "The file has no column 'prize'."),
        ("/source/inputs/1", "unknown-column", "The file has no column 'towm'."),
        ("/source/inputs/2", "duplicate", "'rooms' stands twice."),
        ("/source/upload", "ragged-row", "line 2: 2 values, but line 1 names 3 columns."),
        ("/source/upload", "missing-value", "line 3, column 'rooms': A value is missing ('')."),
    ]


@pytest.mark.parametrize("cell", ["1_000", "١٢", "0x10", "1,5"], ids=["underscore", "arabic", "hexadecimal", "comma"])
def test_what_only_python_takes_for_a_number_is_a_text(read, cell):
    assert read(f'a\n"{cell}"\n').columns[0].dtype == "text"


def test_pictures_as_rows_of_whole_numbers_are_stored_small(read):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 785))
    header = ",".join(["label", *(str(i) for i in range(784))])
    lines = "\n".join(",".join(map(str, row)) for row in pixels)

    raw = read(f"{header}\n{lines}\n", target="label", shape=(1, 28, 28))

    assert raw.arrays["inputs"].dtype == np.float32
    assert np.array_equal(raw.arrays["inputs"].reshape(40, 784), pixels[:, 1:])
    assert raw.target_labels


def refusal(read, content: str | bytes, **members) -> tuple[str, str, str | None]:
    with pytest.raises(DatasetRefused) as caught:
        read(content, **members)
    entry = caught.value.errors[0]
    return entry.pointer, entry.detail, entry.hint


def test_a_column_that_one_cell_makes_text_is_warned_of(read):
    rows = "".join(f"{i},{i}.5\n" for i in range(20))
    wide = "".join(f"{i},{i}.5\n" for i in range(100))
    raw = read(f'x,y\n1,"50,3"\n{rows}', target="y")

    assert raw.target == "class"
    assert [(each.code, each.detail, each.hint) for each in raw.warnings] == [
        (
            "nearly-numbers",
            "Column 'y' is taken as texts: 1 of 21 cells is no number (line 2: '50,3').",
            "Numbers have a decimal point: 50.3.",
        )
    ]
    assert read(f"x,y\n{rows}20,unknown\n", target="x").warnings[0].detail.endswith("(line 22: 'unknown').")
    others = "20,unknown\n21,none of it\n22,unknown\n23,a\n24,b\n25,c\n"
    [several] = read(f"x,y\n{rows}{others}", target="x").warnings
    assert several.detail.endswith("(line 22: 'unknown'; others: 'none of it', 'a', 'b' and 1 more).")
    assert '"missing_texts": [...]' in (several.hint or "")
    odd = ["unknown", "none of it", "a", "b", "c"]
    assert json.loads(several.expected) == {"missing": "keep", "missing_texts": odd}
    assert raw.warnings[0].expected is None  # a number for people, or many texts, are not for a program to decide
    assert read(f"x,y\n{wide}" + "".join(f"no {n},0\n" for n in range(33)), target="y").warnings[0].expected is None


def test_columns_of_texts_and_classes_that_were_named_are_not_warned_of(read):
    assert read("x,town\n1,Bonn\n2,Ahlen\n3,7\n").warnings == ()
    assert read("x,y\n1,0\n2,1\n3,other\n4,0\n", target="y", classes=("0", "1", "other")).warnings == ()


def test_a_file_with_another_delimiter_is_told_to_name_it(read):
    assert refusal(read, "x;y\n1;2,5\n", target="y") == (
        "/source/delimiter",
        "line 1: the only column would be 'x;y', which looks like several.",
        'Are values parted by another character? Write "delimiter": ";" in the source.',
    )
    assert read("x;y\n1;2.5\n", target="y", delimiter=";").target == "number"


GERMAN = "area;rooms;town;rent\n46,1;1;Ulm;565,11\n-,5;2;Bonn;1e3\n50;3;Ulm;7,5e2\n"


def test_numbers_have_a_decimal_comma_where_the_source_says_so(read):
    raw = read(GERMAN, delimiter=";", decimal=",", target="rent")

    assert [(c.name, c.dtype) for c in raw.columns] == [
        ("area", "float"),
        ("rooms", "int"),
        ("town", "text"),
        ("rent", "float"),
    ]
    assert raw.arrays["numeric"].tolist() == [[np.float32(46.1), 1], [-0.5, 2], [50, 3]]
    assert raw.arrays["targets"].tolist() == [565.11, 1000, 750]
    assert raw.warnings == ()
    assert read("x;y\n1,5;2,5\n3;4,5\n", delimiter=";", decimal=",").arrays["numeric"].tolist() == [
        [1.5, 2.5],
        [3, 4.5],
    ]
    assert refusal(read, "x;y\n1e39;2,5\n", delimiter=";", decimal=",")[1].endswith("is not a finite float32 number.")
    assert read("x;y\n;2,5\n1,5;2\n", delimiter=";", decimal=",", missing="keep").columns[0].missing == 1


def test_beside_decimal_commas_a_point_makes_no_number(read):
    rows = "".join(f"{i},5;{i}\n" for i in range(9))
    raw = read(f"x;y\n{rows}1.5;1\n1.234,5;1\n", delimiter=";", decimal=",", target="y")

    assert [(column.name, column.dtype) for column in raw.columns] == [("x", "text"), ("y", "int")]
    assert [(each.detail, each.hint) for each in raw.warnings] == [
        (
            "Column 'x' is taken as texts: 2 of 11 cells are no number (line 11: '1.5'; others: '1.234,5').",
            "By the source, numbers have a decimal comma: 1,5.",
        )
    ]


def test_decimal_commas_that_the_source_does_not_tell_are_warned_of(read):
    warnings = read(GERMAN, delimiter=";", target="rent").warnings
    many = "x;y\n" + "".join(f"{i // 10},{i % 10}1;{i}\n" for i in range(10_001))

    assert [each.detail for each in warnings] == [
        "Column 'area' is taken as texts: 2 of 3 cells are no number (line 2: '46,1').",
        "Column 'rent' is taken as texts: 2 of 3 cells are no number (line 2: '565,11').",
    ]
    hint = 'Are these numbers with a decimal comma? Write "decimal": "," in the source.'
    assert {each.hint for each in warnings} == {hint}
    assert refusal(read, many, delimiter=";") == (
        "/source/upload",
        "Column 'x' has more than 10000 different texts.",
        hint,
    )


@pytest.mark.parametrize(
    ("cells", "decimal"),
    [
        pytest.param(["850 €", "1.200 €", "99,50 €"], ",", id="a unit"),
        pytest.param(["10 %", "5%", "20 %"], ".", id="per cent"),
        pytest.param(["1.234.5", "12.345.6", "1.100.2"], ".", id="points for both"),
    ],
)
def test_numbers_for_readers_are_warned_of(read, cells, decimal):
    [warning] = read("x;y\n" + "".join(f"{cell};1\n" for cell in cells), delimiter=";", decimal=decimal).warnings

    assert warning.detail.startswith("Column 'x' is taken as texts: ")
    assert (warning.hint, warning.expected) == ("Write plain numbers: no marks between thousands, no units.", None)


@pytest.mark.parametrize(
    ("cells", "decimal", "shown", "members"),
    [
        pytest.param(["1.234,56", "2.000,00", "987,50"], ",", "1.234,56", {"thousands": "."}, id="points"),
        pytest.param(
            ["1.234,56", "987,50"], ".", "1.234,56", {"decimal": ",", "thousands": "."}, id="points, and commas"
        ),
        pytest.param(["1.234.567", "8.553"], ".", "1.234.567", {"decimal": ",", "thousands": "."}, id="two points"),
        pytest.param(["1,234.5", "22,000.25", "3,100"], ".", "1,234.5", {"thousands": ","}, id="commas"),
        pytest.param(["1.234", "12,5", "13"], ",", "1.234", {"thousands": "."}, id="a point beside decimal commas"),
        pytest.param(["8'553.08", "12.5"], ".", "8'553.08", {"thousands": "'"}, id="apostrophes"),
        pytest.param(["8\u2019553", "12"], ".", "8\u2019553", {"thousands": "'"}, id="typographic apostrophes"),
        pytest.param(
            ["8 553,08", "12,5"], ".", "8 553,08", {"decimal": ",", "thousands": " "}, id="spaces, and commas"
        ),
    ],
)
def test_marks_between_thousands_are_proposed_and_then_read(read, cells, decimal, shown, members):
    content = "x;y\n" + "".join(f"{cell};1\n" for cell in cells)
    [warning] = read(content, delimiter=";", decimal=decimal).warnings
    mended = read(content, delimiter=";", **{"decimal": decimal, **members})

    way = f"Write {json.dumps(members)[1:-1]} in the source."
    assert warning.hint == f"Are these numbers with marks between thousands, such as {shown}? {way}"
    assert json.loads(warning.expected) == members
    assert (mended.columns[0].dtype != "text", mended.warnings) == (True, ())
    assert mended.arrays["numeric"][0, 0] > 1000


def test_commas_between_thousands_stand_in_quotes_where_commas_part_the_values(read):
    text = 'price,rooms\n"8,553.08",3\n"1,250",2\n87,1\n'
    [warning] = read(text).warnings
    mended = read(text, thousands=",")

    assert json.loads(warning.expected) == {"thousands": ","}
    assert mended.arrays["numeric"][:, 0].tolist() == [np.float32(8553.08), 1250, 87]


def test_spaces_that_break_no_line_are_spaces_between_thousands_too(read):
    content = "x;y\n8\u202f553,08;1\n1\u00a0000;2\n"
    members = {"decimal": ",", "thousands": " "}
    with pytest.raises(DatasetRefused) as caught:
        read(content, delimiter=";")

    [hint] = [entry.hint or "" for entry in caught.value.errors if entry.code == "nearly-numbers"]
    assert hint.endswith(f"Write {json.dumps(members)[1:-1]} in the source.")
    assert read(content, delimiter=";", **members).arrays["numeric"][:, 0].tolist() == [np.float32(8553.08), 1000]


def test_a_comma_that_may_be_either_mark_is_asked_about(read):
    [warning] = read("x;y\n1,234;1\n2,500;1\n3;1\n", delimiter=";").warnings

    assert warning.hint == (
        'Is 1,234 more than a thousand? Then write "thousands": "," in the source. Is its comma a decimal one? Then '
        'write "decimal": "," in the source.'
    )
    assert warning.expected is None


def test_marks_stand_between_groups_of_three_digits(read):
    members = {"delimiter": ";", "decimal": ",", "thousands": "."}
    raw = read("a;b\n1.234;8.553,08\n-12.345.678;0,5\n1234;+1.000,25\n ;1e3\n", missing="keep", **members)

    assert raw.arrays["numeric"][:3].tolist() == [[1234, np.float32(8553.08)], [-12345678, 0.5], [1234, 1000.25]]
    assert (raw.columns[0].missing, raw.arrays["numeric"][3, 1]) == (1, 1000)
    for odd in ("1.2.3", "12.34", "1234.567", "1.23", "0.123", "1.234.56", ".123", "1..234", "1.234,567.8", "1,234.5"):
        assert read(f"a;b\n{odd};1\n2;1\n", **members).columns[0].dtype == "text", odd
    for odd in ("12 34", "1 2345", "1'234"):
        assert read(f'a;b\n"{odd}";1\n2;1\n', delimiter=";", thousands=" ").columns[0].dtype == "text", odd
    told = refusal(read, "x;y\n1.000e39;2\n", **members)[1]
    assert told.endswith("'1.000e39' is not a finite float32 number.")


@pytest.mark.parametrize(
    ("members", "detail", "hint"),
    [
        pytest.param(
            {"thousands": ".", "delimiter": ";"},
            "'.' cannot be the decimal mark and stand between thousands too.",
            'Write "decimal": "," if numbers are like 1.234,5.',
            id="the decimal point",
        ),
        pytest.param(
            {"thousands": ",", "decimal": ",", "delimiter": ";"},
            "',' cannot be the decimal mark and stand between thousands too.",
            'Write "decimal": "." if numbers are like 1,234.5.',
            id="the decimal comma",
        ),
    ],
)
def test_a_mark_between_thousands_is_nothing_else_too(members, detail, hint):
    with pytest.raises(ValidationError) as caught:
        source(**members)

    [entry] = caught.value.errors()[0]["ctx"]["entries"]
    assert (entry.pointer, entry.detail, entry.hint) == ("/thousands", detail, hint)


def test_without_marks_between_thousands_a_source_keeps_its_digest():
    assert "thousands" not in source().model_dump(mode="json")
    assert source(thousands="'").model_dump(mode="json")["thousands"] == "'"


def test_a_comma_cannot_part_values_and_be_in_numbers():
    with pytest.raises(ValidationError, match="do not agree"):
        source(decimal=",")


def test_a_decimal_point_leaves_no_trace_so_that_older_sources_keep_their_digests():
    assert "decimal" not in source(decimal=".").model_dump(mode="json")
    assert source(delimiter=";", decimal=",").model_dump(mode="json")["decimal"] == ","


def test_texts_that_the_source_names_are_missing_values_in_every_column(read):
    members = {"missing": "keep", "missing_texts": ("Unknown", " -9999 ")}
    raw = read("x,town,y\n1.5,Ulm,1\n unknown,UNKNOWN,2\n-9999,-9999,3\n,,4\n", target="y", **members)

    assert [(c.name, c.dtype, c.classes, c.missing) for c in raw.columns] == [
        ("x", "float", None, 3),
        ("town", "text", ("Ulm",), 3),
        ("y", "int", None, None),
    ]
    assert np.isnan(raw.arrays["numeric"][1:, 0]).all()
    assert raw.arrays["codes"][:, 0].tolist() == [0, -1, -1, -1]
    assert raw.warnings == ()
    assert refusal(read, "x,y\n1,2\n2,unknown\n", target="y", **members)[1] == (
        "line 3, column 'y': A value is missing ('unknown')."
    )
    assert refusal(read, "x,y\n1,a\n2,unknown\n", target="y", **members)[1] == (
        "line 3, column 'y': A value is missing."
    )


def test_a_late_text_leaves_the_missing_ones_before_it_missing(read):
    rows = 200_001  # more than one block of two columns
    content = "a,b\n1,unknown\n" + "".join(f"{i},{i % 7}\n" for i in range(rows)) + "7,seven\n"
    raw = read(content, missing="keep", missing_texts=("unknown",))

    assert (raw.columns[1].classes, raw.columns[1].missing) == (("0", "1", "2", "3", "4", "5", "6", "seven"), 1)


def test_texts_that_mean_a_missing_value_are_bounded_and_need_that_such_are_kept():
    with pytest.raises(ValidationError, match="do not agree"):
        source(missing_texts=("unknown",))
    for wrong in (("x" * 65,), ("  ",), tuple(map(str, range(33)))):
        with pytest.raises(ValidationError):
            source(missing="keep", missing_texts=wrong)

    assert "missing_texts" not in source(missing="keep").model_dump(mode="json")


def test_rows_without_a_label_are_refused_with_the_member_that_leaves_them_out(read):
    for text in ("x,y\n1,2\n2,\n", "x,y\n1,a\n2,\n"):
        with pytest.raises(DatasetRefused) as caught:
            read(text, target="y")

        [entry] = caught.value.errors
        assert entry.detail.startswith("line 3, column 'y': A value is missing")
        assert 'write "unlabelled": "skip" in the source to leave such rows out' in (entry.hint or "")
        assert json.loads(entry.expected or "") == {"unlabelled": "skip"}
        assert read(text, target="y", **json.loads(entry.expected or "")).arrays["numeric"].tolist() == [[1]]


def test_rows_whose_number_is_missing_are_left_out_and_counted(read):
    raw = read("x,on,y\n1,d,\n2,a,5\nno,,n/a\n3,b,6.5\n=1,c, - \n", target="y", kept=("on",), unlabelled="skip")

    assert raw.arrays["numeric"].tolist() == [[2], [3]]
    assert raw.arrays["targets"].tolist() == [5, 6.5]
    assert raw.arrays["kept-codes"].tolist() == [[0], [1]]
    assert [(each.pointer, each.code, each.detail) for each in raw.warnings] == [
        (
            "/source/upload",
            "unlabelled-rows",
            "3 of 5 rows are left out, without a value in column 'y' (line 2 is the first).",
        )
    ]
    [one] = read("x,y\n1,2\n2,\n", target="y", unlabelled="skip").warnings
    assert one.detail == "1 of 2 rows is left out, without a value in column 'y' (line 3)."
    assert read("x,y\n1,2\n2,3\n", target="y", unlabelled="skip").warnings == ()


def test_among_classes_only_empty_cells_and_texts_of_the_source_are_no_label(read):
    text = "x,y\n1,none\n2,\n3,unknown\n4,a\n"
    raw = read(text, target="y", unlabelled="skip")
    named = read(text, target="y", unlabelled="skip", missing="keep", missing_texts=("Unknown",))
    given = read("x,y\n1,-\n2,\n3,+\n", target="y", unlabelled="skip", classes=("+", "-"))

    assert (raw.classes, raw.arrays["numeric"][:, 0].tolist()) == (("a", "none", "unknown"), [1, 3, 4])
    assert (named.classes, named.arrays["numeric"][:, 0].tolist()) == (("a", "none"), [1, 4])
    assert (given.arrays["targets"].tolist(), given.arrays["numeric"][:, 0].tolist()) == ([1, 0], [1, 3])


def test_a_word_that_is_no_number_is_a_class_where_a_text_comes_far_below(read):
    rows = 250_000  # more than one block of two columns
    raw = read("x,y\n0,NA\n1,\n" + "2,7\n" * rows + "3,seven\n4,-\n5,\n", target="y", unlabelled="skip")

    assert raw.classes == ("-", "7", "NA", "seven")
    assert len(raw.arrays["targets"]) == len(raw.arrays["numeric"]) == rows + 3
    assert raw.arrays["numeric"][[0, 1, -2, -1], 0].tolist() == [0, 2, 3, 4]
    assert (
        raw.warnings[0].detail
        == f"2 of {rows + 5} rows are left out, without a value in column 'y' (line 3 is the first)."
    )


def test_left_out_rows_come_back_where_a_text_far_below_makes_them_classes(read, small_blocks):
    raw = read("x,y\n" + "1,none\n" * 4 + "2,cat\n" * 4, target="y", unlabelled="skip")

    assert (raw.classes, raw.arrays["targets"].tolist(), raw.warnings) == (("cat", "none"), [1] * 4 + [0] * 4, ())


def test_a_text_in_a_row_that_comes_back_makes_a_column_of_texts(read, small_blocks):
    raw = read("x,y\n1,1\n2,2\n3,1\nodd,NA\n4,2\n5,cat\n", target="y", unlabelled="skip")

    assert [column.dtype for column in raw.columns] == ["text", "text"]
    assert raw.arrays["codes"].shape == (6, 1)


def test_leaving_rows_out_is_the_same_as_a_file_without_them(read, monkeypatch):
    chance = random.Random(7)
    told = set()
    for _ in range(400):
        rows = [
            (chance.choice(["1", "2.5", "x", "", "NA"]), chance.choice(["1", "2", "3", "", "NA", "none", "cat"]))
            for _ in range(chance.randint(1, 9))
        ]
        words = any(label == "cat" for _, label in rows)
        kept = [row for row in rows if row[1] not in ({""} if words else {"", "NA", "none"})]
        if not kept:
            continue
        texts = ["x,y\n" + "".join(",".join(row) + "\n" for row in some) for some in (rows, kept)]
        with monkeypatch.context() as small:
            small.setattr(csv_files, "_BLOCK_CELLS", 4)
            left = read(texts[0], target="y", unlabelled="skip", missing="keep")
        plain = read(texts[1], target="y", missing="keep")

        assert (left.columns, left.classes) == (plain.columns, plain.classes), texts
        assert left.arrays.keys() == plain.arrays.keys()
        assert all(np.array_equal(left.arrays[name], plain.arrays[name], equal_nan=True) for name in left.arrays), texts
        told |= {(words, len(rows) > len(kept))}
    assert len(told) == 4


def test_cells_without_a_name_count_for_a_block(read):
    tracemalloc.start()
    try:
        read("x,y" + "," * 998 + "\n" + ("1,2" + "," * 998 + "\n") * 2_000)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000  # two million cells at once are 16 MB
    finally:
        tracemalloc.stop()


def test_rows_are_left_out_in_every_block_of_a_long_file(read):
    labels = ["" if place % 3 else str(place) for place in range(500_000)]
    text = "x,t,y\n" + "".join(f"{place},{'ab'[place % 2]},{label}\n" for place, label in enumerate(labels))
    raw = read(text, target="y", unlabelled="skip")

    assert raw.arrays["numeric"][:, 0].tolist() == raw.arrays["targets"].tolist() == list(range(0, 500_000, 3))
    assert raw.warnings[0].detail.startswith("333333 of 500000 rows are left out")


def test_a_table_without_any_label_is_refused(read):
    assert refusal(read, "x,y\n1,\n2,NA\n", target="y", unlabelled="skip") == (
        "/source/target",
        "None of 2 rows has a value in column 'y': all would be left out.",
        "Is it the column that is to be learnt?",
    )


def test_of_rows_without_a_label_only_their_length_is_judged(read):
    with pytest.raises(DatasetRefused) as caught:
        read("x,y\n,\n1\n,2\ninf,NA\n4,5\n", target="y", unlabelled="skip")

    assert [(entry.code, entry.detail.partition(":")[0]) for entry in caught.value.errors] == [
        ("ragged-row", "line 3"),
        ("missing-value", "line 4, column 'x'"),
    ]


def test_an_odd_cell_is_looked_for_in_the_rows_that_are_read(read):
    rows = "".join(f"{place},1\n" for place in range(20))
    raw = read(f"x,y\nodd,\n{rows}odd,2\n", target="y", unlabelled="skip")

    assert [each.code for each in raw.warnings] == ["unlabelled-rows", "nearly-numbers"]
    assert raw.warnings[1].detail.endswith("1 of 21 cells is no number (line 23: 'odd').")


def test_odd_cells_of_a_target_may_mean_that_a_row_has_no_label(read):
    text = "x,y\n" + "".join(f"{place},{place}\n" for place in range(20)) + "1,k.A.\n"
    [warning] = read(text, target="y").warnings
    mended = read(text, target="y", **json.loads(warning.expected))

    assert (warning.hint or "").endswith(
        'leave its row out: "missing": "keep", "missing_texts": [...], "unlabelled": "skip" in the source.'
    )
    assert json.loads(warning.expected) == {"missing": "keep", "missing_texts": ["k.A."], "unlabelled": "skip"}
    assert (mended.target, len(mended.arrays["targets"])) == ("number", 20)


def test_only_a_table_with_a_target_has_rows_without_a_label():
    with pytest.raises(ValidationError) as caught:
        source(unlabelled="skip")

    [entry] = caught.value.errors()[0]["ctx"]["entries"]
    assert (entry.pointer, entry.hint) == ("/unlabelled", "Name the column that is to be learnt.")
    assert "unlabelled" not in source(target="y").model_dump(mode="json")  # older sources keep their digests


def test_warnings_come_in_the_order_of_the_lines_that_they_name(read):
    rows = "".join(f"{place},{place},{place}\n" for place in range(20))
    raw = read(
        f"a,b,y\n{rows}late,1,2\n1,2,\n{rows}1,soon,2\n".replace("4,4,4", "4,first,4", 1), target="y", unlabelled="skip"
    )

    assert [re.findall(r"line ([0-9]+)", each.detail) for each in raw.warnings] == [["6"], ["22"], ["23"]]


@pytest.mark.parametrize("first", ["sep=;\n", "SEP=;\r\n", "\ufeffsep=;\n", '"sep=;"\n'])
def test_a_first_line_that_names_the_delimiter_is_skipped_and_lines_stay_those_of_the_file(read, first):
    assert read(f"{first}a;b\n1;2\n", delimiter=";").arrays["numeric"].tolist() == [[1, 2]]
    assert refusal(read, f"{first}a;b\n1;2\n3;\n", delimiter=";")[1] == "line 4, column 'b': A value is missing ('')."
    assert refusal(read, f"{first}a;b\n1;2;3\n", delimiter=";")[1] == "line 3: 3 values, but line 2 names 2 columns."
    assert refusal(read, f"{first}a;;b\n1;2;3\n", delimiter=";")[1] == "line 2: column 2 has no name."
    assert refusal(read, f'{first}a;b\n1;"2\n', delimiter=";")[1] == "line 3: a quote is opened and never closed."
    rows = "".join(f"{place};1\n" for place in range(20))
    assert read(f"{first}a;b\n{rows}odd;1\n", delimiter=";").warnings[0].detail.endswith("(line 23: 'odd').")


def test_a_first_line_that_names_another_delimiter_is_refused_with_that(read):
    with pytest.raises(DatasetRefused) as caught:
        read("sep=\t\na\tb\n1\t2\n", delimiter=";")

    [entry] = caught.value.errors
    assert (entry.pointer, entry.code) == ("/source/delimiter", "wrong-delimiter")
    assert entry.detail == "line 1: the file says that '\\t' parts its values."
    assert entry.hint == 'Write "delimiter": "\\t" in the source.'
    assert (json.loads(entry.expected or ""), entry.got) == ({"delimiter": "\t"}, ";")
    assert refusal(read, "sep=;\n", delimiter=";")[1].startswith("The file is empty")


def test_empty_columns_without_a_name_at_the_right_end_are_left_out(read):
    raw = read("a;y;;\n1;2;;\n3;4; ;\n", delimiter=";", target="y")

    assert [column.name for column in raw.columns] == ["a", "y"]
    assert raw.arrays["numeric"].tolist() == [[1], [3]]
    assert raw.warnings == ()
    text = read("a;t;\n1;x;\nodd;y;\n", delimiter=";", target="t")
    assert text.classes == ("x", "y")


@pytest.mark.parametrize(
    ("content", "detail", "hint"),
    [
        pytest.param(
            "a;b;;\n1;2;;\n3;4;;x\n",
            "line 1: columns 3, 4 have no name.",
            "Name them, or delete what stands there: line 3 has 'x'.",
            id="a value below",
        ),
        pytest.param(
            "a;;b;\n1;;2;\n",
            "line 1: column 2 has no name.",
            "Delete empty columns where the file was made.",
            id="one in the middle too",
        ),
        pytest.param(
            "Sales;;\na;b;c\n1;2;3\n",
            "line 1: columns 2, 3 have no name.",
            "The first line must have the names of the columns: take out what stands above them.",
            id="a title above",
        ),
        pytest.param(
            ";;\n;;\n",
            "line 1: columns 1, 2, 3 have no name.",
            "The first line must have the names of the columns: take out what stands above them.",
            id="no name at all",
        ),
        pytest.param(
            "a;b;;\n1;2\n3;4;;\n",
            "line 2: 2 values, but line 1 has 4 columns, 2 of them with a name.",
            None,
            id="a shorter row",
        ),
        pytest.param(
            "\na;b\n1;2\n",
            "line 1: an empty line; the first line must name the columns.",
            "Take out what stands above the names.",
            id="an empty line above",
        ),
    ],
)
def test_other_columns_without_a_name_are_refused(read, content, detail, hint):
    assert refusal(read, content, delimiter=";")[1:] == (detail, hint)


def test_a_target_beside_empty_columns_at_the_right_end_is_looked_for_among_the_names(read):
    assert refusal(read, "a;b;\n1;2;\n", delimiter=";", target="c")[1] == "The file has no column 'c'."


def test_a_missing_category_is_refused_with_the_way_to_keep_it(read):
    assert refusal(read, "x,town\n1,Ulm\n2,\n")[1:] == (
        "line 3, column 'town': A value is missing.",
        'Write "missing": "keep" in the source.',
    )


def test_a_file_whose_lines_ran_together_is_told_so(read):
    pointer, detail, hint = refusal(read, "x,y1,12,43,9", target="y")

    assert (pointer, detail) == ("/source/upload", "The file is one line: a header line but no rows.")
    assert hint is not None
    assert "--data-binary" in hint


def test_a_header_that_is_missing_is_guessed_where_all_names_are_numbers(read):
    assert refusal(read, "1,2.5\n2,3.5\n", target="y")[1:] == (
        "The file has no column 'y'.",
        "Does the file lack a line with names of columns?",
    )
