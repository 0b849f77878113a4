"""How ten thousand studies split between two versions of a model, and what a decision costs.

``python -m tests.bench.canary [--smoke]``

For each percentage: the share of synthetic Study Instance UIDs that the canary gets, asked twice to
show that each study stays on its side, and whether every study that a smaller percentage gave it is
still there.
"""

from __future__ import annotations

import argparse
import time

from pydicom.uid import generate_uid

from config.schema import RouteSettings
from dicomnode.series.split import on_canary_side

PERCENTAGES = (1, 5, 10, 20, 25, 33.3, 50, 75, 90, 99)


def main() -> None:
    """Print one line a percentage; ends with 1 where a study moved or the share is off by 1 %."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a thousand studies")
    options = parser.parse_args()
    count = 1000 if options.smoke else 10_000
    studies = [generate_uid(entropy_srcs=["canary", str(number)]) for number in range(count)]
    before: set[str] = set()
    worst = 0.0
    kept = True
    for percent in PERCENTAGES:
        route = RouteSettings(name="CT", when={}, model="ct-tissue", canary=percent)
        begun = time.perf_counter()
        chosen = {study for study in studies if on_canary_side(route, study)}
        took = (time.perf_counter() - begun) / count
        again = {study for study in studies if on_canary_side(route, study)}
        kept &= chosen == again and before <= chosen
        share = 100 * len(chosen) / count
        worst = max(worst, abs(share - percent))
        print(f"{percent:5} %: {share:6.2f} % of {count} studies, {took * 1e6:.1f} µs a decision")
        before = chosen
    print(f"furthest off: {worst:.2f} %; studies that changed sides: {'none' if kept else 'some'}")
    if not kept or (worst > 1 and not options.smoke):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
