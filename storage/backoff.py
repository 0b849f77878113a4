"""How long to wait before another attempt: ever longer, and never all at the same moment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Exponentially growing, jittered delays.

    Attributes:
        first: Delay after the first failure in seconds; it doubles with each.
        longest: Longest delay in seconds.
    """

    first: float = 60.0
    longest: float = 3600.0

    def delay(self, failures: int, jitter: float) -> float:
        """Seconds after that many failures; `jitter` in [0, 1) spreads the upper half."""
        grown = min(self.longest, self.first * 2.0 ** min(failures - 1, 30))
        return grown * (0.5 + jitter / 2)
