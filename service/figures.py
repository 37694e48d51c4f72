"""Figures as Plotly JSON, `{"data": […], "layout": {…}}`: plain dicts made of plain numbers.

Knows neither plotly nor torch, no job and no file: it is handed curves, a report of a net's answers and what a worker
saw of a net, and says of each figure how it looks or why there is none.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
from tsdownsample import MinMaxLTTBDownsampler

Figure: TypeAlias = dict[str, Any]

_PARTS: Final = {
    "val": "validation rows",
    "test": "test rows",
    "all": "rows",
    "train": "training rows",
}
"""Parts of the rows, those first that say most about a net."""
_WEIGHTS_SHOWN: Final = 12
_COUNTS_WRITTEN: Final = 20
_LOG_FROM: Final = 100.0
"""A loss whose largest value is so many times its smallest is drawn over a logarithmic axis."""
_PLAIN_POWERS: Final = 3.0
_PLAIN_FROM: Final = 1e-4
_PLAIN_TO: Final = 1e5
"""Over at most so many powers of ten, between these, a logarithmic axis has plain numbers at its ticks."""
_POWERS_SHOWN: Final = 8
_ABOVE: Final = 1.25
"""An axis for a single value ends at so many times the value."""
_COLOURS: Final = (
    "#1f77b4",
    "#ff7f0e",
    "#2ca02c",
    "#d62728",
    "#9467bd",
    "#8c564b",
    "#e377c2",
    "#7f7f7f",
    "#bcbd22",
    "#17becf",
)
_SYMBOLS: Final = ("circle", "diamond", "square", "cross", "x", "triangle-up", "star", "pentagon", "hexagon", "bowtie")


@dataclass(frozen=True, slots=True)
class Curve:
    """One metric over the steps, in their order."""

    steps: Sequence[int]
    epochs: Sequence[int]
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class Material:
    """What there is to draw from."""

    curves: Mapping[str, Curve] = field(default_factory=dict)
    """By the name of the metric."""
    report: Mapping[str, Any] | None = None
    """The answers, as `report.json` has them."""
    seen: Mapping[str, Any] | None = None
    """The net, as `seen.json` has it."""
    trains: bool = True
    """Whether the job is of a kind that has curves."""
    goes_on: bool = False
    """Whether more may come."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked of a figure beside its name; each has its own way with those that mean nothing to it."""

    points: int = 1000
    part: str | None = None
    layer: str | None = None


@dataclass(frozen=True, slots=True)
class Absent:
    """Why there is no such figure; `yet` if it may come."""

    reason: str
    yet: bool = False


@dataclass(frozen=True, slots=True)
class _Kind:
    title: str
    lacks: Callable[[Material], Absent | None]
    draw: Callable[[Material, Wish], Figure | Absent]


def names() -> tuple[str, ...]:
    """The names of all figures."""
    return tuple(_KINDS)


def listing(material: Material) -> list[dict[str, Any]]:
    """Every figure: its `name`, its `title`, whether it is `available`, and the `reason` where it is not."""
    found = []
    for name, kind in _KINDS.items():
        absent = kind.lacks(material)
        reason = None if absent is None else absent.reason
        found.append({"name": name, "title": kind.title, "available": absent is None, "reason": reason})
    return found


def draw(name: str, material: Material, wish: Wish | None = None) -> Figure | Absent:
    """A figure, or why there is none.

    Raises:
        KeyError: there is no figure of this name.
    """
    kind = _KINDS[name]
    return kind.lacks(material) or kind.draw(material, wish or Wish())


def thinned(values: Sequence[float], points: int) -> list[int]:
    """Places of at most so many values between which a line looks as it does between all; first and last are there.

    By MinMaxLTTB (Van Der Donckt et al. 2023): peaks are kept, and every value shown is one that was measured.

    Args:
        values: finite, evenly spaced.
        points: 2 or more.
    """
    if len(values) <= points:
        return list(range(len(values)))
    if points < 3:  # it needs a place between the first and the last
        return [0, len(values) - 1]
    downsampler = MinMaxLTTBDownsampler()  # type: ignore[no-untyped-call]  # its constructor has no annotations
    return [int(place) for place in downsampler.downsample(np.asarray(values, dtype=float), n_out=points)]


# -- curves ---------------------------------------------------------------------------------------------------------

_LOSSES: Final = ("loss", "val_loss")


