"""Bytes from and to files: an upload's source with its digest, a download that is checked before it counts.

Knows no request.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

import anyio.to_thread

from service.errors import DigestMismatch

_PIECE: Final = 1 << 20
_TYPES: Final = {
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".zip": "application/zip",
    ".parquet": "application/vnd.apache.parquet",
}


class Source:
    """The bytes of an upload: of a file, or as they are. They can be sent again.

    Args:
        given: a path, bytes, or a file opened for reading bytes (which is read to its end once).
        media_type: of the bytes; by default after the file's suffix.
    """

    def __init__(self, given: str | os.PathLike[str] | bytes | BinaryIO, media_type: str | None = None) -> None:
        self._path = Path(given) if isinstance(given, (str, os.PathLike)) else None
        self._bytes = b""
        if self._path is None:
            self._bytes = given if isinstance(given, bytes) else given.read()  # type: ignore[union-attr]  # a path is one
        suffix = self._path.suffix.lower() if self._path is not None else ""
        self.media_type = media_type or _TYPES.get(suffix, "application/octet-stream")
        digest, self.size_bytes = hashlib.sha256(), 0
        for piece in self.pieces():
            digest.update(piece)
            self.size_bytes += len(piece)
        self._digest = digest.digest()

    def headers(self) -> dict[str, str]:
        """Headers of the request that brings it."""
        return {
            "Content-Type": self.media_type,
            "Content-Length": str(self.size_bytes),
            "Repr-Digest": f"sha-256=:{base64.b64encode(self._digest).decode()}:",
        }

    def pieces(self) -> Iterator[bytes]:
        """The bytes, in order."""
        if self._path is None:
            yield self._bytes
            return
        with self._path.open("rb") as file:
            while piece := file.read(_PIECE):
                yield piece

    async def async_pieces(self) -> AsyncIterator[bytes]:
        """The bytes, in order, read beside the event loop."""
        pieces = self.pieces()
        while (piece := await anyio.to_thread.run_sync(next, pieces, None)) is not None:
            yield piece


class Download:
    """A file that comes to be with the right bytes or not at all.

    A context manager: what is written appears under its name at the end, when the digest is that of the answer. A
    download that breaks off is gone on with where it broke, if the bytes are still the same.
    """

    def __init__(self, to: str | os.PathLike[str]) -> None:
        self.path = Path(to)
        self._expected: bytes | None = None
        self._etag: str | None = None
        self._size = 0

    def __enter__(self) -> Self:
        handle, name = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
        self._file = os.fdopen(handle, "wb")
        self._staged = Path(name)
        self._digest = hashlib.sha256()
        return self

    def headers(self) -> dict[str, str | None]:
        """What asks for the bytes that are missing; nothing special as long as none have come."""
        plain: dict[str, str | None] = {"Accept-Encoding": "identity"}
        if not self._size or self._etag is None:
            return plain
        return {**plain, "Range": f"bytes={self._size}-", "If-Range": self._etag}

    def begin(self, headers: Mapping[str, str], *, partial: bool) -> None:
        """An answer has come; unless it is the missing part, it is all of it, from the first byte on."""
        if not partial:
            self._file.seek(0)
            self._file.truncate()
            self._digest, self._size = hashlib.sha256(), 0
        self._etag = headers.get("etag")
        self._expected = digest_of(headers.get("repr-digest", ""))

    def write(self, piece: bytes) -> None:
        """Add to the file."""
        self._digest.update(piece)
        self._file.write(piece)
        self._size += len(piece)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        try:
            if kind is None:
                check(self._digest.digest(), self._expected)
                umask = os.umask(0)
                os.umask(umask)
                self._staged.chmod(0o666 & ~umask)
                self._staged.replace(self.path)
        finally:
            self._staged.unlink(missing_ok=True)


def checked(content: bytes, repr_digest: str) -> bytes:
    """The same bytes, if they have the digest of the answer.

    Raises:
        DigestMismatch: otherwise.
    """
    check(hashlib.sha256(content).digest(), digest_of(repr_digest))
    return content


def digest_of(repr_digest: str) -> bytes | None:
    """The sha-256 of a Repr-Digest header, if it has one."""
    match = re.search(r"sha-256=:([A-Za-z0-9+/=]+):", repr_digest)
    return base64.b64decode(match[1]) if match else None


def check(found: bytes, expected: bytes | None) -> None:
    """Compare two digests; without an expected one anything is right.

    Raises:
        DigestMismatch: they differ.
    """
    if expected is not None and found != expected:
        raise DigestMismatch("What arrived does not have the digest that the server told; nothing was kept.")
