"""The authored form: what params, blocks, Use, Repeat, `if` and `${…}` become, and how mistakes in them are told."""

import copy
import json
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from service.errors import ArchitectureInvalid, ArchitectureTooLarge, Entry
from service.schemas import catalogue
from service.schemas.architecture import authored, canonical_form, digest_of, json_schema, leaves, parse
from service.schemas.expand import expand, merged
from service.schemas.judgement import judge

X = [{"name": "x", "shape": ["B", 4]}]


def document(root: Any, **members: Any) -> dict[str, Any]:
    return {"schema": "arch/1", "inputs": X, **members, "root": root}


def sequential(*layers: Any, **members: Any) -> dict[str, Any]:
    return {"type": "Sequential", **members, "layers": list(layers)}


def linear(into: Any, out: Any, **members: Any) -> dict[str, Any]:
    return {**members, "type": "Linear", "in_features": into, "out_features": out}


def use(block: str, *, splice: bool = False, name: str | None = None, **args: Any) -> dict[str, Any]:
    node: dict[str, Any] = {"type": "Use", "block": block}
    return (
        node
        | ({"args": args} if args else {})
        | ({"splice": True} if splice else {})
        | ({"name": name} if name else {})
    )


def repeat(count: Any, layer: Any, **members: Any) -> dict[str, Any]:
    return {"type": "Repeat", "count": count, "layer": layer, **members}


DENSE = {"params": {"cin": None, "cout": None}, "body": sequential(linear("${cin}", "${cout}"), {"type": "ReLU"})}

DENSES = {"dense": DENSE}

RELU = {"b": {"body": {"type": "ReLU"}}}

RESIDUAL: dict[str, Any] = {
    "params": {"cin": None, "cout": None},
    "body": {
        "type": "Graph",
        "layers": [
            linear("${cin}", "${cout}", name="fc"),
            linear("${cin}", "${cout}", name="skip") | {"if": "${cin != cout}"},
        ],
        "forward": ["return relu(fc(x)) + skip(x)"],
    },
}


def plain_root(raw: Any) -> Any:
    expansion = expand(raw)
    assert expansion.errors == ()
    return expansion.raw["root"]


def errors(raw: Any) -> list[Entry]:
    with pytest.raises(ArchitectureInvalid) as caught:
        parse(raw)
    return list(caught.value.errors)


def places(raw: Any) -> list[tuple[str, str]]:
    return [(entry.pointer, entry.code) for entry in errors(raw)]


def paths(raw: Any) -> list[str]:
    return [path for path, _, _ in leaves(parse(raw))]


# What it becomes.


def test_a_plain_document_is_the_very_same_object():
    raw = document(sequential(linear(4, 2)), labels={"note": "nothing to expand"})

    assert expand(raw).raw is raw


def test_expressions_stand_for_numbers_and_booleans_also_in_lists():
    conv = {
        "type": "Conv2d",
        "in_channels": "${c}",
        "out_channels": 8,
        "kernel_size": ["${k}", "${k + 2}"],
        "bias": "${not bn}",
    }
    raw = document(conv, params={"c": 3, "k": 1, "bn": True}) | {
        "inputs": [{"name": "x", "shape": ["B", "${c}", "H", "W"]}]
    }

    expansion = expand(raw)

    assert expansion.raw["root"] == {
        "type": "Conv2d", "in_channels": 3, "out_channels": 8, "kernel_size": [1, 3], "bias": False
    }  # fmt: skip
    assert expansion.raw["inputs"] == [{"name": "x", "shape": ["B", 3, "H", "W"]}]
    assert set(expansion.raw) == {"schema", "inputs", "root"}


def test_a_block_is_put_in_the_place_of_its_use():
    raw = document(sequential(use("dense", cin=4, cout=8), use("dense", name="out", cin=8, cout=2)), blocks=DENSES)

    assert plain_root(raw) == sequential(
        sequential(linear(4, 8), {"type": "ReLU"}), sequential(linear(8, 2), {"type": "ReLU"}, name="out")
    )
    assert paths(raw) == ["0.0", "0.1", "out.0", "out.1"]


def test_spliced_layers_count_in_their_parents_numbering():
    raw = document(
        sequential(
            use("dense", splice=True, cin=4, cout=8), {"type": "Dropout"}, use("dense", splice=True, cin=8, cout=2)
        ),
        blocks=DENSES,
    )

    assert paths(raw) == ["0", "1", "2", "3", "4"]


