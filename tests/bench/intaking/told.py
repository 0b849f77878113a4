"""Results as tables, sentences and JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from tests.bench.intaking.figures import Case, Results, Run, median
from tests.bench.intaking.receivers import NODE
from tests.bench.intaking.senders import NAGLE


def number(value: float | None, digits: int = 0, unit: float = 1.0) -> str:
    """A figure for people; a dash for what is not known."""
    return "–" if value is None else f"{value * unit:.{digits}f}"


def columns(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table; so many columns from the left are words, the others figures."""
    table = [head, *rows]
    widths = [max(len(row[at]) for row in table) for at in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at < left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    )


_HEAD = (
    *("receiver", "images/s", "MB/s", "p50 ms", "p95 ms", "p99 ms", "sender CPU s"),
    *("slowest–fastest", "PSS MiB", "HWM MiB", "lag ms", "node is ×"),
)


def comparison(results: Results) -> str:
    """A table for each case, medians of its rounds; memory is the highest."""
    return "\n\n".join(
        f"{case}\n"
        + columns(
            _HEAD,
            (
                (name, *_figures(results.runs[case, name]), _node_is(results, case, name))
                for name in results.receivers
                if (case, name) in results.runs
            ),
        )
        for case in results.cases
    )


def _figures(runs: Sequence[Run]) -> tuple[str, ...]:
    def middle(attribute: str) -> float | None:
        return median(getattr(run, attribute) for run in runs)

    slow, fast = middle("slowest"), middle("fastest")
    return (
        number(middle("rate"), 0 if (middle("rate") or 0) >= 100 else 1),
        number(middle("megabytes_per_second")),
        *(number(middle(name), 2, 1e3) for name in ("p50", "p95", "p99")),
        number(middle("sender_cpu"), 2),
        f"{number(slow, 1)}–{number(fast, 1)}",
        number(max(run.pss for run in runs)),
        number(max(run.hwm for run in runs)),
        number(middle("lag"), 0, 1e3),
    )


def _node_is(results: Results, case: Case, name: str) -> str:
    if name == NODE:
        return ""
    return number(results.times_as_fast((case, NODE), (case, name)), 2)


def ratios(results: Results) -> str:
    """How many times as fast the node is as each other receiver, a row for each case."""
    others = [name for name in results.receivers if name != NODE]
    rows = [
        (
            *(case.sender, case.shape, str(case.associations)),
            *(number(results.times_as_fast((case, NODE), (case, name)), 2) for name in others),
        )
        for case in results.cases
    ]
    return columns(("sender", "shape", "associations", *others), rows, left=2)


def parallel(results: Results) -> str:
    """The rate of many associations together as a share of the rate of one, by receiver."""
    rows = []
    for case in results.cases:
        alone = Case(case.sender, case.shape, 1)
        if case.associations > 1 and alone in results.cases:
            shares = (results.times_as_fast((case, r), (alone, r)) for r in results.receivers)
            rows.append((case.sender, case.shape, str(case.associations), *map(_share, shares)))
    return columns(("sender", "shape", "associations", *results.receivers), rows, left=2)


def _share(value: float | None) -> str:
    return number(value, 2)


def nagle(results: Results) -> list[str]:
    """What Nagle's algorithm costs the node, in sentences."""
    said = []
    for case in results.cases:
        plain = Case("dcmsend", case.shape, case.associations)
        if case.sender == NAGLE and (plain, NODE) in results.runs:
            times = results.times_as_fast((plain, NODE), (case, NODE))
            said.append(
                f"{case.shape}, {case.associations}: "
                f"with Nagle's algorithm the node takes {number(times, 2)} × its no-delay time"
            )
    return said


def machine() -> dict[str, object]:
    """What the figures were made on."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(pages / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def as_json(results: Results) -> list[dict[str, object]]:
    """Every run, with its case, receiver and round."""
    return [
        {**asdict(case), "receiver": name, "round": turn, "rate": run.rate, **asdict(run)}
        for (case, name), runs in results.runs.items()
        for turn, run in enumerate(runs)
    ]


def write_json(path: Path, found: Mapping[str, object]) -> None:
    """Write all that was found, with the machine it was found on."""
    path.write_text(json.dumps({"machine": machine(), **found}, indent=1) + "\n")


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median and range of a few values."""
    middle = statistics.median(values)
    return f"{middle:.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"
