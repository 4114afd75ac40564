"""Whether a snapshot contains a transaction. Pure.

The walsender sends a commit before other sessions can see it, by milliseconds, or under synchronous replication by
much more. So a change is judged only in a snapshot that contains its transaction.
"""

import msgspec

_EPOCH = 1 << 32


class Snapshot(msgspec.Struct, frozen=True):
    xmin: int
    xmax: int
    running: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> "Snapshot":
        """pg_current_snapshot(): ``xmin:xmax:xip,xip``, in transaction ids of 64 bits."""
        xmin, xmax, running = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(int(xid) for xid in running.split(",") if xid))

    def contains(self, xid: int) -> bool:
        """Whether the top-level transaction `xid` (32 bits, as the stream gives it) had ended.

        Its epoch is the one that brings it nearest to xmax: a transaction in the stream is never two thousand
        million away.
        """
        distance = (xid - self.xmax) % _EPOCH
        if distance >= _EPOCH // 2:
            distance -= _EPOCH
        full = self.xmax + distance
        return full < self.xmin or (full < self.xmax and full not in self.running)

    def has_later(self, xid: int, than: int) -> bool:
        """Whether `xid` was given out after `than` (both of 32 bits), and not after the snapshot. Numbers come round: what
        is so old that it would have to be of the future is not later."""
        return 0 < (xid - than) % _EPOCH < (self.xmax - than) % _EPOCH
