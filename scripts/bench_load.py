"""How a server bears load: ten times more than it can do, and many minutes of everything at once.

The load comes from this process and takes processor time of the same machine; ratios count, not times.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from tests.live import Server, run_job
from tests.load import Answer, Ask, Flood, quantile, scheduled, slow_net

OVERLOAD_GOAL = 3.0
CLOSED_CONNECTIONS = 64
ROUND_S = 5.0
WARM_S = 60.0
LOOK_S = 5.0


def overload(rounds: int) -> None:
    """p99 of accepted predictions at ten times the load that can be sustained, against that at 80 % of it."""
    with tempfile.TemporaryDirectory(prefix="modelyard-bench-") as folder:
        server = Server(Path(folder) / "store").start()
        try:
            with server.client() as client:
                run_job(client, slow_net("slow", size=56))
                body = {"model": "slow", "inputs": [[[[0.5]], [[0.25]], [[1.0]]]]}
                taken = [_forward(client, body) for _ in range(30)]
            ask = Ask.post("/predict", body)
            print(f"overload: a forward pass of one row takes {1000 * statistics.median(taken):.1f} ms")
            ratios = []
            for turn in range(max(1, rounds // 4)):
                ratios.append(_overload_round(server.url, ask, seed=turn))
            told = f"{min(ratios):.2f} to {max(ratios):.2f}"
            median = statistics.median(ratios)
            verdict = "" if median <= OVERLOAD_GOAL else "   MISSED"
            told = f"{told}; goal {OVERLOAD_GOAL:g}"
            print(f"overload: p99 at 10 × against p99 at 80 %: median {median:.2f} ({told}){verdict}")
        finally:
            server.stop()


def _forward(client: httpx.Client, body: dict[str, Any]) -> float:
    timing = client.post("/predict", json=body).headers["server-timing"]
    return float(timing.partition("infer;dur=")[2].partition(",")[0]) / 1000


def _overload_round(url: str, ask: Ask, *, seed: int) -> float:
    sustained: list[Answer] = []

    async def closed() -> float:
        async with Flood(url, [ask], CLOSED_CONNECTIONS, sustained.append):
            await asyncio.sleep(ROUND_S)
        done = [one for one in sustained if one.status == 200]
        return len(done) / (max(one.ended for one in done) - min(one.sent for one in done))

    rate = asyncio.run(closed())
    calm, _ = asyncio.run(scheduled(url, ask, rate=0.8 * rate, seconds=ROUND_S, seed=seed))
    wild, omitted = asyncio.run(scheduled(url, ask, rate=10 * rate, seconds=ROUND_S, seed=seed))
    usual = quantile([one.seconds for one in calm if one.status == 200], 0.99)
    pressed = quantile([one.ended - one.sent for one in wild if one.status == 200], 0.99)
    for name, answers in (("80 %", calm), ("10 ×", wild)):
        statuses = dict(sorted(Counter(one.status for one in answers).items()))
        good = [one.ended - one.sent for one in answers if one.status == 200]
        late = quantile([one.sent - one.due for one in answers], 0.99)
        print(
            f"overload: {name} of {rate:.0f}/s: {statuses}, {len(good) / ROUND_S:.0f}/s accepted, "
            f"p50 {1000 * statistics.median(good):.1f} ms, p99 {1000 * quantile(good, 0.99):.1f} ms "
            f"(the sender was late by {1000 * late:.1f} ms at p99, {omitted if name == '10 ×' else 0} left out)"
        )
    return pressed / usual


def soak(minutes: float) -> None:
    """How memory grows while predictions, mistakes, alias swaps, loads and unloads go on."""
    with tempfile.TemporaryDirectory(prefix="modelyard-soak-") as folder:
        server = Server(Path(folder) / "store").start()
        try:
            with server.client() as client:
                for value in (1.0, 2.0):
                    run_job(client, _constant(value))
            asyncio.run(_soak(server, minutes))
            for line in [line for line in server.log.read_text().splitlines() if '"exception"' in line][:1]:
                print(f"soak: the server met a bug: {line[-1500:]}")
        finally:
            server.stop()


def _constant(value: float) -> dict[str, Any]:
    root = {"type": "Sequential", "layers": [{"type": "Linear", "in_features": 4, "out_features": 4}]}
    return {
        "kind": "import",
        "architecture": {"schema": "arch/1", "inputs": [{"name": "x", "shape": ["B", 4]}], "root": root},
        "state_dict": {"0.weight": [[0.0] * 4] * 4, "0.bias": [value] * 4},
        "output": {"model": "soaked"},
    }


async def _soak(server: Server, minutes: float) -> None:
    rows = [[0.1, 0.2, 0.3, 0.4]] * 8
    tensor = {"name": "x", "shape": [8, 4], "datatype": "FP32", "data": rows}
    asks = [
        Ask.post("/predict", {"model": "soaked@live", "inputs": rows}),
        Ask.post("/v2/models/soaked/versions/live/infer", {"inputs": [tensor]}),
        Ask.post("/predict", {"model": "soaked@live", "inputs": [[1, 2]]}),
        Ask.post("/predict", {"model": "nobody", "inputs": rows}),
        Ask.post("/predict", {"model": "soaked/1", "inputs": rows * 64}),
    ]
    statuses: Counter[tuple[int, int]] = Counter()
    points: list[tuple[float, float]] = []
    began = time.monotonic()
    until = began + 60 * minutes
    process = server.process
    assert process is not None

    def seen(answer: Answer) -> None:
        statuses[answer.request, answer.status] += 1

    async def change(client: httpx.AsyncClient) -> None:
        """Now and then something that is no prediction."""
        place = "/v1/models/soaked/aliases/live"
        for turn in itertools.count():
            await client.put(place, json={"version": 1 + turn % 2}, headers={"If-Match": "*"})
            await client.get("/metrics")
            if turn % 10 == 9:
                await client.post("/v1/models/soaked/versions/2/unload")
            await asyncio.sleep(0.5)

    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        place = "/v1/models/soaked/aliases/live"
        await client.put(place, json={"version": 1}, headers={"If-None-Match": "*"})
        changing = asyncio.create_task(change(client))
        async with Flood(server.url, asks, 8, seen, pause_s=0.005):
            while time.monotonic() < until and process.poll() is None:
                await asyncio.sleep(LOOK_S)
                points.append((time.monotonic() - began, _resident(process.pid)))
        changing.cancel()
    told = {
        f"{asks[request].content.split(b' ')[1].decode()} #{request}: {status}": n
        for (request, status), n in statuses.items()
    }
    after = [point for point in points if point[0] >= min(WARM_S, 30 * minutes)]
    slope = _slope(after)
    first, last = after[0][1], after[-1][1]
    print(f"soak: {sum(statuses.values())} requests in {points[-1][0] / 60:.1f} min: {told}")
    print(
        f"soak: RSS {first / 1e6:.1f} MB after the warm-up, {last / 1e6:.1f} MB at the end, "
        f"slope {slope * 60 / 1000:+.1f} kB a minute ({100 * slope * 600 / first:+.2f} % in ten minutes)"
    )


def _resident(pid: int) -> float:
    """Bytes of memory of a process that are its own or mapped, and in memory now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096.0


def _slope(points: list[tuple[float, float]]) -> float:
    """Bytes a second, by least squares."""
    return statistics.linear_regression([x for x, _ in points], [y for _, y in points]).slope
