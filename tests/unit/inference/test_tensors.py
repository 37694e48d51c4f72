"""The protocol's tensors: JSON and bytes to arrays and back, and what is refused with which place."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest

from service.errors import BatchTooLarge, DtypeMismatch, InvalidInput, MalformedBody, ServiceError
from service.inference import tensors
from service.inference.tensors import DATATYPES, Answered, Tensor, classify, coerce, decode, encode

VALUES: dict[str, np.ndarray] = {
    "BOOL": np.array([[True, False], [False, True]]),
    **{
        name: np.array([[kind.range[0], kind.range[1]], [1, 2]], dtype=kind.wire)
        for name, kind in DATATYPES.items()
        if kind.kind == "int"
    },
    "FP16": np.array([[0.5, -65504], [1, 2]], dtype="<f2"),
    "FP32": np.array([[0.1, -3.4e38], [1, 2]], dtype="<f4"),
    "FP64": np.array([[0.1, -1.7e308], [1, 2]], dtype="<f8"),
    "BYTES": np.array([[b"", b"\x00\xff"], ["ä".encode(), b"word"]], dtype=object),
}


def body(*inputs: dict[str, Any], **members: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **members}).encode()


def tensor(**members: Any) -> dict[str, Any]:
    return {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4], **members}


def read(*inputs: dict[str, Any], behind: bytes = b"", **members: Any) -> tensors.Request:
    header = body(*inputs, **members)
    return decode(header + behind, header_bytes=len(header) if behind else None, elements=1000)


def refused(*inputs: dict[str, Any], behind: bytes = b"", **members: Any) -> ServiceError:
    with pytest.raises(ServiceError) as found:
        read(*inputs, behind=behind, **members)
    return found.value


@pytest.mark.parametrize("datatype", VALUES)
def test_bytes_come_back_as_they_were(datatype: str) -> None:
    array = VALUES[datatype]
    data = tensors.to_bytes(array, datatype)
    [found] = read(
        {"name": "x", "shape": [2, 2], "datatype": datatype, "parameters": {"binary_data_size": len(data)}}, behind=data
    ).inputs

    assert found.array.tolist() == array.tolist()
    assert tensors.to_bytes(found.array, datatype) == data


@pytest.mark.parametrize("nested", [True, False], ids=["nested", "flat"])
@pytest.mark.parametrize("datatype", VALUES)
def test_json_gives_the_same_array_as_bytes(datatype: str, nested: bool) -> None:
    array = VALUES[datatype]
    if datatype == "BYTES":
        array = np.array([[b"", b"a"], ["ä".encode(), b"word"]], dtype=object)
        shown = np.vectorize(bytes.decode, otypes=[object])(array)
    else:
        shown = array
    [found] = read(tensor(datatype=datatype, data=(shown if nested else shown.reshape(-1)).tolist())).inputs

    assert found.array.shape == (2, 2)
    assert found.array.tolist() == array.tolist()


def test_whole_numbers_may_be_written_as_floating_ones() -> None:
    """JSON has one kind of number, and some clients write every one with a point."""
    found = read(
        tensor(name="a", datatype="INT64", data=[1.0, 2, -3.0, 4]),
        tensor(name="b", datatype="BOOL", data=[1.0, 0, True, 0.0]),
    ).inputs

    assert [one.array.reshape(-1).tolist() for one in found] == [[1, 2, -3, 4], [True, False, True, False]]


def test_bf16_comes_as_bytes_alone_and_widens() -> None:
    data = np.array([1.0, -2.5], dtype="<f4").view("<u4")
    raw = (data >> 16).astype("<u2").tobytes()
    [found] = read(
        {"name": "x", "shape": [2], "datatype": "BF16", "parameters": {"binary_data_size": 4}}, behind=raw
    ).inputs

    assert found.array.tolist() == [1.0, -2.5]
    assert refused(tensor(datatype="BF16")).errors[0].pointer == "/inputs/0/data"


def test_ids_parameters_and_outputs_are_read() -> None:
    outputs = [{"name": "y", "parameters": {"binary_data": True}}, {"name": "z", "parameters": {"classification": 3}}]
    found = read(tensor(), id="42", parameters={"binary_data_output": True, "timeout": 5}, outputs=outputs)

    assert (found.id, found.binary, found.parameters["timeout"]) == ("42", True, 5)
    assert found.outputs is not None
    assert [(one.name, one.binary, one.classification) for one in found.outputs] == [("y", True, 0), ("z", None, 3)]


def test_no_outputs_named_means_all() -> None:
    assert read(tensor()).outputs is None
    assert read(tensor(), outputs=[]).outputs is None


BINARY = {"binary_data_size": 16}


@pytest.mark.parametrize(
    ("inputs", "behind", "pointer"),
    [
        pytest.param([], b"", "/inputs", id="no input"),
        pytest.param([5], b"", "/inputs/0", id="an input that is a number"),
        pytest.param([tensor(name=5)], b"", "/inputs/0/name", id="a name that is a number"),
        pytest.param([tensor(), tensor()], b"", "/inputs/1/name", id="a name twice"),
        pytest.param([tensor(datatype="FLOAT")], b"", "/inputs/0/datatype", id="an unknown datatype"),
        pytest.param([tensor(shape=None)], b"", "/inputs/0/shape", id="no shape"),
        pytest.param([tensor(shape=[])], b"", "/inputs/0/shape", id="a scalar"),
        pytest.param([tensor(shape=[-1, 4])], b"", "/inputs/0/shape", id="a negative size"),
        pytest.param([tensor(shape=[True, 4])], b"", "/inputs/0/shape", id="a size that is true"),
        pytest.param([tensor(shape=[0, 4], data=[])], b"", "/inputs/0/shape", id="no rows"),
        pytest.param([tensor(shape=[1] * 40)], b"", "/inputs/0/shape", id="too many dimensions"),
        pytest.param([tensor(data=[1, 2, 3])], b"", "/inputs/0/data", id="too few elements"),
        pytest.param([tensor(data=[[1, 2], [3]])], b"", "/inputs/0/data", id="ragged lists"),
        pytest.param([tensor(data=[[1, 2, 3, 4]])], b"", "/inputs/0/data", id="lists of another shape"),
        pytest.param([tensor(data={"a": 1})], b"", "/inputs/0/data", id="data that is an object"),
        pytest.param([tensor(data=[1, "2", 3, 4])], b"", "/inputs/0/data/1", id="a text among numbers"),
        pytest.param([tensor(data=[1, True, 3, 4])], b"", "/inputs/0/data/1", id="true among numbers"),
        pytest.param([tensor(data=[1, 2, 1e39, 4])], b"", "/inputs/0/data/2", id="a number beyond FP32"),
        pytest.param([tensor(datatype="INT64", data=[1, 2, 3.5, 4])], b"", "/inputs/0/data/2", id="a float for INT64"),
        pytest.param([tensor(datatype="INT64", data=[1, 2, 1e19, 4])], b"", "/inputs/0/data/2", id="1e19 for INT64"),
        pytest.param([tensor(datatype="INT8", data=[1, 2, 3, 128])], b"", "/inputs/0/data/3", id="128 for INT8"),
        pytest.param([tensor(datatype="UINT64", data=[1, -2, 3, 4])], b"", "/inputs/0/data/1", id="−2 for UINT64"),
        pytest.param([tensor(datatype="BOOL", data=[1, 0, 2, 0])], b"", "/inputs/0/data/2", id="2 for BOOL"),
        pytest.param([tensor(datatype="BYTES", data=["a", 1, "b", "c"])], b"", "/inputs/0/data/1", id="1 for BYTES"),
        pytest.param([tensor(parameters=BINARY)], b"0" * 16, "/inputs/0/data", id="data and bytes"),
        pytest.param([{"name": "x", "shape": [1], "datatype": "FP32"}], b"", "/inputs/0/data", id="neither"),
        pytest.param(
            [{"name": "x", "shape": [5], "datatype": "FP32", "parameters": BINARY}],
            b"0" * 16,
            "/inputs/0",
            id="20 of 16",
        ),
        pytest.param(
            [{"name": "x", "shape": [5], "datatype": "FP32", "parameters": {"binary_data_size": -1}}],
            b"0" * 16,
            "/inputs/0/parameters/binary_data_size",
            id="a negative number of bytes",
        ),
        pytest.param(
            [{"name": "x", "shape": [16], "datatype": "BOOL", "parameters": BINARY}],
            b"\x01" * 15 + b"\x02",
            "/inputs/0/data/15",
            id="a BOOL of 2",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place(inputs: list[Any], behind: bytes, pointer: str) -> None:
    error = refused(*inputs, behind=behind)

    assert isinstance(error, InvalidInput)
    assert pointer in [entry.pointer for entry in error.errors]


def test_all_mistakes_come_at_once() -> None:
    error = refused(tensor(datatype="?"), tensor(name="y", shape=[3]), tensor(name="z", data=[None, "a", 3, "b"]), id=5)

    assert [entry.pointer for entry in error.errors] == [
        "/id",
        "/inputs/0/datatype",
        "/inputs/1/data",
        "/inputs/2/data/1",
        "/inputs/2/data/3",
    ]


@pytest.mark.parametrize(
    ("content", "header"),
    [
        pytest.param(b"", None, id="nothing"),
        pytest.param(b"{", None, id="cut off"),
        pytest.param(b'{"inputs": [NaN]}', None, id="NaN"),
        pytest.param(b'{"inputs": [1e400]}', None, id="a number beyond any float"),
        pytest.param(b"{}", 5, id="a header longer than the body"),
        pytest.param(body(tensor()) + b"1234", len(body(tensor())), id="bytes left over"),
        pytest.param(
            body({"name": "x", "shape": [4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}),
            None,
            id="bytes missing",
        ),
    ],
)
def test_bytes_that_are_no_request_are_malformed(content: bytes, header: int | None) -> None:
    with pytest.raises(MalformedBody):
        decode(content, header_bytes=header, elements=1000)


@pytest.mark.parametrize("shape", [[2**31, 2**31], [2**62, 4], [1001]], ids=str)
def test_too_many_elements_are_refused_before_any_room_is_taken(shape: list[int]) -> None:
    error = refused(
        {"name": "x", "shape": shape, "datatype": "FP32", "parameters": {"binary_data_size": 4}}, behind=b"0000"
    )

    assert isinstance(error, BatchTooLarge)


def test_too_many_rows_are_refused_before_an_element_is_looked_at() -> None:
    one = {"name": "x", "shape": [3], "datatype": "BYTES", "data": [1, 2, 3]}
    body = json.dumps({"inputs": [one]}).encode()
    with pytest.raises(BatchTooLarge, match="at most 2 rows"):
        decode(body, header_bytes=None, elements=10, rows=2)
    with pytest.raises(DtypeMismatch):
        decode(body, header_bytes=None, elements=10, rows=3)


def test_more_tensors_than_any_version_has_are_refused_with_the_limit() -> None:
    body = json.dumps({"inputs": [{}] * 1025, "outputs": [{}] * 1025}).encode()
    with pytest.raises(InvalidInput) as found:
        decode(body, header_bytes=None, elements=10)

    assert [(one.pointer, "1024" in (one.expected or "")) for one in found.value.errors] == [
        ("/inputs", True),
        ("/outputs", True),
    ]


def test_very_many_objects_are_refused_before_they_are_made() -> None:
    with pytest.raises(InvalidInput, match="more objects"):
        decode(b'{"inputs":[' + b"{}," * 10_000, header_bytes=None, elements=10)  # no JSON, but nobody came so far


@pytest.mark.parametrize("text", ["{", '"{"{', "\\\\{", "\n{"], ids=ascii)
def test_braces_in_texts_are_no_objects(text: str) -> None:
    one = {"name": "x", "shape": [10_000], "datatype": "BYTES", "data": [text] * 10_000}
    found = decode(json.dumps({"inputs": [one]}).encode(), header_bytes=None, elements=10_000)

    assert set(found.inputs[0].array) == {text.encode()}


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(struct.pack("<I", 5) + b"abc", id="a length beyond the end"),
        pytest.param(struct.pack("<I", 1) + b"a", id="too few"),
        pytest.param((struct.pack("<I", 1) + b"a") * 3, id="too many"),
        pytest.param((struct.pack("<I", 1) + b"a") * 2 + b"\x00", id="a length that is cut off"),
    ],
)
def test_texts_must_end_where_their_lengths_say(data: bytes) -> None:
    one = {"name": "x", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": len(data)}}

    assert refused(one, behind=data).errors[0].pointer.startswith("/inputs/0")


def sent(datatype: str, values: list[Any]) -> Tensor:
    return Tensor("x", datatype, np.array(values, dtype=DATATYPES[datatype].wire))


@pytest.mark.parametrize(
    ("tensor", "dtype"),
    [
        (sent("INT64", [2**24, -(2**24)]), "float32"),
        (sent("INT64", [2**60, -(2**63)]), "float32"),
        (sent("UINT64", [2**63]), "float64"),
        (sent("INT64", [-(2**63), 2**53 + 2]), "float64"),
        (sent("INT32", [2**11 + 2, -(2**12)]), "float16"),
        (sent("UINT8", [255]), "int16"),
        (sent("INT64", [-128, 127]), "int8"),
        (sent("BOOL", [True, False]), "float32"),
        (sent("BOOL", [True, False]), "int64"),
        (sent("INT32", [0, 1]), "bool"),
        (sent("FP16", [0.5]), "float64"),
    ],
    ids=lambda one: one.datatype if isinstance(one, Tensor) else one,
)
def test_numbers_that_fit_are_taken_exactly(tensor: Tensor, dtype: str) -> None:
    found = coerce(tensor, dtype)

    assert found.dtype == dtype
    assert [int(one) if tensor.datatype != "FP16" else one for one in found.tolist()] == tensor.array.tolist()


@pytest.mark.parametrize(
    ("tensor", "dtype", "place"),
    [
        (sent("INT64", [1, 2**24 + 1]), "float32", 1),
        (sent("INT64", [1, 2**63 - 1]), "float32", 1),
        (sent("UINT64", [1, 2**64 - 1]), "float64", 1),
        (sent("INT64", [2**53 + 2, 2**53 + 1]), "float64", 1),
        (sent("INT32", [-(2**31), 2**31 - 1]), "float32", 1),
        (sent("UINT32", [0, 2**32 - 1]), "float32", 1),
        (sent("INT32", [-70_000]), "float16", 0),
        (sent("INT32", [70_000]), "float16", 0),
        (sent("INT64", [1, 128]), "int8", 1),
        (sent("UINT8", [0, 2]), "bool", 1),
        (sent("FP32", [1.0]), "int64", 0),
        (sent("FP64", [1.0, 1e39]), "float32", 1),
        (sent("FP32", [1.0, float("nan")]), "float32", 1),
        (sent("FP32", [float("inf")]), "float64", 0),
        (Tensor("x", "BYTES", np.array([b"1"], dtype=object)), "float32", 0),
    ],
    ids=lambda one: one.datatype if isinstance(one, Tensor) else str(one),
)
def test_numbers_that_do_not_fit_are_named_by_their_index(tensor: Tensor, dtype: str, place: int) -> None:
    with pytest.raises(InvalidInput) as found:
        coerce(tensor, dtype)

    assert found.value.errors[0].pointer == f"/inputs/0/data/{place}"
    assert f"element {place} " in found.value.errors[0].detail


def test_answers_are_flat_json_with_nulls_that_are_counted() -> None:
    array = np.array([[1.5, float("nan")], [float("inf"), 2.0]], dtype=np.float32)
    content, header = encode([Answered("y", "FP32", array)], model="m", version="3", id="7")

    assert header is None
    assert json.loads(content) == {
        "model_name": "m",
        "model_version": "3",
        "id": "7",
        "outputs": [
            {
                "name": "y",
                "shape": [2, 2],
                "datatype": "FP32",
                "data": [1.5, None, None, 2.0],
                "parameters": {"nonfinite": 2},
            }
        ],
    }


def test_binary_answers_follow_the_json_in_order_with_their_true_bits() -> None:
    first = np.array([float("nan"), 1.0], dtype=np.float32)
    outputs = [
        Answered("a", "FP32", first, binary=True),
        Answered("b", "INT64", np.array([1]), binary=False),
        Answered("c", "BYTES", np.array([b"xy"], dtype=object), binary=True),
    ]
    content, header = encode(outputs, model="m", version="1")
    told = json.loads(content[:header])["outputs"]

    assert content[header:] == first.tobytes() + b"\x02\x00\x00\x00xy"
    assert [one.get("data") for one in told] == [None, [1], None]
    assert [one.get("parameters") for one in told] == [{"binary_data_size": 8}, None, {"binary_data_size": 6}]


def test_the_best_classes_are_texts_of_score_index_and_label() -> None:
    scores = np.array([[0.25, 0.5, 0.125], [3, 2, 3]], dtype=np.float32)

    assert classify(scores, 2).tolist() == [[b"0.500000:1", b"0.250000:0"], [b"3.000000:0", b"3.000000:2"]]
    assert classify(scores, 9, labels=["a", "b", "c"])[0].tolist() == [
        b"0.500000:1:b",
        b"0.250000:0:a",
        b"0.125000:2:c",
    ]


@pytest.mark.parametrize("count", [3, 400])
def test_many_numbers_are_read_as_few_are(count: int) -> None:
    data = [place / 7 for place in range(count - 1)] + [2**60]
    (found,) = read(tensor(shape=[1, count], data=data)).inputs
    assert found.array.tolist() == [data]


@pytest.mark.parametrize("count", [3, 400])
@pytest.mark.parametrize("odd", [True, False, "1", {}, [2], 1e39], ids=str)
def test_what_is_no_number_is_named_among_many_as_among_few(odd: Any, count: int) -> None:
    error = refused(tensor(shape=[1, count], data=[0.5] * (count - 1) + [odd]))
    assert [entry.pointer for entry in error.errors] == [f"/inputs/0/data/{count - 1}"]


def test_a_truth_is_no_number_wherever_the_word_data_stands() -> None:
    text = body(tensor(name="data", shape=[1, 401], data=[0.5] * 400 + [True])).decode()
    odd = text.replace('"data": [', '"d\\u0061ta": [')
    first = (
        '{"inputs": [{' + odd[odd.index('"d\\u') : odd.rindex("}]")] + ", " + odd[13 : odd.index('"d\\u') - 2] + "}]}"
    )
    assert json.loads(first) == json.loads(text)
    with pytest.raises(InvalidInput) as found:
        decode(first.encode(), header_bytes=None, elements=1000)
    assert [entry.pointer for entry in found.value.errors] == ["/inputs/0/data/400"]


def test_a_null_among_many_numbers_is_nan() -> None:
    (found,) = read(tensor(shape=[1, 401], data=[0.5] * 400 + [None])).inputs
    assert np.isnan(found.array).tolist() == [[False] * 400 + [True]]


def behind(name: str, datatype: str, array: np.ndarray) -> tuple[dict[str, Any], bytes]:
    """A tensor as bytes: what the JSON says of it, and the bytes."""
    data = tensors.to_bytes(array, datatype)
    size = {"binary_data_size": len(data)}
    return {"name": name, "shape": list(array.shape), "datatype": datatype, "parameters": size}, data


def test_a_remembered_head_gives_what_stands_behind_it_this_time() -> None:
    outputs = [{"name": "y", "parameters": {"classification": 2}}]
    for number in range(3):
        sent = [
            behind("a", "FP32", np.full((2, 2), number, "<f4")),
            behind("b", "BYTES", np.array([[b"%d" % number]], dtype=object)),
            behind("c", "INT8", np.full((1, 3), -number, "i1")),
        ]
        found = read(
            *[told for told, _ in sent],
            behind=b"".join(data for _, data in sent),
            outputs=outputs,
            parameters={"priority": 2},
        )

        assert [one.array.tolist() for one in found.inputs] == [[[number] * 2] * 2, [[b"%d" % number]], [[-number] * 3]]
        assert [(one.name, one.datatype, one.at) for one in found.inputs] == [
            ("a", "FP32", "/inputs/0"),
            ("b", "BYTES", "/inputs/1"),
            ("c", "INT8", "/inputs/2"),
        ]
        assert (found.outputs, found.parameters) == ((tensors.Requested("y", None, 2),), {"priority": 2})


def test_each_request_keeps_its_own_id() -> None:
    told, data = behind("x", "FP32", np.ones((2, 2), "<f4"))

    assert [read(told, behind=data, id=identity).id for identity in ("one", "two")] == ["one", "two"]
    assert read(told, behind=data).id == ""


def test_a_remembered_head_forgives_nothing() -> None:
    told, data = behind("x", "BOOL", np.array([[True, False], [False, True]]))
    read(told, behind=data)

    assert read(told, behind=b"\1\1\1\1").inputs[0].array.all()
    assert [entry.pointer for entry in refused(told, behind=b"\1\1\2\1").errors] == ["/inputs/0/data/2"]
    assert isinstance(refused(told, behind=data[:-1]), MalformedBody)
    assert isinstance(refused(told, behind=data + b"\0"), MalformedBody)

    header = body(told)
    with pytest.raises(BatchTooLarge):
        decode(header + data, header_bytes=len(header), elements=3)
    with pytest.raises(BatchTooLarge):
        decode(header + data, header_bytes=len(header), elements=1000, rows=1)


def test_numbers_in_the_json_are_never_remembered() -> None:
    told, data = behind("b", "FP32", np.ones((1, 1), "<f4"))
    for value in (1, 2):
        found = read(tensor(data=[value] * 4), told, behind=data)

        assert found.inputs[0].array.tolist() == [[value] * 2] * 2


def test_there_is_an_end_to_remembered_heads() -> None:
    for number in range(600):
        told, data = behind(f"x{number}", "FP32", np.ones((1, 1), "<f4"))
        read(told, behind=data)

    assert len(tensors._FORMS) <= 256
