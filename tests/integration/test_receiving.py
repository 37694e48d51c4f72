"""Silent, dripping and oversized clients are cut; those that keep sending are not, and nobody else waits for them."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from http.client import HTTPResponse
from urllib.parse import urlsplit

import pytest

from tests.live import Server

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
