"""``medai-node config``: check, show, schema."""

from __future__ import annotations

import typer

from dicomnode.cli.common import ALL_CHECKS, AsJson, ConfigFile, read_settings, say, show_json

app = typer.Typer(help="Check and show the settings.", no_args_is_help=True)


@app.command()
def check(config: ConfigFile = None) -> None:
    """Check the settings; every fault at once, each with its line."""
    settings = read_settings(config, ALL_CHECKS)
    destinations = ", ".join(entry.name for entry in settings.destinations) or "none"
    say(
        f"The settings are sound: {len(settings.routes)} routes, "
        f"{len(settings.peers) or 'no'} peers, destinations: {destinations}."
    )


@app.command()
def show(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show the effective settings, defaults and overrides included."""
    from config.describe import effective  # noqa: PLC0415

    content = effective(read_settings(config))
    if as_json:
        show_json(content)
        return
    for section, table in content.items():
        if isinstance(table, list):
            for entry in table:
                say(f"\n[[{section}]]")
                _lines(entry)
        else:
            say(f"\n[{section}]")
            _lines(table)


def _lines(table: dict[str, object]) -> None:
    import json  # noqa: PLC0415

    for key, value in table.items():
        say(f"{key} = {json.dumps(value, ensure_ascii=False)}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of the settings, for editors."""
    from config.describe import settings_schema  # noqa: PLC0415

    show_json(settings_schema())
