"""The replay window as the database tells of it: what it reaches back to, what it costs, and the marks of when the WAL was
where (replay_window.py keeps them)."""

import contextlib
from datetime import datetime

import msgspec
import psycopg

from bridge.errors import SlotError
from bridge.lsn import format_lsn, parse_lsn
from bridge.slot import Slot, find, second_slot
from bridge.sql import Connection, connect, first_line

_FACTS = """
select s.confirmed_flush_lsn::text, pg_wal_lsn_diff(pg_current_wal_flush_lsn(), s.restart_lsn)::bigint,
  age(s.catalog_xmin), s.wal_status
from pg_replication_slots s where s.slot_name = %s
"""

# No mark before it may be of a later time, as there is where the clock was set back.
_MARK_BEFORE = """
with marks as (
  select m.lsn, m.marked_at from walrus_bridge.replay_mark m
  where m.slot_name = %(slot)s and m.lsn between %(lsn)s::pg_lsn and pg_current_wal_flush_lsn())
select max(m.lsn)::text from marks m
where m.marked_at <= %(moment)s and not exists (select from marks l where l.lsn < m.lsn and l.marked_at > %(moment)s)
"""


class Facts(msgspec.Struct, frozen=True):
    """What the window is and costs."""

    slot: str
    oldest_lsn: int | None
    """Everything with a commit LSN from here on can be replayed."""
    oldest_at: datetime | None
    """Everything committed since then can be replayed, if not more. None: not known."""
    retained_bytes: int | None
    """WAL that the server keeps for it, and for others perhaps."""
    catalog_xmin_age: int | None
    """Transactions since the oldest of which VACUUM must keep dead rows of the catalogs for it."""
    wal_status: str | None
    """reserved, extended, unreserved or lost."""


def facts(connection: Connection, slot: str) -> Facts | None:
    """Of the window beside the bridge's slot `slot`; None: there is none. Raises psycopg.Error."""
    row = connection.execute(_FACTS, (second_slot(slot),)).fetchone()
    if row is None:
        return None
    lsn = row[0] and parse_lsn(row[0])
    at = mark_since(connection, slot, lsn) if lsn else None
    return Facts(second_slot(slot), lsn, at, *row[1:])


def mark_since(connection: Connection, slot: str, lsn: int) -> datetime | None:
    """A time since when nothing was committed below `lsn`; None: not known. Raises psycopg.Error."""
    if not has_marks(connection):
        return None
    row = connection.execute(
        "select min(marked_at) from walrus_bridge.replay_mark where slot_name = %s and lsn >= %s::pg_lsn",
        (slot, format_lsn(lsn)),
    ).fetchone()
    return row[0] if row else None


def mark_before(connection: Connection, slot: str, moment: datetime, lsn: int) -> int | None:
    """An LSN, not below `lsn`, from which on everything is that was committed at `moment` or later; None: not known.
    Raises psycopg.Error."""
    if not has_marks(connection):
        return None
    row = connection.execute(_MARK_BEFORE, {"slot": slot, "moment": moment, "lsn": format_lsn(lsn)}).fetchone()
    return parse_lsn(row[0]) if row and row[0] else None


def is_ours(connection: Connection, slot: str, second: Slot) -> bool:
    """Whether the bridge of `slot` has made `second`: then there are marks, from before. Raises psycopg.Error."""
    marks = connection.execute(
        "select 1 from walrus_bridge.replay_mark where slot_name = %s limit 1", (slot,)
    ).fetchone()
    return marks is not None and second.database == second.current_database


def drop_window(connection: Connection, slot: str) -> bool:
    """Drop the second slot and its marks; False: this bridge has none. Raises psycopg.Error."""
    if not has_marks(connection):
        return False
    second = find(connection, second_slot(slot))
    ours = second is not None and is_ours(connection, slot, second)
    if ours:
        connection.execute("select pg_drop_replication_slot(%s)", (second_slot(slot),))
    connection.execute("delete from walrus_bridge.replay_mark where slot_name = %s", (slot,))
    return ours


def drop_second(conninfo: str, slot: str) -> bool:
    """`walrus-bridge slot drop`, besides the slot itself. Raises SlotError where it is in use."""
    with contextlib.closing(connect(conninfo)) as connection:
        try:
            return drop_window(connection, slot)
        except psycopg.Error as error:
            raise SlotError(f"slot {second_slot(slot)} cannot be dropped: {first_line(error)}") from error


def has_marks(connection: Connection) -> bool:
    return connection.execute("select to_regclass('walrus_bridge.replay_mark') is not null").fetchone() == (True,)
