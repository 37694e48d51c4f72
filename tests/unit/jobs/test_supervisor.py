"""Each job has one end, whatever its worker does; its events are moved once; nobody's trouble is another's."""

from __future__ import annotations

import errno
import hashlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from service.errors import StoreLocked
from service.jobs.queue import Job, JobQueue
from service.jobs.supervisor import Rules, Supervisor, folder_of_job
from service.schemas.document import new_id
from service.schemas.jobs import JobState
from service.schemas.versions import Signature, TensorSpec, VersionDraft, VersionFile
from service.store import database
from service.store.architectures import ArchitectureStore
from service.store.database import Database
from service.store.datasets import DatasetStore
from service.store.idempotency import IdempotencyKey, IdempotencyStore
from service.store.models import ModelStore
from service.telemetry import Metrics
from tests.busy import held_after_the_rename
from tests.fakes import FakeClock, FakeLauncher, FakeWorker
from tests.live import wait_for

DONE: dict[str, Any] = {"outcome": "done", "metrics": {"loss": 0.5}, "environment": {"threads": 1}}
STOPPED: dict[str, Any] = {"outcome": "stopped", "step": 7}
RULES = Rules(slots=1, threads=1, attempts=3, memory_bytes=2**30, timeout_s=1000, stall_s=60)


class World:
    """A store with a supervisor whose turns, time and workers are the test's."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.database = Database(f"sqlite:///{root}/modelyard.sqlite3")
        self.database.own()
        self.queue = JobQueue(self.database)
        self.models = ModelStore(root, self.database)
        self.models.recover()
        self.clock = FakeClock()
        self.launcher = FakeLauncher()
        self.supervisors: list[Supervisor] = []
        self.supervisor = self.restart()

    def restart(self, **rules: Any) -> Supervisor:
        """A supervisor as after the start of another server; the one before is as dead as after kill -9."""
        self.supervisor = Supervisor(
            self.root,
            queue=self.queue,
            models=self.models,
            datasets=DatasetStore(self.root, self.database),
            architectures=ArchitectureStore(self.database),
            launcher=self.launcher,
            rules=Rules(**{**{name: getattr(RULES, name) for name in RULES.__slots__}, **rules}),
            metrics=Metrics(),
            clock=self.clock,
        )
        self.supervisors.append(self.supervisor)
        self.supervisor.recover()
        return self.supervisor

    def add(self, **spec: Any) -> str:
        """A queued job."""
        output = {"model": "m", "alias_on_success": "champion"}
        job, _ = self.queue.enqueue(
            id=new_id("job"), kind="train", spec={}, resolved_spec={"output": output, **spec}, max_queued=100
        )
        assert job is not None
        return job.id

    def start(self) -> tuple[str, FakeWorker]:
        """A job that runs, and its worker."""
        job_id = self.add()
        self.supervisor.turn()
        return job_id, self.launcher.workers[-1]

    def job(self, job_id: str) -> Job:
        return self.queue.get(job_id)

    def state(self, job_id: str) -> str:
        return self.queue.state(job_id).value

    def told(self, job_id: str) -> list[tuple[str, Any]]:
        """The job's events: states by name, the others by their data."""
        return [
            (event.type, event.data["state"] if event.type in ("state", "done") else dict(event.data))
            for event in self.queue.events(job_id)
        ]

    def close(self) -> None:
        self.launcher.end_all()
        for supervisor in self.supervisors:
            supervisor.turn()
            supervisor.stop(10)  # a thread that went on would close descriptors of the next test's
        self.database.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.database.own()  # in case a test gave the store to another
    made.close()


