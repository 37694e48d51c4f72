"""Log lines: short ones for people, whole ones for machines."""

from __future__ import annotations

import json
import re
import subprocess
import sys

LINES = """
import logging
import sys
from service.telemetry import configure_logging, log

configure_logging(level=sys.argv[1], style=sys.argv[2])
logging.getLogger("uvicorn.error").info("Waiting for application startup.")
logging.getLogger("uvicorn.error").warning("Something of the web server.")
request = {"method": "POST", "path": "/predict\x1b[2J", "status": 422, "duration_s": 0.0123}
log("service.rest.middleware").info("A request was answered.", action="request", **request, request_id="c0ff")
log("service.jobs.queue").info("A job was queued.", action="job_queued", job="job_1", key="msk_0a1b_secret")
"""


def told(level: str, style: str) -> list[str]:
    """What a process of its own writes, without the date and time: how logs look is set for a process as a whole."""
    command = [sys.executable, "-c", LINES, level, style]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return [re.sub(r"^\d{4}-\d{2}-\d{2}[ T][\d:.]+Z? ", "", line) for line in done.stderr.splitlines()]


def test_a_person_reads_what_happened_and_no_more() -> None:
    assert told("INFO", "console") == [
        "[warning  ] Something of the web server. [uvicorn.error]",
        "[info     ] POST /predict\\u001b[2J 422 in 12 ms request_id=c0ff",
        "[info     ] A job was queued. job=job_1 key=msk_0a1b_…",
    ]


def test_a_person_who_asks_for_everything_gets_it() -> None:
    first, *_, last = told("DEBUG", "console")

    assert first == "[info     ] Waiting for application startup. [uvicorn.error]"
    assert last == "[info     ] A job was queued. [service.jobs.queue] action=job_queued job=job_1 key=msk_0a1b_…"


def test_a_machine_gets_every_line_with_its_action() -> None:
    lines = [json.loads(line) for line in told("INFO", "json")]

    assert [line.get("action") for line in lines] == [None, None, "request", "job_queued"]
    assert lines[2]["event"] == "A request was answered."
    assert lines[2]["status"] == 422
