"""The serving benchmark: what is made of its readings, what is read of its load generator, which servers it knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.serving.run import CASES, read
from benchmarks.serving.servers import PEERS, SERVERS, NotMeasured
from benchmarks.serving.table import Goal, Reading, Row, markdown, ratio

ROOT = Path(__file__).resolve().parents[2]
WRK = """\
Running 5s test @ http://127.0.0.1:8000/predict
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     2.06ms  512.00us  20.10ms   96.50%
    Req/Sec    31.20k     1.10k   33.00k    81.99%
  Latency Distribution
     50%    1.95ms
     75%    2.10ms
     90%    2.40ms
     99%  980.00us
  1000 requests in 5.00s, 30.00MB read
Requests/sec:    200.00
Transfer/sec:      6.00MB
"""


def test_rounds_are_compared_one_by_one() -> None:
    ours = _rounds(100, 400, 300)
    theirs = _rounds(50, 100, 300)

    found = ratio(ours, theirs, "per_s")

    assert found is not None
    assert (found.median, found.least, found.most) == (2, 1, 4)


def test_a_round_that_failed_on_either_side_is_left_out() -> None:
    ours = (*_rounds(100, 100), None)
    theirs = (None, *_rounds(50, 25))

    assert str(ratio(ours, theirs, "per_s")) == "2.00 (2.00–2.00)"
    assert ratio((None,), (None,), "per_s") is None


@pytest.mark.parametrize(
    ("goal", "ratio", "met"),
    [
        (Goal(least=0.5), 0.5, True),
        (Goal(least=0.5), 0.49, False),
        (Goal(most=2.2), 2.2, True),
        (Goal(most=2.2), 2.21, False),
        (Goal(least=0.9, most=1.1), 1.2, False),
    ],
)
def test_a_goal_has_its_ends_in_it(goal: Goal, ratio: float, *, met: bool) -> None:
    assert goal.met(ratio) is met


def test_a_table_has_ratios_with_their_goals_and_no_row_is_left_out() -> None:
    rows = [
        Row("ours /predict", _rounds(1000, 1200, 1100), "/predict"),
        Row("ours /v2", _rounds(500, 600, 550), "/v2"),
        Row("ours, twice /v2", _rounds(1000, 1200, 1100), "/v2", "twice"),
        Row("peer", _rounds(100, 100, 100)),
        Row("broken", (None, None, None)),
    ]

    table = markdown(rows, {"peer": Goal(least=10), "ours, twice /v2": Goal(most=0.4, says="why")}, "per_s")

    assert table.splitlines() == [
        "| server | requests/s | /predict ÷ it, requests/s | /v2 ÷ it, requests/s | goal "
        "| CPU µs a request | CPU, it ÷ /predict | p50 µs | p99 µs | failed |",
        "| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
        "| ours /predict | 1,100 |  | 0.50 (0.50–0.50) |  | 3.0 |  | 1 | 2 | 12 |",
        "| ours /v2 | 550 | 2.00 (2.00–2.00) |  |  | 3.0 | 1.00 | 1 | 2 | 12 |",
        "| ours, twice /v2 | 1,100 |  | 0.50 (0.50–0.50) ✗ | ≤ 0.4 (why) | 3.0 | 1.00 | 1 | 2 | 12 |",
        "| peer | 100 | 11.00 (10.00–12.00) ✓ | 5.50 (5.00–6.00) ✗ | ≥ 10 | 3.0 | 1.00 | 1 | 2 | 12 |",
        "| broken | none |  |  |  |  |  |  |  |  |",
    ]


def test_latencies_are_read_from_their_own_lines() -> None:
    assert read(WRK, spent_s=0.5) == Reading(per_s=200, p50_us=1950, p99_us=980, cpu_us=500, failed=0)


def test_refused_requests_are_no_answers() -> None:
    told = WRK + "  Socket errors: connect 0, read 1, write 0, timeout 2\n  Non-2xx or 3xx responses: 250\n"

    reading = read(told, spent_s=0.5)

    assert reading.per_s == 150
    assert reading.failed == 253


def test_a_server_that_answers_nothing_is_not_measured() -> None:
    with pytest.raises(NotMeasured, match="1000 answers, 1000 failures"):
        read(WRK + "  Non-2xx or 3xx responses: 1000\n", spent_s=0)
    with pytest.raises(NotMeasured, match="wrk said something else"):
        read("unable to connect", spent_s=0)


def test_goals_stand_beside_rows_that_exist() -> None:
    names = {server.name for server in SERVERS}
    doors = {
        f"{server.name} {door}" for server in SERVERS if server.peer == "modelyard" for door in ("/predict", "/v2")
    }

    for case in CASES.values():
        assert set(case.goals) <= names | doors


def test_every_peer_has_requirements_with_pinned_versions() -> None:
    peers = {server.peer for server in SERVERS} - {"modelyard", "echo", "tutorial"}

    assert {file.stem for file in PEERS.glob("*.txt")} == peers
    for peer in peers:
        lines = (PEERS / f"{peer}.txt").read_text().splitlines()
        assert all("==" in line for line in lines if not line.startswith("#")), peer


def test_torch_is_the_same_everywhere() -> None:
    [ours] = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch==")]

    assert all(ours in file.read_text().splitlines() for file in PEERS.glob("*.txt"))


def _rounds(*per_s: float) -> tuple[Reading, ...]:
    return tuple(Reading(each, p50_us=1, p99_us=2, cpu_us=3, failed=4) for each in per_s)
