"""Copies a folder, a zip or a tar archive that somebody else packed, and nothing beside it."""

from __future__ import annotations

import gzip
import os
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from config.errors import ModelFileError

MAX_FILES = 4096
MAX_DEPTH = 16
MAX_BYTES = 16 << 30
MAX_RATIO = 200
"""Bytes that one byte of an archive may become; weights hardly shrink, bombs shrink a thousandfold.
"""
ALWAYS_ALLOWED = 64 << 20
"""Bytes that any archive may become, whatever the ratio."""
_CHUNK = 1 << 20
_LONGEST_READ = 16 << 20
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class _Member:
    """One file of a source, with the name it says it has."""

    name: str
    open: Callable[[], IO[bytes]]


def unpack(source: Path, into: Path) -> None:
    """Copies every file of a source into an empty folder.

    What it is, is told by its content, never by its name. Links, devices, names that lead
    elsewhere, names that are there twice, encrypted members and archives that grow beyond measure
    are refused; what was written until then lies in `into`, for the caller to remove.

    Args:
        source: A folder, a zip, or a tar, plain or through gzip.
        into: An empty folder.

    Raises:
        ModelFileError: The source is none of these, is damaged, or holds what is refused.
        OSError: The system refused to read or to write.
    """
    seen: set[str] = set()
    with _members(source) as members:
        left = _room(source)
        for count, member in enumerate(members, 1):
            if count > MAX_FILES:
                raise ModelFileError(f"{source.name} holds more than {MAX_FILES} files")
            path = _inside(member.name, source)
            key = unicodedata.normalize("NFC", str(path)).casefold()
            if key in seen:
                raise ModelFileError(f"{source.name} holds {member.name[:80]!r} twice")
            seen.add(key)
            left = _copy(member, into / path, left, source)


def _room(source: Path) -> int:
    if source.is_dir():
        return MAX_BYTES
    return min(MAX_BYTES, ALWAYS_ALLOWED + MAX_RATIO * source.stat().st_size)


def _copy(member: _Member, target: Path, left: int, source: Path) -> int:
    """Writes one file; gives how many bytes the next ones may have."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with member.open() as reading, target.open("xb") as writing:
            while chunk := reading.read(_CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise ModelFileError(f"{source.name} grows beyond measure when it is unpacked")
                writing.write(chunk)
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        raise ModelFileError(f"{source.name} holds {member.name[:80]!r} twice") from error
    return left


def _inside(name: str, source: Path) -> PurePosixPath:
    """The path that a member's name is below the folder it is copied to."""
    parts = name.removeprefix("./").split("/")  # as `tar .` writes them
    harmless = all(
        part not in ("", ".", "..")
        and len(part.encode("utf-8", "surrogateescape")) <= 255
        and part.isprintable()
        and not set(part) & set("\\:")
        for part in parts
    )
    if not harmless or len(parts) > MAX_DEPTH:
        raise ModelFileError(
            f"{source.name} holds a file whose name leads elsewhere: {name[:80]!r}"
        )
    return PurePosixPath(*parts)


@contextmanager
def _members(source: Path) -> Iterator[Iterator[_Member]]:
    if source.is_symlink() or not (source.is_dir() or source.is_file()):
        raise ModelFileError(f"{source.name} is neither a folder nor a file")
    kinds: tuple[tuple[Callable[[Path], bool], Callable[[Path], Any]], ...] = (
        (Path.is_dir, _of_folder),
        (zipfile.is_zipfile, _of_zip),
        (_is_tar, _of_tar),
    )
    opener = next((opener for is_such, opener in kinds if is_such(source)), None)
    if opener is None:
        raise ModelFileError(f"{source.name} is neither a folder nor a zip or tar archive")
    try:
        with opener(source) as members:
            yield members
    except (
        *(zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile),
        # Beside their own errors both readers raise these for headers that contradict themselves.
        *(ValueError, NotImplementedError, RuntimeError, OverflowError, LookupError, struct.error),
    ) as error:
        raise ModelFileError(f"{source.name} is a damaged archive: {error}") from error


