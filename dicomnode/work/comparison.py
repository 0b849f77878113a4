"""Two versions of a model held against each other: figures, and agreement on the same inputs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import structlog
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from config.errors import MalformedError
from dicomnode.results.overlap import Overlap, overlaps
from storage import versus
from storage.objects import ObjectStore
from storage.records import Result

log = structlog.get_logger(__name__)


def compare(
    one: str, other: str, store: ObjectStore, *, since: float, most_pairs: int
) -> dict[str, Any]:
    """What two versions did, and how far they agree where both answered on the same instances.

    Args:
        one: ``name@version``.
        other: The same of the other version.
        store: Where their segmentations lie.
        since: Jobs and runs since then count, in seconds since the epoch.
        most_pairs: Pairs of answers that are held against each other, the newest first.

    Returns:
        Plain values: ``sides``, each as `storage.versus.side` has it, and ``agreement``.
    """
    pairs = versus.pairs(one, other, since, most_pairs)
    return {
        "sides": [versus.side(one, since), versus.side(other, since)],
        "agreement": agreement(pairs, store),
    }


def agreement(pairs: Sequence[tuple[int, int]], store: ObjectStore) -> dict[str, Any]:
    """How far the answers of pairs of jobs agree.

    Args:
        pairs: Numbers of the jobs of the one and of the other version.
        store: Where their segmentations lie.

    Returns:
        ``pairs``; ``same_findings``, the share of pairs in which both have the same findings;
        ``findings`` by name, in how many pairs both, the one or the other alone has it, and by how
        much the scores differ where both have one; ``dice`` by segment, over all voxels of all
        pairs; ``segmentations``, the pairs of which both have one.
    """
    findings: dict[str, dict[str, Any]] = {}
    same = segmented = 0
    dice: dict[str, Overlap] = {}
    for first, second in pairs:
        answers = versus.findings_with_scores(first), versus.findings_with_scores(second)
        same += {name: len(each) for name, each in answers[0].items()} == {
            name: len(each) for name, each in answers[1].items()
        }
        for name in sorted({*answers[0], *answers[1]}):
            _count(findings.setdefault(name, _none()), *(each.get(name, []) for each in answers))
        found = _overlaps(first, second, store)
        segmented += found is not None
        for label, overlap in (found or {}).items():
            dice.setdefault(label, Overlap()).add(overlap)
    for counted in findings.values():
        differences = counted.pop("differences")
        counted["mean_difference"] = sum(differences) / len(differences) if differences else None
    return {
        "pairs": len(pairs),
        "same_findings": same / len(pairs) if pairs else None,
        "findings": findings,
        "segmentations": segmented,
        "dice": {label: overlap.dice for label, overlap in sorted(dice.items())},
    }


def _none() -> dict[str, Any]:
    return {"both": 0, "one": 0, "other": 0, "differences": []}


def _count(
    counted: dict[str, Any], one: Sequence[float | None], other: Sequence[float | None]
) -> None:
    counted["both" if one and other else "one" if one else "other"] += 1
    counted["differences"] += [
        abs(first - second)
        for first, second in zip_longest(one, other)
        if first is not None and second is not None
    ]


def _overlaps(first: int, second: int, store: ObjectStore) -> dict[str, Overlap] | None:
    """The voxels of the segmentations of two jobs, or None where one of them has none."""
    rows = [
        Result.get_or_none((Result.job == job) & (Result.kind == "seg")) for job in (first, second)
    ]
    if None in rows:
        return None
    try:
        written = [dcmread(store.path(row.object_key)) for row in rows]
        return overlaps(written[0], written[1])
    except (MalformedError, InvalidDicomError, OSError) as error:
        log.warning("comparison.skipped", jobs=[first, second], why=str(error)[:200])
        return None
