"""The comparison: every receiver in turn, round by round, for each case of a plan."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.bench.intaking.bench import Bench
from tests.bench.intaking.figures import Case, Results
from tests.bench.intaking.images import SHAPES
from tests.bench.intaking.receivers import NODE, RECEIVERS, WHOLE_NODE, Receiver
from tests.bench.intaking.senders import NAGLE, SENDERS, Load


@dataclass(frozen=True)
class Plan:
    """What is measured with one kind of sender and one shape.

    Attributes:
        sender: The kind of sender.
        shape: The shape.
        associations: Each number is a case.
        rounds: How often.
        slow_images: How many images go to receivers that would take too long for all; 0: they are
            left out.
        most_images: How many images go to any receiver at most.
    """

    sender: str
    shape: str
    associations: tuple[int, ...]
    rounds: int
    slow_images: int = 1000
    most_images: int = 1000

    def load(self, associations: int, receiver: str) -> Load:
        """What goes to a receiver in one run."""
        shape = SHAPES[self.shape]
        most = self.slow_images if receiver in SLOW[self.sender] else self.most_images
        return Load(shape.of(min(shape.images, most)), associations)


SLOW: dict[str, frozenset[str]] = {
    "own": frozenset({"pynetdicom"}),
    "dcmsend": frozenset(),
    NAGLE: frozenset(RECEIVERS) - {NODE, WHOLE_NODE},
}
"""Who would take minutes for all images of a run, by sender."""

PLANS = (
    Plan("own", "small", (1, 4, 8), 3, 250),
    Plan("own", "ct", (1, 4, 8), 3, 80),
    Plan("own", "ct-long", (1, 4), 1, 0, 3000),
    Plan("own", "large", (1, 4, 8), 1, 16),
    Plan("own", "huge", (1,), 1),
    Plan("dcmsend", "small", (1, 4), 2),
    Plan("dcmsend", "ct", (1, 4), 2),
    Plan(NAGLE, "small", (1, 4), 2, 48),
    Plan(NAGLE, "ct", (1, 4), 1, 48),
)
SMOKE = (Plan("own", "small", (2,), 1, 20, 40), Plan(NAGLE, "small", (1,), 1, 0, 40))
DEFAULT_RECEIVERS = tuple(name for name in RECEIVERS if name != WHOLE_NODE)


def compare(bench: Bench, plans: Sequence[Plan], receivers: Mapping[str, Receiver]) -> Results:
    """Run the plans; within a round the receivers follow one another, each round from another.

    The cases of one plan are close in time too, so that their rates may be set against each other.
    """
    results, names = Results(), tuple(receivers)
    for plan in plans:
        for number in range(plan.rounds):
            for associations in plan.associations:
                turn = number % len(names)
                for name in (*names[turn:], *names[:turn]):
                    load = plan.load(associations, name)
                    if not load.shape.images:
                        continue
                    run = bench.run(receivers[name].start, load, plan.sender)
                    case = Case(plan.sender, plan.shape, associations)
                    results.add(case, name, run)
                    print(f"{case}: {name}, {run.rate:.1f} images/s", file=sys.stderr)
    return results


def left_out(plans: Sequence[Plan], receivers: Iterable[str]) -> list[str]:
    """What is not run as for the others, in sentences."""
    said = [
        f"{plan.sender}, {plan.shape}: {', '.join(slow)} "
        f"took {plan.slow_images} of {SHAPES[plan.shape].images} images"
        for plan in plans
        if (slow := [name for name in receivers if name in SLOW[plan.sender]])
        and plan.slow_images < SHAPES[plan.shape].images
    ]
    said += [f"{name}: not installed" for name in RECEIVERS if not RECEIVERS[name].installed]
    said += [
        f"sender {name}: {kind.program} is not installed"
        for name, kind in SENDERS.items()
        if not kind.installed
    ]
    return said
