"""Aliases that do more than point, over HTTP: canaries answer their share, shadows are compared, guards take back."""

from __future__ import annotations

from collections import Counter
from typing import Any

import httpx
import pytest

from service.schemas import examples
from tests.live import Server, run_job, wait_for
from tests.problems import assert_problem

IMAGE = [[[[1.0] * 5] * 5]]
LINEAR = {"type": "Sequential", "layers": [{"type": "Linear", "in_features": 2, "out_features": 1}]}


def version_of(client: httpx.Client, model: str, scale: float) -> int:
    """A version whose answers to IMAGE are nine times its scale."""
    weights = {"conv.weight": [[[[scale] * 3] * 3]]}
    made = run_job(client, {**examples.IMPORT, "state_dict": weights, "output": {"model": model}})
    number: int = made["output"]["version"]
    return number


def point(client: httpx.Client, model: str, body: dict[str, Any]) -> httpx.Response:
    url = f"/v1/models/{model}/aliases/live"
    seen = client.get(url)
    headers = {"If-Match": seen.headers["etag"]} if seen.status_code == 200 else {"If-None-Match": "*"}
    return client.put(url, json=body, headers=headers)


def damage(server: Server, model: str, version: int) -> None:
    """Change a bit of the weights in the store."""
    weights = server.store / "models" / model / str(version) / "weights.pt"
    weights.chmod(0o644)
    content = bytearray(weights.read_bytes())
    content[-200] ^= 1
    weights.write_bytes(content)


def ask(client: httpx.Client, model: str, times: int, *, inputs: Any = IMAGE) -> list[dict[str, Any]]:
    answers = [client.post("/predict", json={"model": f"{model}@live", "inputs": inputs}) for _ in range(times)]
    assert {answer.status_code for answer in answers} == {200}
    return [answer.json() for answer in answers]


@pytest.mark.parametrize("inputs", [IMAGE, {"image": IMAGE}], ids=["short way", "long way"])
def test_a_canary_answers_its_share_and_says_so(client: httpx.Client, inputs: Any) -> None:
    model = f"canary-{len(str(inputs))}"
    for scale in (1, 2):
        version_of(client, model, scale)
    made = point(client, model, {"version": 1, "canary": {"version": 2, "percent": 40}})
    answers = ask(client, model, 120, inputs=inputs)

    assert made.status_code == 201
    assert made.json()["canary"] == {"version": 2, "percent": 40}
    shares = Counter(answer["version"] for answer in answers)
    assert 15 < shares[2] < 85  # 48 expected; further off less than once in a billion runs
    assert all(answer["outputs"][0][0][0][0] == 9 * answer["version"] for answer in answers)
    assert {answer["alias"] for answer in answers} == {"live"}


def test_shadows_are_compared_and_nobody_sees_their_answers(client: httpx.Client) -> None:
    for scale in (1, 1, 2):
        version_of(client, "shadowed", scale)
    point(client, "shadowed", {"version": 1, "shadow": [2, 3]})

    def counted() -> Any:
        answers = ask(client, "shadowed", 1)
        assert answers[0]["version"] == 1
        told = client.get("/v1/models/shadowed/aliases/live/shadow").json()["shadows"]
        return told if all(each["rows"] >= 3 for each in told) else None

    same, other = wait_for(counted)

    assert (same["version"], same["disagreement"], same["failed"]) == (2, 0.0, 0)
    assert (other["version"], other["disagreement"], other["largest_difference"]) == (3, 1.0, 9.0)


def test_a_guard_takes_a_slow_canary_back_and_the_history_says_why(client: httpx.Client) -> None:
    for scale in (1, 2):
        version_of(client, "guarded", scale)
    guard = {"requests": 10, "latency_s": 1e-9}
    point(client, "guarded", {"version": 1, "canary": {"version": 2, "percent": 100}, "guard": guard})

    alias = wait_for(
        lambda: (
            ask(client, "guarded", 1)
            and (found := client.get("/v1/models/guarded/aliases/live").json())["canary"] is None
            and found
        )
    )
    latest = client.get("/v1/models/guarded/aliases/live/history").json()["data"][0]

    assert (alias["version"], alias["guard"]) == (1, None)
    assert (latest["action"], latest["by"]) == ("rollback", "guard")
    assert latest["reason"].startswith("The last 10 answers took")
    assert ask(client, "guarded", 1)[0]["version"] == 1


