"""Answers that can do a little more than their schema: show themselves in a notebook, become arrays and tables.

Knows no request. numpy and pandas are imported when they are asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from pydantic import PrivateAttr

from service.schemas import views
from service.schemas.states import FINAL

_STYLE = "border-collapse:collapse;font:13px system-ui,sans-serif"
_ROWS_SHOWN = 20
_NAMED = 10
"""Columns, and answers, that are printed in a line."""


class _Short(views.View):
    """An answer that prints itself in a line; what it has is in its members."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._told()}>"

    def __str__(self) -> str:
        return "\n".join([repr(self), *(f"warning: {one.detail}" for one in getattr(self, "warnings", ()))])

    def _told(self) -> str:
        raise NotImplementedError


class _Seen(_Short):
    """An answer that knows the ETag with which it came: given back to a change, it must not have changed meanwhile."""

    _etag: str | None = PrivateAttr(None)

    @property
    def etag(self) -> str | None:
        """What If-Match takes."""
        return self._etag


class Job(views.JobView, _Seen):
    """A job."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen, unless it is retried."""
        return self.state in FINAL

    @property
    def version(self) -> int | None:
        """The number of the version that it made."""
        return None if self.output is None else self.output.get("version")

    def _told(self) -> str:
        made = self.output or {}
        reference = "/".join(str(made[name]) for name in ("model", "version") if made.get(name) is not None)
        error = "" if self.error is None else f"{self.error.code}: {self.error.detail}"
        metrics = _numbers(self.metrics.get("last") or {})
        parts = (self.state.value, reference, *(f"{name} {value}" for name, value in metrics.items()), error)
        return f"{self.id} {self.kind}: {', '.join(filter(None, parts))}"

    def _repr_html_(self) -> str:
        """For notebooks."""
        told: dict[str, Any] = {"state": self.state.value}
        if self.state_reason:
            told["because"] = self.state_reason
        if self.output:
            told["makes"] = " ".join(str(value) for value in self.output.values() if isinstance(value, (str, int)))
        fraction = (self.progress or {}).get("fraction")
        if fraction is not None and not self.ended:
            told["progress"] = f"{100 * fraction:.0f} %"
        told |= _numbers(self.metrics.get("last") or {})
        if self.error is not None:
            told["error"] = f"{self.error.code}: {self.error.detail}"
            if self.error.hint:
                told["hint"] = self.error.hint
        return _pairs(f"{self.kind} job {self.id}", told)


class Version(views.VersionView, _Seen):
    """A version."""

    @property
    def reference(self) -> str:
        """What a prediction names it by."""
        return f"{self.model}/{self.version}"

    def _told(self) -> str:
        metrics = (f"{name} {value}" for name, value in _numbers(self.metrics).items())
        return f"{self.reference}: {', '.join([self.state, *self.aliases, *metrics])}"

    def _repr_html_(self) -> str:
        """For notebooks."""
        signature = self.signature
        told: dict[str, Any] = {
            "state": self.state,
            "aliases": ", ".join(self.aliases) or "none",
            "takes": ", ".join(signature.columns or [f"{one.name} {one.shape}" for one in signature.inputs]),
            "answers": ", ".join(self.classes or [f"{one.name} {one.shape}" for one in signature.outputs]),
            "size": f"{self.size_bytes:,} bytes",
            "digest": self.digest[:19] + "…",
        }
        return _pairs(f"{self.model} version {self.version}", told | _numbers(self.metrics))


class Model(views.ModelView, _Seen):
    """A model."""

    def _told(self) -> str:
        aliases = (f"{alias} is version {number}" for alias, number in self.aliases.items())
        return f"{self.model}: {', '.join([f'{self.versions} versions', *aliases])}"

    def _repr_html_(self) -> str:
        """For notebooks."""
        aliases = ", ".join(f"{alias} → {number}" for alias, number in self.aliases.items()) or "none"
        return _pairs(self.model, {"versions": self.versions, "latest": self.latest, "aliases": aliases})


class Alias(views.AliasView, _Seen):
    """Where an alias points."""

    def _told(self) -> str:
        return f"{self.model}@{self.alias}: version {self.version}"


