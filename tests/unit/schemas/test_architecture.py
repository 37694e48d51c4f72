"""Whole documents: what is read, what is refused and where, the canonical form and the digest."""

import copy
import json
import time
from typing import Any

import pytest

from service.errors import ArchitectureInvalid, ArchitectureTooLarge, Entry
from service.schemas.architecture import authored, canonical_form, digest_of, json_schema, leaves, parse
from service.schemas.layers import Graph

NET: dict[str, Any] = {
    "schema": "arch/1",
    "inputs": [{"name": "x", "shape": ["B", 1]}],
    "root": {
        "type": "Graph",
        "class_name": "Net",
        "layers": [
            {"name": "hidden", "type": "Linear", "in_features": 1, "out_features": 10},
            {"name": "predict", "type": "Linear", "in_features": 10, "out_features": 1},
        ],
        "forward": ["x = relu(hidden(x))", "return predict(x)"],
    },
}


X = NET["inputs"][0]
RETURN = {"op": "return", "inputs": ["x"]}


def net(**root: Any) -> dict[str, Any]:
    changed = copy.deepcopy(NET)
    changed["root"] |= root
    return changed


def sequential(*layers: Any, shape: Any = ("B", 3)) -> dict[str, Any]:
    inputs = [{"name": "x", "shape": list(shape)}]
    return {"schema": "arch/1", "inputs": inputs, "root": {"type": "Sequential", "layers": list(layers)}}


def refused(raw: Any, *, prefix: str = "") -> tuple[Entry, ...]:
    with pytest.raises(ArchitectureInvalid) as caught:
        parse(raw, prefix=prefix)
    return caught.value.errors


def places(raw: Any) -> list[tuple[str, str]]:
    return [(entry.pointer, entry.code) for entry in refused(raw)]


# Reading.


def test_a_document_comes_back_as_it_was_written():
    assert authored(parse(NET)) == NET


def test_defaults_and_long_forms_are_dropped_from_what_was_written():
    raw = sequential({"type": "MaxPool1d", "kernel_size": [2], "stride": 2, "padding": 0}, shape=("B", 3, 8))
    raw["inputs"][0]["dtype"] = "float32"
    raw["labels"] = {}

    assert authored(parse(raw)) == sequential({"type": "MaxPool1d", "kernel_size": 2}, shape=("B", 3, 8))


def test_leaves_are_listed_by_path_and_pointer():
    inner = {"name": "body", "type": "Sequential", "layers": [{"type": "ReLU"}, {"name": "end", "type": "Tanh"}]}
    found = [(path, at) for path, at, _ in leaves(parse(sequential(inner, {"type": "ReLU"})))]

    assert found == [
        ("body.0", "/root/layers/0/layers/0"),
        ("body.end", "/root/layers/0/layers/1"),
        ("1", "/root/layers/1"),
    ]


# Digests.


def test_the_canonical_form_is_whole():
    raw = sequential({"type": "Linear", "in_features": 3, "out_features": 2, "bias": True}, {"type": "ReLU"})
    raw["labels"] = {"who": "me"}

    assert canonical_form(parse(raw)) == {
        "schema": "arch/1",
        "inputs": [{"name": "x", "shape": ["B", 3]}],
        "root": {
            "type": "Sequential",
            "layers": [
                {"type": "Linear", "name": "0", "in_features": 3, "out_features": 2},
                {"type": "ReLU", "name": "1"},
            ],
        },
    }


def test_the_canonical_form_is_a_document_with_the_same_digest():
    for raw in (NET, sequential({"type": "ReLU"}), net(layers=[], forward=["return x[:, 0:1:1] + 1.0"])):
        architecture = parse(raw)
        canonical = json.loads(json.dumps(canonical_form(architecture)))

        assert canonical_form(parse(canonical)) == canonical
        assert digest_of(parse(canonical)) == digest_of(architecture)


