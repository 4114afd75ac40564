"""Where, in a topic's partitions, the events at or after an LSN begin. Pure: what is read comes through `Partition`.

The offsets of a partition are not in the order of commit LSNs. After a crash a run of events comes again; a replay or a
retried dead letter appends old ones; a slot that was set back does it at length; other programs write messages without an
LSN. So a bisection alone may land behind the first event that is needed: at the offset that it looks at, an LSN that is
too small says nothing of what lies before. It is used for a time only, and the time for a bound that holds:

1. Bisect, for an event L whose LSN is below the wanted one, X, as near as may be.
2. Whatever has an LSN of X or more was committed after L, for a server writes its WAL in the order of LSNs; and it was sent
   after it was committed. So its message is not older than L's commit, but for the difference of two clocks: PostgreSQL's, by
   which L was committed, and the bridge's (or the broker's), by which messages are stamped. CLOCK_SECONDS are allowed for.
3. Kafka tells the first offset whose message is not older than a time, whatever the order of the times: its index keeps the
   greatest so far. No event that is needed lies before that offset.
4. Read on from there: the first event with X or more is the first there is.

No step assumes an order of the offsets. L may be any event, also one that came again. What is assumed: X is of the same server
(system identifier) as L, and the bridge does not go back to a server whose place a standby has taken. Clocks that are seen to
differ too much are an error; `scan` reads everything, and asks no clock.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final, Protocol

import msgspec

from bridge.errors import BridgeError, Exit

CLOCK_SECONDS: Final = 60
"""By so much PostgreSQL's clock may be ahead of the one that stamps the messages."""
_WINDOW: Final = 64
"""So many messages are looked at in one place for one that says where it is."""


class ClocksDiffer(BridgeError):
    exit = Exit.SINK_REFUSED


class UnknownServer(BridgeError):
    """It is not clear which server's LSN is meant, or nothing of that server is there."""

    exit = Exit.USAGE


class Stamp(msgspec.Struct, frozen=True):
    """What an event of the bridge says of its place."""

    commit_lsn: int
    system_identifier: str
    committed_ms: int
    """By PostgreSQL's clock; since 1970, like `sent_ms`."""
    sent_ms: int
    """The message's timestamp."""
    again: bool
    """A replay or a retry, which says nothing of how far the stream was."""


class Message(msgspec.Struct, frozen=True):
    offset: int
    stamp: Stamp | None
    """None: not of a bridge."""


class Partition(Protocol):
    name: str
    """For errors."""
    low: int
    """The oldest offset that is left."""
    end: int
    """Past the last one."""

    def read(self, start: int) -> Iterator[Message]:
        """The messages from offset `start` on, up to `end`, in order. Offsets may be missing."""

    def sent_since(self, ms: int) -> int:
        """The first offset whose message has a timestamp of `ms` or later; `end` where there is none."""


class Found(msgspec.Struct, frozen=True):
    offset: int
    commit_lsn: int | None
    """Of the event there; None: there is none yet, and `offset` is the end."""
    is_oldest: bool
    """Nothing before it is left, though there was: events that are wanted may have been deleted."""


def find(partitions: Sequence[Partition], lsn: int, system: str | None = None, *, scan: bool = False) -> list[Found]:
    """For each partition the offset of the first event with a commit LSN of `lsn` or more, or its end.

    `system`: of which server `lsn` is; None: of the only one that there are events of. `scan`: read everything from the
    oldest offset on, rather than from where the clocks tell. Raises ClocksDiffer, UnknownServer, and what reading raises.
    """
    look = _Look(system, asks_clocks=not scan)
    since: int | None = None
    if not scan:
        before = [event for each in partitions if (event := _nearest_before(each, lsn, look))]
        if before:
            since = max(event.committed_ms for event in before) - CLOCK_SECONDS * 1000
    found = [_first(each, lsn, look, since) for each in partitions]
    look.check_seen()
    return found


def target(found: int, committed: int | None, *, forward: bool) -> int:
    """Where the group is set: not past what it has not read, unless that is wanted (`forward`)."""
    return found if committed is None or forward else min(found, committed)


def _first(partition: Partition, lsn: int, look: "_Look", since: int | None) -> Found:
    start = partition.low if since is None else max(partition.low, partition.sent_since(since))
    is_oldest = 0 < partition.low == start
    for message in partition.read(start):
        stamp = look.at(partition, message)
        if stamp is None:
            continue
        if stamp.commit_lsn >= lsn:
            return Found(message.offset, stamp.commit_lsn, is_oldest)
        is_oldest = False
    return Found(partition.end, None, is_oldest)


def _nearest_before(partition: Partition, lsn: int, look: "_Look") -> Stamp | None:
    """An event with a lower LSN: the last one where the LSNs ascend, any one where they do not. None: none was met."""
    low, high = partition.low, partition.end
    latest: Stamp | None = None
    while low < high:
        middle = (low + high) // 2
        found = _stream_at(partition, middle, high, look)
        if found is None or found[1].commit_lsn >= lsn:
            high = middle
        else:
            low = found[0] + 1
            latest = max(latest or found[1], found[1], key=lambda stamp: stamp.committed_ms)
    return latest


def _stream_at(partition: Partition, start: int, high: int, look: "_Look") -> tuple[int, Stamp] | None:
    """An event of the stream itself at `start` or later, with its offset: the next one, or, past many that are none, the
    next one after a leap. None: none was met before `high`."""
    leap = _WINDOW
    while start < high:
        last = None
        for message in islice(partition.read(start), _WINDOW):
            last = message.offset
            stamp = look.at(partition, message)
            if last >= high:
                return None
            if stamp is not None and not stamp.again:
                return last, stamp
        if last is None:
            return None
        start = max(last + 1, start + leap)
        leap *= 2
    return None


class _Look:
    """Keeps apart what is of the server that is meant."""

    def __init__(self, system: str | None, *, asks_clocks: bool) -> None:
        self._system = system
        self._is_given = system is not None
        self._asks_clocks = asks_clocks
        self._seen: dict[str, None] = {}

    def at(self, partition: Partition, message: Message) -> Stamp | None:
        """Its stamp, if it is an event of that server."""
        stamp = message.stamp
        if stamp is None:
            return None
        self._seen[stamp.system_identifier] = None
        if self._system is None:
            self._system = stamp.system_identifier
        if stamp.system_identifier == self._system:
            ahead_ms = stamp.committed_ms - stamp.sent_ms
            if self._asks_clocks and ahead_ms > CLOCK_SECONDS * 500:
                raise ClocksDiffer(
                    f"{partition.name}, offset {message.offset}: the message is {ahead_ms / 1000:.0f} s older than the commit"
                    " that it tells of. The clocks of PostgreSQL and of what stamps the messages differ too much to go by."
                    " What to do: --scan, which reads everything and asks no clock"
                )
            return stamp
        if not self._is_given:
            raise UnknownServer(
                f"{partition.name}: there are events of several servers ({', '.join(self._seen)}), each with LSNs of its own."
                " What to do: say whose LSN it is by --system; the running server's is select system_identifier from"
                " pg_control_system(), and events' ids begin with it"
            )
        return None

    def check_seen(self) -> None:
        """A server that nothing is of is not meant: the offsets would all be at the end."""
        if self._seen and self._system not in self._seen:
            raise UnknownServer(
                f"there are no events of the server {self._system}, only of {', '.join(self._seen)}. What to do: correct"
                " --system; events' ids begin with it"
            )
