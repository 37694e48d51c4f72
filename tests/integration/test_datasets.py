"""Datasets: from generators, inline rows and uploads; immutable, previewed, profiled; refused with line and column."""

from __future__ import annotations

import io
from typing import Any

import httpx
import numpy as np
import pytest

from service.schemas import examples
from tests.live import wait_for
from tests.problems import assert_problem

CSV = b"x,city,y\n1,Bern,2\n2,Uri,4\n3,Bern,6\n"


def upload(client: httpx.Client, data: bytes) -> str:
    return str(client.post("/v1/uploads", content=data).json()["id"])


def make(client: httpx.Client, source: dict[str, Any], **members: Any) -> httpx.Response:
    return client.post("/v1/datasets", json={"source": source, **members})


def test_a_generated_dataset_is_ready_at_once(client: httpx.Client) -> None:
    answer = make(client, examples.PARABOLA, name="parabola")
    made = answer.json()

    assert answer.status_code == 201
    assert answer.headers["location"] == f"/v1/datasets/{made['id']}"
    assert client.get(answer.headers["location"]).json() == made
    assert (made["name"], made["state"], made["rows"], made["source"]) == ("parabola", "ready", 100, examples.PARABOLA)
    assert [(column["role"], column["dtype"]) for column in made["columns"]] == [
        ("input", "float"),
        ("target", "float"),
    ]
    assert make(client, examples.PARABOLA).json()["digest"] == made["digest"]


@pytest.mark.parametrize("path", ["/v1/datasets", "/v1/jobs", "/v1/jobs?dry_run=true"])
def test_a_whole_number_of_more_than_64_bits_is_refused_with_its_place(client: httpx.Client, path: str) -> None:
    source = {"type": "inline", "inputs": [[1], [10**30]], "targets": [[1], [2]]}
    datasets = path == "/v1/datasets"
    answer = client.post(path, json={"source": source} if datasets else {**examples.TRAIN, "dataset": source})

    assert_problem(answer, 422, "not-finite", pointer=f"/{'source' if datasets else 'dataset'}/inputs/1/0")


def test_a_csv_file_becomes_columns_that_can_be_looked_at(client: httpx.Client) -> None:
    source = {"type": "csv", "upload": upload(client, CSV), "inputs": ["x", "city"], "target": "y"}
    made = make(client, source).json()
    preview = client.get(f"/v1/datasets/{made['id']}/preview?limit=2").json()
    profile = client.get(f"/v1/datasets/{made['id']}/profile").json()

    assert (made["state"], made["rows"]) == ("ready", 3)
    assert [(column["name"], column["dtype"], column.get("classes")) for column in made["columns"]] == [
        ("x", "int", None),
        ("city", "text", ["Bern", "Uri"]),
        ("y", "int", None),
    ]
    assert preview["rows"] == [[1, "Bern", 2], [2, "Uri", 4]]
    assert [column["name"] for column in profile["columns"]] == ["x", "city", "y"]


def test_a_column_that_is_nearly_numbers_is_warned_of_and_so_is_a_job_on_it(client: httpx.Client) -> None:
    rows = "".join(f"{i},{i}\n" for i in range(20))
    source = {"type": "csv", "upload": upload(client, f'x,y\n1,"50,3"\n{rows}'.encode()), "target": "y"}
    made = make(client, source).json()
    net = {
        "schema": "arch/1",
        "inputs": [{"name": "x", "shape": ["B", 1]}],
        "root": {"type": "Linear", "in_features": 1, "out_features": 21},
    }
    job = client.post(
        "/v1/jobs",
        json=examples.CLASSIFY
        | {"architecture": net, "dataset": made["id"], "split": None, "output": {"model": "nearly"}},
    ).json()

    told = "Column 'y' is taken as texts: 1 of 21 cells is no number (line 2: '50,3')."
    assert [(entry["code"], entry["detail"]) for entry in made["warnings"]] == [("nearly-numbers", told)]
    assert ("/dataset", told) in [(entry["pointer"], entry["detail"]) for entry in job["warnings"]]


