"""Both faces of the client are one: the second is written from the first."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from service.client import asynchronous, synchronous
from service.client.asynchronous import AsyncClient
from service.client.synchronous import Client

ROOT = Path(__file__).resolve().parents[3]


def test_the_committed_file_is_what_the_script_writes() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/client.py", "--check"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


@pytest.mark.parametrize("name", ["Client", "Jobs", "Datasets", "Uploads", "Models", "Versions", "Aliases", "Server"])
def test_each_group_has_the_same_methods_with_the_same_parameters(name: str) -> None:
    one, other = getattr(asynchronous, f"Async{name}"), getattr(synchronous, name)
    methods = {method for method in vars(one) if not method.startswith("_")} - {"aclose"}

    assert methods <= set(vars(other))
    for method in methods:
        expected = inspect.signature(getattr(one, method)).parameters.keys()
        assert inspect.signature(getattr(other, method)).parameters.keys() == expected


def test_what_is_public_says_what_it_does() -> None:
    for face in (AsyncClient, Client):
        kinds = [
            face,
            *(type(group) for group in vars(face("http://127.0.0.1")).values() if "client" in str(type(group))),
        ]
        for kind in kinds:
            for name, member in vars(kind).items():
                if not name.startswith("_") and callable(member):
                    assert re.match(r"[A-Z].*[.:`]", inspect.getdoc(member) or ""), f"{kind.__name__}.{name}"


def test_the_client_loads_neither_torch_nor_the_server() -> None:
    script = (
        "import sys, service.client;"
        "print([name for name in ('torch', 'fastapi', 'starlette', 'sqlalchemy', 'numpy', 'pandas')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert done.stdout.strip() == "[]"