def _no_curve(material: Material) -> Absent | None:
    if any(name in material.curves for name in _LOSSES):
        return None
    if not material.trains:
        return Absent("Only a training has a curve of its loss.")
    return Absent("No step has been reported.", yet=material.goes_on)


def _loss(material: Material, wish: Wish) -> Figure:
    told = [(name, material.curves[name]) for name in _LOSSES if name in material.curves]
    traces = [_line(name, curve, wish.points, place) for place, (name, curve) in enumerate(told)]
    values = [value for _, curve in told for value in curve.values]
    low, high = min(values), max(values)
    axis = _logarithmic(low, high) if low > 0 and high / low >= _LOG_FROM else _lone_value(values)
    steps = _lone_step(curve for _, curve in told)
    return _figure(traces, f"Loss{_until(material)}", "step", "loss", xaxis=steps, yaxis=axis)


def _lone_step(curves: Iterable[Curve]) -> dict[str, Any]:
    """An axis around the only step that there is, with whole numbers; plotly's own has halves."""
    steps = {step for curve in curves for step in curve.steps}
    if len(steps) > 1:
        return {}
    [step] = steps
    return {"range": [step - 1, step + 1], "dtick": 1}


def _lone_value(values: Sequence[float]) -> dict[str, Any]:
    """An axis from zero for a single value; plotly's own has a unit on each side, so losses below zero."""
    if len(values) > 1 or not math.isfinite(values[0] * _ABOVE):
        return {}
    return {"range": sorted([0.0, values[0] * _ABOVE or 1.0])}


def _logarithmic(low: float, high: float) -> dict[str, Any]:
    """An axis with 1, 2 and 5 of each power as plain numbers; powers of ten where those would be long or many."""
    powers = math.log10(high) - math.log10(low)
    if powers <= _PLAIN_POWERS and low >= _PLAIN_FROM and high <= _PLAIN_TO:
        return {"type": "log", "dtick": "D2", "tickformat": "~g"}
    return {"type": "log", "dtick": math.ceil(powers / _POWERS_SHOWN), "exponentformat": "power"}


def _no_metrics(material: Material) -> Absent | None:
    if any(name not in _LOSSES for name in material.curves):
        return None
    if not material.trains:
        return Absent("Only a training has curves of its metrics; see the job's metrics.")
    return Absent("No step has been reported.", yet=material.goes_on)


def _metrics(material: Material, wish: Wish) -> Figure:
    told = [(name, curve) for name, curve in material.curves.items() if name not in _LOSSES]
    told.sort(key=lambda one: one[0] == "lr")  # which is no metric: last
    told = [(name, curve) for name, curve in told if name != "lr" or len({*curve.values}) > 1] or told
    traces = []
    layout: dict[str, Any] = {}
    for place, (name, curve) in enumerate(told):
        number = str(place + 1) if place else ""
        traces.append(_line(name, curve, wish.points, place) | {"xaxis": "x", "yaxis": f"y{number}"})
        high = 1 - place / len(told)
        layout[f"yaxis{number}"] = {
            "title": {"text": name},
            "domain": [high - 0.85 / len(told), high],
            "automargin": True,
            **_lone_value(curve.values),
        }
    steps = _lone_step(curve for _, curve in told)
    layout["xaxis"] = {"title": {"text": "step"}, "anchor": f"y{len(told)}" if len(told) > 1 else "y", **steps}
    layout |= {"title": {"text": f"Metrics{_until(material)}"}, "showlegend": False}
    return {"data": traces, "layout": layout | {"height": max(360, 200 * len(told))}}


def _line(name: str, curve: Curve, points: int, place: int) -> dict[str, Any]:
    kept = thinned(curve.values, points)
    return {
        "type": "scatter",
        "mode": "lines" if len(kept) > 1 else "markers",
        "name": name,
        "x": [curve.steps[i] for i in kept],
        "y": [curve.values[i] for i in kept],
        "customdata": [curve.epochs[i] for i in kept],
        "hovertemplate": "step %{x}, epoch %{customdata}: %{y:.6g}<extra>%{fullData.name}</extra>",
        "line": {"color": _COLOURS[place % len(_COLOURS)]},
    }


def _until(material: Material) -> str:
    last = max(curve.steps[-1] for curve in material.curves.values())
    epoch = max(curve.epochs[-1] for curve in material.curves.values())
    return f" until step {last:,}, epoch {epoch:,}"


