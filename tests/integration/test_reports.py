"""What trainings and evaluations say of the answers, over HTTP."""

from __future__ import annotations

import json
from typing import Any

import httpx

from service.schemas import examples
from tests.live import Server, run_job


def test_a_training_reports_each_part_of_the_rows_and_the_version_keeps_it(
    client: httpx.Client, shared_server: Server
) -> None:
    job = run_job(client, {**examples.CLASSIFY, "output": {"model": "reported"}})
    version = client.get("/v1/models/reported/versions/1").json()

    report = job["report"]
    assert report["classes"] == ["0", "1"]
    assert {name: part["rows"] for name, part in report["parts"].items()} == {"train": 160, "val": 40}
    held_out = report["parts"]["val"]
    [matrix] = [held_out["confusion"]]
    right = sum(row[place] for place, row in enumerate(matrix))
    assert right / 40 == job["metrics"]["last"]["val_accuracy"]
    assert [row["rows"] for row in held_out["per_class"]] == [20, 20]
    assert [set(curve) for curve in held_out["roc"]] == [{"class", "auc"}]
    assert "report.json" in {file["name"] for file in version["files"]}
    kept, of_attempt = (
        json.loads((shared_server.store / path / "report.json").read_bytes())
        for path in ("models/reported/1", f"jobs/{job['id']}/attempt-1")
    )
    assert kept == of_attempt
    assert len(kept["parts"]["val"]["roc"][0]["fpr"]) > 1


def test_an_evaluation_reports_all_rows(client: httpx.Client, quadratic: dict[str, Any]) -> None:
    job = run_job(client, examples.EVALUATE)

    assert job["report"]["classes"] is None
    part = job["report"]["parts"]["all"]
    assert (part["kind"], part["rows"], part["of_rows"]) == ("numbers", 100, 100)
    assert sum(part["residuals"]["counts"]) == 100
