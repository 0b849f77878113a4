"""Rejections that come again and again are counted, never lost, and told now and then."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomnode.net.repeats import MOST_KEYS, OTHERS, Key, Repeats


@given(
    addresses=st.lists(st.integers(0, 2 * MOST_KEYS), max_size=1000),
    seconds=st.sampled_from([0.0, 0.0001, 60.0]),
)
def test_what_is_told_now_and_in_the_end_is_all_there_was(
    addresses: list[int], seconds: float
) -> None:
    repeats = Repeats(seconds)
    told: Counter[Key] = Counter()
    for address in addresses:
        key, count = repeats.count(("why", str(address)))
        told[key] += count
    told.update(dict(repeats.rest()))
    assert told.total() == len(addresses)
    came = Counter(("why", str(address)) for address in addresses)
    assert all(told[key] <= came[key] for key in told if key != OTHERS)


def test_it_is_told_at_once_and_then_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("dicomnode.net.repeats.time.monotonic", lambda: now)
    repeats = Repeats(60)
    told = []
    for now in (0.0, 1.0, 59.0, 60.0, 61.0, 130.0):  # noqa: B007 - read by the clock
        told.append(repeats.count(("why", "10.1.2.3"))[1])
    assert told == [1, 0, 0, 3, 0, 2]
    assert repeats.count(("why", "10.1.2.4")) == (("why", "10.1.2.4"), 1)


def test_more_addresses_than_are_counted_apart_are_counted_together() -> None:
    repeats = Repeats()
    keys = {repeats.count(("why", str(number)))[0] for number in range(2 * MOST_KEYS)}
    assert len(keys) == MOST_KEYS + 1
    assert list(repeats.rest()) == [(OTHERS, MOST_KEYS - 1)]
