"""Two server processes behind one port are one server: whoever is asked answers, and whoever is killed is replaced."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import httpx_sse
import pytest

from service import keys
from service.errors import StoreLocked
from service.schemas import examples
from service.store.files import StoreLock
from tests.acceptance.test_crashes import LONG
from tests.live import Server, end_worker, wait_for
from tests.load import Answer, Ask, Flood

PLACES = (0, 1)
PLACE = "x-modelyard-process"
ENDED = ("succeeded", "failed", "cancelled")
REFUSED = {401, 429}
"""A wrong key, and one from an address that has tried too many of them already."""
SHORTER: dict[str, Any] = {**LONG, "budget": {"epochs": 60}}


class Pair:
    """A server of two processes, asked with a key."""

    def __init__(self, folder: Path, **given: str) -> None:
        self.keys_file = folder / "keys.toml"
        self.key = self.add_key("admin", keys.Scope.ADMIN)
        settings: Any = {"api_keys_file": str(self.keys_file), "grpc_port": "0", "job_slots": "2", **given}
        self.server = Server(folder / "store", workers="2", **settings)

    def add_key(self, name: str, scope: keys.Scope) -> str:
        """One more key in the file."""
        text, key = keys.make(name, scope, now=datetime.now(UTC))
        known = keys.read(self.keys_file) if self.keys_file.exists() else keys.Keys()
        keys.write(self.keys_file, keys.Keys(keys=(*known.keys, key)))
        return text

    def said(self, action: str) -> list[dict[str, Any]]:
        """The lines of the log with this action."""
        lines = self.server.log.read_text().splitlines()
        return [json.loads(line) for line in lines if f'"action": "{action}"' in line]

    def pids(self) -> dict[int, int]:
        """By place, the processes that were ready last."""
        return {line["process"]: line["pid"] for line in self.said("process_ready")}

    def kill(self, place: int) -> Callable[[], bool]:
        """Kill -9 of a process; the answer says whether its successor is there."""
        before = self.pids()
        os.kill(before[place], signal.SIGKILL)
        return lambda: self.pids()[place] != before[place]

    def client(self, key: str | None = None) -> httpx.Client:
        """A client with one connection."""
        return httpx.Client(
            base_url=self.server.url,
            timeout=60,
            headers={"authorization": f"Bearer {key or self.key}"},
            limits=httpx.Limits(max_connections=1),
        )


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    made = Pair(tmp_path_factory.mktemp("pair"))
    made.server.start()
    yield made
    status = made.server.stop()
    for path in made.server.store.glob("jobs/*/attempt-*/pid"):
        end_worker(path.parent)
    assert status == 0


@pytest.fixture
def ask(pair: Pair) -> Iterator[Callable[[int], httpx.Client]]:
    """Gives clients whose connection is accepted by the process at a place."""
    with ExitStack() as stack:
        yield partial(connected, stack, pair)


def connected(stack: ExitStack, pair: Pair, place: int) -> httpx.Client:
    def look() -> httpx.Client | None:
        client = pair.client()
        if client.get("/livez").headers[PLACE] == str(place):
            stack.callback(client.close)
            return client
        client.close()
        return None

    found: httpx.Client = wait_for(look)
    return found


def answer_of(client: httpx.Client, method: str, path: str, **given: Any) -> Any:
    answer = client.request(method, path, **given)
    assert answer.is_success, answer.text
    return answer.json()


def job_of(client: httpx.Client, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = answer_of(client, "GET", f"/v1/jobs/{job_id}")
    return found


def trained(client: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    job: dict[str, Any] = answer_of(client, "POST", "/v1/jobs", json=body, headers={"Prefer": "wait=60"})
    assert job["state"] == "succeeded", job["error"]
    return job


def finished(client: httpx.Client, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = wait_for(
        lambda: found if (found := job_of(client, job_id))["state"] in ENDED else None, timeout=60
    )
    assert job["state"] == "succeeded", job["error"]
    return job


def constant(model: str, value: float, alias: str | None = None) -> dict[str, Any]:
    """The import of a net that answers one value."""
    layer = {"type": "Linear", "in_features": 1, "out_features": 1}
    output = {"model": model} if alias is None else {"model": model, "alias_on_success": alias}
    return {
        "kind": "import",
        "architecture": {**examples.SEQUENTIAL, "root": {"type": "Sequential", "layers": [layer]}},
        "state_dict": {"0.weight": [[0.0]], "0.bias": [value]},
        "output": output,
    }


def predicted(client: httpx.Client, model: str) -> dict[str, Any]:
    found: dict[str, Any] = answer_of(client, "POST", "/predict", json={"model": model, "inputs": [[1.0]]})
    return found


class Follower(threading.Thread):
    """Reads a job's events to their end, from whichever process; where its connection breaks it goes on by the id."""

    def __init__(self, pair: Pair, job_id: str, client: httpx.Client) -> None:
        super().__init__(daemon=True)
        self._pair = pair
        self._job_id = job_id
        self._client = client
        self.ids: list[int] = []
        self.breaks = 0
        self.done = False
        self.start()

    def run(self) -> None:
        """Until `done` was read."""
        while not self.done:
            headers = {"accept": "text/event-stream"} | ({"Last-Event-ID": str(self.ids[-1])} if self.ids else {})
            try:
                with httpx_sse.connect_sse(
                    self._client, "GET", f"/v1/jobs/{self._job_id}/events", headers=headers
                ) as source:
                    for event in source.iter_sse():
                        if event.data:  # not a comment, which keeps a silent connection open
                            self.ids.append(int(event.id))
                        self.done = self.done or event.event == "done"
            except httpx.TransportError:
                self.breaks += 1
                self._client.close()
                self._client = self._pair.client()  # to whoever accepts it
        self._client.close()

    def whole(self, client: httpx.Client) -> bool:
        """Whether it has read each event once, in order."""
        self.join(60)
        assert not self.is_alive()
        told: list[int] = []
        while True:
            page = answer_of(
                client, "GET", f"/v1/jobs/{self._job_id}/events", params={"after": told[-1] if told else 0}
            )
            told += [event["id"] for event in page["data"]]
            if page["next"] is None:
                return self.ids == told


