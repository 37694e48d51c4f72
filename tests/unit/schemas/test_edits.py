"""Surgery on documents: what each edit makes of a net, and what becomes of every tensor."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from service.errors import ArchitectureInvalid, ArchitectureTooLarge
from service.schemas.architecture import canonical_form, parse
from service.schemas.edits import EDITS, MAX_EDITS, Edited, apply, frozen
from service.schemas.judgement import require


def vgg16(*, classes: int = 1000) -> dict[str, Any]:
    """VGG16 in plain form, with the keys of torchvision's."""
    features: list[dict[str, Any]] = []
    channels = 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            features += [
                {"type": "Conv2d", "in_channels": channels, "out_channels": width, "kernel_size": 3, "padding": 1},
                {"type": "ReLU", "inplace": True},
            ]
            channels = width
        features.append({"type": "MaxPool2d", "kernel_size": 2, "stride": 2})
    classifier: list[dict[str, Any]] = []
    for size in (512 * 7 * 7, 4096):
        classifier += [
            {"type": "Linear", "in_features": size, "out_features": 4096},
            {"type": "ReLU", "inplace": True},
            {"type": "Dropout"},
        ]
    classifier.append({"type": "Linear", "in_features": 4096, "out_features": classes})
    return {
        "schema": "arch/1",
        "inputs": [{"name": "x", "shape": ["B", 3, 224, 224]}],
        "root": {
            "type": "Graph",
            "class_name": "VGG",
            "layers": [
                {"name": "features", "type": "Sequential", "layers": features},
                {"name": "avgpool", "type": "AdaptiveAvgPool2d", "output_size": [7, 7]},
                {"name": "classifier", "type": "Sequential", "layers": classifier},
            ],
            "forward": ["x = avgpool(features(x))", "return classifier(flatten(x))"],
        },
    }


NET: dict[str, Any] = {
    "schema": "arch/1",
    "inputs": [{"name": "x", "shape": ["B", 4]}],
    "root": {
        "type": "Graph",
        "layers": [
            {"name": "hidden", "type": "Linear", "in_features": 4, "out_features": 8},
            {"name": "act", "type": "ReLU"},
            {"name": "again", "type": "Linear", "in_features": 8, "out_features": 8},
            {"name": "head", "type": "Linear", "in_features": 8, "out_features": 2},
        ],
        "forward": ["h = act(hidden(x))", "h = h + act(again(h))", "return head(h)"],
    },
}


CONV: dict[str, Any] = {
    **{"type": "Conv2d", "out_channels": 64, "kernel_size": 7},
    **{"stride": 2, "padding": 3, "bias": False},
}
"""The first layer of a ResNet, but for its in_channels."""


def linear(inputs: int | str, outputs: int) -> dict[str, Any]:
    return {"type": "Linear", "in_features": inputs, "out_features": outputs}


def sequential(*layers: dict[str, Any], inputs: int = 4) -> dict[str, Any]:
    return {
        "schema": "arch/1",
        "inputs": [{"name": "x", "shape": ["B", inputs]}],
        "root": {"type": "Sequential", "layers": list(layers)},
    }


def edited(document: dict[str, Any], *edits: dict[str, Any]) -> Edited:
    return apply(parse(document), EDITS.validate_python(edits))


def refused(document: dict[str, Any], *edits: dict[str, Any]) -> list[tuple[str, str, str | None]]:
    """Pointer, code and hint of every mistake."""
    with pytest.raises(ArchitectureInvalid) as caught:
        edited(document, *edits)
    return [(entry.pointer, entry.code, entry.hint) for entry in caught.value.errors]


def counts(found: Edited) -> tuple[int, int, int, int]:
    """How many tensors are kept, reshaped, new and dropped."""
    weights = found.weights
    return len(weights.kept), len(weights.reshaped), len(weights.new), len(weights.dropped)


def output(found: Edited) -> list[Any]:
    assert found.judgement.summary is not None
    (only,) = found.judgement.summary["outputs"]
    shape: list[Any] = only["shape"]
    return shape


def forward(found: Edited) -> list[str]:
    """The root's steps, briefly."""
    return [
        f"{step.get('layer', step['op'])}({', '.join(map(str, step['inputs']))})"
        for step in found.document["root"]["forward"]
    ]


def names(found: Edited, *path: str) -> list[str]:
    """The names of a container's children."""
    node = found.document["root"]
    for name in path:
        node = next(child for child in node["layers"] if child["name"] == name)
    return [child["name"] for child in node["layers"]]


