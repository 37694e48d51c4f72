"""The way of one prediction: reference to version or checkpoint, into the queue, to its answer; with its deadline and
its metrics.

It meets the control plane only in the store: an alias change gives the store's generation file a later modification
time than it ever had; that is looked at on each request, so the next one is answered by the new version. Knows no
HTTP.

A request whose version is loaded, and whose rows are plain numbers, never leaves the event loop (`begin`). All others
are made ready in threads (`predict`, `infer`), and then wait in the same queue.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeVar

import orjson

from service.errors import (
    Conflict,
    DeadlinePassed,
    Entry,
    InvalidInput,
    InvalidName,
    ModelQuarantined,
    NotFound,
    Overloaded,
    ServiceError,
    StoreError,
    ValidationFailed,
    listed,
    shorten,
)
from service.inference.batcher import Batch, Explained, Policy
from service.inference.codec import Array, Limits, Raw, only_numbers
from service.inference.dispatch import Dispatcher, Promise, Request
from service.inference.runtime import (
    Inference,
    Loaded,
    NotPlainError,
    Preflight,
    Resident,
    Runtime,
    Slice,
    Trial,
    Work,
)
from service.inference.trials import Trials, routed, shadowed
from service.jobs.queue import Job, JobQueue
from service.jobs.supervisor import folder_of_job
from service.schemas.document import nearest_hint
from service.schemas.jobs import JobState
from service.schemas.versions import JOB_REFERENCE, Manifest, Reference, Signature, parse_reference
from service.store.models import ModelStore, Resolved
from service.telemetry import Metrics, VersionMetrics, log

T = TypeVar("T")
_log = log(__name__)
_THREADS: Final = 40
"""Requests that are made ready at a time. Most of these wait: for a version that is being loaded, or for the
interpreter."""
_FORWARDS: Final = max(1, min(4, len(os.sched_getaffinity(0))))
"""Long forward passes at a time, each of another version; each takes one core."""
INLINE_NUMBERS: Final = 100_000
"""Longer answers are written in a thread."""
_INLINE_TEXTS: Final = 2_000
"""More texts of a request are looked at in a thread."""
_INLINE_ELEMENTS: Final = 1_000_000
"""More numbers of a request are looked at in a thread."""
_MEMBERS: Final = frozenset({"model", "inputs", "timeout_s", "priority"})


_DRAIN_S: Final = 30.0
_LOOK_S: Final = 0.005
_COLLECT_AFTER_S: Final = 1.0
"""How long an unloaded version is waited for, how often it is looked for, and when the collector is asked to help: an
exception may keep the version in a circle."""


class Located(NamedTuple):
    """What answers a reference now: a version, or a job's checkpoint while there is none."""

    loaded: Loaded
    found: Resolved | None = None
    job: Job | None = None

    @property
    def alias(self) -> str | None:
        """The alias that has led to the version, if one has."""
        return None if self.found is None else self.found.alias


@dataclass(frozen=True, slots=True)
class Described:
    """What a version takes and answers."""

    model: str
    version: int
    alias: str | None
    signature: Signature
    manifest: Manifest
    classes: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a version has done since this process began.

    Args:
        rows, requests, batches: that were answered; `batches` counts forward passes.
        refused: requests that were not answered.
        queue_s, infer_s: sums, over requests and over forward passes.
        by_rows: for each number of rows in a forward pass how many there were, and their seconds.
        last_at: of the last answer, seconds since the epoch.
    """

    rows: int
    requests: int
    batches: int
    refused: int
    queue_s: float
    infer_s: float
    by_rows: Mapping[int, tuple[int, float]]
    last_at: float


class Answered(NamedTuple):
    """An answer as JSON bytes, with what the headers tell of it."""

    body: bytes
    version: int | None
    rows: int
    timing: bytes
    """As the header Server-Timing has it."""


class Told(NamedTuple):
    """What is told of an answer to who wants to know of each.

    Args:
        version: 0 is a job's checkpoint.
        rows: of the request; the batch's are those of the forward pass.
        arrived, closed_at: when the request came and when its forward pass began, on the monotonic clock.
        infer_s: of the forward pass.
    """

    model: str
    version: int
    rows: int
    arrived: float
    closed_at: float
    infer_s: float
    batch_requests: int
    batch_rows: int


class Ticket(NamedTuple):
    """A request in the queue.

    Args:
        future: gets the part of the answers that is its own, or an exception; one of asyncio's unless its caller gave
            another one. It may be cancelled when nobody waits any more.
        long: it may take long.
        work: what it asks for.
        wanted: names of the outputs that are; None is all.
    """

    located: Located
    future: Promise
    timer: asyncio.TimerHandle | None
    arrived: float
    long: bool
    work: Work
    wanted: frozenset[str] | None = None


def read_plain(body: bytes) -> dict[str, Any] | None:
    """The members of a request's body, if its rows are nothing but numbers and it has no strange member."""
    if not only_numbers(body):
        return None
    try:
        asked = orjson.loads(body)
    except ValueError:
        return None
    return asked if type(asked) is dict and asked.keys() <= _MEMBERS else None


