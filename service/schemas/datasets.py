"""Where examples come from (sources), what a stored dataset is (its manifest), and how rows are split.

Knows no file and no array: reading and generating is `engine/data`, keeping is `store/datasets`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from service.errors import Entry
from service.schemas.document import Digest, Document, disagreement

MAX_ROWS = 10_000_000

UploadId = Annotated[str, StringConstraints(pattern=r"^up_[0-9a-f]{32}$")]
DatasetId = Annotated[str, StringConstraints(pattern=r"^ds_[0-9a-f]{32}$")]
ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
ClassName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
RowShape = Annotated[tuple[Annotated[int, Field(ge=1, le=2**24)], ...], Field(min_length=1, max_length=6)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Finite = Annotated[float, Field(ge=-1e30, le=1e30)]


class Noise(Document):
    """What is added to a generated target: scale·U[0, 1) or scale·N(0, 1)."""

    type: Literal["uniform", "normal"] = "uniform"
    scale: Annotated[float, Field(ge=0, le=1e12)]


class Polynomial(Document):
    """y = Σ coefficients[i]·xⁱ plus noise over x = linspace(low, high, rows); x and y have shape [rows, 1]."""

    type: Literal["polynomial"]
    coefficients: Annotated[tuple[Finite, ...], Field(min_length=1, max_length=16)]
    low: Finite = -1.0
    high: Finite = 1.0
    rows: Annotated[int, Field(ge=1, le=MAX_ROWS)] = 100
    noise: Noise | None = None
    seed: Seed = 0


class GaussianClouds(Document):
    """One normal cloud a class: rows_per_class points around each row of `centers`; class k is row k."""

    type: Literal["gaussian_clouds"]
    centers: Annotated[
        tuple[Annotated[tuple[Finite, ...], Field(min_length=1, max_length=1024)], ...],
        Field(min_length=1, max_length=1024),
    ]
    std: Annotated[float, Field(gt=0, le=1e12)] = 1.0
    rows_per_class: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    seed: Seed = 0

    @model_validator(mode="after")
    def _equal_widths(self) -> GaussianClouds:
        width = len(self.centers[0])
        found = [
            Entry(
                f"/centers/{place}",
                "shape-mismatch",
                "All centers have the same number of coordinates.",
                expected=f"{width} numbers, as in the first center",
                got=f"{len(center)} numbers",
            )
            for place, center in enumerate(self.centers)
            if len(center) != width
        ]
        if found:
            raise disagreement(*found)
        return self


class StripedImages(Document):
    """Images [channels, size, size] whose stripes turn with the class, plus normal noise: image data from nothing."""

    type: Literal["striped_images"]
    classes: Annotated[int, Field(ge=2, le=100)] = 10
    rows_per_class: Annotated[int, Field(ge=1, le=10_000)] = 20
    channels: Annotated[int, Field(ge=1, le=4)] = 3
    size: Annotated[int, Field(ge=4, le=256)] = 32
    std: Annotated[float, Field(ge=0, le=1e6)] = 0.3
    seed: Seed = 0


class Inline(Document):
    """Rows in the request itself.

    `inputs` is a list of rows: numbers, or nested lists of numbers, or mixed rows of numbers and texts. `targets` has
    one entry a row: a number, a list of numbers, or a class name. Whole numbers are class indices where the objective
    wants classes, texts are class names.
    """

    type: Literal["inline"]
    inputs: Annotated[list[Any], Field(min_length=1, max_length=1_000_000)]
    targets: Annotated[list[Any], Field(max_length=1_000_000)] | None = None
    columns: Annotated[tuple[ColumnName, ...], Field(min_length=1, max_length=100_000)] | None = None
    classes: Annotated[tuple[ClassName, ...], Field(min_length=1, max_length=100_000)] | None = None


class Csv(Document):
    """An uploaded CSV file with a header line.

    `inputs` names the input columns in order, "*" takes every column but the target; what is named nowhere is ignored.
    `shape` folds a flat row, for example [1, 28, 28]. `classes` fixes the order of the classes, else they are sorted.
    """

    type: Literal["csv"]
    upload: UploadId
    inputs: Literal["*"] | Annotated[tuple[ColumnName, ...], Field(min_length=1, max_length=100_000)] = "*"
    target: ColumnName | None = None
    classes: Annotated[tuple[ClassName, ...], Field(min_length=1, max_length=100_000)] | None = None
    shape: RowShape | None = None
    delimiter: Literal[",", ";", "\t", "|"] = ","


class Npz(Document):
    """An uploaded .npz archive: `inputs` and `target` name numeric members, with the rows in dimension 0."""

    type: Literal["npz"]
    upload: UploadId
    inputs: ColumnName = "x"
    target: ColumnName | None = None
    classes: Annotated[tuple[ClassName, ...], Field(min_length=1, max_length=100_000)] | None = None
    shape: RowShape | None = None


Source = Annotated[
    Polynomial | GaussianClouds | StripedImages | Inline | Csv | Npz,
    Field(discriminator="type"),
]


class DatasetRequest(Document):
    """The body of POST /v1/datasets."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    source: Source


