"""Objectives whose outputs do not lie beside the targets one by one, from the rows of a request to a prediction."""

from __future__ import annotations

from typing import Any

import httpx

from tests.live import run_job

ROWS = [[row / 10] for row in range(40)]


def train(client: httpx.Client, model: str, layers: list[dict[str, Any]], targets: list[Any], **members: Any) -> Any:
    root = {"type": "Sequential", "layers": layers}
    body = {
        "kind": "train",
        "architecture": {"schema": "arch/1", "inputs": [{"name": "x", "shape": ["B", 1]}], "root": root},
        "dataset": {"type": "inline", "inputs": ROWS, "targets": targets},
        "optimizer": {"type": "Adam", "lr": 0.02},
        "budget": {"steps": 300},
        "output": {"model": model},
        **members,
    }
    return run_job(client, body)


def linear(inputs: int, outputs: int) -> dict[str, Any]:
    return {"type": "Linear", "in_features": inputs, "out_features": outputs}


def predict(client: httpx.Client, model: str, rows: list[list[float]]) -> dict[str, Any]:
    answer = client.post(f"/v1/models/{model}/versions/1/predict", json={"inputs": rows})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_quantiles_are_answered_in_the_units_of_a_scaled_target(client: httpx.Client) -> None:
    targets = [1000 + 100 * row + (7 * place % 11 - 5) * 20 for place, [row] in enumerate(ROWS)]
    job = train(
        client,
        "quantiles",
        [linear(1, 3)],
        targets,
        objective={"type": "quantile", "quantiles": [0.05, 0.5, 0.95]},
        preprocessing=[{"type": "standardize"}, {"type": "standardize", "of": "target"}],
    )
    answers = predict(client, "quantiles", ROWS)["outputs"]

    assert job["metrics"]["last"]["mae"] < 80  # of the median, in the target's units
    below = [sum(target < answer[place] for target, answer in zip(targets, answers, strict=True)) for place in range(3)]
    assert below[0] < 8 < below[1] < 32 < below[2]


def test_two_names_are_told_apart_by_a_focal_loss(client: httpx.Client) -> None:
    targets = ["low" if row < 2 else "high" for [row] in ROWS]
    members = {"metrics": ["loss", "accuracy", "roc_auc"]}
    job = train(client, "focal", [linear(1, 1)], targets, objective={"type": "sigmoid_focal"}, **members)
    answer = predict(client, "focal", [[0.0], [3.9]])

    assert job["metrics"]["last"]["roc_auc"] == 1
    assert (sorted(answer["classes"]), answer["labels"]) == (["high", "low"], ["low", "high"])


def test_a_sequence_of_labels_is_learned_without_places(client: httpx.Client) -> None:
    layers = [
        linear(1, 16),
        {"type": "Tanh"},
        linear(16, 12),
        {"type": "Unflatten", "dim": 1, "unflattened_size": [4, 3]},
        {"type": "LogSoftmax", "dim": 2},
    ]
    targets = [[1, 2] if row < 2 else [2, -1] for [row] in ROWS]
    job = train(client, "sequences", layers, targets, objective={"type": "ctc"}, split={"type": "random", "test": 0.2})

    assert job["metrics"]["last"]["loss"] < 0.3
