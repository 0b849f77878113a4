"""The OHIF viewer in a headless Chromium: fetched by hash, served beside a DICOMweb root, driven.

``python -m tests.interop.viewer`` fetches what is needed, with the machine's own ``npm``.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CACHE = Path(__file__).parents[3] / ".cache" / "viewer"
DRIVER = Path(__file__).parent / "drive.mjs"
CHROMIUM = "/usr/bin/chromium"
SECONDS = 240


@dataclass(frozen=True)
class NpmPackage:
    """A package of the npm registry, pinned."""

    name: str
    version: str
    sha256: str

    @property
    def folder(self) -> Path:
        """Where its files lie once they were fetched."""
        return CACHE / f"{self.name.replace('/', '-').lstrip('@')}-{self.version}" / "package"


OHIF = NpmPackage(
    "@ohif/app", "3.13.2", "b189d3963bfc58e9394a9db8c7be75d07beb029ec211dbb126d47b62969dd3f1"
)
PLAYWRIGHT = NpmPackage(
    "playwright-core",
    "1.64.1",
    "3af03703c967c95037454f2283f709d53ce804a4776d4219d319f5bbcc2a0185",
)


def fetch(package: NpmPackage) -> None:
    """Fetch a package into the cache, unless it is there.

    Raises:
        RuntimeError: npm cannot be asked, or gave other bytes.
    """
    if package.folder.is_dir():
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        done = subprocess.run(
            ["npm", "pack", "--silent", f"{package.name}@{package.version}"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"npm did not give {package.name}: {done.stderr.strip()}")
        (archive,) = Path(folder).glob("*.tgz")
        if hashlib.sha256(archive.read_bytes()).hexdigest() != package.sha256:
            raise RuntimeError(f"{package.name} {package.version} is not the one that is pinned")
        unpacked = Path(folder) / "unpacked"
        with tarfile.open(archive) as packed:
            packed.extractall(unpacked, filter="data")
        unpacked.rename(package.folder.parent)


def drive(address: str, task: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Open a study in the viewer and do a task there; see ``drive.mjs`` for what it may say.

    Args:
        address: Where the viewer is served.
        task: What to do.
        folder: Where its pictures go.

    Returns:
        What the driver saw.
    """
    for package in (OHIF, PLAYWRIGHT):
        assert package.folder.is_dir(), "the viewer is missing: python -m tests.interop.viewer"
    folder.mkdir(parents=True, exist_ok=True)
    told = folder / "task.json"
    told.write_text(
        json.dumps(
            {
                **task,
                "address": address,
                "folder": str(folder),
                "playwright": str(PLAYWRIGHT.folder),
                "chromium": CHROMIUM,
            }
        )
    )
    done = subprocess.run(
        ["node", str(DRIVER), str(told)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    seen: dict[str, Any] = json.loads((folder / "seen.json").read_text())
    return seen
