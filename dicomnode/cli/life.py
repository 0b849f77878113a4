"""The life of a model: models add, sign, promote, rollback, retire."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dicomnode.cli.common import ConfigFile, complain, operator, read_settings, say

if TYPE_CHECKING:
    from config.schema import Settings
    from storage.db import Ledger

Version = Annotated[str, typer.Argument(help="name@version.")]


def _open(config: Path | None) -> tuple[Settings, Ledger]:
    """The settings and the database, made where no node has run yet."""
    from storage.db import open_ledger  # noqa: PLC0415

    settings = read_settings(config)
    return settings, open_ledger(settings.node.data_dir)


def add(
    source: Annotated[Path, typer.Argument(help="A folder, a zip or a tar with one package.")],
    config: ConfigFile = None,
) -> None:
    """Copy a package into the site's folder, every file proved; it begins in development."""
    from dicomnode.work import life  # noqa: PLC0415
    from storage.nudge import nudge  # noqa: PLC0415

    settings, ledger = _open(config)
    package = life.add(source, settings, ledger, operator())
    nudge(ledger.data_dir, "worker")
    reference = package.manifest.reference
    say(f"{reference} is added, in development: SHA-256 {package.digest}")
    say(f"Next: medai-node models promote {reference}")


def sign(
    folder: Annotated[Path, typer.Argument(help="The package as its author sealed it.")],
    key: Annotated[Path, typer.Option("--key", help="Ed25519 private key, PEM, no password.")],
) -> None:
    """Sign a package as its author, so that sites that trust the key can tell who made it."""
    from ai.package import SIGNATURE, read_package  # noqa: PLC0415
    from ai.signature import sign as sign_package  # noqa: PLC0415

    package = read_package(folder.resolve())
    name = sign_package(package, key)
    say(f"{package.manifest.reference} is signed by the key {name}: {folder / SIGNATURE}")


def promote(
    version: Version,
    to: Annotated[
        Literal["validation", "production"] | None,
        typer.Option("--to", help="Where to; default: the next one."),
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Prove a version on this machine and move it to validation, then to production."""
    from dicomnode.work import life  # noqa: PLC0415
    from dicomnode.work.models import make_engine, make_registry  # noqa: PLC0415
    from storage.nudge import nudge  # noqa: PLC0415

    settings, ledger = _open(config)
    engine = make_engine(settings, make_registry(settings))
    goes, proof = life.promote(version, settings, ledger, engine, to=to, actor=operator())
    if not proof.holds:
        for problem in proof.problems:
            complain(problem)
        complain(f"{version} stays where it is.")
        raise typer.Exit(1)
    nudge(ledger.data_dir, "worker")
    cases, provider = (len(proof.golden.cases), proof.golden.provider) if proof.golden else (0, "")
    plural = "" if cases == 1 else "s"
    passed = passed_by(sorted({kind for each in proof.rehearsals for kind in each.kinds}))
    say(f"{version} is in {goes}: {cases} golden case{plural} as expected on {provider}{passed}.")
    for sentence in proof.not_shown:
        complain(sentence)


def passed_by(kinds: Sequence[str]) -> str:
    """The end of a sentence on golden cases: which of their results passed the gate."""
    return f", and at the gate as {', '.join(kinds)}" if kinds else ""


def rollback(
    name: Annotated[str, typer.Argument(help="The model's name, without a version.")],
    config: ConfigFile = None,
) -> None:
    """Put the version back that was in production before; the present one leaves production."""
    from dicomnode.work import life  # noqa: PLC0415
    from dicomnode.work.models import make_registry  # noqa: PLC0415
    from storage.nudge import nudge  # noqa: PLC0415

    settings, ledger = _open(config)
    left, serves = life.roll_back(name, ledger, make_registry(settings), operator())
    nudge(ledger.data_dir, "worker")
    say(f"{serves.manifest.reference} serves again; {left.manifest.reference} is in development.")


def retire(version: Version, config: ConfigFile = None) -> None:
    """Retire a version: nothing runs it any more, and jobs that wait for it are cancelled."""
    from dicomnode.work import life  # noqa: PLC0415
    from dicomnode.work.inventory import idle_routes  # noqa: PLC0415
    from dicomnode.work.models import make_registry  # noqa: PLC0415
    from storage.nudge import nudge  # noqa: PLC0415

    settings, ledger = _open(config)
    registry = make_registry(settings)
    before = set(idle_routes(settings, registry))
    cancelled = life.retire(version, ledger, registry, operator())
    nudge(ledger.data_dir, "worker")
    say(f"{version} is retired.")
    if cancelled:
        numbers = ", ".join(map(str, cancelled))
        say(f"Jobs that waited for it are cancelled: {numbers}")
    registry.refresh()
    for name in idle_routes(settings, registry):
        if name not in before:
            complain(f"The route {name!r} has no version left that serves.")
