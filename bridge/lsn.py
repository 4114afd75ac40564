"""Log sequence numbers: positions in the write-ahead log, as plain integers of 64 bits.

They are integers everywhere inside, so that they compare and sort; text only at the edges.
"""

import re

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
