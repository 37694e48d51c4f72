"""Archives of arrays: what is read, and that no header is believed."""

from __future__ import annotations

import io
import struct
import zipfile

import numpy as np
import pytest

from service.engine.npz_files import read_npz
from service.errors import DatasetRefused
from service.schemas.datasets import Npz

UPLOAD = "up_" + "0" * 32


@pytest.fixture
def read(tmp_path):
    def _read(content: bytes, **members):
        path = tmp_path / "upload"
        path.write_bytes(content)
        return read_npz(path, Npz(type="npz", upload=UPLOAD, **members))

    return _read


def archive(*, compressed: bool = False, **arrays) -> bytes:
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **arrays)
    return stream.getvalue()


def member(header: str, data: bytes, *, name: str = "x.npy", magic: bytes = b"\x93NUMPY\x01\x00") -> bytes:
    """An archive with one hand-made member."""
    stream = io.BytesIO()
    text = (header + "\n").encode("latin-1")
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr(name, magic + struct.pack("<H", len(text)) + text + data)
    return stream.getvalue()


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2", "|u1", "|i1", ">i2", "<u4", "|b1", "<i8"])
@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])
def test_numbers_of_every_kind_come_out_as_they_went_in(read, dtype, compressed):
    x = (np.arange(24).reshape(4, 2, 3) % 2 if dtype == "|b1" else np.arange(24).reshape(4, 2, 3)).astype(dtype)

    raw = read(archive(compressed=compressed, x=x))

    assert (raw.layout, raw.row_shape) == ("array", (2, 3))
    assert np.array_equal(raw.arrays["inputs"], x)
    assert raw.arrays["inputs"].dtype.isnative


def test_the_order_of_columns_in_memory_does_not_matter(read):
    x = np.asfortranarray(np.arange(12.0).reshape(3, 4))

    assert np.array_equal(read(archive(x=x)).arrays["inputs"], x)


def test_the_target_keeps_its_shape(read):
    raw = read(archive(x=np.zeros((5, 2)), y=np.arange(5.0)), target="y")

    assert (raw.arrays["targets"].shape, raw.target, raw.target_flat) == ((5,), "number", False)


def test_class_names_make_indices_of_the_target(read):
    raw = read(
        archive(x=np.zeros((3, 2)), y=np.array([[2], [0], [1]], dtype=np.uint8)), target="y", classes=("a", "b", "c")
    )

    assert (raw.target, raw.arrays["targets"].tolist()) == ("class", [2, 0, 1])


F4 = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"
HOSTILE = {
    "not an archive": (b"PK nothing", "bad-archive"),
    "cut off": (archive(x=np.zeros((2, 3)))[:-30], "bad-archive"),
    "no such array": (archive(other=np.zeros((2, 3))), "unknown-member"),
    "pickled objects": (archive(x=np.array([{"a": 1}], dtype=object)), "bad-array"),
    "records": (archive(x=np.zeros(3, dtype=[("a", "<f4")])), "bad-array"),
    "texts": (archive(x=np.array(["a", "b"])), "bad-array"),
    "complex numbers": (archive(x=np.zeros((2, 2), dtype=complex)), "bad-array"),
    "dates": (archive(x=np.zeros(2, dtype="datetime64[s]")), "bad-array"),
    "nothing in front of it": (member(F4, bytes(24), magic=b"NUMPY???"), "bad-array"),
    "a header that claims more": (member(F4.replace("2, 3", "200000, 3"), bytes(24)), "bad-array"),
    "a header that claims a lot more": (member(F4.replace("2, 3", "9999999, 99999"), bytes(24)), "too-large"),
    "a header that claims less": (member(F4.replace("2, 3", "1, 3"), bytes(24)), "bad-array"),
    "a header that is an expression": (member(F4.replace("2", "__import__('os').getpid()"), bytes(24)), "bad-array"),
    "a negative size": (member(F4.replace("2, 3", "-2, -3"), bytes(24)), "bad-array"),
    "no rows": (archive(x=np.zeros((0, 3))), "shape-mismatch"),
    "a single number": (archive(x=np.float32(3)), "shape-mismatch"),
    "too many dimensions": (archive(x=np.zeros((1,) * 9)), "shape-mismatch"),
    "not a number": (archive(x=np.array([[1.0, np.nan]])), "not-finite"),
    "beyond float32": (archive(x=np.array([[1.0, 1e300]])), "not-finite"),
}


@pytest.mark.parametrize(("content", "code"), HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_wrong_is_refused(read, content, code):
    with pytest.raises(DatasetRefused) as refused:
        read(content)

    assert refused.value.errors[0].code == code


def test_two_members_of_one_name_are_refused(read):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("x.npy", b"1")
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr("x.npy", b"2")

    with pytest.raises(DatasetRefused, match="same name"):
        read(stream.getvalue())


def test_a_name_that_is_no_utf8_is_refused(read):
    content = bytearray(archive(x=np.zeros((2, 3))).replace(b"x.npy", b"\xff.npy"))
    content[content.index(b"PK\x01\x02") + 9] |= 0x08  # the flag that says that it is UTF-8

    with pytest.raises(DatasetRefused, match="damaged"):
        read(bytes(content))


def test_a_flipped_byte_is_seen(read):
    content = bytearray(archive(x=np.arange(1000.0)))
    content[1000] ^= 1

    with pytest.raises(DatasetRefused, match="damaged"):
        read(bytes(content))


def test_a_member_that_inflates_to_more_than_it_says_is_refused(read):
    content = archive(compressed=True, x=np.zeros((1000, 100), dtype=np.float32))
    lie = content.replace(struct.pack("<I", 400_128), struct.pack("<I", 128))

    assert lie != content
    with pytest.raises(DatasetRefused):
        read(lie)


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        pytest.param({"target": "z"}, "/source/target", id="an unknown target"),
        pytest.param({"target": "x"}, "/source/target", id="the inputs as the target"),
        pytest.param({"target": "short"}, "/source/target", id="another number of rows"),
        pytest.param({"shape": (5,)}, "/source/shape", id="a shape of another size"),
        pytest.param({"classes": ("a",)}, "/source/classes", id="classes without a target"),
        pytest.param({"target": "y", "classes": ("a", "b")}, "/source/target", id="an index outside the classes"),
    ],
)
def test_a_request_that_does_not_fit_the_archive_points_to_its_member(read, members, pointer):
    content = archive(x=np.zeros((3, 4)), y=np.array([0, 1, 2]), short=np.zeros(2))

    with pytest.raises(DatasetRefused) as refused:
        read(content, **members)

    assert refused.value.errors[0].pointer == pointer