def renames(found: Edited) -> dict[str, str]:
    return {each.from_: each.to for each in found.weights.kept if each.from_ != each.to}


class TestVgg16:
    """What people do to it in tutorials."""

    def test_the_document_is_the_known_net(self) -> None:
        judged = require(vgg16())

        assert judged.summary is not None
        assert judged.summary["parameters"] == 138_357_544

    def test_a_replaced_last_layer_leaves_30_tensors_and_reshapes_2(self) -> None:
        found = edited(vgg16(), {"op": "replace", "path": "classifier.6", "layer": linear("auto", 10)})

        assert counts(found) == (30, 2, 0, 0)
        assert [each.model_dump(mode="json", by_alias=True) for each in found.weights.reshaped] == [
            {
                "key": "classifier.6.weight",
                "from": "classifier.6.weight",
                "from_shape": [1000, 4096],
                "to_shape": [10, 4096],
                "policy": "reinit",
            },
            {
                "key": "classifier.6.bias",
                "from": "classifier.6.bias",
                "from_shape": [1000],
                "to_shape": [10],
                "policy": "reinit",
            },
        ]
        assert output(found) == ["B", 10]
        assert found.document == canonical_form(require(vgg16(classes=10)).architecture)  # type: ignore[arg-type]

    def test_a_layer_appended_to_the_classifier_adds_two_tensors(self) -> None:
        found = edited(vgg16(), {"op": "append", "path": "classifier", "name": "add_linear", "layer": linear(1000, 10)})

        assert counts(found) == (32, 0, 2, 0)
        assert found.weights.new == ("classifier.add_linear.weight", "classifier.add_linear.bias")
        assert output(found) == ["B", 10]

    def test_a_layer_appended_at_the_root_is_called(self) -> None:
        found = edited(vgg16(), {"op": "append", "path": "", "name": "add_linear", "layer": linear(1000, 10)})

        assert counts(found) == (32, 0, 2, 0)
        assert found.weights.new == ("add_linear.weight", "add_linear.bias")
        assert forward(found)[-2:] == ["add_linear(%4)", "return(%5)"]
        assert output(found) == ["B", 10]

    def test_weights_are_kept_through_a_rename(self) -> None:
        found = edited(
            vgg16(),
            {"op": "rename", "path": "classifier", "name": "head"},
            {"op": "replace", "path": "head.6", "layer": linear("auto", 10)},
        )

        assert counts(found) == (30, 2, 0, 0)
        assert renames(found) == {
            f"classifier.{place}.{name}": f"head.{place}.{name}" for place in (0, 3) for name in ("weight", "bias")
        }
        assert [each.key for each in found.weights.reshaped] == ["head.6.weight", "head.6.bias"]
        assert output(found) == ["B", 10]

    def test_freezing_the_features_names_26_tensors_and_changes_no_digest(self) -> None:
        found = edited(vgg16(), {"op": "freeze", "path": "features.**"})

        assert (found.freeze, len(found.frozen)) == (("features.**",), 26)
        assert counts(found) == (32, 0, 0, 0)
        assert found.judgement.digest == require(vgg16()).digest

    def test_truncated_it_is_a_feature_extractor(self) -> None:
        found = edited(vgg16(), {"op": "truncate", "path": "classifier.3"})

        assert names(found, "classifier") == ["0", "1", "2", "3"]
        assert counts(found) == (30, 0, 0, 2)
        assert output(found) == ["B", 4096]

        found = edited(vgg16(), {"op": "truncate", "path": "features"})

        assert (names(found), forward(found)) == (["features"], ["features(x)", "return(%1)"])
        assert counts(found) == (26, 0, 0, 6)
        assert output(found) == ["B", 512, 7, 7]

    def test_for_grey_images_the_first_layer_and_the_input_change_together(self) -> None:
        resize = {"op": "resize", "path": "features.0", "field": "in_channels", "value": 1, "policy": "mean_channels"}
        found = edited(vgg16(), resize)

        assert found.document["inputs"] == [{"name": "x", "shape": ["B", 1, 224, 224]}]
        assert [(each.key, each.to_shape, each.policy) for each in found.weights.reshaped] == [
            ("features.0.weight", (64, 1, 3, 3), "mean_channels")
        ]
        assert counts(found) == (31, 1, 0, 0)
        assert [(entry.pointer, entry.code, entry.detail) for entry in found.odd] == [
            (
                "/edits/0",
                "input-changed",
                "The net's input `x` follows: its shape is [B, 1, 224, 224] now, and was [B, 3, 224, 224].",
            )
        ]

    @pytest.mark.parametrize(
        ("edit", "shape"),
        [
            pytest.param({"path": "conv1", "layer": CONV | {"in_channels": 1}}, ["B", 1, "H", "W"], id="grey"),
            pytest.param({"path": "conv1", "layer": CONV | {"in_channels": "auto"}}, ["B", 3, "H", "W"], id="auto"),
            pytest.param(
                {"path": "conv1", "layer": {"type": "Sequential", "layers": [CONV | {"in_channels": 4}]}},
                ["B", 4, "H", "W"],
                id="wrapped",
            ),
        ],
    )
    def test_the_input_follows_a_first_layer_that_is_replaced(self, edit: dict[str, Any], shape: list[Any]) -> None:
        found = edited({"catalogue": "resnet18"}, {"op": "replace", "policy": "mean_channels", **edit})

        assert found.document["inputs"] == [{"name": "x", "shape": shape}]

    def test_the_input_follows_the_first_layer_of_nested_sequentials_and_one_that_reads_sequences(self) -> None:
        inner = {"type": "Sequential", "layers": [{"type": "Sequential", "layers": [linear(4, 2)]}]}
        grown = {"op": "resize", "field": "in_features", "value": 6}

        assert edited(sequential(inner), grown | {"path": "0.0.0"}).document["inputs"][0]["shape"] == ["B", 6]
        assert edited(
            sequential(inner), {"op": "replace", "path": "", "layer": {"type": "Sequential", "layers": [linear(7, 2)]}}
        ).document["inputs"][0]["shape"] == ["B", 7]

        words = {"type": "LSTM", "input_size": 4, "hidden_size": 3, "batch_first": True}
        net = {
            "schema": "arch/1",
            "inputs": [{"name": "x", "shape": ["B", "T", 4]}],
            "root": {
                "type": "Graph",
                "layers": [{"name": "rnn", **words}, {"name": "head", **linear(3, 1)}],
                "forward": ["out, _ = rnn(x)", "return head(out[:, -1])"],
            },
        }
        found = edited(net, {"op": "resize", "path": "rnn", "field": "input_size", "value": 5})

        assert found.document["inputs"][0]["shape"] == ["B", "T", 5]

    def test_an_input_that_was_set_to_another_size_already_is_left_alone(self) -> None:
        inputs = [{"name": "x", "shape": ["B", 1, 64, 64]}]
        found = edited(
            {"catalogue": "resnet18"},
            {"op": "set_field", "path": "", "field": "inputs", "value": inputs},
            {"op": "replace", "path": "conv1", "layer": CONV | {"in_channels": 1}},
        )

        assert found.document["inputs"] == inputs
        assert found.odd == ()