def test_a_canary_that_cannot_be_loaded_costs_nobody_an_answer(shared_server: Server, client: httpx.Client) -> None:
    for scale in (1, 2):
        version_of(client, "broken", scale)
    damage(shared_server, "broken", 2)
    guard = {"requests": 10, "error_rate": 0.5}
    point(client, "broken", {"version": 1, "canary": {"version": 2, "percent": 100}, "guard": guard})

    def taken_back() -> bool:
        assert ask(client, "broken", 1)[0]["version"] == 1
        return client.get("/v1/models/broken/aliases/live").json()["canary"] is None

    assert wait_for(taken_back)


def test_a_version_that_can_be_loaded_no_more_is_taken_back_without_a_canary_too(
    client: httpx.Client, shared_server: Server
) -> None:
    for scale in (1, 2):
        version_of(client, "damaged", scale)
    point(client, "damaged", {"version": 1})
    point(client, "damaged", {"version": 2, "guard": {"requests": 10, "error_rate": 0.5}})
    assert client.post("/v1/models/damaged/versions/2/unload").is_success
    damage(shared_server, "damaged", 2)

    def taken_back() -> bool:
        asked = client.post("/predict", json={"model": "damaged@live", "inputs": IMAGE})
        return asked.status_code == 200 and asked.json()["version"] == 1

    assert wait_for(taken_back)
    change = client.get("/v1/models/damaged/aliases/live/history").json()["data"][0]
    assert (change["version"], change["by"]) == (1, "guard")


def test_a_roll_back_passes_over_a_version_that_is_found_damaged(client: httpx.Client, shared_server: Server) -> None:
    for scale in (1, 2, 3):
        version_of(client, "passed", scale)
        point(client, "passed", {"version": scale})
    assert client.post("/v1/models/passed/versions/2/unload").is_success
    damage(shared_server, "passed", 2)
    back = client.post("/v1/models/passed/aliases/live/rollback")

    assert (back.status_code, back.json()["version"]) == (200, 1)
    assert ask(client, "passed", 1)[0]["version"] == 1
    assert client.get("/v1/models/passed/versions/2").json()["state"] == "quarantined"


def test_a_canary_that_refuses_what_the_alias_takes_is_taken_back_and_what_both_refuse_is_not_held_against_it(
    client: httpx.Client,
) -> None:
    for rows in (10, 5):
        root = {"type": "Sequential", "layers": [{"type": "Embedding", "num_embeddings": rows, "embedding_dim": 2}]}
        inputs = [{"name": "word", "shape": ["B"], "dtype": "int64"}]
        architecture = {"schema": "arch/1", "inputs": inputs, "root": root}
        table = {"0.weight": [[1.0, 2.0]] * rows}
        run_job(
            client,
            {"kind": "import", "architecture": architecture, "state_dict": table, "output": {"model": "words"}},
        )
    guard = {"requests": 10, "error_rate": 0.5}
    made = point(client, "words", {"version": 1, "canary": {"version": 2, "percent": 100}, "guard": guard})
    assert made.status_code == 201, made.text

    def canary(word: int) -> Any:
        client.post("/predict", json={"model": "words@live", "inputs": [word]})
        return client.get("/v1/models/words/aliases/live").json()["canary"]

    for _ in range(20):
        assert canary(77) is not None
    assert wait_for(lambda: canary(7) is None)
    change = client.get("/v1/models/words/aliases/live/history").json()["data"][0]
    assert (change["by"], "of the last 10 answers failed" in change["reason"]) == ("guard", True)


def test_a_canary_that_does_without_fewer_values_is_taken_back_too(client: httpx.Client) -> None:
    """It refuses its rows before there is a forward pass."""
    for missing in ("keep", "refuse"):
        lines = "".join(f"{'' if missing == 'keep' and i % 5 == 0 else i},{2 * i},{3 * i}\n" for i in range(40))
        content, headers = f"a,b,y\n{lines}".encode(), {"Content-Type": "text/csv"}
        upload = client.post("/v1/uploads", content=content, headers=headers).json()["id"]
        source = {"type": "csv", "upload": upload, "inputs": ["a", "b"], "target": "y", "missing": missing}
        net = {"schema": "arch/1", "inputs": [{"name": "x", "shape": ["B", 2]}], "root": LINEAR}
        steps = [{"type": "impute", "columns": ["a"]}] if missing == "keep" else []
        job = {**examples.TRAIN, "architecture": net, "dataset": source, "budget": {"epochs": 1}}
        run_job(client, {**job, "preprocessing": [*steps, {"type": "standardize"}], "output": {"model": "gaps"}})
    guard = {"requests": 10, "error_rate": 0.5}
    made = point(client, "gaps", {"version": 1, "canary": {"version": 2, "percent": 100}, "guard": guard})
    gap = {"model": "gaps@live", "inputs": [{"a": None, "b": 2}]}

    assert made.status_code == 201, made.text
    assert client.post("/predict", json=gap).status_code == 422
    assert wait_for(lambda: client.post("/predict", json=gap).status_code == 200)
    assert client.get("/v1/models/gaps/aliases/live").json()["canary"] is None


