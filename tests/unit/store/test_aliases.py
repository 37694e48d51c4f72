"""Aliases: moved only by who has seen them, rolled back step by step, with a history that stays."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from service.errors import Conflict, NotFound, PreconditionFailed, PreconditionRequired
from service.schemas.versions import Manifest
from service.store.models import ModelStore


def publish(models: ModelStore, stage: Any, *, alias: str | None = None) -> Manifest:
    folder, draft = stage()
    return models.publish(folder, model="net", draft=draft, job_id=None, alias=alias)


def test_an_alias_is_moved_only_by_who_has_seen_it(models: ModelStore, stage: Any):
    publish(models, stage)
    publish(models, stage)

    with pytest.raises(PreconditionRequired):
        models.aliases.set("net", "live", 1)
    with pytest.raises(PreconditionFailed):
        models.aliases.set("net", "live", 1, if_match="*")
    made = models.aliases.set("net", "live", 1, create=True, by="ann")
    with pytest.raises(PreconditionFailed):
        models.aliases.set("net", "live", 2, create=True)
    moved = models.aliases.set("net", "live", 2, if_match=made.etag, by="bob", reason="better")
    with pytest.raises(PreconditionFailed):
        models.aliases.set("net", "live", 1, if_match=made.etag)
    with pytest.raises(NotFound):
        models.aliases.set("net", "live", 9, if_match=moved.etag)

    assert models.aliases.get("net", "live") == moved
    assert [alias.view() for alias in models.aliases.list("net")] == [
        {"model": "net", "alias": "live", "version": 2, "updated_at": moved.updated_at}
    ]
    changes = models.aliases.history("net", "live").items
    assert [(change.version, change.previous, change.by, change.reason) for change in changes] == [
        (2, 1, "bob", "better"),
        (1, None, "ann", None),
    ]


def test_an_etag_is_not_valid_again_after_the_alias_was_made_anew(models: ModelStore, stage: Any):
    publish(models, stage)
    first = models.aliases.set("net", "live", 1, create=True)
    with pytest.raises(PreconditionRequired):
        models.aliases.delete("net", "live")
    models.aliases.delete("net", "live", if_match=first.etag)
    models.aliases.set("net", "live", 1, create=True)

    with pytest.raises(PreconditionFailed):
        models.aliases.delete("net", "live", if_match=first.etag)


def test_of_many_who_move_an_alias_at_once_one_wins(models: ModelStore, stage: Any):
    versions = [publish(models, stage).version for _ in range(8)]
    seen = models.aliases.set("net", "live", 1, create=True)
    won: list[int] = []
    lost: list[int] = []
    barrier = threading.Barrier(7)

    def move(version: int) -> None:
        barrier.wait()
        try:
            models.aliases.set("net", "live", version, if_match=seen.etag)
        except PreconditionFailed:
            lost.append(version)
        else:
            won.append(version)

    threads = [threading.Thread(target=move, args=(version,)) for version in versions[1:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (len(won), len(lost)) == (1, 6)
    assert models.aliases.get("net", "live").version == won[0]
    assert len(models.aliases.history("net", "live").items) == 2


def test_each_rollback_goes_one_step_further_back(models: ModelStore, stage: Any):
    for _ in range(4):
        publish(models, stage, alias="live")
    models.delete_version("net", 2)

    steps = [models.aliases.rollback("net", "live", by="ann").version for _ in range(2)]

    assert steps == [3, 1]
    with pytest.raises(Conflict):
        models.aliases.rollback("net", "live")
    changes = models.aliases.history("net", "live", limit=3).items
    assert [change.action for change in changes] == ["rollback", "rollback", "set"]
    models.aliases.set("net", "live", 4, if_match="*")
    assert models.aliases.rollback("net", "live").version == 1


def test_a_rollback_of_nothing_is_refused(models: ModelStore, stage: Any):
    publish(models, stage)
    with pytest.raises(NotFound):
        models.aliases.rollback("net", "live")
    with pytest.raises(NotFound):
        models.aliases.history("net", "live")
    models.aliases.set("net", "live", 1, create=True)
    with pytest.raises(PreconditionFailed):
        models.aliases.rollback("net", "live", if_match='"other"')
    with pytest.raises(Conflict):
        models.aliases.rollback("net", "live")


def test_history_comes_in_pages_newest_first(models: ModelStore, stage: Any):
    for _ in range(5):
        publish(models, stage, alias="live")

    first = models.aliases.history("net", "live", limit=3)
    second = models.aliases.history("net", "live", limit=3, after=first.next)

    assert [change.version for change in first.items + second.items] == [5, 4, 3, 2, 1]
    assert second.next is None
