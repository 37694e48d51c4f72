"""The service does what its OpenAPI document says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from service import keys
from service.schemas import examples
from tests.live import Server, run_job

ROOT = Path(__file__).resolve().parents[2]
UNENDING = "/v1/events"
"""A stream that never ends by itself; test_events.py reads it."""


@pytest.mark.timeout(510)  # it must end, however busy the machine is: 190 s alone
def test_every_operation_keeps_the_openapi_document(make_server: Callable[..., Server], tmp_path: Path) -> None:
    """On a server with keys, so that every refusal for want of one is in the document too."""
    key, stored = keys.make("contract", keys.Scope.ADMIN, now=datetime.now(UTC))
    # Operations are tried without a key and with wrong ones, from one address.
    server = make_server(api_keys=f"[{stored.model_dump_json()}]", key_failures_per_minute="1000000")
    with server.client() as client:
        client.headers["Authorization"] = f"Bearer {key}"
        run_job(client, examples.TRAIN)
        run_job(client, examples.EXPORT)
        found = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(ROOT / "schemathesis.toml")),
                *("run", f"{server.url}/openapi.json", "--exclude-path", UNENDING),
                *("--header", f"Authorization: Bearer {key}", "--header", f"X-API-Key: {key}"),
                *("--phases", "examples,coverage,fuzzing,stateful", "--max-examples", "5", "--seed", "1"),
                *("--max-response-time", "5", "--generation-database", "none", "--continue-on-failure", "--no-color"),
            ],
            cwd=tmp_path,  # it leaves a folder where it runs
            capture_output=True,
            text=True,
            timeout=480,
            check=False,
        )
        counted = client.get("/metrics").text

    assert found.returncode == 0, found.stdout[-8000:] + found.stderr[-2000:]
    passed = re.search(r"(\d+) generated, (\d+) passed", found.stdout)
    assert passed is not None, found.stdout
    assert int(passed[1]) == int(passed[2]) > 1000
    assert "modelyard_internal_errors_total 0.0" in counted
