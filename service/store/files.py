"""Durable files: what is written stays written, whole or not at all, and nothing is found by a path from outside.

Every change that a store makes to its folders goes through here, by calls of `os` alone, so that tests can make each of
them fail in turn. Knows no model and no database.
"""

# ruff: noqa: PTH101, PTH102, PTH104, PTH105, PTH108, PTH116  (calls of `os`, as said above)

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from service.errors import StoreError, StoreFull, StoreLocked, StoreReadOnly
from service.schemas.document import utc_now

_CHILD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_TEMPORARY: Final = ".partial-"
_BLOCK: Final = 1 << 20
_RENAME_NOREPLACE: Final = 1
_AT_FDCWD: Final = -100


@contextmanager
def translated() -> Iterator[None]:
    """A full disk, one that cannot be written and one that fails, as our errors; other OSErrors pass.

    Raises:
        StoreFull, StoreReadOnly, StoreError: accordingly.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreFull() from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise StoreReadOnly() from error
        if error.errno in (errno.EIO, errno.ENFILE, errno.EMFILE):
            raise StoreError(f"The store's disk failed: {os.strerror(error.errno)}.") from error
        raise


def child(root: Path, *names: str) -> Path:
    """The path of `names` below `root`. They were validated long before; here it is only made certain.

    Raises:
        ValueError: a name could lead anywhere else.
    """
    for name in names:
        if _CHILD.fullmatch(name) is None or name.endswith("."):
            raise ValueError(f"{name!r} is not the name of a file in the store")
    return root.joinpath(*names)


def open_for_reading(path: Path) -> BinaryIO:
    """An ordinary file for reading; a symbolic link at its place is refused."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not an ordinary file", str(path))
    return os.fdopen(descriptor, "rb")


def sha256_file(path: Path) -> tuple[str, int]:
    """The file's SHA-256 in hex and its size in bytes, read anew."""
    hashed, size = hashlib.sha256(), 0
    with open_for_reading(path) as file:
        while block := file.read(_BLOCK):
            hashed.update(block)
            size += len(block)
    return hashed.hexdigest(), size


def make_folder(path: Path, *, parents: bool = False) -> None:
    """The folder, made durable if it was not there."""
    if path.is_dir():
        return
    if parents:
        make_folder(path.parent, parents=True)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o755)
    fsync_folder(path.parent)


def fsync_file(path: Path) -> None:
    """Have the file's bytes on the disk. A failure must not be tried again: the pages may be marked clean by it."""
    _fsync(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)


def fsync_folder(path: Path) -> None:
    """Have the folder's entries (names that were made, renamed, removed) on the disk."""
    _fsync(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes, *, private: bool = False) -> None:
    """Write a file so that a crash leaves the old one or the new one, never a part, and the new one survives.

    Args:
        path: the file.
        data: all of its bytes.
        private: a new file is for its owner only, and one that is there keeps its mode, and its owner where that may
            be given; else everybody may read it.
    """
    temporary = path.with_name(_TEMPORARY + path.name)
    try:
        mode = 0o600 if private else 0o644
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            if private:
                _as_before(descriptor, path)
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    fsync_folder(path.parent)


def _as_before(descriptor: int, path: Path) -> None:
    """Give a file the mode and owner of the one that it will replace, or its owner's mode alone."""
    try:
        before = os.stat(path)
    except FileNotFoundError:
        os.fchmod(descriptor, 0o600)
        return
    with contextlib.suppress(PermissionError):  # only root gives files away
        os.fchown(descriptor, before.st_uid, before.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(before.st_mode))


