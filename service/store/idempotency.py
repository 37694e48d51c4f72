"""Answers kept under an Idempotency-Key, so that a request that is sent twice acts once.

An answer is kept in the transaction of the effect it tells of: inside `Database.write`, these methods join it. Knows no
request and no route but their names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from service.errors import IdempotencyMismatch
from service.schemas.document import utc_now
from service.store.database import Database, idempotency

KEPT_S: Final = 24 * 3600


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """What makes two requests the same: the key under which a caller sent this body to this route."""

    key: str
    route: str
    caller: str
    body_sha256: str


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """The first answer."""

    status: int
    body: dict[str, Any]


class IdempotencyStore:
    """The answers given in the last day."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, key: IdempotencyKey, *, now: datetime | None = None) -> StoredAnswer | None:
        """The answer that this request got in the last day.

        Raises:
            IdempotencyMismatch: the key came with another body then.
        """
        with self._database.read() as connection:
            row = connection.execute(
                sa.select(idempotency).where(
                    idempotency.c.key == key.key,
                    idempotency.c.route == key.route,
                    idempotency.c.caller == key.caller,
                )
            ).first()
        if row is None or row.created_at < _oldest(now):
            return None
        if row.body_sha256 != key.body_sha256:
            raise IdempotencyMismatch()
        return StoredAnswer(row.status, row.answer)

    def keep(self, key: IdempotencyKey, status: int, answer: Mapping[str, Any]) -> None:
        """Keep the answer. Look with `find` in the same transaction first."""
        with self._database.write() as connection:
            connection.execute(  # one that is older than a day
                sa.delete(idempotency).where(
                    idempotency.c.key == key.key,
                    idempotency.c.route == key.route,
                    idempotency.c.caller == key.caller,
                )
            )
            connection.execute(
                sa.insert(idempotency).values(
                    key=key.key,
                    route=key.route,
                    caller=key.caller,
                    body_sha256=key.body_sha256,
                    status=status,
                    answer=dict(answer),
                    created_at=utc_now(),
                )
            )

    def forget(self, status: int, answer: Mapping[str, Any]) -> None:
        """Forget an answer, since what it tells of did not come to be."""
        with self._database.write() as connection:
            connection.execute(
                sa.delete(idempotency).where(idempotency.c.status == status, idempotency.c.answer == dict(answer))
            )

    def sweep(self, *, now: datetime | None = None) -> int:
        """Forget answers older than a day; how many there were."""
        with self._database.write() as connection:
            return connection.execute(sa.delete(idempotency).where(idempotency.c.created_at < _oldest(now))).rowcount


def _oldest(now: datetime | None) -> str:
    oldest = (now or datetime.now(UTC)) - timedelta(seconds=KEPT_S)
    return oldest.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
