"""The commands in one visible list, and what every one of them does with an error."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from config.errors import MedAIError, SettingsError, UsageError
from dicomnode.cli import (
    audit,
    deliveries,
    demo,
    files,
    jobs,
    models,
    quarantine,
    run,
    settings,
    watch,
    work,
)

DONE, ANSWER_IS_NO, WRONG_USE = 0, 1, 2


class _Debug:
    """Whether ``--debug`` was given; read once, when a command has failed."""

    wanted = False


app = typer.Typer(
    name="medai-node",
    help="A DICOM network node with embedded AI.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def everywhere(
    debug: Annotated[bool, typer.Option("--debug", help="Show the trace of an error.")] = False,
) -> None:
    """A DICOM network node with embedded AI."""
    _Debug.wanted = debug


app.command("run")(run.run)
app.command("demo")(demo.demo)
app.add_typer(settings.app, name="config")
app.command("echo")(files.echo)
app.command("send")(files.send)
app.command("explain")(files.explain)
app.command("infer")(files.infer)
app.command("validate")(files.validate)
app.command("status")(work.status)
app.command("studies")(work.studies)
app.add_typer(jobs.app, name="jobs")
app.add_typer(deliveries.app, name="deliveries")
app.command("pause")(work.pause)
app.command("resume")(work.resume)
app.command("complete")(work.complete)
models.app.command("figures")(watch.figures)
app.add_typer(models.app, name="models")
app.command("feedback")(watch.feedback)
app.command("alerts")(watch.alerts)
app.add_typer(audit.app, name="audit")
app.add_typer(quarantine.app, name="quarantine")


def main() -> None:
    """Run the command line; ends the process with 0, 1 or 2."""
    try:
        app(prog_name="medai-node")
    except MedAIError as error:
        if _Debug.wanted:
            raise
        print(error, file=sys.stderr)  # noqa: T201 - the command line's own voice
        sys.exit(WRONG_USE if isinstance(error, SettingsError | UsageError) else ANSWER_IS_NO)
    except OSError as error:
        if _Debug.wanted:
            raise
        name = f"{error.filename}: " if error.filename else ""
        print(f"{name}{error.strerror or 'the system refused'}", file=sys.stderr)  # noqa: T201
        sys.exit(ANSWER_IS_NO)
    except KeyboardInterrupt:
        sys.exit(130)