class TestSequential:
    def test_an_appended_layer_gets_the_next_number(self) -> None:
        found = edited(
            sequential(linear(4, 8), {"type": "ReLU"}),
            {"op": "append", "path": "", "layer": linear("auto", 3)},
            {"op": "append", "path": "", "layer": {"type": "Softplus"}},
        )

        assert names(found) == ["0", "1", "2", "3"]
        assert output(found) == ["B", 3]

    def test_a_named_layer_goes_between_and_leaves_all_keys_alone(self) -> None:
        found = edited(
            sequential(linear(4, 8), linear(8, 2)),
            {"op": "insert_after", "path": "0", "name": "norm", "layer": {"type": "BatchNorm1d", "num_features": 8}},
        )

        assert names(found) == ["0", "norm", "1"]
        assert renames(found) == {}
        assert counts(found) == (4, 0, 5, 0)

    def test_a_numbered_layer_moves_the_numbers_behind_it_up(self) -> None:
        found = edited(
            sequential(linear(4, 8), linear(8, 8), linear(8, 2)),
            {"op": "insert_before", "path": "1", "layer": {"type": "ReLU"}},
        )

        assert names(found) == ["0", "1", "2", "3"]
        assert renames(found) == {
            "1.weight": "2.weight",
            "1.bias": "2.bias",
            "2.weight": "3.weight",
            "2.bias": "3.bias",
        }

    def test_after_a_removal_the_others_keep_their_names(self) -> None:
        found = edited(
            sequential(linear(4, 8), {"type": "ReLU"}, linear(8, 2)),
            {"op": "remove", "path": "1"},
            {"op": "append", "path": "", "layer": {"type": "Tanh"}},
        )

        assert names(found) == ["0", "2", "3"]
        assert counts(found) == (4, 0, 0, 0)

    def test_the_whole_net_can_be_replaced(self) -> None:
        root = {"type": "Sequential", "layers": [linear(4, 8), linear(8, 3)]}
        found = edited(sequential(linear(4, 8), linear(8, 2)), {"op": "replace", "path": "", "layer": root})

        assert [each.key for each in found.weights.reshaped] == ["1.weight", "1.bias"]
        assert (found.weights.new, found.weights.dropped) == (("0.weight", "0.bias"),) * 2

        keeping = {"op": "replace", "path": "", "layer": root, "policy": "pad"}
        found = edited(sequential(linear(4, 8), linear(8, 2)), keeping)

        assert [each.to for each in found.weights.kept] == ["0.weight", "0.bias"]

    def test_a_layer_of_another_type_takes_nothing_over(self) -> None:
        norm = {"type": "LayerNorm", "normalized_shape": [8]}
        document = sequential(linear(4, 8), {"type": "BatchNorm1d", "num_features": 8})
        found = edited(document, {"op": "replace", "path": "1", "layer": norm, "policy": "slice"})

        assert found.weights.new == ("1.weight", "1.bias")
        assert len(found.weights.dropped) == 5


