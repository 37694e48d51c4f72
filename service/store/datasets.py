"""Stored datasets: folders of arrays with a manifest, and the record of how each came to be.

A dataset is processing until its folder was renamed into place, then ready; its folder never changes. Knows the
manifest, but not the arrays.

    processing ──▶ ready ──┬──▶ deleted, and forgotten when its files are gone
        └────▶ failed ─┘
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from service.errors import Conflict, DatabaseBusy, DigestMismatch, InUse, NotFound, ServiceError
from service.schemas.datasets import DatasetManifest
from service.schemas.document import is_id, new_id, utc_now
from service.schemas.jobs import FINAL
from service.store import files
from service.store.database import Database, Page, after_cursor, datasets, jobs, page
from service.store.idempotency import IdempotencyKey, IdempotencyStore
from service.telemetry import log

_log = log(__name__)
_MANIFEST: Final = "manifest.json"
_CREATED: Final = 201
_INTERRUPTED: Final = {"code": "interrupted", "detail": "The server stopped while it read this."}


@dataclass(frozen=True, slots=True)
class DatasetRecord:
    """A dataset as it was when it was read; `manifest` is there when it is ready, `error` when it failed."""

    id: str
    name: str | None
    state: str
    source: Mapping[str, Any]
    source_digest: str
    manifest: DatasetManifest | None
    error: Mapping[str, Any] | None
    created_at: str

    @property
    def digest(self) -> str | None:
        """The digest of the data."""
        return self.manifest.digest if self.manifest else None

    def view(self) -> dict[str, Any]:
        """The dataset as the API shows it."""
        manifest = self.manifest
        return {
            "id": self.id,
            "name": self.name,
            "state": self.state,
            "digest": self.digest,
            "source": self.source,
            "rows": manifest.rows if manifest else None,
            "size_bytes": manifest.size_bytes if manifest else None,
            "created_at": self.created_at,
            "warnings": list(manifest.warnings) if manifest else [],
            **({} if self.error is None else {"error": self.error}),
            "columns": [  # last: the names of classes may be many
                column.model_dump(mode="json", exclude_none=True) for column in (manifest.columns if manifest else ())
            ],
        }


class DatasetStore:
    """The datasets below `root`.

    Args:
        root: the store's folder.
        database: where the datasets are listed.
        reserve_bytes: room that must stay free on the disk; None = the default of `files.require_space`.
        staging: a folder below `root` that belongs to this process alone, where the server has several. It is noted
            there which datasets it makes, for the process that follows it.
    """

    def __init__(
        self, root: Path, database: Database, *, reserve_bytes: int | None = None, staging: Path | None = None
    ) -> None:
        self._root = root
        self._database = database
        self._reserve_bytes = reserve_bytes
        self._answers = IdempotencyStore(database)
        self._staging = staging or root / "staging"
        self._alone = staging is None
        self._folder = root / "datasets"
        self._trash = root / "trash"

    def stage(self) -> tuple[str, Path]:
        """An empty folder to prepare a dataset in, and its name; whoever takes it removes it if it is not committed."""
        name = uuid.uuid4().hex
        path = files.child(self._staging, name)
        with files.translated():
            files.make_folder(path, parents=True)
        return name, path

    def begin(
        self,
        name: str | None,
        source: Mapping[str, Any],
        source_digest: str,
        *,
        idempotency: IdempotencyKey | None = None,
    ) -> DatasetRecord:
        """A new dataset of this source, in state processing.

        Raises:
            Conflict: the same request is being worked on.
            StoreFull: the disk has no room for new work.
        """
        files.require_space(self._root, reserve_bytes=self._reserve_bytes)
        record = DatasetRecord(new_id("ds"), name, "processing", source, source_digest, None, None, utc_now())
        if not self._alone:
            with files.translated():
                files.make_folder(self._staging, parents=True)
                self._note(record.id).touch()
        with self._database.write() as connection:
            if idempotency is not None:
                if self._answers.find(idempotency) is not None:
                    raise Conflict(
                        "The same request is being worked on.",
                        retry_after_s=1.0,
                        hint="Send it again with the same Idempotency-Key in a second: it gets the first answer.",
                    )
                self._answers.keep(idempotency, _CREATED, {"id": record.id})
            connection.execute(
                sa.insert(datasets).values(
                    id=record.id,
                    name=name,
                    state=record.state,
                    source=source,
                    source_digest=source_digest,
                    created_at=record.created_at,
                    updated_at=record.created_at,
                )
            )
        return record

    def made_by(self, idempotency: IdempotencyKey) -> DatasetRecord | None:
        """The dataset that this request made before.

        Raises:
            IdempotencyMismatch: the key came with another body before.
            NotFound: it was deleted.
        """
        answer = self._answers.find(idempotency)
        return None if answer is None else self.get(answer.body["id"])

    def commit(self, dataset_id: str, staged: Path, manifest: DatasetManifest) -> DatasetRecord:
        """Move a prepared folder into place; the dataset is ready then.

        The files must be exactly the manifest's, a manifest.json apart, which is written here.

        Raises:
            DatabaseBusy: the folder may be in its place already; the same call again does the rest.
            DigestMismatch: files are missing, strange, or of another size.
            Conflict: the dataset is not being processed any more.
            NotFound: it was deleted meanwhile.
        """
        with self._database.read() as connection:
            _require_processing(_row(connection, dataset_id))
        folder = files.child(self._folder, dataset_id)
        with files.translated():
            if not folder.exists():
                self._settle(staged, folder, manifest)
            try:
                files.fsync_folder(self._folder)
                files.make_read_only(folder)
                with self._database.write() as connection:
                    _require_processing(_row(connection, dataset_id))
                    connection.execute(
                        sa.update(datasets)
                        .where(datasets.c.id == dataset_id)
                        .values(state="ready", manifest=manifest.model_dump(mode="json"), updated_at=utc_now())
                    )
                    record = _record(_row(connection, dataset_id))
            except DatabaseBusy:
                raise
            except BaseException:
                self._discard(dataset_id)
                raise
        self._made(dataset_id)
        return record

    def _settle(self, staged: Path, folder: Path, manifest: DatasetManifest) -> None:
        """Seal the prepared files with their manifest, and move the folder into place."""
        # Sizes only: the rows may be gigabytes that this machine has just written, and losing them costs a
        # repetition, not a model. Publishing versions reads everything again.
        expected = {file.name: file.size_bytes for file in manifest.files}
        found = {entry.name: entry.lstat().st_size for entry in files.entries(staged) if entry.name != _MANIFEST}
        if found != expected:
            wrong = sorted({name for name, _ in expected.items() ^ found.items()})
            raise DigestMismatch(f"The prepared files are not those of the manifest: {', '.join(wrong)}.")
        for name in expected:
            files.fsync_file(files.child(staged, name))
        files.write_atomic(staged / _MANIFEST, manifest.model_dump_json(indent=1).encode())
        files.make_folder(self._folder, parents=True)
        files.rename_new(staged, folder)

    def fail(self, dataset_id: str, error: Mapping[str, Any]) -> DatasetRecord:
        """Note why a dataset could not be made; the request that asked for it may use its Idempotency-Key again.

        Raises:
            Conflict: the dataset is not being processed any more.
        """
        with self._database.write() as connection:
            _require_processing(_row(connection, dataset_id))
            self._answers.forget(_CREATED, {"id": dataset_id})
            connection.execute(
                sa.update(datasets)
                .where(datasets.c.id == dataset_id)
                .values(state="failed", error=error, updated_at=utc_now())
            )
            record = _record(_row(connection, dataset_id))
        self._made(dataset_id)
        return record

    def get(self, dataset_id: str) -> DatasetRecord:
        """A dataset in any state.

        Raises:
            NotFound: there is none of this id.
        """
        with self._database.read() as connection:
            return _record(_row(connection, dataset_id))

    def list(self, *, limit: int = 50, after: str | None = None) -> Page[DatasetRecord]:
        """The datasets, newest first."""
        key = after_cursor(after, str)
        query = sa.select(datasets).where(datasets.c.state != "deleted").order_by(datasets.c.id.desc()).limit(limit + 1)
        if key is not None:
            query = query.where(datasets.c.id < key[0])
        with self._database.read() as connection:
            found = [_record(row) for row in connection.execute(query)]
        return page(found, limit, lambda record: (record.id,))

    def find(self, source_digest: str) -> DatasetRecord | None:
        """The newest ready dataset of this source, to be used again."""
        query = (
            sa.select(datasets)
            .where(datasets.c.source_digest == source_digest, datasets.c.state == "ready")
            .order_by(datasets.c.id.desc())
            .limit(1)
        )
        with self._database.read() as connection:
            row = connection.execute(query).first()
        return None if row is None else _record(row)

    def folder(self, dataset_id: str) -> Path:
        """Where the files of a dataset are.

        Raises:
            NotFound: there is none of this id.
            Conflict: it is not ready.
        """
        record = self.get(dataset_id)
        if record.state != "ready":
            raise Conflict(f"The dataset is {record.state}.", hint=not_ready_hint(record.state))
        return files.child(self._folder, dataset_id)

    def delete(self, dataset_id: str) -> None:
        """Remove a dataset; versions that were trained on it keep its digest.

        Raises:
            InUse: a job that has not ended uses it.
            NotFound: there is none of this id.
        """
        with self._database.write() as connection:
            _row(connection, dataset_id)
            job = connection.execute(
                sa.select(jobs.c.id)
                .where(jobs.c.dataset_id == dataset_id, jobs.c.state.not_in([state.value for state in FINAL]))
                .limit(1)
            ).scalar()
            if job is not None:
                raise InUse(
                    f"The job {job} uses this dataset and has not ended.",
                    hint="Wait until that job ends, or cancel it.",
                )
            # The row outlives the files, so that after a crash between it is known that they may go.
            connection.execute(
                sa.update(datasets).where(datasets.c.id == dataset_id).values(**_gone()),
            )
        self._clear(dataset_id)

    def discard(self, dataset_id: str) -> None:
        """Forget a dataset that did not become ready, as if it had not been asked for."""
        with self._database.write() as connection:
            unready = datasets.c.id == dataset_id, datasets.c.state != "ready"
            found = connection.execute(sa.update(datasets).where(*unready).values(**_gone())).rowcount
            if found:
                self._answers.forget(_CREATED, {"id": dataset_id})
        if found:
            self._clear(dataset_id)
        self._made(dataset_id)

    def recover(self) -> None:
        """Fail what a crash left half processed, and sweep what no ready dataset owns. Before anything is begun."""
        with self._database.read() as connection:
            states = {row.id: row.state for row in connection.execute(sa.select(datasets.c.id, datasets.c.state))}
        for dataset_id, state in states.items():
            if state == "processing":
                self.fail(dataset_id, _INTERRUPTED)
            elif state == "deleted":
                self._clear(dataset_id)
        with files.translated():
            for entry in files.entries(self._folder):
                if states.get(entry.name) == "ready":
                    continue
                if entry.name not in states and (entry / _MANIFEST).exists():
                    # Never of our making: rows come before folders. The database is older than the folders.
                    _log.warning("A dataset is not in the database.", action="recover", dataset=entry.name)
                    continue
                files.discard(entry, self._trash, "stray")

    def take_over(self) -> None:
        """Fail what the process that had this staging folder before has left half processed; others go on meanwhile."""
        for entry in files.entries(self._staging):
            if is_id("ds", entry.name):
                with contextlib.suppress(Conflict, NotFound):  # it was made, or deleted
                    self.fail(entry.name, _INTERRUPTED)

    def _note(self, dataset_id: str) -> Path:
        return files.child(self._staging, dataset_id)

    def _made(self, dataset_id: str) -> None:
        if not self._alone:
            with contextlib.suppress(OSError):  # whoever follows will find that it was made
                self._note(dataset_id).unlink(missing_ok=True)

    def _clear(self, dataset_id: str) -> None:
        """The rest of a deletion: files first, row last."""
        if self._discard(dataset_id):
            with self._database.write() as connection:
                connection.execute(
                    sa.delete(datasets).where(datasets.c.id == dataset_id, datasets.c.state == "deleted")
                )

    def _discard(self, dataset_id: str) -> bool:
        """Take a folder away, and say whether it is gone; `recover` does what fails here."""
        try:
            with files.translated():
                files.discard(files.child(self._folder, dataset_id), self._trash, dataset_id)
        except (OSError, ServiceError):
            _log.exception("A dataset's files were left for the next start.", action="delete", dataset=dataset_id)
            return False
        return True


def _row(connection: Connection, dataset_id: str) -> Row[Any]:
    query = sa.select(datasets).where(datasets.c.id == dataset_id, datasets.c.state != "deleted")
    row = connection.execute(query).first()
    if row is None:
        raise NotFound(f"There is no dataset {dataset_id[:80]!r}.")
    return row


def _gone() -> dict[str, Any]:
    """What the row of a dataset says until its files have gone too."""
    return {"state": "deleted", "source": {}, "source_digest": "", "updated_at": utc_now()}


def not_ready_hint(state: str) -> str:
    """What to do about a dataset that is in this state and should be ready."""
    if state == "processing":
        return "Wait until its state is ready, and ask again."
    return "Its `error` says why. Mend the file, upload it again and make another dataset."


def _require_processing(row: Row[Any]) -> None:
    if row.state != "processing":
        raise Conflict(f"The dataset is {row.state} already.")


def _record(row: Row[Any]) -> DatasetRecord:
    return DatasetRecord(
        id=row.id,
        name=row.name,
        state=row.state,
        source=row.source,
        source_digest=row.source_digest,
        manifest=None if row.manifest is None else DatasetManifest.model_validate(row.manifest),
        error=row.error,
        created_at=row.created_at,
    )
