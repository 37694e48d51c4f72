"""Pictures: PNG and JPEG files as arrays, one by one and as a zip of folders, with Pillow, which is an extra.

The same function reads a picture of a dataset and one of a prediction, so that the same file gives the same numbers.
What a file claims is checked before it is decoded. Knows no dataset folder and no net.
"""

from __future__ import annotations

import io
import os
import threading
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np

from service.engine.mapped import Array, Shelf
from service.engine.npz_files import check_directory, member_problem
from service.engine.readers import MAX_BYTES, MAX_TEXT, Raw, check_class_names, class_order, refuse, target_column
from service.errors import MAX_ENTRIES, Entry, shorten
from service.schemas.datasets import Column, ImageRow, Images
from service.schemas.document import nearest_hint

MAX_PICTURES: Final = 1_000_000
MAX_PICTURE_BYTES: Final = 2**26
MAX_PIXELS: Final = 2**25
"""Of one picture before it is scaled."""
MAX_SIDE: Final = 16_384
_DECODING: Final = threading.BoundedSemaphore(max(2, os.cpu_count() or 1))
"""A small file may hold a large picture, so no more are in memory at a time than there are processors to read them."""
_MAX_CLASSES: Final = 10_000
_MODES: Final = {1: "L", 3: "RGB", 4: "RGBA"}
_IGNORED: Final = frozenset({"__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini"})
EXTRA: Final = "Install modelyard[images] on the server."