def test_each_process_answers_everything(pair: Pair, ask: Callable[[int], httpx.Client]) -> None:
    clients = [ask(place) for place in PLACES]
    trained(clients[1], constant("plain", 1.5))

    for place, client in enumerate(clients):
        for path in (
            "/readyz",
            "/v1/models/plain",
            "/v1/jobs",
            "/v2/models/plain",
            "/v1/models/plain/batching",
            "/ui/",
        ):
            answer = client.get(path)
            assert answer.status_code == 200
            assert answer.headers[PLACE] == str(place)
        for _ in range(2):  # loaded by the framework's way, then on the short one
            answer = client.post("/predict", json={"model": "plain", "inputs": [[1.0]]})
            assert (answer.json()["outputs"], answer.headers[PLACE]) == ([[1.5]], str(place))


def test_a_job_starts_at_once_and_is_followed_whichever_process_is_asked(
    pair: Pair, ask: Callable[[int], httpx.Client]
) -> None:
    for place in PLACES:
        client = ask(place)
        job = answer_of(client, "POST", "/v1/jobs", json={**examples.TRAIN, "output": {"model": "followed"}})
        followers = [Follower(pair, job["id"], ask(each)) for each in PLACES]
        assert all(follower.whole(client) for follower in followers)

        events = answer_of(client, "GET", f"/v1/jobs/{job['id']}/events")["data"]
        at = {
            event["data"]["state"]: datetime.fromisoformat(event["at"]) for event in events if event["type"] == "state"
        }
        assert (at["starting"] - at["queued"]).total_seconds() < 2.5  # the supervisor was told: it looks each 5 s


