"""Every scheduler: torch's settings, torch's rates, JSON and back, the same bits resumed; budgets that fill lengths."""

from __future__ import annotations

import inspect
import itertools
from typing import Any, get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn
from torch.optim import lr_scheduler

from service.engine import checkpoint
from service.engine.train import Finished, Report, StopFlag, Trainer
from service.schemas.schedulers import LEFT_OUT, SETTINGS_LEFT_OUT, AnyScheduler, Scheduler, needs_total
from service.schemas.training import TrainingConfig

SCHEDULER: TypeAdapter[Any] = TypeAdapter(Scheduler)
KINDS = {get_args(kind.model_fields["type"].annotation)[0]: kind for kind in get_args(AnyScheduler)}
EXAMPLES: dict[str, dict[str, Any]] = {
    "StepLR": {"step_size": 2},
    "MultiStepLR": {"milestones": [1, 3]},
    "ConstantLR": {},
    "LinearLR": {"total_iters": "budget"},
    "ExponentialLR": {"gamma": 0.9},
    "PolynomialLR": {"total_iters": "budget"},
    "CosineAnnealingLR": {},
    "CosineAnnealingWarmRestarts": {"T_0": 2},
    "CyclicLR": {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 3},
    "OneCycleLR": {"max_lr": 0.2},
    "ReduceLROnPlateau": {"metric": "loss", "patience": 0, "threshold": 0.5},
    "SequentialLR": {
        "schedulers": [{"type": "LinearLR", "total_iters": 2}, {"type": "CosineAnnealingLR"}],
        "milestones": [2],
    },
    "ChainedScheduler": {"schedulers": [{"type": "ConstantLR"}, {"type": "ExponentialLR", "gamma": 0.8}]},
}
EPOCHS, BATCHES = 5, 3


def net():
    torch.manual_seed(3)
    return nn.Linear(4, 2)


def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(20, 4, generator=generator), torch.randn(20, 2, generator=generator)


def config(scheduler, **members):
    document = {
        "objective": {"type": "mse"},
        "optimizer": {"type": "SGD", "lr": 0.1},
        "scheduler": scheduler,
        "budget": {"epochs": EPOCHS},
        "batch_size": 8,
    }
    return TrainingConfig.model_validate({**document, **members})


