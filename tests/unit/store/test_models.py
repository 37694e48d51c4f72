"""Models: published whole or not at all, numbered once, found by name, alias and number."""

from __future__ import annotations

import errno
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from service.errors import (
    DatabaseBusy,
    DigestMismatch,
    InUse,
    InvalidName,
    ModelQuarantined,
    NotFound,
    PreconditionFailed,
    PreconditionRequired,
    ServiceError,
    StoreError,
    StoreFull,
    StoreLocked,
    VersionInUse,
)
from service.jobs.queue import JobQueue
from service.schemas.document import new_id
from service.schemas.jobs import JobState
from service.schemas.versions import Manifest, Reference, parse_reference
from service.store import database as database_module
from service.store import files
from service.store.database import Database
from service.store.models import ModelStore
from service.store.records import VersionRecord
from tests.busy import held_after_the_rename

WORKER_FILES = {"architecture.json", "weights.pt", "preprocessing.json"}


def publish(models: ModelStore, stage: Any, **given: Any) -> Manifest:
    folder, draft = stage(given.pop("weights", b"weights"))
    return models.publish(folder, **{"model": "net", "draft": draft, "job_id": None, **given})


def leftovers(root: Path) -> list[str]:
    return [str(path.relative_to(root)) for name in ("staging", "trash") for path in (root / name).iterdir()]


# -- publishing -----------------------------------------------------------------------------------------------------


def test_a_published_version_is_a_read_only_folder_with_its_manifest(models: ModelStore, stage: Any, root: Path):
    folder, draft = stage()

    manifest = models.publish(folder, model="net", draft=draft, job_id="job_1", alias="champion")

    place = models.folder("net", 1)
    record = models.version("net", 1)
    assert place == root / "models" / "net" / "1"
    assert {path.name for path in place.iterdir()} == WORKER_FILES | {"manifest.json"}
    assert Manifest.model_validate_json((place / "manifest.json").read_bytes()) == manifest == record.manifest
    assert {path.stat().st_mode & 0o777 for path in place.iterdir()} == {0o444}
    assert place.stat().st_mode & 0o777 == 0o555
    assert (record.state, record.aliases, record.job_id) == ("ready", ("champion",), "job_1")
    assert not folder.exists()
    assert models.verify("net", 1) == []
    assert models.document("net", 1, "architecture.json") == {"schema": "arch/1"}
    assert models.document("net", 1, "golden.json") is None


def test_the_view_has_the_members_of_the_api(models: ModelStore, stage: Any):
    publish(models, stage)

    assert set(models.version("net", 1).view()) == {
        *("model", "version", "digest", "architecture_digest", "weights_digest", "state", "state_reason"),
        *("created_at", "metrics", "signature", "classes", "lineage", "aliases", "files", "size_bytes"),
        *("batch_independence", "engine", "notes", "tags"),
    }


def test_versions_count_up_from_one_in_each_model(models: ModelStore, stage: Any):
    numbers = [publish(models, stage, model=name).version for name in ("a", "a", "b", "a")]

    assert numbers == [1, 2, 1, 3]


def test_a_job_that_publishes_twice_gets_its_version_again(models: ModelStore, stage: Any):
    first = publish(models, stage, job_id="job_1")
    second = publish(models, stage, job_id="job_1")

    assert first == second
    assert [record.version for record in models.versions("net").items] == [1]


@pytest.mark.parametrize("damage", ["changed", "missing", "strange", "link"])
def test_staged_files_that_are_not_as_measured_are_not_published(models: ModelStore, stage: Any, damage: str):
    folder, draft = stage()
    match damage:
        case "changed":
            (folder / "weights.pt").write_bytes(b"weighty")
        case "missing":
            (folder / "weights.pt").unlink()
        case "strange":
            (folder / "other.bin").write_bytes(b"")
        case _:
            (folder / "weights.pt").rename(folder.parent / "elsewhere")
            (folder / "weights.pt").symlink_to(folder.parent / "elsewhere")

    with pytest.raises(DigestMismatch):
        models.publish(folder, model="net", draft=draft, job_id=None)

    with pytest.raises(NotFound):
        models.model("net")
    assert publish(models, stage).version == 2


