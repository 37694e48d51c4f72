"""Aliases: names within a model that point at one of its versions, moved by who has seen them, with their history.

One may have a routing beside its version: a canary, shadows, a guard (`schemas.routing`); it changes with the alias.

An alias changes in one transaction together with its row of history; that row's number is its entity tag. Knows no
file, and versions only by number and state.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from service.errors import (
    Conflict,
    Entry,
    ModelQuarantined,
    NotFound,
    PreconditionFailed,
    ServiceError,
    ValidationFailed,
    VersionInUse,
    shorten,
)
from service.schemas.document import nearest_hint, utc_now
from service.schemas.preprocessing import ArrayRow, Preprocessing, TableRow
from service.schemas.routing import PLAIN, Routing
from service.schemas.versions import check_alias
from service.store import records
from service.store.database import (
    Database,
    Page,
    after_cursor,
    alias_history,
    aliases,
    check_if_match,
    models,
    page,
    versions,
)

Prepare: TypeAlias = Callable[[str, str, int], None]
"""Called with model, alias and version before the alias is pointed at that version; raises where it may not be."""


@dataclass(frozen=True, slots=True)
class AliasRecord:
    """An alias: a name within a model that points at one of its versions."""

    model: str
    alias: str
    version: int
    updated_at: str
    etag: str
    routing: Routing = PLAIN

    def view(self) -> dict[str, Any]:
        """The alias as the API shows it."""
        pointing = {"model": self.model, "alias": self.alias, "version": self.version}
        return {**pointing, **self.routing.view(), "updated_at": self.updated_at}


@dataclass(frozen=True, slots=True)
class AliasChange:
    """One change of an alias; `version` is None when it was deleted, `previous` when it was made."""

    version: int | None
    previous: int | None
    at: str
    by: str | None
    reason: str | None
    action: str
    routing: Routing = PLAIN

    def view(self) -> dict[str, Any]:
        """The change as the API shows it."""
        return {
            "version": self.version,
            "previous": self.previous,
            "at": self.at,
            "by": self.by,
            "reason": self.reason,
            "action": self.action,
            **self.routing.view(),
        }


class Aliases:
    """The aliases of all models.

    Args:
        database: owned by this process where anything is to be changed.
        announce: called in each transaction that changes where an alias points.
        document: the content of a JSON file of a version, or None, as `ModelStore.document` gives it.
    """

    def __init__(
        self, database: Database, announce: Callable[[], None], document: Callable[[str, int, str], Any]
    ) -> None:
        self._database = database
        self._announce = announce
        self._document = document

    def list(self, model: str) -> tuple[AliasRecord, ...]:
        """The aliases of a model, by name."""
        with self._database.read() as connection:
            records.live(connection, model)
            rows = connection.execute(sa.select(aliases).where(aliases.c.model == model).order_by(aliases.c.alias))
            return tuple(_alias_record(row) for row in rows)

    def get(self, model: str, alias: str) -> AliasRecord:
        """An alias.

        Raises:
            NotFound: the model has none of this name.
        """
        with self._database.read() as connection:
            records.live(connection, model)
            found = alias_in(connection, model, alias)
            if found is None:
                raise no_alias(model, alias, records.aliases_of(connection, [model])[model])
            return found

    def set(
        self,
        model: str,
        alias: str,
        version: int,
        *,
        if_match: str | None = None,
        create: bool = False,
        by: str | None = None,
        reason: str | None = None,
        routing: Routing = PLAIN,
    ) -> AliasRecord:
        """Point an alias at a version, if it still is what the caller saw.

        Args:
            model: the model.
            alias: the alias.
            version: a ready version of the model.
            if_match: the etag that was seen, or "*".
            create: the alias must not exist yet (`If-None-Match: *`).
            by: who asked, for the history.
            reason: why, for the history.
            routing: what it does beside; what it did before ends.

        Raises:
            PreconditionRequired: neither `if_match` nor `create`.
            PreconditionFailed: somebody was faster.
            NotFound: there is no such model or version.
            ModelQuarantined: the version must not be served.
            ValidationFailed: the routing names the version itself, or one twice.
        """
        check_alias(alias, at="/alias")
        own, other = self._forms(model, version, routing)
        with self._database.write() as connection:
            records.live(connection, model)
            present = alias_in(connection, model, alias)
            if not create:
                check_if_match(if_match, present.etag if present else None)
            elif present is not None:
                raise PreconditionFailed(
                    f"The alias exists already; it points at version {present.version}.",
                    errors=[
                        Entry(
                            "/header/if-none-match",
                            "precondition-failed",
                            "The alias exists already.",
                            hint=f"To move it, send If-Match: {present.etag} instead of If-None-Match.",
                        )
                    ],
                )
            _check_routing(version, routing)
            manifests = {}
            for at, number in _needed(version, routing):
                try:
                    row = records.visible(connection, model, number)
                except NotFound as error:
                    raise error.at(at) from None
                if row.state != "ready":
                    raise ModelQuarantined(f"Version {number} of {model!r} is quarantined: {row.reason}")
                manifests[number] = row.manifest
            if routing.canary is not None:
                _check_alike(manifests[version], manifests[routing.canary.version])
                _check_rows(own, other)
            if present is not None and (present.version, present.routing) == (version, routing):
                return present
            return self.point(connection, model, alias, version, by=by, reason=reason, routing=routing)

    def _forms(self, model: str, version: int, routing: Routing) -> tuple[Form, Form]:
        """What rows look like that the version and its canary take; nothing where a version is not there."""
        if routing.canary is None:
            return (), ()
        try:
            own, other = (
                _form(Preprocessing.model_validate(self._document(model, number, "preprocessing.json") or {}))
                for number in (version, routing.canary.version)
            )
        except NotFound:
            return (), ()  # `set` says which
        return own, other

    def delete(
        self,
        model: str,
        alias: str,
        *,
        if_match: str | None = None,
        by: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Remove an alias; its history stays.

        Raises:
            PreconditionRequired, PreconditionFailed: as for `set`.
            NotFound: there is no such alias.
        """
        with self._database.write() as connection:
            records.live(connection, model)
            present = alias_in(connection, model, alias)
            if present is None:
                raise no_alias(model, alias, records.aliases_of(connection, [model])[model])
            check_if_match(if_match, present.etag)
            self._unpoint(connection, present, by=by, reason=reason)

    def history(self, model: str, alias: str, *, limit: int = 50, after: str | None = None) -> Page[AliasChange]:
        """The changes of an alias, newest first, deleted aliases included.

        Raises:
            NotFound: the model never had this alias.
        """
        key = after_cursor(after, int)
        query = _changes(model, alias).order_by(alias_history.c.id.desc()).limit(limit + 1)
        if key is not None:
            query = query.where(alias_history.c.id < key[0])
        with self._database.read() as connection:
            records.live(connection, model)
            rows = connection.execute(query).all()
            if not rows and key is None:
                raise no_alias(model, alias, records.aliases_of(connection, [model])[model])
        found = page(list(rows), limit, lambda row: (row.id,))
        return Page(tuple(_alias_change(row) for row in found.items), found.next)

    def rollback(
        self,
        model: str,
        alias: str,
        *,
        if_match: str | None = None,
        by: str | None = None,
        reason: str | None = None,
        prepare: Prepare = lambda model, alias, version: None,
    ) -> AliasRecord:
        """Point an alias at the version it pointed at before; again, at the one before that.

        With a canary the alias stays where it is and the canary ends. Versions that are no longer ready are passed
        over; shadows and the guard end. `if_match` is checked where it is given.

        Args:
            prepare: loads a version before the alias is pointed at it; one that it finds damaged is passed over.

        Raises:
            NotFound: there is no such alias.
            Conflict: there is no earlier version to go back to.
        """
        self._prepared(model, alias, prepare, if_match=if_match)
        with self._database.write() as connection:
            records.live(connection, model)
            present = alias_in(connection, model, alias)
            if present is None:
                raise no_alias(model, alias, records.aliases_of(connection, [model])[model])
            if if_match is not None:
                check_if_match(if_match, present.etag)
            return self._back(connection, present, by=by, reason=reason)

    def retreat(
        self,
        seen: AliasRecord,
        version: int,
        *,
        reason: str,
        prepare: Prepare = lambda model, alias, version: None,
    ) -> AliasRecord | None:
        """Take a version back that a guard found wanting, if the alias still is as it was seen.

        Args:
            prepare: as `rollback` has it.

        Returns:
            The alias as it is now; None when somebody changed it first, or there is nothing to go back to.
        """
        with suppress(ServiceError):  # without room for the other version, this one goes all the same
            self._prepared(seen.model, seen.alias, prepare, if_match=seen.etag)
        with self._database.write() as connection:
            present = alias_in(connection, seen.model, seen.alias)
            if present is None or present.etag != seen.etag or version != _watched(present):
                return None
            try:
                return self._back(connection, present, by="guard", reason=reason)
            except Conflict:
                return None

    def _prepared(self, model: str, alias: str, prepare: Prepare, *, if_match: str | None) -> None:
        """Have the version prepared that the alias would go back to, or the one before it where that is damaged.

        Where only a canary ends, the alias stays at what answers already.
        """
        tried = None
        while True:
            with self._database.read() as connection:
                present = alias_in(connection, model, alias)
                if present is None or present.routing.canary is not None:
                    return
                if if_match is not None:
                    check_if_match(if_match, present.etag)
                earlier = _before(connection, present)
            if earlier is None or earlier == tried:
                return
            tried = earlier
            try:
                prepare(model, alias, earlier)
            except (ModelQuarantined, NotFound):
                continue  # it is passed over from now on
            return

    def _back(self, connection: Connection, present: AliasRecord, *, by: str | None, reason: str | None) -> AliasRecord:
        earlier = _before(connection, present)
        if earlier is None:
            raise Conflict(
                "The alias has no earlier version to go back to.",
                hint="Its history shows where it pointed. Set it to the version that you want.",
            )
        return self.point(connection, present.model, present.alias, earlier, by=by, reason=reason, action="rollback")

    # -- within a transaction of the caller -------------------------------------------------------------------------

    def point(
        self,
        connection: Connection,
        model: str,
        alias: str,
        version: int,
        *,
        by: str | None,
        reason: str | None,
        action: str = "set",
        routing: Routing = PLAIN,
    ) -> AliasRecord:
        """Point the alias at the version, whatever it was; one row of history."""
        now = utc_now()
        beside = None if routing == PLAIN else routing.view()
        present = alias_in(connection, model, alias)
        change = _note_change(
            connection,
            model=model,
            alias=alias,
            action=action,
            version=version,
            previous=present.version if present else None,
            at=now,
            by=by,
            reason=reason,
            routing=beside,
        )
        values = {"version": version, "change": change, "updated_at": now, "routing": beside}
        if present is None:
            connection.execute(sa.insert(aliases).values(model=model, alias=alias, **values))
        else:
            connection.execute(
                sa.update(aliases).where(aliases.c.model == model, aliases.c.alias == alias).values(values)
            )
        connection.execute(sa.update(models).where(models.c.name == model).values(updated_at=now))
        self._announce()
        return AliasRecord(model, alias, version, now, _alias_etag(change), routing)

    def release(
        self, connection: Connection, model: str, version: int | None = None, *, force: bool, by: str | None
    ) -> None:
        """Let no alias point at a version that is about to go; without a number, at none of the model.

        Raises:
            VersionInUse: one does, and it is not to be removed by `force`.
        """
        rows = connection.execute(sa.select(aliases).where(aliases.c.model == model).order_by(aliases.c.alias))
        present = [_alias_record(row) for row in rows]
        using = [one for one in present if version is None or version in (one.version, *one.routing.versions)]
        if using and not force:
            names = ", ".join(one.alias for one in using)
            raise VersionInUse(f"Still in use by the alias {names}. Move or delete it first, or use force.")
        for one in using:
            reason = "the version was deleted"
            if version is None or one.version == version:
                self._unpoint(connection, one, by=by, reason=reason)
            else:
                routing = one.routing.without(version)
                self.point(connection, model, one.alias, one.version, by=by, reason=reason, routing=routing)

    def _unpoint(self, connection: Connection, present: AliasRecord, *, by: str | None, reason: str | None) -> None:
        connection.execute(sa.delete(aliases).where(aliases.c.model == present.model, aliases.c.alias == present.alias))
        _note_change(
            connection,
            model=present.model,
            alias=present.alias,
            action="delete",
            version=None,
            previous=present.version,
            at=utc_now(),
            by=by,
            reason=reason,
        )
        self._announce()


