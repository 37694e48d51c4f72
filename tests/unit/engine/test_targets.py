"""Targets that an objective cannot take, beside the net or at all: each with its pointer, and the mend where there is
one."""

from __future__ import annotations

from typing import Any

import pytest

from service.engine import data
from service.engine.agreement import agree, agree_with_version
from service.schemas.architecture import parse
from service.schemas.datasets import Inline
from service.schemas.jobs import EvaluateSpec
from service.schemas.judgement import judge
from service.schemas.preprocessing import NONE
from service.schemas.training import TrainingConfig
from service.schemas.versions import Signature, TensorSpec

X = [[1.0], [2.0], [3.0], [4.0]]


@pytest.fixture
def stored(tmp_path):
    def _stored(targets):
        return tmp_path, data.materialize(Inline(type="inline", inputs=X, targets=targets), tmp_path)

    return _stored


def net(width, *more):
    layers = [{"type": "Linear", "in_features": 1, "out_features": width}, *more]
    return {
        "schema": "arch/1",
        "inputs": [{"name": "x", "shape": ["B", 1]}],
        "root": {"type": "Sequential", "layers": layers},
    }


def agreed(stored, document, architecture):
    folder, manifest = stored
    return agree(folder, manifest, document, judge(parse(architecture)))


def config(**members):
    document: dict[str, Any] = {"optimizer": {"type": "Adam"}, "budget": {"epochs": 1}}
    return TrainingConfig.model_validate({**document, **members})


PAIRS = [[1.0], [-1.0], [1.0], [-1.0]]
LOG_SOFTMAX: dict[str, Any] = {"type": "LogSoftmax", "dim": 1}
VECTORS: dict[str, Any] = {"type": "Unflatten", "dim": 1, "unflattened_size": [2, 3]}
TRIPLES: dict[str, Any] = {"type": "Unflatten", "dim": 1, "unflattened_size": [3, 2]}
VECTORS_OF_TWO: dict[str, Any] = {"type": "Unflatten", "dim": 1, "unflattened_size": [2, 2]}
SEQUENCES: tuple[dict[str, Any], ...] = (
    {"type": "Unflatten", "dim": 1, "unflattened_size": [3, 3]},
    {"type": "LogSoftmax", "dim": 2},
)

FITTING: dict[str, tuple[Any, ...]] = {
    "huber": ([1.5, 2, 3, 4], net(1), {}),
    "poisson_nll": ([0, 2, 3, 4], net(1), {}),
    "gaussian_nll": ([1.5, 2, 3, 4], net(2), {}),
    "nll": (["a", "b", "a", "b"], net(2, LOG_SOFTMAX), {"weight": "balanced"}),
    "cross_entropy": (["a", "b", "a", "b"], net(2), {"weight": [1, 2]}),
    "multi_margin": (["a", "b", "a", "b"], net(2), {}),
    "bce": ([0, 1, 0, 1], net(1, {"type": "Sigmoid"}), {}),
    "bce_with_logits": (["a", "b", "a", "b"], net(1), {"pos_weight": "balanced"}),
    "multilabel_soft_margin": ([[0, 1], [1, 1], [0, 0], [1, 0]], net(2), {"weight": [1, 2]}),
    "multilabel_margin": ([[0, -1], [1, 0], [1, -1], [0, -1]], net(2), {}),
    "soft_margin": (PAIRS, net(1), {}),
    "hinge_embedding": (PAIRS, net(1), {}),
    "kl_div": ([[0.5, 0.5], [1, 0], [0.2, 0.8], [0, 1]], net(2, LOG_SOFTMAX), {"reduction": "batchmean"}),
    "margin_ranking": (PAIRS, net(2), {}),
    "cosine_embedding": (PAIRS, net(6, VECTORS), {}),
    "triplet_margin": (PAIRS, net(6, TRIPLES), {}),
    "triplet_margin_with_distance": (PAIRS, net(6, TRIPLES), {"distance": "cosine"}),
    "ctc": ([[1, 2], [2, 2], [1, -1], [-1, -1]], net(9, *SEQUENCES), {}),
    "sigmoid_focal": (["a", "b", "a", "b"], net(1), {"alpha": None}),
    "softmax_focal": (["a", "b", "a", "b"], net(2), {"weight": "balanced"}),
    "quantile": ([1.5, 2, 3, 4], net(3), {"quantiles": [0.1, 0.5, 0.9]}),
    "log_cosh": ([1.5, 2, 3, 4], net(1), {}),
    "dice": ([[0, 1], [1, 1], [0, 0], [1, 0]], net(2), {}),
}


