"""Two versions of a model held against each other: figures, and agreement on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

_Said = Mapping[str, Sequence[float | None]]


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
        much the scores differ where both have one; ``measurements`` by name, the same with the
        difference as a share of the greater value; ``dice`` by segment, over all voxels of all
        pairs; ``segmentations``, the pairs of which both have one.
    """
    findings, measurements = _Tally(_apart), _Tally(_apart_by_share)
    same = segmented = 0
    dice: dict[str, Overlap] = {}
    for first, second in pairs:
        one, other = (versus.said(job, "finding") for job in (first, second))
        same += {name: len(one[name]) for name in one} == {name: len(other[name]) for name in other}
        findings.add(one, other)
        measurements.add(*(versus.said(job, "measurement") for job in (first, second)))
        found = _overlaps(first, second, store)
        segmented += found is not None
        for label, overlap in (found or {}).items():
            dice.setdefault(label, Overlap()).add(overlap)
    return {
        "pairs": len(pairs),
        "same_findings": same / len(pairs) if pairs else None,
        "findings": findings.told(),
        "measurements": measurements.told(),
        "segmentations": segmented,
        "dice": {label: overlap.dice for label, overlap in sorted(dice.items())},
    }


class _Tally:
    """What pairs of answers have, by name, and how far their numbers are apart.

    Args:
        apart: How far two numbers are apart.
    """

    def __init__(self, apart: Callable[[float, float], float]) -> None:
        self._apart = apart
        self._counted: dict[str, dict[str, int]] = {}
        self._differences: dict[str, list[float]] = {}

    def add(self, one: _Said, other: _Said) -> None:
        """Count one pair in."""
        for name in sorted({*one, *other}):
            here, there = one.get(name, []), other.get(name, [])
            counted = self._counted.setdefault(name, {"both": 0, "one": 0, "other": 0})
            counted["both" if here and there else "one" if here else "other"] += 1
            self._differences.setdefault(name, []).extend(
                self._apart(first, second)
                for first, second in zip_longest(here, there)
                if first is not None and second is not None
            )

    def told(self) -> dict[str, dict[str, Any]]:
        """Plain values, with the mean of the differences, or None without any."""
        return {
            name: {**counted, "mean_difference": sum(found) / len(found) if found else None}
            for name, counted in self._counted.items()
            for found in [self._differences[name]]
        }


def _apart(one: float, other: float) -> float:
    return abs(one - other)


def _apart_by_share(one: float, other: float) -> float:
    greater = max(abs(one), abs(other))
    return abs(one - other) / greater if greater else 0.0


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
