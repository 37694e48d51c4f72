"""Measures predictions a second and their latency against a raw ASGI echo and a tutorial's service, in turns.

Needs wrk (`apt-get install wrk`). Prints a Markdown table with the median of the rounds and its ratio to the echo.
Requests a second move with the machine: read the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

M1 = {
    "type": "Sequential",
    "layers": [
        {"type": "Linear", "in_features": 1, "out_features": 10},
        {"type": "ReLU"},
        {"type": "Linear", "in_features": 10, "out_features": 1},
    ],
}
M3 = {
    "type": "Sequential",
    "layers": [
        {"type": "Conv2d", "in_channels": 3, "out_channels": 32, "kernel_size": 5, "padding": 2},
        {"type": "MaxPool2d", "kernel_size": 2},
        {"type": "Conv2d", "in_channels": 32, "out_channels": 32, "kernel_size": 5, "padding": 2},
        {"type": "MaxPool2d", "kernel_size": 2},
        {"type": "Conv2d", "in_channels": 32, "out_channels": 64, "kernel_size": 5, "padding": 2},
        {"type": "MaxPool2d", "kernel_size": 2},
        {"type": "Flatten"},
        {"type": "Linear", "in_features": 1024, "out_features": 64},
        {"type": "Linear", "in_features": 64, "out_features": 10},
    ],
}
NETS: Mapping[str, tuple[dict[str, Any], list[int]]] = {"m1": (M1, [1]), "m3": (M3, [3, 32, 32])}


@dataclass(frozen=True)
class Target:
    """A server under test: where, and the body that it is sent."""

    name: str
    url: str
    body: bytes
    pid: int
    headers: tuple[str, ...] = ("Content-Type: application/json",)


@dataclass(frozen=True)
class Reading:
    """What one run of wrk saw."""

    per_s: float
    p50_us: float
    p99_us: float
    cpu_us: float
    failed: int


def main() -> int:
    """Start everything, measure in turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", choices=[*NETS], default="m1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--connections", type=int, nargs="+", default=[64, 1])
    parser.add_argument("--keys", action="store_true", help="switch API keys on")
    parser.add_argument("--rows", type=int, default=1)
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        targets = [stack.enter_context(ours(folder, given.net, rows=given.rows, keys=given.keys))]
        body = targets[0].body
        targets.append(stack.enter_context(uvicorn("echo", "raw ASGI echo", body)))
        if given.net == "m1":
            targets.append(stack.enter_context(uvicorn("tutorial", "tutorial's FastAPI", body)))
        for connections in given.connections:
            for target in targets:
                wrk(target, connections, seconds=1)
            rounds: dict[str, list[Reading]] = {target.name: [] for target in targets}
            for _ in range(given.rounds):
                for target in targets:
                    rounds[target.name].append(wrk(target, connections, seconds=given.seconds))
            table(rounds, connections, net=given.net, rows=given.rows)
    return 0


