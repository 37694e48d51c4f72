"""Predictions over HTTP: what answers, in which form, under which reference, until which moment."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from service.client import Client
from service.schemas import examples
from tests.live import Server, run_job
from tests.problems import assert_problem

pytestmark = pytest.mark.usefixtures("quadratic")
ROWS = {"inputs": [[0.5], [0.7]]}


def test_an_answer_names_who_gave_it(client: httpx.Client) -> None:
    answer = client.post("/predict", json=examples.PREDICT)
    found = answer.json()

    assert answer.status_code == 200
    assert set(found) == {"model", "version", "alias", "digest", "outputs", "warnings"}
    version = client.get(f"/v1/models/quadratic/versions/{found['version']}").json()
    assert (found["model"], found["alias"], found["digest"]) == ("quadratic", "champion", version["digest"])
    assert answer.headers["x-model-version"] == str(found["version"])
    timing = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
    assert list(timing) == ["queue", "batch", "infer", "encode"]
    assert all(float(milliseconds) >= 0 for milliseconds in timing.values())
    assert [len(row) for row in found["outputs"]] == [1, 1]
    assert abs(found["outputs"][0][0] - 0.35) < 0.2


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/predict", {"model": "quadratic/1", **ROWS}),
        ("/predict", {"model": "quadratic/1", "inputs": {"x": ROWS["inputs"]}}),
        ("/v1/models/quadratic/versions/1/predict", ROWS),
        ("/v1/models/quadratic/versions/1/predict", {"model": "quadratic", **ROWS}),
        ("/v1/models/quadratic/predict", {"model": "quadratic/1", **ROWS}),
    ],
)
def test_every_way_to_a_version_gives_its_answer(client: httpx.Client, path: str, body: dict[str, Any]) -> None:
    expected = client.post("/predict", json={"model": "quadratic/1", **ROWS}).json()
    found = client.post(path, json=body).json()

    assert found == expected


def test_a_name_alone_means_the_champion_or_else_the_newest(client: httpx.Client) -> None:
    bodies = [{**examples.IMPORT, "output": {"model": "names"}}] * 2
    versions = [run_job(client, body)["output"]["version"] for body in bodies]
    ask = {"model": "names", "inputs": [[[[0] * 5] * 5]]}
    unnamed = client.post("/predict", json=ask).json()
    alias = {"If-None-Match": "*"}
    client.put("/v1/models/names/aliases/champion", json={"version": versions[0]}, headers=alias).raise_for_status()
    named = client.post("/predict", json=ask).json()

    assert (unnamed["version"], "alias" in unnamed) == (versions[1], False)
    assert (named["version"], named["alias"]) == (versions[0], "champion")


def test_a_classifier_answers_labels_and_probabilities(client: httpx.Client, clouds: dict[str, Any]) -> None:
    found = client.post("/predict", json={"model": "clouds", "inputs": [[2, 2], [-2, -2]]}).json()

    assert found["classes"] == ["0", "1"]
    assert found["labels"] == ["0", "1"]
    for row in found["probabilities"]:
        assert abs(sum(row) - 1) < 1e-6
    assert found["probabilities"][0][0] > 0.9


def test_rows_with_a_shape_are_answered_in_theirs(client: httpx.Client, kernel: dict[str, Any]) -> None:
    image = [[[1, 2, 0, 3, 1], [0, 1, 2, 3, 1], [1, 2, 1, 0, 0], [5, 2, 3, 1, 1], [2, 1, 0, 1, 1]]]
    found = client.post("/predict", json={"model": "kernel", "inputs": [image]}).json()

    assert found["outputs"] == [[[[10, 12, 12], [18, 16, 16], [13, 9, 3]]]]


def test_values_outside_the_training_range_are_answered_with_a_warning(client: httpx.Client) -> None:
    found = client.post("/predict", json={"model": "quadratic", "inputs": [[0.5], [30.0]]}).json()

    assert len(found["outputs"]) == 2
    (warning,) = found["warnings"]
    assert warning["pointer"].startswith("/inputs/1")


def test_an_answer_that_overflows_is_null_with_a_warning_and_never_nan(client: httpx.Client) -> None:
    net = {"type": "Sequential", "layers": [{"name": "large", "type": "Linear", "in_features": 1, "out_features": 2}]}
    run_job(
        client,
        {
            "kind": "import",
            "architecture": {"schema": "arch/1", "inputs": [{"name": "x", "shape": ["B", 1]}], "root": net},
            "state_dict": {"large.weight": [[1e30], [1]], "large.bias": [0, 0]},
            "output": {"model": "overflowing"},
        },
    )
    answer = client.post("/predict", json={"model": "overflowing", "inputs": [[1e20], [1]]})
    found = json.loads(answer.text, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))

    assert answer.status_code == 200
    assert found["outputs"][0] == [None, pytest.approx(1e20)]
    assert [warning["code"] for warning in found["warnings"]] == ["not-finite-output"]


@pytest.mark.parametrize("number", [0, -0.0, 1, 0.1, 1e-45, 5e-324, 12345678901234567890, 1e38])
def test_any_finite_number_is_taken(client: httpx.Client, number: float) -> None:
    assert client.post("/predict", json={"model": "quadratic", "inputs": [[number]]}).status_code == 200


def test_the_largest_batch_is_answered_in_order(client: httpx.Client) -> None:
    rows = [[number / 4096] for number in range(4096)]
    found = client.post("/predict", json={"model": "quadratic", "inputs": rows}).json()["outputs"]

    assert len(found) == 4096
    for place in (0, 2000, 4095):
        alone = client.post("/predict", json={"model": "quadratic", "inputs": [rows[place]]}).json()["outputs"]
        assert abs(alone[0][0] - found[place][0]) < 1e-5


def test_a_deadline_is_kept_although_the_net_is_slow(client: httpx.Client) -> None:
    slow = {
        "kind": "import",
        "architecture": {
            "schema": "arch/1",
            "inputs": [{"name": "x", "shape": ["B", 3, 128, 128]}],
            "root": {
                "type": "Sequential",
                "layers": [
                    {"type": "Conv2d", "in_channels": 3, "out_channels": 64, "kernel_size": 7, "padding": 3},
                    {"type": "Conv2d", "in_channels": 64, "out_channels": 64, "kernel_size": 7, "padding": 3},
                    {"type": "AdaptiveAvgPool2d", "output_size": 1},
                ],
            },
        },
        "output": {"model": "slow"},
    }
    rows = [[[[0.5] * 128] * 128] * 3] * 24
    run_job(client, slow)
    client.post("/predict", json={"model": "slow", "inputs": rows[:1]})
    started = time.perf_counter()
    answer = client.post("/predict", json={"model": "slow", "inputs": rows, "timeout_s": 0.8})
    seconds = time.perf_counter() - started

    assert answer.status_code == 504
    assert answer.json()["code"] == "deadline-passed"
    assert seconds < 6  # on a busy machine; all rows would take longer there
    assert client.post("/predict", json=examples.PREDICT).status_code == 200


def test_an_alias_change_is_served_at_once_and_no_answer_is_mixed(shared_server: Server) -> None:
    with shared_server.client() as client:
        for seed in (1, 2):
            body = {**examples.TRAIN, "seed": seed, "budget": {"epochs": 3}, "output": {"model": "swapped"}}
            run_job(client, body)
        alias = "/v1/models/swapped/aliases/champion"
        etag = client.put(alias, json={"version": 1}, headers={"If-None-Match": "*"}).headers["etag"]
        right = {
            number: client.post("/predict", json={"model": f"swapped/{number}", **ROWS}).json()["outputs"]
            for number in (1, 2)
        }
        answers: list[dict[str, Any]] = []
        stop = False

        def ask() -> None:
            with shared_server.client() as other:
                while not stop:
                    answer = other.post("/predict", json={"model": "swapped@champion", **ROWS})
                    assert answer.status_code == 200, answer.text
                    answers.append(answer.json())

        with ThreadPoolExecutor(3) as threads:
            asking = [threads.submit(ask) for _ in range(3)]
            for turn in range(20):
                number = turn % 2 + 1
                etag = client.put(alias, json={"version": number}, headers={"If-Match": etag}).headers["etag"]
                found = client.post("/predict", json={"model": "swapped", **ROWS}).json()

                assert found["version"] == number
            stop = True
            for each in asking:
                each.result()
    assert len(answers) > 20
    assert all(answer["outputs"] == right[answer["version"]] for answer in answers)


def test_a_missing_model_is_not_remembered_as_missing(client: httpx.Client) -> None:
    body = {"model": "late", **ROWS}
    before = client.post("/predict", json=body)
    run_job(client, {**examples.TRAIN, "budget": {"epochs": 1}, "output": {"model": "late"}})

    assert_problem(before, 404, "not-found", pointer="/model")
    assert client.post("/predict", json=body).status_code == 200


def test_warnings_point_into_rows_that_are_objects_by_column_name(client: httpx.Client) -> None:
    fruit = {
        "kind": "train",
        "architecture": {
            "schema": "arch/1",
            "inputs": [{"name": "x", "shape": ["B", 3]}],
            "root": {"type": "Linear", "in_features": 3, "out_features": 1},
        },
        "dataset": {
            "type": "inline",
            "columns": ["colour", "weight"],
            "inputs": [["red", 1.0], ["green", 2.0], ["red", 3.0]],
            "targets": [1.0, 2.0, 3.0],
        },
        "preprocessing": [{"type": "one_hot"}],
        "objective": {"type": "mse"},
        "optimizer": {"type": "SGD", "lr": 0.01},
        "budget": {"epochs": 1},
        "output": {"model": "fruit-prices"},
    }
    run_job(client, fruit)
    rows = [["red", 9.0], {"weight": 2.0, "colour": "grean"}, {"weight": 0.5, "colour": "red"}]
    warnings = client.post("/predict", json={"model": "fruit-prices", "inputs": rows}).json()["warnings"]

    assert [(entry["pointer"], entry["code"], entry["got"]) for entry in warnings] == [
        ("/inputs/0/1", "outside-training-range", "9"),
        ("/inputs/1/colour", "unknown-category", "'grean'"),
        ("/inputs/2/weight", "outside-training-range", "0.5"),
    ]
    assert warnings[1]["hint"] == "Did you mean 'green'?"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param("/predict", {**examples.PREDICT, "priority": 3}, id="predict"),
        pytest.param("/v1/models/quadratic/predict", {"inputs": [[0.25], [1e9]]}, id="with a warning"),
        pytest.param("/predict", {"model": "quadratic", "inputs": [[0.5, 1.0]]}, id="rows of another width"),
        pytest.param("/predict", {"model": "quadratic", "inputs": [["0.5"]]}, id="a text"),
        pytest.param("/v1/models/quadratic/versions/999999/predict", {"inputs": [[0.5]]}, id="no such version"),
        pytest.param(
            "/v2/models/quadratic/infer",
            {"id": "1", "inputs": [{"name": "x", "shape": [2, 1], "datatype": "FP32", "data": [0.5, 0.25]}]},
            id="v2",
        ),
        pytest.param(
            "/v2/models/quadratic/infer",
            {
                "inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [[0.5]]}],
                "outputs": [{"name": "output", "parameters": {"binary_data": True}}],
            },
            id="v2 with bytes in the answer",
        ),
        pytest.param(
            "/v2/models/quadratic/infer",
            {"inputs": [{"name": "z", "shape": [1, 1], "datatype": "FP32", "data": [0.5]}]},
            id="v2 with an unknown tensor",
        ),
    ],
)
def test_the_short_way_answers_what_the_framework_answers(
    client: httpx.Client, path: str, body: dict[str, Any]
) -> None:
    headers = {"Content-Type": "application/json", "X-Request-ID": "same"}
    content = json.dumps(body).encode()
    client.post(path, content=content, headers=headers)  # from now on the version is loaded
    short = client.post(path, content=content, headers=headers)
    whole = client.post(path, content=iter([content]), headers=headers)  # in chunks, which only the framework takes

    assert short.request.headers["content-length"] == str(len(content))
    assert whole.request.headers["transfer-encoding"] == "chunked"
    assert (short.status_code, short.content) == (whole.status_code, whole.content)
    told, expected = dict(short.headers), dict(whole.headers)
    for each in (told, expected):
        del each["date"]
        assert (each.pop("server-timing", None) is None) == (short.status_code != 200)
    assert told == expected


class TestSignature:
    """What a version takes, for who may ask it and see nothing else."""

    def test_of_a_table_it_names_columns_categories_and_how_the_file_was_written(self, shared_server: Server) -> None:
        rows = "".join(f"{30 + n},5;{('Ulm', 'Bonn', '')[n % 3]};{('a b', 'b c')[n % 2]};{n % 2}\n" for n in range(60))
        with Client(shared_server.url) as client:
            upload = client.uploads.add(f"area;town;text;kind\n?;Ulm;a b;1\n{rows}".encode(), media_type="text/csv")
            dataset = client.datasets.add(
                {
                    "type": "csv",
                    "upload": upload.id,
                    "delimiter": ";",
                    "decimal": ",",
                    "target": "kind",
                    "classes": ["0", "1"],
                    "missing": "keep",
                    "missing_texts": ["?"],
                    "free_text": ["text"],
                }
            )
            steps = [{"type": "impute"}, {"type": "one_hot"}, {"type": "tokens", "max_length": 4}]
            net = {"catalogue": "mlp", "params": {"in_features": 7, "num_classes": 2}}
            client.jobs.wait(
                client.jobs.submit(
                    {
                        "kind": "train",
                        "architecture": net,
                        "dataset": dataset.id,
                        "preprocessing": steps,
                        "objective": {"type": "cross_entropy"},
                        "optimizer": {"type": "Adam"},
                        "budget": {"epochs": 1},
                        "output": {"model": "signed", "alias_on_success": "champion"},
                    }
                )
            )
            found = client.models.signature("signed")
            told = client.models.signature("signed@champion").model_dump()
            client.datasets.delete(dataset.id)
            forgotten = client.models.signature("signed/1")

        assert found.inputs[0].row is not None
        assert [one.model_dump() for one in found.inputs[0].row.columns or ()] == [
            {"name": "area", "kind": "number", "optional": True, "categories": None},
            {"name": "town", "kind": "text", "optional": True, "categories": ["Bonn", "Ulm"]},
            {"name": "text", "kind": "tokens", "optional": False, "categories": None},
        ]
        assert (found.model, found.version, found.alias, found.classes) == ("signed", 1, "champion", ["0", "1"])
        assert found.written is not None
        assert found.written.model_dump() == {"decimal": ",", "thousands": None, "missing_texts": ["?"]}
        assert told == found.model_dump()
        assert (forgotten.alias, forgotten.written, forgotten.inputs) == (None, None, found.inputs)

    def test_of_an_array_it_has_the_shape_and_one_range_for_all(self, client: httpx.Client) -> None:
        found = client.get("/v1/models/quadratic/signature?version=1").json()

        (row,) = [one["row"] for one in found["inputs"]]
        assert (row["layout"], row["row_shape"]) == ("array", [1])
        assert -1 <= row["training_range"][0] < row["training_range"][1] <= 1

    def test_of_an_import_nothing_is_known_but_the_tensors(self, client: httpx.Client) -> None:
        run_job(client, {**examples.IMPORT, "output": {"model": "unsigned"}})
        found = client.get("/v1/models/unsigned/signature").json()

        assert [one["row"] for one in found["inputs"]] == [None]
        assert (found["inputs"][0]["shape"], found["written"]) == (["B", 1, 5, 5], None)

    @pytest.mark.parametrize(
        ("path", "status", "code"),
        [
            pytest.param("nothing/signature", 404, "not-found", id="no model"),
            pytest.param("quadratic/signature?version=99", 404, "not-found", id="no version"),
            pytest.param("quadratic/signature?version=nobody", 404, "not-found", id="no alias"),
            pytest.param("quadratic/signature?version=a%2Fb", 422, "validation-failed", id="no name"),
            pytest.param("quadratic/signature?alias=champion", 422, "validation-failed", id="no such parameter"),
        ],
    )
    def test_what_is_not_there_is_refused(self, client: httpx.Client, path: str, status: int, code: str) -> None:
        pointer = "/path/name" if "?" not in path else "/query/" + path.partition("?")[2].partition("=")[0]
        assert_problem(client.get(f"/v1/models/{path}"), status, code, pointer=pointer)
