"""What goes on around the batcher: turns of the event loop, threads, deadlines, callers that leave."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from service.errors import DeadlinePassed
from service.inference.batcher import Batch, Policy
from service.inference.dispatch import Dispatcher, Request


class Engine:
    """Answers each request with its work; runs of long ones wait for the gate."""

    def __init__(self, cost: float) -> None:
        self.cost = cost
        self.gate = threading.Event()
        self.ran: list[list[Any]] = []
        self.threads: set[int] = set()

    def run(self, batch: Batch[Request]) -> tuple[Sequence[Any], float | None]:
        self.threads.add(threading.get_ident())
        if batch.in_thread:
            assert self.gate.wait(10)
        self.ran.append([member.work for member in batch.members])
        return [member.work for member in batch.members], self.cost


def started(cost: float, **policy: Any) -> tuple[Engine, Dispatcher]:
    engine = Engine(cost)
    dispatcher = Dispatcher(Policy(**policy), engine.run)
    for rows in (1, 8, 64):
        dispatcher.measured("a", mergeable=True, rows=rows, seconds=cost)
    return engine, dispatcher


def ask(dispatcher: Dispatcher, work: Any, **given: Any) -> asyncio.Future[Any]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    dispatcher.submit(Request("a", 1, work, future, arrived=dispatcher._clock(), **given))
    return future


def test_what_one_turn_of_the_loop_brings_is_one_short_forward_pass() -> None:
    async def scene() -> list[Any]:
        return await asyncio.gather(*[ask(dispatcher, number) for number in range(5)])

    engine, dispatcher = started(0.00001)

    assert asyncio.run(scene()) == [0, 1, 2, 3, 4]
    assert engine.ran == [[0, 1, 2, 3, 4]]
    assert engine.threads == {threading.get_ident()}


def test_long_forward_passes_leave_the_loop_free_and_take_all_that_has_come_meanwhile() -> None:
    async def scene() -> list[Any]:
        first = ask(dispatcher, 0)
        while not engine.threads:
            await asyncio.sleep(0.001)
        others = [ask(dispatcher, number) for number in range(1, 4)]
        engine.gate.set()
        return await asyncio.gather(first, *others)

    engine, dispatcher = started(0.01)

    assert asyncio.run(scene()) == [0, 1, 2, 3]
    assert engine.ran == [[0], [1, 2, 3]]
    assert threading.get_ident() not in engine.threads
    dispatcher.close()


def test_a_caller_that_leaves_costs_nothing_and_one_that_is_late_is_told() -> None:
    async def scene() -> None:
        first = ask(dispatcher, 0)
        while not engine.threads:
            await asyncio.sleep(0.001)
        left = ask(dispatcher, 1)
        late = ask(dispatcher, 2, deadline=dispatcher._clock() - 1)
        last = ask(dispatcher, 3)
        left.cancel()
        engine.gate.set()
        assert await first == 0
        assert await last == 3
        with pytest.raises(DeadlinePassed):
            await late

    engine, dispatcher = started(0.01)
    asyncio.run(scene())

    assert engine.ran == [[0], [3]]
    dispatcher.close()


def test_an_exception_is_that_of_its_own_request() -> None:
    async def scene() -> list[Any]:
        return await asyncio.gather(*[ask(dispatcher, each) for each in works], return_exceptions=True)

    works = [1, ValueError("poison"), 2]
    _, dispatcher = started(0.00001)

    assert asyncio.run(scene()) == works


@pytest.mark.parametrize("cost", [0.00001, 0.01])
def test_a_bug_in_a_forward_pass_is_told_and_the_next_one_runs(cost: float) -> None:
    engine, dispatcher = started(cost)
    engine.gate.set()
    run, failures = engine.run, [RuntimeError("bug")]

    def once(batch: Batch[Request]) -> tuple[Sequence[Any], float | None]:
        if failures:
            raise failures[0]
        return run(batch)

    dispatcher._run = once

    async def whole() -> list[Any]:
        first = await asyncio.gather(ask(dispatcher, 0), ask(dispatcher, 1), return_exceptions=True)
        failures.clear()
        return [*first, await ask(dispatcher, 2)]

    found = asyncio.run(whole())

    assert [type(each) for each in found] == [RuntimeError, RuntimeError, int]
    dispatcher.close()
