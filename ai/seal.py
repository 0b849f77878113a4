"""Writes the ``[files]`` table of packages: ``python -m ai.seal NAME/VERSION…``."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ai.package import MANIFEST, Package, list_files, read_package
from config.errors import ModelError

_TABLE = re.compile(r"^\[files\].*?(?=^\[|\Z)", re.MULTILINE | re.DOTALL)


def sealed(text: str, folder: Path) -> str:
    """A manifest's text with its ``[files]`` table renewed from the files of `folder`."""
    lines = [
        f'"{name}" = "{hashlib.sha256((folder / name).read_bytes()).hexdigest()}"\n'
        for name in list_files(folder)
    ]
    return _TABLE.sub("", text).rstrip("\n") + "\n\n[files]\n" + "".join(lines)


def renew(folder: Path, source: Path) -> Package:
    """Writes the manifest of `source` into `folder`, with ``[files]`` for what lies there.

    Raises:
        ModelError: The package is faulty; it stands as it was written, with its files renewed.
        OSError: A file cannot be read or written.
    """
    text = (source / MANIFEST).read_text("utf-8")
    (folder / MANIFEST).write_text(sealed(text, folder), "utf-8")
    return read_package(folder)


def main(arguments: Sequence[str]) -> int:
    """Seals each folder; 0 when all are sound, 1 when one is not, 2 without a folder."""
    if not arguments:
        print("usage: python -m ai.seal NAME/VERSION…", file=sys.stderr)  # noqa: T201
        return 2
    code = 0
    for argument in arguments:
        folder = Path(argument).resolve()
        try:
            package = renew(folder, folder)
        except (ModelError, OSError, UnicodeDecodeError) as error:
            print(error, file=sys.stderr)  # noqa: T201
            code = 1
        else:
            print(f"{package.manifest.reference} {package.digest}")  # noqa: T201
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