def table(rounds: Mapping[str, list[Reading]], connections: int, *, net: str, rows: int) -> None:
    """Print medians, and ratios to the echo with the least and the largest of the rounds."""
    print(f"\n{net.upper()}, {rows} row(s) of JSON, {connections} connection(s)\n")
    print("| server | requests/s | × echo (min–max) | CPU µs a request | p50 µs | × echo | p99 µs | failed |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    echo = rounds["raw ASGI echo"]
    for name, readings in rounds.items():
        per_s = statistics.median(each.per_s for each in readings)
        p50 = statistics.median(each.p50_us for each in readings)
        p99 = statistics.median(each.p99_us for each in readings)
        cpu = statistics.median(each.cpu_us for each in readings)
        ratios = [mine.per_s / its.per_s for mine, its in zip(readings, echo, strict=True)]
        slower = statistics.median(mine.p50_us / its.p50_us for mine, its in zip(readings, echo, strict=True))
        print(
            f"| {name} | {per_s:,.0f} | {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}) "
            f"| {cpu:,.1f} | {p50:,.0f} | {slower:.2f} | {p99:,.0f} | {sum(each.failed for each in readings)} |"
        )
    sys.stdout.flush()


def wrk(target: Target, connections: int, *, seconds: int) -> Reading:
    """One run of wrk with one thread."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        body = target.body.decode().replace("'", "\\'")
        headers = "".join("wrk.headers['{}'] = '{}'\n".format(*header.split(": ", 1)) for header in target.headers)
        script.write(f"wrk.method = 'POST'\nwrk.body = '{body}'\n{headers}")
        script.flush()
        before = _cpu_s(target.pid)
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", script.name, target.url]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    spent = _cpu_s(target.pid) - before
    answered = int(_found(r"(\d+) requests in", told))
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", told)
    return Reading(
        float(_found(r"Requests/sec:\s+([\d.]+)", told)),
        _micros(_found(r"50%\s+(\S+)", told)),
        _micros(_found(r"99%\s+(\S+)", told)),
        spent / max(1, answered) * 1e6,
        int(failed[1]) if failed else 0,
    )


def _cpu_s(pid: int) -> float:
    """Seconds of processor time that a process has used: less moved by whatever else runs than requests a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"wrk said something else:\n{text}")
    return match[1]


def _micros(text: str) -> float:
    found = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text)
    if found is None:
        raise RuntimeError(f"wrk measured no latency, but {text}: nothing was answered")
    number, unit = found.groups()
    return float(number) * {"us": 1, "ms": 1e3, "s": 1e6, "m": 6e7}[unit]


@contextmanager
def ours(folder: Path, net: str, *, rows: int, keys: bool = False, **settings: str) -> Iterator[Target]:
    """Our server over a new store with the net in it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MODELYARD_")}
    environment |= {"MODELYARD_STORE": str(folder / "store"), "MODELYARD_LOG_FORMAT": "json", **settings}
    headers = ["Content-Type: application/json"]
    if keys:
        from service.keys import Scope, make

        key, stored = make("bench", Scope.ADMIN, now=datetime.now(UTC))
        environment["MODELYARD_API_KEYS"] = "[" + stored.model_dump_json() + "]"
        headers.append(f"Authorization: Bearer {key}")
    log = folder / "log"
    with log.open("wb") as out:
        command = [sys.executable, "-m", "service.cli", "serve", "--host", "127.0.0.1", "--port", "0"]
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    try:
        url = _listening(log, process)
        layers, shape = NETS[net]
        job = {
            "kind": "import",
            "architecture": {"schema": "arch/1", "inputs": [{"name": "x", "shape": ["B", *shape]}], "root": layers},
            "seed": 0,
            "output": {"model": net},
        }
        request = urllib.request.Request(url + "/v1/jobs", json.dumps(job).encode())
        for header in (*headers, "Prefer: wait=30"):
            request.add_header(*header.split(": ", 1))
        with urllib.request.urlopen(request) as answer:
            state = json.load(answer)["state"]
        if state != "succeeded":
            raise RuntimeError(f"the import is {state}")
        row: Any = 0.5
        for size in reversed(shape):
            row = [round(row + place / 100, 2) if isinstance(row, float) else row for place in range(size)]
        body = json.dumps({"model": net, "inputs": [row] * rows}).encode()
        yield Target("modelyard", url + "/predict", body, process.pid, tuple(headers))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _listening(log: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_bytes().splitlines():
            if b'"listening"' in line:
                url: str = json.loads(line)["url"]
                return url
        time.sleep(0.05)
    raise RuntimeError(f"the server did not start:\n{log.read_text()[-2000:]}")


@contextmanager
def uvicorn(module: str, name: str, body: bytes) -> Iterator[Target]:
    """One of the applications beside this file, served as ours is."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", f"{module}:app", "--port", str(port), "--http", "httptools"]
    command += ["--loop", "uvloop", "--no-access-log", "--no-server-header", "--log-level", "warning"]
    process = subprocess.Popen(command, cwd=HERE)
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield Target(name, f"http://127.0.0.1:{port}/predict", body, process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


if __name__ == "__main__":
    sys.exit(main())
