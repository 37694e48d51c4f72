"""Models and their versions: published whole or not at all, numbered once, never changed.

A version is a folder that was renamed into place after every byte of it was on the disk (`folders`); the folder is the
truth for weights, the database for everything that moves: states and notes (`records`), `aliases`. Here the two are
kept in step. Knows bytes and digests, but no tensors.

    publishing ──▶ ready ──▶ quarantined
        │            └─────────┴──▶ deleted
        └──▶ abandoned              (numbers are burnt in both)
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from service.errors import Conflict, DatabaseBusy, ModelQuarantined, NotFound, ServiceError
from service.schemas.document import utc_now
from service.schemas.routing import PLAIN
from service.schemas.versions import (
    DEFAULT_ALIAS,
    Manifest,
    Reference,
    VersionDraft,
    VersionFile,
    check_alias,
    check_name,
)
from service.store import files, records
from service.store.aliases import Aliases, AliasRecord, alias_in, no_alias
from service.store.database import Database, Page, after_cursor, check_if_match, models, page, pins, versions
from service.store.folders import VersionFolders
from service.store.records import VISIBLE, ModelRecord, VersionRecord
from service.telemetry import log

_log = log(__name__)


@dataclass(frozen=True, slots=True)
class Resolved:
    """The version that a reference means now, and the alias that led there."""

    model: str
    version: int
    alias: str | None
    digest: str
    through: AliasRecord | None = None
    """The alias itself, where it does more than point."""


class ModelStore:
    """The versions below `root`; `aliases` are the names that point at them.

    Args:
        root: the store's folder; it is made if it is not there.
        database: owned by this process where anything is to be changed.
    """

    def __init__(self, root: Path, database: Database) -> None:
        self._root = root
        self._database = database
        self._generation = root / "generation"
        self._generation_path = str(self._generation)
        self._folders = VersionFolders(root)
        self.aliases = Aliases(database, self._announce, self.document)

    # -- publishing -------------------------------------------------------------------------------------------------

    def publish(
        self, staged: Path, *, model: str, draft: VersionDraft, job_id: str | None, alias: str | None = None
    ) -> Manifest:
        """Make a version of a staged folder, and point `alias` at it.

        The folder is moved away. A job that has its version already gets that one again. After a crash at any point
        `recover` finds the version whole or takes it away; its number is not used again in either case.

        Raises:
            DigestMismatch: the staged files are not those that the draft tells of.
            StoreFull, StoreReadOnly, StoreError: the disk refused; nothing was published.
            DatabaseBusy: the version may be in its place already; the same call again finishes it, or `recover` does.
        """
        check_name(model, at="/output/model")
        if alias is not None:
            check_alias(alias, at="/output/alias_on_success")
        if job_id is not None:
            self._go_on(job_id, draft)
        claimed = self._claim(model, draft, job_id=job_id, alias=alias)
        if isinstance(claimed, Manifest):
            return claimed
        number, created_at = claimed
        with self._whole_or_abandoned(model, number):
            manifest = self._folders.settle(staged, model=model, number=number, draft=draft, created_at=created_at)
            with self._database.write() as connection:
                self._finish(connection, manifest, job_id=job_id, alias=alias)
        _log.info("A version was published.", action="publish", model=model, version=number, job=job_id, alias=alias)
        return manifest

    def _go_on(self, job_id: str, draft: VersionDraft) -> None:
        """Finish what an earlier call for this job has put in its place and could not record."""
        with self._database.read() as connection:
            unfinished = connection.execute(
                sa.select(versions).where(versions.c.job_id == job_id, versions.c.state == "publishing")
            ).all()
        for row in unfinished:
            with self._whole_or_abandoned(row.model, row.number):
                self._recover_one(row, draft)

    @contextmanager
    def _whole_or_abandoned(self, model: str, number: int) -> Iterator[None]:
        """Give a version up that cannot be published; one that the database is only too busy for stays as it is."""
        try:
            yield
        except DatabaseBusy:
            # The folder was moved away and may be all that is left of a long training.
            _log.warning("A version waits for the database.", action="publish", model=model, version=number)
            raise
        except BaseException as error:
            # An fsync that failed once must not be tried again on the same file, so the whole attempt is given up.
            _log.error("A version was abandoned.", action="publish", model=model, version=number, error=repr(error))
            self._abandon(model, number)
            raise

    def _claim(
        self, model: str, draft: VersionDraft, *, job_id: str | None, alias: str | None
    ) -> Manifest | tuple[int, str]:
        """A number that nobody had before, in a row of state publishing; or the manifest that the job has already."""
        now = utc_now()
        with self._database.write() as connection:
            if job_id is not None:
                found = connection.execute(
                    sa.select(versions.c.manifest).where(
                        versions.c.job_id == job_id, versions.c.state.not_in(("publishing", "abandoned"))
                    )
                ).scalar()
                if found is not None:
                    return Manifest.model_validate(found)
                # One that could not even be marked as abandoned; what still works at it will find its row gone.
                connection.execute(
                    sa.update(versions)
                    .where(versions.c.job_id == job_id, versions.c.state == "publishing")
                    .values(state="abandoned", updated_at=now)
                )
            last = connection.execute(sa.select(models.c.last_version).where(models.c.name == model)).scalar()
            # Folders count too: a database that was restored from a backup may be behind them.
            number = max(last or 0, self._folders.greatest(model)) + 1
            records.remember_number(connection, model, number, now=now)
            connection.execute(
                sa.insert(versions).values(
                    model=model,
                    number=number,
                    state="publishing",
                    job_id=job_id,
                    alias=alias,
                    architecture_digest=draft.architecture_digest,
                    tags={},
                    created_at=now,
                    updated_at=now,
                )
            )
        return number, now

    def _finish(self, connection: Connection, manifest: Manifest, *, job_id: str | None, alias: str | None) -> None:
        """The row of a version that lies in its place becomes ready, and its alias points at it."""
        now = utc_now()
        changed = connection.execute(
            sa.update(versions)
            .where(
                versions.c.model == manifest.model,
                versions.c.number == manifest.version,
                versions.c.state == "publishing",
            )
            .values(state="ready", digest=manifest.digest, manifest=manifest.model_dump(mode="json"), updated_at=now)
        )
        if changed.rowcount != 1:
            raise Conflict("This version was given up while it was being published.")
        connection.execute(
            sa.update(models)
            .where(models.c.name == manifest.model, models.c.state != "live")
            .values(state="live", notes="", tags={}, created_at=now, revision=models.c.revision + 1)
        )
        connection.execute(sa.update(models).where(models.c.name == manifest.model).values(updated_at=now))
        if alias is not None:
            self.aliases.point(connection, manifest.model, alias, manifest.version, by=job_id, reason="published")
        self._announce()

    def _abandon(self, model: str, number: int) -> None:
        """Burn the number and take the folder away. What fails here is done by `recover`."""
        try:
            with self._database.write() as connection:
                records.set_state(connection, model, number, "abandoned", only=("publishing",))
                state = connection.execute(records.row_of(model, number)).one().state
            if state == "abandoned":
                self._folders.discard(model, number)
        except (OSError, ServiceError):
            _log.exception("An abandoned version was left for the next start.", action="publish", model=model)

    # -- start-up ---------------------------------------------------------------------------------------------------

    def recover(self) -> None:
        """Finish or abandon what a crash left half published, and sweep what no row knows.

        For the owner of the store, before it serves. Folders with a manifest that the database has never heard of
        are left alone: they mean that the database is older than the folders, which `rebuild` mends.
        """
        with files.translated():
            for name in ("models", "staging", "trash"):
                files.make_folder(self._root / name, parents=True)
            if not self._generation.exists():
                files.touch_anew(self._generation)
        self.take_over()
        with files.translated():
            self._sweep()

    def take_over(self) -> None:
        """Finish or abandon what a publisher that died left half published; others may use the store meanwhile."""
        with self._database.read() as connection:
            unfinished = connection.execute(sa.select(versions).where(versions.c.state == "publishing")).all()
        for row in unfinished:
            self._recover_one(row)

    def _recover_one(self, row: Row[Any], draft: VersionDraft | None = None) -> None:
        """Finish a version whose folder is whole, and has the files of `draft` where that is given; else abandon it."""
        manifest = self._folders.settle_again(row.model, row.number)
        if manifest is None or (draft is not None and manifest.files != draft.files):
            _log.warning("A version was abandoned.", action="recover", model=row.model, version=row.number)
            self._abandon(row.model, row.number)
            return
        with self._database.write() as connection:
            self._finish(connection, manifest, job_id=row.job_id, alias=row.alias)
        _log.info("A version was finished.", action="recover", model=row.model, version=row.number)

    def _sweep(self) -> None:
        for entry in files.entries(self._root):
            if files.is_temporary(entry):
                files.remove_tree(entry)
        with self._database.read() as connection:
            states = {
                (row.model, str(row.number)): row.state
                for row in connection.execute(sa.select(versions.c.model, versions.c.number, versions.c.state))
            }
        for folder in self._folders.all():
            state = states.get((folder.parent.name, folder.name))
            if state in VISIBLE:
                continue
            if state is None and self._folders.has_manifest(folder):
                _log.warning(
                    "A version in the folder is not in the database; `modelyard store rebuild` takes it up.",
                    action="recover",
                    model=folder.parent.name,
                    version=folder.name,
                )
                continue
            self._folders.discard_stray(folder)
        files.empty(self._root / "staging")
        files.empty(self._root / "trash")

    def rebuild(self) -> list[Manifest]:
        """Take up the versions that lie in the folders but not in the database, from their manifests.

        Their numbers, metrics and lineage come back; aliases, notes and tags lived in the database and do not. A
        version whose files do not have the manifest's digests comes back quarantined.
        """
        found: list[Manifest] = []
        for folder in self._folders.all():
            manifest = self._folders.manifest(folder)
            if manifest is None:
                _log.warning("A folder has no manifest of its own.", action="rebuild", folder=folder.name)
            elif self._take_up(manifest):
                found.append(manifest)
        return found

    def _take_up(self, manifest: Manifest) -> bool:
        now = utc_now()
        wrong = self._folders.differences(manifest)
        with self._database.write() as connection:
            if connection.execute(records.row_of(manifest.model, manifest.version)).first() is not None:
                return False
            records.remember_number(connection, manifest.model, manifest.version, now=manifest.created_at)
            connection.execute(
                sa.update(models)
                .where(models.c.name == manifest.model, models.c.state != "live")  # deleted: it was made anew since
                .values(state="live", updated_at=now)
            )
            connection.execute(
                sa.insert(versions).values(
                    model=manifest.model,
                    number=manifest.version,
                    state="quarantined" if wrong else "ready",
                    reason=f"The files differ from the manifest: {', '.join(wrong)}." if wrong else None,
                    digest=manifest.digest,
                    architecture_digest=manifest.architecture_digest,
                    manifest=manifest.model_dump(mode="json"),
                    tags={},
                    created_at=manifest.created_at,
                    updated_at=now,
                )
            )
            self._announce()
        return True

    # -- reading ----------------------------------------------------------------------------------------------------

    def models(self, *, limit: int = 50, after: str | None = None) -> Page[ModelRecord]:
        """The models by name."""
        key = after_cursor(after, str)
        query = sa.select(models).where(models.c.state == "live").order_by(models.c.name).limit(limit + 1)
        if key is not None:
            query = query.where(models.c.name > key[0])
        with self._database.read() as connection:
            rows = connection.execute(query).all()
            found = records.model_records(connection, rows)
        return page(found, limit, lambda record: (record.name,))

    def model(self, name: str) -> ModelRecord:
        """A model.

        Raises:
            NotFound: with the nearest name, if one is near.
        """
        with self._database.read() as connection:
            return records.model_records(connection, [records.live(connection, name)])[0]

    def versions(self, name: str, *, limit: int = 50, after: str | None = None) -> Page[VersionRecord]:
        """The versions of a model, newest first; deleted ones are not shown."""
        key = after_cursor(after, int)
        query = (
            sa.select(versions)
            .where(versions.c.model == name, versions.c.state.in_(VISIBLE))
            .order_by(versions.c.number.desc())
            .limit(limit + 1)
        )
        if key is not None:
            query = query.where(versions.c.number < key[0])
        with self._database.read() as connection:
            records.live(connection, name)
            rows = connection.execute(query).all()
            pointing = records.aliases_of(connection, [name])[name]
        return page([records.version_record(row, pointing) for row in rows], limit, lambda record: (record.version,))

    def version(self, name: str, number: int) -> VersionRecord:
        """A version, ready or quarantined.

        Raises:
            NotFound: there is none, or it was deleted.
        """
        with self._database.read() as connection:
            records.live(connection, name)
            row = records.visible(connection, name, number)
            return records.version_record(row, records.aliases_of(connection, [name])[name])

    def resolve(self, reference: Reference) -> Resolved:
        """The version that a reference means now: `name` is the alias champion, else the newest ready version.

        Raises:
            NotFound: there is no such model, alias or version.
            ModelQuarantined: it points at a version that must not be served.
        """
        with self._database.read() as connection:
            records.live(connection, reference.model)
            pointing = records.aliases_of(connection, [reference.model])[reference.model]
            alias = reference.alias
            number = reference.version
            if number is None and alias is None and DEFAULT_ALIAS in pointing:
                alias = DEFAULT_ALIAS
            if alias is not None:
                if alias not in pointing:
                    raise no_alias(reference.model, alias, pointing)
                number = pointing[alias]
            if number is None:
                number = connection.execute(
                    sa.select(sa.func.max(versions.c.number)).where(
                        versions.c.model == reference.model, versions.c.state == "ready"
                    )
                ).scalar()
                if number is None:
                    raise NotFound(f"The model {reference.model!r} has no version that is ready.")
            row = records.visible(connection, reference.model, number)
            if row.state == "quarantined":
                raise ModelQuarantined(f"Version {number} of {reference.model!r} is quarantined: {row.reason}")
            through = None if alias is None else alias_in(connection, reference.model, alias)
            routed = through if through is not None and through.routing != PLAIN else None
            return Resolved(reference.model, number, alias, row.digest, routed)

    def folder(self, name: str, number: int) -> Path:
        """Where the files of a version are.

        Raises:
            NotFound: there is no such version.
        """
        with self._database.read() as connection:
            records.visible(connection, name, number)
        return self._folders.path(name, number)

    def document(self, name: str, number: int, file: str) -> Any:
        """The content of one of the version's JSON files (architecture.json, preprocessing.json); None if it has none.

        Raises:
            NotFound: there is no such version.
            ModelQuarantined: the file is damaged, or gone.
        """
        path = files.child(self.folder(name, number), file)
        try:
            with files.open_for_reading(path) as opened:
                return orjson.loads(opened.read())
        except FileNotFoundError:
            if any(one.name == file for one in self.version(name, number).manifest.files):
                raise ModelQuarantined(f"{file} of version {number} of {name!r} is gone.") from None
            return None
        except ValueError as error:
            raise ModelQuarantined(f"{file} of version {number} of {name!r} cannot be read.") from error

    def file(self, name: str, number: int, file: str) -> tuple[Path, VersionFile]:
        """Where a file of a version lies, and what the manifest says of it; for handing its bytes out.

        Raises:
            NotFound: there is no such version, or it has no such file.
            ModelQuarantined: the version is, or the file is gone or of another size.
        """
        record = self.version(name, number)
        if record.state == "quarantined":
            raise ModelQuarantined(f"Version {number} of {name!r} is quarantined: {record.reason}")
        found = next((one for one in record.manifest.files if one.name == file), None)
        if found is None:
            raise NotFound(f"Version {number} of {name!r} has no file {file!r}.")
        path = files.child(self._folders.path(name, number), file)
        try:
            whole = path.stat().st_size == found.size_bytes
        except FileNotFoundError:
            whole = False
        if not whole:
            raise self._quarantined(name, number, f"its file {file} is gone or of another size")
        return path, found

    def _quarantined(self, name: str, number: int, reason: str) -> ModelQuarantined:
        self.quarantine(name, number, reason)
        return ModelQuarantined(f"Version {number} of {name!r} is quarantined: {reason}")

    def generation(self) -> tuple[int, int]:
        """A value that differs after every change of what references mean; a look costs microseconds."""
        try:
            found = os.stat(self._generation_path)  # noqa: PTH116  three times as fast, and asked on each prediction
        except FileNotFoundError:
            return (0, 0)
        return (found.st_ino, found.st_mtime_ns)

    def verify(self, name: str, number: int) -> list[str]:
        """Read every byte of a version again; the names of files that are missing, strange or not as published."""
        return self._folders.differences(self.version(name, number).manifest)

    # -- changing ---------------------------------------------------------------------------------------------------

    def update_model(
        self,
        name: str,
        *,
        notes: str | None = None,
        tags: Mapping[str, str] | None = None,
        if_match: str | None = None,
    ) -> ModelRecord:
        """Change notes or tags of a model; None leaves them as they are.

        Raises:
            PreconditionRequired, PreconditionFailed: `if_match` is missing, or names another state.
        """
        with self._database.write() as connection:
            row = records.live(connection, name)
            present = records.model_records(connection, [row])[0]
            check_if_match(if_match, present.etag)
            connection.execute(
                sa.update(models)
                .where(models.c.name == name)
                .values(
                    notes=row.notes if notes is None else notes,
                    tags=row.tags if tags is None else dict(tags),
                    revision=row.revision + 1,
                    updated_at=utc_now(),
                )
            )
            return records.model_records(connection, [records.live(connection, name)])[0]

    def update_version(
        self,
        name: str,
        number: int,
        *,
        notes: str | None = None,
        tags: Mapping[str, str] | None = None,
        if_match: str | None = None,
    ) -> VersionRecord:
        """Change notes or tags of a version; None leaves them as they are.

        Raises:
            PreconditionRequired, PreconditionFailed: `if_match` is missing, or names another state.
        """
        with self._database.write() as connection:
            records.live(connection, name)
            row = records.visible(connection, name, number)
            pointing = records.aliases_of(connection, [name])[name]
            check_if_match(if_match, records.version_record(row, pointing).etag)
            connection.execute(
                sa.update(versions)
                .where(versions.c.model == name, versions.c.number == number)
                .values(
                    notes=row.notes if notes is None else notes,
                    tags=row.tags if tags is None else dict(tags),
                    revision=row.revision + 1,
                    updated_at=utc_now(),
                )
            )
            return records.version_record(records.visible(connection, name, number), pointing)

    def quarantine(self, name: str, number: int, reason: str) -> VersionRecord:
        """Keep a version from being served, because its files are not the published ones."""
        with self._database.write() as connection:
            records.live(connection, name)
            records.visible(connection, name, number)
            records.set_state(connection, name, number, "quarantined", only=VISIBLE, reason=reason)
            self._announce()
            row = records.visible(connection, name, number)
            record = records.version_record(row, records.aliases_of(connection, [name])[name])
        _log.error("A version was quarantined.", action="quarantine", model=name, version=number, reason=reason)
        return record

    def reinstate(self, name: str, number: int) -> None:
        """Let a version be served again whose files are the published ones after all."""
        with self._database.write() as connection:
            records.live(connection, name)
            row = records.visible(connection, name, number)
            if row.state != "quarantined":
                return
            records.set_state(connection, name, number, "ready", only=("quarantined",))
            self._announce()
        _log.warning("A version is served again.", action="reinstate", model=name, version=number)

    def pins(self) -> frozenset[tuple[str, int]]:
        """Models and versions that no server lets go of to make room for others."""
        with self._database.read() as connection:
            return frozenset((row.model, row.version) for row in connection.execute(sa.select(pins)))

    def pin(self, name: str, number: int, *, pinned: bool) -> None:
        """Pin a version, or end that; what is so already stays.

        Raises:
            NotFound: there is no such version.
        """
        with self._database.read() as connection:
            records.live(connection, name)
            records.visible(connection, name, number)
        key = (name, number)
        if (key in self.pins()) == pinned:
            return
        with self._database.write() as connection:
            connection.execute(sa.delete(pins).where(pins.c.model == name, pins.c.version == number))
            if pinned:
                records.visible(connection, name, number)
                connection.execute(sa.insert(pins).values(model=name, version=number))
        _log.info("A pin was set." if pinned else "A pin was ended.", action="pin", model=name, version=number)

    def delete_version(self, name: str, number: int, *, force: bool = False, by: str | None = None) -> None:
        """Delete a version and its files; its number stays taken.

        Raises:
            InUse: a job that has not ended needs it.
            VersionInUse: an alias points at it; with `force` the alias goes too.
            NotFound: there is no such version.
        """
        with self._database.write() as connection:
            records.live(connection, name)
            records.visible(connection, name, number)
            records.require_unneeded(connection, name, number)
            self.aliases.release(connection, name, number, force=force, by=by)
            connection.execute(sa.delete(pins).where(pins.c.model == name, pins.c.version == number))
            records.set_state(connection, name, number, "deleted", only=VISIBLE)
            self._announce()
        self._clear(name, [number])

    def delete_model(self, name: str, *, force: bool = False, by: str | None = None) -> None:
        """Delete a model with all its versions; the next model of this name goes on counting.

        Raises:
            InUse: a job that has not ended needs one of them.
            VersionInUse: it has aliases; with `force` they go too.
            NotFound: there is no such model.
        """
        with self._database.write() as connection:
            records.live(connection, name)
            records.require_unneeded(connection, name)
            self.aliases.release(connection, name, force=force, by=by)
            connection.execute(sa.delete(pins).where(pins.c.model == name))
            numbers = list(
                connection.execute(
                    sa.select(versions.c.number).where(versions.c.model == name, versions.c.state.in_(VISIBLE))
                ).scalars()
            )
            for number in numbers:
                records.set_state(connection, name, number, "deleted", only=VISIBLE)
            connection.execute(
                sa.update(models)
                .where(models.c.name == name)
                .values(state="deleted", updated_at=utc_now(), revision=models.c.revision + 1)
            )
            self._announce()
        self._clear(name, numbers)

    def _clear(self, name: str, numbers: Sequence[int]) -> None:
        """Take the folders of deleted versions away; who has a file open reads on. `recover` does what fails here."""
        for number in numbers:
            try:
                self._folders.discard(name, number)
            except (OSError, ServiceError):
                _log.exception("A deleted version's files were left for the next start.", action="delete", model=name)

    def _announce(self) -> None:
        """Tell who serves, once this is committed, that references may mean something else."""
        self._database.on_commit(self.renew)

    def renew(self) -> None:
        """Have all who serve look anew at what references mean."""
        try:
            files.touch_anew(self._generation)
        except OSError:
            _log.exception("The generation could not be moved on; servers may see this late.", action="announce")
