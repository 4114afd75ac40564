"""Log sequence numbers: positions in the write-ahead log, as plain integers of 64 bits.

They are integers everywhere inside, so that they compare and sort; text only at the edges.
"""

import re

import msgspec

_TEXT = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


def parse_lsn(text: str) -> int:
    """``0/15E4E50`` as PostgreSQL writes it → the integer. ValueError when it is none."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError(f"not an LSN: {text!r} (PostgreSQL writes them like 0/15E4E50)")
    return (int(match[1], 16) << 32) | int(match[2], 16)


def format_lsn(lsn: int) -> str:
    """The integer → ``0/15E4E50``, as PostgreSQL writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


class Identity(msgspec.Struct, frozen=True):
    """IDENTIFY_SYSTEM and TIMELINE_HISTORY: which server wrote the WAL, and which timeline wrote which LSN."""

    system_identifier: str
    timeline: int
    switches: tuple[tuple[int, int], ...] = ()
    """(timeline, LSN at which it ended) of the timelines before this one, oldest first."""

    def timeline_of(self, lsn: int) -> int:
        """The timeline that wrote `lsn`."""
        return next((timeline for timeline, end in self.switches if lsn < end), self.timeline)


def parse_history(text: str) -> tuple[tuple[int, int], ...]:
    """A timeline history file: lines of timeline, the LSN at which it ended, and a reason."""
    lines = (re.match(r"\s*(\d+)\s+([0-9A-F]+/[0-9A-F]+)", line) for line in text.split("\n"))
    return tuple((int(match[1]), parse_lsn(match[2])) for match in lines if match)
