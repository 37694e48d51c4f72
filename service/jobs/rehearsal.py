"""A look at a training before it is queued: a worker runs its first steps for a moment, and nothing is kept.

Knows folders and a launcher; the steps are the real trainer's. One rehearsal at a time, so that they measure
themselves and not each other.
"""

from __future__ import annotations

import json
import secrets
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from service.jobs.launchers import Launcher, sweep
from service.store.files import make_folder, translated
from service.telemetry import log

_log = log(__name__)
MEASURED_S: Final = 1.0
"""How long the steps are measured."""
_LIMIT_S: Final = 30.0
"""How long a rehearsal may take in all: reading the data, one step of a large net, trying other learning rates."""
_TURN_S: Final = 2.0
_DETAILS: Final = {
    "busy": "Another request is being measured just now.",
    "slow": f"The first steps took more than {_LIMIT_S:g} s.",
    "stopped": "The server stops.",
    "lost": "The worker that measured ended without an answer.",
}


class Rehearsals:
    """Runs the first steps of trainings in workers of their own, beside the slots of the queue.

    Args:
        staging: a folder of the store for what is not finished; what a rehearsal writes there is removed.
        memory_bytes: what the worker may take, as any job.
    """

    def __init__(self, staging: Path, launcher: Launcher, *, memory_bytes: int) -> None:
        self._staging = staging
        self._launcher = launcher
        self._memory_bytes = memory_bytes
        self._turn = threading.Lock()
        self._closing = threading.Event()

    def close(self) -> None:
        """End the one that runs."""
        self._closing.set()

    def run(self, task: Mapping[str, Any], *, threads: int) -> dict[str, Any]:
        """What the steps showed, or {"failure": …} with the failure's code, or {"reason": …} if nobody could look."""
        if not self._turn.acquire(timeout=_TURN_S):
            return {"reason": _DETAILS["busy"]}
        folder = self._staging / f"rehearsal-{secrets.token_hex(8)}"
        try:
            with translated():
                make_folder(folder, parents=True)
                about = {"checkpoints": str(folder / "checkpoints"), "rehearse_s": MEASURED_S}
                (folder / "task.json").write_text(json.dumps({**task, **about}))
                return self._watch(folder, threads)
        finally:
            sweep(folder)
            self._turn.release()

    def _watch(self, folder: Path, threads: int) -> dict[str, Any]:
        try:
            handle = self._launcher.launch(folder, threads=threads, memory_bytes=self._memory_bytes)
        except OSError as error:
            _log.warning("A rehearsal could not be started.", action="rehearsal", error=str(error))
            return {"reason": _DETAILS["lost"]}
        deadline = time.monotonic() + _LIMIT_S
        reason = "lost"
        try:
            while not handle.ended(0.05):
                if self._closing.is_set() or time.monotonic() > deadline:
                    reason = "stopped" if self._closing.is_set() else "slow"
                    handle.signal(signal.SIGKILL)
        finally:
            handle.close()
        for name, wrap in (("result.json", False), ("error.json", True)):
            if (folder / name).exists():
                found: dict[str, Any] = json.loads((folder / name).read_bytes())
                return {"failure": found} if wrap else found
        return {"reason": _DETAILS[reason]}
