"""What is in flight, and therefore which LSN may be confirmed. Pure: no I/O, no clock.

The rules (SEMANTICS, positions):
1. Only a transaction's end LSN may be confirmed, and only when every event of it and of all before it has been
   acknowledged by the broker.
2. A keepalive's position queues behind what is in flight, like an empty transaction; inside a transaction it says
   nothing.
3. A position never goes back: PostgreSQL 14 and 16 would move the slot back.
"""

from collections import deque


class InFlight:
    """What the sink holds that the broker has not acknowledged. Shared with the checkpoints before: after a lost
    stream the sink still holds what it had, and that counts for the budget."""

    __slots__ = ("bytes", "events", "sent_bytes")

    def __init__(self, sent_bytes: int = 0) -> None:
        self.events = 0
        self.bytes = 0
        self.sent_bytes = sent_bytes
        """Of all events so far, those that were acknowledged as well."""


class Ticket:
    """Counts the events that the broker has not acknowledged yet, for one or several whole transactions."""

    __slots__ = ("_in_flight", "end_lsn", "pending")

    def __init__(self, in_flight: InFlight) -> None:
        self._in_flight = in_flight
        self.pending = 0
        self.end_lsn: int | None = None
        """Set when the ticket closes, at a commit; never before."""

    def sent(self, size: int) -> None:
        """An event of `size` bytes goes to the sink."""
        self.pending += 1
        self._in_flight.events += 1
        self._in_flight.bytes += size
        self._in_flight.sent_bytes += size

    def acknowledge(self, size: int) -> None:
        """The broker has it (for a dead letter: has the dead letter). Sinks call this once per event sent."""
        self.pending -= 1
        self._in_flight.events -= 1
        self._in_flight.bytes -= size
        if self.pending < 0:
            raise AssertionError("an event was acknowledged twice")


class Checkpoint:
    """The queue of tickets, oldest first."""

    def __init__(self, confirmed: int = 0, in_flight: InFlight | None = None) -> None:
        self.confirmed = confirmed
        """The LSN up to which all is acknowledged: what a status update reports as flushed."""
        self.in_flight = in_flight or InFlight()
        self._closed: deque[Ticket] = deque()
        self.current = Ticket(self.in_flight)
        """The ticket for events sent now."""

    @property
    def in_flight_events(self) -> int:
        return self.in_flight.events

    @property
    def in_flight_bytes(self) -> int:
        return self.in_flight.bytes

    @property
    def newest(self) -> Ticket | None:
        """The last whole transaction that waits for the broker, if one does."""
        return self._closed[-1] if self._closed and self._closed[-1].pending else None

    def commit(self, end_lsn: int) -> None:
        """A transaction ends, all of whose events have been sent."""
        self.current.end_lsn = end_lsn
        if self.current.pending:
            self._closed.append(self.current)
            self.current = Ticket(self.in_flight)
        elif self._closed:
            # Nothing of its own to wait for: it goes with the newest ticket that waits.
            self._closed[-1].end_lsn = max(self._closed[-1].end_lsn or 0, end_lsn)
            self.current.end_lsn = None
        else:
            self.confirmed = max(self.confirmed, end_lsn)
            self.current.end_lsn = None

    keepalive = commit
    """A keepalive's position, received outside of a transaction with everything before it already sent."""

    def advance(self) -> int:
        """Confirm what is contiguous and acknowledged; the LSN that may be reported as flushed."""
        while self._closed and not self._closed[0].pending:
            self.confirmed = max(self.confirmed, self._closed.popleft().end_lsn or 0)
        return self.confirmed