@pytest.mark.parametrize("kind", FITTING)
def test_what_fits_is_taken_without_a_word(stored, kind):
    targets, architecture, members = FITTING[kind]

    found = agreed(stored(targets), config(objective={"type": kind, **members}), architecture)

    assert found == ([], [])


WRONG: dict[str, tuple[Any, ...]] = {
    "counts below zero": ([-1, 2, 3, 4], net(1), {"type": "poisson_nll"}, "/dataset", "counts"),
    "a mean without a variance": ([1.5, 2, 3, 4], net(1), {"type": "gaussian_nll"}, "/architecture/root", "[N, 2]"),
    "probabilities above one": ([0, 2, 0, 1], net(1, {"type": "Sigmoid"}), {"type": "bce"}, "/dataset", "from 0 to 1"),
    "classes for probabilities": (
        ["a", "b", "a", "b"],
        net(1, {"type": "Sigmoid"}),
        {"type": "bce"},
        "/objective",
        "bce_with_logits",
    ),
    "three classes for probabilities": (
        ["a", "b", "c", "b"],
        net(1, {"type": "Sigmoid"}),
        {"type": "bce"},
        "/objective",
        "3 classes ('a', 'b', 'c'); bce takes 0 or 1 for each output. Use {\"type\": \"cross_entropy\"}, with 3 logits",
    ),
    "three classes for a logit": (
        ["a", "b", "c", "b"],
        net(1),
        {"type": "sigmoid_focal"},
        "/objective",
        "cross_entropy",
    ),
    "two vectors of three": (PAIRS, net(4, VECTORS_OF_TWO), {"type": "triplet_margin"}, "/architecture/root", "three"),
    "a quantile too few": (
        [1.5, 2, 3, 4],
        net(2),
        {"type": "quantile", "quantiles": [0.1, 0.5, 0.9]},
        "/architecture/root",
        "[N, 3] beside targets [N, 1]",
    ),
    "no steps": ([[1, 2], [2, 2], [1, -1], [2, 1]], net(3), {"type": "ctc"}, "/architecture/root", "[N, T, classes]"),
    "a blank that is none": (
        [[0, 1], [1, 1], [1, -1], [0, 1]],
        net(9, *SEQUENCES),
        {"type": "ctc", "blank": 3},
        "/objective/blank",
        "not among the net's 3",
    ),
    "a blank among the targets": (
        [[1, 2], [2, 0], [1, -1], [2, 1]],
        net(9, *SEQUENCES),
        {"type": "ctc"},
        "/objective/blank",
        "row 1 has it",
    ),
    "a class that ctc has not": (
        [[1, 2], [2, 3], [1, -1], [2, 1]],
        net(9, *SEQUENCES),
        {"type": "ctc"},
        "/dataset",
        "below 3",
    ),
    "a target too long": (
        [[1, 1, -1], [2, 1, 2], [1, 1, 2], [2, -1, 1]],
        net(9, *SEQUENCES),
        {"type": "ctc"},
        "/architecture/root",
        "row 2 needs 4 steps, and the net answers 3",
    ),
    "zeros for signs": ([[0], [1], [0], [1]], net(1), {"type": "soft_margin"}, "/dataset", "bce_with_logits"),
    "a label that is not there": (
        [[0, -1], [2, -1], [1, -1], [0, -1]],
        net(2),
        {"type": "multilabel_margin"},
        "/dataset",
        "below 2",
    ),
    "what does not sum to one": (
        [[0.5, 0.2], [1, 0], [0.2, 0.8], [0, 1]],
        net(2, LOG_SOFTMAX),
        {"type": "kl_div"},
        "/dataset",
        "sum is 1",
    ),
    "one score of two": (PAIRS, net(1), {"type": "margin_ranking"}, "/architecture/root", "two scores"),
    "no two vectors": (PAIRS, net(6), {"type": "cosine_embedding"}, "/architecture/root", "two vectors"),
    "a factor too many": (
        ["a", "b", "a", "b"],
        net(2),
        {"type": "cross_entropy", "weight": [1, 2, 3]},
        "/objective/weight",
        "3 factors",
    ),
    "a factor for no output": (
        [[0, 1], [1, 1], [0, 0], [1, 0]],
        net(2),
        {"type": "bce_with_logits", "pos_weight": [1, 2, 3]},
        "/objective/pos_weight",
        "3 factors",
    ),
    "a class outside the outputs": (
        [0, 1, 2, 1],
        net(2, LOG_SOFTMAX),
        {"type": "nll"},
        "/architecture/root",
        "Class 2",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_told_with_its_place(stored, case):
    targets, architecture, objective, pointer, words = WRONG[case]

    found, _ = agreed(stored(targets), config(objective=objective), architecture)

    [entry] = found
    assert entry.pointer == pointer
    assert words in f"{entry.detail} {entry.hint}"


@pytest.mark.parametrize(
    ("objective", "targets", "code"),
    [
        ("nll", ["a", "b", "a", "b"], "logsoftmax-missing"),
        ("bce", [[0, 1], [1, 1], [0, 0], [1, 0]], "sigmoid-missing"),
    ],
)
def test_a_net_without_the_end_that_its_objective_needs_is_warned_of(stored, objective, targets, code):
    found, warnings = agreed(stored(targets), config(objective={"type": objective}), net(2))

    assert found == []
    assert [warning.code for warning in warnings] == [code]
    assert "which takes logits" in str(warnings[0].hint)


@pytest.mark.parametrize(
    ("objective", "targets", "code"),
    [
        ("softmax_focal", ["a", "b", "a", "b"], "softmax-twice"),
        ("sigmoid_focal", [[0, 1], [1, 1], [0, 0], [1, 0]], "sigmoid-twice"),
        ("dice", [[0, 1], [1, 1], [0, 0], [1, 0]], "sigmoid-twice"),
    ],
)
def test_a_net_that_ends_in_what_its_objective_does_is_warned_of(stored, objective, targets, code):
    last = {"type": "Softmax", "dim": 1} if code == "softmax-twice" else {"type": "Sigmoid"}
    found, warnings = agreed(stored(targets), config(objective={"type": objective}), net(2, last))

    assert found == []
    assert [warning.code for warning in warnings] == [code]


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"metrics": ["loss", "accuracy"]}, "/metrics/1"),
        (
            {"early_stopping": {"metric": "val_f1"}, "split": {"type": "random", "validation": 0.5}},
            "/early_stopping/metric",
        ),
        (
            {
                "scheduler": {"type": "ReduceLROnPlateau", "metric": "val_accuracy"},
                "split": {"type": "random", "validation": 0.5},
            },
            "/scheduler/metric",
        ),
        ({"optimizer": {"type": "Adam", "groups": [{"match": "1", "lr": 1}]}}, "/optimizer/groups/0/match"),
        ({"init": {"freeze": ["*", "!body"]}}, "/init/freeze/1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_metrics_and_patterns_that_mean_nothing_are_told(stored, members, pointer):
    document = config(objective={"type": "mse"}, **members)

    [entry], _ = agreed(stored([1.5, 2, 3, 4]), document, net(1))

    assert entry.pointer == pointer


def test_targets_of_variances_and_counts_are_not_scaled(stored):
    steps = [{"type": "standardize"}, {"type": "standardize", "of": "target"}]
    document = config(objective={"type": "gaussian_nll"}, preprocessing=steps)

    [entry], _ = agreed(stored([1.5, 2, 3, 4]), document, net(2))

    assert entry.pointer == "/preprocessing/1/of"


def test_balanced_means_nothing_where_nothing_is_fitted(stored):
    objective = {"type": "cross_entropy", "weight": "balanced"}
    spec = EvaluateSpec.model_validate(
        {"kind": "evaluate", "model": "m", "dataset": "ds_" + "0" * 32, "objective": objective}
    )
    tensors = {
        name: (TensorSpec(name=name, shape=("B", size), dtype="float32"),) for name, size in (("x", 1), ("y", 2))
    }
    signature = Signature(inputs=tensors["x"], outputs=tensors["y"])

    folder, manifest = stored([0, 1, 0, 1])
    [entry] = agree_with_version(folder, manifest, spec, signature=signature, preprocessing=NONE)

    assert entry.pointer == "/objective/weight"
