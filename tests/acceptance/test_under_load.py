"""What holds while many ask at once: aliases that move, versions that leave memory, a server that ends, too many."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.live import Server, run_job, send_raw, wait_for
from tests.load import Answer, Ask, Flood, scheduled, slow_net
from tests.problems import assert_problem

CONNECTIONS = 64
DELAY_S = 1.0
LENGTH = "Inference-Header-Content-Length"
SWAPS = 200
SLOW: dict[str, Any] = {"model": "slow", "inputs": [[[[0.5]], [[0.25]], [[1.0]]]]}
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with room for two of the large versions, and the small ones."""
    settings: dict[str, Any] = {
        "model_memory_bytes": str(2_500_000),
        "batch_rows": "4",
        "max_bodies_bytes": str(2 * MIB),
    }
    running = Server(tmp_path_factory.mktemp("load") / "store", **settings).start()
    with running.client() as client:
        run_job(client, slow_net("slow"))
        for value in (1.0, 2.0):
            run_job(client, constant("switched", value))
        for name in ("a", "b", "c"):
            run_job(client, wide(name))
    yield running
    assert running.stop() == 0


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def constant(model: str, value: float) -> dict[str, Any]:
    """An import of a net that answers one row with twice the same number."""
    root = {"type": "Sequential", "layers": [{"type": "Linear", "in_features": 1, "out_features": 2}]}
    return {
        "kind": "import",
        "architecture": {"schema": "arch/1", "inputs": [{"name": "x", "shape": ["B", 1]}], "root": root},
        "state_dict": {"0.weight": [[0], [0]], "0.bias": [value, value]},
        "output": {"model": model},
    }


def wide(model: str) -> dict[str, Any]:
    """An import of a net of about one MiB."""
    layers = [{"type": "Linear", "in_features": size, "out_features": 500} for size in (3, 500)]
    net = {"schema": "arch/1", "inputs": [{"name": "x", "shape": ["B", 3]}]}
    return {
        "kind": "import",
        "architecture": {**net, "root": {"type": "Sequential", "layers": layers}},
        "output": {"model": model},
    }


def metric(client: httpx.Client, name: str) -> float:
    """The sum of a metric over its labels."""
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


def test_two_hundred_alias_swaps_under_load_fail_nobody_and_mix_no_answer(server: Server) -> None:
    rows = [[0.1], [0.2], [0.3]]
    tensor = {"name": "x", "shape": [3, 1], "datatype": "FP32", "data": [0.1, 0.2, 0.3]}
    asks = [
        Ask.post("/predict", {"model": "switched@live", "inputs": rows}),
        Ask.post("/v2/models/switched/versions/live/infer", {"inputs": [tensor]}),
    ]
    wrong: list[Any] = []
    versions: Counter[str] = Counter()

    def seen(answer: Answer) -> None:
        version = answer.headers.get("x-model-version", "")
        body = answer.json() if answer.status == 200 else {}
        if answer.request == 0:
            given = [number for row in body.get("outputs", ()) for number in row]
            named = body.get("version")
        else:
            given = body["outputs"][0]["data"] if body else []
            named = int(body.get("model_version", 0))
        if answer.status != 200 or given != [float(version)] * 6 or str(named) != version:
            wrong.append((answer.status, version, answer.body))
        versions[version] += 1

    async def run() -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            place = "/v1/models/switched/aliases/live"
            first = await client.put(place, json={"version": 1}, headers={"If-None-Match": "*"})
            assert first.status_code == 201
            async with Flood(server.url, asks, CONNECTIONS, seen):
                for version in itertools.islice(itertools.cycle((2, 1)), SWAPS):
                    moved = await client.put(place, json={"version": version}, headers={"If-Match": "*"})
                    assert moved.status_code == 200, moved.text

    with server.client() as client:
        before = metric(client, "modelyard_alias_swaps_total")
        asyncio.run(run())

        assert wrong[:3] == []
        assert set(versions) == {"1", "2"}
        assert versions.total() > SWAPS
        assert metric(client, "modelyard_alias_swaps_total") > before
        assert metric(client, "modelyard_internal_errors_total") == 0


def test_ten_times_more_than_can_be_done_is_refused_in_time_and_the_server_stays_well(server: Server) -> None:
    ask = Ask.post("/predict", {**SLOW, "timeout_s": 5})
    sustained: list[Answer] = []

    async def closed() -> float:
        began = time.monotonic()
        async with Flood(server.url, [ask], 16, sustained.append):
            await asyncio.sleep(1.5)
        return len([one for one in sustained if one.status == 200]) / (time.monotonic() - began)

    rate = asyncio.run(closed())
    answers, _ = asyncio.run(scheduled(server.url, ask, rate=min(10 * rate, 1500), seconds=3, seed=7))
    statuses = Counter(one.status for one in answers)

    assert set(statuses) <= {200, 429, 504}, statuses
    assert statuses[200] > 0
    assert statuses[429] > 0
    for one in answers:
        if one.status == 429:
            assert 1 <= int(one.headers["retry-after"]) <= 60
    with server.client() as client:
        assert client.get("/readyz").status_code == 200
        assert client.post("/predict", json=SLOW).status_code == 200
        wait_for(lambda: metric(client, "modelyard_predictions_in_flight") == 0)
        assert metric(client, "modelyard_internal_errors_total") == 0


