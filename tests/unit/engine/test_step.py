"""The step and what is around it: clipping, accumulation, bfloat16, memory formats, freezing, resuming at any step."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from service.engine import checkpoint
from service.engine.cuda_graphs import GraphStep
from service.engine.evaluate import evaluate
from service.engine.step import AutogradStep, Step
from service.engine.train import EpochEnd, Finished, Report, StopFlag, Trainer
from service.errors import JobFailed
from service.schemas.training import TrainingConfig

WITH_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.fixture(autouse=True)
def _one_thread():
    """Threads wait for each other where other tests run beside these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def config(**members):
    document = {"objective": {"type": "mse"}, "optimizer": {"type": "SGD", "lr": 0.05}, "budget": {"epochs": 2}}
    return TrainingConfig.model_validate({**document, **members})


def data(rows=50, width=6):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, width, generator=generator)
    return x, x[:, :1].square() + 0.1 * torch.randn(rows, 1, generator=generator)


def deep_net():
    torch.manual_seed(11)
    return nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, 1))


def image_net():
    torch.manual_seed(5)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 4)),
    )


def images(rows=40):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(rows, 3, 8, 8, generator=generator), torch.arange(rows) % 4


def same_bits(one, other):
    first, second = one.state_dict(), other.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


def losses_of(events):
    return [loss for event in events if isinstance(event, Report) for loss in event.losses]


# -- clipping and accumulation -----------------------------------------------------------------------------------------


def test_gradients_are_clipped_by_value_and_then_by_norm():
    x, y = data()
    by_hand = deep_net()
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.05)
    for _ in range(4):
        optimizer.zero_grad()
        functional.mse_loss(by_hand(x), y).backward()
        nn.utils.clip_grad_value_(by_hand.parameters(), 0.01)
        nn.utils.clip_grad_norm_(by_hand.parameters(), 0.05)
        optimizer.step()

    ours = deep_net()
    list(Trainer(ours, config(budget={"steps": 4}, clip_grad_value=0.01, clip_grad_norm=0.05), (x,), y).run())

    assert same_bits(ours, by_hand)


@pytest.mark.parametrize("drop_last", [False, True])
def test_accumulated_batches_make_the_update_of_the_mean_over_their_rows(drop_last):
    x, y = data(53)
    torch.manual_seed(11)
    first = nn.Linear(6, 1)
    members: dict[str, Any] = {"shuffle": False, "budget": {"epochs": 3}, "drop_last": drop_last}

    small, large = copy.deepcopy(first), copy.deepcopy(first)
    list(Trainer(small, config(batch_size=8, accumulate=2, **members), (x,), y).run())
    list(Trainer(large, config(batch_size=16, **members), (x,), y).run())

    assert torch.allclose(small.weight, large.weight, rtol=1e-5, atol=1e-6)
    assert torch.allclose(small.bias, large.bias, rtol=1e-5, atol=1e-6)


def test_accumulation_is_the_loop_that_one_writes_by_hand():
    x, y = data(48)
    by_hand, expected = deep_net(), []
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=0.01)
    for _ in range(3):
        loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
        for place, (batch_x, batch_y) in enumerate(loader):  # 6 batches: updates after 4 and after 2
            loss = functional.mse_loss(by_hand(batch_x), batch_y)
            expected.append(loss.item())
            (loss / (4 if place < 4 else 2)).backward()
            if place in (3, 5):
                optimizer.step()
                optimizer.zero_grad()

    ours = deep_net()
    document = config(
        optimizer={"type": "Adam", "lr": 0.01}, budget={"epochs": 3}, batch_size=8, accumulate=4, shuffle=True
    )
    events = list(Trainer(ours, document, (x,), y).run())

    assert losses_of(events) == expected
    assert same_bits(ours, by_hand)


def test_the_last_update_of_a_budget_of_steps_uses_what_was_gathered():
    x, y = data(48)
    document = config(budget={"steps": 5}, batch_size=8, accumulate=4, shuffle=False)
    torch.manual_seed(0)
    net = nn.Linear(6, 1)
    expected = copy.deepcopy(net)
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.05)
    for rows, share in ((slice(0, 32), 1), (slice(32, 40), 1)):
        optimizer.zero_grad()
        (functional.mse_loss(expected(x[rows]), y[rows]) * share).backward()
        optimizer.step()

    list(Trainer(net, document, (x,), y).run())

    assert torch.allclose(net.weight, expected.weight, rtol=1e-5)


# -- resuming ----------------------------------------------------------------------------------------------------------


