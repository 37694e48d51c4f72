"""Figures of jobs and versions as Plotly JSON: which there are, what is in them, and why others are not there."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import plotly.graph_objects as go
import pytest

from service.schemas import examples
from tests.live import run_job, wait_for
from tests.problems import assert_problem

CONV: dict[str, Any] = {
    "kind": "train",
    "architecture": {
        "schema": "arch/1",
        "inputs": [{"name": "x", "shape": ["B", 1, 8, 8]}],
        "root": {
            "type": "Sequential",
            "layers": [
                {"type": "Conv2d", "in_channels": 1, "out_channels": 4, "kernel_size": 3, "padding": 1},
                {"type": "ReLU"},
                {"type": "Flatten"},
                {"type": "Linear", "in_features": 256, "out_features": 2},
            ],
        },
    },
    "dataset": {"type": "striped_images", "classes": 2, "channels": 1, "size": 8, "rows_per_class": 40, "seed": 1},
    "split": {"type": "stratified", "validation": 0.25, "seed": 1},
    "objective": {"type": "cross_entropy"},
    "optimizer": {"type": "Adam", "lr": 0.01},
    "batch_size": 16,
    "budget": {"epochs": 3},
    "seed": 1,
    "output": {"model": "stripes"},
}


def figures(client: httpx.Client, job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The list of a job's figures by name."""
    return {entry["name"]: entry for entry in client.get(f"/v1/jobs/{job['id']}/figures").json()["data"]}