def staged(worker: FakeWorker) -> dict[str, Any]:
    """A result with a version, its files written."""
    folder = worker.folder / "staged"
    folder.mkdir()
    contents = {"weights.pt": b"weights", "preprocessing.json": b"{}"}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    tensor = TensorSpec(name="x", dtype="float32", shape=("B", 1))
    draft = VersionDraft(
        digest="sha256:" + "d" * 64,
        architecture_digest="sha256:" + "a" * 64,
        weights_digest="sha256:" + "b" * 64,
        metrics={"loss": 0.5},
        signature=Signature(inputs=(tensor,), outputs=(tensor,)),
        lineage={"steps": 20, "epochs": 2},
        files=tuple(
            VersionFile(name=name, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
            for name, content in contents.items()
        ),
    )
    return {**DONE, "version": draft.model_dump(mode="json")}


# -- the straight way -------------------------------------------------------------------------------------------------


def test_a_job_runs_its_states_and_each_event_is_moved_once(world: World) -> None:
    job_id, worker = world.start()
    worker.tell("progress", step=1)
    world.supervisor.turn()
    worker.tell("metrics", step=2, last={"loss": 0.25}, best={"loss": {"value": 0.25, "step": 2, "epoch": 1}})
    world.supervisor.turn()
    world.supervisor.turn()
    worker.tell("progress", step=3)
    worker.end(result=staged(worker))
    world.supervisor.turn()
    world.supervisor.turn()

    assert world.told(job_id) == [
        ("state", "queued"),
        ("state", "starting"),
        ("state", "running"),
        ("progress", {"step": 1}),
        ("metrics", {"step": 2, "last": {"loss": 0.25}, "best": {"loss": {"value": 0.25, "step": 2, "epoch": 1}}}),
        ("progress", {"step": 3}),
        ("state", "succeeded"),
        ("done", "succeeded"),
    ]
    job = world.job(job_id)
    assert (job.progress, job.metrics_last, job.metrics_best["loss"]["step"]) == ({"step": 3}, {"loss": 0.5}, 2)
    assert job.output == {"model": "m", "version": 1, "alias": "champion"}
    assert world.models.version("m", 1).job_id == job_id


def test_half_a_line_waits_for_its_other_half(world: World) -> None:
    job_id, worker = world.start()
    worker.write(b'{"type": "progress", "at": "2026-01-01T00:00:00Z", "da')
    world.supervisor.turn()
    assert world.job(job_id).progress is None

    worker.write(b'ta": {"step": 1}}\n')
    world.supervisor.turn()

    assert world.job(job_id).progress == {"step": 1}


def test_half_a_line_of_a_killed_worker_is_dropped_and_the_next_attempt_begins_anew(world: World) -> None:
    job_id, worker = world.start()
    worker.tell("progress", step=1)
    worker.write(b'{"type": "progress", "at": "20')
    worker.end()
    world.supervisor.turn()
    world.launcher.workers[-1].tell("progress", step=2)
    world.supervisor.turn()

    assert [data for kind, data in world.told(job_id) if kind == "progress"] == [{"step": 1}, {"step": 2}]


def test_more_events_than_one_read_takes_are_all_moved(world: World) -> None:
    job_id, worker = world.start()
    lines = 40
    for step in range(lines):
        worker.tell("log", message="x" * 300_000, step=step)
    worker.end(result=DONE)
    world.supervisor.turn()

    assert len(world.told(job_id)) == lines + 5
    assert world.state(job_id) == "succeeded"


def test_the_highest_priority_comes_first_and_slots_are_kept(world: World) -> None:
    first, second = world.add(), world.add()
    world.supervisor.turn()
    world.supervisor.turn()

    assert (world.state(first), world.state(second)) == ("running", "queued")
    world.launcher.workers[0].end(result=DONE)
    world.supervisor.turn()
    assert (world.state(first), world.state(second)) == ("succeeded", "running")


def test_an_ended_job_keeps_its_log_and_nothing_that_is_large(world: World) -> None:
    job_id, worker = world.start()
    (folder_of_job(world.root, job_id) / "checkpoints").mkdir()
    worker.end(result=staged(worker))
    world.supervisor.turn()

    assert world.state(job_id) == "succeeded"
    assert not (worker.folder / "staged").exists()
    assert not (folder_of_job(world.root, job_id) / "checkpoints").exists()


# -- cancelling -------------------------------------------------------------------------------------------------------


def test_a_waiting_job_is_cancelled_at_once(world: World) -> None:
    world.start()
    job_id = world.add()

    assert world.queue.request_cancel(job_id).state is JobState.CANCELLED
    world.supervisor.turn()
    assert len(world.launcher.workers) == 1


def test_a_running_job_is_told_to_stop_and_is_cancelled_when_it_has(world: World) -> None:
    job_id, worker = world.start()
    world.queue.request_cancel(job_id)
    world.supervisor.turn()
    assert (world.state(job_id), worker.signals) == ("cancelling", [signal.SIGTERM])

    worker.end(result=STOPPED)
    world.supervisor.turn()

    job = world.job(job_id)
    assert (job.state.value, job.state_reason) == ("cancelled", "cancelled_by_user")
    assert job.error is not None
    assert job.error["code"] == "cancelled_by_user"


def test_a_worker_that_does_not_obey_is_killed_after_the_grace_period(world: World) -> None:
    job_id, worker = world.start()
    world.queue.request_cancel(job_id)
    world.supervisor.turn()
    world.clock.advance(9.9)
    world.supervisor.turn()
    assert worker.signals == [signal.SIGTERM]

    world.clock.advance(0.2)
    world.supervisor.turn()
    world.supervisor.turn()

    assert worker.signals[:2] == [signal.SIGTERM, signal.SIGKILL]
    assert world.state(job_id) == "cancelled"


def test_a_job_that_is_done_before_its_cancel_arrives_keeps_its_weights_and_publishes_nothing(world: World) -> None:
    job_id, worker = world.start()
    worker.end(result=staged(worker))
    world.queue.request_cancel(job_id)
    world.supervisor.turn()

    assert world.state(job_id) == "cancelled"
    assert not (world.root / "models" / "m").exists()
    checkpoints = folder_of_job(world.root, job_id) / "checkpoints"
    entry = json.loads((checkpoints / "best.json").read_bytes())
    assert (entry["kind"], entry["step"], entry["epoch"]) == ("best", 20, 2)
    assert (checkpoints / entry["file"]).read_bytes() == b"weights"


def test_a_cancel_between_claim_and_start_is_obeyed(world: World) -> None:
    job_id = world.add()
    claimed = world.queue.claim()
    assert claimed is not None
    world.queue.request_cancel(job_id)
    world.restart()
    world.supervisor.turn()

    assert world.state(job_id) == "cancelled"


# -- the store's house -------------------------------------------------------------------------------------------------


def test_answers_to_old_requests_are_forgotten_while_the_server_runs(world: World) -> None:
    answers = IdempotencyStore(world.database)
    answers.keep(IdempotencyKey("key", "POST /v1/jobs", "ann", "0" * 64), 202, {})
    with world.database.write() as connection:
        connection.execute(sa.update(database.idempotency).values(created_at="2020-01-01T00:00:00.000Z"))
    world.clock.advance(3599)
    world.supervisor.turn()
    assert answers_kept(world) == 1
    world.clock.advance(2)
    world.supervisor.turn()

    assert answers_kept(world) == 0


def answers_kept(world: World) -> int:
    with world.database.read() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(database.idempotency)).scalar_one()


