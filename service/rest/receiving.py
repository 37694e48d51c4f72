"""uvicorn's HTTP protocol with deadlines for what clients send and take, and a bound on how many there are.

Silent and dripping connections are cut, those that take nothing of their answer too, and those beyond the bound are
turned away. Knows bytes, addresses and time; knows no route. How long an answer is made is not timed here.
"""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, Final, TypeVar

from starlette.responses import JSONResponse
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.errors import TooManyConnections
from service.keys import network
from service.rest.middleware import security_headers
from service.rest.problems import FRAMEWORK, problem, respond
from service.telemetry import log

MAX_HEADER_BYTES: Final = 32 * 1024
"""The request line and the headers together."""

_TICK_S: Final = 0.5
_LOOKS: Final = 4
"""So often it is looked, within the time that a client has to take something of its answer, whether it does."""

_TELL_EVERY_S: Final = 10.0

_log = log(__name__)


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long a client may take.

    Args:
        headers_s: seconds from the connection's opening, or from a later request's first byte, to the end of its
            headers.
        body_s: seconds that every body is given. So long too an answer may lie here of which nothing is taken.
        body_bytes_per_s: each so many bytes that have come give a second more.
    """

    headers_s: float = 10.0
    body_s: float = 30.0
    body_bytes_per_s: int = 64 * 1024


class Connections:
    """Counts the open connections of a server, in all and by address. Used on one thread, that of the event loop.

    Args:
        most: connections in all.
        most_per_address: those of one address, or of the /64 that one customer of IPv6 is given.
        trusted: addresses and networks of proxies, through which many clients come; "*" means everybody. They and
            loopback are held to `most` only. Words that are neither are passed over.
    """

    def __init__(self, most: int = 1024, most_per_address: int = 256, *, trusted: Sequence[str] = ()) -> None:
        self._most = most
        self._most_per_address = most_per_address
        self._everybody = "*" in trusted
        self._trusted = []
        for word in trusted:
            try:
                self._trusted.append(ip_network(word, strict=False))
            except ValueError:
                continue
        self._open = 0
        self._by_address: Counter[str] = Counter()
        self._turned_away = 0  # since it was last told
        self._told = float("-inf")

    def enter(self, address: str) -> None:
        """Count one more.

        Args:
            address: of the other end; "" where there is none, as on a Unix socket.

        Raises:
            TooManyConnections: it is one too many, and was not counted.
        """
        limit: tuple[str, int] | None = None
        counted = self._counted(address)
        if self._open >= self._most:
            limit = "max_connections", self._most
        elif counted is not None and self._by_address[counted] >= self._most_per_address:
            limit = "max_connections_per_address", self._most_per_address
        if limit is not None:
            self._tell(*limit)
            raise TooManyConnections(limit={"name": limit[0], "value": limit[1]}, retry_after_s=1.0)
        self._open += 1
        if counted is not None:
            self._by_address[counted] += 1

    def leave(self, address: str) -> None:
        """One that was counted has gone."""
        self._open -= 1
        counted = self._counted(address)
        if counted is not None:
            self._by_address[counted] -= 1
            if not self._by_address[counted]:
                del self._by_address[counted]

    def _counted(self, address: str) -> str | None:
        """What the connections of an address are counted under, None where they are not."""
        if self._everybody:
            return None
        try:
            found = ip_address(address.partition("%")[0])
        except ValueError:
            return None
        if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        if found.is_loopback or any(found in trusted for trusted in self._trusted):
            return None
        return network(str(found))

    def _tell(self, name: str, value: int) -> None:
        """Say so in the log, but not for each one: whoever floods the server shall not flood the log."""
        self._turned_away += 1
        now = time.monotonic()
        if now - self._told >= _TELL_EVERY_S:
            _log.warning(
                "Connections are turned away.", action="turned_away", limit=name, value=value, count=self._turned_away
            )
            self._turned_away, self._told = 0, now


class _HeadersTooLarge(Exception):
    """Ends the parsing; the parser takes it for an error of the request."""


class Part(Enum):
    """What of a request comes next."""

    NOTHING = "nothing"
    """None has begun, or all of it is here."""
    HEADERS = "headers"
    BODY = "body"


class ReceivingProtocol(HttpToolsProtocol):
    """The protocol. A request that arrives at once sets no timer; the class attributes are set by `receiving`."""

    deadlines = Deadlines()
    counted = Connections()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timer: asyncio.TimerHandle | None = None
        self._awaited = Part.HEADERS
        self._since = 0.0  # when this part of the request began, later for each time that we did not read
        self._received = 0  # bytes of this part
        self._status = 400  # what a request that the parser refuses is answered with
        self._entered: str | None = None  # the address under which this connection was counted
        self._untaken: tuple[int, float] | None = None  # bytes of answers that wait for the client, and since when

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the parent
        """Wait for the first request from now on, unless there are too many connections."""
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        try:
            self.counted.enter(address)
        except TooManyConnections as error:
            self._awaited = Part.NOTHING
            request_id = uuid.uuid4().hex
            answer = respond(error, {"path": "", "modelyard.request_id": request_id})
            transport.write(self._written(answer, request_id))
            transport.close()
            return
        self._entered = address
        self._since = self.loop.time()
        self._timer = self.loop.call_later(min(_TICK_S, self.deadlines.headers_s), self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock, and make room for another one."""
        if self._entered is not None:
            self.counted.leave(self._entered)
            self._entered = None
        self._awaited = Part.NOTHING
        self._untaken = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """More of an answer waits than should: see to it that the client takes it."""
        super().pause_writing()
        waiting = self._untaken is not None
        self._untaken = (self._lying(), self.loop.time())
        if not waiting:
            self.loop.call_later(self.deadlines.body_s / _LOOKS, self._look_taken)

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; at once where its client has not even taken the last answer."""
        super().timeout_keep_alive_handler()
        if self.transport.is_closing() and self.transport.get_write_buffer_size():
            self.transport.abort()

    def _lying(self) -> int:
        """Bytes that the client has not taken yet, here and in the kernel, which makes room for more in large steps."""
        size = self.transport.get_write_buffer_size()
        found = self.transport.get_extra_info("socket")
        kernel = bytearray(4)
        with suppress(AttributeError, OSError):
            fcntl.ioctl(found.fileno(), termios.TIOCOUTQ, kernel)
        return size + int.from_bytes(kernel, sys.byteorder)

    def _look_taken(self) -> None:
        """Cut the connection if nothing was taken for too long; else look again until all was."""
        if self._untaken is None:
            return
        if not self.transport.get_write_buffer_size():
            self._untaken = None
            return
        left = self._lying()
        before, since = self._untaken
        now = self.loop.time()
        if left != before:
            self._untaken = (left, now)
        elif now - since >= self.deadlines.body_s:
            _log.info("A connection was cut, for its client took nothing.", action="cut", bytes=left)
            self.transport.abort()
            return
        self.loop.call_later(self.deadlines.body_s / _LOOKS, self._look_taken)

    def data_received(self, data: bytes) -> None:
        """Parse, and start the clock if something of a request is still to come."""
        if self._entered is None:  # turned away
            return
        self._received += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._awaited is Part.NOTHING:
            cycle: RequestResponseCycle | None = self.cycle
            if cycle is None or not cycle.response_complete:
                return
            # Line ends between requests, or the rest of a body that was answered early: they ended the idle time.
            self._awaited = Part.HEADERS
            self._since = self.loop.time()
            self._received = 0
        if self._awaited is Part.HEADERS and self._received > MAX_HEADER_BYTES:
            self._refuse(431)
        else:
            self._watch()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        if self._awaited is Part.NOTHING:  # the first request's headers are awaited since the connection was made
            self._awaited = Part.HEADERS
            self._since = self.loop.time()

    def on_headers_complete(self) -> None:
        """Now the body's time begins."""
        if self._received > MAX_HEADER_BYTES:  # perhaps with a part of the body
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > MAX_HEADER_BYTES:
                self._status = 431
                raise _HeadersTooLarge
        self._awaited = Part.BODY
        self._since = self.loop.time()
        self._received = 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """All of it is here."""
        self._awaited = Part.NOTHING
        self._received = 0
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        """The connection is another protocol's from here on."""
        self._awaited = Part.NOTHING
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request in the same form as everything else."""
        self._refuse(self._status)

    def _watch(self) -> None:
        """See to it that somebody looks whether what is awaited comes."""
        if self._timer is None:
            self._timer = self.loop.call_later(_TICK_S, self._look)

    def _look(self) -> None:
        """Cut the connection if its time is up; else look again while something is still to come."""
        self._timer = None
        if self._awaited is Part.NOTHING or self.transport.is_closing():
            return
        now = self.loop.time()
        if self.flow.read_paused:  # we are the slow ones
            self._since = min(now, self._since + _TICK_S)
        limits = self.deadlines
        if self._awaited is Part.HEADERS:
            left = self._since + limits.headers_s - now
        else:
            left = self._since + limits.body_s + self._received / limits.body_bytes_per_s - now
        if left <= 0:
            self._refuse(408)
        else:
            self._timer = self.loop.call_later(min(_TICK_S, max(left, 0.001)), self._look)

    def _refuse(self, status: int) -> None:
        """Close, after a problem where one is due: not to a client that asked nothing, nor amid another answer."""
        awaited, self._awaited = self._awaited, Part.NOTHING
        cycle: RequestResponseCycle | None = self.cycle
        busy = cycle is not None and not cycle.response_complete
        if awaited is Part.BODY:
            due = cycle is not None and not cycle.response_started
        else:
            due = not busy and (status != 408 or self._received > 0)
        if cycle is not None and busy:
            cycle.disconnected = True  # whatever answers now, answers nobody
            cycle.message_event.set()
        if due:
            self.transport.write(self._problem(status))
        self.transport.close()

    def _problem(self, status: int) -> bytes:
        request_id = uuid.uuid4().hex
        path = str(dict(self.scope or {}).get("path", ""))
        code, detail = FRAMEWORK[status]
        answer = problem({"path": path, "modelyard.request_id": request_id}, status=status, code=code, detail=detail)
        _log.info("A connection was cut.", action="cut", status=status, code=code, request_id=request_id)
        return self._written(answer, request_id)

    def _written(self, answer: JSONResponse, request_id: str) -> bytes:
        """The bytes of the last answer on this connection."""
        headers = [
            *self.server_state.default_headers,
            *answer.raw_headers,
            *security_headers(https=self.scheme == "https"),
            (b"x-request-id", request_id.encode()),
            (b"connection", b"close"),
        ]
        lines = b"".join(b"%b: %b\r\n" % pair for pair in headers)
        return b"".join([STATUS_LINE[answer.status_code], lines, b"\r\n", bytes(answer.body)])


P = TypeVar("P", bound=ReceivingProtocol)


def receiving(
    deadlines: Deadlines,
    counted: Connections,
    *,
    kind: type[P] = ReceivingProtocol,  # type: ignore[assignment]
) -> type[P]:
    """The protocol, or a kind of it, with these deadlines and this count, as a class for `uvicorn.Config(http=…)`."""
    return type(kind.__name__, (kind,), {"deadlines": deadlines, "counted": counted})
