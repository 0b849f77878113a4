"""What the node is doing, and how a person steps in: status, studies, jobs, deliveries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

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

if TYPE_CHECKING:
    from storage.records import Job

jobs_app = typer.Typer(help="Jobs: list, show, retry, cancel.", no_args_is_help=False)
deliveries_app = typer.Typer(help="Deliveries: list, retry.", no_args_is_help=False)

_JOB_COLUMNS = ("id", "model", "route", "state", "attempt", "created_at", "finished_at", "reason")
_DELIVERY_COLUMNS = (
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


def status(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show whether the node runs, what it holds, and what is wrong."""
    from dicomnode.state import node_state  # noqa: PLC0415
    from dicomnode.web.service import problems  # noqa: PLC0415
    from dicomnode.work.switches import is_paused  # noqa: PLC0415
    from storage import overview  # noqa: PLC0415

    settings, ledger = open_data(config)
    state = node_state(ledger.data_dir)
    wrong = problems(settings, ledger.data_dir) if state else ["the node does not run"]
    counts = overview.counts_by_state()
    content: dict[str, Any] = {
        "running": state is not None,
        "ae_title": settings.node.ae_title,
        "dicom": list(state.dicom) if state else None,
        "web": list(state.web) if state and state.web else None,
        "paused": is_paused(),
        "processes": state.processes if state else {},
        "problems": wrong,
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
    if content["running"]:
        host, port = content["dicom"]
        say(f"{content['ae_title']} runs on {host}:{port}")
        restarted = {name: count for name, count in content["processes"].items() if count}
        for name, count in restarted.items():
            say(f"  {name} was restarted {count} times")
    for problem in content["problems"]:
        say(f"Problem: {problem}")
    if content["paused"]:
        say("AI is paused; receiving goes on. `medai-node resume` starts it again.")
    if not content["destinations"]:
        say("No destination is set: results stay in the node.")
    say(f"associations open: {content['open_associations']}")
    for noun, states in content["counts"].items():
        shown = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none"
        say(f"{noun}: {shown}")


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


@jobs_app.callback(invoke_without_command=True)
def jobs(
    context: typer.Context,
    config: ConfigFile = None,
    limit: MostRows = 20,
    as_json: AsJson = False,
) -> None:
    """List the newest jobs."""
    from storage import overview  # noqa: PLC0415

    if context.invoked_subcommand is not None:
        return
    open_data(config)
    rows = overview.jobs(limit)
    if as_json:
        show_json(rows)
    else:
        show_rows(rows, _JOB_COLUMNS, "There is no job.")


JobId = Annotated[int, typer.Argument(help="The job's number.")]


def _job(number: int) -> Job:
    from storage.records import Job  # noqa: PLC0415

    job: Job | None = Job.get_or_none(Job.id == number)
    if job is None:
        raise UsageError(f"there is no job {number}")
    return job


@jobs_app.command("show")
def show_job(number: JobId, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show one job with its results, deliveries and times."""
    import json  # noqa: PLC0415

    from storage import jobs as queue  # noqa: PLC0415
    from storage import overview  # noqa: PLC0415

    open_data(config)
    job = _job(number)
    content = overview.job_row(job)
    content["seconds"] = json.loads(job.seconds) if job.seconds else {}
    content["results"] = [
        {
            "kind": result.kind,
            "sop_instance_uid": result.sop_instance_uid,
            "bytes": result.size,
            "deliveries": {row.destination: row.state for row in result.deliveries},
            "fell_back": {
                row.destination: row.fell_back for row in result.deliveries if row.fell_back
            },
        }
        for result in queue.results_of(job)
    ]
    if as_json:
        show_json(content)
        return
    stages = content.pop("seconds")
    for key, value in content.items():
        if key != "results" and value is not None:
            say(f"{key.replace('_', ' ')}: {shown(key, value)}")
    if stages:
        say("seconds: " + ", ".join(f"{stage} {took:.2f}" for stage, took in stages.items()))
    for result in content["results"]:
        sent = ", ".join(f"{name} {state}" for name, state in result["deliveries"].items())
        say(f"result {result['kind']}, {result['bytes']} bytes: {sent or 'stays in the node'}")
        for name, why in result["fell_back"].items():
            say(f"  {name} gets it in place of another kind: {why}")


@jobs_app.command("retry")
def retry_job(number: JobId, config: ConfigFile = None) -> None:
    """Queue a failed, skipped or cancelled job again."""
    from storage import attempts  # noqa: PLC0415
    from storage.nudge import nudge  # noqa: PLC0415

    _, ledger = open_data(config)
    job = _job(number)
    if job.state not in ("failed", "skipped", "cancelled"):
        kinds = "failed, skipped and cancelled"
        raise UsageError(f"job {number} is {job.state}; only {kinds} ones are retried")
    attempts.retry(ledger, job, operator())
    nudge(ledger.data_dir, "worker")
    say(f"Job {number} is queued again.")


@jobs_app.command("cancel")
def cancel_job(number: JobId, config: ConfigFile = None) -> None:
    """Cancel a job that is not done."""
    from storage import attempts  # noqa: PLC0415

    _, ledger = open_data(config)
    job = _job(number)
    if job.state not in ("queued", "running", "validating"):
        raise UsageError(f"job {number} is {job.state}; only open jobs are cancelled")
    attempts.cancel(ledger, job, operator())
    say(f"Job {number} is cancelled.")


@deliveries_app.callback(invoke_without_command=True)
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
        show_rows(rows, _DELIVERY_COLUMNS, "There is no delivery.")
        for name, breaker in overview.destinations().items():
            if breaker["failures"]:
                say(
                    f"Destination {name}: circuit breaker {breaker['state']} after "
                    f"{breaker['failures']} failures, tried again "
                    f"{shown('retry_at', breaker['retry_at'])}: {breaker['reason']}"
                )


@deliveries_app.command("retry")
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


def pause(config: ConfigFile = None) -> None:
    """Stop AI; receiving and delivering go on."""
    from dicomnode.work.switches import set_paused  # noqa: PLC0415

    _, ledger = open_data(config)
    set_paused(ledger, True, operator())
    say("AI is paused; receiving goes on.")


def resume(config: ConfigFile = None) -> None:
    """Start AI again."""
    from dicomnode.work.switches import set_paused  # noqa: PLC0415
    from storage.nudge import nudge  # noqa: PLC0415

    _, ledger = open_data(config)
    set_paused(ledger, False, operator())
    nudge(ledger.data_dir, "worker")
    say("AI runs again.")


def complete(
    series: Annotated[str, typer.Argument(help="Series Instance UID.")],
    config: ConfigFile = None,
) -> None:
    """Take a series as complete now, with the objects that are here."""
    from storage import index  # noqa: PLC0415
    from storage.nudge import nudge  # noqa: PLC0415

    _, ledger = open_data(config)
    if not index.force(ledger, series, operator()):
        raise UsageError("no series of that UID waits for its completeness")
    nudge(ledger.data_dir, "worker")
    say("The series is taken as it is.")