# -- devices and replays ----------------------------------------------------------------------------------------------


def test_a_device_takes_one_job_at_a_time_beside_the_slots(world: World) -> None:
    world.restart(devices=("cuda:0", "cuda:1"))
    asked = ["cuda:1", "cuda", "cuda", "cpu", "cpu"]
    ids = [world.add(device=device) for device in asked]
    world.supervisor.turn()

    assert [world.state(each) for each in ids] == ["running", "running", "queued", "running", "queued"]
    assert [worker.task["device"] for worker in world.launcher.workers] == ["cuda:1", "cuda:0", None]
    world.launcher.workers[1].end(result=DONE)
    world.supervisor.turn()
    assert (world.state(ids[2]), world.launcher.workers[-1].task["device"]) == ("running", "cuda:0")


def replayed(world: World, losses: list[float], *, digest: str) -> Any:
    """The report of a replay with these losses, of a job that had 1, 0.5 and 0.25."""

    def series(values: list[float]) -> list[dict[str, Any]]:
        return [{"name": "loss", "steps": [1, 2, 3], "epochs": [1, 1, 2], "values": values}]

    first, worker = world.start()
    worker.tell("metrics", step=3, last={}, series=series([1.0, 0.5, 0.25]))
    worker.end(result=staged(worker))
    world.supervisor.turn()
    again = world.add(replay_of={"job": first, "model": "m", "version": 1, "weights_digest": digest})
    world.supervisor.turn()
    worker = world.launcher.workers[-1]
    worker.tell("metrics", step=3, last={}, series=series(losses))
    worker.end(result=staged(worker))
    world.supervisor.turn()
    assert (world.state(again), world.job(again).output) == ("succeeded", None)
    assert [record.version for record in world.models.versions("m").items] == [1]
    return world.job(again).report


def test_a_replay_with_the_same_weights_says_so(world: World) -> None:
    report = replayed(world, [1.0, 0.5, 0.25], digest="sha256:" + "b" * 64)

    assert (report["identical"], report["first_difference"], report["steps_compared"]) == (True, None, 3)