def test_a_param_has_a_default_and_a_use_may_override_it():
    block = {"params": {"cin": 4, "cout": "${width}"}, "body": linear("${cin}", "${cout}")}
    raw = document(
        sequential(use("fc"), use("fc", cin=6, cout="${width // 3}")), params={"width": 6}, blocks={"fc": block}
    )

    assert plain_root(raw) == sequential(linear(4, 6), linear(6, 2))


def test_a_repeat_is_a_sequential_of_layers_that_know_their_index():
    raw = document(repeat(3, linear("${2 * i + 4}", "${2 * i + 6}"), prefix="fc"))

    assert plain_root(raw) == sequential(linear(4, 6, name="fc0"), linear(6, 8, name="fc1"), linear(8, 10, name="fc2"))


def test_repeats_nest_and_each_has_its_index():
    inner = repeat("${i + 1}", linear("${10 * i + j}", 1), index="j", splice=True)
    raw = document(repeat(3, inner))

    assert [layer["in_features"] for layer in plain_root(raw)["layers"]] == [0, 10, 11, 20, 21, 22]


def test_a_list_of_sizes_makes_the_layers_between_them():
    block = repeat("${len(widths) - 1}", use("dense", splice=True, cin="${widths[i]}", cout="${widths[i + 1]}"))
    raw = document(block, params={"widths": [4, 8, 16, 2]}, blocks=DENSES)

    assert plain_root(raw) == sequential(
        linear(4, 8), {"type": "ReLU"}, linear(8, 16), {"type": "ReLU"}, linear(16, 2), {"type": "ReLU"}
    )


def test_a_repeat_is_spliced_into_a_graph_by_a_prefix():
    graph = {
        "type": "Graph",
        "layers": [repeat(2, linear(4, 4), prefix="fc", splice=True)],
        "forward": ["return fc1(fc0(x))"],
    }

    assert paths(document(graph)) == ["fc0", "fc1"]


def test_a_layer_whose_if_is_false_is_not_registered_and_its_call_passes_on_what_it_is_given():
    raw = document(
        sequential(use("residual", cin=4, cout=4), use("residual", cin=4, cout=6)), blocks={"residual": RESIDUAL}
    )

    architecture = parse(raw)

    assert [path for path, _, _ in leaves(architecture)] == ["0.fc", "1.fc", "1.skip"]
    first, second = canonical_form(architecture)["root"]["layers"]
    assert [step["op"] for step in first["forward"]] == ["call", "relu", "add", "return"]
    assert first["forward"][2]["inputs"] == ["%2", "x"]
    assert [step["op"] for step in second["forward"]] == ["call", "relu", "call", "add", "return"]
    assert judge(raw).valid


def test_steps_may_call_an_absent_layer_too():
    graph = {
        "type": "Graph",
        "layers": [{"name": "drop", "type": "Dropout", "if": False}, linear(4, 2, name="fc")],
        "forward": [
            {"op": "call", "layer": "drop", "inputs": ["x"]},
            {"op": "call", "layer": "fc", "inputs": ["%1"]},
            {"op": "return", "inputs": ["%2"]},
        ],
    }

    form = canonical_form(parse(document(graph)))

    assert form["root"]["forward"] == [
        {"op": "call", "layer": "fc", "inputs": ["x"]},
        {"op": "return", "inputs": ["%1"]},
    ]


def test_an_absent_layer_that_is_never_called_is_no_mistake():
    graph = {
        "type": "Graph",
        "layers": [linear(4, 4, name="a"), linear(4, 4, name="b") | {"if": False}],
        "forward": ["return a(x)"],
    }

    assert judge(document(graph)).valid


def test_two_layers_of_one_name_may_stand_for_two_cases():
    layers = [{"name": "act", "type": "ReLU", "if": "${n > 1}"}, {"name": "act", "type": "GELU", "if": "${n <= 1}"}]
    raw = document({"type": "Graph", "layers": layers, "forward": ["return act(x)"]}, params={"n": 1})

    assert [layer.type for _, _, layer in leaves(parse(raw))] == ["GELU"]


