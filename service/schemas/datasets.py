"""Where examples come from (sources), what a stored dataset is (its manifest), and how rows are split.

Knows no file and no array: reading and generating is `engine/data`, keeping is `store/datasets`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import Field, StringConstraints, model_validator

from service.errors import Entry, shorten
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


Names = Annotated[tuple[ColumnName, ...], Field(min_length=1, max_length=100_000)]
Classes = Annotated[tuple[ClassName, ...], Field(min_length=1, max_length=100_000)]
MissingText = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64)]
InputName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]


class _Table(Document):
    """What the tables of all formats share.

    `inputs` names the input columns in order, "*" takes every column that has no other role; what is named nowhere is
    left out. For a net with several inputs it is an object, {input name: [columns]}. `shape` folds a flat row, for
    example [1, 28, 28]. `classes` fixes the order of the classes, else they are sorted. `kept` names columns that are
    no inputs and are stored all the same, for a split by time or by a column. `missing` "keep" takes empty cells as
    missing values, for the step `impute`. `free_text` names input columns of sentences, for the step `tokens`.
    `unlabelled` "skip" leaves the rows out whose target has no value, and a warning counts them.
    """

    upload: UploadId
    inputs: (
        Literal["*"] | Names | Annotated[dict[InputName, Literal["*"] | Names], Field(min_length=2, max_length=16)]
    ) = "*"
    target: ColumnName | None = None
    classes: Classes | None = None
    shape: RowShape | None = None
    kept: Annotated[tuple[ColumnName, ...], Field(max_length=1000)] = ()
    missing: Literal["refuse", "keep"] = "refuse"
    free_text: Annotated[tuple[ColumnName, ...], Field(max_length=100)] = ()
    unlabelled: Annotated[
        Literal["refuse", "skip"], Field(exclude_if=lambda way: way == "refuse")  # older digests have none
    ] = "refuse"

    @model_validator(mode="after")
    def _one_role_each(self) -> _Table:
        found = []
        if isinstance(self.inputs, dict):
            if self.shape is not None:
                detail = "A shape folds the rows of one input; here are several."
                found.append(Entry("/shape", "invalid", detail, hint="Leave `shape` out, or send an .npz."))
            found += [
                Entry(f"/inputs/{name}", "invalid", "Of several inputs each names its columns.", got="*")
                for name, columns in self.inputs.items()
                if columns == "*"
            ]
        if self.target is not None and self.target in self.kept:
            found.append(Entry("/kept", "invalid", "The target is stored anyway; a split can go by it."))
        if self.unlabelled == "skip" and self.target is None:
            detail = "Only rows with a target can lack its value, and none is named."
            found.append(Entry("/unlabelled", "invalid", detail, hint="Name the column that is to be learnt."))
        if found:
            raise disagreement(*found)
        return self


_TOLD: Final = re.compile(r'\ufeff?"?sep=([,;\t|])"?\r?\n?', re.IGNORECASE)


def told_delimiter(first: str) -> str | None:
    """What parts the values by a first line that says nothing else, such as Excel's sep=; before the names."""
    found = _TOLD.fullmatch(first)
    return None if found is None else found[1]


MISSING_NUMBERS: Final = frozenset({"", "na", "n/a", "#n/a", "null", "none", "nan", "+nan", "-nan", "-", "?", "."})
"""Cells of a CSV file that are missing values among numbers, in any case."""

NULL_FOR_MISSING: Final = "Send null where the value is missing."
"""The hint about a text in the place of a number that may be missing; for cells of a file a client has other words."""


def taken_as_texts(column: str) -> str:
    """How a warning of the code `nearly-numbers` begins, by which it is known which column it is about."""
    return f"Column {shorten(column)} is taken as texts"