# -- what the net answers ---------------------------------------------------------------------------------------------


def _lacks_section(name: str) -> Callable[[Material], Absent | None]:
    """Whether a part of what the worker saw is missing, and why."""

    def lacks(material: Material) -> Absent | None:
        seen = material.seen
        if seen is None:
            return _unseen(material)
        if seen.get(name):
            return None
        reason = seen["absent"].get(name, "The worker saw nothing of it.")
        return Absent(reason, yet=name in seen["later"] and material.goes_on)

    return lacks


def _unseen(material: Material) -> Absent:
    if material.goes_on:
        return Absent("The job has kept no checkpoint yet from which this is drawn.", yet=True)
    return Absent("The job has left nothing that this is drawn from.")


def _fit(material: Material, _: Wish) -> Figure:
    seen = _seen(material)
    fit = seen["fit"]
    traces = []
    for place, (part, rows) in enumerate(fit["rows"].items()):
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": _PARTS[part],
                "x": rows["x"],
                "y": rows["y"],
                "marker": {"color": _COLOURS[place], "symbol": _SYMBOLS[place], "size": 6, "opacity": 0.6},
            }
        )
    traces.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": "net",
            "x": fit["x"],
            "y": fit["y"],
            "line": {"color": "#d62728", "width": 3},
        }
    )
    return _figure(traces, f"Fit{_at(seen)}", _plain(fit["input"]), "target", **_when(seen))


def _decision(material: Material, _: Wish) -> Figure:
    seen = _seen(material)
    decision = seen["decision"]
    classes = [_plain(name) for name in decision["classes"]]
    count = len(classes)
    bands = [_COLOURS[place % len(_COLOURS)] for place in range(count)]
    scale = [[edge / count, colour] for place, colour in enumerate(bands) for edge in (place, place + 1)]
    traces: list[dict[str, Any]] = [
        {
            "type": "heatmap",
            "x": decision["x"],
            "y": decision["y"],
            "z": decision["index"],
            "customdata": decision["score"],
            "zmin": -0.5,
            "zmax": count - 0.5,
            "colorscale": scale,
            "showscale": False,
            "opacity": 0.35,
            "hovertemplate": "(%{x:.4g}, %{y:.4g}): probability %{customdata:.3f}<extra></extra>",
        }
    ]
    for part, rows in decision["rows"].items():
        for label, name in enumerate(classes):
            places = [i for i, each in enumerate(rows["class"]) if each == label]
            if not places:
                continue
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": name if part == "train" else f"{name}, {_PARTS[part]}",
                    "legendgroup": str(label),
                    "x": [rows["x"][i] for i in places],
                    "y": [rows["y"][i] for i in places],
                    "marker": {
                        "color": bands[label],
                        "symbol": _SYMBOLS[label % len(_SYMBOLS)] + ("" if part == "train" else "-open"),
                        "size": 7,
                    },
                }
            )
    first, second = decision["inputs"]
    return _figure(traces, f"Decision regions{_at(seen)}", _plain(first), _plain(second), **_when(seen))


def _no_answers(kind: str, member: str) -> Callable[[Material], Absent | None]:
    """Whether the report lacks a member that figures of this kind of answers are drawn from."""

    def lacks(material: Material) -> Absent | None:
        report = material.report
        if report is None:
            return _unseen(material)
        parts = report["parts"].values()
        if any(part.get(member) for part in parts):
            return None
        if not parts:
            return Absent("The answers are not finite, or the objective says nothing of classes or numbers.")
        if all((part["kind"] == "numbers") != (kind == "numbers") for part in parts):
            said = "classes" if kind == "classes" else "numbers"
            return Absent(f"This is about {said}, and the net answers {'numbers' if said == 'classes' else 'classes'}.")
        return Absent(_WITHOUT[member])

    return lacks


_WITHOUT: Final = {
    "confusion": "There are several labels a row, or more classes than a matrix can show.",
    "roc": "No part of the rows has both rows of a class and rows of others.",
    "calibration": "There are no rows.",
    "points": "There are no rows.",
}


def _part_of(material: Material, wish: Wish, member: str) -> tuple[str, Mapping[str, Any]] | Absent:
    """The part of the rows that is asked for, or the one that says most."""
    assert material.report is not None
    parts = material.report["parts"]
    there = [name for name in _PARTS if parts.get(name, {}).get(member)]
    if wish.part is not None and wish.part not in there:
        return Absent(f"There is nothing of the part {wish.part}; it can be drawn of: {', '.join(there)}.")
    part = wish.part or there[0]
    return part, parts[part]