def test_an_absent_layer_takes_no_place_in_a_sequential():
    raw = document(
        sequential({"type": "Dropout", "if": False}, linear(4, 2), repeat(3, {"type": "ReLU", "if": "${i != 1}"}))
    )

    assert paths(raw) == ["0", "1.0", "1.2"]


def test_a_graph_of_a_block_is_called_by_the_blocks_name():
    raw = document(sequential(use("residual", cin=4, cout=4)), blocks={"residual": RESIDUAL})

    assert plain_root(raw)["layers"][0]["class_name"] == "residual"


def test_blocks_use_blocks_before_and_after_them():
    blocks = {
        "first": {"params": {"n": None}, "body": sequential(use("second", n="${n * 2}"))},
        "second": {"params": {"n": None}, "body": linear("${n}", 1)},
    }

    assert plain_root(document(use("first", n=2), blocks=blocks)) == sequential(linear(4, 1))


def test_the_written_and_the_expanded_document_are_one_net():
    raw = document(
        sequential(use("dense", cin=4, cout=8), use("residual", cin=8, cout=2)),
        blocks={"dense": DENSE, "residual": RESIDUAL},
    )
    judgement = judge(raw)
    assert judgement.architecture is not None

    assert authored(parse(raw)) == raw
    assert judge(canonical_form(judgement.architecture)).digest == judgement.digest
    assert judge(judgement.architecture).digest == judgement.digest
    assert judge(parse(raw)).digest == judgement.digest
    assert digest_of(parse(canonical_form(parse(raw)))) == digest_of(parse(raw))


# Mistakes.


def test_a_mistake_in_a_block_is_told_in_the_block_with_the_layer_that_used_it():
    raw = document(sequential(use("dense", cin=4, cout=8), use("dense", cin=4, cout=2)), blocks=DENSES)

    (entry,) = judge(raw).errors

    assert (entry.pointer, entry.code, entry.layer) == (
        "/blocks/dense/body/layers/0/in_features",
        "shape-mismatch",
        "1.0",
    )


def test_a_mistake_in_a_forward_is_told_where_its_line_is_written():
    block = copy.deepcopy(RESIDUAL)
    block["body"]["forward"] = ["return relu(fcc(x)) + skip(x)"]
    raw = document(sequential(use("residual", cin=4, cout=2)), blocks={"residual": block})

    assert places(raw) == [("/blocks/residual/body/forward/0", "unknown-layer")]


def test_the_same_mistake_in_every_repetition_is_told_once():
    raw = document(repeat(12, {"type": "Relu"}))

    assert places(raw) == [("/root/layer/type", "unknown-type")]


def test_a_warning_is_told_where_it_is_written_too():
    raw = document(sequential(repeat(2, {"type": "Softmax"})))

    assert [entry.pointer for entry in judge(raw).warnings] == ["/root/layers/0/layer"]


def test_a_name_is_told_where_it_was_given():
    graph = {
        "type": "Graph",
        "layers": [use("dense", name="a-b", cin=4, cout=2), use("dense", cin=4, cout=2)],
        "forward": ["return x"],
    }

    found = [place for place in places(document(graph, blocks=DENSES)) if place[0].endswith("name")]

    assert found == [
        ("/root/layers/0/name", "invalid"),
        ("/root/layers/1/name", "missing"),
    ]


