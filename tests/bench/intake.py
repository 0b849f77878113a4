"""How fast and how steadily the node takes images, beside other receivers.

    python -m tests.bench.intake [--plot FILE] [--json FILE]

does all of this; parts are --compare, --slow-fsync [MS], --indexed [N], --memory and --profile.

Receivers are the node's own receiver processes, DCMTK's storescp (with and without +B), Orthanc and
pynetdicom's storescp, and, where asked for, the whole node. Senders are one of our own without
Nagle's algorithm, which times each C-STORE, and DCMTK's dcmsend with Nagle's algorithm and without.
Every run has a fresh receiver that was called before; ratios are medians of paired rounds.
Loopback and shared cores: read ratios, not seconds.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from tests.bench.intaking import compare, told
from tests.bench.intaking.bench import Bench
from tests.bench.intaking.images import SHAPES
from tests.bench.intaking.parts import FULL_SCALE, PARTS, SMOKE_SCALE, Session
from tests.bench.intaking.receivers import NODE, RECEIVERS, receivers
from tests.bench.intaking.senders import SENDERS

SLOW_MS, INSTANCES = 20, 1_000_000
SMOKE = {"slow_fsync": 1, "indexed": 1000, "node_processes": 1}


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--smoke", action="store_true", help="every part, very short: does it run?")
    add("--plot", type=Path, metavar="FILE", help="write an SVG of the comparison")
    add("--json", type=Path, metavar="FILE", help="write all figures")
    add("--work", type=Path, default=Path("/var/tmp"), help="where to write")  # noqa: S108
    add("--node-processes", type=int, default=0, help="receivers of the node; 0: as it does itself")
    add = parser.add_argument_group("parts; none named means all").add_argument
    add("--compare", action="store_true", help="beside other receivers")
    add("--slow-fsync", type=int, nargs="?", const=SLOW_MS, metavar="MS", help="on a slow disk")
    add("--indexed", type=int, nargs="?", const=INSTANCES, metavar="N", help="with N instances")
    add("--memory", action="store_true", help="of associations in the middle of a large object")
    add("--profile", action="store_true", help="where the node's time goes")
    add = parser.add_argument_group("what is compared, with commas between").add_argument
    add(
        "--receivers",
        type=some(RECEIVERS),
        default=list(compare.DEFAULT_RECEIVERS),
        help=", ".join(RECEIVERS),
    )
    add("--senders", type=some(SENDERS), default=list(SENDERS), help=", ".join(SENDERS))
    add("--shapes", type=some(SHAPES), default=list(SHAPES), help=", ".join(SHAPES))
    add("--associations", type=some(["1", "4", "8"]), default=["1", "2", "4", "8"], help="1, 4, 8")
    add("--rounds", type=int, help="default: as many as keep the whole under eight minutes")
    options = parser.parse_args()
    if not any(getattr(options, part) for part in PARTS):
        vars(options).update(dict.fromkeys(PARTS, True))
        options.slow_fsync, options.indexed = SLOW_MS, INSTANCES
    if options.smoke:
        vars(options).update(SMOKE)
    return options


def some(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Reads names with commas between."""

    def names(text: str) -> list[str]:
        found = text.split(",")
        if unknown := [name for name in found if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {', '.join(known)}")
        return found

    return names


def plans(options: argparse.Namespace) -> Iterator[compare.Plan]:
    """What of the plans was asked for and can be done here."""
    for plan in (SMOKE_SCALE if options.smoke else FULL_SCALE).plans:
        chosen = tuple(one for one in plan.associations if str(one) in options.associations)
        wanted = plan.sender in options.senders and plan.shape in options.shapes
        if wanted and chosen and SENDERS[plan.sender].installed:
            yield replace(plan, associations=chosen, rounds=options.rounds or plan.rounds)


def main() -> None:
    """Run what was asked for and tell it."""
    options = arguments()
    # Whatever ends it, receivers and senders end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    table = receivers(options.node_processes)
    names = dict.fromkeys([NODE, *options.receivers])
    with tempfile.TemporaryDirectory(prefix="bench-intake-", dir=options.work) as work:
        session = Session(
            Bench(Path(work)),
            SMOKE_SCALE if options.smoke else FULL_SCALE,
            {name: table[name] for name in names},
            list(plans(options)),
            options.slow_fsync,
            options.indexed,
            options.plot,
        )
        print(", ".join(f"{name}: {value}" for name, value in told.machine().items()), flush=True)
        chosen = {name: part for name, part in PARTS.items() if getattr(options, name)}
        with ThreadPoolExecutor(len(chosen)) as pool:
            # Figures come one after the other; where they do not count, all cores load programs.
            run = pool.map if options.smoke else map
            for name, text in zip(chosen, run(session.run, chosen.values()), strict=True):
                print(f"\n== {name.replace('_', ' ')}\n\n{text}", flush=True)
    if options.json:
        told.write_json(options.json, session.found)


if __name__ == "__main__":
    main()
