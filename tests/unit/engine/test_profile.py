"""A look at a dataset: first rows, and warnings that say what to add to the request."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from service.engine import data
from service.schemas.datasets import Csv, Source, StripedImages
from service.schemas.transforms import PreprocessingStep

UPLOAD = "up_" + "0" * 32


@pytest.fixture
def look(tmp_path_factory):
    """Preview and profile of a CSV file."""

    def _look(text, **members):
        folder, path = tmp_path_factory.mktemp("dataset"), tmp_path_factory.mktemp("upload") / "table.csv"
        path.write_text(text)
        manifest = data.materialize(Csv(type="csv", upload=UPLOAD, **members), folder, upload=path)
        return data.preview(folder, manifest, limit=3), data.profile(folder, manifest)

    return _look


def column(name: str, values: list[Any], *others: str) -> str:
    """A table of one column of interest beside harmless ones."""
    lines = [f"{value},{i % 7 / 7:.3f},{i / len(values):.3f}" for i, value in enumerate(values)]
    return "\n".join([f"{name},a,b", *lines])


TROUBLES = {
    "a constant column": (column("x", [3] * 40), {}, "/columns/0", "constant-column"),
    "a constant text": (column("x", ["u"] * 40), {}, "/columns/0", "constant-column"),
    "large numbers": (column("x", [1e5 + i for i in range(40)]), {}, "/columns/0", "unscaled-inputs"),
    "many missing values": (
        column("x", [i / 40 if i % 2 else "" for i in range(40)]),
        {"missing": "keep"},
        "/columns/0",
        "many-missing",
    ),
    "texts that are no categories": (
        column("x", [f"sentence {i}" for i in range(80)]),
        {},
        "/columns/0",
        "too-many-categories",
    ),
    "one class that outweighs the other": (
        column("x", ["yes"] + ["no"] * 39),
        {"inputs": ["a", "b"], "target": "x"},
        "/columns/2",
        "class-imbalance",
    ),
    "a class without rows": (
        column("x", ["yes", "no"] * 20),
        {"inputs": ["a", "b"], "target": "x", "classes": ["yes", "no", "maybe"]},
        "/columns/2",
        "empty-class",
    ),
    "rows that stand twice": ("x,y\n1,1\n2,1\n1,1\n1,1\n", {}, "", "duplicate-rows"),
}


@pytest.mark.parametrize(("text", "members", "pointer", "code"), TROUBLES.values(), ids=TROUBLES)
def test_trouble_is_told_with_a_hint(look, text, members, pointer, code):
    members = {name: tuple(value) if isinstance(value, list) else value for name, value in members.items()}
    _, profile = look(text, **members)

    told = [(warning["pointer"], warning["code"]) for warning in profile["warnings"]]
    if code != "duplicate-rows":
        told = [each for each in told if each[1] != "duplicate-rows"]
    assert (pointer, code) in told
    assert all(warning["hint"] for warning in profile["warnings"])


def test_doubled_rows_are_counted(look):
    _, profile = look("x,y\n1,1\n2,1\n1,1\n1,1\n")

    [warning] = [each for each in profile["warnings"] if each["code"] == "duplicate-rows"]
    assert warning["detail"].startswith("2 of 4 rows")


def test_classes_that_one_row_alone_has_are_named(look):
    def rare(text: str) -> Any:
        return next(each.get("rare") for each in look(text, target="y")[1]["columns"] if each["role"] == "target")

    many = "x,y\n" + "".join(f"{n},c{n:02d}\n" for n in range(12)) + "1,a\n2,a\n"
    assert rare("x,y\n1,a\n2,b\n3,a\n4,c\n") == {"count": 2, "values": ["b", "c"]}
    assert rare("x,y\n1,7\n2,7\n3,9\n") == {"count": 1, "values": ["9"]}
    assert rare(many) == {"count": 12, "values": [f"c{n:02d}" for n in range(10)]}
    assert rare("x,y\n1,a\n2,a\n") == {"count": 0, "values": []}
    assert rare("x,y\n" + "".join(f"1,{n}\n" for n in range(60))) is None  # numbers to be met
    assert rare("x,y\n1,0.5\n2,1\n") is None


def test_a_dataset_without_trouble_has_no_warnings(look):
    text = "\n".join(["x,k,y", *(f"{np.sin(i):.6f},{'uvw'[i % 3]},{i % 2}" for i in range(60))])

    assert look(text, target="y")[1] | {"columns": None} == {"columns": None, "sampled": None, "warnings": []}


def test_images_from_0_to_255_are_to_be_normalized(tmp_path):
    path, folder = tmp_path / "x.npy", tmp_path / "dataset"
    folder.mkdir()
    np.save(path, np.random.default_rng(0).integers(0, 256, (5, 3, 4, 4), dtype=np.uint8))
    source: Any = TypeAdapter(Source).validate_python({"type": "npy", "upload": UPLOAD})
    [warning] = data.profile(folder, data.materialize(source, folder, upload=path))["warnings"]
    step = json.loads(warning["hint"].removeprefix("Add ").partition(" to ")[0])

    assert warning["code"] == "unscaled-inputs"
    assert TypeAdapter(PreprocessingStep).validate_python(step).type == "normalize"


def test_generated_images_are_fine_as_they_are(tmp_path):
    source = StripedImages(type="striped_images", classes=2, rows_per_class=5, size=8)

    assert data.profile(tmp_path, data.materialize(source, tmp_path))["warnings"] == []


def test_of_a_large_dataset_a_sample_from_its_first_row_to_its_last_is_looked_at(tmp_path):
    path, folder = tmp_path / "x.npy", tmp_path / "dataset"
    folder.mkdir()
    rows = 2**18 + 2**10
    array = np.lib.format.open_memmap(path, "w+", np.uint8, (rows, 1024))  # zeros, in a file with holes
    array[0], array[-1], array[rows // 2 - 1000 : rows // 2 + 1000] = 7, 9, 1
    source: Any = TypeAdapter(Source).validate_python({"type": "npy", "upload": UPLOAD})
    manifest = data.materialize(source, folder, upload=path)
    profile = data.profile(folder, manifest)
    [column] = profile["columns"]

    assert manifest.size_bytes > 2**28
    assert 50_000 < profile["sampled"] < 70_000
    assert (column["min"], column["max"]) == (0, 9)
    assert column["histogram"]["counts"][0] > 0.99 * sum(column["histogram"]["counts"]) > 0


def test_missing_kept_and_free_columns_are_shown(look):
    text = "n,t,on,said\n1,,2024-01-01,Hello\n,b,2024-01-02T10:00:00Z,\n"
    preview, profile = look(text, inputs=("n", "t", "said"), kept=("on",), free_text=("said",), missing="keep")

    assert json.loads(json.dumps(preview["rows"], allow_nan=False)) == [
        [1, None, "Hello", "2024-01-01T00:00:00+00:00"],
        [None, "b", "", "2024-01-02T10:00:00+00:00"],
    ]
    assert [(each["name"], each["missing"]) for each in profile["columns"]] == [
        ("n", 1),
        ("t", 1),
        ("said", 1),
        ("on", 0),
    ]
    assert json.dumps(profile, allow_nan=False)


def test_several_inputs_are_shown_side_by_side(look):
    preview, profile = look("a,b,c,y\n1,u,3,0\n2,v,5,1\n", inputs={"left": ("c",), "right": ("b", "a")}, target="y")

    assert [each["name"] for each in preview["columns"]] == ["c", "b", "a", "y"]
    assert preview["rows"] == [[3, "u", 1, 0], [5, "v", 2, 1]]
    assert [each["name"] for each in profile["columns"]] == ["c", "b", "a", "y"]


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([10**17 + 16 * i for i in range(8)], id="so large that few numbers lie between"),
        pytest.param([2**60] * 8, id="one value that is large"),
        pytest.param([0.1] * 8, id="one value"),
        pytest.param([0.1, 0.10000000000000002], id="two neighbours"),
    ],
)
def test_a_histogram_has_no_more_bins_than_its_range_has_room_for(look, values):
    _, profile = look("x,y\n" + "".join(f"{value},{i}\n" for i, value in enumerate(values)))

    histogram = profile["columns"][0]["histogram"]
    assert sum(histogram["counts"]) == len(values)
    assert len(histogram["edges"]) == len(histogram["counts"]) + 1
    assert histogram["edges"] == sorted(set(histogram["edges"]))
