"""From a source and answers to a package that passes its golden case."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ai.archive import unpack
from ai.engine import Engine
from ai.golden import verify
from ai.importing.draft import Answers, completed, read_options, settled, told
from ai.importing.kinds import KINDS
from ai.importing.onnx_file import read_graph
from ai.importing.trial import write_trial
from ai.package import MANIFEST, Package, read_package
from ai.registry import Registry
from ai.seal import renew, sealed
from ai.session import SessionCache
from config.errors import ModelError, UsageError

_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz")


@dataclass(frozen=True)
class Imported:
    """A package that was made.

    Attributes:
        package: As it lies in its folder.
        notes: What was compared, chosen or differs, one sentence each.
    """

    package: Package
    notes: tuple[str, ...]


def import_model(
    kind: str,
    source: Path,
    into: Path,
    answers: Answers,
    *,
    draft: Path | None = None,
    image: Path | None = None,
    seed: int = 1,
) -> Imported:
    """Makes a package of what another program saved.

    Args:
        kind: One of `KINDS`.
        source: A file, a folder, or an archive of a folder.
        into: The folder of packages, in which ``NAME/VERSION`` is made.
        answers: What the source does not tell, or shall be otherwise.
        draft: Where to write answers to be completed, or None.
        image: An image for the golden case; a random one where it is None.
        seed: Of the random image.

    Raises:
        UsageError: The source or kind is not there, the package is, or a library is missing.
        ManifestError: With each open question and each fault of an answer.
        ModelFileError: The source cannot be used.
        InferenceError: The graph gives no answer that the manifest allows.
    """
    if kind not in KINDS:
        raise UsageError(f"{kind!r} is no kind of source; there are {', '.join(KINDS)}")
    if not source.exists():
        raise UsageError(f"there is no {source}")
    options = read_options(KINDS[kind].options, answers)
    with _unpacked(source) as place:
        first = KINDS[kind].read(place, options, answers.tree)
        whole = completed(first, answers, options)
        if draft is not None:
            draft.write_text(told(whole, source.name), "utf-8")
        text, manifest = settled(whole, answers, source.name)
        target = into / manifest.name / manifest.version
        if target.exists():
            raise UsageError(f"there is a {manifest.reference} in {into} already")
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".import-", dir=into) as work:
            folder = Path(work) / manifest.name / manifest.version
            folder.mkdir(parents=True)
            compared = whole.write(folder / manifest.graph, manifest)
            read_graph(folder / manifest.graph)
            expected = _prove(folder, text, image, seed)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(folder, target)
    notes = (*whole.notes, *([compared] if compared else []), expected)
    return Imported(read_package(target), notes)


def _prove(folder: Path, text: str, image: Path | None, seed: int) -> str:
    """Seals the folder, gives it a golden case, and runs that as `models verify` does."""
    (folder / MANIFEST).write_text(sealed(text, folder), "utf-8")
    package = read_package(folder)
    expected = write_trial(package, Engine(Registry([]), SessionCache(("cpu",), 1)), image, seed)
    package = renew(folder, folder)
    report = verify(package, Engine(Registry([]), SessionCache(("cpu",), 1)))
    if not report.passed:
        problems = "; ".join(text for case in report.cases for text in case.problems)
        raise ModelError(f"{package.manifest.reference} does not answer twice alike: {problems}")
    return expected


@contextmanager
def _unpacked(source: Path) -> Iterator[Path]:
    """The source, or the folder that an archive of it holds."""
    if not source.is_file() or not source.name.lower().endswith(_ARCHIVES):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="medai-import-") as work:
        folder = Path(work) / source.name.partition(".")[0]
        folder.mkdir()
        unpack(source, folder)
        yield folder
