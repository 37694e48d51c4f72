"""The database: one owner, writers in turn, its own errors, pages."""

from __future__ import annotations

import base64
import sqlite3
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from service.errors import (
    DatabaseBusy,
    PreconditionFailed,
    PreconditionRequired,
    StoreError,
    StoreFull,
    StoreLocked,
    StoreReadOnly,
    StoreTooNew,
    ValidationFailed,
)
from service.store import database as module
from service.store.database import (
    TABLES,
    Database,
    after_cursor,
    architectures,
    check_if_match,
    idempotency,
    meta,
    page,
    uploads,
)

ROW = {"id": "up_1", "size_bytes": 1, "digest": "d", "created_at": "now"}


def test_a_new_database_has_all_tables_and_the_newest_schema(database: Database):
    with database.read() as connection:
        names = set(sa.inspect(connection).get_table_names())
        version = connection.execute(sa.select(meta.c.schema_version)).scalar_one()

    assert set(TABLES.tables) <= names
    assert version == module.SCHEMA_VERSION


def test_what_was_written_is_there_after_opening_again(root: Path, database: Database):
    with database.write() as connection:
        connection.execute(sa.insert(uploads).values(ROW))
    database.close()

    with Database(f"sqlite:///{root}/modelyard.sqlite3") as again, again.read() as connection:
        assert connection.execute(sa.select(uploads.c.id)).scalars().all() == ["up_1"]


def test_an_exception_takes_the_whole_transaction_back(database: Database):
    with pytest.raises(RuntimeError), database.write() as connection:  # noqa: PT012
        connection.execute(sa.insert(uploads).values(ROW))
        raise RuntimeError

    with database.read() as connection:
        assert connection.execute(sa.select(uploads)).all() == []


def test_the_pragmas_are_those_that_survive_a_crash(database: Database):
    with database.write() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "trusted_schema", "busy_timeout")
        }

    assert found == {
        "journal_mode": "truncate",
        "synchronous": 2,
        "foreign_keys": 1,
        "trusted_schema": 0,
        "busy_timeout": 5000,
    }


def test_readers_cannot_write(database: Database):
    with pytest.raises(StoreReadOnly), database.read() as connection:
        connection.execute(sa.insert(uploads).values(ROW))


def test_a_write_before_own_is_refused(root: Path):
    with Database(f"sqlite:///{root}/modelyard.sqlite3") as nobodys, pytest.raises(StoreLocked), nobodys.write():
        pass


def test_the_next_owner_fences_the_one_before_off(root: Path, database: Database):
    with Database(f"sqlite:///{root}/modelyard.sqlite3") as second:
        second.own()

        with pytest.raises(StoreLocked), database.write():
            pass
        with second.write() as connection:
            connection.execute(sa.insert(uploads).values(ROW))


def test_processes_of_one_server_share_its_epoch(root: Path, database: Database):
    with Database(f"sqlite:///{root}/modelyard.sqlite3", epoch=database.epoch) as sibling:
        with sibling.write() as connection:
            connection.execute(sa.insert(uploads).values(ROW))
        with database.write() as connection:
            assert connection.execute(sa.select(uploads.c.id)).scalar_one() == "up_1"


def test_a_nested_write_joins_the_outer_one(database: Database):
    with pytest.raises(RuntimeError), database.write():  # noqa: PT012
        with database.write() as connection:
            connection.execute(sa.insert(uploads).values(ROW))
        with database.read() as connection:
            assert connection.execute(sa.select(uploads.c.id)).scalar_one() == "up_1"
        raise RuntimeError

    with database.read() as connection:
        assert connection.execute(sa.select(uploads)).all() == []


def test_hooks_run_after_the_commit_and_not_after_a_rollback(root: Path, database: Database):
    seen: list[int] = []

    def look() -> None:
        with sqlite3.connect(root / "modelyard.sqlite3") as other:
            seen.append(other.execute("select count(*) from uploads").fetchone()[0])
        other.close()

    with database.write() as connection:
        connection.execute(sa.insert(uploads).values(ROW))
        database.on_commit(look)
    with pytest.raises(RuntimeError), database.write():  # noqa: PT012
        database.on_commit(look)
        raise RuntimeError

    assert seen == [1]


def test_threads_write_in_turn_and_lose_nothing(database: Database):
    def write(worker: int) -> None:
        for count in range(10):
            with database.write() as connection:
                known = connection.execute(sa.select(sa.func.count()).select_from(uploads)).scalar_one()
                connection.execute(sa.insert(uploads).values({**ROW, "id": f"{worker}-{count}", "size_bytes": known}))
            with database.read() as connection:
                connection.execute(sa.select(uploads)).all()

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with database.read() as connection:
        sizes = connection.execute(sa.select(uploads.c.size_bytes).order_by(uploads.c.size_bytes)).scalars().all()
    assert sizes == list(range(60))