def test_pointers_have_the_prefix_of_the_body():
    raw = document(linear("${n}", "${m}"), params={"n": 4})
    with pytest.raises(ArchitectureInvalid) as caught:
        parse(raw, prefix="/architecture")

    assert [entry.pointer for entry in caught.value.errors] == ["/architecture/root/out_features"]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (document(linear("${n}", 2)), [("/root/in_features", "unknown-parameter")]),
        (document(linear("${n", 2)), [("/root/in_features", "expression-invalid")]),
        (document(linear("${0.5}", 2)), [("/root/in_features", "wrong-type")]),
        (document(sequential(linear(4, 2, name="fc${1}"))), [("/root/layers/0/name", "not-here")]),
        (document(linear(4, 2), params={"n": None}), [("/params/n", "missing")]),
        (document(linear(4, "${n}"), params={"n": "2"}), [("/params/n", "wrong-type")]),
        (document(linear(4, 2), params=[1]), [("/params", "wrong-type")]),
        (document(linear(4, 2), params={"a-b": 1}), [("/params/a-b", "invalid-name")]),
        (document(linear(4, 2), blocks={"b": 1}), [("/blocks/b", "wrong-type")]),
        (document(linear(4, 2), blocks={"b": {}}), [("/blocks/b/body", "missing")]),
        (document(linear(4, 2), blocks={"b": {"body": {}, "parms": {}}}), [("/blocks/b/parms", "unknown-member")]),
        (document(use("densse"), blocks=DENSES), [("/root/block", "unknown-block")]),
        (document({"type": "Use"}), [("/root/block", "missing")]),
        (document(use("dense"), blocks=DENSES), [("/root/args", "missing"), ("/root/args", "missing")]),
        (document(use("dense", cin=1, cout=2, cot=3), blocks=DENSES), [("/root/args/cot", "unknown-argument")]),
        (document(use("dense", cin="x", cout=2), blocks=DENSES), [("/root/args/cin", "wrong-type")]),
        (document(use("dense", cin="${n}", cout=2), blocks=DENSES), [("/root/args/cin", "unknown-parameter")]),
        (document(use("dense", splice=True, cin=4, cout=2), blocks=DENSES), [("/root/splice", "not-here")]),
        (document(sequential(use("b", splice=True)), blocks=RELU), [("/root/layers/0/splice", "not-here")]),
        (document(sequential({**use("b"), "name": 3}), blocks=RELU), [("/root/layers/0/name", "wrong-type")]),
        (document({"type": "ReLU", "if": True}), [("/root/if", "not-here")]),
        (document(sequential({"type": "ReLU", "if": 1})), [("/root/layers/0/if", "wrong-type")]),
        (document(sequential({"type": "ReLU", "if": "${n}"})), [("/root/layers/0/if", "unknown-parameter")]),
        (document(repeat(-1, {"type": "ReLU"})), [("/root/count", "out-of-range")]),
        (document(repeat("3", {"type": "ReLU"})), [("/root/count", "wrong-type")]),
        (document({"type": "Repeat", "layer": {"type": "ReLU"}}), [("/root/count", "missing")]),
        (document({"type": "Repeat", "count": 1}), [("/root/layer", "missing")]),
        (document(repeat(1, {"type": "ReLU", "name": "a"})), [("/root/layer/name", "not-here")]),
        (document(repeat(1, {"type": "ReLU"}, index="2")), [("/root/index", "invalid-name")]),
        (document(repeat(1, {"type": "ReLU"}, prefix="a.b")), [("/root/prefix", "invalid-name")]),
        (document(repeat(1, {"type": "ReLU"}, cont=2)), [("/root/cont", "unknown-member")]),
        (
            document({"type": "Graph", "layers": [repeat(2, {"type": "ReLU"}, splice=True)], "forward": ["return x"]}),
            [("/root/layers/0/prefix", "missing")],
        ),
        (
            document({"type": "Graph", "layers": [], "absent": ["a"], "forward": ["return relu(x)"]}),
            [("/root/absent", "unknown-member")],
        ),
    ],
)  # fmt: skip
def test_mistakes_are_told_where_they_stand(raw, expected):
    assert places(raw) == expected


def test_all_mistakes_are_told_at_once():
    raw = document(
        sequential(
            use("dense", cin=4),
            linear("${n + 1}", 2, bais=True),
            {"type": "Relu"},
            repeat("${1 / 2}", {"type": "ReLU"}),
        ),
        blocks=DENSES,
    )

    assert places(raw) == [
        ("/root/layers/0/args/cout", "missing"),
        ("/root/layers/1/bais", "unknown-member"),
        ("/root/layers/1/in_features", "unknown-parameter"),
        ("/root/layers/2/type", "unknown-type"),
        ("/root/layers/3/count", "expression-invalid"),
    ]


def test_a_list_with_a_wrong_expression_is_told_once():
    conv = {"type": "Conv2d", "in_channels": 3, "out_channels": 8, "kernel_size": ["${k}", 3]}
    raw = document(conv) | {"inputs": [{"name": "x", "shape": ["B", 3, "${h}", 8]}]}

    assert places(raw) == [
        ("/inputs/0/shape/2", "unknown-parameter"),
        ("/root/kernel_size/0", "unknown-parameter"),
    ]


def test_a_param_that_could_not_be_read_is_told_once():
    raw = document(sequential(linear("${n}", "${n + 1}"), linear("${n}", 1)), params={"n": "four"})

    assert places(raw) == [("/params/n", "wrong-type")]


