"""A whole training request of a table, by the rules of docs/guide/client.md: what `client.train` and the command share.

Plain functions over what the server says of the table; the two faces of the client ask. Knows no torch.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NoReturn, Protocol

from service.client import refusals
from service.client.answers import Dataset
from service.client.dialects import Table
from service.errors import DatasetRefused, Entry, InvalidInput, ValidationFailed, listed, shorten
from service.schemas.datasets import taken_as_texts
from service.schemas.document import nearest_hint
from service.schemas.views import ColumnView, EntryView, ProfileView

Task = Literal["auto", "classes", "numbers"]

HIDDEN: Final = (64, 64)
LEARNING_RATE: Final = 0.003
EPOCHS: Final = 500
PATIENCE: Final = 30
MINUTES: Final = 5.0
VALIDATION: Final = 0.2
ROWS_FOR_SPLIT: Final = 30
"""With fewer rows all of them train."""
MOST_CLASSES: Final = 20
"""Whole numbers that span fewer values than this are taken for classes."""
MOST_CATEGORIES: Final = 50
"""A column with more different texts is left out: that is no category."""
DATES: Final = "dates"
"""The reason for which a column of dates is left out: as texts these tell a net nothing."""
FEW_ROWS: Final = 10
"""From so many rows on, texts of which no row has the same as another are no categories."""
_IDS: Final = re.compile(r"(?i:(?:^|[_ .-])(?:id|index|row|no|nr)\.?|nummer)$|(?<=[a-z])I[dD]$")
"""Whole numbers under such a name number the rows: a net would learn them by heart."""
_DATE: Final = re.compile(
    r"(?:[0-9]{4}([-/.])[0-9]{1,2}\1[0-9]{1,2}|[0-9]{1,2}([-/.])[0-9]{1,2}\2[0-9]{2,4})(?:[T ,].*)?"
)
_NEARLY: Final = re.compile(
    r"([0-9]+) of ([0-9]+) cells (?:is|are) no number \(line ([0-9]+): (.*?)(?:; others: (.*))?\)\.$", re.DOTALL
)
"""Within the warning `nearly-numbers`: how many cells of how many, the first of them, and other texts."""
_FOLD: Final = re.compile(r'Fold the rows with "shape": (\[[0-9, ]+\]) in the source')
_MOST_TEXTS: Final = 10
"""More different odd cells than these are hardly all words for a missing value."""
_BY_MARKS: Final = ("Write plain numbers", "Are these numbers with marks", "Is ")
"""How its hint begins where all cells are numbers to a reader's eye."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is to be learnt of a table, and how; what is not said, the rules say.

    `inputs` are the only columns to learn from, `include` such as the rules would leave out, `exclude` columns to leave
    out; `architecture` is a document, or None for the catalogue's mlp. With `weigh_classes` each class counts the same,
    however many rows it has.
    """

    target: str
    inputs: Sequence[str] | None = None
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    task: Task = "auto"
    architecture: Any = None
    epochs: int = EPOCHS
    minutes: float = MINUTES
    lr: float = LEARNING_RATE
    batch_size: int | None = None
    seed: int = 0
    weigh_classes: bool = False

    def __post_init__(self) -> None:
        if self.task not in ("auto", "classes", "numbers"):
            raise ValueError("task is auto, classes or numbers")
        for name, columns in (("inputs", self.inputs), ("include", self.include), ("exclude", self.exclude)):
            if isinstance(columns, str):
                raise ValueError(f"{name} is a list of columns, as in {name}=[{columns!r}]")
        if self.inputs and self.include:
            raise ValueError("inputs are the only columns to learn from; name those of include among them")
        if both := [one for one in self.include if one in self.exclude]:
            raise ValueError(f"include and exclude both name {listed(both)}")

    @property
    def taken(self) -> tuple[str, ...]:
        """The columns that somebody has named: they are as they are."""
        return (*self.exclude, *self.include, *(self.inputs or ()), *([self.target] if self.task == "classes" else []))


@dataclass(frozen=True, slots=True)
class Plan:
    """A table as a dataset, the source that made it, and the request, still without its output."""

    dataset: Dataset
    source: dict[str, Any]
    request: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Odd:
    """A column of numbers that a few cells, or marks in its numbers, make one of texts.

    `texts` are these cells, each spelling once, where they may mean that there is no value; `marks` are what a source
    would say of such numbers.
    """

    column: ColumnView
    cells: int
    odd: int
    line: str
    shown: str
    others: str | None
    hint: str | None
    texts: tuple[str, ...]
    marks: Mapping[str, str]


class Words(Protocol):
    """How it is told what is found in a table: the command has words of its own."""

    @property
    def skip(self) -> str:
        """What leaves out rows whose target has no value."""

    @property
    def weigh(self) -> str:
        """What lets each class count the same."""

    def warned(self, entries: Sequence[EntryView]) -> None:
        """The dataset has warnings."""

    def left_out(self, reasons: Mapping[str, str]) -> None:
        """Columns are left out, each with the reason."""

    def rare(self, told: str) -> None:
        """Classes have one row alone, or few beside those of another."""

    def wide(self, told: str) -> None:
        """A column that the rules would leave out is learnt from, and becomes many."""

    def absent(self, option: str, names: Sequence[str], known: Sequence[str]) -> NoReturn:
        """Columns that are to be left out, or not to be, are none; `option` is the recipe's word for them."""

    def odd(self, found: Sequence[Odd]) -> NoReturn:
        """Columns are nearly of numbers."""

    def texts(self, target: str) -> NoReturn:
        """The target is to be learnt as a number, and holds texts."""

    def numbers(self, target: str) -> NoReturn:
        """Classes are to be weighed, and the target is learnt as a number."""


