"""What the batcher decides at given times: who rides together, who goes first, who is refused, who waits."""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Overloaded
from service.inference.batcher import Batch, Batcher, Closed, CostCurve, Policy, Waiting

POLICY = Policy(max_rows=64, queue_rows=512, max_wait_s=0.25, target_s=0.05)


class Request(Waiting):
    """A request that may leave."""

    left = False

    @property
    def gone(self) -> bool:
        return self.left


def request(key: Hashable = "a", rows: int = 1, **given: Any) -> Request:
    return Request(key, rows, **{"arrived": 0.0, **given})


def slow(
    policy: Policy = POLICY, *, seconds: float = 0.01, mergeable: bool = True, engines: int = 1
) -> Batcher[Request]:
    """A batcher that knows of version "a" that each row costs so much, however many are together."""
    batcher: Batcher[Request] = Batcher(policy, engines=engines)
    for rows in (1, 4, 16):
        batcher.measured("a", mergeable=mergeable, rows=rows, seconds=seconds * rows)
    return batcher


def flat(policy: Policy = POLICY, *, seconds: float = 0.01, engines: int = 1) -> Batcher[Request]:
    """A batcher that knows of version "a" that many rows cost as much as one."""
    batcher: Batcher[Request] = Batcher(policy, engines=engines)
    for rows in (1, 8, 64):
        batcher.measured("a", mergeable=True, rows=rows, seconds=seconds)
    return batcher


def run(batcher: Batcher[Request], *, now: float, seconds: float = 0.01) -> Batch[Request]:
    batch = batcher.take(now=now, in_thread=True)
    assert batch is not None
    batcher.finished(batch, now=now + seconds, cost=seconds)
    return batch


def test_all_that_waits_goes_when_the_engine_is_free() -> None:
    batcher = flat()
    waiting = [request(rows=rows) for rows in (1, 3, 2)]
    for each in waiting:
        batcher.offer(each, now=0.0)
    batch = batcher.take(now=0.0, in_thread=True)

    assert batch is not None
    assert (batch.members, batch.rows, batch.closed) == (tuple(waiting), 6, Closed.FREE)


def test_one_version_runs_once_at_a_time_in_a_thread_and_another_beside_it() -> None:
    batcher = flat(engines=2)
    batcher.measured("b", mergeable=True, rows=1, seconds=0.01)
    for key in ("a", "b"):
        batcher.offer(request(key), now=0.0)
    first = batcher.take(now=0.0, in_thread=True)
    batcher.offer(request("a"), now=0.0)
    second = batcher.take(now=0.0, in_thread=True)
    third = batcher.take(now=0.0, in_thread=True)

    assert [batch and batch.key for batch in (first, second, third)] == ["a", "b", None]


def test_versions_and_shapes_never_ride_together() -> None:
    batcher: Batcher[Request] = Batcher(POLICY, engines=4)
    for key in (("v1", 3), ("v1", 4), ("v2", 3), ("v1", 3)):
        batcher.offer(request(key), now=0.0)
    found = [batcher.take(now=0.0, in_thread=True) for _ in range(3)]

    assert sorted((batch.key, batch.rows) for batch in found if batch) == [
        (("v1", 3), 2),
        (("v1", 4), 1),
        (("v2", 3), 1),
    ]


def test_what_is_not_shown_to_be_independent_goes_alone() -> None:
    batcher: Batcher[Request] = Batcher(POLICY)
    for _ in range(2):
        batcher.offer(request(mergeable=False), now=0.0)
    batch = batcher.take(now=0.0, in_thread=True)

    assert batch is not None
    assert (len(batch.members), batch.closed) == (1, Closed.ALONE)


def test_short_forward_passes_run_where_the_requests_arrive_and_long_ones_in_a_thread() -> None:
    batcher = flat(seconds=0.0001)
    batcher.offer(request(), now=0.0)

    assert batcher.take(now=0.0, in_thread=True) is None
    assert batcher.take(now=0.0, in_thread=False) is not None
    batcher = flat(seconds=0.001)
    batcher.offer(request(), now=0.0)
    assert batcher.take(now=0.0, in_thread=False) is None
    assert batcher.take(now=0.0, in_thread=True) is not None


def test_a_higher_priority_goes_first_but_nobody_waits_for_ever() -> None:
    batcher = slow(seconds=0.02)
    batcher.offer(request(priority=0), now=0.0)
    batcher.offer(request(priority=5), now=0.0)
    assert run(batcher, now=0.0).members[0].priority == 5

    batcher.offer(request(priority=5, arrived=9.0), now=9.0)
    assert run(batcher, now=9.0).members[0].priority == 0


def test_who_has_left_or_is_too_late_costs_nothing() -> None:
    batcher = flat()
    left, late, there = request(), request(deadline=1.0), request(deadline=9.0)
    left.left = True
    for each in (left, late, there):
        batcher.offer(each, now=0.0)
    batch = batcher.take(now=2.0, in_thread=True)

    assert batch is not None
    assert batch.members == (there,)
    assert batcher.expired() == [late]
    assert batcher.expired() == []
    assert batcher.rows == 0