def _of_rows(part: str, told: Mapping[str, Any]) -> str:
    count, total = told["rows"], told.get("of_rows", told["rows"])
    return f"{count:,} {_PARTS[part]}" if count == total else f"{count:,} of {total:,} {_PARTS[part]}"


def _class_names(material: Material, count: int) -> list[str]:
    """Names of classes for an axis; twins and numbers stay what they are."""
    assert material.report is not None
    classes = material.report.get("classes") or []
    return [_plain(str(classes[i])) if i < len(classes) else str(i) for i in range(count)]


def _answers(material: Material, wish: Wish) -> Figure | Absent:
    found = _part_of(material, wish, "points")
    if isinstance(found, Absent):
        return found
    part, told = found
    points = told["points"]
    finite = [value for value in (*points["target"], *points["answer"]) if value is not None]
    low, high = min(finite), max(finite)
    traces = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "rows",
            "x": points["target"],
            "y": points["answer"],
            "marker": {"color": _COLOURS[0], "size": 6, "opacity": 0.6},
        },
        _diagonal(low, high),
    ]
    return _figure(traces, f"Answers beside targets, {_of_rows(part, told)}", "target", "answer")


def _confusion(material: Material, wish: Wish) -> Figure | Absent:
    found = _part_of(material, wish, "confusion")
    if isinstance(found, Absent):
        return found
    part, told = found
    matrix = told["confusion"]
    classes = _class_names(material, len(matrix))
    share = [[round(count / max(1, sum(row)), 4) for count in row] for row in matrix]
    written = {"text": matrix, "texttemplate": "%{text}"} if len(matrix) <= _COUNTS_WRITTEN else {}
    places = list(range(len(matrix)))  # by number: two classes may have one name
    trace = {
        "type": "heatmap",
        "x": places,
        "y": places,
        "z": share,
        "customdata": matrix,
        "colorscale": [[0, "#f7fbff"], [0.5, "#6baed6"], [1, "#08306b"]],
        "zmin": 0,
        "zmax": 1,
        "colorbar": {"title": {"text": "share of the class"}},
        "hovertemplate": "class %{y}, taken for %{x}: %{customdata} rows<extra></extra>",
        **written,
    }
    ticks = {"tickmode": "array", "tickvals": places, "ticktext": classes} if len(classes) <= 40 else {}
    title = f"Confusion, {_of_rows(part, told)}"
    return _figure(
        [trace], title, "answer", "class", xaxis=ticks, yaxis={**ticks, "autorange": "reversed", "automargin": True}
    )


def _roc(material: Material, wish: Wish) -> Figure | Absent:
    found = _part_of(material, wish, "roc")
    if isinstance(found, Absent):
        return found
    part, told = found
    curves = told["roc"]
    classes = _class_names(material, max(curve["class"] for curve in curves) + 1)
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"{classes[curve['class']]} (area {curve['auc']:.4f})",
            "x": curve["fpr"],
            "y": curve["tpr"],
            "line": {"color": _COLOURS[place % len(_COLOURS)]},
        }
        for place, curve in enumerate(curves)
    ]
    title = f"ROC, each class against the rest, {_of_rows(part, told)}"
    return _figure([*traces, _diagonal(0, 1)], title, "false positive rate", "true positive rate")


def _calibration(material: Material, wish: Wish) -> Figure | Absent:
    found = _part_of(material, wish, "calibration")
    if isinstance(found, Absent):
        return found
    part, told = found
    bins = told["calibration"]
    traces = [
        {
            "type": "bar",
            "name": "rows that were right",
            "x": [(one["low"] + one["high"]) / 2 for one in bins],
            "y": [one["accuracy"] for one in bins],
            "width": [one["high"] - one["low"] for one in bins],
            "customdata": [one["rows"] for one in bins],
            "marker": {"color": _COLOURS[0], "opacity": 0.6},
            "hovertemplate": "%{customdata} rows, %{y:.3f} right<extra></extra>",
        },
        {
            "type": "scatter",
            "mode": "markers",
            "name": "mean confidence",
            "x": [one["confidence"] for one in bins],
            "y": [one["accuracy"] for one in bins],
            "marker": {"color": "#d62728", "symbol": "diamond", "size": 8},
        },
        _diagonal(0, 1),
    ]
    title = f"Calibration, {_of_rows(part, told)}, expected error {told['ece']:.4f}"
    unit = {"range": [0, 1]}
    return _figure(traces, title, "confidence", "share that was right", xaxis=unit, yaxis=unit)


