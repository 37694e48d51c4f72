"""No JSON value is too strange for the service."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.schemas import examples
from tests.problems import assert_problem

ROOT = Path(__file__).resolve().parents[2]

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
