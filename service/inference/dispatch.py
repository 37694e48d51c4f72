"""Runs what the batcher closes: short forward passes on the event loop, all that one of its turns has brought in one;
long ones in threads, which take the next batch themselves.

Knows the event loop, threads and the clock; what a forward pass is, it is given.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol

from service.errors import DeadlinePassed
from service.inference.batcher import Batch, Batcher, Explained, Policy, Waiting
from service.telemetry import log

_log = log(__name__)
_TURN_S: Final = 0.001
"""So long short forward passes may follow each other before the event loop does something else."""


class Promise(Protocol):
    """Takes the answer to a request: a future of asyncio's, or what does without its ways through the event loop. Its
    methods are called on the event loop and may not raise."""

    def done(self) -> bool:
        """Whether nobody waits for the answer any more."""

    def set_result(self, result: Any, /) -> None:
        """Here it is."""

    def set_exception(self, exception: BaseException, /) -> None:
        """There is none, for this reason."""


class Request(Waiting):
    """A request in the queue, and what takes its answer."""

    __slots__ = ("future", "work")

    def __init__(
        self,
        key: Hashable,
        rows: int,
        work: Any,
        future: Promise,
        *,
        arrived: float,
        deadline: float | None = None,
        priority: int = 0,
        mergeable: bool = True,
    ) -> None:
        self.key = key
        self.rows = rows
        self.arrived = arrived
        self.deadline = deadline
        self.priority = priority
        self.mergeable = mergeable
        self.work = work
        self.future = future

    @property
    def gone(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.future.done()


Run = Callable[[Batch[Request]], tuple[Sequence[Any], float | None]]
"""Runs a batch: an answer or an exception for each member, and the seconds that the forward pass has kept a processor
busy; None if it was not one forward pass, or was not timed."""


class Dispatcher:
    """The batcher with an event loop and threads around it.

    Args:
        policy: the batcher's.
        run: see `Run`; called on the event loop or in a thread.
        threads: long forward passes at a time.
        clock: in seconds.
        on_turn: called on the event loop when what one of its turns has brought is about to be run.
    """

    def __init__(
        self,
        policy: Policy,
        run: Run,
        *,
        threads: int = 1,
        clock: Callable[[], float] = time.monotonic,
        on_turn: Callable[[], None] = lambda: None,
    ) -> None:
        self._batcher: Batcher[Request] = Batcher(policy, engines=threads)
        self._run = run
        self._clock = clock
        self._on_turn = on_turn
        self._mutex = threading.Lock()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="forward")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ticking = False
        self._timer: asyncio.TimerHandle | None = None
        self._working = 0
        self._most = threads

    def close(self) -> None:
        """Take nothing more; what is running ends."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def measured(self, key: Hashable, *, mergeable: bool, rows: int, seconds: float) -> None:
        """See `Batcher.measured`."""
        with self._mutex:
            self._batcher.measured(key, mergeable=mergeable, rows=rows, seconds=seconds)

    def explain(self) -> dict[Hashable, Explained]:
        """See `Batcher.explain`."""
        with self._mutex:
            return self._batcher.explain(now=self._clock())

    def pending(self) -> dict[Hashable, int]:
        """See `Batcher.pending`."""
        with self._mutex:
            return self._batcher.pending()

    def forget(self, gone: Callable[[Hashable], bool]) -> None:
        """See `Batcher.forget`."""
        with self._mutex:
            self._batcher.forget(gone)

    @property
    def ticking(self) -> bool:
        """Whether requests wait for the end of this turn of the event loop."""
        return self._ticking

    def submit(self, request: Request) -> bool:
        """Let a request wait for its turn; its future gets the answer. Called on the event loop.

        Returns:
            Whether that may take long.

        Raises:
            Overloaded: it would wait too long.
        """
        with self._mutex:
            long = self._batcher.offer(request, now=request.arrived)
        if not self._ticking:
            self._ticking = True
            loop = self._loop = asyncio.get_running_loop()
            loop.call_soon(self._tick)
        return long

    def _tick(self) -> None:
        """Run what is short, here and now; wake threads for the rest."""
        self._ticking = False
        self._on_turn()
        now = began = self._clock()
        while True:
            with self._mutex:
                batch = self._batcher.take(now=now, in_thread=False)
                expired = self._batcher.expired()
            for each in expired:
                _fail(each)
            if batch is None:
                break
            answers, cost = self._answers(batch)
            now = self._clock()
            with self._mutex:
                self._batcher.finished(batch, now=now, cost=cost)
            _deliver(batch, answers)
            if not self._batcher.rows:
                return
            now = self._clock()
            if now - began > _TURN_S and self._loop is not None:
                self._loop.call_soon(self._tick)
                return
        if self._batcher.rows:
            self._wake()

    def _answers(self, batch: Batch[Request]) -> tuple[Sequence[Any], float | None]:
        """What `run` gives; a bug in it is the answer to every member, and the queue goes on."""
        try:
            return self._run(batch)
        except Exception as error:
            return [error] * len(batch.members), None

    def _wake(self) -> None:
        """Start a thread when there is work for one; on the event loop."""
        with self._mutex:
            now = self._clock()
            needed = self._working < self._most and self._batcher.waiting_for_thread(now=now)
            if needed:
                self._working += 1
            due = self._batcher.due()
        if needed:
            self._threads.submit(self._work)
        if due is not None and self._loop is not None and self._timer is None:
            self._timer = self._loop.call_later(max(0.0, due - now), self._waited)

    def _waited(self) -> None:
        self._timer = None
        self._wake()

    def _work(self) -> None:
        """In a thread: run what is long until nothing is left. The next batch is taken before anybody is told."""
        try:
            self._work_off()
        except Exception:
            _log.exception("A thread for predictions has met a bug and goes on.", action="predict_thread_failed")
            with self._mutex:
                self._working -= 1
            self._call(self._tick)

    def _work_off(self) -> None:
        assert self._loop is not None
        done: tuple[Batch[Request], Sequence[Any]] | None = None
        while True:
            with self._mutex:
                batch = self._batcher.take(now=self._clock(), in_thread=True)
                expired = self._batcher.expired()
                if batch is None:
                    self._working -= 1
                elif self._working < self._most and self._batcher.waiting_for_thread(now=self._clock()):
                    self._working += 1  # another version waits, and another thread is free
                    self._threads.submit(self._work)
            if done is not None or expired:
                self._tell(done, expired)
            if batch is None:
                self._call(self._tick)  # what is left may have become short, or wait for its moment
                return
            answers, cost = self._answers(batch)
            with self._mutex:
                self._batcher.finished(batch, now=self._clock(), cost=cost)
            done = (batch, answers)

    def _tell(self, done: tuple[Batch[Request], Sequence[Any]] | None, expired: Sequence[Request]) -> None:
        def tell() -> None:
            for each in expired:
                _fail(each)
            if done is not None:
                _deliver(*done)

        self._call(tell)

    def _call(self, function: Callable[[], None]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:  # the loop is closed: nobody waits any more
            _log.debug("Answers came after the end of the server.", action="late_answers")


def _deliver(batch: Batch[Request], answers: Sequence[Any]) -> None:
    for member, answer in zip(batch.members, answers, strict=True):
        future = member.future
        if future.done():
            continue
        try:
            if isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)
        except Exception:  # the others shall have theirs all the same
            _log.exception("A request could not take its answer.", action="answer_lost")


def _fail(request: Request) -> None:
    if not request.future.done():
        request.future.set_exception(DeadlinePassed())
