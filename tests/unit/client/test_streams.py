"""Following events: each once and in order, over streams that break, until the job or the patience ends."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Iterator

import anyio
import httpx
import pytest
from rich.console import Console

from service.client import AsyncClient, Client, Retry, Unreachable
from service.client.calls import Call
from service.client.progress import Bar
from service.client.streams import Follower
from service.errors import DeadlinePassed, NotFound
from service.schemas.views import EventView
from tests.answers import JOB_ID, event_view, job_view
from tests.fakes import FakeClock

PATIENT = Retry(attempts=1, first_s=0.001, streams_s=5)


class Stream(httpx.SyncByteStream, httpx.AsyncByteStream):
    """Server-sent events, and then perhaps a lost connection."""

    def __init__(self, *events: dict, broken: bool = False) -> None:
        self._events = events
        self._broken = broken

    def __iter__(self) -> Iterator[bytes]:
        yield b": hello\n\n"
        for event in self._events:
            text = f"id: {event['id']}\nevent: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n"
            for place in range(0, len(text), 7):  # a piece ends anywhere
                yield text[place : place + 7].encode()
        if self._broken:
            raise httpx.ReadError("the connection was reset")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in iter(self):
            yield piece


def streams(*answers: Stream | httpx.Response, state: str = "running") -> tuple[httpx.MockTransport, list[str | None]]:
    """A server that answers these to requests for events, and the ids after which it was asked."""
    asked: list[str | None] = []
    script = iter(answers)

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/events"):
            asked.append(request.headers.get("last-event-id"))
            assert request.headers["accept"] == "text/event-stream"
            answer = next(script)
            if isinstance(answer, httpx.Response):
                return answer
            return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, stream=answer)
        return httpx.Response(200, json=job_view(state=state))

    return httpx.MockTransport(handle), asked


@pytest.mark.parametrize("broken", [True, False], ids=["reset", "ended"])
def test_a_stream_that_is_lost_goes_on_after_its_last_event(broken: bool) -> None:
    transport, asked = streams(
        Stream(event_view(3), event_view(5), broken=broken), Stream(event_view(8), event_view(9, "done"))
    )
    with Client(transport=transport, retry=PATIENT) as client:
        found = [event.id for event in client.jobs.watch(JOB_ID)]

    assert found == [3, 5, 8, 9]
    assert asked == ["0", "5"]


def test_it_is_the_same_without_threads() -> None:
    transport, asked = streams(Stream(event_view(3), broken=True), Stream(event_view(9, "done")))

    async def watch() -> list[int]:
        async with AsyncClient(transport=transport, retry=PATIENT) as client:
            return [event.id async for event in client.jobs.watch(JOB_ID, after=2)]

    assert anyio.run(watch) == [3, 9]
    assert asked == ["2", "3"]


def test_a_line_separator_in_a_text_is_no_end_of_a_line() -> None:
    transport, _ = streams(Stream(event_view(1, "log", line="one\u2028two\x85three"), event_view(2, "done")))
    with Client(transport=transport, retry=PATIENT) as client:
        assert next(client.jobs.watch(JOB_ID)).data == {"line": "one\u2028two\x85three"}


def test_who_asks_for_what_comes_after_the_end_is_done_at_once() -> None:
    transport, asked = streams(Stream(), state="succeeded")
    with Client(transport=transport, retry=PATIENT) as client:
        assert list(client.jobs.watch(JOB_ID, after=9)) == []

    assert asked == ["9"]


def test_a_refusal_that_will_not_pass_ends_it() -> None:
    body = {"code": "not-found", "detail": "There is no such job.", "errors": []}
    answer = httpx.Response(404, headers={"Content-Type": "application/problem+json"}, content=json.dumps(body))
    transport, asked = streams(answer)
    with Client(transport=transport, retry=PATIENT) as client, pytest.raises(NotFound):
        list(client.jobs.watch(JOB_ID))

    assert len(asked) == 1


def test_a_function_is_told_each_event_while_a_job_is_waited_for() -> None:
    told: list[int] = []
    transport, _ = streams(Stream(event_view(3), event_view(9, "done")), state="succeeded")
    with Client(transport=transport, retry=PATIENT) as client:
        job = client.jobs.wait(JOB_ID, progress=lambda event: told.append(event.id))

    assert (told, job.ended) == ([3, 9], True)


class TestPatience:
    def follower(self, clock: FakeClock, **options: float | None) -> Follower:
        call: Call[None] = Call("GET", "/v1/events", None)
        timeout_s = options.get("timeout_s")
        return Follower(call, after=None, job=JOB_ID, retry=Retry(streams_s=60), now=clock, timeout_s=timeout_s)

    def test_a_server_that_is_gone_is_asked_for_a_minute(self) -> None:
        clock = FakeClock()
        follower = self.follower(clock)
        error = httpx.ConnectError("refused")
        for _ in range(59):
            assert follower.failed(error, "http://yard") == 0.5
            clock.advance(1)
        clock.advance(2)

        with pytest.raises(Unreachable):
            follower.failed(error, "http://yard")

    def test_near_the_deadline_silence_is_borne_for_a_shorter_time(self) -> None:
        clock = FakeClock()
        follower = self.follower(clock, timeout_s=20)

        assert follower.patience_s() == 5
        clock.advance(19)
        assert follower.patience_s() == 0.5
        clock.advance(1)
        with pytest.raises(DeadlinePassed, match="within 20 s"):
            follower.patience_s()


def test_a_bar_shows_state_part_and_losses() -> None:
    shown = io.StringIO()
    with Bar(Console(file=shown, force_terminal=True, width=120)) as bar:
        bar(EventView.model_validate(event_view(1, "state", state="running")))
        bar(EventView.model_validate(event_view(2, "progress", fraction=0.25, eta_s=12.4)))
        bar(EventView.model_validate(event_view(3, "metrics", last={"loss": 0.5})))
        bar(EventView.model_validate(event_view(4, "metrics", last={"val_loss": 0.75})))

    for word in ("running", "25 %", "12 s left", "loss 0.5  val_loss 0.75"):
        assert word in shown.getvalue()


def test_a_bar_writes_nothing_where_nobody_looks() -> None:
    shown = io.StringIO()
    with Bar(Console(file=shown)) as bar:
        bar(EventView.model_validate(event_view(4, "done")))

    assert shown.getvalue() == ""