def test_a_replay_with_other_weights_says_where_the_curves_part(world: World) -> None:
    report = replayed(world, [1.0, 0.5, 0.2500001], digest="sha256:" + "c" * 64)

    assert report["identical"] is False
    assert report["first_difference"] == {"step": 3, "epoch": 2, "metric": "loss", "then": 0.25, "now": 0.2500001}


# -- pausing ----------------------------------------------------------------------------------------------------------


def test_a_paused_job_gives_its_slot_to_the_next_and_goes_on_when_resumed(world: World) -> None:
    job_id, worker = world.start()
    waiting = world.add()
    world.queue.request_pause(job_id)
    world.supervisor.turn()
    assert (world.state(job_id), worker.signals) == ("pausing", [signal.SIGTERM])

    worker.end(result=STOPPED)
    world.supervisor.turn()
    assert (world.state(job_id), world.state(waiting)) == ("paused", "running")

    world.queue.resume(job_id, max_queued=10)
    world.launcher.workers[-1].end(result=DONE)
    world.supervisor.turn()
    assert (world.state(job_id), world.job(job_id).attempt) == ("running", 2)
    assert [attempt["state"] for attempt in world.job(job_id).attempts] == ["paused", "running"]


def test_a_pause_survives_the_server(world: World) -> None:
    paused, worker = world.start()
    world.queue.request_pause(paused)
    world.supervisor.turn()
    worker.end(result=STOPPED)
    world.restart()  # before the end of the worker was recorded
    world.supervisor.turn()
    world.restart()
    world.supervisor.turn()

    assert world.state(paused) == "paused"
    assert len(world.launcher.workers) == 1


@pytest.mark.parametrize("end", [{}, {"result": STOPPED}], ids=["killed", "stopped"])
def test_a_worker_that_ends_in_a_pause_has_lost_no_attempt(world: World, end: dict[str, Any]) -> None:
    job_id, worker = world.start()
    world.queue.request_pause(job_id)
    world.supervisor.turn()
    worker.end(**end)
    world.supervisor.turn()

    job = world.job(job_id)
    assert (job.state.value, job.state_reason, job.error) == ("paused", "paused_by_user", None)
    assert [attempt["state"] for attempt in job.attempts] == ["paused"]


def test_a_job_that_is_done_before_its_pause_arrives_has_succeeded(world: World) -> None:
    job_id, worker = world.start()
    worker.end(result=staged(worker))
    world.queue.request_pause(job_id)
    world.supervisor.turn()

    assert world.state(job_id) == "succeeded"


def test_a_job_that_is_cancelled_while_it_pauses_is_cancelled(world: World) -> None:
    job_id, worker = world.start()
    world.queue.request_pause(job_id)
    world.supervisor.turn()
    world.queue.request_cancel(job_id)
    worker.end(result=STOPPED)
    world.supervisor.turn()

    assert world.state(job_id) == "cancelled"


def test_a_retried_job_has_all_its_attempts_again(world: World) -> None:
    job_id, _ = world.start()
    for _ in range(3):
        world.launcher.workers[-1].end()
        world.supervisor.turn()
    assert world.state(job_id) == "failed"
    world.queue.retry(job_id, max_queued=10)
    world.supervisor.turn()
    world.launcher.workers[-1].end()
    world.supervisor.turn()

    assert (world.state(job_id), world.job(job_id).error) == ("running", None)
    states = [attempt["state"] for attempt in world.job(job_id).attempts]
    assert states == ["lost", "lost", "failed", "lost", "running"]


# -- workers that go wrong --------------------------------------------------------------------------------------------


def test_a_lost_worker_is_followed_by_another_until_the_attempts_are_used_up(world: World) -> None:
    job_id, _ = world.start()
    for attempt in (1, 2):
        world.launcher.workers[-1].end()
        world.supervisor.turn()
        assert (world.state(job_id), world.job(job_id).attempt) == ("running", attempt + 1)
    world.launcher.workers[-1].end()
    world.supervisor.turn()

    job = world.job(job_id)
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error["code"] == "worker_lost"
    assert [attempt["state"] for attempt in job.attempts] == ["lost", "lost", "failed"]
    assert [state for kind, state in world.told(job_id) if kind == "state"] == [
        "queued",
        *["starting", "running", "interrupted", "queued"] * 2,
        *["starting", "running", "failed"],
    ]