@pytest.mark.parametrize("name", ["../up", "Net", "stats", "job_1", "net."])
def test_a_name_that_is_not_allowed_gets_no_folder(models: ModelStore, stage: Any, root: Path, name: str):
    with pytest.raises(InvalidName):
        publish(models, stage, model=name)

    assert list((root / "models").iterdir()) == []


def test_an_owner_that_was_replaced_cannot_publish(models: ModelStore, stage: Any, root: Path):
    with Database(f"sqlite:///{root}/modelyard.sqlite3") as second:
        second.own()
        with pytest.raises(StoreLocked):
            publish(models, stage)

        assert ModelStore(root, second).models().items == ()


def test_an_owner_that_was_replaced_in_the_middle_leaves_no_version(
    models: ModelStore, stage: Any, root: Path, monkeypatch: pytest.MonkeyPatch
):
    with Database(f"sqlite:///{root}/modelyard.sqlite3") as second:
        monkeypatch.setattr(files, "make_read_only", lambda _: second.own())
        with pytest.raises(StoreLocked):
            publish(models, stage)
        monkeypatch.undo()
        successor = ModelStore(root, second)
        # The folder is whole, so the successor may finish what the one before could not say.
        successor.recover()

        assert [record.version for record in successor.versions("net").items] == [1]
        assert successor.verify("net", 1) == []


