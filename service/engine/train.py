"""The training loop: an iterator of events over tensors in memory, with its whole state in and out for resuming.

It knows tensors and the training document; it knows no dataset, no file and no job, and not where its events go. For
the same seed, initial weights and data its losses and weights are the bits of the loop that a tutorial writes by hand:
torch's DataLoader draws two numbers an epoch from the global generator, and so does this.
"""

from __future__ import annotations

import copy
import math
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from service.engine import objectives, optimizers, transfer
from service.engine.augmentation import Augment
from service.engine.checkpoint import NO_MEMORY
from service.engine.evaluate import default_metrics, evaluate, larger_is_better
from service.engine.schedulers import Schedule
from service.engine.step import AutogradStep, Step
from service.errors import JobFailed
from service.schemas.edits import frozen
from service.schemas.objectives import AnyObjective
from service.schemas.schedulers import ReduceLrOnPlateau, needs_total
from service.schemas.training import TrainingConfig

_BUFFERED_STEPS: Final = 1024
"""Losses that stay on the device before they are read."""

_PLANNING_SHARE: Final = 0.02
"""Of a budget of seconds, at most, goes into measuring what a step takes; and at most `_PLANNING_S` seconds."""
_PLANNING_S: Final = 1.0
_PLANNED_SHARE: Final = 0.95
"""Of what is left then is planned for, so that the plan's end is reached before the budget's."""
_ON_DEVICE_SHARE: Final = 0.25
"""Rows live on a cuda device when they take no more than this of its free memory; else each batch is copied there."""

StopReason = Literal["budget", "early_stopping", "stopped"]
MakeStep = Callable[[nn.Module, TrainingConfig, AnyObjective], Step]


class StopFlag:
    """Set from a signal handler or another thread; looked at before every step."""

    __slots__ = ("is_set",)

    def __init__(self) -> None:
        self.is_set = False

    def set(self) -> None:
        """Ask the trainer to stop at the next step boundary."""
        self.is_set = True


@dataclass(frozen=True, slots=True)
class Best:
    """The best value of a metric so far, and when it was reached."""

    value: float
    step: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Report:
    """How far the run is, with the loss of every step since the last report."""

    step: int
    """Steps done."""
    epoch: int
    """The epoch, from 1, of the last step."""
    fraction: float
    """Share of the budget that is used up, 0 to 1; 1 at an end that early stopping brought, too."""
    eta_s: float | None
    samples_per_s: float | None
    first_step: int
    """The step, from 1, of losses[0]."""
    losses: tuple[float, ...]
    lr: float = 0.0
    """Of the first group of parameters, for the next update."""
    rates: tuple[float, ...] = ()
    """That group's rate at each step of `losses`."""
    planned_steps: int | None = None
    """How long a budget of seconds will be, where a scheduler had to know."""


@dataclass(frozen=True, slots=True)
class EpochMetrics:
    """What the held-out rows gave at the end of one epoch."""

    epoch: int
    step: int
    metrics: Mapping[str, float]
    """With the prefix val_."""


@dataclass(frozen=True, slots=True)
class EpochEnd:
    """The metrics at the end of the newest epoch, and those of the held-out rows of every epoch since the last such
    event."""

    epoch: int
    step: int
    metrics: Mapping[str, float]
    """`loss` over the epoch's steps, and the metrics of the held-out rows with the prefix val_."""
    best: Mapping[str, Best]
    held_out: tuple[EpochMetrics, ...]


@dataclass(frozen=True, slots=True)
class CheckpointDue:
    """It is time to keep `Trainer.state()`; the weights are finite."""

    step: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event."""

    reason: StopReason
    step: int
    epoch: int
    elapsed_s: float
    metrics: Mapping[str, float]
    best: Mapping[str, Best]


Event = Report | EpochEnd | CheckpointDue | Finished


@dataclass(frozen=True)
class Length:
    """How long a run was: its steps, and where a schedule had to know them beforehand, how many were planned."""

    steps: int
    planned_steps: int | None = None


@dataclass(slots=True)
class _Progress:
    """Everything that changes from step to step, beside module, optimizer and the generator; plain data for `state`."""

    step: int = 0
    epoch: int = 0
    """Epochs begun."""
    position: int = 0
    """Rows of the current epoch that were taken."""
    order: Tensor | None = None
    """int64 [rows]: the current epoch's permutation, with shuffling."""
    loss_sum: float = 0.0
    """Of the current epoch's steps, weighted by rows for a mean."""
    to_beat: float | None = None
    """What the watched metric must improve on, for early stopping."""
    epochs_without_improvement: int = 0
    elapsed_s: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    best: dict[str, Best] = field(default_factory=dict)
    best_weights: dict[str, Tensor] | None = None
    planned_steps: int | None = None
    frozen_digest: str | None = None