def keys_reversed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: keys_reversed(value[key]) for key in reversed(value)}
    return [keys_reversed(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    "same",
    [
        keys_reversed(NET),
        net(forward=["return predict(relu(hidden(x)))"]),
        net(forward=["h1 = hidden( x )", "h2 = relu(h1)", "out = predict(h2)", "return out"]),
        net(forward=canonical_form(parse(NET))["root"]["forward"]),
        net(inputs=["x"]),
        net(layers=[{**layer, "bias": True} for layer in NET["root"]["layers"]]),
        {**NET, "labels": {"author": "someone"}},
        {**NET, "inputs": [{"dtype": "float32", **NET["inputs"][0]}]},
    ],
    ids=["key-order", "one-line", "other-names", "steps", "default-inputs", "default-bias", "labels", "default-dtype"],
)
def test_what_does_not_change_the_net_does_not_change_the_digest(same):
    assert digest_of(parse(same)) == digest_of(parse(NET))


def test_sizes_names_and_strides_in_full_keep_the_digest():
    short = sequential({"type": "MaxPool2d", "kernel_size": 2}, shape=("B", 1, 8, 8))
    long = sequential(
        {"type": "MaxPool2d", "name": "0", "kernel_size": [2, 2], "stride": 2, "dilation": [1, 1]},
        shape=("B", 1, 8, 8),
    )

    assert digest_of(parse(short)) == digest_of(parse(long))


@pytest.mark.parametrize(
    "other",
    [
        net(forward=["return predict(tanh(hidden(x)))"]),
        net(layers=[{**NET["root"]["layers"][0], "bias": False}, NET["root"]["layers"][1]]),
        net(layers=NET["root"]["layers"][::-1]),
        {**NET, "inputs": [{"name": "y", "shape": ["B", 1]}]},
        {**NET, "inputs": [{"name": "x", "shape": ["B", 1], "dtype": "float64"}]},
    ],
    ids=["activation", "bias", "order-of-registration", "input-name", "input-dtype"],
)
def test_what_changes_the_net_changes_the_digest(other):
    assert digest_of(parse(other)) != digest_of(parse(NET))


def test_the_digest_is_pinned():
    """A change here would orphan every stored architecture."""
    assert digest_of(parse(NET)) == "sha256:3d5abaccdc6f21d2cfccb8856f166674fc206b19fbc351106b68b86f99def60e"


# Refusals.


def test_all_mistakes_come_out_at_once_with_their_places():
    raw = {
        "schema": "arch/2",
        "inputs": [{"name": "x", "shape": [64, 3]}, {"name": "x", "shape": ["B", 0]}],
        "root": {
            "type": "Graph",
            "inputs": ["x", "y"],
            "layers": [
                {"name": "conc1", "type": "Conv2d", "in_channels": 3, "out_channels": 0, "kernel_size": 3},
                {"type": "Relu"},
                {
                    "name": "conc1",
                    "type": "Sequential",
                    "layers": [{"type": "Linear", "in_features": 3}, {"name": "to", "type": "ReLU", "slope": 1}],
                },
            ],
            "forward": ["x = conv1(x)", "return x.mean()"],
        },
        "extra": 1,
    }

    assert [(entry.pointer, entry.code, entry.layer) for entry in refused(raw, prefix="/architecture")] == [
        ("/architecture/extra", "unknown-member", None),
        ("/architecture/inputs/0/shape", "invalid", None),
        ("/architecture/inputs/1/name", "duplicate-name", None),
        ("/architecture/inputs/1/shape", "out-of-range", None),
        ("/architecture/root/forward/1", "not-in-language", None),
        ("/architecture/root/layers/0/out_channels", "out-of-range", "conc1"),
        ("/architecture/root/layers/1/name", "missing", "1"),
        ("/architecture/root/layers/1/type", "unknown-type", "1"),
        ("/architecture/root/layers/2/layers/0/out_features", "missing", "conc1.0"),
        ("/architecture/root/layers/2/layers/1/name", "invalid", "conc1.to"),
        ("/architecture/root/layers/2/layers/1/slope", "unknown-member", "conc1.to"),
        ("/architecture/root/layers/2/name", "duplicate-name", "conc1"),
        ("/architecture/schema", "invalid", None),
    ]


def test_the_tutorials_typo_is_told_in_one_sentence():
    layers = [{"name": "conc1", "type": "Linear", "in_features": 1, "out_features": 1}]
    (entry,) = refused(net(layers=layers, forward=["return conv1(x)"]))

    assert entry.pointer == "/root/forward/0"
    assert entry.detail == "`conv1` is not a layer here; did you mean `conc1`?"


def test_an_unused_layer_is_told_at_the_layer():
    (entry,) = refused(net(forward=["return predict(x)"]))

    assert (entry.pointer, entry.code, entry.layer) == ("/root/layers/0", "unused-layer", "hidden")


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (sequential({"type": "ReLU", "name": "1"}, {"type": "ReLU"}), [("/root/layers/1/name", "duplicate-name")]),
        (net(name="net"), [("/root/name", "invalid-name")]),
        (net(inputs=[]), [("/root/inputs", "out-of-range")]),
        (net(inputs=["x", "x"]), [("/root/inputs", "wrong-inputs"), ("/root/inputs/1", "invalid-name")]),
        (net(inputs=["class"]), [("/root/inputs/0", "invalid-name")]),
        (net(forward=[]), [("/root/forward", "out-of-range")]),
        (net(forward="return x"), [("/root/forward", "wrong-type")]),
        (net(forward=["return predict(hidden(x))", RETURN]), [("/root/forward", "forward-invalid")]),
        (net(forward=[{"op": "rleu", "inputs": ["x"]}, RETURN]), [("/root/forward/0/op", "unknown-type")]),
        (net(forward=[{"op": "relu", "inputs": ["x"], "to": 1}, RETURN]), [("/root/forward/0/to", "unknown-member")]),
        (net(forward=[{"op": "relu", "inputs": "x"}, RETURN]), [("/root/forward/0/inputs", "wrong-type")]),
        (net(forward=[{"op": "relu", "inputs": [3]}, RETURN]), [("/root/forward/0/inputs/0", "wrong-type")]),
        (net(class_name="__import__"), [("/root/class_name", "invalid")]),
        ({**NET, "inputs": []}, [("/inputs", "out-of-range")]),
        ({**NET, "inputs": [{"name": "x", "shape": ["B", "B"]}]}, [("/inputs/0/shape", "invalid")]),
        ({**NET, "inputs": [{"name": "x", "shape": ["B", 1.5]}]}, [("/inputs/0/shape", "wrong-type")]),
        ({**NET, "inputs": [{"name": "x", "shape": ["B", 1], "dtype": "float3"}]}, [("/inputs/0/dtype", "invalid")]),
        ({**net(inputs=["x"]), "inputs": [X, {**X, "name": "y"}]}, [("/root/inputs", "wrong-inputs")]),
        ({"schema": "arch/1"}, [("/inputs", "missing"), ("/root", "missing")]),
        ({}, [("/inputs", "missing"), ("/root", "missing"), ("/schema", "missing")]),
        ([], [("", "wrong-type")]),
        (None, [("", "wrong-type")]),
        ("sha256:…", [("", "wrong-type")]),
    ],
    ids=lambda value: json.dumps(value)[-60:] if isinstance(value, (dict, str)) else "",
)  # fmt: skip
def test_each_mistake_has_its_place(raw, found):
    assert places(raw) == found