def test_unknown_words_are_told_with_the_nearest():
    raw = document(
        sequential(
            use("densse", cin=4, cout=2), use("dense", cin=4, cot=2), linear("${with}", 2), linear("${widht}", 2)
        ),
        params={"width": 4},
        blocks=DENSES,
    )

    hints = {entry.pointer: entry.hint for entry in errors(raw)}

    assert hints["/root/layers/0/block"] == "Did you mean 'dense'?"
    assert hints["/root/layers/1/args/cot"] == "Did you mean 'cout'?"
    assert hints["/root/layers/3/in_features"] == "Did you mean 'width'?"


def test_a_circle_of_blocks_is_named():
    blocks = {name: {"body": sequential(use(then))} for name, then in (("a", "b"), ("b", "c"), ("c", "a"))}

    (entry,) = errors(document(sequential(use("a"), use("b")), blocks=blocks))

    assert (entry.pointer, entry.code) == ("/blocks/a", "recursive-block")
    assert entry.detail == "Blocks may not use themselves: a → b → c → a."


def test_a_block_that_uses_itself_under_a_condition_is_refused_too():
    blocks = {"a": {"params": {"n": None}, "body": sequential({**use("a", n="${n - 1}"), "if": "${n > 0}"})}}

    assert places(document(use("a", n=3), blocks=blocks)) == [("/blocks/a", "recursive-block")]


def test_what_nothing_uses_is_warned_of():
    blocks = {"dense": {**DENSE, "params": {**DENSE["params"], "p": 0.5}}, "other": DENSE}
    raw = document(use("dense", cin=4, cout="${n}"), params={"n": 2, "m": 1}, blocks=blocks)

    judgement = judge(raw)

    assert judgement.valid
    assert [(entry.pointer, entry.code) for entry in judgement.warnings] == [
        ("/blocks/dense/params/p", "unused-param"),
        ("/blocks/other", "unused-block"),
        ("/params/m", "unused-param"),
    ]


# Limits.


def doubling(levels: int, **args: Any) -> dict[str, Any]:
    params = {"params": {"n": 0}} if args else {}
    blocks: dict[str, Any] = {
        f"b{k}": {
            **params,
            "body": sequential(
                *[use(f"b{k + 1}", splice=True, **arg) for arg in ({k: v} for k, v in args.items() for v in v)]
                if args
                else [use(f"b{k + 1}", splice=True)] * 2
            ),
        }
        for k in range(levels)
    }
    blocks[f"b{levels}"] = {**params, "body": sequential(linear("${n + 1}" if args else 4, 4))}
    return document(use("b0"), blocks=blocks)


@pytest.mark.parametrize(
    ("raw", "limit"),
    [
        (doubling(40), "layers"),
        (doubling(40, n=["${2 * n}", "${2 * n + 1}"]), "layers"),
        (document(repeat(1024, repeat(1024, linear("${i + 1}", "${j + 1}"), index="j"))), "layers"),
        (document(repeat("${1024}", repeat("${1024}", {"type": "ReLU"}))), "layers"),
        (document(repeat(2_000, {"type": "ReLU"})), "repeat"),
    ],
    ids=["doubling blocks", "doubling blocks with arguments", "repeats", "computed repeats", "one long repeat"],
)
def test_what_grows_beyond_all_limits_is_refused_unmade(raw, limit):
    start = time.process_time()
    with pytest.raises(ArchitectureTooLarge) as caught:
        parse(raw)

    assert time.process_time() - start < 10
    assert caught.value.limit is not None
    assert caught.value.limit["name"] == limit


def test_a_repeat_of_nothing_ends():
    nothing = linear("${i + j + k}", 1) | {"if": "${i < 0}"}
    raw = document(repeat("${1024}", repeat("${1024}", repeat("${1024}", nothing, index="k"), index="j")))
    start = time.process_time()
    with pytest.raises(ArchitectureTooLarge) as caught:
        parse(raw)

    assert time.process_time() - start < 10
    assert caught.value.limit == {"name": "expansion", "value": 40_000, "got": 40_001}


def test_blocks_that_nest_too_deeply_are_refused():
    blocks: dict[str, Any] = {f"b{k}": {"body": sequential(use(f"b{k + 1}"))} for k in range(40)}
    blocks["b40"] = {"body": {"type": "ReLU"}}
    with pytest.raises(ArchitectureTooLarge) as caught:
        parse(document(use("b0"), blocks=blocks))

    assert caught.value.limit == {"name": "depth", "value": 32, "got": 33}


