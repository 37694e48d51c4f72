"""The train job in the worker: data, net and optimizer from the documents, the loop, its events and checkpoints.

Writes events as lines and the version into a staged folder. Knows no queue and no database.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from service.engine import build, checkpoint, transfer
from service.engine import examples as examples_of
from service.engine import preprocessing as fitting
from service.engine.evaluate import evaluate
from service.engine.preprocessing import Preprocessor
from service.engine.train import Best, CheckpointDue, EpochEnd, Finished, Report, StopFlag, Trainer
from service.jobs.staging import environment, golden_rows, inherit, judged, log, parameters, stage
from service.schemas.datasets import DatasetManifest
from service.schemas.document import utc_now
from service.schemas.training import TrainingConfig
from service.store.files import make_folder, sha256_file, write_atomic

_KEPT_CHECKPOINTS: Final = 2
_POINTS_BEFORE_THINNING: Final = 100_000


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
        self._config = TrainingConfig.model_validate({key: spec[key] for key in TrainingConfig.model_fields})
        self._seed: int = spec["seed"]
        self._architecture, self._outputs = judged(spec["architecture"])
        self._points = 0
        self._stride = 1
        self._first_step_at: str | None = None

    def run(self) -> dict[str, Any]:
        """Train, and stage a version unless told to stop."""
        config = self._config
        dataset = self._task["dataset"]
        examples = examples_of.open_dataset(
            Path(dataset["folder"]), DatasetManifest.model_validate(dataset["manifest"])
        )
        rows = examples_of.split_rows(config.split, examples)
        classes = None
        width = self._outputs[0].shape[-1]
        manifest = examples.manifest
        if config.objective.type == "cross_entropy":
            _, classes = examples_of.class_indices(examples, width=width if isinstance(width, int) else None)
        elif config.objective.type == "bce_with_logits" and manifest.target == "class":
            _, classes = examples_of.class_indices(examples)
        fitted, warnings = fitting.fit(
            config.preprocessing, examples, rows["train"], objective=config.objective, classes=classes
        )
        for warning in warnings:
            self._events.emit("warning", warning.to_dict())
        preprocessor = Preprocessor(fitted)
        dtype = getattr(torch, self._architecture.inputs[0].dtype)

        def part(name: str) -> tuple[tuple[Tensor, ...], Tensor]:
            inputs = preprocessor.example_inputs(examples, rows[name], dtype=dtype)
            targets = preprocessor.targets(
                examples, rows[name], objective=config.objective, width=width if isinstance(width, int) else None
            )
            return (inputs,), targets

        train_inputs, train_targets = part("train")
        validation = part("val") if "val" in rows else None

        torch.manual_seed(self._seed)  # as a tutorial does it: seed, net, loop
        module = build.build(self._architecture)
        inherit(self._task, module)
        transfer.freeze(module, self._task["spec"].get("edited", {}).get("frozen", ()))
        trainer = Trainer(
            module,
            config,
            train_inputs,
            train_targets,
            validation=validation,
            stop=self._stop,
            unscale=preprocessor.invert_target if preprocessor.scales_target else None,
        )
        sizes = ", ".join(f"{len(part_rows)} {_ROWS_OF[name]}" for name, part_rows in rows.items())
        log(
            f"Attempt {self._task['attempt']}: training a net of {parameters(module)} parameters on dataset "
            f"{dataset['id']} ({sizes}) with {config.optimizer.type}, lr {config.optimizer.lr:g}, for "
            f"{config.objective.type}; seed {self._seed}, {self._threads} threads."
        )
        self._resume(trainer)
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
            module.load_state_dict(trainer.best_weights)
        unscale = preprocessor.invert_target if preprocessor.scales_target else None
        metrics: dict[str, float] = {}
        for name, prefix in (("train", ""), ("val", "val_"), ("test", "test_")):
            if name in rows:
                inputs, targets = part(name)
                metrics |= evaluate(
                    module,
                    inputs,
                    targets,
                    config.objective,
                    config.metrics,
                    batch_size=config.batch_size,
                    prefix=prefix,
                    unscale=unscale,
                )
        lineage = {
            "dataset": {"id": dataset["id"], "digest": dataset["manifest"]["digest"]},
            "job": self._task["job"],
            "attempt": self._task["attempt"],
            "seed": self._seed,
            "steps": finished.step,
            "epochs": finished.epoch,
            "stopped_by": finished.reason,
            "rows": {name: len(part_rows) for name, part_rows in rows.items()},
            "resolved_spec": self._task["spec"],
        }
        told = ", ".join(f"{name} {value:.6g}" for name, value in metrics.items())
        log(f"Trained {finished.step} steps, {finished.epoch} epochs, in {finished.elapsed_s:.2f} s: {told}.")
        golden = golden_rows(examples, fitted, rows["train"])
        draft = stage(
            self._folder / "staged", self._architecture, fitted, module, golden, metrics, lineage, self._threads
        )
        return {
            "outcome": "done",
            "version": draft.model_dump(mode="json"),
            "stopped_early": stopped_early,
            "metrics": metrics,
            "environment": {
                **environment(self._threads),
                "first_step_at": self._first_step_at,
                "training_s": round(finished.elapsed_s, 6),
            },
        }

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
            },
        )
        if not report.losses:
            return
        kept = [
            (report.first_step + place, loss)
            for place, loss in enumerate(report.losses)
            if (report.first_step + place) % self._stride == 0
        ]
        self._points += len(kept)
        if self._points > _POINTS_BEFORE_THINNING * self._stride.bit_length():
            self._stride *= 2  # a long job keeps every second, fourth, … loss, and says so
        epoch_of = {step: (step - 1) // self._steps_per_epoch + 1 for step, _ in kept}
        series = [
            {
                "name": "loss",
                "steps": [step for step, _ in kept],
                "epochs": [epoch_of[step] for step, _ in kept],
                "values": [loss for _, loss in kept],
            }
        ]
        self._metrics(report.step, report.epoch, {"loss": report.losses[-1]}, series if kept else [], {})

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
        self._write(f"step-{step:012d}", trainer.state(), kind="resume", step=step, epoch=epoch)
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

    def _write(self, name: str, state: Any, *, kind: str, step: int, epoch: int) -> None:
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
        write_atomic(self._checkpoints / f"{name}.json", json.dumps(entry).encode())
        self._events.emit("checkpoint", {key: value for key, value in entry.items() if key != "file"})

    def _resume(self, trainer: Trainer) -> None:
        """Go on from the newest checkpoint whose bytes are what was written, if there is one."""
        self._steps_per_epoch = trainer.steps_per_epoch
        for torn in self._checkpoints.glob(".*.tmp"):  # an earlier worker was killed while it wrote
            torn.unlink()
        for path in sorted(self._checkpoints.glob("step-*.json"), reverse=True):
            entry = json.loads(path.read_bytes())
            weights = self._checkpoints / entry["file"]
            if weights.exists() and sha256_file(weights)[0] == entry["sha256"]:
                trainer.restore(checkpoint.load(weights))
                step = entry["step"]
                self._tell(f"Resumed from step {step}.", step=step, resumed_from_step=step)
                return
            log(f"The checkpoint of step {entry['step']} is damaged and is passed over.")


_ROWS_OF: Final = {"train": "training rows", "val": "validation rows", "test": "test rows"}


def _stopped_early(config: TrainingConfig, finished: Finished) -> str:
    stopping = config.early_stopping
    assert stopping is not None
    by = f" by more than {stopping.min_delta:g}" if stopping.min_delta else ""
    epochs = "1 epoch" if stopping.patience == 1 else f"{stopping.patience} epochs"
    return f"Stopped early after epoch {finished.epoch}: {stopping.metric} had not improved{by} for {epochs}."