class AsWarnings:
    """Words for a program: what is told are warnings, what ends it are errors."""

    skip = "skip_unlabelled=True"
    weigh = "weigh_classes=True"

    def read(self, table: Table) -> None:
        """How a file was read, where that was only found."""
        if table.was is not None:
            warnings.warn(f"{table.name} is not in UTF-8; it is read as {table.was} (else: encoding=…)", stacklevel=3)
        if table.found.members():
            told = ", ".join(f"{name}={mark!r}" for name, mark in table.found.members().items())
            warnings.warn(f"{table.name} has numbers such as {table.found.shown}, read with {told}", stacklevel=3)

    def warned(self, entries: Sequence[EntryView]) -> None:
        """The dataset has warnings."""
        for entry in entries:
            warnings.warn(f"{entry.detail} {entry.hint or ''}".strip(), stacklevel=4)

    def left_out(self, reasons: Mapping[str, str]) -> None:
        """Columns are left out."""
        may = [name for name, reason in reasons.items() if reason != DATES]
        way = f" To learn from one of these too, name it in `include`: {listed(may)}." if may else ""
        warnings.warn(f"{left_out_told(reasons)}{way}", stacklevel=4)

    def rare(self, told: str) -> None:
        """Classes have one row alone, or few beside those of another."""
        warnings.warn(told, stacklevel=4)

    def wide(self, told: str) -> None:
        """A column that the rules would leave out is learnt from, and becomes many."""
        warnings.warn(told, stacklevel=4)

    def absent(self, option: str, names: Sequence[str], known: Sequence[str]) -> NoReturn:
        """Columns that are to be left out, or not to be, are none."""
        raise ValueError(f"{option} names no input: {listed(names)}. {near(names, known)}")

    def odd(self, found: Sequence[Odd]) -> NoReturn:
        """Columns are nearly of numbers."""
        entries = [
            Entry(
                "/source/upload",
                "nearly-numbers",
                f"Column {shorten(one.column.name)}: {one.cells - one.odd} of {one.cells} values are numbers; line "
                f"{one.line} has {one.shown}{f', others have {one.others}' if one.others else ''}.",
                hint=f"{_remedy(one)} Or leave the column out with `exclude`, or name it in `include` to take its "
                "values as texts; a target's are classes with task='classes'.",
            )
            for one in found
        ]
        told = "A column of numbers has cells that are not numbers."
        raise refusals.worded(DatasetRefused(told, errors=entries))

    def texts(self, target: str) -> NoReturn:
        """The target is to be learnt as a number, and holds texts."""
        raise ValueError(f"task='numbers': {target!r} holds texts")

    def numbers(self, target: str) -> NoReturn:
        """Classes are to be weighed, and the target is learnt as a number."""
        raise ValueError(
            f"{self.weigh} is for classes, and {target!r} is learnt as a number; leave it out, or pass task='classes' "
            "if its values are classes"
        )