def test_a_lock_held_elsewhere_is_told_as_busy(root: Path, database: Database, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "BUSY_TIMEOUT_S", 0.05)
    with Database(f"sqlite:///{root}/modelyard.sqlite3", epoch=database.epoch) as impatient:
        other = sqlite3.connect(root / "modelyard.sqlite3", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")

        with pytest.raises(DatabaseBusy) as refused, impatient.write():
            pass
        other.close()

    assert refused.value.retry_after_s


def test_a_full_disk_is_told_as_store_full(database: Database):
    with database.write() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1")  # cannot be less than what there is

    with pytest.raises(StoreFull), database.write() as connection:
        connection.execute(sa.insert(uploads).values({**ROW, "digest": "x" * 10_000_000}))

    with database.write() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=100000")
        connection.execute(sa.insert(uploads).values(ROW))


def test_a_read_only_database_reads_and_refuses_writes(root: Path, database: Database):
    with Database(f"sqlite:///{root}/modelyard.sqlite3", read_only=True) as reader:
        with reader.read() as connection:
            connection.execute(sa.select(meta)).all()
        with pytest.raises(StoreReadOnly), reader.write():
            pass
        with pytest.raises(StoreReadOnly):
            reader.own()


def test_reading_only_where_there_is_no_store_is_an_error(root: Path):
    with pytest.raises(StoreError):
        Database(f"sqlite:///{root}/other.sqlite3", read_only=True)


def test_a_store_of_a_newer_release_is_refused(root: Path, database: Database):
    with database.write() as connection:
        connection.execute(sa.update(meta).values(schema_version=module.SCHEMA_VERSION + 1))

    with pytest.raises(StoreTooNew):
        Database(f"sqlite:///{root}/modelyard.sqlite3")


def test_an_older_schema_is_brought_forward_once(root: Path, database: Database, monkeypatch: pytest.MonkeyPatch):
    newest = module.SCHEMA_VERSION + 1
    added = lambda connection: connection.exec_driver_sql("CREATE TABLE added (x INTEGER)")  # noqa: E731
    monkeypatch.setattr(module, "SCHEMA_VERSION", newest)
    monkeypatch.setattr(module, "_MIGRATIONS", (*module._MIGRATIONS, added))
    for _ in range(2):
        with Database(f"sqlite:///{root}/modelyard.sqlite3") as newer, newer.read() as connection:
            assert connection.execute(sa.select(meta.c.schema_version)).scalar_one() == newest
            assert sa.inspect(connection).has_table("added")


def test_a_store_of_the_first_schema_gets_what_was_added_since(root: Path, database: Database):
    with database.write() as connection:
        for table in ("aliases", "alias_history"):
            connection.execute(sa.text(f"ALTER TABLE {table} DROP COLUMN routing"))
        connection.execute(sa.update(meta).values(schema_version=1))
    database.close()

    with Database(f"sqlite:///{root}/modelyard.sqlite3") as newer, newer.read() as connection:
        for wanted in module.TABLES.sorted_tables:
            found = {column["name"] for column in sa.inspect(connection).get_columns(wanted.name)}
            assert found == set(wanted.columns.keys()), wanted.name


def test_a_damaged_database_is_refused_with_the_way_out(root: Path, database: Database):
    database.close()
    path = root / "modelyard.sqlite3"
    content = bytearray(path.read_bytes())
    content[4096 : 4096 * 4] = b"\xff" * (4096 * 3)
    path.write_bytes(content)

    with pytest.raises(StoreError, match="rebuild"):
        Database(f"sqlite:///{path}")


def test_a_file_that_is_no_database_is_refused(root: Path):
    (root / "other.sqlite3").write_bytes(b"hello" * 1000)

    with pytest.raises(StoreError, match="damaged"):
        Database(f"sqlite:///{root}/other.sqlite3")


@pytest.mark.parametrize(
    ("value", "back"),
    [
        ({"a": [1, 2.5, None, "ü"]}, {"a": [1, 2.5, None, "ü"]}),
        ([], []),
        (10**30, 1e30),
        (float("nan"), None),
    ],
    ids=["nested", "empty", "an integer of more than 64 bits", "not a number"],
)
def test_json_comes_back_as_it_was_or_as_near_as_json_can(database: Database, value: object, back: object):
    with database.write() as connection:
        connection.execute(
            sa.insert(idempotency).values(
                key="k", route="r", caller="c", body_sha256="", status=200, created_at="", answer={"value": value}
            )
        )
    with database.read() as connection:
        assert connection.execute(sa.select(idempotency.c.answer)).scalar_one() == {"value": back}


def test_pages_follow_each_other_to_the_end():
    numbers = list(range(5))
    found: list[int] = []
    after = None
    while True:
        key = after_cursor(after, int)
        rest = [number for number in numbers if key is None or number > key[0]][:3]
        one = page(rest, 2, lambda number: (number,))
        found += one.items
        after = one.next
        if after is None:
            break

    assert found == numbers


@pytest.mark.parametrize(
    "text", ["", "x", "ü", "W10", "WyJhIl0", "WzFd" * 300, "WzEsMl0", "Wy0xXQ", "W3RydWVd", "W1tbW1s"]
)
def test_a_cursor_that_no_page_gave_is_refused(text: str):
    with pytest.raises(ValidationFailed):
        after_cursor(text, int)


def test_a_cursor_of_half_a_character_is_refused():
    text = base64.urlsafe_b64encode(rb'["\ud800"]').decode()

    with pytest.raises(ValidationFailed):
        after_cursor(text, str)


def test_a_document_that_could_not_be_read_back_is_refused_when_it_is_written(database: Database):
    row = {"digest": "d", "authored": {}, "canonical": {}, "created_at": "now"}
    for strange in ("\ud800", 10**400):
        with pytest.raises(sa.exc.StatementError), database.write() as connection:
            connection.execute(sa.insert(architectures).values(**row, summary={"a": strange}))
    with database.write() as connection:
        connection.execute(sa.insert(architectures).values(**row, summary={"a": 10**30}))

    with database.read() as connection:
        assert connection.execute(sa.select(architectures.c.summary)).scalars().all() == [{"a": 1e30}]


def test_if_match_holds_a_change_to_the_state_it_names():
    check_if_match('"a"', '"a"')
    check_if_match('"b", "a"', '"a"')
    check_if_match("*", '"a"')
    with pytest.raises(PreconditionRequired):
        check_if_match(None, '"a"')
    for header, etag in (('"b"', '"a"'), ("*", None), ('W/"a"', '"a"')):
        with pytest.raises(PreconditionFailed):
            check_if_match(header, etag)
