"""The page for contributors draws the house as it stands."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()


def test_the_floor_plan_is_the_contract_of_the_layers() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [layers] = [contract["layers"] for contract in contracts if contract["type"] == "layers"]

    plan = re.search(r"^## The house\n.*?^```\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert plan is not None
    assert plan[1].splitlines() == layers


def test_every_room_has_a_row() -> None:
    rooms = {path.stem for path in (ROOT / "service").iterdir() if path.suffix == ".py" or path.is_dir()}
    rows = PAGE.split("\n| room |")[1].split("\n\n")[0].splitlines()[2:]

    assert {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])} == rooms - {
        "__init__",
        "__pycache__",
    }