def test_both_say_how_long_a_place_in_the_queue_takes(tmp_path: Path) -> None:
    small = Pair(tmp_path, job_slots="1", max_queued_jobs="1")
    small.server.start()
    with ExitStack() as stack:
        stack.callback(small.server.stop)
        clients = [connected(stack, small, place) for place in PLACES]
        for _ in range(2):
            trained(clients[0], constant("quick", 1.0))
        running = answer_of(clients[0], "POST", "/v1/jobs", json=LONG)["id"]
        wait_for(lambda: job_of(clients[0], running)["state"] == "running")
        answer_of(clients[0], "POST", "/v1/jobs", json=constant("waits", 1.0))
        told = wait_for(lambda: _all_below_30([client.post("/v1/jobs", json=LONG) for client in clients]))

        assert max(told) - min(told) <= 2
        answer_of(clients[1], "POST", f"/v1/jobs/{running}/cancel")
        wait_for(lambda: job_of(clients[0], running)["state"] in ENDED)


def _all_below_30(answers: list[httpx.Response]) -> list[int]:
    """What full queues say; nothing where that is what they say when they know nothing."""
    assert {answer.status_code for answer in answers} == {429}
    found = [int(answer.headers["retry-after"]) for answer in answers]
    return found if max(found) < 30 else []


def test_what_one_process_is_given_the_other_has(pair: Pair, ask: Callable[[int], httpx.Client]) -> None:
    """An upload, the dataset that is read from it, and the look at a training on it."""
    giver, taker = ask(0), ask(1)
    csv = "x,y\n" + "".join(f"{number / 10},{number / 5}\n" for number in range(40))
    upload = answer_of(giver, "POST", "/v1/uploads", content=csv.encode())
    source = {"type": "csv", "upload": upload["id"], "inputs": ["x"], "target": "y"}

    dataset = answer_of(taker, "POST", "/v1/datasets", json={"source": source}, headers={"Prefer": "wait=60"})
    assert dataset["state"] == "ready"
    seen = answer_of(
        taker, "POST", "/v1/jobs", params={"dry_run": True}, json={**examples.TRAIN, "dataset": dataset["id"]}
    )
    assert seen["estimate"]["measured_steps"] > 0
    assert answer_of(giver, "GET", f"/v1/datasets/{dataset['id']}/preview")["rows"]
    assert [path.name for path in pair.server.store.glob("staging/process-*/*")] == []


def test_a_repeated_request_acts_once_whoever_gets_it(ask: Callable[[int], httpx.Client]) -> None:
    clients = [ask(place) for place in PLACES]
    body = constant("once", 1.0)
    with ThreadPoolExecutor(8) as pool:

        def post(number: int) -> httpx.Response:
            client = httpx.Client(base_url=clients[0].base_url, headers=clients[0].headers, timeout=60)
            with client:
                return client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "across"})

        answers = list(pool.map(post, range(16)))

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    for client in clients:
        again = client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "across"})
        assert (again.json()["id"], again.headers["Idempotent-Replayed"]) == (answers[0].json()["id"], "true")
        other = client.post("/v1/jobs", json=constant("once", 2.0), headers={"Idempotency-Key": "across"})
        assert other.status_code == 422


def test_an_alias_change_is_seen_by_both_at_once_and_no_answer_fails_or_is_mixed(
    pair: Pair, ask: Callable[[int], httpx.Client]
) -> None:
    clients = [ask(place) for place in PLACES]
    trained(clients[0], constant("swapped", 1.0, "champion"))
    trained(clients[1], constant("swapped", 2.0))
    stop = threading.Event()
    answers: list[list[tuple[int, float]]] = [[] for _ in range(4)]

    def load(number: int, client: httpx.Client) -> None:
        while not stop.is_set():
            answer = predicted(client, "swapped@champion")
            answers[number].append((answer["version"], answer["outputs"][0][0]))

    loading = [ask(number % 2) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(load, number, client) for number, client in enumerate(loading)]
        try:
            for swap in range(20):
                version = 2 - swap % 2
                mover = clients[swap % 2]
                etag = mover.get("/v1/models/swapped/aliases/champion").headers["etag"]
                moved = mover.put(
                    "/v1/models/swapped/aliases/champion", json={"version": version}, headers={"If-Match": etag}
                )
                assert moved.status_code == 200, moved.text
                assert [predicted(client, "swapped@champion")["version"] for client in clients] == [version] * 2
        finally:
            stop.set()
        for each in running:
            each.result()

    for told in answers:
        assert {version for version, _ in told} == {1, 2}
        assert all(output == version for version, output in told)


