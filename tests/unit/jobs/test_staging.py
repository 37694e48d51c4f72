"""A version's files are checked before they are loaded; a machine in need says nothing about them."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path
from typing import NoReturn

import pytest

from service.errors import CheckpointRefused, StoreError
from service.jobs.staging import check_digests
from service.schemas.versions import VersionFile
from service.store import files

FILES = [VersionFile(name="weights.pt", size_bytes=7, sha256=hashlib.sha256(b"weights").hexdigest())]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "weights.pt").write_bytes(b"weights")
    return tmp_path


def test_files_as_they_were_published_are_taken(folder: Path):
    (folder / "notes.txt").touch()

    check_digests(folder, FILES)


@pytest.mark.parametrize("damage", ["changed", "missing", "link"])
def test_files_that_are_not_as_they_were_published_are_refused(folder: Path, damage: str):
    path = folder / "weights.pt"
    if damage == "changed":
        path.write_bytes(b"weighty")
    else:
        path.rename(folder / "elsewhere")
    if damage == "link":
        path.symlink_to(folder / "elsewhere")

    with pytest.raises(CheckpointRefused, match=r"weights\.pt") as refused:
        check_digests(folder, FILES)
    assert refused.value.reason == "digest-mismatch"


def test_a_disk_that_does_not_give_a_file_back_has_lost_it(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "sha256_file", failing(errno.EIO))

    with pytest.raises(CheckpointRefused, match=r"weights\.pt"):
        check_digests(folder, FILES)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM], ids=errno.errorcode.get)
def test_a_machine_that_cannot_open_a_file_does_not_call_it_wrong(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    monkeypatch.setattr(files, "sha256_file", failing(number))

    with pytest.raises((StoreError, OSError)):
        check_digests(folder, FILES)


def failing(number: int) -> object:
    def fail(_: Path) -> NoReturn:
        raise OSError(number, "refused")

    return fail
