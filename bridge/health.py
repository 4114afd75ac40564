"""What the loop tells about itself: listener.py passes it on."""

import time
from collections import defaultdict
from typing import Final

from bridge.checkpoint import InFlight
from bridge.tally import Tally
from bridge.window_facts import Facts

STUCK_SECONDS: Final = 30.0

Counts = defaultdict[tuple[str, str], int]
"""By schema and table."""


class Health:
    """Written by the loop, read by the listener's thread: plain numbers and dictionaries, which are copied before they are
    walked through."""

    def __init__(self) -> None:
        self.loop_at = time.monotonic()
        """time.monotonic() of the loop's last turn."""
        self.streaming = False
        self.reconnects = 0
        """How often the stream was started again after a lost connection to the source."""
        self.events: Counts = defaultdict(int)
        """Handed to the sink; an event that goes in parts counts once."""
        self.dead_letters: Counts = defaultdict(int)
        self.in_flight = InFlight()
        self.received_lsn = 0
        self.confirmed_lsn = 0
        self.progress_at: float | None = None
        """time.monotonic() of when the confirmed position last moved, or nothing was left to confirm."""
        self.held_back_seconds = 0.0
        """How long `limits.events_per_second` and `per_table` have held the stream back, since the start."""
        self.replay: Facts | None = None
        """What the replay window is and costs; None: there is none, or it is not known."""
        self.replay_restarts = 0
        """How often it had to be dropped and begun anew."""
        self.tally = Tally()

    def turn(self) -> None:
        """The loop is alive; called at every turn."""
        self.loop_at = time.monotonic()

    def received(self, lsn: int) -> None:
        """The stream has come so far."""
        self.received_lsn = max(self.received_lsn, lsn)

    def confirmed(self, lsn: int, now: float) -> None:
        """PostgreSQL has been told this position; it may be the same as before."""
        if lsn > self.confirmed_lsn or lsn >= self.received_lsn:
            self.progress_at = now
        self.confirmed_lsn = lsn

    @property
    def live(self) -> bool:
        return time.monotonic() - self.loop_at < STUCK_SECONDS

    @property
    def ready(self) -> bool:
        return self.streaming and self.live
