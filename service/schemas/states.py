"""The states of a job, the ways between them, and the types of its events.

    queued ──▶ starting ──▶ running ──▶ succeeded
    │  ▲  ▲         │       │ │ │ └───▶ failed ─────────┐ retry: back to queued
    │  │  │         │       │ │ └─────▶ cancelling ──▶ cancelled ─┘
    │  │  │         │       │ └───────▶ pausing ──▶ paused
    │  │  └─ interrupted ◀──┴───────── (the worker is gone, or the server is stopping)
    │  └───────────────────────────────────────────── paused    resume: back to queued
    └──────────────────────────────────────────────▶ paused, cancelled

While it stops for a pause or a cancel a worker may still come to its end, so both may lead to succeeded and failed.
Knows no job.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class JobState(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"
    """Waits for a free slot."""
    STARTING = "starting"
    """Claimed; its worker process is being made."""
    RUNNING = "running"
    """The worker works, or its result is being published."""
    PAUSING = "pausing"
    """The worker was told to stop and to keep its checkpoint, for now."""
    PAUSED = "paused"
    """Has no worker and no slot; goes on from its checkpoint when it is resumed."""
    CANCELLING = "cancelling"
    """The worker was told to stop and to keep its checkpoint, for good."""
    INTERRUPTED = "interrupted"
    """The worker is gone without a result; goes back to the queue while attempts remain."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL: Final = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
ACTIVE: Final = frozenset({JobState.STARTING, JobState.RUNNING, JobState.PAUSING, JobState.CANCELLING})
"""The states in which a job has a worker, or is about to have one."""
RETRIABLE: Final = frozenset({JobState.FAILED, JobState.CANCELLED})

TRANSITIONS: Final[dict[JobState, frozenset[JobState]]] = {
    JobState.QUEUED: frozenset({JobState.STARTING, JobState.PAUSED, JobState.CANCELLED}),
    JobState.STARTING: frozenset(
        {
            *(JobState.RUNNING, JobState.PAUSING, JobState.CANCELLING, JobState.INTERRUPTED),
            *(JobState.SUCCEEDED, JobState.FAILED),
        }
    ),
    JobState.RUNNING: frozenset(
        {JobState.PAUSING, JobState.CANCELLING, JobState.INTERRUPTED, JobState.SUCCEEDED, JobState.FAILED}
    ),
    JobState.PAUSING: frozenset({JobState.PAUSED, JobState.CANCELLING, JobState.SUCCEEDED, JobState.FAILED}),
    JobState.PAUSED: frozenset({JobState.QUEUED, JobState.CANCELLED}),
    JobState.CANCELLING: frozenset({JobState.CANCELLED, JobState.SUCCEEDED, JobState.FAILED}),
    JobState.INTERRUPTED: frozenset({JobState.QUEUED, JobState.PAUSED, JobState.FAILED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset({JobState.QUEUED}),
    JobState.CANCELLED: frozenset({JobState.QUEUED}),
}
