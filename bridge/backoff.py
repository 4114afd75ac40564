"""Pauses between attempts, for the source and the sinks alike. No I/O, no clock."""

import random

FIRST_SECONDS = 0.1
LONGEST_SECONDS = 30.0
_DOUBLINGS = 20
"""More would change nothing, and after some hours be too large for a number."""


class Backoff:
    """Each pause is twice the one before, up to a bound; with jitter, so that many clients do not come back at once."""

    def __init__(self, first_seconds: float = FIRST_SECONDS, longest_seconds: float = LONGEST_SECONDS) -> None:
        self._first, self._longest = first_seconds, longest_seconds
        self.attempt = 0
        """How many there were since the last success."""

    def pause_seconds(self) -> float:
        """How long to wait before the next attempt, which it counts: half to all of the bound that grows."""
        pause: float = min(self._first * 2.0 ** min(self.attempt, _DOUBLINGS), self._longest)
        self.attempt += 1
        return random.uniform(0.5, 1.0) * pause

    def reset(self) -> None:
        """It has worked."""
        self.attempt = 0
