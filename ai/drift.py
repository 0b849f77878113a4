"""How far a distribution of scores lies from the one it is compared with.

Both are counts over the same bins. PSI says how large a difference is, the Kolmogorov-Smirnov test
whether so few scores can tell; a drift is a difference that is large and no accident.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_TERMS = 100  # of the series of the Kolmogorov distribution; it converges long before
_HALF = 0.5  # added to each bin, so that an empty one counts for little and not without end


@dataclass(frozen=True)
class Difference:
    """How two samples differ.

    Attributes:
        psi: Population stability index, 0 for equal shares; by custom 0.1 is a small and 0.25 a
            large shift.
        ks: Largest distance of the two cumulative shares, 0 to 1.
        p: Chance of so large a `ks` where nothing has changed.
    """

    psi: float
    ks: float
    p: float


def difference(expected: Sequence[int], found: Sequence[int]) -> Difference:
    """Compare two samples.

    Args:
        expected: Counts by bin of the reference.
        found: Counts of the same bins, of what is compared with it.

    Raises:
        ValueError: The bins are not the same number, there are none, or a sample is empty.
    """
    before, after = _counts(expected), _counts(found)
    if before.shape != after.shape:
        raise ValueError("two samples are compared over the same bins")
    distance = ks(before, after)
    return Difference(
        psi(before, after), distance, ks_p(distance, int(before.sum()), int(after.sum()))
    )


def psi(expected: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    """Population stability index: the sum of ``(q - p) ln(q / p)`` over the bins' shares.

    Args:
        expected: ``(bins,)`` counts; each share is taken with half a count more a bin.
        found: The same bins.
    """
    shares = [(each + _HALF) / (each + _HALF).sum() for each in (expected, found)]
    return float(np.sum((shares[1] - shares[0]) * np.log(shares[1] / shares[0])))


def ks(expected: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    """Kolmogorov-Smirnov distance of two binned samples.

    What bins hide makes it smaller, never larger.
    """
    steps = [np.cumsum(each) / each.sum() for each in (expected, found)]
    return float(np.abs(steps[0] - steps[1]).max())


def ks_p(distance: float, first: int, second: int) -> float:
    """Chance of a distance at least so large between samples of these sizes from one source.

    The asymptotic distribution, with the correction for small samples of M. A. Stephens (1970).
    """
    root = math.sqrt(first * second / (first + second))
    reach = (root + 0.12 + 0.11 / root) * distance
    if reach < 0.2:  # the series needs ever more terms here, and is 1 to twelve digits
        return 1.0
    terms = np.arange(1, _TERMS)
    series = 2 * np.sum((-1.0) ** (terms - 1) * np.exp(-2 * (terms * reach) ** 2))
    return float(min(1.0, max(0.0, series)))


def _counts(values: Sequence[int]) -> NDArray[np.float64]:
    counts = np.asarray(values, np.float64)
    if counts.ndim != 1 or not counts.sum() > 0:
        raise ValueError("a sample without a count cannot be compared")
    return counts
