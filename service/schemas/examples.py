"""Requests that work as they stand: the documentation shows them, the demo and the tests send them."""

from __future__ import annotations

from typing import Any, Final

NET: Final[dict[str, Any]] = {
    "schema": "arch/1",
    "inputs": [{"name": "x", "shape": ["B", 1]}],
    "root": {
        "type": "Graph",
        "class_name": "Net",
        "layers": [
            {"name": "hidden", "type": "Linear", "in_features": 1, "out_features": 10},
            {"name": "predict", "type": "Linear", "in_features": 10, "out_features": 1},
        ],
        "forward": ["x = relu(hidden(x))", "return predict(x)"],
    },
}
"""The tutorials' first net: one input, a hidden layer of ten, one output."""

SEQUENTIAL: Final[dict[str, Any]] = {
    "schema": "arch/1",
    "inputs": [{"name": "x", "shape": ["B", 1]}],
    "root": {
        "type": "Sequential",
        "layers": [
            {"type": "Linear", "in_features": 1, "out_features": 10},
            {"type": "ReLU"},
            {"type": "Linear", "in_features": "auto", "out_features": 1},
        ],
    },
}
"""The same function in the quick form; `auto` is found from the layer before."""

PARABOLA: Final[dict[str, Any]] = {
    "type": "polynomial",
    "coefficients": [0, 0, 1],
    "low": -1,
    "high": 1,
    "rows": 100,
    "noise": {"type": "uniform", "scale": 0.2},
    "seed": 1,
}
"""y = x² + 0.2·U[0, 1) over a hundred points."""

CLOUDS: Final[dict[str, Any]] = {
    "type": "gaussian_clouds",
    "centers": [[2, 2], [-2, -2]],
    "std": 1.0,
    "rows_per_class": 100,
    "seed": 1,
}
"""Two classes of a hundred points each."""

TRAIN: Final[dict[str, Any]] = {
    "kind": "train",
    "architecture": NET,
    "dataset": PARABOLA,
    "objective": {"type": "mse"},
    "optimizer": {"type": "SGD", "lr": 0.2},
    "budget": {"epochs": 200},
    "seed": 1,
    "output": {"model": "quadratic", "alias_on_success": "champion"},
}
"""Fit the parabola."""

CLASSIFY: Final[dict[str, Any]] = {
    "kind": "train",
    "architecture": {
        "schema": "arch/1",
        "inputs": [{"name": "x", "shape": ["B", 2]}],
        "root": {
            "type": "Sequential",
            "layers": [
                {"type": "Linear", "in_features": 2, "out_features": 10},
                {"type": "ReLU"},
                {"type": "Linear", "in_features": 10, "out_features": 2},
            ],
        },
    },
    "dataset": CLOUDS,
    "split": {"type": "stratified", "validation": 0.2, "seed": 1},
    "objective": {"type": "cross_entropy"},
    "optimizer": {"type": "SGD", "lr": 0.02},
    "budget": {"epochs": 100},
    "seed": 1,
    "output": {"model": "clouds"},
}
"""Tell two clouds apart, with a fifth of the rows held out."""

IMPORT: Final[dict[str, Any]] = {
    "kind": "import",
    "architecture": {
        "schema": "arch/1",
        "inputs": [{"name": "image", "shape": ["B", 1, 5, 5]}],
        "root": {
            "type": "Sequential",
            "layers": [
                {"name": "conv", "type": "Conv2d", "in_channels": 1, "out_channels": 1, "kernel_size": 3, "bias": False}
            ],
        },
    },
    "state_dict": {"conv.weight": [[[[1, 2, 1], [0, 1, 0], [2, 1, 0]]]]},
    "output": {"model": "kernel"},
}
"""A version from given weights: a convolution by hand."""

EVALUATE: Final[dict[str, Any]] = {
    "kind": "evaluate",
    "model": "quadratic@champion",
    "dataset": PARABOLA,
    "objective": {"type": "l1", "reduction": "mean"},
}
"""Measure a version."""

EXPORT: Final[dict[str, Any]] = {"kind": "export", "model": "quadratic@champion", "format": "onnx"}
"""Write a version's net as ONNX."""

EDIT: Final[dict[str, Any]] = {
    "from": {"architecture": NET},
    "edits": [
        {"op": "replace", "path": "predict", "layer": {"type": "Linear", "in_features": "auto", "out_features": 2}},
        {"op": "freeze", "path": "hidden"},
    ],
    "dry_run": True,
}
"""Another head for a net, and what that does to its weights."""

PREDICT: Final[dict[str, Any]] = {"model": "quadratic@champion", "inputs": [[0.5], [0.7]]}
"""Ask for two rows."""
