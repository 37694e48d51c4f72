"""When the event loop stays awake for the next request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from service.rest.polling import BusyPoll


class Loop:
    """Keeps what shall be called at its next turn."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], Any]] = []

    def call_soon(self, function: Callable[..., Any], *given: Any) -> None:
        self.calls.append(lambda: function(*given))

    def turn(self) -> int:
        """Call what is there; how much that was."""
        calls, self.calls = self.calls, []
        for call in calls:
            call()
        return len(calls)


class Time:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Played:
    """A poll with its loop and its clock."""

    def __init__(self) -> None:
        self.time = Time()
        self.loop = Loop()
        self.poll = BusyPoll(clock=self.time, window_s=0.1)

    def begun(self) -> None:
        self.poll.begun()

    def ended(self) -> None:
        self.poll.ended(cast("asyncio.AbstractEventLoop", self.loop))

    def one(self, *, after_s: float) -> None:
        """A request that comes so long after what was before, and is answered."""
        self.time.now += after_s
        self.begun()
        self.time.now += 0.01
        self.ended()


def test_nobody_is_waited_for_before_a_request_has_followed_at_once() -> None:
    played = Played()
    played.one(after_s=0)
    assert not played.loop.calls
    played.one(after_s=5)
    assert not played.loop.calls


def test_a_client_that_asks_again_at_once_is_waited_for_awake_and_not_for_long() -> None:
    played = Played()
    played.one(after_s=0)
    played.one(after_s=0.05)
    for _ in range(3):
        played.time.now += 0.02
        assert played.loop.turn() == 1
    played.time.now += 0.2
    assert played.loop.turn() == 1, "the last look"
    assert played.loop.turn() == 0
    played.one(after_s=0.0)
    assert not played.loop.calls, "it came late: the next one is not waited for"


def test_one_look_at_a_time_however_many_are_answered() -> None:
    played = Played()
    played.one(after_s=0)
    for _ in range(5):
        played.one(after_s=0.01)
        assert len(played.loop.calls) == 1


def test_the_processor_is_left_to_those_who_answer_others() -> None:
    played = Played()
    played.one(after_s=0)
    played.time.now += 0.01
    played.begun()
    played.begun()
    played.ended()
    assert not played.loop.calls, "another one is open"
    played.ended()
    assert played.loop.turn() == 1
    played.begun()
    assert played.loop.turn() == 1
    assert not played.loop.calls, "a request is open: it needs no look"
