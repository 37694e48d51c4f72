"""Every optimizer: torch's settings, JSON and back, torch's bits, the same bits resumed; and groups by pattern."""

from __future__ import annotations

import inspect
from typing import Any, get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from service.engine import checkpoint, optimizers
from service.engine.train import Report, StopFlag, Trainer
from service.errors import JobFailed
from service.schemas.optimizers import LEFT_OUT, SETTINGS_LEFT_OUT, AnyOptimizer, Optimizer
from service.schemas.training import TrainingConfig

OPTIMIZER: TypeAdapter[Any] = TypeAdapter(Optimizer)
TAGS = [get_args(kind.model_fields["type"].annotation)[0] for kind in get_args(AnyOptimizer)]


def minimal(tag, **members):
    return {"type": tag, **({"lr": 1e-3} if tag == "SGD" else {}), **members}


def net():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(20, 4, generator=generator), torch.randn(20, 2, generator=generator)


def config(optimizer, steps=15, **members):
    document = {"objective": {"type": "mse"}, "optimizer": optimizer, "budget": {"steps": steps}, **members}
    return TrainingConfig.model_validate({"batch_size": 8, **document})


def by_hand(make, steps=15):
    module, (x, y) = net(), data()
    optimizer = make(module)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8, shuffle=True)
    done = 0
    while done < steps:
        for batch_x, batch_y in loader:
            if done == steps:
                break
            optimizer.zero_grad()
            nn.functional.mse_loss(module(batch_x), batch_y).backward()
            optimizer.step()
            done += 1
    return module


