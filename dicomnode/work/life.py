"""The life of a model on this site: added, proved, promoted, rolled back, retired, all audited.

One command at a time changes a version: what it found is what it moves, or it moves nothing.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from ai.archive import unpack
from ai.manifest import parse_manifest
from ai.package import MANIFEST, Package, read_package
from ai.registry import Registry, bundled_models_path
from config.errors import ModelError, ModelFileError, StaleStateError, UsageError
from config.schema import Settings
from dicomnode.work.models import demand_signature, is_bundled, signed_by
from storage import versions
from storage.db import Ledger
from storage.files import sync_folder
from storage.versions import Step

if TYPE_CHECKING:
    from ai.engine import Engine
    from ai.golden import GoldenReport
    from dicomnode.work.rehearsal import Rehearsal

INCOMING = ".incoming"
LOCK = ".lock"
Promoted = Literal["validation", "production"]
NEXT: dict[str, Promoted] = {
    "development": "validation",
    "validation": "production",
    "retired": "validation",
}
"""Where `promote` takes a version that is not told where to go."""


@dataclass(frozen=True)
class Proof:
    """What came of proving a package on this machine.

    Attributes:
        problems: One sentence each; none when it holds.
        golden: What came of its golden cases; None where none could be run.
        rehearsals: What became of the results of each case that was answered.
        signed_by: Name of the trusted key that signed it, or None.
    """

    package: Package
    problems: tuple[str, ...]
    golden: GoldenReport | None
    rehearsals: tuple[Rehearsal, ...]
    signed_by: str | None

    @property
    def holds(self) -> bool:
        """Nothing is wrong with the package."""
        return not self.problems

    @property
    def not_shown(self) -> tuple[str, ...]:
        """Of which cases no results could be made, and why, one sentence each."""
        return tuple(
            f"golden case {each.case} does not show what its results look like: {each.not_shown}"
            for each in self.rehearsals
            if each.not_shown is not None
        )


def add(source: Path, settings: Settings, ledger: Ledger, actor: str) -> Package:
    """Copy a package into the site's folder, proved file by file, in development.

    It is there whole or not at all. A running node sees it when it looks the next time.

    Args:
        source: A folder, a zip or a tar that holds one package.
        settings: The node's settings.
        ledger: The database.
        actor: Who asked.

    Raises:
        UsageError: The site has no folder for packages, or has one of that version already.
        ModelError: The source is hostile or damaged, or its package is faulty or not signed.
        OSError: The system refused to read or to write.
    """
    models = settings.models.path
    if models is None:
        raise UsageError("models.path names no folder for the site's own packages")
    try:
        with _alone(models) as incoming, TemporaryDirectory(dir=incoming) as temporary:
            package = _staged(source, Path(temporary))
            demand_signature(settings.models, package)
            target = models / package.manifest.name / package.manifest.version
            _refuse_known(package, target)
            detail = {"signed_by": _signer_if_any(settings, package)}
            # The row comes first: a version that was never said to be in development would stand
            # where its manifest says.
            reference = package.manifest.reference
            versions.add(ledger, reference, package.digest, actor=actor, detail=detail)
            target.parent.mkdir(exist_ok=True)
            package.folder.rename(target)
            sync_folder(target.parent)
            sync_folder(models)
    except ModelError as error:
        versions.refuse(ledger, "models", "model.refused", [str(error)], actor)
        raise
    return read_package(target)


@contextmanager
def _alone(models: Path) -> Iterator[Path]:
    """The folder of what is being added, empty, for one command at a time."""
    models.mkdir(parents=True, exist_ok=True)
    with (models / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        incoming = models / INCOMING
        if incoming.exists():
            shutil.rmtree(incoming)  # of a command that was killed
        incoming.mkdir()
        try:
            yield incoming
        finally:
            shutil.rmtree(incoming)


def _staged(source: Path, folder: Path) -> Package:
    """The package of a source, unpacked and proved, as ``NAME/VERSION`` below a folder."""
    packed = folder / "packed"
    packed.mkdir()
    unpack(source, packed)
    found = sorted(packed.rglob(MANIFEST))
    if len(found) != 1:
        raise ModelFileError(f"{source.name} holds {len(found)} files {MANIFEST}, not one")
    (path,) = found
    try:
        manifest = parse_manifest(path.read_text("utf-8"), MANIFEST)
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{MANIFEST} of {source.name} is not UTF-8") from error
    place = folder / "proved" / manifest.name / manifest.version
    place.parent.mkdir(parents=True)
    path.parent.rename(place)
    package = read_package(place)
    for each in place.rglob("*"):
        _sync(each)
    sync_folder(place)
    return package


def _refuse_known(package: Package, target: Path) -> None:
    reference = package.manifest.reference
    if (bundled_models_path() / package.manifest.name / package.manifest.version).exists():
        raise UsageError(f"{reference} comes with the node; give yours another name or version")
    if not target.exists():
        return
    try:
        same = read_package(target).digest == package.digest
    except ModelError:
        same = False
    if same:
        raise UsageError(f"{reference} is there already")
    raise UsageError(f"another package is there as {reference}; give yours another version")


def prove(package: Package, settings: Settings, engine: Engine) -> Proof:
    """Prove a package on this machine.

    Every file against its SHA-256, the manifest against the graph, the golden cases on the
    provider that runs here and with every variant, their results at the gate, and the signature
    where the site demands one.
    """
    from ai.golden import verify  # noqa: PLC0415 - loads the runtime
    from dicomnode.work.rehearsal import rehearse  # noqa: PLC0415

    problems: list[str] = []
    rehearsals: list[Rehearsal] = []
    golden = None
    try:
        package = read_package(package.folder)
        demand_signature(settings.models, package)
        engine.load(package)
        golden = verify(
            package,
            engine,
            settings.models.job_seconds or None,
            lambda case, answer: rehearsals.append(rehearse(package, case, answer, settings)),
        )
    except ModelError as error:
        problems.append(str(error))
    if golden is not None:
        told = [(case.name, problem) for case in golden.cases for problem in case.problems]
        told += [(each.case, problem) for each in rehearsals for problem in each.problems]
        problems += [f"golden case {name}: {problem}" for name, problem in told]
        if not golden.cases:
            problems.append(f"{package.manifest.reference} has no golden case")
    signer = _signer_if_any(settings, package)
    return Proof(package, tuple(problems), golden, tuple(rehearsals), signer)


def _signer_if_any(settings: Settings, package: Package) -> str | None:
    if is_bundled(package) or not settings.models.trusted_keys:
        return None
    try:
        return signed_by(settings.models, package)
    except ModelError:
        return None


def promote(
    reference: str,
    settings: Settings,
    ledger: Ledger,
    engine: Engine,
    *,
    to: Promoted | None,
    actor: str,
) -> tuple[Promoted, Proof]:
    """Prove a version on this machine and move it on, where the proof holds.

    Returns:
        Where it was to go, and the proof; where that does not hold the version stays.

    Raises:
        UsageError: It is there already, or would go back.
        ModelError: There is no such version, or it is faulty.
        StaleStateError: Another command moved it, or its files changed, meanwhile.
    """
    package, step = _step(reference, engine.registry)
    goes = to or NEXT.get(step.state)
    if goes is None or goes == step.state:
        raise UsageError(f"{reference} is in {step.state} already")
    if step.state == "production":
        raise UsageError(f"{reference} is in production; `models rollback` takes it back")
    proof = prove(package, settings, engine)
    if proof.package.digest != package.digest:
        raise StaleStateError(f"the files of {reference} changed while they were proved")
    if not proof.holds:
        versions.refuse(ledger, step.label, "model.refused", proof.problems, actor)
        return goes, proof
    golden = proof.golden
    said = {
        "signed_by": proof.signed_by,
        "provider": golden.provider if golden else None,
        "cases": len(golden.cases) if golden else 0,
        "results": sorted({kind for each in proof.rehearsals for kind in each.kinds}),
        "not_shown": list(proof.not_shown),
    }
    versions.promote(ledger, step, goes, actor=actor, proof=said)
    return goes, proof


def roll_back(name: str, ledger: Ledger, registry: Registry, actor: str) -> tuple[Package, Package]:
    """Let the version that served before serve again; gives the one that served, and that one.

    Raises:
        UsageError: No version of the model is in production, or none was before.
        StaleStateError: Another command moved one of the two meanwhile.
    """
    if "@" in name:
        raise UsageError("`models rollback` wants the name of a model, without a version")
    found = registry.in_production(name)
    if not found:
        registry.find(name)  # says what there is instead
    if len(found) < 2:
        raise UsageError(
            f"no other version of {name} is in production: promote one, "
            f"or take {found[0].manifest.reference} away with `models retire`"
        )
    before, serving = found[-2:]
    steps = [_step(entry.manifest.reference, registry)[1] for entry in (serving, before)]
    versions.roll_back(ledger, steps[0], steps[1], seen=registry.rank(name), actor=actor)
    return serving, before


def retire(reference: str, ledger: Ledger, registry: Registry, actor: str) -> list[int]:
    """Retire a version; gives the numbers of the jobs that waited for it and are cancelled.

    Raises:
        UsageError: It is retired already.
        ModelError: There is no such version.
        StaleStateError: Another command moved it meanwhile.
    """
    _, step = _step(reference, registry)
    if step.state == "retired":
        raise UsageError(f"{reference} is retired already")
    return versions.retire(ledger, step, actor=actor)


def _step(reference: str, registry: Registry) -> tuple[Package, Step]:
    if "@" not in reference:
        raise UsageError(f"say which version of {reference}, as {reference}@VERSION")
    package = registry.any(reference)
    return package, Step(reference, package.digest, registry.status(package))


def _sync(path: Path) -> None:
    if path.is_dir():
        sync_folder(path)
        return
    with path.open("rb") as file:
        os.fsync(file.fileno())
