"""The server process: uvicorn with our own end, which drains and exits 0.

Knows signals and sockets; what is served is `app`.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import socket
from collections.abc import Iterator
from typing import Final

import uvicorn
from sse_starlette.sse import AppStatus

from service.jobs.launchers import ForkLauncher
from service.rest.health import Lifecycle
from service.rest.receiving import Connections, Deadlines, receiving
from service.settings import Settings
from service.telemetry import configure_logging, log

_log = log(__name__)

RESERVED_DESCRIPTORS: Final = 128
"""File descriptors that connections leave to the store, the database, models that load, and workers."""


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; the exit status is 0 after a clean drain and 3 when the start failed.

    Raises:
        StoreLocked: another server holds the store.
        StoreError: the store cannot be opened.
    """
    configure_logging(level=settings.log_level, style=settings.log_format)
    # Event streams end by themselves when the drain begins. The library would cut them in the middle of an answer.
    AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]  # the library leaves it untyped
    lifecycle = Lifecycle()
    launcher = ForkLauncher()  # first of all: it warms up beside the import of torch in this process
    try:
        from service.app import create_app

        app = create_app(settings, lifecycle=lifecycle, launcher=launcher)
    except BaseException:
        launcher.close()
        raise
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=receiving(
            Deadlines(settings.header_timeout_s, settings.body_timeout_s, body_bytes_per_s=settings.body_bytes_per_s),
            Connections(
                affordable(settings.max_connections),
                settings.max_connections_per_address,
                trusted=settings.trusted_proxies,
            ),
        ),
        ws="none",
        loop="uvloop",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        ssl_certfile=settings.tls_certfile,
        ssl_keyfile=settings.tls_keyfile,
        lifespan="on",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=max(1, round(settings.drain_timeout_s)),
        backlog=2048,
    )
    server = Server(config, lifecycle, drain_delay_s=settings.drain_delay_s)
    server.run()
    return 0 if server.started else 3


def affordable(most: int) -> int:
    """So many connections, or fewer where this process may not open that many files and sockets."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY or most + RESERVED_DESCRIPTORS <= allowed:
        return most
    lowered = max(1, allowed - RESERVED_DESCRIPTORS)
    _log.warning(
        "Fewer connections are held than MODELYARD_MAX_CONNECTIONS says: this process may open too few files. "
        "Raise its limit (ulimit -n, LimitNOFILE=).",
        action="connections_lowered",
        max_connections=lowered,
        wanted=most,
        descriptors=allowed,
    )
    return lowered


class Server(uvicorn.Server):
    """uvicorn's server, which says where it listens, drains before it closes, and does not die of the signal."""

    def __init__(self, config: uvicorn.Config, lifecycle: Lifecycle, *, drain_delay_s: float) -> None:
        super().__init__(config)
        self._lifecycle = lifecycle
        self._drain_delay_s = drain_delay_s

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGTERM and SIGINT; unlike uvicorn's, do not raise them again afterwards: a clean end is no error."""
        handled = (signal.SIGTERM, signal.SIGINT)
        for number in handled:
            signal.signal(number, self.handle_exit)
        yield
        for number in handled:  # another one, now that all is done, would still make the clean end look like a crash
            signal.signal(number, signal.SIG_IGN)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say where."""
        await super().startup(sockets=sockets)
        if not self.started:
            return
        for server in self.servers:
            for bound in server.sockets:
                host, port = bound.getsockname()[:2]
                scheme = "https" if self.config.is_ssl else "http"
                url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
                _log.info(
                    f"Modelyard listens at {url} (API {url}/docs, metrics {url}/metrics).", action="listening", url=url
                )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Fail readiness, go on accepting for the delay, then let uvicorn answer what is in flight."""
        self._lifecycle.drain()
        _log.info("The server is draining.", action="draining", delay_s=self._drain_delay_s)
        if not self.force_exit and self._drain_delay_s:
            await asyncio.sleep(self._drain_delay_s)
        await super().shutdown(sockets=sockets)
