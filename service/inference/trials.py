"""Versions on trial behind an alias: the canary's share, guards that take a version back, shadows and their report.

`routing` has the decisions; here they meet loaded versions and the store. What is remembered is of this process, and of
an alias as it is: a change of the alias begins anew.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, Final

from service.inference.codec import Limits
from service.inference.routing import Comparison, Watch, choose
from service.inference.runtime import Loaded, Runtime, Slice, Work
from service.schemas.routing import Guard
from service.store.aliases import AliasRecord, Prepare
from service.store.models import ModelStore, Resolved
from service.telemetry import Metrics, log

_log = log(__name__)
_REMEMBERED: Final = 1000
"""Aliases whose guards and shadows are remembered."""
_WAITING: Final = 8
"""Requests that wait for being computed once more; others are not."""


class Trials:
    """Judges versions by their answers, and has other versions compute the same.

    Args:
        prepare: loads a version before an alias is pointed at it; raises where it may not be.
        submit: does work in a thread.
    """

    def __init__(
        self,
        models: ModelStore,
        runtime: Runtime,
        *,
        limits: Limits,
        metrics: Metrics,
        prepare: Prepare,
        submit: Callable[[Callable[[], None]], Any],
    ) -> None:
        self._models = models
        self._runtime = runtime
        self._limits = limits
        self._metrics = metrics
        self._prepare = prepare
        self._submit = submit
        # By the alias's entity tag and the version; None once it was tried to take the version back.
        self._watches: dict[tuple[str, int], Watch | None] = {}
        self._comparisons: dict[tuple[str, int], Comparison] = {}  # likewise, of shadows
        self._room = threading.Semaphore(_WAITING)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shadow")

    def close(self) -> None:
        """Take nothing more; what is being computed ends."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    # -- guards -------------------------------------------------------------------------------------------------------

    def judge(self, found: Resolved, *, failed: bool, seconds: float) -> None:
        """Tell the guard of the alias that led here; what it finds wanting is taken back in the store.

        Args:
            found: who has answered.
            failed: by no mistake of the client's.
            seconds: from the request to its answer.
        """
        watched = _watched(found)
        if watched is None:
            return
        key, through, guard = watched
        if key not in self._watches:
            if len(self._watches) >= _REMEMBERED:
                self._watches.clear()
            self._watches.setdefault(key, Watch(guard))
        watch = self._watches.get(key)
        if watch is None:
            return
        reason = watch.note(failed=failed, seconds=seconds)
        if reason is not None:
            self._watches[key] = None
            self._submit(partial(self._retreat, key, through, found.version, reason))

    def doubt(self, found: Resolved | None, again: Callable[[Loaded], object], seconds: float) -> None:
        """A version has refused rows: of a canary that is a failure where the alias's own version takes them.

        Args:
            found: who has refused them.
            again: asks another version the same; raises where that refuses too.
            seconds: from the request to the refusal.
        """
        watched = None if found is None else _watched(found)
        if found is None or watched is None or found.version == watched[1].version:
            return
        if self._room.acquire(blocking=False):
            try:
                done = self._thread.submit(self._ask_again, found, watched[1], again, seconds)
            except RuntimeError:  # the server ends
                self._room.release()
                return
            done.add_done_callback(lambda _: self._room.release())

    def _ask_again(
        self, found: Resolved, through: AliasRecord, again: Callable[[Loaded], object], seconds: float
    ) -> None:
        try:
            again(self._runtime.get(through.model, through.version))
        except Exception:
            return  # the rows are wrong, or the canary is not alone in failing
        self.judge(found, failed=True, seconds=seconds)

    def give_up(self, found: Resolved) -> None:
        """A version's files are damaged: it will answer nobody any more, so its guard need not count."""
        watched = _watched(found)
        if watched is not None:
            key, through, _ = watched
            self._submit(partial(self._retreat, key, through, found.version, "Its files are damaged."))

    def _retreat(self, key: tuple[str, int], through: AliasRecord, version: int, reason: str) -> None:
        try:
            after = self._models.aliases.retreat(through, version, reason=reason, prepare=self._prepare)
        except Exception:
            self._watches.pop(key, None)  # the next answers will try again
            _log.exception("A version could not be taken back.", action="alias_retreat_failed", model=through.model)
            return
        if after is not None:
            self._metrics.retreats.inc()
            _log.warning(
                f"The guard has taken version {version} back: {reason}",
                action="alias_retreat",
                model=through.model,
                alias=through.alias,
                version=after.version,
            )

    # -- shadows ------------------------------------------------------------------------------------------------------

    def report(self, model: str, alias: str) -> list[tuple[int, Comparison]]:
        """What the shadows of an alias have made of its requests, since it was set so or this process began.

        Raises:
            NotFound: the model has no such alias.
        """
        through = self._models.aliases.get(model, alias)
        return [(version, self._comparison(through, version)) for version in through.routing.shadow]

    def _comparison(self, through: AliasRecord, version: int) -> Comparison:
        key = (f"{through.model}@{through.alias} {through.etag}", version)
        found = self._comparisons.get(key)
        if found is None:
            if len(self._comparisons) >= _REMEMBERED:
                self._comparisons.clear()
            found = self._comparisons.setdefault(key, Comparison())
        return found

    def shadow(self, answered: Loaded, through: AliasRecord, work: Work, future: asyncio.Future[Slice]) -> None:
        """Let the shadows compute what was just answered, when there is room and time."""
        if future.cancelled() or future.exception() is not None:
            return
        if not self._room.acquire(blocking=False):
            for version in through.routing.shadow:
                self._comparison(through, version).drop()
            return
        done = self._thread.submit(self._compare, answered, through, work, future.result())
        done.add_done_callback(lambda _: self._room.release())

    def _compare(self, answered: Loaded, through: AliasRecord, work: Work, part: Slice) -> None:
        rows = slice(part.start, part.stop)
        labels = part.answers.labels
        for version in through.routing.shadow:
            comparison = self._comparison(through, version)
            try:
                shadow = self._runtime.get(through.model, version)
                found = shadow.after(answered, work, limits=self._limits)
            except Exception as error:
                comparison.failure()
                _log.info(
                    "A shadow could not answer.",
                    action="shadow_failed",
                    model=through.model,
                    version=version,
                    error=str(error),
                )
                continue
            comparison.note(part.outputs(), None if labels is None else labels[rows], found.outputs, found.labels)


def routed(found: Resolved, through: AliasRecord) -> Resolved:
    """The version that answers this time."""
    draw = random.random()  # noqa: S311  # a share of the requests is no secret
    version = choose(found.version, through.routing, draw)
    return found if version == found.version else replace(found, version=version)


def shadowed(found: Resolved | None) -> bool:
    """Whether other versions are to compute the same, beside the one that answers."""
    return found is not None and found.through is not None and bool(found.through.routing.shadow)


def _watched(found: Resolved) -> tuple[tuple[str, int], AliasRecord, Guard] | None:
    """What a guard remembers a version by, and the alias and the guard; None where none watches this version."""
    through = found.through
    if through is None or through.routing.guard is None:
        return None
    canary = through.routing.canary
    if canary is not None and canary.version != found.version:
        return None
    return (f"{through.model}@{through.alias} {through.etag}", found.version), through, through.routing.guard
