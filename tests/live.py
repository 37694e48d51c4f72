"""Real servers for tests: processes on loopback, over stores of their own."""

from __future__ import annotations

import atexit
import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from http.client import HTTPResponse
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import httpx

from service.jobs.launchers import adopt
from tests.nursery import Forked, Nursery

START_S = 60.0
_KEY = re.compile(rb"msk_[a-z0-9]{12}_[0-9a-f]{16}")


class Server:
    """A server process over a store; it can be stopped, killed and started again.

    Args:
        store: its folder.
        anew: start the command in a new interpreter, not a fork of one.
        settings: members of `service.settings.Settings`.
    """

    def __init__(self, store: Path, *, anew: bool = False, **settings: str) -> None:
        self.store = store
        self.settings = settings
        self.process: subprocess.Popen[bytes] | Forked | None = None
        self._anew = anew
        self.port = 0  # any free one, unless a test starts it again where it was
        self.url = ""
        self.log = store.parent / f"{store.name}.log"

    def start(self) -> Server:
        """Start, and wait until it is ready."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MODELYARD_")}
        environment |= {f"MODELYARD_{name.upper()}": value for name, value in self.settings.items()}
        environment |= {"MODELYARD_STORE": str(self.store), "MODELYARD_LOG_FORMAT": "json"}
        offset = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = self._start(["--host", "127.0.0.1", "--port", str(self.port)], environment, log)
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            with self.log.open("rb") as log:
                log.seek(offset)
                for line in log.read().splitlines():
                    if b'"listening"' in line:
                        self.url = json.loads(line)["url"]
                        return self
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"the server did not start:\n{self.log.read_text()[-3000:]}")

    def _start(
        self, arguments: list[str], environment: dict[str, str], log: BinaryIO
    ) -> subprocess.Popen[bytes] | Forked:
        if not self._anew:
            return _nursery().serve(arguments, environment=environment, folder=self.store.parent, log=log)
        return subprocess.Popen(
            [sys.executable, "-m", "service.cli", "serve", *arguments],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=environment,
            cwd=self.store.parent,
        )

    def stop(self, timeout: float = 30) -> int:
        """SIGTERM, and the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(timeout)
        assert not _holds_key(self.log), f"an API key stands in {self.log}"
        return status

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def descendants(self) -> list[int]:
        """The fork server and the workers that it started, as long as this server lives."""
        assert self.process is not None
        parents = {}
        for entry in Path("/proc").glob("[0-9]*/stat"):
            try:
                parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
            except OSError:  # it ended meanwhile
                continue
        found = [self.process.pid]
        for pid in found:  # grows as it goes
            found += [child for child, parent in parents.items() if parent == pid]
        return found[1:]

    def living_workers(self) -> list[str]:
        """The attempts in which a worker still lives."""
        found = []
        for path in self.store.glob("jobs/*/attempt-*/pid"):
            handle = adopt(path.parent)
            if handle is not None:
                handle.close()
                found.append(str(path.parent))
        return found

    def client(self) -> httpx.Client:
        """A client of this server."""
        return httpx.Client(base_url=self.url, timeout=60)


@functools.cache
def _nursery() -> Nursery:
    found = Nursery()
    atexit.register(found.close)
    return found


def send_raw(server: Server, request: bytes) -> tuple[int, bytes]:
    """Status and body of the answer to bytes that no client library would send."""
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=10) as connection:
        connection.sendall(request)
        answer = HTTPResponse(connection)
        answer.begin()
        return answer.status, answer.read()


def logs_with_keys(folder: Path) -> list[Path]:
    """The logs of servers and workers below a folder in which an API key stands."""
    return [path for path in folder.rglob("*log") if path.is_file() and _holds_key(path)]


def _holds_key(path: Path) -> bool:
    return _KEY.search(path.read_bytes()) is not None


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, and its key."""
    certificate, private = folder / "certificate.pem", folder / "private.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", str(private), "-out", str(certificate), "-days", "1", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return certificate, private


def end_worker(folder: Path) -> None:
    """Kill the worker of an attempt if it still lives: its lock tells, so no other process can be hit."""
    handle = adopt(folder)
    if handle is not None:
        handle.signal(signal.SIGKILL)
        handle.ended(10)
        handle.close()


def run_job(client: httpx.Client, body: dict[str, Any], *, wait: int = 60) -> dict[str, Any]:
    """Submit a job and wait for its end; it must succeed."""
    answer = client.post("/v1/jobs", json=body, headers={"Prefer": f"wait={wait}"})
    assert answer.status_code in (200, 202), answer.text
    job: dict[str, Any] = answer.json()
    assert job["state"] == "succeeded", json.dumps({name: job[name] for name in ("state", "error", "progress")})
    return job


def wait_for(condition: Callable[[], Any], *, timeout: float = 30, every: float = 0.02) -> Any:
    """The first true value of `condition`."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(every)
    raise AssertionError("it did not happen in time")