@pytest.fixture
def impatient(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A database that waits only for a moment where another holds it."""
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_S", 0.05)
    with Database(f"sqlite:///{root}/modelyard.sqlite3") as opened:
        opened.own()
        yield opened


def test_a_version_that_a_busy_database_could_not_take_is_finished_by_the_same_call_again(
    impatient: Database, stage: Any, root: Path
):
    models = ModelStore(root, impatient)
    folder, draft = stage()
    given = {"model": "net", "draft": draft, "job_id": "job_1", "alias": "champion"}
    with held_after_the_rename(root), pytest.raises(DatabaseBusy):
        models.publish(folder, **given)
    assert models.models().items == ()

    manifest = models.publish(folder, **given)

    assert (manifest.version, models.verify("net", 1)) == (1, [])
    assert [record.version for record in models.versions("net").items] == [1]
    assert models.version("net", 1).aliases == ("champion",)
    assert models.folder("net", 1).stat().st_mode & 0o777 == 0o555


def test_a_version_that_a_busy_database_could_not_take_is_finished_by_the_next_start(
    impatient: Database, stage: Any, root: Path
):
    models = ModelStore(root, impatient)
    with held_after_the_rename(root), pytest.raises(DatabaseBusy):
        publish(models, stage, job_id="job_1")

    models.recover()

    assert [record.version for record in models.versions("net").items] == [1]
    assert models.verify("net", 1) == []


def test_a_version_that_a_busy_database_could_not_take_gives_way_to_another_of_its_job(
    impatient: Database, stage: Any, root: Path
):
    """The job has run again meanwhile: the folder in its place is not what it made."""
    models = ModelStore(root, impatient)
    with held_after_the_rename(root), pytest.raises(DatabaseBusy):
        publish(models, stage, job_id="job_1")

    manifest = publish(models, stage, job_id="job_1", weights=b"others")

    assert (manifest.version, models.verify("net", 2)) == (2, [])
    assert [path.name for path in (root / "models" / "net").iterdir()] == ["2"]
    models.recover()
    assert [record.version for record in models.versions("net").items] == [2]


def test_a_version_that_a_busy_database_could_not_take_is_not_finished_when_a_byte_was_lost(
    impatient: Database, stage: Any, root: Path
):
    models = ModelStore(root, impatient)
    folder, draft = stage()
    with held_after_the_rename(root), pytest.raises(DatabaseBusy):
        models.publish(folder, model="net", draft=draft, job_id="job_1")
    (root / "models" / "net" / "1" / "weights.pt").write_bytes(b"weighty")

    with pytest.raises(DigestMismatch):
        models.publish(folder, model="net", draft=draft, job_id="job_1")

    models.recover()
    assert models.models().items == ()
    assert list((root / "models" / "net").iterdir()) == []


def listed(models: ModelStore) -> dict[int, VersionRecord]:
    try:
        return {record.version: record for record in models.versions("net", limit=200).items}
    except NotFound:
        return {}


# -- faults ---------------------------------------------------------------------------------------------------------


class Crash(BaseException):
    """The process is gone, as far as the store can tell."""


class FailingOs:
    """`os` whose n-th call fails; after a crash, all that follow fail too."""

    COUNTED = frozenset({"open", "write", "fsync", "close", "replace", "mkdir", "chmod", "rename"})

    def __init__(self, nth: int, failure: OSError | type[Crash]) -> None:
        self._nth = nth
        self._failure = failure
        self.calls = 0

    def count(self) -> None:
        self.calls += 1
        if self.calls == self._nth or (self._failure is Crash and self.calls > self._nth):
            raise self._failure

    def renameat2(self, source: bytes, target: bytes) -> int:
        try:
            self.count()
        except OSError as error:
            return error.errno or errno.EIO
        os.rename(source, target)  # noqa: PTH104
        return 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in self.COUNTED:
            return real

        def call(*args: Any, **named: Any) -> Any:
            if name == "close":  # a descriptor that is not closed would be this test's leak
                real(*args, **named)
                return self.count()
            self.count()
            return real(*args, **named)

        return call


@pytest.mark.parametrize(
    "failure",
    [OSError(errno.EIO, "disk"), OSError(errno.ENOSPC, "full"), Crash],
    ids=["the disk fails", "the disk is full", "the process dies"],
)
def test_whatever_fails_while_publishing_the_version_is_whole_or_absent(
    models: ModelStore, database: Database, stage: Any, root: Path, monkeypatch: pytest.MonkeyPatch, failure: Any
):
    """Each call in turn fails; after the next start nothing is half there and no number was given twice."""
    taken: set[int] = set()
    nth = 0
    while True:
        nth += 1
        weights = b"weights of %d" % nth
        folder, draft = stage(weights)
        failing = FailingOs(nth, failure)
        with monkeypatch.context() as patched, capture_logs():
            patched.setattr(files, "os", failing)
            patched.setattr(files, "_renameat2", failing.renameat2)
            if failure is Crash:
                patched.setattr(ModelStore, "_abandon", lambda *_: None)
            try:
                answer = models.publish(folder, model="net", draft=draft, job_id=f"job_{nth}", alias="champion")
            except (ServiceError, OSError, Crash):
                answer = None
        models = ModelStore(root, database)
        models.recover()

        found = listed(models)
        new = set(found) - taken
        assert len(new) <= 1
        if answer is not None:
            assert new == {answer.version}
        if failure is not Crash and answer is None:
            assert new == set(), "an attempt that was answered with an error is not a version"
        for version in new:
            assert version > max(taken, default=0)
            assert (models.folder("net", version) / "weights.pt").read_bytes() == weights
            assert found[version].aliases == ("champion",)
        assert all(models.verify("net", version) == [] for version in found)
        assert {int(path.name) for path in (root / "models" / "net").glob("*")} == set(found)
        assert leftovers(root) == []
        taken |= new
        if failing.calls < nth:
            break

    assert nth > 20


def test_a_full_disk_is_told_as_such(models: ModelStore, stage: Any, monkeypatch: pytest.MonkeyPatch):
    folder, draft = stage()
    monkeypatch.setattr(files, "os", FailingOs(12, OSError(errno.ENOSPC, "full")))

    with pytest.raises(StoreFull):
        models.publish(folder, model="net", draft=draft, job_id=None)


PUBLISHER = """
import sys, pathlib, hashlib
from service.schemas.versions import Signature, VersionDraft, VersionFile
from service.store.database import Database
from service.store.files import StoreLock
from service.store.models import ModelStore
from service.telemetry import configure_logging

configure_logging(level="ERROR", style="json")  # to stderr: stdout is for what is acknowledged
root = pathlib.Path(sys.argv[1])
with StoreLock(root / "LOCK"), Database(f"sqlite:///{root}/modelyard.sqlite3") as database:
    database.own()
    models = ModelStore(root, database)
    models.recover()
    print("ready", flush=True)
    count = 0
    while True:
        count += 1
        weights = f"{sys.argv[2]}-{count}".encode() * 1000
        staged = root / "jobs" / f"{sys.argv[2]}-{count}"
        staged.mkdir(parents=True)
        (staged / "weights.pt").write_bytes(weights)
        hashed = hashlib.sha256(weights).hexdigest()
        digest = "sha256:" + hashed
        draft = VersionDraft(digest=digest, architecture_digest=digest, weights_digest=digest, metrics={},
                             signature=Signature(inputs=(), outputs=()), lineage={},
                             files=(VersionFile(name="weights.pt", size_bytes=len(weights), sha256=hashed),))
        manifest = models.publish(staged, model="net", draft=draft, job_id=staged.name, alias="champion")
        print(manifest.version, digest, flush=True)
"""


def test_a_killed_publisher_loses_nothing_it_acknowledged(root: Path):
    """Kill -9 at random moments, several times over: every acknowledged version is there with its digest."""
    acknowledged: dict[int, str] = {}
    for kill in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", PUBLISHER, str(root), str(kill)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        with child, child.stdout:
            assert child.stdout.readline() == "ready\n"
            time.sleep(random.uniform(0.01, 0.15))
            child.kill()
            for line in child.stdout:
                if line.endswith("\n"):
                    number, digest = line.split()
                    assert int(number) not in acknowledged
                    acknowledged[int(number)] = digest

    with Database(f"sqlite:///{root}/modelyard.sqlite3") as database:
        database.own()
        models = ModelStore(root, database)
        models.recover()
        found: dict[int, str] = {}
        after = None
        while True:
            page = models.versions("net", limit=200, after=after)
            found |= {record.version: record.manifest.digest for record in page.items}
            after = page.next
            if after is None:
                break

        assert acknowledged
        assert acknowledged.items() <= found.items()
        assert all(models.verify("net", number) == [] for number in found)
        assert {int(path.name) for path in (root / "models" / "net").iterdir()} == set(found)
        assert models.aliases.get("net", "champion").version == max(found)


# -- start-up -------------------------------------------------------------------------------------------------------


def test_a_start_sweeps_what_nobody_knows(models: ModelStore, stage: Any, root: Path):
    publish(models, stage)
    (root / "staging" / "half").mkdir()
    (root / "trash" / "old").mkdir()
    (root / "models" / "net" / "9").mkdir()
    (root / "models" / "net" / "9" / "weights.pt").write_bytes(b"")
    (root / ".partial-generation").touch()

    models.recover()

    assert leftovers(root) == []
    assert [path.name for path in (root / "models" / "net").iterdir()] == ["1"]
    assert not (root / ".partial-generation").exists()


def test_a_database_from_before_a_model_was_made_anew_takes_its_versions_up(models: ModelStore, stage: Any, root: Path):
    """There the model is deleted; the folder has a version of a later model of the name."""
    publish(models, stage)
    models.delete_model("net", force=True)
    with sqlite3.connect(root / "modelyard.sqlite3") as present, sqlite3.connect(root / "old.sqlite3") as old:
        present.backup(old)
    kept = publish(models, stage)
    with Database(f"sqlite:///{root}/old.sqlite3") as database:
        database.own()
        renewed = ModelStore(root, database)

        assert renewed.rebuild() == [kept]
        assert renewed.version("net", 2).state == "ready"


def test_a_lost_database_does_not_cost_the_versions(models: ModelStore, stage: Any, root: Path):
    """A new database finds whole folders it has never heard of: kept at the start, taken up by rebuild."""
    kept = [publish(models, stage), publish(models, stage)]
    (models.folder("net", 2) / "weights.pt").chmod(0o644)
    (models.folder("net", 2) / "weights.pt").write_bytes(b"flipped")
    with Database(f"sqlite:///{root}/new.sqlite3") as database:
        database.own()
        renewed = ModelStore(root, database)
        renewed.recover()

        assert renewed.rebuild() == kept
        assert renewed.rebuild() == []
        assert [(record.version, record.state) for record in renewed.versions("net").items] == [
            (2, "quarantined"),
            (1, "ready"),
        ]
        assert publish(renewed, stage).version == 3


def test_numbers_go_on_behind_folders_that_a_restored_database_has_forgotten(
    models: ModelStore, stage: Any, root: Path
):
    publish(models, stage)
    with Database(f"sqlite:///{root}/restored.sqlite3") as database:
        database.own()

        assert publish(ModelStore(root, database), stage).version == 2


# -- reading --------------------------------------------------------------------------------------------------------


def test_a_reference_means_the_champion_else_the_newest(models: ModelStore, stage: Any):
    publish(models, stage)
    publish(models, stage)
    newest = models.resolve(Reference("net"))
    models.aliases.set("net", "champion", 1, create=True)

    assert (newest.version, newest.alias) == (2, None)
    found = {text: models.resolve(parse_reference(text)) for text in ("net", "net@champion", "net/2")}
    assert {text: (one.version, one.alias) for text, one in found.items()} == {
        "net": (1, "champion"),
        "net@champion": (1, "champion"),
        "net/2": (2, None),
    }
    assert found["net"].digest == models.version("net", 1).manifest.digest


@pytest.mark.parametrize("text", ["nets", "net@champ", "net/7"])
def test_a_reference_to_nothing_is_not_found(models: ModelStore, stage: Any, text: str):
    publish(models, stage, alias="champion")

    with pytest.raises(NotFound) as refused:
        models.resolve(parse_reference(text))

    if text == "nets":
        assert refused.value.errors[0].hint == "Did you mean 'net'?"
    if text == "net@champ":
        assert refused.value.errors[0].hint == "Did you mean 'champion'?"


def test_models_and_versions_come_in_pages(models: ModelStore, stage: Any):
    for name in ("c", "a", "b"):
        publish(models, stage, model=name)
    publish(models, stage, model="a")

    first = models.models(limit=2)
    second = models.models(limit=2, after=first.next)
    newest = models.versions("a", limit=1)
    older = models.versions("a", limit=1, after=newest.next)

    assert [record.name for record in first.items + second.items] == ["a", "b", "c"]
    assert second.next is None
    assert [record.version for record in newest.items + older.items] == [2, 1]
    assert older.next is None
    assert (first.items[0].versions, first.items[0].latest) == (2, 2)


def test_a_flipped_byte_is_found_and_the_version_can_be_quarantined(models: ModelStore, stage: Any):
    publish(models, stage, alias="champion")
    folder = models.folder("net", 1)
    for name in ("weights.pt", "manifest.json"):
        (folder / name).chmod(0o644)
    (folder / "weights.pt").write_bytes(b"weighty")
    (folder / "manifest.json").write_bytes((folder / "manifest.json").read_bytes().replace(b"0.25", b"0.35"))

    assert models.verify("net", 1) == ["weights.pt", "manifest.json"]
    before = models.generation()
    models.quarantine("net", 1, "weights.pt differs")
    assert models.generation() != before
    assert models.version("net", 1).state == "quarantined"
    for text in ("net", "net/1", "net@champion"):
        with pytest.raises(ModelQuarantined, match=r"weights\.pt differs"):
            models.resolve(parse_reference(text))
    with pytest.raises(ModelQuarantined):
        models.aliases.set("net", "other", 1, create=True)


def test_every_change_of_meaning_moves_the_generation(models: ModelStore, stage: Any):
    seen = [models.generation()]
    for change in (
        lambda: publish(models, stage),
        lambda: publish(models, stage, alias="live"),
        lambda: models.aliases.set("net", "live", 1, if_match="*"),
        lambda: models.aliases.set("net", "live", 2, if_match="*"),
        lambda: models.aliases.rollback("net", "live"),
        lambda: models.aliases.delete("net", "live", if_match="*"),
        lambda: models.quarantine("net", 2, "because"),
        lambda: models.delete_version("net", 1),
        lambda: models.delete_model("net"),
    ):
        change()
        seen.append(models.generation())

    assert len(set(seen)) == len(seen)


# -- changing -------------------------------------------------------------------------------------------------------


def test_notes_and_tags_change_for_who_has_seen_them(models: ModelStore, stage: Any):
    publish(models, stage)
    before = models.version("net", 1)
    with pytest.raises(PreconditionRequired):
        models.update_version("net", 1, notes="x")

    after = models.update_version("net", 1, notes="good", tags={"team": "a"}, if_match=before.etag)
    kept = models.update_version("net", 1, tags={}, if_match=after.etag)

    assert (kept.notes, kept.tags) == ("good", {})
    assert after.manifest == before.manifest
    with pytest.raises(PreconditionFailed):
        models.update_version("net", 1, notes="x", if_match=before.etag)


def test_a_versions_tag_changes_with_its_aliases(models: ModelStore, stage: Any):
    publish(models, stage)
    before = models.version("net", 1).etag
    models.aliases.set("net", "live", 1, create=True)

    assert models.version("net", 1).etag != before


def test_a_model_has_notes_of_its_own(models: ModelStore, stage: Any):
    publish(models, stage, alias="champion")
    changed = models.update_model("net", notes="nice", if_match=models.model("net").etag)

    assert models.model("net") == changed
    assert changed.view() == {
        "model": "net",
        "versions": 1,
        "latest": 1,
        "aliases": {"champion": 1},
        "notes": "nice",
        "tags": {},
        "created_at": changed.created_at,
        "updated_at": changed.updated_at,
    }


def test_a_version_in_use_is_deleted_only_by_force(models: ModelStore, stage: Any, root: Path):
    publish(models, stage, alias="live")
    with pytest.raises(VersionInUse, match="live"):
        models.delete_version("net", 1)
    models.delete_version("net", 1, force=True, by="ann")

    with pytest.raises(NotFound, match="was deleted"):
        models.version("net", 1)
    with pytest.raises(NotFound):
        models.folder("net", 1)
    with pytest.raises(NotFound):
        models.aliases.get("net", "live")
    assert models.aliases.history("net", "live").items[0].version is None
    assert list((root / "models" / "net").iterdir()) == []
    assert leftovers(root) == []
    assert publish(models, stage).version == 2


@pytest.mark.parametrize(
    "spec",
    [{"resolved_model": {"model": "net", "version": 1}}, {"inherited": {"from": {"model": "net", "version": 1}}}],
    ids=["a version that is measured or edited", "a version that a training begins with"],
)
def test_a_version_that_a_job_needs_is_not_deleted_not_even_by_force(
    models: ModelStore, database: Database, stage: Any, spec: Any
):
    publish(models, stage)
    publish(models, stage)
    publish(models, stage, model="other")
    queue = JobQueue(database)
    job, _ = queue.enqueue(id=new_id("job"), kind="train", spec={}, resolved_spec=spec, max_queued=10)
    assert job is not None
    for delete in (partial(models.delete_version, "net", 1), partial(models.delete_model, "net")):
        with pytest.raises(InUse, match=job.id):
            delete(force=True)
    models.delete_version("net", 2)
    models.delete_model("other")
    queue.transition(job.id, JobState.CANCELLED, attempt=0)

    models.delete_version("net", 1)


def test_a_job_that_begins_with_another_jobs_checkpoint_needs_no_version(
    models: ModelStore, database: Database, stage: Any
):
    publish(models, stage)
    spec = {"inherited": {"from": {"job": "net", "sha256": "0"}}}
    JobQueue(database).enqueue(id=new_id("job"), kind="train", spec={}, resolved_spec=spec, max_queued=10)

    models.delete_model("net")


def test_who_has_the_weights_open_reads_on_after_the_deletion(models: ModelStore, stage: Any):
    publish(models, stage)
    with files.open_for_reading(models.folder("net", 1) / "weights.pt") as opened:
        models.delete_version("net", 1)

        assert opened.read() == b"weights"


def test_a_deleted_models_numbers_are_not_given_again(models: ModelStore, stage: Any):
    publish(models, stage, alias="live")
    publish(models, stage)
    with pytest.raises(VersionInUse):
        models.delete_model("net")
    models.delete_model("net", force=True)

    assert models.models().items == ()
    for refused in (
        lambda: models.model("net"),
        lambda: models.resolve(Reference("net")),
        lambda: models.versions("net"),
    ):
        with pytest.raises(NotFound):
            refused()
    assert publish(models, stage).version == 3
    assert [record.version for record in models.versions("net").items] == [3]


def test_a_crash_between_deleting_and_removing_is_made_good(
    models: ModelStore, stage: Any, root: Path, monkeypatch: pytest.MonkeyPatch
):
    publish(models, stage)
    with monkeypatch.context() as patched:
        patched.setattr(ModelStore, "_clear", lambda *_: None)
        models.delete_version("net", 1)

    models.recover()

    assert list((root / "models" / "net").iterdir()) == []


def test_a_deletion_whose_files_stay_is_still_a_deletion(
    models: ModelStore, stage: Any, monkeypatch: pytest.MonkeyPatch
):
    publish(models, stage)

    def fail(*_: object) -> None:
        raise StoreError

    with monkeypatch.context() as patched:
        patched.setattr(files, "discard", fail)
        models.delete_version("net", 1)

    with pytest.raises(NotFound):
        models.version("net", 1)
