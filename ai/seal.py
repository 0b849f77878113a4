"""Writes the ``[files]`` table of a package: ``python -m ai.seal NAME/VERSION``."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

from ai.package import MANIFEST, list_files, read_package

_TABLE = re.compile(r"^\[files\].*?(?=^\[|\Z)", re.MULTILINE | re.DOTALL)


def sealed(text: str, folder: Path) -> str:
    """A manifest's text with its ``[files]`` table renewed from the files of `folder`."""
    lines = [
        f'"{name}" = "{hashlib.sha256((folder / name).read_bytes()).hexdigest()}"\n'
        for name in list_files(folder)
    ]
    return _TABLE.sub("", text).rstrip("\n") + "\n\n[files]\n" + "".join(lines)


def renew(folder: Path, source: Path) -> None:
    """Writes the manifest of `source` into `folder`, with ``[files]`` for what lies there.

    Raises:
        ManifestError: The manifest is wrong; it stands as it was written, with its files renewed.
    """
    text = (source / MANIFEST).read_text("utf-8")
    (folder / MANIFEST).write_text(sealed(text, folder), "utf-8")
    read_package(folder)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        renew(Path(argument).resolve(), Path(argument).resolve())