def test_the_preflight_of_a_load_says_what_would_go_and_a_pinned_version_never_does(client: httpx.Client) -> None:
    def load(name: str, **query: Any) -> httpx.Response:
        return client.post(f"/v1/models/{name}/versions/1/load", params=query)

    def loaded() -> list[str]:
        return [one["model"] for one in client.get("/v1/loaded").json()["data"]]

    for model in set(loaded()):
        assert client.post(f"/v2/repository/models/{model}/unload").status_code == 200
    assert load("a", pin=True).json()["pinned"]
    assert load("b").json()["evicts"] == []
    told = load("c", dry_run=True).json()

    assert [one["model"] for one in told["evicts"]] == ["b"]
    assert told["fits"]
    assert "needs 1.0 MB, would evict b/1." in told["detail"]
    assert loaded() == ["a", "b"]  # nothing was done
    assert client.post("/predict", json={"model": "c", "inputs": [[1, 2, 3]]}).status_code == 200
    assert loaded() == ["a", "c"]  # the first request has loaded it

    assert load("c", pin=True).json()["evicts"] == []
    refused = load("b", dry_run=True)
    assert refused.status_code == 200
    assert not refused.json()["fits"]
    for answer in (load("b"), client.post("/predict", json={"model": "b", "inputs": [[1, 2, 3]]})):
        assert_problem(answer, 507, "memory-full")
        assert "beside the versions that are pinned" in answer.json()["detail"]
    for name in ("a", "c"):
        unloaded = client.post(f"/v1/models/{name}/versions/1/unload").json()
        assert unloaded == {"model": name, "version": 1, "drained": True}
    assert loaded() == []
    assert client.post("/predict", json={"model": "b", "inputs": [[1, 2, 3]]}).status_code == 200


def test_an_unload_waits_for_those_that_are_being_answered(server: Server, client: httpx.Client) -> None:
    many = {**SLOW, "inputs": SLOW["inputs"] * 40}
    assert client.post("/predict", json=SLOW).status_code == 200

    def ask() -> int:
        with server.client() as asking:
            return asking.post("/predict", json=many).status_code

    with ThreadPoolExecutor(1) as thread:

        def it_is_computed() -> Future[int] | None:
            asked = thread.submit(ask)
            while not asked.done():
                if metric(client, "modelyard_predictions_in_flight") == 1:
                    return asked
            assert asked.result() == 200
            return None  # it was answered before it could be seen

        asked = wait_for(it_is_computed)
        told = client.post("/v1/models/slow/versions/1/unload").json()
        left = metric(client, "modelyard_predictions_in_flight")

        assert asked.result() == 200
    assert told == {"model": "slow", "version": 1, "drained": True}
    assert left == 0
    assert "slow" not in [one["model"] for one in client.get("/v1/loaded").json()["data"]]


def test_large_bodies_have_a_limit_of_their_own_and_share_the_memory_for_them(
    server: Server, client: httpx.Client
) -> None:
    count = 3 * MIB // 4 // 3
    tensor = {"name": "x", "shape": [count, 3], "datatype": "FP32", "parameters": {"binary_data_size": count * 12}}
    head = str({"inputs": [tensor]}).replace("'", '"').encode()
    binary = {LENGTH: str(len(head))}
    answer = client.post("/v2/models/b/infer", content=head + bytes(count * 12), headers=binary)

    assert answer.status_code == 413  # too many rows, which is told by the version: the body was read
    assert answer.json()["code"] == "batch-too-large"
    told = f"POST /v2/models/b/infer HTTP/1.1\r\nHost: x\r\n{LENGTH}: 2\r\nContent-Length: {200 * MIB}\r\n\r\n{{}}"
    assert send_raw(server, told.encode())[0] == 413
    text = b'{"inputs": [' + b" " * 17 * MIB + b"]}"
    assert_problem(client.post("/v2/models/b/infer", content=text), 413, "body-too-large")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_that_is_told_to_end_answers_what_it_has_accepted(
    make_server: Callable[..., Server], workers: int
) -> None:
    server = make_server(drain_delay_s=str(DELAY_S), batch_rows="4", workers=str(workers))
    with server.client() as client:
        run_job(client, slow_net("slow"))
        assert client.post("/predict", json=SLOW).status_code == 200
    answers: list[Answer] = []

    async def run() -> tuple[float, float]:
        async with Flood(server.url, [Ask.post("/predict", SLOW)], CONNECTIONS, answers.append) as flood:
            while len(answers) < 2 * CONNECTIONS:
                await asyncio.sleep(0.01)
            assert server.process is not None
            told = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            while not flood.stopped and server.process.poll() is None:
                await asyncio.sleep(0.01)
        return told, time.monotonic() - told

    told, took = asyncio.run(run())
    surely = told + DELAY_S / 2  # on a busy machine what was about to be sent then may come much later
    accepted = [one for one in answers if one.sent < surely]
    later = Counter(one.status for one in answers if one.sent >= surely)

    assert server.stop() == 0
    statuses = Counter(one.status for one in accepted)
    assert set(statuses) <= {200, 429}  # refused as long as the queue is full, else answered
    assert statuses[200] > 16
    assert took < DELAY_S + 15  # not the 25 s for which those are waited for who do not end
    assert set(later) <= {0, 200, 429, 503}  # whole answers, or a connection that was closed before
