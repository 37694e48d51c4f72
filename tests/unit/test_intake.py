"""Files read in a process of their own: whatever becomes of it, the dataset's record ends, and says how."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from structlog.testing import capture_logs

from service.controlplane import intake as module
from service.controlplane.intake import Intake
from service.engine import data
from service.errors import Conflict, DatabaseBusy, DatasetRefused, NotFinite, StoreError, StoreFull
from service.jobs.launchers import WorkerHandle
from service.schemas.datasets import DatasetRequest, Source
from service.store import database as database_module
from service.store.database import Database
from service.store.datasets import DatasetStore
from service.store.uploads import UploadStore
from tests.fakes import FakeLauncher, FakeWorker
from tests.live import wait_for


class World:
    """A store whose readers are played by `read`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.database = Database(f"sqlite:///{root}/modelyard.sqlite3")
        self.database.own()
        self.datasets = DatasetStore(root, self.database, reserve_bytes=0)
        self.uploads = UploadStore(root, self.database, reserve_bytes=0)
        self.launcher = Reader()
        self.intake = Intake(self.datasets, self.uploads, self.launcher, memory_bytes=2**30)
        with self.uploads.receive() as writer:
            writer.write(b"x,y\n1,2\n2,4\n")
            self.upload = writer.finish().id

    @property
    def source(self) -> dict[str, Any]:
        return {"type": "csv", "upload": self.upload, "inputs": ["x"], "target": "y"}

    def add(self, source: Any = None) -> tuple[str, Any]:
        """A dataset that is begun: its id, and the future of its reading."""
        request = TypeAdapter(DatasetRequest).validate_python({"source": source or self.source})
        record, reading, _ = self.intake.add(request)
        return record.id, reading

    def of_job(self) -> Any:
        return self.intake.of_job(TypeAdapter(Source).validate_python(self.source), at="/dataset")

    def state(self, dataset_id: str) -> str:
        return self.datasets.get(dataset_id).state

    def close(self) -> None:
        self.launcher.end_all()
        self.intake.close()
        self.database.close()


class Reader(FakeLauncher):
    """Starts readers that do at once what `read` says, and end."""

    def __init__(self) -> None:
        super().__init__()
        self.read: Callable[[FakeWorker], None] = read

    def launch(self, folder: Path, *, threads: int, memory_bytes: int) -> WorkerHandle:
        """A reader that has ended, unless `read` leaves it."""
        handle = super().launch(folder, threads=threads, memory_bytes=memory_bytes)
        self.read(self.workers[-1])
        return handle


def read(worker: FakeWorker) -> None:
    """What a reader does."""
    staged = worker.folder / "staged"
    staged.mkdir()
    uploads = {member: Path(path) for member, path in worker.task["uploads"].items()}
    source: Any = TypeAdapter(Source).validate_python(worker.task["source"])
    manifest = data.materialize(source, staged, uploads=uploads, at=worker.task["at"])
    worker.end(result={"manifest": manifest.model_dump(mode="json")})


def hang(worker: FakeWorker) -> None:
    """Read for ever."""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_S", 0.05)
    monkeypatch.setattr(module, "_AGAIN_S", 0.01)
    made = World(tmp_path)
    yield made
    made.close()


@pytest.fixture
def other(world: World) -> Iterator[sqlite3.Connection]:
    """Somebody else who has the database open."""
    opened = sqlite3.connect(world.root / "modelyard.sqlite3", isolation_level=None, check_same_thread=False)
    yield opened
    opened.close()


def test_an_upload_that_is_deleted_while_it_is_read_is_a_dataset_all_the_same(world: World) -> None:
    def delete_and_read(worker: FakeWorker) -> None:
        read(worker)
        world.uploads.delete(world.upload)

    plain = world.datasets.get(world.of_job().id)
    world.datasets.delete(plain.id)
    world.launcher.read = delete_and_read
    dataset_id, reading = world.add()
    reading.result(30)

    found = world.datasets.get(dataset_id)
    assert (found.state, found.manifest) == ("ready", plain.manifest)
    assert found.manifest is not None
    assert found.manifest.rows_digest


def test_what_a_reader_has_read_is_a_dataset(world: World) -> None:
    dataset, reading = world.add()
    reading.result(10)

    assert world.state(dataset) == "ready"
    assert list((world.root / "staging").iterdir()) == []


