"""A store whose database is lost: models, versions and their nets made again from the folders.

What stood in the database alone does not come back: aliases with their history, notes, tags, jobs, records of datasets.
"""

from __future__ import annotations

from pathlib import Path

from service.errors import ServiceError
from service.schemas import architecture as architectures
from service.schemas.judgement import judge
from service.store.architectures import ArchitectureStore
from service.store.database import Database
from service.store.files import StoreLock
from service.store.models import ModelStore
from service.store.records import VersionRecord
from service.telemetry import log

_log = log(__name__)


def rebuild(root: Path, url: str) -> list[VersionRecord]:
    """Take up the versions that lie below `root` and are not in the database; those that are stay as they are.

    A version whose files differ from its manifest comes back quarantined.

    Args:
        root: of the store; no server may run on it.
        url: of the database, which is made where there is none.

    Returns:
        The versions that have come back.

    Raises:
        StoreLocked: a server runs on this store.
        StoreError: the folders or the database cannot be used.
    """
    with StoreLock(root / "LOCK"), Database(url) as database:
        database.own()
        models = ModelStore(root, database)
        found = models.rebuild()
        models.recover()
        kept = ArchitectureStore(database)
        for manifest in found:
            try:
                document = models.document(manifest.model, manifest.version, "architecture.json")
                judgement = judge(architectures.parse(document))
            except ServiceError as error:
                _log.warning("A net could not be read.", action="rebuild", error=str(error), model=manifest.model)
                continue
            if judgement.digest == manifest.architecture_digest and judgement.summary is not None:
                kept.put(judgement.digest, authored=document, canonical=document, summary=judgement.summary)
        return [models.version(manifest.model, manifest.version) for manifest in found]
