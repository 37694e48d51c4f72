"""Stand-ins with the same interface as what they stand for, held to the same contract."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.jobs.launchers import WorkerHandle, lock_folder, was_started
from service.schemas.document import utc_now

NOBODY = 2**22
"""A pid that no process can have."""


class FakeClock:
    """A monotonic clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


@dataclass
class FakeWorker:
    """A worker's part, played by a test: it writes what a worker would write, and ends when it is told to."""

    folder: Path
    lock: int | None
    bell: int
    """Becomes readable at its end, as a pidfd does."""
    signals: list[signal.Signals] = field(default_factory=list)

    @property
    def task(self) -> dict[str, Any]:
        """What it was told to do."""
        found: dict[str, Any] = json.loads((self.folder / "task.json").read_bytes())
        return found

    def tell(self, kind: str, **data: Any) -> None:
        """Write an event."""
        self.write(json.dumps({"type": kind, "at": utc_now(), "data": data}).encode() + b"\n")

    def write(self, data: bytes) -> None:
        """Write to the event file."""
        with (self.folder / "events.jsonl").open("ab") as stream:
            stream.write(data)

    def end(self, *, result: Mapping[str, Any] | None = None, error: Mapping[str, Any] | None = None) -> None:
        """End, and leave a result, an error or nothing."""
        for name, content in (("result.json", result), ("error.json", error)):
            if content is not None:
                (self.folder / name).write_text(json.dumps(content))
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None
            os.eventfd_write(self.bell, 1)


@dataclass(slots=True)
class FakeHandle(WorkerHandle):
    """A handle of a fake worker, which obeys SIGKILL and only remembers other signals."""

    worker: FakeWorker

    def signal(self, number: signal.Signals) -> None:
        """Tell the worker."""
        self.worker.signals.append(number)
        if number is signal.SIGKILL:
            self.worker.end()


class FakeLauncher:
    """Starts no process: `workers` are for the test to play."""

    def __init__(self) -> None:
        self.workers: list[FakeWorker] = []
        self.refusal: Exception | None = None

    def launch(self, folder: Path, *, threads: int, memory_bytes: int) -> WorkerHandle:
        """A worker that does nothing by itself."""
        if self.refusal is not None:
            raise self.refusal
        lock = lock_folder(folder)
        if lock is None or was_started(folder):
            if lock is not None:
                os.close(lock)
            raise FileExistsError(f"{folder.name} had its worker already")
        (folder / "pid").write_text(str(NOBODY))
        worker = FakeWorker(folder, lock, os.eventfd(0, os.EFD_CLOEXEC))
        self.workers.append(worker)
        return FakeHandle(NOBODY, os.dup(worker.bell), worker)

    def close(self) -> None:
        """Workers go on, until the test is over."""

    def end_all(self) -> None:
        """Give back what the workers hold: the end of a test."""
        for worker in self.workers:
            worker.end()
            os.close(worker.bell)