def no_alias(model: str, alias: str, known: Mapping[str, int]) -> NotFound:
    """That the model has no such alias, with the nearest of those that are `known`, else some of them."""
    hint = nearest_hint(alias, known)
    if hint is None and known:
        hint = f"It has {', '.join(sorted(known)[:8])}{' and more' if len(known) > 8 else ''}."
    return NotFound(
        f"The model {model!r} has no alias {alias!r}.",
        errors=[Entry("/alias", "not-found", "There is no such alias.", hint=hint)],
    )


def _alias_etag(change: int) -> str:
    return f'"a{change}"'


def _alias_record(row: Row[Any]) -> AliasRecord:
    routing = PLAIN if row.routing is None else Routing.model_validate_json(json.dumps(row.routing))
    return AliasRecord(row.model, row.alias, row.version, row.updated_at, _alias_etag(row.change), routing)


def _watched(record: AliasRecord) -> int:
    """The version that a guard may take back."""
    canary = record.routing.canary
    return record.version if canary is None else canary.version


def _needed(version: int, routing: Routing) -> list[tuple[str, int]]:
    """The versions that must be there, with their places in the request."""
    canary = [] if routing.canary is None else [("/canary/version", routing.canary.version)]
    return [("/version", version), *canary, *((f"/shadow/{i}", one) for i, one in enumerate(routing.shadow))]


