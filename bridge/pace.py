"""How fast events may go: so many a second, all together and of single tables. Pure: the clock is given.

Order is kept, so a table that has to wait makes the whole stream wait.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeVar

from bridge.patterns import parse_pattern

T = TypeVar("T")

CREDIT_SECONDS: Final = 0.1
"""So much unused time may be made up for: after silence a tenth of a second's events go at once."""
AHEAD_SECONDS: Final = 0.25
"""What is judged at a time should be gone so soon: rights count as they were then."""
EPISODE_SECONDS: Final = 60.0
"""After so long without any waiting, the next is a new one to tell of."""
_FIRST_PORTION: Final = 8

Table = tuple[str, str]
"""Schema and name."""


def parse_table(text: str) -> Table:
    """Raises ValueError for what names no single table."""
    pattern = parse_pattern(text)
    if pattern.schema is None or pattern.table is None:
        raise ValueError(f"{text!r} names no single table: write schema.table")
    return pattern.exact


class Bucket:
    """Lets through what there is credit for. An event may overdraw it: the next one then waits until that is paid."""

    def __init__(self, per_second: float) -> None:
        self._each_seconds = 1 / per_second
        self._paid_until = float("-inf")

    def wait_seconds(self, now: float) -> float:
        return max(0.0, self._paid_until - now)

    def spend(self, now: float) -> None:
        self._paid_until = max(self._paid_until, now - CREDIT_SECONDS) + self._each_seconds


class Pace:
    def __init__(self, per_second: int | None = None, per_table: Mapping[Table, int] | None = None) -> None:
        """Both in events a second; without any nothing is held back."""
        self._all = None if per_second is None else Bucket(per_second)
        self._tables = {table: Bucket(rate) for table, rate in (per_table or {}).items()}
        self.is_limited = self._all is not None or bool(self._tables)
        self.waited_seconds = 0.0
        """How long events have waited, altogether."""
        self._waited_at = float("-inf")
        self._portion = _FIRST_PORTION

    def wait_seconds(self, table: Table, now: float) -> float:
        """How long an event of this table has to wait from now on."""
        return max((bucket.wait_seconds(now) for bucket in self._buckets(table)), default=0.0)

    def spend(self, table: Table, now: float) -> None:
        """An event of this table goes."""
        for bucket in self._buckets(table):
            bucket.spend(now)

    def waited(self, seconds: float, now: float) -> bool:
        """The stream has been held back for so long. Whether that begins after it was free for a while."""
        begins = now - seconds - self._waited_at >= EPISODE_SECONDS
        self.waited_seconds += seconds
        self._waited_at = now
        return begins

    def portions(self, messages: Sequence[T]) -> Iterator[Sequence[T]]:
        """The messages in portions that are each gone within AHEAD_SECONDS, as far as the last ones tell."""
        start = 0
        while start < len(messages):
            portion = messages[start : start + self._portion] if self.is_limited else messages
            before = self.waited_seconds
            yield portion
            start += len(portion)
            waited = self.waited_seconds - before
            if waited > AHEAD_SECONDS:
                self._portion = max(1, int(len(portion) * AHEAD_SECONDS / waited))
            elif waited <= AHEAD_SECONDS / 2:
                self._portion = max(self._portion, 2 * len(portion))

    def _buckets(self, table: Table) -> list[Bucket]:
        own = self._tables.get(table)
        return [bucket for bucket in (self._all, own) if bucket is not None]
