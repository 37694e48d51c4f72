"""Whether dataset, net and training document fit together: everything that does not is told at once, with its place."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_iris

from service.engine import data
from service.engine.agreement import agree, agree_with_version
from service.schemas.architecture import parse
from service.schemas.datasets import Inline, Npz
from service.schemas.jobs import EvaluateSpec
from service.schemas.judgement import judge
from service.schemas.preprocessing import NONE, ArrayRow, ClassTarget, NumberColumn, Preprocessing, TableRow
from service.schemas.training import TrainingConfig
from service.schemas.versions import Signature, TensorSpec

UPLOAD = "up_" + "0" * 32


class Stored:
    """A materialized dataset that a net is compared with."""

    def __init__(self, folder, manifest):
        self.folder, self.manifest = folder, manifest

    def agree(self, architecture, **config):
        return agree(self.folder, self.manifest, training(**config), judge(parse(architecture)))


@pytest.fixture
def store(tmp_path_factory):
    def _store(source, upload=None):
        folder = tmp_path_factory.mktemp("dataset")
        return Stored(folder, data.materialize(source, folder, upload=upload))

    return _store


def inline(inputs, targets=None, **members):
    return Inline(type="inline", inputs=inputs, targets=targets, **members)


def training(objective="mse", **members):
    return TrainingConfig.model_validate(
        {
            "objective": {"type": objective},
            "optimizer": {"type": "SGD", "lr": 0.1},
            "budget": {"epochs": 1},
            **members,
        }
    )


def linear(inputs, outputs, *, dtype="float32", shape=None):
    return {
        "schema": "arch/1",
        "inputs": [{"name": "x", "shape": shape or ["B", inputs], "dtype": dtype}],
        "root": {"type": "Linear", "in_features": inputs, "out_features": outputs},
    }


def test_a_net_that_fits_is_taken(store):
    bunch = load_iris()
    stored = store(inline(bunch.data.tolist(), bunch.target_names[bunch.target].tolist()))

    split = {"type": "stratified", "validation": 0.2}
    steps = [{"type": "standardize"}]
    assert stored.agree(linear(4, 3), objective="cross_entropy", split=split, preprocessing=steps) == ([], [])


def test_flat_targets_against_a_column_of_outputs_are_refused_with_both_shapes_and_the_mend(store, tmp_path):
    path = tmp_path / "flat.npz"
    np.savez(path, x=np.zeros((5, 1)), y=np.zeros(5))
    stored = store(Npz(type="npz", upload=UPLOAD, target="y"), path)

    [entry], _ = stored.agree(linear(1, 1))

    assert "answers [N, 1], the targets have the shape [N];" in entry.detail
    assert entry.hint == "Give each target as a list: [[1.0], [2.0]], or an array of the shape [N, 1]."


def test_flat_inline_targets_become_a_column(store):
    assert store(inline([[1.0], [2.0]], [1.0, 2.0])).agree(linear(1, 1)) == ([], [])


TABLE = {"inputs": [[1, "a", 0.5], [2, "b", 0.5], [3, "a", 0.5]], "columns": ("n", "t", "f")}
MISTAKES = {
    "a row that is too wide": (inline([[1.0, 2], [3, 4]], [1, 2]), linear(3, 1), {}, ["/architecture/inputs/0/shape"]),
    "single numbers as rows": (inline([1.0, 2.0], [1, 2]), linear(1, 1), {}, ["/architecture/inputs/0/shape"]),
    "fractions for an embedding": (
        inline([[1.5], [2]], [1, 2]),
        {
            "schema": "arch/1",
            "inputs": [{"name": "x", "shape": ["B", 1], "dtype": "int64"}],
            "root": {
                "type": "Sequential",
                "layers": [
                    {"type": "Embedding", "num_embeddings": 5, "embedding_dim": 3},
                    {"type": "Flatten"},
                    {"type": "Linear", "in_features": 3, "out_features": 1},
                ],
            },
        },
        {},
        ["/architecture/inputs/0/dtype"],
    ),
    "more classes than outputs": (
        inline([[1.0], [2], [3]], ["a", "b", "c"]),
        linear(1, 2),
        {"objective": "cross_entropy"},
        ["/architecture/root"],
    ),
    "an index outside the outputs": (
        inline([[1.0], [2]], [1, 2]),
        linear(1, 2),
        {"objective": "cross_entropy"},
        ["/architecture/root"],
    ),
    "fractions as classes": (inline([[1.0]], [0.5]), linear(1, 2), {"objective": "cross_entropy"}, ["/dataset"]),
    "classes as numbers": (inline([[1.0]], ["a"]), linear(1, 1), {}, ["/objective"]),
    "targets beyond 1 as probabilities": (
        inline([[1.0]], [2]),
        linear(1, 1),
        {"objective": "bce_with_logits"},
        ["/dataset"],
    ),
    "no targets": (inline([[1.0]]), linear(1, 1), {}, ["/dataset"]),
    "a text column without encoding": (inline(targets=[1, 2, 3], **TABLE), linear(4, 1), {}, ["/preprocessing"]),
    "steps of unknown and unsuited columns": (
        inline(targets=[1, 2, 3], **TABLE),
        linear(4, 1),
        {
            "preprocessing": [
                {"type": "standardize", "columns": ["n", "x"]},
                {"type": "one_hot", "columns": ["f", "t"]},
            ]
        },
        ["/preprocessing/0/columns/1", "/preprocessing/1/columns/0"],
    ),
    "a scaled class": (
        inline([[1.0], [2]], ["a", "b"]),
        linear(1, 2),
        {"objective": "cross_entropy", "preprocessing": [{"type": "standardize", "of": "target"}]},
        ["/preprocessing/0/of"],
    ),
    "metrics of another objective": (
        inline([[1.0]], [1]),
        linear(1, 1),
        {"metrics": ["loss", "accuracy"]},
        ["/metrics/1"],
    ),
    "no full batch": (inline([[1.0]], [1]), linear(1, 1), {"batch_size": 2, "drop_last": True}, ["/batch_size"]),
    "a split without rows": (
        inline([[1.0]], [1]),
        linear(1, 1),
        {"split": {"type": "random", "validation": 0.2}},
        ["/split"],
    ),
    "everything at once": (
        inline([[1.0, 2]], [2]),
        linear(1, 2),
        {"objective": "cross_entropy", "metrics": ["mae"], "split": {"type": "random", "validation": 0.2}},
        ["/split", "/metrics/0", "/architecture/root"],
    ),
}


@pytest.mark.parametrize(("source", "architecture", "config", "pointers"), MISTAKES.values(), ids=MISTAKES.keys())
def test_what_does_not_fit_together_is_told_before_a_job_is_queued(store, source, architecture, config, pointers):
    problems, _ = store(source).agree(architecture, **config)

    assert [entry.pointer for entry in problems] == pointers


def test_the_width_of_a_table_counts_its_one_hot_columns(store):
    stored = store(inline(targets=[1, 2, 3], **TABLE))

    assert stored.agree(linear(4, 1), preprocessing=[{"type": "one_hot"}]) == ([], [])


def test_two_classes_may_be_told_apart_by_one_logit(store):
    stored = store(inline([[1.0], [2]], ["no", "yes"]))

    assert stored.agree(linear(1, 1), objective="bce_with_logits") == ([], [])


def test_a_batch_larger_than_the_data_is_a_warning(store):
    problems, [warning] = store(inline([[1.0]], [1])).agree(linear(1, 1), batch_size=32)

    assert (problems, warning.pointer) == ([], "/batch_size")


# -- what a net ends in ---------------------------------------------------------------------------------------------


SOFTMAX = {"type": "Softmax", "dim": 1}
HEAD = {"name": "head", "type": "Linear", "in_features": 2, "out_features": 2}


@pytest.mark.parametrize(
    "root",
    [
        {"type": "Sequential", "layers": [HEAD, SOFTMAX]},
        {"type": "Sequential", "layers": [HEAD, {"type": "Sequential", "layers": [SOFTMAX]}]},
        {"type": "Graph", "layers": [HEAD, {"name": "s", **SOFTMAX}], "forward": ["return s(head(x))"]},
        {"type": "Graph", "layers": [HEAD], "forward": ["return softmax(head(x), dim=1)"]},
    ],
    ids=["sequential", "nested", "graph-layer", "graph-operation"],
)
def test_a_softmax_before_cross_entropy_is_warned_of(store, root):
    net = {"schema": "arch/1", "inputs": [{"name": "x", "shape": ["B", 2]}], "root": root}
    stored = store(inline([[1.0, 2.0], [2.0, 1.0]], [0, 1]))
    problems, [warning] = stored.agree(net, objective="cross_entropy")

    assert problems == []
    assert (warning.pointer, warning.code) == ("/architecture/root", "softmax-twice")


@pytest.mark.parametrize(
    "lines",
    [["return head(x)"], ["return x"], ["h = softmax(x, dim=1)", "return head(h)"]],
    ids=["logits", "inputs", "attention"],
)
def test_a_net_that_ends_in_logits_is_not_warned_of(store, lines):
    layers = [HEAD] if "head" in lines[-1] else []
    root = {"type": "Graph", "layers": layers, "forward": lines}
    net = {"schema": "arch/1", "inputs": [{"name": "x", "shape": ["B", 2]}], "root": root}

    assert store(inline([[1.0, 2.0], [2.0, 1.0]], [0, 1])).agree(net, objective="cross_entropy") == ([], [])


def test_a_net_that_cannot_answer_below_zero_is_warned_of_for_regression(store):
    root = {"type": "Sequential", "layers": [{**HEAD, "out_features": 1}, {"type": "ReLU"}]}
    net = {"schema": "arch/1", "inputs": [{"name": "x", "shape": ["B", 2]}], "root": root}
    problems, [warning] = store(inline([[1.0, 2.0], [2.0, 1.0]], [[0.5], [-1.0]])).agree(net, objective="mse")

    assert problems == []
    assert (warning.pointer, warning.code) == ("/architecture/root", "relu-on-output")


@pytest.mark.parametrize(
    ("batch", "drop", "warned"), [(2, False, True), (2, True, False), (3, False, False), (1, False, True)]
)
def test_a_last_batch_of_one_is_warned_of_before_a_batch_norm(store, batch, drop, warned):
    layers = [HEAD, {"type": "BatchNorm1d", "num_features": 2}]
    layers = [{key: value for key, value in layer.items() if key != "name"} for layer in layers]
    net = {"schema": "arch/1", "inputs": [{"name": "x", "shape": ["B", 2]}],
           "root": {"type": "Sequential", "layers": layers}}  # fmt: skip
    stored = store(inline([[1.0, 2.0], [2.0, 1.0], [0.0, 1.0]], [0, 1, 0]))
    problems, warnings = stored.agree(net, objective="cross_entropy", batch_size=batch, drop_last=drop)

    assert problems == []
    assert [(warning.code, warning.layer) for warning in warnings] == ([("batch-of-one", "1")] if warned else [])


# -- versions -------------------------------------------------------------------------------------------------------

TOLD = Preprocessing(row=ArrayRow(row_shape=(2,)), target=ClassTarget(classes=("no", "yes")))


def measured(stored, objective, outputs, *, inputs=2, preprocessing=NONE, **members):
    spec = EvaluateSpec(kind="evaluate", model="m", dataset="ds_" + "0" * 32, objective={"type": objective}, **members)
    signature = Signature(
        inputs=(TensorSpec(name="x", dtype="float32", shape=("B", inputs)),),
        outputs=(TensorSpec(name="output", dtype="float32", shape=("B", outputs)),),
    )
    return agree_with_version(stored.folder, stored.manifest, spec, signature=signature, preprocessing=preprocessing)


@pytest.mark.parametrize(
    ("targets", "objective", "outputs", "more", "found"),
    [
        ([1.0, 2.0], "mse", 1, {}, []),
        ([1.0, 2.0], "mse", 2, {}, [("/model", "shape-mismatch")]),
        ([1.0, 2.0], "mse", 1, {"inputs": 3}, [("/dataset", "shape-mismatch")]),
        ([1.0, 2.0], "mse", 1, {"metrics": ["accuracy"]}, [("/metrics/0", "invalid")]),
        (None, "mse", 1, {}, [("/dataset", "no-target")]),
        ([0, 2], "cross_entropy", 2, {}, [("/model", "label-out-of-range")]),
        (["a", "b"], "cross_entropy", 3, {}, [("/model", "shape-mismatch")]),
        (["yes", "yes"], "cross_entropy", 2, {"preprocessing": TOLD}, []),
        (["yes", "maybe"], "cross_entropy", 2, {"preprocessing": TOLD}, [("/dataset", "unknown-class")]),
        (["yes", "yes"], "bce_with_logits", 1, {"preprocessing": TOLD}, []),
        (["yes", "maybe"], "bce_with_logits", 1, {"preprocessing": TOLD}, [("/dataset", "unknown-class")]),
        ([0, 2], "cross_entropy", 2, {"preprocessing": TOLD}, [("/dataset", "label-out-of-range")]),
        (["yes", "no"], "mse", 2, {"preprocessing": TOLD}, [("/objective", "invalid")]),
    ],
    ids=[
        "fits",
        "outputs",
        "rows",
        "metric",
        "no-target",
        "index",
        "classes",
        "fewer-classes",
        "unknown-class",
        "one-class-of-two",
        "unknown-class-of-two",
        "index-of-a-class",
        "objective",
    ],
)
def test_a_version_is_measured_only_on_rows_and_targets_that_fit_it(store, targets, objective, outputs, more, found):
    entries = measured(store(inline([[1.0, 2.0], [2.0, 1.0]], targets)), objective, outputs, **more)

    assert [(entry.pointer, entry.code) for entry in entries] == found


def test_texts_are_no_rows_for_a_version_without_columns(store):
    [entry] = measured(store(inline([[1.0, "a"], [2.0, "b"]], [1.0, 2.0])), "mse", 1)

    assert (entry.pointer, entry.code) == ("/dataset", "text-column")


def test_a_net_with_lengths_is_told_what_the_dataset_lacks(store):
    net = {
        "schema": "arch/1",
        "inputs": [{"name": "rows", "shape": ["B", 5, 2]}, {"name": "lengths", "shape": ["B"], "dtype": "int64"}],
        "root": {
            "type": "Graph",
            "inputs": ["rows", "lengths"],
            "layers": [{"name": "head", **linear(2, 1)["root"]}],
            "forward": ["return head(rows[:, 0]) * unsqueeze(lengths, 1)"],
        },
    }
    found, _ = store(inline([[[1.0, 2.0]] * 5, [[2.0, 1.0]] * 5], [1.0, 2.0])).agree(net)

    assert [(entry.pointer, entry.detail) for entry in found] == [
        ("/architecture", "The net has the inputs rows, lengths, the dataset has one without a name.")
    ]
    assert found[0].hint == (
        'Name the columns or arrays of each input in the source: "inputs": {"rows": …, "lengths": …}. A net that takes '
        "lengths beside its rows trains without them too, on rows of one length."
    )


def test_a_net_of_several_outputs_is_told_to_return_one(store):
    net = linear(2, 1)
    net["root"] = {
        "type": "Graph",
        "layers": [{"name": "head", **net["root"]}],
        "forward": ["y = head(x)", "return y, x"],
    }
    found, _ = store(inline([[1.0, 2.0], [2.0, 1.0]], [1.0, 2.0])).agree(net)

    assert [entry.detail for entry in found] == ["Training takes nets with one output; this one has 2."]
    assert found[0].hint == (
        "Let the forward return one value, such as the last one of a sequence: a net with several outputs can be "
        "imported and served, not trained."
    )


def test_a_column_that_the_model_knows_by_another_name_is_named(store):
    fitted = Preprocessing(row=TableRow(columns=(NumberColumn(name="rooms"), NumberColumn(name="size"))))
    columns = store(Inline(type="inline", inputs=[[1.0, 2.0]], targets=[1.0], columns=("rooms", "area")))
    found = measured(columns, "mse", 1, preprocessing=fitted)

    assert [(entry.code, entry.detail, entry.hint) for entry in found] == [
        (
            "unknown-column",
            "The dataset has no input column 'size'.",
            "The model was trained on a column of this name; the dataset has: 'rooms', 'area'.",
        )
    ]


def test_patterns_are_refused_where_trying_them_would_take_long(store):
    layers = [{"type": "Linear", "in_features": 1, "out_features": 1}] * 1000
    deep = {
        "schema": "arch/1",
        "inputs": [{"name": "x", "shape": ["B", 1]}],
        "root": {"type": "Sequential", "layers": layers},
    }
    stored = store(inline([[1.0], [2.0]], [1.0, 2.0]))

    found, _ = stored.agree(deep, init={"freeze": ["nose"] * 256})
    assert [(one.pointer, one.code) for one in found] == [("/init/freeze", "too-many")]