def test_a_job_killed_after_any_step_goes_on_with_the_same_bits(tmp_path):
    x, y = data(50)
    document = config(
        optimizer={"type": "AdamW", "lr": 0.01, "groups": [{"match": "4", "lr_scale": 2}]},
        scheduler={"type": "OneCycleLR", "max_lr": 0.05},
        budget={"epochs": 3},
        batch_size=8,
        accumulate=3,
        clip_grad_norm=1.0,
        split={"type": "random", "validation": 0.2},
        checkpoint={"publish": "best"},
    )

    def trainer(net, stop=None):
        return Trainer(net, document, (x,), y, validation=((x[:9],), y[:9]), stop=stop)

    whole = deep_net()
    straight = list(trainer(whole).run())
    [end] = [event for event in straight if isinstance(event, Finished)]
    assert end.step == 21

    for at in range(1, end.step):
        stop, first = StopFlag(), deep_net()
        interrupted = trainer(first, stop)
        first.register_forward_hook(
            lambda net, *_, one=interrupted, flag=stop, at=at: (
                flag.set() if net.training and one.step == at - 1 else None
            )
        )
        before = list(interrupted.run())
        assert interrupted.step == at
        checkpoint.save(tmp_path / "state.pt", interrupted.state())

        torch.manual_seed(999)  # another process, with another history
        second = deep_net()
        resumed = trainer(second)
        resumed.restore(checkpoint.load(tmp_path / "state.pt"))
        after = list(resumed.run())

        assert same_bits(second, whole), at
        assert losses_of(before) + losses_of(after) == losses_of(straight), at
        again = after[-1]
        assert isinstance(again, Finished)
        assert (again.metrics, again.best) == (end.metrics, end.best), at


def test_a_state_of_before_schedules_and_accumulation_is_taken_up():
    x, y = data()
    first = Trainer(deep_net(), config(), (x,), y)
    state = first.state()
    for name in ("schedule", "gradients", "planned_steps", "frozen_digest"):
        del state[name]

    second = Trainer(deep_net(), config(), (x,), y)
    second.restore(state)
    assert isinstance(list(second.run())[-1], Finished)


# -- bfloat16, memory format, device -----------------------------------------------------------------------------------


def test_bfloat16_trains_near_what_float32_trains():
    x, y = images()
    nets = {}
    for amp in (None, "bf16"):
        net = nets[amp] = image_net()
        document = config(
            objective={"type": "cross_entropy"}, optimizer={"type": "Adam", "lr": 0.01}, budget={"epochs": 20}, amp=amp
        )
        losses = losses_of(Trainer(net, document, (x,), y).run())
        assert losses[-1] < 0.2 * losses[0]
        assert {tensor.dtype for tensor in net.state_dict().values()} == {torch.float32, torch.int64}
    assert not same_bits(nets[None], nets["bf16"])


def test_channels_last_trains_to_the_same_numbers_within_rounding_and_leaves_the_usual_layout(tmp_path):
    x, y = images()
    members: dict[str, Any] = {"objective": {"type": "cross_entropy"}, "batch_size": 8, "budget": {"epochs": 2}}

    plain = image_net()
    expected = losses_of(Trainer(plain, config(**members), (x,), y).run())
    last = image_net()
    found = losses_of(Trainer(last, config(**members, channels_last=True), (x,), y).run())

    assert found == pytest.approx(expected, rel=1e-4)
    assert all(parameter.is_contiguous() for parameter in last.parameters())
    for name, tensor in plain.state_dict().items():
        assert torch.allclose(last.state_dict()[name], tensor, rtol=1e-3, atol=1e-5), name


def test_channels_last_resumes_with_the_same_bits(tmp_path):
    x, y = images()
    document = config(
        objective={"type": "cross_entropy"},
        optimizer={"type": "SGD", "lr": 0.01, "momentum": 0.9},
        batch_size=8,
        channels_last=True,
    )
    whole = image_net()
    list(Trainer(whole, document, (x,), y).run())

    stop, first = StopFlag(), image_net()
    interrupted = Trainer(first, document, (x,), y, stop=stop)
    first.register_forward_hook(lambda *_: stop.set() if interrupted.step == 3 else None)
    list(interrupted.run())
    checkpoint.save(tmp_path / "state.pt", interrupted.state())
    second = image_net()
    resumed = Trainer(second, document, (x,), y)
    resumed.restore(checkpoint.load(tmp_path / "state.pt"))
    list(resumed.run())

    assert same_bits(second, whole)


def test_a_device_that_is_not_there_is_a_mistake():
    x, y = data()
    with pytest.raises(JobFailed, match="has no device cuda:99") as failed:
        Trainer(deep_net(), config(device="cuda:99"), (x,), y)
    assert failed.value.pointer == "/device"


