"""``medai-node audit``: verify, export."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from dicomnode.cli.common import AsJson, ConfigFile, open_data, say, show_json

app = typer.Typer(help="The audit chain.", no_args_is_help=True)


@app.command()
def verify(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Check every link of the chain; says intact, or the first break and its kind."""
    from storage import audit_check  # noqa: PLC0415

    _, ledger = open_data(config)
    verdict = audit_check.verify(ledger.data_dir)
    broken = verdict.first_break
    if as_json:
        show_json(
            {
                "intact": verdict.intact,
                "events": verdict.events,
                "break": None
                if broken is None
                else {"seq": broken.seq, "kind": broken.kind, "text": broken.text},
            }
        )
    elif broken is None:
        say(f"The audit chain is intact: {verdict.events} events.")
    else:
        say(
            f"The audit chain is broken at event {broken.seq} ({broken.kind}): {broken.text}; "
            f"{verdict.events} events before it are intact."
        )
    if broken is not None:
        raise typer.Exit(1)


@app.command()
def export(
    config: ConfigFile = None,
    after: Annotated[int, typer.Option(help="Only events after this number.")] = 0,
) -> None:
    """Write the events as JSON lines, oldest first."""
    from storage import audit  # noqa: PLC0415

    open_data(config)
    for event in audit.events(after):
        say(json.dumps(event, ensure_ascii=False))
