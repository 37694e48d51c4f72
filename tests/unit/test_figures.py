"""Figures out of plain numbers: what plotly takes, what is thinned, what is said where there is nothing to draw."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from service import figures
from service.figures import Absent, Curve, Material, Wish, thinned

MANY = [float(value) for value in np.sin(np.arange(10_000) / 500)]


def curve(values: list[float]) -> Curve:
    """A curve with one step an epoch."""
    steps = list(range(1, len(values) + 1))
    return Curve(steps, steps, values)


def test_a_thinned_curve_keeps_its_peaks() -> None:
    values = [*MANY]
    values[4321], values[7777] = 50.0, -50.0
    kept = thinned(values, 100)

    assert len(kept) == 100
    assert (kept[0], kept[-1]) == (0, 9_999)
    assert {4321, 7777} <= set(kept)
    assert kept == sorted(set(kept))


@pytest.mark.parametrize("points", [2, 3, 4, 7, 9_999, 10_000, 50_000])
def test_a_curve_has_as_many_points_as_it_may(points: int) -> None:
    kept = thinned(MANY, points)

    assert len(kept) == min(points, len(MANY))
    assert (kept[0], kept[-1]) == (0, 9_999)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0]])
def test_a_short_curve_stays_whole(values: list[float]) -> None:
    assert thinned(values, 2) == list(range(len(values)))


def test_a_loss_over_many_magnitudes_has_a_logarithmic_axis() -> None:
    steep = figures.draw("loss", Material({"loss": curve([1000.0, 1.0, 0.001])}))
    flat = figures.draw("loss", Material({"loss": curve([3.0, 1.0, 0.5])}))
    negative = figures.draw("loss", Material({"loss": curve([3.0, 1.0, -0.5])}))

    assert [go.Figure(each).layout.yaxis.type for each in (steep, flat, negative)] == ["log", None, None]


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        pytest.param([3.0, 0.02], {"dtick": "D2", "tickformat": "~g"}, id="plain numbers over few powers"),
        pytest.param([1.0, 1e-5], {"dtick": 1, "exponentformat": "power"}, id="powers where numbers would be long"),
        pytest.param([1e35, 1.0], {"dtick": 5, "exponentformat": "power"}, id="some powers of many"),
        pytest.param([1e308, 5e-324], {"dtick": 79, "exponentformat": "power"}, id="as far as floats go"),
    ],
)
def test_a_logarithmic_axis_has_ticks_that_can_be_read(values: list[float], ticks: dict[str, Any]) -> None:
    figure = figures.draw("loss", Material({"loss": curve(values)}))

    assert isinstance(figure, dict)
    assert figure["layout"]["yaxis"] == {"title": {"text": "loss"}, "type": "log", **ticks}
    go.Figure(figure)  # which refuses what plotly does not know


def test_a_single_point_has_axes_with_whole_steps_and_no_value_that_cannot_be() -> None:
    once = Material({"loss": curve([0.4]), "val_accuracy": curve([0.8]), "val_r2": curve([-2.0])})
    loss, metrics = figures.draw("loss", once), figures.draw("metrics", once)
    zero = figures.draw("loss", Material({"loss": curve([0.0])}))
    largest = figures.draw("loss", Material({"loss": curve([1.7e308])}))
    both = figures.draw("loss", Material({"loss": curve([0.4]), "val_loss": curve([0.3])}))
    longer = figures.draw("metrics", Material({"val_accuracy": curve([0.5, 0.5])}))

    assert isinstance(loss, dict)
    assert isinstance(metrics, dict)
    layout = metrics["layout"]
    assert [loss["layout"]["xaxis"][name] for name in ("range", "dtick")] == [[0, 2], 1]
    assert [layout["xaxis"][name] for name in ("range", "dtick")] == [[0, 2], 1]
    assert [each["range"] for each in (loss["layout"]["yaxis"], layout["yaxis"], layout["yaxis2"])] == [
        [0.0, 0.5],
        [0.0, 1.0],
        [-2.5, 0.0],
    ]
    ranges = [(go.Figure(each).layout.xaxis.range, go.Figure(each).layout.yaxis.range) for each in (zero, both)]
    assert ranges == [((0, 2), (0.0, 1.0)), ((0, 2), None)]
    assert go.Figure(largest).layout.yaxis.range is None
    assert (go.Figure(longer).layout.xaxis.range, go.Figure(longer).layout.yaxis.range) == (None, None)


def test_names_of_classes_are_no_markup() -> None:
    part = {
        "kind": "classes",
        "rows": 2,
        "of_rows": 2,
        "confusion": [[1, 0], [0, 1]],
        "roc": [{"class": 1, "auc": 1.0, "fpr": [0, 1], "tpr": [1, 1]}],
    }
    material = Material(report={"classes": ["<b>bold</b>", "<a href='x'>"], "parts": {"all": part}})
    confusion, roc = figures.draw("confusion", material), figures.draw("roc", material)

    assert isinstance(confusion, dict)
    assert isinstance(roc, dict)
    assert confusion["layout"]["xaxis"]["ticktext"] == ["&lt;b&gt;bold&lt;/b&gt;", "&lt;a href='x'&gt;"]
    assert roc["data"][0]["name"].startswith("&lt;a ")


def test_every_figure_says_why_it_is_not_there() -> None:
    waiting, over = Material(goes_on=True), Material()

    for name in figures.names():
        later, never = figures.draw(name, waiting), figures.draw(name, over)
        assert isinstance(later, Absent)
        assert isinstance(never, Absent)
        assert (later.yet, never.yet) == (True, False)
        assert later.reason.endswith(".")


def test_many_parameters_are_shown_a_dozen_at_a_time() -> None:
    one = {"shape": [4], "low": -1.0, "high": 1.0, "counts": [1, 2, 1]}
    weights = [{"name": f"layer{i}.weight", **one} for i in range(20)]
    seen: dict[str, Any] = {"step": 5, "epoch": 1, "final": False, "weights": weights, "absent": {}, "later": []}
    first = figures.draw("weights", Material(seen=seen))
    chosen = figures.draw("weights", Material(seen=seen), Wish(layer="layer1"))
    unknown = figures.draw("weights", Material(seen=seen), Wish(layer="layer"))

    assert len(go.Figure(first).data) == 12
    assert [trace.name for trace in go.Figure(chosen).data] == ["layer1.weight"]
    assert isinstance(unknown, Absent)