class DataPlane:
    """Answers predictions from the versions of a store, in threads of its own: slow work elsewhere holds none up.

    Args:
        policy: how requests are batched.
        on_answer: is told of each answer, in the context of its request.
    """

    def __init__(
        self,
        models: ModelStore,
        jobs: JobQueue,
        root: Path,
        runtime: Runtime,
        *,
        limits: Limits,
        metrics: Metrics,
        policy: Policy | None = None,
        on_answer: Callable[[Told], None] | None = None,
    ) -> None:
        self._on_answer = on_answer
        self._models = models
        self._jobs = jobs
        self._root = root
        self._runtime = runtime
        self._limits = limits
        self._metrics = metrics
        self._policy = policy or Policy()
        self._mutex = threading.Lock()
        self._generation: tuple[int, int] | None = None
        self._resolved: dict[Reference, Resolved] = {}
        self._led: dict[Reference, int] = {}  # the versions that aliases led to before the last change
        self._references: dict[str, Reference] = {}
        self._statistics: dict[tuple[str, int], _Counts] = {}
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="predict")
        self._thread = 0  # that of the event loop
        # What answers the references of this turn of the event loop: none of its requests came after the first one.
        self._here: dict[Reference, Located] = {}
        self._dispatcher = Dispatcher(self._policy, self._run, threads=_FORWARDS, on_turn=self._here.clear)
        self.trials = Trials(models, runtime, limits=limits, metrics=metrics, prepare=self.prepare, submit=self.submit)
        metrics.in_flight.read = self._in_flight
        self.tell: Callable[[Literal["load", "unload"], str], None] = lambda word, name: None
        """Called when a version is loaded or unloaded by request, for the other processes of this server."""

    def close(self) -> None:
        """Take nothing more; what is being computed ends."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.trials.close()
        self._dispatcher.close()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Do `work` in one of the threads; cancelled before its turn it costs nothing."""
        return self._threads.submit(contextvars.copy_context().run, work)

    # -- which version ------------------------------------------------------------------------------------------------

    def resolve(self, reference: Reference) -> Resolved:
        """Which version a reference means now.

        Raises:
            NotFound: there is no such model, alias or version.
        """
        found, generation = self._look(reference)
        if found is None:
            found = self._models.resolve(reference)
            with self._mutex:
                if generation == self._generation and len(self._resolved) < 10_000:
                    self._resolved[reference] = found
                if self._led.pop(reference, found.version) != found.version:
                    self._metrics.swaps.labels("ok").inc()
        return found

    def known(self, reference: Reference) -> Resolved | None:
        """Which version a reference means now, where the store need not be asked for that."""
        return self._look(reference)[0]

    def _look(self, reference: Reference) -> tuple[Resolved | None, tuple[int, int]]:
        """Which version a reference means, where that is known and nothing has changed since."""
        # Requests that were read in one turn of the event loop need one look: none of them came after it.
        if self._dispatcher.ticking and self._generation is not None and threading.get_ident() == self._thread:
            return self._resolved.get(reference), self._generation
        generation = self._models.generation()
        with self._mutex:
            if generation != self._generation:
                self._generation = generation
                if len(self._led) > 10_000:
                    self._led.clear()
                for known, one in self._resolved.items():
                    if known.version is None:
                        self._led[known] = one.version
                self._resolved.clear()
            return self._resolved.get(reference), generation

    def _ready(self, reference: Reference) -> Located | None:
        """What answers a reference, where nothing need be read or loaded for that."""
        here = self._here.get(reference)
        if here is not None and threading.get_ident() == self._thread:
            return here
        found, _ = self._look(reference)
        if found is None:
            return None
        if found.through is not None:
            found = routed(found, found.through)
        loaded = self._runtime.peek(found.model, found.version)
        if loaded is None:
            return None
        located = Located(loaded, found)
        if found.through is None and self._dispatcher.ticking and threading.get_ident() == self._thread:
            self._here[reference] = located
        return located

    def _locate(self, reference: Reference) -> Located:
        """What answers a reference, loaded if it is not yet: it may take long.

        Raises:
            NotFound, ModelQuarantined, Conflict: as they say.
        """
        try:
            job = self._job(reference)
            found = self.resolve(reference) if job is None else self._published(job)
        except NotFound as error:
            raise error.at("/model") from None
        if found is not None:
            return Located(*self._loaded(found), job)
        assert job is not None
        return Located(self._trial(job), None, job)

    def _loaded(self, found: Resolved) -> tuple[Loaded, Resolved]:
        """The version that answers, loaded: the alias's own where its canary cannot be."""
        if found.through is not None:
            canary = routed(found, found.through)
            if canary.version != found.version:
                try:
                    return self._runtime.get(canary.model, canary.version), canary
                except (NotFound, StoreError):  # damaged, deleted, or without room
                    self.trials.judge(canary, failed=True, seconds=0.0)
        try:
            return self._runtime.get(found.model, found.version), found
        except ModelQuarantined:
            self.trials.give_up(found)
            raise

    async def describe(self, reference: Reference) -> Described:
        """What a version takes and answers; it is not loaded for that.

        Raises:
            NotFound: there is no such version.
        """
        return await asyncio.wrap_future(self.submit(partial(self._describe, reference)))

    def _describe(self, reference: Reference) -> Described:
        try:
            found = self.resolve(reference)
            manifest = self._models.version(found.model, found.version).manifest
        except NotFound as error:
            raise error.at("/model") from None
        if manifest is None:
            raise NotFound("There is no such version.").at("/model")
        return Described(found.model, found.version, found.alias, manifest.signature, manifest, manifest.classes)

    async def load(self, reference: Reference) -> None:
        """Load what a reference means, if it is not yet.

        Raises:
            NotFound, ModelQuarantined, Conflict: as they say.
        """
        await asyncio.wrap_future(self.submit(partial(self._locate, reference)))

    def warm(self) -> None:
        """Load what is pinned; what cannot be loaded is logged and passed over."""
        for model, version in sorted(self._models.pins()):
            try:
                self._runtime.get(model, version)
            except ServiceError as error:
                _log.warning(
                    "A pinned version could not be loaded.",
                    action="pin_failed",
                    model=model,
                    version=version,
                    error=str(error),
                )

    def prepare(self, model: str, alias: str, version: int) -> None:
        """See that an alias may be pointed at a version: that it can be loaded, and comes out as it was published.

        It stays loaded, unless others would have to go for an alias that nobody asks now.

        Raises:
            NotFound, ModelQuarantined, MemoryFull: the alias should stay where it is.
        """
        try:
            present: int | None = self._models.aliases.get(model, alias).version
        except NotFound:
            present = None
        try:
            hot = present is not None and self._runtime.peek(model, present) is not None
            flight = self._runtime.preflight(model, version)
            if hot or not flight.evicts or not flight.fits:  # where it does not fit, that is told now
                self._runtime.get(model, version)
            else:
                self._runtime.check(model, version)
        except NotFound:
            raise
        except ServiceError as error:
            self._metrics.swaps.labels("failed").inc()
            _log.warning(
                "An alias was left where it is, for its new version cannot be loaded.",
                action="alias_kept",
                model=model,
                alias=alias,
                version=version,
                error=str(error),
            )
            raise

    def preflight(self, model: str, version: int) -> Preflight:
        """What loading a version would take, and what would go for it; nothing is done.

        Raises:
            NotFound: there is no such version.
        """
        return self._runtime.preflight(model, version)

    def keep(self, model: str, version: int, *, pinned: bool | None = None, everywhere: bool = False) -> Preflight:
        """Load a version if it is not yet, and pin it or end that; None leaves that as it is.

        Args:
            model, version: which.
            pinned: whether it never goes to make room.
            everywhere: the other processes of this server shall do so too.

        Raises:
            NotFound, ModelQuarantined: as they say.
            MemoryFull: nothing that may go would make room for it; nothing was changed.
        """
        self._runtime.get(model, version)
        if pinned is not None:
            self._models.pin(model, version, pinned=pinned)
        if everywhere:
            self.tell("load", f"{model}/{version}")
        return self._runtime.preflight(model, version)

    def residents(self) -> list[tuple[Resident, int]]:
        """The versions that are loaded now, the one asked longest ago first, with the requests that wait for each."""
        pending = self._in_flight()
        return [(one, int(pending.get((one.model, str(one.version)), 0))) for one in self._runtime.residents()]

    @property
    def budget_bytes(self) -> int:
        """Bytes of files of versions that may be loaded."""
        return self._runtime.budget_bytes

    def _in_flight(self) -> dict[tuple[str, ...], float]:
        """Requests that wait or are computed in threads, by the labels of their versions."""
        pending = self._dispatcher.pending()
        found: dict[tuple[str, ...], float] = {}
        for loaded in self._runtime.loaded():
            if loaded.told is not None:
                count = sum(n for key, n in pending.items() if isinstance(key, tuple) and key[0] == loaded.number)
                labels = loaded.told.labels
                found[labels] = found.get(labels, 0.0) + count
        return found

    def loaded(self) -> list[tuple[str, int]]:
        """Models and versions that are loaded now."""
        sources = [each.source for each in self._runtime.loaded()]
        return [(source.model, source.version) for source in sources if isinstance(source, Manifest)]

    async def unload(self, model: str, version: int, *, unpin: bool = True, everywhere: bool = False) -> bool:
        """Let a version go, pinned or not, and wait until the requests that it has begun to answer have ended.

        The next request loads it again.

        Args:
            model, version: which; it may have been deleted since it was loaded.
            unpin: whether to end its pin, which is one for all processes.
            everywhere: the other processes of this server shall do so too; they are not waited for.

        Returns:
            Whether the last of them has ended; some may take longer than this waits.

        Raises:
            NotFound: there is no such version.
        """
        if unpin:
            try:
                await asyncio.wrap_future(self.submit(partial(self._models.pin, model, version, pinned=False)))
            except NotFound:
                if (model, version) not in self.loaded():
                    raise
        if everywhere:
            self.tell("unload", f"{model}/{version}")
        leaving = self._runtime.forget(model, version)
        if leaving is None:
            return True
        loaded = leaving()
        number = None if loaded is None else loaded.number
        del loaded
        began, collected = time.monotonic(), False
        while leaving() is not None and time.monotonic() < began + _DRAIN_S:
            await asyncio.sleep(_LOOK_S)
            if not collected and time.monotonic() > began + _COLLECT_AFTER_S:
                collected = True
                await asyncio.wrap_future(self.submit(gc.collect))
        self._dispatcher.forget(lambda key: isinstance(key, tuple) and key[0] == number)
        return leaving() is None

    async def unload_all(self, model: str, *, unpin: bool = True) -> None:
        """Let every version of a model go, and wait for each as `unload` does.

        Args:
            model: which; it may have been deleted since its versions were loaded.
            unpin: whether to end their pins, of versions too that are not loaded here: the next start would load them.
        """
        pinned = await asyncio.wrap_future(self.submit(self._models.pins)) if unpin else ()
        for name, version in sorted({*self.loaded(), *pinned}):
            if name == model:
                with suppress(NotFound):  # deleted just now
                    await self.unload(name, version, unpin=unpin)

    # -- predictions --------------------------------------------------------------------------------------------------

    def begin(
        self,
        asked: Mapping[str, Any],
        *,
        path: Reference | None,
        arrived: float,
        charge: Callable[[int], None] = lambda _: None,
        suits: Callable[[Signature], bool] = lambda _: True,
        promise: Promise | None = None,
    ) -> Ticket | None:
        """Let a plain request wait for its turn, if its version is loaded. On the event loop.

        Args:
            asked: what `read_plain` gave.
            path: what the path names, if it names a model.
            arrived: on the monotonic clock.
            charge: told the rows before they are queued; it may raise.
            suits: whether the request is one for a version of this signature.
            promise: takes the answer; then `answered`, `inferred` or `failed` is told what it was given.

        Returns:
            None where anything is out of the ordinary: then `predict` is the way, which says what is wrong, if
            anything is.

        Raises:
            Overloaded: more is waiting than may.
        """
        reference = path
        model = asked.get("model")
        if model is not None:
            if path is not None or type(model) is not str:
                return None
            reference = self._references.get(model)
            if reference is None:
                reference = self._known(model)
        rows = asked.get("inputs")
        if reference is None or type(rows) is not list:
            return None
        deadline, priority = None, 0
        if len(asked) > 2 or (model is None and len(asked) > 1):
            timeout, priority = asked.get("timeout_s"), asked.get("priority", 0)
            if type(priority) is not int or not 0 <= priority <= 9:
                return None
            if timeout is not None:
                if type(timeout) not in (int, float) or not 0.001 <= timeout <= 3600:
                    return None
                deadline = arrived + timeout
        located = self._ready(reference)
        if located is None:
            return None
        loaded = located.loaded
        plain = loaded.plain(self._limits)
        if plain is None or not 0 < len(rows) <= plain.rows or not suits(loaded.signature):
            return None
        if len(rows) * loaded.answered > INLINE_NUMBERS:
            return None  # what is answered would take long to write
        if shadowed(located.found) and promise is not None and not isinstance(promise, asyncio.Future):
            return None
        work: Work = rows
        if plain.is_best_read_at_once(len(rows)):
            try:
                work = (Raw(plain.array(rows), rows=rows, bounded=True),)
            except (ValueError, TypeError, OverflowError):
                return None
        charge(len(rows))
        return self._wait(located, work, arrived=arrived, deadline=deadline, priority=priority, promise=promise)

    def begin_arrays(
        self,
        reference: Reference,
        tensors: Mapping[str, Array],
        *,
        arrived: float,
        outputs: Sequence[str] | None = None,
        deadline: float | None = None,
        priority: int = 0,
        charge: Callable[[int], None] = lambda _: None,
        promise: Promise | None = None,
    ) -> Ticket | None:
        """Let raw arrays wait for their turn, if their version is loaded and they are not many. On the event loop.

        Args:
            reference, tensors, outputs, deadline, priority: as `infer` has them.
            arrived, charge, promise: as `begin` has them.

        Returns:
            None where that may take long: then `infer` is the way.

        Raises:
            DeadlinePassed, Overloaded, InvalidInput, BatchTooLarge: as they say.
        """
        _in_time(deadline)
        located = self._ready(reference)
        if located is None:
            return None
        size = texts = 0
        for tensor in tensors.values():
            size += tensor.size
            if tensor.dtype.kind not in "biuf":
                texts += tensor.size
        if size >= _INLINE_ELEMENTS or texts > (0 if located.loaded.takes_pictures else _INLINE_TEXTS):
            return None
        if shadowed(located.found) and promise is not None and not isinstance(promise, asyncio.Future):
            return None
        raw = self._taken(located, partial(Loaded.check, tensors=tensors, limits=self._limits), arrived)
        wanted = _wanted(outputs, located.loaded.signature)
        if promise is not None and len(raw[0]) * located.loaded.answered > INLINE_NUMBERS:
            return None  # what is answered may take long to write
        charge(len(raw[0]))
        ticket = self._wait(located, raw, arrived=arrived, deadline=deadline, priority=priority, promise=promise)
        return ticket if wanted is None else ticket._replace(wanted=wanted)

    def answered(self, ticket: Ticket, part: Slice) -> Answered:
        """What was given to the promise of a ticket, as JSON."""
        if ticket.timer is not None:
            ticket.timer.cancel()
        return self._encoded(ticket.located, part, ticket.arrived)

    def inferred(self, ticket: Ticket, part: Slice) -> Inference:
        """What was given to the promise of a ticket, as arrays."""
        if ticket.timer is not None:
            ticket.timer.cancel()
        queue_s = self._count(ticket.located, part, ticket.arrived)
        found = ticket.located.loaded.inference(part, alias=ticket.located.alias, queue_s=queue_s)
        if ticket.wanted is not None:
            for name in [name for name in found.outputs if name not in ticket.wanted]:
                del found.outputs[name]
        return found

    def wrote(self, found: Inference, seconds: float) -> None:
        """An answer that `inferred` or `infer` gave was written, in so many seconds."""
        named = found.model is not None
        labels = (str(found.model), str(found.version)) if named else ("", "")
        self._metrics.of_version(*labels).encoded(seconds)

    def failed(self, ticket: Ticket, error: BaseException) -> None:
        """The promise of a ticket was given an exception, or nobody waits any more (CancelledError)."""
        if ticket.timer is not None:
            ticket.timer.cancel()
        if isinstance(error, asyncio.CancelledError):
            self._told_of(ticket.located.loaded).refused("gone")
            return
        found = ticket.located.found
        if found is None or not isinstance(error, Exception):
            return
        seconds = time.monotonic() - ticket.arrived
        if isinstance(error, InvalidInput):
            canary, work, limits = ticket.located.loaded, ticket.work, self._limits
            self.trials.doubt(found, lambda own: own.after(canary, work, limits=limits), seconds)
        elif not isinstance(error, (ServiceError, NotPlainError)):
            self.trials.judge(found, failed=True, seconds=seconds)

    async def predict(
        self,
        inputs: object,
        *,
        reference: Reference | None,
        model: str | None,
        deadline: float | None = None,
        priority: int = 0,
        charge: Callable[[int], None] = lambda _: None,
    ) -> Answered:
        """Answer the `inputs` member of a request, whatever it is.

        Args:
            inputs: the request's `inputs` member.
            reference: what the path names, if it names a model.
            model: the reference in the body; it may repeat the path's model, not contradict it.
            deadline: on the monotonic clock.
            priority: 0 to 9, higher first.
            charge: told the rows before they are queued; it may raise.

        Raises:
            DeadlinePassed: it passed before there was an answer.
            Overloaded: more is waiting than may.
            InvalidInput, NotFound, BatchTooLarge, ModelQuarantined: as they say.
        """
        arrived = time.monotonic()

        def ready() -> tuple[Located, tuple[Any, ...]]:
            _in_time(deadline)
            located = self._locate(_reference(reference, model))
            _in_time(deadline)
            return located, self._taken(located, partial(Loaded.decode, inputs=inputs, limits=self._limits), arrived)

        located, raw = await self._before(ready, deadline)
        charge(len(raw[0]))
        part = await self._answered(located, raw, arrived=arrived, deadline=deadline, priority=priority)
        rows = part.stop - part.start
        if rows * sum(output[:1].size for output in part.answers.outputs.values()) < INLINE_NUMBERS:
            return self._encoded(located, part, arrived)
        return await asyncio.wrap_future(self.submit(partial(self._encoded, located, part, arrived)))

    async def infer(
        self,
        reference: Reference,
        tensors: Mapping[str, Array],
        *,
        outputs: Sequence[str] | None = None,
        deadline: float | None = None,
        priority: int = 0,
    ) -> Inference:
        """Answer raw arrays. On the server's event loop.

        Args:
            reference: who is asked.
            tensors: arrays [N, …] by input name, as the signature has them; arrays of texts for columns of texts.
            outputs: names of those that are wanted; None is all.
            deadline: on the monotonic clock.
            priority: 0 to 9, higher first.

        Raises:
            DeadlinePassed, Overloaded, InvalidInput, NotFound, BatchTooLarge, ModelQuarantined: as they say.
        """
        arrived = time.monotonic()
        ticket = self.begin_arrays(
            reference, tensors, arrived=arrived, outputs=outputs, deadline=deadline, priority=priority
        )
        if ticket is None:

            def ready() -> tuple[Located, tuple[Any, ...]]:
                located = self._locate(reference)
                take = partial(Loaded.check, tensors=tensors, limits=self._limits)
                return located, self._taken(located, take, arrived)

            located, raw = await self._before(ready, deadline)
            wanted = _wanted(outputs, located.loaded.signature)
            ticket = self._wait(located, raw, arrived=arrived, deadline=deadline, priority=priority)
            ticket = ticket._replace(wanted=wanted)
        return self.inferred(ticket, await self._settled(ticket))

    def _taken(self, located: Located, take: Callable[[Loaded], tuple[Any, ...]], arrived: float) -> tuple[Any, ...]:
        """The rows of a request as the version takes them."""
        try:
            return take(located.loaded)
        except InvalidInput:
            limits = self._limits
            self.trials.doubt(
                located.found, lambda own: own.alone(take(own), limits=limits), time.monotonic() - arrived
            )
            raise

    async def _before(
        self, ready: Callable[[], tuple[Located, tuple[Any, ...]]], deadline: float | None
    ) -> tuple[Located, tuple[Any, ...]]:
        remaining = None if deadline is None else deadline - time.monotonic()
        try:
            return await asyncio.wait_for(asyncio.wrap_future(self.submit(ready)), remaining)
        except TimeoutError:
            raise DeadlinePassed from None

    async def _answered(
        self, located: Located, work: Work, *, arrived: float, deadline: float | None, priority: int
    ) -> Slice:
        return await self._settled(self._wait(located, work, arrived=arrived, deadline=deadline, priority=priority))

    async def _settled(self, ticket: Ticket) -> Slice:
        assert isinstance(ticket.future, asyncio.Future)
        try:
            part: Slice = await ticket.future
        except BaseException as error:
            self.failed(ticket, error)
            raise
        return part

    def _wait(
        self,
        located: Located,
        work: Work,
        *,
        arrived: float,
        deadline: float | None,
        priority: int,
        promise: Promise | None = None,
    ) -> Ticket:
        """Put work into the queue; at the deadline its future fails, whatever it waits for."""
        loaded = located.loaded
        told = self._told_of(loaded)
        future = asyncio.get_running_loop().create_future() if promise is None else promise
        rows = len(work) if type(work) is list else len(work[0])
        request = Request(
            loaded.key(None if type(work) is list else work),  # type: ignore[arg-type]  # mypy does not narrow by type()
            rows,
            (loaded, work),
            future,
            arrived=arrived,
            deadline=deadline,
            priority=priority,
            mergeable=loaded.mergeable,
        )
        self._thread = threading.get_ident()
        try:
            long = self._dispatcher.submit(request)
        except Overloaded:
            told.refused("overloaded")
            self._counts(loaded).refused += 1
            raise
        timer = None
        if deadline is not None:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(max(0.0, deadline - time.monotonic()), _late, future, told)
        if shadowed(located.found) and isinstance(future, asyncio.Future):
            assert located.found is not None
            assert located.found.through is not None
            future.add_done_callback(partial(self.trials.shadow, loaded, located.found.through, work))
        return Ticket(located, future, timer, arrived, long, work)

    def _told_of(self, loaded: Loaded) -> VersionMetrics:
        """The metrics of a version; the batcher is told what it costs when it is first asked."""
        told = loaded.told
        if told is None:
            source = loaded.source
            labels = (source.model, str(source.version)) if isinstance(source, Manifest) else ("", "")
            told = loaded.told = self._metrics.of_version(*labels)
            loaded.plain(self._limits)
            for rows, seconds in loaded.seconds:
                self._dispatcher.measured(loaded.key(None), mergeable=loaded.mergeable, rows=rows, seconds=seconds)
        return told

    def _run(self, batch: Batch[Request]) -> tuple[list[Any], float | None]:
        """A forward pass for all members of a batch: on the event loop or in a thread."""
        loaded: Loaded = batch.members[0].work[0]
        works = [member.work[1] for member in batch.members]
        found, cost = loaded.run(works, limits=self._limits, fixed_rows=self._policy.fixed_rows)
        told, counts = self._told_of(loaded), self._counts(loaded)
        parts = [part for part in found if isinstance(part, Slice)]
        whole = len(parts) == len(works) and parts[0].answers.requests == len(works)
        for answers in {part.answers for part in (parts[:1] if whole else parts)}:
            answers.closed_at = batch.closed_at
            if answers.seen is None:
                told.ran(answers.requests, answers.rows, answers.infer_s, answers.assemble_s)
            else:
                outside, shifts, _ = answers.seen
                told.ran(
                    answers.requests,
                    answers.rows,
                    answers.infer_s,
                    answers.assemble_s,
                    outside=outside,
                    shifts=shifts,
                )
            with self._mutex:
                counts.ran(answers.rows, answers.infer_s)
        return found, cost

    def _count(self, located: Located, part: Slice, arrived: float) -> float:
        """Count an answer; the seconds that it has waited for its turn."""
        queue_s = max(0.0, part.answers.closed_at - arrived)
        self._told_of(located.loaded).queued(queue_s)
        self._counts(located.loaded).answered(part.stop - part.start, queue_s)
        if located.found is not None and located.found.through is not None:
            self.trials.judge(located.found, failed=False, seconds=time.monotonic() - arrived)
        if self._on_answer is not None:
            self._on_answer(_told(located, part, arrived))
        return queue_s

    def _counts(self, loaded: Loaded) -> _Counts:
        counts: _Counts | None = loaded.counted
        if counts is None:
            source = loaded.source
            key = (source.model, source.version) if isinstance(source, Manifest) else ("", 0)
            counts = loaded.counted = self._statistics.setdefault(key, _Counts())
        return counts

    # -- answers ------------------------------------------------------------------------------------------------------

    def _encoded(self, located: Located, part: Slice, arrived: float) -> Answered:
        started = time.perf_counter()
        queue_s = self._count(located, part, arrived)
        answers = part.answers
        warnings = list(part.warnings)
        source, job = located.loaded.source, located.job
        version = source.version if isinstance(source, Manifest) else None
        if isinstance(source, Trial):
            assert job is not None
            detail = f"This is the checkpoint of step {source.step} of a job that is {job.state.value}: no version."
            hint = f"POST /v1/jobs/{source.job}/promote publishes it."
            warnings.append(Entry("/model", "unpublished", detail, hint=hint))
        pieces = [self._head(located), _outputs(part)]
        if answers.labels is not None:
            rows = slice(part.start, part.stop)
            assert answers.probabilities is not None
            pieces += [b',"labels":', _dumps(answers.labels[rows])]
            pieces += [b',"probabilities":', _dumps(answers.probabilities[rows])]
            pieces += [b',"classes":', _dumps(answers.classes)]
        pieces.append(
            b',"warnings":' + _dumps([entry.to_dict() for entry in warnings]) + b"}" if warnings else b',"warnings":[]}'
        )
        body = b"".join(pieces)
        encode_s = time.perf_counter() - started
        self._told_of(located.loaded).encoded(encode_s)
        timing = server_timing(queue_s, answers.assemble_s, answers.infer_s, encode_s)
        return Answered(body, version, part.stop - part.start, timing)

    def _head(self, located: Located) -> bytes:
        """The answer up to its outputs."""
        source, job = located.loaded.source, located.job
        heads = located.loaded.heads
        head = heads.get(located.alias) if job is None else None
        if head is not None:
            return head
        if isinstance(source, Manifest):
            answer: dict[str, Any] = {"model": source.model, "version": source.version}
            if located.alias is not None:
                answer["alias"] = located.alias
            answer["digest"] = source.digest
            if job is not None:
                answer["job"] = job.id
        else:
            answer = {"model": None, "version": None, "digest": None}
            answer |= {"job": source.job, "step": source.step, "epoch": source.epoch}
        head = orjson.dumps(answer)[:-1] + b',"outputs":'
        if job is None and len(heads) < 1000:
            heads[located.alias] = head
        return head

    # -- told ---------------------------------------------------------------------------------------------------------

    @property
    def policy(self) -> Policy:
        """How requests are batched."""
        return self._policy

    def require(self, model: str) -> None:
        """See that there is such a model.

        Raises:
            NotFound: there is none.
        """
        self._models.model(model)

    def batching(self, model: str) -> list[tuple[int, bool, str, list[Explained]]]:
        """What the batcher knows of the loaded versions of a model, the newest first: for each, whether its requests
        may be merged, what computes it, and what is known of each form of rows that was asked.
        """
        explained = self._dispatcher.explain()
        found = []
        for each in self._runtime.loaded():
            if isinstance(each.source, Manifest) and each.source.model == model:
                groups = [one for key, one in explained.items() if isinstance(key, tuple) and key[0] == each.number]
                found.append((each.source.version, each.mergeable, each.predictor.engine, groups))
        return sorted(found, key=lambda item: -item[0])

    def statistics(self) -> dict[tuple[str, int], Statistics]:
        """What each version has done since this process began, by model and version."""
        return {key: counts.told() for key, counts in list(self._statistics.items()) if key[0]}

    # -- references ---------------------------------------------------------------------------------------------------

    def _known(self, model: str) -> Reference | None:
        """A reference in a body, where it is one of a model."""
        if re.fullmatch(JOB_REFERENCE, model):
            return None
        try:
            reference = parse_reference(model)
        except InvalidName:
            return None
        if len(self._references) < 10_000:
            self._references[model] = reference
        return reference

    def _job(self, reference: Reference) -> Job | None:
        """The job that a reference names; None where it names a model."""
        if re.fullmatch(JOB_REFERENCE, reference.model) is None or reference.version is not None:
            return None
        return self._jobs.get(reference.model)

    def _published(self, job: Job) -> Resolved | None:
        """The version that a job has made; None while there is none."""
        output = job.output or {}
        if job.state is not JobState.SUCCEEDED or "version" not in output:
            return None
        return self.resolve(Reference(output["model"], version=output["version"]))

    def _trial(self, job: Job) -> Loaded:
        """The checkpoint of a job that has made no version.

        Raises:
            Conflict: it keeps none.
        """
        try:
            return self._runtime.trial(job.id, folder_of_job(self._root, job.id) / "checkpoints")
        except NotFound:
            detail = f"The job is {job.state.value} and keeps no checkpoint that could answer."
            hint = "A train job keeps one every `checkpoint.every_s` seconds, and when it is paused or cancelled."
            raise Conflict(detail, errors=[Entry("/model", "conflict", detail, hint=hint)]) from None


