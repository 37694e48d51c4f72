"""The train job in the worker: data, net and optimizer from the documents, the loop, its events and checkpoints.

Writes events as lines and the version into a staged folder. Knows no queue and no database.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from service.engine import build, checkpoint, checkpoints, doctor, objectives, seen, transfer
from service.engine import examples as examples_of
from service.engine import preprocessing as fitting
from service.engine.augmentation import augmentation
from service.engine.cuda_graphs import GraphStep
from service.engine.evaluate import evaluate
from service.engine.evaluate import report as report_of
from service.engine.leakage import leakage
from service.engine.preprocessing import Preprocessor
from service.engine.step import AutogradStep
from service.engine.train import Best, CheckpointDue, EpochEnd, Finished, Length, Report, StopFlag, Trainer
from service.errors import Entry, JobFailed
from service.jobs import reports
from service.jobs.staging import begin, environment, golden_rows, inherit, judged, log, parameters, signature, stage
from service.jobs.watching import Watch
from service.schemas.datasets import DatasetManifest
from service.schemas.document import utc_now
from service.schemas.objectives import tells_two_classes
from service.schemas.preprocessing import ClassTarget, Preprocessing
from service.schemas.training import Budget, TrainingConfig
from service.store.files import make_folder, sha256_file, write_atomic

_KEPT_CHECKPOINTS: Final = 2
_POINTS_BEFORE_THINNING: Final = 100_000
_RATES_TRIED: Final = 12
_REFUSED_HINT: Final = "The version is served by torch."
_STEPS_TRIED: Final = 40


class _Events:
    """The lines that the supervisor moves into the database."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("ab", buffering=0)

    def emit(self, kind: str, content: Mapping[str, Any]) -> None:
        """Append one event. It is one write where the disk takes it whole; a reader waits for the end of the line."""
        line = json.dumps({"type": kind, "at": utc_now(), "data": content}, allow_nan=False)
        rest = memoryview(line.encode() + b"\n")
        while rest:
            rest = rest[self._stream.write(rest) :]


@dataclass(frozen=True, slots=True)
class _Data:
    """A dataset cut into parts, with the preprocessing that its training rows gave."""

    examples: examples_of.Examples
    rows: Mapping[str, Tensor]
    fitted: Preprocessing
    preprocessor: Preprocessor
    warnings: tuple[Entry, ...]

    @property
    def unscale(self) -> Callable[[Tensor], Tensor] | None:
        """Brings answers and targets to the target's own units."""
        return self.preprocessor.invert_target if self.preprocessor.scales_target else None


@dataclass(frozen=True, slots=True)
class _Trial:
    """What the first steps showed."""

    steps_per_epoch: int
    steps: int
    step_s: float
    losses: list[float]
    upwards: bool
    failure: dict[str, Any] | None


