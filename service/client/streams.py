"""Following events over streams that end, break and are resumed: what to ask for next, and when to give up.

Knows no socket; the clock is given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import httpx
from httpx_sse import ServerSentEvent

from service.client.calls import Call, Retry, unreachable
from service.client.refusals import Unreachable
from service.errors import Busy, DeadlinePassed, ServiceError
from service.schemas.views import EventView, JobSummary

_QUIET_S: Final = 45.0
"""A server says something every 15 s; one that is quiet for so long is lost."""
_PAUSE_S: Final = 0.5


def identify(job: str | JobSummary) -> str:
    """The id of a job, which may be given as such."""
    return job if isinstance(job, str) else job.id


class Follower:
    """The state of following one stream: the last event, the time of the last answer, the deadline."""

    def __init__(
        self,
        call: Call[None],
        *,
        after: int | None,
        job: str | None,
        retry: Retry,
        now: Callable[[], float],
        timeout_s: float | None,
    ) -> None:
        self.ended = False
        self._call = call
        self._after = after
        self._job = job
        self._retry = retry
        self._now = now
        self._deadline = None if timeout_s is None else now() + timeout_s
        self._timeout_s = timeout_s
        self._heard = now()
        self.quiet = False  # the stream that was asked for last has brought no event

    def call(self) -> Call[None]:
        """The request that goes on after the last event."""
        self.quiet = True
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if self._after is not None:
            headers["Last-Event-ID"] = str(self._after)
        return replace(self._call, headers={**self._call.headers, **headers})

    def patience_s(self) -> float:
        """How long to wait for the next byte; near the deadline less, so that it is kept within a second or two."""
        if self._deadline is None:
            return _QUIET_S
        self._check_deadline()
        return min(10.0, max(0.5, (self._deadline - self._now()) / 4))

    def take(self, message: ServerSentEvent) -> EventView | None:
        """The event of a message, if it is one; after a job's last event the stream has ended.

        Raises:
            DeadlinePassed: the time is over.
        """
        self._heard = self._now()
        self._check_deadline()
        if not message.data:
            return None
        event = EventView.model_validate_json(message.data)
        self._after = event.id
        self.quiet = False
        if self._job is not None and event.type == "done":
            self.ended = True
        return event

    def broke(self) -> float:
        """The stream ended, perhaps because the server does: seconds until it is asked for again."""
        self._check_deadline()
        self._heard = self._now()
        return 0.0 if self.ended else _PAUSE_S

    def failed(self, error: Exception, url: str) -> float:
        """The stream broke or was refused: seconds until it is asked for again.

        Raises:
            ServiceError: that would be in vain.
        """
        self._check_deadline()
        if isinstance(error, httpx.ReadTimeout) and self._deadline is not None:
            return 0.0
        told = unreachable(url, error) if isinstance(error, httpx.TransportError) else error
        passing = isinstance(told, (Busy, Unreachable))
        if not passing or self._now() - self._heard > self._retry.streams_s:
            raise told from (error if told is not error else None)
        pause = told.retry_after_s if isinstance(told, ServiceError) else None
        return max(_PAUSE_S, min(pause or 0.0, self._retry.most_s))

    def _check_deadline(self) -> None:
        if self._deadline is not None and not self.ended and self._now() >= self._deadline:
            detail = f"It has not ended within {self._timeout_s:g} s, and goes on."
            raise DeadlinePassed(detail, hint="Wait again, or longer.")
