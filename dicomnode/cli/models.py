"""``medai-node models``: list, verify."""

from __future__ import annotations

from typing import Annotated

import typer

from dicomnode.cli.common import (
    AsJson,
    ConfigFile,
    complain,
    read_settings,
    say,
    show_json,
    show_rows,
)
from dicomnode.cli.importing import import_model
from dicomnode.cli.reference import make_reference

app = typer.Typer(help="The model registry.", no_args_is_help=True)
app.command("import")(import_model)
app.command("reference")(make_reference)
_COLUMNS = ("model", "status", "basis", "modality", "results", "description")


@app.command("list")
def list_models(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """List the models; those that are faulty are told on standard error."""
    from dicomnode.work.models import make_registry  # noqa: PLC0415

    registry = make_registry(read_settings(config))
    rows = [
        {
            "model": package.manifest.reference,
            "status": package.manifest.status,
            "basis": package.manifest.basis,
            "modality": " ".join(package.manifest.input.modality),
            "results": " ".join(package.manifest.results),
            "digest": package.digest,
            "vendor": package.manifest.vendor,
            "intended_use": package.manifest.intended_use,
            "description": package.manifest.description,
        }
        for package in registry.packages()
    ]
    for reference, error in registry.faults.items():
        complain(f"{reference}: {error}")
    if as_json:
        show_json(rows)
    else:
        show_rows(rows, _COLUMNS, "There is no model.")
    if registry.faults:
        raise typer.Exit(1)


@app.command()
def verify(
    model: Annotated[str | None, typer.Argument(help="name or name@version; default: all.")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Check every file's SHA-256 and run the golden cases."""
    from ai.golden import verify as run_golden_cases  # noqa: PLC0415
    from dicomnode.work.models import make_engine, make_registry  # noqa: PLC0415

    settings = read_settings(config)
    registry = make_registry(settings)
    engine = make_engine(settings, registry)
    packages = [registry.find(model)] if model else list(registry.packages())
    reports = [run_golden_cases(package, engine) for package in packages]
    if as_json:
        show_json(
            [
                {
                    "model": report.reference,
                    "digest": report.digest,
                    "provider": report.provider,
                    "cases": {case.name: list(case.problems) for case in report.cases},
                }
                for report in reports
            ]
        )
    else:
        for report in reports:
            for case in report.cases:
                verdict = "as expected" if not case.problems else "; ".join(case.problems)
                say(f"{report.reference} {case.name}: {verdict}")
            if not report.cases:
                complain(f"{report.reference} has no golden case")
    for reference, error in registry.faults.items():
        complain(f"{reference}: {error}")
    if registry.faults or not all(report.passed for report in reports):
        raise typer.Exit(1)
