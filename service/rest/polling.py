"""Busy polling: while a client asks again as soon as it is answered, the event loop does not go to sleep in between.

A processor that has nothing to do takes tens of microseconds to wake and finds its caches cold: more than a small net's
forward pass takes. So the loop looks for the next request again and again, for a moment, if the last one came within
that moment. Knows the event loop and the clock; what a request is, it is not told.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

_WINDOW_S: Final = 0.00015
"""So long the loop stays awake; a client that takes longer costs one such moment, and is then waited for asleep."""


class BusyPoll:
    """For one event loop.

    Args:
        clock: in seconds.
        window_s: how long to look for the next request.
    """

    def __init__(self, *, clock: Callable[[], float] = time.perf_counter, window_s: float = _WINDOW_S) -> None:
        self._clock = clock
        self._window_s = window_s
        self._open = 0
        self._answered_at = 0.0
        self._worth = False
        self._polling = False

    def begun(self) -> None:
        """A request is there."""
        if not self._open:
            self._worth = self._clock() - self._answered_at < self._window_s
        self._open += 1

    def ended(self, loop: asyncio.AbstractEventLoop) -> None:
        """It is answered, or handed on. While others are open the loop has enough to wake for, and threads that answer
        them shall have the processor."""
        self._open -= 1
        if self._open:
            return
        self._answered_at = self._clock()
        if self._worth and not self._polling:
            self._polling = True
            loop.call_soon(self._poll, loop)

    def _poll(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._open or self._clock() - self._answered_at >= self._window_s:
            self._polling = False
        else:
            loop.call_soon(self._poll, loop)  # between two calls the loop looks at its sockets