def test_an_error_of_the_worker_is_the_jobs(world: World) -> None:
    job_id, worker = world.start()
    worker.end(error={"code": "non_finite_loss", "detail": "The loss of step 3 is nan.", "step": 3})
    world.supervisor.turn()

    job = world.job(job_id)
    assert (job.state.value, job.error) == (
        "failed",
        {"code": "non_finite_loss", "detail": "The loss of step 3 is nan.", "step": 3},
    )


def test_a_job_that_failed_at_a_step_is_at_that_step_whatever_was_told_before_it_was_known(world: World) -> None:
    job_id, worker = world.start()
    worker.tell("progress", step=50, epoch=5, fraction=1.0, eta_s=0.0, lr=0.1)
    worker.end(error={"code": "non_finite_loss", "detail": "The loss of step 6 is nan.", "step": 6, "epoch": 1})
    world.supervisor.turn()

    assert world.job(job_id).progress == {"step": 6, "epoch": 1, "fraction": 0.12, "eta_s": None, "lr": 0.1}


def test_a_version_that_a_worker_found_changed_is_quarantined(world: World) -> None:
    _, publisher = world.start()
    publisher.end(result=staged(publisher))
    world.supervisor.turn()
    changed = {
        "code": "checkpoint_refused",
        "reason": "digest-mismatch",
        "detail": "Its files differ from its manifest: weights.pt.",
    }
    job_id = world.add(resolved_model={"model": "m", "version": 1})
    world.supervisor.turn()
    world.launcher.workers[-1].end(error=changed)
    world.supervisor.turn()

    assert (world.state(job_id), world.job(job_id).error) == ("failed", changed)
    version = world.models.version("m", 1)
    assert (version.state, version.reason) == ("quarantined", "Its files differ from its manifest: weights.pt")


def test_a_job_whose_version_was_deleted_while_it_waited_fails_and_says_so(world: World) -> None:
    job_id = world.add(resolved_model={"model": "m", "version": 2})
    world.supervisor.turn()
    world.supervisor.turn()

    assert world.state(job_id) == "failed"
    error = world.job(job_id).error
    assert error is not None
    assert (error["code"], error["detail"]) == ("data_error", "There is no model 'm'.")


def test_a_silent_and_idle_worker_is_stopped_as_stalled(world: World) -> None:
    job_id, worker = world.start()
    world.clock.advance(60.1)
    world.supervisor.turn()
    assert worker.signals == [signal.SIGTERM]

    world.clock.advance(10.1)
    world.supervisor.turn()
    world.supervisor.turn()

    error = world.job(job_id).error
    assert error is not None
    assert error["code"] == "stalled"


def test_a_worker_with_long_steps_is_given_longer(world: World) -> None:
    _, worker = world.start()
    world.clock.advance(50)
    worker.tell("progress", step=1)
    world.supervisor.turn()
    world.clock.advance(900)
    world.supervisor.turn()

    assert worker.signals == []


def test_a_job_over_its_time_fails_even_if_it_obeys(world: World) -> None:
    job_id, worker = world.start()
    worker.tell("progress", step=1)
    world.clock.advance(1000.1)
    world.supervisor.turn()
    assert worker.signals == [signal.SIGTERM]
    worker.end(result=STOPPED)
    world.supervisor.turn()

    error = world.job(job_id).error
    assert error is not None
    assert error["code"] == "timeout"


@pytest.mark.parametrize(
    ("refusal", "code"),
    [(OSError(errno.ENOSPC, "full"), "disk_full"), (OSError("cannot fork"), "internal"), (KeyError("bug"), "internal")],
    ids=["disk full", "no process", "fault"],
)
def test_a_job_whose_worker_cannot_be_started_fails(world: World, refusal: Exception, code: str) -> None:
    world.launcher.refusal = refusal
    job_id = world.add()
    world.supervisor.turn()

    error = world.job(job_id).error
    assert error is not None
    assert error["code"] == code


def test_a_job_that_cannot_be_dealt_with_ends_and_the_others_go_on(world: World) -> None:
    world.restart(slots=2)
    poisoned, worker = world.start()
    other, healthy = world.start()
    worker.write(b"this is no event\n")
    healthy.tell("progress", step=1)
    for _ in range(5):
        world.supervisor.turn()

    assert world.state(poisoned) == "failed"
    assert worker.signals == [signal.SIGKILL]
    assert world.job(other).progress == {"step": 1}
    healthy.end(result=DONE)
    world.supervisor.turn()
    assert world.state(other) == "succeeded"


