"""How a worker process is started: a request to the warm fork server, which is itself started and restarted here.

Knows folders and processes; knows no job and no torch.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from service.store.files import remove_tree
from service.telemetry import log

_log = log(__name__)
_WARM_TIMEOUT_S: Final = 60.0
_ANSWER_TIMEOUT_S: Final = 10.0
_NAMELESS_S: Final = 5.0


@dataclass(slots=True)
class WorkerHandle:
    """A worker process: its pid, and a pidfd that becomes readable when it has ended. Close it after use."""

    pid: int
    pidfd: int

    def ended(self, timeout_s: float = 0.0) -> bool:
        """Whether the process has ended, waiting at most `timeout_s` seconds."""
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        return bool(poller.poll(timeout_s * 1000))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; a process that is gone is no error."""
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            pass

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.pidfd)


class Launcher(Protocol):
    """Starts workers. A worker holds the lock of its folder for as long as it lives."""

    def launch(self, folder: Path, *, threads: int, memory_bytes: int) -> WorkerHandle:
        """Start a worker on `folder`, which holds its task.json.

        Raises:
            OSError: no worker is known to have been started; whether there is one all the same, `adopt` tells.
        """
        ...

    def close(self) -> None:
        """Let go of what the launcher holds; running workers go on."""
        ...


def was_started(folder: Path) -> bool:
    """Whether a worker ever began to work in `folder`: each folder has one, once."""
    return (folder / "pid").exists()


def exit_status(folder: Path) -> int | None:
    """How a worker that is gone has ended, as the fork server noted it: it may need a moment for that."""
    for _ in range(20):
        try:
            return int((folder / "exit").read_text())
        except (OSError, ValueError):
            time.sleep(0.01)
    return None


def sweep(folder: Path) -> None:
    """Remove the folder of a worker that is gone, with what the fork server may just be noting in it."""
    exit_status(folder)
    with contextlib.suppress(OSError):  # what is left of it is swept at the next start
        remove_tree(folder)


def lock_folder(folder: Path) -> int | None:
    """A descriptor that holds the worker lock of `folder`, or None while a worker lives there."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return descriptor


def adopt(folder: Path, *, timeout_s: float = _NAMELESS_S) -> WorkerHandle | None:
    """The worker that was started on `folder`, by whomever, or None when none lives there.

    Raises:
        TimeoutError: one lives there but has not said its pid, which takes a worker a millisecond.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        handle = _named(folder)
        try:
            free = lock_folder(folder)
        except FileNotFoundError:  # the folder
            return None
        if free is None:
            if handle is not None:  # still held, so the pid that we opened was the worker's, not a later process's
                return handle
        else:
            os.close(free)
            if handle is not None:
                handle.close()
            return None
        if time.monotonic() > deadline:
            raise TimeoutError(f"The worker in {folder.name} has not said its pid.")
        time.sleep(0.005)


def _named(folder: Path) -> WorkerHandle | None:
    try:
        pid = int((folder / "pid").read_text())
        return WorkerHandle(pid, os.pidfd_open(pid))
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None


class _Process(Protocol):
    """A child of this process, as `subprocess` has it."""

    @property
    def pid(self) -> int: ...
    def kill(self) -> None: ...
    def wait(self, timeout: float | None = None) -> int: ...


class _ForkedProcess:
    """A child that was forked, not started as a command; nobody else waits for it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._handle: WorkerHandle | None = WorkerHandle(pid, os.pidfd_open(pid))

    def kill(self) -> None:
        """Send SIGKILL; a process that is gone is no error."""
        if self._handle is not None:
            self._handle.signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Collect it.

        Raises:
            subprocess.TimeoutExpired: it goes on.
        """
        if self._handle is None:
            return 0
        if timeout is not None and not self._handle.ended(timeout):
            raise subprocess.TimeoutExpired("the fork server", timeout)
        _, status = os.waitpid(self.pid, 0)
        self._handle.close()
        self._handle = None
        return os.waitstatus_to_exitcode(status)


