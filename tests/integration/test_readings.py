"""Documents and versions read in other forms over HTTP, and two nets compared."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.client import Client
from service.schemas import examples
from tests.live import Server, run_job
from tests.problems import assert_problem

PYTHON = """import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(1, 10)
        self.predict = nn.Linear(10, 1)

    def forward(self, x):
        return self.predict(F.relu(self.hidden(x)))


net = Net()
# net.load_state_dict(torch.load("weights.pt", weights_only=True))
"""


@pytest.fixture
def stored(client: httpx.Client) -> dict[str, Any]:
    """The net of the tutorial, kept."""
    found = client.post("/v1/architectures", json=examples.NET).json()
    assert isinstance(found, dict)
    return found


def test_a_document_as_python(client: httpx.Client, stored: dict[str, Any]) -> None:
    answer = client.get(f"/v1/architectures/{stored['digest']}?view=python")

    assert answer.headers["content-type"] == "text/x-python; charset=utf-8"
    assert answer.text == PYTHON


@pytest.mark.parametrize("view", ["authored", "canonical", "summary"])
def test_a_document_in_one_form_of_json(client: httpx.Client, stored: dict[str, Any], view: str) -> None:
    answer = client.get(f"/v1/architectures/{stored['digest']}", params={"view": view})

    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == stored[view]


@pytest.mark.parametrize(("view", "start"), [("mermaid", "flowchart TD\n"), ("table", "Layer ")])
def test_a_document_as_a_picture_of_text(client: httpx.Client, stored: dict[str, Any], view: str, start: str) -> None:
    answer = client.get(f"/v1/architectures/{stored['digest']}", params={"view": view})

    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text.startswith(start)


def test_a_form_that_is_not_there(client: httpx.Client, stored: dict[str, Any]) -> None:
    answer = client.get(f"/v1/architectures/{stored['digest']}?view=pickle")

    assert_problem(answer, 422, "validation-failed", pointer="/query/view")


@pytest.mark.usefixtures("quadratic")
def test_a_version_is_read_in_the_same_forms(client: httpx.Client) -> None:
    place = "/v1/models/quadratic/versions/1"

    assert client.get(f"{place}/python").text == PYTHON
    assert client.get(f"{place}/architecture?view=python").text == PYTHON
    assert client.get(f"{place}/architecture").json() == client.get(f"{place}/architecture?view=canonical").json()
    assert client.get(f"{place}/architecture?view=table").text.startswith("Layer ")
    assert_problem(client.get("/v1/models/quadratic/versions/99/python"), 404, "not-found")


@pytest.mark.usefixtures("quadratic")
def test_two_nets_are_compared_wherever_they_come_from(client: httpx.Client, stored: dict[str, Any]) -> None:
    wider = {**examples.NET, "root": {**examples.NET["root"], "class_name": "Wide"}}
    for side in (examples.NET, stored["digest"], {"model": "quadratic", "version": 1}, {"model": "quadratic"}):
        found = client.post("/v1/architectures/diff", json={"a": side, "b": wider}).json()

        assert found["text"].splitlines() == [
            "class name Net → Wide",
            "Parameters: 31, as before",
            "Output: [B, 1] float32, as before",
        ]
        assert found["a"] == stored["digest"]
        assert found["changes"][0]["field"] == "class_name"


def test_what_is_wrong_with_either_side_is_told_at_its_place(client: httpx.Client) -> None:
    def refused(a: Any, b: Any, status: int, code: str, pointer: str) -> None:
        assert_problem(client.post("/v1/architectures/diff", json={"a": a, "b": b}), status, code, pointer=pointer)

    broken = {**examples.NET, "root": {"type": "Linear", "in_features": 2, "out_features": 1}}
    refused(examples.NET, "sha256:" + "0" * 64, 404, "not-found", "/b")
    refused({"model": "nothing"}, examples.NET, 404, "not-found", "/a")
    refused(broken, broken, 422, "architecture-invalid", "/a/root/in_features")
    refused(broken, broken, 422, "architecture-invalid", "/b/root/in_features")
    refused(3, examples.NET, 422, "validation-failed", "/a")


def test_two_versions_stand_side_by_side(client: httpx.Client) -> None:
    weights = {"conv.weight": [[[[1] * 3] * 3]]}
    for body in (examples.IMPORT, {**examples.IMPORT, "state_dict": weights}):
        run_job(client, {**body, "output": {"model": "beside"}})
    first = {"If-None-Match": "*"}
    client.put("/v1/models/beside/aliases/old", json={"version": 1}, headers=first).raise_for_status()
    found = client.get("/v1/models/beside/compare?a=old&b=2").json()
    same = client.get("/v1/models/beside/compare?a=1&b=old").json()

    assert (found["a"], found["b"], found["same_weights"], found["architecture"]["equal"]) == (1, 2, False, True)
    assert (same["a"], same["b"], same["same_weights"]) == (1, 1, True)


def test_metrics_stand_side_by_side(client: httpx.Client, clouds: dict[str, Any]) -> None:
    number = clouds["output"]["version"]
    found = client.get(f"/v1/models/clouds/compare?a={number}&b={number}").json()

    assert found["metrics"]["accuracy"]["a"] == found["metrics"]["accuracy"]["b"] > 0.9


def test_figures_of_other_rows_are_told_apart(client: httpx.Client) -> None:
    random = {"type": "random", "validation": 0.5}
    for split, condition in ((random, None), (random, None), ({**random, "seed": 1}, "val_loss < champion.val_loss")):
        alias = {"champion": condition} if condition else "champion"
        job = run_job(
            client, {**examples.TRAIN, "split": split, "output": {"model": "parted", "alias_on_success": alias}}
        )
    other = {"inputs": [[1], [2], [4]], "targets": [[1], [2], [4]]}
    body = {**examples.TRAIN, "dataset": {"type": "inline", **other}, "split": random, "output": {"model": "parted"}}
    run_job(client, body)
    run_job(client, {"kind": "import", "model": "parted/1", "output": {"model": "parted"}})
    same = {b: client.get(f"/v1/models/parted/compare?a=1&b={b}").json()["same_rows"] for b in range(1, 6)}

    assert same == {1: True, 2: True, 3: False, 4: False, 5: None}
    assert "other rows" in job["output"]["promotion"]["detail"]


def test_figures_of_the_same_rows_with_other_columns_are_comparable(shared_server: Server, tmp_path: Path) -> None:
    text = "a,b,c,y\n" + "".join(f"{n},{n % 7},{'uv'[n % 2]},{3.5 * n if n else ''}\n" for n in range(40))
    path = tmp_path / "columns.csv"

    def train(client: Client, content: str, target: str = "y", **more: Any) -> None:
        path.write_text(content)
        job = client.train("one-file", path, target, epochs=1, skip_unlabelled=True, **more)
        assert client.jobs.wait(job).state == "succeeded"

    with Client(shared_server.url) as client, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the target of whole numbers
        train(client, text)
        train(client, text, exclude=["b", "c"])
        train(client, text.replace("\n5,5,", "\n6,5,"))
        train(client, text, "a")
        same = {b: client.models.compare("one-file", 1, b).same_rows for b in (2, 3, 4)}

    assert same == {2: True, 3: False, 4: False}


@pytest.mark.parametrize(
    ("query", "pointer"), [("a=1&b=99", "/query/b"), ("a=none&b=1", "/query/a"), (f"a={'9' * 60}&b=1", "/query/a")]
)
def test_what_cannot_be_compared_is_named(
    client: httpx.Client, kernel: dict[str, Any], query: str, pointer: str
) -> None:
    assert_problem(client.get(f"/v1/models/kernel/compare?{query}"), 404, "not-found", pointer=pointer)
