"""Datasets: processing, then ready in a place of their own, or failed with a reason."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.errors import Conflict, DigestMismatch, InUse, NotFound, StoreError, StoreFull
from service.jobs.queue import JobQueue
from service.schemas.datasets import Column, DatasetFile, DatasetManifest
from service.schemas.document import new_id
from service.schemas.jobs import JobState
from service.store import files
from service.store.database import Database
from service.store.datasets import DatasetStore
from service.store.idempotency import IdempotencyKey

SOURCE = {"type": "polynomial", "coefficients": [0, 0, 1]}
SOURCE_DIGEST = "sha256:" + "c" * 64
MANIFEST = DatasetManifest(
    digest="sha256:" + "b" * 64,
    rows=2,
    layout="array",
    row_shape=(1,),
    columns=(Column(name="x", role="input", dtype="float"),),
    target="number",
    files=(DatasetFile(name="inputs.npy", size_bytes=4, sha256="0" * 64),),
    size_bytes=4,
)


@pytest.fixture
def datasets(root: Path, database: Database) -> DatasetStore:
    return DatasetStore(root, database, reserve_bytes=0)


def prepared(datasets: DatasetStore) -> Path:
    _, folder = datasets.stage()
    (folder / "inputs.npy").write_bytes(b"1234")
    return folder


def ready(datasets: DatasetStore) -> str:
    record = datasets.begin("squares", SOURCE, SOURCE_DIGEST)
    datasets.commit(record.id, prepared(datasets), MANIFEST)
    return record.id


def test_a_dataset_is_processing_and_then_ready_with_its_folder(datasets: DatasetStore):
    begun = datasets.begin("squares", SOURCE, SOURCE_DIGEST)
    staged = prepared(datasets)
    with pytest.raises(Conflict):
        datasets.folder(begun.id)

    record = datasets.commit(begun.id, staged, MANIFEST)

    folder = datasets.folder(begun.id)
    assert (begun.state, record.state) == ("processing", "ready")
    assert record == datasets.get(begun.id) == datasets.find(SOURCE_DIGEST)
    assert sorted(path.name for path in folder.iterdir()) == ["inputs.npy", "manifest.json"]
    assert json.loads((folder / "manifest.json").read_bytes()) == json.loads(MANIFEST.model_dump_json())
    assert not staged.exists()


def test_nothing_is_begun_on_a_disk_that_is_nearly_full(root: Path, database: Database):
    datasets = DatasetStore(root, database, reserve_bytes=1 << 60)

    with pytest.raises(StoreFull):
        datasets.begin(None, SOURCE, SOURCE_DIGEST)

    assert datasets.list().items == ()


def test_the_view_has_the_members_of_the_api(datasets: DatasetStore):
    begun = datasets.begin(None, SOURCE, SOURCE_DIGEST)
    processing = begun.view()
    view = datasets.commit(begun.id, prepared(datasets), MANIFEST).view()

    assert processing == {
        "id": begun.id,
        "name": None,
        "state": "processing",
        "digest": None,
        "source": SOURCE,
        "rows": None,
        "columns": [],
        "size_bytes": None,
        "warnings": [],
        "created_at": begun.created_at,
    }
    assert view == {
        **processing,
        "state": "ready",
        "digest": MANIFEST.digest,
        "rows": 2,
        "columns": [{"name": "x", "role": "input", "dtype": "float", "shape": []}],
        "size_bytes": 4,
    }


@pytest.mark.parametrize("damage", ["missing", "strange", "shorter"])
def test_files_that_are_not_the_manifests_are_not_taken(datasets: DatasetStore, damage: str):
    record = datasets.begin(None, SOURCE, SOURCE_DIGEST)
    staged = prepared(datasets)
    match damage:
        case "missing":
            (staged / "inputs.npy").unlink()
        case "strange":
            (staged / "other.npy").touch()
        case _:
            (staged / "inputs.npy").write_bytes(b"123")

    with pytest.raises(DigestMismatch):
        datasets.commit(record.id, staged, MANIFEST)

    assert datasets.get(record.id).state == "processing"


def test_a_failed_dataset_says_why_and_is_not_found_by_its_source(datasets: DatasetStore):
    record = datasets.begin(None, SOURCE, SOURCE_DIGEST)
    error = {"code": "dataset-refused", "detail": "Line 3 has two columns."}
    failed = datasets.fail(record.id, error)

    assert (failed.state, failed.error, failed.view()["error"]) == ("failed", error, error)
    assert datasets.find(SOURCE_DIGEST) is None
    with pytest.raises(Conflict):
        datasets.commit(record.id, prepared(datasets), MANIFEST)


@pytest.mark.parametrize("end", ["failed", "given up"])
def test_a_dataset_that_did_not_become_ready_does_not_take_its_idempotency_key(datasets: DatasetStore, end: str):
    key = IdempotencyKey("key", "POST /v1/datasets", "ann", "0" * 64)
    record = datasets.begin(None, SOURCE, SOURCE_DIGEST, idempotency=key)
    assert datasets.made_by(key) == record
    if end == "failed":
        datasets.fail(record.id, {"code": "data_error", "detail": "Line 3 has two columns."})
    else:
        datasets.discard(record.id)

    assert datasets.made_by(replace(key, body_sha256="1" * 64)) is None


def test_a_dataset_that_was_given_up_is_forgotten(datasets: DatasetStore):
    record = datasets.begin(None, SOURCE, SOURCE_DIGEST)
    datasets.discard(record.id)
    kept = ready(datasets)
    datasets.discard(kept)

    with pytest.raises(NotFound):
        datasets.get(record.id)
    assert datasets.get(kept).state == "ready"


def test_datasets_come_in_pages_newest_first(datasets: DatasetStore):
    made = [ready(datasets) for _ in range(3)]

    first = datasets.list(limit=2)
    second = datasets.list(limit=2, after=first.next)

    assert sorted(record.id for record in first.items + second.items) == sorted(made)
    assert [len(first.items), len(second.items), second.next] == [2, 1, None]


def test_a_dataset_is_deleted_unless_a_job_needs_it(datasets: DatasetStore, database: Database, root: Path):
    dataset = ready(datasets)
    queue = JobQueue(database)
    job, _ = queue.enqueue(
        id=new_id("job"),
        kind="train",
        spec={},
        resolved_spec={},
        dataset={"id": dataset, "digest": MANIFEST.digest},
        max_queued=10,
    )
    assert job is not None
    with pytest.raises(InUse, match=job.id):
        datasets.delete(dataset)
    queue.transition(job.id, JobState.CANCELLED, attempt=0)
    datasets.delete(dataset)

    for gone in (datasets.get, datasets.folder, datasets.delete):
        with pytest.raises(NotFound):
            gone(dataset)
    assert datasets.list().items == ()
    assert list((root / "datasets").iterdir()) == []


def test_a_commit_that_fails_after_the_rename_leaves_no_folder(
    datasets: DatasetStore, root: Path, monkeypatch: pytest.MonkeyPatch
):
    record = datasets.begin(None, SOURCE, SOURCE_DIGEST)
    staged = prepared(datasets)

    def fail(_: Path) -> None:
        raise StoreError

    monkeypatch.setattr(files, "make_read_only", fail)
    with pytest.raises(StoreError):
        datasets.commit(record.id, staged, MANIFEST)

    assert list((root / "datasets").iterdir()) == []


def test_a_start_fails_what_was_processing_and_sweeps_the_rest(
    datasets: DatasetStore, root: Path, monkeypatch: pytest.MonkeyPatch
):
    kept, deleted = ready(datasets), ready(datasets)
    unknown = root / "datasets" / new_id("ds")
    unknown.mkdir()
    processing = datasets.begin(None, SOURCE, SOURCE_DIGEST)
    (root / "datasets" / processing.id).mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(DatasetStore, "_clear", lambda *_: None)
        datasets.delete(deleted)

    datasets.recover()

    record = datasets.get(processing.id)
    assert (record.state, (record.error or {})["code"]) == ("failed", "interrupted")
    assert [path.name for path in (root / "datasets").iterdir()] == [kept]
    assert {one.id for one in datasets.list().items} == {kept, processing.id}


def test_folders_of_a_lost_database_are_left_alone(datasets: DatasetStore, root: Path):
    dataset = ready(datasets)
    with Database(f"sqlite:///{root}/new.sqlite3") as database:
        database.own()
        DatasetStore(root, database).recover()

    assert (root / "datasets" / dataset / "manifest.json").exists()


@pytest.mark.parametrize("method", ["get", "folder", "delete"])
def test_what_is_not_there_is_not_found(datasets: DatasetStore, method: str):
    call: Any = getattr(datasets, method)
    with pytest.raises(NotFound):
        call("ds_" + "0" * 32)
