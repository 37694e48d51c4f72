"""Measures our server beside a raw ASGI echo, a tutorial's service and the peers, in turns, and prints the ratios.

Every server answers with the same weights, and is measured only when its answers are the same. Needs wrk
(`apt-get install wrk`). Requests a second move with the machine: read the ratios. README.md beside this file says more.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch

from benchmarks.serving.peers import nets
from benchmarks.serving.servers import (
    PEERS,
    SERVERS,
    Asked,
    NotMeasured,
    Request,
    Running,
    Server,
    Wire,
    cpu_s,
    installed,
    start,
)
from benchmarks.serving.table import Goal, Reading, Row, markdown

_STARTS: Final = 4
"""Servers that are started at a time."""


@dataclass(frozen=True)
class Case:
    """What is measured.

    Args:
        title: above its table.
        net: one of `peers/nets.py`.
        wire: how rows travel.
        connections: of the load generator, which sends the next request when it has the answer.
        figure: what the servers are compared by.
        goals: by the names of the rows.
    """

    title: str
    net: str
    wire: Wire
    connections: int
    figure: Literal["per_s", "p50_us"]
    goals: Mapping[str, Goal]


_BARE: Final = "modelyard, no keys, metrics, limits"
_TWO: Final = "modelyard, two processes"
_OFF: Final = {f"{_BARE} {door}": Goal(least=0.91, says="without, at most 10 % more") for door in ("/predict", "/v2")}
_DOUBLE: Final = {f"{_TWO} {door}": Goal(most=0.67, says="two, at least 1.5 × one") for door in ("/predict", "/v2")}
_EVERY_PEER: Final = tuple(server.name for server in SERVERS if server.peer not in ("modelyard", "echo", "tutorial"))
CASES: Final[Mapping[str, Case]] = {
    "m1": Case(
        "M1 (1-10-1), one row of JSON, 64 connections",
        "m1",
        "json",
        64,
        "per_s",
        {
            **_OFF,
            "raw ASGI echo": Goal(least=0.5),
            "tutorial's FastAPI": Goal(least=10),
            "LitServe": Goal(least=15),
            "LitServe, batching": Goal(least=15),
            "mosec, batching": Goal(least=0.8),
            "TorchServe, batching": Goal(least=1.5),
        },
    ),
    "m1-one": Case(
        "M1 (1-10-1), one row of JSON, one connection",
        "m1",
        "json",
        1,
        "p50_us",
        {"raw ASGI echo": Goal(most=2.2), **{name: Goal(most=1) for name in ("tutorial's FastAPI", *_EVERY_PEER)}},
    ),
    "m3-json": Case(
        "M3 (CIFAR10 net), one image as JSON, 64 connections",
        "m3",
        "json",
        64,
        "per_s",
        {**_OFF, **_DOUBLE, "Triton by PyTriton": Goal(least=1.5)},
    ),
    "m3-bytes": Case(
        "M3 (CIFAR10 net), one image as bytes, 64 connections",
        "m3",
        "bytes",
        64,
        "per_s",
        {**_OFF, **_DOUBLE, "Triton by PyTriton": Goal(least=3), "mosec, batching": Goal(least=5)},
    ),
}


@dataclass(frozen=True)
class Target:
    """One way into one running server."""

    server: Server
    running: Running
    door: str
    request: Request

    @property
    def name(self) -> str:
        """Of its row."""
        return f"{self.server.name} {self.door}".strip()


def main() -> int:
    """Start everything, measure in turns, print the tables; 1 when one of our own servers could not be measured."""
    peers = list(dict.fromkeys(server.peer for server in SERVERS))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", nargs="+", choices=peers, default=peers, metavar="PEER", help=", ".join(peers))
    parser.add_argument("--cases", nargs="+", choices=[*CASES], default=[*CASES], metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=3, help="each server is measured once in each")
    parser.add_argument("--seconds", type=int, default=5, help="of one measurement")
    parser.add_argument("--warm-up", type=int, default=3, help="seconds before the first round")
    parser.add_argument("--verbose", action="store_true", help="tell each measurement on stderr")
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        parser.error("there is no wrk on this machine: apt-get install wrk")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # by way of what ends the servers
    chosen = [server for server in SERVERS if server.peer in {"modelyard", *given.peers}]
    print(f"\n{_machine()}; {given.rounds} interleaved rounds of {given.seconds} s.")
    print(
        "A ratio is the median of the rounds' ratios, with the least and the largest; ✓ and ✗ compare it with the goal."
    )
    reasons: dict[str, str] = {}
    for net in dict.fromkeys(CASES[name].net for name in given.cases):
        cases = [CASES[name] for name in given.cases if CASES[name].net == net]
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)))
            asked = _asked(net, folder)
            started = running(chosen, asked, folder, stack, reasons)
            for case in cases:
                rows = measured(case, started, given, reasons)
                print(f"\n## {case.title}\n")
                print(markdown(rows, case.goals, case.figure), flush=True)
    if reasons:
        print("\n## Not measured\n")
        for name, why in reasons.items():
            print(f"- {name}: {why}")
    return int(any(name.startswith("modelyard") and "no --workers" not in why for name, why in reasons.items()))


def running(
    chosen: Sequence[Server], asked: Asked, folder: Path, stack: ExitStack, reasons: dict[str, str]
) -> list[tuple[Server, Running]]:
    """Those servers that could be started, some at a time; `stack` ends them, `reasons` is told of the others."""
    missing: dict[str, NotMeasured] = {}
    for peer in dict.fromkeys(server.peer for server in chosen):
        if (PEERS / f"{peer}.txt").exists():
            try:
                installed(peer)
            except NotMeasured as reason:
                missing[peer] = reason
                _tell(f"{peer} is not installed: {reason}")
    reasons |= {server.name: str(missing[server.peer]) for server in chosen if server.peer in missing}
    found = []
    with ThreadPoolExecutor(_STARTS) as pool:
        starts = [
            (server, pool.submit(start, server, asked, folder / str(place), stack.enter_context(ExitStack())))
            for place, server in enumerate(chosen)
            if server.peer not in missing
        ]
        for server, future in starts:
            try:
                found.append((server, future.result()))
                _tell(f"{server.name} is ready.")
            except NotMeasured as reason:
                reasons[server.name] = str(reason)
                _tell(f"{server.name} is not measured: {reason}")
    return found


def measured(
    case: Case, started: Sequence[tuple[Server, Running]], given: argparse.Namespace, reasons: dict[str, str]
) -> list[Row]:
    """The rows of a case: each door of each server, warmed up, then measured once a round, one after the other."""
    targets = [
        Target(server, running, door, request)
        for server, running in started
        for door, request in running.doors.get(case.wire, {}).items()
    ]
    readings: dict[str, list[Reading | None]] = {target.name: [] for target in targets}
    for number in range(-1, given.rounds):
        for target in targets:
            seconds = given.seconds if number >= 0 else given.warm_up
            try:
                reading = wrk(target, case.connections, seconds=seconds) if seconds else None
            except NotMeasured as reason:
                reading = None
                reasons[f"{target.name}, {case.title}, round {number + 1}"] = str(reason)
            if given.verbose:
                _tell(f"{case.title}, round {number + 1}: {target.name}: {reading}")
            if number >= 0:
                readings[target.name].append(reading)
    return [Row(target.name, tuple(readings[target.name]), target.door, target.server.variant) for target in targets]


def wrk(target: Target, connections: int, *, seconds: int) -> Reading:
    """One run of wrk with one thread.

    Raises:
        NotMeasured: wrk failed, or nothing was answered.
    """
    with tempfile.TemporaryDirectory(prefix="bench-wrk-") as folder:
        body, script = Path(folder, "body"), Path(folder, "script.lua")
        body.write_bytes(target.request.body)
        headers = [header.split(": ", 1) for header in target.request.headers]
        lines = ["wrk.method = 'POST'", f"local file = io.open('{body}', 'rb')", "wrk.body = file:read('*a')"]
        lines += ["file:close()", *(f"wrk.headers['{name}'] = '{value}'" for name, value in headers)]
        script.write_text("\n".join(lines))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "5s", "--latency", "-s", str(script)]
        before = cpu_s(target.running.pid)
        try:
            done = subprocess.run(
                [*command, target.running.url + target.request.path],
                capture_output=True,
                text=True,
                timeout=seconds + 30,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise NotMeasured("wrk did not end") from None
        spent = cpu_s(target.running.pid) - before
    if done.returncode:
        raise NotMeasured(f"wrk: {(done.stderr or done.stdout).strip()[-200:]}")
    return read(done.stdout, spent)


def read(told: str, spent_s: float) -> Reading:
    """What wrk has said.

    Args:
        told: its output, with `--latency`.
        spent_s: seconds of processor time that the server used meanwhile.

    Raises:
        NotMeasured: it is not what wrk says, or nothing was answered.
    """
    answered = int(_found(r"(\d+) requests in", told))
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", told)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", told)
    good = answered - (int(refused[1]) if refused else 0)
    failed = answered - good + (sum(int(each) for each in broken.groups()) if broken else 0)
    if good <= 0:
        raise NotMeasured(f"{answered} answers, {failed} failures")
    return Reading(
        float(_found(r"Requests/sec:\s+([\d.]+)", told)) * good / answered,
        _micros(_found(r"(?m)^\s+50%\s+(\S+)", told)),
        _micros(_found(r"(?m)^\s+99%\s+(\S+)", told)),
        spent_s / answered * 1e6,
        failed,
    )


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise NotMeasured(f"wrk said something else: {text[-200:]}")
    return match[1]


def _micros(text: str) -> float:
    found = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text)
    if found is None:
        raise NotMeasured(f"wrk measured no latency, but {text}")
    number, unit = found.groups()
    return float(number) * {"us": 1, "ms": 1e3, "s": 1e6, "m": 6e7}[unit]


def _asked(net: str, folder: Path) -> Asked:
    """A net with weights from a seed, and one row."""
    file, row, answer = nets.make(net, folder)
    return Asked(net, file, row.numpy(), answer.numpy())


def _machine() -> str:
    return f"{len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}, torch {torch.__version__}"


def _tell(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