def test_inputs_in_another_order_are_refused():
    """They are passed by place; the names would lie."""
    raw = net(inputs=["y", "x"], forward=["return predict(hidden(x)) + y"])
    raw["inputs"] = [{"name": "x", "shape": ["B", 1]}, {"name": "y", "shape": ["B", 1]}]

    assert places(raw) == [("/root/inputs", "wrong-inputs")]


def nested(depth: int) -> dict[str, Any]:
    layer: dict[str, Any] = {"type": "ReLU"}
    for _ in range(depth - 1):
        layer = {"type": "Sequential", "layers": [layer]}
    return sequential() | {"root": layer}


def test_depth_is_limited_before_anything_recurses():
    parse(nested(32))
    for raw in (nested(33), nested(100_000)):
        started = time.process_time()
        with pytest.raises(ArchitectureTooLarge) as caught:
            parse(raw)
        assert caught.value.limit == {"name": "depth", "value": 32, "got": 33}
        assert time.process_time() - started < 5


def test_the_number_of_layers_is_limited_before_any_is_read():
    for raw in (sequential(*[{"type": "ReLU"}] * 100_000), sequential(*[sequential(*[{}] * 300)["root"]] * 300)):
        started = time.process_time()
        with pytest.raises(ArchitectureTooLarge) as caught:
            parse(raw)
        assert caught.value.limit is not None
        assert caught.value.limit["name"] == "layers"
        assert time.process_time() - started < 5


