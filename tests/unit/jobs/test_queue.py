"""The queue: every change of state with its event, in one attempt's name, exactly once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from service.errors import (
    Conflict,
    IdempotencyMismatch,
    NotFound,
    PreconditionFailed,
    PreconditionRequired,
    QueueFull,
    StoreLocked,
)
from service.jobs.queue import Job, JobQueue
from service.schemas.document import new_id, utc_now
from service.schemas.jobs import ACTIVE, FINAL, TRANSITIONS, JobState
from service.store.database import Database
from service.store.idempotency import IdempotencyKey

S = JobState
KEY = IdempotencyKey("key", "POST /v1/jobs", "ann", "0" * 64)

PATHS: dict[JobState, list[JobState]] = {
    S.QUEUED: [],
    S.STARTING: [S.STARTING],
    S.RUNNING: [S.STARTING, S.RUNNING],
    S.PAUSING: [S.STARTING, S.RUNNING, S.PAUSING],
    S.PAUSED: [S.STARTING, S.RUNNING, S.PAUSING, S.PAUSED],
    S.CANCELLING: [S.STARTING, S.RUNNING, S.CANCELLING],
    S.INTERRUPTED: [S.STARTING, S.RUNNING, S.INTERRUPTED],
    S.SUCCEEDED: [S.STARTING, S.RUNNING, S.SUCCEEDED],
    S.FAILED: [S.STARTING, S.FAILED],
    S.CANCELLED: [S.CANCELLED],
}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/modelyard.sqlite3"


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with Database(url) as opened:
        opened.own()
        yield opened


@pytest.fixture
def queue(database: Database) -> JobQueue:
    return JobQueue(database)


def add(queue: JobQueue, **given: Any) -> Job:
    job, _ = queue.enqueue(
        **{"id": new_id("job"), "kind": "train", "spec": {}, "resolved_spec": {}, "max_queued": 1000, **given}
    )
    assert job is not None
    return job


def claimed(queue: JobQueue, **given: Any) -> Job:
    add(queue, **given)
    job = queue.claim()
    assert job is not None
    return job


def in_state(queue: JobQueue, state: JobState) -> Job:
    """A new job, led to `state` by the shortest way."""
    job = add(queue, priority=100)
    for step in PATHS[state]:
        if step is S.STARTING:
            taken = queue.claim()
            assert taken is not None
            assert taken.id == job.id
            job = taken
        else:
            job = queue.transition(job.id, step, attempt=job.attempt)
    return job


def told(queue: JobQueue, job: Job) -> list[tuple[str, Any]]:
    return [(event.type, event.data.get("state")) for event in queue.events(job.id)]


# -- coming in ------------------------------------------------------------------------------------------------------


def test_a_job_has_every_member_of_the_api(queue: JobQueue):
    job = add(
        queue,
        spec={"kind": "train"},
        resolved_spec={"kind": "train", "seed": 1},
        dataset={"id": "ds_1", "digest": "sha256:0"},
        seed=1,
        output={"model": "net"},
        warnings=[{"code": "w"}],
        labels={"team": "a"},
    )

    assert job == queue.get(job.id)
    assert job.view() == {
        "id": job.id,
        "kind": "train",
        "replay_of": None,
        "state": "queued",
        "state_reason": None,
        "priority": 0,
        "labels": {"team": "a"},
        "spec": {"kind": "train"},
        "resolved_spec": {"kind": "train", "seed": 1},
        "dataset": {"id": "ds_1", "digest": "sha256:0"},
        "seed": 1,
        "environment": None,
        "progress": None,
        "metrics": {"last": {}, "best": {}},
        "warnings": [{"code": "w"}],
        "error": None,
        "report": None,
        "output": {"model": "net"},
        "attempts": [],
        "created_at": job.created_at,
        "started_at": None,
        "finished_at": None,
    }
    assert told(queue, job) == [("state", "queued")]


def test_a_full_queue_says_when_there_may_be_room(database: Database):
    now = 0.0
    queue = JobQueue(database, clock=lambda: now)
    for _ in range(2):
        add(queue, max_queued=2)
    with pytest.raises(QueueFull) as unknown:
        add(queue, max_queued=2)
    for _ in range(2):
        queue.claim()
        add(queue, max_queued=2)
        now += 50.0
    with pytest.raises(QueueFull) as measured:
        add(queue, max_queued=2)

    assert unknown.value.limit == {"name": "max_queued", "value": 2}
    assert (unknown.value.retry_after_s, measured.value.retry_after_s) == (30.0, 100.0)
    assert queue.counts()[S.QUEUED] == 2


def test_a_full_queue_whose_jobs_another_process_takes_says_what_that_one_says(database: Database):
    queue = JobQueue(database)
    queue.place_s = 7.5
    add(queue, max_queued=1)
    with pytest.raises(QueueFull) as refused:
        add(queue, max_queued=1)

    assert refused.value.retry_after_s == queue.time_of_a_place() == 7.5


def test_the_same_request_twice_is_one_job_and_one_answer(queue: JobQueue):
    first, nothing = queue.enqueue(
        id=new_id("job"), kind="train", spec={}, resolved_spec={}, max_queued=1, idempotency=KEY
    )
    assert first is not None
    queue.transition(first.id, S.CANCELLED, attempt=0)
    again, answer = queue.enqueue(
        id=new_id("job"), kind="train", spec={}, resolved_spec={}, max_queued=1, idempotency=KEY
    )

    assert (nothing, again) == (None, None)
    assert answer == queue.answered(KEY) == first.view()
    assert len(queue.list().items) == 1


def test_the_same_key_for_another_request_is_refused(queue: JobQueue):
    add(queue, idempotency=KEY)
    other = IdempotencyKey(KEY.key, KEY.route, KEY.caller, "1" * 64)

    with pytest.raises(IdempotencyMismatch):
        add(queue, idempotency=other)
    with pytest.raises(IdempotencyMismatch):
        queue.answered(other)


def in_threads(count: int, work: Callable[[], Any]) -> list[Any]:
    found: list[Any] = []
    barrier = threading.Barrier(count)

    def run() -> None:
        barrier.wait()
        try:
            found.append(work())
        except Exception as error:
            found.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_the_same_request_from_many_threads_is_one_job(queue: JobQueue):
    found = in_threads(
        6,
        lambda: queue.enqueue(
            id=new_id("job"), kind="train", spec={}, resolved_spec={}, max_queued=100, idempotency=KEY
        ),
    )

    made = [job for job, _ in found if job is not None]
    assert len(made) == 1
    assert [answer for job, answer in found if job is None] == [made[0].view()] * 5


# -- claiming -------------------------------------------------------------------------------------------------------


def test_the_oldest_job_of_the_highest_priority_is_next(queue: JobQueue):
    low, first, second = add(queue), add(queue, priority=5), add(queue, priority=5)

    order = [job.id for job in (queue.claim(), queue.claim(), queue.claim()) if job]

    assert order == [first.id, second.id, low.id]
    assert queue.claim() is None


def test_a_claimed_job_is_starting_in_a_new_attempt(queue: JobQueue):
    job = claimed(queue)

    assert (job.state, job.attempt) == (S.STARTING, 1)
    assert job.attempts == (
        {
            "number": 1,
            "pid": None,
            "state": "starting",
            "started_at": job.attempts[0]["started_at"],
            "ended_at": None,
            "resumed_from_step": None,
        },
    )


def test_no_job_is_claimed_twice(queue: JobQueue):
    for _ in range(4):
        add(queue)

    found = [job.id for job in in_threads(8, queue.claim) if job is not None]

    assert len(found) == len(set(found)) == 4


def test_an_interrupted_job_goes_back_to_the_front_and_counts_its_attempts(queue: JobQueue):
    first = claimed(queue)
    add(queue)
    queue.started(first.id, 1, pid=7)
    queue.transition(first.id, S.INTERRUPTED, attempt=1, reason="The worker is gone.", attempt_state="lost")
    queue.transition(first.id, S.QUEUED, attempt=1)
    again = queue.claim()
    assert again is not None
    again = queue.started(again.id, 2, pid=8, resumed_from_step=40)

    assert again.id == first.id
    assert [(one["number"], one["pid"], one["state"], one["resumed_from_step"]) for one in again.attempts] == [
        (1, 7, "lost", None),
        (2, 8, "running", 40),
    ]
    assert again.attempts[0]["ended_at"] is not None


# -- transitions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", list(JobState), ids=str)
@pytest.mark.parametrize("state", list(JobState), ids=str)
def test_only_the_transitions_of_the_diagram_are_made(queue: JobQueue, state: JobState, to: JobState):
    job = in_state(queue, state)
    before = told(queue, job)
    # The arrow from queued to starting is a claim, which makes an attempt.
    allowed = to in TRANSITIONS[state] and to is not S.STARTING

    if allowed:
        after = queue.transition(job.id, to, attempt=job.attempt)
        assert after.state is to
        assert (after.finished_at is not None) == (to in FINAL)
        closing = [("done", to.value)] if to in FINAL else []
        assert told(queue, job) == [*before, ("state", to.value), *closing]
    else:
        with pytest.raises(Conflict):
            queue.transition(job.id, to, attempt=job.attempt)
        assert queue.get(job.id) == job
        assert told(queue, job) == before


def test_every_state_was_reached(queue: JobQueue):
    assert set(PATHS) == set(JobState)


def test_an_older_attempt_is_fenced_off(queue: JobQueue):
    job = in_state(queue, S.INTERRUPTED)
    queue.transition(job.id, S.QUEUED, attempt=1)
    queue.claim()

    for act in (
        lambda: queue.transition(job.id, S.SUCCEEDED, attempt=1),
        lambda: queue.started(job.id, 1, pid=1),
        lambda: queue.record(job.id, 1, offset=10),
    ):
        with pytest.raises(Conflict, match="attempt 2"):
            act()


def test_of_many_who_end_a_job_one_does(queue: JobQueue):
    job = in_state(queue, S.RUNNING)

    found = in_threads(5, lambda: queue.transition(job.id, S.SUCCEEDED, attempt=1))

    assert sum(isinstance(one, Conflict) for one in found) == 4
    assert told(queue, job)[-2:] == [("state", "succeeded"), ("done", "succeeded")]


def test_a_replaced_server_changes_nothing(queue: JobQueue, url: str):
    job = in_state(queue, S.RUNNING)
    with Database(url) as second:
        second.own()
        successor = JobQueue(second)

        with pytest.raises(StoreLocked):
            queue.transition(job.id, S.SUCCEEDED, attempt=1)
        with pytest.raises(StoreLocked):
            add(queue)
        assert successor.transition(job.id, S.FAILED, attempt=1).state is S.FAILED


def test_a_finished_job_says_what_came_of_it(queue: JobQueue):
    job = in_state(queue, S.RUNNING)
    queue.record(job.id, 1, offset=1, metrics_last={"loss": 2.0, "mae": 1.0}, metrics_best={"loss": {"value": 2.0}})
    done = queue.transition(
        job.id,
        S.SUCCEEDED,
        attempt=1,
        output={"model": "net", "version": 3},
        report={"outcome": "exact"},
        progress={"fraction": 1.0},
        metrics_last={"loss": 1.0},
        environment={"torch": "2"},
    )

    assert done.output == {"model": "net", "version": 3}
    assert (done.report, done.progress, done.environment) == ({"outcome": "exact"}, {"fraction": 1.0}, {"torch": "2"})
    assert done.view()["metrics"] == {"last": {"loss": 1.0, "mae": 1.0}, "best": {"loss": {"value": 2.0}}}
    assert done.attempts[0]["state"] == "succeeded"
    assert queue.events(job.id)[-1].data == {"state": "succeeded", "output": {"model": "net", "version": 3}}


def test_a_failed_job_says_why(queue: JobQueue):
    job = in_state(queue, S.RUNNING)
    error = {"code": "non_finite_loss", "detail": "The loss is not finite.", "step": 7}

    failed = queue.transition(job.id, S.FAILED, attempt=1, reason=error["detail"], error=error)  # type: ignore[arg-type]

    assert (failed.error, failed.state_reason) == (error, "The loss is not finite.")
    assert queue.events(job.id)[-1].data == {"state": "failed", "error": error}


@pytest.mark.parametrize("state", list(JobState), ids=str)
def test_a_cancel_ends_what_waits_stops_what_works_and_leaves_the_rest(queue: JobQueue, state: JobState):
    job = in_state(queue, state)

    after = queue.request_cancel(job.id)

    if state in (S.QUEUED, S.PAUSED, S.INTERRUPTED):
        assert after.state is S.CANCELLED
        assert after.error is not None
        assert after.error["code"] == "cancelled_by_user"
    elif state in (S.STARTING, S.RUNNING, S.PAUSING):
        assert after.state is S.CANCELLING
        assert after.attempts[0]["ended_at"] is None
    else:
        assert after == job


BECOMES: dict[str, dict[JobState, JobState]] = {
    "request_pause": {
        **dict.fromkeys((S.QUEUED, S.INTERRUPTED, S.PAUSED), S.PAUSED),
        **dict.fromkeys((S.STARTING, S.RUNNING, S.PAUSING), S.PAUSING),
    },
    "resume": {S.PAUSED: S.QUEUED, **{state: state for state in (S.QUEUED, S.STARTING, S.RUNNING, S.INTERRUPTED)}},
    "retry": {
        **dict.fromkeys((S.FAILED, S.CANCELLED), S.QUEUED),
        **{state: state for state in (S.QUEUED, S.STARTING, S.RUNNING, S.INTERRUPTED)},
    },
}
"""What each wish makes of a state; any other state refuses it."""


@pytest.mark.parametrize("state", list(JobState), ids=str)
@pytest.mark.parametrize("wish", list(BECOMES))
def test_a_wish_is_granted_was_granted_or_is_refused_with_what_to_do(queue: JobQueue, wish: str, state: JobState):
    job = in_state(queue, state)
    room = {} if wish == "request_pause" else {"max_queued": 10}
    act = partial(getattr(queue, wish), **room)
    expected = BECOMES[wish].get(state)
    if expected is None:
        with pytest.raises(Conflict) as refused:
            act(job.id)
        assert refused.value.hint
        assert queue.get(job.id) == job
    else:
        after = act(job.id)
        assert after.state is expected
        if expected is state:
            assert after == job


def test_a_paused_job_keeps_its_place_and_its_ended_attempt(queue: JobQueue):
    first = in_state(queue, S.PAUSED)
    add(queue)
    again = queue.resume(first.id, max_queued=10)
    taken = queue.claim()

    assert (again.attempts[0]["state"], again.attempts[0]["ended_at"] is not None) == ("paused", True)
    assert taken is not None
    assert (taken.id, taken.attempt) == (first.id, 2)


@pytest.mark.parametrize(
    ("wish", "state"), [("resume", S.PAUSED), ("retry", S.FAILED), ("retry", S.CANCELLED)], ids=str
)
def test_who_comes_back_finds_a_full_queue_full(queue: JobQueue, wish: str, state: JobState):
    job, waiting = in_state(queue, state), add(queue)
    forgotten: list[bool] = []
    forget = {"forget": lambda: forgotten.append(True)} if wish == "retry" else {}
    with pytest.raises(QueueFull) as refused:
        getattr(queue, wish)(job.id, max_queued=1, **forget)

    assert refused.value.limit == {"name": "max_queued", "value": 1}
    assert refused.value.retry_after_s is not None
    assert (queue.get(job.id).state, forgotten) == (state, [])
    assert queue.resume(waiting.id, max_queued=1).state is S.QUEUED  # it has its place already
    assert getattr(queue, wish)(job.id, max_queued=2).state is S.QUEUED


def test_a_retried_job_is_as_if_it_had_not_ended(queue: JobQueue):
    job = in_state(queue, S.RUNNING)
    queue.record(job.id, 1, offset=1, progress={"step": 3}, metrics_last={"loss": 1.0}, metrics_best={"loss": {}})
    queue.transition(job.id, S.FAILED, attempt=1, reason="full", error={"code": "disk_full", "detail": "full"})
    [done] = queue.events(job.id, types=["done"])
    assert not queue.goes_on_after(done)
    again = queue.retry(job.id, max_queued=10)

    assert (again.state, again.error, again.finished_at, again.state_reason) == (S.QUEUED, None, None, None)
    assert (again.progress, again.metrics_last) == ({"step": 3}, {"loss": 1.0})
    assert again.attempts[0]["state"] == "failed"
    assert queue.goes_on_after(done)


def test_a_retry_from_the_start_forgets_what_was_reached(queue: JobQueue):
    job = in_state(queue, S.RUNNING)
    queue.record(job.id, 1, offset=1, progress={"step": 3}, metrics_last={"loss": 1.0}, metrics_best={"loss": {}})
    queue.transition(job.id, S.FAILED, attempt=1)
    forgotten: list[bool] = []
    again = queue.retry(job.id, max_queued=10, forget=lambda: forgotten.append(True))

    assert forgotten == [True]
    assert (again.progress, again.metrics_last, again.metrics_best) == (None, {}, {})


def test_a_job_is_overtaken_only_so_often(queue: JobQueue):
    low = add(queue)
    high = [add(queue, priority=100) for _ in range(25)]

    order = [job.id for _ in range(12) if (job := queue.claim())]

    assert order == [*(job.id for job in high[:10]), low.id, high[10].id]


def test_a_job_for_a_device_is_overtaken_only_so_often_whatever_others_do(queue: JobQueue):
    old = add(queue, resolved_spec={"device": "cuda:0"})
    order: list[str] = []
    while len(order) < 20 and old.id not in order:
        add(queue, resolved_spec={"device": "cuda:0"}, priority=5)
        add(queue, resolved_spec={"device": "cpu"})
        of_the_device, of_the_rest = queue.claim(cpu=False, devices=["cuda:0"]), queue.claim(cpu=True, devices=[])
        assert of_the_device is not None
        assert of_the_rest is not None
        order.append(of_the_device.id)

    assert order.index(old.id) == 10


def test_a_worker_that_starts_while_its_job_is_cancelled_is_noted_all_the_same(queue: JobQueue):
    job = claimed(queue)
    queue.request_cancel(job.id)

    noted = queue.started(job.id, 1, pid=9)

    assert (noted.state, noted.attempts[0]["pid"]) == (S.CANCELLING, 9)
    ended = queue.transition(job.id, S.CANCELLED, attempt=1)
    with pytest.raises(Conflict):
        queue.started(job.id, 1, pid=9)
    assert ended.attempts[0]["state"] == "cancelled"


def test_of_an_attempt_that_was_thrown_away_no_value_is_left(queue: JobQueue):
    def tell(attempt: int, steps: range, *, resumed: int | None = None) -> None:
        part = {"name": "loss", "steps": [*steps], "epochs": [1] * len(steps), "values": [float(attempt)] * len(steps)}
        parts = [part, {**part, "name": "first"}] if attempt == 1 else [part]
        event = ("metrics", {"series": parts}, utc_now())
        queue.record(job.id, attempt, offset=attempt, events=[event], resumed_from_step=resumed)

    job = claimed(queue)
    tell(1, range(1, 11))
    for attempt, first, last, resumed in ((2, 5, 7, 4), (3, 1, 3, None)):
        queue.transition(job.id, S.FAILED, attempt=attempt - 1)
        queue.retry(job.id, max_queued=10)
        queue.claim()
        before = queue.series(job.id)
        tell(attempt, range(first, last), resumed=resumed)

        found = {step: value for step, (_, value) in queue.series(job.id)[0]["loss"].items()}
        kept = range(1, (resumed or 0) + 1)
        assert found == {**dict.fromkeys(kept, 1.0), **dict.fromkeys(range(first, last), float(attempt))}
        assert before != queue.series(job.id)
    assert list(queue.series(job.id)[0]) == ["loss"]  # of the other there is nothing


# -- events ---------------------------------------------------------------------------------------------------------


def test_events_are_taken_over_exactly_once(queue: JobQueue, url: str, database: Database):
    """A supervisor that dies after a commit and reads the file again from the noted offset doubles nothing."""
    job = in_state(queue, S.RUNNING)
    lines = [("progress", {"step": step}, utc_now()) for step in range(4)]
    assert queue.record(job.id, 1, offset=20, events=lines[:2], progress={"step": 1})
    assert not queue.record(job.id, 1, offset=20, events=lines[:2], progress={"step": 1})
    with Database(url) as reopened:
        reopened.own()
        successor = JobQueue(reopened)
        offset = successor.offset(job.id, 1)
        assert successor.record(job.id, 1, offset=40, events=lines[offset // 10 :], progress={"step": 3})

        assert [event.data["step"] for event in successor.events(job.id, types=["progress"])] == [0, 1, 2, 3]
        assert successor.get(job.id).progress == {"step": 3}


def test_events_and_their_offset_are_committed_together(queue: JobQueue):
    job = in_state(queue, S.RUNNING)
    unfit: list[tuple[str, dict[str, object], str]] = [
        ("progress", {"step": 1}, utc_now()),
        ("progress", {"step": object()}, utc_now()),
    ]

    with pytest.raises(Exception, match="serializ"):
        queue.record(job.id, 1, offset=20, events=unfit)

    assert queue.offset(job.id, 1) == 0
    assert queue.events(job.id, types=["progress"]) == ()


@pytest.mark.parametrize("state", sorted(FINAL | {S.QUEUED, S.PAUSED}), ids=str)
def test_done_is_the_last_event(queue: JobQueue, state: JobState):
    job = in_state(queue, state)

    with pytest.raises(Conflict):
        queue.record(job.id, job.attempt, offset=10, events=[("log", {}, utc_now())])


def test_events_are_read_by_job_by_type_and_after_an_id(queue: JobQueue):
    one, two = claimed(queue), claimed(queue)
    queue.record(one.id, 1, offset=1, events=[("log", {"text": "a"}, "then")])
    every = queue.events()

    assert [event.id for event in every] == sorted({event.id for event in every})
    assert [event.job_id for event in queue.events(two.id)] == [two.id, two.id]
    assert queue.events(after=every[1].id) == every[2:]
    assert queue.events(limit=2) == every[:2]
    assert queue.newest_event() == every[-1].id
    assert [event.view() for event in queue.events(types={"log"})] == [
        {"id": every[-1].id, "job_id": one.id, "at": "then", "type": "log", "data": {"text": "a"}}
    ]


def test_listeners_are_told_of_each_committed_change(queue: JobQueue):
    seen: list[str] = []
    unsubscribe = queue.changed.subscribe(seen.append)
    told = [add(queue).id, add(queue).id]
    unsubscribe()
    add(queue)

    assert seen == told


def test_own_changes_are_relayed_and_those_that_were_heard_of_are_not(queue: JobQueue):
    seen: list[str] = []
    relayed: list[str] = []
    queue.changed.relay = relayed.append
    queue.changed.subscribe(seen.append)
    job_id = add(queue).id
    queue.changed.heard("job_elsewhere")

    assert relayed == [job_id]
    assert seen == [job_id, "job_elsewhere"]


# -- the rest -------------------------------------------------------------------------------------------------------


def test_jobs_are_listed_newest_first_by_state_model_and_kind(queue: JobQueue):
    train = add(queue, output={"model": "net"})
    evaluate = add(queue, kind="evaluate", resolved_spec={"resolved_model": {"model": "net", "version": 1}})
    other = add(queue, output={"model": "other"})
    queue.transition(other.id, S.CANCELLED, attempt=0)

    def ids(**given: Any) -> list[str]:
        return [job.id for job in queue.list(**given).items]

    assert ids() == [other.id, evaluate.id, train.id]
    assert ids(state=S.QUEUED) == ids(state="queued") == [evaluate.id, train.id]
    assert ids(state=[S.QUEUED, S.CANCELLED], limit=2) == [other.id, evaluate.id]
    assert ids(limit=2, after=queue.list(limit=1).next) == [evaluate.id, train.id]
    assert ids(model="net") == [evaluate.id, train.id]
    assert ids(kind="evaluate") == [evaluate.id]


def test_a_list_says_of_a_job_what_the_job_says_but_for_its_documents(queue: JobQueue):
    add(queue)
    replay = claimed(queue, priority=1, resolved_spec={"replay_of": {"job": "job_1"}}, labels={"a": "1"})
    listed = [job.view() for job in queue.list().items]
    whole = queue.get(replay.id).view()

    assert [view["replay_of"] for view in listed] == ["job_1", None]
    assert whole == {**listed[0], "spec": {}, "resolved_spec": {"replay_of": {"job": "job_1"}}, "report": None}


def test_active_jobs_are_those_with_a_worker_or_just_without(queue: JobQueue):
    made: dict[JobState, Job] = {state: in_state(queue, state) for state in JobState if state is not S.QUEUED}

    assert {job.id for job in queue.active()} == {made[state].id for state in ACTIVE | {S.INTERRUPTED}}
    assert queue.counts() == {state: 0 if state is S.QUEUED else 1 for state in JobState}
    assert {queue.state(job.id) for job in made.values()} == set(made)


def test_priority_and_labels_change_for_who_has_seen_them(queue: JobQueue):
    job = add(queue, labels={"a": "1"})
    with pytest.raises(PreconditionRequired):
        queue.update(job.id, priority=1)
    changed = queue.update(job.id, priority=1, if_match=job.etag)

    assert (changed.priority, changed.labels) == (1, {"a": "1"})
    with pytest.raises(PreconditionFailed):
        queue.update(job.id, labels={}, if_match=job.etag)
    assert queue.update(job.id, labels={}, if_match=changed.etag).labels == {}


@pytest.mark.parametrize("state", list(JobState), ids=str)
def test_only_finished_jobs_are_deleted_with_all_their_events(queue: JobQueue, state: JobState):
    job = in_state(queue, state)
    if state in FINAL:
        queue.delete(job.id)
        with pytest.raises(NotFound):
            queue.get(job.id)
        assert queue.events(job.id) == ()
    else:
        with pytest.raises(Conflict):
            queue.delete(job.id)


def test_event_ids_are_not_used_again_after_a_deletion(queue: JobQueue):
    job = in_state(queue, S.CANCELLED)
    newest = queue.newest_event()
    queue.delete(job.id)

    assert queue.events(add(queue).id)[0].id > newest


@pytest.mark.parametrize("method", ["get", "state", "delete", "request_cancel", *BECOMES])
def test_a_job_that_is_not_there_is_not_found(queue: JobQueue, method: str):
    call: Any = getattr(queue, method)
    room = {"max_queued": 10} if method in ("resume", "retry") else {}
    with pytest.raises(NotFound):
        call("job_" + "0" * 32, **room)


def test_a_queued_job_says_what_it_waits_for(queue: JobQueue) -> None:
    alone = add(queue)

    assert queue.waiting_for(alone.id) is None

    running = queue.claim()
    assert running is not None
    second, third, urgent = add(queue), add(queue), add(queue, priority=1)

    assert [queue.waiting_for(job.id) for job in (running, urgent, second, third)] == [
        None,
        "Waiting for a slot: 1 job is running, none are before it.",
        "Waiting for a slot: 1 job is running, 1 is before it.",
        "Waiting for a slot: 1 job is running, 2 are before it.",
    ]
