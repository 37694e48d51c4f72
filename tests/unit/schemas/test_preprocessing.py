"""The fitted preprocessing document: what it can say, and what it refuses to be made of."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from service.schemas.preprocessing import (
    NONE,
    ArrayRow,
    ClassTarget,
    FittedMinMax,
    FittedOneHot,
    FittedStandardize,
    NumberColumn,
    NumberTarget,
    Preprocessing,
    TableRow,
    TextColumn,
    TrainingRange,
)

HOUSES = TableRow(
    columns=(
        NumberColumn(name="rooms"),
        TextColumn(name="town", categories=("Ahlen", "Bonn")),
        NumberColumn(name="age"),
    )
)


def test_it_comes_back_from_its_json():
    document = Preprocessing(
        row=HOUSES,
        steps=(
            FittedStandardize(columns=("age",), mean=(30.5,), std=(12.25,)),
            FittedMinMax(columns=("rooms",), low=(1.0,), high=(9.0,)),
            FittedOneHot(columns=("town",)),
        ),
        training_range=TrainingRange(low=(1.0, 2.0), high=(9.0, 80.0)),
        target=NumberTarget(steps=(FittedStandardize(mean=(2e5,), std=(5e4,)),)),
    )

    assert Preprocessing.model_validate_json(document.model_dump_json()) == document


def test_no_preprocessing_is_a_document_too():
    assert Preprocessing.model_validate_json(NONE.model_dump_json()) == NONE == Preprocessing()


def test_a_table_knows_its_numbers_and_texts_in_order():
    assert HOUSES.numbers == ("rooms", "age")
    assert [column.name for column in HOUSES.texts] == ["town"]


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        pytest.param(
            {"row": HOUSES},
            "every text column needs a one_hot step",
            id="a text column that nothing encodes",
        ),
        pytest.param(
            {"row": HOUSES, "steps": (FittedOneHot(columns=("rooms", "town")),)},
            "names columns that the row does not have",
            id="a number column that is one-hot encoded",
        ),
        pytest.param(
            {"row": ArrayRow(row_shape=(3,)), "steps": (FittedOneHot(columns=("town",)),)},
            "the row has none",
            id="columns of an array",
        ),
        pytest.param(
            {"steps": (FittedStandardize(mean=(0.0,), std=(1.0,)),)},
            "need the row that they belong to",
            id="steps of an unknown row",
        ),
    ],
)
def test_steps_that_do_not_fit_the_row_are_refused(members, sentence):
    with pytest.raises(ValidationError, match=sentence):
        Preprocessing(**members)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: FittedStandardize(mean=(1.0, 2.0), std=(1.0,)), id="a std is missing"),
        pytest.param(lambda: FittedStandardize(mean=(1.0,), std=(0.0,)), id="a std of zero"),
        pytest.param(lambda: FittedMinMax(low=(1.0,), high=(1.0,)), id="high is not above low"),
        pytest.param(
            lambda: FittedMinMax(columns=("a", "b"), low=(1.0,), high=(2.0,)), id="a column without statistics"
        ),
        pytest.param(lambda: FittedStandardize(mean=(float("nan"),), std=(1.0,)), id="not a number"),
        pytest.param(lambda: ClassTarget(classes=()), id="no classes"),
    ],
)
def test_statistics_that_cannot_be_applied_are_refused(make):
    with pytest.raises(ValidationError):
        make()
