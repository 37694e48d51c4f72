"""Probes, version and metrics: they need no key, never touch the store or a lock, and are not logged at INFO."""

from __future__ import annotations

import platform
import sys
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Annotated, Any

from fastapi import APIRouter, Path
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from starlette.responses import PlainTextResponse

from service import __version__
from service.errors import Draining, NotFound
from service.rest import problems
from service.telemetry import Metrics


class Phase(Enum):
    """Where the server is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    """A stop was asked for: not ready for new work, still answering what was accepted."""


class Lifecycle:
    """The phase of this server, shared by its signal handler, its probes and its streams."""

    def __init__(self) -> None:
        self.phase = Phase.STARTING
        self._on_drain: list[Callable[[], None]] = []

    def on_drain(self, listener: Callable[[], None]) -> None:
        """Call `listener` when the drain begins; it must not wait."""
        self._on_drain.append(listener)

    def drain(self) -> None:
        """Begin to drain: whoever needs time for it is told now, while requests are still being answered."""
        if self.phase is not Phase.DRAINING:
            self.phase = Phase.DRAINING
            for listener in self._on_drain:
                listener()

    @property
    def draining(self) -> bool:
        """Whether streams should end now."""
        return self.phase is Phase.DRAINING


def router(
    lifecycle: Lifecycle,
    *,
    metrics: Metrics,
    healthy: Callable[[], bool],
    all_metrics: Callable[[], Awaitable[Collector]] | None = None,
) -> APIRouter:
    """The routes.

    Args:
        lifecycle: where the server is in its life.
        metrics: of this process.
        healthy: whether the parts that must run do.
        all_metrics: gives those of all processes, where there are several.
    """
    routes = APIRouter(tags=["health"])
    environment = {
        "version": __version__,
        "python": platform.python_version(),
        "torch": _torch_version(),
        "api": "v1",
        "architecture_schema": "arch/1",
    }

    @routes.head("/livez", include_in_schema=False)
    @routes.get("/livez", summary="Is the process alive?")
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @routes.head("/startupz", include_in_schema=False)
    @routes.get("/startupz", summary="Has the server started?", responses=UNAVAILABLE)
    async def startupz() -> dict[str, str]:
        if lifecycle.phase is Phase.STARTING:
            raise Draining("The server is starting.", retry_after_s=1)
        return {"status": "started"}

    @routes.head("/readyz", include_in_schema=False)
    @routes.get("/readyz", summary="Should the server get requests?", responses=UNAVAILABLE)
    async def readyz() -> dict[str, str]:
        if lifecycle.phase is not Phase.READY:
            raise Draining(f"The server is {lifecycle.phase.value}.", retry_after_s=1)
        if not healthy():
            raise Draining("The supervisor of jobs does not run.", retry_after_s=5)
        return {"status": "ready"}

    @routes.get("/version", summary="What runs here?")
    async def version() -> dict[str, str]:
        return environment

    @routes.get("/metrics", summary="Metrics for Prometheus", response_class=PlainTextResponse)
    async def prometheus() -> Response:
        found = metrics.registry if all_metrics is None else await all_metrics()
        return Response(generate_latest(found), media_type=CONTENT_TYPE_LATEST)

    @routes.get("/problems/{code}", summary="What a problem's code means", response_class=HTMLResponse)
    async def problem_page(code: Annotated[str, Path(max_length=100, examples=["not-found"])]) -> HTMLResponse:
        page = problems.page(code)
        if page is None:
            raise NotFound("There is no problem with this code.")
        return page

    @routes.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("/ui/")

    return routes


UNAVAILABLE: dict[int | str, dict[str, Any]] = {503: {"description": "Not now.", "content": {problems.MEDIA_TYPE: {}}}}


def _torch_version() -> str:
    torch = sys.modules.get("torch")  # the fronts do not import it; the engine below has
    return str(getattr(torch, "__version__", "none"))
