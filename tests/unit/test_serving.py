"""What the commands that run a server say to whoever typed them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CALLED = "import sys; from service.cli.serving import _command; sys.argv = sys.argv[1:]; print(_command())"


@pytest.mark.parametrize(
    ("found", "shown"), [(False, "environment/bin/modelyard"), (True, "modelyard")], ids=["not in PATH", "in PATH"]
)
def test_the_demo_says_what_can_be_typed_next(found: bool, shown: str, tmp_path: Path) -> None:
    program = tmp_path / "environment" / "bin" / "modelyard"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    environment = {**os.environ, "PATH": str(program.parent) if found else str(tmp_path)}

    done = subprocess.run(
        [sys.executable, "-c", CALLED, str(program)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout == f"{shown}\n"
