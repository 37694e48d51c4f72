"""Silent, dripping and oversized clients are cut; those that keep sending are not, and nobody else waits for them."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.live import Server, self_signed, wait_for

HEADERS_S = 1.0
BODY_S = 1.0
RATE = 1000
CUT_WITHIN_S = 20.0
"""Far more than the deadlines: the machine may be busy."""
POST = b"POST /v1/uploads HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(
        tmp_path_factory.mktemp("strict") / "store",
        header_timeout_s=str(HEADERS_S),
        body_timeout_s=str(BODY_S),
        body_bytes_per_s=str(RATE),
    ).start()
    yield server
    assert server.stop() == 0


@pytest.fixture
def line(strict: Server) -> Iterator[socket.socket]:
    address = urlsplit(strict.url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=CUT_WITHIN_S) as connection:
        yield connection


def everything(line: socket.socket) -> bytes:
    """What comes until the server closes."""
    found = b""
    try:
        while piece := line.recv(65536):
            found += piece
    except ConnectionResetError:  # it closed while we were sending
        pass
    return found


def drip(line: socket.socket, data: bytes, *, every: float) -> bytes:
    """Send a byte at a time until the server closes; what it said."""
    line.settimeout(every)
    found = b""
    for place in range(len(data)):
        try:
            line.sendall(data[place : place + 1])
            piece = line.recv(65536)
        except TimeoutError:
            continue
        except OSError:
            return found
        if not piece:
            return found
        found += piece
    raise AssertionError("it was never cut")


def problem(answer: bytes, status: int, code: str) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 %d " % status), answer
    assert b"content-type: application/problem+json" in head
    assert b"connection: close" in head
    assert b"x-request-id: " in head
    assert json.loads(body)["code"] == code


def test_a_silent_client_is_cut_without_a_word(line: socket.socket) -> None:
    began = time.monotonic()

    assert everything(line) == b""
    assert time.monotonic() - began > HEADERS_S * 0.9


def test_half_of_the_headers_is_not_waited_for(line: socket.socket) -> None:
    line.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n")

    problem(everything(line), 408, "request-timeout")


def test_dripping_headers_are_cut(line: socket.socket) -> None:
    data = b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 1000

    problem(drip(line, data, every=0.05), 408, "request-timeout")


def test_the_second_request_of_a_connection_has_its_own_time(line: socket.socket) -> None:
    for _ in range(2):
        time.sleep(HEADERS_S * 0.6)  # idle, which is no crime
        line.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = HTTPResponse(line)
        answer.begin()
        assert (answer.status, answer.read()) == (200, b'{"status":"alive"}')
    line.sendall(b"GET /livez")

    problem(everything(line), 408, "request-timeout")


@pytest.mark.parametrize("between", [b"\r\n", b"\r\n\r\n\r\n"])
def test_line_ends_between_requests_hold_no_connection(line: socket.socket, between: bytes) -> None:
    line.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = HTTPResponse(line)
    answer.begin()
    answer.read()
    began = time.monotonic()
    line.sendall(between)

    assert everything(line) == b""
    assert time.monotonic() - began < CUT_WITHIN_S < 30  # which idle connections are given


def test_a_body_that_never_comes_is_cut(line: socket.socket, strict: Server) -> None:
    line.sendall(POST % 1000 + b"x")

    problem(everything(line), 408, "request-timeout")
    with strict.client() as client:
        assert client.get("/v1/uploads").json()["data"] == []


def test_a_body_slower_than_the_least_rate_is_cut(line: socket.socket) -> None:
    line.sendall(POST % 10**6)

    problem(drip(line, b"x" * 10**5, every=0.02), 408, "request-timeout")


def test_a_body_that_keeps_the_rate_may_take_longer_than_any_deadline(strict: Server, line: socket.socket) -> None:
    piece, pieces = RATE, 30  # twice the rate and more, for at least 3 s
    began = time.monotonic()
    line.sendall(POST % (piece * pieces))
    for _ in range(pieces):
        line.sendall(b"x" * piece)
        time.sleep(0.1)
    answer = HTTPResponse(line)
    answer.begin()
    body = json.loads(answer.read())

    assert time.monotonic() - began > BODY_S * 2
    assert (answer.status, body["size_bytes"]) == (201, piece * pieces)
    with strict.client() as client:
        client.delete(f"/v1/uploads/{body['id']}").raise_for_status()


def test_what_follows_an_early_answer_is_not_answered_again(line: socket.socket) -> None:
    line.sendall(b"POST /v1/uploads HTTP/1.1\r\nHost: x\r\nContent-Length: 2147483649\r\n\r\nabc")
    found = everything(line)

    assert found.count(b"HTTP/1.1") == 1
    assert found.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"], ids=["unfinished", "finished"])
def test_headers_beyond_the_limit_are_refused(line: socket.socket, end: bytes) -> None:
    try:
        line.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 40_000 + end)
    except ConnectionError:
        pass

    problem(everything(line), 431, "headers-too-large")


def test_large_bodies_beside_small_headers_are_no_large_headers(strict: Server) -> None:
    with strict.client() as client:
        answer = client.post("/predict", content=b"[" + b" " * 200_000, headers={"Content-Type": "application/json"})

    assert answer.json()["code"] == "malformed-json"


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nA b\r\n\r\n"])
def test_what_is_no_request_is_answered_in_the_one_shape(line: socket.socket, sent: bytes) -> None:
    line.sendall(sent)

    problem(everything(line), 400, "bad-request")


def test_others_are_answered_while_two_hundred_connections_say_nothing(strict: Server) -> None:
    address = urlsplit(strict.url)
    silent = [socket.create_connection((address.hostname or "", address.port or 0)) for _ in range(200)]
    try:
        with strict.client() as client:
            answers = [client.get("/livez").status_code for _ in range(50)]
        for connection in silent:
            connection.settimeout(CUT_WITHIN_S)
            assert everything(connection) == b""
    finally:
        for connection in silent:
            connection.close()

    assert answers == [200] * 50


def test_a_stream_lives_longer_than_the_deadlines(line: socket.socket) -> None:
    line.sendall(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
    assert line.recv(65536).startswith(b"HTTP/1.1 200 ")
    until = time.monotonic() + 1.5 * max(HEADERS_S, BODY_S)
    line.settimeout(0.2)
    while time.monotonic() < until:
        try:
            assert line.recv(65536) != b"", "it was cut"
        except TimeoutError:
            continue


PLACES = 4


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "small", max_connections=str(PLACES)).start()
    yield server
    assert server.stop() == 0


def asked(connection: socket.socket) -> HTTPResponse:
    """Ask for something small; the answer."""
    try:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    except ConnectionError:  # it was turned away already, and has said so
        pass
    answer = HTTPResponse(connection)
    answer.begin()
    return answer


def test_connections_beyond_the_limit_are_turned_away_until_one_goes(small: Server) -> None:
    address = urlsplit(small.url)
    place = address.hostname or "", address.port or 0
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(place, CUT_WITHIN_S)) for _ in range(PLACES)]
        for connection in held:
            answer = asked(connection)
            assert (answer.status, answer.read()) == (200, b'{"status":"alive"}')
        one_more = stack.enter_context(socket.create_connection(place, CUT_WITHIN_S))
        told = everything(one_more)
        problem(told, 503, "too-many-connections")
        assert b"retry-after: 1\r\n" in told
        assert json.loads(told.partition(b"\r\n\r\n")[2])["limit"] == {"name": "max_connections", "value": PLACES}
        assert asked(held[0]).status == 200  # those that were there go on
        held[1].close()

        def there_is_room() -> bool:
            with socket.create_connection(place, CUT_WITHIN_S) as connection:
                return asked(connection).status == 200

        wait_for(there_is_room)
    assert '"turned_away"' in small.log.read_text()


def gone(server: Server) -> float:
    """How many requests were answered 4xx or left by their clients."""
    with server.client() as client:
        lines = client.get("/metrics").text.splitlines()
    counts = [line for line in lines if line.startswith("modelyard_http_requests_total") and '"4xx"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in counts)


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/predict", b"Content-Type: application/json\r\nContent-Length: 100"),
        ("/predict", b"Content-Type: application/json; charset=utf-8\r\nContent-Length: 100"),
        ("/predict", b"Content-Type: application/json\r\nTransfer-Encoding: chunked"),
        ("/v1/jobs", b"Content-Type: application/json\r\nContent-Length: 100"),
        ("/v1/uploads", b"Content-Type: text/csv\r\nContent-Length: 100"),
        ("/v2/models/five/infer", b"Transfer-Encoding: chunked"),
    ],
)
def test_a_client_that_goes_in_the_middle_of_its_body_is_no_bug(strict: Server, path: str, headers: bytes) -> None:
    address = urlsplit(strict.url)
    before = gone(strict)
    offset = strict.log.stat().st_size
    with socket.create_connection((address.hostname or "", address.port or 0)) as connection:
        connection.sendall(b"POST %b HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n" % (path.encode(), headers))
        connection.sendall(b"1\r\n{\r\n")
    wait_for(lambda: gone(strict) > before)
    with strict.log.open("rb") as log:
        log.seek(offset)
        lines = [json.loads(line) for line in log.read().splitlines()]
    noted = [line for line in lines if line.get("path") == path]

    assert [line["status"] for line in noted] == [499]
    assert [line for line in lines if line["level"] in ("warning", "error")] == []
    with strict.client() as client:
        assert "modelyard_internal_errors_total 0.0" in client.get("/metrics").text.splitlines()


@pytest.mark.parametrize("hosts", [b"Host: a\r\nHost: b\r\n", b"Host: a\r\nHost: a\r\n"])
@pytest.mark.parametrize("request_line", [b"GET /v1/models HTTP/1.1", b"POST /predict HTTP/1.1"])
def test_a_request_for_two_hosts_is_refused(line: socket.socket, request_line: bytes, hosts: bytes) -> None:
    line.sendall(request_line + b"\r\n" + hosts + b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
    answer = HTTPResponse(line)
    answer.begin()

    assert (answer.status, json.loads(answer.read())["code"]) == (400, "bad-request")


def left_lying(server: Server, requests: int) -> socket.socket:
    """A connection that asks much at once and reads nothing."""
    address = urlsplit(server.url)
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.connect((address.hostname or "", address.port or 0))
    line.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * requests)
    return line


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "impatient", max_connections=str(PLACES), body_timeout_s="2").start()
    yield server
    assert server.stop() == 0


def status(server: Server) -> int:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname or "", address.port or 0), CUT_WITHIN_S) as connection:
        return asked(connection).status


def test_those_who_take_nothing_of_their_answers_are_cut(impatient: Server) -> None:
    with ExitStack() as stack:
        lines = [stack.enter_context(left_lying(impatient, 60)) for _ in range(PLACES)]
        assert wait_for(lambda: status(impatient) == 503)
        assert wait_for(lambda: status(impatient) == 200, timeout=CUT_WITHIN_S)
        for line in lines:
            line.settimeout(CUT_WITHIN_S)
            everything(line)  # ends
    assert "its client took nothing" in impatient.log.read_text()


def test_who_takes_answers_slowly_gets_all_of_them(impatient: Server) -> None:
    with left_lying(impatient, 30) as line:
        line.settimeout(CUT_WITHIN_S)
        began = time.monotonic()
        taken, whole = b"", None
        while whole is None or len(taken) < 30 * whole:
            piece = line.recv(65536)
            assert piece
            taken += piece
            head, found, _ = taken.partition(b"\r\n\r\n")
            if found and whole is None:
                whole = len(head) + 4 + int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            if time.monotonic() - began < 5:
                time.sleep(0.2)

    assert taken.count(b"HTTP/1.1 200 OK\r\n") == 30
    assert time.monotonic() - began > 4


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_client_that_does_not_shake_hands_is_cut(tmp_path: Path, workers: str) -> None:
    certificate, private = self_signed(tmp_path)
    server = Server(
        tmp_path / "store",
        header_timeout_s=str(HEADERS_S),
        tls_certfile=str(certificate),
        tls_keyfile=str(private),
        workers=workers,
    ).start()
    address = urlsplit(server.url)
    place = address.hostname or "", address.port or 0
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    try:
        with ExitStack() as stack:
            silent = [stack.enter_context(socket.create_connection(place, CUT_WITHIN_S)) for _ in range(4)]
            silent[0].sendall(hello)
            began = time.monotonic()
            for connection in silent:
                assert everything(connection) == b""
            took = time.monotonic() - began
        with httpx.Client(base_url=server.url, verify=ssl.create_default_context(cafile=str(certificate))) as client:
            answers = [client.get("/livez").status_code for _ in range(3)]
    finally:
        assert server.stop() == 0

    assert HEADERS_S * 0.9 < took < CUT_WITHIN_S  # asyncio itself would wait for a minute
    assert answers == [200] * 3


def test_a_server_with_tls_does_not_wait_for_silent_clients_at_its_end(tmp_path: Path) -> None:
    certificate, private = self_signed(tmp_path)
    server = Server(tmp_path / "store", tls_certfile=str(certificate), tls_keyfile=str(private)).start()
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname or "", address.port or 0)):
        began = time.monotonic()

        assert server.stop() == 0
    assert time.monotonic() - began < CUT_WITHIN_S
