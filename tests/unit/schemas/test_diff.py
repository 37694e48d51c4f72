"""What differs between two nets, in words."""

import copy
import time
from typing import Any

import pytest

from service.errors import ArchitectureInvalid
from service.schemas.diff import Change, Diff, diff


def sequential(*layers: dict[str, Any], shape: list[Any] | None = None) -> dict[str, Any]:
    root = {"type": "Sequential", "layers": list(layers)}
    return {"schema": "arch/1", "inputs": [{"name": "x", "shape": shape or ["B", 8]}], "root": root}


def linear(n: int, m: int, **more: Any) -> dict[str, Any]:
    return {"type": "Linear", "in_features": n, "out_features": m, **more}


def net(forward: list[str], *layers: dict[str, Any], **more: Any) -> dict[str, Any]:
    root = {"type": "Graph", "layers": list(layers), "forward": forward, **more}
    return {"schema": "arch/1", "inputs": [{"name": "x", "shape": ["B", 8]}], "root": root}


RELU = {"type": "ReLU"}
MLP = sequential(linear(8, 16), RELU, linear(16, 1000))


def lines(a: Any, b: Any) -> list[str]:
    return diff(a, b).text().splitlines()


def test_nothing_differs():
    explicit = copy.deepcopy(MLP)
    explicit["labels"] = {"note": "the same net"}
    explicit["root"]["layers"][0] |= {"bias": True, "name": "0"}

    found = diff(MLP, explicit)

    assert found.equal
    assert found.a == found.b
    assert found.changes == ()
    assert found.text() == "Nothing differs.\n"


def test_a_changed_argument_is_told_with_both_values_and_its_effect():
    found = diff(MLP, sequential(linear(8, 16), RELU, linear(16, 10)))

    assert found.changes == (
        Change(
            kind="changed", path="2", detail="2: out_features 1000 → 10", field="out_features", before=1000, after=10
        ),
    )
    assert found.text().splitlines() == [
        "2: out_features 1000 → 10",
        "Parameters: 17,144 → 314",
        "Output: [B, 1000] float32 → [B, 10] float32",
    ]


def test_one_more_layer_in_a_numbered_sequential_is_one_change():
    assert lines(
        MLP, sequential(linear(8, 16), {"type": "BatchNorm1d", "num_features": 16}, RELU, linear(16, 1000))
    ) == [
        "1 was added: BatchNorm1d(16)",
        "1 to 2 are now 2 to 3",
        "Parameters: 17,144 → 17,176",
        "Output: [B, 1000] float32, as before",
    ]


def test_a_layer_that_was_removed_and_left_a_gap():
    assert lines(MLP, sequential(linear(8, 16), linear(16, 1000, name="2")))[:1] == ["1 was removed: ReLU()"]


def test_another_kind_of_layer():
    assert lines(MLP, sequential(linear(8, 16), {"type": "GELU", "approximate": "tanh"}, linear(16, 1000)))[0] == (
        '1: ReLU() → GELU(approximate="tanh")'
    )


def test_a_forward_is_told_in_lines():
    a = net(["x = relu(hidden(x))", "return predict(x)"], linear(8, 8, name="hidden"), linear(8, 1, name="predict"))
    b = net(["return predict(tanh(hidden(x)))"], linear(8, 8, name="hidden"), linear(8, 1, name="predict"))

    assert lines(a, b) == [
        "forward: `return predict(relu(hidden(x)))` → `return predict(tanh(hidden(x)))`",
        "Parameters: 81, as before",
        "Output: [B, 1] float32, as before",
    ]


def test_inner_layers_are_told_by_their_path():
    inner: dict[str, Any] = {
        "name": "block",
        "type": "Graph",
        "layers": [linear(8, 8, name="f")],
        "forward": ["return f(x)"],
    }
    other = copy.deepcopy(inner)
    other["layers"][0]["bias"] = False
    other["forward"] = ["return f(x) + x"]
    found = lines(net(["return block(x)"], inner), net(["return block(x)"], other, class_name="Net"))

    assert found[:3] == [
        "class name none → Net",
        "block: forward: `return f(x)` → `return f(x) + x`",
        "block.f: bias true → false",
    ]


def test_inputs_and_order():
    a = net(["return f(x) + g(x)"], linear(8, 8, name="f"), linear(8, 8, name="g"))
    b = net(["return f(x) + g(x)"], linear(8, 8, name="g"), linear(8, 8, name="f"))
    b["inputs"][0]["shape"] = ["B", 3, 8]

    assert lines(a, b)[:2] == ["input x: shape [B, 8] → [B, 3, 8]", "the net: the order is now g, f"]


def test_a_whole_container_was_added():
    part = {"name": "head", "type": "Sequential", "layers": [linear(8, 8), RELU]}

    assert lines(
        net(["return f(x)"], linear(8, 8, name="f")), net(["return head(f(x))"], linear(8, 8, name="f"), part)
    )[:2] == ["forward: `return f(x)` → `return head(f(x))`", "head was added: Sequential of 2 layers"]


def test_a_net_that_cannot_be_built_is_refused_with_its_side_named():
    with pytest.raises(ArchitectureInvalid) as caught:
        diff(MLP, sequential(linear(9, 3)))

    assert caught.value.errors[0].pointer.startswith("/b/root")


def test_a_diff_is_a_document():
    found = diff(MLP, sequential(linear(8, 16)))

    assert Diff.model_validate_json(found.model_dump_json()) == found


def test_long_nets_are_compared_in_time():
    a, b = [RELU, {"type": "Tanh"}] * 1500, [{"type": "Tanh"}, {"type": "Sigmoid"}] * 1400
    began = time.process_time()
    found = diff(sequential(*a), sequential(*b))

    assert found.changes
    assert time.process_time() - began < 10
