"""``medai-node models``: list, show, verify; its other commands stand beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dicomnode.cli import life
from dicomnode.cli.common import (
    AsJson,
    ConfigFile,
    complain,
    read_settings,
    say,
    show_json,
    show_rows,
    shown,
)
from dicomnode.cli.comparing import compare
from dicomnode.cli.importing import import_model
from dicomnode.cli.life import passed_by
from dicomnode.cli.reference import make_reference

if TYPE_CHECKING:
    from ai.registry import Registry
    from dicomnode.work.life import Proof

app = typer.Typer(help="The model registry.", no_args_is_help=True)
app.command("import")(import_model)
app.command("reference")(make_reference)
app.command("add")(life.add)
app.command("sign")(life.sign)
app.command("promote")(life.promote)
app.command("rollback")(life.rollback)
app.command("retire")(life.retire)
app.command("compare")(compare)
_COLUMNS = (
    *("model", "status", "serves", "routes", "provider", "p50_seconds"),
    *("modality", "results", "thresholds", "clinical_domain", "regulatory_ids"),
)


@app.command("list")
def list_models(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """List the models; those that are faulty are told on standard error."""
    rows, registry = _inventory(config)
    for reference, error in registry.faults.items():
        complain(f"{reference}: {error}")
    if as_json:
        show_json(rows)
    else:
        show_rows([_readable(row) for row in rows], _COLUMNS, "There is no model.")
    if registry.faults:
        raise typer.Exit(1)


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="name or name@version.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show all that is known of a version; of a name, of the version that serves."""
    rows, registry = _inventory(config)
    package = registry.any(model)
    (row,) = [row for row in rows if row["model"] == package.manifest.reference]
    if as_json:
        show_json(row)
        return
    for key, value in _readable(row).items():
        say(f"{key.replace('_', ' ')}: {shown(key, value)}")


def _inventory(config: Path | None) -> tuple[list[dict[str, Any]], Registry]:
    from dicomnode.work.inventory import inventory  # noqa: PLC0415
    from dicomnode.work.models import make_registry  # noqa: PLC0415
    from storage.db import FILE_NAME, open_ledger  # noqa: PLC0415

    settings = read_settings(config)
    figured = (settings.node.data_dir / FILE_NAME).exists()
    if figured:
        open_ledger(settings.node.data_dir)
    registry = make_registry(settings)
    return inventory(settings, registry, figured=figured), registry


def _readable(row: Mapping[str, Any]) -> dict[str, Any]:
    """The same row with words in place of lists, tables and numbers."""
    return {key: _in_words(value) for key, value in row.items()}


def _in_words(value: Any) -> Any:
    if isinstance(value, list):
        return ", ".join(value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {_in_words(each)}" for key, each in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else value


@app.command()
def verify(
    model: Annotated[str | None, typer.Argument(help="name or name@version; default: all.")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Prove models here: files, graph, golden cases, their results, signature if demanded."""
    from dicomnode.work.life import prove  # noqa: PLC0415
    from dicomnode.work.models import make_engine, make_registry  # noqa: PLC0415

    settings = read_settings(config)
    registry = make_registry(settings)
    engine = make_engine(settings, registry)
    packages = [registry.any(model)] if model else list(registry.packages())
    proofs = [prove(package, settings, engine) for package in packages]
    if as_json:
        show_json([_proof_row(proof) for proof in proofs])
    else:
        for proof in proofs:
            _tell(proof)
    for reference, error in registry.faults.items():
        complain(f"{reference}: {error}")
    if registry.faults or not all(proof.holds for proof in proofs):
        raise typer.Exit(1)


def _proof_row(proof: Proof) -> dict[str, Any]:
    cases = proof.golden.cases if proof.golden else ()
    return {
        "model": proof.package.manifest.reference,
        "digest": proof.package.digest,
        "provider": proof.golden.provider if proof.golden else None,
        "signed_by": proof.signed_by,
        "cases": {case.name: list(case.problems) for case in cases},
        "results": {
            each.case: {
                "kinds": list(each.kinds),
                "problems": list(each.problems),
                "not_shown": each.not_shown,
            }
            for each in proof.rehearsals
        },
        "problems": list(proof.problems),
    }


def _tell(proof: Proof) -> None:
    reference = proof.package.manifest.reference
    made = {each.case: each.kinds for each in proof.rehearsals}
    for case in proof.golden.cases if proof.golden else ():
        if case.passed:
            say(f"{reference} {case.name}: as expected{passed_by(made[case.name])}")
    for problem in (*proof.problems, *proof.not_shown):
        complain(f"{reference}: {problem}")
    if proof.signed_by:
        say(f"{reference} is signed by the key {proof.signed_by}")
