"""How models do and what is wrong: models figures, feedback, alerts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from config.errors import UsageError
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

_ALERT_COLUMNS = ("state", "rule", "subject", "since_at", "count", "reason")


def figures(
    model: Annotated[str | None, typer.Argument(help="name or name@version; default: all.")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show how models do: runs, times, scores, drift, what radiologists say."""
    from storage import figures as kept  # noqa: PLC0415
    from storage import summary  # noqa: PLC0415

    settings, _ = open_data(config)
    known = sorted({*kept.models(), *kept.counts()})
    chosen = [name for name in known if model in (None, name, name.partition("@")[0])]
    if model is not None and not chosen:
        raise UsageError(f"no job of {model} has ended on this node")
    rows = [summary.model_figures(name, settings.watch.window_seconds) for name in chosen]
    if as_json:
        show_json(rows)
        return
    if not rows:
        say("No job has ended yet.")
    for row in rows:
        _tell(row)


def _tell(row: Mapping[str, Any]) -> None:
    counts = ", ".join(f"{number} {what}" for what, number in sorted(row["counts"].items()))
    say(f"{row['model']}: {counts or 'nothing counted'}")
    say(
        f"  last {row['window_seconds']:g} s: {row['runs']} runs, {row['runs_an_hour']} an hour, "
        f"on {row['provider'] or 'nothing yet'}"
    )
    for stage, times in row["seconds"].items():
        said = ", ".join(f"{name} {took:.3f}" for name, took in times.items())
        say(f"  seconds {stage}: {said}")
    for name, found in row["scores"].items():
        say(
            f"  {name}: {found['count']} scores, {found['low']:.4g} to {found['high']:.4g}, "
            f"median {found['p50']:.4g}"
        )
    for drift in row["drift"]:
        say(
            f"  drift of {drift['score']}: PSI {drift['psi']:.3f}, KS {drift['ks']:.3f} "
            f"(p {drift['p']:.2g}), {drift['scores']} scores against its {drift['reference']}"
        )
    _tell_acceptance(row["acceptance"])


def _tell_acceptance(found: Mapping[str, Any]) -> None:
    for what in ("accepted", "rejected", "ppv", "npv"):
        if found[what] is not None:
            say(f"  {what}: {_interval(found[what])}")
    for name, verdicts in found["findings"].items():
        ppv = f", ppv {_interval(verdicts['ppv'])}" if verdicts["ppv"] else ""
        said = ", ".join(f"{verdicts[each]} {each}" for each in ("accept", "reject", "correct"))
        say(f"  said of {name}: {said}{ppv}")


def _interval(share: Mapping[str, float]) -> str:
    low, high = 100 * share["low"], 100 * share["high"]
    return f"{100 * share['value']:.0f} % of {share['of']} (95 %: {low:.0f} to {high:.0f})"


def feedback(
    number: Annotated[int, typer.Argument(metavar="JOB", help="The job's number.")],
    verdict: Annotated[
        Literal["accept", "reject", "correct"],
        typer.Argument(help="Right as it stands; not there; there, but not as told."),
    ],
    finding: Annotated[
        str | None, typer.Option(help="One finding of the answer; default: the whole answer.")
    ] = None,
    by: Annotated[str, typer.Option(help="Role of who says so, never a name.")] = "radiologist",
    config: ConfigFile = None,
) -> None:
    """Note what a radiologist says of a job's answer, or of one finding in it."""
    from dicomnode.work import spoken  # noqa: PLC0415

    _, ledger = open_data(config)
    job = spoken.answered(str(number))
    spoken.say(ledger, job, verdict, finding=finding, by=by, source="command", actor=operator())
    about = f"{finding!r} of " if finding else ""
    say(f"Noted: {verdict} for {about}job {number}, {job.model}.")


def alerts(config: ConfigFile = None, limit: MostRows = 50, as_json: AsJson = False) -> None:
    """List what is wrong and what was, and messages that nobody has taken yet; 1 while it is."""
    from storage import alerts as kept  # noqa: PLC0415

    open_data(config)
    rows = kept.shown(limit)
    waiting = kept.waiting()
    if as_json:
        show_json({"alerts": rows, "waiting": waiting})
    else:
        show_rows(
            [{**row, "since_at": row["since"]} for row in rows],
            _ALERT_COLUMNS,
            "Nothing was ever wrong.",
        )
        for channel, count in waiting.items():
            say(f"{count} messages wait for {shown('channel', channel)}.")
    if any(row["state"] == "raised" for row in rows):
        raise typer.Exit(1)
