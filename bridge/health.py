"""What the loop tells about itself: listener.py passes it on."""

import time
from collections import defaultdict, deque
from typing import Final, TypeVar

from bridge.acknowledging import Acknowledging
from bridge.checkpoint import InFlight
from bridge.lag import Lag, Look, Retained
from bridge.tally import Tally
from bridge.window_facts import Facts

STUCK_SECONDS: Final = 30.0
RATE_SECONDS: Final = 60.0
"""The rate of events is that of so long."""
MOST_TABLES: Final = 500
"""So many tables are told of by name; those that come later, together as "other"."""
OTHER: Final = ("", "other")
"""No schema has an empty name."""

Counts = defaultdict[tuple[str, str], int]
"""By schema and table."""


Number = TypeVar("Number", int, float)


def bounded(counts: dict[tuple[str, str], Number]) -> dict[tuple[str, str], Number]:
    """By schema and table, with an end however many tables come and go: the first ones as they are, the others' sum."""
    listed = list(counts.copy().items())
    told = dict(listed[:MOST_TABLES])
    if len(listed) > MOST_TABLES:
        told[OTHER] = sum(number for _, number in listed[MOST_TABLES:])
    return told


class Health:
    """Written by the loop, read by the listener's thread: plain numbers and dictionaries, which are copied before they are
    walked through."""

    def __init__(self, slot: str = "", sink: str = "") -> None:
        self.slot, self.sink = slot, sink
        """What the bridge is about: the slot's name, and kafka, rabbitmq or stdout."""
        self.started_at = self.loop_at = time.monotonic()
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
        self.lag = Lag()
        self.retained: Retained | None = None
        """By the slot that the bridge streams from."""
        self.retained_at: float | None = None
        """time.monotonic() of when that was asked for."""
        self.acknowledging = Acknowledging()
        self.acknowledged_at: float | None = None
        """time.monotonic() of when the sink was last seen to have acknowledged an event; within a second."""
        self.events_per_second = 0.0
        """Events and dead letters handed to the sink, over the last RATE_SECONDS."""
        self._acknowledged = 0
        self._handed: deque[tuple[float, int]] = deque([(self.started_at, 0)])
        """(time.monotonic(), events and dead letters so far), a second apart."""

    def turn(self, now: float) -> None:
        """The loop is alive; called at every turn."""
        self.loop_at = now
        self.acknowledging.look(now)

    def received(self, lsn: int) -> None:
        """The stream has come so far."""
        self.received_lsn = max(self.received_lsn, lsn)

    def confirmed(self, lsn: int, now: float) -> None:
        """PostgreSQL has been told this position; it may be the same as before."""
        if lsn > self.confirmed_lsn or lsn >= self.received_lsn:
            self.progress_at = now
        self.confirmed_lsn = lsn
        self.lag.confirmed(lsn)

    def looked(self, look: Look, now: float) -> None:
        """What the server said of its WAL."""
        self.lag.looked(look.wal_end, look.server_seconds, now)
        if look.retained is not None:
            self.retained, self.retained_at = look.retained, now

    def restarted(self) -> None:
        """The stream begins anew."""
        self.lag.restarted()
        self.acknowledging.restarted()
        self._acknowledged = self._handed_over() - self.in_flight.events

    def count(self, now: float) -> None:
        """Called once a second or more often: what has been acknowledged since, and the rate."""
        handed = self._handed_over()
        acknowledged = handed - self.in_flight.events
        if acknowledged > self._acknowledged:
            self.acknowledged_at = now
        self._acknowledged = acknowledged
        since, before = self._handed[0]
        if now > since:
            self.events_per_second = (handed - before) / (now - since)
        if now - self._handed[-1][0] >= 1.0:
            self._handed.append((now, handed))
            while now - self._handed[0][0] > RATE_SECONDS:
                self._handed.popleft()

    def _handed_over(self) -> int:
        return sum(self.events.values()) + sum(self.dead_letters.values())

    @property
    def lag_seconds(self) -> float | None:
        """See Lag.seconds."""
        return self.lag.seconds(self.confirmed_lsn, self.received_lsn, time.monotonic(), streaming=self.streaming)

    @property
    def lag_bytes(self) -> int | None:
        """See Lag.bytes; None until changes stream for the first time."""
        return None if self.progress_at is None else self.lag.bytes(self.confirmed_lsn, self.received_lsn)

    @property
    def live(self) -> bool:
        return time.monotonic() - self.loop_at < STUCK_SECONDS

    @property
    def ready(self) -> bool:
        return self.streaming and self.live