class PictureRefused(ValueError):
    """Why a picture cannot be read, as a code and a sentence."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        self.detail = detail
        super().__init__(detail)


def available() -> bool:
    """Whether Pillow is installed."""
    try:
        import PIL.Image  # noqa: F401 # that is the question
    except ImportError:
        return False
    return True


def size_of(data: bytes) -> tuple[int, int]:
    """Height and width that a PNG or JPEG file claims; nothing is decoded.

    Raises:
        PictureRefused: it is neither, or too large.
    """
    with _opened(data) as picture:
        return picture.height, picture.width


def read_picture(data: bytes, row: ImageRow) -> Array:
    """A PNG or JPEG file as uint8 [channels, height, width].

    A transparent picture loses its transparency unless there are four channels. What JPEG cameras write about how the
    picture is to be turned is followed.

    Raises:
        PictureRefused: it is neither, damaged, too large, or of another size than a row that is not `fitted`.
    """
    from PIL import Image, ImageOps

    with _DECODING, _opened(data) as opened:
        try:
            picture = ImageOps.exif_transpose(opened).convert(_MODES[row.channels])
        except (OSError, SyntaxError, ValueError, EOFError, zlib.error, IndexError) as error:
            raise PictureRefused("bad-image", f"The picture is damaged: {str(error)[:100]}.") from error
        if (picture.height, picture.width) != (row.height, row.width):
            if not row.fitted:
                detail = f"The picture is {picture.height} × {picture.width} pixels, not {row.height} × {row.width}."
                raise PictureRefused("shape-mismatch", detail)
            picture = ImageOps.fit(picture, (row.width, row.height), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture, dtype=np.uint8).reshape(row.height, row.width, row.channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def read_images(path: Path, source: Images, *, at: str = "/source", shelf: Shelf | None = None) -> Raw:
    """A zip with a folder for each class.

    Raises:
        DatasetRefused: Pillow is not installed, the archive has names that lead out of it, links, members that are no
            pictures, or is larger than the limits; with the name of each member.
    """
    if not available():
        detail = "This server cannot read pictures: Pillow is not installed."
        refuse([Entry(f"{at}/type", "extra-missing", detail, hint=EXTRA)])
    shelf = shelf or Shelf()
    check_class_names(source.classes, at=at)
    check_directory(path, at, what="a zip archive", hint="Send a zip with a folder for each class.", most=MAX_PICTURES)
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive.infolist(), at)
            names = _classes(members, source, at)
            row = _row(archive, [info for info, _ in members], source, at)
            inputs = shelf.empty((len(members), *row.shape), np.uint8)
            found: list[Entry] = []
            for place, (info, _) in enumerate(members):
                try:
                    inputs[place] = read_picture(_content(archive, info), row)
                except PictureRefused as refused:
                    found.append(_refused(info, refused, at))
                    if len(found) == MAX_ENTRIES:
                        break
            if found:
                refuse(found)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as error:
        refuse([Entry(f"{at}/upload", "bad-archive", f"The archive is damaged: {str(error)[:100]}.")], because=error)
    place_of = {name: place for place, name in enumerate(names)}
    targets = np.array([place_of[label] for _, label in members], dtype=np.int64)
    columns = (Column(name="x", role="input", dtype="int", shape=row.shape), target_column("y", targets, names))
    arrays = {"inputs": inputs, "targets": targets}
    return Raw("array", columns, arrays, row.shape, "class", classes=names, image=row)


def _opened(data: bytes) -> Any:
    """The picture, with only its header read."""
    from PIL import Image

    if len(data) > MAX_PICTURE_BYTES:
        raise PictureRefused("too-large", f"A picture has at most {MAX_PICTURE_BYTES} bytes.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own limit warns; ours is below it
            picture = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
    except Image.DecompressionBombError as error:
        detail = f"The picture claims too many pixels; {MAX_PIXELS} are read at most."
        raise PictureRefused("too-large", detail) from error
    except Exception as error:  # Pillow's own, and what its parsers raise for broken headers
        raise PictureRefused("bad-image", "This is no PNG or JPEG file.") from error
    if picture.width * picture.height > MAX_PIXELS or max(picture.size) > MAX_SIDE:
        detail = f"The picture claims {picture.height} × {picture.width} pixels; {MAX_PIXELS} are read at most."
        raise PictureRefused("too-large", detail)
    return picture


def _members(infos: Sequence[zipfile.ZipInfo], at: str) -> list[tuple[zipfile.ZipInfo, str]]:
    """The pictures, sorted by name, each with the name of its folder."""
    found: list[Entry] = []
    kept: dict[str, tuple[zipfile.ZipInfo, str]] = {}

    def wrong(info: zipfile.ZipInfo, code: str, why: str, hint: str | None = None) -> None:
        found.append(Entry(f"{at}/upload", code, f"{shorten(info.filename)}: {why}", hint=hint))

    for info in infos:
        if len(found) >= MAX_ENTRIES:
            break
        name = PurePosixPath(info.filename)
        kind = (info.external_attr >> 16) & 0o170000
        if ".." in name.parts or name.is_absolute() or "\\" in info.filename or "\0" in info.orig_filename:
            wrong(info, "bad-archive", "the name leads out of the archive.")
        elif kind not in (0, 0o100000, 0o040000):
            wrong(info, "bad-archive", "it is a link or a device, not a file.")
        elif info.is_dir() or _IGNORED & set(name.parts):
            continue
        elif problem := member_problem(info):
            wrong(info, "bad-archive", f"it {problem}")
        elif info.file_size > MAX_PICTURE_BYTES:
            wrong(info, "too-large", f"a picture has at most {MAX_PICTURE_BYTES} bytes.")
        elif name.suffix.lower() not in (".png", ".jpg", ".jpeg"):
            wrong(info, "bad-image", "only .png, .jpg and .jpeg files are read.", "Take it out of the archive.")
        elif info.filename in kept:
            wrong(info, "duplicate", "two members have this name.")
        elif len(name.parts) < 2:
            wrong(info, "no-class", "it lies in no folder, whose name would be its class.")
        else:
            kept[info.filename] = (info, name.parts[-2])
    if found:
        refuse(found)
    if not kept:
        refuse([Entry(f"{at}/upload", "no-rows", "The archive has no pictures.")])
    if sum(info.file_size for info, _ in kept.values()) > MAX_BYTES:
        refuse([Entry(f"{at}/upload", "too-large", f"The pictures have more than {MAX_BYTES} bytes in all.")])
    return [kept[name] for name in sorted(kept)]


def _classes(members: Sequence[tuple[zipfile.ZipInfo, str]], source: Images, at: str) -> tuple[str, ...]:
    there = {label: info for info, label in reversed(members)}
    bad = [label for label in there if len(label) > MAX_TEXT or not label.isprintable()]
    if bad or len(there) > _MAX_CLASSES:
        detail = f"{shorten(bad[0])} cannot be the name of a class." if bad else f"There are {len(there)} folders."
        refuse([Entry(f"{at}/upload", "bad-text", detail)])
    if source.classes is None:
        return tuple(class_order(there))
    unknown = [label for label in there if label not in source.classes]
    if unknown:
        refuse(
            Entry(
                f"{at}/classes",
                "unknown-class",
                f"The folder {shorten(label)} is not among `classes`.",
                hint=nearest_hint(label, source.classes),
            )
            for label in unknown[:MAX_ENTRIES]
        )
    return source.classes


def _row(archive: zipfile.ZipFile, infos: Sequence[zipfile.ZipInfo], source: Images, at: str) -> ImageRow:
    """The size of every row: the one that is asked for, or that of all pictures."""
    if source.size is not None:
        height, width = source.size
        row = ImageRow(channels=source.channels, height=height, width=width, fitted=True)
    else:
        sizes: Counter[tuple[int, int]] = Counter()
        first: dict[tuple[int, int], str] = {}
        found: list[Entry] = []
        for info in infos:
            try:
                size = size_of(_content(archive, info))
            except PictureRefused as refused:
                found.append(_refused(info, refused, at))
                if len(found) == MAX_ENTRIES:
                    break
                continue
            sizes[size] += 1
            first.setdefault(size, info.filename)
        if found:
            refuse(found)
        [((height, width), _)] = sizes.most_common(1)
        if len(sizes) > 1:
            shown = "; ".join(f"{h} × {w} ({shorten(first[h, w])})" for (h, w), _ in sizes.most_common(4))
            detail = f"The pictures have {len(sizes)} different sizes: {shown}."
            hint = f'Write "size": [{height}, {width}] in the source, and each is scaled and cut to that.'
            refuse([Entry(f"{at}/size", "shape-mismatch", detail, hint=hint)])
        row = ImageRow(channels=source.channels, height=height, width=width)
    if len(infos) * row.channels * row.height * row.width > MAX_BYTES:
        detail = f"{len(infos)} pictures of the shape {list(row.shape)} have more than {MAX_BYTES} numbers."
        refuse([Entry(f"{at}/size", "too-large", detail, hint="Take a smaller `size`.")])
    return row


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A member's bytes, never more than it claims."""
    with archive.open(info) as file:
        return file.read(info.file_size)


def _refused(info: zipfile.ZipInfo, refused: PictureRefused, at: str) -> Entry:
    return Entry(f"{at}/upload", refused.code, f"{shorten(info.filename)}: {refused.detail}")