def test_a_version_that_is_deleted_or_unloaded_is_so_in_both(ask: Callable[[int], httpx.Client]) -> None:
    clients = [ask(place) for place in PLACES]
    for value in (1.0, 2.0):
        trained(clients[0], constant("gone", value))
    for client in clients:
        predicted(client, "gone/1")
        predicted(client, "gone/2")

    assert clients[0].post("/v2/repository/models/gone/unload").is_success

    def reasons(client: httpx.Client) -> set[str]:
        index = answer_of(client, "POST", "/v2/repository/index")
        return {one["reason"] for one in index if one["name"] == "gone"}

    wait_for(lambda: [reasons(client) for client in clients] == [{"unloaded"}] * 2)
    assert clients[1].delete("/v1/models/gone/versions/1").status_code == 204
    for client in clients:
        assert client.post("/predict", json={"model": "gone/1", "inputs": [[1.0]]}).status_code == 404
        assert predicted(client, "gone")["version"] == 2


def test_keys_that_come_and_go_do_so_in_both(pair: Pair, ask: Callable[[int], httpx.Client]) -> None:
    clients = [ask(place) for place in PLACES]
    key = pair.add_key("guest", keys.Scope.READ)

    def statuses() -> list[int]:
        headers = {"authorization": f"Bearer {key}"}
        return [client.get("/v1/models", headers=headers).status_code for client in clients]

    wait_for(lambda: statuses() == [200, 200])
    kept, _ = keys.revoke(keys.read(pair.keys_file), "guest")
    keys.write(pair.keys_file, kept)
    wait_for(lambda: set(statuses()) <= REFUSED, every=0.3)


def counted(client: httpx.Client, model: str) -> float:
    text = client.get("/metrics").text
    name = f'modelyard_predictions_total{{model="{model}",version="1"}} '
    return sum(float(line.removeprefix(name)) for line in text.splitlines() if line.startswith(name))


def test_metrics_of_both_are_summed_whichever_is_asked_and_none_goes_back(
    pair: Pair, ask: Callable[[int], httpx.Client]
) -> None:
    clients = [ask(place) for place in PLACES]
    trained(clients[0], constant("counted", 1.0))
    for count, client in zip((3, 5), clients, strict=True):
        for _ in range(count):
            predicted(client, "counted")
    wait_for(lambda: [counted(client, "counted") for client in clients] == [8, 8])
    text = clients[0].get("/metrics").text
    assert text.count("# TYPE modelyard_http_requests_total counter") == 1
    assert 'modelyard_jobs{state="succeeded"}' in text

    back = pair.kill(1)
    wait_for(back)
    predicted(ask(1), "counted")
    wait_for(lambda: counted(clients[0], "counted") == 9)


def test_grpc_is_spoken_by_both_at_one_port(pair: Pair) -> None:
    grpc = pytest.importorskip("grpc")
    lines = pair.said("listening_grpc")
    assert {line["process"] for line in lines} == set(PLACES)
    (port,) = {line["port"] for line in lines}

    for number in range(8):  # each by a connection of its own
        options = [("grpc.use_local_subchannel_pool", 1), ("number", number)]
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
            assert live(b"", metadata=[("authorization", f"Bearer {pair.key}")], timeout=30) == b"\x08\x01"


def test_a_killed_process_costs_only_its_connections(pair: Pair, ask: Callable[[int], httpx.Client]) -> None:
    """A client that resumes its stream by the last id misses nothing, and the job goes on."""
    witness = ask(0)
    trained(witness, constant("steady", 1.0))
    job = answer_of(ask(1), "POST", "/v1/jobs", json={**SHORTER, "output": {"model": "killed-one"}})
    follower, other = Follower(pair, job["id"], ask(1)), Follower(pair, job["id"], ask(0))
    wait_for(lambda: len(follower.ids) > 5)

    back = pair.kill(1)
    while not back():
        assert predicted(witness, "steady")["outputs"] == [[1.0]]
    assert follower.whole(witness)
    assert other.whole(witness)

    assert follower.breaks >= 1
    assert other.breaks == 0
    assert len(finished(ask(1), job["id"])["attempts"]) == 1
    assert predicted(ask(1), "steady")["outputs"] == [[1.0]]