def test_a_reader_that_gets_no_folder_fails_its_dataset(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise StoreFull

    monkeypatch.setattr(world.datasets, "stage", full)
    dataset, reading = world.add()

    with pytest.raises(StoreFull):
        reading.result(10)
    assert world.datasets.get(dataset).error == {"code": "store-full", "detail": "The store's disk is full."}


@pytest.mark.parametrize(
    ("failure", "detail"),
    [
        (OSError("no process"), "The reader could not be started."),
        (ValueError("nonsense"), "The server met a fault while it read this; its log has the details."),
    ],
    ids=["no process", "a fault"],
)
def test_a_reader_that_cannot_be_started_fails_its_dataset(world: World, failure: Exception, detail: str) -> None:
    world.launcher.refusal = failure
    with capture_logs():
        dataset, reading = world.add()
        with pytest.raises(StoreError, match=detail):
            reading.result(10)

    assert world.datasets.get(dataset).error == {"code": "internal", "detail": detail}


def test_a_dataset_that_meets_a_busy_database_is_ready_later(world: World, other: sqlite3.Connection) -> None:
    def read_and_hold(worker: FakeWorker) -> None:
        read(worker)
        other.execute("BEGIN IMMEDIATE")

    world.launcher.read = read_and_hold
    dataset, reading = world.add()
    wait_for(lambda: (world.root / "datasets" / dataset).exists())
    assert world.state(dataset) == "processing"
    other.execute("ROLLBACK")
    reading.result(10)

    assert world.state(dataset) == "ready"
    assert sorted(path.name for path in world.datasets.folder(dataset).iterdir())[-1] == "targets.npy"


def test_a_refusal_that_meets_a_busy_database_is_noted_later(world: World, other: sqlite3.Connection) -> None:
    told = {"code": "data_error", "detail": "Line 3 has two columns."}

    def refuse_and_hold(worker: FakeWorker) -> None:
        worker.end(error=told)
        other.execute("BEGIN IMMEDIATE")

    world.launcher.read = refuse_and_hold
    dataset, reading = world.add()
    wait_for(lambda: other.in_transaction)
    assert world.state(dataset) == "processing"
    other.execute("ROLLBACK")

    with pytest.raises(DatasetRefused, match="Line 3"):
        reading.result(10)
    assert world.datasets.get(dataset).error == told


def test_inline_rows_that_meet_a_busy_database_leave_nothing(
    world: World, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    materialize = data.materialize

    def materialize_and_hold(*given: Any, **named: Any) -> Any:
        made = materialize(*given, **named)
        other.execute("BEGIN IMMEDIATE")
        return made

    monkeypatch.setattr(data, "materialize", materialize_and_hold)
    with pytest.raises(DatabaseBusy):
        world.add({"type": "inline", "inputs": [[1], [2]]})
    [folder] = (world.root / "datasets").iterdir()
    other.execute("ROLLBACK")
    wait_for(lambda: not folder.exists())

    assert world.datasets.list().items == ()


def test_a_file_of_a_job_that_takes_too_long_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_READ_TIMEOUT_S", 0.1)
    world.launcher.read = hang

    with pytest.raises(DatasetRefused, match="too much memory or time"):
        world.of_job()


def test_a_file_of_a_job_that_waits_too_long_for_its_reader_is_still_being_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_READ_TIMEOUT_S", 0.3)
    monkeypatch.setattr(module, "_LONGER_S", 0.0)
    world.launcher.read = hang
    for _ in range(2):
        world.add()

    with pytest.raises(Conflict, match="still being read") as refused:
        world.of_job()

    assert [entry.pointer for entry in refused.value.errors] == ["/dataset"]


@pytest.mark.parametrize("number", [10**30, 2**64, -(2**63) - 1, 10**400], ids=["30", "20", "negative", "400"])
def test_a_whole_number_of_more_than_64_bits_is_refused_with_its_place(world: World, number: int) -> None:
    with pytest.raises(NotFinite) as refused:
        world.add({"type": "inline", "inputs": [[1, 2], [3, number]], "targets": [number, 1]})

    assert [entry.pointer for entry in refused.value.errors] == ["/source/inputs/1/1", "/source/targets/0"]
    assert world.datasets.list().items == ()