def test_a_roll_back_that_is_refused_loads_nothing(client: httpx.Client) -> None:
    for scale in (1, 2):
        version_of(client, "stale", scale)
        point(client, "stale", {"version": scale})
        assert client.post(f"/v1/models/stale/versions/{scale}/unload").is_success
    refused = client.post("/v1/models/stale/aliases/live/rollback", headers={"If-Match": '"a0"'})
    loaded = client.get("/v1/loaded").json()["data"]

    assert refused.status_code == 412
    assert [one for one in loaded if one["model"] == "stale"] == []


def test_deadlines_that_clients_choose_move_no_alias(client: httpx.Client) -> None:
    for scale in (1, 2):
        version_of(client, "hurried", scale)
    guard = {"requests": 10, "error_rate": 0.05}
    point(client, "hurried", {"version": 1, "canary": {"version": 2, "percent": 100}, "guard": guard})
    hurried = {"model": "hurried@live", "inputs": {"image": IMAGE}, "timeout_s": 0.001}
    statuses = {client.post("/predict", json=hurried).status_code for _ in range(40)}

    assert statuses <= {200, 504}
    assert client.get("/v1/models/hurried/aliases/live").json()["canary"] == {"version": 2, "percent": 100}


def test_a_canary_that_takes_other_rows_is_refused(client: httpx.Client) -> None:
    version_of(client, "other", 1)
    net = {**examples.IMPORT["architecture"], "inputs": [{"name": "image", "shape": ["B", 1, 7, 7]}]}
    run_job(client, {**examples.IMPORT, "architecture": net, "output": {"model": "other"}})
    refused = point(client, "other", {"version": 1, "canary": {"version": 2, "percent": 10}})

    found = assert_problem(refused, 422, "validation-failed", pointer="/canary/version", entry="shape-mismatch")
    assert found["errors"][0]["expected"] == "image float32 [*, 1, 5, 5]"


def trained_on(client: httpx.Client, model: str, *columns: str) -> None:
    rows = "".join(f"{number},{2 * number},{3 * number}\n" for number in range(20))
    upload = client.post("/v1/uploads", content=f"age,height,y\n{rows}".encode()).json()["id"]
    dataset = {"source": {"type": "csv", "upload": upload, "inputs": list(columns), "target": "y"}}
    made = client.post("/v1/datasets", json=dataset).json()
    net = {
        "schema": "arch/1",
        "inputs": [{"name": "x", "shape": ["B", 2]}],
        "root": {"type": "Sequential", "layers": [{"type": "Linear", "in_features": 2, "out_features": 1}]},
    }
    budget = {"kind": "train", "budget": {"steps": 3}, "seed": 1, "optimizer": {"type": "SGD", "lr": 0.0001}}
    budget["objective"] = {"type": "mse"}
    run_job(client, {**budget, "architecture": net, "dataset": made["id"], "output": {"model": model}})


def test_a_canary_of_the_same_columns_in_another_order_is_refused(client: httpx.Client) -> None:
    for columns in (("age", "height"), ("height", "age"), ("age", "height")):
        trained_on(client, "columns", *columns)
    refused = point(client, "columns", {"version": 1, "canary": {"version": 2, "percent": 10}})

    found = assert_problem(refused, 422, "validation-failed", pointer="/canary/version", entry="shape-mismatch")
    assert found["errors"][0]["expected"] == "columns 'age' (a number), 'height' (a number)"
    assert found["errors"][0]["got"] == "columns 'height' (a number), 'age' (a number)"
    assert point(client, "columns", {"version": 1, "canary": {"version": 3, "percent": 10}}).status_code == 201


def test_a_routing_that_cannot_be_is_refused_at_its_place(client: httpx.Client) -> None:
    version_of(client, "refusing", 1)
    twice = point(client, "refusing", {"version": 1, "canary": {"version": 1, "percent": 10}})
    nothing = point(client, "refusing", {"version": 1, "guard": {"requests": 10}})
    absent = point(client, "refusing", {"version": 1, "shadow": [9]})
    much = point(client, "refusing", {"version": 1, "canary": {"version": 2, "percent": 101}})

    assert_problem(twice, 422, "validation-failed", pointer="/canary/version")
    assert_problem(nothing, 422, "validation-failed", pointer="/guard")
    assert_problem(absent, 404, "not-found", pointer="/shadow/0")
    assert_problem(much, 422, "validation-failed", pointer="/canary/percent")
