"""Wrong training requests: each is told its place and what to do about it, and half of them are such that only the
doctor, who looks at data, net and objective together, can find them. None costs a job, and none is our fault."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from service.schemas.examples import CLASSIFY, TRAIN
from tests.problems import assert_problem

RELU = {"type": "ReLU"}
ROWS = [[float(row), float(-row)] for row in range(12)]
STRIPES = {"type": "striped_images", "classes": 10, "size": 8, "channels": 3}


def linear(inputs: int, outputs: int) -> dict[str, Any]:
    return {"type": "Linear", "in_features": inputs, "out_features": outputs}


def net(*layers: dict[str, Any], row: tuple[int, ...] = (2,), dtype: str = "float32") -> dict[str, Any]:
    root = {"type": "Sequential", "layers": list(layers)}
    return {"schema": "arch/1", "inputs": [{"name": "x", "shape": ["B", *row], "dtype": dtype}], "root": root}


def inline(inputs: list[Any], targets: list[Any]) -> dict[str, Any]:
    return {"type": "inline", "inputs": inputs, "targets": targets}


def wrong(
    change: dict[str, Any], pointer: str, code: str, words: str, *, name: str, of: dict[str, Any] = CLASSIFY
) -> Any:
    """A sound request with a change that spoils it; where and what is told, with words of the remedy."""
    return pytest.param({**of, **change}, pointer, code, words, id=name)


EMBEDDING = {"type": "Embedding", "num_embeddings": 5, "embedding_dim": 4}
WORDS_NET = net(EMBEDDING, {"type": "Flatten"}, linear(8, 2), dtype="int64")
LAMBDA = {"type": "LambdaLR", "lr_lambda": "lambda epoch: 0.9 ** epoch"}

MALFORMED = [
    wrong({"objective": {"type": "crossentropy"}}, "/objective/type", "unknown-type", "cross_entropy", name="loss"),
    wrong({"optimizer": {"type": "adam", "lr": 0.1}}, "/optimizer/type", "unknown-type", "'Adam'", name="lower-case"),
    wrong({"optimizer": {"type": "LBFGS"}}, "/optimizer/type", "unknown-type", "'RMSprop'", name="closure-optimizer"),
    wrong({"optimizer": {"type": "SGD"}}, "/optimizer/lr", "missing", "Add it", name="no-rate"),
    wrong({"optimizer": {"type": "SGD", "lr": "0.1"}}, "/optimizer/lr", "wrong-type", "number", name="rate-is-a-text"),
    wrong(
        {"optimizer": {"type": "Adam", "betas": [0.9, 1.5]}},
        *("/optimizer/betas/1", "out-of-range", "less than 1"),
        name="beta-beyond-one",
    ),
    wrong(
        {"optimizer": {"type": "Adam", "momentum": 0.9}},
        *("/optimizer/momentum", "unknown-member", "betas"),
        name="momentum-of-adam",
    ),
    wrong({"scheduler": LAMBDA}, "/scheduler/type", "unknown-type", "'StepLR'", name="schedule-in-code"),
    wrong({"scheduler": {"type": "OneCycleLR"}}, "/scheduler/max_lr", "missing", "Add it", name="cycle-without-a-rate"),
    wrong(
        {"scheduler": {"type": "ReduceLROnPlateau"}, "split": None},
        *("/scheduler/metric", "invalid", '"split"'),
        name="plateau-of-nothing",
    ),
    wrong(
        {"early_stopping": {"metric": "val_loss"}, "split": None},
        *("/early_stopping/metric", "invalid", '"split"'),
        name="stopping-by-nothing",
    ),
    wrong({"budget": {}}, "/budget", "missing", '"epochs"', name="no-budget"),
    wrong({"budget": {"epochs": 0}}, "/budget/epochs", "out-of-range", "at least 1", name="no-epochs"),
    wrong({"epochs": 4}, "/epochs", "unknown-member", "'budget'", name="epochs-in-the-wrong-place"),
    wrong({"batch_size": 0}, "/batch_size", "out-of-range", "at least 1", name="empty-batches"),
    wrong(
        {"split": {"type": "random", "validation": 0.6, "test": 0.5}},
        *("/split/validation", "out-of-range", "below 1"),
        name="more-than-all-rows",
    ),
    wrong({"metrics": ["acuracy"]}, "/metrics/0", "invalid", "'accuracy'", name="metric"),
    wrong({"amp": "fp16"}, "/amp", "invalid", "'bf16'", name="half-precision"),
    wrong({"clip_grad_norm": -1}, "/clip_grad_norm", "out-of-range", "more than 0", name="negative-norm"),
    wrong({"device": "gpu"}, "/device", "invalid", "cuda", name="device"),
    wrong(
        {"deterministic": True, "budget": {"max_seconds": 5}},
        *("/budget/max_seconds", "conflict", "steps"),
        name="seconds-that-are-the-same-every-time",
    ),
    wrong({"init": {"freeze": ["*"]}}, "/init/freeze", "nothing-to-train", "fewer", name="everything-frozen"),
    wrong(
        {"output": {"model": "m", "alias_on_success": {"champion": "val_accuracy > "}}},
        *("/output/alias_on_success/champion", "invalid", "champion.val_accuracy"),
        name="half-a-condition",
    ),
]

DISAGREEING = [
    wrong({"architecture": net(linear(2, 1))}, "/architecture/root", "label-out-of-range", "2 outputs", name="narrow"),
    wrong({"architecture": net(linear(2, 7))}, "/architecture/root", "shape-mismatch", "2 outputs", name="wide"),
    wrong(
        {"architecture": net(linear(3, 2), row=(3,))},
        *("/architecture/inputs/0/shape", "shape-mismatch", "in_features 2"),
        name="rows-of-another-width",
    ),
    wrong(
        {"architecture": net({"type": "Flatten"}, linear(64, 10), row=(1, 8, 8)), "dataset": STRIPES, "split": None},
        *("/architecture/inputs/0/shape", "shape-mismatch", "['B', 3, 8, 8]"),
        name="colours-for-grey",
    ),
    wrong(
        {"dataset": inline([[0.1], [0.2]], ["a", "b"])},
        "/objective",
        "invalid",
        "cross_entropy",
        name="names-for-mse",
        of=TRAIN,
    ),
    wrong({"objective": {"type": "mse"}}, "/objective", "invalid", "cross_entropy", name="classes-for-mse"),
    wrong(
        {"dataset": inline(ROWS, [0, 1, -1] * 4), "split": None},
        *("/dataset", "label-out-of-range", "from 0"),
        name="class-below-zero",
    ),
    wrong(
        {"dataset": inline(ROWS, [0, 1, 5] * 4), "split": None},
        *("/architecture/root", "label-out-of-range", "6 outputs"),
        name="class-beyond-the-outputs",
    ),
    wrong(
        {"dataset": inline(ROWS, [0, 1, 1.5] * 4), "split": None},
        *("/dataset", "wrong-type", "mse"),
        name="class-and-a-half",
    ),
    wrong(
        {"dataset": inline([[1, "a"], [2, "b"]] * 5, [0, 1] * 5), "split": None},
        *("/preprocessing", "text-column", "one_hot"),
        name="texts-for-a-net",
    ),
    wrong(
        {"architecture": WORDS_NET, "dataset": inline([[0.5, 1.5]] * 12, [0, 1] * 6)},
        *("/architecture/inputs/0/dtype", "dtype-mismatch", "float32"),
        name="fractions-for-an-embedding",
    ),
    wrong(
        {"objective": {"type": "cross_entropy", "weight": [1, 2, 3]}},
        *("/objective/weight", "shape-mismatch", "2"),
        name="a-weight-too-many",
    ),
    wrong({"device": "cuda"}, "/device", "no-device", "cpu", name="no-such-device"),
    wrong(
        {"early_stopping": {"metric": "val_r2"}},
        *("/early_stopping/metric", "invalid", "val_accuracy"),
        name="stopping-by-a-metric-of-numbers",
    ),
    wrong({"metrics": ["accuracy"]}, "/metrics/0", "invalid", "mae", name="accuracy-of-numbers", of=TRAIN),
    wrong({"init": {"freeze": ["features.*"]}}, "/init/freeze/0", "unknown-path", "It has", name="freezing-nothing"),
    wrong(
        {"optimizer": {"type": "SGD", "lr": 0.1, "groups": [{"match": "features", "lr_scale": 0.1}]}},
        *("/optimizer/groups/0/match", "unknown-path", "It has"),
        name="a-group-of-nothing",
    ),
    wrong(
        {"output": {"model": "m", "alias_on_success": {"champion": "val_acuracy >= 0.9"}}},
        *("/output/alias_on_success/champion", "unknown-metric", "'val_accuracy'"),
        name="condition-on-what-is-not-measured",
    ),
    wrong({"preprocessing": [{"type": "one_hot"}]}, "/preprocessing/0/type", "wrong-type", "Leave", name="no-texts"),
    wrong(
        {"preprocessing": [{"type": "normalize"}]},
        "/preprocessing/0/type",
        "shape-mismatch",
        "channels",
        name="no-images",
    ),
    wrong(
        {"preprocessing": [{"type": "standardize", "of": "target"}]},
        *("/preprocessing/0/of", "invalid", "scale the inputs"),
        name="scaled-classes",
    ),
    wrong({"split": {"type": "stratified"}}, "/split", "no-classes", '"random"', name="strata-of-numbers", of=TRAIN),
    wrong(
        {"split": {"type": "column", "by": "fold", "validation": ["1"]}},
        *("/split/by", "unknown-column", '"kept"'),
        name="no-such-column",
    ),
    wrong(
        {"split": {"type": "fixed", "validation": [[0, 1000]]}},
        *("/split/validation/0", "out-of-range", "200"),
        name="rows-that-are-not-there",
    ),
    wrong(
        {"split": {"type": "random", "validation": 0.001}}, "/split", "empty-split", "fractions", name="no-row-held-out"
    ),
    wrong(
        {"batch_size": 1000, "drop_last": True},
        *("/batch_size", "invalid", "smaller batch_size"),
        name="every-batch-dropped",
    ),
]

UNWISE = [
    wrong(
        {"architecture": net(linear(2, 2), {"type": "Softmax", "dim": 1})},
        *("/architecture/root", "softmax-twice", "Leave the softmax out"),
        name="softmax-twice",
    ),
    wrong(
        {"objective": {"type": "nll"}},
        "/architecture/root",
        "logsoftmax-missing",
        "cross_entropy",
        name="nll-of-logits",
    ),
    wrong(
        {"optimizer": {"type": "SGD", "lr": 1e5}, "batch_size": 16},
        *("/optimizer/lr", "learning-rate-high", "goes down"),
        name="rate-far-too-high",
    ),
    wrong(
        {"dataset": inline([[1.0, 2.0], [3.0, 4.0]] * 20, [0, 1] * 20), "split": {"type": "random"}},
        *("/split", "leakage", "Remove the doubles"),
        name="the-same-rows-on-both-sides",
    ),
    wrong(
        {
            "architecture": WORDS_NET,
            "dataset": inline([[row, row + 1] for row in range(12)], [0, 1] * 6),
            "split": None,
        },
        *("/dataset", "data_error", "num_embeddings"),
        name="a-word-beyond-the-embedding",
    ),
    wrong({"architecture": net(RELU)}, "/architecture", "data_error", "import", name="nothing-to-train"),
]


def remedy(entry: dict[str, Any]) -> str:
    return f"{entry.get('hint') or ''} {entry.get('expected') or ''}"


@pytest.mark.parametrize(("body", "pointer", "code", "words"), MALFORMED)
def test_a_malformed_training_is_refused_with_its_remedy(
    client: httpx.Client, body: dict[str, Any], pointer: str, code: str, words: str
) -> None:
    for question in ("", "?dry_run=true"):
        problem = assert_problem(client.post(f"/v1/jobs{question}", json=body), 422, "validation-failed")
        [entry] = [entry for entry in problem["errors"] if entry["pointer"] == pointer]

        assert entry["code"] == code
        assert words in remedy(entry)


@pytest.mark.parametrize(("body", "pointer", "code", "words"), DISAGREEING)
def test_a_training_whose_parts_disagree_is_found_by_the_doctor_and_refused(
    client: httpx.Client, body: dict[str, Any], pointer: str, code: str, words: str
) -> None:
    told = client.post("/v1/jobs?dry_run=true", json=body)
    refused = client.post("/v1/jobs", json=body)
    assert (told.status_code, told.json()["valid"], told.json()["estimate_s"]) == (200, False, None), told.text
    assert refused.status_code == 422
    for entries in (told.json()["warnings"], assert_problem(refused, 422, refused.json()["code"])["errors"]):
        [entry] = [entry for entry in entries if entry["pointer"] == pointer]

        assert entry["code"] == code
        assert words in remedy(entry)


@pytest.mark.parametrize(("body", "pointer", "code", "words"), UNWISE)
def test_an_unwise_training_is_warned_of_before_it_is_queued(
    client: httpx.Client, body: dict[str, Any], pointer: str, code: str, words: str
) -> None:
    told = client.post("/v1/jobs?dry_run=true", json=body)
    assert told.status_code == 200, told.text
    [entry] = [entry for entry in told.json()["warnings"] if (entry["pointer"], entry["code"]) == (pointer, code)]

    assert words in remedy(entry)


def test_these_are_more_than_forty_and_none_was_our_fault(client: httpx.Client) -> None:
    assert len(MALFORMED) + len(DISAGREEING) >= 40
    assert len(DISAGREEING) + len(UNWISE) >= 20
    assert "modelyard_internal_errors_total 0.0" in client.get("/metrics").text