def test_no_more_ride_together_than_pay() -> None:
    batcher = slow()  # sixteen rows take sixteen times as long as one
    for _ in range(10):
        batcher.offer(request(), now=0.0)
    batch = batcher.take(now=0.0, in_thread=True)

    assert batch is not None
    assert (batch.rows, batch.closed) == (1, Closed.FULL)
    batcher = flat()
    for _ in range(100):
        batcher.offer(request(), now=0.0)
    batch = batcher.take(now=0.0, in_thread=True)
    assert batch is not None
    assert (batch.rows, batch.closed) == (64, Closed.FULL)


def test_a_queue_that_would_take_too_long_refuses_and_says_when_to_come_again() -> None:
    batcher = slow(seconds=1.0)  # two forward passes of a second may always be waited for
    taken = [request() for _ in range(2)]
    for each in taken:
        batcher.offer(each, now=0.0)
    assert batcher.take(now=0.0, in_thread=True) is not None
    batcher.offer(request(), now=0.0)
    with pytest.raises(Overloaded) as refused:
        batcher.offer(request(), now=0.5)

    assert refused.value.retry_after_s == pytest.approx(2.5)  # what is left of the first, and two more
    assert refused.value.limit == {"name": "predict_queue_rows", "value": 2}


def test_the_wait_for_the_drain_is_measured() -> None:
    batcher = flat(seconds=0.01)
    for at in range(20):
        batcher.offer(request(rows=10, arrived=float(at)), now=float(at))
        run(batcher, now=float(at), seconds=0.1)
    for _ in range(3):
        batcher.offer(request(rows=10), now=30.0)

    assert batcher.wait_s("a", now=30.0) == pytest.approx(0.3, rel=0.2)


def test_a_single_large_request_is_always_taken_by_an_idle_server() -> None:
    batcher = slow(seconds=1.0)
    batcher.offer(request(rows=400), now=0.0)

    assert run(batcher, now=0.0).rows == 400


def test_requests_are_held_only_where_the_curve_says_that_it_pays() -> None:
    batcher = flat(seconds=0.004)
    group = batcher._groups["a"]
    group.arrivals = 4000.0  # as was seen: a forward pass for each row can never keep up
    batcher.offer(request(arrived=1.0), now=1.0)
    assert batcher.take(now=1.0, in_thread=True) is None
    due = batcher.due()
    assert due is not None
    assert 1.0 < due <= 1.005
    for _ in range(10):
        batcher.offer(request(arrived=1.001), now=1.001)
    batch = batcher.take(now=due, in_thread=True)

    assert batch is not None
    assert (batch.rows, batch.closed) == (11, Closed.WAITED)
    quiet = flat(seconds=0.004)
    quiet.offer(request(), now=0.0)
    assert quiet.take(now=0.0, in_thread=True) is not None


def test_waits_that_bring_nobody_are_given_up() -> None:
    batcher = flat(seconds=0.004)
    held = 0
    for turn in range(20):
        batcher._groups["a"].arrivals = 4000.0
        batcher.offer(request(arrived=float(turn)), now=float(turn))
        if batcher.take(now=float(turn), in_thread=True) is None:
            held += 1
            run(batcher, now=turn + 0.5)
        else:
            break

    assert 0 < held < 6


def test_the_reproducible_mode_fills_forward_passes_of_one_size() -> None:
    batcher = flat(Policy(fixed_rows=8))
    for _ in range(20):
        batcher.offer(request(), now=0.0)

    assert run(batcher, now=0.0).rows == 8


def test_a_curve_learns_what_a_forward_pass_costs_and_passes_over_what_else_the_machine_did() -> None:
    curve = CostCurve()
    for place in range(200):
        curve.add(1, 0.001 if place % 5 else 0.02)
        curve.add(8, 0.002)

    assert curve.estimate(1) == pytest.approx(0.001, rel=0.3)
    assert curve.estimate(8) == pytest.approx(0.002)
    between, beyond = curve.estimate(4), curve.estimate(15)
    assert between is not None
    assert beyond is not None
    assert 0.001 < between < 0.002 < beyond < 0.0045
    for _ in range(400):
        curve.add(1, 0.003)  # it has truly become slower
    assert curve.estimate(1) == pytest.approx(0.003, rel=0.1)