def test_a_process_that_is_killed_under_sixty_four_connections_costs_only_its_own(
    pair: Pair, ask: Callable[[int], httpx.Client]
) -> None:
    trained(ask(0), constant("loaded", 1.0))
    answers: list[Answer] = []

    async def run() -> dict[int, str]:
        asks = [Ask.post("/predict", {"model": "loaded", "inputs": [[1.0]]}, key=pair.key)]
        async with Flood(pair.server.url, asks, 64, answers.append, pause_s=0.02):
            while len({answer.connection for answer in answers}) < 64 or len(answers) < 640:
                await asyncio.sleep(0.01)
            places = {answer.connection: answer.headers[PLACE] for answer in answers}
            back = pair.kill(1)
            while not back():
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.5)
        return places

    places = asyncio.run(run())
    broken = {answer.connection for answer in answers if answer.status == 0}

    assert {answer.status for answer in answers} == {0, 200}
    assert all(answer.json()["outputs"] == [[1.0]] for answer in answers if answer.status == 200)
    assert broken
    assert {places[connection] for connection in broken} == {"1"}


def test_a_change_that_a_killed_process_told_nobody_is_seen_once_its_successor_is_there(
    pair: Pair, ask: Callable[[int], httpx.Client]
) -> None:
    witness, mover = ask(0), ask(1)
    trained(witness, constant("untold", 1.0, "champion"))
    trained(witness, constant("untold", 2.0))
    assert predicted(witness, "untold")["version"] == 1
    seen = mover.get("/v1/models/untold/aliases/champion").headers["etag"]
    before = pair.pids()
    # Killed where it would tell the others: the change is committed, the file that they watch is as it was.
    killing = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=utimensat:retval=0:signal=SIGKILL"]
    with subprocess.Popen([*killing, "-p", str(before[1])]) as tracer:
        threads = Path(f"/proc/{before[1]}/task")
        wait_for(lambda: all("TracerPid:\t0" not in (t / "status").read_text() for t in threads.iterdir()))
        with pytest.raises(httpx.TransportError):
            mover.put("/v1/models/untold/aliases/champion", json={"version": 2}, headers={"If-Match": seen})
        tracer.wait(30)

    wait_for(lambda: pair.pids()[1] != before[1])
    assert wait_for(lambda: predicted(witness, "untold")["version"] == 2)


def test_a_process_that_hangs_is_replaced_and_one_that_answers_is_not(tmp_path: Path) -> None:
    server = Server(tmp_path / "store", workers="2", process_timeout_s="2")

    def said(action: str) -> list[dict[str, Any]]:
        lines = server.log.read_text().splitlines()
        return [json.loads(line) for line in lines if f'"action": "{action}"' in line]

    server.start()
    try:
        first = {line["process"]: line["pid"] for line in said("process_ready")}
        os.kill(first[1], signal.SIGSTOP)
        wait_for(lambda: len(said("process_ready")) == 3)
        assert [(line["place"], line["pid"]) for line in said("process_hangs")] == [(1, first[1])]
        wait_for(lambda: httpx.get(f"{server.url}/livez").headers[PLACE] == "1")
        assert httpx.get(f"{server.url}/readyz").status_code == 200
    finally:
        status = server.stop()
    assert status == 0


def test_the_jobs_go_on_when_the_process_that_runs_them_is_killed(
    pair: Pair, ask: Callable[[int], httpx.Client]
) -> None:
    witness = ask(1)
    job = answer_of(witness, "POST", "/v1/jobs", json={**SHORTER, "output": {"model": "killed-leader"}})
    follower = Follower(pair, job["id"], ask(1))
    wait_for(lambda: len(follower.ids) > 5)

    back = pair.kill(0)
    queued = answer_of(witness, "POST", "/v1/jobs", json={**examples.TRAIN, "output": {"model": "queued-meanwhile"}})
    wait_for(back)

    assert len(finished(witness, job["id"])["attempts"]) == 1
    assert follower.whole(witness)
    assert follower.breaks == 0
    finished(witness, queued["id"])
    assert witness.get("/readyz").status_code == ask(0).get("/readyz").status_code == 200


