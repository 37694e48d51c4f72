"""What one of several processes of a server has from the others: its seat, and what they tell each other.

Knows sockets and words. A word may be lost when its reader is too slow: whoever acts on one also looks by itself after
a while, or loses nothing.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from service.tallies import Tallies
from service.telemetry import log

_log = log(__name__)
_LONGEST: Final = 4096
_AT_ONCE: Final = 1000
LEADER: Final = 0
"""The place of the process that runs the jobs."""

Word = Literal["changed", "wake", "works", "load", "unload", "prepare", "tally", "tallied"]
"""A job has changed · look at the queue · whether the supervisor works, and the seconds that a place in the queue takes
· a model was loaded, unloaded · an alias will be pointed at a version · write metrics down · it is done."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends that keep messages apart."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Mailboxes:
    """One for each place, made before the processes are forked. What is told to a dead one is read by its successor."""

    def __init__(self, places: int) -> None:
        self._ends = [pair() for _ in range(places)]
        for ours, theirs in self._ends:
            ours.setblocking(False)
            theirs.setblocking(False)

    def inbox(self, place: int) -> socket.socket:
        """Where the process at a place reads."""
        return self._ends[place][0]

    def put(self, place: int, message: bytes) -> None:
        """Tell the process at a place; if it is too far behind, it is left out."""
        try:
            self._ends[place][1].send(message)
        except OSError as error:
            _log.debug("A process could not be told.", action="untold", place=place, error=str(error))

    def descriptors(self) -> list[int]:
        """Of all ends."""
        return [end.fileno() for ends in self._ends for end in ends]


@dataclass(slots=True, eq=False)
class Seat:
    """The place of a process among those of its server.

    Args:
        place: its number; 0 leads.
        first: whether it is the first process at this place.
        epoch: the server's, as its database knows it.
        sockets: where it accepts connections.
        mailboxes, tallies: shared with the others.
        parent: a socket to the process that has started this one; its end is the parent's end.
        launching: a socket through which the parent starts workers.
        beat_s: how often the parent wants a sign of life.
    """

    place: int
    first: bool
    epoch: int
    sockets: Sequence[socket.socket]
    mailboxes: Mailboxes
    tallies: Tallies
    parent: socket.socket
    launching: socket.socket
    beat_s: float
    _heard: dict[str, Callable[[str], None]] = field(default_factory=dict)
    _orphaned: list[Callable[[], None]] = field(default_factory=list)

    @property
    def leads(self) -> bool:
        """Whether this process runs the jobs."""
        return self.place == LEADER

    @property
    def others(self) -> tuple[int, ...]:
        """The places of the others."""
        return tuple(place for place in range(self.tallies.places) if place != self.place)

    def on(self, word: Word, listener: Callable[[str], None]) -> None:
        """Have `listener` called with what comes with a word, on the event loop. It must not wait."""
        self._heard[word] = listener

    def on_orphaned(self, listener: Callable[[], None]) -> None:
        """Have `listener` called when the parent is gone, on the event loop; in the order of these calls."""
        self._orphaned.append(listener)

    def tell(self, word: Word, text: str = "", *, only: int | None = None) -> None:
        """Tell the others, or one of them. From any thread."""
        message = f"{word} {text}".encode()
        for place in self.others if only is None else (only,):
            self.mailboxes.put(place, message)

    def report(self, word: Literal["ready", "alive", "failed"], **what: Any) -> None:
        """Tell the parent."""
        try:
            self.parent.send(json.dumps({"word": word, **what}).encode())
        except OSError:
            pass  # it is gone, and that will be noticed

    def await_turn(self) -> bool:
        """Wait until the parent says that the store may be used; False when it is gone."""
        try:
            return bool(self.parent.recv(1))
        except ConnectionError:
            return False

    def listen(self) -> Callable[[], None]:
        """Hear the others and the parent's end on the running event loop, and tell the parent that it runs; the answer
        ends that."""
        loop = asyncio.get_running_loop()
        inbox = self.mailboxes.inbox(self.place)
        self.parent.setblocking(False)
        loop.add_reader(inbox, self._read, inbox)
        loop.add_reader(self.parent, self._parent_gone, loop)

        beating: asyncio.TimerHandle | None = None

        def beat() -> None:
            nonlocal beating
            self.report("alive")
            beating = loop.call_later(self.beat_s, beat)

        beat()

        def end() -> None:
            if beating is not None:
                beating.cancel()
            loop.remove_reader(inbox)
            loop.remove_reader(self.parent)

        return end

    def _read(self, inbox: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                message = inbox.recv(_LONGEST)
            except BlockingIOError:
                return
            word, _, text = message.decode().partition(" ")
            listener = self._heard.get(word)
            if listener is not None:
                listener(text)

    def _parent_gone(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            if self.parent.recv(1):
                return
        except BlockingIOError:
            return
        except ConnectionError:
            pass
        loop.remove_reader(self.parent)
        for listener in self._orphaned:
            listener()


class Roll:
    """Asks all others for something, and waits a moment until they have done it. On the event loop.

    Args:
        ask, answer: the words of it.
        done: what this process does when it is asked.
    """

    def __init__(self, seat: Seat, ask: Word, answer: Word, done: Callable[[], None], *, timeout_s: float) -> None:
        self._seat = seat
        self._ask = ask
        self._timeout_s = timeout_s
        self._waiting: dict[asyncio.Event, set[str]] = {}

        def asked(by: str) -> None:
            done()
            seat.tell(answer, str(seat.place), only=int(by))

        seat.on(ask, asked)
        seat.on(answer, self._answered)

    async def call(self) -> None:
        """Ask, and return when all have answered or the time is up."""
        event = asyncio.Event()
        self._waiting[event] = set(map(str, self._seat.others))
        self._seat.tell(self._ask, str(self._seat.place))
        try:
            async with asyncio.timeout(self._timeout_s):
                await event.wait()
        except TimeoutError:
            pass  # one of them is busy, or just being started again: what it has last done must do
        finally:
            del self._waiting[event]

    def _answered(self, place: str) -> None:
        for event, missing in self._waiting.items():
            missing.discard(place)
            if not missing:
                event.set()
