"""The real thing: server processes on loopback, real workers, real files."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.live import Server, end_worker, logs_with_keys

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell has put the tests into the background: what they start
    signal.signal(signal.SIGINT, signal.default_int_handler)  # would inherit that, and could not be interrupted


@pytest.fixture(scope="session", autouse=True)
def no_key_in_any_log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """However a server or a worker of this session was started, and however it has ended: its log holds no API key."""
    yield
    assert logs_with_keys(tmp_path_factory.getbasetemp()) == []


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that leave it as they found it, but for new models."""
    server = Server(tmp_path_factory.mktemp("shared") / "store").start()
    yield server
    assert server.stop() == 0


@pytest.fixture
def client(shared_server: Server) -> Iterator[httpx.Client]:
    """A client of the shared server."""
    with shared_server.client() as client:
        yield client


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Servers of a test's own, each with its store; whatever still runs is ended afterwards, workers included."""
    servers: list[Server] = []

    def make(name: str = "store", *, anew: bool = False, **settings: str) -> Server:
        server = Server(tmp_path / name, anew=anew, **settings)
        servers.append(server)
        return server.start()

    yield make
    for server in servers:
        if server.process is not None and server.process.poll() is None:
            server.kill()
        for path in server.store.glob("jobs/*/attempt-*/pid"):
            end_worker(path.parent)
