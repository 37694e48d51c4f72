"""What messages show of what was sent: short, printable, and each name in its own quotes."""

from __future__ import annotations

import pytest

from service.errors import listed


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        pytest.param([], "", id="none"),
        pytest.param(["a"], "'a'", id="one"),
        pytest.param(("a, b", "Prüf-Nr."), "'a, b', 'Prüf-Nr.'", id="names that hold a comma or a point"),
        pytest.param(list("abcdefghij"), ", ".join(f"'{name}'" for name in "abcdefghij"), id="ten"),
        pytest.param(
            [f"c{n}" for n in range(22)], ", ".join(f"'c{n}'" for n in range(10)) + " and 12 more", id="twenty-two"
        ),
    ],
)
def test_names_are_quoted_one_by_one_and_the_rest_is_counted(names: list[str], shown: str) -> None:
    assert listed(names) == shown


def test_a_listed_name_is_shortened_and_cannot_steer_a_terminal() -> None:
    long, odd = listed(["x" * 500, "a\x1b[2J"]).split(", ")

    assert len(long) == 64
    assert odd == r"'a\x1b[2J'"
