"""How long the broker takes to acknowledge. Pure: times come in.

One transaction of each batch is timed, the last: from when its last event went to the sink until all of its events are
acknowledged. So it costs nothing for each change.
"""

from collections import deque
from typing import Final

from bridge.checkpoint import Ticket

BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds."""


class Acknowledging:
    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        """How many took as long as each bound or less, and more than the one before; the last: longer than all."""
        self.seconds = 0.0
        """All of them together."""
        self._waiting: deque[tuple[Ticket, float]] = deque()

    def sent(self, ticket: Ticket | None, now: float) -> None:
        """A batch was sent, and this is the last transaction that waits for the broker; None: nothing waits."""
        if ticket is not None and not (self._waiting and self._waiting[-1][0] is ticket):
            self._waiting.append((ticket, now))

    def look(self, now: float) -> None:
        """Note those that are acknowledged by now. Called often."""
        while self._waiting and not self._waiting[0][0].pending:
            seconds = now - self._waiting.popleft()[1]
            self.seconds += seconds
            self.counts[sum(seconds > bound for bound in BOUNDS)] += 1

    def restarted(self) -> None:
        """The stream begins anew: what was not acknowledged comes again."""
        self._waiting.clear()

    def waiting_seconds(self, now: float) -> float:
        """How long the oldest has been waiting; 0: none is."""
        try:
            return max(0.0, now - self._waiting[0][1])
        except IndexError:
            return 0.0
