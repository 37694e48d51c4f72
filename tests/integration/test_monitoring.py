"""What watches a server asks for metrics that it has: dashboards and alert rules against a real /metrics."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML

from service.schemas import examples

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
DASHBOARDS = sorted((MONITORING / "grafana" / "dashboards").glob("*.json"))
OF_PROMETHEUS = {"instance", "job", "le"}
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}


def panels() -> Iterator[dict[str, Any]]:
    """The panels of all dashboards that draw something."""
    for dashboard in DASHBOARDS:
        yield from (panel for panel in json.loads(dashboard.read_text())["panels"] if panel["type"] != "row")


def asked_by_dashboards() -> list[str]:
    """The expressions of their panels, with values for the variables that Grafana fills in."""
    told = [target["expr"] for panel in panels() for target in panel["targets"]]
    return [re.sub(r"\$__\w+", "5m", expression).replace("$model", ".*") for expression in told]


def asked_by_rules() -> list[str]:
    """The expressions of the alert rules."""
    groups = YAML(typ="safe").load(MONITORING / "rules.yml")["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


@pytest.fixture(scope="module")
def served(quadratic: dict[str, Any], shared_server: Any) -> dict[str, set[str]]:
    """The names of samples that the server has, each with the labels that it was seen with."""
    with shared_server.client() as client:
        assert client.post("/predict", json=examples.PREDICT).status_code == 200
        text = client.get("/metrics").text
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for suffix in SUFFIXES.get(family.type, ()):
            found[family.name + suffix] = set()
        for sample in family.samples:
            if sample.name in found:
                found[sample.name] |= set(sample.labels)
    return found


def test_each_metric_of_dashboards_and_rules_is_served(served: dict[str, set[str]]) -> None:
    named = {
        name for words in (*asked_by_dashboards(), *asked_by_rules()) for name in re.findall(r"modelyard_\w+", words)
    }

    assert len(named) > 10
    assert named <= served.keys()


def test_each_label_of_dashboards_and_rules_is_one_of_its_metric(served: dict[str, set[str]]) -> None:
    for words in (*asked_by_dashboards(), *asked_by_rules()):
        for name, selector in re.findall(r"(modelyard_\w+)\{([^}]*)\}", words):
            labels = set(re.findall(r"(\w+) ?=", selector)) - OF_PROMETHEUS
            assert not served[name] or labels <= served[name], words
        grouped = {label for group in re.findall(r"by \(([^)]*)\)", words) for label in group.split(", ")}
        metrics = [served[name] for name in re.findall(r"modelyard_\w+", words)]
        assert all(grouped - OF_PROMETHEUS <= labels for labels in metrics if labels), words


def test_the_free_space_of_the_store_is_told(client: httpx.Client, quadratic: dict[str, Any]) -> None:
    [told] = re.findall(r"^modelyard_store_free_bytes (\S+)$", client.get("/metrics").text, re.MULTILINE)

    assert float(told) > 0


def test_each_panel_asks_the_prometheus_that_is_set_up() -> None:
    sources = YAML(typ="safe").load(MONITORING / "grafana/provisioning/datasources/prometheus.yml")["datasources"]
    known = {source["uid"] for source in sources}
    ids = [panel["id"] for panel in panels()]

    assert len(ids) == len(set(ids)) > 10
    for panel in panels():
        assert panel["datasource"]["uid"] in known
        assert all(target["datasource"]["uid"] in known for target in panel["targets"])


def test_the_expressions_of_the_dashboards_are_what_prometheus_reads(tmp_path: Path) -> None:
    """promtool reads rules, so each expression becomes one."""
    rules = [{"record": f"panel_{place}", "expr": words} for place, words in enumerate(asked_by_dashboards())]
    file = tmp_path / "rules.yml"
    YAML().dump({"groups": [{"name": "panels", "rules": rules}]}, file)
    done = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
