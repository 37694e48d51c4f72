"""A server process: uvicorn with our own end, which drains and exits 0.

It is the whole server, or one of several processes (`processes`). Knows signals and sockets; what is served is `app`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import uvicorn
from sse_starlette.sse import AppStatus

from service.errors import ServiceError, ValidationFailed
from service.jobs import forkserver
from service.jobs.launchers import ForkLauncher, InheritedLauncher, Launcher
from service.rest.health import Lifecycle
from service.rest.lane import lane
from service.rest.receiving import Connections, Deadlines
from service.settings import Settings
from service.siblings import Seat
from service.store.files import StoreLock, make_folder
from service.telemetry import configure_logging, log, name_process

_log = log(__name__)

STARTUP_FAILURE: Final = 3

RESERVED_DESCRIPTORS: Final = 128
"""File descriptors that connections leave to the store, the database, models that load, and workers."""

_LATE_S: Final = 0.1
"""Between two looks at whether connections came in while the port was being closed."""

_TURNS: Final = 4
"""Of the event loop: each of them but the first reads what has come."""

_SWITCH_S: Final = 0.00005
"""So long a thread waits before it has Python's lock handed over. A forward pass gives the lock back and takes it again
at each operation, and against a busy event loop it lost every time: with Python's 5 ms the two took turns where they
could have run beside each other."""


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; the exit status is 0 after a clean drain and 3 when the start failed.

    Raises:
        StoreLocked: another server holds the store.
        StoreError: the store cannot be opened.
    """
    configure_logging(level=settings.log_level, style=settings.log_format)
    make_folder(settings.store, parents=True)
    with StoreLock(settings.store / "LOCK"):  # told now, not after seconds of importing
        pass
    import_all()
    return _serve(settings, ForkLauncher(forkserver.fork()))


def import_all() -> None:
    """Pay once for what a server process and every worker would pay; who is forked from here shares it.

    No thread is started, if the environment's OMP_NUM_THREADS and its kin say 1.
    """
    import service.app  # noqa: F401

    forkserver.warm()


def take(seat: Seat, settings: Settings) -> int:
    """Serve from one of several seats until SIGTERM, SIGINT or the parent's end; the exit status is as that of `run`.

    What prevents it is reported to the parent.
    """
    name_process(seat.place)
    try:
        return _serve(settings, InheritedLauncher(seat.launching), seat)
    except ServiceError as error:
        wrong = isinstance(error, ValidationFailed)
        seat.report("failed", settings=wrong, message=error.message, hint=error.hint)
        return STARTUP_FAILURE


def _serve(settings: Settings, launcher: Launcher, seat: Seat | None = None) -> int:
    # Event streams end by themselves when the drain begins. The library would cut them in the middle of an answer.
    AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]  # the library leaves it untyped
    lifecycle = Lifecycle()
    try:
        from service.app import create_app

        app = create_app(settings, lifecycle=lifecycle, launcher=launcher, seat=seat)
    except BaseException:
        launcher.close()
        raise
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=lane(
            Deadlines(settings.header_timeout_s, settings.body_timeout_s, body_bytes_per_s=settings.body_bytes_per_s),
            Connections(
                affordable(settings.max_connections),
                settings.max_connections_per_address,
                trusted=settings.trusted_proxies,
            ),
            front=app.front,
            forwarded=bool(settings.trusted_proxies),
        ),
        ws="none",
        loop="uvloop",
        log_config=None,
        access_log=False,
        server_header=False,
        headers=[] if seat is None else [("x-modelyard-process", str(seat.place))],
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
    sys.setswitchinterval(_SWITCH_S)
    server = Server(
        config,
        lifecycle,
        drain_delay_s=settings.drain_delay_s,
        handshake_timeout_s=settings.header_timeout_s,
        seat=seat,
    )
    if seat is not None and not seat.await_turn():
        return STARTUP_FAILURE
    server.run(None if seat is None else list(seat.sockets))
    return 0 if server.started else STARTUP_FAILURE


def url_of(bound: socket.socket, *, tls: bool) -> str:
    """Where clients find what listens at a socket."""
    host, port = bound.getsockname()[:2]
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def tell_where(url: str, **more: Any) -> None:
    """Say in the log where the server listens, now that it does."""
    sentence = f"Modelyard listens at {url} (dashboard {url}/ui/, API {url}/docs, metrics {url}/metrics)."
    _log.info(sentence, action="listening", url=url, **more)


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

    def __init__(
        self,
        config: uvicorn.Config,
        lifecycle: Lifecycle,
        *,
        drain_delay_s: float,
        handshake_timeout_s: float,
        seat: Seat | None = None,
    ) -> None:
        super().__init__(config)
        self._handshake_timeout_s = handshake_timeout_s
        self._seat = seat
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
        """Start, then say where, or tell the parent."""
        if self._seat is not None:
            self._seat.on_orphaned(self._orphaned)
        if self.config.ssl is None:
            await super().startup(sockets=sockets)
        else:
            await super().startup(sockets=[])  # all but listening
            await self._listen(sockets)
        if not self.started:
            return
        if self._seat is not None:
            self._seat.report("ready")
            _log.info("A server process is ready.", action="process_ready", pid=os.getpid())
            return
        for server in self.servers:
            for bound in server.sockets:
                tell_where(url_of(bound, tls=self.config.is_ssl))

    async def _listen(self, sockets: list[socket.socket] | None) -> None:
        """Listen with TLS as uvicorn does, which has no word for how long a client may take to shake hands: asyncio
        gives it a minute. What is left to be sent at the end keeps asyncio's half minute."""
        config = self.config
        kind: Any = config.http_protocol_class
        make = partial(kind, config=config, server_state=self.server_state, app_state=self.lifespan.state)
        where: list[dict[str, Any]] = [{"host": config.host, "port": config.port}]
        if sockets is not None:
            where = [{"sock": each} for each in sockets]
        try:
            for each in where:
                server = await asyncio.get_running_loop().create_server(
                    make,
                    **each,
                    ssl=config.ssl,
                    backlog=config.backlog,
                    ssl_handshake_timeout=self._handshake_timeout_s,
                )
                self.servers.append(server)
        except OSError as error:
            self.started = False
            _log.error("The server cannot listen.", action="not_listening", detail=str(error))
            await self.lifespan.shutdown()
            sys.exit(STARTUP_FAILURE)

    def _orphaned(self) -> None:
        _log.error("The parent of this server process is gone: it ends too.", action="orphaned")
        self.handle_exit(signal.SIGTERM, None)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Fail readiness, go on accepting for the delay, then let uvicorn answer what is in flight."""
        self._lifecycle.drain()
        _log.info("The server is draining.", action="draining", delay_s=self._drain_delay_s)
        if not self.force_exit and self._drain_delay_s:
            await asyncio.sleep(self._drain_delay_s)
        for _ in range(_TURNS):
            await asyncio.sleep(0)  # requests that have come are read, before silent connections are closed
        latecomers = asyncio.get_running_loop().create_task(self._close_late())
        try:
            await super().shutdown(sockets=sockets)
        finally:
            latecomers.cancel()

    async def _close_late(self) -> None:
        """Have those connections closed too, after their answers, that came in while the port was being closed: whoever
        goes on asking through one of them would hold the end up until its deadline."""
        while True:
            await asyncio.sleep(_LATE_S)
            for connection in list(self.server_state.connections):
                connection.shutdown()
