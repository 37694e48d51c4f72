"""What training costs inside the worker: the trainer against the loops that tutorials write, interleaved in one run.

Both begin with the same weights and data, on one thread, and end with the same bits where that is claimed. Each has a
process of its own: the tutorial's is an ordinary one, ours is set up as a worker.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from service.engine.train import Trainer
from service.jobs.forkserver import keep_freed_memory
from service.schemas.training import TrainingConfig

Loop = Callable[[nn.Module], None]
Data = tuple[Tensor, Tensor]


def parabola(rows: int = 100) -> Data:
    """R1's data: x², with noise."""
    torch.manual_seed(1)
    x = torch.linspace(-1, 1, rows)[:, None]
    return x, x.square() + 0.2 * torch.rand(x.size())


def digits() -> Data:
    """1797 images of 8 × 8, which scikit-learn ships."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return torch.tensor(bunch.data / 16, dtype=torch.float32), torch.tensor(bunch.target)


def pictures(rows: int = 1024) -> Data:
    """As large as CIFAR-10's."""
    torch.manual_seed(1)
    return torch.rand(rows, 3, 32, 32), torch.randint(0, 10, (rows,))


def small(activation: type[nn.Module] = nn.ReLU, width: int = 10) -> nn.Module:
    """The regression tutorials' net."""
    return nn.Sequential(nn.Linear(1, width), activation(), nn.Linear(width, 1))


