"""The replication slot: what the server says of it, and making and dropping it."""

from typing import Any

import msgspec
import psycopg

from bridge.errors import BridgeError, SlotActive, SlotError, SourceRefused, SourceUnreachable
from bridge.lsn import format_lsn, parse_lsn
from bridge.sql import Connection, connect, describe, first_line, is_transient

_FACTS = """
select s.slot_name, s.plugin, s.database, s.temporary, s.active_pid, s.restart_lsn::text, s.confirmed_flush_lsn::text,
  s.wal_status, s.safe_wal_size, to_jsonb(s) ->> 'invalidation_reason',
  coalesce((to_jsonb(s) ->> 'failover')::bool, false), current_database(), a.application_name, host(a.client_addr), a.usename
from pg_replication_slots s left join pg_stat_activity a on a.pid = s.active_pid
where s.slot_name = %s
"""

_FAILOVER_VERSION = 17_00_00
_LOSSES = {
    "wal_removed": "has removed WAL that it needs (max_slot_wal_keep_size)",
    "rows_removed": "has removed catalog rows that it needs",
    "wal_level_insufficient": "has had a wal_level other than logical",
    "idle_timeout": "has found it idle for too long (idle_replication_slot_timeout)",
}


def second_slot(name: str) -> str:
    """The lagging slot beside the slot `name` (replay_window.py)."""
    return f"{name}_replay"


class Slot(msgspec.Struct, frozen=True):
    """A row of pg_replication_slots, and who streams from it."""

    name: str
    plugin: str | None
    database: str | None
    temporary: bool
    active_pid: int | None
    restart_lsn: int | None
    confirmed_lsn: int | None
    wal_status: str | None
    """reserved, extended, unreserved or lost."""
    safe_wal_size: int | None
    """Bytes of WAL that may still be written before it is in danger; None: no limit."""
    invalidation_reason: str | None
    """From PostgreSQL 17 on."""
    failover: bool
    """Standbys may have it too, from PostgreSQL 17 on."""
    current_database: str
    application: str | None
    address: str | None
    user: str | None


def find(connection: Connection, name: str) -> Slot | None:
    row = connection.execute(_FACTS, (name,)).fetchone()
    if row is None:
        return None
    lsns = [parse_lsn(text) if text else None for text in (row[5], row[6])]
    return Slot(row[0], row[1], row[2], row[3], row[4], lsns[0], lsns[1], *row[7:])


def problem(slot: Slot, plugin: str) -> BridgeError | None:
    """Why this slot cannot be streamed with this plugin; None: it can. Pure."""
    name = slot.name
    if slot.plugin is None:
        return SlotError(f"slot {name} is a physical one. What to do: give source.slot another name")
    if slot.plugin != plugin:
        return SlotError(
            f"slot {name} was made with the plugin {slot.plugin}, not {plugin}. What to do: set source.plugin to"
            f" {slot.plugin}, give source.slot another name, or drop the slot"
        )
    if slot.database != slot.current_database:
        return SlotError(
            f"slot {name} is of the database {slot.database}, not {slot.current_database}. What to do: connect to"
            f" {slot.database}, or give source.slot another name"
        )
    if slot.wal_status == "lost":
        return SlotError(
            f"slot {name} is lost: the server {_LOSSES.get(slot.invalidation_reason or 'wal_removed', 'has invalidated it')}."
            f" What was not delivered before is gone from it. What to do: `walrus-bridge slot drop`, then start anew"
        )
    if slot.active_pid is not None:
        return SlotActive(
            f"slot {name} is in use by pid {slot.active_pid} ({slot.application or 'unnamed client'}, user {slot.user},"
            f" from {slot.address or 'a local socket'}). What to do: stop that client, or give this bridge a slot of"
            f" its own",
            slot.active_pid,
        )
    return None