class Trainer:
    """Trains a module in place.

    Args:
        module: in training mode in main memory; its initial weights were drawn after the seed was set, and nothing drew
            from the global generator since. While it trains it is on the document's device; then it is back.
        config: the training document; `preprocessing`, `split`, `seed` and `init.from` are the caller's business.
        inputs: one tensor [N, …] for each input of the net, in main memory.
        targets: [N, …] as the objective takes them, there too.
        validation: inputs and targets of the held-out rows.
        stop: looked at before every step.
        clock: monotonic seconds.
        report_every_s: seconds between two reports.
        unscale: brings outputs and targets to the target's own units, for mae and r2.
        frozen: keys of the state_dict that the caller has frozen, by `transfer.freeze`; `init.freeze` adds to them.
        augment: changes the inputs of a training batch, by the number of the step from 1.
        make_step: what computes a step; its bits are those of `AutogradStep`.
        length: of the run that this one repeats, which a budget of seconds may have ended.

    Raises:
        JobFailed: there is nothing to train, not one full batch, or not the device; a pattern names nothing.
    """

    def __init__(
        self,
        module: nn.Module,
        config: TrainingConfig,
        inputs: Sequence[Tensor],
        targets: Tensor,
        *,
        validation: tuple[Sequence[Tensor], Tensor] | None = None,
        stop: StopFlag | None = None,
        clock: Callable[[], float] = time.monotonic,
        report_every_s: float = 0.2,
        unscale: Callable[[Tensor], Tensor] | None = None,
        frozen: Collection[str] = (),
        augment: Augment | None = None,
        make_step: MakeStep = AutogradStep,
        length: Length | None = None,
    ) -> None:
        self.module = module
        self.config = config
        self.objective: AnyObjective = objectives.fit(config.objective, targets)
        """The document's, with what it fits to the training rows."""
        self._device = _device(config)
        self._inputs = tuple(inputs)
        self._targets = targets
        self._validation = validation
        self._augment = augment
        self._stop = stop or StopFlag()
        self._clock = clock
        self._report_every_s = report_every_s
        self._unscale = unscale
        self._rows = len(targets)
        self._batch = min(config.batch_size or self._rows, self._rows)
        self._shuffle = config.shuffle if config.shuffle is not None else config.batch_size is not None
        whole, rest = divmod(self._rows, config.batch_size or self._rows)
        self.steps_per_epoch = whole + (1 if rest and not config.drop_last else 0)
        if self.steps_per_epoch == 0:
            raise JobFailed(
                "data_error",
                f"drop_last leaves no batch: there are {self._rows} training rows and a batch has {config.batch_size}.",
                hint="Use a smaller batch_size.",
                pointer="/batch_size",
            )
        self._epoch_rows = self.steps_per_epoch * self._batch if config.drop_last else self._rows
        self._frozen = self._freeze(frozen)
        if not any(parameter.requires_grad for parameter in module.parameters()):
            raise JobFailed(
                "data_error",
                "The net has no parameters to train.",
                hint='Publish it with a job of the kind "import".',
                pointer="/architecture",
            )
        for place in optimizers.unmatched(config.optimizer, (name for name, _ in module.named_parameters())):
            match = config.optimizer.groups[place].match
            raise _names_nothing(match, f"/optimizer/groups/{place}/match")
        self._on_device = self._move()
        if config.channels_last:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        self._make_step = make_step
        self._step = make_step(module, config, self.objective)
        self._mean = self.objective.reduction != "sum"
        self._accumulate = config.accumulate
        epochs, steps = config.budget.epochs, config.budget.steps
        self._total_steps = min(
            math.inf if epochs is None else epochs * self.steps_per_epoch, math.inf if steps is None else steps
        )
        self._max_seconds = config.budget.max_seconds or math.inf
        self._last_step = math.inf
        stopping = config.early_stopping
        self._patience = stopping.patience if stopping else math.inf
        self._min_delta = stopping.min_delta if stopping else 0.0
        self._watched = stopping.metric if stopping else "val_loss" if validation else "loss"
        asked = config.metrics if config.metrics is not None else default_metrics(config.objective)
        plateau = config.scheduler.metric if isinstance(config.scheduler, ReduceLrOnPlateau) else None
        needed = [metric.removeprefix("val_") for metric in (self._watched, plateau) if metric is not None]
        self._metrics = tuple(dict.fromkeys(("loss", *asked, *needed)))
        # a run that is stopped keeps its best weights, where held-out rows say which these are
        self._keep_best = config.checkpoint.publish == "best" or validation is not None
        # whether each epoch's end must read its losses; else they are read when a report is due
        self._reads_epochs = validation is not None or stopping is not None or plateau is not None or self._keep_best
        self._progress = _Progress()
        if self._frozen:
            self._progress.frozen_digest = transfer.fingerprint(module, self._frozen)
        if length is not None:
            self._max_seconds, self._last_step = math.inf, length.steps
            if length.planned_steps is not None:
                self._progress.planned_steps = self._total_steps = length.planned_steps
        self._schedule: Schedule | None = None
        if config.scheduler is not None and not self._needs_plan:
            self._schedule = self._make_schedule()
        self._unread: list[Tensor] = []  # losses that wait on the device
        self._reported = (0.0, 0)  # when the last report was made, and the rows done by then
        self._told_fraction = 0.0
        self._samples_per_s: float | None = None
        self._untold: list[float] = []  # read, but in no report yet
        self._rates: list[float] = []  # of the steps that are in no report yet, where a schedule moves them
        self._epoch_untold = False
        self._held_out_untold: list[EpochMetrics] = []
        self._told = 0  # steps whose loss was told

    @property
    def step(self) -> int:
        """Steps done."""
        return self._progress.step

    @property
    def best_weights(self) -> dict[str, Tensor] | None:
        """The state_dict at the end of the best epoch (by the early-stopping metric, else val_loss, else loss).

        Kept when the document publishes the best or there are held-out rows; None before the first epoch's end.
        """
        return self._progress.best_weights

    @property
    def best_at(self) -> Best | None:
        """Where `best_weights` come from; None before there are any."""
        return None if self._progress.best_weights is None else self._progress.best[self._watched]

    @property
    def planned_steps(self) -> int | None:
        """The steps that a budget of seconds was planned to have, where a scheduler had to know."""
        return self._progress.planned_steps

    @property
    def frozen(self) -> tuple[str, ...]:
        """The keys of all that is not trained, running statistics that are held among them."""
        return self._frozen

    @property
    def frozen_digest(self) -> str | None:
        """Of what is frozen, when training began; None where nothing is."""
        return self._progress.frozen_digest

    def certificate(self) -> dict[str, Any] | None:
        """Whether the frozen tensors are what they were when training began: plain data for the lineage.

        Returns:
            `frozen`, how many tensors these are; `identical`; `digest`, of them as they are now. None if nothing is
            frozen.
        """
        if not self._frozen:
            return None
        digest = transfer.fingerprint(self.module, self._frozen)
        identical = digest == self._progress.frozen_digest
        return {"frozen": len(self._frozen), "identical": identical, "digest": digest}

    def run(self) -> Iterator[Event]:
        """Train until the budget is used up, early stopping says so or the flag is set; ends with `Finished`.

        Raises:
            JobFailed: with `non_finite_loss`, `out_of_memory`, `shape_error`, `label_out_of_range`, `data_error` or
                `not_deterministic`.
        """
        try:
            with _deterministic(self.config.deterministic):
                yield from self._run()
        except JobFailed:
            yield from self._tell(self._clock())  # the losses up to the fault are what explains it
            raise

    def _run(self) -> Iterator[Event]:
        progress, clock = self._progress, self._clock
        now = clock()
        began = now - progress.elapsed_s
        report_at, checkpoint_at = now, now + self.config.checkpoint.every_s  # the first step is reported at once
        self._reported = (now, self._rows_done(progress.step))
        self._told = progress.step
        self.module.train()
        if self._needs_plan:
            self._plan(began)

        while (reason := self._reason_to_end()) is None:
            try:
                self._train_step()
                if progress.position >= self._epoch_rows:
                    self._end_epoch()
            except (RuntimeError, ValueError, IndexError, MemoryError) as error:
                translated = self._translated(error)
                if translated is error:
                    raise
                raise translated from error

            now = clock()
            progress.elapsed_s = now - began
            if len(self._unread) == _BUFFERED_STEPS:
                self._read_losses()
            if now >= report_at or now >= checkpoint_at:
                yield from self._report(now)
                report_at = now + self._report_every_s
                if now >= checkpoint_at:
                    self._check_weights()
                    yield CheckpointDue(progress.step, progress.epoch)
                    checkpoint_at = clock() + self.config.checkpoint.every_s  # the interval begins when it is kept

        self._read_losses()
        self._check_weights()
        yield from self._tell(clock(), ended=reason != "stopped")
        if reason != "stopped":  # a state that is kept goes on from where the weights are
            self._bring_back()
        yield Finished(
            reason, progress.step, progress.epoch, progress.elapsed_s, dict(progress.metrics), dict(progress.best)
        )

    def state(self) -> dict[str, Any]:
        """Everything that a run needs to go on with the same bits: nested plain data and tensors.

        To be taken between two events. The tensors are the live ones: save them before the next event is asked for.
        """
        progress = self._progress
        return {
            "format": 1,
            "module": self.module.state_dict(),
            **self._step.state(gathering=self._is_gathering),
            "schedule": None if self._schedule is None else self._schedule.state(),
            "rng": torch.get_rng_state(),
            "cuda_rng": _cuda_generators(),
            "step": progress.step,
            "epoch": progress.epoch,
            "position": progress.position,
            "order": progress.order,
            "loss_sum": progress.loss_sum,
            "to_beat": progress.to_beat,
            "epochs_without_improvement": progress.epochs_without_improvement,
            "elapsed_s": progress.elapsed_s,
            "metrics": dict(progress.metrics),
            "best": {name: [best.value, best.step, best.epoch] for name, best in progress.best.items()},
            "best_weights": progress.best_weights,
            "planned_steps": progress.planned_steps,
            "frozen_digest": progress.frozen_digest,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a `state()` of a trainer that was made from the same arguments; nothing may draw before `run`.

        Raises:
            ValueError: the state is of another format.
        """
        if state.get("format") != 1:
            raise ValueError(f"a training state of format {state.get('format')!r} cannot be read")
        self.module.load_state_dict(state["module"])
        self._step.restore(state)
        torch.set_rng_state(state["rng"].cpu())
        if state["cuda_rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all([rng.cpu() for rng in state["cuda_rng"]])
        self._progress = _Progress(
            step=state["step"],
            epoch=state["epoch"],
            position=state["position"],
            order=None if state["order"] is None else state["order"].to(self._targets.device),
            loss_sum=state["loss_sum"],
            to_beat=state["to_beat"],
            epochs_without_improvement=state["epochs_without_improvement"],
            elapsed_s=state["elapsed_s"],
            metrics=dict(state["metrics"]),
            best={name: Best(*values) for name, values in state["best"].items()},
            best_weights=state["best_weights"],
            planned_steps=state.get("planned_steps"),
            frozen_digest=state.get("frozen_digest", self._progress.frozen_digest),
        )
        if self._progress.planned_steps is not None:
            self._total_steps = self._progress.planned_steps
            self._schedule = self._make_schedule()
        if self._schedule is not None and state.get("schedule") is not None:
            self._schedule.restore(state["schedule"])

    # -- the step ------------------------------------------------------------------------------------------------------

    def _train_step(self) -> None:
        progress = self._progress
        if progress.position == 0:
            self._begin_epoch()
        inputs, targets = self._next_batch()
        if self._augment is not None:
            inputs = self._augment(tuple(inputs), progress.step + 1)

        if self._schedule is not None:
            self._rates.append(self._rate())
        if self._accumulate == 1:
            loss = self._step.backward(inputs, targets, share=None, fresh=True)
            self._update()
        else:
            first, last = self._group()
            share = len(targets) / self._rows_between(first, last) if self._mean else None
            loss = self._step.backward(inputs, targets, share=share, fresh=progress.step == first)
            if progress.step == last - 1:
                self._update()

        self._unread.append(loss)  # stays on the device: reading it here would wait for the step
        progress.step += 1

    def _rate(self) -> float:
        return float(self._step.optimizer.param_groups[0]["lr"])

    def _update(self) -> None:
        self._step.update()
        if self._schedule is not None and self._schedule.interval == "step":
            self._schedule.step()

    def _group(self) -> tuple[int, int]:
        """The steps, from 0, whose batches make one update with the one that comes, and the step after them.

        The last update of an epoch, and of a budget of steps, may have fewer batches.
        """
        epoch, in_epoch = divmod(self._progress.step, self.steps_per_epoch)
        first = epoch * self.steps_per_epoch + in_epoch - in_epoch % self._accumulate
        return first, int(min(first + self._accumulate, (epoch + 1) * self.steps_per_epoch, self._total_steps))

    @property
    def _is_gathering(self) -> bool:
        return self._accumulate > 1 and self._group()[0] != self._progress.step

    def _rows_between(self, first: int, last: int) -> int:
        return self._rows_done(last) - self._rows_done(first)

    def _begin_epoch(self) -> None:
        progress = self._progress
        progress.epoch += 1
        if self.config.batch_size is None and not self._shuffle:
            return
        # what iter(DataLoader(…)) draws from the global generator: a base seed for workers, then the sampler's seed
        torch.empty((), dtype=torch.int64).random_()
        if self._shuffle:
            seed = int(torch.empty((), dtype=torch.int64).random_().item())
            generator = torch.Generator().manual_seed(seed)
            progress.order = torch.randperm(self._rows, generator=generator).to(self._targets.device)

    def _next_batch(self) -> tuple[Sequence[Tensor], Tensor]:
        """Inputs and targets [batch, …] of the next step; the last batch of an epoch may be smaller."""
        progress = self._progress
        start = progress.position
        progress.position = stop = start + self._batch
        return self._rows_of(start, stop, progress.order)

    def _rows_of(self, start: int, stop: int, order: Tensor | None) -> tuple[Sequence[Tensor], Tensor]:
        inputs: Sequence[Tensor]
        if order is not None:
            rows = order[start:stop]
            inputs = [part.index_select(0, rows) for part in self._inputs]
            targets = self._targets.index_select(0, rows)
        elif self._batch == self._rows:
            inputs, targets = self._inputs, self._targets
        else:
            inputs, targets = [part[start:stop] for part in self._inputs], self._targets[start:stop]
        if self._on_device:
            return inputs, targets
        # pinned memory is copied while the device still computes the step before
        moved = [part.pin_memory().to(self._device, non_blocking=True) for part in (*inputs, targets)]
        return moved[:-1], moved[-1]

    # -- before the first step ----------------------------------------------------------------------------------------

    def _freeze(self, already: Collection[str]) -> tuple[str, ...]:
        """Hold what `init.freeze` names; returns the keys of all that is frozen."""
        init, module = self.config.init, self.module
        held = set(already)
        if init is not None and init.freeze:
            keys = tuple(module.state_dict())
            for place, glob in enumerate(init.freeze):
                if not frozen(keys, (glob.removeprefix("!"),)):
                    raise _names_nothing(glob, f"/init/freeze/{place}")
            named = transfer.frozen_keys(module, init.freeze, statistics=init.freeze_batchnorm_stats)
            transfer.freeze(module, named)
            held |= set(named)
        held |= {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
        return tuple(sorted(held))

    def _move(self) -> bool:
        """Bring the net to its device, and the rows if they fit there; whether batches need no copy."""
        device = self._device
        if device == self._targets.device:
            return True
        self.module.to(device)
        rows = (*self._inputs, self._targets)
        room, _ = torch.cuda.mem_get_info(device)
        if sum(part.nbytes for part in rows) > room * _ON_DEVICE_SHARE:
            return False
        self._inputs = tuple(part.to(device) for part in self._inputs)
        self._targets = self._targets.to(device)
        return True

    def _bring_back(self) -> None:
        """The trained net as the caller handed it over: in main memory, laid out as usual."""
        if self.config.channels_last:
            self.module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        if self._device.type != "cpu":
            self.module.to("cpu")

    @property
    def _needs_plan(self) -> bool:
        scheduler = self.config.scheduler
        return scheduler is not None and needs_total(scheduler) and self._total_steps == math.inf

    def _make_schedule(self) -> Schedule:
        scheduler = self.config.scheduler
        assert scheduler is not None
        total = None
        if self._total_steps < math.inf:
            epochs, rest = divmod(int(self._total_steps), self.steps_per_epoch)
            updates = epochs * -(-self.steps_per_epoch // self._accumulate) + -(-rest // self._accumulate)
            total = updates if scheduler.interval == "step" else epochs + bool(rest)
        better = isinstance(scheduler, ReduceLrOnPlateau) and larger_is_better(scheduler.metric)
        return Schedule(
            scheduler,
            self._step.optimizer,
            base_lr=self.config.optimizer.lr,
            total=total,
            larger_is_better=better,
        )

    def _plan(self, began: float) -> None:
        """Say how many steps a budget of seconds will have, from what steps of a copy of the net take.

        The copy is thrown away and the generators are put back: with this number as the budget's steps another run
        gives the same bits.
        """
        clock, generators = self._clock, (torch.get_rng_state(), _cuda_generators())
        twin = copy.deepcopy(self.module)
        step = self._make_step(twin, self.config, self.objective)
        order = torch.randperm(self._rows).to(self._targets.device) if self._shuffle else None
        most = min(_PLANNING_S, _PLANNING_SHARE * self._max_seconds)
        taken: list[float] = []
        while len(taken) < 3 or (sum(taken) < most and len(taken) < 10_000):
            since = clock()
            start = len(taken) % self.steps_per_epoch * self._batch
            inputs, targets = self._rows_of(start, start + self._batch, order)
            step.backward(inputs, targets, share=None, fresh=True)
            if len(taken) % self._accumulate == 0:
                step.update()
            self._wait()
            taken.append(clock() - since)
        each = sorted(taken)[len(taken) // 2]
        if self._validation is not None:
            since = clock()
            self._measure(twin)
            each += (clock() - since) / self.steps_per_epoch
        torch.set_rng_state(generators[0])
        if generators[1]:
            torch.cuda.set_rng_state_all(generators[1])
        left = self._max_seconds - (clock() - began)
        steps = max(1, int(_PLANNED_SHARE * left / each)) if each > 0 else 1
        self._progress.planned_steps = self._total_steps = steps
        self._schedule = self._make_schedule()

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    # -- around the step -----------------------------------------------------------------------------------------------

    def _reason_to_end(self) -> StopReason | None:
        progress = self._progress
        if self._stop.is_set:
            return "stopped"
        if progress.epochs_without_improvement >= self._patience:
            return "early_stopping"
        if progress.step >= min(self._total_steps, self._last_step) or progress.elapsed_s >= self._max_seconds:
            return "budget"
        return None

    def _end_epoch(self) -> None:
        progress = self._progress
        progress.position, progress.order = 0, None
        self._epoch_untold = True
        if self._reads_epochs:
            self._judge_epoch()
        if self._schedule is not None and self._schedule.interval == "epoch":
            metric = self._schedule.metric
            self._schedule.step(None if metric is None else progress.metrics.get(metric))

    def _judge_epoch(self) -> None:
        """Measure the held-out rows; keep the best weights; see whether it still gets better."""
        progress = self._progress
        self._read_losses()
        if self._validation is not None:
            found = self._measure(self.module)
            progress.metrics = {"loss": progress.metrics["loss"], **found}
            self._held_out_untold.append(EpochMetrics(progress.epoch, progress.step, found))
            for name, value in found.items():
                self._note(name, value, progress.step)
        watched = progress.best.get(self._watched)
        if self._keep_best and watched is not None and watched.epoch == progress.epoch:
            weights = self.module.state_dict()
            progress.best_weights = {name: tensor.detach().clone() for name, tensor in weights.items()}
        reached = progress.metrics.get(self._watched)  # absent when it was not finite
        if reached is not None and self._is_better(self._watched, reached, progress.to_beat, by=self._min_delta):
            progress.to_beat, progress.epochs_without_improvement = reached, 0
        else:
            progress.epochs_without_improvement += 1

    def _measure(self, module: nn.Module) -> dict[str, float]:
        """The metrics of the held-out rows."""
        assert self._validation is not None
        inputs, targets = self._validation
        return evaluate(module, inputs, targets, self.objective, self._metrics, prefix="val_", unscale=self._unscale)

    def _read_losses(self) -> None:
        """Take the losses from the device, which waits for it; the first that is not finite ends the run."""
        progress, unread = self._progress, self._unread
        if not unread:
            return
        self._unread = []
        first = progress.step - len(unread) + 1
        mean = self._mean
        for step, loss in enumerate(torch.stack(unread).tolist(), start=first):
            if not math.isfinite(loss):
                raise self._not_finite(f"The loss of step {step} is {loss}", step)
            self._untold.append(loss)
            in_epoch = (step - 1) % self.steps_per_epoch + 1
            rows = min(self._batch, self._epoch_rows - (in_epoch - 1) * self._batch)
            progress.loss_sum += loss * rows if mean else loss
            if in_epoch == self.steps_per_epoch:
                progress.metrics["loss"] = progress.loss_sum / self._epoch_rows if mean else progress.loss_sum
                progress.loss_sum = 0.0
                self._note("loss", progress.metrics["loss"], step)

    def _note(self, metric: str, value: float, step: int) -> None:
        best = self._progress.best.get(metric)
        if self._is_better(metric, value, None if best is None else best.value):
            self._progress.best[metric] = Best(value, step, -(-step // self.steps_per_epoch))

    def _is_better(self, metric: str, value: float, than: float | None, *, by: float = 0.0) -> bool:
        if than is None:
            return True
        return value > than + by if larger_is_better(metric) else value < than - by

    def _report(self, now: float) -> Iterator[Event]:
        self._read_losses()
        yield from self._tell(now)

    def _tell(self, now: float, *, ended: bool = False) -> Iterator[Event]:
        """What was read and not told yet; at the end of the training, that it is the end."""
        progress = self._progress
        time_before, rows_before = self._reported
        rows = self._rows_done(progress.step)
        self._reported = (now, rows)
        if rows > rows_before and now > time_before:
            self._samples_per_s = (rows - rows_before) / (now - time_before)
        if self._untold or (ended and self._told_fraction < 1):
            used = max(progress.step / min(self._total_steps, self._last_step), progress.elapsed_s / self._max_seconds)
            self._told_fraction = fraction = 1.0 if ended else min(1.0, used)
            losses, self._untold = tuple(self._untold), []
            rates = self._rates[: len(losses)] or [self._rate()] * len(losses)
            del self._rates[: len(losses)]
            yield Report(
                step=progress.step,
                epoch=progress.epoch,
                fraction=fraction,
                eta_s=progress.elapsed_s * (1 - fraction) / fraction if fraction > 0 else None,
                samples_per_s=self._samples_per_s,
                first_step=self._told + 1,
                losses=losses,
                lr=self._rate(),
                rates=tuple(rates),
                planned_steps=progress.planned_steps,
            )
            self._told += len(losses)
        if self._epoch_untold:
            self._epoch_untold = False
            step = progress.step // self.steps_per_epoch * self.steps_per_epoch
            held_out, self._held_out_untold = tuple(self._held_out_untold), []
            yield EpochEnd(step // self.steps_per_epoch, step, dict(progress.metrics), dict(progress.best), held_out)

    def _rows_done(self, step: int) -> int:
        epochs, steps = divmod(step, self.steps_per_epoch)
        return epochs * self._epoch_rows + steps * self._batch

    def _check_weights(self) -> None:
        """The update of the last step may have broken weights that no loss has seen yet."""
        tensors = [tensor for tensor in self.module.state_dict().values() if tensor.is_floating_point()]
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
            step = self._progress.step
            raise self._not_finite(f"After step {step} the weights are no longer finite", step)

    def _not_finite(self, what: str, step: int) -> JobFailed:
        progress, rate = self._progress, self.config.optimizer.lr
        lower = min(rate / 100, 0.1)
        epoch = -(-step // self.steps_per_epoch)
        last = ""
        if self._untold:
            last = f" The last finite loss was {self._untold[-1]:.6g}, at step {step - 1}."
        elif progress.metrics:
            known = ", ".join(f"{name} {value:.6g}" for name, value in progress.metrics.items())
            last = f" The last finite metrics were {known}."
        return JobFailed(
            "non_finite_loss",
            f"{what} (epoch {epoch}, learning rate {rate:g}).{last}",
            hint=f"Use a lower learning rate, such as {lower:g}; scale the inputs; or set clip_grad_norm.",
            pointer="/optimizer/lr",
            epoch=epoch,
            step=step,
        )

    def _translated(self, error: Exception) -> Exception:
        """torch's error as ours, or itself when it is not known."""
        step, epoch = self._progress.step + 1, self._progress.epoch
        text = str(error)

        def failed(code: str, detail: str, hint: str | None = None, pointer: str | None = None) -> JobFailed:
            return JobFailed(code, detail, hint=hint, pointer=pointer, step=step, epoch=epoch)

        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or NO_MEMORY.search(text):
            detail = f"There was not enough memory for a batch of {self._batch} rows."
            return failed("out_of_memory", detail, "Use a smaller batch_size or a smaller net.", "/batch_size")
        if "does not have a deterministic implementation" in text:
            operation = text.split()[0]
            detail = f"{operation} has no deterministic form on {self._device.type}."
            hint = "Leave `deterministic` out, or that layer."
            return failed("not_deterministic", detail, hint, "/deterministic")
        if "Expected more than 1 value per channel" in text:
            detail = f"A batch of one row came to a normalization layer, which needs two ({self._rows} rows in all)."
            return failed("data_error", detail, "Set drop_last, or another batch_size.", "/batch_size")
        if isinstance(error, IndexError) and "Target" in text:
            detail = f"A class is outside the net's outputs: {text}"
            return failed("label_out_of_range", detail, "Give the last layer one output for each class.", "/dataset")
        if isinstance(error, IndexError):
            detail = f"An index in the inputs is outside its table: {text[:200]}."
            hint = "Give the Embedding more `num_embeddings` than the largest number in the rows."
            return failed("data_error", detail, hint, "/dataset")
        if isinstance(error, (RuntimeError, ValueError)) and _SHAPES.search(text):
            return failed("shape_error", f"The net and the data do not fit: {text[:300]}", None, "/architecture")
        return error


_SHAPES: Final = re.compile(r"shape|size|dimension|dtype|expected .* to have|expected .*-dimensional", re.IGNORECASE)


def _cuda_generators() -> list[Tensor]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []


def _names_nothing(pattern: str, pointer: str) -> JobFailed:
    return JobFailed(
        "data_error",
        f"{pattern!r} names no tensor of the net.",
        hint="Patterns are paths such as features.0 or head.*; the architecture's summary lists them.",
        pointer=pointer,
    )


def _device(config: TrainingConfig) -> torch.device:
    """The device that is asked for, if there is such a one."""
    device = torch.device(config.device)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise JobFailed(
            "data_error",
            f"This machine has no device {config.device}: it has {torch.cuda.device_count()} of that kind.",
            hint='Train on "cpu".',
            pointer="/device",
        )
    return device


@contextmanager
def _deterministic(asked: bool) -> Iterator[None]:
    """torch refuses operations that have no deterministic form; its setting is as before at the end."""
    if not asked:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs for it, read at its first use
    before, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