def perceptron() -> nn.Module:
    """64-64-10."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def cifar() -> nn.Module:
    """The net of the CIFAR-10 tutorials."""
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 5, padding=2), nn.MaxPool2d(2), nn.Conv2d(32, 32, 5, padding=2), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 5, padding=2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1024, 64), nn.Linear(64, 10)),
    )


def full_batches(data: Data, steps: int, lr: float, *, told_every: int = 0) -> Loop:
    """The regression tutorials' loop: one batch of all rows; some print the loss now and then."""
    x, y = data

    def run(net: nn.Module) -> None:
        optimizer, loss_of = torch.optim.SGD(net.parameters(), lr=lr), nn.MSELoss()
        for step in range(steps):
            loss = loss_of(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if told_every and step % told_every == 0:
                loss.item()

    return run


def through_a_loader(
    data: Data,
    epochs: int,
    optimizer_of: Callable[[Any], torch.optim.Optimizer],
    loss_of: nn.Module,
    *,
    batch_size: int,
    workers: int = 0,
) -> Loop:
    """A loop over DataLoader with shuffling."""

    def run(net: nn.Module) -> None:
        optimizer = optimizer_of(net.parameters())
        loader = DataLoader(TensorDataset(*data), batch_size=batch_size, shuffle=True, num_workers=workers)
        for _ in range(epochs):
            for x, y in loader:
                loss = loss_of(net(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    return run


def ours(data: Data, **config: Any) -> Loop:
    """The trainer, as the worker runs it."""
    document = TrainingConfig.model_validate(config)

    def run(net: nn.Module) -> None:
        for _ in Trainer(net, document, (data[0],), data[1]).run():
            pass

    return run


def compare(
    name: str,
    net_of: Callable[[], nn.Module],
    tutorial: Loop,
    loops: dict[str, Loop],
    *,
    rounds: int,
    goals: dict[str, float],
    rtol: dict[str, float] | None = None,
) -> bool:
    """Time each loop from the same weights and seed, in turns, round by round; say whether the goals are met."""
    torch.manual_seed(3)
    first = net_of()
    times: dict[str, list[float]] = {label: [] for label in ("tutorial", *loops)}
    ends: dict[str, dict[str, Any]] = {}
    with _process({"tutorial": tutorial}, first) as theirs, _process(loops, first, worker=True) as own:
        for _ in range(rounds):
            for label in times:
                asked = theirs if label == "tutorial" else own
                asked.send(label)
                took, ends[label] = asked.recv()
                times[label].append(took)
    good = True
    base = statistics.median(times["tutorial"])
    for label in loops:
        ratio = statistics.median(t / o for t, o in zip(times["tutorial"], times[label], strict=True))
        pairs = list(zip(ends["tutorial"].values(), ends[label].values(), strict=True))
        tolerance = (rtol or {}).get(label)
        if tolerance is None:
            same, how = all(np.array_equal(a, b) for a, b in pairs), "bit-equal"
        else:
            off = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)
            same, how = off <= tolerance, f"off by {off:.1e}, at most {tolerance:g}"
        goal = goals[label]
        good &= same and ratio >= goal
        verdict = "" if same and ratio >= goal else "   MISSED"
        took = statistics.median(times[label])
        print(
            f"train {name:<26}{label:<15}{took * 1e3:9.1f} ms   tutorial {base * 1e3:9.1f} ms"
            f"   ratio {ratio:6.2f} (goal {goal:g})   {how if same else 'OTHER BITS'}{verdict}"
        )
    return good


@contextmanager
def _process(loops: dict[str, Loop], first: nn.Module, *, worker: bool = False) -> Iterator[Connection]:
    """A process that runs the loop it is told, from the first weights, and answers its seconds and last weights."""
    here, there = multiprocessing.Pipe()

    def serve() -> None:
        here.close()
        if worker:
            keep_freed_memory()
        while label := there.recv():
            net = copy.deepcopy(first)
            torch.manual_seed(4)  # the seed of shuffling
            began = time.perf_counter()
            loops[label](net)
            took = time.perf_counter() - began
            there.send((took, {key: value.numpy() for key, value in net.state_dict().items()}))

    # This process never runs a backward pass, so that it may fork.
    child = multiprocessing.get_context("fork").Process(target=serve)
    child.start()
    there.close()
    try:
        yield here
    finally:
        here.send("")
        child.join(60)
        here.close()


def run(rounds: int) -> bool:
    """All of them; whether all goals are met."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _run(rounds)
    finally:
        torch.set_num_threads(before)


def _run(rounds: int) -> bool:
    sgd = {"type": "SGD", "lr": 0.2}
    mse, classes = {"type": "mse"}, {"type": "cross_entropy"}
    good = compare(
        "R1, 200 steps",
        small,
        full_batches(parabola(), 200, 0.2),
        {"ours": ours(parabola(), objective=mse, optimizer=sgd, budget={"steps": 200})},
        rounds=rounds * 2,
        goals={"ours": 1.0},
    )
    wide = parabola(200)
    good &= compare(
        "R5, Tanh, 5000 steps",
        lambda: small(nn.Tanh, 20),
        full_batches(wide, 5000, 0.05, told_every=100),
        {"ours": ours(wide, objective=mse, optimizer={"type": "SGD", "lr": 0.05}, budget={"steps": 5000})},
        rounds=max(3, rounds // 3),
        goals={"ours": 1.0},
    )
    epochs = 20
    rows = parabola(160)
    good &= compare(
        f"num_workers=2, {epochs} epochs",
        small,
        through_a_loader(rows, epochs, lambda p: torch.optim.SGD(p, lr=0.1), nn.MSELoss(), batch_size=32, workers=2),
        {
            "ours": ours(
                rows, objective=mse, optimizer={"type": "SGD", "lr": 0.1}, budget={"epochs": epochs}, batch_size=32
            )
        },
        rounds=max(3, rounds // 4),
        goals={"ours": 30.0},
    )
    for epochs in (3, 12):  # in a short run the fixed costs of a trainer show
        good &= compare(
            f"digits MLP, {epochs} epochs",
            perceptron,
            through_a_loader(
                digits(), epochs, lambda p: torch.optim.Adam(p, lr=1e-3), nn.CrossEntropyLoss(), batch_size=32
            ),
            {
                "ours": ours(
                    digits(), objective=classes, optimizer={"type": "Adam"}, budget={"epochs": epochs}, batch_size=32
                )
            },
            rounds=rounds,
            goals={"ours": 2.0},
        )
    images = pictures()
    members: dict[str, Any] = {
        "objective": classes,
        "optimizer": {"type": "SGD", "lr": 0.01},
        "budget": {"epochs": 1},
        "batch_size": 64,
    }
    return good & compare(
        "CIFAR net, 1024 images",
        cifar,
        through_a_loader(images, 1, lambda p: torch.optim.SGD(p, lr=0.01), nn.CrossEntropyLoss(), batch_size=64),
        {
            "ours": ours(images, **members),
            "channels_last": ours(images, **members, channels_last=True),
            "and bf16": ours(images, **members, channels_last=True, amp="bf16"),
        },
        rounds=max(5, rounds // 2),
        goals={"ours": 1.0, "channels_last": 1.5, "and bf16": 1.5},
        rtol={"channels_last": 1e-4, "and bf16": 5e-2},
    )


def main() -> int:
    """Run them all by themselves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    asked = parser.parse_args()
    return 0 if run(asked.rounds) else 1


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    raise SystemExit(main())
