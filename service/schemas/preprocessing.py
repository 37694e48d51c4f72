"""Fitted preprocessing: how a raw row of a version looks, the steps that turn it into what the net takes, and back.

Stored as `preprocessing.json` beside the weights and part of the version's digest. `schemas/training` says which steps
are wanted; `engine/preprocessing` fits and applies them. Knows no arrays.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from service.schemas.datasets import ClassName, ColumnName
from service.schemas.document import Document

MAX_RANGES: Final = 4096
"""Rows with more numbers than this keep one range for all of them."""


class NumberColumn(Document):
    """A column of numbers."""

    kind: Literal["number"] = "number"
    name: ColumnName


class TextColumn(Document):
    """A column of texts; `categories` are those seen in the training rows, sorted, and its codes are their indices."""

    kind: Literal["text"] = "text"
    name: ColumnName
    categories: tuple[str, ...]


RowColumn = Annotated[NumberColumn | TextColumn, Field(discriminator="kind")]


class TableRow(Document):
    """A raw row is a list with one number or text for each column."""

    layout: Literal["table"] = "table"
    columns: Annotated[tuple[RowColumn, ...], Field(min_length=1)]

    @property
    def numbers(self) -> tuple[str, ...]:
        """Names of the number columns, in order."""
        return tuple(column.name for column in self.columns if isinstance(column, NumberColumn))

    @property
    def texts(self) -> tuple[TextColumn, ...]:
        """The text columns, in order."""
        return tuple(column for column in self.columns if isinstance(column, TextColumn))


class ArrayRow(Document):
    """A raw row is an array of numbers of `row_shape` ([] is a single number)."""

    layout: Literal["array"] = "array"
    row_shape: tuple[int, ...]


class FittedStandardize(Document):
    """(x − mean) / std.

    In a table `columns` names the columns, with one mean and std each. In an array `columns` is None, with one mean and
    std for each entry of the row's first dimension.
    """

    type: Literal["standardize"] = "standardize"
    columns: tuple[ColumnName, ...] | None = None
    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]

    @model_validator(mode="after")
    def _one_each(self) -> FittedStandardize:
        _same_length(self.columns, self.mean, self.std)
        return self


class FittedMinMax(Document):
    """(x − low) / (high − low); members as in FittedStandardize. A column that never varied has high = low + 1."""

    type: Literal["min_max"] = "min_max"
    columns: tuple[ColumnName, ...] | None = None
    low: tuple[float, ...]
    high: tuple[float, ...]

    @model_validator(mode="after")
    def _one_each(self) -> FittedMinMax:
        _same_length(self.columns, self.low, self.high)
        if any(high <= low for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError("each high must be above its low")
        return self


class FittedOneHot(Document):
    """One 0/1 number for each category of the named text columns, in the column's place; unseen texts are all zeros."""

    type: Literal["one_hot"] = "one_hot"
    columns: tuple[ColumnName, ...]


Scaling = Annotated[FittedStandardize | FittedMinMax, Field(discriminator="type")]
FittedStep = Annotated[FittedStandardize | FittedMinMax | FittedOneHot, Field(discriminator="type")]


class TrainingRange(Document):
    """Smallest and largest value of each number of a raw row, flattened, over the training rows.

    A single pair stands for all numbers of a row that has more than MAX_RANGES of them.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    @model_validator(mode="after")
    def _pairs(self) -> TrainingRange:
        _same_length(None, self.low, self.high)
        return self


class NumberTarget(Document):
    """The net answers numbers; `steps` were applied to the targets in this order and are inverted on its answers."""

    kind: Literal["number"] = "number"
    steps: tuple[Scaling, ...] = ()


class ClassTarget(Document):
    """The net answers logits of `classes`.

    `probabilities` are their softmax, or, of a net with one output and two classes, the sigmoid for the second class.
    """

    kind: Literal["class"] = "class"
    classes: Annotated[tuple[ClassName, ...], Field(min_length=1)]
    probabilities: Literal["softmax", "sigmoid"] = "softmax"


Target = Annotated[NumberTarget | ClassTarget, Field(discriminator="kind")]


class Preprocessing(Document):
    """What stands between a raw row and the net, fitted on the training rows alone.

    `row` None means that rows go to the net as they are and nothing is known about them: a version that was imported.
    """

    format: Literal[1] = 1
    row: Annotated[TableRow | ArrayRow, Field(discriminator="layout")] | None = None
    steps: tuple[FittedStep, ...] = ()
    training_range: TrainingRange | None = None
    target: Target | None = None

    @model_validator(mode="after")
    def _fits_the_row(self) -> Preprocessing:
        if self.row is None and (self.steps or self.training_range):
            raise ValueError("steps and a training range need the row that they belong to")
        if not isinstance(self.row, TableRow):
            if any(step.columns is not None for step in self.steps):
                raise ValueError("steps name columns, but the row has none")
            return self
        numbers, texts = set(self.row.numbers), {column.name for column in self.row.texts}
        encoded: set[str] = set()
        for step in self.steps:
            one_hot = isinstance(step, FittedOneHot)
            unknown = set(step.columns or ()) - (texts if one_hot else numbers)
            if step.columns is None or unknown:
                raise ValueError(f"a {step.type} step names columns that the row does not have")
            encoded |= set(step.columns) if one_hot else set()
        if texts - encoded:
            raise ValueError("every text column needs a one_hot step")
        return self


NONE: Final = Preprocessing()
"""No preprocessing: rows go in and answers come out as they are."""


def _same_length(columns: tuple[str, ...] | None, first: tuple[float, ...], second: tuple[float, ...]) -> None:
    if len(first) != len(second) or (columns is not None and len(columns) != len(first)):
        raise ValueError("there must be one pair of statistics for each column")
