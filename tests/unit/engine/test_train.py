"""The trainer: the same bits as a loop written by hand, events, stopping, and resuming as if nothing had happened."""

from __future__ import annotations

import copy
import itertools
from itertools import accumulate
from typing import Any

import pytest
import torch
from sklearn.datasets import load_diabetes, load_iris
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from service.engine import checkpoint
from service.engine.train import CheckpointDue, EpochEnd, Finished, Report, StopFlag, Trainer
from service.errors import JobFailed
from service.schemas.training import TrainingConfig


class Clock:
    """Seconds that pass only by being asked for."""

    def __init__(self, tick=0.0):
        self.now, self.tick = 0.0, tick

    def __call__(self):
        self.now += self.tick
        return self.now


def config(objective="mse", optimizer=None, **members):
    return TrainingConfig.model_validate(
        {
            "objective": objective if isinstance(objective, dict) else {"type": objective},
            "optimizer": optimizer or {"type": "SGD", "lr": 0.2},
            "budget": {"epochs": 1},
            **members,
        }
    )


def parabola(rows=100):
    generator = torch.Generator().manual_seed(1)
    x = torch.linspace(-1, 1, rows)[:, None]
    return x, x.pow(2) + 0.2 * torch.rand(x.size(), generator=generator)


def small_net(seed=1):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(1, 10), nn.ReLU(), nn.Linear(10, 1))


def losses_of(events):
    return [loss for event in events if isinstance(event, Report) for loss in event.losses]


def finished(events):
    *_, last = events
    assert isinstance(last, Finished)
    return last


def same_bits(one: nn.Module, other: nn.Module):
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# -- the same bits as by hand ------------------------------------------------------------------------------------------


def test_full_batches_are_the_regression_tutorial():
    x, y = parabola()
    by_hand, expected = small_net(), []
    optimizer, loss_func = torch.optim.SGD(by_hand.parameters(), lr=0.2), nn.MSELoss()
    for _ in range(200):
        prediction = by_hand(x)
        loss = loss_func(prediction, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())

    ours = small_net()
    events = list(Trainer(ours, config(budget={"epochs": 200}), (x,), y).run())

    assert losses_of(events) == expected
    assert same_bits(ours, by_hand)
    assert expected[-1] < 0.01


def test_full_batches_are_the_classification_tutorial():
    ones = torch.ones(100, 2)
    torch.manual_seed(2)
    x = torch.cat([torch.normal(2 * ones, 1), torch.normal(-2 * ones, 1)])
    y = torch.cat([torch.zeros(100), torch.ones(100)]).long()

    def net():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(2, 10), nn.ReLU(), nn.Linear(10, 2))

    by_hand = net()
    optimizer, loss_func = torch.optim.SGD(by_hand.parameters(), lr=0.02), nn.CrossEntropyLoss()
    for _ in range(100):
        loss = loss_func(by_hand(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    ours = net()
    document = config("cross_entropy", {"type": "SGD", "lr": 0.02}, budget={"steps": 100})
    list(Trainer(ours, document, (x,), y).run())

    assert same_bits(ours, by_hand)
    assert (ours(x).argmax(1) == y).float().mean() > 0.98


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(
    ("optimizer", "by_torch"),
    [
        pytest.param(
            {"type": "SGD", "lr": 0.1, "momentum": 0.9, "nesterov": True},
            lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
            id="SGD",
        ),
        pytest.param(
            {"type": "Adam", "lr": 0.1, "weight_decay": 0.01},
            lambda parameters: torch.optim.Adam(parameters, lr=0.1, weight_decay=0.01),
            id="Adam",
        ),
        pytest.param(
            {"type": "AdamW", "lr": 0.1, "amsgrad": True},
            lambda parameters: torch.optim.AdamW(parameters, lr=0.1, amsgrad=True),
            id="AdamW",
        ),
    ],
)
def test_mini_batches_are_those_of_a_data_loader(optimizer, by_torch, shuffle, drop_last):
    x, y = parabola()

    def net():  # dropout draws from the generator that shuffles
        torch.manual_seed(5)
        return nn.Sequential(nn.Linear(1, 10), nn.ReLU(), nn.Dropout(0.2), nn.Linear(10, 1))

    by_hand, expected = net(), []
    steps, loss_func = by_torch(by_hand.parameters()), nn.MSELoss()
    loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=shuffle, drop_last=drop_last)
    for _ in range(5):
        for batch_x, batch_y in loader:
            loss = loss_func(by_hand(batch_x), batch_y)
            steps.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(by_hand.parameters(), 0.5)
            steps.step()
            expected.append(loss.item())

    ours = net()
    document = config(
        optimizer=optimizer,
        budget={"epochs": 5},
        batch_size=32,
        shuffle=shuffle,
        drop_last=drop_last,
        clip_grad_norm=0.5,
    )
    trainer = Trainer(ours, document, (x,), y)
    events = list(trainer.run())

    assert trainer.steps_per_epoch == (3 if drop_last else 4)
    assert losses_of(events) == expected
    assert same_bits(ours, by_hand)


@pytest.mark.parametrize("kind", ["l1", "smooth_l1", "bce_with_logits"])
def test_other_objectives_are_torchs_functions(kind):
    x, y = parabola()
    y = y.clamp(0, 1)
    by_hand, ours = small_net(), small_net()
    functions: dict[str, Any] = {
        "l1": functional.l1_loss,
        "smooth_l1": functional.smooth_l1_loss,
        "bce_with_logits": functional.binary_cross_entropy_with_logits,
    }
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.001)
    for _ in range(10):
        optimizer.zero_grad()
        functions[kind](by_hand(x), y, reduction="sum").backward()
        optimizer.step()

    document = config({"type": kind, "reduction": "sum"}, {"type": "SGD", "lr": 0.001}, budget={"steps": 10})
    list(Trainer(ours, document, (x,), y).run())

    assert same_bits(ours, by_hand)


