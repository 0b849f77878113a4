"""Damaged bytes chosen by the code they reach: what reaches new code is damaged further."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable
from random import Random
from types import FrameType
from typing import Any

from tests.contract.mutations import damage

Check = Callable[[bytes, Random], None]


class Arcs:
    """Which line followed which in one module: the coverage that guides the corpus."""

    def __init__(self, module: Any) -> None:
        self._file = module.__file__
        self.hit: set[Hashable] = set()

    def __enter__(self) -> set[Hashable]:
        self._before = sys.gettrace()
        self.hit = set()
        sys.settrace(self._call)
        return self.hit

    def __exit__(self, *why: object) -> None:
        sys.settrace(self._before)

    def _call(self, frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_filename != self._file:
            return None
        last = frame.f_lineno

        def line(frame: FrameType, event: str, argument: object) -> Any:
            nonlocal last
            self.hit.add((last, frame.f_lineno))
            last = frame.f_lineno
            return line

        return line


def evolve(module: Any, seeds: list[bytes], check: Check, examples: int, seed: int) -> int:
    """Damage what is in the pool; what reaches code in a new order joins it.

    Returns:
        How many joined.
    """
    random = Random(seed)  # noqa: S311 - draws test data
    arcs = Arcs(module)
    pool, known = list(seeds), set[Hashable]()
    for data in seeds:
        with arcs as hit:
            check(data, random)
        known |= hit
    for _ in range(examples):
        data = damage(random.choice(pool), random)[:20_000]
        with arcs as hit:
            check(data, random)
        if hit - known:
            known |= hit
            pool.append(data)
    return len(pool) - len(seeds)


def pieces(data: bytes, random: Random) -> list[bytes]:
    """The same bytes in pieces of any size, some empty."""
    most = random.choice((1, 3, 20, 300)) if len(data) < 4000 else random.choice((300, 5000))
    found, at = [], 0
    while at < len(data):
        size = random.randint(0 if most > 1 else 1, most)
        found.append(data[at : at + size])
        at += size
    return found
