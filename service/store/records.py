"""What the database says of models and versions: their records, and the statements that find and change their rows.

Statements run within a transaction of the caller. Knows no file, and of aliases only where they point.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from service.errors import Entry, InUse, NotFound
from service.schemas.document import nearest_hint, utc_now
from service.schemas.jobs import FINAL, JobState
from service.schemas.versions import Manifest
from service.store.database import aliases, jobs, models, versions

VISIBLE: Final = ("ready", "quarantined")
"""The states of versions that clients can see."""


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A model: its name and what there is under it. `latest` is the newest ready version."""

    name: str
    versions: int
    latest: int | None
    aliases: Mapping[str, int]
    notes: str
    tags: Mapping[str, str]
    created_at: str
    updated_at: str
    etag: str

    def view(self) -> dict[str, Any]:
        """The model as the API shows it."""
        return {
            "model": self.name,
            "versions": self.versions,
            "latest": self.latest,
            "aliases": dict(self.aliases),
            "notes": self.notes,
            "tags": dict(self.tags),
            "created_at": self.created_at,
            "updated_at": self.updated_at,
        }


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """A version: its manifest, and what may change about it."""

    manifest: Manifest
    state: str
    reason: str | None
    notes: str
    tags: Mapping[str, str]
    aliases: tuple[str, ...]
    job_id: str | None
    updated_at: str
    etag: str

    @property
    def model(self) -> str:
        """The model's name."""
        return self.manifest.model

    @property
    def version(self) -> int:
        """The version's number."""
        return self.manifest.version

    def view(self) -> dict[str, Any]:
        """The version as the API shows it, but for its preprocessing, which is a file of the version."""
        found = self.manifest.model_dump(mode="json", exclude={"format"})
        return {
            **found,
            "state": self.state,
            "state_reason": self.reason,
            "notes": self.notes,
            "tags": dict(self.tags),
            "aliases": list(self.aliases),
        }


def live(connection: Connection, name: str) -> Row[Any]:
    """The row of a model that is not deleted.

    Raises:
        NotFound: with the nearest name, if one is near.
    """
    row = connection.execute(sa.select(models).where(models.c.name == name, models.c.state == "live")).first()
    if row is None:
        names = connection.execute(sa.select(models.c.name).where(models.c.state == "live").limit(1000)).scalars()
        raise NotFound(
            f"There is no model {name!r}.",
            errors=[Entry("/model", "not-found", "There is no such model.", hint=nearest_hint(name, names))],
        )
    return row


def row_of(name: str, number: int) -> sa.Select[Any]:
    """The row of a version in any state."""
    looked_for = min(number, 10**9)  # no version has so large a number, and no database could look up a larger one
    return sa.select(versions).where(versions.c.model == name, versions.c.number == looked_for)


def visible(connection: Connection, name: str, number: int) -> Row[Any]:
    """The row of a version that clients can see, ready or quarantined.

    Raises:
        NotFound: there is none, or it was deleted.
    """
    row = connection.execute(row_of(name, number)).first()
    if row is None or row.state not in VISIBLE:
        was = "was deleted" if row is not None and row.state == "deleted" else "does not exist"
        raise NotFound(f"Version {number} of {name!r} {was}.", hint=_there(connection, name))
    return row


def _there(connection: Connection, name: str) -> str | None:
    """Which versions a model has; the newest, where these are many."""
    query = sa.select(versions.c.number).where(versions.c.model == name, versions.c.state.in_(VISIBLE))
    found = list(connection.execute(query.order_by(versions.c.number.desc()).limit(_NAMED + 1)).scalars())
    if not found:
        return None
    if len(found) > _NAMED:
        return f"The newest version is {found[0]}."
    several = "versions are" if len(found) > 1 else "version is"
    return f"Its {several} {', '.join(str(each) for each in reversed(found))}."


_NAMED: Final = 8