def _remedy(one: Odd) -> str:
    """What to do about odd cells, in Python's words."""
    if one.texts:
        means = "that means" if len(one.texts) == 1 else "these mean"
        skip = f", {AsWarnings.skip}" if one.column.role == "target" else ""
        return f"If {means} no value, pass missing_texts={list(one.texts)!r}{skip}."
    if one.marks:
        return f"Pass {', '.join(f'{name}={mark!r}' for name, mark in one.marks.items())}."
    return one.hint or "Mend it."


def left_out_told(reasons: Mapping[str, str]) -> str:
    """Which columns are left out and why, and that dates are better made numbers."""
    told = f"Left out: {', '.join(f'{name} ({reason})' for name, reason in reasons.items())}."
    if DATES in reasons.values():
        told += " A net learns nothing from dates as texts: make a number of them, such as the month or an age in days."
    return told


def nothing_left(columns: Sequence[str]) -> ValidationFailed:
    """The error where all columns are left out."""
    detail = f"No column is left to learn from: there {'is' if len(columns) == 1 else 'are'} {listed(columns)}."
    return ValidationFailed(detail, errors=[Entry("/source/inputs", "missing", detail, hint="Leave fewer out.")])


def near(names: Sequence[str], known: Sequence[str]) -> str:
    """What may be meant by names that are none, or what there is."""
    hints = [hint for one in names if (hint := nearest_hint(one, known)) is not None]
    return " ".join(hints) if len(hints) == len(names) else f"Inputs: {listed(known)}."


def inputs_of(dataset: Dataset) -> list[ColumnView]:
    """The columns that a net would learn from."""
    return [column for column in dataset.columns if column.role == "input"]


def target_of(dataset: Dataset) -> ColumnView:
    """The column that is to be learnt."""
    return next(column for column in dataset.columns if column.role == "target")


def keeps_missing(refused: DatasetRefused) -> bool:
    """Whether the table would be taken with its missing values."""
    gaps = [entry for entry in refused.errors if entry.code == "missing-value"]
    return any('"missing": "keep"' in (entry.hint or "") for entry in gaps)


def explained(refused: DatasetRefused, recipe: Recipe, words: Words) -> DatasetRefused:
    """The refusal, with what to do about a target without values, and without columns that somebody has named."""
    of_target = f", column {shorten(recipe.target)}: A value is missing"
    way = f"pass {words.skip} to leave their rows out"
    hint = f"Fill these cells in, or {way}: what is to be learnt must be known in every row."
    refused.errors = tuple(
        replace(entry, hint=hint) if of_target in entry.detail else entry
        for entry in refused.errors
        if not any(is_about(entry, column) for column in recipe.taken)
    )
    refused.hint = refused.errors[0].hint if refused.errors else None  # that of the server has other words
    return refusals.worded(refused)