class Csv(_Table):
    """An uploaded CSV file with a header line; a cell is a number, a text, or empty.

    `decimal` "," reads 12,5 as a number, and 12.5 as a text; it needs another delimiter than a comma. `thousands` is
    the mark that numbers may have between groups of three digits: with "." and the decimal comma 8.553,08 is one; " "
    stands for any space within a line, "'" for ’ too. It is not the decimal mark; where it is the delimiter too,
    numbers that have it stand in quotes. `missing_texts` are cells that are missing values too, in every column and in
    any case, such as "unknown" or "-9999"; they need `missing` "keep".

    A first line that is only sep=; or the like, as Excel writes it, is skipped if it names the `delimiter`. Columns at
    the right end that have no name and no value in any row are left out.
    """

    type: Literal["csv"]
    delimiter: Literal[",", ";", "\t", "|"] = ","
    decimal: Annotated[Literal[".", ","], Field(exclude_if=lambda mark: mark == ".")] = "."  # older digests have none
    thousands: Annotated[Literal[".", ",", "'", " "] | None, Field(exclude_if=lambda mark: mark is None)] = None
    missing_texts: Annotated[tuple[MissingText, ...], Field(max_length=32, exclude_if=lambda texts: not texts)] = ()

    @model_validator(mode="after")
    def _missing_is_kept(self) -> Csv:
        if self.missing_texts and self.missing != "keep":
            detail = "These cells would be missing values, which the source refuses."
            raise disagreement(Entry("/missing_texts", "invalid", detail, hint='Write "missing": "keep" too.'))
        return self

    @model_validator(mode="after")
    def _two_marks(self) -> Csv:
        if self.decimal == "," == self.delimiter:
            detail = "A comma cannot part the values and be in the numbers too."
            hint = 'Write "delimiter": ";" if that is what parts the values.'
            raise disagreement(Entry("/decimal", "invalid", detail, hint=hint, got=self.decimal))
        if self.thousands == self.decimal:
            detail = f"{shorten(self.thousands)} cannot be the decimal mark and stand between thousands too."
            hint = "Is `decimal` right? Without `thousands`, no number has marks between groups of three digits."
            if self.delimiter != ",":
                other = "," if self.decimal == "." else "."
                hint = f'Write "decimal": "{other}" if numbers are like 1{self.thousands}234{other}5.'
            raise disagreement(Entry("/thousands", "invalid", detail, hint=hint, got=self.thousands))
        return self


class JsonLines(_Table):
    """An uploaded file with one JSON object a line, all with the same members: numbers, texts, true, false, null."""

    type: Literal["jsonl"]


class Parquet(_Table):
    """An uploaded Parquet file of numbers, booleans, texts and times. Needs the extra `parquet`."""

    type: Literal["parquet"]


class Npz(Document):
    """An uploaded .npz archive: `inputs` and `target` name numeric members, with the rows in dimension 0.

    For a net with several inputs `inputs` is an object, {input name: member}.
    """

    type: Literal["npz"]
    upload: UploadId
    inputs: ColumnName | Annotated[dict[InputName, ColumnName], Field(min_length=2, max_length=16)] = "x"
    target: ColumnName | None = None
    classes: Classes | None = None
    shape: RowShape | None = None

    @model_validator(mode="after")
    def _one_shape(self) -> Npz:
        if self.shape is not None and isinstance(self.inputs, dict):
            detail = "A shape folds the rows of one input; here are several."
            raise disagreement(Entry("/shape", "invalid", detail, hint="Save the arrays in their shapes."))
        return self


class Npy(Document):
    """An uploaded .npy file of inputs with the rows in dimension 0, and another one with the targets."""

    type: Literal["npy"]
    upload: UploadId
    targets: UploadId | None = None
    classes: Classes | None = None
    shape: RowShape | None = None


class Images(Document):
    """An uploaded zip with one folder for each class, and PNG or JPEG files in them. Needs the extra `images`.

    Rows are [channels, height, width] of whole numbers from 0 to 255. Pictures of different sizes need `size`, [height,
    width]: each is scaled so that it covers that, and cut at its middle.
    """

    type: Literal["images"]
    upload: UploadId
    size: tuple[Annotated[int, Field(ge=1, le=4096)], Annotated[int, Field(ge=1, le=4096)]] | None = None
    channels: Literal[1, 3, 4] = 3
    classes: Classes | None = None


class Idx(Document):
    """Uploaded files in the IDX format of MNIST, plain or gzipped: images, and another one with their labels.

    Images [N, height, width] get one channel: [N, 1, height, width].
    """

    type: Literal["idx"]
    upload: UploadId
    labels: UploadId | None = None
    classes: Classes | None = None


