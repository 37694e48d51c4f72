"""The folders of versions: measured, sealed with a manifest, moved into place whole and taken away whole.

A folder in its place with a manifest is whole; it never changes. Knows files and digests, but no database: which
folders are versions, and in what state, is said there.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from service.errors import DigestMismatch
from service.schemas.versions import Manifest, VersionDraft, VersionFile
from service.store import files

_MANIFEST: Final = "manifest.json"


class VersionFolders:
    """The folders `models/<name>/<number>` below `root`.

    Raises:
        StoreFull, StoreReadOnly, StoreError: (all that change something) the disk refused.
    """

    def __init__(self, root: Path) -> None:
        self._models = root / "models"
        self._trash = root / "trash"

    def path(self, model: str, number: int) -> Path:
        """Where the files of a version are, if it has any."""
        return files.child(self._models, model, str(number))

    def all(self) -> list[Path]:
        """Whatever lies where the folders of versions lie."""
        return [folder for model in files.entries(self._models) if model.is_dir() for folder in files.entries(model)]

    def greatest(self, model: str) -> int:
        """The greatest number that a folder has; 0 where there is none."""
        folder = files.child(self._models, model)
        return max((int(entry.name) for entry in files.entries(folder) if _is_number(entry.name)), default=0)

    def settle(self, staged: Path, *, model: str, number: int, draft: VersionDraft, created_at: str) -> Manifest:
        """Measure the staged files again, seal them with a manifest, and rename the folder into place.

        Raises:
            DigestMismatch: the staged files are not those that the draft tells of.
        """
        with files.translated():
            wrong = _mismatches(staged, draft.files)
            if wrong:
                raise DigestMismatch(f"The staged files are not the ones that were written: {', '.join(wrong)}.")
            for file in draft.files:
                files.fsync_file(files.child(staged, file.name))
            manifest = Manifest(
                model=model,
                version=number,
                created_at=created_at,
                size_bytes=sum(file.size_bytes for file in draft.files),
                **{name: getattr(draft, name) for name in VersionDraft.model_fields},
            )
            # Last: a folder with a manifest is whole.
            files.write_atomic(staged / _MANIFEST, manifest.model_dump_json(indent=1).encode())
            folder = self.path(model, number)
            files.make_folder(folder.parent, parents=True)
            files.rename_new(staged, folder)
            files.fsync_folder(folder.parent)
            files.make_read_only(folder)
        return manifest

    def settle_again(self, model: str, number: int) -> Manifest | None:
        """Finish what a crash cut short: the manifest of a folder that is whole, byte by byte; else None."""
        folder = self.path(model, number)
        with files.translated():
            manifest = self.manifest(folder)
            if manifest is None or _mismatches(folder, manifest.files):
                return None
            files.fsync_folder(folder.parent)
            files.make_read_only(folder)
        return manifest

    def manifest(self, folder: Path) -> Manifest | None:
        """The manifest in a folder, if it can be read and speaks of this very folder; else None."""
        if not _is_number(folder.name):
            return None
        try:
            with files.open_for_reading(folder / _MANIFEST) as opened:
                manifest = Manifest.model_validate_json(opened.read())
        except (OSError, ValidationError):
            return None
        return manifest if (manifest.model, str(manifest.version)) == (folder.parent.name, folder.name) else None

    def has_manifest(self, folder: Path) -> bool:
        """Whether there is a manifest, readable or not."""
        return (folder / _MANIFEST).exists()

    def differences(self, published: Manifest) -> list[str]:
        """Read every byte of a version again; the names of files that are missing, strange or not as published."""
        folder = self.path(published.model, published.version)
        with files.translated():
            wrong = _mismatches(folder, published.files)
        if self.manifest(folder) != published:
            wrong.append(_MANIFEST)
        return wrong

    def discard(self, model: str, number: int) -> None:
        """Take the folder of a version away, if there is one; who has a file open reads on."""
        with files.translated():
            files.discard(self.path(model, number), self._trash, f"{model}-{number}")

    def discard_stray(self, folder: Path) -> None:
        """Take something away that is no version."""
        with files.translated():
            files.discard(folder, self._trash, "stray")


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and not name.startswith("0") and len(name) <= 9


def wrong_files(folder: Path, expected: Sequence[VersionFile]) -> list[str]:
    """Names of files that are missing, or that are not what they should be, byte by byte.

    Raises:
        OSError: the machine is in need, which says nothing about the files.
    """
    return [
        file.name for file in expected if _measured(files.child(folder, file.name)) != (file.sha256, file.size_bytes)
    ]


def _mismatches(folder: Path, expected: Sequence[VersionFile]) -> list[str]:
    """Names of files that are wrong, and of those that nobody told of."""
    wrong = wrong_files(folder, expected)
    known = {_MANIFEST, *(file.name for file in expected)}
    wrong += [
        entry.name for entry in files.entries(folder) if entry.name not in known and not files.is_temporary(entry)
    ]
    return wrong


def _measured(path: Path) -> tuple[str, int] | None:
    """Digest and size of a file; None where nothing ordinary is there, or the disk does not give it back."""
    try:
        return files.sha256_file(path)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES):
            raise  # says something about us, not about the file
        return None
