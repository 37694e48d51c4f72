"""Aliases: moved only by who has seen them, rolled back step by step, with a history that stays."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from service.errors import (
    Conflict,
    NotFound,
    PreconditionFailed,
    PreconditionRequired,
    ValidationFailed,
    VersionInUse,
)
from service.schemas.routing import PLAIN, Canary, Guard, Routing
from service.schemas.versions import Manifest, Reference
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
        {
            **{"model": "net", "alias": "live", "version": 2, "updated_at": moved.updated_at},
            **{"canary": None, "shadow": [], "guard": None},
        }
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


# -- canary, shadows, guard -------------------------------------------------------------------------------------------

CANARY = Routing(canary=Canary(version=2, percent=10), shadow=(3,), guard=Guard(error_rate=0.1))


def test_a_routing_changes_with_its_alias_and_stands_in_the_history(models: ModelStore, stage: Any):
    for _ in range(3):
        publish(models, stage)
    made = models.aliases.set("net", "live", 1, create=True, routing=CANARY)
    through = models.resolve(Reference("net", alias="live")).through
    same = models.aliases.set("net", "live", 1, if_match=made.etag, routing=CANARY)
    plain = models.aliases.set("net", "live", 1, if_match=made.etag)

    assert through == made == same
    assert plain.etag != made.etag
    assert models.resolve(Reference("net", alias="live")).through is None
    assert [change.routing for change in models.aliases.history("net", "live").items] == [PLAIN, CANARY]


def test_a_routing_names_other_versions_that_are_there_each_once(models: ModelStore, stage: Any):
    publish(models, stage)
    twice = Routing(canary=Canary(version=1, percent=1), shadow=(2, 2))
    with pytest.raises(ValidationFailed) as refused:
        models.aliases.set("net", "live", 1, create=True, routing=twice)
    with pytest.raises(NotFound) as missing:
        models.aliases.set("net", "live", 1, create=True, routing=Routing(shadow=(7,)))

    assert [entry.pointer for entry in refused.value.errors] == ["/canary/version", "/shadow/1"]
    assert [entry.pointer for entry in missing.value.errors] == ["/shadow/0"]


def test_a_rollback_ends_the_canary_first(models: ModelStore, stage: Any):
    for _ in range(3):
        publish(models, stage)
    first = models.aliases.set("net", "live", 3, create=True)
    models.aliases.set("net", "live", 1, if_match=first.etag, routing=CANARY)

    ended = models.aliases.rollback("net", "live")
    back = models.aliases.rollback("net", "live")

    assert (ended.version, ended.routing) == (1, PLAIN)
    assert (back.version, back.routing) == (3, PLAIN)


def test_a_guard_takes_back_only_what_it_has_watched(models: ModelStore, stage: Any):
    for _ in range(3):
        publish(models, stage)
    seen = models.aliases.set("net", "live", 1, create=True, routing=CANARY)

    assert models.aliases.retreat(seen, 1, reason="slow") is None
    after = models.aliases.retreat(seen, 2, reason="3 of 10 failed")
    assert after is not None
    assert (after.version, after.routing) == (1, PLAIN)
    assert models.aliases.retreat(seen, 2, reason="again") is None
    change = models.aliases.history("net", "live").items[0]
    assert (change.action, change.by, change.reason) == ("rollback", "guard", "3 of 10 failed")
    assert models.aliases.retreat(after, 1, reason="there is nothing before") is None


def test_versions_of_a_routing_are_in_use(models: ModelStore, stage: Any):
    for _ in range(3):
        publish(models, stage)
    models.aliases.set("net", "live", 1, create=True, routing=CANARY)

    with pytest.raises(VersionInUse, match="live"):
        models.delete_version("net", 3)
    models.delete_version("net", 3, force=True)
    assert models.aliases.get("net", "live").routing == CANARY.without(3)
    models.delete_version("net", 2, force=True)
    left = models.aliases.get("net", "live")
    assert (left.version, left.routing.versions) == (1, ())
