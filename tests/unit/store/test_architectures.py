"""Architectures: one record a digest, kept while something was made with it."""

from __future__ import annotations

from typing import Any

import pytest

from service.errors import InUse, NotFound
from service.jobs.queue import JobQueue
from service.schemas.document import new_id
from service.schemas.jobs import JobState
from service.store.architectures import ArchitectureRecord, ArchitectureStore
from service.store.database import Database
from service.store.models import ModelStore

DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64


@pytest.fixture
def architectures(database: Database) -> ArchitectureStore:
    return ArchitectureStore(database)


def put(architectures: ArchitectureStore, digest: str = DIGEST, **given: Any) -> tuple[ArchitectureRecord, bool]:
    document = {"schema": "arch/1"}
    return architectures.put(digest, **{"authored": document, "canonical": document, "summary": {}, **given})


def test_a_document_is_kept_as_it_was_first_written(architectures: ArchitectureStore):
    first, made = put(architectures, authored={"written": "so"})
    second, made_again = put(architectures, authored={"written": "otherwise"})

    assert (made, made_again) == (True, False)
    assert first == second == architectures.get(DIGEST)
    assert first.view() == {
        "digest": DIGEST,
        "authored": {"written": "so"},
        "canonical": {"schema": "arch/1"},
        "summary": {},
        "created_at": first.created_at,
    }


def test_documents_come_in_pages(architectures: ArchitectureStore):
    digests = ["sha256:" + digit * 64 for digit in "12345"]
    for digest in digests:
        put(architectures, digest)
    found: list[str] = []
    after = None
    while True:
        page = architectures.list(limit=2, after=after)
        found += [record.digest for record in page.items]
        after = page.next
        if after is None:
            break

    assert sorted(found) == digests


def test_a_document_stays_while_a_version_was_made_with_it(
    architectures: ArchitectureStore, models: ModelStore, stage: Any
):
    put(architectures)
    folder, draft = stage()
    models.publish(folder, model="net", draft=draft, job_id=None)
    with pytest.raises(InUse, match="Version 1 of 'net'"):
        architectures.delete(DIGEST)
    models.delete_version("net", 1)
    architectures.delete(DIGEST)

    with pytest.raises(NotFound):
        architectures.get(DIGEST)
    with pytest.raises(NotFound):
        architectures.delete(DIGEST)


def test_a_document_stays_while_a_job_needs_it(architectures: ArchitectureStore, database: Database):
    put(architectures)
    put(architectures, OTHER)
    queue = JobQueue(database)
    job, _ = queue.enqueue(
        id=new_id("job"), kind="train", spec={}, resolved_spec={"architecture_digest": DIGEST}, max_queued=10
    )
    assert job is not None
    architectures.delete(OTHER)
    with pytest.raises(InUse, match=job.id):
        architectures.delete(DIGEST)
    queue.transition(job.id, JobState.CANCELLED, attempt=0)

    architectures.delete(DIGEST)
