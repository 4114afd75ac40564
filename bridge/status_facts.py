"""What the database says for `walrus-bridge status`: the slot, the WAL that it holds, who subscribes. Reads only."""

import math
from datetime import UTC, datetime
from typing import Any

import msgspec
import psycopg

from bridge.catalog import SETTINGS as CATALOG_SETTINGS
from bridge.catalog import Catalog
from bridge.errors import SlotActive
from bridge.joined import JOIN_FROM
from bridge.lsn import format_lsn, parse_lsn
from bridge.slot import find, problem, second_slot
from bridge.sql import APPLICATION_NAME, Connection
from bridge.table import Rights
from bridge.window_facts import mark_since

# On a standby pg_current_wal_lsn() raises.
_WAL_END = "case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end"

_SERVER = """
select current_setting('server_version'), current_database(), pg_is_in_recovery(),
  to_char(now() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
"""

# max_slot_wal_keep_size has the unit MB. The walsender's own measure of how late confirmations come is for when the
# bridge cannot be asked.
_SLOT = f"""
select {_WAL_END}::text, pg_wal_lsn_diff({_WAL_END}, s.confirmed_flush_lsn)::bigint,
  pg_wal_lsn_diff({_WAL_END}, s.restart_lsn)::bigint,
  (select nullif(setting::bigint, -1) * 1024 * 1024 from pg_settings where name = 'max_slot_wal_keep_size'),
  extract(epoch from now() - (to_jsonb(s) ->> 'inactive_since')::timestamptz)::float8,
  extract(epoch from r.flush_lag)::float8, age(s.catalog_xmin), a.wait_event
from pg_replication_slots s left join pg_stat_replication r on r.pid = s.active_pid
  left join pg_stat_activity a on a.pid = s.active_pid
where s.slot_name = %s
"""

_KNOWN = """
select system_identifier, timeline, ceiling::text, confirmed::text,
  to_char(updated_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
from walrus_bridge.slot where slot_name = %s
"""

# A prepared transaction has no pid, and is given as 0.
_LOCKS = """
select distinct p.pid, nullif(b.application_name, ''), b.usename::text
from pg_stat_activity w cross join unnest(pg_blocking_pids(w.pid)) as p (pid) left join pg_stat_activity b on b.pid = p.pid
where w.application_name = %s and w.datname = current_database() and w.pid <> pg_backend_pid()
order by 1
"""

# A role is found as subscriptions.py finds it, each name once.
_SUBSCRIPTIONS = """
with counted as (
  select s.entity::oid as entity, s.claims ->> 'role' as claimed, count(*) as subscriptions,
    count(distinct md5(s.claims::text)) as claims
  from realtime.subscription s group by 1, 2)
select k.entity, ns.nspname, c.relname, coalesce(r.oid, q.oid, 0::oid), coalesce(r.rolname, q.rolname), k.claimed,
  k.subscriptions, k.claims
from counted k
left join pg_class c on c.oid = k.entity
left join pg_namespace ns on ns.oid = c.relnamespace
left join pg_roles r on r.rolname = k.claimed
left join pg_roles q on q.rolname = case when k.claimed like '"%%'
  then replace(substr(k.claimed, 2, greatest(length(k.claimed) - 2, 0)), '""', '"') else lower(k.claimed collate "C") end
order by 2, 3, 5, 6
"""


SETTINGS = CATALOG_SETTINGS | {"lock_timeout": "1s"}
"""What the session needs besides FIXED_SETTINGS."""


class SlotFacts(msgspec.Struct, frozen=True):
    name: str
    plugin: str | None
    database: str | None
    wal_status: str | None
    """reserved, extended, unreserved or lost."""
    invalidation_reason: str | None
    """From PostgreSQL 17 on."""
    active_pid: int | None
    application: str | None
    user: str | None
    address: str | None
    inactive_seconds: float | None
    """From PostgreSQL 17 on: since when nobody streams from it."""
    restart_lsn: str | None
    confirmed_lsn: str | None
    wal_end_lsn: str
    lag_bytes: int | None
    """From the confirmed position to the end of the WAL."""
    lag_seconds: float | None
    """How late the last confirmations came, as the server measures it; null when idle or not active."""
    retained_bytes: int | None
    """WAL that the server keeps for it."""
    limit_bytes: int | None
    """max_slot_wal_keep_size; null: no limit."""
    safe_bytes: int | None
    """How much may still be written before WAL that it needs may be removed; null: no limit, or lost."""
    catalog_xmin_age: int | None
    """Transactions since the one whose catalog rows it keeps from VACUUM."""
    wait_event: str | None
    """What its walsender waits for, as pg_stat_activity has it."""


class Known(msgspec.Struct, frozen=True):
    """What the bridge has written of its slot (guard.py)."""

    system_identifier: str
    timeline: int
    ceiling_lsn: str
    confirmed_lsn: str
    updated_at: str


class LockHolder(msgspec.Struct, frozen=True):
    """Who keeps a session of a bridge waiting, in this database."""

    pid: int
    """0: a prepared transaction."""
    application: str | None
    user: str | None