class TestGraph:
    def test_an_inserted_layer_runs_after_every_call_of_its_neighbour(self) -> None:
        found = edited(NET, {"op": "insert_after", "path": "act", "name": "drop", "layer": {"type": "Dropout"}})

        assert names(found) == ["hidden", "act", "drop", "again", "head"]
        assert forward(found) == [
            "hidden(x)",
            "act(%1)",
            "drop(%2)",
            "again(%3)",
            "act(%4)",
            "drop(%5)",
            "add(%3, %6)",
            "head(%7)",
            "return(%8)",
        ]

    def test_an_inserted_layer_runs_before_its_neighbour(self) -> None:
        norm = {"type": "LayerNorm", "normalized_shape": [8]}
        found = edited(NET, {"op": "insert_before", "path": "head", "name": "norm", "layer": norm})

        assert forward(found)[-4:] == ["add(%2, %4)", "norm(%5)", "head(%6)", "return(%7)"]
        assert counts(found) == (6, 0, 2, 0)

    def test_the_value_passes_where_a_layer_was_removed(self) -> None:
        found = edited(NET, {"op": "remove", "path": "act"})

        assert forward(found) == ["hidden(x)", "again(%1)", "add(%1, %2)", "head(%3)", "return(%4)"]

    def test_truncating_drops_what_the_output_does_not_need(self) -> None:
        found = edited(NET, {"op": "truncate", "path": "hidden"})

        assert (names(found), forward(found)) == (["hidden"], ["hidden(x)", "return(%1)"])
        assert counts(found) == (2, 0, 0, 4)

    def test_a_renamed_layer_is_still_called(self) -> None:
        found = edited(NET, {"op": "rename", "path": "act", "name": "nonlinear"})

        assert [step for step in forward(found) if "(" in step and "nonlinear" in step] == [
            "nonlinear(%1)",
            "nonlinear(%3)",
        ]

    def test_edits_reach_into_a_graph_that_an_edit_brought(self) -> None:
        block = {"type": "Graph", "layers": [linear("auto", 6) | {"name": "fc"}], "forward": ["return relu(fc(x))"]}
        found = edited(
            NET,
            {"op": "replace", "path": "head", "layer": block},
            {"op": "append", "path": "head", "name": "out", "layer": linear("auto", 3)},
        )

        assert found.weights.new == ("head.fc.weight", "head.fc.bias", "head.out.weight", "head.out.bias")
        assert output(found) == ["B", 3]

    def test_repetitions_in_a_new_layer_are_written_out(self) -> None:
        tower = {
            "type": "Sequential",
            "layers": [{"type": "Repeat", "count": 2, "layer": linear("${4 * 2}", 8)}, linear("auto", 3)],
        }
        found = edited(NET, {"op": "replace", "path": "head", "layer": tower})

        assert [key for key in found.weights.new if key.endswith("weight")] == [
            "head.0.0.weight",
            "head.0.1.weight",
            "head.1.weight",
        ]
        tower["layers"][1] = linear(7, 3)  # type: ignore[index]
        wrong = refused(NET, {"op": "replace", "path": "head", "layer": tower})

        assert [pointer for pointer, _, _ in wrong] == ["/edits/0/layer/layers/1/in_features"]

    def test_a_net_that_returns_several_values_is_told_apart(self) -> None:
        several = NET | {"root": NET["root"] | {"forward": ["h = act(hidden(x))", "return head(h), again(h)"]}}
        found = refused(several, {"op": "append", "path": "", "name": "more", "layer": linear(2, 2)})

        assert [(pointer, code) for pointer, code, _ in found] == [("/edits/0/path", "wrong-argument")]