def require_unneeded(connection: Connection, name: str, number: int | None = None) -> None:
    """See that no job that has not ended needs this version of a model, or any.

    Raises:
        InUse: one does: it measures or edits it, or begins with its weights.
    """
    spec = jobs.c.resolved_spec
    document = sa.cast(spec, sa.JSON) if connection.dialect.name == "postgresql" else sa.type_coerce(spec, sa.JSON)
    needed = []
    for path in (("resolved_model",), ("inherited", "from")):
        named = document[(*path, "model")].as_string() == name
        needed.append(named if number is None else named & (document[(*path, "version")].as_integer() == number))
    live_states = [state.value for state in JobState if state not in FINAL]
    job = connection.execute(
        sa.select(jobs.c.id).where(jobs.c.state.in_(live_states), sa.or_(*needed)).limit(1)
    ).scalar()
    if job is not None:
        what = "a version of this model" if number is None else "this version"
        raise InUse(f"The job {job} uses {what} and has not ended.", hint="Wait until that job ends, or cancel it.")


def remember_number(connection: Connection, name: str, number: int, *, now: str) -> None:
    """Make the model's row if it is the first number, and see that the number is never given again."""
    last = connection.execute(sa.select(models.c.last_version).where(models.c.name == name)).scalar()
    if last is None:
        connection.execute(
            sa.insert(models).values(
                name=name, state="new", last_version=number, tags={}, created_at=now, updated_at=now
            )
        )
    elif number > last:
        connection.execute(sa.update(models).where(models.c.name == name).values(last_version=number))


def set_state(
    connection: Connection, name: str, number: int, state: str, *, only: Sequence[str], reason: str | None = None
) -> None:
    """Bring a version into a state, if it is in one of `only`."""
    connection.execute(
        sa.update(versions)
        .where(versions.c.model == name, versions.c.number == number, versions.c.state.in_(only))
        .values(state=state, reason=reason, revision=versions.c.revision + 1, updated_at=utc_now())
    )


def aliases_of(connection: Connection, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Where the aliases of these models point: by model, then by alias."""
    found: dict[str, dict[str, int]] = {name: {} for name in names}
    rows = connection.execute(sa.select(aliases).where(aliases.c.model.in_(names)).order_by(aliases.c.alias))
    for row in rows:
        found[row.model][row.alias] = row.version
    return found


def model_records(connection: Connection, rows: Sequence[Row[Any]]) -> list[ModelRecord]:
    """The records of these rows of models, in their order."""
    names = [row.name for row in rows]
    pointing = aliases_of(connection, names)
    counted = {
        row.model: row
        for row in connection.execute(
            sa.select(
                versions.c.model,
                sa.func.count().label("total"),
                sa.func.max(sa.case((versions.c.state == "ready", versions.c.number))).label("latest"),
            )
            .where(versions.c.model.in_(names), versions.c.state.in_(VISIBLE))
            .group_by(versions.c.model)
        )
    }
    return [
        ModelRecord(
            name=row.name,
            versions=counted[row.name].total if row.name in counted else 0,
            latest=counted[row.name].latest if row.name in counted else None,
            aliases=pointing[row.name],
            notes=row.notes,
            tags=row.tags,
            created_at=row.created_at,
            updated_at=row.updated_at,
            etag=f'"m{row.revision}"',
        )
        for row in rows
    ]


def version_record(row: Row[Any], pointing: Mapping[str, int]) -> VersionRecord:
    """The record of a row of versions; `pointing` are the aliases of its model."""
    names = tuple(alias for alias, version in pointing.items() if version == row.number)
    # The aliases are part of what is shown, so they are part of the tag.
    shown = hashlib.sha256(" ".join(names).encode()).hexdigest()[:8]
    return VersionRecord(
        manifest=Manifest.model_validate(row.manifest),
        state=row.state,
        reason=row.reason,
        notes=row.notes,
        tags=row.tags,
        aliases=names,
        job_id=row.job_id,
        updated_at=row.updated_at,
        etag=f'"v{row.revision}-{shown}"',
    )