def say_in_python(refused: InvalidInput, *, guessed: Plan | None) -> None:
    """Say in Python's words how rows are folded, and what whole numbers may be, where the server knows no argument.

    Args:
        refused: what the server says.
        guessed: the plan that was refused, if the rules found out what its target is.
    """
    may_be_numbers = (
        guessed is not None
        and guessed.request["objective"]["type"] == "cross_entropy"
        and target_of(guessed.dataset).dtype == "int"
        and not target_of(guessed.dataset).classes
    )

    def told(entry: Entry) -> Entry:
        hint = _FOLD.sub(r"Pass shape=\1", entry.hint) if entry.hint else entry.hint
        if may_be_numbers and entry.pointer.startswith("/architecture") and entry.got == "[N, 1]":
            hint = f"{hint or ''} Or pass task='numbers', if the targets are no classes.".strip()
        return replace(entry, hint=hint)

    refused.errors = tuple(map(told, refused.errors))
    refused.hint = refused.errors[0].hint if refused.errors else refused.hint
    refusals.worded(refused)


def is_about(warning: Entry | EntryView, column: str) -> bool:
    """Whether the warning says of this column that it is nearly one of numbers."""
    return warning.code == "nearly-numbers" and warning.detail.startswith(taken_as_texts(column))


def odd_columns(dataset: Dataset, taken: Collection[str]) -> list[Odd]:
    """The columns of numbers of which a few cells make texts, unless they are `taken` as they are."""
    found = []
    for column in dataset.columns:
        for warning in dataset.warnings if column.name not in taken else ():
            told = _NEARLY.search(warning.detail) if is_about(warning, column.name) else None
            if told is None or (told[1] == told[2] and not (warning.hint or "").startswith(_BY_MARKS)):
                continue
            hint = None if (warning.hint or "").startswith("Mend it in the file") else warning.hint
            texts, marks = _members(warning)
            found.append(Odd(column, int(told[2]), int(told[1]), told[3], told[4], told[5], hint, texts, marks))
    return found


def _members(warning: EntryView) -> tuple[tuple[str, ...], dict[str, str]]:
    """What the warning's members of a source take for missing values, and which marks they say that numbers have."""
    try:
        members = json.loads(warning.expected or "{}")
    except ValueError:
        return (), {}
    spellings: dict[str, str] = {}
    for text in members.get("missing_texts", ()):  # in any case they are the same
        spellings.setdefault(text.lower(), text)
    texts = tuple(spellings.values())
    marks = {name: members[name] for name in ("decimal", "thousands") if name in members}
    return (texts if len(texts) <= _MOST_TEXTS else ()), marks


def unfit(dataset: Dataset, exclude: Collection[str]) -> dict[str, str]:
    """The inputs that a net would learn by heart, or nothing of, each with the reason."""
    rest = [column for column in inputs_of(dataset) if column.name not in exclude]
    return {column.name: reason for column in rest if (reason := _unfit(column, dataset.rows or 0)) is not None}


def wide_told(dataset: Dataset, include: Collection[str]) -> list[str]:
    """What becomes of columns of texts that are learnt from although the rules would leave them out."""
    told = []
    for column in inputs_of(dataset):
        reason = _unfit(column, dataset.rows or 0) if column.name in include and column.classes else None
        if reason is not None:
            way = "; better make a number of the date, such as the month or an age in days" if reason == DATES else ""
            texts = f"its {len(column.classes or ())} different texts become a column each"
            told.append(f"{column.name}: {texts}, and another text tells the net nothing{way}.")
    return told


def _unfit(column: ColumnView, rows: int) -> str | None:
    different = len(column.classes or ())
    if column.classes and all(map(_DATE.fullmatch, column.classes)):
        return DATES
    if different == rows >= FEW_ROWS:
        return "another text in each row"
    if different > MOST_CATEGORIES:
        return f"{different} different texts"
    return "numbers the rows" if column.dtype == "int" and _IDS.search(column.name) else None


def may_be_class(dataset: Dataset, task: Task) -> bool:
    """Whether the target is a class, as far as is known without its profile."""
    return task == "classes" or (task == "auto" and target_of(dataset).dtype != "float")


def is_class(dataset: Dataset, task: Task, target: Mapping[str, Any]) -> bool:
    """Whether the target is a class, by its profile."""
    if task != "auto":
        return task == "classes"
    dtype = target_of(dataset).dtype
    return dtype == "text" or (dtype == "int" and are_classes(target["min"], target["max"]))


