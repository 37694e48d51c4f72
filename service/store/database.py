"""The database of a store: its tables, its transactions, its owner and its pages.

Synchronous SQLAlchemy Core on SQLite by default; statements keep to what PostgreSQL has too. Usable from many threads:
readers have a pool, writers take turns. Knows no model, no job and no file but the database's own.
"""

from __future__ import annotations

import base64
import binascii
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import orjson
import sqlalchemy as sa
from sqlalchemy import Column, ForeignKey, ForeignKeyConstraint, Index, Integer, String, Table, Text
from sqlalchemy.engine import Connection, Dialect, Engine

from service.errors import (
    DatabaseBusy,
    Entry,
    PreconditionFailed,
    PreconditionRequired,
    StoreError,
    StoreFull,
    StoreLocked,
    StoreReadOnly,
    StoreTooNew,
    ValidationFailed,
    shorten,
)

SCHEMA_VERSION: Final = 3
BUSY_TIMEOUT_S: Final = 5.0

T = TypeVar("T")


class JsonText(sa.types.TypeDecorator[Any]):
    """A JSON value kept as text; numbers that are not finite become null."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """The text that is stored.

        Raises:
            ValueError: it could not be read back.
        """
        if value is None:
            return None
        try:
            return orjson.dumps(value).decode()
        except TypeError:
            # A request may hold integers beyond 64 bits, which orjson refuses and JSON does not.
            text = json.dumps(value, allow_nan=False)
            orjson.loads(text)
            return text

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """The value that was stored."""
        return None if value is None else orjson.loads(value)


TABLES: Final = sa.MetaData()

meta = Table(
    "meta",
    TABLES,
    Column("id", Integer, primary_key=True),
    Column("schema_version", Integer, nullable=False),
    # Counts the owners: each server that takes the store adds one, and writes only while the number is still its own.
    Column("epoch", Integer, nullable=False),
)

models = Table(
    "models",
    TABLES,
    Column("name", String(63), primary_key=True),
    # "new" until its first version is ready, then "live", at last "deleted"; the row stays, so numbers are not reused.
    Column("state", String(16), nullable=False),
    Column("last_version", Integer, nullable=False),
    Column("notes", Text, nullable=False, default=""),
    Column("tags", JsonText, nullable=False),
    Column("revision", Integer, nullable=False, default=1),
    Column("created_at", String(32), nullable=False),
    Column("updated_at", String(32), nullable=False),
)

versions = Table(
    "versions",
    TABLES,
    Column("model", ForeignKey("models.name"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    # publishing → ready → quarantined, deleted; publishing → abandoned
    Column("state", String(16), nullable=False),
    Column("job_id", String(64)),
    Column("alias", String(63)),  # the alias that the publisher asked for, so that a restart can finish its work
    Column("digest", String(80)),
    Column("architecture_digest", String(80), nullable=False),
    Column("manifest", JsonText),
    Column("notes", Text, nullable=False, default=""),
    Column("tags", JsonText, nullable=False),
    Column("reason", Text),
    Column("revision", Integer, nullable=False, default=1),
    Column("created_at", String(32), nullable=False),
    Column("updated_at", String(32), nullable=False),
    Index("versions_by_job", "job_id"),
    Index("versions_by_architecture", "architecture_digest"),
    Index("versions_by_state", "state"),
)

alias_history = Table(
    "alias_history",
    TABLES,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("model", ForeignKey("models.name"), nullable=False),
    Column("alias", String(63), nullable=False),
    Column("action", String(16), nullable=False),  # set, rollback or delete
    Column("version", Integer),
    Column("previous", Integer),
    Column("at", String(32), nullable=False),
    Column("by", Text),
    Column("reason", Text),
    Column("routing", JsonText),
    Index("alias_history_by_alias", "model", "alias", "id"),
    sqlite_autoincrement=True,
)

aliases = Table(
    "aliases",
    TABLES,
    Column("model", String(63), primary_key=True),
    Column("alias", String(63), primary_key=True),
    Column("version", Integer, nullable=False),
    # The history row that made the alias what it is; never reused, so it serves as entity tag.
    Column("change", ForeignKey("alias_history.id"), nullable=False),
    Column("updated_at", String(32), nullable=False),
    Column("routing", JsonText),  # canary, shadows and guard; null where the alias only points
    ForeignKeyConstraint(["model", "version"], ["versions.model", "versions.number"]),
    Index("aliases_by_version", "model", "version"),
)

# Versions that no server lets go of to make room for others.
pins = Table(
    "pins",
    TABLES,
    Column("model", String(63), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    ForeignKeyConstraint(["model", "version"], ["versions.model", "versions.number"]),
)

datasets = Table(
    "datasets",
    TABLES,
    Column("id", String(64), primary_key=True),
    Column("name", Text),
    Column("state", String(16), nullable=False),  # processing → ready, failed
    Column("source", JsonText, nullable=False),
    Column("source_digest", String(80), nullable=False),
    Column("manifest", JsonText),
    Column("error", JsonText),
    Column("created_at", String(32), nullable=False),
    Column("updated_at", String(32), nullable=False),
    Index("datasets_by_source", "source_digest", "state"),
)

uploads = Table(
    "uploads",
    TABLES,
    Column("id", String(64), primary_key=True),
    Column("size_bytes", Integer().with_variant(sa.BigInteger(), "postgresql"), nullable=False),
    Column("digest", String(80), nullable=False),
    Column("created_at", String(32), nullable=False),
)

architectures = Table(
    "architectures",
    TABLES,
    Column("digest", String(80), primary_key=True),
    Column("authored", JsonText, nullable=False),
    Column("canonical", JsonText, nullable=False),
    Column("summary", JsonText, nullable=False),
    Column("created_at", String(32), nullable=False),
)

jobs = Table(
    "jobs",
    TABLES,
    # The order of arrival. Ids sort by time only to the millisecond, and by a clock that may jump.
    Column("position", Integer, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("state_reason", Text),
    Column("attempt", Integer, nullable=False, default=0),
    Column("priority", Integer, nullable=False, default=0),
    Column("labels", JsonText, nullable=False),
    Column("spec", JsonText, nullable=False),
    Column("resolved_spec", JsonText, nullable=False),
    Column("model", String(63)),
    Column("architecture_digest", String(80)),
    Column("dataset_id", String(64)),
    Column("dataset", JsonText),
    Column("seed", Integer().with_variant(sa.BigInteger(), "postgresql")),
    Column("environment", JsonText),
    Column("progress", JsonText),
    Column("metrics_last", JsonText, nullable=False),
    Column("metrics_best", JsonText, nullable=False),
    Column("warnings", JsonText, nullable=False),
    Column("error", JsonText),
    Column("report", JsonText),
    Column("output", JsonText),
    Column("revision", Integer, nullable=False, default=1),
    Column("created_at", String(32), nullable=False),
    Column("started_at", String(32)),
    Column("finished_at", String(32)),
    Index("jobs_by_state", "state", "priority", "position"),
    Index("jobs_by_dataset", "dataset_id"),
    Index("jobs_by_model", "model"),
    sqlite_autoincrement=True,
)

attempts = Table(
    "attempts",
    TABLES,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("state", String(16), nullable=False),
    Column("pid", Integer),
    Column("resumed_from_step", Integer),
    # How much of the worker's event file is in the table of events.
    Column("offset", Integer().with_variant(sa.BigInteger(), "postgresql"), nullable=False, default=0),
    Column("started_at", String(32), nullable=False),
    Column("ended_at", String(32)),
)

events = Table(
    "events",
    TABLES,
    Column("id", Integer().with_variant(sa.BigInteger(), "postgresql"), primary_key=True, autoincrement=True),
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("type", String(16), nullable=False),
    Column("at", String(32), nullable=False),
    Column("data", JsonText, nullable=False),
    Index("events_by_job", "job_id", "id"),
    sqlite_autoincrement=True,
)

idempotency = Table(
    "idempotency",
    TABLES,
    Column("key", String(255), primary_key=True),
    Column("route", String(255), primary_key=True),
    Column("caller", String(255), primary_key=True),
    Column("body_sha256", String(64), nullable=False),
    Column("status", Integer, nullable=False),
    Column("answer", JsonText, nullable=False),
    Column("created_at", String(32), nullable=False),
    Index("idempotency_by_age", "created_at"),
)


# A new store is made by TABLES at the newest schema version. A store of version n is brought forward by the entries
# after n; entry 0 would lead from version 1 to 2.
def _aliases_route(connection: Connection) -> None:
    """2: canaries, shadows and guards."""
    for table in ("aliases", "alias_history"):
        connection.execute(sa.text(f"ALTER TABLE {table} ADD COLUMN routing TEXT"))


def _versions_are_pinned(connection: Connection) -> None:
    """3: pins."""
    pins.create(connection, checkfirst=True)


_MIGRATIONS: Final[tuple[Callable[[Connection], None], ...]] = (_aliases_route, _versions_are_pinned)


class Database:
    """The tables behind a URL, with transactions that only the store's owner can write in.

    Making one opens the database, checks it, and brings its schema to this release's version; `own` comes before the
    first write.

    Args:
        url: an SQLAlchemy URL, `sqlite:////path/to/modelyard.sqlite3` for instance.
        read_only: never write, not even to bring the schema forward.
        epoch: join this owner, as the further processes of one server do; it has checked and opened the database.

    Raises:
        StoreTooNew: a newer release has brought the schema forward.
        StoreError: the database is damaged or cannot be opened.
    """

    def __init__(self, url: str, *, read_only: bool = False, epoch: int | None = None) -> None:
        self._url = sa.make_url(url)
        self._read_only = read_only
        self._epoch = epoch
        self._turn = threading.Lock()
        self._local = threading.local()
        if self._is_sqlite:
            # A reader that waits for a connection waits for another reader: commits do not hold connections.
            self._readers = _sqlite_engine(self._url, begin="BEGIN", query_only=True, size=8, overflow=64)
            self._writer = _sqlite_engine(self._url, begin="BEGIN IMMEDIATE", query_only=False, size=1, overflow=0)
        else:
            self._readers = self._writer = sa.create_engine(self._url, pool_pre_ping=True, pool_timeout=BUSY_TIMEOUT_S)
        if epoch is not None:
            return
        try:
            with _translated():
                self._open()
        except BaseException:
            self.close()
            raise

    @property
    def epoch(self) -> int | None:
        """The number of this owner; None before `own`."""
        return self._epoch

    def own(self) -> int:
        """Become the one who may write; whoever owned the store before is refused from now on."""
        if self._read_only:
            raise StoreReadOnly()
        with _translated(), self._writer.begin() as connection:
            connection.execute(sa.update(meta).values(epoch=meta.c.epoch + 1))
            epoch: int = connection.execute(sa.select(meta.c.epoch)).scalar_one()
        self._epoch = epoch
        return epoch

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may write, one at a time; committed at the end, rolled back by any exception.

        Within one, `write` and `read` of the same thread join it: several stores can act in one transaction.

        Raises:
            StoreLocked: another server owns the store by now.
            DatabaseBusy: other writers took too long.
            StoreFull, StoreReadOnly: the disk is full or cannot be written.
        """
        joined: Connection | None = getattr(self._local, "connection", None)
        if joined is not None:
            yield joined
            return
        if self._read_only:
            raise StoreReadOnly()
        if not self._turn.acquire(timeout=BUSY_TIMEOUT_S):
            raise DatabaseBusy(retry_after_s=1.0)
        try:
            hooks: list[Callable[[], None]] = []
            with _translated(), self._writer.begin() as connection:
                self._check_owner(connection)
                self._local.connection, self._local.hooks = connection, hooks
                try:
                    yield connection
                finally:
                    self._local.connection = None
            for hook in hooks:
                hook()
        finally:
            self._turn.release()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads, and sees one state throughout. Keep it short: a commit waits for readers."""
        joined: Connection | None = getattr(self._local, "connection", None)
        if joined is not None:
            yield joined
            return
        with _translated(), self._readers.connect() as connection, connection.begin():
            yield connection

    def on_commit(self, hook: Callable[[], None]) -> None:
        """Call `hook` once the write transaction of this thread is committed. It must not raise."""
        self._local.hooks.append(hook)

    def close(self) -> None:
        """Close all connections."""
        self._readers.dispose()
        self._writer.dispose()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _is_sqlite(self) -> bool:
        return self._url.get_backend_name() == "sqlite"

    def _open(self) -> None:
        engine = self._readers if self._read_only else self._writer
        with engine.begin() as connection:
            if self._is_sqlite:
                found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
                if found != "ok":
                    raise _damaged(str(found))
            if not sa.inspect(connection).has_table("meta"):
                if self._read_only:
                    raise StoreError("There is no store here to read.")
                TABLES.create_all(connection)
                connection.execute(sa.insert(meta).values(id=1, schema_version=SCHEMA_VERSION, epoch=0))
            version = connection.execute(sa.select(meta.c.schema_version)).scalar_one()
            if version > SCHEMA_VERSION:
                raise StoreTooNew(
                    f"This store has schema version {version}; this release knows versions up to {SCHEMA_VERSION}. "
                    "Run the newer release, or restore a backup from before the upgrade."
                )
            for migrate in _MIGRATIONS[version - 1 :]:
                migrate(connection)
            if version < SCHEMA_VERSION:
                connection.execute(sa.update(meta).values(schema_version=SCHEMA_VERSION))

    def _check_owner(self, connection: Connection) -> None:
        if self._epoch is None:
            raise StoreLocked("This process does not own the store: own() comes before the first write.")
        # FOR UPDATE makes writers on PostgreSQL take turns; SQLite, where BEGIN IMMEDIATE does, leaves it out.
        epoch = connection.execute(sa.select(meta.c.epoch).with_for_update()).scalar_one()
        if epoch != self._epoch:
            raise StoreLocked(f"Another server took this store over: it has epoch {epoch}, ours was {self._epoch}.")


def _sqlite_engine(url: sa.URL, *, begin: str, query_only: bool, size: int, overflow: int) -> Engine:
    engine = sa.create_engine(
        url,
        poolclass=sa.pool.QueuePool,
        pool_size=size,
        max_overflow=overflow,
        pool_timeout=BUSY_TIMEOUT_S,
        connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_S},
    )

    @sa.event.listens_for(engine, "connect")
    def _set_up(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # the driver's own idea of BEGIN comes too late and is never IMMEDIATE
        connection.execute("PRAGMA journal_mode=TRUNCATE")  # WAL has a corruption bug before SQLite 3.51.3
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA trusted_schema=OFF")
        if query_only:
            connection.execute("PRAGMA query_only=ON")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


@contextmanager
def _translated() -> Iterator[None]:
    """Failures of the database as our errors; broken constraints pass, since they are the caller's business."""
    try:
        yield
    except sa.exc.IntegrityError:
        raise
    except sa.exc.TimeoutError as error:
        raise DatabaseBusy(retry_after_s=1.0) from error
    except sa.exc.DBAPIError as error:
        name = str(getattr(error.orig, "sqlite_errorname", ""))
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise DatabaseBusy(retry_after_s=1.0) from error
        if name == "SQLITE_FULL":
            raise StoreFull() from error
        if name.startswith("SQLITE_READONLY"):
            raise StoreReadOnly() from error
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            raise _damaged(str(error.orig)) from error
        if name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN")):
            raise StoreError(f"The database cannot be used: {error.orig}.") from error
        raise


