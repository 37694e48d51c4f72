"""Preprocessing as a request asks for it: steps between a raw row and the net, fitted on the training rows.

What a fitted step is, is in `schemas/preprocessing`. Knows no rows; `engine/preprocessing` fits, `engine/augmentation`
augments.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from service.errors import Entry
from service.schemas.datasets import ColumnName, InputName
from service.schemas.document import Document, disagreement

Columns = Literal["*"] | Annotated[tuple[ColumnName, ...], Field(min_length=1, max_length=100_000)]
Finite = Annotated[float, Field(ge=-1e30, le=1e30)]
Side = Annotated[int, Field(ge=1, le=4096)]
Size = tuple[Side, Side]


class Standardize(Document):
    """Subtract the mean, divide by the standard deviation, both fitted on the training rows.

    `of` is "inputs" (columns by name, "*" = every numeric one; one statistic per channel for rows with a shape such as
    [3, 32, 32]) or "target" (regression only; predictions are turned back into the target's units).
    """

    type: Literal["standardize"]
    of: Literal["inputs", "target"] = "inputs"
    columns: Columns = "*"
    input: InputName | None = None


class MinMax(Document):
    """Scale to [0, 1] by the smallest and largest value of the training rows; fields as in Standardize."""

    type: Literal["min_max"]
    of: Literal["inputs", "target"] = "inputs"
    columns: Columns = "*"
    input: InputName | None = None


class Log(Document):
    """log(x + offset), for numbers that spread over powers of ten; fields as in Standardize."""

    type: Literal["log"]
    of: Literal["inputs", "target"] = "inputs"
    columns: Columns = "*"
    input: InputName | None = None
    offset: Annotated[float, Field(ge=0, le=1e30)] = 1.0


class Clip(Document):
    """Numbers below `low` become it, those above `high` become that; `quantiles` fits both on the training rows."""

    type: Literal["clip"]
    columns: Columns = "*"
    input: InputName | None = None
    low: Finite | None = None
    high: Finite | None = None
    quantiles: tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Clip:
        given = self.low is not None or self.high is not None
        if given == (self.quantiles is not None):
            detail = "Give `low` or `high` or both, or `quantiles`."
            raise disagreement(Entry("", "invalid", detail, hint='For example "quantiles": [0.01, 0.99].'))
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise disagreement(Entry("/high", "out-of-range", "`high` must be above `low`.", got=str(self.high)))
        if self.quantiles is not None and self.quantiles[0] >= self.quantiles[1]:
            raise disagreement(Entry("/quantiles", "out-of-range", "The first quantile must be below the second."))
        return self


class Impute(Document):
    """Fill missing numbers of a table, which may then be missing in a prediction too (null).

    `strategy` is "mean", "median" or "most_frequent" of the training rows, or "constant" with `value`. "*" is every
    number column, so that every one of them may be missing in a prediction.
    """

    type: Literal["impute"]
    columns: Columns = "*"
    input: InputName | None = None
    strategy: Literal["mean", "median", "most_frequent", "constant"] = "mean"
    value: Finite | None = None

    @model_validator(mode="after")
    def _value_of_a_constant(self) -> Impute:
        if (self.strategy == "constant") != (self.value is not None):
            detail = 'The strategy "constant" needs a `value`, and no other takes one.'
            raise disagreement(Entry("/value", "invalid", detail, hint='Write "strategy": "constant", "value": 0.'))
        return self


class OneHot(Document):
    """One 0/1 column for each category of the training rows; "*" = every text column. Unseen ones are all zeros."""

    type: Literal["one_hot"]
    columns: Columns = "*"
    input: InputName | None = None


class Vocabulary(Document):
    """Text categories as whole numbers, for an Embedding: their places in the sorted list of those of training.

    `unknown` says what becomes of another text, or of none: "index" gives it the number after the last category (so an
    Embedding needs one row more), "error" refuses it.
    """

    type: Literal["vocabulary"]
    columns: Columns = "*"
    input: InputName | None = None
    unknown: Literal["index", "error"] = "index"


class Tokens(Document):
    """Text as words: lower case, split at all that is no letter, numbered by how often the training rows have them.

    A row gets `max_length` whole numbers: longer texts are cut, shorter ones filled with 0. 1 stands for a word that is
    not in the vocabulary, 2 is the most frequent word. The vocabulary has at most `max_words` words, each of which is
    there `min_count` times or more.
    """

    type: Literal["tokens"]
    columns: Columns = "*"
    input: InputName | None = None
    max_length: Annotated[int, Field(ge=1, le=4096)] = 128
    max_words: Annotated[int, Field(ge=1, le=1_000_000)] = 20_000
    min_count: Annotated[int, Field(ge=1, le=1_000_000)] = 1


class Resize(Document):
    """Images [channels, height, width] scaled to `size`, [height, width], bilinear with antialiasing."""

    type: Literal["resize"]
    size: Size
    input: InputName | None = None


class CenterCrop(Document):
    """The middle of images, `size` [height, width]."""

    type: Literal["center_crop"]
    size: Size
    input: InputName | None = None


class Normalize(Document):
    """(x / scale − mean) / std for each channel of an image; both are fitted on the training rows if not given."""

    type: Literal["normalize"]
    mean: Annotated[tuple[Finite, ...], Field(min_length=1, max_length=4096)] | None = None
    std: Annotated[tuple[Annotated[float, Field(gt=0, le=1e30)], ...], Field(min_length=1, max_length=4096)] | None = (
        None
    )
    scale: Annotated[float, Field(gt=0, le=1e30)] = 255.0
    input: InputName | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> Normalize:
        if (self.mean is None) != (self.std is None) or len(self.mean or ()) != len(self.std or ()):
            detail = "`mean` and `std` come together, with one number for each channel, or not at all."
            at = "/std" if self.std is None else "/mean"
            raise disagreement(Entry(at, "invalid", detail, hint="Leave both out to fit them on the training rows."))
        return self


class RandomFlip(Document):
    """While training only: images are mirrored from left to right, each with this probability."""

    type: Literal["random_flip"]
    probability: Annotated[float, Field(ge=0, le=1)] = 0.5
    input: InputName | None = None


class RandomCrop(Document):
    """While training only: images get a border of `padding` zeros, of which a window of the old size is cut at random.

    The zeros are those that the net sees: after `normalize` they are the mean.
    """

    type: Literal["random_crop"]
    padding: Annotated[int, Field(ge=1, le=1024)] = 4
    input: InputName | None = None


PreprocessingStep = Annotated[
    Standardize
    | MinMax
    | Log
    | Clip
    | Impute
    | OneHot
    | Vocabulary
    | Tokens
    | Resize
    | CenterCrop
    | Normalize
    | RandomFlip
    | RandomCrop,
    Field(discriminator="type"),
]

STEP_KINDS: tuple[type[Document], ...] = get_args(get_args(PreprocessingStep)[0])

NumberStep = Standardize | MinMax | Log | Clip | Impute
TextStep = OneHot | Vocabulary | Tokens
ImageStep = Resize | CenterCrop | Normalize
Augmenting = RandomFlip | RandomCrop