@pytest.mark.parametrize(
    "layer",
    [
        {"type": "Lіnear", "in_features": 1, "out_features": 1},  # a Cyrillic letter
        {"type": "__class__"},
        {"type": "os.system"},
        {"type": ["Linear"]},
        {"type": None},
        {"type": "ReLU", "__proto__": {}},
        {"type": "ReLU", "class_path": "os.system"},
        {"type": "ReLU", "name": "__init__"},
        {"type": "ReLU", "name": "a\u0000"},
        {"type": "ReLU", "name": "\ud800"},
        {"type": "ReLU", "name": ["a"]},
        {"type": "Linear", "in_features": 10**4000, "out_features": 1},
        {"type": "Linear", "in_features": float("nan"), "out_features": 1},
        {"type": "Linear", "in_features": float("inf"), "out_features": 1},
        {"type": "Dropout", "p": float("nan")},
        {"type": "Sequential", "layers": {"0": {"type": "ReLU"}}},
        {"type": "Sequential", "layers": [[[[]]]]},
        {"type": "Sequential", "layers": [None, 3, "x"]},
        {"type": "Graph", "forward": ["return x"], "inputs": "x"},
        {"type": "Graph", "forward": ["return x"], "inputs": [None]},
        {"type": "Graph", "forward": [None]},
        {"type": "Graph", "forward": {"0": "return x"}},
        {"type": "Graph", "forward": ["return x"], "layers": [{"name": 5, "type": "ReLU"}]},
        None,
        3,
        "ReLU",
        [],
        {},
    ],
    ids=lambda layer: repr(layer)[:50],
)
def test_hostile_layers_are_refused_with_entries(layer):
    found = refused(sequential(layer))

    assert all(entry.pointer.startswith("/root/layers/0") for entry in found)
    assert all(len(entry.got or "") <= 64 for entry in found)
    assert len(json.dumps([entry.to_dict() for entry in found])) < 10_000


@pytest.mark.parametrize(
    "raw",
    [
        sequential(*[{"type": f"Liner{number}"} for number in range(19_000)]),
        sequential({"type": "ReLU", **dict.fromkeys(map(str, range(100_000)))}),
        {**NET, "inputs": [X] * 100_000},
        net(inputs=["x"] * 100_000),
        net(forward=["x = relu(x)"] * 100_000),
        net(forward=[f"x = hiden{number}(x)" for number in range(4_000)]),
        {**NET, "inputs": [{"name": "x", "shape": ["B", *(f"{y}{x}" for x in range(7))]} for y in "CDEFG"]},
    ],
    ids=["types", "members", "inputs", "graph-inputs", "lines", "typos", "symbols"],
)
def test_very_many_mistakes_are_told_in_good_time(raw):
    started = time.process_time()

    assert refused(raw)
    assert time.process_time() - started < 10


def test_the_schema_is_json_and_names_every_kind():
    schema = json_schema()

    assert json.loads(json.dumps(schema)) == schema
    assert {"Linear", "Conv2d", "Graph", "Sequential"} <= set(schema["$defs"])


