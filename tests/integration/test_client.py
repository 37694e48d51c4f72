"""The client against a real server: every operation has a method, and the ways in and out work."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import io
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import anyio
import httpx
import numpy as np
import pandas as pd
import pytest
import torch

from service import keys
from service.client import AsyncClient, Client, Dataset
from service.client.calls import Call
from service.errors import (
    DatasetRefused,
    DeadlinePassed,
    DigestMismatch,
    Forbidden,
    IdempotencyMismatch,
    InvalidInput,
    JobFailed,
    NotFound,
    PreconditionFailed,
    ValidationFailed,
)
from service.schemas import examples
from service.schemas.jobs import TrainSpec
from tests.answers import JOB_ID
from tests.live import Server

SAMPLES: dict[str, Any] = {
    "job": JOB_ID,
    "name": "quadratic",
    "model": "quadratic",
    "reference": "quadratic",
    "number": 1,
    "version": 1,
    "alias": "champion",
    "digest": "sha256:" + "0" * 64,
    "dataset": "ds_" + "0" * 32,
    "upload": "up_" + "0" * 32,
    "figure": "loss",
    "view": "python",
    "code": "not-found",
    "inputs": [[0.5]],
    "source": b"bytes",
    "document": {},
    "request": {},
    "edits": {},
    "a": {},
    "b": {},
    "jobs": JOB_ID,
}
MADE_OF_OTHERS = {
    "wait",
    "resolve",
    "close",
    "send",
    "download",
    "follow",
    "each",
    "ask",
    "train",
    "plan",
    "discard",
}
"""Methods that stand for no operation of their own."""


class Anything:
    """An answer of which everything may be asked."""

    etag = '"1"'
    aliases: ClassVar[dict[str, int]] = {}
    latest = 1


class Recorder(Client):
    """A client that notes the calls and sends none."""

    def __init__(self) -> None:
        self.made: list[Call[Any]] = []
        super().__init__("http://127.0.0.1:1")

    def send(self, call: Call[Any]) -> Any:
        self.made.append(call)
        return Anything()

    def download(self, call: Call[Any], to: object = None) -> bytes:
        self.made.append(call)
        return b""

    def follow(self, call: Call[None], **_: object) -> Any:
        self.made.append(call)
        return iter(())


def every_call() -> list[Call[Any]]:
    """What the methods ask for, each called with what it requires, and once more with a name and a version."""
    with Recorder() as client:
        groups = [client, *(group for group in vars(client).values() if type(group).__module__.startswith("service."))]
        for group in groups:
            for name, method in inspect.getmembers(group, inspect.ismethod):
                if name.startswith("_") or name in MADE_OF_OTHERS:
                    continue
                parameters = inspect.signature(method).parameters.values()
                required = {
                    one.name for one in parameters if one.default is one.empty and one.kind is not one.VAR_POSITIONAL
                }
                about = {one.name for one in parameters if one.name in ("name", "version")}
                for wanted in {
                    frozenset(required),
                    frozenset(required | {"name"} & about),
                    frozenset(required | about),
                }:
                    given = {one: SAMPLES[one] for one in wanted}
                    if name == "infer":
                        given["inputs"] = {"x": [[0.5]]}
                    method(**given)
        return client.made


@pytest.fixture(scope="module")
def document(shared_server: Server) -> dict[str, Any]:
    """What the server says of itself."""
    with Client(shared_server.url) as client:
        return client.server.openapi()


@pytest.fixture
def yard(shared_server: Server) -> Iterator[Client]:
    """A client of the shared server."""
    with Client(shared_server.url) as client:
        yield client


def test_every_operation_has_a_method_and_every_method_an_operation(document: dict[str, Any]) -> None:
    operations = {(method.upper(), path) for path, found in document["paths"].items() for method in found}
    called = {(call.method, call.path) for call in every_call()} - {("GET", "/openapi.json")}

    assert operations - called == set()
    assert called - operations == set()


def test_the_parameters_of_a_path_are_filled_in() -> None:
    for call in every_call():
        pattern = re.sub(r"\{[a-z_]+\}", "[^/{}]+", call.path)

        assert re.fullmatch(pattern, call.url), call


def test_each_parameter_of_the_query_is_one_of_the_operation(document: dict[str, Any]) -> None:
    for call in every_call():
        if call.path == "/openapi.json":
            continue
        told = document["paths"][call.path][call.method.lower()].get("parameters", [])
        known = {one["name"] for one in told if one["in"] == "query"}

        assert set(call.query) <= known, call


class TestJobs:
    def test_a_job_is_watched_from_its_first_event_to_its_last(self, yard: Client) -> None:
        job = yard.jobs.submit(TrainSpec.model_validate(examples.TRAIN))
        events = list(yard.jobs.watch(job))

        assert [event.id for event in events] == sorted({event.id for event in events})
        assert (events[0].data["state"], events[-1].type) == ("queued", "done")
        assert [event.id for event in yard.jobs.watch(job, after=events[-3].id)] == [event.id for event in events[-2:]]
        assert list(yard.jobs.watch(job, after=events[-1].id)) == []
        assert yard.jobs.wait(job).version == events[-1].data["output"]["version"]

    def test_the_same_key_is_the_same_job_and_with_another_request_a_mistake(self, yard: Client) -> None:
        one, same = (yard.jobs.submit(examples.TRAIN, key="client-test") for _ in range(2))

        assert one.id == same.id
        with pytest.raises(IdempotencyMismatch):
            yard.jobs.submit({**examples.TRAIN, "seed": 2}, key="client-test")

    def test_waiting_ends_in_time_and_the_job_goes_on(self, yard: Client) -> None:
        job = yard.jobs.submit({**examples.TRAIN, "budget": {"max_seconds": 60}})
        with pytest.raises(DeadlinePassed):
            yard.jobs.wait(job, timeout_s=0.5)

        assert not yard.jobs.get(job).ended
        yard.jobs.cancel(job)
        with pytest.raises(JobFailed) as caught:
            yard.jobs.wait(job, timeout_s=60)
        assert caught.value.failure == "cancelled_by_user"

    def test_a_change_of_what_has_changed_since_it_was_seen_is_refused(self, yard: Client, quadratic: Any) -> None:
        seen = yard.jobs.get(quadratic["id"])
        yard.jobs.update(seen.id, labels={"by": "somebody else"})

        with pytest.raises(PreconditionFailed):
            yard.jobs.update(seen, labels={"by": "me"})

    def test_the_other_face_does_the_same(self, shared_server: Server, quadratic: Any) -> None:
        async def look() -> tuple[list[str], list[str]]:
            async with AsyncClient(shared_server.url) as client:
                events = [event.type async for event in client.jobs.watch(quadratic["id"])]
                job = await client.jobs.wait(await client.jobs.submit(examples.TRAIN))
                names = [model.model async for model in client.each(client.models.list, limit=1)]
                answer = await client.predict(f"quadratic/{job.version}", [[0.5]])
                return [events[-1], str(answer.version == job.version)], names

        told, names = anyio.run(look)
        assert told == ["done", "True"]
        assert len(names) == len(set(names)) >= 1


def test_where_all_columns_are_left_out_nothing_is_trained_and_nothing_stays(yard: Client) -> None:
    rows = [{"area": 40.0 + n, "price": 3.0 * n} for n in range(40)]
    with pytest.raises(ValidationFailed, match="No column is left to learn from: there is 'area'"):
        yard.train("empty", rows, "price", exclude=["area"])

    assert "empty" not in [dataset.name for dataset in yard.datasets.list(limit=200).data]


@pytest.fixture(scope="module")
def homes(shared_server: Server) -> str:
    """A model that takes an area and a site."""
    rows = [{"area": 40.0 + n, "site": "ns"[n % 2], "price": 3.0 * n} for n in range(40)]
    with Client(shared_server.url) as client:
        client.jobs.wait(client.train("py-homes", rows, "price", epochs=2), timeout_s=60)
    return "py-homes"


class TestPredict:
    def test_arrays_and_tables_go_in_and_come_out(self, yard: Client, quadratic: Any, clouds: Any) -> None:
        rows = np.array([[0.5], [0.7]])
        expected = yard.predict("quadratic", rows.tolist()).outputs

        assert yard.predict("quadratic", rows).outputs == expected
        assert yard.models.predict("quadratic", rows).numpy().shape == (2, 1)
        assert yard.versions.predict("clouds", 1, pd.DataFrame([[2.0, 2.0]]).to_numpy()).frame().shape == (1, 3)

    def test_columns_of_a_table_that_the_model_does_not_take_are_left_out(self, yard: Client, homes: str) -> None:
        names = [f"c{n}" for n in range(30)]
        table = pd.DataFrame([[70.0, "n", 1.5, *range(30)], [60.0, "s", 2.5, *range(30)]])
        table.columns = pd.Index(["area", "site", "price", *names])
        plain = yard.predict(homes, table[["area", "site"]])
        with pytest.warns(
            UserWarning, match="left out, since the model does not take them: price, c0, c1,.* c29"
        ) as told:
            answer = yard.predict(homes, table)
        with pytest.warns(UserWarning, match="left out"):
            again = yard.versions.predict(homes, 1, table)

        assert answer.outputs == plain.outputs == again.outputs
        assert {Path(one.filename).name for one in told} == {Path(__file__).name}
        with pytest.raises(InvalidInput) as caught:
            yard.predict(homes, table.rename(columns={"area": "aera", "site": "place"}))
        assert [(entry.pointer, entry.detail, entry.hint) for entry in caught.value.errors] == [
            ("/inputs/0/area", "The table has no column 'area'.", "Did you mean 'aera'?"),
            ("/inputs/0/site", "The table has no column 'site'.", None),
        ]
        with pytest.raises(InvalidInput):  # objects are as they are: who writes one means it
            yard.predict(homes, [{"area": 70.0, "site": "n", "price": 1}])

    def test_one_odd_cell_that_makes_a_column_one_of_texts_is_named(self, yard: Client, homes: str) -> None:
        lines = [f"{60 + n},n" for n in range(40)]
        lines[7], lines[31] = "k.A.,n", "–,s"
        table = pd.read_csv(io.StringIO("\n".join(["area,site", *lines])))
        with pytest.raises(InvalidInput) as caught:
            yard.predict(homes, table)
        with pytest.raises(InvalidInput) as as_texts:
            yard.predict(homes, pd.DataFrame({"area": ["60", "70"], "site": ["n", 5]}))
        with pytest.raises(InvalidInput, match=r"row 0 has '7,5'\. Send numbers; pandas\.read_csv has decimal=','"):
            yard.predict(homes, pd.DataFrame({"area": ["7,5"], "site": ["n"]}))

        assert str(caught.value).splitlines() == [
            "The values do not have the type that is expected.",
            "/inputs/7/area: Column 'area' takes numbers; counted from 0, row 7 has 'k.A.', row 31 has '–'. If these "
            "mean no value, pass None, as pandas.read_csv(…, na_values=['k.A.', '–']) does.",
        ]
        assert [(entry.pointer, entry.detail, entry.hint) for entry in as_texts.value.errors] == [
            (
                "/inputs/0/area",
                "Column 'area' takes numbers; all its cells are numbers, but as texts.",
                "pandas.to_numeric(table['area']) makes numbers of them.",
            ),
            ("/inputs/1/site", "Column 'site' takes texts.", None),
        ]

    def test_a_file_in_the_place_of_rows_is_told_how_to_be_read(self, yard: Client) -> None:
        told = (
            "Inputs are rows, and 'new.csv' is a text. Read a file first, as with pandas.read_csv('new.csv'); or ask "
            "with: modelyard predict MODEL FILE"
        )
        for name in ("new.csv", Path("new.csv")):
            with pytest.raises(InvalidInput) as caught:
                yard.predict("nobody", name)

            assert str(caught.value) == told

    def test_a_name_that_the_model_takes_is_none_that_is_meant(self, yard: Client) -> None:
        rows = [{"height": float(n), "weight": 2.0 * n, "y": 3.0 * n} for n in range(10)]
        job = yard.jobs.wait(yard.train("py-sizes", rows, "y", epochs=1), timeout_s=60)
        with pytest.raises(InvalidInput, match=r"no column 'height'\. Did you mean 'heigth'\?"):
            yard.predict(job, pd.DataFrame({"heigth": [1.0], "weight": [2.0]}))
        with pytest.raises(InvalidInput, match=r"no column 'height'\.$"):
            yard.predict(job, pd.DataFrame({"weight": [2.0]}))

    def test_large_arrays_travel_as_bytes(self, yard: Client, quadratic: Any) -> None:
        rows = np.linspace(-1, 1, 1000, dtype="float32").reshape(-1, 1)
        name = yard.v2.metadata("quadratic")["inputs"][0]["name"]
        found = yard.v2.infer("quadratic", {name: rows}, 1)

        (answer,) = found.values()
        assert answer.dtype == np.float32
        np.testing.assert_allclose(answer, yard.predict("quadratic/1", rows).numpy(), rtol=1e-6, atol=1e-6)


FLOWERS: list[dict[str, Any]] = [
    {"petal": (1.3, 4.4)[n % 2] + n / 100, "site": "ns"[n % 3 % 2], "id": n, "kind": ("setosa", "virginica")[n % 2]}
    for n in range(40)
]


LAYERS: list[dict[str, Any]] = [
    {"type": "Conv2d", "in_channels": 1, "out_channels": 4, "kernel_size": 3},
    {"type": "ReLU"},
    {"type": "Flatten"},
]
WIDTH = {"in_features": 64, "out_features": 1}
PICTURES: dict[str, Any] = {
    "schema": "arch/1",
    "inputs": [{"name": "x", "shape": ["B", 1, 6, 6]}],
    "root": {"type": "Sequential", "layers": [*LAYERS, {"type": "Linear", "in_features": 64, "out_features": 2}]},
}


def pictures() -> tuple[Any, Any]:
    """Sixty small pictures, bright above or below, and which of both each is."""
    labels = np.arange(60) % 2
    pixels = np.random.default_rng(0).random((60, 1, 6, 6), dtype=np.float32) / 4
    pixels[labels == 0, :, :3] += 1
    pixels[labels == 1, :, 3:] += 1
    return pixels, labels


@contextmanager
def stopped(server: Server) -> Iterator[None]:
    """The server takes connections, and answers nothing."""
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


class TestTraining:
    def test_a_list_of_objects_is_trained_on_by_the_rules_of_the_command(self, yard: Client) -> None:
        with pytest.warns(UserWarning, match=r"Left out: id \(numbers the rows\)"):
            job = yard.train("py-flowers", FLOWERS, target="kind", epochs=30)
        done = yard.jobs.wait(job, timeout_s=60)
        answer = yard.predict(job, [{"petal": 1.4, "site": "n"}, {"petal": 4.5, "site": "s"}])

        assert done.output == {"model": "py-flowers", "version": 1, "alias": "champion"}
        assert answer.labels == ["setosa", "virginica"]
        assert yard.predict(yard.versions.get("py-flowers", 1), [[4.5, "s"]]).labels == ["virginica"]

    @pytest.mark.parametrize(
        "data",
        [
            pytest.param(
                (pd.DataFrame({"a": [1.0, 2.0] * 20}), pd.Series([0, 1] * 20, name="y")), id="table and series"
            ),
            pytest.param(pd.DataFrame({"a": [1.0, None] * 20, "y": [0, 1] * 20}), id="a table with gaps"),
            pytest.param((np.array([[1.0], [2.0]] * 20), np.array([0, 1] * 20)), id="arrays"),
            pytest.param(([[1.0], [2.0]] * 20, ["no", "yes"] * 20), id="lists"),
        ],
    )
    def test_tables_and_arrays_are_examples(self, yard: Client, data: Any) -> None:
        target = "y" if isinstance(data, pd.DataFrame) else None
        job = yard.train("py-tables", data, target, epochs=1, alias=None)
        done = yard.jobs.wait(job, timeout_s=60)

        assert done.spec["objective"] == {"type": "cross_entropy"}
        assert (done.version is not None, (done.output or {}).get("alias")) == (True, None)

    @pytest.mark.parametrize("as_rows", [np.asarray, torch.tensor], ids=["arrays", "tensors"])
    @pytest.mark.parametrize("names", [None, ("nought", "one")], ids=["numbers", "texts"])
    def test_arrays_of_pictures_are_trained_on_with_a_net_that_takes_them(
        self, yard: Client, as_rows: Any, names: tuple[str, str] | None
    ) -> None:
        pixels, labels = pictures()
        classes = labels if names is None else np.array(names)[labels]
        job = yard.train("py-pictures", (as_rows(pixels), classes), architecture=PICTURES, epochs=20, alias=None)
        done = yard.jobs.wait(job, timeout_s=60)
        answer = yard.predict(job, pixels[:4])

        assert done.metrics["last"]["val_accuracy"] > 0.9
        assert done.spec["split"] == {"type": "stratified", "validation": 0.2}
        assert answer.labels == [str(label) for label in classes[:4]]

    @pytest.mark.parametrize(
        ("step", "kind"), [(1, "cross_entropy"), (40, "mse"), (0.5, "mse")], ids=["near", "far", "parts"]
    )
    def test_what_targets_are_goes_by_their_values_in_tables_and_pictures_alike(
        self, yard: Client, step: float, kind: str
    ) -> None:
        pixels, labels = pictures()
        targets = labels * float(step)
        net = {**PICTURES, "root": {"type": "Sequential", "layers": [*LAYERS, {"type": "Linear", **WIDTH}]}}
        pictured = yard.train(
            "py-by-value", (pixels, targets), architecture=PICTURES if step == 1 else net, epochs=1, alias=None
        )
        tabular = yard.train("py-by-value", (pixels.reshape(60, -1), targets), epochs=1, alias=None)
        found = [yard.jobs.wait(job, timeout_s=60) for job in (pictured, tabular)]

        assert [job.spec["objective"] for job in found] == [{"type": kind}] * 2
        if step == 1:
            assert set(yard.predict(pictured, pixels).labels or ()) <= {"0", "1"}
            columns = yard.datasets.get(pictured.dataset["id"]).columns if pictured.dataset else []
            assert [column.shape for column in columns if column.role == "target"] == [[]]
            with pytest.raises(InvalidInput, match="Or pass task='numbers', if the targets are no classes"):
                yard.train("py-by-value", (pixels, targets), architecture=net)
        numbers = yard.train("py-by-value", (pixels, targets), architecture=net, task="numbers", epochs=1, alias=None)
        assert yard.jobs.wait(numbers, timeout_s=60).spec["objective"] == {"type": "mse"}

    def test_a_table_that_takes_long_to_read_is_waited_for_each_time(self, shared_server: Server) -> None:
        def impatient(request: httpx.Request) -> None:
            request.headers["Prefer"] = "wait=0"  # as if ten minutes had passed

        with httpx.Client(event_hooks={"request": [impatient]}, timeout=60) as http:
            yard = Client(shared_server.url, http=http)
            rows = [{"a": n % 7, "id": n, "text": f"t{n}", "y": 2.5 * n} for n in range(4000)]
            with pytest.warns(UserWarning, match="Left out"):
                job = yard.train("py-slow", rows, "y", epochs=1, alias=None)
            columns = yard.datasets.get(job.dataset["id"]).columns if job.dataset else []
            with pytest.raises(DatasetRefused, match="or pass skip_unlabelled=True to leave their rows out"):
                yard.train("py-slow", [*rows, {**rows[0], "y": None}], "y", epochs=1, alias=None)

        assert [column.name for column in columns if column.role == "input"] == ["a"]

    def test_flat_rows_are_folded_for_a_net_that_takes_pictures(self, yard: Client) -> None:
        pixels, labels = pictures()
        flat = (pixels.reshape(len(pixels), -1), labels)
        with pytest.raises(InvalidInput, match=re.escape("Pass shape=[1, 6, 6], or declare the input as")):
            yard.train("py-folded", flat, architecture=PICTURES)
        job = yard.train("py-folded", flat, architecture=PICTURES, shape=(1, 6, 6), epochs=2, alias=None)

        assert yard.jobs.wait(job, timeout_s=60).version == 1

    def test_numbers_are_learnt_of_pictures_too(self, yard: Client) -> None:
        pixels, labels = pictures()
        net = {**PICTURES, "root": {"type": "Sequential", "layers": [*LAYERS, {"type": "Linear", **WIDTH}]}}
        job = yard.train("py-shades", (pixels, labels + 0.5), architecture=net, epochs=2, alias=None)

        assert yard.jobs.wait(job, timeout_s=60).spec["objective"] == {"type": "mse"}

    def test_a_file_is_read_as_the_command_reads_it(self, yard: Client, tmp_path: Path) -> None:
        path = tmp_path / "preise.csv"
        rows = "".join(f"{n % 7 + 1}.{n:03d};{n % 3 + 1}.{n * 13 % 1000:03d},50\n" for n in range(60))
        path.write_bytes(f"größe;preis\n{rows}".encode("cp1252"))
        with pytest.warns(UserWarning, match="preise.csv") as caught:
            job = yard.train("py-prices", path, "preis", epochs=1, alias=None)
        source = yard.datasets.get(job.dataset["id"]).source if job.dataset else {}

        assert [str(one.message) for one in caught] == [
            "preise.csv is not in UTF-8; it is read as windows-1252 (else: encoding=…)",
            "preise.csv has numbers such as 1.000,50, read with decimal=',', thousands='.'",
        ]
        assert (source["decimal"], source["thousands"], source["delimiter"]) == (",", ".", ";")
        assert {Path(one.filename).name for one in caught} == {Path(__file__).name}
        yard.train("py-prices", path, "preis", encoding="cp1252", decimal="comma", thousands=".", epochs=1, alias=None)

    def test_odd_cells_are_told_in_the_text_of_the_error_with_a_remedy_in_python(
        self, yard: Client, tmp_path: Path
    ) -> None:
        path = tmp_path / "odd.csv"
        odd = {3: "k.A.", 9: "#NV"}
        path.write_text("x,y\n" + "".join(f"{odd.get(n, n)},{3 * n + 0.5}\n" for n in range(60)))
        with pytest.raises(DatasetRefused) as refused:
            yard.train("py-odd", path, "y", epochs=1, alias=None)

        told = str(refused.value)
        assert told.startswith("A column of numbers has cells that are not numbers.\n")
        assert "Column 'x': 58 of 60 values are numbers; line 5 has 'k.A.', others have '#NV'." in told
        assert "If these mean no value, pass missing_texts=['k.A.', '#NV']." in told
        job = yard.train("py-odd", path, "y", epochs=1, alias=None, missing_texts=["k.A.", "#NV"])
        yard.jobs.wait(job, timeout_s=60)
        with pytest.raises(InvalidInput, match=r"Column 'x' takes numbers\. .*Got 'old'\."):
            yard.predict(job, [{"x": "old"}])

    def test_rows_without_a_label_are_left_out_at_a_wish(self, yard: Client) -> None:
        rows = [{"x": float(n), "y": None if n % 10 == 3 else n % 2} for n in range(40)]
        with pytest.raises(DatasetRefused) as refused:
            yard.train("py-gaps", rows, "y", epochs=1, alias=None)
        with pytest.warns(UserWarning, match="4 of 40 rows are left out, without a value in column 'y'") as caught:
            job = yard.train("py-gaps", rows, "y", epochs=1, alias=None, skip_unlabelled=True)

        dataset = yard.datasets.get(job.dataset["id"] if job.dataset else "")
        assert str(refused.value).count("or pass skip_unlabelled=True to leave their rows out") == 1
        assert '"unlabelled"' not in str(refused.value)
        assert len(str(refused.value).splitlines()) == 5
        assert (dataset.rows, dataset.source["unlabelled"]) == (36, "skip")
        assert {Path(one.filename).name for one in caught} == {Path(__file__).name}

    def test_a_class_with_one_row_is_warned_of(self, yard: Client) -> None:
        with pytest.warns(UserWarning, match="Only one row is of the class 'lily'") as caught:
            yard.train("py-rare", [*FLOWERS, {**FLOWERS[0], "kind": "lily"}], "kind", exclude=["id"], epochs=1)

        assert {Path(one.filename).name for one in caught} == {Path(__file__).name}

    def test_classes_of_unequal_size_are_weighed_at_a_wish(self, yard: Client) -> None:
        rows = [{"x": float(n), "y": "b" if n % 20 == 1 else "a"} for n in range(100)]
        with pytest.warns(UserWarning, match="95 rows .* 5 of .*: weigh_classes=True lets each class count the same"):
            yard.train("py-weighed", rows, "y", epochs=1, alias=None)
        job = yard.train("py-weighed", rows, "y", epochs=1, alias=None, weigh_classes=True)  # and no warning

        assert job.spec["objective"] == {"type": "cross_entropy", "weight": "balanced"}
        with pytest.raises(ValueError, match="weigh_classes=True is for classes, and 'x' is learnt as a number"):
            yard.train("py-weighed", rows, "x", epochs=1, alias=None, weigh_classes=True)

    def test_a_column_that_the_rules_leave_out_is_included_at_a_wish(self, yard: Client) -> None:
        job = yard.train("py-ids", FLOWERS, "kind", include=["id"], epochs=1, alias=None)  # and no warning

        columns = yard.datasets.get(job.dataset["id"]).columns if job.dataset else []
        assert [column.name for column in columns if column.role == "input"] == ["petal", "site", "id"]
        with pytest.raises(ValueError, match="include and exclude both name 'id'"):
            yard.train("py-ids", FLOWERS, "kind", include=["id"], exclude=["id"])

    def test_what_is_refused_leaves_nothing_behind(self, yard: Client) -> None:
        before = {one.id for one in yard.uploads.list(limit=200).data}
        odd = [*FLOWERS[:30], {**FLOWERS[30], "kind": None}]
        with pytest.raises(DatasetRefused):
            yard.train("py-refused", odd, target="kind")
        with pytest.raises(ValueError, match=r"exclude names no input: 'peta'\. Did you mean 'petal'\?"):
            yard.train("py-refused", FLOWERS, target="kind", exclude=["peta"])

        assert {one.id for one in yard.uploads.list(limit=200).data} == before
        with pytest.raises(ValueError, match=r"exclude is a list of columns, as in exclude=\['id'\]"):
            yard.train("py-refused", FLOWERS, target="kind", exclude="id")
        with pytest.raises(ValueError, match="there is no column 'kin'; there are 'petal', 'site', 'id', 'kind'"):
            yard.train("py-refused", FLOWERS, target="kin")

    def test_the_other_face_trains_too(self, shared_server: Server) -> None:
        async def train() -> list[str] | None:
            async with AsyncClient(shared_server.url) as client:
                job = await client.train("py-async", FLOWERS, "kind", exclude=["id"], epochs=30, if_better=True)
                await client.jobs.wait(job, timeout_s=60)
                return (await client.predict("py-async", [{"petal": 4.5, "site": "s"}])).labels

        assert anyio.run(train) == ["virginica"]

    def test_a_training_that_is_cancelled_before_there_is_a_job_leaves_no_upload(self, shared_server: Server) -> None:
        rows = [{"a": n, "b": n % 7, "y": 2.5 * n} for n in range(50_000)]

        async def uploads(client: AsyncClient) -> set[str]:
            return {upload.id for upload in (await client.uploads.list(limit=200)).data}

        async def cancel() -> tuple[int, set[str]]:
            async with AsyncClient(shared_server.url) as client:
                before = await uploads(client)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(client.train, "cancelled", rows, "y")
                    with anyio.fail_after(60):
                        while not (seen := await uploads(client) - before):
                            await anyio.sleep(0.01)
                    tasks.cancel_scope.cancel()
                return len(seen), await uploads(client) - before

        assert anyio.run(cancel) == (1, set())

    def test_a_training_that_is_cancelled_ends_soon_although_the_server_does_not_answer(
        self, make_server: Callable[..., Server]
    ) -> None:
        server = make_server()
        rows = [{"a": n, "b": n % 7, "y": 2.5 * n} for n in range(50_000)]

        async def cancel() -> bool:
            async with AsyncClient(server.url) as client, AsyncClient(server.url) as other:
                training = asyncio.create_task(client.train("cancelled", rows, "y"))
                while not (await other.datasets.list()).data:  # then its upload is known to the client
                    await asyncio.sleep(0.01)
                with stopped(server):
                    assert not training.done()
                    training.cancel()
                    ended, _ = await asyncio.wait({training}, timeout=15)
                await asyncio.wait({training}, timeout=30)
                return ended == {training} and training.cancelled()

        assert asyncio.run(cancel())

    def test_what_is_left_on_a_server_that_does_not_answer_is_soon_given_up(
        self, make_server: Callable[..., Server]
    ) -> None:
        server = make_server()
        with Client(server.url, timeout_s=4) as client, stopped(server):
            began = time.monotonic()
            client.discard("up_" + "0" * 32)

            assert time.monotonic() - began < 8


class TestFiles:
    def test_an_upload_is_streamed_and_its_digest_checked(self, yard: Client, tmp_path: Path) -> None:
        path = tmp_path / "data.csv"
        path.write_text("x,y\n" + "1,2\n" * 300_000)
        found = yard.uploads.add(path)

        assert found.size_bytes == path.stat().st_size
        assert found.digest == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
        assert yard.uploads.add(io.BytesIO(b"x,y\n1,2\n")).size_bytes == 8

    def test_weights_come_as_bytes_or_as_a_file(self, yard: Client, quadratic: Any, tmp_path: Path) -> None:
        content = yard.versions.weights("quadratic", 1)
        yard.versions.weights("quadratic", 1, tmp_path / "w.pt")

        assert (tmp_path / "w.pt").read_bytes() == content
        assert yard.versions.bundle("quadratic", 1, tmp_path / "all.zip") is None
        assert (tmp_path / "all.zip").stat().st_size > len(content or b"")

    def test_wrong_bytes_are_told_by_the_server(self, yard: Client) -> None:
        from service.client.files import Source

        source = Source(b"x,y\n1,2\n")
        source._digest = bytes(32)
        with pytest.raises(DigestMismatch):
            yard.send(Call("POST", "/v1/uploads", None, source=source))


def test_an_alias_is_made_moved_and_removed(yard: Client, quadratic: Any) -> None:
    made = yard.aliases.set("quadratic", "client-test", 1)
    moved = yard.aliases.set("quadratic", "client-test", 1, if_match=made.etag)
    with pytest.raises(PreconditionFailed):
        yard.aliases.set("quadratic", "client-test", 1, if_match='"old"')
    yard.aliases.delete("quadratic", "client-test", if_match=moved.etag)

    with pytest.raises(NotFound):
        yard.aliases.get("quadratic", "client-test")


def test_models_versions_and_datasets_print_themselves_in_a_line(yard: Client, quadratic: Any) -> None:
    model, version = yard.models.get("quadratic"), yard.versions.get("quadratic", 1)
    dataset = yard.datasets.add({"type": "inline", "inputs": [[1.0], [2.0]], "columns": ["a"]}, name="printed")

    assert re.fullmatch(r"<Model quadratic: \d+ versions?(, \w+ is version \d+)*>", str(model))
    assert re.fullmatch(r"<Version quadratic/1: ready(, [a-z0-9_.@ -]+)*>", str(version))
    assert str(dataset) == f"<Dataset {dataset.id} printed: ready, 2 rows, columns a>"


def test_a_dataset_shows_itself_in_a_notebook(yard: Client) -> None:
    dataset = yard.datasets.add(examples.CLOUDS, name="clouds of the client")

    assert isinstance(dataset, Dataset)
    assert "200 rows, ready" in dataset._repr_html_()
    assert len(yard.datasets.preview(dataset.id, limit=3).rows) == 3


def test_a_key_of_a_lesser_scope_is_told_which_one_is_enough_as_data(make_server: Callable[..., Server]) -> None:
    key, stored = keys.make("reader", keys.Scope.READ, now=datetime.now(UTC))
    server = make_server(api_keys=f"[{stored.model_dump_json()}]")
    with Client(server.url, api_key=key) as client, pytest.raises(Forbidden) as refused:
        client.jobs.submit(examples.TRAIN)

    assert refused.value.scope == "train"
