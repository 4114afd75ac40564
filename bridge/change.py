"""The values that travel from the decoders on: transactions, changes, commits.

Both decoders (wal2json.py, pgoutput.py) give the same values for the same changes. A column's value stays the
*raw* bytes of its plugin; the codec of that plugin (values.py) turns them into JSON or into PostgreSQL's text only
where they are needed.
"""

from typing import Final, Literal

import msgspec

Kind = Literal["INSERT", "UPDATE", "DELETE", "TRUNCATE"]

INSERT: Final = "INSERT"
UPDATE: Final = "UPDATE"
DELETE: Final = "DELETE"
TRUNCATE: Final = "TRUNCATE"


class Shape(msgspec.Struct, frozen=True, eq=False):
    """Which columns a row carries: their names and type OIDs as they were when the row was written.

    A decoder makes one Shape for all rows that are alike, so a Shape may be the key of a cache by identity.
    """

    names: tuple[str, ...]
    types: tuple[int, ...]


class Row(msgspec.Struct, frozen=True, gc=False):
    """A row version as far as the stream carries it. ``values`` are raw bytes in the plugin's form, None for NULL.

    A column that the stream leaves out (an unchanged TOAST value) is not in the shape.
    """

    shape: Shape
    values: tuple[bytes | None, ...]


class Transaction(msgspec.Struct, frozen=True):
    """What a Begin message tells. ``xid`` is the top-level one, 32 bits without its epoch."""

    xid: int
    commit_lsn: int
    committed_at: str
    """UTC, ISO 8601 with microseconds: ``2022-04-29T19:04:23.123456Z``."""


class Change(msgspec.Struct, frozen=True, gc=False):
    """One row's change (or a table's, for TRUNCATE).

    ``lsn`` is the change's own (the XLogData header's), ``seq`` its place among the changes of the transaction that
    share it (COPY writes many rows in one WAL record). (commit LSN, lsn, seq) is the total order of all changes.
    """

    kind: Kind
    schema: str
    table: str
    oid: int | None
    """The table's OID where the plugin tells it (pgoutput)."""
    lsn: int
    seq: int
    transaction: Transaction
    new: Row | None
    """INSERT and UPDATE: the new row."""
    old: Row | None
    """UPDATE and DELETE: the identity columns with their values before the change."""
    old_is_full: bool | None
    """Whether ``old`` is the whole old row (REPLICA IDENTITY FULL); None where the plugin does not tell."""
    message_bytes: int
    """Size of the message that it came in: never below the size of its values' text by more than a factor."""


class Begin(msgspec.Struct, frozen=True):
    transaction: Transaction


class Commit(msgspec.Struct, frozen=True):
    """``end_lsn``: the first LSN after the commit record, which is what may be confirmed as flushed."""

    end_lsn: int


class LogicalMessage(msgspec.Struct, frozen=True):
    """pg_logical_emit_message: our heartbeat's, or another program's."""

    prefix: str
    content: bytes
    transactional: bool


Message = Begin | Change | Commit | LogicalMessage
