"""A server with keys: who may do what, rotation while it runs, and no key in anything that it writes."""

from __future__ import annotations

import gzip
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from http.client import HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from typer.testing import CliRunner, Result

from service import keys
from service.cli import app
from service.keys import Keys, Scope
from service.rest.auth import ACCESS
from service.schemas import examples
from service.settings import Settings
from service.telemetry import redacted
from tests.live import Server, logs_with_keys, run_job, self_signed, send_raw, wait_for
from tests.problems import assert_problem

FAILURES = 200
SCOPES = ("predict", "read", "train", "publish", "admin")


def modelyard(*arguments: str, file: Path | None = None) -> Result:
    """`modelyard keys …`, run to its end."""
    environment = {"MODELYARD_API_KEYS_FILE": None if file is None else str(file)}
    return CliRunner().invoke(app, ["keys", *arguments], env=environment)


def made(file: Path, *arguments: str) -> str:
    """The key that a command printed."""
    done = modelyard(*arguments, file=file)
    assert done.exit_code == 0, done.stderr
    assert re.fullmatch(r"msk_[a-z0-9]{12}_[0-9a-f]{64}\n", done.stdout)
    return done.stdout.strip()


class Guarded:
    """A server, its keys file, and a key of each scope."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "keys.toml"
        self.keys = {scope: made(self.file, "create", "--name", scope, "--scope", scope) for scope in SCOPES}
        self.shown = list(self.keys.values())  # every key that any test makes
        self.server = Server(
            folder / "store", api_keys_file=str(self.file), log_level="DEBUG", key_failures_per_minute=str(FAILURES)
        ).start()

    @contextmanager
    def client(self, scope: str) -> Iterator[httpx.Client]:
        with self.server.client() as client:
            client.headers["Authorization"] = f"Bearer {self.keys[scope]}"
            yield client


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    found = Guarded(tmp_path_factory.mktemp("guarded"))
    with found.client("publish") as client:
        run_job(client, examples.TRAIN)
    yield found
    assert found.server.stop() == 0


def test_probes_and_pages_need_no_key_and_all_else_does(guarded: Guarded) -> None:
    with guarded.server.client() as client:
        for path in ("/livez", "/readyz", "/startupz", "/version", "/docs", "/openapi.json", "/problems/forbidden"):
            assert client.get(path).status_code == 200, path
        for path in ("/metrics", "/v1/models", "/nowhere"):
            answer = client.get(path)
            assert_problem(answer, 401, "unauthenticated", pointer="/header/authorization")
            assert answer.headers["WWW-Authenticate"] == 'Bearer realm="modelyard"'
        assert_problem(client.post("/predict", json=examples.PREDICT), 401, "unauthenticated")


def test_each_scope_does_its_work(guarded: Guarded) -> None:
    with guarded.client("predict") as client:
        assert client.post("/predict", json=examples.PREDICT).status_code == 200
        signature = client.get("/v1/models/quadratic/signature").json()
        assert (signature["version"], signature["inputs"][0]["row"]["row_shape"]) == (1, [1])
        assert client.get("/v2/models/quadratic").json()["name"] == "quadratic"
        assert client.get("/v2/models/quadratic/ready").status_code == 200
        assert_problem(client.get("/v1/models"), 403, "forbidden")
        assert_problem(client.get("/v2/models"), 403, "forbidden")
        assert_problem(client.get("/v1/models/quadratic/versions/1"), 403, "forbidden")
    with guarded.client("read") as client:
        assert client.get("/v1/models").status_code == 200
        assert "modelyard_key_refusals_total" in client.get("/metrics").text
        assert_problem(client.post("/v1/datasets", json={"source": examples.PARABOLA}), 403, "forbidden")
    with guarded.client("train") as client:
        assert client.post("/v1/datasets", json={"source": examples.PARABOLA}).status_code == 201
        assert_problem(client.delete("/v1/models/quadratic"), 403, "forbidden")
    with guarded.client("admin") as client:
        assert_problem(client.get("/nowhere"), 404, "not-found")
        assert_problem(client.put("/predict"), 405, "method-not-allowed")


def test_a_job_that_sets_an_alias_is_tried_again_by_who_may_set_it(guarded: Guarded) -> None:
    aliased = {**examples.TRAIN, "output": {"model": "again", "alias_on_success": "champion"}}
    with guarded.client("publish") as client:
        job = client.post("/v1/jobs", json={**aliased, "budget": {"max_seconds": 60}}).json()["id"]
        wait_for(lambda: client.get(f"/v1/jobs/{job}").json()["state"] == "running", every=0.1)
    with guarded.client("train") as client:
        assert client.post(f"/v1/jobs/{job}/cancel").status_code in (200, 202)
        wait_for(lambda: client.get(f"/v1/jobs/{job}").json()["state"] == "cancelled", every=0.1)
        refused = assert_problem(client.post(f"/v1/jobs/{job}/retry"), 403, "forbidden")
        assert client.get(f"/v1/jobs/{job}").json()["state"] == "cancelled"
    with guarded.client("publish") as client:
        assert client.post(f"/v1/jobs/{job}/retry").status_code == 202
        client.post(f"/v1/jobs/{job}/cancel")

    assert refused["detail"] == "A job that sets an alias needs the scope publish; the key 'train' has train."


def test_a_job_that_sets_an_alias_needs_what_setting_it_by_hand_needs(guarded: Guarded) -> None:
    aliased = {**examples.TRAIN, "output": {"model": "other", "alias_on_success": "champion"}}
    with guarded.client("train") as client:
        body = assert_problem(client.post("/v1/jobs", json=aliased), 403, "forbidden")
        plain = run_job(client, {**examples.TRAIN, "output": {"model": "other"}})
        promoted = client.post(f"/v1/jobs/{plain['id']}/promote", json={"output": aliased["output"]})
        assert_problem(promoted, 403, "forbidden")
        tried = client.post("/v1/jobs?dry_run=true", json=aliased).json()
        other = client.post("/v1/jobs?dry_run=true", json={**examples.IMPORT, "output": aliased["output"]}).json()
        sound = client.post("/v1/jobs?dry_run=true", json={**examples.TRAIN, "output": {"model": "other"}}).json()
    with guarded.client("publish") as client:
        allowed = client.post("/v1/jobs?dry_run=true", json=aliased).json()

    assert body["detail"] == "A job that sets an alias needs the scope publish; the key 'train' has train."
    assert (tried["valid"], other["valid"], sound["valid"], allowed["valid"]) == (False, False, True, True)
    assert tried["warnings"] == other["warnings"]
    assert tried["warnings"] == [
        {
            "pointer": "/output/alias_on_success",
            "code": "forbidden",
            "detail": body["detail"],
            "hint": "Use a key of the scope publish, or leave `alias_on_success` out.",
            "severity": "error",
            "patch": None,
        }
    ]
    assert tried["estimate_s"] is not None  # all else is looked at


def test_an_idempotency_key_is_its_callers_own(guarded: Guarded) -> None:
    def submit(scope: str) -> httpx.Response:
        body = {**examples.TRAIN, "output": {"model": "again"}}
        with guarded.client(scope) as client:
            return client.post("/v1/jobs?dry_run=false", json=body, headers={"Idempotency-Key": "one"})

    first, same, others = submit("train"), submit("train"), submit("publish")

    assert "Idempotent-Replayed" in same.headers
    assert same.json()["id"] == first.json()["id"] != others.json()["id"]


def test_events_and_logs_come_with_a_key(guarded: Guarded) -> None:
    with guarded.client("read") as client:
        job = client.get("/v1/jobs").json()["data"][-1]
        events = client.get(f"/v1/jobs/{job['id']}/events", headers={"Accept": "text/event-stream"})
        assert events.status_code == 200
        assert client.get(f"/v1/jobs/{job['id']}/logs").status_code == 200
        with client.stream("GET", "/v1/events") as stream:
            assert stream.status_code == 200
    with guarded.server.client() as client:
        assert client.get(f"/v1/jobs/{job['id']}/events").status_code == 401
        assert client.get("/v1/events", params={"key": guarded.keys["admin"]}).status_code == 401


def test_keys_are_rotated_and_revoked_while_the_server_runs(guarded: Guarded) -> None:
    def status(key: str) -> int:
        with guarded.server.client() as client:
            return client.get("/v1/models", headers={"X-API-Key": key}).status_code

    old = made(guarded.file, "create", "--name", "ci", "--scope", "read", "--expires", "90d")
    wait_for(lambda: status(old) == 200)
    new = made(guarded.file, "rotate", "ci", "--overlap", "1d")
    wait_for(lambda: status(new) == 200)
    assert status(old) == 200

    refused = modelyard("rotate", "ci", file=guarded.file)
    assert refused.exit_code == 1
    assert "2 keys of the name 'ci' are live" in refused.stderr
    assert modelyard("revoke", old.split("_")[1], file=guarded.file).exit_code == 0
    wait_for(lambda: status(old) == 401)
    assert status(new) == 200
    listed = modelyard("list", file=guarded.file).stdout
    assert re.search(rf"^{new.split('_')[1]}  ci +read +live +20\d\d-", listed, re.MULTILINE)
    assert modelyard("revoke", "ci", file=guarded.file).exit_code == 0
    wait_for(lambda: status(new) == 401)
    guarded.shown += [old, new]


@pytest.fixture
def endless(guarded: Guarded) -> Iterator[str]:
    """A job that does not end by itself."""
    body = {**examples.TRAIN, "budget": {"epochs": 1_000_000}, "output": {"model": "endless"}}
    with guarded.client("train") as client:
        answer = client.post("/v1/jobs", json=body)
        answer.raise_for_status()
        job: str = answer.json()["id"]
        yield job
        client.post(f"/v1/jobs/{job}/cancel", headers={"Prefer": "wait=30"}).raise_for_status()


@pytest.mark.parametrize("path", ["/v1/events", "/v1/jobs/{job}/events"])
def test_a_stream_ends_when_its_key_is_revoked(guarded: Guarded, endless: str, path: str) -> None:
    key = made(guarded.file, "create", "--name", "listener", "--scope", "read")
    guarded.shown.append(key)
    headers = {"X-API-Key": key, "Accept": "text/event-stream"}
    with guarded.server.client() as client:
        wait_for(lambda: client.get("/v1/jobs", headers=headers).status_code == 200)
        with client.stream("GET", path.format(job=endless), headers=headers) as stream:
            assert stream.status_code == 200
            assert modelyard("revoke", "listener", file=guarded.file).exit_code == 0
            until = time.monotonic() + 60
            for _ in stream.iter_lines():  # to its end
                assert time.monotonic() < until, "it goes on"
        assert client.get(path.format(job=endless), headers=headers).status_code == 401
    with guarded.client("read") as client:
        assert client.get(f"/v1/jobs/{endless}").json()["state"] in ("queued", "running")


def test_a_file_that_was_spoilt_changes_nothing_and_the_log_says_so(guarded: Guarded) -> None:
    content = guarded.file.read_text()
    guarded.file.write_text(content + "[[keys]\n")
    try:
        with guarded.client("read") as client:
            wait_for(
                lambda: client.get("/v1/models").status_code == 200 and "keys_refused" in guarded.server.log.read_text()
            )
    finally:
        guarded.file.write_text(content)


def test_a_quota_is_answered_429_with_the_time_to_wait(guarded: Guarded) -> None:
    key = made(
        guarded.file,
        *("create", "--name", "slow", "--scope", "read", "--requests-per-minute", "3"),
    )
    guarded.shown.append(key)
    with guarded.server.client() as client:
        client.headers["X-API-Key"] = key
        wait_for(lambda: client.get("/v1/models").status_code == 200)
        answers = [client.get("/v1/models") for _ in range(4)]

    body = assert_problem(answers[-1], 429, "rate-limited")
    assert body["limit"] == {"name": "requests_per_minute", "value": 3}
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 20


@pytest.mark.parametrize("path", ["/predict", "/v1/models/quadratic/predict"])
def test_rows_are_counted_against_the_quota_of_their_key(guarded: Guarded, path: str) -> None:
    name = "rows" + path.replace("/", "-")
    key = made(guarded.file, "create", "--name", name, "--scope", "predict", "--rows-per-minute", "5")
    guarded.shown.append(key)
    body = {"inputs": [[0.5]] * 5, **({"model": "quadratic"} if path == "/predict" else {})}
    with guarded.server.client() as client:
        client.headers["X-API-Key"] = key
        first = wait_for(lambda: (found := client.post(path, json=body)).status_code == 200 and found)
        second = client.post(path, json=body)

    assert len(first.json()["outputs"]) == 5
    told = assert_problem(second, 429, "rate-limited")
    assert told["limit"] == {"name": "rows_per_minute", "value": 5}
    assert 1 <= int(second.headers["Retry-After"]) <= 12


SHORT = [
    operation.removeprefix("POST ")
    for operation, need in ACCESS.items()
    if need == Scope.PREDICT and operation.startswith("POST ")
]
"""What is answered below ASGI: there the guard is asked in another place."""


def test_the_short_way_asks_for_keys_each_time(guarded: Guarded) -> None:
    """For each of its operations, with the body beside its head and behind it, before and after heads are known."""
    now = datetime.now(UTC)
    text, live = keys.make("short", Scope.PREDICT, now=now)
    ended, old = keys.make("short", Scope.ADMIN, now=now, expires=now - timedelta(days=1))
    before = keys.read(guarded.file).keys
    keys.write(guarded.file, Keys(keys=(*before, live, old)))
    guarded.shown += [text, ended]
    wrong: list[list[str]] = [
        [],
        [f"X-API-Key: {ended}"],
        [f"X-API-Key: {text[:-1]}{'0' if text[-1] == '1' else '1'}"],
        [f"X-API-Key: {text}", f"Authorization: Bearer {guarded.keys['admin']}"],
        [f"Authorization: Basic {text}"],
    ]

    def ask(which: tuple[str, bool], *headers: str) -> int:
        template, whole = which
        path = template.format(name="quadratic", number="1", version="1")
        content = json.dumps(INFER if path.startswith("/v2") else examples.PREDICT).encode()
        if template.startswith("/v1"):
            content = json.dumps({"inputs": [[0.5]]}).encode()
        head = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *headers]
        head += [f"Content-Length: {len(content)}", "", ""]
        line = lines[which]
        line.sendall("\r\n".join(head).encode() + (content if whole else b""))
        if not whole:
            time.sleep(0.01)
            line.sendall(content)
        answer = HTTPResponse(line)
        answer.begin()
        answer.read()
        return answer.status

    with ExitStack() as stack:
        lines = {
            (template, whole): stack.enter_context(connected(guarded.server))
            for template in SHORT
            for whole in (True, False)
        }
        first = next(iter(lines))
        wait_for(lambda: ask(first, f"X-API-Key: {text}") == 200, every=0.2)
        for which in lines:
            right = [
                ask(which, f"Authorization: Bearer {key}") for _ in range(2) for key in (text, *guarded.keys.values())
            ]
            assert right == [200] * 2 * (1 + len(SCOPES)), which
            assert [ask(which, *headers) for headers in wrong] == [401] * len(wrong), which
        keys.write(guarded.file, Keys(keys=(*before, live.model_copy(update={"expires": now}), old)))
        wait_for(lambda: ask(first, f"X-API-Key: {text}") == 401, every=0.2)
        for which in lines:
            assert ask(which, f"Authorization: Bearer {text}") == 401, which


def connected(server: Server) -> socket.socket:
    """From an address of its own: wrong keys are counted by address."""
    address = urlsplit(server.url)
    return socket.create_connection(
        (address.hostname or "", address.port or 0), timeout=20, source_address=("127.0.0.4", 0)
    )


INFER = {"inputs": [{"name": "x", "shape": [5, 1], "datatype": "FP32", "data": [0.5] * 5}]}
WRONG = {"inputs": [[0.5]] * 4 + [["a"]]}
REFUSED: list[tuple[str, dict[str, Any], int]] = [
    ("/v1/models/quadratic/predict", WRONG, 422),
    ("/v1/models/quadratic/predict", {"inputs": [[0.5, 0.5]] * 5}, 422),
    ("/v1/models/nothing/predict", {"inputs": [[0.5]] * 5}, 404),
    ("/predict", {"model": "quadratic", **WRONG, "strange": 1}, 422),
    ("/v2/models/nothing/infer", INFER, 404),
    ("/v2/models/quadratic/infer", {"inputs": [{**INFER["inputs"][0], "name": "y"}]}, 400),
    ("/v2/models/quadratic/infer", {**INFER, "outputs": [{"name": "nothing"}]}, 400),
]


def test_the_rows_of_refused_requests_are_not_counted(guarded: Guarded) -> None:
    key = made(guarded.file, "create", "--name", "clumsy", "--scope", "predict", "--rows-per-minute", "5")
    guarded.shown.append(key)
    with guarded.server.client() as client:
        client.headers["X-API-Key"] = key
        wait_for(lambda: client.post("/v1/models/nothing/predict", json=WRONG).status_code == 404, every=0.2)
        refused = [client.post(path, json=body).status_code for path, body, _ in REFUSED for _ in range(3)]
        packed = client.post(
            "/v2/models/quadratic/infer",
            content=gzip.compress(json.dumps({"inputs": [{**INFER["inputs"][0], "name": "y"}]}).encode()),
            headers={"Content-Encoding": "gzip"},
        )
        answered = [client.post("/v2/models/quadratic/infer", json=INFER).status_code for _ in range(2)]

    assert refused == [status for _, _, status in REFUSED for _ in range(3)]
    assert packed.status_code == 400
    assert answered == [200, 429]


def test_wrong_keys_of_an_address_are_limited(guarded: Guarded) -> None:
    def get(client: httpx.Client, key: str) -> httpx.Response:
        return client.get("/v1/models", headers={"X-API-Key": key})

    elsewhere = httpx.HTTPTransport(local_address="127.0.0.2")
    with httpx.Client(base_url=guarded.server.url, transport=elsewhere) as stranger, guarded.server.client() as client:
        first = get(stranger, "msk_guess_1")
        answer = wait_for(lambda: (found := get(stranger, "msk_guess_1")).status_code == 429 and found, every=0)
        right = get(stranger, guarded.keys["read"])
        other = get(client, "msk_guess_1")

    body = assert_problem(answer, 429, "rate-limited")
    assert body["limit"] == {"name": "key_failures_per_minute", "value": FAILURES}
    assert int(answer.headers["Retry-After"]) >= 1
    assert [first.status_code, right.status_code, other.status_code] == [401, 200, 401]


def test_no_key_is_in_anything_that_the_server_writes(guarded: Guarded) -> None:
    """In every place where a key may come by mistake, with every kind of answer."""
    secret = guarded.keys["admin"]
    with guarded.client("admin") as client:
        seen = [
            client.get(f"/v1/models/{secret}"),
            client.get(f"/{secret}", params={"key": secret}),
            client.post("/predict", json={"model": secret, "inputs": [[1]]}),
            client.post("/v1/jobs", json={"kind": secret, secret: secret}),
            client.post("/v1/jobs", content=secret, headers={"Content-Type": secret}),
            client.get("/v1/models", headers={"X-Request-ID": secret, "User-Agent": secret, "Cookie": secret}),
            client.post("/v1/datasets", json={"name": "x", "source": examples.PARABOLA}, headers={"Prefer": secret}),
            client.get("/livez", headers={"X-API-Key": secret}),
        ]
        job = run_job(client, {**examples.TRAIN, "output": {"model": "last"}})
        seen.append(client.get(f"/v1/jobs/{job['id']}/logs"))
        metrics = client.get("/metrics").text
    for request in (
        f"GET /{secret}\r\n\r\n",
        f"{secret}\r\n\r\n",
        f"GET / HTTP/1.1\r\nAuthorization: {secret}\x01\r\n\r\n",
    ):
        send_raw(guarded.server, request.encode())
    guarded.shown.append("msk_0123456789ab_" + "f" * 64)
    with guarded.server.client() as client:
        client.get("/v1/models", headers={"X-API-Key": guarded.shown[-1]})

    written = [guarded.server.log, guarded.file, *guarded.server.store.rglob("*")]
    texts = {str(path): path.read_bytes() for path in written if path.is_file()}
    assert len(seen) == 9
    assert len(texts) > 20
    for key in guarded.shown:
        hidden = key.rpartition("_")[2].encode()
        assert [path for path, data in texts.items() if hidden in data] == []
        assert hidden.decode() not in metrics
    lines = [json.loads(line) for line in texts[str(guarded.server.log)].splitlines() if line.startswith(b"{")]
    callers = {line.get("caller") for line in lines if line.get("action") == "request"}
    assert {"admin", "read", "train"} <= callers


def test_logs_are_searched_for_keys_wherever_they_lie(tmp_path: Path) -> None:
    key, _ = keys.make("k", Scope.READ, now=datetime.now(UTC))
    leaks = [tmp_path / "server.log", tmp_path / "store" / "jobs" / "attempt-1" / "output.log", tmp_path / "b" / "log"]
    for path in (*leaks, tmp_path / "sound.log"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(redacted(f"a key {key}.") if path.name == "sound.log" else f"a key {key}.")
    (tmp_path / "keys.toml").write_text(key)

    assert set(logs_with_keys(tmp_path)) == set(leaks)
    for path in leaks:  # the whole session's are searched at its end
        path.unlink()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"api_keys_file": "nowhere.toml"}, "The keys file nowhere.toml cannot be read"),
        ({"api_keys": "[{}]"}, "/keys/0/sha256"),
        ({"api_keys": "msk_0123456789ab_secret"}, "MODELYARD_API_KEYS is not well-formed JSON."),
    ],
)
def test_a_server_does_not_start_with_keys_that_it_cannot_use(
    tmp_path: Path, settings: dict[str, str], told: str
) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        **{f"MODELYARD_{name.upper()}": value for name, value in settings.items()},
    }
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", "serve", "--host", "0.0.0.0", "--port", "0"],  # noqa: S104  it ends
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 2
    assert told in done.stderr
    assert "secret" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_commands_tell_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    wrong: dict[tuple[str, ...], str] = {
        ("create", "--name", "ci", "--scope", "write"): "'write' is no scope. Scopes are predict, read, train",
        ("create", "--name", "Ci!", "--scope", "read"): "/keys/0/name",
        ("create", "--name", "ci", "--scope", "read", "--expires", "soon"): "'soon' is no time",
        ("create", "--name", "ci", "--scope", "read", "--expires", "2020-01-01T00:00:00Z"): "is past",
        ("rotate", "ci"): "No key of the name 'ci' is live.",
        ("revoke", "ci"): "There is no key of the id or name 'ci'.",
    }
    for arguments, told in wrong.items():
        done = modelyard(*arguments, file=file)
        assert done.exit_code in (1, 2), arguments
        assert told in done.stderr
        assert done.stdout == ""

    assert not file.exists()
    assert "--file or MODELYARD_API_KEYS_FILE" in modelyard("list").stderr


def test_settings_do_not_show_the_keys_that_they_hold() -> None:
    assert "sha256" not in repr(Settings(api_keys='[{"sha256": "00"}]'))


def test_a_server_speaks_tls_and_believes_only_the_proxies_that_it_is_told_of(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    certificate, private = self_signed(tmp_path)
    server = make_server(
        tls_certfile=str(certificate),
        tls_keyfile=str(private),
        trusted_proxies='["127.0.0.3"]',
        api_keys="[]",
        key_failures_per_minute="1",
    )

    def status(client: httpx.Client, forwarded: str) -> int:
        headers = {"X-API-Key": "msk_guess_1", "X-Forwarded-For": forwarded}
        return client.get("/v1/models", headers=headers).status_code

    context = ssl.create_default_context(cafile=str(certificate))
    proxy = httpx.HTTPTransport(local_address="127.0.0.3", verify=context)
    with (
        httpx.Client(base_url=server.url, verify=context) as direct,
        httpx.Client(base_url=server.url, transport=proxy) as proxied,
    ):
        answer = direct.get("/livez")
        told = [status(direct, "192.0.2.1"), status(direct, "192.0.2.2")]
        believed = [status(proxied, "192.0.2.1"), status(proxied, "192.0.2.2"), status(proxied, "192.0.2.2")]

    assert server.url.startswith("https://")
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
    assert told == [401, 429]
    assert believed == [401, 401, 429]


def headers_of(answer: httpx.Response) -> dict[str, Any]:
    return {name: answer.headers.get(name) for name in ("X-Content-Type-Options", "Referrer-Policy")}


def test_every_answer_carries_the_headers_that_protect_browsers(guarded: Guarded) -> None:
    with guarded.client("read") as client:
        for path in ("/v1/models", "/nowhere", "/docs", "/redoc", "/metrics", "/livez"):
            answer = client.get(path)
            policy = answer.headers["Content-Security-Policy"]

            assert headers_of(answer) == {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "Strict-Transport-Security" not in answer.headers
            if path == "/docs":
                assert re.search(r"script-src 'self' 'sha256-[A-Za-z0-9+/=]{44}';", policy)