def _diagonal(low: float, high: float) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "showlegend": False,
        "hoverinfo": "skip",
        "x": [low, high],
        "y": [low, high],
        "line": {"color": "#7f7f7f", "dash": "dash", "width": 1},
    }


# -- what the net is --------------------------------------------------------------------------------------------------


def _weights(material: Material, wish: Wish) -> Figure | Absent:
    seen = _seen(material)
    every = seen["weights"]
    chosen = [one for one in every if wish.layer is None or _is_under(one["name"], wish.layer)]
    if not chosen:
        return Absent(f"No parameter lies under {wish.layer}; there are: {', '.join(one['name'] for one in every)}.")
    shown = chosen[:_WEIGHTS_SHOWN]
    more = f", {len(shown)} of {len(chosen)} parameters" if len(shown) < len(chosen) else ""
    traces = []
    layout = _tiles([one["name"] for one in shown], columns=3, ticks=True)
    for place, one in enumerate(shown):
        counts = one["counts"]
        width = (one["high"] - one["low"]) / len(counts)
        traces.append(
            {
                "type": "bar",
                "name": one["name"],
                "x": [one["low"] + (i + 0.5) * width for i in range(len(counts))],
                "y": counts,
                "marker": {"color": _COLOURS[0]},
                "hovertemplate": "%{x:.4g}: %{y}<extra></extra>",
                **_axes(place),
            }
        )
    layout |= {"title": {"text": f"Weights{_at(seen)}{more}"}, "showlegend": False, "bargap": 0} | _when(seen)
    return {"data": traces, "layout": layout | {"height": 160 + 200 * math.ceil(len(shown) / 3)}}


def _images(material: Material, _: Wish) -> Figure:
    seen = _seen(material)
    images = seen["images"]
    traces = [
        {
            "type": "image",
            "name": f"row {one['row']}",
            "source": f"data:image/png;base64,{one['png']}",
            "hovertemplate": f"row {one['row']}<extra></extra>",
            **_axes(place),
        }
        for place, one in enumerate(images["rows"])
    ]
    layout = _tiles([_said(one) for one in images["rows"]], columns=4)
    layout |= {"title": {"text": f"{len(traces)} {_PARTS[images['part']]}: label → answer{_at(seen)}"}} | _when(seen)
    return {"data": traces, "layout": layout | {"height": 160 + 180 * math.ceil(len(traces) / 4)}}


def _said(one: Mapping[str, Any]) -> str:
    answer = one["answer"] if one["score"] is None else f"{one['answer']} ({one['score']:.2f})"
    return f"{one['truth']} → {answer}" if answer is not None else f"{one['truth']}"


def _features(material: Material, wish: Wish) -> Figure | Absent:
    seen = _seen(material)
    layers = seen["features"]["layers"]
    paths = [layer["path"] for layer in layers]
    if wish.layer is not None and wish.layer not in paths:
        return Absent(f"There are no feature maps of {wish.layer}; there are of: {', '.join(paths)}.")
    layer = layers[paths.index(wish.layer) if wish.layer is not None else 0]
    height, width = layer["thinned"]
    low, high = layer["low"], layer["high"]
    traces = []
    for place, channel in enumerate(layer["channels"]):
        steps = np.frombuffer(base64.b64decode(channel), dtype=np.uint8).reshape(height, width)
        values = low + (high - low) * steps.astype(float) / 255
        traces.append(
            {
                "type": "heatmap",
                "name": f"channel {place}",
                "z": [[float(f"{value:.4g}") for value in row] for row in values.tolist()],
                "coloraxis": "coloraxis",
                "hovertemplate": "%{z:.4g}<extra>%{fullData.name}</extra>",
                **_axes(place),
            }
        )
    layout = _tiles([f"channel {place}" for place in range(len(traces))], columns=4)
    for name in [name for name in layout if name.startswith("yaxis")]:
        layout[name]["autorange"] = "reversed"
    shape = " × ".join(map(str, layer["shape"]))
    title = f"Feature maps of {layer['path']} ({layer['type']}, {shape}), row {seen['features']['row']}{_at(seen)}"
    layout |= {
        "title": {"text": title},
        "coloraxis": {"colorscale": "Viridis", "cmin": low, "cmax": high if high > low else low + 1},
    }
    layout |= _when(seen, layer=layer["path"], layers=paths)
    return {"data": traces, "layout": layout | {"height": 160 + 180 * math.ceil(len(traces) / 4)}}


