"""Deliveries: what became of each, and how a person sends one again."""

from __future__ import annotations

from typing import Annotated

import typer

from config.errors import UsageError
from dicomnode.cli.common import (
    AsJson,
    ConfigFile,
    MostRows,
    open_data,
    operator,
    say,
    say_breakers,
    show_json,
    show_rows,
)

app = typer.Typer(help="Deliveries: list, retry.", no_args_is_help=False)

_COLUMNS = (
    "id",
    "job",
    "kind",
    "destination",
    "state",
    "attempt",
    "created_at",
    "finished_at",
    "fell_back",
    "reason",
)


@app.callback(invoke_without_command=True)
def deliveries(
    context: typer.Context,
    config: ConfigFile = None,
    limit: MostRows = 20,
    as_json: AsJson = False,
) -> None:
    """List the newest deliveries."""
    from storage import overview  # noqa: PLC0415

    if context.invoked_subcommand is not None:
        return
    open_data(config)
    rows = overview.deliveries(limit)
    if as_json:
        show_json(rows)
    else:
        show_rows(rows, _COLUMNS, "There is no delivery.")
        say_breakers("Destination", overview.destinations(), closed=True)


@app.command("retry")
def retry_delivery(
    number: Annotated[int, typer.Argument(help="The delivery's number.")],
    config: ConfigFile = None,
) -> None:
    """Send a refused or given up delivery again."""
    from storage import outbox  # noqa: PLC0415
    from storage.nudge import nudge  # noqa: PLC0415
    from storage.records import Delivery  # noqa: PLC0415

    _, ledger = open_data(config)
    row = Delivery.get_or_none(Delivery.id == number)
    if row is None:
        raise UsageError(f"there is no delivery {number}")
    if row.state not in ("refused", "dead"):
        raise UsageError(
            f"delivery {number} is {row.state}; only refused and dead ones are retried"
        )
    outbox.retry(ledger, row, operator())
    nudge(ledger.data_dir, "worker")
    say(f"Delivery {number} waits to go out again.")
