"""Whether the steps that are asked for suit the columns of a dataset, and what shape a row has behind them.

Part of what `agreement` asks before a job is queued; nothing is fitted. Pointers begin at the job request.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

import numpy as np

from service.engine.examples import Examples
from service.engine.mapped import Array
from service.engine.preprocessing import assigned
from service.engine.profile import are_many, is_large
from service.errors import Entry, listed, shorten
from service.schemas.document import nearest_hint
from service.schemas.objectives import Objective
from service.schemas.transforms import (
    Augmenting,
    CenterCrop,
    Impute,
    Log,
    MinMax,
    NumberStep,
    OneHot,
    PreprocessingStep,
    Resize,
    Standardize,
    TextStep,
    Tokens,
    Vocabulary,
)


def step_mistakes(examples: Examples, steps: Sequence[PreprocessingStep], objective: Objective) -> list[Entry]:
    """Steps that name inputs or columns which are not there, or not of their kind; columns that no step makes numbers
    of, or fills."""
    found: list[Entry] = []
    names = [name for name, _ in examples.parts]
    for i, step in enumerate(steps):
        at = f"/preprocessing/{i}"
        if isinstance(step, (Standardize, MinMax, Log)) and step.of == "target":
            if objective.targets != "numbers" or examples.manifest.target != "number":
                detail = "Only targets that are numbers to be met are scaled."
                found.append(Entry(f"{at}/of", "invalid", detail, hint='Leave "of": "target" out to scale the inputs.'))
            if step.columns != "*":
                detail = "A target has no columns to choose from."
                found.append(Entry(f"{at}/columns", "invalid", detail, hint="Leave `columns` out."))
        elif names and step.input is None:
            which = f"Write one step for each, with one of {', '.join(names)}."
            found.append(Entry(f"{at}/input", "missing", "The dataset has several inputs; say which.", hint=which))
        elif step.input is not None and step.input not in names:
            detail = f"The dataset has no input {shorten(step.input)}."
            hint = nearest_hint(step.input, names) if names else "Leave it out: the dataset has one input."
            found.append(Entry(f"{at}/input", "unknown-member", detail, hint=hint))
    for name, part in examples.parts or (("", examples),):
        own = [
            (f"/preprocessing/{i}", step)
            for i, step in enumerate(steps)
            if getattr(step, "of", "inputs") == "inputs" and (not names or step.input == name)
        ]
        found += _of_input(part, own)
    return found


def row_shapes(
    examples: Examples, steps: Sequence[PreprocessingStep], train_rows: Array
) -> list[tuple[str | None, tuple[int, ...]]]:
    """The name of each input (None for the only one) with the shape of its rows behind the steps.

    Args:
        examples: the dataset.
        steps: as the request has them, without mistakes.
        train_rows: int64 numbers of the rows whose categories count.
    """
    named: Sequence[tuple[str | None, Examples]] = examples.parts or ((None, examples),)
    return [
        (name, _shape(part, [step for step in steps if name is None or step.input == name], train_rows))
        for name, part in named
    ]


def doubtful_columns(examples: Examples, steps: Sequence[PreprocessingStep], *, name: str | None = None) -> list[Entry]:
    """Warnings about columns of a table that a net learns badly as they are: large numbers that no step scales, and
    texts of which nearly each row has another one.

    Args:
        examples: the rows of one input.
        steps: those of this input, without mistakes.
        name: of the input, where there are several.
    """
    if examples.manifest.layout != "table":
        return []
    found = []
    names = [column.name for column in examples.input_columns]
    scaled: set[str] = set()
    spread: set[str] = set()
    for step in steps:
        if isinstance(step, OneHot) or (isinstance(step, _SCALING) and step.of == "inputs"):
            of = spread if isinstance(step, OneHot) else scaled
            of.update(names if step.columns == "*" else step.columns)
    numbers = [column.name for column in examples.input_columns if column.dtype != "text"]
    large = [one for i, one in enumerate(numbers) if one not in scaled and _is_large(examples.numbers[:, i])]
    if large:
        detail = f"The numbers of {listed(large)} are large. Nets train badly on inputs of that size."
        wanted = {"type": "standardize"} | ({} if name is None else {"input": name})
        found.append(_lacks_step("unscaled-inputs", detail, wanted))
    for column in examples.input_columns:
        distinct = len(column.classes or ())
        if column.name in spread and are_many(distinct, examples.rows):
            many = f"{distinct} different texts in {examples.rows} rows"
            detail = f"Column {shorten(column.name)} has {many}: a net learns the rows by heart."
            hint = "Leave it out by naming the inputs."
            found.append(Entry("/dataset", "too-many-categories", detail, hint=hint))
    return found


def doubtful_target(examples: Examples, steps: Sequence[PreprocessingStep], objective: Objective) -> list[Entry]:
    """A warning about targets of a table that a net learns slowly: large numbers that no step scales."""
    manifest = examples.manifest
    if manifest.layout != "table" or manifest.target != "number" or objective.type not in _OF_ANY_UNIT:
        return []
    if any(isinstance(step, _SCALING) and step.of == "target" for step in steps) or not _is_large(examples.targets):
        return []
    step = {"type": "standardize", "of": "target"}
    detail = "The targets are large numbers, which a net learns slowly."
    return [_lacks_step("unscaled-targets", detail, step, ": answers stay in their own unit")]


_SCALING: Final = (Standardize, MinMax, Log)
_OF_ANY_UNIT: Final = frozenset({"mse", "l1", "smooth_l1", "huber", "log_cosh", "quantile"})
"""Objectives whose targets may be scaled."""


def _lacks_step(code: str, detail: str, step: dict[str, str], words: str = "") -> Entry:
    """A warning that `expected` is a step which is missing."""
    shown = json.dumps(step)
    return Entry("/preprocessing", code, detail, hint=f"Add {shown}{words}.", expected=shown)


def _is_large(numbers: Array | None) -> bool:
    values = np.asarray(numbers, dtype=np.float64)
    values = values[~np.isnan(values)]  # which are missing
    return values.size > 0 and is_large(float(values.min()), float(values.max()))


def _of_input(examples: Examples, steps: Sequence[tuple[str, PreprocessingStep]]) -> list[Entry]:
    found: list[Entry] = []
    manifest = examples.manifest
    columns = {column.name: column for column in examples.input_columns}
    kinds = {name: "text" if column.dtype == "text" else "number" for name, column in columns.items()}
    texts = assigned([step for _, step in steps], examples)
    for at, step in steps:
        if not isinstance(step, (NumberStep, TextStep)):
            if manifest.layout == "table":
                detail = f"{step.type} takes images; the rows of this dataset are columns."
                fold = 'Fold them with "shape": [channels, height, width] in the source.'
                found.append(Entry(f"{at}/type", "shape-mismatch", detail, hint=fold))
            elif len(manifest.row_shape) != 3:
                shape = list(manifest.row_shape)
                detail = f"{step.type} takes images, [channels, height, width]; a row has the shape {shape}."
                fold = 'Fold them with "shape": [channels, height, width] in the source, or leave the step out.'
                found.append(Entry(f"{at}/type", "shape-mismatch", detail, hint=fold))
            continue
        if isinstance(step, Impute) and manifest.layout == "array":
            detail = "Only the columns of a table are filled; the rows of this dataset have none."
            found.append(Entry(f"{at}/type", "invalid", detail, hint="Leave the step out."))
            continue
        if isinstance(step, TextStep) and manifest.layout == "array":
            detail = f"{step.type} takes columns of texts; the rows of this dataset are numbers."
            found.append(Entry(f"{at}/type", "wrong-type", detail, hint="Leave the step out."))
            continue
        wanted = "text" if isinstance(step, TextStep) else "number"
        if step.columns == "*":
            continue
        if manifest.layout == "array":
            found.append(
                Entry(f"{at}/columns", "invalid", "The rows of this dataset have no named columns.", hint='Use "*".')
            )
            continue
        for j, name in enumerate(step.columns):
            where = f"{at}/columns/{j}"
            if kinds.get(name) is None:
                hint = nearest_hint(name, kinds)
                found.append(Entry(where, "unknown-column", f"There is no input {shorten(name)}.", hint=hint))
            elif kinds[name] != wanted:
                hint = 'Use {"type": "one_hot"}.' if wanted == "number" else None
                detail = f"Column {shorten(name)} is a column of {kinds[name]}s; this step takes {wanted}s."
                found.append(Entry(where, "wrong-type", detail, hint=hint))
            elif columns[name].free and isinstance(step, (OneHot, Vocabulary)):
                detail = f"Column {shorten(name)} is free text, which has no categories."
                found.append(Entry(where, "wrong-type", detail, hint='Use {"type": "tokens"}.'))
            elif wanted == "text" and texts.get(name) is not step:
                detail = f"Another step makes numbers of column {shorten(name)} already."
                found.append(Entry(where, "duplicate", detail, hint="Take it out of one of them."))
    found += _unserved(examples, steps, kinds, set(texts))
    return found


def _unserved(
    examples: Examples, steps: Sequence[tuple[str, PreprocessingStep]], kinds: dict[str, str], encoded: set[str]
) -> list[Entry]:
    """Texts that no step makes numbers of, missing numbers that none fills."""
    found = []
    filled: set[str] = set()
    for _, step in steps:
        if isinstance(step, Impute):
            filled |= set(kinds) if step.columns == "*" else set(step.columns)
    for column in examples.input_columns:
        name = column.name
        if kinds[name] == "text" and name not in encoded:
            kind = "tokens" if column.free else "one_hot"
            shown = shorten(next(examples.text(name, np.arange(1)), "")) if column.free else None
            first = shown or shorten((column.classes or ("",))[0])
            found.append(
                Entry(
                    "/preprocessing",
                    "text-column",
                    f"Column {shorten(name)} has texts ({first}); a net takes numbers.",
                    hint=f'Add {{"type": "{kind}"}}, or leave the column out of the inputs.',
                )
            )
        elif kinds[name] == "number" and column.missing and name not in filled:
            detail = f"Column {shorten(name)} has {column.missing} missing values; a net takes numbers."
            hint = 'Add {"type": "impute"} before the other steps, or leave the column out of the inputs.'
            found.append(Entry("/preprocessing", "missing-value", detail, hint=hint))
    return found


def _shape(examples: Examples, steps: Sequence[PreprocessingStep], train_rows: Array) -> tuple[int, ...]:
    manifest = examples.manifest
    if manifest.layout == "array":
        shape = manifest.row_shape
        for step in steps:
            if isinstance(step, (Resize, CenterCrop)) and len(shape) == 3:
                shape = (shape[0], *step.size)
        return shape
    texts = assigned([step for step in steps if not isinstance(step, Augmenting)], examples)
    width = place = 0
    for column in examples.input_columns:
        if column.dtype != "text":
            width += 1
            continue
        match texts.get(column.name):
            case Tokens(max_length=length):
                width += length
            case Vocabulary():
                width += 1
            case _ if not column.free:
                width += int((np.unique(np.asarray(examples.codes[:, place])[train_rows]) >= 0).sum())
            case _:
                pass
        place += not column.free
    return (width,)
