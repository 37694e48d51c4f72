"""The quickstart by the clock: from `modelyard serve` to the first prediction of a model that was trained meanwhile."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.live import Server

PAGE = Path(__file__).resolve().parents[2] / "docs" / "quickstart.md"
MOST_S = 120
"""Far more than it takes: a machine that does other work too must not fail here."""


def test_the_quickstart_leads_to_a_prediction_within_seconds(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    """Everything that the page has typed up to its first prediction, in its order."""
    until_predict = PAGE.read_text().split("\n## 5. ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```$", until_predict, re.DOTALL | re.MULTILINE)
    assert blocks.pop(0) == "make serve\n"

    began = time.monotonic()
    server = make_server(anew=True)
    served = time.monotonic() - began
    for block in blocks:
        script = block.replace("http://127.0.0.1:8000", server.url).replace("curl -s", "curl -sS --fail-with-body")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=tmp_path, capture_output=True, text=True, timeout=MOST_S, env=dict(os.environ), check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    took = time.monotonic() - began

    answer = json.loads(done.stdout)
    assert (answer["model"], answer["version"]) == ("quadratic", 1)
    assert [round(row[0], 1) for row in answer["outputs"]] == [0.4, 0.6]
    print(f"Quickstart: {took:.1f} s from `modelyard serve` to the prediction, {served:.1f} s of them to listen.")  # noqa: T201  shown by pytest -rP
    assert took < MOST_S
