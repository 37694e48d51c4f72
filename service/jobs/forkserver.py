"""A warm, single-threaded process that forks workers: torch is imported and warmed once, a job starts in milliseconds.

It takes one request a message over an inherited socket, with the worker's lock as a passed descriptor, and answers
with the worker's pid and a pidfd, or with an error. When the server goes away it ends; its workers go on. It knows no
queue and no database, and it never runs a backward pass, since autograd's threads would not survive a fork.

It is forked from the server before that has threads (`fork`), so that torch is imported once for both; later on, when
it has to be replaced, it is run as `python -m service.jobs.forkserver FD`.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

MAX_MESSAGE = 64 * 1024
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""Names of glibc's malloc.h."""


def main(descriptor: int) -> None:
    """Warm up, then serve fork requests from the socket `descriptor` until the other end is closed."""
    _leave_terminal()
    warm()
    _serve(socket.socket(fileno=descriptor))


def fork() -> tuple[int, socket.socket]:
    """Fork this process, which is warm and has no thread, into a fork server; gives its pid and our end of its socket.

    It keeps all descriptors of this process, so it is made before there are any that matter.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        pid = os.fork()
        if pid == 0:
            _become_fork_server(ours, theirs)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid, ours


def _become_fork_server(ours: socket.socket, theirs: socket.socket) -> NoReturn:
    try:
        _leave_terminal()
        ours.close()
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(null, 0)
        os.close(null)
        _serve(theirs)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _leave_terminal() -> None:
    os.setsid()  # a Ctrl-C at the terminal is for the server, which tells the workers itself
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A worker is born with SIGTERM blocked and unblocks it when it can obey: told to stop in its first millisecond, it
    # still keeps a checkpoint. The fork server itself ends with the server, not before.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _serve(server: socket.socket) -> None:
    descriptor = server.fileno()
    waker, wakened = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakened, warn_on_full_buffer=False)
    forks = Forks(lambda: (descriptor, waker, wakened))
    try:
        server.send(json.dumps({"ready": os.getpid()}).encode())
        while True:
            ready, _, _ = select.select([descriptor, waker], [], [], 5.0)
            if waker in ready:
                os.read(waker, 4096)
            _reap(forks)
            if descriptor in ready and not forks.answer(server):
                return
    except (BrokenPipeError, ConnectionResetError):
        return  # the server is gone


def warm() -> None:
    """Pay once for what every worker would pay: imports, the first optimizer (0.8 s of dynamo), the first forward."""
    import torch
    import torch.utils.serialization  # else imported by the first torch.save

    from service.jobs import worker

    torch.set_num_threads(1)  # no OpenMP pool may exist when we fork
    layer = torch.nn.Linear(4, 4)
    with torch.no_grad():
        layer(torch.zeros(1, 4))
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for kind in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
        kind(layer.parameters(), lr=0.1).step()
    with torch.device("meta"):
        torch.nn.Linear(4, 4)
    worker.warm()
    gc.collect()
    gc.freeze()  # shared pages stay shared: the collector never touches what was there before the fork


class Forks:
    """The workers that this process has forked.

    Args:
        drop: the descriptors of this process that no worker may keep.
    """

    def __init__(self, drop: Callable[[], Iterable[int]]) -> None:
        self._drop = drop
        self._folders: dict[int, Path] = {}

    def answer(self, server: socket.socket) -> bool:
        """Take a request, fork a worker and tell of it; False when nobody is there to ask any more.

        When the system refuses, that is told, and the next request is welcome.

        Raises:
            BrokenPipeError, ConnectionResetError: nobody is there to be told.
        """
        message, descriptors, _, _ = socket.recv_fds(server, MAX_MESSAGE, 1, socket.MSG_CMSG_CLOEXEC)
        if not message:
            return False
        request = json.loads(message)
        handle = None
        try:
            if not descriptors:
                raise OSError("the lock did not arrive: too many descriptors are open")
            pid = os.fork()
            if pid == 0:
                _become_worker(request, drop=self._drop())
            self._folders[pid] = Path(request["folder"])
            try:
                handle = os.pidfd_open(pid)
            except OSError:
                os.kill(pid, signal.SIGKILL)  # nobody could watch it; it is our child, unreaped, so the pid is its own
                raise
            socket.send_fds(server, [json.dumps({"pid": pid, "folder": request["folder"]}).encode()], [handle])
        except (BrokenPipeError, ConnectionResetError):
            raise
        except OSError as error:
            server.send(json.dumps({"error": str(error), "folder": request["folder"]}).encode())
        finally:
            for descriptor in descriptors:
                os.close(descriptor)  # else the lock would outlive the worker
            if handle is not None:
                os.close(handle)
        return True

    def ended(self, pid: int, status: int) -> None:
        """Leave in the folder of a worker how it has ended, for the supervisor's report."""
        folder = self._folders.pop(pid, None)
        if folder is not None:
            try:
                (folder / "exit").write_text(str(os.waitstatus_to_exitcode(status)))
            except OSError:
                pass  # the folder may be gone already; the exit status is only for the report


def _reap(forks: Forks) -> None:
    """Collect ended workers."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        forks.ended(pid, status)


def _become_worker(request: dict[str, Any], *, drop: Iterable[int]) -> NoReturn:
    """In the child: leave everything of the fork server behind but the lock, limit ourselves, and work."""
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        for descriptor in drop:
            os.close(descriptor)
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        folder = Path(request["folder"])
        # Not made durable: after a crash of the machine no pid means anything.
        (folder / "pid").write_text(str(os.getpid()))
        log = os.open(folder / "output.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.close(null)
        os.close(log)
        with contextlib.suppress(AttributeError):  # not a file
            sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # what it prints is in its log
        _limit(request["memory_bytes"])
        keep_freed_memory()
        from service.jobs import worker

        code = worker.main(folder, threads=request["threads"])
    except BaseException:
        with contextlib.suppress(Exception):  # the disk of the log may be full
            traceback.print_exc()
    finally:
        try:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
        finally:
            os._exit(code)


def _limit(memory_bytes: int) -> None:
    """Bound what this process can take from the others: memory, core dumps, the last word in an out-of-memory kill."""
    # RLIMIT_DATA counts private writable memory only, so mapped files and libraries cost a job nothing. What was there
    # before the fork counts as well but is shared with the fork server, so it is given on top.
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    limit = pages * resource.getpagesize() + memory_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # /proc may be read-only in a container
        Path("/proc/self/oom_score_adj").write_text("1000")
    os.nice(10)


def keep_freed_memory() -> None:
    """Let freed memory wait for the next step instead of going back to the system.

    A convolutional net asks for the same megabytes in every step; having them mapped and zeroed anew takes a tenth of
    its time.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, 32 * 2**20)  # the most that glibc takes
        mallopt(_TRIM_THRESHOLD, 256 * 2**20)


if __name__ == "__main__":
    main(int(sys.argv[1]))
    os._exit(0)  # there is nothing to save, and torch takes a while to be taken down