def _damaged(what: str) -> StoreError:
    return StoreError(
        f"The database is damaged: {what}. Restore a backup; or move the file away, and make models and versions again "
        "from their folders by `modelyard store rebuild`."
    )


def check_if_match(if_match: str | None, etag: str | None) -> None:
    """Hold a change to the state that its If-Match header names; `etag` is the present one, None where nothing is.

    Raises:
        PreconditionRequired: there was no header.
        PreconditionFailed: it names another state.
    """
    if if_match is None:
        raise PreconditionRequired()
    named = {part.strip() for part in if_match.split(",")}
    if etag is None or not ({"*", etag} & named):
        raise PreconditionFailed()


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some of many things, and where the next page begins; `next` is None on the last one."""

    items: tuple[T, ...]
    next: str | None


def page(found: list[T], limit: int, key: Callable[[T], tuple[str | int, ...]]) -> Page[T]:
    """The first `limit` of `found`, which was asked for one more than that, so that the last page is known as such."""
    items = tuple(found[:limit])
    return Page(items, _cursor(key(items[-1])) if len(found) > limit and items else None)


def after_cursor(text: str | None, *kinds: type) -> tuple[Any, ...] | None:
    """The key that a page's `next` stands for, one value of each of `kinds`; None for the first page.

    Raises:
        ValidationFailed: the text was not made by `page`, or for another kind of list.
    """
    if text is None:
        return None
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        key = orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True)) if len(text) <= 512 else None
    except (binascii.Error, ValueError):
        key = None
    if (
        not isinstance(key, list)
        or [type(part) for part in key] != list(kinds)
        or any(isinstance(part, int) and not 0 <= part < 2**63 for part in key)
    ):
        raise ValidationFailed(
            "This is not the beginning of a page.",
            errors=[
                Entry(
                    "/query/after",
                    "invalid",
                    "Not a cursor of this list.",
                    expected="the `next` of the page before",
                    got=shorten(text),
                )
            ],
        )
    return tuple(key)


def _cursor(key: tuple[str | int, ...]) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(key)).rstrip(b"=").decode()
