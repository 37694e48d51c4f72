"""Metrics of a module on rows."""

from __future__ import annotations

import logging

import pytest
import torch
from pydantic import TypeAdapter
from sklearn.metrics import r2_score
from torch import nn

from service.engine.evaluate import default_metrics, evaluate
from service.engine.objectives import loss_function
from service.schemas.objectives import Objective

OBJECTIVE = TypeAdapter(Objective)


def objective(kind, **members):
    return OBJECTIVE.validate_python({"type": kind, **members})


def column(*values):
    return torch.tensor(values, dtype=torch.float32)[:, None]


@pytest.mark.parametrize(
    ("kind", "reduction", "expected"),
    [("l1", "mean", 0.6667), ("l1", "sum", 2.0), ("mse", "mean", 1.3333), ("smooth_l1", "sum", 1.5)],
)
def test_losses_are_the_tutorials_numbers(kind, reduction, expected):
    found = evaluate(nn.Identity(), (column(1, 2, 3),), column(1, 2, 5), objective(kind, reduction=reduction), ["loss"])

    assert found == {"loss": pytest.approx(expected, abs=5e-5)}


def test_cross_entropy_is_the_tutorials_number():
    logits, target = torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([1])

    found = evaluate(nn.Identity(), (logits,), target, objective("cross_entropy"), prefix="val_")

    assert found == {"val_loss": pytest.approx(1.1019, abs=5e-5), "val_accuracy": 0.0}


@pytest.mark.parametrize("kind", ["mse", "l1", "smooth_l1", "bce_with_logits"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_size_of_the_batches_changes_nothing(kind, reduction):
    torch.manual_seed(0)
    inputs, targets = torch.randn(101, 3), torch.rand(101, 3).round()
    wanted = objective(kind, reduction=reduction)

    by_seven, at_once = (evaluate(nn.Identity(), (inputs,), targets, wanted, batch_size=size) for size in (7, 101))

    assert by_seven == pytest.approx(at_once, rel=1e-6)
    assert at_once["loss"] == pytest.approx(loss_function(wanted)(inputs, targets).item(), rel=1e-6)


def test_r2_is_that_of_scikit_learn():
    torch.manual_seed(0)
    outputs, targets = torch.randn(50, 1), torch.randn(50, 1)

    found = evaluate(nn.Identity(), (outputs,), targets, objective("mse"), batch_size=16)

    assert found["r2"] == pytest.approx(r2_score(targets, outputs), rel=1e-6)
    assert found["mae"] == pytest.approx((outputs - targets).abs().mean().item(), rel=1e-6)


def test_mae_is_in_the_targets_own_units_while_the_loss_is_not():
    found = evaluate(
        nn.Identity(), (column(0, 1),), column(1, 1), objective("mse"), ["loss", "mae"], unscale=lambda t: t * 1000 + 5
    )

    assert found == {"loss": 0.5, "mae": 500}


def test_accuracy_is_the_largest_logit_or_the_sign():
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]])

    assert evaluate(nn.Identity(), (logits,), torch.tensor([1, 0, 0]), objective("cross_entropy"))["accuracy"] == 2 / 3
    found = evaluate(nn.Identity(), (column(-1, 2, 3),), column(0, 1, 0), objective("bce_with_logits"))
    assert found["accuracy"] == 2 / 3


def test_r2_of_equal_targets_and_infinite_losses_are_left_out_and_logged(caplog):
    with caplog.at_level(logging.WARNING):
        found = evaluate(nn.Identity(), (column(1, float("inf")),), column(1, 1), objective("mse"))

    assert found == {}
    assert {record.metric for record in caplog.records} == {"loss", "mae", "r2"}


def test_modes_and_random_numbers_are_as_before():
    net = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1)).train()
    net[1].eval()  # a frozen layer
    before, state = torch.get_rng_state(), {name: value.clone() for name, value in net.state_dict().items()}

    first, second = (evaluate(net, (column(1, 2, 3),), column(1, 2, 3), objective("mse")) for _ in range(2))

    assert first == second
    assert [child.training for child in net] == [True, False, True, True]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_default_metrics_suit_the_objective():
    assert (
        default_metrics(objective("cross_entropy"))
        == default_metrics(objective("bce_with_logits"))
        == ("loss", "accuracy")
    )
    assert default_metrics(objective("l1")) == ("loss", "mae", "r2")