@pytest.mark.gpu
@WITH_CUDA
@pytest.mark.parametrize("share", [1.0, 0.0], ids=["rows on the device", "batches copied"])
def test_a_cuda_device_trains_and_hands_the_net_back(share, monkeypatch):
    monkeypatch.setattr("service.engine.train._ON_DEVICE_SHARE", share)
    x, y = images()
    members: dict[str, Any] = {
        "objective": {"type": "cross_entropy"},
        "optimizer": {"type": "SGD", "lr": 0.02, "momentum": 0.9},
        "batch_size": 8,
        "budget": {"epochs": 3},
    }
    here = image_net()
    expected = losses_of(Trainer(here, config(**members), (x,), y, validation=((x,), y)).run())
    document = config(**members, device="cuda", deterministic=True)
    there = image_net()
    found = losses_of(Trainer(there, document, (x,), y, validation=((x,), y)).run())

    assert found == pytest.approx(expected, rel=0.02)
    assert {parameter.device.type for parameter in there.parameters()} == {"cpu"}
    again = image_net()
    assert losses_of(Trainer(again, document, (x,), y, validation=((x,), y)).run()) == found
    assert same_bits(again, there)


@pytest.mark.gpu
@WITH_CUDA
def test_a_job_on_a_cuda_device_resumes_with_the_same_bits(tmp_path):
    x, y = data()
    document = config(
        optimizer={"type": "AdamW"},
        scheduler={"type": "OneCycleLR", "max_lr": 0.05},
        batch_size=8,
        accumulate=2,
        device="cuda",
        deterministic=True,
    )
    whole = deep_net()
    list(Trainer(whole, document, (x,), y).run())
    for at in (1, 4, 8):
        stop, first = StopFlag(), deep_net()
        interrupted = Trainer(first, document, (x,), y, stop=stop)
        first.register_forward_hook(
            lambda *_, one=interrupted, flag=stop, at=at: flag.set() if one.step == at - 1 else None
        )
        list(interrupted.run())
        checkpoint.save(tmp_path / "state.pt", interrupted.state())
        second = deep_net()
        resumed = Trainer(second, document, (x,), y)
        resumed.restore(checkpoint.load(tmp_path / "state.pt"))
        list(resumed.run())
        assert same_bits(second, whole), at


@pytest.mark.gpu
@WITH_CUDA
def test_recorded_steps_learn_like_others_and_resume_with_the_same_bits(tmp_path):
    """35 rows make batches of 8 and one of 3, so there are two recordings; a resumed run records them anew."""
    x, y = data(35)
    members: dict[str, Any] = {"optimizer": {"type": "AdamW"}, "batch_size": 8, "budget": {"epochs": 4}}
    document = config(**members, device="cuda", cuda_graphs=True)
    losses = []
    for make in (AutogradStep, GraphStep):
        torch.manual_seed(11)
        net = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 1))
        losses.append(losses_of(Trainer(net, document, (x,), y, make_step=make).run()))
    whole = deep_net()
    list(Trainer(whole, document, (x,), y, make_step=GraphStep).run())
    stop, first = StopFlag(), deep_net()
    interrupted = Trainer(first, document, (x,), y, stop=stop, make_step=GraphStep)
    for event in interrupted.run():
        if isinstance(event, EpochEnd) and event.epoch == 2:
            stop.set()
    checkpoint.save(tmp_path / "state.pt", interrupted.state())
    second = deep_net()
    resumed = Trainer(second, document, (x,), y, make_step=GraphStep)
    resumed.restore(checkpoint.load(tmp_path / "state.pt"))
    list(resumed.run())

    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert same_bits(second, whole)


def test_where_nothing_can_be_recorded_the_step_is_the_ordinary_one():
    x, y = data(35)
    document = config(optimizer={"type": "AdamW"}, batch_size=8)
    recorded = deep_net()
    list(Trainer(recorded, document, (x,), y, make_step=GraphStep).run())
    plain = deep_net()
    list(Trainer(plain, document, (x,), y).run())

    assert same_bits(recorded, plain)


def test_recording_needs_a_device_that_records_and_whole_updates():
    with pytest.raises(ValidationError) as refused:
        config(cuda_graphs=True, accumulate=2)

    told = refused.value.errors()[0]["ctx"]["entries"]
    assert [entry.pointer for entry in told] == ["/cuda_graphs", "/cuda_graphs"]


# -- what is asked to be deterministic ---------------------------------------------------------------------------------


