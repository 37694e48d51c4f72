"""The reader of CIFAR-10 and CIFAR-100 in their binary version: records of labels and 3 × 32 × 32 bytes.

The archive is read as a stream and nothing is unpacked to a name from it. The Python version of these sets is pickled;
it is recognised, refused, and nothing of it is read. Knows no dataset folder and no tensor.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, Final, NoReturn, Protocol, cast

import numpy as np

from service.engine.mapped import Array, Growing, Shelf
from service.engine.readers import Raw, refuse, target_column
from service.errors import Entry, shorten
from service.schemas.datasets import Cifar10, Cifar100, Column, ImageRow

_PIXELS: Final = 3 * 32 * 32
_MOST_ROWS: Final = 1_000_000
_MOST_BYTES: Final = 2**32
_MOST_MEMBERS: Final = 64
_NAMES: Final = {
    "batches.meta.txt": "cifar10",
    "fine_label_names.txt": "fine",
    "coarse_label_names.txt": "coarse",
}
CIFAR10_CLASSES: Final = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
_HOME: Final = "https://www.cs.toronto.edu/~kriz/"


def read_cifar(path: Path, source: Cifar10 | Cifar100, *, at: str = "/source", shelf: Shelf | None = None) -> Raw:
    """Images [3, 32, 32] with their classes; of an archive also the file that each row is of.

    Raises:
        DatasetRefused: the file is the pickled version, of another format, damaged or too large.
    """
    reader = _Reader(source, shelf or Shelf(), f"{at}/upload")
    try:
        with path.open("rb") as file:
            start = file.read(300)
            file.seek(0)
            if start[:2] == b"\x1f\x8b":
                with gzip.GzipFile(fileobj=file) as unpacked:
                    reader.read(_Limited(unpacked), path.name)
            else:
                reader.read(file, path.name)
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError) as error:
        refuse([Entry(f"{at}/upload", "bad-archive", f"The file is damaged: {str(error)[:100]}.")], because=error)
    return reader.end()


class _Stream(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class _Limited:
    """A stream that says when it has given more than anything of this format has."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream
        self._left = _MOST_BYTES

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(min(size if size >= 0 else self._left + 1, self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise OSError(f"it has more than {_MOST_BYTES} bytes once it is unpacked")
        return data


class _Reader:
    """Takes one file after the other."""

    def __init__(self, source: Cifar10 | Cifar100, shelf: Shelf, at: str) -> None:
        self._source = source
        self._shelf = shelf
        self._at = at
        self._labels = 1 if isinstance(source, Cifar10) else 2
        self._record = self._labels + _PIXELS
        self._place = 1 if isinstance(source, Cifar100) and source.labels == "fine" else 0
        self._most = 10 if isinstance(source, Cifar10) else 100 if self._place else 20
        self._images: Growing = shelf.growing(np.uint8)
        self._classes: Growing = shelf.growing(np.int64)
        self._files: list[tuple[str, int]] = []
        self._class_names: tuple[str, ...] | None = CIFAR10_CLASSES if isinstance(source, Cifar10) else None
        self._archived = False

    def read(self, stream: _Stream, name: str) -> None:
        """A tar archive, or records."""
        start = stream.read(512)
        whole = _Joined(start, stream)
        if len(start) >= 262 and start[257:262] == b"ustar":
            self._archived = True
            with tarfile.open(fileobj=cast("IO[bytes]", whole), mode="r|") as archive:  # it only reads
                self._archive(archive)
        elif start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
            self._pickled()
        else:
            self._records(whole, name)

    def end(self) -> Raw:
        """The arrays."""
        rows = self._images.rows
        if rows == 0:
            self._fail("no-rows", "There are no .bin files with images in the archive.")
        names = self._class_names or tuple(str(number) for number in range(self._most))
        targets = self._classes.whole()
        arrays: dict[str, Array] = {"inputs": self._images.whole(), "targets": targets}
        row = ImageRow(channels=3, height=32, width=32)
        columns = [Column(name="x", role="input", dtype="int", shape=row.shape), target_column("y", targets, names)]
        if self._archived:
            files = tuple(sorted(name for name, _ in self._files))
            codes = np.concatenate([np.full(count, files.index(name), np.int32) for name, count in self._files])
            arrays["kept-codes"] = codes[:, None]
            columns.append(Column(name="file", role="kept", dtype="text", classes=files))
        return Raw("array", tuple(columns), arrays, row.shape, "class", classes=names, image=row)

    def _archive(self, archive: tarfile.TarFile) -> None:
        for count, member in enumerate(archive):
            name = PurePosixPath(member.name).name
            if count >= _MOST_MEMBERS:
                self._fail("too-large", f"The archive has more than {_MOST_MEMBERS} members.")
            if member.isdir() or name.startswith("."):
                continue
            if not member.isfile():
                self._fail("bad-archive", f"{shorten(member.name)}: it is a link or a device, not a file.")
            content = archive.extractfile(member)
            assert content is not None
            if name.endswith(".bin"):
                if name in [known for known, _ in self._files]:
                    self._fail("bad-archive", f"{shorten(name)} is there twice.")
                self._records(content, name)
            elif name in _NAMES and member.size <= 10_000:
                self._take_names(_NAMES[name], content.read(10_000).decode("ascii", "replace").split())
            elif "-py" in member.name or content.read(1) == b"\x80":
                self._pickled()

    def _take_names(self, kind: str, names: list[str]) -> None:
        wanted = "cifar10" if isinstance(self._source, Cifar10) else self._source.labels
        if kind == wanted and len(names) == self._most and len(set(names)) == self._most:
            self._class_names = tuple(names)

    def _records(self, stream: _Stream, name: str) -> None:
        rows = 0
        while data := stream.read(self._record * 1000):
            whole, rest = divmod(len(data), self._record)
            records = np.frombuffer(data[: whole * self._record], np.uint8).reshape(whole, self._record)
            labels = records[:, self._place]
            wrong = np.flatnonzero(labels >= self._most)
            if rest or len(wrong):
                row = rows + (int(wrong[0]) if len(wrong) else whole)
                what = f"its label is {labels[wrong[0]]}" if len(wrong) else "it ends early"
                other = "cifar100" if self._labels == 1 else "cifar10"
                detail = f"{shorten(name)}, record {row}: {what}; a record is {self._labels} + {_PIXELS} bytes."
                self._fail("bad-array", detail, f'Is it "type": "{other}", or the pickled version?')
            self._images.append(records[:, self._labels :].reshape(whole, 3, 32, 32))
            self._classes.append(labels.astype(np.int64))
            rows += whole
            if self._images.rows > _MOST_ROWS:
                self._fail("too-large", f"There are more than {_MOST_ROWS} images.")
        self._files.append((name, rows))

    def _pickled(self) -> NoReturn:
        name = "cifar-10-binary.tar.gz" if isinstance(self._source, Cifar10) else "cifar-100-binary.tar.gz"
        detail = "This is the Python version, which is pickled: reading it would run what the file says."
        self._fail("pickled", detail, f"Send the binary version, {_HOME}{name}, as it is.")

    def _fail(self, code: str, detail: str, hint: str | None = None) -> NoReturn:
        refuse([Entry(self._at, code, detail, hint=hint)])


class _Joined:
    """A stream whose beginning was read already, read so that only its end gives less than was asked for."""

    def __init__(self, start: bytes, stream: _Stream) -> None:
        self._start = start
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        found = bytearray(self._start[:size])
        self._start = self._start[size:]
        while len(found) < size and (piece := self._stream.read(size - len(found))):
            found += piece
        return bytes(found)
