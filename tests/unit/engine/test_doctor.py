"""What a job needs is counted, and what is wrong with it gets a patch, or none where none is sure."""

from __future__ import annotations

from typing import Any

import pytest

from service.engine.doctor import falls, grows, memory, patch_for, patched
from service.errors import Entry
from service.schemas import architecture as architectures
from service.schemas import examples
from service.schemas.judgement import require


def summary(document: dict[str, Any]) -> dict[str, Any]:
    found = require(architectures.parse(document)).summary
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("optimizer", "tensors"),
    [
        ({"type": "SGD", "momentum": 0.0}, 0),
        ({"type": "SGD", "momentum": 0.9}, 1),
        ({"type": "Adam"}, 2),
        ({"type": "AdamW", "amsgrad": True}, 3),
        ({"type": "RMSprop", "centered": True, "momentum": 0.5}, 3),
    ],
    ids=str,
)
def test_memory_is_the_sum_of_what_takes_it(optimizer: dict[str, Any], tensors: int) -> None:
    found = memory(summary(examples.SEQUENTIAL), sizes={}, batch=8, optimizer=optimizer, data_bytes=100)

    assert found == {
        "weights": 31 * 4,
        "gradients": 31 * 4,
        "optimizer": 31 * 4 * tensors,
        "activations": (10 + 10 + 1 + 1) * 8 * 4,  # three layers' answers and the input
        "data": 100,
        "total": 31 * 4 * (2 + tensors) + 22 * 8 * 4 + 100,
    }


def test_the_activation_at_the_end_of_a_nested_net_is_taken_out() -> None:
    inner = {"type": "Sequential", "layers": [{"type": "Linear"}, {"type": "Softmax", "dim": 1}]}
    body = {"architecture": {"root": {"type": "Sequential", "layers": [{"type": "ReLU"}, inner]}}}
    patch = patch_for(Entry("/architecture/root", "softmax-twice", ""), body)

    assert patch == [{"op": "remove", "path": "/architecture/root/layers/1/layers/1"}]


@pytest.mark.parametrize(
    "body",
    [
        {"architecture": "sha256:" + "0" * 64},
        {"architecture": {"catalogue": "mlp", "prams": {}}},
        {"architecture": {"root": {"type": "Sequential", "layers": [{"type": "Linear"}]}}},
        {"architecture": {"root": {"type": "Graph", "layers": [], "forward": ["y = x", "return y, x"]}}},
        {},
    ],
    ids=["a digest", "the catalogue", "no activation", "no call", "nothing"],
)
def test_a_net_that_the_request_does_not_show_is_not_patched(body: dict[str, Any]) -> None:
    for code in ("softmax-twice", "shape-mismatch", "label-out-of-range"):
        entry = Entry("/architecture/root", code, "", expected="[N, 3]", got="[N, 2]")
        found = patch_for(entry, body)
        assert found is None or found[0]["path"].endswith(("/out_features", "/architecture/params"))


@pytest.mark.parametrize(
    ("entry", "param"),
    [
        (Entry("/architecture/root", "shape-mismatch", "", expected="[N, 3]", got="[N, 10]"), "num_classes"),
        (Entry("/architecture/inputs/0/shape", "shape-mismatch", "", expected="['B', 4]"), "in_features"),
    ],
)
def test_a_size_of_a_net_of_the_catalogue_is_left_to_the_data(entry: Entry, param: str) -> None:
    body = {"architecture": {"catalogue": "mlp"}}
    bare = patch_for(entry, body)
    among = patch_for(entry, {"architecture": {"catalogue": "mlp", "params": {"hidden": [4], param: 7}}})

    assert bare is not None
    assert among is not None
    assert patched(body, bare) == {"architecture": {"catalogue": "mlp", "params": {param: "auto"}}}
    assert among == [{"op": "add", "path": f"/architecture/params/{param}", "value": "auto"}]


@pytest.mark.parametrize("kind", ["cross_entropy", "bce_with_logits"])
def test_an_objective_that_a_hint_names_first_takes_the_place_of_the_wrong_one(kind: str) -> None:
    entry = Entry("/objective", "invalid", "", hint=f'Use {{"type": "{kind}"}}; or {{"type": "cross_entropy"}}.')

    assert patch_for(entry, {}) == [{"op": "replace", "path": "/objective", "value": {"type": kind}}]
    assert patch_for(Entry("/objective", "invalid", "", hint="Use another."), {}) is None


def test_what_nobody_can_decide_has_no_patch() -> None:
    assert patch_for(Entry("/split", "leakage", ""), examples.TRAIN) is None


def test_a_patch_changes_a_copy() -> None:
    body = {"a": {"b/c": [1, 2, 3]}, "d": 1}
    changed = patched(
        body,
        [
            {"op": "remove", "path": "/a/b~1c/0"},
            {"op": "add", "path": "/a/b~1c/-", "value": 4},
            {"op": "add", "path": "/a/b~1c/0", "value": 0},
            {"op": "replace", "path": "/d", "value": 2},
        ],
    )

    assert changed == {"a": {"b/c": [0, 2, 3, 4]}, "d": 2}
    assert body == {"a": {"b/c": [1, 2, 3]}, "d": 1}
    with pytest.raises((LookupError, ValueError)):
        patched(body, [{"op": "remove", "path": "/a/x/0"}])


def test_a_loss_that_grows_is_told_from_one_that_falls_or_stays() -> None:
    up, down, flat = [1.0, 2.0, 4.0, 8.0] * 4, [8.0, 4.0, 2.0, 1.0] * 4, [1.0] * 16
    assert [grows(losses) for losses in (up, down, flat, [], [1.0])] == [True, False, False, False, False]
    assert [falls(losses) for losses in (up, down, flat, [], [1.0])] == [False, True, False, False, False]
