"""What processes of one server tell each other arrives, and who says nothing holds nobody up."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest

from service.siblings import Mailboxes, Roll, Seat, pair
from service.tallies import Tallies


@dataclass
class Table:
    """Three seats, and the parent's ends of the sockets to them."""

    seats: list[Seat]
    parents: list[socket.socket]


@pytest.fixture
def table() -> Iterator[Table]:
    mailboxes, tallies = Mailboxes(3), Tallies(3, size=4096)
    made = Table([], [])
    others = []
    for place in range(3):
        (ours, theirs), (launching, unused) = pair(), pair()
        made.seats.append(Seat(place, True, 1, [], mailboxes, tallies, theirs, launching, 60.0))
        made.parents.append(ours)
        others += [theirs, launching, unused]
    yield made
    for end in (*made.parents, *others, *(end for ends in mailboxes._ends for end in ends)):
        end.close()


def test_a_word_reaches_all_others_or_the_one_that_is_meant(table: Table):
    heard: list[tuple[int, str]] = []

    def note(place: int, text: str) -> None:
        heard.append((place, text))

    async def talk() -> None:
        done = asyncio.Event()
        ends = []
        for seat in table.seats:
            seat.on("changed", partial(note, seat.place))
            seat.on("wake", lambda _: done.set())
            ends.append(seat.listen())
        table.seats[1].tell("changed", "job_1")
        table.seats[1].tell("changed", "job_2", only=0)
        table.seats[2].tell("wake", only=0)  # after the others in this mailbox
        await asyncio.wait_for(done.wait(), 10)
        while len(heard) < 3:
            await asyncio.sleep(0)
        for end in ends:
            end()

    asyncio.run(talk())
    assert sorted(heard) == [(0, "job_1"), (0, "job_2"), (2, "job_1")]


def test_a_mailbox_that_nobody_reads_holds_nobody_up(table: Table):
    for number in range(100_000):
        table.seats[0].tell("changed", f"job_{number}")


def test_a_call_waits_for_all_others_and_not_for_ever(table: Table):
    done: list[int] = []

    async def call(*, silent: bool) -> None:
        rolls = []
        for seat in table.seats:
            rolls.append(Roll(seat, "tally", "tallied", partial(done.append, seat.place), timeout_s=0.2))
        ends = [seat.listen() for seat in (table.seats[:2] if silent else table.seats)]
        await asyncio.gather(rolls[0].call(), rolls[1].call())
        for end in ends:
            end()

    asyncio.run(call(silent=False))
    assert sorted(done) == [0, 1, 2, 2]
    done.clear()
    asyncio.run(call(silent=True))
    assert sorted(done) == [0, 1]


def test_the_end_of_the_parent_is_heard_in_order(table: Table):
    heard: list[str] = []

    async def wait() -> None:
        done = asyncio.Event()
        table.seats[0].on_orphaned(lambda: heard.append("first"))
        table.seats[0].on_orphaned(lambda: heard.append("second"))
        table.seats[0].on_orphaned(done.set)
        end = table.seats[0].listen()
        table.parents[0].close()
        await asyncio.wait_for(done.wait(), 10)
        end()

    asyncio.run(wait())
    assert heard == ["first", "second"]


def test_a_report_reaches_the_parent_and_is_lost_without_one(table: Table):
    table.seats[0].report("failed", message="It cannot be.")
    assert table.parents[0].recv(1000) == b'{"word": "failed", "message": "It cannot be."}'

    table.parents[0].close()
    table.seats[0].report("ready")
