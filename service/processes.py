"""Several server processes behind one port, and the parent that holds them together.

The parent takes the store's lock and the next epoch, binds the port once for each process, imports what all of them
need and forks them: the first leads (it recovers the store and runs the jobs), and the others begin when it is ready.
It starts again who dies, ends who gives no sign of life, forks workers for all of them, and passes SIGTERM and SIGINT
on. It serves nothing itself, and has no thread and no event loop, so that it can fork at any time. Knows processes and
sockets; what is served is `server`.

When it dies itself, the processes notice, answer what they have begun and end; they hold the lock until then.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from service import server
from service.errors import ServiceError, StoreError, ValidationFailed
from service.jobs import forkserver
from service.settings import Settings
from service.siblings import LEADER, Mailboxes, Seat, pair
from service.store.database import Database
from service.store.files import StoreLock, make_folder
from service.tallies import Tallies
from service.telemetry import configure_logging, log

_log = log(__name__)
_HANDLED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
_STARTS: Final = 3
"""So often in a row the first process at a place may die before it is ready; then the server gives up."""
_STEADY_S: Final = 10.0
"""Who has lived so long is started again at once."""
_LONGEST_PAUSE_S: Final = 10.0
_UNBOUND_S: Final = 1.0
"""In longer pauses no connections are kept waiting for the process: the others get them."""
_MOST_BEAT_S: Final = 5.0
"""Signs of life are wanted so often, or more often."""
_KILL_AFTER_S: Final = 15.0
"""Beyond the time that draining may take."""


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; the exit status is 0 after a clean drain and 3 when the start failed.

    Raises:
        StoreLocked: another server holds the store.
        StoreError: the store cannot be opened.
        ValidationFailed: the settings cannot be used as they are.
    """
    configure_logging(level=settings.log_level, style=settings.log_format)
    make_folder(settings.store, parents=True)
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(StoreLock(settings.store / "LOCK"))
        with Database(settings.database) as database:
            epoch = database.own()
        held: list[socket.socket] = []
        stack.callback(_close, held)
        try:
            port = Port(settings.host, settings.port)
            stack.callback(_close, port.claims)
            places = [_Place(port.bind()) for _ in range(settings.workers)]
            for place in places:
                stack.callback(_close, place.sockets)
            if settings.grpc_port is not None:
                # Held, not listened at: so nobody else takes it before the processes do.
                other = Port(settings.host, settings.grpc_port)
                held += other.bind()
                settings = settings.model_copy(update={"grpc_port": held[0].getsockname()[1]})
                held += other.claims
        except OSError as error:
            _log.error(f"The server cannot listen: {error}.", action="unbindable")
            return server.STARTUP_FAILURE
        server.import_all()
        return _Parent(settings, port=port, places=places, held=held, lock=lock, epoch=epoch).run()


class Port:
    """An address that several processes listen at, each with sockets of its own; the kernel shares connections out.

    Args:
        host: a name or an address.
        port: 0 takes a free one.

    Raises:
        OSError: it cannot be listened there, since somebody else does for instance.
    """

    def __init__(self, host: str, port: int) -> None:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self._addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
        self._port = port
        self.claims: list[socket.socket] = []
        _close(self._bound(shared=False))  # sharing would let us listen beside another server, unseen

    def bind(self) -> list[socket.socket]:
        """Sockets for one more process."""
        found = self._bound(shared=True)
        if not self.claims:
            try:
                self._claim(found)
            except OSError:
                _close(found)
                raise
        return found

    def _claim(self, sockets: list[socket.socket]) -> None:
        """Keep other servers like this one off by a name of the kernel's: until we listen, they could share a port."""
        for each in sockets:
            claim = socket.socket(socket.AF_UNIX)
            self.claims.append(claim)
            host, port = each.getsockname()[:2]
            claim.bind(f"\0modelyard:{host}:{port}".encode())

    def _bound(self, *, shared: bool) -> list[socket.socket]:
        sockets: list[socket.socket] = []
        try:
            for family, address in self._addresses:
                with contextlib.suppress(_NoSuchAddressError):
                    sockets.append(self._one(family, address, shared=shared))
            if not sockets:
                raise OSError(errno.EADDRNOTAVAIL, "no such address here")
        except BaseException:
            _close(sockets)
            raise
        return sockets

    def _one(self, family: int, address: Any, *, shared: bool) -> socket.socket:
        try:
            found = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            raise _NoSuchAddressError from error
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            found.setblocking(False)
            found.bind((address[0], self._port, *address[2:]))
            if shared:
                self._port = found.getsockname()[1]
            return found
        except OSError as error:
            found.close()
            if error.errno == errno.EADDRNOTAVAIL:
                raise _NoSuchAddressError from error
            raise


