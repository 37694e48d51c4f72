"""The training loop: an iterator of events over tensors in memory, with its whole state in and out for resuming.

It knows tensors and the training document; it knows no dataset, no file and no job, and not where its events go. For
the same seed, initial weights and data its losses and weights are the bits of the loop that a tutorial writes by hand:
torch's DataLoader draws two numbers an epoch from the global generator, and so does this.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, assert_never

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from service.engine.evaluate import default_metrics, evaluate, larger_is_better, loss_function
from service.errors import JobFailed
from service.schemas import training
from service.schemas.training import TrainingConfig

_BUFFERED_STEPS: Final = 1024
"""Losses that stay on the device before they are read."""

StopReason = Literal["budget", "early_stopping", "stopped"]


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


class Trainer:
    """Trains a module in place.

    Args:
        module: in training mode on its device; its initial weights were drawn after the seed was set, and nothing drew
            from the global generator since.
        config: the training document; `preprocessing`, `split` and `seed` are the caller's business.
        inputs: one tensor [N, …] for each input of the net, on the module's device.
        targets: [N, …] as the objective takes them, on the same device.
        validation: inputs and targets of the held-out rows.
        stop: looked at before every step.
        clock: monotonic seconds.
        report_every_s: seconds between two reports.
        unscale: brings outputs and targets to the target's own units, for mae and r2.

    Raises:
        JobFailed: there is nothing to train, or not one full batch.
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
    ) -> None:
        self.module = module
        self.config = config
        self._inputs = tuple(inputs)
        self._targets = targets
        self._validation = validation
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
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        if not self._parameters:
            raise JobFailed(
                "data_error",
                "The net has no parameters to train.",
                hint='Publish it with a job of the kind "import".',
                pointer="/architecture",
            )
        self._loss_of = loss_function(config.objective)
        self._same_shape = not isinstance(config.objective, training.CrossEntropy)
        self._optimizer = _optimizer(config.optimizer, self._parameters)
        epochs, steps = config.budget.epochs, config.budget.steps
        self._total_steps = min(
            math.inf if epochs is None else epochs * self.steps_per_epoch, math.inf if steps is None else steps
        )
        self._max_seconds = config.budget.max_seconds or math.inf
        stopping = config.early_stopping
        self._patience = stopping.patience if stopping else math.inf
        self._min_delta = stopping.min_delta if stopping else 0.0
        self._watched = stopping.metric if stopping else "val_loss" if validation else "loss"
        asked = config.metrics if config.metrics is not None else default_metrics(config.objective)
        needed = (stopping.metric.removeprefix("val_") if stopping else "loss",)
        self._metrics = tuple(dict.fromkeys(("loss", *asked, *needed)))
        # a run that is stopped keeps its best weights, where held-out rows say which these are
        self._keep_best = config.checkpoint.publish == "best" or validation is not None
        # whether each epoch's end must read its losses; else they are read when a report is due
        self._reads_epochs = validation is not None or stopping is not None or self._keep_best
        self._progress = _Progress()
        # losses wait on the device, in slots that are made once; float64 holds a float32 loss exactly
        self._losses = torch.zeros(_BUFFERED_STEPS, device=targets.device, dtype=torch.float64)
        self._slots = self._losses.unbind()
        self._unread = 0
        self._reported = (0.0, 0)  # when the last report was made, and the rows done by then
        self._told_fraction = 0.0
        self._samples_per_s: float | None = None
        self._untold: list[float] = []  # read, but in no report yet
        self._epoch_untold = False
        self._held_out_untold: list[EpochMetrics] = []
        self._told = 0  # steps whose loss was told

    @property
    def step(self) -> int:
        """Steps done."""
        return self._progress.step

    @property
    def best(self) -> Mapping[str, Best]:
        """The best value of each metric so far."""
        return dict(self._progress.best)

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

    def run(self) -> Iterator[Event]:
        """Train until the budget is used up, early stopping says so or the flag is set; ends with `Finished`.

        Raises:
            JobFailed: with `non_finite_loss`, `out_of_memory`, `shape_error`, `label_out_of_range` or `data_error`.
        """
        try:
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
            if self._unread == _BUFFERED_STEPS:
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
            "optimizer": self._optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
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
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a `state()` of a trainer that was made from the same arguments; nothing may draw before `run`.

        Raises:
            ValueError: the state is of another format.
        """
        if state.get("format") != 1:
            raise ValueError(f"a training state of format {state.get('format')!r} cannot be read")
        self.module.load_state_dict(state["module"])
        self._optimizer.load_state_dict(state["optimizer"])
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
        )

    # -- the step ------------------------------------------------------------------------------------------------------

    def _train_step(self) -> None:
        progress = self._progress
        if progress.position == 0:
            self._begin_epoch()
        inputs, targets = self._next_batch()

        outputs = self.module(*inputs)
        if self._same_shape and outputs.shape != targets.shape:
            raise _shapes_differ(outputs, targets)
        loss = self._loss_of(outputs, targets)
        for parameter in self._parameters:
            parameter.grad = None  # optimizer.zero_grad() without its ten microseconds of bookkeeping
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        if self.config.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self.config.clip_grad_norm)
        self._optimizer.step()

        self._slots[self._unread].copy_(loss.detach())  # stays on the device: reading it here would wait for the step
        self._unread += 1
        progress.step += 1

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

    def _next_batch(self) -> tuple[tuple[Tensor, ...], Tensor]:
        """Inputs and targets [batch, …] of the next step; the last batch of an epoch may be smaller."""
        progress = self._progress
        start = progress.position
        progress.position = stop = start + self._batch
        if progress.order is not None:
            rows = progress.order[start:stop]
            return tuple(part[rows] for part in self._inputs), self._targets[rows]
        if self._batch == self._rows:
            return self._inputs, self._targets
        return tuple(part[start:stop] for part in self._inputs), self._targets[start:stop]

    # -- around the step -----------------------------------------------------------------------------------------------

    def _reason_to_end(self) -> StopReason | None:
        progress = self._progress
        if self._stop.is_set:
            return "stopped"
        if progress.epochs_without_improvement >= self._patience:
            return "early_stopping"
        if progress.step >= self._total_steps or progress.elapsed_s >= self._max_seconds:
            return "budget"
        return None

    def _end_epoch(self) -> None:
        progress = self._progress
        progress.position, progress.order = 0, None
        self._epoch_untold = True
        if not self._reads_epochs:
            return
        self._read_losses()
        if self._validation is not None:
            inputs, targets = self._validation
            found = evaluate(
                self.module,
                inputs,
                targets,
                self.config.objective,
                self._metrics,
                prefix="val_",
                unscale=self._unscale,
            )
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

    def _read_losses(self) -> None:
        """Take the losses from the device, which waits for it; the first that is not finite ends the run."""
        progress, unread = self._progress, self._unread
        self._unread = 0
        first = progress.step - unread + 1
        mean = self.config.objective.reduction == "mean"
        for step, loss in enumerate(self._losses[:unread].tolist(), start=first):
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
            used = max(progress.step / self._total_steps, progress.elapsed_s / self._max_seconds)
            self._told_fraction = fraction = 1.0 if ended else min(1.0, used)
            losses, self._untold = tuple(self._untold), []
            yield Report(
                step=progress.step,
                epoch=progress.epoch,
                fraction=fraction,
                eta_s=progress.elapsed_s * (1 - fraction) / fraction if fraction > 0 else None,
                samples_per_s=self._samples_per_s,
                first_step=self._told + 1,
                losses=losses,
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
            hint=f"Use a lower learning rate, such as {rate / 10:g}; scale the inputs; or set clip_grad_norm.",
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

        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or _NO_MEMORY.search(text):
            detail = f"There was not enough memory for a batch of {self._batch} rows."
            return failed("out_of_memory", detail, "Use a smaller batch_size or a smaller net.", "/batch_size")
        if "Expected more than 1 value per channel" in text:
            detail = f"A batch of one row came to a normalization layer, which needs two ({self._rows} rows in all)."
            return failed("data_error", detail, "Set drop_last, or another batch_size.", "/batch_size")
        if isinstance(error, IndexError) and "Target" in text:
            detail = f"A class is outside the net's outputs: {text}"
            return failed("label_out_of_range", detail, "Give the last layer one output for each class.", "/dataset")
        if isinstance(error, IndexError):
            return failed("data_error", f"An index in the inputs is outside its table: {text[:200]}", None, "/dataset")
        if isinstance(error, (RuntimeError, ValueError)) and _SHAPES.search(text):
            return failed("shape_error", f"The net and the data do not fit: {text[:300]}", None, "/architecture")
        return error


_NO_MEMORY: Final = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)
_SHAPES: Final = re.compile(r"shape|size|dimension|dtype|expected .* to have|expected .*-dimensional", re.IGNORECASE)


def _shapes_differ(outputs: Tensor, targets: Tensor) -> JobFailed:
    """torch would stretch both to a common shape and train on a wrong loss."""
    return JobFailed(
        "shape_error",
        f"The net answers {list(outputs.shape)}, the targets have the shape {list(targets.shape)}.",
        hint="Give each target as a list: [[1.0], [2.0]] instead of [1.0, 2.0].",
        pointer="/dataset",
    )


def _optimizer(document: training.Optimizer, parameters: list[nn.Parameter]) -> Optimizer:
    match document:
        case training.Sgd():
            return torch.optim.SGD(
                parameters,
                lr=document.lr,
                momentum=document.momentum,
                dampening=document.dampening,
                weight_decay=document.weight_decay,
                nesterov=document.nesterov,
                foreach=True,
            )
        case training.Adam() | training.AdamW():
            kind = torch.optim.Adam if isinstance(document, training.Adam) else torch.optim.AdamW
            return kind(
                parameters,
                lr=document.lr,
                betas=document.betas,
                eps=document.eps,
                weight_decay=document.weight_decay,
                amsgrad=document.amsgrad,
                foreach=True,
            )
        case _:
            assert_never(document)