def test_frozen_parameters_stay_as_they_are():
    x, y = parabola()
    net = small_net()
    net[0].requires_grad_(False)
    before = copy.deepcopy(net)

    list(Trainer(net, config(), (x,), y).run())

    assert torch.equal(net[0].weight, before[0].weight)
    assert not torch.equal(net[2].weight, before[2].weight)


# -- resuming ----------------------------------------------------------------------------------------------------------


def wide_net():
    torch.manual_seed(11)
    return nn.Sequential(nn.Linear(10, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 1))


def diabetes():
    bunch = load_diabetes()
    x = torch.tensor(bunch.data, dtype=torch.float32)
    y = torch.tensor((bunch.target - bunch.target.mean()) / bunch.target.std(), dtype=torch.float32)[:, None]
    return (x[:300], y[:300]), (x[300:], y[300:])


@pytest.mark.parametrize("stop_after", [1, 10, 13, 29, 37, 49])
def test_a_resumed_run_goes_on_with_the_same_bits(tmp_path, stop_after):
    (x, y), (val_x, val_y) = diabetes()
    document = config(
        optimizer={"type": "AdamW", "lr": 0.01},
        budget={"epochs": 5},
        batch_size=32,
        split={"type": "random", "validation": 0.3},
        early_stopping={"patience": 100},
        checkpoint={"publish": "best"},
    )

    def trainer(net, stop=None):
        return Trainer(net, document, (x,), y, validation=((val_x,), val_y), stop=stop, clock=Clock())

    whole = wide_net()
    straight = trainer(whole)
    all_events = list(straight.run())

    stop = StopFlag()
    first = wide_net()
    interrupted = trainer(first, stop)
    first.register_forward_hook(
        lambda *_: stop.set() if interrupted.step + 1 == stop_after and first.training else None
    )
    before = list(interrupted.run())
    assert (finished(before).reason, finished(before).step) == ("stopped", stop_after)
    checkpoint.save(tmp_path / "state.pt", interrupted.state())

    torch.manual_seed(999)  # another process, with another history
    second = wide_net()
    resumed = trainer(second)
    resumed.restore(checkpoint.load(tmp_path / "state.pt"))
    after = list(resumed.run())

    assert losses_of(before) + losses_of(after) == losses_of(all_events)
    assert same_bits(second, whole)
    assert finished(after).best == finished(all_events).best
    assert finished(after).metrics == finished(all_events).metrics
    best, again = straight.best_weights, resumed.best_weights
    assert all(torch.equal(best[name], again[name]) for name in best)


