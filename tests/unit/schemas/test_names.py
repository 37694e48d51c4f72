"""What is proposed in the place of a name that cannot be one."""

from __future__ import annotations

import re

import pytest

from service.schemas.document import RESOURCE_NAME, cleaned_name


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("Prüfung", "pruefung"),
        ("Straße 7", "strasse-7"),
        ("Café crème", "cafe-creme"),
        ("Łódź", "odz"),
        ("../x", "x"),
        ("a" * 80, "a" * 63),
    ],
)
def test_a_name_that_would_do_is_near_the_one_that_was_given(name: str, near: str) -> None:
    hint = cleaned_name(name)
    assert hint is not None
    assert repr(near) in hint
    assert re.fullmatch(RESOURCE_NAME, near)


@pytest.mark.parametrize("name", ["日本", "", "---", "fine"])
def test_where_nothing_is_left_or_wrong_nothing_is_proposed(name: str) -> None:
    assert cleaned_name(name) is None