def test_mistakes_beyond_twenty_are_counted_in_the_answer_and_in_the_record(client: httpx.Client) -> None:
    source = {"type": "csv", "upload": upload(client, b"x,y\n" + b"1,2\n" * 9 + b"1,\n" * 33), "target": "y"}
    answer = make(client, source)
    problem = assert_problem(answer, 422, "dataset-refused")
    [record] = [one for one in client.get("/v1/datasets?limit=200").json()["data"] if one["source"] == source]

    assert (len(problem["errors"]), problem["more"]) == (20, 13)
    assert (len(record["error"]["errors"]), record["error"]["more"]) == (20, 13)


def test_an_npz_file_becomes_rows_with_a_shape(client: httpx.Client) -> None:
    stream = io.BytesIO()
    np.savez(stream, x=np.zeros((5, 2, 2), np.float32), y=np.arange(5))
    made = make(client, {"type": "npz", "upload": upload(client, stream.getvalue()), "target": "y"}).json()

    assert (made["state"], made["rows"]) == ("ready", 5)
    assert made["columns"][0]["shape"] == [2, 2]


@pytest.mark.parametrize(
    ("data", "place"),
    [
        pytest.param(b"x,city,y\n1,Bern,2\n2,Uri,4\n,Uri,3\n", "line 4", id="missing-value"),
        pytest.param(b"x,city,y\n1,Bern,2\n2,Uri\n", "line 3", id="ragged"),
        pytest.param(b'x,city,y\n1,"Bern,2\n', "line 2", id="unclosed-quote"),
        pytest.param(b"x,x,y\n1,2,3\n", "", id="header-twice"),
        pytest.param(b"x,city,z\n1,Bern,2\n", "", id="no-such-column"),
        pytest.param(b"x,city,y\n", "", id="no-rows"),
        pytest.param(b"x,city,y\n1,Bern\x00,2\n", "", id="nul"),
        pytest.param(b"\xff\xfe\x00", "", id="no-text"),
        pytest.param(b"PK\x03\x04" + b"\x00" * 50, "", id="another-format"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_its_place(client: httpx.Client, data: bytes, place: str) -> None:
    source = {"type": "csv", "upload": upload(client, data), "inputs": ["x"], "target": "y"}
    body = assert_problem(make(client, source), 422, "dataset-refused")

    assert place in " ".join(f"{entry['pointer']} {entry['detail']}" for entry in body["errors"])


def test_a_refused_file_fails_its_dataset_and_a_refused_list_leaves_none(client: httpx.Client) -> None:
    before = client.get("/v1/datasets").json()["data"]
    assert_problem(make(client, {"type": "inline", "inputs": [[1], ["a", 2]]}), 422, "dataset-refused")

    assert client.get("/v1/datasets").json()["data"] == before


def test_a_large_file_is_read_in_the_background(client: httpx.Client) -> None:
    data = b"x,y\n" + b"1,2\n" * 200_000
    source = {"type": "csv", "upload": upload(client, data), "inputs": ["x"], "target": "y"}
    answer = client.post("/v1/datasets", json={"source": source}, headers={"Prefer": "wait=0"})

    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "wait=0"
    assert answer.json()["state"] == "processing"
    assert_problem(client.get(f"{answer.headers['location']}/preview"), 409, "conflict")
    wait_for(lambda: client.get(answer.headers["location"]).json()["state"] == "ready")
    assert client.get(answer.headers["location"]).json()["rows"] == 200_000


def test_a_dataset_goes_when_it_is_deleted(client: httpx.Client) -> None:
    location = make(client, {"type": "inline", "inputs": [[1, 2]]}).headers["location"]

    assert client.delete(location).status_code == 204
    assert_problem(client.get(location), 404, "not-found", pointer="/path/dataset_id")


def test_pages_lead_to_all_datasets_once(client: httpx.Client) -> None:
    made = [make(client, {"type": "inline", "inputs": [[number]]}).json()["id"] for number in range(5)]
    found: list[str] = []
    url: str | None = "/v1/datasets?limit=2"
    while url is not None and len(found) < 6:
        page = client.get(url)
        found += [each["id"] for each in page.json()["data"]]
        url = page.links["next"]["url"] if "next" in page.links else None
        assert (page.json()["next"] is None) == (url is None)

    assert found[:5] == made[::-1]