def test_a_state_of_another_format_is_refused():
    x, y = parabola()
    trainer = Trainer(small_net(), config(), (x,), y)

    with pytest.raises(ValueError, match="format 2"):
        trainer.restore({**trainer.state(), "format": 2})


# -- events ------------------------------------------------------------------------------------------------------------


def test_every_step_is_reported_once_however_often_reports_come():
    x, y = parabola()
    document = config(budget={"steps": 50}, batch_size=32)

    often = list(Trainer(small_net(), document, (x,), y, clock=Clock(tick=0.15)).run())
    once = list(Trainer(small_net(), document, (x,), y, clock=Clock()).run())

    reports = [event for event in often if isinstance(event, Report)]
    assert len(reports) > 10
    assert [r.first_step + len(r.losses) - 1 for r in reports] == [r.step for r in reports]
    assert all(a.step + 1 == b.first_step for a, b in itertools.pairwise(reports))
    assert losses_of(often) == losses_of(once)
    assert reports[-1].fraction == 1.0
    assert [event.step for event in once if isinstance(event, Report)] == [1, 50]  # the first step at once


def test_more_steps_than_the_buffer_holds_are_all_reported():
    x, y = parabola(4)

    events = list(Trainer(small_net(), config(budget={"steps": 9000}), (x,), y, clock=Clock()).run())

    assert len(losses_of(events)) == 9000


def test_the_loss_of_an_epoch_is_the_mean_over_its_rows():
    x, y = parabola()
    events = list(Trainer(small_net(), config(batch_size=32, shuffle=False), (x,), y, clock=Clock()).run())

    [end] = [event for event in events if isinstance(event, EpochEnd)]
    a, b, c, d = losses_of(events)
    assert (end.epoch, end.step) == (1, 4)
    assert end.metrics["loss"] == pytest.approx((32 * (a + b + c) + 4 * d) / 100)


def test_a_budget_of_steps_may_end_within_an_epoch():
    x, y = parabola()
    events = list(Trainer(small_net(), config(budget={"steps": 6, "epochs": 5}, batch_size=32), (x,), y).run())

    last = finished(events)
    assert (last.step, last.epoch, last.reason) == (6, 2, "budget")


def test_a_budget_of_seconds_counts_those_before_an_interruption():
    x, y = parabola()
    document = config(budget={"max_seconds": 10})
    trainer = Trainer(small_net(), document, (x,), y, clock=Clock(tick=1))
    assert finished(trainer.run()).elapsed_s == 10

    again = Trainer(small_net(), document, (x,), y, clock=Clock(tick=1))
    again.restore({**trainer.state(), "elapsed_s": 8.0})
    steps_before = again.step
    list(again.run())
    assert again.step - steps_before == 2


def test_checkpoints_are_due_by_the_clock_and_after_the_report_of_their_steps():
    x, y = parabola()
    document = config(budget={"steps": 100}, checkpoint={"every_s": 10})
    events = list(Trainer(small_net(), document, (x,), y, clock=Clock(tick=1), report_every_s=4).run())

    due = [place for place, event in enumerate(events) if isinstance(event, CheckpointDue)]
    assert 8 <= len(due) <= 11
    for place in due:
        report = next(event for event in reversed(events[:place]) if isinstance(event, Report))
        assert report.step == events[place].step


def test_a_set_flag_ends_the_run_at_the_next_step():
    x, y = parabola()
    stop = StopFlag()
    trainer = Trainer(small_net(), config(budget={"steps": 10**6}), (x,), y, stop=stop, clock=Clock(tick=0.1))
    run = trainer.run()
    next(run)
    step = trainer.step

    stop.set()
    last = finished(run)
    assert (last.reason, last.step) == ("stopped", step)


# -- validation, early stopping, best weights --------------------------------------------------------------------------


