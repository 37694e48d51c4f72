"""The tree of errors, and what messages show of what was sent: short, printable, and each name in its own quotes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import service
from service import errors
from service.errors import ServiceError, listed


def test_every_error_is_one_that_something_raises() -> None:
    """A code that nobody can get is no part of the interface."""
    sources = [path for path in Path(service.__file__).parent.rglob("*.py") if path != Path(errors.__file__)]
    named = set(re.findall(r"\w+", "\n".join(path.read_text() for path in sources)))
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ServiceError)]

    assert len(kinds) > 30
    assert [kind.__name__ for kind in kinds if kind.__name__ not in named] == []


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
