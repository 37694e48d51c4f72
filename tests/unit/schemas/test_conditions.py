"""Conditions are read in one form, compared as they say, and tell by how much."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import ValidationFailed
from service.schemas.conditions import Condition, judge, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("val_accuracy >= 0.9", Condition("val_accuracy", ">=", 0.9)),
        ("  loss<.5 ", Condition("loss", "<", 0.5)),
        ("r2 > -1e-3", Condition("r2", ">", -0.001)),
        ("val_loss <= champion.val_loss", Condition("val_loss", "<=", None, "champion", "val_loss")),
        ("mae < my-model.v2.mae", Condition("mae", "<", None, "my-model.v2", "mae")),
    ],
)
def test_a_condition_is_read_in_its_parts_and_written_as_it_is_read(text: str, expected: Condition) -> None:
    assert parse(text) == expected
    assert parse(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "loss", "loss >=", ">= 1", "loss = 1", "loss == 1", "loss != 1", "1 < loss", "loss < 1 < 2"),
        *("loss < 1e999", "loss < nan", "loss < champion", "loss < 12.loss", "loss < Champion.loss"),
        *("loss < 1; import os", "__import__('os') > 1", "loss < champion.loss()", "loss < 1\n", "lo ss < 1"),
        *("loss < ٣", "x" * 300 + " < 1"),
    ],
)
def test_anything_else_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        parse(text, at="/here")

    [entry] = refused.value.errors
    assert (entry.pointer, bool(entry.expected)) == ("/here", True)


@given(st.text(max_size=40))
def test_no_text_is_too_strange(text: str) -> None:
    try:
        parse(text)
    except ValidationFailed:
        return


@pytest.mark.parametrize(
    ("text", "holds", "detail"),
    [
        ("acc >= 0.75", True, "acc is 0.75, as much as 0.75."),
        ("acc > 0.75", False, "acc is 0.75, as much as 0.75."),
        ("acc <= 0.75", True, "acc is 0.75, as much as 0.75."),
        ("acc < 0.75", False, "acc is 0.75, as much as 0.75."),
        ("acc >= 1", False, "acc is 0.75, 0.25 below 1."),
        ("acc < best.acc", True, "acc is 0.75, 0.125 below 0.875."),
        ("acc > best.acc", False, "acc is 0.75, 0.125 below 0.875."),
        ("loss < 1", False, "The version has no loss."),
        ("acc > best.loss", False, "The version of best has no loss."),
    ],
)
def test_a_verdict_says_why(text: str, holds: bool, detail: str) -> None:
    verdict = judge(parse(text), {"acc": 0.75}, {"acc": 0.875})

    assert (verdict.holds, verdict.detail) == (holds, detail)
    if verdict.value is not None and verdict.against is not None:
        assert verdict.by == abs(verdict.value - verdict.against)


def test_it_holds_while_the_alias_does_not_exist() -> None:
    verdict = judge(parse("acc > best.acc"), {"acc": 0.5}, None)

    assert verdict.view() == {
        "promoted": True,
        "value": 0.5,
        "against": None,
        "by": None,
        "detail": "There was no alias best to compare with.",
    }
