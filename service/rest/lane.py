"""The short way below ASGI: plain predictions are read, queued and answered where their bytes arrive.

A request that one of the lanes of `fast` takes, and that comes alone on its connection with its whole head at once,
gets no task, no scope and no messages. What it is follows from its head: heads are remembered by their digest, so the
next one with the same head is not parsed again. Whatever is out of the ordinary is given to uvicorn's parser from its
first byte, as if nothing had been here; so is a request that its lane hands on.

Knows bytes and heads; what is plain, who may and how it is answered is the short way's business.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any, Final, NamedTuple

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from service.inference.runtime import Slice
from service.keys import Admission
from service.rest.fast import BEGUN, PRINCIPAL, Begun, FastPath, Incoming, Lane, Question, own_headers
from service.rest.middleware import security_headers
from service.rest.polling import BusyPoll
from service.rest.receiving import Connections, Deadlines, Part, ReceivingProtocol, receiving

_MOST_HEAD: Final = 8 * 1024
_HEADS: Final = 4096
"""Heads that are remembered; they come from clients, so there must be an end."""
_READ: Final = (b"content-type", b"content-encoding", b"accept-encoding", b"inference-header-content-length")
"""Headers that lanes ask for; of a remembered head nothing else is kept."""
_EACH_TIME: Final = frozenset({b"x-request-id", b"traceparent", b"tracestate"})
"""Headers that are another in each request: such heads are not worth remembering."""
_ELSEWHERE: Final = frozenset({b"expect", b"upgrade", b"transfer-encoding", b"trailer", b"te"})
_SECURED: Final = {
    https: b"".join(b"%b: %b\r\n" % pair for pair in security_headers(https=https)) for https in (False, True)
}
_FORWARDED: Final = frozenset({b"x-forwarded-for", b"x-forwarded-proto"})

Lines = list[tuple[bytes, bytes]]


class Known(NamedTuple):
    """What a head says.

    Args:
        lane, named, table: as `FastPath.recognise` gives them; once remembered, with what lanes read alone.
        path: as it was sent.
        length: bytes of the body.
        keep_alive: whether the connection stays open.
        admission: who has shown a key in it, where that is remembered.
        headers: all of them, where the key must be looked at.
    """

    lane: Lane
    named: Mapping[str, str]
    table: Mapping[bytes, bytes]
    path: str
    length: int
    keep_alive: bool
    admission: Admission | None
    headers: Lines


class Heads:
    """Reads and remembers heads, for all connections of a server.

    Args:
        front: says what is plain.
        forwarded: headers by which proxies tell who asks are believed, so somebody else must read them.
    """

    def __init__(self, front: FastPath, *, forwarded: bool) -> None:
        self.front = front
        self.poll = BusyPoll()
        self.starts = tuple(b"POST " + start.encode() for start in front.starts)
        self._elsewhere = _ELSEWHERE | (_FORWARDED if forwarded else frozenset())
        self._known: dict[bytes, Known | None] = {}

    def known(self, head: bytes) -> Known | None:
        """What a head says that a lane takes; None of any other. Remembered are digests alone, for there are keys in
        heads."""
        digest = hashlib.blake2b(head, digest_size=32).digest()
        try:
            return self._known[digest]
        except KeyError:
            pass
        found = self.read(head)
        if found is None:
            self._remember(digest, None)
        elif not _EACH_TIME & found.table.keys():
            table = {name: found.table[name] for name in _READ if name in found.table}
            if self.front.guard.open:
                self._remember(digest, found._replace(table=table, headers=[]))
            else:
                admission = self.front.guard.admission(found.headers, found.lane.scope)
                if admission is not None:
                    self._remember(digest, found._replace(table=table, headers=[], admission=admission))
        return found

    def forget(self, head: bytes) -> None:
        """The keys have changed since this head was remembered."""
        self._known.pop(hashlib.blake2b(head, digest_size=32).digest(), None)

    def _remember(self, digest: bytes, known: Known | None) -> None:
        if len(self._known) >= _HEADS:
            self._known.clear()
        self._known[digest] = known

    def read(self, head: bytes) -> Known | None:
        """Parse a head as uvicorn does, with the same parser; not one whose end could be seen elsewhere."""
        if not head.count(b"\r\n") == head.count(b"\n") == head.count(b"\r"):
            return None
        reader = _Reader()
        parser = reader.parser = httptools.HttpRequestParser(reader)
        try:
            parser.feed_data(head)
            if not reader.complete or parser.get_http_version() != "1.1" or parser.should_upgrade():
                return None
            url = httptools.parse_url(reader.url)
            path = url.path.decode("ascii")
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, UnicodeDecodeError):
            return None
        if "%" in path or self._elsewhere.intersection(name for name, _ in reader.headers):
            return None
        found = self.front.recognise(parser.get_method().decode("ascii"), path, url.query or b"", reader.headers)
        if found is None:
            return None
        lane, named, table = found
        length = int(table[b"content-length"])
        return Known(lane, named, table, path, length, reader.keep_alive, None, reader.headers)


class _Reader:
    """What the parser tells."""

    parser: httptools.HttpRequestParser

    def __init__(self) -> None:
        self.url = b""
        self.keep_alive = False
        self.headers: Lines = []
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.complete = True
        self.keep_alive = self.parser.should_keep_alive()  # when a message without a body is over, it has forgotten


class _Nobody:
    """Takes the place of an event that nobody waits for."""

    def set(self) -> None:
        """Nothing to do."""


class Turn:
    """A request in its lane: takes its part of the answers, and stands where uvicorn keeps its cycle of a request."""

    __slots__ = ("begun", "chunks", "disconnected", "keep_alive", "known", "missing", "over", "protocol", "question")

    message_event = _Nobody()
    response_started = False

    def __init__(self, protocol: LaneProtocol, known: Known, missing: int) -> None:
        self.protocol = protocol
        self.known = known
        self.question = Question(known.lane, known.named, known.table, known.path, https=protocol.scheme == "https")
        self.chunks: list[bytes] = []
        self.missing = missing
        self.begun: Begun | None = None
        self.over = False
        self.keep_alive = known.keep_alive
        self.disconnected = False

    @property
    def response_complete(self) -> bool:
        """Whether it is answered, for uvicorn."""
        return self.over

    def done(self) -> bool:
        """Whether nobody waits any more."""
        return self.over

    def set_result(self, result: Slice, /) -> None:
        """The answer is there."""
        self.protocol.finish(self, result)

    def set_exception(self, exception: BaseException, /) -> None:
        """There is no answer."""
        if self.begun is not None:
            self.known.lane.failed(self.begun, exception)
        self.protocol.fail(self, exception)


class LaneProtocol(ReceivingProtocol):
    """The protocol with the lane; `heads` is set by `lane`."""

    heads: Heads

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._turn: Turn | None = None
        self._held: list[bytes] = []  # what came before the answer to what had come before
        self._between = True  # the parser has not begun a request
        self._handed: dict[str, Any] = {}  # for the scope of the request that is handed on
        self._quiet_since = 0.0
        self._stamp: tuple[Lines, bytes] = ([], b"")

    def data_received(self, data: bytes) -> None:
        """Let the lane have it, or the parser."""
        turn = self._turn
        if turn is not None:
            if turn.missing:
                self._collect(turn, data)
            else:
                self._held.append(data)
                self.flow.pause_reading()
        elif not (self._between and data.startswith(self.heads.starts) and self._take(data)):
            super().data_received(data)

    def on_message_begin(self) -> None:
        """The parser has a request; if it was handed on, it goes on where the lane has left it."""
        self._between = False
        super().on_message_begin()
        if self._handed:
            self.scope.update(self._handed)  # type: ignore[typeddict-item]  # extensions of ours
            self._handed = {}

    def on_message_complete(self) -> None:
        """The parser has all of a request."""
        self._between = not self.parser.should_upgrade()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody waits for the answer any more."""
        turn, self._turn = self._turn, None
        self._held.clear()
        if turn is not None and not turn.over:
            turn.over = True
            self.heads.poll.ended(self.loop)
            if turn.begun is not None:
                turn.known.lane.failed(turn.begun, asyncio.CancelledError())
            self.heads.front.note(turn.question, 499)
        super().connection_lost(exc)

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that was quiet for long. The timer is not set anew with each answer, so look first."""
        self.timeout_keep_alive_task = None
        if self._turn is not None or self.transport.is_closing():
            return  # an answer will set it
        left = self._quiet_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self.timeout_keep_alive_task = self.loop.call_later(left, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    # -- a request in its lane ---------------------------------------------------------------------------------------

    def _take(self, data: bytes) -> bool:
        """Begin a request, if all of its head is there, some lane takes it and nothing comes behind it."""
        cycle: RequestResponseCycle | Turn | None = self.cycle
        if (
            (cycle is not None and not cycle.response_complete)
            or self.flow.write_paused
            or self._entered is None
            or self.transport.is_closing()
        ):
            return False
        end = data.find(b"\r\n\r\n", 0, _MOST_HEAD) + 4
        if end < 4:
            return False
        known = self.heads.known(data[:end])
        if known is None:
            return False
        missing = end + known.length - len(data)
        if missing < 0 or (missing and not self.heads.front.guard.open and known.admission is None):
            return False  # who has shown no key yet is not waited for: elsewhere they are refused before their body
        turn = Turn(self, known, missing)
        self.heads.poll.begun()
        self._turn = turn
        self.cycle = turn  # type: ignore[assignment]  # has what uvicorn asks of it
        turn.chunks.append(data)
        if missing:
            self._await_body(known, len(data) - end)
        else:
            self._awaited = Part.NOTHING
            self._received = 0
            self._begin(turn, data, end)
        return True

    def _await_body(self, known: Known, received: int) -> None:
        self.scope = {"path": known.path}  # type: ignore[typeddict-item]  # for the words of a refusal
        self._awaited = Part.BODY
        self._since = self.loop.time()
        self._received = received
        self._watch()

    def _collect(self, turn: Turn, data: bytes) -> None:
        """More of the body; what comes behind it waits until it is answered."""
        if len(data) > turn.missing:
            self._held.append(data[turn.missing :])
            data = data[: turn.missing]
        turn.chunks.append(data)
        turn.missing -= len(data)
        self._received += len(data)
        if not turn.missing:
            self._awaited = Part.NOTHING
            self._received = 0
            whole = b"".join(turn.chunks)
            turn.chunks = [whole]
            self._begin(turn, whole, len(whole) - turn.known.length)

    def _begin(self, turn: Turn, data: bytes, end: int) -> None:
        """Let it wait for its turn."""
        known, question, front = turn.known, turn.question, self.heads.front
        admitted = front.guard.open
        try:
            if not admitted:
                question.principal = None if known.admission is None else front.guard.readmit(known.admission)
                if question.principal is None:
                    headers = known.headers
                    if known.admission is not None:
                        self.heads.forget(data[:end])
                        again = self.heads.read(data[:end])
                        assert again is not None
                        headers = again.headers
                    client = self.client[0] if self.client else ""
                    question.principal = front.guard.admit(headers, client, known.lane.scope)
                admitted = True
            incoming = Incoming(known.table, data[end:], partial(front.charge, question), _watch)
            begun = known.lane.begin(known.named, incoming, turn)
        except Exception as error:
            if admitted and front.told_elsewhere(error):
                self._hand_on(turn)
            else:
                self._refuse_turn(turn, error)
            return
        if begun is None:
            self._hand_on(turn)
        else:
            turn.begun = begun

    def finish(self, turn: Turn, part: Slice) -> None:
        """Write the answer."""
        if turn.over:
            return
        assert turn.begun is not None
        try:
            reply = turn.known.lane.finish(turn.begun, part)
        except Exception as error:
            self.fail(turn, error)
            return
        if reply is None:
            self._hand_on(turn)
        else:
            secured = _SECURED[turn.question.https]
            self._write(turn, reply.status, own_headers(reply, turn.question), reply.body, secured=secured)

    def fail(self, turn: Turn, error: BaseException) -> None:
        """There is no answer."""
        if turn.over:
            return
        if self.heads.front.told_elsewhere(error):
            self._hand_on(turn)
        else:
            self._refuse_turn(turn, error)

    def _refuse_turn(self, turn: Turn, error: BaseException) -> None:
        response = self.heads.front.refusal(error, turn.question)
        self._write(turn, response.status_code, response.raw_headers, bytes(response.body))

    def _write(self, turn: Turn, status: int, headers: Lines, body: bytes, *, secured: bytes = b"") -> None:
        front = self.heads.front
        turn.over = True
        turn.begun = None
        turn.chunks.clear()
        self._turn = None
        closing = self.transport.is_closing()
        if not closing:
            defaults, prefix = self._stamp
            if defaults is not self.server_state.default_headers or status != 200:
                defaults = self.server_state.default_headers
                prefix = STATUS_LINE[status] + b"".join(b"%b: %b\r\n" % pair for pair in defaults)
                self._stamp = (defaults, prefix) if status == 200 else ([], b"")
            pieces = [prefix]
            for name, value in headers:
                pieces += (name, b": ", value, b"\r\n")
            pieces += (secured, b"\r\n" if turn.keep_alive else b"connection: close\r\n\r\n", body)
            self.transport.write(b"".join(pieces))
        front.note(turn.question, status)
        self.heads.poll.ended(self.loop)
        self.server_state.total_requests += 1
        if closing:
            return
        if not turn.keep_alive:
            self.transport.close()
            return
        self._quiet_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        if self._held:
            self._go_on()

    def _hand_on(self, turn: Turn) -> None:
        """Give the request to the parser from its first byte, with what is known of it already."""
        turn.over = True
        self.heads.poll.ended(self.loop)
        turn.begun = None
        self.heads.front.give_back(turn.question)
        self._turn = None
        self.cycle = None  # type: ignore[assignment]  # as before the first request
        if self.transport.is_closing():
            return
        self._handed = {BEGUN: True}
        if turn.question.principal is not None:
            self._handed[PRINCIPAL] = turn.question.principal
        super().data_received(turn.chunks[0])
        self._handed = {}
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not turn.keep_alive:
            cycle.keep_alive = False  # the server is about to end
        if self._held:
            self._go_on()

    def _go_on(self) -> None:
        """What came meanwhile has its turn."""
        data = b"".join(self._held)
        self._held.clear()
        self.flow.resume_reading()
        self.data_received(data)


def _watch(_: asyncio.Future[Any]) -> None:
    """Nothing to do: the connection itself tells when the client goes."""


def lane(
    deadlines: Deadlines, counted: Connections, *, front: FastPath | None, forwarded: bool = False
) -> type[ReceivingProtocol]:
    """The protocol with a lane, as a class for `uvicorn.Config(http=…)`.

    Args:
        deadlines, counted: as `receiving` takes them.
        front: the short way; None where there is none in front of everything, so that there is no lane either.
        forwarded: see `Heads`.
    """
    if front is None:
        return receiving(deadlines, counted)
    found = receiving(deadlines, counted, kind=LaneProtocol)
    found.heads = Heads(front, forwarded=forwarded)
    return found
