"""Servers for tests that start in half a second: `modelyard serve`, forked from a process that has imported everything.

Importing torch takes four seconds of a core, and a hundred servers are started. Tests about the start itself, and about
what is read when a module is imported, start the command.

Run as `python -m tests.nursery FD`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

_MOST = 128 * 1024


class Forked:
    """A process of the nursery's, with what tests ask of `subprocess.Popen`."""

    def __init__(self, pid: int, pidfd: int, channel: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._pidfd = pidfd
        self._channel = channel

    def poll(self) -> int | None:
        """The exit status, if it has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, or minus the signal's number."""
        if self.returncode is None:
            ready, _, _ = select.select([self._channel], [], [], timeout)
            if not ready:
                raise subprocess.TimeoutExpired(f"server {self.pid}", timeout or 0)
            self.returncode = int(os.read(self._channel, 16))
            os.close(self._channel)
            os.close(self._pidfd)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it, unless the process has ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The process that forks them, which ends with this one."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.nursery", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, **threads},
                cwd=Path(__file__).resolve().parents[1],
            )
        self._control = ours

    def serve(self, arguments: list[str], *, environment: Mapping[str, str], folder: Path, log: BinaryIO) -> Forked:
        """Start `modelyard serve` with these arguments, in `folder`; what it prints goes to `log`."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            request = {"arguments": arguments, "environment": dict(environment), "folder": str(folder)}
            socket.send_fds(self._control, [json.dumps(request).encode()], [theirs.fileno(), log.fileno()])
        ours.settimeout(60)
        message, descriptors, _, _ = socket.recv_fds(ours, 16, 1)
        assert message, "the nursery has ended"
        ours.settimeout(None)
        return Forked(int(message), descriptors[0], ours.detach())

    def close(self) -> None:
        """End it; its servers go on."""
        self._control.close()
        self._process.wait(10)


def main(descriptor: int) -> None:
    """Import everything, then fork a server for each request, until nobody is left to ask."""
    from service import server

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel collects the keepers
    server.import_all()
    control = socket.socket(fileno=descriptor)
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, _MOST, 2)
        if not message:
            os._exit(0)
        if os.fork() == 0:
            control.close()
            _keep(json.loads(message), *descriptors)
        for each in descriptors:
            os.close(each)


def _keep(request: dict[str, Any], channel: int, log: int) -> NoReturn:
    """Start the server, and tell its pid and its end: only a parent hears of that."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        pid = os.fork()
        if pid == 0:
            os.close(channel)
            _become_server(request, log)
        os.close(log)
        with socket.socket(fileno=channel) as told:
            socket.send_fds(told, [str(pid).encode()], [os.pidfd_open(pid)])
            _, status = os.waitpid(pid, 0)
            told.send(str(os.waitstatus_to_exitcode(status)).encode())
    finally:
        os._exit(0)


def _become_server(request: dict[str, Any], log: int) -> NoReturn:
    code = 70
    try:
        os.environ.clear()
        os.environ.update(request["environment"])
        time.tzset()
        os.chdir(request["folder"])
        for target in (1, 2):
            os.dup2(log, target)
        os.close(log)
        sys.argv = ["modelyard", "serve", *request["arguments"]]
        from service import cli

        cli.main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main(int(sys.argv[1]))