class TestFields:
    def test_a_member_without_weights_changes_nothing_else(self) -> None:
        document = sequential(linear(4, 8), {"type": "Dropout", "p": 0.5})
        found = edited(document, {"op": "set_field", "path": "1", "field": "p", "value": 0.1})

        assert found.document["root"]["layers"][1] == {"type": "Dropout", "name": "1", "p": 0.1}
        assert counts(found) == (2, 0, 0, 0)

    def test_a_size_reshapes_by_the_policy(self) -> None:
        found = edited(
            sequential(linear(4, 8), linear(8, 2)),
            {"op": "resize", "path": "0", "field": "out_features", "value": 16, "policy": "pad"},
            {"op": "set_field", "path": "1", "field": "in_features", "value": "auto", "policy": "pad"},
        )

        assert {each.key: (each.to_shape, each.policy) for each in found.weights.reshaped} == {
            "0.weight": ((16, 4), "pad"),
            "0.bias": ((16,), "pad"),
            "1.weight": ((2, 16), "pad"),
        }
        assert [each.to for each in found.weights.kept] == ["1.bias"]

    def test_a_bias_that_goes_is_dropped(self) -> None:
        found = edited(NET, {"op": "set_field", "path": "head", "field": "bias", "value": False})

        assert found.weights.dropped == ("head.bias",)

    def test_the_forward_and_the_inputs_can_be_set(self) -> None:
        lines = ["return head(act(again(act(hidden(x)))))"]
        spec = [{"name": "x", "shape": ["B", 7, 4]}]
        found = edited(
            NET,
            {"op": "set_field", "path": "", "field": "forward", "value": lines},
            {"op": "set_field", "path": "", "field": "inputs", "value": spec},
        )

        assert forward(found)[-1] == "return(%5)"
        assert output(found) == ["B", 7, 2]

    @pytest.mark.parametrize(
        ("policy", "value"), [("slice", 16), ("pad", 4), ("mean_channels", 16)], ids=["slice", "pad", "mean"]
    )
    def test_a_policy_that_does_not_fit_is_refused(self, policy: str, value: int) -> None:
        resize = {"op": "resize", "path": "0", "field": "out_features", "value": value, "policy": policy}
        found = refused(sequential(linear(4, 8)), resize)

        assert [(pointer, code) for pointer, code, _ in found] == [("/edits/0/policy", "policy-unfit")]