def drawn(client: httpx.Client, job: dict[str, Any], name: str, **query: Any) -> dict[str, Any]:
    """A figure that plotly takes."""
    answer = client.get(f"/v1/jobs/{job['id']}/figures/{name}", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert set(found) == {"data", "layout"}
    go.Figure(found)  # which refuses every member and value that plotly.js does not know
    return found


@pytest.fixture(scope="module")
def stripes(shared_server: Any) -> dict[str, Any]:
    """A job that trained a small net on images."""
    with shared_server.client() as client:
        return run_job(client, CONV)


def test_a_regression_on_one_input_shows_its_rows_and_the_nets_curve(
    client: httpx.Client, quadratic: dict[str, Any]
) -> None:
    fit = drawn(client, quadratic, "fit")
    rows, curve = fit["data"]
    at = [0.5, 0.7]
    predicted = client.post("/predict", json={"model": "quadratic/1", "inputs": [[x] for x in at]}).json()["outputs"]

    assert len(rows["x"]) == 100
    assert np.allclose(np.interp(at, curve["x"], curve["y"]), np.array(predicted)[:, 0], atol=0.02)
    assert fit["layout"]["title"]["text"] == "Fit, step 200, epoch 200"


def test_two_inputs_and_classes_show_their_regions(client: httpx.Client, clouds: dict[str, Any]) -> None:
    regions = drawn(client, clouds, "decision")["data"][0]
    rows = [[regions["x"][3], regions["y"][50]], [regions["x"][58], regions["y"][30]]]
    answer = client.post("/predict", json={"model": f"clouds/{clouds['output']['version']}", "inputs": rows}).json()

    assert np.shape(regions["z"]) == (60, 60)
    assert [str(regions["z"][50][3]), str(regions["z"][30][58])] == [str(label) for label in answer["labels"]]
    assert regions["customdata"][50][3] == pytest.approx(max(answer["probabilities"][0]), abs=1e-3)


def test_the_answers_of_a_classifier_are_counted(client: httpx.Client, clouds: dict[str, Any]) -> None:
    confusion = drawn(client, clouds, "confusion")
    held_out = np.array(confusion["data"][0]["customdata"])
    trained = np.array(drawn(client, clouds, "confusion", part="train")["data"][0]["customdata"])

    assert (held_out.sum(), trained.sum()) == (40, 160)
    assert "40 validation rows" in confusion["layout"]["title"]["text"]
    assert drawn(client, clouds, "roc")["data"][0]["x"][0] == 0
    assert drawn(client, clouds, "calibration")["data"][0]["type"] == "bar"


def test_curves_are_thinned_to_what_is_asked_for(client: httpx.Client, clouds: dict[str, Any]) -> None:
    loss = drawn(client, clouds, "loss", points=10)["data"]
    metrics = drawn(client, clouds, "metrics")["data"]

    assert {trace["name"]: len(trace["x"]) for trace in loss} == {"loss": 10, "val_loss": 10}
    assert (loss[0]["x"][0], loss[0]["x"][-1]) == (1, 100)
    assert "val_accuracy" in {trace["name"] for trace in metrics}


def test_a_net_of_images_shows_images_maps_and_weights(client: httpx.Client, stripes: dict[str, Any]) -> None:
    images = drawn(client, stripes, "images")
    maps = drawn(client, stripes, "features", layer="1")
    weights = drawn(client, stripes, "weights", layer="0")

    assert len(images["data"]) == 16
    assert all(trace["source"].startswith("data:image/png;base64,") for trace in images["data"])
    assert maps["layout"]["meta"]["layers"] == ["0", "1"]
    assert np.shape([trace["z"] for trace in maps["data"]]) == (4, 8, 8)
    assert np.min([trace["z"] for trace in maps["data"]]) >= 0  # after a ReLU
    assert {trace["name"]: sum(trace["y"]) for trace in weights["data"]} == {"0.weight": 36, "0.bias": 4}


def test_the_list_says_which_figures_there_are_and_why_not(client: httpx.Client, stripes: dict[str, Any]) -> None:
    found = figures(client, stripes)

    assert {name for name, entry in found.items() if not entry["available"]} == {"fit", "decision", "answers"}
    assert found["decision"]["reason"] == "Decision regions need two input numbers; the rows have 64."
    for entry in found.values():
        assert client.get(entry["url"]).status_code == (200 if entry["available"] else 404)


@pytest.mark.parametrize(
    ("path", "status", "code", "at"),
    [
        pytest.param("decision", 404, "not-found", "/path/figure", id="does-not-apply"),
        pytest.param("los", 404, "not-found", "/path/figure", id="no-such-figure"),
        pytest.param("features?layer=9", 404, "not-found", "/path/figure", id="no-such-layer"),
        pytest.param("confusion?part=test", 404, "not-found", "/path/figure", id="no-such-part"),
        pytest.param("loss?points=1", 422, "validation-failed", "/query/points", id="too-few-points"),
        pytest.param("loss?point=10", 422, "validation-failed", "/query/point", id="misspelt"),
    ],
)
def test_what_cannot_be_drawn_is_said(
    client: httpx.Client, stripes: dict[str, Any], path: str, status: int, code: str, at: str
) -> None:
    assert_problem(client.get(f"/v1/jobs/{stripes['id']}/figures/{path}"), status, code, pointer=at)


def test_a_version_has_the_figures_of_its_job_and_keeps_its_answers_without_it(
    client: httpx.Client, stripes: dict[str, Any]
) -> None:
    job = run_job(client, {**CONV, "output": {"model": "stripes-kept"}})
    path = "/v1/models/stripes-kept/versions/1/figures"
    whole = client.get(f"{path}/images").json()
    client.delete(f"/v1/jobs/{job['id']}")

    assert whole["data"] == drawn(client, stripes, "images")["data"]
    assert client.get(f"{path}/confusion").json() == drawn(client, stripes, "confusion")
    assert_problem(client.get(f"{path}/images"), 404, "not-found", pointer="/path/figure")
    assert_problem(client.get("/v1/models/stripes/versions/99/figures"), 404, "not-found")


def test_an_unchanged_figure_need_not_be_sent_again(client: httpx.Client, quadratic: dict[str, Any]) -> None:
    path = f"/v1/jobs/{quadratic['id']}/figures/fit"
    first = client.get(path)
    again = client.get(path, headers={"If-None-Match": first.headers["etag"]})
    other = client.get(path, headers={"If-None-Match": '"something else"'})
    anything = client.get(path, headers={"If-None-Match": "*"})

    assert (anything.status_code, anything.content) == (304, b"")
    assert (first.status_code, again.status_code, other.status_code) == (200, 304, 200)
    assert again.content == b""


def test_figures_come_as_the_net_learns(client: httpx.Client) -> None:
    body = {**examples.TRAIN, "budget": {"max_seconds": 120}, "checkpoint": {"every_s": 0.2}}
    job = client.post("/v1/jobs", json={**body, "output": {"model": "seen-live"}}).json()
    path = f"/v1/jobs/{job['id']}/figures"
    try:
        early = client.get(f"{path}/fit")
        if early.status_code != 200:
            assert_problem(early, 409, "conflict")
        first = wait_for(lambda: client.get(f"{path}/fit").json().get("layout"), timeout=60)
        wait_for(lambda: client.get(f"{path}/fit").json()["layout"]["meta"]["step"] > first["meta"]["step"], timeout=90)
        answers = client.get(f"{path}/answers")
    finally:
        client.post(f"/v1/jobs/{job['id']}/cancel")

    assert first["meta"]["final"] is False
    assert answers.status_code == 200


def test_jobs_of_other_kinds_say_what_they_have(client: httpx.Client, clouds: dict[str, Any]) -> None:
    evaluation = {
        "kind": "evaluate",
        "model": "clouds/1",
        "dataset": examples.CLOUDS,
        "objective": {"type": "cross_entropy"},
    }
    found = figures(client, job := run_job(client, evaluation))

    assert {name for name, entry in found.items() if entry["available"]} == {"confusion", "roc", "calibration"}
    assert drawn(client, job, "confusion")["layout"]["title"]["text"] == "Confusion, 200 rows"