def test_a_dataset_that_a_killed_process_was_reading_is_failed_by_its_successor(
    pair: Pair, ask: Callable[[int], httpx.Client]
) -> None:
    client, witness = ask(1), ask(0)
    rows = "".join(f"{number},{number}\n" for number in range(400_000))
    upload = answer_of(client, "POST", "/v1/uploads", content=f"x,y\n{rows}".encode())
    source = {"type": "csv", "upload": upload["id"], "inputs": ["x"], "target": "y"}
    dataset = answer_of(client, "POST", "/v1/datasets", json={"source": source}, headers={"Prefer": "wait=0"})
    assert dataset["state"] == "processing"
    wait_for(pair.kill(1))

    left = answer_of(witness, "GET", f"/v1/datasets/{dataset['id']}")
    assert (left["state"], left["error"]["code"]) == ("failed", "interrupted")
    assert [path.name for path in pair.server.store.glob("staging/process-1/*")] == []


def test_a_server_ends_in_a_sentence_where_another_like_it_is_about_to_listen(tmp_path: Path) -> None:
    """The port itself is free until one of the two listens."""
    server = Server(tmp_path / "store", workers="2")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        server.port = probe.getsockname()[1]
    with socket.socket(socket.AF_UNIX) as claim:
        claim.bind(f"\0modelyard:127.0.0.1:{server.port}".encode())
        with pytest.raises(AssertionError, match=r"The server cannot listen: .* in use"):
            server.start()

    assert (server.stop(), "Traceback" in server.log.read_text()) == (3, False)


def test_the_store_is_held_by_the_server_as_a_whole(pair: Pair) -> None:
    assert pair.server.process is not None

    with pytest.raises(StoreLocked, match=f"process {pair.server.process.pid} on"):
        StoreLock(pair.server.store / "LOCK").acquire()


def test_the_processes_end_without_their_parent_and_the_next_server_adopts_the_jobs(
    pair: Pair, ask: Callable[[int], httpx.Client]
) -> None:
    client = ask(0)
    job = answer_of(client, "POST", "/v1/jobs", json={**LONG, "output": {"model": "orphaned"}})
    wait_for(lambda: (progress := job_of(client, job["id"])["progress"]) and progress["fraction"] > 0.02)
    left = pair.pids()
    pair.server.kill()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left.values()))
    worker = Path("/proc") / (pair.server.store / "jobs" / job["id"] / "attempt-1" / "pid").read_text()
    kept = [str(path.readlink()) for path in (worker / "fd").iterdir()]
    assert not [name for name in kept if name.startswith("socket:") or name.endswith("/LOCK")]
    pair.server.start()

    assert len(finished(ask(1), job["id"])["attempts"]) == 1


def test_a_stop_answers_what_was_begun_in_both_and_keeps_the_job(
    pair: Pair, ask: Callable[[int], httpx.Client]
) -> None:
    clients = [ask(place) for place in PLACES]
    job = answer_of(clients[1], "POST", "/v1/jobs", json={**LONG, "output": {"model": "stopped"}})
    wait_for(lambda: answer_of(clients[0], "GET", f"/v1/jobs/{job['id']}/checkpoints")["data"])
    before = len(pair.said("job_queued"))
    with ThreadPoolExecutor(2) as pool:
        waiting = [
            pool.submit(
                answer_of, client, "POST", "/v1/jobs", json=constant("last", 1.0), headers={"Prefer": "wait=60"}
            )
            for client in clients
        ]
        wait_for(lambda: len(pair.said("job_queued")) >= before + 2)
        assert pair.server.stop() == 0

        assert all(each.result()["kind"] == "import" for each in waiting)
    assert pair.server.living_workers() == []
