"""Several processes listen at one port, and at no port where another server listens."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from service.processes import Port


@pytest.fixture
def opened() -> Iterator[list[socket.socket]]:
    sockets: list[socket.socket] = []
    yield sockets
    for each in sockets:
        each.close()


def test_each_process_has_sockets_of_its_own_at_one_port(opened: list[socket.socket]):
    port = Port("127.0.0.1", 0)
    first, second = [*port.bind(), *port.bind()]
    opened += [first, second, *port.claims]

    assert first.getsockname() == second.getsockname()
    for each in (first, second):
        each.listen()
        each.setblocking(True)
        each.settimeout(10)
    for _ in range(64):
        opened.append(socket.create_connection(first.getsockname()))
    counts = []
    for each in (first, second):
        each.setblocking(False)
        found = 0
        while True:
            try:
                opened.append(each.accept()[0])
            except BlockingIOError:
                break
            found += 1
        counts.append(found)
    assert sum(counts) == 64
    assert min(counts) > 0


def test_a_name_is_bound_by_all_of_its_addresses_at_one_port(opened: list[socket.socket]):
    port = Port("localhost", 0)
    found = port.bind()
    opened += [*found, *port.claims]

    assert len({each.getsockname()[1] for each in found}) == 1


def test_a_port_that_another_such_server_is_about_to_listen_at_is_refused(opened: list[socket.socket]):
    one = Port("127.0.0.1", 0)
    [bound] = one.bind()
    other = Port("127.0.0.1", bound.getsockname()[1])  # nobody listens yet
    opened += [bound, *one.claims]
    with pytest.raises(OSError, match="in use"):
        other.bind()
    opened += other.claims


def test_a_port_where_somebody_listens_is_refused(opened: list[socket.socket]):
    """Even if that one would share it, as two servers by mistake would."""
    for shares in (False, True):
        with closing(socket.socket()) as other:
            if shares:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            other.bind(("127.0.0.1", 0))
            other.listen()

            with pytest.raises(OSError, match="in use"):
                Port("127.0.0.1", other.getsockname()[1])
