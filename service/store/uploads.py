"""Uploaded files: bytes that came in a stream, with their size and digest. Does not know what is in them."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Row

from service.errors import BodyTooLarge, DigestMismatch, NotFound
from service.schemas.document import is_id, new_id, utc_now
from service.store import files
from service.store.database import Database, Page, after_cursor, page, uploads

_CHECK_EVERY: Final = 64 << 20
"""Bytes between two looks at the free space."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A kept upload."""

    id: str
    size_bytes: int
    digest: str
    created_at: str

    def view(self) -> dict[str, Any]:
        """The upload as the API shows it."""
        return {
            "id": self.id,
            "size_bytes": self.size_bytes,
            "digest": self.digest,
            "created_at": self.created_at,
        }


class UploadStore:
    """The uploads below `root`.

    Args:
        root: the store's folder.
        database: where the uploads are listed.
        max_bytes: no upload may be larger.
        reserve_bytes: room that must stay free on the disk; None = the default of `files.require_space`.
        staging: where uploads lie until they are whole, below `root`.
    """

    def __init__(
        self,
        root: Path,
        database: Database,
        *,
        max_bytes: int = 2 << 30,
        reserve_bytes: int | None = None,
        staging: Path | None = None,
    ) -> None:
        self._database = database
        self._staging = staging or root / "staging"
        self._folder = root / "uploads"
        self._max_bytes = max_bytes
        self._reserve_bytes = reserve_bytes

    def receive(self, *, expected_bytes: int = 0) -> UploadWriter:
        """Begin an upload; use the writer as a context manager, which removes what was not finished.

        Args:
            expected_bytes: the size that the sender announced, refused before a byte is read if it cannot be taken.

        Raises:
            BodyTooLarge, StoreFull: accordingly.
        """
        if expected_bytes > self._max_bytes:
            raise _too_large(self._max_bytes)
        with files.translated():
            files.make_folder(self._staging, parents=True)
            files.make_folder(self._folder, parents=True)
            files.require_space(self._staging, reserve_bytes=self._reserve_bytes, needed_bytes=expected_bytes)
            return UploadWriter(
                self._database,
                staging=self._staging,
                folder=self._folder,
                max_bytes=self._max_bytes,
                reserve_bytes=self._reserve_bytes,
            )

    def get(self, upload_id: str) -> Upload:
        """An upload.

        Raises:
            NotFound: there is none of this id.
        """
        with self._database.read() as connection:
            row = connection.execute(sa.select(uploads).where(uploads.c.id == upload_id)).first()
        if row is None:
            raise _unknown(upload_id)
        return _upload(row)

    def path(self, upload_id: str) -> Path:
        """Where the bytes of an upload are.

        Raises:
            NotFound: there is none of this id.
        """
        self.get(upload_id)
        return files.child(self._folder, upload_id)

    def list(self, *, limit: int = 50, after: str | None = None) -> Page[Upload]:
        """The uploads, newest first."""
        key = after_cursor(after, str)
        query = sa.select(uploads).order_by(uploads.c.id.desc()).limit(limit + 1)
        if key is not None:
            query = query.where(uploads.c.id < key[0])
        with self._database.read() as connection:
            found = [_upload(row) for row in connection.execute(query)]
        return page(found, limit, lambda upload: (upload.id,))

    def delete(self, upload_id: str) -> None:
        """Remove an upload; what was made of it stays, and who has it open reads on.

        Raises:
            NotFound: there is none of this id.
        """
        with self._database.write() as connection:
            if connection.execute(sa.delete(uploads).where(uploads.c.id == upload_id)).rowcount != 1:
                raise _unknown(upload_id)
        with files.translated():
            files.remove_tree(files.child(self._folder, upload_id))

    def recover(self) -> None:
        """Sweep what a crash left: unfinished uploads, files without a row, rows without a file."""
        with self._database.read() as connection:
            known = set(connection.execute(sa.select(uploads.c.id)).scalars())
        with files.translated():
            here = {entry.name for entry in files.entries(self._folder)}
            for name in here - known:
                files.remove_tree(self._folder / name)
            for entry in files.entries(self._staging):
                if is_id("up", entry.name):
                    files.remove_tree(entry)
        lost = known - here
        if lost:
            with self._database.write() as connection:
                connection.execute(sa.delete(uploads).where(uploads.c.id.in_(lost)))


class UploadWriter:
    """Takes the bytes of one upload. Made by `UploadStore.receive`; for one thread at a time."""

    def __init__(
        self, database: Database, *, staging: Path, folder: Path, max_bytes: int, reserve_bytes: int | None
    ) -> None:
        self.id = new_id("up")
        self._database = database
        self._path = files.child(staging, self.id)
        self._target = files.child(folder, self.id)
        self._max_bytes = max_bytes
        self._reserve_bytes = reserve_bytes
        self._hashed = hashlib.sha256()
        self._size = 0
        self._next_check = _CHECK_EVERY
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor: int | None = os.open(self._path, flags, 0o600)

    def write(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            BodyTooLarge: these are more than an upload may have.
            StoreFull: there is no room for them.
        """
        if self._descriptor is None:
            raise ValueError("the upload is closed")
        self._size += len(data)
        if self._size > self._max_bytes:
            raise _too_large(self._max_bytes)
        self._hashed.update(data)
        with files.translated():
            if self._size >= self._next_check:
                self._next_check = self._size + _CHECK_EVERY
                files.require_space(self._path.parent, reserve_bytes=self._reserve_bytes)
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]

    def finish(self, expected_sha256: bytes | None = None) -> Upload:
        """Keep the upload.

        Args:
            expected_sha256: the digest that the sender gave.

        Raises:
            DigestMismatch: the bytes have another one.
        """
        if self._descriptor is None:
            raise ValueError("the upload is closed")
        found = self._hashed.digest()
        if expected_sha256 is not None and expected_sha256 != found:
            raise DigestMismatch(f"The bytes that came have the SHA-256 {found.hex()}.")
        upload = Upload(self.id, self._size, "sha256:" + found.hex(), utc_now())
        with files.translated():
            os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None
            files.rename_new(self._path, self._target)
            files.fsync_folder(self._target.parent)
        # Last: a row has a file; a file without a row is swept at the next start.
        try:
            with self._database.write() as connection:
                connection.execute(sa.insert(uploads).values(upload.view()))
        except BaseException:
            files.remove_tree(self._target)
            raise
        return upload

    def abort(self) -> None:
        """Remove what was written; nothing after `finish`."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        files.remove_tree(self._path)

    def __enter__(self) -> UploadWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()


def _upload(row: Row[Any]) -> Upload:
    return Upload(row.id, row.size_bytes, row.digest, row.created_at)


def _unknown(upload_id: str) -> NotFound:
    return NotFound(f"There is no upload {upload_id[:80]!r}.")


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"An upload may have at most {limit} bytes.", limit={"name": "upload_bytes", "value": limit})