# -- layouts ----------------------------------------------------------------------------------------------------------


def _figure(
    traces: list[dict[str, Any]],
    title: str,
    x: str,
    y: str,
    *,
    xaxis: Mapping[str, Any] | None = None,
    yaxis: Mapping[str, Any] | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Figure:
    layout = {
        "title": {"text": title},
        "xaxis": {"title": {"text": x}, **(xaxis or {})},
        "yaxis": {"title": {"text": y}, **(yaxis or {})},
        "hovermode": "closest",
        **({"meta": meta} if meta is not None else {}),
    }
    return {"data": traces, "layout": layout}


def _seen(material: Material) -> Mapping[str, Any]:
    assert material.seen is not None
    return material.seen


def _at(seen: Mapping[str, Any]) -> str:
    return f", step {seen['step']:,}, epoch {seen['epoch']:,}"


def _when(seen: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """What programs read of when it was seen, beside the title that people read."""
    return {"meta": {"step": seen["step"], "epoch": seen["epoch"], "final": seen["final"], **more}}


def _axes(place: int) -> dict[str, str]:
    number = str(place + 1) if place else ""
    return {"xaxis": f"x{number}", "yaxis": f"y{number}"}


def _tiles(labels: Sequence[str], *, columns: int, ticks: bool = False) -> dict[str, Any]:
    """A layout of small pictures in rows, each with its label above it."""
    rows = math.ceil(len(labels) / columns)
    layout: dict[str, Any] = {"annotations": list(_labels(labels))}
    for place in range(len(labels)):
        row, column = divmod(place, columns)
        number = str(place + 1) if place else ""
        left, top = column / columns, 1 - row / rows
        gap = 0.05 if ticks else 0.02
        layout[f"xaxis{number}"] = {"anchor": f"y{number}", "domain": [left + gap / 2, left + 1 / columns - gap / 2]}
        layout[f"yaxis{number}"] = {"anchor": f"x{number}", "domain": [top - (0.62 if ticks else 0.8) / rows, top]}
        if not ticks:
            layout[f"xaxis{number}"]["visible"] = False
            layout[f"yaxis{number}"] |= {"visible": False, "scaleanchor": f"x{number}"}
    return layout


def _labels(labels: Sequence[str]) -> Iterator[dict[str, Any]]:
    for place, label in enumerate(labels):
        number = str(place + 1) if place else ""
        yield {
            "text": _plain(label),
            "showarrow": False,
            "font": {"size": 11},
            "x": 0.5,
            "y": 1,
            "xref": f"x{number} domain",
            "yref": f"y{number} domain",
            "xanchor": "center",
            "yanchor": "bottom",
        }


def _plain(label: str) -> str:
    """Text in which plotly finds no markup, cut where it is long."""
    short = label if len(label) <= 40 else f"{label[:39]}…"
    return short.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _is_under(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")


_KINDS: Final[Mapping[str, _Kind]] = {
    "loss": _Kind("Loss over the steps", _no_curve, _loss),
    "metrics": _Kind("Metrics of the held-out rows, and the learning rate", _no_metrics, _metrics),
    "fit": _Kind("The net's curve through the rows", _lacks_section("fit"), _fit),
    "decision": _Kind("Decision regions over two inputs", _lacks_section("decision"), _decision),
    "answers": _Kind("Answers beside targets", _no_answers("numbers", "points"), _answers),
    "confusion": _Kind("Confusion matrix", _no_answers("classes", "confusion"), _confusion),
    "roc": _Kind("ROC curves", _no_answers("classes", "roc"), _roc),
    "calibration": _Kind("Calibration", _no_answers("classes", "calibration"), _calibration),
    "weights": _Kind("Histograms of the weights", _lacks_section("weights"), _weights),
    "images": _Kind("Images with their answers", _lacks_section("images"), _images),
    "features": _Kind("Feature maps of a layer", _lacks_section("features"), _features),
}
