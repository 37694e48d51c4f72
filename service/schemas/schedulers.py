"""Schedulers: how the learning rate goes, torch's that are data, by torch's class names, settings and defaults.

`interval` says what one step of a scheduler is: an update of the weights, or an epoch. Lengths may be "budget": all
updates, or epochs, that the job's budget has. Knows no tensors; `engine/schedulers` makes torch's objects.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field, model_validator

from service.errors import Entry
from service.schemas.document import Document, disagreement

Interval = Literal["step", "epoch"]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Length = Count | Literal["budget"]
Factor = Annotated[float, Field(gt=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=1e6)]
NonNegative = Annotated[float, Field(ge=0, le=1e6)]
Momentum = Annotated[float, Field(ge=0, lt=1)]


class StepLr(Document):
    """torch.optim.lr_scheduler.StepLR: times `gamma` after every `step_size`."""

    type: Literal["StepLR"]
    interval: Interval = "epoch"
    step_size: Count
    gamma: Annotated[float, Field(gt=0, le=10)] = 0.1


class MultiStepLr(Document):
    """torch.optim.lr_scheduler.MultiStepLR: times `gamma` at each milestone."""

    type: Literal["MultiStepLR"]
    interval: Interval = "epoch"
    milestones: Annotated[tuple[Count, ...], Field(min_length=1, max_length=1000)]
    gamma: Annotated[float, Field(gt=0, le=10)] = 0.1

    @model_validator(mode="after")
    def _rising(self) -> MultiStepLr:
        _check_rising(self.milestones)
        return self


class ConstantLr(Document):
    """torch.optim.lr_scheduler.ConstantLR: `factor` of the rate for `total_iters`, then all of it."""

    type: Literal["ConstantLR"]
    interval: Interval = "epoch"
    factor: Factor = 1 / 3
    total_iters: Length = 5


class LinearLr(Document):
    """torch.optim.lr_scheduler.LinearLR: in a straight line from `start_factor` to `end_factor` of the rate, such as a
    warm-up."""

    type: Literal["LinearLR"]
    interval: Interval = "epoch"
    start_factor: Factor = 1 / 3
    end_factor: Annotated[float, Field(ge=0, le=1)] = 1.0
    total_iters: Length = 5


class ExponentialLr(Document):
    """torch.optim.lr_scheduler.ExponentialLR: times `gamma` each time."""

    type: Literal["ExponentialLR"]
    interval: Interval = "epoch"
    gamma: Annotated[float, Field(gt=0, le=10)]


class PolynomialLr(Document):
    """torch.optim.lr_scheduler.PolynomialLR: to 0 over `total_iters`."""

    type: Literal["PolynomialLR"]
    interval: Interval = "epoch"
    total_iters: Length = 5
    power: Annotated[float, Field(gt=0, le=100)] = 1.0


class CosineAnnealingLr(Document):
    """torch.optim.lr_scheduler.CosineAnnealingLR: half a cosine down to `eta_min` over `T_max`, or over the budget."""

    type: Literal["CosineAnnealingLR"]
    interval: Interval = "epoch"
    T_max: Length = "budget"
    eta_min: NonNegative = 0.0


class CosineAnnealingWarmRestarts(Document):
    """torch.optim.lr_scheduler.CosineAnnealingWarmRestarts: cosines of the lengths T_0, T_0·T_mult, …"""

    type: Literal["CosineAnnealingWarmRestarts"]
    interval: Interval = "epoch"
    T_0: Count
    T_mult: Annotated[int, Field(ge=1, le=1000)] = 1
    eta_min: NonNegative = 0.0


class CyclicLr(Document):
    """torch.optim.lr_scheduler.CyclicLR: up and down between two rates; it goes by updates."""

    type: Literal["CyclicLR"]
    interval: Literal["step"] = "step"
    base_lr: Rate
    max_lr: Rate
    step_size_up: Count = 2000
    step_size_down: Count | None = None
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular"
    gamma: Factor = 1.0
    scale_mode: Literal["cycle", "iterations"] = "cycle"
    cycle_momentum: bool = True
    base_momentum: Momentum = 0.8
    max_momentum: Momentum = 0.9


class OneCycleLr(Document):
    """torch.optim.lr_scheduler.OneCycleLR: up to `max_lr` and down again over the whole budget; it goes by updates.

    A budget of seconds alone is planned: what a step takes is measured before the first.
    """

    type: Literal["OneCycleLR"]
    interval: Literal["step"] = "step"
    max_lr: Rate
    total_steps: Length = "budget"
    pct_start: Annotated[float, Field(gt=0, lt=1)] = 0.3
    anneal_strategy: Literal["cos", "linear"] = "cos"
    cycle_momentum: bool = True
    base_momentum: Momentum = 0.85
    max_momentum: Momentum = 0.95
    div_factor: Annotated[float, Field(gt=0, le=1e9)] = 25.0
    final_div_factor: Annotated[float, Field(gt=0, le=1e12)] = 1e4
    three_phase: bool = False


class ReduceLrOnPlateau(Document):
    """torch.optim.lr_scheduler.ReduceLROnPlateau: times `factor` after `patience` epochs without a better `metric`."""

    type: Literal["ReduceLROnPlateau"]
    interval: Literal["epoch"] = "epoch"
    metric: Literal["loss", "val_loss", "val_accuracy", "val_mae", "val_r2"] = "val_loss"
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    patience: Annotated[int, Field(ge=0, le=1_000_000)] = 10
    threshold: NonNegative = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    min_lr: NonNegative = 0.0
    eps: NonNegative = 1e-8


Part: TypeAlias = Annotated[
    StepLr
    | MultiStepLr
    | ConstantLr
    | LinearLr
    | ExponentialLr
    | PolynomialLr
    | CosineAnnealingLr
    | CosineAnnealingWarmRestarts,
    Field(discriminator="type"),
]
"""Schedulers that may be put one after another, or together."""


class SequentialLr(Document):
    """torch.optim.lr_scheduler.SequentialLR: one after another, changing at the milestones; a warm-up is a LinearLR
    before another.

    The interval of the whole is that of its parts. A length "budget" is what the milestones leave of it.
    """

    type: Literal["SequentialLR"]
    schedulers: Annotated[tuple[Part, ...], Field(min_length=2, max_length=16)]
    milestones: Annotated[tuple[Count, ...], Field(min_length=1, max_length=15)]

    @model_validator(mode="after")
    def _changes(self) -> SequentialLr:
        if len(self.milestones) != len(self.schedulers) - 1:
            detail = f"{len(self.schedulers)} schedulers change {len(self.schedulers) - 1} times."
            hint = "Say at which step or epoch each but the first begins."
            got = str(len(self.milestones))
            raise disagreement(
                Entry("/milestones", "invalid", detail, hint=hint, expected=str(len(self.schedulers) - 1), got=got)
            )
        _check_rising(self.milestones)
        _check_intervals(self.schedulers)
        return self

    @property
    def interval(self) -> Interval:
        """That of its parts."""
        return self.schedulers[0].interval


class Chained(Document):
    """torch.optim.lr_scheduler.ChainedScheduler: all together, each changing what the one before it left."""

    type: Literal["ChainedScheduler"]
    schedulers: Annotated[tuple[Part, ...], Field(min_length=1, max_length=16)]

    @model_validator(mode="after")
    def _one_interval(self) -> Chained:
        _check_intervals(self.schedulers)
        return self

    @property
    def interval(self) -> Interval:
        """That of its parts."""
        return self.schedulers[0].interval


AnyScheduler: TypeAlias = (
    StepLr
    | MultiStepLr
    | ConstantLr
    | LinearLr
    | ExponentialLr
    | PolynomialLr
    | CosineAnnealingLr
    | CosineAnnealingWarmRestarts
    | CyclicLr
    | OneCycleLr
    | ReduceLrOnPlateau
    | SequentialLr
    | Chained
)
Scheduler = Annotated[AnyScheduler, Field(discriminator="type")]

LEFT_OUT: Final = {
    "LambdaLR": "Its factor is a function given as code.",
    "MultiplicativeLR": "Its factor is a function given as code.",
    "LRScheduler": "What the others are made from.",
}
"""torch's schedulers that are no documents, with the reason."""

