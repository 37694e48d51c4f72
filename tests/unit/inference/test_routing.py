"""Canaries get their share, guards judge by the last answers, shadows are compared row by row."""

from __future__ import annotations

import numpy as np
import pytest

from service.inference.routing import Comparison, Watch, choose
from service.schemas.routing import Canary, Guard, Routing


def test_a_canary_gets_its_share_of_the_draws_and_nobody_else_does():
    routing = Routing(canary=Canary(version=2, percent=12.5))

    answers = [choose(1, routing, draw / 1000) for draw in range(1000)]

    assert answers.count(2) == 125
    assert choose(1, Routing(), 0.0) == 1


def test_a_guard_decides_over_its_last_answers_only():
    watch = Watch(Guard(requests=10, error_rate=0.2))
    early = [watch.note(failed=True, seconds=0.1) for _ in range(9)]
    judged = watch.note(failed=False, seconds=0.1)
    for _ in range(8):
        watch.note(failed=False, seconds=0.1)
    later = watch.note(failed=False, seconds=0.1)

    assert early == [None] * 9
    assert judged == "9 of the last 10 answers failed; the guard allows 0.2."
    assert later is None


def test_a_guard_on_latency_goes_by_the_mean():
    watch = Watch(Guard(requests=10, latency_s=0.05))
    said = [watch.note(failed=False, seconds=0.5 if turn == 9 else 0.01) for turn in range(10)]

    assert said[:9] == [None] * 9
    assert said[9] == "The last 10 answers took 0.059 s on average; the guard allows 0.05."


def test_a_guard_that_guards_nothing_is_refused():
    with pytest.raises(ValueError, match="error_rate"):
        Guard(requests=10)


def test_rows_disagree_by_label_where_there_are_labels():
    comparison = Comparison()
    mine, theirs = np.array([[1.0, 0.0], [0.4, 0.6]]), np.array([[0.9, 0.1], [0.6, 0.4]])
    comparison.note({"output": mine}, ["a", "b"], {"output": theirs}, ["a", "a"])

    assert comparison.view()["disagreement"] == 0.5
    assert comparison.view()["largest_difference"] == pytest.approx(0.2)


def test_rows_disagree_by_number_where_there_are_none():
    comparison = Comparison()
    mine = np.array([[1.0], [2.0], [np.nan], [np.inf]])
    comparison.note({"output": mine}, None, {"output": np.array([[1.0 + 1e-7], [2.1], [np.nan], [np.inf]])}, None)
    comparison.note({"output": mine}, None, {"other": mine}, None)
    comparison.failure()
    comparison.drop()

    assert comparison.view() == {
        "requests": 2,
        "rows": 8,
        "disagreeing_rows": 5,
        "disagreement": 0.625,
        "largest_difference": pytest.approx(0.1),
        "failed": 1,
        "dropped": 1,
    }
