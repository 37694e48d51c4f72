"""What the processes of one server do for each other, beside answering at one port.

Each hears what the others have changed, so that nobody need know which process answers. Knows the parts that are told,
and nothing of how words travel (`siblings`).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from service.dataplane import DataPlane
from service.errors import ServiceError
from service.jobs.launchers import adopt
from service.jobs.queue import JobQueue
from service.jobs.supervisor import Supervisor
from service.openinference import OpenInference
from service.siblings import Roll, Seat
from service.store.datasets import DatasetStore
from service.store.files import empty, entries
from service.store.models import ModelStore
from service.tallies import Together
from service.telemetry import LARGEST, Metrics, log

_log = log(__name__)
_ROLL_S: Final = 0.25
"""So long a scrape waits for the numbers of the other processes."""
_TELL_EVERY_S: Final = 1.0
_END_S: Final = 10.0


class Company:
    """What the processes of one server do for each other."""

    def __init__(
        self,
        seat: Seat,
        queue: JobQueue,
        supervisor: Supervisor,
        data: DataPlane,
        view: OpenInference,
        metrics: Metrics,
    ) -> None:
        self._seat = seat
        self._queue = queue
        self._supervisor = supervisor
        self._data = data
        self._view = view
        self._doing: set[asyncio.Task[None]] = set()
        self._works = True
        self._together = Together(
            seat.tallies, seat.place, own=metrics.registry, largest=LARGEST, on_full=_no_room_for_metrics
        )
        self._roll = Roll(seat, "tally", "tallied", self._together.write, timeout_s=_ROLL_S)
        queue.changed.relay = partial(seat.tell, "changed")
        view.tell = data.tell = seat.tell
        seat.on("changed", queue.changed.heard)
        seat.on("wake", lambda _: supervisor.wake())
        seat.on("load", lambda name: self._do(view.heard("load", name)))
        seat.on("unload", lambda name: self._do(view.heard("unload", name)))
        seat.on("prepare", self._prepare)
        seat.on("works", self._heard_of_jobs)
        seat.on_orphaned(supervisor.leave)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Hear the others; the process that runs the jobs also tells them whether it does, and how fast."""
        end = self._seat.listen()
        if self._seat.leads:
            self._do(self._tell_of_jobs())
        try:
            yield
        finally:
            end()
            for task in self._doing:
                task.cancel()

    def healthy(self) -> bool:
        """Whether the supervisor of jobs works, here or, as far as is known, at its place."""
        return self._supervisor.alive() if self._seat.leads else self._works

    async def metrics(self) -> Together:
        """Those of all processes."""
        await self._roll.call()
        return self._together

    def prepare(self, model: str, alias: str, version: int) -> None:
        """Load a version before an alias is pointed at it: here, which may refuse it, and meanwhile elsewhere."""
        self._seat.tell("prepare", f"{model} {alias} {version}")
        self._data.prepare(model, alias, version)

    def _prepare(self, text: str) -> None:
        model, alias, version = text.split(" ")
        self._data.submit(partial(self._try, model, alias, int(version)))

    def _try(self, model: str, alias: str, version: int) -> None:
        with contextlib.suppress(ServiceError):  # who was asked for it says so
            self._data.prepare(model, alias, version)

    async def _tell_of_jobs(self) -> None:
        while True:
            await asyncio.sleep(_TELL_EVERY_S)
            works = "yes" if self._supervisor.alive() else "no"
            self._seat.tell("works", f"{works} {self._queue.time_of_a_place():.3f}")

    def _heard_of_jobs(self, text: str) -> None:
        works, _, place_s = text.partition(" ")
        self._works, self._queue.place_s = works == "yes", float(place_s)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._doing.add(task)
        task.add_done_callback(self._doing.discard)


def _no_room_for_metrics(left_out: int) -> None:
    _log.error(
        f"{left_out} metrics of this process are told to nobody, and so are new ones: the memory for them is full.",
        action="metrics_left_out",
        left_out=left_out,
    )


def follow(staging: Path, datasets: DatasetStore, models: ModelStore, led: bool) -> None:
    """See to what the dead process before this one was doing, while the others go on; to versions where it led."""
    ended = end_readers(staging)
    datasets.take_over()
    if ended:
        empty(staging)
    if led:
        models.take_over()
    models.renew()  # it may have died between a change and the word of it


def end_readers(staging: Path) -> bool:
    """End the readers of datasets that a dead process has left below its folder; False where one could not be ended."""
    ended = True
    for entry in entries(staging):
        if entry.is_dir():
            try:
                reader = adopt(entry)
            except TimeoutError:
                _log.exception("What a dead process was reading could not be ended.", action="follow")
                ended = False
                continue
            if reader is not None:
                reader.signal(signal.SIGKILL)
                reader.ended(_END_S)
                reader.close()
    return ended
