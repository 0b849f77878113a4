"""Jobs: what became of each, and how a person steps in."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from config.errors import StaleStateError, UsageError
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
    shown,
)

if TYPE_CHECKING:
    from storage.records import Job

app = typer.Typer(help="Jobs: list, show, retry, cancel, prioritize.", no_args_is_help=False)

_COLUMNS = (
    "id",
    "model",
    "mode",
    "route",
    "source",
    "priority",
    "state",
    "attempt",
    "created_at",
    "finished_at",
    "reason",
)

JobId = Annotated[int, typer.Argument(help="The job's number.")]
State = Annotated[
    str | None, typer.Option("--state", help="Only jobs in that state: failed for dead letters.")
]
ModelReference = Annotated[
    str | None, typer.Option("--model", help="Only jobs of that model, name or name@version.")
]
RouteName = Annotated[str | None, typer.Option("--route", help="Only jobs of that route.")]


@app.callback(invoke_without_command=True)
def jobs(
    context: typer.Context,
    config: ConfigFile = None,
    limit: MostRows = 20,
    as_json: AsJson = False,
) -> None:
    """List the newest jobs."""
    if context.invoked_subcommand is None:
        list_jobs(config, limit, as_json)


@app.command("list")
def list_jobs(  # noqa: PLR0917 - the options of a command
    config: ConfigFile = None,
    limit: MostRows = 20,
    as_json: AsJson = False,
    state: State = None,
    model: ModelReference = None,
    route: RouteName = None,
) -> None:
    """List the newest jobs of a state, a model or a route."""
    from storage import overview  # noqa: PLC0415
    from storage.states import JOB  # noqa: PLC0415

    if state is not None and state not in JOB:
        raise UsageError(f"there is no state {state!r}; there are {', '.join(JOB)}")
    open_data(config)
    rows = overview.jobs(limit, state=state, model=model, route=route)
    if as_json:
        show_json(rows)
        return
    show_rows(rows, _COLUMNS, "There is no such job." if state or model or route else _NONE)
    say_breakers("Model", overview.models())


_NONE = "There is no job."


def _job(number: int) -> Job:
    from storage.records import Job  # noqa: PLC0415

    job: Job | None = Job.get_or_none(Job.id == number)
    if job is None:
        raise UsageError(f"there is no job {number}")
    return job


@app.command("show")
def show_job(number: JobId, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show one job with its stages, scores, results, deliveries, times and feedback."""
    from storage import feedback, figures, overview  # noqa: PLC0415
    from storage import jobs as queue  # noqa: PLC0415

    open_data(config)
    job = _job(number)
    content = overview.job_row(job)
    content["seconds"] = json.loads(job.seconds) if job.seconds else {}
    content["stages"] = overview.stages(job)
    content["scores"] = figures.scores_of(number)
    content["feedback"] = feedback.of_job(number)
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
    else:
        _tell(content)


def _tell(content: dict[str, Any]) -> None:
    seconds, stages, results = (content.pop(key) for key in ("seconds", "stages", "results"))
    scores, said = content.pop("scores"), content.pop("feedback")
    for key, value in content.items():
        if value is not None:
            say(f"{key.replace('_', ' ')}: {shown(key, value)}")
    if seconds:
        say("seconds: " + ", ".join(f"{stage} {took:.2f}" for stage, took in seconds.items()))
    for stage in stages:
        why = f": {shown('reason', stage['reason'])}" if stage["reason"] else ""
        say(f"{stage['time']} {stage['stage']}{why}")
    for score in scores:
        value = "no confidence" if score["value"] is None else f"{score['value']:.4g}"
        look = ", asks for a human look" if score["needs_review"] else ""
        say(f"{score['kind']} {shown('name', score['name'])}: {value}{look}")
    for word in said:
        about = shown("finding", word["finding"]) or "the whole answer"
        say(f"{shown('noted_at', word['noted_at'])} {word['said_by']}: {word['verdict']} {about}")
    for result in results:
        sent = ", ".join(f"{name} {state}" for name, state in result["deliveries"].items())
        say(f"result {result['kind']}, {result['bytes']} bytes: {sent or 'stays in the node'}")
        for name, why in result["fell_back"].items():
            say(f"  {name} gets it in place of another kind: {why}")


@app.command("retry")
def retry(
    number: Annotated[int | None, typer.Argument(help="The job's number.")] = None,
    config: ConfigFile = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every failed job, or every one of --model.")
    ] = False,
    model: ModelReference = None,
) -> None:
    """Queue a failed, skipped or cancelled job again, or all that failed."""
    if (number is None) != everything:
        raise UsageError("give the number of a job, or --all")
    if model is not None and not everything:
        raise UsageError("--model goes with --all")
    if number is None:
        _retry_all(config, model)
    else:
        _retry_one(config, number)


def _retry_one(config: ConfigFile, number: int) -> None:
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


def _retry_all(config: ConfigFile, model: str | None) -> None:
    from storage import attempts, overview  # noqa: PLC0415
    from storage.nudge import nudge  # noqa: PLC0415

    _, ledger = open_data(config)
    again = 0
    for job in overview.matching_jobs(state="failed", model=model):
        with contextlib.suppress(StaleStateError):  # a newer one took its place at this moment
            attempts.retry(ledger, job, operator())
            again += 1
    nudge(ledger.data_dir, "worker")
    say(f"{again} jobs are queued again." if again != 1 else "1 job is queued again.")


@app.command("cancel")
def cancel(number: JobId, config: ConfigFile = None) -> None:
    """Cancel a job that is not done."""
    from storage import attempts  # noqa: PLC0415

    _, ledger = open_data(config)
    job = _job(number)
    if job.state not in ("queued", "running", "validating"):
        raise UsageError(f"job {number} is {job.state}; only open jobs are cancelled")
    attempts.cancel(ledger, job, operator())
    say(f"Job {number} is cancelled.")


@app.command("prioritize")
def prioritize(
    number: JobId,
    config: ConfigFile = None,
    routine: Annotated[
        bool, typer.Option("--routine", help="Take it back among the routine jobs.")
    ] = False,
) -> None:
    """Let a job that waits run before the routine ones."""
    from storage import attempts  # noqa: PLC0415

    _, ledger = open_data(config)
    job = _job(number)
    if job.state != "queued":
        raise UsageError(f"job {number} is {job.state}; only jobs that wait are prioritized")
    priority: Literal["stat", "routine"] = "routine" if routine else "stat"
    attempts.prioritize(ledger, job, priority, operator())
    say(f"Job {number} is {priority}.")
