"""Dry runs of jobs: what a request would come to, what is odd about it, and what would mend it.

Changes nothing: what it learns by training a few steps is thrown away. Knows no HTTP.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from service.controlplane.planning import Plan, Planner, Resources
from service.engine import doctor
from service.errors import Entry, ServiceError
from service.jobs.rehearsal import Rehearsals
from service.jobs.supervisor import materials
from service.schemas.jobs import Given, TrainSpec, parse_job
from service.schemas.judgement import Limits
from service.store.datasets import DatasetStore
from service.store.models import ModelStore

_MEASURED: Final = frozenset({"learning-rate-high", "learning-rate-low", "memory-limit"})
"""Warnings that come from numbers and not from comparing documents."""


class Examiner:
    """Looks at job requests without queueing them; the first steps of a training are measured.

    Args:
        planner: says what a request comes to.
        rehearsals: measures the first steps of a training.
        resources: what a job may take.
        limits: how large a net may be.
    """

    def __init__(
        self,
        planner: Planner,
        models: ModelStore,
        datasets: DatasetStore,
        rehearsals: Rehearsals,
        *,
        resources: Resources,
        limits: Limits,
    ) -> None:
        self._planner = planner
        self._models = models
        self._datasets = datasets
        self._rehearsals = rehearsals
        self._resources = resources
        self._limits = limits

    def examine(self, body: object, *, forbidden: Collection[Entry] = ()) -> dict[str, Any]:
        """What a job request would come to, without queueing it: its resolved spec, plan, memory, time and warnings.

        Mistakes that a submit refuses because data, net and objective do not agree are among the warnings, with the
        severity "error". Each warning has a patch that mends the request, or None.

        Args:
            body: the request.
            forbidden: what a submit by the same caller would be refused for; it is told as such mistakes are.

        Raises:
            InvalidInput, NotFound, Conflict: as for `submit`, where the request cannot be understood at all.
        """
        spec, given = self._planner.parsed(body)
        assert isinstance(body, dict)
        match spec:
            case TrainSpec():
                return self._examine_training(spec, given, body, forbidden=forbidden)
            case _:
                plan = self._planner.other(spec, given)
        reason = f"Only trainings are measured; this is a job of the kind {spec.kind}."
        return _examination(
            plan,
            threads=self._resources.threads,
            estimate={"reason": reason},
            told=[
                *(_told(entry, "error", None) for entry in forbidden),
                *(_told(entry, "warning", None) for entry in plan.warnings),
            ],
        )

    def _examine_training(
        self, spec: TrainSpec, given: Given, body: dict[str, Any], *, forbidden: Collection[Entry]
    ) -> dict[str, Any]:
        problems: list[Entry] = []
        plan = self._planner.training(spec, given, found=problems)
        dataset, judgement = plan.dataset, plan.judgement
        assert dataset is not None
        assert dataset.manifest is not None
        assert judgement is not None
        assert judgement.summary is not None
        warnings = list(plan.warnings)
        batch = min(spec.batch_size or dataset.manifest.rows, dataset.manifest.rows)
        memory = doctor.memory(
            judgement.summary,
            sizes=judgement.sizes,
            batch=batch,
            optimizer=plan.resolved["optimizer"],
            data_bytes=dataset.manifest.size_bytes,
        )
        warnings += _too_much(memory, batch=batch, limit=self._resources.memory_bytes)
        estimate: dict[str, Any] = {"reason": "What does not agree must be mended before steps can be measured."}
        if not problems:
            task = {"kind": "train", "job": "", "attempt": 0, "spec": plan.resolved}
            task |= materials(plan.resolved, dataset.id, models=self._models, datasets=self._datasets)
            if plan.begins_with is not None:
                task["inherited"] = {"folder": str(plan.begins_with.folder)}
            estimate = self._rehearsals.run(task, threads=self._resources.threads)
            warnings += _measured_warnings(estimate, spec)
        told = [_told(entry, "error", None) for entry in forbidden]
        for severity, entries in (("error", problems), ("warning", warnings)):
            for entry in entries:
                patch = doctor.patch_for(entry, body)
                if patch is not None and not self._mends(body, patch, entry):
                    patch = None
                told.append(_told(entry, severity, patch))
        return _examination(
            plan, threads=self._resources.threads, estimate=estimate, told=told, memory=memory, spec=spec
        )

    def _mends(self, body: dict[str, Any], patch: doctor.Patch, entry: Entry) -> bool:
        """Whether the request is free of a mistake after a patch, and has no new one."""
        try:
            changed = doctor.patched(body, patch)
            if entry.code in _MEASURED:
                parse_job(changed, limits=self._limits)
                return True  # tried by the steps themselves
            spec, given = parse_job(changed, limits=self._limits)
            assert isinstance(spec, TrainSpec)
            problems: list[Entry] = []
            plan = self._planner.training(spec, given, found=problems)
        except (ServiceError, LookupError, TypeError, ValueError):
            return False
        return (entry.pointer, entry.code) not in {(one.pointer, one.code) for one in (*problems, *plan.warnings)}


def _told(entry: Entry, severity: str, patch: doctor.Patch | None) -> dict[str, Any]:
    return {**entry.to_dict(), "severity": severity, "patch": patch}


def _too_much(memory: Mapping[str, int], *, batch: int, limit: int) -> list[Entry]:
    """That a training will hardly fit into the memory of a worker, and the batch that would."""
    total = memory["total"]
    if total <= limit:
        return []
    rest = limit - (total - memory["activations"])
    fitting = int(rest * batch / memory["activations"]) if memory["activations"] else 0
    detail = f"The job needs about {total // 2**20} MiB, and a worker may take {limit // 2**20} MiB."
    if fitting < 1:
        hint = "Use a smaller net, or allow more by MODELYARD_JOB_MEMORY_BYTES."
        return [Entry("/architecture", "memory-limit", detail, hint=hint)]
    hint = f"Use a batch_size of {fitting} or less."
    return [Entry("/batch_size", "memory-limit", detail, hint=hint, expected=str(fitting), got=str(batch))]


def _measured_warnings(found: Mapping[str, Any], spec: TrainSpec) -> list[Entry]:
    """What the first steps showed that is wrong."""
    rate = spec.optimizer.lr
    if found.get("upwards"):
        losses = found["losses"]
        detail = f"With the learning rate {rate:g} the loss grows in the first {found['steps']} steps"
        detail += f", from {losses[0]:.4g} to {losses[-1]:.4g}." if len(losses) == 2 else " until it is not finite."
        lower = found.get("suggested_lr")
        hint = "Scale the inputs, or set clip_grad_norm; no lower learning rate helped."
        expected = None
        if lower is not None:
            expected, hint = f"{lower:.6g}", f"With {lower:g} it goes down."
        return [Entry("/optimizer/lr", "learning-rate-high", detail, hint=hint, expected=expected, got=f"{rate:g}")]
    failure = found.get("failure")
    if failure is None:
        return []
    detail = f"The first steps failed: {failure['detail']}"
    return [Entry(failure.get("pointer") or "", failure["code"], detail, hint=failure.get("hint"))]


def _examination(
    plan: Plan,
    *,
    threads: int,
    estimate: Mapping[str, Any],
    told: list[dict[str, Any]],
    memory: Mapping[str, int] | None = None,
    spec: TrainSpec | None = None,
) -> dict[str, Any]:
    """The answer to a dry run."""
    steps = epochs = seconds = None
    per_epoch = estimate.get("steps_per_epoch")
    if spec is not None and per_epoch:
        limits = [spec.budget.steps, None if spec.budget.epochs is None else spec.budget.epochs * per_epoch]
        steps = min((limit for limit in limits if limit is not None), default=None)
        epochs = None if steps is None else -(-steps // per_epoch)
        bounds = [None if steps is None else steps * estimate["step_s"], spec.budget.max_seconds]
        seconds = min((bound for bound in bounds if bound is not None), default=None)
        if "failure" in estimate:
            seconds = None
    summary = plan.judgement.summary if plan.judgement is not None and plan.judgement.summary is not None else {}
    reason = estimate.get("reason")
    if seconds is None and reason is None:
        reason = "The first steps failed; see the warnings."
    return {
        "valid": not any(entry["severity"] == "error" for entry in told),
        "resolved_spec": {"threads": threads, **plan.resolved},
        "plan": {
            "dataset": None if plan.dataset is None else {"id": plan.dataset.id, "digest": plan.dataset.digest},
            "rows": estimate.get("rows"),
            "steps_per_epoch": per_epoch,
            "steps": steps,
            "epochs": epochs,
            "parameters": summary.get("parameters"),
            "trainable_parameters": summary.get("trainable_parameters"),
            "threads": threads,
        },
        "memory_bytes": None if memory is None else memory["total"],
        "memory": None if memory is None else dict(memory),
        "estimate_s": seconds,
        "estimate": {
            "step_s": estimate.get("step_s"),
            "measured_steps": estimate.get("steps"),
            "losses": estimate.get("losses"),
            "reason": reason,
        },
        "warnings": told,
    }
