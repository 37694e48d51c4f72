"""Architecture documents by digest: as they were written, in canonical form, and summarised.

Knows JSON values, not what they mean: judging a document is `schemas`, building it is `engine`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from service.errors import InUse, NotFound
from service.schemas.document import utc_now
from service.schemas.jobs import FINAL
from service.store.database import Database, Page, after_cursor, architectures, jobs, page, versions


@dataclass(frozen=True, slots=True)
class ArchitectureRecord:
    """A kept document. `digest` is that of the canonical form, so two spellings of one net are one record."""

    digest: str
    authored: Mapping[str, Any]
    canonical: Mapping[str, Any]
    summary: Mapping[str, Any]
    created_at: str

    def view(self) -> dict[str, Any]:
        """The record as the API shows it."""
        return {
            "digest": self.digest,
            "authored": self.authored,
            "canonical": self.canonical,
            "summary": self.summary,
            "created_at": self.created_at,
        }


class ArchitectureStore:
    """The architectures in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(
        self,
        digest: str,
        *,
        authored: Mapping[str, Any],
        canonical: Mapping[str, Any],
        summary: Mapping[str, Any],
    ) -> tuple[ArchitectureRecord, bool]:
        """Keep a document; the flag says whether it is new. One that is there stays as it was first written."""
        with self._database.read() as connection:  # mostly it is there, and then nobody has to wait
            row = _row(connection, digest)
        if row is not None:
            return _record(row), False
        with self._database.write() as connection:
            row = _row(connection, digest)
            if row is not None:
                return _record(row), False
            record = ArchitectureRecord(digest, authored, canonical, summary, utc_now())
            connection.execute(sa.insert(architectures).values(record.view()))
        return record, True

    def get(self, digest: str) -> ArchitectureRecord:
        """A document.

        Raises:
            NotFound: there is none of this digest.
        """
        with self._database.read() as connection:
            row = _row(connection, digest)
        if row is None:
            raise _unknown(digest)
        return _record(row)

    def list(self, *, limit: int = 50, after: str | None = None) -> Page[ArchitectureRecord]:
        """The documents, newest first."""
        key = after_cursor(after, str, str)
        order = sa.tuple_(architectures.c.created_at, architectures.c.digest)
        query = (
            sa.select(architectures)
            .order_by(architectures.c.created_at.desc(), architectures.c.digest.desc())
            .limit(limit + 1)
        )
        if key is not None:
            query = query.where(order < sa.tuple_(*key))
        with self._database.read() as connection:
            found = [_record(row) for row in connection.execute(query)]
        return page(found, limit, lambda record: (record.created_at, record.digest))

    def delete(self, digest: str) -> None:
        """Forget a document.

        Raises:
            InUse: a version was made with it, or a job that has not ended uses it.
            NotFound: there is none of this digest.
        """
        with self._database.write() as connection:
            if _row(connection, digest) is None:
                raise _unknown(digest)
            version = connection.execute(
                sa.select(versions.c.model, versions.c.number)
                .where(
                    versions.c.architecture_digest == digest,
                    versions.c.state.in_(("publishing", "ready", "quarantined")),
                )
                .limit(1)
            ).first()
            if version is not None:
                raise InUse(
                    f"Version {version.number} of {version.model!r} was made with this architecture.",
                    hint="Delete that version first, or keep the document: it costs nothing.",
                )
            job = connection.execute(
                sa.select(jobs.c.id)
                .where(jobs.c.architecture_digest == digest, jobs.c.state.not_in([state.value for state in FINAL]))
                .limit(1)
            ).scalar()
            if job is not None:
                raise InUse(
                    f"The job {job} uses this architecture and has not ended.",
                    hint="Wait until that job ends, or cancel it.",
                )
            connection.execute(sa.delete(architectures).where(architectures.c.digest == digest))


def _row(connection: Connection, digest: str) -> Row[Any] | None:
    return connection.execute(sa.select(architectures).where(architectures.c.digest == digest)).first()


def _record(row: Row[Any]) -> ArchitectureRecord:
    return ArchitectureRecord(row.digest, row.authored, row.canonical, row.summary, row.created_at)


def _unknown(digest: str) -> NotFound:
    return NotFound(f"There is no architecture with the digest {digest[:80]!r}.")
