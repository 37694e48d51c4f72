"""The certificate of what was frozen: in a version's lineage, or the end of its job."""

from __future__ import annotations

import copy

import pytest
import torch

from service.engine.train import Trainer
from service.errors import JobFailed
from service.jobs.training import certified
from service.schemas.training import TrainingConfig


def trainer(*freeze: str) -> Trainer:
    """Of a hidden layer with BatchNorm, and a head."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
    members = {"init": {"freeze": list(freeze)}} if freeze else {}
    config = TrainingConfig.model_validate(
        {"objective": {"type": "mse"}, "optimizer": {"type": "SGD", "lr": 0.1}, "budget": {"epochs": 2}, **members}
    )
    return Trainer(net, config, (torch.randn(8, 1),), torch.randn(8, 1))


def test_it_counts_tensors_and_statistics_and_has_their_digest() -> None:
    one = trainer("0", "1")
    list(one.run())

    found = certified(one.certificate(), one.frozen, ["0", "1"])

    assert found is not None
    assert found["digest"].startswith("sha256:")
    told = {key: value for key, value in found.items() if key != "digest"}
    assert told == {"patterns": ["0", "1"], "tensors": 7, "statistics": 2, "unchanged": True}


def test_nothing_frozen_needs_none() -> None:
    assert certified(trainer().certificate(), (), []) is None


def test_a_frozen_tensor_that_moved_ends_the_job_though_another_attempt_began_it() -> None:
    state = copy.deepcopy(trainer("0").state())
    state["module"]["0.bias"] += 1  # as if an attempt in between had trained it
    resumed = trainer("0")
    resumed.restore(state)
    list(resumed.run())

    with pytest.raises(JobFailed, match="frozen tensor is not what it was") as failed:
        certified(resumed.certificate(), resumed.frozen, ["0"])
    assert failed.value.to_dict()["code"] == "internal"