class ForkLauncher:
    """Starts workers by the fork server; starts the fork server at once and again whenever it is gone.

    Args:
        forked: the first fork server, where this process has forked it: its pid, and the socket to it.
    """

    def __init__(self, forked: tuple[int, socket.socket] | None = None) -> None:
        self._mutex = threading.Lock()
        self._server: _Process | None = None
        self._socket: socket.socket | None = None
        self._warm = False
        self._closed = False
        if forked is None:
            self._start()
        else:
            pid, self._socket = forked
            self._server = _ForkedProcess(pid)

    @property
    def pid(self) -> int | None:
        """The fork server's process."""
        return None if self._server is None else self._server.pid

    def launch(self, folder: Path, *, threads: int, memory_bytes: int) -> WorkerHandle:
        """Start a worker on `folder`.

        Raises:
            OSError: the fork server could not be reached, even after a restart, or could not fork, or the folder had
                its worker already.
        """
        request = _request(folder, threads=threads, memory_bytes=memory_bytes)
        with self._mutex:
            if self._closed:
                raise OSError("the launcher is closed")
            try:
                return self._ask(folder, request)
            except (ConnectionError, TimeoutError) as error:
                _log.warning(
                    "The fork server is gone; starting it again.", action="forkserver_restart", error=str(error)
                )
                self._stop()
                self._start()
                # It may have forked before it went; then the folder is taken, and this says so.
                return self._ask(folder, request)

    def ready(self, timeout_s: float = _WARM_TIMEOUT_S) -> None:
        """Wait until the fork server is warm."""
        with self._mutex:
            self._await_ready(timeout_s)

    def close(self) -> None:
        """End the fork server; workers go on."""
        with self._mutex:
            self._closed = True
            self._stop()

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        with theirs:
            try:
                self._server = subprocess.Popen(
                    [sys.executable, "-m", "service.jobs.forkserver", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    env=environment,
                    cwd=str(Path(__file__).resolve().parents[2]),
                )
            except BaseException:
                ours.close()
                raise
        self._socket = ours
        self._warm = False

    def _await_ready(self, timeout_s: float) -> None:
        if self._warm:
            return
        if self._socket is None:
            raise ConnectionError("the fork server is not running")
        self._socket.settimeout(timeout_s)
        if not self._socket.recv(1024):
            raise ConnectionError("the fork server ended while it warmed up")
        self._warm = True

    def _ask(self, folder: Path, request: bytes) -> WorkerHandle:
        self._await_ready(_WARM_TIMEOUT_S)
        assert self._socket is not None
        return _ask(self._socket, folder, request)

    def _stop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._server is not None:
            if not self._warm:  # it would not hear of it before it is
                self._server.kill()
            try:
                self._server.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
            self._server = None


class InheritedLauncher:
    """Starts workers by the process that has started this one, and is a fork server too.

    Args:
        inherited: a socket that it has left here.
    """

    def __init__(self, inherited: socket.socket) -> None:
        self._mutex = threading.Lock()
        self._socket = inherited

    def launch(self, folder: Path, *, threads: int, memory_bytes: int) -> WorkerHandle:
        """Start a worker on `folder`.

        Raises:
            OSError: that process is gone or could not fork, or the folder had its worker already.
        """
        with self._mutex:
            return _ask(self._socket, folder, _request(folder, threads=threads, memory_bytes=memory_bytes))

    def close(self) -> None:
        """Ask no more; workers go on."""
        with self._mutex:
            self._socket.close()


def _request(folder: Path, *, threads: int, memory_bytes: int) -> bytes:
    return json.dumps({"folder": str(folder), "threads": threads, "memory_bytes": memory_bytes}).encode()


def _ask(server: socket.socket, folder: Path, request: bytes) -> WorkerHandle:
    server.settimeout(_ANSWER_TIMEOUT_S)
    lock = lock_folder(folder)
    if lock is None or was_started(folder):
        if lock is not None:
            os.close(lock)
        raise FileExistsError(f"{folder.name} had its worker already")
    try:
        socket.send_fds(server, [request], [lock])
    finally:
        os.close(lock)  # ours; the worker holds its own
    while True:
        message, descriptors, _, _ = socket.recv_fds(server, 4096, 1, socket.MSG_CMSG_CLOEXEC)
        if not message:
            raise ConnectionError("the fork server ended")
        answer = json.loads(message)
        if answer["folder"] == str(folder):
            break
        for descriptor in descriptors:  # of a request that was given up
            os.close(descriptor)
    if "error" in answer:
        raise OSError(f"the fork server could not fork: {answer['error']}")
    if not descriptors:
        raise OSError("the worker's pidfd did not arrive: too many descriptors are open")
    return WorkerHandle(int(answer["pid"]), descriptors[0])