def test_a_long_chain_of_blocks_ends():
    blocks: dict[str, Any] = {f"b{k}": {"body": use(f"b{k + 1}")} for k in range(255)}
    blocks["b255"] = {"body": {"type": "ReLU"}}
    with pytest.raises(ArchitectureTooLarge):
        parse(document(use("b0"), blocks=blocks))


@pytest.mark.parametrize(
    "layer",
    [
        {"type": "Graph", "forward": [*["x = x + 1"] * 4_000, "return x"]},
        {"type": "Embedding", "num_embeddings": "${i + 1}", "embedding_dim": [0] * 50_000},
    ],
    ids=["long forwards", "long lists"],
)
def test_what_is_long_is_not_written_out_again_and_again(layer):
    start = time.process_time()
    with pytest.raises(ArchitectureTooLarge):
        parse(document(repeat(1024, layer)))

    assert time.process_time() - start < 10


def test_very_many_mistakes_are_told_in_good_time():
    blocks = {f"block{k}": DENSE for k in range(200)}
    start = time.process_time()
    with pytest.raises(ArchitectureInvalid) as caught:
        parse(document(sequential(*[use(f"blok{k}", n="${m}") for k in range(5_000)]), blocks=blocks))

    assert time.process_time() - start < 10
    assert len(caught.value.errors) + caught.value.more == 5_000


# The JSON Schema.


def test_the_schema_knows_the_authored_form():
    schema = Draft202012Validator(json_schema())
    conv = {"type": "Conv2d", "in_channels": "${c}", "out_channels": 8, "kernel_size": ["${k}", 3], "bias": "${on}"}
    constant = {"type": "Parameter", "name": "p", "shape": [4], "init": {"type": "constant", "value": 2}}
    good = [
        *(catalogue.document(name) for name in catalogue.names()),
        document(sequential(conv, repeat("${n}", {"type": "ReLU", "if": "${i > 0}"}, prefix="a", splice=True))),
        document({"type": "Graph", "layers": [constant], "forward": ["return x + p"]}),
    ]
    bad = [
        document({**conv, "in_channels": "c"}),
        document({**conv, "padding_mode": "${p}"}),
        document(repeat(2_000, {"type": "ReLU"})),
        document({"type": "Use"}),
        document({"type": "Graph", "absent": [], "forward": ["return x"]}),
        document({"type": "ReLU"}, blocks={"a": {"params": {}}}),
    ]

    assert [list(schema.iter_errors(raw)) for raw in good] == [[]] * len(good)
    assert [schema.is_valid(raw) for raw in bad] == [False] * len(bad)


# Anything at all.

_WORDS = st.sampled_from(["a", "b", "n", "x", "i", "splice", "${n}", "${n + i}", "${", "${m[0]}", "${on}", ""])
_ATOMS = st.none() | st.booleans() | st.integers(-2, 5) | st.just(2**70) | st.sampled_from([0.5, 1e300]) | _WORDS
_ANY = st.recursive(
    _ATOMS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=3), max_leaves=6
)


def _odd(strategy: Any) -> Any:
    return st.integers(0, 9).flatmap(lambda chance: _ANY if chance == 0 else strategy)


_NUMBER = _odd(st.sampled_from([1, 2, 4, "${n}", "${n + 1}", "${m[0]}", "${i}", "${k}"]))
_FLAG = _odd(st.sampled_from([True, False, "${on}", "${n > 2}"]))
_NAME = _odd(st.sampled_from(["a", "b", "c"]))


_ARGS = st.dictionaries(st.sampled_from(["a", "b", "n"]), _NUMBER, max_size=2)
_FORWARD = st.sampled_from([["return a(x)"], ["y = b(x)", "return a(y) + x"], [3], "x"])


def _node(kind: str, members: dict[str, Any], **optional: Any) -> Any:
    fixed = {"type": st.just(kind), **members}
    return st.fixed_dictionaries(fixed, optional={"name": _NAME, "if": _FLAG, **optional})


