"""A step whose forward and backward are recorded once a shape and replayed: small nets no longer wait for launches.

It knows an accelerator's graphs and the step that it records, and nothing of epochs and events. The update stays
torch's own, outside the recording, so that clipping, schedules and every optimizer work as ever.

Source: "CUDA graphs" in torch's notes, whole-network capture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from service.engine.step import AutogradStep

_WARM_UP: Final = 3
"""Passes before a recording: libraries choose their algorithms and take their workspace in the first ones."""
_SHAPES: Final = 4
"""Recordings that are kept. A run has two shapes: that of its batches and that of the last one of an epoch."""


@dataclass(frozen=True, slots=True)
class _Recording:
    """A recorded pass: where its batch must lie, and where its loss and gradients will."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    targets: Tensor
    loss: Tensor
    gradients: tuple[Tensor | None, ...]


class GraphStep(AutogradStep):
    """`AutogradStep` by recordings. For nets on a cuda device whose way does not depend on the rows' values.

    A batch that is a part of an update is computed without one, as are batches beyond the first four shapes.
    """

    _recordings: dict[tuple[torch.Size, ...], _Recording] | None = None

    def backward(self, inputs: Sequence[Tensor], targets: Tensor, *, share: float | None, fresh: bool) -> Tensor:
        """As the protocol says.

        Raises:
            JobFailed: the outputs do not lie beside the targets as the objective takes them.
        """
        if share is not None or not fresh or targets.device.type != "cuda":
            return super().backward(inputs, targets, share=share, fresh=fresh)
        if self._recordings is None:
            self._recordings = {}
        shapes = tuple(part.shape for part in (*inputs, targets))
        recording = self._recordings.get(shapes)
        if recording is None:
            if len(self._recordings) == _SHAPES:
                return super().backward(inputs, targets, share=share, fresh=fresh)
            recording = self._recordings[shapes] = self._record(inputs, targets)
        for place, part in zip(recording.inputs, inputs, strict=True):
            place.copy_(part, non_blocking=True)
        recording.targets.copy_(targets, non_blocking=True)
        recording.graph.replay()
        for parameter, gradient in zip(self._parameters, recording.gradients, strict=True):
            parameter.grad = gradient
        return recording.loss.clone()  # the next replay writes over it

    def _record(self, inputs: Sequence[Tensor], targets: Tensor) -> _Recording:
        """Record the pass of a shape. Buffers and generators are put back, so that the run does not notice."""
        device = targets.device
        places = tuple(part.clone() for part in inputs)
        wanted = targets.clone()
        buffers = [(buffer, buffer.clone()) for buffer in self._module.buffers()]
        generator = torch.cuda.get_rng_state(device)
        aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP):
                super().backward(places, wanted, share=None, fresh=True)
        torch.cuda.current_stream(device).wait_stream(aside)
        for buffer, before in buffers:
            buffer.copy_(before)
        torch.cuda.synchronize(device)
        torch.cuda.set_rng_state(generator, device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = super().backward(places, wanted, share=None, fresh=True)
        return _Recording(graph, places, wanted, loss, tuple(parameter.grad for parameter in self._parameters))
