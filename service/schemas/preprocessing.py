"""Fitted preprocessing: how a raw row of a version looks, the steps that turn it into what the net takes, and back.

Stored as `preprocessing.json` beside the weights and part of the version's digest, where a member that is None is left
out. `schemas/transforms` says which steps are wanted; `engine/preprocessing` fits and applies them. Knows no arrays.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, Final, Literal, get_args

from pydantic import Field, model_validator

from service.schemas.datasets import ClassName, ColumnName, ImageRow, InputName
from service.schemas.document import Document

MAX_RANGES: Final = 4096
"""Rows with more numbers than this keep one range for all of them."""


PADDING: Final = 0
UNKNOWN_WORD: Final = 1
FIRST_WORD: Final = 2
"""The numbers of tokens: nothing, a word that is not in the vocabulary, and its most frequent word."""


class NumberColumn(Document):
    """A column of numbers; an `optional` one may be missing, since a step fills it."""

    kind: Literal["number"] = "number"
    name: ColumnName
    optional: Literal[True] | None = None


class TextColumn(Document):
    """A column of texts; `categories` are those seen in the training rows, sorted, and its codes are their indices.

    A text of an `optional` one may be missing, as some were in training.
    """

    kind: Literal["text"] = "text"
    name: ColumnName
    categories: tuple[str, ...]
    optional: Literal[True] | None = None

    @property
    def codes(self) -> int:
        """How many codes a raw row has for it."""
        return 1

    @cached_property
    def _places(self) -> dict[str, int]:
        return {category: code for code, category in enumerate(self.categories)}

    def encode(self, text: str) -> tuple[int, ...]:
        """The code of a text, −1 for one that is not among the categories."""
        return (self._places.get(text, -1),)


class TokensColumn(Document):
    """A column of free text; `words` are those of the training rows, the most frequent first, counted from 2."""

    kind: Literal["tokens"] = "tokens"
    name: ColumnName
    words: tuple[str, ...]
    max_length: Annotated[int, Field(ge=1)]

    @property
    def codes(self) -> int:
        """How many codes a raw row has for it."""
        return self.max_length

    @cached_property
    def _places(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words, start=FIRST_WORD)}

    def encode(self, text: str) -> tuple[int, ...]:
        """The numbers of the text's first words, and 0 for each one that it has not."""
        found = [self._places.get(word, UNKNOWN_WORD) for word in words_of(text)[: self.max_length]]
        return (*found, *[PADDING] * (self.max_length - len(found)))


def words_of(text: str) -> list[str]:
    """The words of a text: runs of letters, in lower case."""
    return re.findall(r"[^\W\d_]+", text.lower())


RowColumn = Annotated[NumberColumn | TextColumn | TokensColumn, Field(discriminator="kind")]


class TableRow(Document):
    """A raw row is a list with one number or text for each column."""

    layout: Literal["table"] = "table"
    columns: Annotated[tuple[RowColumn, ...], Field(min_length=1)]

    @property
    def numbers(self) -> tuple[str, ...]:
        """Names of the number columns, in order."""
        return tuple(column.name for column in self.columns if isinstance(column, NumberColumn))

    @property
    def texts(self) -> tuple[TextColumn | TokensColumn, ...]:
        """The columns of texts, in order."""
        return tuple(column for column in self.columns if not isinstance(column, NumberColumn))

    @property
    def codes(self) -> int:
        """How many codes a raw row has: one for a category, `max_length` for free text."""
        return sum(column.codes for column in self.texts)


class ArrayRow(Document):
    """A raw row is an array of numbers of `row_shape` ([] is a single number), or a picture's file where it is one."""

    layout: Literal["array"] = "array"
    row_shape: tuple[int, ...]
    image: ImageRow | None = None


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


class FittedLog(Document):
    """log(x + offset); `columns` as in FittedStandardize."""

    type: Literal["log"] = "log"
    columns: tuple[ColumnName, ...] | None = None
    offset: float


class FittedClip(Document):
    """min(max(x, low), high); members as in FittedStandardize, infinity written as None."""

    type: Literal["clip"] = "clip"
    columns: tuple[ColumnName, ...] | None = None
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]

    @model_validator(mode="after")
    def _one_each(self) -> FittedClip:
        _same_length(self.columns, self.low, self.high)
        return self


class FittedImpute(Document):
    """A missing number of a column of a table becomes its value."""

    type: Literal["impute"] = "impute"
    columns: tuple[ColumnName, ...]
    value: tuple[float, ...]

    @model_validator(mode="after")
    def _one_each(self) -> FittedImpute:
        _same_length(self.columns, self.value, self.value)
        return self


class FittedResize(Document):
    """Images scaled to `size`, [height, width]: bilinear, antialiased, in float64."""

    type: Literal["resize"] = "resize"
    columns: None = None
    size: tuple[int, int]


class FittedCenterCrop(Document):
    """The middle of images, `size` [height, width]; of an odd remainder the smaller half goes above and at the left."""

    type: Literal["center_crop"] = "center_crop"
    columns: None = None
    size: tuple[int, int]


