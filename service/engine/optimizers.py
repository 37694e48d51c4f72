"""torch's optimizers from their documents, with groups of parameters by pattern.

Knows parameters and their names; no net and no data.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import torch
from torch import nn

from service.schemas.edits import frozen as named_by
from service.schemas.optimizers import AnyOptimizer

_ONE_BY_ONE: Final = frozenset({"NAdam", "RAdam", "Adafactor", "ASGD"})
"""Optimizers whose `foreach` form rounds otherwise than the plain one, which is torch's default in main memory."""


def make(document: AnyOptimizer, parameters: Sequence[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
    """torch's optimizer of this document.

    All parameters of a group are updated at a time (`foreach`) where that gives the bits of one after another.

    Args:
        document: the class and its settings; of its groups the first that names a parameter has it.
        parameters: those that are trained, with their names in the net, in its order.
    """
    settings = document.model_dump(exclude={"type", "groups"})
    names = [name for name, _ in parameters]
    rest = dict(parameters)
    groups: list[dict[str, Any]] = []
    for group in document.groups:
        chosen = [rest.pop(name) for name in named_by(names, (group.match,)) if name in rest]
        own = {"lr": group.lr if group.lr is not None else document.lr * (group.lr_scale or 1.0)}
        if group.weight_decay is not None:
            own["weight_decay"] = group.weight_decay
        if chosen:
            groups.append({"params": chosen, **own})
    if rest:
        groups.insert(0, {"params": list(rest.values())})
    made: torch.optim.Optimizer = getattr(torch.optim, document.type)(
        groups, **settings, foreach=document.type not in _ONE_BY_ONE
    )
    return made


def unmatched(document: AnyOptimizer, names: Iterable[str]) -> list[int]:
    """The places of the groups that name none of these parameters."""
    known = tuple(names)
    return [place for place, group in enumerate(document.groups) if not named_by(known, (group.match,))]
