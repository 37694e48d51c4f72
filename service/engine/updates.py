"""The updates of SGD, Adam and AdamW by the operations that torch's optimizers call, without their bookkeeping.

That bookkeeping (profiler entries, gathering and grouping of tensors, at every step) takes more time than the update of
a small net. The state stays in torch's optimizer, and so do its rates; bits are torch's own, to which tests hold them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class Update:
    """Stands for `optimizer.step()`.

    The first update, and every one that is not of the plain kind (another class, parameters without gradients, several
    types of numbers), is torch's own.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._plain = _PLAIN.get(type(optimizer))
        self._groups: list[_Group] | None = None

    def __call__(self) -> None:
        """Let the optimizer take its step."""
        gradients = self._gradients()
        if gradients is None or self._plain is None:
            self.settle()
            self._optimizer.step()
            self._groups = self._gathered()
            return
        assert self._groups is not None
        for group, own in zip(self._groups, gradients, strict=True):
            self._plain(group, own)

    def settle(self) -> None:
        """Write what is counted here into the optimizer's state, and read that again at the next update."""
        for group in self._groups or ():
            for each in group.steps:
                each.fill_(group.step)
        self._groups = None

    def _gradients(self) -> list[list[Tensor]] | None:
        """Those of each group; None where an update is not of the plain kind."""
        if self._groups is None:
            return None
        found = [[parameter.grad for parameter in group.parameters] for group in self._groups]
        if any(gradient is None for own in found for gradient in own):
            return None
        return found  # type: ignore[return-value]  # none of them is None

    def _gathered(self) -> list[_Group] | None:
        if self._plain is None:
            return None
        groups = []
        for settings in self._optimizer.param_groups:
            parameters = settings["params"]
            state = [self._optimizer.state.get(parameter, {}) for parameter in parameters]
            names = _state_names(self._optimizer, settings)
            one_kind = len({(parameter.dtype, parameter.device) for parameter in parameters}) == 1
            if not one_kind or any(each.get(name) is None for each in state for name in names):
                return None
            steps = [each["step"] for each in state] if "step" in names else []
            counts = {float(step) for step in steps}
            if len(counts) > 1:
                return None
            tensors = {name: [each[name] for each in state] for name in names if name != "step"}
            values = [parameter.detach() for parameter in parameters]
            groups.append(_Group(settings, parameters, values, tensors, steps, counts.pop() if counts else 0.0))
        return groups


@dataclass(slots=True)
class _Group:
    """A group of parameters with its state, in lists."""

    settings: dict[str, Any]
    parameters: list[Tensor]
    values: list[Tensor]
    """The parameters' own memory, of which autograd keeps no record."""
    state: dict[str, list[Tensor]]
    steps: list[Tensor]
    step: float


def _state_names(optimizer: torch.optim.Optimizer, settings: dict[str, Any]) -> tuple[str, ...]:
    if isinstance(optimizer, torch.optim.SGD):
        return ("momentum_buffer",) if settings["momentum"] != 0 else ()
    return ("step", "exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if settings["amsgrad"] else ()))


def _sgd(group: _Group, gradients: list[Tensor]) -> None:
    """b ← μ·b + (1 − τ)·g;  p ← p − lr·b, with g + μ·b in the place of b for Nesterov's."""
    settings, parameters = group.settings, group.values
    if settings["weight_decay"] != 0:
        gradients = list(torch._foreach_add(gradients, parameters, alpha=settings["weight_decay"]))
    momentum = settings["momentum"]
    if momentum != 0:
        buffers = group.state["momentum_buffer"]
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, gradients, alpha=1 - settings["dampening"])
        if settings["nesterov"]:
            torch._foreach_add_(gradients, buffers, alpha=momentum)
        else:
            gradients = buffers
    torch._foreach_add_(parameters, gradients, alpha=-settings["lr"])


def _adam(group: _Group, gradients: list[Tensor]) -> None:
    """m ← β₁·m + (1 − β₁)·g;  v ← β₂·v + (1 − β₂)·g²;  p ← p − lr·m̂ / (√v̂ + ε), with decay before or in g."""
    settings, parameters = group.settings, group.values
    rate, decay, (beta1, beta2) = settings["lr"], settings["weight_decay"], settings["betas"]
    group.step += 1
    if decay != 0:
        if settings["decoupled_weight_decay"]:
            torch._foreach_mul_(parameters, 1 - rate * decay)
        else:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=decay))
    means, squares = group.state["exp_avg"], group.state["exp_avg_sq"]
    torch._foreach_lerp_(means, gradients, 1 - beta1)
    torch._foreach_mul_(squares, beta2)
    torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
    if settings["amsgrad"]:
        largest = group.state["max_exp_avg_sq"]
        torch._foreach_maximum_(largest, squares)
        squares = largest
    step_size = (rate / (1 - beta1**group.step)) * -1
    roots = torch._foreach_sqrt(squares)
    torch._foreach_div_(roots, (1 - beta2**group.step) ** 0.5)
    torch._foreach_add_(roots, settings["eps"])
    torch._foreach_addcdiv_(parameters, means, roots, step_size)


_PLAIN: dict[type[torch.optim.Optimizer], Callable[[_Group, list[Tensor]], None]] = {
    torch.optim.SGD: _sgd,
    torch.optim.Adam: _adam,
    torch.optim.AdamW: _adam,
}