def _reference(path: Reference | None, body: str | None) -> Reference:
    if body is None:
        if path is None:
            raise ValidationFailed(
                errors=[Entry("/model", "missing", "Say which model is asked.", expected="name, name@alias or name/3")]
            )
        return path
    given = Reference(body) if re.fullmatch(JOB_REFERENCE, body) else parse_reference(body)
    if path is None:
        return given
    if given.model != path.model or (path.version is not None and given.version not in (None, path.version)):
        raise ValidationFailed(
            errors=[
                Entry(
                    "/model",
                    "invalid",
                    f"The path asks {path}, the body {given}.",
                    hint="Leave `model` out, or let both say the same.",
                )
            ]
        )
    return path if path.version is not None else given


def server_timing(queue_s: float, assemble_s: float, infer_s: float, encode_s: float) -> bytes:
    """Where the time of an answer went, as the header Server-Timing has it: in milliseconds."""
    milliseconds = (queue_s * 1e3, assemble_s * 1e3, infer_s * 1e3, encode_s * 1e3)
    return b"queue;dur=%.3f, batch;dur=%.3f, infer;dur=%.3f, encode;dur=%.3f" % milliseconds


def _in_time(deadline: float | None) -> None:
    if deadline is not None and time.monotonic() > deadline:
        raise DeadlinePassed