def _check_routing(version: int, routing: Routing) -> None:
    seen = {version: "/version"}
    found = []
    for at, number in _needed(version, routing)[1:]:
        if number in seen:
            detail = f"Version {number} is named at {seen[number]} already."
            found.append(Entry(at, "invalid", detail, expected="another version", got=str(number)))
        seen.setdefault(number, at)
    if found:
        raise ValidationFailed(errors=found)


def _check_alike(own: Mapping[str, Any], canary: Mapping[str, Any]) -> None:
    """A canary answers what was sent to the alias, so it must take and answer the same."""
    found = []
    for side, verb in (("inputs", "takes"), ("outputs", "answers")):
        there, here = (_shapes(manifest["signature"][side]) for manifest in (own, canary))
        if there != here:
            detail = f"The canary {verb} {here}, the alias's version {there}: requests for one would fail on the other."
            hint = "Give it an alias of its own."
            found.append(Entry("/canary/version", "shape-mismatch", detail, hint=hint, expected=there, got=here))
    if found:
        raise ValidationFailed(errors=found)


Form = tuple[str | None, ...]
"""What a raw row of each input looks like, in words; None where it is an array of the input's shape."""


def _form(preprocessing: Preprocessing) -> Form:
    return tuple(_row(row) for row in preprocessing.rows)


