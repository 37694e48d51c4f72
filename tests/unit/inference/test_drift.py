"""Rows that are unlike those of training are counted by column, and means are told in standard deviations."""

from __future__ import annotations

import numpy as np
import pytest

from service.engine.predictor import Rows
from service.inference.drift import MOST_INPUTS, OTHER, Drift
from service.schemas.preprocessing import (
    ArrayRow,
    FittedImpute,
    FittedStandardize,
    NumberColumn,
    PreparedInput,
    Preprocessing,
    TableRow,
    TrainingRange,
)
from service.telemetry import Metrics


def table(columns: int = 2, **given) -> Preprocessing:
    names = tuple(f"c{place}" for place in range(columns))
    row = TableRow(columns=tuple(NumberColumn(name=name) for name in names))
    limits = TrainingRange(low=(0.0,) * columns, high=(1.0,) * columns)
    return Preprocessing(row=row, training_range=limits, **given)


def test_rows_outside_the_training_range_are_counted_by_column() -> None:
    rows = Rows(np.array([[0.5, 2.0], [-1.0, 3.0], [0.1, 0.2]]))
    seen = Drift(table()).look([rows], familiar=False)

    assert seen is not None
    assert seen.outside == {"c0": 1, "c1": 2}
    assert seen.shifts == {}


def test_familiar_rows_have_nothing_to_tell() -> None:
    assert Drift(table()).look([Rows(np.zeros((3, 2)))], familiar=True) is None


def test_columns_beyond_the_first_are_told_together() -> None:
    columns = MOST_INPUTS + 4
    seen = Drift(table(columns)).look([Rows(np.full((3, columns), 5.0))], familiar=False)

    assert seen is not None
    assert len(seen.outside) == MOST_INPUTS + 1
    assert seen.outside[OTHER] == 4 * 3


def test_means_are_told_in_standard_deviations_of_the_training_rows() -> None:
    steps = (
        FittedImpute(columns=("c0",), value=(0.0,)),
        FittedStandardize(columns=("c1", "c0"), mean=(10.0, 0.0), std=(2.0, 0.5)),
    )
    rows = Rows(np.array([[1.0, 14.0], [np.nan, 16.0]]))
    seen = Drift(table(steps=steps)).look([rows], familiar=True)

    assert seen is not None
    assert seen.shifts == {
        "c0": pytest.approx(1.0),
        "c1": pytest.approx(2.5),
    }  # a gap is as usual


def test_pictures_are_one_input_and_several_inputs_have_their_names() -> None:
    limits = TrainingRange(low=(0.0,), high=(1.0,))
    parts = (
        PreparedInput(name="left", row=ArrayRow(row_shape=(3, 8, 8)), training_range=limits),
        PreparedInput(name="right", row=ArrayRow(row_shape=(2,)), training_range=limits),
    )
    given = [Rows(np.full((2, 3, 8, 8), 2.0)), Rows(np.array([[0.5, 9.0], [0.5, 0.5]]))]
    seen = Drift(Preprocessing(inputs=parts)).look(given, familiar=False)

    assert seen is not None
    assert seen.outside == {"left": 2, "right.1": 1}


def test_what_is_not_known_of_the_training_rows_is_not_compared() -> None:
    assert Drift(Preprocessing()).look([Rows(np.ones((1, 2)))], familiar=False) in (None, ({}, {}, 1))


def test_metrics_add_up_what_was_seen_and_follow_recent_means() -> None:
    metrics = Metrics()
    told = metrics.of_version("m", "1")
    for _ in range(3):
        told.ran(1, 100, 0.001, 0.001, outside={"age": 2}, shifts={"age": 1.0})
    for _ in range(100):
        told.ran(1, 100, 0.001, 0.001, shifts={"age": -1.0})
    labels = {"model": "m", "version": "1", "input": "age"}

    assert metrics.registry.get_sample_value("modelyard_input_outside_total", labels) == 6
    assert metrics.registry.get_sample_value("modelyard_input_shift", labels) == pytest.approx(-1.0, abs=0.01)
