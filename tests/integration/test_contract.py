"""The service does what its OpenAPI document says, and no JSON value is too strange for it."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service import keys
from service.schemas import examples
from tests.live import Server, run_job
from tests.problems import assert_problem

ROOT = Path(__file__).resolve().parents[2]
UNENDING = "/v1/events"
"""A stream that never ends by itself; test_events.py reads it."""

BOUNDED = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

texts = st.text(max_size=8)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**31, 2**63, 2**64, -(2**63) - 1, 10**40, 10**400])
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | st.sampled_from(["", "auto", "B", "B/1", "../x", "a\x00b", "𝒙", "sha256:", "quadratic@champion"])
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12
)


@pytest.mark.timeout(330)
def test_every_operation_keeps_the_openapi_document(make_server: Callable[..., Server], tmp_path: Path) -> None:
    """On a server with keys, so that every refusal for want of one is in the document too."""
    key, stored = keys.make("contract", keys.Scope.ADMIN, now=datetime.now(UTC))
    # Operations are tried without a key and with wrong ones, from one address.
    server = make_server(api_keys=f"[{stored.model_dump_json()}]", key_failures_per_minute="1000000")
    with server.client() as client:
        client.headers["Authorization"] = f"Bearer {key}"
        run_job(client, examples.TRAIN)
        found = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(ROOT / "schemathesis.toml")),
                *("run", f"{server.url}/openapi.json", "--exclude-path", UNENDING),
                *("--header", f"Authorization: Bearer {key}", "--header", f"X-API-Key: {key}"),
                *("--phases", "examples,coverage,fuzzing,stateful", "--max-examples", "5", "--seed", "1"),
                *("--max-response-time", "5", "--generation-database", "none", "--continue-on-failure", "--no-color"),
            ],
            cwd=tmp_path,  # it leaves a folder where it runs
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        counted = client.get("/metrics").text

    assert found.returncode == 0, found.stdout[-8000:] + found.stderr[-2000:]
    passed = re.search(r"(\d+) generated, (\d+) passed", found.stdout)
    assert passed is not None, found.stdout
    assert int(passed[1]) == int(passed[2]) > 1000
    assert "modelyard_internal_errors_total 0.0" in counted


@pytest.mark.usefixtures("quadratic")
class TestNoValueIsTooStrange:
    """Whatever JSON comes, the answer is a success or a problem that tells what is wrong."""

    @BOUNDED
    @given(inputs=values)
    def test_as_inputs_of_a_prediction(self, client: httpx.Client, inputs: Any) -> None:
        sound(client.post("/predict", json={"model": "quadratic", "inputs": inputs}))

    @BOUNDED
    @given(body=values)
    def test_as_a_whole_body(self, client: httpx.Client, body: Any) -> None:
        for path in ("/predict", "/v1/jobs", "/v1/datasets", "/v1/architectures", "/v1/architectures/validate"):
            sound(client.post(path, json=body))

    @BOUNDED
    @given(data=st.data())
    def test_in_some_place_of_a_right_job(self, client: httpx.Client, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from([examples.TRAIN, examples.CLASSIFY, examples.IMPORT, examples.EVALUATE]))
        answer = client.post("/v1/jobs", json=changed_somewhere(data, request))
        sound(answer)
        if answer.is_success:
            client.post(f"{answer.headers['location']}/cancel")

    @BOUNDED
    @given(data=st.data())
    def test_in_some_place_of_a_right_document(self, client: httpx.Client, data: st.DataObject) -> None:
        document = changed_somewhere(data, data.draw(st.sampled_from([examples.NET, examples.SEQUENTIAL])))
        verdict = client.post("/v1/architectures/validate", json=document)
        sound(verdict)
        kept = client.post("/v1/architectures", json=document)
        sound(kept)
        if verdict.status_code == 200:
            assert kept.is_success == verdict.json()["valid"]


def sound(answer: httpx.Response) -> None:
    """A success, or a refusal in the one shape."""
    assert answer.status_code < 500, answer.text
    if not answer.is_success:
        assert_problem(answer, answer.status_code, answer.json()["code"])


def changed_somewhere(data: st.DataObject, document: Any) -> Any:
    """The document with any value in place of one of its own, or with a member more."""
    changed = copy.deepcopy(document)
    places = list(_places(changed))
    container, key = data.draw(st.sampled_from(places))
    if isinstance(container, dict) and data.draw(st.integers(0, 9)) == 0:
        container[data.draw(texts)] = data.draw(values)
    else:
        container[key] = data.draw(values)
    return changed


def _places(value: Any) -> Any:
    for key, child in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(child, (dict, list)):
            yield from _places(child)
