"""An ASGI application as something a client without asyncio can talk to: it runs in an event loop of its own thread.

An answer is passed on when it is complete, so a stream that never ends never comes. Knows no operation.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal


class AppTransport(httpx.BaseTransport):
    """A transport to an ASGI application; its lifespan is the caller's business."""

    def __init__(self, app: Any) -> None:
        self._inner = httpx.ASGITransport(app)
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Let the application answer."""
        if self._portal is None:
            self._portal = self._stack.enter_context(start_blocking_portal())
        request.read()
        return self._portal.call(self._answer, request)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        inner = httpx.Request(
            request.method, request.url, headers=request.headers, content=request.content, extensions=request.extensions
        )
        response = await self._inner.handle_async_request(inner)
        content = await response.aread()
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            stream=httpx.ByteStream(content),
            extensions=response.extensions,
        )

    def close(self) -> None:
        """End the event loop."""
        self._portal = None
        self._stack.close()
