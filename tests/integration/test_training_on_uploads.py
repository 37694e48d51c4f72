"""From an uploaded file to a prediction: pictures, tables with holes, sentences, several inputs."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from importlib.resources import files
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.live import run_job
from tests.problems import assert_problem


def upload(client: httpx.Client, data: bytes) -> str:
    return str(client.post("/v1/uploads", content=data).json()["id"])


def sequential(shape: list[int], *layers: dict[str, Any], dtype: str = "float32") -> dict[str, Any]:
    return {
        "schema": "arch/1",
        "inputs": [{"name": "x", "shape": ["B", *shape], "dtype": dtype}],
        "root": {"type": "Sequential", "layers": list(layers)},
    }


def train(client: httpx.Client, model: str, **members: Any) -> dict[str, Any]:
    body = {
        "kind": "train",
        "optimizer": {"type": "Adam", "lr": 0.01},
        "budget": {"steps": 30},
        "seed": 1,
        "output": {"model": model},
        **members,
    }
    return run_job(client, body)


def predict(client: httpx.Client, model: str, inputs: Any) -> dict[str, Any]:
    answer = client.post("/predict", json={"model": model, "inputs": inputs})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_a_zip_of_pictures_becomes_a_classifier_that_takes_pictures(client: httpx.Client) -> None:
    generator = np.random.default_rng(0)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for i in range(24):
            dark = generator.integers(0, 100, (12, 10, 3), dtype=np.uint8)
            archive.writestr(f"dark/{i}.png", png(dark))
            archive.writestr(f"light/{i}.png", png(255 - dark))
    job = train(
        client,
        "pictures",
        architecture=sequential(
            [3, 6, 6],
            {"type": "Conv2d", "in_channels": 3, "out_channels": 4, "kernel_size": 3},
            {"type": "ReLU"},
            {"type": "Flatten"},
            {"type": "Linear", "in_features": 64, "out_features": 2},
        ),
        dataset={"type": "images", "upload": upload(client, stream.getvalue()), "size": [8, 8]},
        preprocessing=[
            {"type": "center_crop", "size": [6, 6]},
            {"type": "normalize"},
            {"type": "random_flip"},
            {"type": "random_crop", "padding": 1},
        ],
        objective={"type": "cross_entropy"},
        batch_size=16,
        split={"type": "stratified", "validation": 0.25},
    )
    picture = png(generator.integers(150, 250, (9, 20, 3), dtype=np.uint8))
    text = base64.b64encode(picture).decode()
    from service.engine.picture_files import read_picture
    from service.schemas.datasets import ImageRow

    nested = read_picture(picture, ImageRow(channels=3, height=8, width=8, fitted=True)).tolist()
    answer = predict(client, "pictures", [text, {"image": text}, nested])
    version = client.get("/v1/models/pictures/versions/1").json()

    assert job["metrics"]["last"]["val_accuracy"] == 1
    assert answer["labels"] == ["light"] * 3
    assert answer["outputs"][0] == answer["outputs"][1] == answer["outputs"][2]
    assert version["signature"]["inputs"][0]["shape"] == ["B", 3, 8, 8]
    assert [step["type"] for step in version["preprocessing"]["steps"]] == ["center_crop", "normalize"]
    wrong = client.post("/predict", json={"model": "pictures", "inputs": [text, "?"]})
    assert_problem(wrong, 422, "validation-failed", pointer="/inputs/1")


def test_rows_without_a_label_are_left_out_and_told_wherever_the_dataset_is_used(client: httpx.Client) -> None:
    days = [f"2024-{n // 28 + 1:02d}-{n % 28 + 1:02d}" for n in range(60)]
    rows = [f"{n / 10},{day},{'' if n % 4 == 0 else n % 2}" for n, day in enumerate(days)]
    found = upload(client, "\n".join(["sep=,", "x,on,y", *rows, ""]).encode())
    source = {"type": "csv", "upload": found, "inputs": ["x"], "kept": ["on"], "target": "y"}
    refused = client.post("/v1/datasets", json={"source": source}, headers={"Prefer": "wait=20"})
    problem = assert_problem(refused, 422, "dataset-refused", pointer="/source/upload")
    members = json.loads(problem["errors"][0]["expected"])
    made = client.post("/v1/datasets", json={"source": {**source, **members}}, headers={"Prefer": "wait=20"}).json()
    where = f"/v1/datasets/{made['id']}"
    job = train(
        client,
        "labelled",
        architecture=sequential([1], {"type": "Linear", "in_features": 1, "out_features": 2}),
        dataset={**source, **members},
        objective={"type": "cross_entropy"},
        split={"type": "time", "by": "on", "validation": 0.2},
    )
    dry = client.post("/v1/jobs?dry_run=true", json={**job["spec"], "kind": "train"}).json()

    assert problem["errors"][0]["detail"].startswith("line 3, column 'y': ")  # the first line is sep=,
    assert members == {"unlabelled": "skip"}
    assert (made["rows"], made["source"]["unlabelled"]) == (45, "skip")
    told = "15 of 60 rows are left out, without a value in column 'y' (line 3 is the first)."
    for warnings in (made["warnings"], job["warnings"], dry["warnings"]):
        assert [one["detail"] for one in warnings if one["code"] == "unlabelled-rows"] == [told]
    assert client.get(f"{where}/preview?limit=2").json()["rows"][0] == [0.1, 1, "2024-01-02T00:00:00+00:00"]
    [target] = [one for one in client.get(f"{where}/profile").json()["columns"] if one["role"] == "target"]
    assert sum(target["histogram"]["counts"]) == 45
    assert dry["plan"]["rows"] == {"train": 36, "val": 9}


def test_a_table_with_holes_is_filled_as_in_training(client: httpx.Client) -> None:
    generator = np.random.default_rng(0)
    rows = []
    for i in range(60):
        size, town = float(generator.lognormal(3, 1)), "abc"[i % 3]
        rows.append(
            {"size": None if i % 7 == 0 else size, "town": town, "on": f"2024-01-{i // 2 + 1:02d}", "y": size * 2}
        )
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream)
    source = {
        "type": "parquet",
        "upload": upload(client, stream.getvalue()),
        "inputs": ["size", "town"],
        "target": "y",
        "kept": ["on"],
        "missing": "keep",
    }
    lines = "\n".join(json.dumps(row) for row in rows).encode()
    made = client.post("/v1/datasets", json={"source": source}).json()
    same = {**source, "type": "jsonl", "upload": upload(client, lines)}
    also = client.post("/v1/datasets", json={"source": same}).json()
    profile = client.get(f"/v1/datasets/{made['id']}/profile").json()
    train(
        client,
        "holes",
        architecture=sequential([2], {"type": "Linear", "in_features": 2, "out_features": 1}),
        dataset=made["id"],
        preprocessing=[
            {"type": "impute", "strategy": "median"},
            {"type": "log"},
            {"type": "clip", "quantiles": [0.05, 0.95]},
            {"type": "standardize"},
            {"type": "vocabulary"},
            {"type": "log", "of": "target"},
        ],
        objective={"type": "mse"},
        split={"type": "time", "by": "on", "validation": 0.25},
    )
    version = client.get("/v1/models/holes/versions/1").json()
    median = version["preprocessing"]["steps"][0]["value"][0]
    answer = predict(client, "holes", [[None, "b"], [median, "b"], {"size": None, "town": "elsewhere"}])

    assert also["digest"] == made["digest"]
    assert made["columns"][0]["missing"] == 9
    assert [warning["code"] for warning in profile["warnings"]] == ["unscaled-inputs", "duplicate-rows"]
    assert version["lineage"]["rows"] == {"train": 46, "val": 14}
    assert answer["outputs"][0] == answer["outputs"][1]
    assert [(warning["pointer"], warning["code"]) for warning in answer["warnings"]] == [
        ("/inputs/0/0", "missing-value"),
        ("/inputs/2/town", "unknown-category"),
    ]
    wrong = client.post("/predict", json={"model": "holes", "inputs": [[1.0, None]]})
    assert_problem(wrong, 422, "dtype-mismatch", pointer="/inputs/0/1")
    assert_problem(
        client.post(
            "/v1/jobs",
            json={
                "kind": "train",
                "architecture": sequential([2], {"type": "Linear", "in_features": 2, "out_features": 1}),
                "dataset": made["id"],
                "objective": {"type": "mse"},
                "optimizer": {"type": "SGD", "lr": 0.1},
                "budget": {"steps": 1},
                "split": {"type": "time", "by": "o"},
                "output": {"model": "holes"},
            },
        ),
        422,
        "validation-failed",
        pointer="/split/by",
    )


def test_sentences_are_told_apart_by_their_words(client: httpx.Client) -> None:
    good, bad = ["a lovely film", "what a joy, lovely!"], ["a dull film", "boring and dull..."]
    lines = ["said,verdict", *(f'"{text}",good' for text in good * 10), *(f'"{text}",bad' for text in bad * 10)]
    source = {
        "type": "csv",
        "upload": upload(client, "\n".join(lines).encode()),
        "target": "verdict",
        "free_text": ["said"],
    }
    job = train(
        client,
        "words",
        architecture=sequential(
            [6],
            {"type": "Embedding", "num_embeddings": 20, "embedding_dim": 4, "padding_idx": 0},
            {"type": "Flatten"},
            {"type": "Linear", "in_features": 24, "out_features": 2},
            dtype="int64",
        ),
        dataset=source,
        preprocessing=[{"type": "tokens", "max_length": 6}],
        objective={"type": "cross_entropy"},
        split={"type": "random", "validation": 0.25},
        budget={"steps": 60},
    )
    answer = predict(client, "words", [["A LOVELY film?"], ["a dull, unheard-of film"]])

    assert answer["labels"] == ["good", "bad"]
    assert "leakage" in [event["data"]["code"] for event in events(client, job["id"]) if event["type"] == "warning"]


def events(client: httpx.Client, job: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(f"/v1/jobs/{job}/events").json()["data"]
    return found


def two_inputs() -> dict[str, Any]:
    return {
        "schema": "arch/1",
        "inputs": [{"name": "picture", "shape": ["B", 1, 4, 4]}, {"name": "about", "shape": ["B", 3]}],
        "root": {
            "type": "Graph",
            "class_name": "Two",
            "layers": [
                {"name": "flat", "type": "Flatten"},
                {"name": "left", "type": "Linear", "in_features": 16, "out_features": 5},
                {"name": "right", "type": "Linear", "in_features": 3, "out_features": 5},
                {"name": "head", "type": "Linear", "in_features": 5, "out_features": 2},
            ],
            "forward": ["a = left(flat(picture))", "b = right(about)", "return head(relu(a + b))"],
        },
    }


@pytest.mark.parametrize("order", [["picture", "about"], ["about", "picture"]])
def test_a_net_with_two_inputs_trains_and_answers(client: httpx.Client, order: list[str]) -> None:
    generator = np.random.default_rng(0)
    image, meta = generator.integers(0, 256, (40, 1, 4, 4)), generator.normal(size=(40, 3))
    stream = io.BytesIO()
    np.savez(stream, image=image, meta=meta, y=(meta[:, 0] > 0).astype(np.int64))
    members = {"picture": "image", "about": "meta"}
    source = {
        "type": "npz",
        "upload": upload(client, stream.getvalue()),
        "inputs": {name: members[name] for name in order},
        "target": "y",
    }
    model = f"two-{order[0]}"
    job = train(
        client,
        model,
        architecture=two_inputs(),
        dataset=source,
        preprocessing=[{"type": "normalize", "input": "picture"}, {"type": "standardize", "input": "about"}],
        objective={"type": "cross_entropy"},
        batch_size=8,
        split={"type": "random", "validation": 0.2},
    )
    rows = {"picture": image[:3].tolist(), "about": meta[:3].tolist()}
    answer = predict(client, model, rows)
    alone = predict(client, model, {name: part[:1] for name, part in rows.items()})
    evaluated = run_job(
        client,
        {"kind": "evaluate", "model": f"{model}/1", "dataset": source, "objective": {"type": "cross_entropy"}},
    )

    assert job["metrics"]["last"]["accuracy"] > 0.7
    assert np.allclose(answer["outputs"][0], alone["outputs"][0], atol=1e-6)
    assert evaluated["metrics"]["last"]["accuracy"] > 0.7
    wrong = client.post("/v1/jobs", json=refused_body(source))
    assert_problem(wrong, 422, "shape-mismatch", pointer="/architecture")


def refused_body(source: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": "train",
        "architecture": sequential([3], {"type": "Linear", "in_features": 3, "out_features": 2}),
        "dataset": source,
        "objective": {"type": "cross_entropy"},
        "optimizer": {"type": "SGD", "lr": 0.1},
        "budget": {"steps": 1},
        "output": {"model": "never"},
    }


def test_a_text_net_takes_its_lengths_from_a_column(client: httpx.Client) -> None:
    words = [("bad", "good")[row % 2] for row in range(40)]
    rows = [{"text": " ".join([word] * (1 + row % 3)), "n": 1 + row % 3, "y": word} for row, word in enumerate(words)]
    document = json.loads(files("service").joinpath("catalogue", "lstm_text.json").read_text())
    document["params"] |= {"vocab": 10, "emb": 4, "hidden": 4, "depth": 1}
    body = {
        "kind": "train",
        "architecture": document,
        "dataset": {
            "type": "jsonl",
            "upload": upload(client, "\n".join(map(json.dumps, rows)).encode()),
            "inputs": {"tokens": ["text"], "lengths": ["n"]},
            "target": "y",
        },
        "preprocessing": [{"type": "tokens", "input": "tokens", "columns": ["text"], "max_length": 3}],
        "objective": {"type": "cross_entropy"},
        "optimizer": {"type": "Adam", "lr": 0.02},
        "budget": {"steps": 20},
        "output": {"model": "with-lengths"},
    }
    refused = assert_problem(client.post("/v1/jobs", json=body), 422, "shape-mismatch")
    document["inputs"][1]["shape"] = ["B", 1]  # as the hint says
    document["root"]["forward"] = [
        "n = squeeze(lengths, 1)",
        "seq, state = lstm(embedding(tokens), lengths=n)",
        "return fc(drop(masked_mean(seq, n)))",
    ]
    job = run_job(client, body)

    assert ([entry["pointer"] for entry in refused["errors"]]) == ["/architecture/inputs/1/shape"]
    assert "squeeze" in refused["errors"][0]["hint"]
    assert job["metrics"]["last"]["accuracy"] == 1
