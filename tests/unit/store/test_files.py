"""Durable files: whole or not at all, and never by a path from outside."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.errors import StoreError, StoreFull, StoreLocked, StoreReadOnly
from service.store import files


def test_an_atomic_write_replaces_the_file_and_leaves_nothing_else(tmp_path: Path):
    files.write_atomic(tmp_path / "a", b"old")
    files.write_atomic(tmp_path / "a", b"new")

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"new"}


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files.write_atomic(tmp_path / "a", b"old")

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "disk")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk"):
        files.write_atomic(tmp_path / "a", b"new")

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}


def test_a_digest_is_that_of_the_bytes(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)

    assert files.sha256_file(tmp_path / "a") == (hashlib.sha256(b"x" * 3_000_000).hexdigest(), 3_000_000)


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_only_ordinary_files_are_read(tmp_path: Path, kind: str):
    place = tmp_path / "place"
    match kind:
        case "link":
            (tmp_path / "a").write_bytes(b"")
            place.symlink_to(tmp_path / "a")
        case "folder":
            place.mkdir()
        case _:
            os.mkfifo(place)

    with pytest.raises(OSError):
        files.open_for_reading(place)


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/etc", "a\0", "a\n", ".hidden", "a.", "x" * 200, "ü"])
def test_a_name_that_could_lead_elsewhere_is_no_child(tmp_path: Path, name: str):
    with pytest.raises(ValueError):
        files.child(tmp_path, name)


@pytest.mark.parametrize("fallback", [False, True], ids=["renameat2", "without renameat2"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_rename_goes_only_where_nothing_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, fallback: bool
):
    if fallback:
        monkeypatch.setattr(files, "_renameat2", lambda *_: errno.ENOSYS)
    make = Path.mkdir if kind == "folder" else Path.touch
    make(tmp_path / "a")
    make(tmp_path / "taken")

    with pytest.raises(FileExistsError):
        files.rename_new(tmp_path / "a", tmp_path / "taken")
    files.rename_new(tmp_path / "a", tmp_path / "free")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["free", "taken"]


def test_a_folder_with_read_only_contents_can_be_discarded(tmp_path: Path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_bytes(b"")
    files.make_read_only(folder)
    modes = [folder.stat().st_mode & 0o777, (folder / "a").stat().st_mode & 0o777]

    files.discard(folder, tmp_path / "trash", "folder")

    assert modes == [0o555, 0o444]
    assert not folder.exists()
    assert files.entries(tmp_path / "trash") == []


def test_removing_a_tree_does_not_follow_links(tmp_path: Path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "a").touch()
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "link").symlink_to(kept)
    (tmp_path / "link").symlink_to(kept)

    files.remove_tree(tree)
    files.remove_tree(tmp_path / "link")
    files.remove_tree(tmp_path / "nothing")

    assert [path.name for path in tmp_path.rglob("*")] == ["kept", "a"]


def test_every_touch_is_seen_however_fast_they_come(tmp_path: Path):
    seen = set()
    for _ in range(200):
        files.touch_anew(tmp_path / "generation")
        seen.add((tmp_path / "generation").stat().st_mtime_ns)

    assert len(seen) == 200


def test_room_on_the_disk_is_asked_for_before_work(tmp_path: Path):
    files.require_space(tmp_path, reserve_bytes=0)
    with pytest.raises(StoreFull):
        files.require_space(tmp_path, reserve_bytes=1 << 60)
    with pytest.raises(StoreFull):
        files.require_space(tmp_path, reserve_bytes=0, needed_bytes=1 << 60)


@pytest.mark.parametrize(
    ("number", "expected"),
    [(errno.ENOSPC, StoreFull), (errno.EROFS, StoreReadOnly), (errno.EIO, StoreError), (errno.ENOENT, OSError)],
    ids=["full", "read-only", "broken", "anything else"],
)
def test_the_disks_errors_become_ours(number: int, expected: type[Exception]):
    with pytest.raises(expected), files.translated():
        raise OSError(number, os.strerror(number))


def test_a_second_holder_is_told_who_the_first_is(tmp_path: Path):
    with files.StoreLock(tmp_path / "LOCK"):
        with pytest.raises(StoreLocked, match=f"process {os.getpid()} on .* since 20"):
            files.StoreLock(tmp_path / "LOCK").acquire()
        assert set(json.loads((tmp_path / "LOCK").read_text())) == {"pid", "host", "since"}

    with files.StoreLock(tmp_path / "LOCK"):
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, pathlib, time\nfrom service.store.files import StoreLock\n"
            "StoreLock(pathlib.Path(sys.argv[1])).acquire()\nprint('held', flush=True)\ntime.sleep(60)",
            str(tmp_path / "LOCK"),
        ],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    with holder, holder.stdout:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StoreLocked, match=str(holder.pid)):
            files.StoreLock(tmp_path / "LOCK").acquire()
        holder.kill()
        holder.wait()

    with files.StoreLock(tmp_path / "LOCK"):
        pass
