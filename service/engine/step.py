"""One step of training behind a narrow seam: forward and backward of a batch, and the update of the weights.

`Step` is what the trainer asks for; `AutogradStep` is torch's way of doing it. It knows a net, an objective and an
optimizer, and nothing of epochs, budgets and events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn

from service.engine import optimizers
from service.engine.objectives import fits, loss_function
from service.engine.updates import Update
from service.errors import JobFailed
from service.schemas.objectives import AnyObjective
from service.schemas.training import TrainingConfig

_run_backward: Final = torch.autograd.Variable._execution_engine.run_backward
"""What loss.backward() comes to; the checks on the way there take a fifth of a small net's backward."""


class Step(Protocol):
    """What trains a net by one batch at a time. Its bits are those of `AutogradStep`."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Whose param_groups a schedule moves."""
        ...

    def backward(self, inputs: Sequence[Tensor], targets: Tensor, *, share: float | None, fresh: bool) -> Tensor:
        """Forward and backward of a batch; its gradients are added to what was gathered, or begin anew.

        Args:
            inputs: [rows, …] each.
            targets: [rows, …].
            share: what part this batch has in the update; None is all of it.
            fresh: whether what was gathered is forgotten.

        Returns:
            The loss of the batch, not scaled, without its graph, still on the device.
        """
        ...

    def update(self) -> None:
        """Clip what was gathered and let the optimizer take its step."""
        ...

    def state(self, *, gathering: bool) -> dict[str, Any]:
        """Plain data and live tensors for `restore`; with the gradients, while an update is being gathered."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a `state()`."""
        ...


class AutogradStep:
    """The step of torch's own loop: loss.backward(), clip, optimizer.step().

    Args:
        module: the net, on its device and in training mode.
        config: optimizer, clipping, autocast and memory format.
        objective: fitted.
    """

    def __init__(self, module: nn.Module, config: TrainingConfig, objective: AnyObjective) -> None:
        self._module = module
        self._named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        self._parameters = [parameter for _, parameter in self._named]
        self._objective = objective
        self._loss_of = loss_function(objective)
        self._same_shape = objective.shape == "outputs"
        self._clip_norm, self._clip_value = config.clip_grad_norm, config.clip_grad_value
        self._channels_last = config.channels_last
        self._autocast = config.amp is not None
        self._optimizer = optimizers.make(config.optimizer, self._named)
        self._update = Update(self._optimizer)
        self._one: Tensor | None = None

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """torch's own."""
        return self._optimizer

    def backward(self, inputs: Sequence[Tensor], targets: Tensor, *, share: float | None, fresh: bool) -> Tensor:
        """As the protocol says.

        Raises:
            JobFailed: the outputs do not lie beside the targets as the objective takes them.
        """
        outputs = self._outputs(inputs)
        if (
            outputs.shape != targets.shape
            if self._same_shape
            else not fits(self._objective, outputs.shape, targets.shape)
        ):
            raise _shapes_differ(outputs, targets, same=self._same_shape)
        loss: Tensor = self._loss_of(outputs, targets)
        if fresh:
            for parameter in self._parameters:
                parameter.grad = None  # optimizer.zero_grad() without its ten microseconds of bookkeeping
        scaled = loss if share is None else loss * share
        if self._one is None or self._one.dtype != scaled.dtype:
            self._one = torch.ones_like(scaled)
        _run_backward((scaled,), (self._one,), False, False, (), allow_unreachable=True, accumulate_grad=True)
        return loss.detach()

    def update(self) -> None:
        """As the protocol says."""
        if self._clip_value is not None:
            nn.utils.clip_grad_value_(self._parameters, self._clip_value)
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        self._update()

    def state(self, *, gathering: bool) -> dict[str, Any]:
        """As the protocol says."""
        self._update.settle()
        gradients = [parameter.grad for parameter in self._parameters] if gathering else None
        return {"optimizer": self._optimizer.state_dict(), "gradients": gradients}

    def restore(self, state: Mapping[str, Any]) -> None:
        """As the protocol says."""
        self._update.settle()
        self._optimizer.load_state_dict(state["optimizer"])
        for parameter, gradient in zip(self._parameters, state.get("gradients") or (), strict=False):
            parameter.grad = None if gradient is None else gradient.to(parameter.device)

    def _outputs(self, inputs: Sequence[Tensor]) -> Tensor:
        if self._channels_last:
            inputs = [_channels_last(part) for part in inputs]
        if not self._autocast:
            return self._module(*inputs)
        with torch.autocast(self._parameters[0].device.type, dtype=torch.bfloat16):
            outputs: Tensor = self._module(*inputs)
        return outputs.float() if outputs.dtype == torch.bfloat16 else outputs


def _channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last) if images.dim() == 4 else images  # [rows, C, H, W]


def _shapes_differ(outputs: Tensor, targets: Tensor, *, same: bool) -> JobFailed:
    """torch would stretch both to a common shape and train on a wrong loss."""
    return JobFailed(
        "shape_error",
        f"The net answers {list(outputs.shape)}, the targets have the shape {list(targets.shape)}.",
        hint="Give each target as a list: [[1.0], [2.0]] instead of [1.0, 2.0]." if same else None,
        pointer="/dataset",
    )