def test_an_operation_without_a_deterministic_form_is_refused_and_torchs_setting_is_put_back():
    class Unpooling(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):
            pooled, places = functional.max_pool2d(x * self.scale, 2, return_indices=True)
            return functional.max_unpool2d(pooled, places, [2, 2])

    x = torch.randn(4, 1, 4, 4)

    with pytest.raises(JobFailed, match="max_unpooling2d_forward_out has no deterministic form on cpu") as failed:
        list(Trainer(Unpooling(), config(deterministic=True), (x,), x).run())

    assert (failed.value.failure, failed.value.pointer) == ("not_deterministic", "/deterministic")
    assert not torch.are_deterministic_algorithms_enabled()
    list(Trainer(Unpooling(), config(), (x,), x).run())


def test_a_deterministic_job_has_the_bits_of_the_others_in_main_memory():
    x, y = data()
    plain = deep_net()
    list(Trainer(plain, config(batch_size=8), (x,), y).run())
    asked = deep_net()
    list(Trainer(asked, config(batch_size=8, deterministic=True), (x,), y).run())

    assert same_bits(plain, asked)


# -- freezing ----------------------------------------------------------------------------------------------------------


def test_what_init_freezes_stays_and_a_certificate_says_so():
    x, y = images()
    net = image_net()
    before = copy.deepcopy(net.state_dict())
    document = config(
        objective={"type": "cross_entropy"}, init={"freeze": ["*", "!6"]}, optimizer={"type": "AdamW", "lr": 0.1}
    )
    trainer = Trainer(net, document, (x,), y)
    list(trainer.run())

    certificate = trainer.certificate()
    assert certificate is not None
    assert (certificate["frozen"], certificate["identical"]) == (9, True)  # 2 convolutions, a norm and its statistics
    assert certificate["digest"].startswith("sha256:")
    moved = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"6.weight", "6.bias"}


def test_statistics_of_batch_norm_go_on_where_they_are_not_frozen():
    x, y = images()
    net = image_net()
    before = copy.deepcopy(net.state_dict())
    init = {"freeze": ["0", "1"], "freeze_batchnorm_stats": False}
    trainer = Trainer(net, config(objective={"type": "cross_entropy"}, init=init), (x,), y)
    list(trainer.run())

    assert not torch.equal(net[1].running_mean, before["1.running_mean"])
    assert torch.equal(net[1].weight, before["1.weight"])
    certificate = trainer.certificate()
    assert certificate is not None
    assert (certificate["frozen"], certificate["identical"]) == (4, True)


def test_a_certificate_tells_when_a_frozen_tensor_moved_and_survives_an_interruption():
    x, y = images()
    document = config(objective={"type": "cross_entropy"}, init={"freeze": ["0"]})
    first = Trainer(image_net(), document, (x,), y)
    state = copy.deepcopy(first.state())
    state["module"]["0.bias"] += 1  # somebody trained on with other weights in between

    second = Trainer(image_net(), document, (x,), y)
    second.restore(state)
    list(second.run())

    certificate = second.certificate()
    assert certificate is not None
    assert certificate["identical"] is False
    assert Trainer(image_net(), config(objective={"type": "cross_entropy"}), (x,), y).certificate() is None


def test_a_pattern_that_names_nothing_is_a_mistake():
    x, y = images()
    with pytest.raises(JobFailed, match="'!body' names no tensor") as failed:
        Trainer(image_net(), config(init={"freeze": ["*", "!body"]}), (x,), y)
    assert failed.value.pointer == "/init/freeze/1"


# -- the seam ----------------------------------------------------------------------------------------------------------


def test_another_step_can_be_put_in_the_place_of_autograds():
    made: list[Step] = []

    class Counting(AutogradStep):
        updates = 0

        def update(self):
            super().update()
            Counting.updates += 1

    def make(*arguments):
        made.append(Counting(*arguments))
        return made[-1]

    x, y = data(48)
    document = config(batch_size=8, accumulate=2)
    plain = deep_net()
    list(Trainer(plain, document, (x,), y).run())
    ours = deep_net()
    list(Trainer(ours, document, (x,), y, make_step=make).run())

    assert same_bits(plain, ours)
    assert (len(made), Counting.updates) == (1, 6)


def test_a_balanced_objective_is_fitted_to_the_training_rows():
    x, y = images()
    y = (y == 0).long()
    trainer = Trainer(image_net(), config(objective={"type": "cross_entropy", "weight": "balanced"}), (x,), y)
    list(trainer.run())

    assert trainer.objective.weight == pytest.approx((40 / (2 * 30), 40 / (2 * 10)))  # type: ignore[union-attr]
    assert "loss" in evaluate(trainer.module, (x,), y, trainer.objective)