def _layers(inner: Any) -> Any:
    some = st.lists(inner, max_size=3)
    return (
        _node("Sequential", {"layers": some})
        | _node("Graph", {"layers": some, "forward": _FORWARD}, absent=_ANY)
        | _node("Repeat", {"count": _NUMBER, "layer": inner}, prefix=_NAME, splice=_FLAG, index=_odd(st.just("k")))
        | _node("Use", {"block": _NAME}, args=_odd(_ARGS), splice=_FLAG)
    )


_LEAF = _node("Linear", {"in_features": _NUMBER, "out_features": _NUMBER}) | _node("ReLU", {}, inplace=_FLAG) | _ANY
_LAYER = st.recursive(_LEAF, _layers, max_leaves=8)
_BLOCK = st.fixed_dictionaries(
    {"body": _LAYER}, optional={"params": _odd(st.dictionaries(st.sampled_from(["a", "b", "n"]), _NUMBER | st.none()))}
)
_DOCUMENT = st.fixed_dictionaries(
    {"schema": st.just("arch/1"), "inputs": _odd(st.just([{"name": "x", "shape": ["B", "${n}"]}])), "root": _LAYER},
    optional={
        "params": _odd(st.just({"n": 4, "m": [1, 2], "on": True})),
        "blocks": _odd(st.dictionaries(st.sampled_from(["a", "b", "c"]), _odd(_BLOCK), max_size=3)),
    },
)  # fmt: skip

_OURS = ("${", '"Use"', '"Repeat"', '"if"')


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(_DOCUMENT)
def test_any_document_becomes_a_plain_one_or_is_told_what_is_wrong(raw):
    before = copy.deepcopy(raw)
    try:
        architecture = parse(raw)
    except ArchitectureInvalid as refused:
        assert refused.errors  # noqa: PT017 - either way is right
        for entry in refused.errors:
            _leads_somewhere(raw, entry.pointer)
        return
    except ArchitectureTooLarge:
        return
    finally:
        assert raw == before
    expansion = expand(raw)
    text = json.dumps(expansion.raw["root"])
    form = canonical_form(architecture)

    assert not any(mark in text for mark in _OURS)
    assert digest_of(parse(form)) == digest_of(architecture)


def _leads_somewhere(raw: Any, pointer: str) -> None:
    """All but the last part of a pointer is in the document, as its author wrote it."""
    value = raw
    for part in pointer.split("/")[1:-1]:
        part = part.replace("~1", "/").replace("~0", "~")
        assert isinstance(value, (dict, list)), pointer
        value = value[int(part)] if isinstance(value, list) else value[part]


def test_a_mistake_of_a_block_is_told_once_with_the_layers_that_have_it():
    blocks = {"b": {"params": {"n": None}, "body": sequential(linear(7, "${n}"), linear("${n}", 4))}}
    (entry,) = judge(document(sequential(use("b", n=8), use("b", n=9), use("b", n=10)), blocks=blocks)).errors

    assert (entry.pointer, entry.layer) == ("/blocks/b/body/layers/0/in_features", "0.0")
    assert entry.detail.endswith(" It is so in 3 layers: `0.0`, `1.0`, `2.0`.")


def test_a_mistake_that_the_expansion_finds_is_told_once_as_well():
    blocks = {"b": {"params": {"n": None}, "body": linear("${n}", "${m}")}}
    (entry,) = errors(document(sequential(*(use("b", n=n) for n in range(3, 9))), blocks=blocks))

    assert entry.pointer == "/blocks/b/body/out_features"
    assert entry.detail.endswith(" It is so in 6 layers: `0`, `1`, `2`, `3`, ….")


def test_mistakes_that_differ_in_the_layers_path_alone_are_one():
    found = [Entry("/a", "odd", f"`{path}` is odd.", path) for path in ("x.0", "x.1")]

    assert merged([*found, Entry("/a", "odd", "`x.0` is even.", "x.0")]) == [
        Entry("/a", "odd", "`x.0` is odd. It is so in 2 layers: `x.0`, `x.1`.", "x.0"),
        Entry("/a", "odd", "`x.0` is even.", "x.0"),
    ]


def test_a_block_named_as_a_type_is_told_how_to_use_it():
    (entry,) = errors(document(sequential({"type": "b"}, use("b")), blocks=RELU))

    assert (entry.pointer, entry.code) == ("/root/layers/0/type", "unknown-type")
    assert entry.hint == 'It is a block: write {"type": "Use", "block": "b"}.'