@given(
    st.lists(
        st.tuples(
            st.sampled_from("ab"),
            st.integers(1, 9),
            st.integers(0, 2),
            st.sampled_from([None, 0.5, 50.0]),
            st.booleans(),
            st.sampled_from(["offer", "take", "inline", "finish"]),
        ),
        max_size=60,
    )
)
def test_every_request_is_answered_once_or_told_why_not(
    steps: list[tuple[str, int, int, float | None, bool, str]],
) -> None:
    batcher: Batcher[Request] = Batcher(Policy(max_rows=8, queue_rows=40), engines=2)
    batcher.measured("a", mergeable=True, rows=1, seconds=0.0001)
    batcher.measured("b", mergeable=False, rows=1, seconds=0.01)
    offered: list[Request] = []
    ran: list[Request] = []
    running: list[Batch[Request]] = []
    now = 0.0
    for key, rows, priority, deadline, leaves, what in [*steps, *[("a", 1, 0, None, False, "end")] * 200]:
        now += 0.05
        if what == "offer":
            item = request(
                key,
                rows,
                arrived=now,
                priority=priority,
                deadline=None if deadline is None else now + deadline,
                mergeable=key == "a",
            )
            item.left = leaves
            with suppress(Overloaded):
                batcher.offer(item, now=now)
                offered.append(item)
            continue
        if what in ("take", "end"):
            batch = batcher.take(now=now, in_thread=True)
            if batch:
                assert batch.key not in [other.key for other in running]
                running.append(batch)
                ran += batch.members
        if what in ("inline", "end"):
            batch = batcher.take(now=now, in_thread=False)
            if batch:
                ran += batch.members
                batcher.finished(batch, now=now, cost=0.0001)
        if what in ("finish", "end") and running:
            batcher.finished(running.pop(0), now=now, cost=0.01)
        assert len(running) <= 2
        for batch in running:
            assert batch.rows <= 8 or len(batch.members) == 1
            assert batch.key == "a" or len(batch.members) == 1

    late = batcher.expired()
    assert batcher.rows == 0
    assert sorted(map(id, [*ran, *late, *(each for each in offered if each.left)])) == sorted(map(id, offered))
    assert not any(each.left for each in ran)


def test_thousands_of_shapes_for_whom_nobody_waits_any_more_are_forgotten_at_once() -> None:
    batcher = Batcher[Request](Policy(queue_rows=4096), engines=2)
    left = [request(("shape", place)) for place in range(3000)]
    for each in left:
        batcher.offer(each, now=0.0)
        each.left = True
    last = request("z")
    batcher.offer(last, now=0.0)

    batch = batcher.take(now=0.1, in_thread=True)

    assert batch is not None
    assert batch.members == (last,)
    assert batcher.rows == 0
    assert batcher.take(now=0.1, in_thread=True) is None


def test_what_is_asked_again_and_again_keeps_its_curve_whatever_shapes_come_by() -> None:
    batcher = Batcher[Request](POLICY, engines=1)
    for place in range(600):
        for key in ("hot", ("shape", place)):
            batcher.offer(request(key), now=place)
            batch = batcher.take(now=place, in_thread=True)
            assert batch is not None
            batcher.finished(batch, now=place + 0.01, cost=0.01)

    assert batcher.explain(now=600)["hot"].batches == 600


def full(batcher: Batcher[Request], **given: Any) -> list[Request]:
    """Requests until no more is taken."""
    taken: list[Request] = []
    while len(taken) < 10_000:
        each = request(**given)
        try:
            batcher.offer(each, now=0.0)
        except Overloaded:
            return taken
        taken.append(each)
    raise AssertionError("there is no end")


def test_what_is_urgent_is_taken_though_much_that_is_not_waits() -> None:
    batcher = slow()
    full(batcher)
    urgent = request(priority=9)
    batcher.offer(urgent, now=0.0)

    with pytest.raises(Overloaded):
        batcher.offer(request(), now=0.0)
    assert run(batcher, now=0.0).members[0] is urgent


def test_those_who_have_gone_leave_their_room_to_others_at_once() -> None:
    batcher = slow()
    taken = full(batcher)
    for each in taken[1:]:
        each.left = True
    live = request()
    batcher.offer(live, now=1.0)

    assert batcher.rows == 2
    assert [run(batcher, now=float(at)).members[0] for at in (1, 2)] == [taken[0], live]
    assert batcher.rows == 0


def test_room_that_only_those_who_have_gone_took_is_free() -> None:
    batcher = slow()
    for each in full(batcher):
        each.left = True
    live = request()
    batcher.offer(live, now=1.0)

    assert run(batcher, now=1.0).members == (live,)
    assert batcher.pending() == {}


def test_who_is_refused_for_others_hears_how_long_those_take() -> None:
    batcher = slow(Policy(max_rows=64, queue_rows=10, max_wait_s=10.0, target_s=0.05))
    for _ in range(10):
        batcher.offer(request(), now=0.0)
    with pytest.raises(Overloaded) as refused:
        batcher.offer(request("b"), now=0.0)

    assert refused.value.retry_after_s == pytest.approx(0.1, rel=0.3)
    assert "10 rows are waiting for other versions" in refused.value.message
    assert refused.value.limit == {"name": "predict_queue_rows", "value": 10}
