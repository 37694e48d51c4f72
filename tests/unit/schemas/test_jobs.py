"""Job requests: each mistake is told at its member, once, with what would be right, and together with all others."""

from __future__ import annotations

import time
from copy import deepcopy
from typing import Any

import pytest

from service.errors import Entry, InvalidInput
from service.schemas import examples
from service.schemas.jobs import parse_job


def refused(body: object) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        parse_job(body)
    return caught.value


def mistakes(**members: Any) -> list[Entry]:
    return list(refused({**examples.TRAIN, **members}).errors)


@pytest.mark.parametrize(
    ("members", "pointers"),
    [
        pytest.param({"early_stopping": {"metric": "val_loss"}}, ["/early_stopping/metric"], id="nothing-to-watch"),
        pytest.param({"drop_last": True}, ["/drop_last"], id="nothing-to-drop"),
        pytest.param(
            {"early_stopping": {"metric": "val_mae"}, "drop_last": True},
            ["/drop_last", "/early_stopping/metric"],
            id="two-rules",
        ),
        pytest.param(
            {"optimizer": {"type": "SGD", "lr": 1, "nesterov": True}}, ["/optimizer/momentum"], id="nesterov-alone"
        ),
        pytest.param(
            {"optimizer": {"type": "SGD", "lr": 1, "nesterov": True, "momentum": 0.9, "dampening": 0.1}},
            ["/optimizer/dampening"],
            id="nesterov-dampened",
        ),
        pytest.param({"budget": {}}, ["/budget"], id="no-end"),
        pytest.param(
            {"split": {"type": "random", "validation": 0.2, "test": 0.8}}, ["/split/test"], id="nothing-to-train-on"
        ),
        pytest.param(
            {"dataset": {"type": "gaussian_clouds", "centers": [[0, 0], [1], [2]]}},
            ["/dataset/centers/1", "/dataset/centers/2"],
            id="centers-of-other-widths",
        ),
    ],
)
def test_members_that_disagree_are_told_at_the_member_to_change(members: dict[str, Any], pointers: list[str]) -> None:
    found = mistakes(**members)

    assert [entry.pointer for entry in found] == pointers
    assert all(entry.hint or entry.expected for entry in found)


@pytest.mark.parametrize(
    ("members", "pointer", "hint"),
    [
        pytest.param(
            {"early_stopping": {"patiance": 3}}, "/early_stopping/patiance", "Did you mean 'patience'?", id="misspelt"
        ),
        pytest.param({"epochs": 3}, "/epochs", "Write it in 'budget'.", id="in-the-wrong-place"),
        pytest.param({"lr": 3}, "/lr", "Write it in 'optimizer'.", id="in-no-union"),
        pytest.param({"zzz": 3}, "/zzz", "Remove it, or correct its name.", id="like-none"),
        pytest.param(
            {"preprocessing": [{"type": "one_hot", "column": ["a"]}]},
            "/preprocessing/0/column",
            "Did you mean 'columns'?",
            id="in-a-list-of-unions",
        ),
        pytest.param(
            {"dataset": {**examples.PARABOLA, "row": 3}}, "/dataset/row", "Did you mean 'rows'?", id="in-a-source"
        ),
        pytest.param({"optimizer": {"type": "adam"}}, "/optimizer/type", "Did you mean 'Adam'?", id="type"),
    ],
)
def test_the_member_that_was_meant_is_named(members: dict[str, Any], pointer: str, hint: str) -> None:
    (entry,) = mistakes(**members)

    assert (entry.pointer, entry.hint) == (pointer, hint)


def test_a_wrong_type_is_told_which_there_are() -> None:
    (entry,) = mistakes(optimizer={"type": "lion"})

    assert (entry.pointer, entry.code) == ("/optimizer/type", "unknown-type")
    assert str(entry.expected).startswith("one of 'SGD', 'Adam', 'AdamW', ")


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        pytest.param("fruit", [("/dataset", "invalid")], id="no-id"),
        pytest.param(5, [("/dataset", "wrong-type")], id="neither-id-nor-source"),
        pytest.param({"type": "sql"}, [("/dataset/type", "unknown-type")], id="no-source"),
        pytest.param({"type": "polynomial"}, [("/dataset/coefficients", "missing")], id="half-a-source"),
    ],
)
def test_a_value_of_two_forms_is_judged_as_the_one_that_was_meant(
    dataset: object, expected: list[tuple[str, str]]
) -> None:
    assert [(entry.pointer, entry.code) for entry in mistakes(dataset=dataset)] == expected


def test_a_word_for_a_dataset_is_told_both_forms() -> None:
    (entry,) = mistakes(dataset="fruit")

    assert entry.expected == "the id of a dataset (ds_ and 32 hexadecimal digits) or an object"
    assert entry.hint is not None
    assert "source" in entry.hint


@pytest.mark.parametrize(
    ("output", "pointer", "hint"),
    [
        pytest.param({"model": "My Fruit"}, "/output/model", "Did you mean 'my-fruit'?", id="capitals-and-spaces"),
        pytest.param({"model": "stats"}, "/output/model", None, id="reserved"),
        pytest.param({"model": "a", "alias_on_success": "12"}, "/output/alias_on_success", None, id="digits"),
    ],
)
def test_a_bad_name_is_told_in_words(output: dict[str, str], pointer: str, hint: str | None) -> None:
    error = refused({**examples.TRAIN, "output": output})

    assert error.code == "invalid-name"
    assert [(entry.pointer, entry.code, entry.hint) for entry in error.errors] == [(pointer, "invalid-name", hint)]
    assert "^" not in str(error.errors[0].to_dict())


def test_a_bad_name_does_not_hide_other_mistakes() -> None:
    error = refused({**examples.TRAIN, "output": {"model": "stats"}, "seed": "one"})

    assert error.code == "validation-failed"
    assert [entry.pointer for entry in error.errors] == ["/seed", "/output/model"]


def test_a_bad_reference_is_told_its_forms() -> None:
    (entry,) = refused({**examples.EVALUATE, "model": "quadratic/0"}).errors

    assert (entry.pointer, entry.code, entry.expected) == ("/model", "invalid-name", "name, name@alias or name/3")


def test_mistakes_of_the_job_and_sizes_that_disagree_come_together() -> None:
    architecture = deepcopy(examples.TRAIN["architecture"])
    architecture["root"]["layers"][1]["in_features"] = 9

    found = mistakes(architecture=architecture, seed="one")

    assert [entry.pointer for entry in found] == ["/seed", "/architecture/root/layers/1/in_features"]


def test_of_very_many_mistakes_the_first_are_told_and_the_others_counted() -> None:
    started = time.process_time()
    error = refused({"kind": "train", **{f"k{i}": i for i in range(100_000)}})

    assert len(error.errors) == 100
    assert error.more == 100_000 + 6 - 100  # six members are missing
    assert time.process_time() - started < 10
