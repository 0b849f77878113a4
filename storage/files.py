"""Files and folders made durable, and the system's refusals in the node's own errors."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from config.errors import OutOfSpaceError, StorageError

_LIBC = ctypes.CDLL(None, use_errno=True)
_OUT_OF_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Say an operating system's refusal in the node's own errors."""
    try:
        yield
    except OSError as error:
        if error.errno in _OUT_OF_SPACE:
            raise OutOfSpaceError(f"no room left on the disk while {doing}") from error
        why = {
            errno.EROFS: "the data folder is read-only",
            errno.EACCES: "the data folder may not be written",
            errno.EPERM: "the data folder may not be written",
            errno.ENOENT: "the data folder is missing",
            errno.ENOTDIR: "something else lies where the data folder was",
        }.get(error.errno or 0, error.strerror or "the disk failed")
        raise StorageError(f"{why} ({doing})") from error


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Write every byte, in as many calls as the system takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def open_direct(name: str, flags: int, folder_fd: int) -> int:
    """Make a file, or open it, past the page cache where the file system can do that.

    Args:
        name: Of the file in its folder.
        flags: Beside reading, writing and making it.
        folder_fd: The folder.

    Raises:
        OSError: The system refused.
    """
    flags |= os.O_CREAT | os.O_RDWR | os.O_CLOEXEC
    try:
        return os.open(name, flags | os.O_DIRECT, 0o640, dir_fd=folder_fd)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.open(name, flags, 0o640, dir_fd=folder_fd)


def sync_file_system(fd: int) -> None:
    """Make everything durable on the file system that a file lies on (syncfs(2)).

    Raises:
        OSError: Something could not be written.
    """
    if _LIBC.syncfs(fd):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def expect(paths: Iterable[Path]) -> None:
    """Have the disk begin to read files that are wanted soon, where the system can do that.

    One that is gone is somebody else's to tell.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    for path in paths:
        with suppress(OSError), path.open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def forget_pages(fd: int) -> None:
    """Have the next read of a file come from the disk, where the system can do that."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
