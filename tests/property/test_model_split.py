"""The split between two versions of a model, for any percentage and any studies."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.schema import RouteSettings
from dicomnode.series.split import on_canary_side, share

PERCENT = st.floats(0, 100)
UIDS = st.from_regex(r"2\.25\.[1-9][0-9]{0,37}", fullmatch=True)


def route(percent: float) -> RouteSettings:
    return RouteSettings(name="CT", when={}, model="ct-tissue", canary=percent)


@pytest.mark.feature("P48")
@settings(max_examples=150)
@given(UIDS, PERCENT, PERCENT)
def test_a_study_stays_on_its_side_and_a_growing_share_gives_none_back(
    uid: str, one: float, other: float
) -> None:
    low, high = sorted((one, other))
    assert 0 <= share("ct-tissue", uid) < 100
    assert on_canary_side(route(low), uid) == on_canary_side(route(low), uid)
    assert on_canary_side(route(low), uid) <= on_canary_side(route(high), uid)
    assert not on_canary_side(route(0), uid)
    assert on_canary_side(route(100), uid)


@pytest.mark.feature("P48")
@settings(max_examples=100, deadline=None)
@given(PERCENT, st.integers(1, 10**30))
def test_the_share_of_any_ten_thousand_studies_is_the_percentage(
    percent: float, first: int
) -> None:
    counted = 10_000
    uids = (f"2.25.{first + 7 * number}" for number in range(counted))
    found = sum(share("ct-tissue", uid) < percent for uid in uids)
    # Six standard deviations of so many throws of a coin, and one study.
    spread = math.sqrt(counted * percent / 100 * (1 - percent / 100))
    assert abs(found - counted * percent / 100) <= 6 * spread + 1
