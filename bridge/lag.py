"""How far delivery is behind what PostgreSQL has committed, in seconds and bytes. Pure: times come in.

Two things tell that all up to a moment is delivered. Now and then the loop looks at the server's clock and the end of its
WAL: once that position is confirmed, all that was committed up to then is delivered. And a transaction that is confirmed
tells when it was committed, which is all there is to go by while what piled up before the bridge started is caught up
with. All times are the server's, so that clocks need not agree.
"""

from collections import deque
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from bridge.change import Begin, Change, Message

MARK_SECONDS: Final = 0.25
"""One transaction is noted down so often at most."""
FRESH_SECONDS: Final = 10.0
"""So long the last look at the end of the WAL says that there is nothing more."""
_MANY: Final = 512
"""With more looks than this every second one is forgotten, and from then on fewer are kept."""


class Retained(msgspec.Struct, frozen=True):
    """WAL that the slot makes the server keep, in bytes."""

    retained_bytes: int | None
    """None: it has lost its position."""
    safe_bytes: int | None
    """How much may still be written before the slot is in danger; None: there is no limit."""


class Look(msgspec.Struct, frozen=True):
    """What the server said of its WAL."""

    wal_end: int
    server_seconds: float
    """Its clock, in seconds since 1970."""
    retained: Retained | None = None
    """None: not asked."""


class Lag:
    def __init__(self) -> None:
        self.wal_end = 0
        """The end of the server's WAL when it was last looked at; 0: never."""
        self._delivered: float | None = None
        """All that was committed up to this moment is delivered; seconds since 1970."""
        self._clock = 0.0
        """The server's time less time.monotonic()."""
        self._looked_at: float | None = None
        self._marked_at = 0.0
        self._looks: deque[tuple[int, float]] = deque()
        """(end of WAL, the server's time) of looks whose position is not confirmed yet."""
        self._apart = 0.0
        """So many seconds are between two of them."""
        self._commits: deque[tuple[int, float]] = deque()
        """(commit LSN, commit time) of transactions that are not confirmed yet."""

    def looked(self, wal_end: int, server_seconds: float, now: float) -> None:
        """The end of the server's WAL, and its clock; `now` is time.monotonic()."""
        self.wal_end, self._clock, self._looked_at = wal_end, server_seconds - now, now
        if not self._looks:
            self._apart = 0.0
        if not self._looks or server_seconds - self._looks[-1][1] >= self._apart:
            self._looks.append((wal_end, server_seconds))
        if len(self._looks) > _MANY:
            self._looks = deque(list(self._looks)[::2])
            self._apart = 2 * (self._apart or MARK_SECONDS)

    def read(self, messages: Sequence[Message], now: float) -> None:
        """A batch of the stream's messages: when the transaction of the last one was committed."""
        if now - self._marked_at < MARK_SECONDS:
            return
        for message in reversed(messages):
            if isinstance(message, Change | Begin):
                self._marked_at = now
                transaction = message.transaction
                self._commits.append(
                    (transaction.commit_lsn, datetime.fromisoformat(transaction.committed_at).timestamp())
                )
                return

    def confirmed(self, lsn: int) -> None:
        """All up to `lsn` is delivered."""
        while self._looks and self._looks[0][0] <= lsn:
            self._deliver(self._looks.popleft()[1])
        # What is confirmed is a transaction's end, which is past the LSN of its commit.
        while self._commits and self._commits[0][0] < lsn:
            self._deliver(self._commits.popleft()[1])

    def restarted(self) -> None:
        """The stream begins anew: what was not confirmed comes again."""
        self._commits.clear()
        self._looks.clear()

    def seconds(self, confirmed: int, received: int, now: float, *, streaming: bool) -> float | None:
        """0 where all is delivered, else the time since all was, at most. None: not known yet."""
        if self._looked_at is None:
            return None
        if streaming and now - self._looked_at < FRESH_SECONDS and confirmed >= max(received, self.wal_end):
            return 0.0
        delivered = self._delivered
        return None if delivered is None else max(0.0, now + self._clock - delivered)

    def bytes(self, confirmed: int, received: int) -> int:
        """Of WAL, from the confirmed position to the end as far as it is known."""
        return max(0, max(received, self.wal_end) - confirmed)

    def _deliver(self, moment: float) -> None:
        self._delivered = moment if self._delivered is None else max(self._delivered, moment)