def same_bits(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_every_optimizer_of_torch_is_a_document_or_has_a_reason_not_to_be():
    known = {
        name
        for name, kind in vars(torch.optim).items()
        if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
    }

    assert set(TAGS) | set(LEFT_OUT) == known
    assert not set(TAGS) & set(LEFT_OUT)


@pytest.mark.parametrize("tag", TAGS)
def test_settings_and_defaults_are_those_of_torch(tag):
    signature = inspect.signature(getattr(torch.optim, tag))
    theirs = {
        name: parameter.default for name, parameter in signature.parameters.items() if name not in SETTINGS_LEFT_OUT
    }
    if tag in ("Adam",):
        assert theirs.pop("decoupled_weight_decay") is False  # AdamW is that

    assert OPTIMIZER.validate_python(minimal(tag)).model_dump(exclude={"type", "groups"}) == theirs


@pytest.mark.parametrize("tag", TAGS)
def test_each_goes_through_json_and_gives_torchs_bits_and_the_same_when_it_is_resumed(tag, tmp_path):
    document = config(minimal(tag))
    assert TrainingConfig.model_validate_json(document.model_dump_json()) == document
    x, y = data()

    ours = net()
    events = list(Trainer(ours, document, (x,), y).run())

    torch.manual_seed(3)
    expected = by_hand(lambda module: getattr(torch.optim, tag)(module.parameters(), lr=document.optimizer.lr))
    assert same_bits(ours, expected)
    assert not same_bits(ours, net())
    losses = [loss for event in events if isinstance(event, Report) for loss in event.losses]
    assert torch.tensor(losses).isfinite().all()

    stop, first = StopFlag(), net()
    interrupted = Trainer(first, document, (x,), y, stop=stop)
    first.register_forward_hook(lambda *_: stop.set() if interrupted.step == 7 else None)
    list(interrupted.run())
    checkpoint.save(tmp_path / "state.pt", interrupted.state())
    second = net()
    resumed = Trainer(second, document, (x,), y)
    resumed.restore(checkpoint.load(tmp_path / "state.pt"))
    list(resumed.run())
    assert same_bits(second, ours)


OTHERWISE: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "Adam": {"betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.1, "amsgrad": True},
    "AdamW": {"weight_decay": 0.2, "amsgrad": True},
    "Adamax": {"weight_decay": 0.1},
    "NAdam": {"weight_decay": 0.1, "decoupled_weight_decay": True},
    "RAdam": {"weight_decay": 0.1, "decoupled_weight_decay": True},
    "Adagrad": {"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5},
    "Adadelta": {"rho": 0.8, "weight_decay": 0.1},
    "Adafactor": {"weight_decay": 0.1, "d": 2.0},
    "ASGD": {"weight_decay": 0.1, "t0": 5.0},
    "RMSprop": {"momentum": 0.9, "centered": True, "weight_decay": 0.1},
    "Rprop": {"etas": (0.4, 1.3)},
}


@pytest.mark.parametrize("tag", TAGS)
def test_other_settings_give_torchs_bits_too(tag):
    x, y = data()
    ours = net()
    list(Trainer(ours, config(minimal(tag, **OTHERWISE[tag]) | {"lr": 0.02}, steps=60), (x,), y).run())

    torch.manual_seed(3)
    kind = getattr(torch.optim, tag)
    assert same_bits(ours, by_hand(lambda module: kind(module.parameters(), lr=0.02, **OTHERWISE[tag]), steps=60))


@pytest.mark.parametrize("tag", ["SGD", "Adam"])
def test_a_parameter_that_only_some_steps_use_is_left_alone_in_the_others(tag):
    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(3)
            self.always, self.sometimes, self.calls = nn.Linear(4, 2), nn.Linear(4, 2), 0

        def forward(self, x):
            self.calls += 1
            return self.always(x) + (self.sometimes(x) if self.calls % 3 == 0 else 0)

    (x, y), settings = data(), {"lr": 0.1, **({"momentum": 0.9} if tag == "SGD" else {})}
    by_torch, ours = Sometimes(), Sometimes()
    optimizer = getattr(torch.optim, tag)(by_torch.parameters(), **settings)
    for _ in range(12):
        optimizer.zero_grad()
        nn.functional.mse_loss(by_torch(x), y).backward()
        optimizer.step()

    list(Trainer(ours, config({"type": tag, **settings}, steps=12, batch_size=None), (x,), y).run())

    assert same_bits(ours, by_torch)


# -- groups ------------------------------------------------------------------------------------------------------------


def test_groups_have_the_rates_and_decays_that_patterns_give_them():
    document = OPTIMIZER.validate_python(
        {
            "type": "AdamW",
            "lr": 0.1,
            "groups": [
                {"match": "2.bias", "weight_decay": 0},
                {"match": "2", "lr_scale": 0.1},
                {"match": "0.*", "lr": 0.5, "weight_decay": 0.25},
            ],
        }
    )

    made = optimizers.make(document, list(net().named_parameters()))

    found = [(len(group["params"]), group["lr"], group["weight_decay"]) for group in made.param_groups]
    assert found == [(1, 0.1, 0.0), (1, pytest.approx(0.01), 0.01), (2, 0.5, 0.25)]
    assert all(group["foreach"] for group in made.param_groups)


def test_discriminative_rates_are_the_bits_of_torchs_groups():
    x, y = data()
    ours = net()
    document = config({"type": "SGD", "lr": 0.1, "momentum": 0.9, "groups": [{"match": "0", "lr_scale": 0.1}]})
    list(Trainer(ours, document, (x,), y).run())

    torch.manual_seed(3)

    def groups(module):
        parts = [{"params": module[2].parameters()}, {"params": module[0].parameters(), "lr": 0.1 * 0.1}]
        return torch.optim.SGD(parts, lr=0.1, momentum=0.9)

    assert same_bits(ours, by_hand(groups))


def test_a_group_that_names_nothing_is_a_mistake():
    x, y = data()
    with pytest.raises(JobFailed, match=r"'head' names no tensor") as failed:
        Trainer(net(), config({"type": "Adam", "groups": [{"match": "head", "lr": 1}]}), (x,), y)
    assert failed.value.pointer == "/optimizer/groups/0/match"


@pytest.mark.parametrize(
    "group", [{"match": "0"}, {"match": "0", "lr": 0.1, "lr_scale": 2}, {"match": "", "lr": 1}], ids=str
)
def test_a_group_says_one_thing_at_least_and_one_rate_at_most(group):
    with pytest.raises(ValidationError):
        OPTIMIZER.validate_python(minimal("Adam", groups=[group]))


def test_rprop_has_no_decay():
    with pytest.raises(ValidationError):
        OPTIMIZER.validate_python(minimal("Rprop", groups=[{"match": "0", "weight_decay": 0.1}]))