# Mistakes that follow from others, and words of the author's.


def test_an_unknown_member_is_told_all_that_a_document_may_have():
    (entry,) = refused({**NET, "zzz": 1})
    (near,) = refused({**NET, "block": {}})

    assert entry.expected == "one of schema, params, blocks, inputs, root, tie, init, labels"
    assert near.hint == "Did you mean 'blocks'?"


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ((None, "fc2"), [("/root/layers/0/name", "missing")]),
        (("fc1", "fc1"), [("/root/layers/1/name", "duplicate-name")]),
        (("fc.1", "fc2"), [("/root/layers/0/name", "invalid")]),
    ],
    ids=["missing", "twice", "bad"],
)
@pytest.mark.parametrize("call", ["fc1(x)", "fc.1(x)"])
def test_a_wrong_name_is_told_alone(names, found, call):
    layers = [{"type": "ReLU"} | ({"name": name} if name else {}) for name in names]
    if call == "fc.1(x)" and "fc.1" not in names:
        call = "fc1(x)"

    assert places(net(layers=layers, forward=[f"x = {call}", "return fc2(x)"])) == found


def test_a_wrong_name_hides_no_misspelt_operation():
    raw = net(layers=[{"type": "ReLU"}], forward=["return sigmiod(fc1(x))"])

    assert places(raw) == [("/root/forward/0", "unknown-layer"), ("/root/layers/0/name", "missing")]


@pytest.mark.parametrize(
    ("root", "pointer", "expected"),
    [
        ({"layers": {"drop": {"type": "ReLU"}}, "forward": ["return drop(x)"]}, "/root/layers", "a list of layers"),
        ({"layers": [], "forward": "return x"}, "/root/forward", "a list of lines"),
        ({"layers": 3, "forward": ["return fc(x)"]}, "/root/layers", "a list"),
        ({"layers": [], "forward": 3}, "/root/forward", "a list"),
    ],
)
def test_what_is_no_list_is_told_in_our_words(root, pointer, expected):
    (entry,) = refused(net(**root))

    assert (entry.pointer, entry.code, entry.expected) == (pointer, "wrong-type", expected)
    assert "tuple" not in entry.detail


@pytest.mark.parametrize(
    ("word", "meant"),
    [("long", "int64"), ("float", "float32"), ("double", "float64"), ("half", "float32"), ("torch.int", "int32")],
)
def test_torchs_words_for_dtypes_are_told_ours(word, meant):
    (entry,) = refused({**NET, "inputs": [{**X, "dtype": word}]})

    assert entry.hint == f"Did you mean {meant!r}?"


def rooted(names: list[str], *lines: str, **root: Any) -> dict[str, Any]:
    inputs = [{"name": name, "shape": ["B", 3]} for name in names]
    return {"schema": "arch/1", "inputs": inputs, "root": {"type": "Graph", "forward": list(lines), **root}}


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["tokens"], "return relu(tokens)"),
        (["a", "b"], "return a + b"),
        (["x", "lengths"], "return x + lengths"),
    ],
)
def test_a_root_without_inputs_takes_those_of_the_document(names, line):
    short, long = parse(rooted(names, line)), parse(rooted(names, line, inputs=names))

    assert digest_of(short) == digest_of(long)
    assert canonical_form(short)["root"]["inputs"] == names
    assert digest_of(parse(canonical_form(short))) == digest_of(short)
    assert digest_of(parse(authored(short))) == digest_of(short)


def test_one_input_is_still_x_where_the_forward_calls_it_so():
    """Documents that were stored before keep their digest."""
    old = parse(rooted(["tokens"], "return relu(x)"))

    assert isinstance(old.root, Graph)
    assert old.root.inputs == ("x",)
    assert "inputs" not in canonical_form(old)["root"]
    assert digest_of(parse(canonical_form(old))) == digest_of(old)