class FittedNormalize(Document):
    """(x / scale − mean) / std, one mean and std for each entry of the row's first dimension."""

    type: Literal["normalize"] = "normalize"
    columns: None = None
    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]
    scale: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _one_each(self) -> FittedNormalize:
        _same_length(None, self.mean, self.std)
        return self


class FittedOneHot(Document):
    """One 0/1 number for each category of the named text columns, in the column's place; unseen texts are all zeros."""

    type: Literal["one_hot"] = "one_hot"
    columns: tuple[ColumnName, ...]


class FittedVocabulary(Document):
    """The code of each named text column as one number, in its place.

    An unseen text gets the number of categories, or is refused.
    """

    type: Literal["vocabulary"] = "vocabulary"
    columns: tuple[ColumnName, ...]
    unknown: Literal["index", "error"] = "index"


class FittedTokens(Document):
    """The numbers of the words of each named column of free text, in its place."""

    type: Literal["tokens"] = "tokens"
    columns: tuple[ColumnName, ...]


Scaling = Annotated[FittedStandardize | FittedMinMax | FittedLog, Field(discriminator="type")]
"""Steps on numbers that can be undone."""

FittedNumbers = (
    FittedStandardize
    | FittedMinMax
    | FittedLog
    | FittedClip
    | FittedImpute
    | FittedResize
    | FittedCenterCrop
    | FittedNormalize
)
"""Steps on numbers, in their order."""

FittedTexts = FittedOneHot | FittedVocabulary | FittedTokens
"""Steps that say what becomes of a column of texts."""

FittedStep = Annotated[
    FittedStandardize
    | FittedMinMax
    | FittedLog
    | FittedClip
    | FittedImpute
    | FittedResize
    | FittedCenterCrop
    | FittedNormalize
    | FittedOneHot
    | FittedVocabulary
    | FittedTokens,
    Field(discriminator="type"),
]

FITTED_KINDS: Final[tuple[type[Document], ...]] = get_args(get_args(FittedStep)[0])


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


class PreparedInput(Document):
    """What stands between the raw rows of one of several inputs and the net."""

    name: InputName
    row: Annotated[TableRow | ArrayRow, Field(discriminator="layout")]
    steps: tuple[FittedStep, ...] = ()
    training_range: TrainingRange | None = None

    @model_validator(mode="after")
    def _fits_the_row(self) -> PreparedInput:
        _check_steps(self.row, self.steps)
        return self


class Preprocessing(Document):
    """What stands between a raw row and the net, fitted on the training rows alone.

    `row` None means that rows go to the net as they are and nothing is known about them: a version that was imported.
    For a net with several inputs, `inputs` has what `row`, `steps` and `training_range` have for one.
    """

    format: Literal[1] = 1
    row: Annotated[TableRow | ArrayRow, Field(discriminator="layout")] | None = None
    steps: tuple[FittedStep, ...] = ()
    training_range: TrainingRange | None = None
    inputs: tuple[PreparedInput, ...] | None = None
    target: Target | None = None

    @model_validator(mode="after")
    def _fits_the_row(self) -> Preprocessing:
        if self.row is None and (self.steps or self.training_range):
            raise ValueError("steps and a training range need the row that they belong to")
        if self.inputs is not None and self.row is not None:
            raise ValueError("there is one row, or there are several inputs, never both")
        _check_steps(self.row, self.steps)
        return self

    @property
    def rows(self) -> tuple[TableRow | ArrayRow | None, ...]:
        """The row of each input; one None where nothing is known."""
        return tuple(part.row for part in self.inputs) if self.inputs is not None else (self.row,)


def _check_steps(row: TableRow | ArrayRow | None, steps: Iterable[FittedStep]) -> None:
    """Each step has columns of its kind, and each column of texts one step that says what becomes of it."""
    if not isinstance(row, TableRow):
        if any(step.columns is not None for step in steps):
            raise ValueError("steps name columns, but the row has none")
        return
    kinds: dict[type[Document], set[str]] = {}
    for column in row.columns:
        kinds.setdefault(type(column), set()).add(column.name)
    encoded: list[str] = []
    for step in steps:
        match step:
            case FittedOneHot() | FittedVocabulary():
                known = kinds.get(TextColumn, set())
            case FittedTokens():
                known = kinds.get(TokensColumn, set())
            case _:
                known = kinds.get(NumberColumn, set())
        if step.columns is None or set(step.columns) - known:
            raise ValueError(f"a {step.type} step names columns that the row does not have")
        if isinstance(step, FittedTexts):
            encoded += step.columns
    missing = {column.name for column in row.texts} - set(encoded)
    if missing:
        raise ValueError("every text column needs a one_hot step, or another one that makes numbers of it")
    if len(set(encoded)) < len(encoded):
        raise ValueError("two steps make numbers of the same text column")


NONE: Final = Preprocessing()
"""No preprocessing: rows go in and answers come out as they are."""


def _same_length(
    columns: tuple[str, ...] | None, first: tuple[float | None, ...], second: tuple[float | None, ...]
) -> None:
    if len(first) != len(second) or (columns is not None and len(columns) != len(first)):
        raise ValueError("there must be one pair of statistics for each column")