def create(connection: Connection, name: str, plugin: str) -> None:
    """Make the slot, from PostgreSQL 17 on as a failover slot. Waits for the transactions that are running.

    Raises SlotError or SourceRefused with what to do.
    """
    try:
        # Standbys that synchronise slots have it too then; without such standbys it costs nothing.
        failover = ", failover => true" if connection.info.server_version >= _FAILOVER_VERSION else ""
        connection.execute(f"select pg_create_logical_replication_slot(%s, %s{failover})".encode(), (name, plugin))
    except psycopg.Error as error:
        raise creation_error(error, name, plugin) from error


def creation_error(error: psycopg.Error, name: str, plugin: str) -> BridgeError:
    text = first_line(error)
    what = f"slot {name} cannot be made: {text}"
    if isinstance(error, psycopg.errors.DuplicateObject):
        return SlotError(f"{what}. What to do: use it as it is, or drop it first")
    if isinstance(error, psycopg.errors.InvalidName):
        return SlotError(f"{what}. What to do: name it with lower-case letters, digits and underscores")
    if "may not be used as an output plugin" in text:
        return SourceRefused(
            f"{what}. What to do: set output_plugin_libraries = 'pgoutput, test_decoding, {plugin}' in"
            f" postgresql.conf and reload the server"
        )
    if isinstance(error, psycopg.errors.UndefinedFile) or "could not access file" in text:
        return SourceRefused(
            f"{what}. What to do: install the output plugin {plugin} on the server (Debian:"
            f" postgresql-<version>-{plugin}), or use source.plugin: pgoutput"
        )
    if "wal_level" in text:
        return SourceRefused(f"{what}. What to do: set wal_level = logical in postgresql.conf and restart the server")
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return SourceRefused(f"{what}. What to do: alter role … replication (deploy/roles.sql has the rights needed)")
    if "all replication slots are in use" in text:
        return SourceRefused(f"{what}. What to do: drop an unused slot, or raise max_replication_slots")
    if is_transient(error):
        return SourceUnreachable(what)
    return SlotError(what)


def create_slot(conninfo: str, slot: str, plugin: str) -> None:
    """`walrus-bridge slot create`."""
    with connect(conninfo) as connection:
        create(connection, slot, plugin)


def drop_slot(conninfo: str, slot: str) -> None:
    """`walrus-bridge slot drop`. Raises SlotError where there is none, SlotActive where a client streams from it."""
    with connect(conninfo) as connection:
        found = _existing(connection, conninfo, slot)
        if found.active_pid is not None:
            active = problem(found, found.plugin or "")
            raise active or SlotActive(f"slot {slot} is in use by pid {found.active_pid}")
        try:
            connection.execute("select pg_drop_replication_slot(%s)", (slot,))
        except psycopg.Error as error:
            raise SlotError(f"slot {slot} cannot be dropped: {first_line(error)}") from error
        if connection.execute("select to_regclass('walrus_bridge.slot') is not null").fetchone() == (True,):
            connection.execute("delete from walrus_bridge.slot where slot_name = %s", (slot,))


def show_slot(conninfo: str, slot: str) -> dict[str, Any]:
    """`walrus-bridge slot show`: its facts, LSNs as PostgreSQL writes them. Raises SlotError where there is none."""
    with connect(conninfo) as connection:
        found = _existing(connection, conninfo, slot)
        lag = connection.execute(
            "select pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint,"
            " pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint from pg_replication_slots where slot_name = %s",
            (slot,),
        ).fetchone()
    facts: dict[str, Any] = msgspec.to_builtins(found)
    for name in ("restart_lsn", "confirmed_lsn"):
        facts[name] = None if facts[name] is None else format_lsn(facts[name])
    del facts["current_database"]
    return facts | {"lag_bytes": lag[0] if lag else None, "retained_bytes": lag[1] if lag else None}


def _existing(connection: Connection, conninfo: str, slot: str) -> Slot:
    found = find(connection, slot)
    if found is None:
        raise SlotError(f"there is no slot {slot} at {describe(conninfo)}. What to do: `walrus-bridge slot create`")
    return found
