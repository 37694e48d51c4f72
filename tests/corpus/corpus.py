"""Real checkpoints of two releases of torch, written once a session in a folder of its own.

The older torch is Debian's, under the system's Python: it can only be had there, and a test that needs it fails where
it is missing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WRITER = Path(__file__).parent / "write_corpus.py"
DEBIAN_PYTHON = Path("/usr/bin/python3")
MISSING = (
    "Debian's torch 1.13 and torchvision 0.14 are needed under /usr/bin/python3: "
    "apt-get install --no-install-recommends python3-torch python3-torchvision"
)


@dataclass(frozen=True)
class Written:
    """A checkpoint and what its writer knew of it: weights as [name, dtype, shape, sha256], tree, input, output."""

    path: Path
    known: dict[str, Any]

    @property
    def name(self) -> str:
        """Of the case: "zbx", "zbx_state"."""
        return self.path.name.split(".")[0]

    @property
    def format(self) -> str:
        """ "zip" or "legacy"."""
        return {"zip": "zip", "old": "legacy"}[self.path.name.split(".")[1]]


def write(folder: Path, which: str = "small") -> list[Written]:
    """Every case by both releases ("small"), or torchvision's nets by the older one ("nets")."""
    probe = [str(DEBIAN_PYTHON), "-W", "ignore", "-c", "import torch, torchvision; print(torch.__version__)"]
    found = subprocess.run(probe, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, MISSING
    assert found.stdout.startswith("1."), f"{MISSING}; found torch {found.stdout.strip()}"
    writers = {"debian": str(DEBIAN_PYTHON)} | ({"today": sys.executable} if which == "small" else {})
    for label, python in writers.items():
        command = [python, "-W", "ignore", str(WRITER), str(folder / label), which]
        done = subprocess.run(command, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr[-2000:]
    return [Written(path, json.loads(path.with_suffix(".json").read_text())) for path in sorted(folder.glob("*/*.pt"))]


def on_cuda(source: Path, target: Path) -> Path:
    """The same zip checkpoint as if it had been saved from a GPU: every storage's tag says cuda:0."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename.endswith("/data.pkl"):
                cpu, cuda = b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"
                assert cpu in data
                data = data.replace(cpu, cuda)
            new.writestr(info.filename, data)
    return target
