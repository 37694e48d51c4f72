"""A database that somebody else holds at the worst moment."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.store import files


@contextmanager
def held_after_the_rename(root: Path) -> Iterator[None]:
    """Another holds the database from when a version's folder has been moved into its place."""
    other = sqlite3.connect(root / "modelyard.sqlite3", isolation_level=None)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(files, "make_read_only", lambda _: other.execute("BEGIN IMMEDIATE"))
        yield
    other.close()