def _row(row: TableRow | ArrayRow | None) -> str | None:
    if isinstance(row, TableRow):
        kinds = {"number": "a number", "text": "a text", "tokens": "a free text"}
        return "columns " + ", ".join(f"{shorten(column.name)} ({kinds[column.kind]})" for column in row.columns)
    return "pictures" if row is not None and row.image is not None else None


def _check_rows(own: Form, canary: Form) -> None:
    """Rows of a table are lists: whoever takes the same columns in another order answers something else."""
    found = []
    for there, here in zip_longest(own, canary):
        if there != here:
            taken, expected = here or "arrays of numbers", there or "arrays of numbers"
            detail = "The canary takes other rows than the alias's version: it would misread what is sent to the alias."
            hint = "Give it an alias of its own."
            found.append(Entry("/canary/version", "shape-mismatch", detail, hint=hint, expected=expected, got=taken))
    if found:
        raise ValidationFailed(errors=found)


def _shapes(tensors: Sequence[Mapping[str, Any]]) -> str:
    """Names, types and shapes in words; what a free size is called makes no difference."""
    return ", ".join(
        f"{each['name']} {each['dtype']} [{', '.join(str(n) if isinstance(n, int) else '*' for n in each['shape'])}]"
        for each in tensors
    )


def alias_in(connection: Connection, model: str, alias: str) -> AliasRecord | None:
    """The alias as it is within the caller's transaction."""
    row = connection.execute(sa.select(aliases).where(aliases.c.model == model, aliases.c.alias == alias)).first()
    return None if row is None else _alias_record(row)


def _before(connection: Connection, present: AliasRecord) -> int | None:
    """Where an alias goes back to: with a canary it stays; else to the newest earlier version that is ready."""
    if present.routing.canary is not None:
        return present.version
    model = present.model
    rows = connection.execute(_changes(model, present.alias).order_by(alias_history.c.id)).all()
    ready = set(
        connection.execute(
            sa.select(versions.c.number).where(versions.c.model == model, versions.c.state == "ready")
        ).scalars()
    )
    earlier = [number for number in _trail(rows)[:-1] if number in ready and number != present.version]
    return earlier[-1] if earlier else None


def _changes(model: str, alias: str) -> sa.Select[Any]:
    return sa.select(alias_history).where(alias_history.c.model == model, alias_history.c.alias == alias)


def _note_change(connection: Connection, **values: Any) -> int:
    result = connection.execute(sa.insert(alias_history).values(**values))
    assert result.inserted_primary_key is not None
    return int(result.inserted_primary_key[0])


def _alias_change(row: Row[Any]) -> AliasChange:
    routing = PLAIN if row.routing is None else Routing.model_validate_json(json.dumps(row.routing))
    return AliasChange(row.version, row.previous, row.at, row.by, row.reason, row.action, routing)


def _trail(rows: Sequence[Row[Any]]) -> list[int]:
    """The versions that lead to the present one, oldest first: a rollback takes back the changes it undid."""
    trail: list[int] = []
    for row in rows:
        match row.action:
            case "delete":
                trail.clear()
            case "rollback":
                while trail and trail[-1] != row.version:
                    trail.pop()
            case _:
                trail.append(row.version)
    return trail