class _NoSuchAddressError(Exception):
    """A name has an address that this machine does not have."""


@dataclass(slots=True)
class _Child:
    """A server process: its place and pid, our ends of the sockets to it, when it was ready and when last heard."""

    place: int
    pid: int
    ends: dict[str, socket.socket]
    may_begin: bool = False
    ready_at: float | None = None
    heard_at: float = math.inf
    failure: dict[str, Any] | None = None


@dataclass(slots=True)
class _Place:
    """What is known of a place over the lives of its processes."""

    sockets: list[socket.socket] = field(default_factory=list)
    has_been_ready: bool = False
    failed_starts: int = 0
    short_lives: int = 0
    start_at: float | None = None


class _Parent:
    def __init__(
        self,
        settings: Settings,
        *,
        port: Port,
        places: list[_Place],
        held: list[socket.socket],
        lock: StoreLock,
        epoch: int,
    ) -> None:
        self._settings = settings
        self._port = port
        self._held = held
        self._lock = lock
        self._epoch = epoch
        self._places = places
        self._url = server.url_of(self._places[0].sockets[0], tls=settings.tls_certfile is not None)
        self._mailboxes = Mailboxes(settings.workers)
        self._tallies = Tallies(settings.workers)
        self._forks = forkserver.Forks(self._descriptors)
        self._children: dict[int, _Child] = {}  # by pid
        self._signals: Counter[int] = Counter()
        self._waker, self._wakened = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._beat_s = min(_MOST_BEAT_S, settings.process_timeout_s / 4)
        self._looked_at = time.monotonic()
        self._told = False
        self._kill_at: float | None = None
        self._status = 0
        self._refusal: dict[str, Any] | None = None

    def run(self) -> int:
        """Until all processes have ended."""
        for handled in _HANDLED:
            signal.signal(handled, lambda number, _: self._signals.update((number,)))
        signal.set_wakeup_fd(self._wakened, warn_on_full_buffer=False)
        for place in self._places:
            place.start_at = time.monotonic()
        while self._children or any(place.start_at is not None for place in self._places):
            self._wait()
            self._heed_signals()
            self._reap()
            self._end_who_hangs()
            self._start_who_is_due()
        for handled in _HANDLED:
            signal.signal(handled, signal.SIG_IGN if handled != signal.SIGCHLD else signal.SIG_DFL)
        if self._refusal is not None:
            raise self._error(self._refusal)
        _log.info("All server processes have ended.", action="ended", status=self._status)
        return self._status

    # -- waiting ----------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Until there is something to do; what the processes say and ask is dealt with here."""
        poller = select.poll()
        poller.register(self._waker, select.POLLIN)
        whose: dict[int, tuple[_Child, str]] = {}
        for child in self._children.values():
            for name, end in child.ends.items():
                whose[end.fileno()] = child, name
                poller.register(end, select.POLLIN)
        due = [place.start_at for place in self._places if place.start_at is not None]
        due += [self._kill_at] if self._kill_at is not None else []
        due.append(time.monotonic() + self._beat_s)
        timeout = max(0.0, min(due) - time.monotonic()) * 1000 + 1
        for descriptor, _ in poller.poll(timeout):
            if descriptor == self._waker:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._waker, 4096)
                continue
            child, name = whose[descriptor]
            if not (self._hear(child) if name == "parent" else self._fork_worker(child)):
                child.ends.pop(name).close()

    def _hear(self, child: _Child) -> bool:
        """Take one word of a process; False when it will say no more."""
        try:
            message = child.ends["parent"].recv(65536, socket.MSG_DONTWAIT)
        except (ConnectionError, BlockingIOError):
            return False
        if not message:
            return False
        told = json.loads(message)
        if told["word"] == "failed":
            child.failure = told
            return True
        child.heard_at = time.monotonic()
        if told["word"] == "alive":
            return True
        child.ready_at = child.heard_at
        self._places[child.place].has_been_ready = True
        self._places[child.place].failed_starts = 0
        if self._kill_at is None:
            if child.place == LEADER:
                for other in self._children.values():
                    self._say_turn(other)
            if not self._told and all(place.has_been_ready for place in self._places):
                self._told = True
                server.tell_where(self._url, processes=len(self._places))
        return True

    def _fork_worker(self, child: _Child) -> bool:
        with _blocked():  # a worker is born so: told to stop in its first millisecond, it still keeps a checkpoint
            try:
                return self._forks.answer(child.ends["launching"])
            except ConnectionError:
                return False

    def _heed_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            for _ in range(self._signals.pop(number, 0)):
                _log.info("The server is told to stop.", action="stopping", signal=signal.Signals(number).name)
                self._stop(number)
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            for child in self._children.values():
                _log.error("A server process did not end in time.", action="stop_forced", place=child.place)
                os.kill(child.pid, signal.SIGKILL)
            self._kill_at += _KILL_AFTER_S

    def _stop(self, number: int = signal.SIGTERM) -> None:
        if self._kill_at is None:
            drains = 1 if self._settings.grpc_port is None else 2  # a process drains HTTP, then gRPC
            drain_s = self._settings.drain_delay_s + drains * self._settings.drain_timeout_s
            self._kill_at = time.monotonic() + drain_s + _KILL_AFTER_S
            for place in self._places:
                place.start_at = None
                _close(place.sockets)  # ours; the processes accept as long as they want to
        for child in self._children.values():
            os.kill(child.pid, number)  # a zombie until we collect it, so the pid is its own

    # -- ends and starts --------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self._children.get(pid)
            if child is None:
                self._forks.ended(pid, status)
                continue
            while "parent" in child.ends and self._hear(child):  # its last words
                pass
            del self._children[pid]
            _close(list(child.ends.values()))
            self._ended(child, os.waitstatus_to_exitcode(status))

    def _ended(self, child: _Child, code: int) -> None:
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        if self._kill_at is not None:
            unready = child.ready_at is None and code in (-signal.SIGTERM, -signal.SIGINT)
            if code and not unready:
                self._status = self._status or 1
                _log.error("A server process did not end well.", action="process_ended", place=child.place, how=how)
            return
        place, now = self._places[child.place], time.monotonic()
        if child.ready_at is None:
            place.failed_starts += 1
        if child.failure is not None and not place.has_been_ready:
            self._refusal = child.failure
        if self._refusal is not None or (place.failed_starts >= _STARTS and not place.has_been_ready):
            last = child.failure["message"] if child.failure is not None else f"The last one ended with {how}."
            _log.error(
                f"Process {child.place} of the server ended at its start, so the server ends. {last}",
                action="given_up",
                place=child.place,
            )
            self._status = server.STARTUP_FAILURE
            self._stop()
            return
        steady = child.ready_at is not None and now - child.ready_at >= _STEADY_S
        place.short_lives = 0 if steady else place.short_lives + 1
        pause = 0.0 if place.short_lives < 2 else min(0.1 * 2.0 ** min(place.short_lives, 10), _LONGEST_PAUSE_S)
        place.start_at = now + pause
        if pause > _UNBOUND_S:
            _close(place.sockets)
        _log.error(
            "A server process ended; it is started again.",
            action="process_ended",
            place=child.place,
            pid=child.pid,
            how=how,
            pause_s=round(pause, 1),
        )

    def _end_who_hangs(self) -> None:
        """Whose event loop has stood still for too long serves nobody, and its connections wait in vain."""
        now = time.monotonic()
        slept = now - self._looked_at > 2 * self._beat_s  # we stood still ourselves, with all of them perhaps
        self._looked_at = now
        for child in self._children.values():
            if slept:
                child.heard_at = max(child.heard_at, now)
            elif self._kill_at is None and now - child.heard_at > self._settings.process_timeout_s:
                _log.error(
                    f"A server process gave no sign of life for {now - child.heard_at:.0f} s; it is ended.",
                    action="process_hangs",
                    place=child.place,
                    pid=child.pid,
                )
                child.heard_at = math.inf
                os.kill(child.pid, signal.SIGKILL)

    def _start_who_is_due(self) -> None:
        for number, place in enumerate(self._places):
            if place.start_at is not None and time.monotonic() >= place.start_at:
                place.start_at = None
                try:
                    self._start(number)
                except OSError:  # no memory for a fork, or no descriptors: the others go on
                    _log.exception("A server process could not be started.", action="start_failed", place=number)
                    place.start_at = time.monotonic() + _UNBOUND_S

    def _start(self, number: int) -> None:
        place = self._places[number]
        if not place.sockets:
            place.sockets = self._port.bind()
        names = ("parent", "launching")
        pairs = {name: pair() for name in names}
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        with _blocked():
            pid = os.fork()
            if pid == 0:
                self._become(number, {name: pairs[name][0] for name in names}, {name: pairs[name][1] for name in names})
        for _, theirs in pairs.values():
            theirs.close()
        child = self._children[pid] = _Child(number, pid, {name: pairs[name][0] for name in names})
        if number == LEADER or self._places[LEADER].has_been_ready:
            self._say_turn(child)

    def _say_turn(self, child: _Child) -> None:
        if child.may_begin or "parent" not in child.ends:
            return
        child.may_begin = True
        with contextlib.suppress(OSError):  # it has died just now
            child.ends["parent"].send(b"!")

    def _become(self, number: int, ours: dict[str, socket.socket], theirs: dict[str, socket.socket]) -> NoReturn:
        """In the child: leave everything of the parent behind but the lock and what is shared, and serve."""
        code = 70
        try:
            signal.set_wakeup_fd(-1)
            for each in _HANDLED:
                signal.signal(each, signal.SIG_DFL)
            os.setpgid(0, 0)  # a Ctrl-C at the terminal is for the parent, which passes it on
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
            os.close(self._waker)
            os.close(self._wakened)
            _close([*ours.values(), *(end for child in self._children.values() for end in child.ends.values())])
            for other, place in enumerate(self._places):
                if other != number:
                    _close(place.sockets)
            place = self._places[number]
            seat = Seat(
                number,
                not place.has_been_ready,
                self._epoch,
                place.sockets,
                self._mailboxes,
                self._tallies,
                theirs["parent"],
                theirs["launching"],
                self._beat_s,
            )
            code = server.take(seat, self._settings)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    # -- what is known ----------------------------------------------------------------------------------------------

    def _descriptors(self) -> list[int]:
        """Those of ours that no worker may keep: the lock would outlive the server, and the port too."""
        sockets = [*self._held, *self._port.claims, *(each for place in self._places for each in place.sockets)]
        sockets += [end for child in self._children.values() for end in child.ends.values()]
        found = [self._waker, self._wakened, *self._mailboxes.descriptors(), *(each.fileno() for each in sockets)]
        return found if self._lock.descriptor is None else [*found, self._lock.descriptor]

    def _error(self, refusal: dict[str, Any]) -> ServiceError:
        kind = ValidationFailed if refusal["settings"] else StoreError
        return kind(refusal["message"], hint=refusal["hint"])


@contextmanager
def _blocked() -> Iterator[None]:
    """Signals wait meanwhile, so that a child is not told before it can hear."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _close(sockets: list[socket.socket]) -> None:
    for each in sockets:
        each.close()
    sockets.clear()