class Cifar10(Document):
    """CIFAR-10 in its binary version: the archive cifar-10-binary.tar.gz, or its .bin files one after the other.

    Rows are [3, 32, 32] of whole numbers from 0 to 255. Of an archive the name of each row's file is kept as the column
    `file`, for a split.
    """

    type: Literal["cifar10"]
    upload: UploadId


class Cifar100(Document):
    """CIFAR-100 in its binary version, as Cifar10; `labels` chooses the hundred fine classes or the twenty coarse."""

    type: Literal["cifar100"]
    upload: UploadId
    labels: Literal["fine", "coarse"] = "fine"


Table = Csv | JsonLines | Parquet

Uploaded = Csv | JsonLines | Parquet | Npz | Npy | Images | Idx | Cifar10 | Cifar100

Source = Annotated[
    Polynomial
    | GaussianClouds
    | StripedImages
    | Inline
    | Csv
    | JsonLines
    | Parquet
    | Npz
    | Npy
    | Images
    | Idx
    | Cifar10
    | Cifar100,
    Field(discriminator="type"),
]

SOURCE_KINDS: tuple[type[Document], ...] = get_args(get_args(Source)[0])


def utf8_hint(data: bytes) -> str:
    """What makes UTF-8 of a file, some of whose bytes these are."""
    found = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "WINDOWS-1252"
    return f'In Excel, save it as "CSV UTF-8"; or convert it: iconv -f {found} -t UTF-8 old.csv > new.csv'


def uploads_of(source: Document) -> dict[str, str]:
    """The uploads that a source names, by the member that names them; none of one that is generated or inline."""
    named = {member: getattr(source, member, None) for member in ("upload", "targets", "labels")}
    return {member: upload for member, upload in named.items() if isinstance(upload, str) and upload.startswith("up_")}


class DatasetRequest(Document):
    """The body of POST /v1/datasets."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    source: Source


class Column(Document):
    """One column of a dataset as people see it.

    `role` "kept" is a column that a split can go by and that is no input. `dtype` is "float", "int", "text", or of a
    kept column "time" (seconds since 1970 in UTC); `shape` is that of one row's value ([] for a scalar); `classes` are
    the class names of a target or the categories of a text input, in index order, and None for free text. `missing`
    counts the cells without a value, where there may be some. `input` names the net's input where there are several.
    """

    name: str
    role: Literal["input", "target", "kept", "ignored"]
    dtype: Literal["float", "int", "text", "time"]
    shape: tuple[int, ...] = ()
    classes: tuple[str, ...] | None = None
    missing: int | None = None
    input: str | None = None

    @property
    def free(self) -> bool:
        """Whether this is a column of free text."""
        return self.dtype == "text" and self.role == "input" and self.classes is None


class ImageRow(Document):
    """Rows are pictures, whose files are read as [channels, height, width] of whole numbers from 0 to 255.

    `fitted` says that a picture of another size is scaled until it covers this one, and cut at its middle; else it is
    refused.
    """

    channels: Literal[1, 3, 4]
    height: int
    width: int
    fitted: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """[channels, height, width]."""
        return (self.channels, self.height, self.width)


class InputPart(Document):
    """One of several inputs of a dataset: members as in the manifest, files with `-0`, `-1`, … in their names."""

    name: str
    layout: Literal["table", "array"]
    row_shape: tuple[int, ...]


class DatasetFile(Document):
    """One file of a stored dataset."""

    name: str
    size_bytes: int
    sha256: str


class DatasetManifest(Document):
    """What `engine/data` wrote beside the arrays of a dataset.

    `layout` is "table" (named scalar columns; numbers in numeric.npy [rows, k], codes of texts in codes.npy [rows, m])
    or "array" (inputs.npy [rows, …]). `target` tells what targets.npy holds: "number" (any shape) or "class" (codes
    [rows], with `classes`); None where there is no target. `row_shape` is the shape of one input row. Free text is in
    text-0.npy … (UTF-8 bytes of all rows, with their ends in text-ends-0.npy …), kept columns in kept.npy [rows, k]
    (float64) and kept-codes.npy [rows, m]. A missing number is NaN, a missing text has the code −1.

    `inputs` is there where a dataset has several; `layout`, `row_shape` and `image` are those of the first then.
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
    image: ImageRow | None = None
    inputs: tuple[InputPart, ...] | None = None
    files: tuple[DatasetFile, ...]
    size_bytes: int
    warnings: tuple[dict[str, Any], ...] = ()
    """What was odd about the source as it was read; no part of the digest."""
    rows_digest: Digest | None = None
    """Of the files and of what chooses rows and target, whichever columns are taken; None of what was no file."""


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

    @property
    def parts(self) -> tuple[PartName, ...]:
        """The parts that it makes, in the order train, val, test."""
        return _parts(self.validation > 0, self.test > 0)


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

    @property
    def parts(self) -> tuple[PartName, ...]:
        """The parts that it makes, in the order train, val, test."""
        return _parts(self.validation > 0, self.test > 0)