def test_a_result_that_is_not_what_was_staged_fails_and_publishes_nothing(world: World) -> None:
    job_id, worker = world.start()
    result = staged(worker)
    (worker.folder / "staged" / "weights.pt").write_bytes(b"other")
    worker.end(result=result)
    world.supervisor.turn()

    error = world.job(job_id).error
    assert error is not None
    assert (error["code"], "weights.pt" in error["detail"]) == ("internal", True)


def test_what_a_busy_database_refuses_is_recorded_later(world: World) -> None:
    job_id, worker = world.start()
    worker.tell("progress", step=1)
    worker.end(result=DONE)
    other = Database(f"sqlite:///{world.root}/modelyard.sqlite3")
    with other._writer.begin():  # holds the write lock, as a slow disk or a backup does
        world.supervisor.turn()
        assert world.state(job_id) == "running"
    other.close()
    world.supervisor.turn()

    assert world.state(job_id) == "succeeded"
    assert [data for kind, data in world.told(job_id) if kind == "progress"] == [{"step": 1}]


@pytest.fixture
def impatient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """One whose database waits only for a moment where another holds it."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.05)
    made = World(tmp_path)
    yield made
    made.close()


def test_a_training_whose_version_meets_a_busy_database_is_not_lost(impatient: World) -> None:
    world = impatient
    job_id, worker = world.start()
    worker.end(result=staged(worker))
    with held_after_the_rename(world.root):
        world.supervisor.turn()
        world.supervisor.turn()
        assert world.state(job_id) == "running"
    world.supervisor.turn()

    job = world.job(job_id)
    assert (job.state.value, job.output) == ("succeeded", {"model": "m", "version": 1, "alias": "champion"})
    assert world.models.verify("m", 1) == []


def test_a_cancel_that_comes_when_the_version_is_in_its_place_is_too_late(impatient: World) -> None:
    world = impatient
    job_id, worker = world.start()
    worker.end(result=staged(worker))
    with held_after_the_rename(world.root):
        world.supervisor.turn()
    world.queue.request_cancel(job_id)
    world.supervisor.turn()

    assert world.state(job_id) == "succeeded"
    assert world.models.version("m", 1).aliases == ("champion",)


# -- stopping and starting --------------------------------------------------------------------------------------------


def test_a_drained_job_waits_for_the_next_start_and_no_attempt_is_lost(world: World) -> None:
    job_id, worker = world.start()
    waiting = world.add()
    world.supervisor.drain(25)
    world.supervisor.turn()
    assert worker.signals == [signal.SIGTERM]
    worker.end(result=STOPPED)
    world.supervisor.turn()
    assert (world.state(job_id), world.state(waiting)) == ("queued", "queued")
    assert [attempt["state"] for attempt in world.job(job_id).attempts] == ["stopped"]

    world.restart()
    world.supervisor.turn()

    assert (world.state(job_id), world.job(job_id).attempt) == ("running", 2)


@pytest.mark.parametrize(("timeout_s", "killed_after_s"), [(25, 10), (2, 2)])
def test_a_worker_that_is_killed_in_a_drain_has_lost_no_attempt(
    world: World, timeout_s: float, killed_after_s: float
) -> None:
    job_id, worker = world.start()
    world.supervisor.drain(timeout_s)
    world.supervisor.turn()
    world.clock.advance(killed_after_s - 0.1)
    world.supervisor.turn()
    assert worker.signals == [signal.SIGTERM]
    world.clock.advance(0.2)
    world.supervisor.turn()
    world.supervisor.turn()

    assert signal.SIGKILL in worker.signals
    assert world.state(job_id) == "queued"
    assert [attempt["state"] for attempt in world.job(job_id).attempts] == ["stopped"]


def test_workers_hear_nothing_of_a_supervisor_that_leaves_and_the_next_one_takes_them_over(world: World) -> None:
    job_id, worker = world.start()
    supervisor = world.supervisor
    supervisor.start()
    supervisor.leave()
    supervisor.stop(10)
    supervisor.turn()  # one that was under way
    assert not supervisor.alive()
    assert worker.signals == []

    worker.end(result=DONE)
    world.restart()
    world.supervisor.turn()
    assert (world.state(job_id), world.job(job_id).attempt) == ("succeeded", 1)


def test_a_job_that_is_done_while_the_server_drains_succeeds(world: World) -> None:
    job_id, worker = world.start()
    world.supervisor.drain(25)
    worker.end(result=staged(worker))
    world.supervisor.turn()

    assert world.state(job_id) == "succeeded"


def test_after_a_crash_an_ended_worker_is_concluded_from_its_files_and_its_events_are_not_doubled(world: World) -> None:
    job_id, worker = world.start()
    worker.tell("progress", step=1)
    world.supervisor.turn()
    worker.tell("progress", step=2)
    worker.end(result=staged(worker))

    world.restart()
    world.supervisor.turn()

    assert [data for kind, data in world.told(job_id) if kind == "progress"] == [{"step": 1}, {"step": 2}]
    assert world.state(job_id) == "succeeded"


def test_a_crash_between_publishing_and_recording_gives_no_second_version(world: World) -> None:
    job_id, worker = world.start()
    result = staged(worker)
    published = world.models.publish(
        worker.folder / "staged", model="m", draft=VersionDraft.model_validate(result["version"]), job_id=job_id
    )
    worker.end(result=result)

    world.restart()
    world.supervisor.turn()

    assert world.job(job_id).output == {"model": "m", "version": published.version, "alias": "champion"}
    assert [record.version for record in world.models.versions("m").items] == [published.version]


def test_a_crash_before_the_worker_was_started_costs_no_attempt(world: World) -> None:
    job_id = world.add()
    world.queue.claim()

    world.restart()
    world.supervisor.turn()

    assert [attempt["state"] for attempt in world.job(job_id).attempts] == ["stopped", "running"]


@pytest.mark.parametrize("written", ["", '{"spec": {'])
def test_a_crash_while_the_task_was_written_hinders_no_start(world: World, written: str) -> None:
    job_id = world.add()
    claimed = world.queue.claim()
    assert claimed is not None
    folder = folder_of_job(world.root, job_id) / f"attempt-{claimed.attempt}"
    folder.mkdir(parents=True)
    (folder / "task.json").write_text(written)

    world.restart().turn()

    assert world.state(job_id) == "running"
    assert [attempt["state"] for attempt in world.job(job_id).attempts] == ["stopped", "running"]


def test_a_crash_between_interrupted_and_queued_puts_the_job_back(world: World) -> None:
    job_id, worker = world.start()
    worker.end()
    world.queue.transition(job_id, JobState.INTERRUPTED, attempt=1, reason="lost", attempt_state="lost")

    world.restart()
    world.supervisor.turn()

    assert (world.state(job_id), world.job(job_id).attempt) == ("running", 2)


def test_folders_of_jobs_that_nobody_knows_are_swept(world: World) -> None:
    stray = folder_of_job(world.root, "job_" + "0" * 32)
    stray.mkdir(parents=True)

    world.restart()

    assert not stray.exists()


def test_whoever_lost_the_store_stops_recording(world: World) -> None:
    job_id, worker = world.start()
    worker.tell("progress", step=1)
    with Database(f"sqlite:///{world.root}/modelyard.sqlite3") as other:
        other.own()

        with pytest.raises(StoreLocked):
            world.supervisor.turn()

    assert worker.signals == []  # it is the other's worker by now
    assert world.job(job_id).progress is None


def test_what_waited_before_the_start_is_started_at_once(world: World) -> None:
    job_id = world.add()

    world.supervisor.start()

    wait_for(lambda: world.state(job_id) == "running", timeout=2)


def test_the_thread_works_until_it_is_stopped_and_leaves_no_descriptor(world: World) -> None:
    def bells() -> int:
        links = [str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
        return sum("eventfd" in link for link in links)

    supervisor = world.supervisor
    before = bells()
    supervisor.start()
    job_id = world.add()
    supervisor.wake()
    wait_for(lambda: world.state(job_id) == "running")
    worker = world.launcher.workers[-1]
    worker.end(result=DONE)
    wait_for(lambda: world.state(job_id) == "succeeded")
    assert supervisor.alive()

    supervisor.stop(10)

    assert not supervisor.alive()
    supervisor.wake()  # late callers are no error
    assert bells() == before - 1 + 1  # its waker is closed, the bell of the fake worker is the launcher's
