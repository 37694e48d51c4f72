"""The report of a net's answers: bounded, finite, and short for the job's record."""

from __future__ import annotations

import json
import math
from typing import Any

import torch

from service.engine import metrics
from service.engine.evaluate import report
from service.jobs import reports
from service.schemas.objectives import Mse


def of_classes(classes: int, rows: int = 400) -> dict[str, Any]:
    torch.manual_seed(0)
    return metrics.class_report(torch.randn(rows, classes).softmax(1), torch.arange(rows) % classes)


def test_a_part_of_which_nothing_can_be_said_is_left_out():
    found = reports.whole({"train": of_classes(2), "val": None}, rows={"train": 400, "val": 9}, classes=["a", "b"])

    assert list(found["parts"]) == ["train"]
    assert (found["classes"], found["parts"]["train"]["of_rows"]) == (["a", "b"], 400)


def test_no_matrix_has_more_than_a_hundred_classes():
    small, large = (
        reports.whole({"all": of_classes(count, 1000)}, rows={"all": 1000}, classes=None) for count in (100, 101)
    )

    assert len(small["parts"]["all"]["confusion"]) == 100
    assert "confusion" not in large["parts"]["all"]
    assert len(large["parts"]["all"]["per_class"]) == 101
    assert len(reports.content(large)) < 200_000


def test_numbers_have_six_digits_and_what_is_not_finite_is_null():
    part = {"kind": "numbers", "rows": 2, "points": {"target": [1 / 3, math.inf], "answer": [1, math.nan]}}

    found = json.loads(reports.content(reports.whole({"all": part}, rows={"all": 2}, classes=None)))

    assert found["parts"]["all"]["points"] == {"target": [0.333333, None], "answer": [1, None]}


def test_the_record_of_a_job_has_areas_but_no_points_and_small_tables_alone():
    whole = reports.whole({"val": of_classes(3), "test": of_classes(30)}, rows={"val": 400, "test": 400}, classes=None)
    numbers = metrics.number_report(torch.randn(9, 1), torch.randn(9, 1))

    short = reports.short(whole)

    assert [set(curve) for curve in short["parts"]["val"]["roc"]] == [{"class", "auc"}] * 3
    assert short["parts"]["val"]["confusion"] == whole["parts"]["val"]["confusion"]
    assert not {"confusion", "per_class"} & set(short["parts"]["test"])
    told = reports.short(reports.whole({"all": numbers}, rows={"all": 9}, classes=None))
    assert set(told["parts"]["all"]) == {"kind", "rows", "of_rows", "residuals"}


def test_of_many_rows_some_are_looked_at_evenly_and_in_batches():
    inputs = torch.arange(1000.0)[:, None]
    taken: list[int] = []

    class Twice(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            taken.append(len(x))
            return 2 * x

    found = report(Twice(), (inputs,), inputs, Mse(type="mse"), batch_size=4, most_rows=10)

    assert found is not None
    assert taken == [4, 4, 2]
    assert found["points"]["target"] == [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]
    assert found["points"]["answer"] == [2 * target for target in found["points"]["target"]]


def test_large_answers_are_looked_at_in_fewer_rows():
    assert reports.rows_for(("B", 10)) == reports.MOST_ROWS
    assert reports.rows_for(("B", 3, 1024, 1024)) == 10
    assert reports.rows_for(("B", 1 << 20, 1 << 10)) == 1