def _late(future: Promise, told: VersionMetrics) -> None:
    if not future.done():
        told.refused("deadline")
        future.set_exception(DeadlinePassed())


def _wanted(outputs: Sequence[str] | None, signature: Signature) -> frozenset[str] | None:
    if outputs is None:
        return None
    names = [spec.name for spec in signature.outputs]
    wrong = [
        Entry(
            "/outputs",
            "unknown-member",
            f"The version has no output {shorten(name)}.",
            hint=nearest_hint(name, names),
            expected=listed(names),
        )
        for name in outputs
        if name not in names
    ]
    if wrong:
        raise ValidationFailed(errors=wrong)
    return frozenset(outputs)


def _outputs(part: Slice) -> bytes:
    """The outputs of a request as JSON. Rows are written once for all who rode along, and then shared out."""
    answers = part.answers
    if answers.requests > 1 and len(answers.outputs) == 1:
        texts = answers.texts
        if texts is None:
            (whole,) = answers.outputs.values()
            texts = answers.texts = _dumps(whole)[2:-2].split(b"],[") if whole.ndim == 2 and whole.size else []
        if texts:
            if part.stop == part.start + 1:
                return b"[[" + texts[part.start] + b"]]"
            return b"[[" + b"],[".join(texts[part.start : part.stop]) + b"]]"
    outputs = part.outputs()
    return _dumps(next(iter(outputs.values())) if len(outputs) == 1 else outputs)


