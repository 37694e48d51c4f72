"""torch's schedulers from their documents, with lengths filled in from the budget.

Knows optimizers; no net and no data.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.optim import lr_scheduler

from service.schemas.schedulers import (
    AnyScheduler,
    Chained,
    CyclicLr,
    Interval,
    OneCycleLr,
    ReduceLrOnPlateau,
    SequentialLr,
)


class Schedule:
    """The learning rate's way through a job.

    Args:
        document: the scheduler.
        optimizer: whose rates it moves; groups keep the ratio of their rates to `base_lr`.
        base_lr: the optimizer's own rate.
        total: updates or epochs of the budget, by the scheduler's interval; may be None where nothing needs it.
        larger_is_better: whether that is so of the metric that a plateau is looked for in.
    """

    def __init__(
        self,
        document: AnyScheduler,
        optimizer: torch.optim.Optimizer,
        *,
        base_lr: float,
        total: int | None,
        larger_is_better: bool = False,
    ) -> None:
        self.interval: Interval = document.interval
        self.metric = document.metric if isinstance(document, ReduceLrOnPlateau) else None
        """What `step` has to be told."""
        self._ratios = [group["lr"] / base_lr for group in optimizer.param_groups]
        self._last = _length(document.total_steps, total) if isinstance(document, OneCycleLr) else None
        self._torch = self._made(document, optimizer, total, larger_is_better)

    def step(self, metric: float | None = None) -> None:
        """One update or epoch is done; without its metric a plateau is not looked for."""
        scheduler = self._torch
        if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
            if metric is not None:
                scheduler.step(metric)
        elif self._last is None or scheduler.last_epoch < self._last:  # beyond its end the last rate stays
            scheduler.step()

    def state(self) -> dict[str, Any]:
        """Plain data for `restore`."""
        return self._torch.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a `state()`; the optimizer's is restored before."""
        self._torch.load_state_dict(state)

    def _made(
        self, document: AnyScheduler, optimizer: torch.optim.Optimizer, total: int | None, larger_is_better: bool
    ) -> lr_scheduler.LRScheduler:
        match document:
            case SequentialLr():
                ends = [*document.milestones, total]
                begins = [0, *document.milestones]
                parts = [
                    self._made(part, optimizer, None if end is None else max(1, end - begin), larger_is_better)
                    for part, begin, end in zip(document.schedulers, begins, ends, strict=True)
                ]
                return lr_scheduler.SequentialLR(optimizer, parts, list(document.milestones))
            case Chained():
                parts = [self._made(part, optimizer, total, larger_is_better) for part in document.schedulers]
                return lr_scheduler.ChainedScheduler(parts, optimizer)
            case _:
                settings = document.model_dump(exclude={"type", "interval", "metric"})
                for name in [name for name, value in settings.items() if value == "budget"]:
                    settings[name] = _length("budget", total)
                if isinstance(document, (CyclicLr, OneCycleLr)):
                    for name in {"base_lr", "max_lr"} & settings.keys():
                        settings[name] = [settings[name] * ratio for ratio in self._ratios]
                if isinstance(document, ReduceLrOnPlateau):
                    settings["mode"] = "max" if larger_is_better else "min"
                made = getattr(lr_scheduler, document.type)(optimizer, **settings)
                return cast(lr_scheduler.LRScheduler, made)


def _length(asked: int | str, total: int | None) -> int:
    if isinstance(asked, int):
        return asked
    if total is None:
        raise ValueError("the length of the budget is not known")
    return max(1, total)
