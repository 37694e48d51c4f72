"""Which waiting requests go into the next forward pass, when, and which are refused.

Everything is decided from what was measured and from the time that is given. Knows rows, keys, priorities and
deadlines; knows no tensor, no thread, no event loop and no clock.
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Generic, NamedTuple, TypeVar

from service.errors import Overloaded

_GROUPS: Final = 256
"""Groups whose measurements are kept; row shapes may come from clients, so there must be an end."""
_EXPLORE: Final = 128
"""So often a batch may be larger than the curve says that it pays, so that a wrong measurement is mended."""
_PAYS: Final = 0.9
"""Merging pays while a row in the larger batch costs at most this share of what it costs in the smaller one."""
_PATIENCE_S: Final = 0.1
"""So long a wait is never too long: on a busy machine short forward passes are held up for many times their own."""
_SWEEP_S: Final = 0.05
"""Between two looks through a full queue for those who have gone: it takes a while where many are refused."""
_AGED: Final = 8.0
"""After so many times `max_wait_s` a request goes before all others, whatever its priority."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What an operator may want of the batcher.

    Args:
        max_rows: rows that are merged into one forward pass; a single request may have more.
        queue_rows: rows that may wait in all.
        max_wait_s: a request that would wait longer is refused.
        target_s: latency that merging may lead to; no batch is made larger or waited for beyond it.
        inline_s: forward passes that are shorter run where the requests arrive, others in a thread.
        fixed_rows: pad every forward pass to so many rows, so that answers are the same bits whatever rides along.
    """

    max_rows: int = 256
    queue_rows: int = 4096
    max_wait_s: float = 0.25
    target_s: float = 0.05
    inline_s: float = 0.0003
    fixed_rows: int | None = None


class Closed(Enum):
    """Why a batch was closed with the rows that it had."""

    FREE = "engine-free"
    """The engine was free: all that was waiting went."""
    FULL = "full"
    """More rows were waiting than pay in one forward pass."""
    WAITED = "waited"
    """The wait that the curve had recommended was over."""
    ALONE = "alone"
    """Requests for this version are not merged: nobody has shown that its rows do not depend on each other."""


class Waiting:
    """A request in the queue.

    Args:
        key: requests with equal keys may ride together: version, dtypes, row shapes.
        rows: how many.
        arrived: when, on the batcher's clock.
        deadline: after which it need not be run.
        priority: higher goes first.
        mergeable: whether it may ride with others at all.
    """

    __slots__ = ("arrived", "deadline", "key", "mergeable", "priority", "rows")

    def __init__(
        self,
        key: Hashable,
        rows: int,
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

    @property
    def gone(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return False


W = TypeVar("W", bound=Waiting)


class Batch(NamedTuple, Generic[W]):
    """Requests that go into one forward pass together."""

    key: Hashable
    members: tuple[W, ...]
    rows: int
    closed_at: float
    closed: Closed
    in_thread: bool


class Point:
    """A measured point of a cost curve: forward passes of about `rows` rows take `seconds`."""

    __slots__ = ("rows", "samples", "seconds")

    def __init__(self, rows: float, seconds: float) -> None:
        self.rows = rows
        self.seconds = seconds
        self.samples = 1

    def add(self, rows: float, seconds: float) -> None:
        """Come nearer to a measurement, and faster to a lower one."""
        self.samples += 1
        self.rows += 0.05 * (rows - self.rows)
        apart = seconds - self.seconds
        self.seconds += 0.3 * apart if apart < 0 else 0.02 * min(apart, 2 * self.seconds)


class CostCurve:
    """How long a forward pass takes by its rows, as it was measured; later measurements count more."""

    def __init__(self) -> None:
        self._points: dict[int, Point] = {}
        self._sorted: list[Point] = []

    @property
    def points(self) -> list[Point]:
        """One for each doubling of rows that was measured, smallest first."""
        return self._sorted

    def add(self, rows: int, seconds: float) -> None:
        """Take a measurement in. What a forward pass costs is near the least that is measured: whatever else goes on in
        the machine only adds to it. So shorter times count more than longer ones."""
        size = (rows - 1).bit_length()
        known = self._points.get(size)
        if known is not None:
            known.add(rows, seconds)
            return
        self._points[size] = Point(rows, seconds)
        self._sorted = [self._points[size] for size in sorted(self._points)]

    def estimate(self, rows: float) -> float | None:
        """Seconds of a forward pass of `rows` rows; None before the first measurement.

        Between two points it lies on the line between them, and beyond the last two on their line too. Where only one
        was measured, each row costs as much as there.
        """
        points = self._sorted
        if not points:
            return None
        if rows <= points[0].rows:
            return points[0].seconds
        last = points[-1]
        if rows >= last.rows:
            each = last.seconds / last.rows
            if len(points) > 1:
                slope = (last.seconds - points[-2].seconds) / (last.rows - points[-2].rows)
                each = min(each, max(slope, each / 20))
            return last.seconds + each * (rows - last.rows)
        for left, right in itertools.pairwise(points):
            if rows <= right.rows:
                part = (rows - left.rows) / (right.rows - left.rows)
                return left.seconds + part * (right.seconds - left.seconds)
        raise AssertionError("unreachable")

    def most_rows(self, policy: Policy, *, exploring: bool = False) -> int:
        """How many rows pay in one forward pass: more would cost as much for each, or take longer than the target."""
        most = policy.max_rows
        points = self._sorted
        if not exploring:
            for place, point in enumerate(points[:-1]):
                each = point.seconds / point.rows
                if all(larger.seconds / larger.rows > _PAYS * each for larger in points[place + 1 :]):
                    most = min(most, math.ceil(point.rows))
                    break
        target = max(policy.target_s, 3 * (self.estimate(1) or 0.0))  # slower nets may gain as much from merging
        if points and (self.estimate(most) or 0.0) > target:
            within = [size for size in _sizes(most) if (self.estimate(size) or 0.0) <= target]
            most = max([1, *within])
        return max(1, most)


def _sizes(most: int) -> Iterator[int]:
    size = 1
    while size < most:
        yield size
        size *= 2
    yield most


_Last = tuple[Closed, int, int, float, float, float, bool]
"""Of the last batch: why it was closed, requests, rows, when the first of them came, when it was closed and ended, and
whether in a thread."""


class _Group(Generic[W]):
    """Waiting requests that may ride together."""

    def __init__(self, key: Hashable, *, mergeable: bool, policy: Policy) -> None:
        self.key = key
        self.mergeable = mergeable
        self.curve = CostCurve()
        self.queues: dict[int, deque[W]] = {}  # by priority
        self.rows = 0
        self.requests = 0
        self.running: Batch[W] | None = None
        self.most = policy.max_rows if mergeable else 1
        self.room: float = math.inf  # rows that may wait
        self.rate = 0.0  # rows a second while busy
        self.stretch = 1.0  # how much longer a forward pass takes than it keeps a processor busy
        self.arrivals = 0.0  # rows a second
        self.last_arrival = 0.0
        self.held_until: float | None = None
        self.held_rows = 0.0  # that were expected by then
        self.trust = 1.0  # share of waits that brought rows
        self.batches = 0
        self.served = 0
        self.refused = 0
        self.expired = 0
        self.last: _Last | None = None  # numbers only: what was asked, and of whom, is not kept

    def heads(self) -> Iterator[W]:
        for queue in self.queues.values():
            if queue:
                yield queue[0]


@dataclass(frozen=True, slots=True)
class LastBatch:
    """The forward pass that ended last, and why it had the rows that it had."""

    closed: Closed
    requests: int
    rows: int
    waited_s: float
    ran_s: float
    in_thread: bool


@dataclass(frozen=True, slots=True)
class Explained:
    """What the batcher knows of a group, and does."""

    mergeable: bool
    curve: tuple[Point, ...]
    most_rows: int
    waiting_requests: int
    waiting_rows: int
    room_rows: int | None
    running_rows: int
    rows_per_s: float
    arriving_rows_per_s: float
    waits_for_s: float
    batches: int
    rows: int
    refused: int
    expired: int
    last: LastBatch | None = field(default=None)


class Batcher(Generic[W]):
    """The queue of all versions. One forward pass of a group runs in a thread at a time; short ones beside it do not.

    Args:
        engines: forward passes that may run in threads at the same time.
    """

    def __init__(self, policy: Policy, *, engines: int = 1) -> None:
        self.policy = policy
        self._engines = engines
        self._groups: OrderedDict[Hashable, _Group[W]] = OrderedDict()
        self._busy: dict[Hashable, _Group[W]] = {}  # with requests that wait
        self._running = 0
        self._swept = -math.inf
        self.rows = 0
        self._expired: list[W] = []

    # -- in -----------------------------------------------------------------------------------------------------------

    def measured(self, key: Hashable, *, mergeable: bool, rows: int, seconds: float) -> None:
        """Take in what a forward pass costs, measured elsewhere: the first request then finds a curve."""
        group = self._group(key, mergeable=mergeable)
        group.curve.add(rows, seconds)
        self._adapt(group)

    def offer(self, item: W, *, now: float) -> bool:
        """Let a request wait.

        Returns:
            Whether it may be long: those that came before it ran in a thread.

        Raises:
            Overloaded: more rows are waiting than may, or it would wait too long; says when there will be room.
        """
        group = self._groups.get(item.key)
        if group is None:
            group = self._group(item.key, mergeable=item.mergeable)
        if self._is_full(group, item):
            self._sweep(now)
            if self._is_full(group, item):
                self._refuse(group, now)
        queue = group.queues.get(item.priority)
        if queue is None:
            queue = group.queues[item.priority] = deque()
        if not group.requests:
            self._busy[item.key] = group
        self._put(group, queue, item)
        if group.last_arrival:
            gap = now - group.last_arrival
            share = min(1.0, gap / 0.1)  # over about the last tenth of a second
            if gap > 0:
                group.arrivals += share * (item.rows / gap - group.arrivals)
        group.last_arrival = now
        return group.last is None or group.last[-1]

    def _is_full(self, group: _Group[W], item: W) -> bool:
        """Whether too much waits before a request, or in all."""
        if self.rows and self.rows + item.rows > self.policy.queue_rows:
            return True
        if not group.requests:
            return False
        ahead = group.rows
        if len(group.queues) > 1 or item.priority not in group.queues:
            ahead = sum(w.rows for p, queue in group.queues.items() if p >= item.priority for w in queue)
        return ahead >= group.room

    def _sweep(self, now: float) -> None:
        """Take those out for whom nobody waits any more, wherever they stand; not for each of many that are refused."""
        if now < self._swept + _SWEEP_S:
            return
        self._swept = now
        for group in list(self._busy.values()):
            for queue in group.queues.values():
                for _ in range(len(queue)):
                    item = queue[0]
                    self._take_out(group, queue)
                    if not item.gone:
                        self._put(group, queue, item)
            if not group.requests:
                self._rest(group)
                group.held_until = None

    def _refuse(self, group: _Group[W], now: float) -> None:
        group.refused += 1
        if group.requests:
            seconds, words = self.wait_s(group.key, now=now), f"{group.rows} rows are waiting for this version"
            limit = self._room(group)
        else:  # all the room there is was taken by others
            seconds = max(self.wait_s(key, now=now) for key in self._busy)
            words, limit = f"{self.rows} rows are waiting for other versions", self.policy.queue_rows
        seconds = max(seconds, 0.001)
        raise Overloaded(
            f"{words}, which takes about {seconds:.3g} s.",
            retry_after_s=seconds,
            limit={"name": "predict_queue_rows", "value": limit},
        )

    def _room(self, group: _Group[W]) -> int:
        return int(min(group.room, self.policy.queue_rows))

    def wait_s(self, key: Hashable, *, now: float) -> float:
        """About how long what is waiting in a group will take, by the rate at which it was seen to drain."""
        group = self._groups.get(key)
        if group is None:
            return 0.0
        seconds = 0.0
        if group.running is not None:
            expected = group.curve.estimate(group.running.rows) or 0.0
            seconds = max(0.0, group.running.closed_at + expected - now)
        if group.rows:
            if group.rate:
                seconds += group.rows / group.rate
            else:
                seconds += group.rows / group.most * (group.curve.estimate(group.most) or 0.0)
        return seconds

    # -- out ----------------------------------------------------------------------------------------------------------

    def take(self, *, now: float, in_thread: bool) -> Batch[W] | None:
        """Close the next batch, or None when there is nothing to run now.

        Args:
            now: the time.
            in_thread: whether the caller is a thread for long forward passes, or runs short ones where they arrive.
        """
        if not self._busy or (in_thread and self._running >= self._engines):
            return None
        chosen: _Group[W] | None = None
        if len(self._busy) == 1:
            (group,) = self._busy.values()
            if self._may_run(group, now, in_thread):
                chosen = group
        else:
            best: tuple[float, float] | None = None
            for group in list(self._busy.values()):
                self._drop(group, now)
                if group.requests and self._may_run(group, now, in_thread):
                    rank = max((self._rank(head, now) for head in group.heads()), default=None)
                    if rank is not None and (best is None or rank > best):
                        best, chosen = rank, group
        if chosen is None:
            return None
        return self._close(chosen, now, in_thread)

    def _rank(self, item: W, now: float) -> tuple[float, float]:
        aged = now - item.arrived > _AGED * self.policy.max_wait_s
        return (math.inf if aged else item.priority, -item.arrived)

    def _may_run(self, group: _Group[W], now: float, in_thread: bool) -> bool:
        rows = group.rows
        if rows > group.most:
            rows = max(group.most, min(rows, self._first_rows(group)))
        expected = group.curve.estimate(rows)
        short = expected is not None and expected <= self.policy.inline_s
        if short or not in_thread:
            return short and not in_thread
        if group.running is not None:
            return False
        if group.held_until is not None:
            return now >= group.held_until or group.rows >= group.most
        wait = self._worth_waiting(group, now)
        if wait:
            group.held_until = now + wait
            group.held_rows = group.rows + group.arrivals * wait / 2
            return False
        return True

    def _first_rows(self, group: _Group[W]) -> int:
        return max((head.rows for head in group.heads()), default=1)

    def _worth_waiting(self, group: _Group[W], now: float) -> float:
        """Seconds after which the rows that are expected make the forward pass so much cheaper that it pays.

        Only where the engine is busy all the time with batches as they are: else each one is best run at once.
        """
        if not group.mergeable or group.rows >= group.most or self.policy.fixed_rows or group.trust < 0.5:
            return 0.0
        alone = group.curve.estimate(group.rows)
        if alone is None or group.arrivals * alone / group.rows < 0.8:
            return 0.0
        oldest = min(head.arrived for head in group.heads())
        for wait in (alone, alone / 2, alone / 4):
            rows = min(float(group.most), group.rows + group.arrivals * wait)
            together = group.curve.estimate(rows)
            if together is None or now - oldest + wait + together > self.policy.target_s:
                continue
            if alone * rows / group.rows - together > 2 * wait:
                return wait
        return 0.0

    def _close(self, group: _Group[W], now: float, in_thread: bool) -> Batch[W] | None:
        members: list[W] = []
        rows = 0
        most = group.most
        if group.mergeable and self.policy.fixed_rows is None and group.batches % _EXPLORE == _EXPLORE - 1:
            most = group.curve.most_rows(self.policy, exploring=True)
        full = False
        if group.mergeable and group.rows <= most and len(group.queues) == 1:
            (queue,) = group.queues.values()
            if not any(item.gone or (item.deadline is not None and now > item.deadline) for item in queue):
                members, rows = list(queue), group.rows  # the usual case: all of them go
                queue.clear()
                self.rows -= rows
                group.requests = group.rows = 0
        while group.requests:
            queue = self._first(group, now)
            if self._dropped(group, queue, now):
                continue
            item = queue[0]
            if members and (not group.mergeable or rows + item.rows > most):
                full = True
                break
            self._take_out(group, queue)
            members.append(item)
            rows += item.rows
        self._rest(group)
        held, group.held_until = group.held_until, None
        if not members:
            return None
        if held is not None:
            group.trust = 0.8 * group.trust + (0.2 if rows >= group.held_rows else 0.0)
        elif group.trust < 1.0:
            group.trust = min(1.0, group.trust + 0.001)
        if not group.mergeable:
            closed = Closed.ALONE
        elif full or rows >= most:
            closed = Closed.FULL
        else:
            closed = Closed.FREE if held is None else Closed.WAITED
        batch = Batch(group.key, tuple(members), rows, now, closed, in_thread)
        if in_thread:
            group.running = batch
            self._running += 1
        return batch

    def _drop(self, group: _Group[W], now: float) -> None:
        """Forget those at the heads of a group for whom nobody waits any more."""
        for queue in group.queues.values():
            while queue and self._dropped(group, queue, now):
                pass
        if not group.requests:
            self._rest(group)
            group.held_until = None

    def _dropped(self, group: _Group[W], queue: deque[W], now: float) -> bool:
        """Take the head of a queue out, if nobody waits for it any more."""
        item = queue[0]
        if not item.gone:
            if item.deadline is None or now <= item.deadline:
                return False
            group.expired += 1
            self._expired.append(item)
        self._take_out(group, queue)
        return True

    def _put(self, group: _Group[W], queue: deque[W], item: W) -> None:
        queue.append(item)
        group.requests += 1
        group.rows += item.rows
        self.rows += item.rows

    def _take_out(self, group: _Group[W], queue: deque[W]) -> None:
        item = queue.popleft()
        group.requests -= 1
        group.rows -= item.rows
        self.rows -= item.rows

    def _rest(self, group: _Group[W]) -> None:
        """A group in which nobody waits any more is looked at no longer."""
        if not group.requests:
            self._busy.pop(group.key, None)
            if len(group.queues) > 1:
                group.queues.clear()

    def _first(self, group: _Group[W], now: float) -> deque[W]:
        """The queue of a group whose head goes next."""
        if len(group.queues) == 1:
            (only,) = group.queues.values()
            return only
        return max((queue for queue in group.queues.values() if queue), key=lambda queue: self._rank(queue[0], now))

    def expired(self) -> list[W]:
        """Requests whose deadline passed while they waited; each is told once."""
        if not self._expired:
            return []
        found, self._expired = self._expired, []
        return found

    def due(self) -> float | None:
        """When the next wait that was recommended is over."""
        return min((g.held_until for g in self._busy.values() if g.held_until is not None), default=None)

    def waiting_for_thread(self, *, now: float) -> bool:
        """Whether a thread would find something to run."""
        if self._running >= self._engines:
            return False
        return any(group.requests and self._may_run(group, now, True) for group in list(self._busy.values()))

    def finished(self, batch: Batch[W], *, now: float, cost: float | None) -> None:
        """A forward pass has ended: its time goes into the curve.

        Args:
            batch: what `take` gave.
            now: the time.
            cost: seconds that the forward pass has kept a processor busy; they say more than the time that has gone by
                where other threads want to run too. None where that is not known.
        """
        group = self._groups.get(batch.key)
        if batch.in_thread:
            self._running -= 1
        if group is None:
            return
        if group.running is batch:
            group.running = None
        seconds = max(now - batch.closed_at, 1e-9)
        if cost is not None:
            group.curve.add(batch.rows, cost)
            group.stretch += 0.1 * (min(20.0, max(1.0, seconds / max(cost, 1e-9))) - group.stretch)
        rate = batch.rows / seconds
        group.rate = rate if not group.rate else group.rate + 0.1 * (rate - group.rate)
        group.batches += 1
        group.served += batch.rows
        members = batch.members
        group.last = (batch.closed, len(members), batch.rows, members[0].arrived, batch.closed_at, now, batch.in_thread)
        if group.batches & 15 == 1 or batch.in_thread:
            self._adapt(group)

    def _adapt(self, group: _Group[W]) -> None:
        """Work out anew how many rows pay, and how many may wait: as many as are done in time.

        Waiting for twelve forward passes is what chance brings at eighty per cent of the load that can be sustained.
        """
        policy, curve = self.policy, group.curve
        if policy.fixed_rows is not None and group.mergeable:
            group.most = policy.fixed_rows
        elif group.mergeable:
            group.most = curve.most_rows(policy)
        whole = (curve.estimate(group.most) or 0.0) * group.stretch
        single = (curve.estimate(1) or 0.0) * group.stretch
        if not whole:
            return
        allowed = max(min(12 * single, policy.max_wait_s), min(_PATIENCE_S, policy.max_wait_s), 2 * whole)
        contending = max(1.0, sum(1 for each in self._busy.values() if each.running is not None) / self._engines)
        group.room = max(float(group.most), group.most * allowed / whole / contending)

    def _group(self, key: Hashable, *, mergeable: bool) -> _Group[W]:
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(key, mergeable=mergeable, policy=self.policy)
            if self.policy.fixed_rows is not None and mergeable:
                group.most = self.policy.fixed_rows
            if len(self._groups) > _GROUPS:
                idle = [(g.last_arrival, k) for k, g in self._groups.items() if not g.requests and g.running is None]
                oldest = min((one for one in idle if one[1] != key), key=lambda one: one[0], default=None)
                if oldest is not None:
                    del self._groups[oldest[1]]
        return group

    # -- told ---------------------------------------------------------------------------------------------------------

    def explain(self, *, now: float) -> dict[Hashable, Explained]:
        """What is known of each group."""
        return {
            key: Explained(
                mergeable=group.mergeable,
                curve=tuple(group.curve.points),
                most_rows=group.most,
                waiting_requests=group.requests,
                waiting_rows=group.rows,
                room_rows=None if math.isinf(group.room) else self._room(group),
                running_rows=0 if group.running is None else group.running.rows,
                rows_per_s=group.rate,
                arriving_rows_per_s=group.arrivals if now - group.last_arrival < 1 else 0.0,
                waits_for_s=self.wait_s(key, now=now),
                batches=group.batches,
                rows=group.served,
                refused=group.refused,
                expired=group.expired,
                last=None if group.last is None else _told(*group.last),
            )
            for key, group in self._groups.items()
        }

    def pending(self) -> dict[Hashable, int]:
        """Requests that wait or are computed in a thread, by group; groups without any are not there."""
        found = {
            key: group.requests + (0 if group.running is None else len(group.running.members))
            for key, group in self._groups.items()
        }
        return {key: requests for key, requests in found.items() if requests}

    def forget(self, gone: Callable[[Hashable], bool]) -> None:
        """Forget what was measured of the groups whose key is told, if nobody waits there."""
        for key, group in list(self._groups.items()):
            if not group.requests and group.running is None and gone(key):
                del self._groups[key]


def _told(
    closed: Closed, requests: int, rows: int, arrived: float, began: float, ended: float, in_thread: bool
) -> LastBatch:
    return LastBatch(closed, requests, rows, max(0.0, began - arrived), max(0.0, ended - began), in_thread)