class TimeSplit(Document):
    """The rows in the order of the column `by`, numbers or times: the first train, the next validate, the last test.

    Without `by` the rows are in the order of the file. Rows of the same time stay together, in the earlier part.
    """

    type: Literal["time"]
    by: ColumnName | None = None
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.2
    test: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _leaves_rows(self) -> TimeSplit:
        _some_train(self.validation, self.test)
        return self

    @property
    def parts(self) -> tuple[PartName, ...]:
        """The parts that it makes, in the order train, val, test."""
        return _parts(self.validation > 0, self.test > 0)


PartValue = Annotated[str, StringConstraints(max_length=200)] | int | float


class ColumnSplit(Document):
    """The values of the column `by` say which part a row is of; with `train`, rows of other values are of none."""

    type: Literal["column"]
    by: ColumnName
    train: Annotated[tuple[PartValue, ...], Field(min_length=1, max_length=10_000)] | None = None
    """None = every value that the others do not name."""
    validation: Annotated[tuple[PartValue, ...], Field(max_length=10_000)] = ()
    test: Annotated[tuple[PartValue, ...], Field(max_length=10_000)] = ()

    @model_validator(mode="after")
    def _once_each(self) -> ColumnSplit:
        _apart(self.train or (), self.validation, self.test)
        return self

    @property
    def parts(self) -> tuple[PartName, ...]:
        """The parts that it makes, in the order train, val, test."""
        return _parts(bool(self.validation), bool(self.test))


RowNumber = Annotated[int, Field(ge=0, lt=MAX_ROWS)]
RowRange = tuple[RowNumber, Annotated[int, Field(ge=1, le=MAX_ROWS)]]


class FixedSplit(Document):
    """Rows by their number, counted from 0: each entry is a number, or [first, end) as a pair; the others train."""

    type: Literal["fixed"]
    validation: Annotated[tuple[RowNumber | RowRange, ...], Field(max_length=1_000_000)] = ()
    test: Annotated[tuple[RowNumber | RowRange, ...], Field(max_length=1_000_000)] = ()

    @model_validator(mode="after")
    def _some_rows(self) -> FixedSplit:
        found = [
            Entry(f"/{member}/{place}", "invalid", f"The rows from {entry[0]} to {entry[1]} are none.")
            for member in ("validation", "test")
            for place, entry in enumerate(getattr(self, member))
            if isinstance(entry, tuple) and entry[0] >= entry[1]
        ]
        if found:
            raise disagreement(*found[:20])
        return self

    @property
    def parts(self) -> tuple[PartName, ...]:
        """The parts that it makes, in the order train, val, test."""
        return _parts(bool(self.validation), bool(self.test))


PartName = Literal["train", "val", "test"]


def _parts(validation: bool, test: bool) -> tuple[PartName, ...]:
    return ("train", *(("val",) if validation else ()), *(("test",) if test else ()))


def _apart(*groups: tuple[PartValue, ...]) -> None:
    """Each value says one part."""
    seen: dict[PartValue, str] = {}
    found = []
    for member, group in zip(("train", "validation", "test"), groups, strict=True):
        for place, value in enumerate(group):
            if value in seen:
                detail = f"The value {value!r} stands in `{seen[value]}` too; a row is of one part."
                found.append(Entry(f"/{member}/{place}", "duplicate", detail))
            seen[value] = member
    if found:
        raise disagreement(*found[:20])


Split = Annotated[RandomSplit | StratifiedSplit | TimeSplit | ColumnSplit | FixedSplit, Field(discriminator="type")]
