"""``medai-node quarantine``: what could not be taken, and what becomes of it.

Two kinds lie in quarantine: bytes that were refused with an error, named by their digest, and
instances that were stored and then found wrong, named as the audit chain names them,
``instance:17``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from config.errors import MalformedError, UsageError
from dicomnode.cli.common import (
    AsJson,
    ConfigFile,
    MostRows,
    open_data,
    operator,
    say,
    show_json,
    show_rows,
    shown,
)

if TYPE_CHECKING:
    from config.schema import Settings
    from storage.db import Ledger
    from storage.quarantine import Quarantine, Refused
    from storage.records import Instance

app = typer.Typer(help="Objects that could not be taken.", no_args_is_help=True)

_INSTANCE = "instance:"
_COLUMNS = ("name", "received_at", "calling_ae", "size", "status", "reason", "why")
Name = Annotated[str, typer.Argument(help="A digest or its first digits, or instance:17.")]


def _quarantine(settings: Settings) -> Quarantine:
    from storage.quarantine import Quarantine  # noqa: PLC0415

    return Quarantine(settings.node.data_dir, settings.storage.quarantine_bytes)


def _instance(name: str) -> Instance:
    from storage.records import Instance  # noqa: PLC0415

    number = name.removeprefix(_INSTANCE)
    row: Instance | None = (
        Instance.get_or_none((Instance.id == int(number)) & (Instance.state == "quarantined"))
        if number.isascii() and number.isdecimal() and len(number) < 19
        else None
    )
    if row is None:
        raise UsageError("no instance of that number is in quarantine")
    return row


def _of_refused(entry: Refused) -> dict[str, Any]:
    return {
        "name": entry.digest,
        "kind": "refused",
        "digest": entry.digest,
        "size": entry.size,
        "status": entry.status,
        "reason": entry.reason,
        "why": entry.why,
        "calling_ae": entry.calling_ae,
        "received_at": entry.received_at,
        "file": str(entry.path),
    }


def _of_instance(row: Instance, settings: Settings) -> dict[str, Any]:
    from storage.objects import ObjectStore  # noqa: PLC0415

    path = ObjectStore(settings.node.data_dir).path(row.object_key)
    return {
        "name": row.label(),
        "kind": "instance",
        "digest": row.digest,
        "size": row.size,
        "status": "0x0000",
        "reason": "quarantined",
        "why": row.reason or "",
        "calling_ae": row.association.calling_ae,
        "received_at": row.received_at,
        "file": str(path) if path.exists() else None,
    }


@app.command("list")
def list_all(config: ConfigFile = None, limit: MostRows = 100, as_json: AsJson = False) -> None:
    """List what lies in quarantine, newest first."""
    from storage.records import Instance  # noqa: PLC0415

    settings, _ = open_data(config)
    query = Instance.select().where(Instance.state == "quarantined").order_by(Instance.id.desc())
    rows = [_of_instance(row, settings) for row in query.limit(limit)]
    rows += [_of_refused(entry) for entry in _quarantine(settings).list()[:limit]]
    rows = sorted(rows, key=lambda row: float(row["received_at"]), reverse=True)[:limit]
    if as_json:
        show_json(rows)
        return
    for row in rows:
        row["name"] = row["name"] if row["kind"] == "instance" else row["name"][:16]
    show_rows(rows, _COLUMNS, "Nothing is in quarantine.")


@app.command()
def show(name: Name, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show one object of the quarantine."""
    settings, _ = open_data(config)
    content = (
        _of_instance(_instance(name), settings)
        if name.startswith(_INSTANCE)
        else _of_refused(_quarantine(settings).find(name))
    )
    if as_json:
        show_json(content)
        return
    for key, value in content.items():
        say(f"{key.replace('_', ' ')}: {'deleted' if value is None else shown(key, value)}")


@app.command()
def release(name: Name, config: ConfigFile = None) -> None:
    """Store a refused object after all, or let the node judge a quarantined instance again."""
    from dicomnode.net.release import release as release_refused  # noqa: PLC0415
    from storage.nudge import nudge  # noqa: PLC0415
    from storage.objects import ObjectStore  # noqa: PLC0415

    settings, ledger = open_data(config)
    store = ObjectStore(settings.node.data_dir, min_free=settings.storage.min_free)
    if name.startswith(_INSTANCE):
        row = _instance(name)
        if not store.path(row.object_key).exists():
            raise UsageError(f"the bytes of {name} were deleted")
        with ledger.transaction() as change:
            change.move(row, "stored", reason="released by hand", actor=operator())
        nudge(ledger.data_dir, "worker")
        say(f"{name} goes through the node again.")
        return
    quarantine = _quarantine(settings)
    entry = quarantine.find(name)
    try:
        kept = release_refused(entry, quarantine, store, ledger, actor=operator())
    except MalformedError as error:
        say(f"It stays in quarantine, it is still not well-formed: {error}")
        raise typer.Exit(1) from error
    finally:
        store.close()
    say(
        {
            "new": "It is stored.",
            "same": "It was stored already; the copy left the quarantine.",
            "revision": "It is stored as another version of an instance that was here.",
        }[kept.value]
    )


@app.command()
def delete(name: Name, config: ConfigFile = None) -> None:
    """Delete the bytes for good; the row of an instance stays, with the reason."""
    from storage.objects import ObjectStore  # noqa: PLC0415

    settings, ledger = open_data(config)
    if name.startswith(_INSTANCE):
        row = _instance(name)
        store = ObjectStore(settings.node.data_dir)
        detail = {"digest": row.digest, "reason": row.reason}
        _delete(ledger, "instance", row.label(), detail, lambda: store.remove(row.object_key))
    else:
        quarantine = _quarantine(settings)
        entry = quarantine.find(name)
        subject = f"quarantine:{entry.digest}"
        detail = {"reason": entry.reason}
        _delete(ledger, "quarantine", subject, detail, lambda: quarantine.remove(entry))
    say("Its bytes are deleted.")


def _delete(
    ledger: Ledger,
    kind: str,
    subject: str,
    detail: Mapping[str, Any],
    remove: Callable[[], None],
) -> None:
    """Put on record that bytes are to go, remove them, and put on record that they are gone.

    Whenever a crash comes, what is on record is true; the same command then finishes it.
    """
    for action, step in (("deleting", remove), ("deleted", None)):
        with ledger.transaction() as change:
            change.audit(f"{kind}.{action}", object=subject, detail=detail, actor=operator())
        if step is not None:
            step()