SETTINGS_LEFT_OUT: Final = {
    "optimizer": "The job's.",
    "last_epoch": "A resumed job knows where it was.",
    "scale_fn": "A function given as code.",
    "epochs": "`total_steps` says it.",
    "steps_per_epoch": "`total_steps` says it.",
    "mode of ReduceLROnPlateau": "The metric says whether larger is better.",
}
"""Settings of torch's schedulers that no document has, with the reason."""


def needs_total(scheduler: AnyScheduler) -> bool:
    """Whether the scheduler has to know how long the job is."""
    if isinstance(scheduler, (SequentialLr, Chained)):
        return any(needs_total(part) for part in scheduler.schedulers)
    lengths = (getattr(scheduler, name, None) for name in ("total_iters", "T_max", "total_steps"))
    return "budget" in lengths


def cycles_momentum(scheduler: AnyScheduler) -> bool:
    """Whether the scheduler moves the optimizer's momentum too."""
    return isinstance(scheduler, (CyclicLr, OneCycleLr)) and scheduler.cycle_momentum


def _check_rising(milestones: tuple[int, ...]) -> None:
    for place, (before, after) in enumerate(pairwise(milestones), start=1):
        if after <= before:
            detail = "Milestones rise."
            raise disagreement(
                Entry(f"/milestones/{place}", "invalid", detail, expected=f"more than {before}", got=str(after))
            )


def _check_intervals(parts: tuple[Part, ...]) -> None:
    for place, part in enumerate(parts):
        if part.interval != parts[0].interval:
            detail = f"This part goes by {part.interval}s and the first by {parts[0].interval}s."
            hint = "Give all parts one interval."
            at = f"/schedulers/{place}/interval"
            raise disagreement(Entry(at, "conflict", detail, hint=hint, expected=parts[0].interval, got=part.interval))