class Dataset(views.DatasetView, _Short):
    """A dataset."""

    def _told(self) -> str:
        names = [column.name for column in self.columns]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        columns = f"columns {', '.join(names[:_NAMED])}{more}" if names else ""
        rows = "" if self.rows is None else f"{self.rows} rows"
        return f"{self.id} {self.name or ''}".rstrip() + f": {', '.join(filter(None, (self.state, rows, columns)))}"

    def _repr_html_(self) -> str:
        """For notebooks."""
        head = f"dataset {self.name or self.id}: {self.rows} rows, {self.state}"
        names = ("name", "role", "dtype", "shape", "missing", "classes")
        rows = [[getattr(column, name) for name in names] for column in self.columns]
        return f"<p><b>{escape(head)}</b></p>" + _table(names, rows)


class Prediction(views.PredictionView, _Short):
    """The answer of a version, one entry a row."""

    def _told(self) -> str:
        found = self.predictions
        more = f", … {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        who = f"of {self.model}/{self.version}" if self.model else f"of {self.job}"
        return f"{who}: {', '.join(_cell(one) for one in found[:_NAMED])}{more}"

    @property
    def predictions(self) -> list[Any]:
        """One entry a row: the label of a classifier, the number of a net with one, else what the outputs have."""
        if isinstance(self.outputs, dict):
            return self.lines()
        names, rows = self._lines()
        return [row[0] for row in rows] if names[0] == "prediction" else rows

    def numpy(self, output: str | None = None) -> Any:
        """The outputs as an array [rows, …]; a null, which stands for a number that is not finite, becomes NaN.

        Args:
            output: which one, where the net has several.
        """
        numpy = _library("numpy", "numpy")
        found = self.outputs if not isinstance(self.outputs, dict) else self.outputs[output or next(iter(self.outputs))]
        return numpy.asarray(found, dtype=float)

    def frame(self) -> Any:
        """A pandas table with one line a row: the label and the probability of each class, else the outputs."""
        pandas = _library("pandas", "pandas")
        names, rows = self._lines()
        return pandas.DataFrame(rows, columns=list(names))

    def lines(self) -> list[dict[str, Any]]:
        """One object a row: the label and the probability of each class, else the outputs."""
        names, rows = self._lines()
        return [dict(zip(names, row, strict=True)) for row in rows]

    def _lines(self) -> tuple[Sequence[str], list[list[Any]]]:
        if self.labels is not None:
            classes = [f"p({name})" for name in self.classes or ()]
            odds = self.probabilities or [[] for _ in self.labels]
            rows = [[label, *row] for label, row in zip(self.labels, odds, strict=True)]
            return ("prediction", *classes) if self.probabilities else ("prediction",), rows
        if isinstance(self.outputs, dict):
            return list(self.outputs), [list(row) for row in zip(*self.outputs.values(), strict=True)]
        first = self.outputs[0] if self.outputs else None
        if isinstance(first, list) and not isinstance(first[0], list):
            names = ["prediction"] if len(first) == 1 else [f"output_{place}" for place in range(len(first))]
            return names, [list(row) for row in self.outputs]
        return ("prediction",), [[row] for row in self.outputs]

    def _repr_html_(self) -> str:
        """For notebooks."""
        names, rows = self._lines()
        who = f"{self.model} version {self.version}" if self.model else f"job {self.job}"
        warnings = "".join(f"<li>{escape(found.pointer)}: {escape(found.detail)}</li>" for found in self.warnings)
        more = f"<p>… and {len(rows) - _ROWS_SHOWN} more</p>" if len(rows) > _ROWS_SHOWN else ""
        return f"<p><b>{escape(who)}</b></p>{_table(names, rows[:_ROWS_SHOWN])}{more}<ul>{warnings}</ul>"


def _library(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"This needs {name}: pip install 'modelyard[{extra}]'.") from error


def _numbers(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: f"{value:.4g}" for name, value in metrics.items() if isinstance(value, (int, float))}


def _pairs(title: str, told: dict[str, Any]) -> str:
    return f"<p><b>{escape(title)}</b></p>" + _table((), told.items())


def _table(names: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    head = "".join(f"<th style='text-align:left;padding:2px 8px'>{escape(name)}</th>" for name in names)
    lines = "".join(
        "<tr>" + "".join(f"<td style='padding:2px 8px'>{escape(_cell(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table style='{_STYLE}'>{f'<tr>{head}</tr>' if names else ''}{lines}</table>"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 200 else text[:199] + "…"