def test_held_out_rows_are_measured_after_each_epoch_and_the_best_weights_are_kept():
    (x, y), (val_x, val_y) = diabetes()
    net = wide_net()
    document = config(
        optimizer={"type": "Adam", "lr": 0.05}, budget={"epochs": 30}, batch_size=50, checkpoint={"publish": "best"}
    )
    trainer = Trainer(net, document, (x,), y, validation=((val_x,), val_y), clock=Clock(tick=1.0))

    ends = [event for event in trainer.run() if isinstance(event, EpochEnd)]

    assert [end.epoch for end in ends] == list(range(1, 31))
    assert set(ends[-1].metrics) == {"loss", "val_loss", "val_mae", "val_r2"}
    best = ends[-1].best["val_loss"]
    assert best.value == min(end.metrics["val_loss"] for end in ends)
    assert best.epoch < 30
    net.load_state_dict(trainer.best_weights)
    with torch.no_grad():
        assert functional.mse_loss(net.eval()(val_x), val_y).item() == pytest.approx(best.value, rel=1e-5)


def test_training_ends_when_the_watched_metric_no_longer_improves():
    bunch = load_iris()
    x, y = torch.tensor(bunch.data, dtype=torch.float32), torch.tensor(bunch.target)
    torch.manual_seed(0)
    net = nn.Linear(4, 3)
    document = config(
        "cross_entropy",
        {"type": "Adam", "lr": 0.05},
        budget={"epochs": 5000},
        split={"type": "random", "validation": 0.2},
        early_stopping={"metric": "val_accuracy", "patience": 7},
        metrics=["loss"],
    )

    last = finished(Trainer(net, document, (x,), y, validation=((x,), y)).run())

    assert last.reason == "early_stopping"
    assert last.epoch == last.best["val_accuracy"].epoch + 7
    assert last.best["val_accuracy"].value > 0.6


def test_an_improvement_must_be_larger_than_min_delta_and_an_early_end_is_reported_as_the_end():
    x, y = parabola()
    document = config(
        optimizer={"type": "SGD", "lr": 1e-6},
        budget={"epochs": 100},
        early_stopping={"metric": "loss", "patience": 3, "min_delta": 0.1},
    )
    for tick in (0.0, 1.0):  # the last step's loss is told with the end, or was told before it
        events = list(Trainer(small_net(), document, (x,), y, clock=Clock(tick=tick)).run())
        last = finished(events)
        report = [event for event in events if isinstance(event, Report)][-1]

        assert (last.reason, last.epoch) == ("early_stopping", 4)
        assert (report.step, report.fraction, report.eta_s) == (4, 1.0, 0.0)
        assert len(losses_of(events)) == 4