class Column(Document):
    """One column of a dataset as people see it.

    `dtype` is "float", "int" or "text"; `shape` is that of one row's value ([] for a scalar); `classes` are the class
    names of a target or the categories of a text input, in index order.
    """

    name: str
    role: Literal["input", "target", "ignored"]
    dtype: Literal["float", "int", "text"]
    shape: tuple[int, ...] = ()
    classes: tuple[str, ...] | None = None


class DatasetFile(Document):
    """One file of a stored dataset."""

    name: str
    size_bytes: int
    sha256: str


class DatasetManifest(Document):
    """What `engine/data` wrote beside the arrays of a dataset.

    `layout` is "table" (named scalar columns; numbers in numeric.npy [rows, k], codes of texts in codes.npy [rows, m])
    or "array" (inputs.npy [rows, …]). `target` tells what targets.npy holds: "number" (any shape) or "class" (codes
    [rows], with `classes`); None where there is no target. `row_shape` is the shape of one input row.
    """

    format: Literal[1] = 1
    digest: Digest
    rows: int
    layout: Literal["table", "array"]
    row_shape: tuple[int, ...]
    columns: tuple[Column, ...]
    target: Literal["number", "class"] | None
    target_flat: bool = False
    """Targets were given flat (one number a row): shape [rows]; they become [rows, 1] for regression losses."""
    target_labels: bool = False
    """Whole numbers of the target name classes (a csv column), they are not indices into the net's outputs."""
    classes: tuple[str, ...] | None = None
    files: tuple[DatasetFile, ...]
    size_bytes: int


def _some_train(validation: float, test: float) -> None:
    if validation + test >= 1:
        detail = f"Validation and test together take {validation + test:g} of the rows; none is left to train on."
        at = "/validation" if validation >= test else "/test"
        raise disagreement(Entry(at, "out-of-range", detail, hint="Take less: together they must be below 1."))


class RandomSplit(Document):
    """Rows drawn at random: `validation` and `test` are fractions of all rows."""

    type: Literal["random"]
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.2
    test: Annotated[float, Field(ge=0, lt=1)] = 0.0
    seed: Seed = 0

    @model_validator(mode="after")
    def _leaves_rows(self) -> RandomSplit:
        _some_train(self.validation, self.test)
        return self


class StratifiedSplit(Document):
    """The same fractions of each class; needs class targets."""

    type: Literal["stratified"]
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.2
    test: Annotated[float, Field(ge=0, lt=1)] = 0.0
    seed: Seed = 0

    @model_validator(mode="after")
    def _leaves_rows(self) -> StratifiedSplit:
        _some_train(self.validation, self.test)
        return self


Split = Annotated[RandomSplit | StratifiedSplit, Field(discriminator="type")]
