"""What the commands share: settings, the open database, and how rows are shown."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from config.errors import ModelError, SettingsError, StorageError, UsageError
from config.load import Check, load_settings
from config.schema import RouteInputSettings, RouteSettings, Settings

if TYPE_CHECKING:
    from ai.registry import Registry
    from storage.db import Ledger

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Settings file; default: medai_node.toml here."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
MostRows = Annotated[int, typer.Option("--limit", min=1, help="Most rows shown, newest first.")]


def say(text: str = "") -> None:
    """One line on standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def complain(text: str) -> None:
    """One line on standard error."""
    sys.stderr.write(text + "\n")


def rule_faults(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """What is wrong with the rules of routes: key, what was found, what is allowed."""
    from dicomnode.series.conditions import compile_rule  # noqa: PLC0415

    for key, when in _rules(settings):
        try:
            compile_rule(when, key=key)
        except SettingsError as error:
            yield from ((fault.key, fault.found, fault.allowed) for fault in error.faults)


def _rules(settings: Settings) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, route in enumerate(settings.routes):
        tables: list[tuple[str, RouteSettings | RouteInputSettings]] = [(f"routes.{number}", route)]
        tables += [(f"routes.{number}.inputs.{n}", each) for n, each in enumerate(route.inputs)]
        for key, table in tables:
            yield f"{key}.when", table.when
            yield from ((f"{key}.prefer.{n}", each) for n, each in enumerate(table.prefer))


def model_faults(settings: Settings, *, usable: bool) -> Iterator[tuple[str, str, str]]:
    """Routes that name a model which is not there, or want text looked for where none reads it.

    Args:
        settings: The settings.
        usable: Also those that name one which is there and does not serve: it is faulty or retired,
            no version is in production, or a canary is in development. That is no reason not to
            receive.
    """
    from dicomnode.work.models import make_registry  # noqa: PLC0415

    registry = make_registry(settings, prove=usable)
    for number, route in enumerate(settings.routes):
        named = {"model": route.model, "shadow": route.shadow}
        if route.burned_in != "off":
            named["burned_in"] = settings.models.text_model
        for key, reference in named.items():
            if isinstance(reference, str):
                try:
                    registry.find(reference)
                except ModelError as error:
                    if not usable and registry.knows(reference):
                        continue
                    yield f"routes.{number}.{key}", repr(reference), str(error)
        wrong = _canary_fault(route, registry, usable=usable)
        if wrong is not None:
            yield f"routes.{number}.canary_model", repr(route.canary_model), wrong


def _canary_fault(route: RouteSettings, registry: Registry, *, usable: bool) -> str | None:
    from dicomnode.series.split import silent_canary  # noqa: PLC0415

    canary, name = route.canary_model, route.model.partition("@")[0]
    if canary is not None and canary.partition("@")[0] != name:
        return f"a canary is another version of the model of its route, {name}"
    known = canary is not None and registry.knows(canary)
    return None if known and not usable else silent_canary(route, registry)


def silent_canaries(settings: Settings) -> Iterator[str]:
    """Routes whose canary answers nobody, one sentence each: they go on without it."""
    from dicomnode.series.split import silent_canary  # noqa: PLC0415
    from dicomnode.work.models import make_registry  # noqa: PLC0415

    registry = make_registry(settings, prove=False)
    for route in settings.routes:
        why = silent_canary(route, registry)
        if why is not None:
            yield f"The route {route.name!r} goes on without its canary: {why}."


def certificate_faults(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Certificates and keys that cannot be used."""
    from dicomnode.net.tls import tls_faults  # noqa: PLC0415

    return tls_faults(settings)


def channel_faults(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Two of those who get alerts that bear one name."""
    return settings.alerts.channel_faults()


def token_faults(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Tokens that share a name, or would pass in the clear."""
    return settings.web.token_faults()


def secret_faults(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Secrets that cannot be read or used."""
    return settings.web.secret_faults()


CHECKS: Sequence[Check] = (rule_faults, channel_faults, token_faults)
_FILES: Sequence[Check] = (certificate_faults, secret_faults)
START_CHECKS: Sequence[Check] = (*CHECKS, partial(model_faults, usable=False), *_FILES)
ALL_CHECKS: Sequence[Check] = (*CHECKS, partial(model_faults, usable=True), *_FILES)


def read_settings(config: Path | None, checks: Sequence[Check] = CHECKS) -> Settings:
    """The settings in force, rules checked too.

    Raises:
        SettingsError: With every fault found.
        UsageError: The file is not there.
    """
    if config is not None and not config.is_file():
        raise UsageError(f"there is no settings file {config}")
    return load_settings(config, os.environ, checks)


def open_data(config: Path | None) -> tuple[Settings, Ledger]:
    """The settings, and the database of a node that was started at least once.

    Raises:
        StorageError: The database is missing or cannot be read.
        UsageError: No node ever ran on the data folder.
    """
    from storage.db import FILE_NAME, open_ledger  # noqa: PLC0415

    settings = read_settings(config)
    data_dir = settings.node.data_dir
    if not (data_dir / FILE_NAME).exists():
        if (data_dir / "objects").exists():
            raise StorageError(f"the database is missing from the data folder {data_dir}")
        moved = "" if data_dir.exists() else ", or it was moved away: there is none"
        raise UsageError(f"no node has run on the data folder {data_dir} yet{moved}")
    return settings, open_ledger(data_dir)


def show_json(content: Any) -> None:
    """JSON on standard output."""
    say(json.dumps(content, indent=2, ensure_ascii=False))


def show_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], empty: str) -> None:
    """A table for a reader."""
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    if not rows:
        say(empty)
        return
    table = Table(*[column.replace("_", " ") for column in columns], box=None, pad_edge=False)
    for row in rows:
        table.add_row(*[Text(shown(column, row[column])) for column in columns])
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def say_breakers(
    noun: str, breakers: Mapping[str, Mapping[str, Any]], *, closed: bool = False
) -> None:
    """One line for each thing that is left in peace since it failed again and again.

    Args:
        noun: What they are: "Model".
        breakers: The circuit breaker of each, by its name, as `storage.overview` gives them.
        closed: One too for what failed when it was last tried.
    """
    for name, breaker in breakers.items():
        if breaker["state"] != "closed" or (closed and breaker["failures"]):
            again = shown("retry_at", breaker["retry_at"])
            say(
                f"{noun} {name}: circuit breaker {breaker['state']} after {breaker['failures']} "
                f"failures, tried again {again}: {breaker['reason']}"
            )


def shown(column: str, value: Any) -> str:
    """A value as a reader sees it: local time, no control characters."""
    if value is None:
        return ""
    if column.endswith("_at") and isinstance(value, float):
        return datetime.fromtimestamp(value, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    text = str(value)
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def operator() -> str:
    """Who gives a command, for the audit chain."""
    return f"user:{os.environ.get('SUDO_USER') or os.environ.get('USER') or os.getuid()}"
