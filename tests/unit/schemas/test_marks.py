"""How people write numbers: which marks cells show, and what is a number with these."""

from __future__ import annotations

import pytest

from service.schemas.marks import Marks, is_number, marks_of, read_as


@pytest.mark.parametrize(
    ("cells", "without", "found"),
    [
        pytest.param(["8.553,08"], ";", Marks(",", ".", "8.553,08"), id="points and a comma"),
        pytest.param(["8,553.08"], ";", Marks(".", ",", "8,553.08"), id="commas and a point"),
        pytest.param(["8'553.08"], ",", Marks(".", "'", "8'553.08"), id="apostrophes"),
        pytest.param(["8 553,08"], ";", Marks(",", " ", "8 553,08"), id="spaces"),
        pytest.param(["8\u2019553"], ",", Marks(None, "'", "8\u2019553"), id="a typographic apostrophe"),
        pytest.param(["1.234.567"], ";", Marks(",", ".", "1.234.567"), id="two points"),
        pytest.param(["1.234"], ";", Marks(), id="a point that may be either"),
        pytest.param(["1,234"], ";", Marks(",", None, "1,234"), id="a comma is rather a decimal one"),
        pytest.param(["1.234", "0,5"], ";", Marks(",", ".", "1.234"), id="a point beside a decimal comma"),
        pytest.param(["1.234", "0.5"], ";", Marks(".", None, "0.5"), id="points alone"),
        pytest.param(["1.234,5", "2.5"], ";", Marks("."), id="marks that contradict each other"),
        pytest.param(["1.234,5", "1 234,5"], ";", Marks(",", None, "1.234,5"), id="two marks between thousands"),
        pytest.param(["12,5"], ",", Marks(), id="a comma that parts values is no decimal one"),
        pytest.param(["1,234.5", "12.5"], ",", Marks(".", ",", "1,234.5"), id="quoted commas between thousands"),
        pytest.param(["8,553"], ",", Marks(".", ",", "8,553"), id="a quoted comma is one between thousands"),
        pytest.param(["192.168.100.101", "0.5", "7"], ",", Marks(), id="an address where commas part the values"),
        pytest.param(["192.168.10.2", "1.2.2024", "a 1.234,5", "0.123.456", ""], ";", Marks(), id="no numbers"),
    ],
)
def test_cells_show_their_marks(cells: list[str], without: str, found: Marks) -> None:
    assert marks_of(cells, without=without) == found


def test_a_known_decimal_mark_tells_what_the_other_is() -> None:
    assert marks_of(["1.234"], decimal=",").thousands == "."
    assert marks_of(["1,234"], decimal=".").thousands == ","
    assert marks_of(["1.234"], decimal=".").thousands is None


def test_a_number_is_read_by_its_marks() -> None:
    german = Marks(",", ".")

    assert [read_as(cell, german) for cell in (" 1.234.567,5 ", "-12,5", "7", "1.23", "1.234.5")] == [
        *("1234567.5", "-12.5", "7"),
        *(None, None),
    ]
    assert [is_number(cell, german) for cell in ("1.000", "1e3", "1.000e2", "", "x", "1,2,3")] == [
        *(True, True, True),
        *(False, False, False),
    ]
    assert not is_number("1.5", Marks(","))
