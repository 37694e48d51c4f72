"""The nets that every server under test serves, and their weights, made once for all of them.

Imported by the services of this folder in their own environments, so it needs nothing but torch and safetensors.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

WEIGHTS = "BENCH_WEIGHTS"
"""Names the environment variable with the file of weights; its stem is the net's name."""

SHAPES = {"m1": (1,), "m3": (3, 32, 32)}
"""One row of each."""


def build(net: str) -> nn.Sequential:
    """A new net: the tutorials' 1-10-1, or the one for CIFAR10."""
    if net == "m1":
        return nn.Sequential(nn.Linear(1, 10), nn.ReLU(), nn.Linear(10, 1))
    return nn.Sequential(
        nn.Conv2d(3, 32, 5, padding=2),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 5, padding=2),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(1024, 64),
        nn.Linear(64, 10),
    )


def make(net: str, folder: Path) -> tuple[Path, torch.Tensor, torch.Tensor]:
    """Write weights from a seed; the file, one row (without the size of a batch), and what the net makes of it."""
    torch.manual_seed(0)
    module = build(net).eval()
    file = folder / f"{net}.safetensors"
    save_file(module.state_dict(), file)
    row = torch.rand(SHAPES[net])
    with torch.inference_mode():
        return file, row, module(row[None])[0]


def load(file: Path) -> nn.Sequential:
    """The net whose weights these are, ready to answer on one thread."""
    torch.set_num_threads(1)
    module = build(file.stem).eval()
    module.load_state_dict(load_file(file))
    return module


def served() -> nn.Sequential:
    """The net that the environment names."""
    return load(Path(os.environ[WEIGHTS]))


def shape() -> tuple[int, ...]:
    """One row of that net."""
    return SHAPES[Path(os.environ[WEIGHTS]).stem]
