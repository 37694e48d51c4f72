"""How many connections are held: in all, of one address, and of those that are trusted."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from service.errors import TooManyConnections
from service.rest.receiving import Connections
from service.server import RESERVED_DESCRIPTORS, affordable


def refused(connections: Connections, address: str) -> str | None:
    """Try to enter; the name of the limit that was passed."""
    try:
        connections.enter(address)
    except TooManyConnections as error:
        return str((error.limit or {})["name"])
    return None


def test_one_address_takes_no_more_than_its_part_and_others_still_come_in() -> None:
    connections = Connections(10, 2)

    assert [refused(connections, "192.0.2.1") for _ in range(3)] == [None, None, "max_connections_per_address"]
    assert refused(connections, "192.0.2.2") is None
    connections.leave("192.0.2.1")
    assert refused(connections, "192.0.2.1") is None
    assert refused(connections, "192.0.2.1") == "max_connections_per_address"


def test_what_was_turned_away_takes_no_place() -> None:
    connections = Connections(3, 2)

    assert [refused(connections, "192.0.2.1") for _ in range(5)].count(None) == 2
    assert refused(connections, "192.0.2.2") is None
    assert refused(connections, "192.0.2.3") == "max_connections"


def test_addresses_of_one_customer_of_ipv6_are_one() -> None:
    connections = Connections(10, 2)

    assert [refused(connections, f"2001:db8::{place}") for place in range(1, 4)][2] == "max_connections_per_address"
    assert refused(connections, "2001:db8:0:1::1") is None


def test_an_address_of_ipv4_in_ipv6_is_that_of_ipv4() -> None:
    connections = Connections(10, 1)

    assert refused(connections, "::ffff:192.0.2.1") is None
    assert refused(connections, "192.0.2.1") == "max_connections_per_address"


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.9", "::1", "::ffff:127.0.0.1", "", "10.1.2.3", "192.0.2.7"])
def test_loopback_and_trusted_proxies_are_held_to_the_whole_only(address: str) -> None:
    connections = Connections(4, 1, trusted=("10.0.0.0/8", "192.0.2.7", "proxy.example"))

    assert [refused(connections, address) for _ in range(5)] == [None] * 4 + ["max_connections"]
    connections.leave(address)
    assert refused(connections, address) is None


def test_where_everybody_is_trusted_only_the_whole_counts() -> None:
    connections = Connections(3, 1, trusted=("*",))

    assert [refused(connections, "192.0.2.1") for _ in range(4)] == [None] * 3 + ["max_connections"]


@pytest.fixture
def few_files() -> Iterator[int]:
    """This process may open a few hundred files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = 400
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, before[1]))
    yield few
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_descriptors_are_kept_back_for_the_servers_own_work(few_files: int) -> None:
    room = few_files - RESERVED_DESCRIPTORS

    assert affordable(room) == room
    assert affordable(room + 1) == affordable(100_000) == room
