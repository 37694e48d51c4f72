"""The short way below ASGI, over real connections: order, pieces, clients that go or do not read, what it hands on."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from httpx import ASGITransport, AsyncClient
from starlette.types import Receive, Send
from starlette.types import Scope as Connection
from uvicorn.server import ServerState

from service.errors import Overloaded
from service.inference.dispatch import Promise
from service.inference.runtime import NotPlainError
from service.keys import Guard, Scope, make
from service.rest.fast import Begun, FastPath, Incoming, Lane, Reply
from service.rest.lane import LaneProtocol, lane
from service.rest.receiving import Connections, Deadlines
from service.telemetry import Metrics

WAIT_S = 20.0
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Engine:
    """A lane that answers with what was sent, when it is told to; and the application behind, which says that it is."""

    waiting: list[tuple[bytes, Promise]] = field(default_factory=list)
    begun: int = 0
    ended: list[BaseException] = field(default_factory=list)
    at_once: bool = True
    size: int = 0
    behind: list[tuple[bytes, Mapping[str, Any]]] = field(default_factory=list)

    def begin(self, _: Mapping[str, str], incoming: Incoming, promise: Promise) -> Begun | None:
        if incoming.body == b"odd":
            return None
        incoming.charge(1)
        if incoming.body == b"full":
            raise Overloaded("So many wait.", retry_after_s=3)
        if incoming.body == b"bug":
            raise RuntimeError("a bug")
        self.begun += 1
        self.waiting.append((incoming.body, promise))
        if self.at_once:
            asyncio.get_running_loop().call_soon(self.answer)
        return Begun(SimpleNamespace(long=False))  # type: ignore[arg-type]  # a fake

    def answer(self) -> None:
        body, promise = self.waiting.pop(0)
        if promise.done():
            return
        if body == b"strange":
            promise.set_exception(NotPlainError())
        else:
            promise.set_result(body)

    def finish(self, _: Begun, part: Any) -> Reply:
        return Reply(200, [(b"content-type", b"text/plain"), (b"x-model-version", b"7")], part + bytes(self.size))

    def failed(self, _: Begun, error: BaseException) -> None:
        self.ended.append(error)

    async def aside(self, _named: Mapping[str, str], _incoming: Incoming) -> Reply | None:
        return None

    async def app(self, scope: Connection, receive: Receive, send: Send) -> None:
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        self.behind.append((body, scope))
        headers = [(b"content-length", b"%d" % (len(body) + 6))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"behind" + body})

    def front(self, guard: Guard | None = None, *, scope: Scope = Scope.PREDICT, **given: Any) -> FastPath:
        one = Lane(
            "/predict",
            re.compile("/predict"),
            lambda _: True,
            self.begin,
            self.finish,
            self.failed,
            self.aside,
            100,
            scope,
        )
        return FastPath(self.app, lanes=[one], guard=guard or Guard(), metrics=Metrics(), **given)


@dataclass
class Line:
    """A connection to the lane."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, body: bytes, *headers: bytes) -> None:
        self.writer.write(request(body, *headers))

    async def receive(self) -> tuple[int, dict[str, str], bytes]:
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), WAIT_S)
        first, *lines = head.decode().split("\r\n")[:-2]
        headers = dict(line.lower().split(": ", 1) for line in lines)
        body = await asyncio.wait_for(self.reader.readexactly(int(headers["content-length"])), WAIT_S)
        return int(first.split()[1]), headers, body

    async def bodies(self, count: int) -> list[bytes]:
        return [(await self.receive())[2] for _ in range(count)]