class TestFreezing:
    @pytest.mark.parametrize(
        ("globs", "expected"),
        [
            pytest.param(["*"], 6, id="all"),
            pytest.param(["**"], 6, id="all-deep"),
            pytest.param(["hidden"], 2, id="a-layer"),
            pytest.param(["**.bias"], 3, id="biases"),
            pytest.param(["hidden.weight"], 1, id="a-tensor"),
            pytest.param(["h*"], 4, id="part-of-a-name"),
            pytest.param(["**", "!head"], 4, id="but-the-head"),
            pytest.param(["!head"], 0, id="nothing"),
            pytest.param(["head", "!**", "head.bias"], 1, id="the-last-counts"),
        ],
    )
    def test_a_glob_names_layers_and_tensors(self, globs: list[str], expected: int) -> None:
        keys = [f"{layer}.{name}" for layer in ("hidden", "again", "head") for name in ("weight", "bias")]

        assert len(frozen(keys, globs)) == expected

    def test_what_is_frozen_can_be_let_go(self) -> None:
        found = edited(
            NET,
            {"op": "freeze", "path": "*"},
            {"op": "freeze", "path": "again"},
            {"op": "unfreeze", "path": "again"},
            {"op": "unfreeze", "path": "head"},
        )

        assert found.freeze == ("*", "!again", "!head")
        assert found.frozen == ("hidden.weight", "hidden.bias")

    def test_globs_are_about_the_new_document(self) -> None:
        found = edited(NET, {"op": "freeze", "path": "trunk"}, {"op": "rename", "path": "hidden", "name": "trunk"})

        assert found.frozen == ("trunk.weight", "trunk.bias")

    def test_what_is_frozen_is_not_trainable(self) -> None:
        found = edited(NET, {"op": "freeze", "path": "hidden"}, {"op": "freeze", "path": "head.bias"})

        assert found.judgement.summary is not None
        assert found.judgement.summary["parameters"] == 40 + 72 + 18
        assert found.judgement.summary["trainable_parameters"] == 72 + 16

        tied = NET | {"tie": [{"from": "hidden.bias", "to": "again.bias"}]}
        found = edited(tied, {"op": "freeze", "path": "*.bias"})

        assert found.judgement.summary is not None
        assert found.judgement.summary["trainable_parameters"] == 32 + 64 + 16

    @pytest.mark.parametrize(
        ("glob", "hint"),
        [
            ("layr1.**", "Did you mean 'layer1.**'?"),
            ("layer1.0.con1.*", "Did you mean 'layer1.0.conv1.*'?"),
            ("layer1.0.con1", "Did you mean 'layer1.0.conv1'?"),
            ("**.nothing", "Write a path such as classifier.6, or a glob such as features.**."),
        ],
    )
    def test_the_hint_for_a_glob_is_a_glob(self, glob: str, hint: str) -> None:
        assert refused({"catalogue": "resnet18"}, {"op": "freeze", "path": glob}) == [
            ("/edits/0/path", "unknown-path", hint)
        ]

    def test_a_frozen_new_tensor_is_odd(self) -> None:
        found = edited(
            NET, {"op": "replace", "path": "head", "layer": linear(8, 3)}, {"op": "freeze", "path": "head.bias"}
        )

        assert [(entry.code, entry.detail) for entry in found.odd] == [
            ("frozen-fresh", "`head.bias` is frozen and new: it would keep the values that it is drawn with.")
        ]


class TestRules:
    def test_ties_follow_renames_and_go_with_their_layers(self) -> None:
        tied = NET | {"tie": [{"from": "hidden.bias", "to": "again.bias"}]}
        found = edited(tied, {"op": "rename", "path": "hidden", "name": "first"})

        assert found.document["tie"] == [{"from": "first.bias", "to": "again.bias"}]

        found = edited(tied, {"op": "remove", "path": "again"})

        assert "tie" not in found.document

    def test_rules_for_layers_that_are_gone_go_too(self) -> None:
        rules = [{"match": "again.*", "init": {"type": "zeros"}}, {"match": "**.bias", "init": {"type": "zeros"}}]
        found = edited(NET | {"init": rules}, {"op": "remove", "path": "again"})

        assert [rule["match"] for rule in found.document["init"]] == ["**.bias"]


