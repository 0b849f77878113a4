"""What the node is doing, and how a person steps in: status, studies, pause, resume, complete."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

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
    shown,
)

_MOMENTS: Final = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]


def status(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show whether the node runs, what it holds, and what is wrong."""
    from dicomnode.state import node_state  # noqa: PLC0415
    from dicomnode.web.service import problems, raised_alerts  # noqa: PLC0415
    from dicomnode.work.devices import loaded_models  # noqa: PLC0415
    from dicomnode.work.inventory import in_use  # noqa: PLC0415
    from dicomnode.work.switches import is_paused, paused_routes  # noqa: PLC0415
    from storage import overview, scrub  # noqa: PLC0415

    settings, ledger = open_data(config)
    state = node_state(ledger.data_dir)
    wrong = problems(settings, ledger.data_dir) if state else ["the node does not run"]
    wrong += scrub.summary()
    counts = overview.counts_by_state()
    content: dict[str, Any] = {
        "running": state is not None,
        "ae_title": settings.node.ae_title,
        "dicom": list(state.dicom) if state else None,
        "web": list(state.web) if state and state.web else None,
        "paused": is_paused(),
        "paused_routes": paused_routes(),
        "models": overview.models(),
        "versions": in_use(settings),
        "devices": loaded_models(ledger.data_dir) if state else [],
        "processes": state.processes if state else {},
        "problems": wrong,
        "alerts": raised_alerts(),
        "open_associations": overview.open_associations(),
        "counts": counts,
        "destinations": [entry.name for entry in settings.destinations],
    }
    if as_json:
        show_json(content)
    else:
        _tell(content)
    if state is None:
        raise typer.Exit(1)


def _tell(content: dict[str, Any]) -> None:
    from dicomnode.work.devices import in_words  # noqa: PLC0415

    if content["running"]:
        host, port = content["dicom"]
        say(f"{content['ae_title']} runs on {host}:{port}")
        restarted = {name: count for name, count in content["processes"].items() if count}
        for name, count in restarted.items():
            say(f"  {name} was restarted {count} times")
    for problem in content["problems"]:
        say(f"Problem: {problem}")
    for alert in content["alerts"]:
        about = f" of {alert['subject']}" if alert["subject"] else ""
        say(f"Alert, {alert['rule']}{about}: {shown('reason', alert['reason'])}")
    if content["paused"]:
        say("AI is paused; receiving goes on. `medai-node resume` starts it again.")
    for route in content["paused_routes"]:
        say(f"AI is paused for the route {route!r}; `medai-node resume --route` starts it again.")
    for row in content["devices"]:
        say(f"Model {in_words(row)}")
    for row in content["versions"]:
        say(f"Model {row['model']}, {row['status']}: {', '.join(row['routes'])}")
    say_breakers("Model", content["models"])
    if not content["destinations"]:
        say("No destination is set: results stay in the node.")
    say(f"associations open: {content['open_associations']}")
    for noun, states in content["counts"].items():
        listed = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none"
        say(f"{noun}: {listed}")


def studies(config: ConfigFile = None, limit: MostRows = 20, as_json: AsJson = False) -> None:
    """List the newest studies with their series and what became of them."""
    from storage import overview  # noqa: PLC0415

    open_data(config)
    rows = overview.studies(limit)
    if as_json:
        show_json(rows)
        return
    if not rows:
        say("No study was received.")
    for study in rows:
        why = f": {study['reason']}" if study["reason"] else ""
        say(f"Study {study['study_instance_uid']}: {study['state']}{why}")
        for series in study["series"]:
            say(
                f"  {series['modality'] or '??'} {series['instances']} images, {series['state']}"
                + (f": {series['reason']}" if series["reason"] else "")
            )
            if series["complete"]:
                say("    complete by {reason}: {evidence}".format(**series["complete"]))
            for said in series["announced"]:
                say("    {source} announced {instances}, {here} are here".format(**said))


RouteName = Annotated[str | None, typer.Option("--route", help="Only this route's AI.")]


def pause(config: ConfigFile = None, route: RouteName = None) -> None:
    """Stop AI, of one route or of all; receiving and delivering go on."""
    _switch(config, route, paused=True)
    say(f"AI is paused{_of(route)}; receiving goes on.")


def resume(config: ConfigFile = None, route: RouteName = None) -> None:
    """Start AI again, of one route or of all that are not paused by themselves."""
    _switch(config, route, paused=False)
    say(f"AI runs again{_of(route)}.")


def _of(route: str | None) -> str:
    return "" if route is None else f" for the route {route!r}"


def _switch(config: ConfigFile, route: str | None, *, paused: bool) -> None:
    from dicomnode.work.switches import paused_routes, set_paused  # noqa: PLC0415
    from storage.nudge import nudge  # noqa: PLC0415

    settings, ledger = open_data(config)
    known = {entry.name for entry in settings.routes}.union(paused_routes())
    if route is not None and route not in known:
        listed = ", ".join(map(repr, sorted(known))) or "none"
        raise UsageError(f"there is no route {route!r}; there are {listed}")
    set_paused(ledger, paused, operator(), route)
    nudge(ledger.data_dir, "worker")


def complete(
    series: Annotated[str | None, typer.Argument(help="Series Instance UID.")] = None,
    config: ConfigFile = None,
    skipped: Annotated[
        bool, typer.Option("--skipped", help="Every series that no model answered.")
    ] = False,
    since: Annotated[
        datetime | None,
        typer.Option("--since", formats=_MOMENTS, help="Only those of which something came since."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; else they are counted.")] = False,
) -> None:
    """Take a series as it is now; one that no model answered goes to the models again."""
    if (series is None) != skipped:
        raise UsageError("give the UID of a series, or --skipped")
    if not skipped and (since is not None or yes):
        raise UsageError("--since and --yes go with --skipped")
    if series is None:
        _complete_all(config, since, yes)
    else:
        _complete_one(config, series)


def _complete_all(config: ConfigFile, since: datetime | None, yes: bool) -> None:
    from storage import studies  # noqa: PLC0415
    from storage.nudge import nudge  # noqa: PLC0415

    _, ledger = open_data(config)
    found = studies.unanswered(0.0 if since is None else since.astimezone().timestamp())
    if not yes:
        say(f"{_many(len(found))} no answer of a model; --yes lets them be judged again.")
        return
    # One that a job answers at this moment is left alone.
    asked = sum(studies.ask_again(ledger, uid, operator()) for uid in found)
    nudge(ledger.data_dir, "worker")
    say(f"{_many(asked)} no answer of a model and will be judged and routed again.")


def _many(count: int) -> str:
    return "1 series has" if count == 1 else f"{count} series have"


def _complete_one(config: ConfigFile, series: str) -> None:
    from storage import studies  # noqa: PLC0415
    from storage.nudge import nudge  # noqa: PLC0415
    from storage.series import force  # noqa: PLC0415

    _, ledger = open_data(config)
    if force(ledger, series, operator()):
        said = "The series is taken as it is."
    elif studies.ask_again(ledger, series, operator()):
        said = "The series is judged and routed again."
    else:
        raise UsageError(
            "no series of that UID waits for its completeness or has no answer of a model"
        )
    nudge(ledger.data_dir, "worker")
    say(said)
