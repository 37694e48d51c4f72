"""The metrics of several processes add up, no counter goes back when one of them dies, and gauges end with it."""

from __future__ import annotations

import os
from collections.abc import Callable

from prometheus_client import generate_latest

from service.tallies import Tallies, Together
from service.telemetry import LARGEST, Metrics


class Process:
    """One process's metrics at a place."""

    def __init__(self, tallies: Tallies, place: int, on_full: Callable[[int], None] = lambda _: None) -> None:
        self.metrics = Metrics()
        self.together = Together(tallies, place, own=self.metrics.registry, largest=LARGEST, on_full=on_full)

    def told(self, sample: str) -> float | None:
        """The value of a sample with its labels, as Prometheus would read it here."""
        lines = generate_latest(self.together).decode().splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == sample), None)


REQUESTS = 'modelyard_http_requests_total{method="GET",route="/x",status="2xx"}'


def test_counters_and_histograms_of_all_processes_are_summed():
    tallies = Tallies(2)
    processes = [Process(tallies, place) for place in range(2)]
    for count, process in enumerate(processes, 1):
        process.metrics.requests.labels("GET", "/x", "2xx").inc(count)
        process.metrics.request_seconds.labels("GET", "/x").observe(0.3 * count)
        process.metrics.loads.labels("ok").inc()
        process.together.write()

    for process in processes:
        assert process.told(REQUESTS) == 3
        assert process.told('modelyard_http_request_seconds_bucket{le="0.5",method="GET",route="/x"}') == 1
        assert process.told('modelyard_http_request_seconds_bucket{le="+Inf",method="GET",route="/x"}') == 2
        assert process.told('modelyard_version_loads_total{outcome="ok"}') == 2
        assert process.told('modelyard_version_loads_created{outcome="ok"}') is None


def test_what_a_process_meets_first_is_told_by_the_other_too():
    tallies = Tallies(2)
    one, other = (Process(tallies, place) for place in range(2))
    other.metrics.requests.labels("GET", "/x", "2xx").inc()
    other.together.write()

    assert one.told(REQUESTS) == 1


def test_the_successor_of_a_dead_process_counts_on_and_has_gauges_of_its_own():
    tallies = Tallies(2)
    witness, dead = (Process(tallies, place) for place in range(2))
    dead.metrics.requests.labels("GET", "/x", "2xx").inc(5)
    dead.metrics.loaded_bytes.set(1000)
    dead.metrics.jobs.labels("running").set(2)
    dead.together.write()
    assert witness.told("modelyard_loaded_bytes") == 1000

    successor = Process(tallies, 1)
    assert witness.told(REQUESTS) == 5
    assert witness.told("modelyard_loaded_bytes") == 0
    assert witness.told('modelyard_jobs{state="running"}') is None
    successor.metrics.requests.labels("GET", "/x", "2xx").inc()
    successor.together.write()
    assert witness.told(REQUESTS) == 6


def test_a_mean_is_not_summed_but_told_where_it_is_farthest_off():
    tallies = Tallies(2)
    for place, shift in enumerate((1.0, -2.0)):
        process = Process(tallies, place)
        process.metrics.input_shift.labels("m", "1", "x").observe(shift, 1)
        process.together.write()

    assert process.told('modelyard_input_shift{input="x",model="m",version="1"}') == -2


def test_numbers_cross_from_a_forked_process_and_outlive_it():
    tallies = Tallies(2)
    here = Process(tallies, 0)
    if (pid := os.fork()) == 0:
        there = Process(tallies, 1)
        there.metrics.requests.labels("GET", "/x", "2xx").inc(7)
        there.together.write()
        os._exit(0)
    os.waitpid(pid, 0)

    assert here.told(REQUESTS) == 7


def test_samples_that_do_not_fit_are_left_out_and_their_number_is_told_once():
    tallies = Tallies(1, size=4096)
    told: list[int] = []
    process = Process(tallies, 0, on_full=told.append)
    for number in range(200):
        process.metrics.requests.labels("GET", f"/{number}", "2xx").inc()
    for _ in range(2):
        process.together.write()

    assert len(told) == 1
    assert told[0] > 100

    assert process.told('modelyard_http_requests_total{method="GET",route="/0",status="2xx"}') == 1
    assert process.told('modelyard_http_requests_total{method="GET",route="/199",status="2xx"}') is None