def are_classes(low: float, high: float) -> bool:
    """Whether whole numbers between these are classes, whatever type they are of: 1.0 is the class 1."""
    return high - low < MOST_CLASSES


def rare_told(target: Mapping[str, Any]) -> str | None:
    """That classes have one row alone, and what to do about it, by the profile of the target; None if none has."""
    rare = target.get("rare")
    if not rare or not rare["count"]:
        return None
    count, names = rare["count"], rare["values"]
    more = f" and {count - len(names)} more" if count > len(names) else ""
    if count == 1:
        told, it, them = f"Only one row is of the class {shorten(names[0])}", "it is", "it"
    else:
        told, it, them = f"Only one row each is of the classes {listed(names)}{more}", "they are", "them"
    return f"{told}: no held-out row can tell whether {it} learnt. Add rows of {them}, or leave {them} out of the file."


def unequal_told(profile: ProfileView, words: Words) -> str | None:
    """That a class has many times the rows of another, and what lets each count the same; None where none has."""
    detail = next((entry.detail for entry in profile.warnings if entry.code == "class-imbalance"), None)
    way = f"{words.weigh} lets each class count the same; judge by more than accuracy."
    return None if detail is None else f"{detail} The rare class may hardly be learnt: {way}"


def request_of(dataset: Dataset, recipe: Recipe, *, classes: bool) -> dict[str, Any]:
    """The request that the rules make of a dataset, without its output."""
    columns, rows = inputs_of(dataset), dataset.rows or 0
    steps: list[dict[str, Any]] = []
    absent = [column.name for column in columns if column.missing and column.dtype != "text"]
    if absent:
        steps.append({"type": "impute", "columns": absent})
    if any(column.dtype != "text" for column in columns):
        steps.append({"type": "standardize"})
    if any(column.dtype == "text" for column in columns):
        steps.append({"type": "one_hot"})
    if not classes:
        steps.append({"type": "standardize", "of": "target"})
    weight = {"weight": "balanced"} if recipe.weigh_classes else {}
    request: dict[str, Any] = {
        "kind": "train",
        "dataset": dataset.id,
        "preprocessing": steps,
        "objective": {"type": "cross_entropy" if classes else "mse"} | weight,
        "optimizer": {"type": "Adam", "lr": recipe.lr},
        "batch_size": recipe.batch_size or (32 if rows < 10_000 else 256 if rows < 200_000 else 1024),
    }
    if rows >= ROWS_FOR_SPLIT:
        kind = "stratified" if classes else "random"
        request["split"] = {"type": kind, "validation": VALIDATION}
        request["early_stopping"] = {"metric": "val_loss", "patience": PATIENCE}
        request["checkpoint"] = {"publish": "best"}
    sizes = {"in_features": "auto", "hidden": list(HIDDEN), "num_classes": "auto"}
    request["architecture"] = recipe.architecture or {"catalogue": "mlp", "params": sizes}
    request["budget"] = {"epochs": recipe.epochs, "max_seconds": 60 * recipe.minutes}
    request["seed"] = recipe.seed
    return request


def output_of(
    request: Mapping[str, Any], model: str, *, alias: str | None, if_better: bool, engine: str | None
) -> dict[str, Any]:
    """What a request says of the version that it makes."""
    output: dict[str, Any] = {"model": model}
    if alias:
        output["alias_on_success"] = {alias: _better(request, alias)} if if_better else alias
    return output if engine is None else {**output, "engine": {"type": engine}}


def _better(request: Mapping[str, Any], alias: str) -> str:
    """The condition that a version is better than that of the alias, by what is held out if anything is."""
    metric = "accuracy" if request["objective"]["type"] == "cross_entropy" else "r2"
    metric = f"val_{metric}" if "split" in request else metric
    return f"{metric} > {alias}.{metric}"
