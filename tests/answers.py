"""Answers of the HTTP interface as plain values, for tests of what reads them."""

from __future__ import annotations

from typing import Any

JOB_ID = "job_01938c5c0d9e7a3b8f4e2d1c6b5a4f3e"
NOW = "2026-01-02T03:04:05.678Z"


def job_view(**members: Any) -> dict[str, Any]:
    """A job that waits."""
    return {
        "id": JOB_ID,
        "kind": "train",
        "replay_of": None,
        "state": "queued",
        "state_reason": None,
        "priority": 0,
        "progress": None,
        "metrics": {"last": {}, "best": {}},
        "error": None,
        "attempts": [],
        "dataset": None,
        "seed": 1,
        "environment": None,
        "output": {"model": "quadratic", "version": None},
        "labels": {},
        "warnings": [],
        "created_at": NOW,
        "started_at": None,
        "finished_at": None,
        "spec": {},
        "resolved_spec": {},
        **members,
    }


def alias_view(**members: Any) -> dict[str, Any]:
    """An alias."""
    return {
        "model": "quadratic",
        "alias": "champion",
        "version": 1,
        "canary": None,
        "shadow": [],
        "guard": None,
        "updated_at": NOW,
        **members,
    }


def prediction_view(**members: Any) -> dict[str, Any]:
    """What a classifier answers to two rows."""
    return {
        "model": "iris",
        "version": 3,
        "alias": "champion",
        "digest": "sha256:" + "0" * 64,
        "outputs": [[2.0, -1.0], [-0.5, 0.25]],
        "labels": ["setosa", "virginica"],
        "probabilities": [[0.95, 0.05], [0.32, 0.68]],
        "classes": ["setosa", "virginica"],
        "warnings": [],
        **members,
    }


def event_view(number: int, kind: str = "progress", **data: Any) -> dict[str, Any]:
    """An event of the job."""
    return {"id": number, "job_id": JOB_ID, "at": NOW, "type": kind, "data": data}
