"""Images changed at random while a net trains, never when it is asked: mirrored, or moved within a border.

What is drawn for a batch hangs on the job's seed and the step alone, so that a resumed run draws what an uninterrupted
one does, and nothing else of the run is drawn differently for it. Knows no dataset and no loop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import assert_never

import torch
from torch import Tensor
from torch.nn import functional

from service.schemas.transforms import Augmenting, PreprocessingStep, RandomCrop, RandomFlip

Augment = Callable[[tuple[Tensor, ...], int], tuple[Tensor, ...]]
"""The inputs of a batch, and the number of the step, to the inputs that the net sees."""


def augmentation(steps: Sequence[PreprocessingStep], names: Sequence[str], *, seed: int) -> Augment | None:
    """What a training document asks for, as a function to be called with each batch before the net; None for nothing.

    Args:
        steps: of the document; those that do not augment are passed over.
        names: of the net's inputs, in order; a step without `input` is for the first.
        seed: the job's.
    """
    wanted = [step for step in steps if isinstance(step, Augmenting)]
    if not wanted:
        return None
    places = {name: place for place, name in enumerate(names)}
    by_input: dict[int, list[RandomFlip | RandomCrop]] = {}
    for step in wanted:
        by_input.setdefault(places[step.input] if step.input is not None else 0, []).append(step)

    def apply(inputs: tuple[Tensor, ...], number: int) -> tuple[Tensor, ...]:
        generator = generator_of(seed, number)
        return tuple(
            augment(batch, generator, by_input[place]) if place in by_input else batch
            for place, batch in enumerate(inputs)
        )

    return apply


def generator_of(seed: int, step: int) -> torch.Generator:
    """A generator for one step of a job, the same one whenever it is asked for."""
    told = hashlib.sha256(f"augmentation {seed} {step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(told[:8], "little") >> 1)


def augment(batch: Tensor, generator: torch.Generator, steps: Sequence[RandomFlip | RandomCrop]) -> Tensor:
    """A batch of images [N, channels, height, width], each changed on its own; `batch` itself stays as it is.

    Args:
        batch: as the net would take it.
        generator: in main memory, whatever device the batch is on.
        steps: in this order.
    """
    rows, _, height, width = batch.shape
    for step in steps:
        match step:
            case RandomFlip(probability=probability):
                flipped = torch.rand(rows, generator=generator) < probability
                batch = torch.where(flipped.to(batch.device)[:, None, None, None], batch.flip(3), batch)
            case RandomCrop(padding=padding):
                top, left = torch.randint(0, 2 * padding + 1, (2, rows), generator=generator).to(batch.device)
                bordered = functional.pad(batch, (padding, padding, padding, padding))
                down = top[:, None] + torch.arange(height, device=batch.device)  # [N, height]
                across = left[:, None] + torch.arange(width, device=batch.device)  # [N, width]
                row = torch.arange(rows, device=batch.device)[:, None, None]
                # [N, height, width, channels]: what advanced indices leave goes behind them
                batch = bordered[row, :, down[:, :, None], across[:, None, :]].permute(0, 3, 1, 2).contiguous()
            case _:
                assert_never(step)
    return batch