def test_measuring_changes_no_bit_of_the_training():
    (x, y), held_out = diabetes()
    document = config(optimizer={"type": "Adam"}, budget={"epochs": 3}, batch_size=32)
    measured = wide_net()
    list(Trainer(measured, document, (x,), y, validation=((held_out[0],), held_out[1])).run())
    alone = wide_net()
    list(Trainer(alone, document, (x,), y).run())

    assert same_bits(measured, alone)


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_the_first_step_whose_loss_is_not_finite_is_named_exactly():
    x, y = parabola()

    class Poisoned(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.calls = small_net(), 0

        def forward(self, x):
            self.calls += 1
            return self.net(x) * (float("nan") if self.calls >= 7 else 1.0)

    trainer = Trainer(Poisoned(), config(budget={"steps": 50}, batch_size=32), (x,), y, clock=Clock())
    with pytest.raises(JobFailed) as failed:
        list(trainer.run())

    assert (failed.value.failure, failed.value.step, failed.value.epoch) == ("non_finite_loss", 7, 2)
    assert "learning rate 0.2" in failed.value.message
    assert "The last finite loss was" in failed.value.message
    assert "such as 0.002" in str(failed.value.hint)


def test_a_learning_rate_that_is_too_high_ends_in_no_weights():
    x, y = parabola()

    with pytest.raises(JobFailed) as failed:
        list(Trainer(small_net(), config(optimizer={"type": "SGD", "lr": 1e4}, budget={"epochs": 200}), (x,), y).run())

    assert failed.value.failure == "non_finite_loss"
    assert failed.value.pointer == "/optimizer/lr"


def test_the_losses_before_a_fault_are_told():
    x, y = parabola()
    document = config(optimizer={"type": "SGD", "lr": 1e4}, budget={"epochs": 200})
    events: list[object] = []

    with pytest.raises(JobFailed) as failed:
        events.extend(Trainer(small_net(), document, (x,), y).run())  # extend keeps what came before the fault

    reports = [event for event in events if isinstance(event, Report)]
    ends = list(accumulate(len(report.losses) for report in reports))
    assert [report.first_step for report in reports] == [1, *(end + 1 for end in ends[:-1])]
    assert failed.value.step == ends[-1] + 1


def test_the_held_out_metrics_of_every_epoch_are_told():
    x, y = parabola()
    document = config(budget={"epochs": 50}, split={"type": "random", "validation": 0.2})
    trainer = Trainer(small_net(), document, (x,), y, validation=((x[:20],), y[:20]))

    told = [one for event in trainer.run() if isinstance(event, EpochEnd) for one in event.held_out]

    assert [one.epoch for one in told] == list(range(1, 51))
    assert all(set(one.metrics) == {"val_loss", "val_mae", "val_r2"} for one in told)


def test_weights_that_break_in_the_last_step_are_seen():
    x, y = parabola()
    document = config(optimizer={"type": "SGD", "lr": 1e6}, budget={"steps": 1})

    with pytest.raises(JobFailed, match="the weights are no longer finite") as failed:
        list(Trainer(small_net(), document, (x * 1e19,), y).run())
    assert failed.value.step == 1


def test_a_last_batch_of_one_row_before_a_batch_norm_is_explained():
    x, y = torch.randn(33, 10), torch.randn(33, 1)

    with pytest.raises(JobFailed) as failed:
        list(Trainer(wide_net(), config(batch_size=32), (x,), y).run())

    assert (failed.value.failure, failed.value.step) == ("data_error", 2)
    assert failed.value.hint == "Set drop_last, or another batch_size."
    list(Trainer(wide_net(), config(batch_size=32, drop_last=True), (x,), y).run())


class Exploding(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.weight, self.error = nn.Parameter(torch.ones(1)), error

    def forward(self, x):
        raise self.error


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), "out_of_memory"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
            "out_of_memory",
        ),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x3 and 2x4)"), "shape_error"),
        (IndexError("index out of range in self"), "data_error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else value,
)
def test_errors_of_torch_become_ours(error, failure):
    x, y = parabola()

    with pytest.raises(JobFailed) as failed:
        list(Trainer(Exploding(error), config(), (x,), y).run())
    assert (failed.value.failure, failed.value.step, failed.value.__cause__) == (failure, 1, error)


def test_an_unknown_error_is_left_as_it_is():
    x, y = parabola()

    with pytest.raises(RuntimeError, match="surprise"):
        list(Trainer(Exploding(RuntimeError("surprise")), config(), (x,), y).run())


def test_a_class_outside_the_outputs_is_a_label_out_of_range():
    x, y = torch.randn(4, 2), torch.tensor([0, 1, 2, 3])

    with pytest.raises(JobFailed) as failed:
        list(Trainer(nn.Linear(2, 3), config("cross_entropy"), (x,), y).run())
    assert failed.value.failure == "label_out_of_range"


def test_targets_that_torch_would_stretch_are_refused():
    x, y = parabola()

    with pytest.raises(JobFailed, match=r"answers \[100, 1\], the targets have the shape \[100\]") as failed:
        list(Trainer(small_net(), config(), (x,), y[:, 0]).run())
    assert failed.value.failure == "shape_error"


def test_there_must_be_something_to_train_and_a_batch_to_train_on():
    x, y = parabola()

    with pytest.raises(JobFailed, match="no parameters to train"):
        Trainer(nn.ReLU(), config(), (x,), y)
    with pytest.raises(JobFailed, match="drop_last leaves no batch"):
        Trainer(small_net(), config(batch_size=200, drop_last=True), (x,), y)
