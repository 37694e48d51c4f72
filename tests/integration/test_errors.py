"""A wrong call of each kind is told where it is wrong, what is wrong, and what would be right; none is our fault."""

from __future__ import annotations

import json
import re
import time
from copy import deepcopy
from typing import Any

import httpx
import pytest

from service.rest import problems
from service.schemas import examples
from tests.live import Server, send_raw
from tests.problems import assert_problem

JSON = {"Content-Type": "application/json"}
NO_JOB = "job_" + "0" * 32
NO_DATASET = "ds_" + "0" * 32
NO_UPLOAD = "up_" + "0" * 32
NO_DIGEST = "sha256:" + "0" * 64


def changed(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The document with another value at a pointer; a member that is not there is added."""
    found = deepcopy(document)
    at: Any = found
    *parents, last = path.strip("/").split("/")
    for part in parents:
        at = at[int(part)] if isinstance(at, list) else at[part]
    at[int(last) if isinstance(at, list) else last] = value
    return found


def train(path: str, value: Any) -> dict[str, Any]:
    return changed(examples.TRAIN, path, value)


def inline(**members: Any) -> dict[str, Any]:
    return train("/dataset", {"type": "inline", **members})


LAYERS = "/architecture/root/layers"
JOBS = [
    # documents
    pytest.param(
        train(f"{LAYERS}/1/in_features", 9), 422, "architecture-invalid", f"{LAYERS}/1/in_features", id="sizes-disagree"
    ),
    pytest.param(
        train(f"{LAYERS}/0/type", "Liner"), 422, "architecture-invalid", f"{LAYERS}/0/type", id="unknown-layer"
    ),
    pytest.param(
        train(f"{LAYERS}/0/type", "os.system"), 422, "architecture-invalid", f"{LAYERS}/0/type", id="layer-is-a-path"
    ),
    pytest.param(train(f"{LAYERS}/0/biass", 1), 422, "architecture-invalid", f"{LAYERS}/0/biass", id="unknown-field"),
    pytest.param(train("/architecture/root/forward/0", "x = __import__('os')"), 422, None, None, id="code-in-forward"),
    pytest.param(train(f"{LAYERS}/0/out_features", 10**9), 422, None, None, id="enormous-layer"),
    pytest.param(train("/architecture/schema", "arch/9"), 422, None, "/architecture/schema", id="unknown-schema"),
    pytest.param(train("/architecture", None), 422, None, "/architecture", id="architecture-is-null"),
    pytest.param(train("/architecture", []), 422, None, "/architecture", id="architecture-is-a-list"),
    pytest.param(train("/architecture", "resnet"), 422, None, "/architecture", id="architecture-is-a-word"),
    pytest.param(train("/architecture", NO_DIGEST), 404, "not-found", "/architecture", id="unknown-digest"),
    # data
    pytest.param(train("/dataset", NO_DATASET), 404, "not-found", "/dataset", id="unknown-dataset"),
    pytest.param(train("/dataset", None), 422, "validation-failed", None, id="dataset-is-null"),
    pytest.param(train("/dataset/type", "sql"), 422, "validation-failed", None, id="unknown-source"),
    pytest.param(train("/dataset/rows", 10**9), 422, "validation-failed", "/dataset/rows", id="too-many-rows"),
    pytest.param(
        train("/dataset", {"type": "csv", "upload": NO_UPLOAD, "target": "y"}),
        *(404, "not-found", "/dataset/upload"),
        id="unknown-upload",
    ),
    pytest.param(inline(inputs=[[1], [2, 3]], targets=[1, 2]), 422, "dataset-refused", None, id="ragged-rows"),
    pytest.param(inline(inputs=[[1], [None]], targets=[1, 2]), 422, "dataset-refused", None, id="null-in-rows"),
    pytest.param(inline(inputs=[[1], [2]], targets=[1]), 422, "dataset-refused", None, id="too-few-targets"),
    pytest.param(inline(inputs=[[1], [2]]), 422, None, None, id="no-targets"),
    pytest.param(inline(inputs=[[1, 2]], targets=[1]), 422, "shape-mismatch", None, id="rows-do-not-fit-the-net"),
    pytest.param(
        inline(inputs=[[None]] * 60_000, targets=[1] * 60_000), 422, "dataset-refused", None, id="60000-nulls"
    ),
    # the job itself
    pytest.param({}, 422, "validation-failed", "", id="empty"),
    pytest.param([], 422, "validation-failed", "", id="a-list"),
    pytest.param(train("/kind", "dance"), 422, "validation-failed", "/kind", id="unknown-kind"),
    pytest.param(train("/epochs", 5), 422, "validation-failed", "/epochs", id="unknown-member"),
    pytest.param(train("/__proto__", {}), 422, "validation-failed", "/__proto__", id="prototype"),
    pytest.param(train("/$ref", "file:///etc/passwd"), 422, "validation-failed", "/$ref", id="reference"),
    pytest.param(train("/class_path", "os.system"), 422, "validation-failed", "/class_path", id="class-path"),
    pytest.param(train("/objective/type", "cross_entropy"), 422, None, None, id="objective-does-not-fit"),
    pytest.param(train("/optimizer/lr", -1), 422, "validation-failed", "/optimizer/lr", id="negative-rate"),
    pytest.param(train("/optimizer/type", "Adamm"), 422, None, "/optimizer/type", id="unknown-optimizer"),
    pytest.param(train("/budget", {}), 422, "validation-failed", "/budget", id="no-budget"),
    pytest.param(train("/budget/epochs", 10**9), 422, "validation-failed", "/budget/epochs", id="too-many-epochs"),
    pytest.param(train("/budget/epochs", 10**300), 422, "validation-failed", "/budget/epochs", id="300-digits"),
    pytest.param(train("/budget/epochs", "200"), 422, "validation-failed", "/budget/epochs", id="text-for-a-number"),
    pytest.param(train("/seed", 1.0), 422, "validation-failed", "/seed", id="float-for-an-integer"),
    pytest.param(train("/seed", True), 422, "validation-failed", "/seed", id="true-for-an-integer"),
    pytest.param(train("/seed", 2**64), 422, "validation-failed", "/seed", id="seed-beyond-64-bits"),
    pytest.param(train("/output/model", "Quadratic"), 422, "invalid-name", "/output/model", id="upper-case-name"),
    pytest.param(train("/output/model", "../x"), 422, "invalid-name", "/output/model", id="path-as-name"),
    pytest.param(train("/output/model", "stats"), 422, "invalid-name", "/output/model", id="reserved-name"),
    pytest.param(train("/output/alias_on_success", "12"), 422, "invalid-name", None, id="alias-of-digits"),
    pytest.param(train("/labels", {"a": 10**30}), 422, "validation-failed", "/labels/a", id="label-is-a-number"),
    pytest.param(train("/labels", {"a": 1, "b": 2}), 422, "validation-failed", "/labels/b", id="two-mistakes"),
    pytest.param({f"k{i}": i for i in range(20_000)}, 422, "validation-failed", "", id="20000-unknown-members"),
    # references
    pytest.param({**examples.EVALUATE, "model": "nobody"}, 404, "not-found", "/model", id="unknown-model"),
    pytest.param({**examples.EVALUATE, "model": "quadratic/99"}, 404, "not-found", "/model", id="unknown-version"),
    pytest.param({**examples.EVALUATE, "model": "quadratic@x"}, 404, "not-found", "/model", id="unknown-alias"),
    pytest.param({**examples.EVALUATE, "model": "quadratic/0"}, 422, "invalid-name", "/model", id="version-0"),
    # weights
    pytest.param(
        {**examples.IMPORT, "kind": "train"}, 422, "validation-failed", "/state_dict", id="train-with-weights"
    ),
    pytest.param({**examples.IMPORT, "file": "/etc/passwd"}, 422, "validation-failed", "/file", id="import-a-path"),
]


@pytest.mark.parametrize(("body", "status", "code", "pointer"), JOBS)
@pytest.mark.usefixtures("quadratic")
def test_a_wrong_job_is_refused(
    client: httpx.Client, body: Any, status: int, code: str | None, pointer: str | None
) -> None:
    started = time.perf_counter()
    answer = client.post("/v1/jobs", json=body)

    assert time.perf_counter() - started < 10
    assert_problem(answer, status, code or answer.json()["code"], pointer=pointer)


HOLES = changed(inline(inputs=[[1], [None]], targets=[1, 2]), "/output/model", "holes")
HOLE, NAME = ("/dataset/inputs/1/0", "wrong-type"), ("/output/model", "invalid-name")
TOGETHER = [
    pytest.param(
        changed(changed(HOLES, "/output/model", "My Model"), "/optimizer/lr", -1),
        *(422, "validation-failed", [("/optimizer/lr", "out-of-range"), NAME, HOLE]),
        id="members-a-name-and-the-data",
    ),
    pytest.param(
        changed(HOLES, "/output", {"model": "My Model", "alias_on_success": "12"}),
        *(422, "validation-failed", [NAME, ("/output/alias_on_success", "invalid-name"), HOLE]),
        id="names-and-the-data",
    ),
    pytest.param(
        changed(train("/objective/type", "cross_entropy"), "/output/model", "My Model"),
        *(422, "validation-failed", [NAME, ("/dataset", "wrong-type")]),
        id="a-name-and-what-does-not-agree",
    ),
    pytest.param(
        changed(HOLES, f"{LAYERS}/1/in_features", 9),
        *(422, "validation-failed", [(f"{LAYERS}/1/in_features", "shape-mismatch"), HOLE]),
        id="the-net-and-the-data",
    ),
    pytest.param(
        changed(changed(HOLES, "/architecture", NO_DIGEST), "/device", "cuda:7"),
        *(422, "validation-failed", [("/architecture", "not-found"), HOLE, ("/device", "no-device")]),
        id="an-unknown-digest-the-data-and-the-device",
    ),
    pytest.param(
        changed(train("/architecture", NO_DIGEST), "/dataset", NO_DATASET),
        *(404, "not-found", [("/architecture", "not-found"), ("/dataset", "not-found")]),
        id="an-unknown-digest-and-dataset",
    ),
    pytest.param(
        {**examples.EVALUATE, "model": "nobody", "dataset": HOLES["dataset"]},
        *(422, "validation-failed", [("/model", "not-found"), HOLE]),
        id="an-unknown-model-and-the-data",
    ),
]


@pytest.mark.parametrize("query", ["", "?dry_run=true"], ids=["submit", "dry-run"])
@pytest.mark.parametrize(("body", "status", "code", "mistakes"), TOGETHER)
@pytest.mark.usefixtures("quadratic")
def test_what_is_wrong_with_a_job_and_with_its_data_is_told_at_once(
    client: httpx.Client, body: Any, status: int, code: str, mistakes: list[tuple[str, str]], query: str
) -> None:
    found = assert_problem(client.post(f"/v1/jobs{query}", json=body), status, code)

    assert [(entry["pointer"], entry["code"]) for entry in found["errors"]] == mistakes


def ok(**members: Any) -> dict[str, Any]:
    return {"model": "quadratic", "inputs": [[0.5]], **members}


PREDICTIONS = [
    pytest.param("/predict", ok(inputs=[[True]]), 422, "dtype-mismatch", "/inputs/0/0", id="true"),
    pytest.param("/predict", ok(inputs=[[None]]), 422, "dtype-mismatch", "/inputs/0/0", id="null"),
    pytest.param("/predict", ok(inputs=[["0.5"]]), 422, "dtype-mismatch", "/inputs/0/0", id="text"),
    pytest.param("/predict", ok(inputs=[[{}]]), 422, "dtype-mismatch", "/inputs/0/0", id="object"),
    pytest.param("/predict", ok(inputs=[[1], [1, 2]]), 422, "shape-mismatch", "/inputs/1", id="ragged"),
    pytest.param("/predict", ok(inputs=[[1, 2]]), 422, "shape-mismatch", "/inputs/0", id="wrong-width"),
    pytest.param("/predict", ok(inputs=[1]), 422, "shape-mismatch", "/inputs", id="wrong-rank"),
    pytest.param("/predict", ok(inputs=[]), 422, "shape-mismatch", "/inputs", id="empty-batch"),
    pytest.param("/predict", ok(inputs=[[1e39]]), 422, "not-finite", "/inputs/0/0", id="beyond-float32"),
    pytest.param("/predict", ok(inputs=[[10**400]]), 422, "not-finite", "/inputs/0/0", id="400-digits"),
    pytest.param("/predict", ok(inputs=[[1]] * 4097), 413, "batch-too-large", "/inputs", id="too-many-rows"),
    pytest.param("/predict", ok(inputs=[[None]] * 200_000), 413, "batch-too-large", "/inputs", id="200000-rows"),
    pytest.param("/predict", ok(inputs=[[None] * 50] * 4000), 422, "shape-mismatch", "/inputs/0", id="200000-cells"),
    pytest.param("/predict", ok(inputs=[["a" * 5_000_000]]), 422, "dtype-mismatch", "/inputs/0/0", id="5-MB-text"),
    pytest.param("/predict", ok(inputs="rows"), 422, "validation-failed", "/inputs", id="inputs-are-a-text"),
    pytest.param("/predict", ok(inputs={"y": [[1]]}), 422, "validation-failed", "/inputs/y", id="unknown-input"),
    pytest.param("/predict", {"inputs": [[1]]}, 422, "validation-failed", "/model", id="no-model"),
    pytest.param("/predict", {"model": "quadratic"}, 422, "validation-failed", "/inputs", id="no-inputs"),
    pytest.param("/predict", ok(a=1, b=2), 422, "validation-failed", "/b", id="unknown-members"),
    pytest.param("/predict", ok(timeout_s=0), 422, "validation-failed", "/timeout_s", id="no-time"),
    pytest.param("/predict", ok(timeout_s="1"), 422, "validation-failed", "/timeout_s", id="time-is-a-text"),
    pytest.param("/predict", ok(priority=10), 422, "validation-failed", "/priority", id="priority-too-high"),
    pytest.param("/predict", [], 422, "validation-failed", "", id="a-list"),
    pytest.param("/predict", None, 422, "validation-failed", "", id="null-body"),
    pytest.param("/predict", ok(model="quadratc"), 404, "not-found", "/model", id="unknown-model"),
    pytest.param("/predict", ok(model="quadratic@chief"), 404, "not-found", "/model", id="unknown-alias"),
    pytest.param("/predict", ok(model="quadratic/77"), 404, "not-found", "/model", id="unknown-version"),
    pytest.param("/predict", ok(model="Quadratic"), 422, "invalid-name", "/model", id="upper-case"),
    pytest.param("/predict", ok(model="../../etc/passwd"), 422, "invalid-name", "/model", id="path"),
    pytest.param("/predict", ok(model="quadratic/01"), 422, "invalid-name", "/model", id="version-01"),
    pytest.param("/predict", ok(model="quadratic/١"), 422, "invalid-name", "/model", id="other-digits"),
    pytest.param("/predict", ok(model="quаdratic"), 422, "invalid-name", "/model", id="cyrillic-letter"),
    pytest.param("/predict", ok(model="a" * 1_000_000), 422, "validation-failed", "/model", id="1-MB-name"),
    pytest.param("/v1/models/nobody/predict", ok(model="nobody"), 404, "not-found", None, id="path-unknown-model"),
    pytest.param("/v1/models/clouds/predict", ok(), 422, "validation-failed", "/model", id="path-and-body-differ"),
    pytest.param(
        "/v1/models/quadratic/versions/1/predict", ok(model="quadratic/2"), 422, None, "/model", id="versions-differ"
    ),
    pytest.param("/v1/models/quadratic/versions/0/predict", ok(), 422, None, "/path/number", id="path-version-0"),
    pytest.param("/v1/models/quadratic/versions/01/predict", ok(), 422, None, "/path/number", id="path-version-01"),
    pytest.param("/v1/models/QUADRATIC/predict", ok(), 422, None, "/path/name", id="path-upper-case"),
    pytest.param("/v1/models/quadratic%00/predict", ok(), 422, None, "/path/name", id="path-nul"),
]


@pytest.mark.parametrize(("path", "body", "status", "code", "pointer"), PREDICTIONS)
@pytest.mark.usefixtures("quadratic", "clouds")
def test_a_wrong_prediction_is_refused(
    client: httpx.Client, path: str, body: Any, status: int, code: str | None, pointer: str | None
) -> None:
    content = json.dumps(body)
    started = time.perf_counter()
    answer = client.post(path, content=content, headers=JSON)

    assert time.perf_counter() - started < 10
    assert_problem(answer, status, code or "validation-failed", pointer=pointer)


BODIES = [
    pytest.param(b"", 400, "malformed-json", "", id="empty"),
    pytest.param(b"{} x", 400, "malformed-json", "", id="trailing-text"),
    pytest.param(b"{}{}", 400, "malformed-json", "", id="two-documents"),
    pytest.param(b'{"model": "\xff"}', 400, "malformed-json", "", id="bad-utf-8"),
    pytest.param(rb'{"model": "\ud800"}', 400, "malformed-json", "", id="lone-surrogate"),
    pytest.param(b'{"model": "a\x01"}', 400, "malformed-json", "", id="control-character"),
    pytest.param(b'{"seed": ' + b"9" * 5000 + b"}", 400, "malformed-json", "", id="5000-digits"),
    pytest.param(b"[" * 100_000, 400, "malformed-json", "", id="100000-brackets"),
    pytest.param(b'{"model": NaN}', 422, "not-finite", "/model", id="NaN"),
    pytest.param(b'{"a": [0, -Infinity]}', 422, "not-finite", "/a/1", id="infinity"),
    pytest.param(b'{"a": 1e999}', 422, "not-finite", "/a", id="1e999"),
    pytest.param(b"[" + b" " * (17 * 2**20) + b"]", 413, "body-too-large", "", id="17-MB"),
]
WRITERS = ["/predict", "/v1/jobs", "/v1/datasets", "/v1/architectures", "/v1/architectures/validate"]


@pytest.mark.parametrize("path", WRITERS)
@pytest.mark.parametrize(("body", "status", "code", "pointer"), BODIES)
def test_a_body_that_is_no_sound_json_is_refused_everywhere(
    client: httpx.Client, path: str, body: bytes, status: int, code: str, pointer: str
) -> None:
    assert_problem(client.post(path, content=body, headers=JSON), status, code, pointer=pointer)


@pytest.mark.parametrize("path", [path for path in WRITERS if path != "/predict"])
@pytest.mark.parametrize(
    ("body", "entry"),
    [
        pytest.param(b'{"kind": "train", "kind": "import"}', "duplicate-member", id="member-twice"),
        pytest.param(b'{"a": {"b": 1, "b": 1}}', "duplicate-member", id="nested-member-twice"),
        pytest.param(b'{"a":' * 65 + b"1" + b"}" * 65, "malformed-json", id="65-levels"),
    ],
)
def test_documents_that_are_kept_have_no_twins_and_are_not_deep(
    client: httpx.Client, path: str, body: bytes, entry: str
) -> None:
    assert_problem(client.post(path, content=body, headers=JSON), 400, "malformed-json", entry=entry)


@pytest.mark.parametrize("path", WRITERS)
@pytest.mark.parametrize(
    ("headers", "status", "code", "pointer"),
    [
        pytest.param(
            {"Content-Type": "application/x-www-form-urlencoded"},
            *(415, "unsupported-media-type", "/header/content-type"),
            id="curl's-default",
        ),
        pytest.param({}, 415, "unsupported-media-type", "/header/content-type", id="no-type"),
        pytest.param({"Content-Type": "text/json"}, 415, "unsupported-media-type", None, id="text"),
        pytest.param({"Content-Type": "multipart/form-data"}, 415, "unsupported-media-type", None, id="multipart"),
        pytest.param(
            {**JSON, "Content-Encoding": "gzip"},
            *(415, "unsupported-encoding", "/header/content-encoding"),
            id="gzip",
        ),
        pytest.param({**JSON, "Content-Encoding": "identity, br"}, 415, "unsupported-encoding", None, id="brotli"),
        pytest.param(
            {"Content-Type": "application/json; charset=utf-16"},
            *(400, "malformed-json", "/header/content-type"),
            id="charset",
        ),
    ],
)
def test_a_body_of_another_type_is_refused_and_the_right_type_named(
    client: httpx.Client, path: str, headers: dict[str, str], status: int, code: str, pointer: str | None
) -> None:
    body = assert_problem(client.post(path, content=b"{}", headers=headers), status, code, pointer=pointer)
    if code == "unsupported-media-type":
        assert "application/json" in body["errors"][0]["hint"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "pointer"),
    [
        pytest.param("GET", "/nowhere", 404, "not-found", "", id="no-such-path"),
        pytest.param("GET", "/v1/models/", 404, "not-found", "", id="trailing-slash"),
        pytest.param("GET", "/v1/models/..%2f..%2fetc%2fpasswd", 404, "not-found", "", id="traversal"),
        pytest.param("GET", f"/v1/jobs/{NO_JOB}", 404, "not-found", "/path/job_id", id="job"),
        pytest.param("GET", f"/v1/jobs/{NO_JOB}/events", 404, "not-found", "/path/job_id", id="events"),
        pytest.param("GET", f"/v1/jobs/{NO_JOB}/logs", 404, "not-found", "/path/job_id", id="logs"),
        pytest.param("GET", f"/v1/jobs/{NO_JOB}/metrics", 404, "not-found", "/path/job_id", id="metrics"),
        pytest.param("GET", f"/v1/jobs/{NO_JOB}/checkpoints", 404, "not-found", "/path/job_id", id="checkpoints"),
        pytest.param("POST", f"/v1/jobs/{NO_JOB}/cancel", 404, "not-found", "/path/job_id", id="cancel"),
        pytest.param("DELETE", f"/v1/jobs/{NO_JOB}", 404, "not-found", "/path/job_id", id="delete-job"),
        pytest.param("GET", "/v1/jobs/job_1", 404, "not-found", "/path/job_id", id="no-job-id"),
        pytest.param("GET", "/v1/jobs/job_1/events", 404, "not-found", "/path/job_id", id="events-of-no-job-id"),
        pytest.param("GET", "/v1/jobs//events", 404, "not-found", "", id="empty-job-id"),
        pytest.param("DELETE", "/v1/uploads/up_", 404, "not-found", "/path/upload_id", id="no-upload-id"),
        pytest.param("GET", f"/v1/datasets/{NO_DATASET}", 404, "not-found", "/path/dataset_id", id="dataset"),
        pytest.param("GET", f"/v1/datasets/{NO_DATASET}/preview", 404, "not-found", "/path/dataset_id", id="preview"),
        pytest.param("DELETE", f"/v1/datasets/{NO_DATASET}", 404, "not-found", "/path/dataset_id", id="delete-dataset"),
        pytest.param("GET", f"/v1/uploads/{NO_UPLOAD}", 404, "not-found", "/path/upload_id", id="upload"),
        pytest.param("GET", f"/v1/architectures/{NO_DIGEST}", 404, "not-found", "/path/digest", id="architecture"),
        pytest.param("GET", "/v1/models/nobody", 404, "not-found", "/path/name", id="model"),
        pytest.param("DELETE", "/v1/models/nobody", 404, "not-found", "/path/name", id="delete-model"),
        pytest.param("GET", "/v1/models/quadratic/versions/99", 404, "not-found", "/path/number", id="version"),
        pytest.param("GET", "/v1/models/quadratic/versions/99/weights", 404, "not-found", "/path/number", id="weights"),
        pytest.param("GET", "/v1/models/quadratic/aliases/chief", 404, "not-found", "/path/alias", id="alias"),
        pytest.param(
            "GET", "/v1/models/quadratic/aliases/chief/history", 404, "not-found", "/path/alias", id="history"
        ),
        pytest.param("GET", "/problems/nothing", 404, "not-found", "/path/code", id="problem"),
        pytest.param("GET", "/v1/models/quadratic/versions/1.0", 422, None, "/path/number", id="version-1.0"),
        pytest.param("GET", "/v1/models/quadratic/versions/latest", 422, None, "/path/number", id="version-latest"),
        pytest.param("GET", "/v1/models/%ff%fe", 422, None, "/path/name", id="bytes-that-are-no-utf-8"),
        pytest.param("GET", "/v1/models/a." + "b" * 200, 422, None, "/path/name", id="long-name"),
        pytest.param("GET", "/v1/jobs?limit=0", 422, None, "/query/limit", id="limit-0"),
        pytest.param("GET", "/v1/jobs?limit=201", 422, None, "/query/limit", id="limit-201"),
        pytest.param("GET", "/v1/jobs?limit=ten", 422, None, "/query/limit", id="limit-is-a-word"),
        pytest.param("GET", "/v1/jobs?state=lost", 422, None, "/query/state", id="unknown-state"),
        pytest.param("GET", "/v1/jobs?kind=dance", 422, None, "/query/kind", id="unknown-kind"),
        pytest.param("GET", "/v1/jobs?after=zzz", 422, None, "/query/after", id="no-cursor"),
        pytest.param("GET", "/v1/jobs?stat=failed", 422, None, "/query/stat", id="misspelt-parameter"),
        pytest.param("GET", "/v1/events?topics=everything", 422, None, "/query/topics", id="unknown-topic"),
        pytest.param("GET", f"/v1/jobs/{NO_JOB}/events?after=-1", 422, None, "/query/after", id="negative-event"),
        pytest.param("DELETE", "/v1/models/quadratic?force=perhaps", 422, None, "/query/force", id="no-boolean"),
        pytest.param("PUT", "/predict", 405, "method-not-allowed", "", id="method"),
        pytest.param("OPTIONS", "/v1/jobs", 405, "method-not-allowed", "", id="options"),
    ],
)
@pytest.mark.usefixtures("quadratic")
def test_a_wrong_address_or_parameter_is_named(
    client: httpx.Client, method: str, path: str, status: int, code: str | None, pointer: str
) -> None:
    assert_problem(client.request(method, path), status, code or "validation-failed", pointer=pointer)


@pytest.mark.parametrize(
    ("path", "headers", "status", "code", "pointer"),
    [
        pytest.param(
            "/v1/jobs", {"Idempotency-Key": "a b"}, 422, None, "/header/idempotency-key", id="key-with-a-space"
        ),
        pytest.param(
            "/v1/jobs", {"Idempotency-Key": "a" * 201}, 422, None, "/header/idempotency-key", id="key-too-long"
        ),
        pytest.param("/v1/jobs", {"Prefer": "x" * 300}, 422, None, "/header/prefer", id="preference-too-long"),
        pytest.param(
            "/v1/uploads", {"Repr-Digest": "sha-256=:no:"}, 422, "digest-mismatch", "/header/repr-digest", id="digest"
        ),
        pytest.param(
            "/v1/uploads",
            {"Repr-Digest": "sha-256=:" + "A" * 43 + "=:"},
            *(422, "digest-mismatch", "/header/repr-digest"),
            id="another-digest",
        ),
    ],
)
def test_a_wrong_header_is_named(
    client: httpx.Client, path: str, headers: dict[str, str], status: int, code: str | None, pointer: str
) -> None:
    answer = client.post(path, json=examples.TRAIN, headers=headers)

    assert_problem(answer, status, code or "validation-failed", pointer=pointer)


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/predict", "POST"),
        ("/v1/jobs", "GET, POST"),
        (f"/v1/jobs/{NO_JOB}", "DELETE, GET, PATCH"),
        ("/v1/models/quadratic/aliases/champion", "DELETE, GET, PUT"),
        ("/livez", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(client: httpx.Client, path: str, methods: str) -> None:
    answer = client.request("TRACE", path)

    assert answer.headers["allow"] == methods
    (entry,) = assert_problem(answer, 405, "method-not-allowed")["errors"]
    assert (entry["expected"], entry["got"]) == (methods, "'TRACE'")


@pytest.mark.parametrize(
    ("path", "detail", "hint"),
    [
        pytest.param("/v1/jobs/job_123", "'job_123' is not the id of a job.", "GET /v1/jobs lists", id="no-id"),
        pytest.param(f"/v1/jobs/{NO_JOB}", f"There is no job '{NO_JOB}'.", "GET /v1/jobs lists", id="unknown-job"),
        pytest.param(f"/v1/datasets/{NO_DATASET}", None, "GET /v1/datasets lists", id="unknown-dataset"),
        pytest.param("/v1/models/nobody-of-this-name", None, "GET /v1/models lists", id="unknown-model"),
        pytest.param("/v1/models/quadratic/versions/99", None, "Its version", id="version"),
    ],
)
@pytest.mark.usefixtures("quadratic")
def test_what_is_not_there_says_where_to_look(client: httpx.Client, path: str, detail: str | None, hint: str) -> None:
    (entry,) = assert_problem(client.get(path), 404, "not-found")["errors"]

    assert detail in (None, entry["detail"])
    assert entry["hint"].startswith(hint)


def test_a_conflict_says_what_to_do_next(client: httpx.Client, quadratic: dict[str, Any]) -> None:
    (entry,) = assert_problem(client.post(f"/v1/jobs/{quadratic['id']}/cancel"), 409, "conflict")["errors"]

    assert entry["hint"] == "There is nothing to cancel; delete it to forget it."


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("abc-123", True),
        ("a" * 64, True),
        ("a" * 65, False),
        ("a b", False),
        ('"><script>', False),
        ("", False),
    ],
)
def test_a_request_id_is_echoed_if_it_is_harmless_and_made_otherwise(
    client: httpx.Client, sent: str, kept: bool
) -> None:
    found = client.get("/nowhere", headers={"X-Request-ID": sent})

    assert re.fullmatch(r"[A-Za-z0-9-]{1,64}", found.headers["x-request-id"])
    assert (found.headers["x-request-id"] == sent) is kept
    assert_problem(found, 404, "not-found")


def test_a_body_that_is_announced_too_large_is_refused_before_it_comes(shared_server: Server) -> None:
    request = (
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9999999999999\r\n\r\n"
    )
    status, body = send_raw(shared_server, request)

    assert (status, json.loads(body)["code"]) == (413, "body-too-large")


def test_a_body_without_a_length_is_cut_at_the_limit(client: httpx.Client) -> None:
    answer = client.post("/predict", content=(b"[" * 65536 for _ in range(300)), headers=JSON)

    body = assert_problem(answer, 413, "body-too-large")
    assert body["limit"] == {"name": "body_bytes", "value": 16 * 2**20}


def test_more_than_twenty_mistakes_are_counted(client: httpx.Client) -> None:
    body = assert_problem(client.post("/predict", json={f"k{i}": 0 for i in range(100)}), 422, "validation-failed")

    assert len(body["errors"]) == 20
    assert body["more"] == 81  # `inputs` is missing too


def test_a_fault_of_ours_is_counted_and_there_was_none(client: httpx.Client) -> None:
    client.get("/nowhere")

    assert "modelyard_internal_errors_total 0.0" in client.get("/metrics").text


@pytest.mark.parametrize("code", sorted(problems.catalogue()))
def test_the_type_of_every_problem_is_a_page(client: httpx.Client, code: str) -> None:
    answer = client.get(f"/problems/{code}")

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert f"<code>{code}</code>" in answer.text


@pytest.mark.parametrize("path", ["/predict", "/v1/uploads", "/v1/jobs", "/v2/models/quadratic/infer"])
def test_a_page_of_another_site_changes_nothing_here(client: httpx.Client, path: str) -> None:
    """Where no keys are needed, any page in the browser of a user could otherwise post to this address."""
    headers = {"Sec-Fetch-Site": "cross-site", "Content-Type": "application/json"}
    refused = client.post(path, content=b"{}", headers=headers)
    read = client.get("/v1/models", headers=headers)

    assert_problem(refused, 403, "cross-origin", pointer="/header/sec-fetch-site")
    assert read.status_code == 200


def test_a_table_that_is_sent_where_json_is_taken_is_told_where_it_goes(client: httpx.Client) -> None:
    answer = client.post("/predict", content=b"x\n0.5\n", headers={"Content-Type": "text/csv; charset=utf-8"})
    told = assert_problem(answer, 415, "unsupported-media-type", pointer="/header/content-type")

    assert "POST /v1/uploads" in told["errors"][0]["hint"]
    assert "modelyard predict" in told["errors"][0]["hint"]


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/v1/predict", "Did you mean '/predict'?"),
        ("/v1/catalogue", "Did you mean '/v1/architectures/catalogue'?"),
        ("/healthz", "The probes are /livez, /readyz and /startupz."),
        ("/v1/train", "A training is a job: POST /v1/jobs."),
        ("/v1/job", "Did you mean '/v1/jobs'?"),
        ("/nothing/of/the/kind", "/docs lists all paths."),
    ],
)
def test_a_path_that_is_none_leads_to_the_one_that_is_meant(client: httpx.Client, path: str, hint: str) -> None:
    found = assert_problem(client.get(path), 404, "not-found")

    assert [entry["hint"] for entry in found["errors"]] == [hint]


@pytest.mark.parametrize("dataset", [{"type": "csv", "file": "plain.csv", "target": "y"}, "plain.csv"])
def test_a_file_of_the_client_leads_to_the_uploads(client: httpx.Client, dataset: object) -> None:
    found = assert_problem(
        client.post("/v1/jobs", json={**examples.TRAIN, "dataset": dataset}), 422, "validation-failed"
    )

    assert {entry["pointer"] for entry in found["errors"]} <= {"/dataset", "/dataset/upload", "/dataset/file"}
    assert all("POST /v1/uploads" in entry["hint"] for entry in found["errors"])
