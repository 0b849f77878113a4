"""``medai-node models compare``: two versions of a model side by side."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from config.errors import UsageError
from dicomnode.cli.common import AsJson, ConfigFile, open_data, say, show_json, show_rows

DAY_SECONDS = 86400.0
_SPREAD = {
    "share_of_runs": "share of runs",
    **{key: f"score {key}" for key in ("mean", "p10", "p50", "p90")},
}


def compare(
    one: Annotated[str, typer.Argument(help="name@version.")],
    other: Annotated[str, typer.Argument(help="name@version of the other one.")],
    *,
    days: Annotated[float, typer.Option(min=0, help="How far back to look.")] = 30,
    pairs: Annotated[
        int, typer.Option(min=0, help="Answers on the same input to compare at most.")
    ] = 200,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Compare two versions: counts, times, findings, scores, agreement on the same inputs."""
    from dicomnode.work.comparison import compare as compare_versions  # noqa: PLC0415
    from dicomnode.work.models import make_registry  # noqa: PLC0415
    from storage import figures  # noqa: PLC0415
    from storage.objects import ObjectStore  # noqa: PLC0415

    for reference in (one, other):
        if "@" not in reference:
            raise UsageError(f"say which version of {reference}, as {reference}@VERSION")
    if one == other:
        raise UsageError("a version is compared with another one")
    settings, ledger = open_data(config)
    registry = make_registry(settings, prove=False)
    for reference in {one, other} - set(figures.models()):
        registry.any(reference)  # says what there is instead
    since = time.time() - days * DAY_SECONDS
    store = ObjectStore(ledger.data_dir)
    found = compare_versions(one, other, store, since=since, most_pairs=pairs)
    if as_json:
        show_json(found)
        return
    sides = {side["model"]: dict(_flat(side)) for side in found["sides"]}
    rows = [
        {"figure": name} | {model: _number(each.get(name)) for model, each in sides.items()}
        for name in sorted(
            dict.fromkeys(name for each in sides.values() for name in each), key=_place
        )
        if any(each.get(name) is not None for each in sides.values())
    ]
    show_rows(rows, ("figure", *sides), "")
    for line in _agreement(found["agreement"]):
        say(line)


def _flat(side: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    """The figures of one version by name, in the order they are shown."""
    for mode, states in sorted(side["jobs"].items()):
        yield from ((f"jobs {mode} {state}", count) for state, count in sorted(states.items()))
    yield "runs", side["runs"]
    yield "runs asking for a look", side["asking_for_a_look"]
    for stage, took in side["seconds"].items():
        yield from ((f"seconds {stage} {share}", value) for share, value in took.items())
    for finding, spread in side["findings"].items():
        yield from ((f"{finding}: {_SPREAD[key]}", spread.get(key)) for key in _SPREAD)


def _place(name: str) -> bool:
    """Jobs come first; what one version alone has comes behind what both have."""
    return not name.startswith("jobs ")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _agreement(found: Mapping[str, Any]) -> Iterator[str]:
    if not found["pairs"]:
        yield "No input was answered by both: a shadow run answers what the other answers."
        return
    yield f"Inputs that both answered: {found['pairs']}"
    yield f"  same findings: {found['same_findings']:.1%}"
    for name, counted in found["findings"].items():
        far = counted["mean_difference"]
        scores = "" if far is None else f", scores {far:.3g} apart on average"
        yield (
            f"  {name}: {counted['both']} both, {counted['one']} the first alone, "
            f"{counted['other']} the second alone{scores}"
        )
    for name, counted in found["measurements"].items():
        if counted["mean_difference"] is not None:
            yield f"  {name}: {counted['mean_difference']:.2%} apart on average"
    for label, dice in found["dice"].items():
        said = "nowhere in either" if dice is None else f"Dice {dice:.4f}"
        yield f"  segment {label!r}: {said} over {found['segmentations']} segmentations"