class TestMistakes:
    def test_all_are_told_at_once_with_the_nearest_paths(self) -> None:
        found = refused(
            vgg16(),
            {"op": "replace", "path": "clasifier.6", "layer": linear("auto", 10)},
            {"op": "remove", "path": "classifier.66"},
            {"op": "freeze", "path": "feature.**"},
            {"op": "append", "path": "avgpool", "layer": linear(1, 1)},
            {"op": "append", "path": "", "layer": linear(1000, 1)},
            {"op": "set_field", "path": "classifier.2", "field": "prob", "value": 0.1},
            {"op": "resize", "path": "classifier.2", "field": "p", "value": 1},
            {"op": "rename", "path": "features", "name": "classifier"},
            {"op": "rename", "path": "", "name": "net"},
        )

        assert [(pointer, code) for pointer, code, _ in found] == [
            ("/edits/0/path", "unknown-path"),
            ("/edits/1/path", "unknown-path"),
            ("/edits/3/path", "wrong-type"),
            ("/edits/4/name", "missing"),
            ("/edits/5/field", "unknown-member"),
            ("/edits/6/field", "unknown-member"),
            ("/edits/7/name", "duplicate-name"),
            ("/edits/8/path", "invalid"),
        ]
        assert found[0][2] == "Did you mean 'classifier.6'?"
        assert found[1][2] == "Did you mean 'classifier.6'?"

    def test_a_glob_that_names_nothing_is_a_mistake(self) -> None:
        found = refused(vgg16(), {"op": "freeze", "path": "feature"})

        assert found == [("/edits/0/path", "unknown-path", "Did you mean 'features'?")]

    def test_a_mistake_in_a_new_layer_points_into_its_edit(self) -> None:
        block = {"type": "Sequential", "layers": [linear("auto", 8), linear(9, 2)]}
        found = refused(
            NET,
            {"op": "rename", "path": "again", "name": "middle"},
            {"op": "replace", "path": "head", "layer": block},
            {"op": "append", "path": "head", "layer": {"type": "Lineal"}},
        )

        assert [(pointer, code) for pointer, code, _ in found] == [("/edits/2/layer/type", "unknown-type")]

        found = refused(
            NET, {"op": "rename", "path": "again", "name": "middle"}, {"op": "replace", "path": "head", "layer": block}
        )

        assert [(pointer, code) for pointer, code, _ in found] == [
            ("/edits/1/layer/layers/1/in_features", "shape-mismatch")
        ]

    def test_a_wrong_value_points_at_itself(self) -> None:
        found = refused(sequential({"type": "Dropout"}), {"op": "set_field", "path": "0", "field": "p", "value": 2})

        assert [pointer for pointer, _, _ in found] == ["/edits/0/value"]

    def test_a_net_that_no_longer_fits_is_told_of_the_layer(self) -> None:
        with pytest.raises(ArchitectureInvalid) as caught:
            edited(NET, {"op": "resize", "path": "hidden", "field": "out_features", "value": 9})

        assert next((entry.pointer, entry.layer) for entry in caught.value.errors) == ("/edits/0", "again")

    def test_a_layer_with_several_values_is_not_removed(self) -> None:
        document: dict[str, Any] = {
            "schema": "arch/1",
            "inputs": [{"name": "a", "shape": ["B", 2]}, {"name": "b", "shape": ["B", 3]}],
            "root": {
                "type": "Graph",
                "inputs": ["a", "b"],
                "layers": [
                    {
                        "name": "join",
                        "type": "Graph",
                        "inputs": ["a", "b"],
                        "layers": [],
                        "forward": ["return cat(a, b, dim=1)"],
                    }
                ],
                "forward": ["return join(a, b)"],
            },
        }
        found = refused(document, {"op": "remove", "path": "join"})

        assert [(pointer, code) for pointer, code, _ in found] == [("/edits/0/path", "wrong-argument")]

    def test_what_becomes_too_large_is_told_so(self) -> None:
        with pytest.raises(ArchitectureTooLarge):
            edited(NET, {"op": "resize", "path": "head", "field": "out_features", "value": 10**9})

    @pytest.mark.parametrize(
        "layer",
        [
            {},
            {"type": 7},
            {"type": "Sequential", "layers": 7},
            {"type": "Sequential", "layers": [7]},
            {"type": "Graph", "layers": None, "forward": 3},
            {"type": "Graph", "inputs": 7, "layers": [{"type": "ReLU", "name": 8}], "forward": [{"op": 1}]},
            {"type": "Linear", "in_features": [], "out_features": {}, "name": ["a"]},
        ],
        ids=str,
    )
    def test_a_layer_that_is_none_is_refused(self, layer: dict[str, Any]) -> None:
        replace = {"op": "replace", "path": "head", "layer": layer}
        append = {"op": "append", "path": "head", "layer": {"type": "ReLU"}, "name": "act"}

        assert refused(NET, replace)
        assert refused(NET, replace, append, {"op": "set_field", "path": "head.act", "field": "inplace", "value": 1})

    def test_the_list_itself_is_checked(self) -> None:
        for wrong in ([], [{"op": "explode", "path": ""}], [{"op": "remove", "path": "0"}] * (MAX_EDITS + 1)):
            with pytest.raises(ValidationError):
                EDITS.validate_python(wrong)


def test_the_result_is_a_source_again() -> None:
    first = edited(vgg16(), {"op": "append", "path": "", "name": "add_linear", "layer": linear(1000, 10)})
    second = edited(first.document, {"op": "remove", "path": "add_linear"})

    assert second.document == canonical_form(require(vgg16()).architecture)  # type: ignore[arg-type]
    assert second.weights.dropped == ("add_linear.weight", "add_linear.bias")
