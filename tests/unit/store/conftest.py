"""A store in a temporary folder, and staged versions to publish in it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.schemas.versions import Signature, TensorSpec, VersionDraft, VersionFile
from service.store.database import Database
from service.store.models import ModelStore

DIGEST = "sha256:" + "a" * 64

Stage = Callable[..., tuple[Path, VersionDraft]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "models_store"
    folder.mkdir()
    return folder


@pytest.fixture
def database(root: Path) -> Iterator[Database]:
    with Database(f"sqlite:///{root}/modelyard.sqlite3") as opened:
        opened.own()
        yield opened


@pytest.fixture
def models(root: Path, database: Database) -> ModelStore:
    store = ModelStore(root, database)
    store.recover()
    return store


@pytest.fixture
def stage(root: Path) -> Stage:
    """Write what a worker would: a folder of files, and the draft that tells their digests."""
    count = 0

    def write(weights: bytes = b"weights") -> tuple[Path, VersionDraft]:
        nonlocal count
        count += 1
        folder = root / "jobs" / f"job_{count}" / "staged"
        folder.mkdir(parents=True)
        contents = {"architecture.json": b'{"schema":"arch/1"}', "weights.pt": weights, "preprocessing.json": b"[]"}
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        tensor = TensorSpec(name="input", dtype="float32", shape=("B", 1))
        draft = VersionDraft(
            digest="sha256:" + hashlib.sha256(weights).hexdigest(),
            architecture_digest=DIGEST,
            weights_digest=DIGEST,
            metrics={"loss": 0.25},
            signature=Signature(inputs=(tensor,), outputs=(tensor,)),
            lineage={"job": f"job_{count}"},
            files=tuple(
                VersionFile(name=name, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
                for name, content in contents.items()
            ),
        )
        return folder, draft

    return write