class Subscribers(msgspec.Struct, frozen=True):
    """Of one table and role."""

    schema: str | None
    """Null: the table is gone."""
    table: str | None
    role: str
    """As claims name it, where there is no such role."""
    subscriptions: int
    claims: int
    """Distinct ones."""
    judged: str
    """join, one_by_one, unrestricted (row level security does not apply), nobody (no policy lets the role see anything),
    no_role, no_table, or unknown (only the bridge knows, once it has judged)."""
    reason: str | None = None
    """Why not by a join."""


class DatabaseFacts(msgspec.Struct, frozen=True):
    server_version: str
    database: str
    in_recovery: bool
    at: str
    slot: SlotFacts | None
    slot_problem: str | None
    """Why the bridge cannot stream from it; that a client does is none."""
    known: Known | None
    replay_slot: SlotFacts | None
    replay_since: str | None
    """All that was committed since then can be replayed; null: not known."""
    lock_holders: list[LockHolder]
    subscribers: list[Subscribers]


def read(connection: Connection, slot: str, plugin: str) -> DatabaseFacts:
    """All in one snapshot but for the slots, which have none. Raises psycopg.Error."""
    connection.execute("begin isolation level repeatable read, read only")
    try:
        version, database, in_recovery, at = _row(connection, _SERVER)
        return DatabaseFacts(
            version,
            database,
            in_recovery,
            at,
            slot_facts(connection, slot),
            _slot_problem(connection, slot, plugin),
            _known(connection, slot),
            second := slot_facts(connection, second_slot(slot)),
            _replay_since(connection, slot, second),
            [LockHolder(*row) for row in connection.execute(_LOCKS, (APPLICATION_NAME,)).fetchall()],
            _subscribers(connection),
        )
    finally:
        if not connection.closed:
            connection.execute("rollback")


def slot_facts(connection: Connection, name: str) -> SlotFacts | None:
    """None: there is no such slot."""
    found = find(connection, name)
    row = connection.execute(_SLOT, (name,)).fetchone()
    if found is None or row is None:
        return None
    wal_end, lag, retained, limit, inactive, flush_lag, xmin_age, wait_event = row
    return SlotFacts(
        name=found.name,
        plugin=found.plugin,
        database=found.database,
        wal_status=found.wal_status,
        invalidation_reason=found.invalidation_reason,
        active_pid=found.active_pid,
        application=found.application,
        user=found.user,
        address=found.address,
        inactive_seconds=None if found.active_pid is not None or inactive is None else max(0.0, inactive),
        restart_lsn=None if found.restart_lsn is None else format_lsn(found.restart_lsn),
        confirmed_lsn=None if found.confirmed_lsn is None else format_lsn(found.confirmed_lsn),
        wal_end_lsn=wal_end,
        lag_bytes=None if lag is None else max(0, lag),
        lag_seconds=flush_lag,
        retained_bytes=None if retained is None else max(0, retained),
        limit_bytes=limit,
        safe_bytes=found.safe_wal_size,
        catalog_xmin_age=xmin_age,
        wait_event=wait_event,
    )


def _replay_since(connection: Connection, slot: str, second: SlotFacts | None) -> str | None:
    if second is None or second.confirmed_lsn is None or second.wal_status == "lost":
        return None
    since = mark_since(connection, slot, parse_lsn(second.confirmed_lsn))
    return None if since is None else f"{datetime.fromtimestamp(math.ceil(since.timestamp()), UTC):%Y-%m-%dT%H:%M:%SZ}"


def _slot_problem(connection: Connection, name: str, plugin: str) -> str | None:
    found = find(connection, name)
    wrong = None if found is None else problem(found, plugin)
    return None if wrong is None or isinstance(wrong, SlotActive) else str(wrong)


def _known(connection: Connection, slot: str) -> Known | None:
    if _row(connection, "select to_regclass('walrus_bridge.slot') is null")[0]:
        return None
    row = connection.execute(_KNOWN, (slot,)).fetchone()
    return Known(*row) if row else None


def _subscribers(connection: Connection) -> list[Subscribers]:
    """The last to be asked for: where a lock is in the way, the transaction is over."""
    if _row(connection, "select to_regclass('realtime.subscription') is null")[0]:
        return []
    rows = connection.execute(_SUBSCRIPTIONS).fetchall()
    try:
        rights = Catalog(connection).rights(list(dict.fromkeys((row[0], row[3]) for row in rows)))
    except psycopg.errors.LockNotAvailable:
        # PostgreSQL prints no policy that reads a locked table.
        why = "unknown", "a table or one that its policies read is locked"
        return [Subscribers(row[1], row[2], row[4] or row[5] or "", row[6], row[7], *why) for row in rows]
    return [
        Subscribers(
            schema, table, role or claimed or "", number, claims, *_judged(schema, rights.get((oid, role_oid)), claims)
        )
        for oid, schema, table, role_oid, role, claimed, number, claims in rows
    ]


def _judged(schema: str | None, rights: Rights | None, claims: int) -> tuple[str, str | None]:
    """As far as the catalog tells. Pure."""
    if schema is None:
        return "no_table", None
    if rights is None:
        return "no_role", None
    if not rights.subject:
        return "unrestricted", None
    if not any(policy.permissive for policy in rights.policies):
        return "nobody", None
    if claims < JOIN_FROM:
        return "one_by_one", f"fewer than {JOIN_FROM} distinct claims"
    return "unknown", None


def _row(connection: Connection, query: str) -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row