def request(body: bytes, *headers: bytes, path: bytes = b"/predict") -> bytes:
    lines = [b"POST " + path + b" HTTP/1.1", b"Host: x", *headers, b"Content-Length: %d" % len(body)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@asynccontextmanager
async def served(front: FastPath, **settings: Any) -> AsyncIterator[tuple[Callable[[], Awaitable[Line]], ServerState]]:
    protocol = lane(Deadlines(), Connections(), front=front)
    config = uvicorn.Config(front, http=protocol, ws="none", lifespan="off", log_config=None, **settings)
    config.load()
    state = ServerState()
    state.default_headers = [(b"date", b"now")]
    server = await asyncio.get_running_loop().create_server(
        lambda: protocol(config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    port = server.sockets[0].getsockname()[1]
    lines: list[Line] = []

    async def connect() -> Line:
        lines.append(Line(*await asyncio.open_connection("127.0.0.1", port)))
        return lines[-1]

    try:
        yield connect, state
    finally:
        for line in lines:
            line.writer.close()
        server.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.001)


def test_the_answer_is_the_one_that_the_asgi_application_gives() -> None:
    async def scene() -> None:
        engine = Engine()
        front = engine.front()
        async with (
            served(front) as (connect, _),
            AsyncClient(transport=ASGITransport(front), base_url="http://x") as by,
        ):
            line = await connect()
            for body in (b"1", b"22", b"full", b"bug", b"odd", b"strange"):
                line.send(body, b"X-Request-ID: abc")
                status, headers, content = await line.receive()
                other = await by.post("/predict", content=body, headers={"X-Request-ID": "abc"})

                assert headers.pop("date") == "now"
                assert (status, content) == (other.status_code, other.content)
                assert list(headers.items()) == [(name, value.lower()) for name, value in other.headers.items()]

    asyncio.run(scene())


def test_plain_requests_never_reach_the_asgi_application() -> None:
    async def scene() -> None:
        engine = Engine()
        async with served(engine.front()) as (connect, state):
            line = await connect()
            for _ in range(3):
                line.send(b"1")

                assert (await line.receive())[0] == 200
        assert (engine.begun, engine.behind, state.tasks) == (3, [], set())

    asyncio.run(scene())


@pytest.mark.parametrize("together", [True, False], ids=["in one piece", "one after the other"])
def test_requests_that_do_not_wait_for_answers_are_answered_in_their_order(together: bool) -> None:
    async def scene() -> None:
        engine = Engine(at_once=False)
        async with served(engine.front()) as (connect, _):
            line = await connect()
            bodies = [b"%d" % number for number in range(5)]
            if together:
                line.writer.write(b"".join(map(request, bodies)))
            else:
                line.send(bodies[0])
                await until(lambda: len(engine.waiting) == 1)
                for body in bodies[1:]:
                    line.send(body)
                    await line.writer.drain()
            for _ in bodies:
                await until(lambda: bool(engine.waiting))
                engine.answer()

            assert await line.bodies(5) == bodies

    asyncio.run(scene())


def test_a_body_may_come_in_pieces_and_the_next_request_behind_it() -> None:
    async def scene() -> None:
        engine = Engine()
        async with served(engine.front()) as (connect, _):
            line = await connect()
            both = request(b"first") + request(b"second")
            for place in (len(request(b"")), len(request(b"")) + 2, len(both) - 3):
                line.writer.write(both[:place])
                both = both[place:]
                await line.writer.drain()
                await asyncio.sleep(0.01)
            line.writer.write(both)

            assert await line.bodies(2) == [b"first", b"second"]

    asyncio.run(scene())


def test_a_client_that_goes_is_no_longer_waited_for() -> None:
    async def scene() -> None:
        engine = Engine(at_once=False)
        async with served(engine.front()) as (connect, state):
            line = await connect()
            line.send(b"1")
            await until(lambda: len(engine.waiting) == 1)
            [(_, promise)] = engine.waiting
            line.writer.close()
            await until(lambda: not state.connections)

            assert promise.done()
            assert [type(error) for error in engine.ended] == [asyncio.CancelledError]
            engine.answer()

    asyncio.run(scene())


def test_what_is_odd_goes_to_the_application_with_its_body_and_what_is_known_of_it() -> None:
    async def scene() -> None:
        key, stored = make("k", Scope.PREDICT, now=NOW, requests_per_minute=2, rows_per_minute=60)
        guard = Guard(inline="[" + stored.model_dump_json() + "]", clock=NOW.timestamp)
        engine = Engine()
        async with served(engine.front(guard)) as (connect, _):
            line = await connect()
            line.send(b"strange", b"Authorization: Bearer " + key.encode())

            assert (await line.receive())[2] == b"behindstrange"
            [(body, scope)] = engine.behind
            assert (body, scope["modelyard.principal"].name) == (b"strange", "k")
            assert len(engine.ended) == 1

            line.send(b"1", b"X-API-Key: " + key.encode())  # the quota is of two requests: one was counted
            assert (await line.receive())[0] == 200

    asyncio.run(scene())


@pytest.mark.parametrize("short", [False, True], ids=["as an ASGI application", "below ASGI"])
def test_the_rows_of_what_is_refused_or_handed_on_are_given_back(short: bool) -> None:
    async def scene() -> None:
        key, stored = make("k", Scope.PREDICT, now=NOW, rows_per_minute=1)
        guard = Guard(inline="[" + stored.model_dump_json() + "]", clock=NOW.timestamp)
        front = Engine().front(guard)
        async with (
            served(front) as (connect, _),
            AsyncClient(transport=ASGITransport(front), base_url="http://x") as by,
        ):
            line = await connect()

            async def ask(body: bytes) -> int:
                if not short:
                    return (await by.post("/predict", content=body, headers={"X-API-Key": key})).status_code
                line.send(body, b"X-API-Key: " + key.encode())
                return (await line.receive())[0]

            found = [await ask(body) for body in (b"full", b"strange", b"odd", b"bug", b"full", b"1", b"1")]

            assert found == [429, 200, 200, 500, 429, 200, 429]

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        pytest.param(request(b"1", b"Transfer-Encoding: chunked"), 400, id="a length and chunks"),
        pytest.param(request(b"1", b"Content-Length: 1"), 400, id="two lengths"),
        pytest.param(request(b"1", b"Content-Length: 2"), 400, id="two lengths that differ"),
        pytest.param(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n1", 400, id="a signed length"),
        pytest.param(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length : 1\r\n\r\n1", 400, id="a space in a name"),
        pytest.param(request(b"1", b"X: 1\r\n folded"), 400, id="a folded header"),
        pytest.param(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n1\r\n0\r\n\r\n",
            200,
            id="chunks",
        ),
        pytest.param(request(b"1").replace(b"Host: x\r\n", b"Host: x\n"), 400, id="a bare line feed"),
        pytest.param(request(b"1", b"Host: y"), 200, id="two hosts"),
        pytest.param(request(b"1", path=b"/predict?x=1"), 200, id="a query"),
        pytest.param(request(b"1", path=b"/%70redict"), 200, id="an escaped path"),
        pytest.param(request(b"1", b"Expect: 200-ok"), 200, id="an expectation"),
        pytest.param(request(b"1" * 101), 200, id="a large body"),
        pytest.param(request(b"1").replace(b"HTTP/1.1", b"HTTP/1.0"), 200, id="an old version"),
    ],
)
def test_what_could_be_read_in_two_ways_or_is_rare_is_left_to_the_parser(raw: bytes, status: int) -> None:
    async def scene() -> None:
        engine = Engine()
        front = engine.front()
        heads = lane(Deadlines(), Connections(), front=front)
        assert issubclass(heads, LaneProtocol)
        async with served(front) as (connect, _):
            line = await connect()
            line.writer.write(raw)

            assert (await line.receive())[0] == status
        assert heads.heads.known(raw[: raw.index(b"\r\n\r\n") + 4]) is None

    asyncio.run(scene())


def test_a_key_of_a_lesser_scope_is_refused_each_time() -> None:
    async def scene() -> None:
        made = [make(scope.word, scope, now=NOW) for scope in (Scope.PREDICT, Scope.READ)]
        guard = Guard(inline="[" + ",".join(key.model_dump_json() for _, key in made) + "]", clock=NOW.timestamp)
        engine = Engine()
        async with served(engine.front(guard, scope=Scope.READ)) as (connect, _):
            line = await connect()
            found = []
            for text, _key in [*made, *made, *made]:
                line.send(b"1", b"X-API-Key: " + text.encode())
                found.append((await line.receive())[0])

        assert found == [403, 200] * 3
        assert engine.behind == []

    asyncio.run(scene())


def test_a_key_that_has_ended_ends_for_heads_that_are_known_too() -> None:
    async def scene() -> None:
        now = [NOW]
        key, stored = make("k", Scope.PREDICT, now=NOW, expires=NOW + timedelta(hours=1))
        guard = Guard(inline="[" + stored.model_dump_json() + "]", clock=lambda: now[0].timestamp())
        engine = Engine()
        async with served(engine.front(guard)) as (connect, _):
            line = await connect()
            found = []
            for hours in (0, 0, 2):
                now[0] = NOW + timedelta(hours=hours)
                line.send(b"1", b"Authorization: Bearer " + key.encode())
                found.append((await line.receive())[0])
            line.send(b"1")
            status, _, body = await line.receive()

            assert found == [200, 200, 401]
            assert (status, json.loads(body)["code"]) == (401, "unauthenticated")
            assert engine.begun == 2

    asyncio.run(scene())


def test_known_heads_keep_no_key() -> None:
    key, stored = make("k", Scope.PREDICT, now=NOW)
    front = Engine().front(Guard(inline="[" + stored.model_dump_json() + "]", clock=NOW.timestamp))
    heads = lane(Deadlines(), Connections(), front=front)
    assert issubclass(heads, LaneProtocol)

    assert heads.heads.known(request(b"", b"X-API-Key: " + key.encode())) is not None
    assert key not in repr(heads.heads.__dict__)


def test_a_client_that_does_not_read_is_asked_for_no_more() -> None:
    async def scene() -> None:
        engine = Engine(size=8 * 2**20)
        async with served(engine.front()) as (connect, _):
            line = await connect()
            for number in range(6):
                line.send(b"%d" % number)
                await asyncio.sleep(0.05)

            assert engine.begun < 5
            bodies = await line.bodies(6)
            assert [body[:1] for body in bodies] == [b"%d" % number for number in range(6)]

    asyncio.run(scene())


def test_a_server_that_ends_answers_first_and_then_closes() -> None:
    async def scene() -> None:
        engine = Engine(at_once=False)
        async with served(engine.front()) as (connect, state):
            line = await connect()
            line.send(b"1")
            await until(lambda: len(engine.waiting) == 1)
            [protocol] = state.connections
            protocol.shutdown()
            engine.answer()
            _, headers, body = await line.receive()

            assert (headers["connection"], body) == ("close", b"1")
            assert await asyncio.wait_for(line.reader.read(), WAIT_S) == b""
            await until(lambda: not state.connections)

    asyncio.run(scene())


def test_a_quiet_connection_is_closed_once_it_was_quiet_for_long() -> None:
    async def scene() -> None:
        async with served(Engine().front(), timeout_keep_alive=1) as (connect, _):
            line = await connect()
            for _ in range(3):
                line.send(b"1")
                await line.receive()
                await asyncio.sleep(0.4)
            line.send(b"1")
            await line.receive()

            assert await asyncio.wait_for(line.reader.read(), WAIT_S) == b""

    asyncio.run(scene())
