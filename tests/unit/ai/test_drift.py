"""Distances of distributions, against values worked out by hand and against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai.drift import difference, ks_p

COUNTS = st.lists(st.integers(0, 500), min_size=2, max_size=20).filter(any)
PAIRS = st.integers(2, 20).flatmap(
    lambda bins: st.tuples(
        *[st.lists(st.integers(0, 500), min_size=bins, max_size=bins).filter(any)] * 2
    )
)


def test_psi_of_two_bins_is_what_the_formula_gives_by_hand() -> None:
    # Shares with half a count more: 50.5/101 and 50.5/101 against 75.5/101 and 25.5/101.
    by_hand = (75.5 - 50.5) / 101 * math.log(75.5 / 50.5) + (25.5 - 50.5) / 101 * math.log(
        25.5 / 50.5
    )
    assert difference([50, 50], [75, 25]).psi == pytest.approx(by_hand)
    assert by_hand == pytest.approx(0.2687, abs=1e-4)


def test_ks_of_two_bins_is_the_largest_gap_of_the_cumulative_shares() -> None:
    found = difference([50, 50], [75, 25])
    assert found.ks == pytest.approx(0.25)
    assert difference([10, 0, 0], [0, 0, 10]).ks == 1.0


@pytest.mark.parametrize(("reach", "chance"), [(1.3581, 0.05), (1.6276, 0.01), (1.9495, 0.001)])
def test_the_chance_is_that_of_the_tables_of_kolmogorovs_distribution(
    reach: float, chance: float
) -> None:
    many = 10_000_000  # so that the correction for small samples does not show
    distance = reach / math.sqrt(many / 2)
    assert ks_p(distance, many, many) == pytest.approx(chance, rel=2e-3)


@pytest.mark.feature("P47")
@given(PAIRS)
@settings(max_examples=150, deadline=None)
def test_for_any_two_samples_the_distances_are_those_of_plain_loops(
    pair: tuple[list[int], list[int]],
) -> None:
    expected, found = pair
    index, gap, low, high = 0.0, 0.0, 0.0, 0.0
    totals = sum(expected) + 0.5 * len(expected), sum(found) + 0.5 * len(found)
    for before, after in zip(expected, found, strict=True):
        p, q = (before + 0.5) / totals[0], (after + 0.5) / totals[1]
        index += (q - p) * math.log(q / p)
        low += before / sum(expected)
        high += after / sum(found)
        gap = max(gap, abs(low - high))
    result = difference(expected, found)
    assert result.psi == pytest.approx(index, abs=1e-12)
    assert result.ks == pytest.approx(gap, abs=1e-12)
    assert result.psi >= 0.0
    assert 0.0 <= result.ks <= 1.0 + 1e-12
    assert 0.0 <= result.p <= 1.0


@given(COUNTS)
@settings(max_examples=100, deadline=None)
def test_for_any_sample_nothing_differs_from_itself(counts: list[int]) -> None:
    same = difference(counts, counts)
    assert (same.psi, same.ks, same.p) == (pytest.approx(0.0), pytest.approx(0.0), 1.0)


@given(PAIRS)
@settings(max_examples=100, deadline=None)
def test_for_any_two_samples_the_distances_do_not_ask_which_came_first(
    pair: tuple[list[int], list[int]],
) -> None:
    one, other = difference(*pair), difference(*reversed(pair))
    assert one.psi == pytest.approx(other.psi)
    assert one.ks == pytest.approx(other.ks)


def test_samples_of_one_source_seldom_look_like_a_drift() -> None:
    lots = np.random.default_rng(7)

    def sample(size: int) -> list[int]:
        return [int(count) for count in np.histogram(lots.beta(2, 3, size), 10, (0, 1))[0]]

    rare = sum(difference(sample(200), sample(50)).p < 0.01 for _ in range(300))
    assert rare <= 6  # 1 % is 3


def test_samples_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ValueError, match="the same bins"):
        difference([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="without a count"):
        difference([0, 0], [1, 2])