@contextmanager
def _of_folder(source: Path) -> Iterator[Iterator[_Member]]:
    def walk(folder: Path) -> Iterator[_Member]:
        for entry in sorted(folder.iterdir()):
            name = entry.relative_to(source).as_posix()
            mode = entry.lstat().st_mode
            if stat.S_ISDIR(mode):
                yield from walk(entry)
            elif stat.S_ISREG(mode):
                yield _Member(name, lambda path=entry: _plain_file(path))  # type: ignore[misc]
            else:
                raise _no_file(source, name)

    yield walk(source)


def _plain_file(path: Path) -> IO[bytes]:
    # What was a file a moment ago may be a link now.
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")


@contextmanager
def _of_zip(source: Path) -> Iterator[Iterator[_Member]]:
    with zipfile.ZipFile(source) as archive:

        def walk() -> Iterator[_Member]:
            for info in archive.infolist():
                mode = info.external_attr >> 16
                # The name as it was packed: the module ends it at a NUL and turns backslashes.
                name = info.orig_filename
                if name.endswith("/") and not stat.S_ISLNK(mode):
                    continue
                if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                    raise _no_file(source, name)
                if info.flag_bits & 1:
                    raise ModelFileError(f"{source.name} is encrypted")
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise ModelFileError(f"{source.name} is neither stored nor deflated")
                yield _Member(name, lambda info=info: archive.open(info))  # type: ignore[misc]

        yield walk()


def _is_tar(source: Path) -> bool:
    with _tar_bytes(source) as reading:
        try:
            with tarfile.open(fileobj=reading, mode="r:"):
                return True
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ModelFileError):
            return False


@contextmanager
def _of_tar(source: Path) -> Iterator[Iterator[_Member]]:
    with (
        _tar_bytes(source) as reading,
        tarfile.open(fileobj=reading, mode="r:", errorlevel=1) as archive,
    ):

        def opened(info: tarfile.TarInfo) -> IO[bytes]:
            found = archive.extractfile(info)
            if found is None:
                raise _no_file(source, info.name)
            return found

        def walk() -> Iterator[_Member]:
            for count, info in enumerate(archive):
                if count > 2 * MAX_FILES:  # folders count too: each is a header to remember
                    raise ModelFileError(f"{source.name} holds more than {MAX_FILES} files")
                if info.isdir():
                    continue
                if not info.isreg() or info.issparse():
                    raise _no_file(source, info.name)
                yield _Member(info.name, lambda info=info: opened(info))  # type: ignore[misc]
            reading.drain()

        yield walk()


@contextmanager
def _tar_bytes(source: Path) -> Iterator[Any]:
    with source.open("rb") as file:
        packed = file.read(2) == _GZIP
        file.seek(0)
        if not packed:
            yield _Guarded(file, source)
            return
        with gzip.open(file) as inflated:
            yield _Guarded(inflated, source)


class _Guarded:
    """A file for `tarfile`, which reads in one piece, and skips, what a header asks for."""

    def __init__(self, file: Any, source: Path) -> None:
        self._file = file
        self._source = source
        self._end = _room(source)

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LONGEST_READ:
            raise ModelFileError(f"{self._source.name} holds a header that is too long")
        return bytes(self._file.read(size))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_SET or offset > self._end:
            raise ModelFileError(f"{self._source.name} grows beyond measure when it is unpacked")
        return int(self._file.seek(offset))

    def drain(self) -> None:
        """Reads what is left: the checksum of gzip stands at its end."""
        while self._file.read(_CHUNK):
            if self._file.tell() > self._end:
                raise ModelFileError(f"{self._source.name} grows beyond measure when unpacked")

    def tell(self) -> int:
        return int(self._file.tell())


def _no_file(source: Path, name: str) -> ModelFileError:
    return ModelFileError(f"{source.name} holds {name[:80]!r}, which is a link or no plain file")