class Ticking:
    """Every look at the clock takes a second, so that every step is reported."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1
        return self.now


def rates(document, **members):
    """The rate after each step."""
    x, y = data()
    trainer = Trainer(net(), document, (x,), y, clock=Ticking(), **members)
    return [event.lr for event in trainer.run() if isinstance(event, Report) and event.losses]


def by_torch(make, *, every_step):
    optimizer = torch.optim.SGD(net().parameters(), lr=0.1)
    scheduler, found = make(optimizer), []
    for _ in range(EPOCHS):
        for _ in range(BATCHES):
            optimizer.step()
            if every_step:
                scheduler.step()
            found.append(optimizer.param_groups[0]["lr"])
        if not every_step:
            scheduler.step()
            found[-1] = optimizer.param_groups[0]["lr"]
    return found


def test_every_scheduler_of_torch_is_a_document_or_has_a_reason_not_to_be():
    assert set(KINDS) | set(LEFT_OUT) == set(lr_scheduler.__all__)
    assert not set(KINDS) & set(LEFT_OUT)
    assert EXAMPLES.keys() == KINDS.keys()


@pytest.mark.parametrize("tag", KINDS)
def test_settings_and_defaults_are_those_of_torch(tag):
    theirs = {
        name: parameter.default
        for name, parameter in inspect.signature(getattr(lr_scheduler, tag)).parameters.items()
        if name not in SETTINGS_LEFT_OUT and f"{name} of {tag}" not in SETTINGS_LEFT_OUT
    }
    ours = {
        name: field.get_default() for name, field in KINDS[tag].model_fields.items() if name not in ("type", "interval")
    }
    ours.pop("metric", None)

    assert ours.keys() == theirs.keys()
    for name, default in theirs.items():
        if default is not inspect.Parameter.empty and ours[name] != "budget":
            assert ours[name] == default, name


@pytest.mark.parametrize(
    ("scheduler", "make", "every_step"),
    [
        ({"type": "StepLR", "step_size": 2, "gamma": 0.5}, lambda o: lr_scheduler.StepLR(o, 2, 0.5), False),
        (
            {"type": "StepLR", "step_size": 2, "gamma": 0.5, "interval": "step"},
            lambda o: lr_scheduler.StepLR(o, 2, 0.5),
            True,
        ),
        ({"type": "MultiStepLR", "milestones": [1, 3]}, lambda o: lr_scheduler.MultiStepLR(o, [1, 3]), False),
        ({"type": "ConstantLR", "total_iters": 2}, lambda o: lr_scheduler.ConstantLR(o, total_iters=2), False),
        (
            {"type": "LinearLR", "total_iters": "budget", "interval": "step"},
            lambda o: lr_scheduler.LinearLR(o, total_iters=EPOCHS * BATCHES),
            True,
        ),
        ({"type": "ExponentialLR", "gamma": 0.9}, lambda o: lr_scheduler.ExponentialLR(o, 0.9), False),
        ({"type": "PolynomialLR", "total_iters": "budget"}, lambda o: lr_scheduler.PolynomialLR(o, EPOCHS), False),
        ({"type": "CosineAnnealingLR"}, lambda o: lr_scheduler.CosineAnnealingLR(o, EPOCHS), False),
        (
            {"type": "CosineAnnealingWarmRestarts", "T_0": 2},
            lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
            False,
        ),
        (
            {"type": "CyclicLR", "base_lr": 0.01, "max_lr": 0.1, "step_size_up": 4},
            lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 4),
            True,
        ),
        (
            {"type": "OneCycleLR", "max_lr": 0.2},
            lambda o: lr_scheduler.OneCycleLR(o, 0.2, total_steps=EPOCHS * BATCHES),
            True,
        ),
        (
            {
                "type": "SequentialLR",
                "schedulers": [
                    {"type": "LinearLR", "interval": "step", "total_iters": "budget"},
                    {"type": "CosineAnnealingLR", "interval": "step"},
                ],
                "milestones": [4],
            },
            lambda o: lr_scheduler.SequentialLR(
                o, [lr_scheduler.LinearLR(o, total_iters=4), lr_scheduler.CosineAnnealingLR(o, 11)], [4]
            ),
            True,
        ),
        (
            {"type": "ChainedScheduler", "schedulers": EXAMPLES["ChainedScheduler"]["schedulers"]},
            lambda o: lr_scheduler.ChainedScheduler([lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.8)]),
            False,
        ),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else None,
)
def test_rates_are_those_of_torch(scheduler, make, every_step):
    assert rates(config(scheduler)) == by_torch(make, every_step=every_step)


@pytest.mark.parametrize("report_every_s", [0.0, 1e9])
def test_the_rate_of_every_step_is_told_with_its_loss(report_every_s):
    x, y = data()
    document = config({"type": "StepLR", "step_size": 2, "gamma": 0.5, "interval": "step"})
    trainer = Trainer(net(), document, (x,), y, clock=Ticking(), report_every_s=report_every_s)
    reports = [event for event in trainer.run() if isinstance(event, Report)]

    told = [rate for event in reports for rate in event.rates]
    assert told == [0.1 * 0.5 ** (step // 2) for step in range(EPOCHS * BATCHES)]
    assert all(len(event.rates) == len(event.losses) for event in reports)


def test_without_a_scheduler_every_step_has_the_optimizers_rate():
    x, y = data()
    reports = [event for event in Trainer(net(), config(None), (x,), y).run() if isinstance(event, Report)]

    assert {rate for event in reports for rate in event.rates} == {0.1}


def test_a_plateau_lowers_the_rate():
    found = rates(config({"type": "ReduceLROnPlateau", **EXAMPLES["ReduceLROnPlateau"]}))

    assert found[0] == 0.1
    assert found[-1] < 0.1


@pytest.mark.parametrize("tag", KINDS)
def test_each_goes_through_json_and_resumes_with_the_same_bits(tag, tmp_path):
    document = config({"type": tag, **EXAMPLES[tag]}, optimizer={"type": "AdamW"})
    assert TrainingConfig.model_validate_json(document.model_dump_json()) == document
    x, y = data()
    whole = net()
    list(Trainer(whole, document, (x,), y).run())

    for at in (2, 7, 9):
        stop, first = StopFlag(), net()
        interrupted = Trainer(first, document, (x,), y, stop=stop)
        first.register_forward_hook(
            lambda *_, trainer=interrupted, flag=stop, at=at: flag.set() if trainer.step == at - 1 else None
        )
        list(interrupted.run())
        assert interrupted.step == at
        checkpoint.save(tmp_path / "state.pt", interrupted.state())
        second = net()
        resumed = Trainer(second, document, (x,), y)
        resumed.restore(checkpoint.load(tmp_path / "state.pt"))
        list(resumed.run())

        assert all(torch.equal(a, b) for a, b in zip(second.parameters(), whole.parameters(), strict=True)), at


def test_groups_keep_the_ratio_of_their_rates():
    groups = [{"match": "bias", "lr_scale": 0.1}]
    x, y = data()
    document = config(
        {"type": "OneCycleLR", "max_lr": 0.2}, optimizer={"type": "SGD", "lr": 0.1, "momentum": 0.9, "groups": groups}
    )
    trainer = Trainer(net(), document, (x,), y)

    for _ in trainer.run():
        large, small = (group["lr"] for group in trainer._step.optimizer.param_groups)
        assert small == pytest.approx(0.1 * large)


def test_a_cycle_that_is_shorter_than_the_budget_stays_at_its_end():
    found = rates(config({"type": "OneCycleLR", "max_lr": 0.2, "total_steps": 6}))

    assert len(found) == EPOCHS * BATCHES
    assert len(set(found[6:])) == 1


def test_accumulation_moves_the_rate_by_updates():
    found = rates(config({"type": "OneCycleLR", "max_lr": 0.2}, accumulate=2))  # 2 updates an epoch of 3 batches

    changes = [place for place, (a, b) in enumerate(itertools.pairwise(found), start=1) if a != b]
    expected = torch.optim.SGD(net().parameters(), lr=0.1)
    scheduler = lr_scheduler.OneCycleLR(expected, 0.2, total_steps=2 * EPOCHS)
    for _ in range(2 * EPOCHS):
        expected.step()
        scheduler.step()
    assert changes == [place for epoch in range(EPOCHS) for place in (3 * epoch + 1, 3 * epoch + 2)][: len(changes)]
    assert found[-1] == expected.param_groups[0]["lr"]


# -- budgets of seconds ------------------------------------------------------------------------------------------------


def test_a_budget_of_seconds_is_planned_from_measured_steps_and_told(tmp_path):
    document = config({"type": "OneCycleLR", "max_lr": 0.05}, budget={"max_seconds": 0.6})
    x, y = data()
    ours = net()
    trainer = Trainer(ours, document, (x,), y)
    events = list(trainer.run())

    last = events[-1]
    assert isinstance(last, Finished)
    planned = trainer.planned_steps
    assert planned is not None
    assert planned > 20
    assert last.step <= planned
    assert last.elapsed_s < 0.9
    assert {event.planned_steps for event in events if isinstance(event, Report)} == {planned}
    if last.step == planned:  # the box was large enough: the same steps as a budget of steps, bit for bit
        again = net()
        list(Trainer(again, config(document.scheduler, budget={"steps": planned}), (x,), y).run())
        assert torch.equal(again.weight, ours.weight)


def test_a_resumed_plan_is_the_same_plan(tmp_path):
    document = config({"type": "OneCycleLR", "max_lr": 0.05}, budget={"max_seconds": 1000})
    x, y = data()
    stop = StopFlag()
    first = Trainer(net(), document, (x,), y, stop=stop)
    run = first.run()
    next(run)
    stop.set()
    list(run)
    checkpoint.save(tmp_path / "state.pt", first.state())

    second = Trainer(net(), document, (x,), y, stop=stop)
    second.restore(checkpoint.load(tmp_path / "state.pt"))
    list(second.run())

    assert second.planned_steps == first.planned_steps is not None


# -- what cannot be ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"scheduler": {"type": "ReduceLROnPlateau"}}, "/scheduler/metric"),
        (
            {"scheduler": {"type": "OneCycleLR", "max_lr": 1}, "optimizer": {"type": "Adagrad"}},
            "/scheduler/cycle_momentum",
        ),
        ({"scheduler": {"type": "CosineAnnealingLR"}, "budget": {"max_seconds": 5}}, "/scheduler/interval"),
        ({"budget": {"max_seconds": 5}, "deterministic": True}, "/budget/max_seconds"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_members_that_do_not_agree_are_told(members, pointer):
    document = {"objective": {"type": "mse"}, "optimizer": {"type": "Adam"}, "budget": {"epochs": 1}}

    with pytest.raises(ValidationError) as refused:
        TrainingConfig.model_validate({**document, **members})

    assert [entry.pointer for entry in refused.value.errors()[0]["ctx"]["entries"]] == [pointer]


@pytest.mark.parametrize(
    "scheduler",
    [
        {"type": "MultiStepLR", "milestones": [3, 3]},
        {"type": "SequentialLR", "schedulers": EXAMPLES["SequentialLR"]["schedulers"], "milestones": [2, 3]},
        {
            "type": "ChainedScheduler",
            "schedulers": [{"type": "ConstantLR"}, {"type": "ExponentialLR", "gamma": 0.8, "interval": "step"}],
        },
    ],
    ids=lambda value: value["type"],
)
def test_parts_that_do_not_agree_are_told(scheduler):
    with pytest.raises(ValidationError):
        SCHEDULER.validate_python(scheduler)


def test_what_needs_the_length_of_the_job_is_known():
    found = {tag for tag in KINDS if needs_total(SCHEDULER.validate_python({"type": tag, **EXAMPLES[tag]}))}

    assert found == {"LinearLR", "PolynomialLR", "CosineAnnealingLR", "OneCycleLR", "SequentialLR"}