def touch_anew(path: Path) -> None:
    """Give the empty file another (inode, mtime) than it ever had, however fast this is called.

    Nothing is made durable: those who watch the file start with the machine.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # another process of this server may be doing the same
        before = os.fstat(descriptor).st_mtime_ns
        # Not left to the kernel, whose clock for files advances only every few milliseconds.
        now = max(time.time_ns(), before + 1)
        os.utime(descriptor, ns=(now, now))
        if os.fstat(descriptor).st_mtime_ns == before:  # a file system with coarse times
            os.utime(descriptor, ns=(now, before + 2_000_000_000))
    finally:
        os.close(descriptor)


def rename_new(source: Path, target: Path) -> None:
    """Move a file or folder to a place where nothing is, in one step.

    Raises:
        FileExistsError: something is there.
    """
    failed = _renameat2(os.fsencode(source), os.fsencode(target))
    if failed == 0:
        return
    if failed not in (errno.ENOSYS, errno.EINVAL):
        raise OSError(failed, os.strerror(failed), str(source), None, str(target))
    # A file system without RENAME_NOREPLACE. A rename onto an empty folder of our own making is as good for folders;
    # for files the names are random, and the look before is enough.
    if source.is_dir():
        os.mkdir(target)
    elif os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    os.rename(source, target)


def _renameat2(source: bytes, target: bytes) -> int:
    """0, or the number of the error."""
    try:
        function = _LIBC.renameat2
    except AttributeError:  # musl before 1.2.6
        return errno.ENOSYS
    ctypes.set_errno(0)
    arguments = (ctypes.c_int(_AT_FDCWD), ctypes.c_char_p(source), ctypes.c_int(_AT_FDCWD), ctypes.c_char_p(target))
    return 0 if function(*arguments, ctypes.c_uint(_RENAME_NOREPLACE)) == 0 else ctypes.get_errno()


_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def make_read_only(folder: Path) -> None:
    """Take the write bits from a folder and its files: nothing of ours will write there again."""
    for entry in folder.iterdir():
        os.chmod(entry, 0o444)
    os.chmod(folder, 0o555)  # noqa: S103  read-only for all is the intention


def remove_tree(path: Path) -> None:
    """Remove a file, or a folder with all in it, write-protected or not; links are removed, not followed."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for folder, _, _ in os.walk(path):  # does not descend into links
        os.chmod(folder, 0o755)  # noqa: S103  it is about to go
    shutil.rmtree(path)


def discard(path: Path, trash: Path, name: str) -> None:
    """Take something out of sight in one step, then remove it; a crash between leaves it in the trash."""
    if not os.path.lexists(path):
        return
    if path.is_dir() and not path.is_symlink():
        os.chmod(path, 0o755)  # noqa: S103  moving a folder writes to it: its entry ".." changes
    make_folder(trash)
    place = child(trash, f"{name}-{os.urandom(8).hex()}")
    rename_new(path, place)
    fsync_folder(path.parent)
    remove_tree(place)


def empty(folder: Path) -> None:
    """Remove everything in the folder."""
    for entry in entries(folder):
        remove_tree(entry)


def entries(folder: Path) -> list[Path]:
    """What is in the folder, by name; nothing where there is no folder."""
    return sorted(folder.iterdir()) if folder.is_dir() else []


def is_temporary(path: Path) -> bool:
    """Whether the file is one that `write_atomic` did not finish."""
    return path.name.startswith(_TEMPORARY)


def require_space(folder: Path, *, reserve_bytes: int | None = None, needed_bytes: int = 0) -> None:
    """Refuse new work that the disk has no room for.

    Args:
        folder: any folder on the disk.
        reserve_bytes: what must stay free; None = 1 GiB, or 5 % of a disk smaller than 20 GiB.
        needed_bytes: what the work is known to need beside.

    Raises:
        StoreFull: less than that is free.
    """
    disk = os.statvfs(folder)
    if reserve_bytes is None:
        reserve_bytes = min(1 << 30, disk.f_blocks * disk.f_frsize // 20)
    free = disk.f_bavail * disk.f_frsize
    if free < reserve_bytes + needed_bytes:
        raise StoreFull(
            f"The store's disk has {free} bytes free, and {reserve_bytes} are kept in reserve.",
            limit={"name": "reserve_bytes", "value": reserve_bytes, "free_bytes": free},
        )


class StoreLock:
    """The right to write to a store, held by one server at a time; the kernel drops it when the holder dies.

    Not for network file systems without locks.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, and note who holds it.

        Raises:
            StoreLocked: somebody else holds it; the message names host, process and since when.
        """
        with translated():
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": utc_now()}
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode() + b"\n", 0)
        except BlockingIOError:
            told = _holder(os.pread(descriptor, 4096, 0))
            os.close(descriptor)
            raise StoreLocked(f"Another server holds this store: {told}.") from None
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    @property
    def descriptor(self) -> int | None:
        """What holds the lock: whoever inherits it holds it too."""
        return self._descriptor

    def release(self) -> None:
        """Give the lock back. The file stays: removing it would let two servers hold two files of one name."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> StoreLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _holder(noted: bytes) -> str:
    try:
        holder = json.loads(noted)
        return f"process {int(holder['pid'])} on {str(holder['host'])[:64]!r} since {str(holder['since'])[:32]}"
    except (ValueError, KeyError, TypeError):
        return "it has not said which"