class Training:
    """One attempt at a training job."""

    def __init__(self, task: dict[str, Any], folder: Path, stop: StopFlag, threads: int) -> None:
        self._task = task
        self._folder = folder
        self._stop = stop
        self._threads = threads
        self._checkpoints = Path(task["checkpoints"])
        self._events = _Events(folder / "events.jsonl")
        spec = task["spec"]
        # A job of an earlier release says nothing of what has come since; that has its default.
        given = {key: spec[key] for key in TrainingConfig.model_fields if key in spec}
        if task.get("device"):  # "cuda" asks for any; this one is free
            given["device"] = task["device"]
        self._config = TrainingConfig.model_validate(given)
        self._seed: int = spec["seed"]
        self._architecture, self._outputs = judged(spec["architecture"])
        self._points = 0
        self._stride = 1
        self._first_step_at: str | None = None
        self._watch: Watch | None = None
        self._frozen_digest: str | None = None
        self._documents: bytes | None = None
        """What a reader of the checkpoints must know beside them; written before the first."""

    def run(self) -> dict[str, Any]:
        """Train, and stage a version unless told to stop."""
        config = self._config
        data = self._open()
        for warning in data.warnings:
            self._events.emit("warning", warning.to_dict())
        trainer = self._trainer(data)
        sizes = ", ".join(f"{len(part_rows)} {_ROWS_OF[name]}" for name, part_rows in data.rows.items())
        still = sum(each.numel() for each in trainer.module.parameters() if not each.requires_grad)
        count = f"{parameters(trainer.module)} parameters" + (f", {still} of them frozen," if still else "")
        log(
            f"Attempt {self._task['attempt']}: training a net of {count} on dataset "
            f"{self._task['dataset']['id']} ({sizes}) with {config.optimizer.type}, lr {config.optimizer.lr:g}, for "
            f"{config.objective.type}; seed {self._seed}, {self._threads} threads."
        )
        self._documents = self._described(data.fitted)
        self._resume(trainer)
        self._frozen_digest = trainer.frozen_digest
        self._watch = self._watching(data)
        finished = self._consume(trainer)
        if finished.reason == "stopped":
            self._save(trainer, finished.step, finished.epoch)
            self._save_best(trainer, finished)
            log(f"Told to stop; the checkpoint of step {finished.step} is kept.")
            return {"outcome": "stopped", "step": finished.step}

        stopped_early = None
        if finished.reason == "early_stopping":
            stopped_early = _stopped_early(config, finished)
            self._tell(stopped_early, step=finished.step, epoch=finished.epoch)
        if config.checkpoint.publish == "best" and trainer.best_weights is not None:
            trainer.module.load_state_dict(trainer.best_weights)
        lineage = {
            "seed": self._seed,
            "steps": finished.step,
            "epochs": finished.epoch,
            "stopped_by": finished.reason,
            "certificate": certified(trainer.certificate(), trainer.frozen, self._patterns()),
            "resolved_spec": self._task["spec"],
        }
        done = f"Trained {finished.step} steps, {finished.epoch} epochs, in {finished.elapsed_s:.2f} s"
        result = self._staged(data, trainer.module, lineage, done)
        result["environment"] |= {
            "first_step_at": self._first_step_at,
            "training_s": round(finished.elapsed_s, 6),
        }
        return {**result, "stopped_early": stopped_early}

    def _patterns(self) -> list[str]:
        """What the request freezes, as it says it."""
        init = self._config.init
        return [*self._task["spec"].get("edited", {}).get("freeze", ()), *(init.freeze if init is not None else ())]

    def _frozen_in(self, module: torch.nn.Module) -> tuple[str, ...]:
        """The keys of what is frozen in a net that was trained by this request."""
        init = self._config.init
        held = set(self._task["spec"].get("edited", {}).get("frozen", ()))
        if init is not None:
            held |= set(transfer.frozen_keys(module, init.freeze, statistics=init.freeze_batchnorm_stats))
        return tuple(sorted(held))

    def publish(self) -> dict[str, Any]:
        """Stage a version of another training's checkpoint, whose files lie where the checkpoints of this job would."""
        data = self._open()
        entry, weights = self._kept()
        module = build.build(self._architecture)
        module.load_state_dict(weights)
        found = None
        frozen = self._frozen_in(module)
        if entry.get("frozen_digest") is not None:
            digest = transfer.fingerprint(module, frozen)
            found = {"frozen": len(frozen), "identical": digest == entry["frozen_digest"], "digest": digest}
        promoted = self._task["spec"]["checkpoint_of"]
        spec = {key: value for key, value in self._task["spec"].items() if key != "checkpoint_of"}
        lineage = {
            "seed": self._seed,
            **{"steps": entry["step"], "epochs": entry["epoch"]},
            "stopped_by": "promotion",
            "promoted_from": {**promoted, "step": entry["step"], "epoch": entry["epoch"]},
            "certificate": certified(found, frozen, self._patterns()),
            "resolved_spec": {**spec, "kind": "train"},
        }
        return self._staged(data, module, lineage, f"Took the checkpoint of step {entry['step']} of {promoted['job']}")

    def rehearse(self, seconds: float) -> dict[str, Any]:
        """Run the first steps for so long: how long one takes, and whether the loss goes down; nothing is kept.

        Where it does not, lower learning rates are tried, each for a few steps, until one does.
        """
        data = self._open()
        trial = self._try(data, self._config, seconds)
        suggested = None
        if trial.upwards:
            rate = self._config.optimizer.lr
            for _ in range(_RATES_TRIED):
                rate /= 10
                lower = {"optimizer": self._config.optimizer.model_copy(update={"lr": rate})}
                budget = Budget(steps=_STEPS_TRIED)
                config = self._config.model_copy(update={**lower, "budget": budget, "early_stopping": None})
                lower_trial = self._try(data, config, seconds / 4)
                if not lower_trial.upwards and doctor.falls(lower_trial.losses):
                    suggested = rate
                    break
        return {
            "outcome": "rehearsed",
            "rows": {name: len(part_rows) for name, part_rows in data.rows.items()},
            "steps_per_epoch": trial.steps_per_epoch,
            "steps": trial.steps,
            "step_s": trial.step_s,
            "losses": [*trial.losses[:1], *trial.losses[-1:]],
            "upwards": trial.upwards,
            "suggested_lr": suggested,
            **({"failure": trial.failure} if trial.failure is not None else {}),
        }

    def _try(self, data: _Data, config: TrainingConfig, seconds: float) -> _Trial:
        stop = StopFlag()
        trainer = self._trainer(data, config=config, stop=stop)
        began = first = last = time.perf_counter()
        first_step = last_step = 0
        losses: list[float] = []
        failure = None
        try:
            for event in trainer.run():
                if isinstance(event, Report):
                    last, last_step = time.perf_counter(), event.step
                    losses += event.losses
                    if not first_step:
                        first, first_step = last, last_step
                if time.perf_counter() - began >= seconds or self._stop.is_set:
                    stop.set()
        except JobFailed as failed:
            failure = failed.to_dict()
        step_s = (last - first) / (last_step - first_step) if last_step > first_step else last - began
        diverged = failure is not None and failure["code"] == "non_finite_loss"
        upwards = diverged or doctor.grows(losses)
        return _Trial(trainer.steps_per_epoch, last_step, step_s, losses, upwards, failure)

    def _open(self) -> _Data:
        """The dataset's parts and what the training rows say about preparing them."""
        config = self._config
        dataset = self._task["dataset"]
        examples = examples_of.open_dataset(
            Path(dataset["folder"]), DatasetManifest.model_validate(dataset["manifest"])
        )
        rows = examples_of.split_rows(config.split, examples)
        classes = None
        width = self._outputs[0].shape[-1]
        manifest = examples.manifest
        if config.objective.targets == "classes":
            _, classes = examples_of.class_indices(examples, width=width if isinstance(width, int) else None)
        elif tells_two_classes(config.objective) and manifest.target == "class":
            _, classes = examples_of.class_indices(examples)
        fitted, warnings = fitting.fit(
            config.preprocessing,
            examples,
            rows["train"],
            objective=config.objective,
            classes=classes,
            inputs=[spec.name for spec in self._architecture.inputs],
        )
        warnings += [leak.warning(len(rows[leak.part])) for leak in leakage(examples, rows)]
        return _Data(examples, rows, fitted, Preprocessor(fitted), tuple(warnings))

    def _part(self, data: _Data, name: str) -> tuple[tuple[Tensor, ...], Tensor]:
        """Inputs and targets of one part of the rows."""
        dtypes = {spec.name: getattr(torch, spec.dtype) for spec in self._architecture.inputs}
        width = self._outputs[0].shape[-1]
        inputs = data.preprocessor.all_inputs(data.examples, data.rows[name], dtypes=dtypes, scratch=self._folder)
        targets = data.preprocessor.targets(
            data.examples,
            data.rows[name],
            objective=self._config.objective,
            width=width if isinstance(width, int) else None,
        )
        return inputs, targets

    def _trainer(self, data: _Data, *, config: TrainingConfig | None = None, stop: StopFlag | None = None) -> Trainer:
        """The net with its first weights, and what will train it."""
        inputs, targets = self._part(data, "train")
        validation = self._part(data, "val") if "val" in data.rows else None
        torch.manual_seed(self._seed)  # as a tutorial does it: seed, net, loop
        module = build.build(self._architecture)
        inherit(self._task, module)
        begin(self._task, module)
        frozen = self._task["spec"].get("edited", {}).get("frozen", ())
        transfer.freeze(module, frozen)
        length = self._task["spec"].get("replay_of", {}).get("length")
        return Trainer(
            module,
            config or self._config,
            inputs,
            targets,
            validation=validation,
            stop=stop or self._stop,
            unscale=data.unscale,
            frozen=frozen,
            make_step=GraphStep if self._config.cuda_graphs else AutogradStep,
            augment=augmentation(
                self._config.preprocessing, [spec.name for spec in self._architecture.inputs], seed=self._seed
            ),
            length=None if length is None else Length(**length),
        )

    def _staged(self, data: _Data, module: torch.nn.Module, lineage: dict[str, Any], done: str) -> dict[str, Any]:
        """Measure a net on every part and write its version; the worker's result."""
        metrics: dict[str, float] = {}
        parts = {}
        objective = self._config.objective
        for name, prefix in (("train", ""), ("val", "val_"), ("test", "test_")):
            if name in data.rows:
                inputs, targets = self._part(data, name)
                if name == "train":
                    objective = objectives.fit(objective, targets)
                metrics |= evaluate(
                    module,
                    inputs,
                    targets,
                    objective,
                    self._config.metrics,
                    batch_size=self._config.batch_size,
                    prefix=prefix,
                    unscale=data.unscale,
                )
                parts[name] = report_of(
                    module,
                    inputs,
                    targets,
                    objective,
                    batch_size=self._config.batch_size,
                    unscale=data.unscale,
                    most_rows=reports.rows_for(self._outputs[0].shape),
                )
        counts = {name: len(part_rows) for name, part_rows in data.rows.items()}
        target = data.fitted.target
        classes = target.classes if isinstance(target, ClassTarget) else None
        report = reports.whole(parts, rows=counts, classes=classes)
        write_atomic(self._folder / reports.FILE, reports.content(report))
        watch = self._watch or self._watching(data)
        watch.behold(module, step=lineage["steps"], epoch=lineage["epochs"])
        dataset = self._task["dataset"]
        digests = {name: dataset["manifest"].get(name) for name in ("digest", "rows_digest")}
        lineage = {
            "dataset": {"id": dataset["id"], **{name: found for name, found in digests.items() if found is not None}},
            "job": self._task["job"],
            "attempt": self._task["attempt"],
            "rows": counts,
            **lineage,
        }
        log(f"{done}: {', '.join(f'{name} {value:.6g}' for name, value in metrics.items())}.")
        golden = golden_rows(data.examples, data.fitted, data.rows["train"])
        draft = stage(
            self._folder / "staged",
            self._architecture,
            data.fitted,
            module,
            golden,
            metrics,
            lineage,
            self._threads,
            report=reports.content(report),
        )
        if "engine_refused" in draft.lineage:
            told = Entry("/output/engine", "engine-refused", draft.lineage["engine_refused"], hint=_REFUSED_HINT)
            self._events.emit("warning", told.to_dict())
        return {
            "outcome": "done",
            "version": draft.model_dump(mode="json"),
            "metrics": metrics,
            "report": reports.short(report),
            "environment": environment(self._threads),
        }

    def _watching(self, data: _Data) -> Watch:
        width = self._outputs[0].shape[-1]
        scene = seen.Scene(
            self._architecture,
            data.examples,
            data.rows,
            data.preprocessor,
            self._config.objective,
            width if isinstance(width, int) else None,
        )
        return Watch(self._folder, scene)

    def _tell(self, sentence: str, **data: Any) -> None:
        """Say something in the job's log and among its events."""
        log(sentence)
        self._events.emit("log", {"message": sentence, **data})

    def _consume(self, trainer: Trainer) -> Finished:
        """Run the trainer, telling what happens; the first report comes right after the first step."""
        for event in trainer.run():
            if self._first_step_at is None and trainer.step > 0:
                self._first_step_at = utc_now()
            match event:
                case Report():
                    self._report(event)
                case EpochEnd():
                    names = sorted({name for one in event.held_out for name in one.metrics})
                    told = {name: [one for one in event.held_out if name in one.metrics] for name in names}
                    series = [
                        {
                            "name": name,
                            "steps": [one.step for one in told[name]],
                            "epochs": [one.epoch for one in told[name]],
                            "values": [one.metrics[name] for one in told[name]],
                        }
                        for name in names
                    ]
                    self._metrics(event.step, event.epoch, dict(event.metrics), series, event.best)
                case CheckpointDue():
                    self._save(trainer, event.step, event.epoch)
                    if self._watch is not None:
                        self._watch.glance(trainer.module, step=event.step, epoch=event.epoch)
                case Finished():
                    return event
        raise AssertionError("a trainer ends with Finished")

    def _report(self, report: Report) -> None:
        self._events.emit(
            "progress",
            {
                "epoch": report.epoch,
                "step": report.step,
                "fraction": report.fraction,
                "eta_s": report.eta_s,
                "samples_per_s": report.samples_per_s,
                "lr": report.lr,
                "planned_steps": report.planned_steps,
            },
        )
        if not report.losses:
            return
        steps = range(report.first_step, report.first_step + len(report.losses))
        kept = [place for place, step in enumerate(steps) if step % self._stride == 0]
        self._points += len(kept)
        if self._points > _POINTS_BEFORE_THINNING * self._stride.bit_length():
            self._stride *= 2  # a long job keeps every second, fourth, … loss, and says so
        turns = [place for place in kept if _turns(report.rates, place)]
        series = [
            self._series("loss", steps, kept, report.losses),
            self._series("lr", steps, turns, report.rates),
        ]
        told = [each for each in series if each["steps"]]
        self._metrics(report.step, report.epoch, {"loss": report.losses[-1]}, told, {})

    def _series(self, name: str, steps: range, kept: list[int], values: Sequence[float]) -> dict[str, Any]:
        return {
            "name": name,
            "steps": [steps[place] for place in kept],
            "epochs": [(steps[place] - 1) // self._steps_per_epoch + 1 for place in kept],
            "values": [values[place] for place in kept],
        }

    def _metrics(
        self,
        step: int,
        epoch: int,
        last: dict[str, float],
        series: list[dict[str, Any]],
        best: Mapping[str, Best],
    ) -> None:
        content: dict[str, Any] = {"step": step, "epoch": epoch, "last": last, "series": series, "stride": self._stride}
        if best:
            content["best"] = {
                name: {"value": each.value, "step": each.step, "epoch": each.epoch} for name, each in best.items()
            }
        self._events.emit("metrics", content)

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def _save(self, trainer: Trainer, step: int, epoch: int) -> None:
        """Keep the whole state for resuming; the last two are kept, so that a torn one costs little."""
        make_folder(self._checkpoints, parents=True)
        if self._documents is not None:
            write_atomic(self._checkpoints / checkpoints.DOCUMENTS, self._documents)
            self._documents = None
        best = trainer.best_at if trainer.best_weights is not None else None
        self._write(f"step-{step:012d}", trainer.state(), kind="resume", step=step, epoch=epoch, best=best)
        for path in sorted(self._checkpoints.glob("step-*.json"))[:-_KEPT_CHECKPOINTS]:
            path.unlink()
            path.with_suffix(".pt").unlink(missing_ok=True)

    def _save_best(self, trainer: Trainer, finished: Finished) -> None:
        """Keep the best weights of a run that was stopped; without held-out rows the last ones are as good as known."""
        best = trainer.best_at
        if best is not None and trainer.best_weights is not None:
            self._write("best", trainer.best_weights, kind="best", step=best.step, epoch=best.epoch)
        else:
            self._write("best", trainer.module.state_dict(), kind="best", step=finished.step, epoch=finished.epoch)

    def _write(self, name: str, state: Any, *, kind: str, step: int, epoch: int, best: Best | None = None) -> None:
        size, sha256 = checkpoint.save(self._checkpoints / f"{name}.pt", state)
        entry = {
            "kind": kind,
            "step": step,
            "epoch": epoch,
            "size_bytes": size,
            "sha256": sha256,
            "at": utc_now(),
            "file": f"{name}.pt",
        }
        if best is not None:
            entry["best"] = {"step": best.step, "epoch": best.epoch}
        kept = entry if self._frozen_digest is None else {**entry, "frozen_digest": self._frozen_digest}
        write_atomic(self._checkpoints / f"{name}.json", json.dumps(kept).encode())
        self._events.emit("checkpoint", {key: value for key, value in entry.items() if key != "file"})

    def _resume(self, trainer: Trainer) -> None:
        """Go on from the newest checkpoint whose bytes are what was written, if there is one."""
        self._steps_per_epoch = trainer.steps_per_epoch
        for torn in self._checkpoints.glob(".*.tmp"):  # an earlier worker was killed while it wrote
            torn.unlink()
        for name in ("best.json", "best.pt"):  # of a run that was stopped: the states for resuming hold it as well
            (self._checkpoints / name).unlink(missing_ok=True)
        for path in sorted(self._checkpoints.glob("step-*.json"), reverse=True):
            entry = json.loads(path.read_bytes())
            weights = self._checkpoints / entry["file"]
            if weights.exists() and sha256_file(weights)[0] == entry["sha256"]:
                trainer.restore(checkpoint.load(weights))
                step = entry["step"]
                self._tell(f"Resumed from step {step}.", step=step, resumed_from_step=step)
                return
            log(f"The checkpoint of step {entry['step']} is damaged and is passed over.")

    def _kept(self) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
        """The best checkpoint whose bytes are what was written: what is said of it, and its weights."""
        for kept in checkpoints.kept(self._checkpoints):
            path = self._checkpoints / kept.entry["file"]
            if path.exists() and sha256_file(path)[0] == kept.entry["sha256"]:
                return {**kept.entry, "step": kept.step, "epoch": kept.epoch}, kept.weights(checkpoint.load(path))
        raise JobFailed("checkpoint_refused", "The checkpoint is damaged.", reason="damaged")

    def _described(self, fitted: Preprocessing) -> bytes:
        return checkpoints.describe(self._architecture, fitted, signature(self._architecture, self._outputs, fitted))


_ROWS_OF: Final = {"train": "training rows", "val": "validation rows", "test": "test rows"}


def certified(found: Mapping[str, Any] | None, frozen: Sequence[str], patterns: Sequence[str]) -> dict[str, Any] | None:
    """That what was to stay did, of the weights that are published against those that the job began with: for the
    lineage.

    Args:
        found: as `Trainer.certificate` gives it; None if nothing was frozen.
        frozen: the keys of the frozen tensors.
        patterns: what names them.

    Raises:
        JobFailed: a frozen tensor is another one now.
    """
    if found is None:
        return None
    if not found["identical"]:
        raise JobFailed("internal", "A frozen tensor is not what it was when training began; nothing is published.")
    log(f"Compared by digest: the {found['frozen']} frozen tensors are what they were when training began.")
    return {
        "patterns": list(patterns),
        "tensors": found["frozen"],
        "statistics": sum(key.rpartition(".")[2].startswith("running_") for key in frozen),
        "unchanged": True,
        "digest": found["digest"],
    }


def _turns(rates: Sequence[float], place: int) -> bool:
    """Whether a curve through these rates needs this one: it is at an end, or another one than its neighbours."""
    ends = place in (0, len(rates) - 1)
    return ends or rates[place] != rates[place - 1] or rates[place] != rates[place + 1]


def _stopped_early(config: TrainingConfig, finished: Finished) -> str:
    stopping = config.early_stopping
    assert stopping is not None
    by = f" by more than {stopping.min_delta:g}" if stopping.min_delta else ""
    epochs = "1 epoch" if stopping.patience == 1 else f"{stopping.patience} epochs"
    return f"Stopped early after epoch {finished.epoch}: {stopping.metric} had not improved{by} for {epochs}."
