"""Uploads: streamed, measured, kept whole or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from service.errors import BodyTooLarge, DigestMismatch, NotFound, StoreError, StoreFull
from service.store import files
from service.store.database import Database
from service.store.uploads import Upload, UploadStore

SHA256 = hashlib.sha256(b"hello world")


@pytest.fixture
def uploads(root: Path, database: Database) -> UploadStore:
    return UploadStore(root, database, max_bytes=100, reserve_bytes=0)


def upload(uploads: UploadStore, *blocks: bytes, expected_sha256: bytes | None = None) -> Upload:
    with uploads.receive() as writer:
        for block in blocks:
            writer.write(block)
        return writer.finish(expected_sha256)


def everything(root: Path) -> list[Path]:
    return [path for name in ("uploads", "staging") for path in (root / name).iterdir()]


def test_an_upload_has_the_bytes_that_came_their_size_and_their_digest(uploads: UploadStore):
    kept = upload(uploads, b"hello", b"", b" world", expected_sha256=SHA256.digest())

    assert uploads.path(kept.id).read_bytes() == b"hello world"
    assert uploads.get(kept.id) == kept
    assert kept.view() == {
        "id": kept.id,
        "size_bytes": 11,
        "digest": "sha256:" + SHA256.hexdigest(),
        "created_at": kept.created_at,
    }


def test_an_upload_may_be_empty(uploads: UploadStore):
    assert upload(uploads).size_bytes == 0


def test_too_many_bytes_are_refused_and_leave_nothing(uploads: UploadStore, root: Path):
    assert upload(uploads, b"x" * 100).size_bytes == 100
    with pytest.raises(BodyTooLarge) as refused:
        upload(uploads, b"x" * 60, b"x" * 41)
    with pytest.raises(BodyTooLarge):
        uploads.receive(expected_bytes=101)

    assert refused.value.limit == {"name": "upload_bytes", "value": 100}
    assert len(everything(root)) == 1


def test_another_digest_is_refused_and_leaves_nothing(uploads: UploadStore, root: Path):
    with pytest.raises(DigestMismatch):
        upload(uploads, b"hello", expected_sha256=SHA256.digest())

    assert everything(root) == []


def test_a_sender_who_goes_away_leaves_nothing(uploads: UploadStore, root: Path):
    with pytest.raises(ConnectionError), uploads.receive() as writer:  # noqa: PT012
        writer.write(b"hello")
        raise ConnectionError

    assert everything(root) == []
    with pytest.raises(ValueError):
        writer.write(b"more")
    with pytest.raises(ValueError):
        writer.finish()


def test_the_reserve_of_the_disk_is_kept(root: Path, database: Database):
    with pytest.raises(StoreFull):
        UploadStore(root, database, reserve_bytes=1 << 60).receive()


def test_an_upload_that_cannot_be_listed_is_not_kept(
    uploads: UploadStore, database: Database, root: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail() -> None:
        raise StoreError

    with uploads.receive() as writer:
        monkeypatch.setattr(database, "write", fail)
        with pytest.raises(StoreError):
            writer.finish()

    assert everything(root) == []


def test_uploads_come_in_pages_and_can_be_deleted(uploads: UploadStore, root: Path):
    made = [upload(uploads, b"%d" % count) for count in range(3)]
    first = uploads.list(limit=2)
    second = uploads.list(limit=2, after=first.next)
    uploads.delete(made[0].id)

    assert {one.id for one in first.items + second.items} == {one.id for one in made}
    assert second.next is None
    assert len(everything(root)) == 2
    for gone in (uploads.get, uploads.path, uploads.delete):
        with pytest.raises(NotFound):
            gone(made[0].id)


def test_a_start_sweeps_what_was_not_finished(uploads: UploadStore, root: Path):
    kept, lost = upload(uploads, b"kept"), upload(uploads, b"lost")
    unfinished = uploads.receive()
    unfinished.write(b"half")
    (root / "uploads" / "stray").touch()
    files.remove_tree(uploads.path(lost.id))

    uploads.recover()
    unfinished.abort()

    assert [path.name for path in everything(root)] == [kept.id]
    assert [one.id for one in uploads.list().items] == [kept.id]
