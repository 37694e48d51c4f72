"""What goes in as rows and files, and what comes out as arrays, tables and pages of notebooks."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pandas as pd
import pytest
import torch

from service.client import Client, Prediction, Retry, tensors
from service.client.answers import Alias, Job
from service.client.files import Download, Source, checked
from service.client.recipes import Task
from service.client.rows import archive_of, lines_of, rows_of
from service.errors import DigestMismatch
from tests.answers import alias_view, job_view, prediction_view


@pytest.mark.parametrize(
    ("targets", "task", "expected", "classes", "found_task"),
    [
        pytest.param([0, 1], "auto", [0, 1], None, "classes", id="classes"),
        pytest.param(torch.tensor([0, 1]), "auto", [0, 1], None, "classes", id="a tensor"),
        pytest.param([0.0, 1.0], "auto", [0, 1], None, "classes", id="whole numbers of another type"),
        pytest.param([[0], [40]], "auto", [[0], [40]], None, "numbers", id="numbers far from each other"),
        pytest.param([0.0, 40.0], "auto", [[0], [40]], None, "numbers", id="whole numbers far from each other"),
        pytest.param(np.array([-100, 127], "i1"), "auto", [[-100], [127]], None, "numbers", id="numbers of few bits"),
        pytest.param([0, 40], "classes", [0, 40], None, "classes", id="as classes all the same"),
        pytest.param([0.5, 1], "auto", [[0.5], [1]], None, "numbers", id="numbers"),
        pytest.param([0, 1], "numbers", [[0], [1]], None, "numbers", id="as numbers all the same"),
        pytest.param([[0, 1], [1, 0]], "auto", [[0, 1], [1, 0]], None, "auto", id="targets of a shape"),
        pytest.param([True, False], "auto", [1, 0], None, "classes", id="truths"),
        pytest.param(pd.Series(["no", "a"]), "auto", [1, 0], ["a", "no"], "auto", id="texts"),
    ],
)
def test_arrays_with_rows_of_a_shape_become_an_archive(
    targets: object, task: Task, expected: object, classes: object, found_task: Task
) -> None:
    found = archive_of((np.zeros((2, 3, 4), np.float32), targets), task)
    assert found is not None
    arrays = np.load(io.BytesIO(found[0]))

    assert (arrays["x"].shape, arrays["x"].dtype, arrays["y"].tolist()) == ((2, 3, 4), np.float32, expected)
    assert found[1:] == (classes, found_task)


def test_an_archive_has_a_target_for_each_row_and_flat_rows_make_none() -> None:
    pixels = np.zeros((2, 3, 4))
    with pytest.raises(ValueError, match="there are 2 rows of inputs and 1 targets"):
        archive_of((pixels, [1]))
    with pytest.raises(ValueError, match="there are targets without a value"):
        archive_of((pixels, ["a", None]))
    with pytest.raises(ValueError, match="there are no rows"):
        archive_of((pixels[:0], []))

    assert archive_of((pixels[0], [1, 2, 3])) is None
    assert archive_of([{"a": 1}]) is None


class TestExamples:
    @pytest.mark.parametrize(
        ("data", "target", "first", "learnt"),
        [
            pytest.param([{"a": 1, "y": "no"}], "y", {"a": 1, "y": "no"}, "y", id="objects"),
            pytest.param(pd.DataFrame({"a": [np.nan], "y": [2]}), "y", {"a": None, "y": 2}, "y", id="a table"),
            pytest.param(([[1.5, 2.0]], [3]), None, {"x0": 1.5, "x1": 2.0, "target": 3}, "target", id="lists"),
            pytest.param((np.array([[1.5]], np.float32), np.array([[3]])), "y", {"x0": 1.5, "y": 3}, "y", id="arrays"),
            pytest.param((np.array([1.5]), np.array(["no"])), "y", {"x0": 1.5, "y": "no"}, "y", id="one value a row"),
            pytest.param(
                (pd.DataFrame({"a": [1]}), pd.Series(["no"], name="kind")),
                None,
                {"a": 1, "kind": "no"},
                "kind",
                id="series",
            ),
            pytest.param((torch.tensor([[1.5]]), torch.tensor([1])), "y", {"x0": 1.5, "y": 1}, "y", id="tensors"),
        ],
    )
    def test_examples_become_objects_by_column(self, data: object, target: str, first: object, learnt: str) -> None:
        lines, name = lines_of(data, target)

        assert ([orjson.loads(line) for line in lines.splitlines()], name) == ([first], learnt)

    @pytest.mark.parametrize(
        ("data", "target", "told"),
        [
            pytest.param([{"a": 1}], None, "say which column is to be learnt", id="no target"),
            pytest.param([{"a": 1}], "b", "there is no column 'b'; there are 'a'", id="another target"),
            pytest.param([[1, 2]], "a", "data is a file, a pandas table, a list of objects", id="rows without names"),
            pytest.param(([[1], [2]], [1]), None, "there are 2 rows of inputs and 1 targets", id="other lengths"),
            pytest.param(([[[1.0]]], [0]), None, "make pictures and the like an array", id="pictures as lists"),
            pytest.param(([{"y": 1}], [1]), "y", "the inputs have a column 'y' too", id="a name that is taken"),
            pytest.param(([], []), None, "there are no rows", id="nothing"),
        ],
    )
    def test_what_are_no_examples_is_said(self, data: object, target: str, told: str) -> None:
        with pytest.raises(ValueError, match=told):
            lines_of(data, target)


class TestRows:
    def sent(self, inputs: object) -> object:
        """The rows as they arrive."""
        seen: list[httpx.Request] = []

        def handle(request: httpx.Request) -> httpx.Response:
            seen.append(request)
            return httpx.Response(200, json=prediction_view())

        with Client(transport=httpx.MockTransport(handle)) as client:
            client.predict("iris", inputs)
        return orjson.loads(seen[0].content)["inputs"]

    @pytest.mark.parametrize(
        "array",
        [
            np.array([[1.5, 2], [3, 4]], dtype="float32"),
            np.array([[1.5, 3], [2, 4]]).T,
            np.array([[1.5, 0, 2], [3, 0, 4]])[:, ::2],
            np.array([[1.5, 2], [3, 4]], dtype=">f8"),
            np.array([[1.5, 2], [3, 4]], dtype="float16"),
            torch.tensor([[1.5, 2], [3, 4]], requires_grad=True),
            ((1.5, 2), (3, 4)),
        ],
        ids=["float32", "transposed", "strided", "big-endian", "float16", "tensor-with-gradient", "tuples"],
    )
    def test_arrays_of_all_kinds_arrive_as_their_numbers(self, array: object) -> None:
        assert self.sent(array) == [[1.5, 2], [3, 4]]

    def test_a_table_becomes_objects_by_column_name(self) -> None:
        table = pd.DataFrame({"age": [41, None], "city": ["Bern", None], "since": pd.to_datetime(["2024-05-31", None])})

        assert self.sent(table) == [
            {"age": 41.0, "city": "Bern", "since": "2024-05-31T00:00:00"},
            {"age": None, "city": None, "since": None},
        ]

    def test_whole_numbers_and_booleans_of_a_table_stay_what_they_are(self) -> None:
        table = pd.DataFrame({"n": pd.array([1, None], dtype="Int64"), "b": [True, False]})

        assert self.sent(table) == [{"n": 1, "b": True}, {"n": None, "b": False}]

    def test_several_inputs_are_converted_one_by_one(self) -> None:
        assert self.sent({"left": np.ones((1, 2)), "right": [[3]]}) == {"left": [[1.0, 1.0]], "right": [[3]]}

    def test_a_number_that_is_not_finite_arrives_as_missing(self) -> None:
        assert self.sent(np.array([[1.0, np.nan]])) == [[1.0, None]]

    def test_what_is_no_list_of_rows_goes_to_the_server_which_says_so(self) -> None:
        assert self.sent({"age": 41, "city": "Bern", "since": None}) == {"age": 41, "city": "Bern", "since": None}

    def test_a_single_number_is_no_row(self) -> None:
        with pytest.raises(ValueError, match="single number"):
            rows_of(np.float64(3))


class TestTensors:
    @pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "int8", "uint8", "bool", ">i4"])
    def test_arrays_keep_their_numbers_on_the_way(self, dtype: str) -> None:
        array = np.arange(6).reshape(2, 3).astype(dtype)
        body, headers = tensors.encode({"x": array})
        length = int(headers[tensors.LENGTH])
        described = orjson.loads(body[:length])["inputs"]
        answer = orjson.dumps({"outputs": described}) + body[length:]
        told = {tensors.LENGTH: str(len(answer) - len(body) + length)}
        found = tensors.decode(httpx.Response(200, headers=told, content=answer))["x"]

        np.testing.assert_array_equal(found, array)
        assert found.dtype == np.dtype(dtype).newbyteorder("<")

    def test_what_the_protocol_has_no_word_for_is_refused_here(self) -> None:
        with pytest.raises(ValueError, match="complex128"):
            tensors.encode({"x": np.array([1j])})


class TestAnswers:
    def test_a_prediction_becomes_an_array_and_a_table(self) -> None:
        found = Prediction.model_validate(prediction_view(outputs=[[1.0, None], [2.0, 3.0]]))

        np.testing.assert_array_equal(found.numpy(), [[1.0, np.nan], [2.0, 3.0]])
        assert list(found.frame().columns) == ["prediction", "p(setosa)", "p(virginica)"]
        assert found.frame()["prediction"].tolist() == ["setosa", "virginica"]

    def test_one_number_a_row_is_the_prediction(self) -> None:
        found = Prediction.model_validate(
            prediction_view(outputs=[[1.0], [2.0]], labels=None, probabilities=None, classes=None)
        )

        assert found.lines() == [{"prediction": 1.0}, {"prediction": 2.0}]

    @pytest.mark.parametrize(
        ("outputs", "labels", "expected"),
        [
            pytest.param([[1.0, 2.0]], ["rose"], ["rose"], id="a class"),
            pytest.param([[1.5], [2.5]], None, [1.5, 2.5], id="one number a row"),
            pytest.param([1.5, 2.5], None, [1.5, 2.5], id="a number a row"),
            pytest.param([[1.0, 2.0], [3.0, 4.0]], None, [[1.0, 2.0], [3.0, 4.0]], id="several numbers"),
            pytest.param([[[1.0, 2.0]]], None, [[[1.0, 2.0]]], id="an array"),
            pytest.param({"a": [[1.0]], "b": [[2.0]]}, None, [{"a": [1.0], "b": [2.0]}], id="several outputs"),
            pytest.param([], None, [], id="no rows"),
        ],
    )
    def test_predictions_are_one_entry_a_row(self, outputs: Any, labels: list[str] | None, expected: list[Any]) -> None:
        found = Prediction.model_validate(
            prediction_view(outputs=outputs, labels=labels, probabilities=None, classes=labels)
        )

        assert found.predictions == expected

    def test_a_name_is_shown_in_a_notebook_as_text(self) -> None:
        evil = "<script>alert(1)</script>"
        shown = Prediction.model_validate(prediction_view(labels=[evil, evil]))._repr_html_()
        shown += Job.model_validate(job_view(state_reason=evil))._repr_html_()

        assert "<script>" not in shown
        assert shown.count("&lt;script&gt;") == 3

    def test_answers_print_themselves_in_a_line_and_a_line_for_each_warning(self) -> None:
        warning = {"pointer": "/inputs/0/x", "code": "missing-value", "detail": "Column 'x' has no value."}
        job = Job.model_validate(
            job_view(
                state="succeeded",
                output={"model": "iris", "version": 2, "alias": "champion"},
                metrics={"last": {"loss": 0.123456, "val_accuracy": 0.9}, "best": {}},
                warnings=[warning],
            )
        )
        found = Prediction.model_validate(prediction_view())
        many = prediction_view(outputs=[[n] for n in range(12)], labels=None, probabilities=None, classes=None)

        assert repr(job) == f"<Job {job.id} train: succeeded, iris/2, loss 0.1235, val_accuracy 0.9>"
        assert str(job) == f"{job!r}\nwarning: Column 'x' has no value."
        assert str(Job.model_validate(job_view())) == f"<Job {job.id} train: queued, quadratic>"
        assert str(found) == repr(found) == "<Prediction of iris/3: setosa, virginica>"
        assert str(Prediction.model_validate(many)).endswith(": 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, … 2 more>")
        assert str(Alias.model_validate(alias_view())) == "<Alias quadratic@champion: version 1>"

    def test_an_answer_cannot_be_changed(self) -> None:
        with pytest.raises(ValueError, match="frozen"):
            Job.model_validate(job_view()).priority = 3  # type: ignore[misc]  # which is the point


def told(content: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


class TestFiles:
    def test_an_upload_brings_its_digest_its_size_and_its_type(self, tmp_path: Path) -> None:
        path = tmp_path / "data.csv"
        path.write_bytes(b"x,y\n" * 400_000)
        source = Source(path)

        assert b"".join(source.pieces()) == b"".join(source.pieces()) == path.read_bytes()
        assert source.headers() == {
            "Content-Type": "text/csv",
            "Content-Length": "1600000",
            "Repr-Digest": told(path.read_bytes()),
        }

    def test_bytes_and_open_files_are_uploads_too(self) -> None:
        assert list(Source(b"abc").pieces()) == list(Source(io.BytesIO(b"abc")).pieces()) == [b"abc"]

    def test_a_download_appears_when_it_is_whole(self, tmp_path: Path) -> None:
        with Download(tmp_path / "net.pt") as file:
            file.begin({"repr-digest": told(b"weights")}, partial=False)
            file.write(b"wei")
            assert not (tmp_path / "net.pt").exists()
            file.write(b"ghts")

        assert (tmp_path / "net.pt").read_bytes() == b"weights"
        assert [path.name for path in tmp_path.iterdir()] == ["net.pt"]

    def test_a_download_with_other_bytes_leaves_what_was_there(self, tmp_path: Path) -> None:
        (tmp_path / "net.pt").write_bytes(b"before")

        def download() -> None:
            with Download(tmp_path / "net.pt") as file:
                file.begin({"repr-digest": told(b"weights")}, partial=False)
                file.write(b"weighty")

        with pytest.raises(DigestMismatch):
            download()

        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"net.pt": b"before"}

    @pytest.mark.parametrize("changed", [False, True], ids=["the-rest", "all-of-it-anew"])
    def test_a_download_that_breaks_off_is_gone_on_with(self, tmp_path: Path, changed: bool) -> None:
        content = b"weights" if not changed else b"other weights"
        asked: list[str | None] = []

        def broken() -> Iterator[bytes]:
            yield b"wei"
            raise httpx.ReadError("cut")

        def handle(request: httpx.Request) -> httpx.Response:
            asked.append(request.headers.get("range"))
            if len(asked) == 1:
                headers = {"ETag": '"1"', "Repr-Digest": told(b"weights")}
                return httpx.Response(200, headers=headers, content=broken())
            assert request.headers["if-range"] == '"1"'
            headers = {"ETag": '"2"' if changed else '"1"', "Repr-Digest": told(content)}
            return httpx.Response(200 if changed else 206, headers=headers, content=content[0 if changed else 3 :])

        with Client(transport=httpx.MockTransport(handle), retry=Retry(first_s=0.001)) as client:
            client.versions.weights("quadratic", 1, tmp_path / "net.pt")

        assert (tmp_path / "net.pt").read_bytes() == content
        assert asked == [None, "bytes=3-"]

    def test_bytes_in_memory_are_checked_as_well(self) -> None:
        assert checked(b"abc", told(b"abc")) == b"abc"
        with pytest.raises(DigestMismatch):
            checked(b"abd", told(b"abc"))