def _dumps(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


class _Counts:
    """Sums of one version. Those of answers are written on the event loop, those of forward passes under a lock."""

    def __init__(self) -> None:
        self.rows = self.requests = self.batches = self.refused = 0
        self.queue_s = self.infer_s = 0.0
        self.by_rows: dict[int, tuple[int, float]] = {}
        self.last_at = 0.0

    def answered(self, rows: int, queue_s: float) -> None:
        self.rows += rows
        self.requests += 1
        self.queue_s += queue_s
        self.last_at = time.time()

    def ran(self, rows: int, seconds: float) -> None:
        self.batches += 1
        self.infer_s += seconds
        count, before = self.by_rows.get(rows, (0, 0.0))
        self.by_rows[rows] = (count + 1, before + seconds)

    def told(self) -> Statistics:
        return Statistics(
            self.rows,
            self.requests,
            self.batches,
            self.refused,
            self.queue_s,
            self.infer_s,
            dict(self.by_rows),
            self.last_at,
        )


def _told(located: Located, part: Slice, arrived: float) -> Told:
    source, answers = located.loaded.source, part.answers
    model, version = (source.model, source.version) if isinstance(source, Manifest) else (f"{source.job}", 0)
    rows = part.stop - part.start
    return Told(model, version, rows, arrived, answers.closed_at, answers.infer_s, answers.requests, answers.rows)
