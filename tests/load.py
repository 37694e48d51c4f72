"""Load for tests and benchmarks: connections that ask as fast as they are answered, or by a schedule drawn beforehand.

Speaks just enough HTTP over asyncio's streams to be cheap, and keeps what each request met. Knows no model.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import orjson


@dataclass(slots=True)
class Answer:
    """What a request met. Status 0: the connection ended before there was any byte of an answer."""

    request: int
    status: int
    headers: dict[str, str]
    body: bytes
    due: float
    """When it was meant to be sent, on the monotonic clock; in a closed loop when it was sent."""
    sent: float
    ended: float
    connection: int = 0
    """The number of the connection."""

    @property
    def seconds(self) -> float:
        """From the moment at which it was due: a late sender is no excuse."""
        return self.ended - self.due

    def json(self) -> Any:
        """The body."""
        return orjson.loads(self.body)


class Cut(Exception):
    """The connection ended in the middle of an answer."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request as bytes."""

    content: bytes

    @classmethod
    def post(cls, path: str, body: Any, *, key: str | None = None) -> Ask:
        """POST of JSON, with an API key where one is asked for."""
        content = orjson.dumps(body)
        shown = "" if key is None else f"Authorization: Bearer {key}\r\n"
        head = f"POST {path} HTTP/1.1\r\nHost: test\r\n{shown}Content-Type: application/json\r\nContent-Length: "
        return cls(f"{head}{len(content)}\r\n\r\n".encode() + content)


@dataclass(slots=True)
class Connection:
    """One connection to a server, opened again when the server has closed it."""

    url: str
    number: int = 0
    reader: asyncio.StreamReader | None = None
    writer: asyncio.StreamWriter | None = None

    async def ask(self, request: int, ask: Ask, *, due: float | None = None) -> Answer:
        """Send a request and read its answer.

        Raises:
            ConnectionRefusedError: nobody listens there any more.
            Cut: the answer is not whole.
        """
        if self.writer is None or self.reader is None:
            address = urlsplit(self.url)
            self.reader, self.writer = await asyncio.open_connection(address.hostname, address.port)
        sent = time.monotonic()
        head = b""
        try:
            self.writer.write(ask.content)
            head = await self.reader.readuntil(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:-2])}
            body = await self.reader.readexactly(int(headers["content-length"]))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            self.close()
            if head or getattr(error, "partial", b""):
                raise Cut from error
            return Answer(request, 0, {}, b"", due or sent, sent, time.monotonic(), self.number)
        if headers.get("connection", "").lower() == "close":
            self.close()
        status = int(lines[0].split()[1])
        return Answer(request, status, headers, body, due or sent, sent, time.monotonic(), self.number)

    def close(self) -> None:
        """Close it."""
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


@dataclass
class Flood:
    """Connections that ask again as soon as they are answered, until they are told to stop or nobody listens."""

    url: str
    asks: Sequence[Ask]
    connections: int
    seen: Callable[[Answer], None]
    pause_s: float = 0.0
    """Between an answer and the next request."""
    stopped: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> Flood:
        self._tasks = [asyncio.create_task(self._run(place)) for place in range(self.connections)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stopped = True
        await asyncio.gather(*self._tasks)

    async def _run(self, place: int) -> None:
        connection = Connection(self.url, place)
        turn = place
        try:
            while not self.stopped:
                which = turn % len(self.asks)
                try:
                    self.seen(await connection.ask(which, self.asks[which]))
                except ConnectionRefusedError:
                    return
                turn += 1
                if self.pause_s:
                    await asyncio.sleep(self.pause_s)
        finally:
            connection.close()


async def scheduled(
    url: str, ask: Ask, *, rate: float, seconds: float, seed: int = 0, connections: int = 512
) -> tuple[list[Answer], int]:
    """Ask at moments that are drawn beforehand and do not wait for answers.

    Args:
        url: of the server.
        ask: the request.
        rate: requests a second, on average; the gaps are exponential.
        seconds: how long.
        seed: of the gaps.
        connections: at most; requests that find none free are left out.

    Returns:
        The answers, and how many requests were left out.
    """
    draw = random.Random(seed)
    moments = []
    at = draw.expovariate(rate)
    while at < seconds:
        moments.append(at)
        at += draw.expovariate(rate)
    free = [Connection(url) for _ in range(connections)]
    answers: list[Answer] = []
    tasks: set[asyncio.Task[None]] = set()
    omitted = 0

    async def one(connection: Connection, due: float) -> None:
        answers.append(await connection.ask(0, ask, due=due))
        free.append(connection)

    began = time.monotonic()
    for moment in moments:
        due = began + moment
        wait = due - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        elif not len(answers) % 8:
            await asyncio.sleep(0)
        if not free:
            omitted += 1
            continue
        task = asyncio.create_task(one(free.pop(), due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    for connection in free:
        connection.close()
    return answers, omitted


def slow_net(model: str, size: int = 40) -> dict[str, Any]:
    """An import of a net that takes three numbers and computes for ten milliseconds or more, row by row."""
    layers = [
        {"type": "Upsample", "size": size},
        {"type": "Conv2d", "in_channels": 3, "out_channels": 48, "kernel_size": 5, "padding": 2},
        {"type": "Conv2d", "in_channels": 48, "out_channels": 48, "kernel_size": 7, "padding": 3},
        {"type": "Conv2d", "in_channels": 48, "out_channels": 48, "kernel_size": 7, "padding": 3},
        {"type": "AdaptiveAvgPool2d", "output_size": 1},
        {"type": "Flatten"},
    ]
    inputs = [{"name": "x", "shape": ["B", 3, 1, 1]}]
    net = {"schema": "arch/1", "inputs": inputs, "root": {"type": "Sequential", "layers": layers}}
    return {"kind": "import", "architecture": net, "seed": 1, "output": {"model": model}}


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which that share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
