"""The preflight check of the server: version, settings, free slots and senders, the plugin, the slot."""

import msgspec
import psycopg

from bridge import window_facts
from bridge.errors import BridgeError
from bridge.finding import Finding, error, of_error, ok, warning
from bridge.lsn import format_lsn
from bridge.replication import ReplicationStream
from bridge.session import matches_standby_names
from bridge.slot import Slot, creation_error, find, problem
from bridge.sql import APPLICATION_NAME, Connection
from bridge.wal2json import encoding_problem

OLDEST, NEWEST = 14, 18
PLUGIN_WAIT_SECONDS = 5

_FACTS = """
select current_setting('server_version'), current_setting('server_version_num')::int, pg_is_in_recovery(),
  current_setting('wal_level'), current_setting('max_replication_slots')::int,
  (select count(*) from pg_replication_slots)::int, current_setting('max_wal_senders')::int,
  (select count(*) from pg_stat_replication)::int, current_setting('max_slot_wal_keep_size'),
  current_setting('synchronous_standby_names'), coalesce(current_setting('synchronized_standby_slots', true), '')
"""


class ServerFacts(msgspec.Struct, frozen=True):
    """What the server says of itself."""

    version: str
    version_number: int
    """server_version_num: 150020 for 15.20."""
    in_recovery: bool
    wal_level: str
    max_slots: int
    slots: int
    max_senders: int
    senders: int
    max_slot_wal_keep_size: str
    synchronous_standby_names: str
    synchronized_standby_slots: str
    """Empty before PostgreSQL 17."""

    @property
    def can_decode(self) -> bool:
        return self.wal_level == "logical" and not self.in_recovery


def read_facts(connection: Connection) -> ServerFacts:
    row = connection.execute(_FACTS).fetchone()
    assert row is not None
    return ServerFacts(*row)


def settings(facts: ServerFacts, slot: Slot | None) -> list[Finding]:
    """What the settings allow; `slot` is the configured one where it exists. Pure."""
    return [
        _version(facts),
        _recovery(facts),
        _wal_level(facts),
        _slots(facts, slot),
        _senders(facts, slot),
        _kept_wal(facts),
        _standby_names(facts),
        *_failover(facts, slot),
    ]


def _version(facts: ServerFacts) -> Finding:
    major = facts.version_number // 10000
    what = f"PostgreSQL {facts.version}"
    if major < OLDEST:
        return error("version", f"{what} is too old", f"use PostgreSQL {OLDEST} to {NEWEST}")
    if major > NEWEST:
        return warning(
            "version", f"{what} is newer than what this was tested with", f"{OLDEST} to {NEWEST} were tested"
        )
    return ok("version", what)


def _recovery(facts: ServerFacts) -> Finding:
    if facts.in_recovery:
        return error("primary", "the server is a standby in recovery", "connect to the primary")
    return ok("primary", "not in recovery")


def _wal_level(facts: ServerFacts) -> Finding:
    if facts.wal_level == "logical":
        return ok("wal_level", "logical")
    remedy = "set wal_level = logical in postgresql.conf and restart the server"
    return error("wal_level", f"{facts.wal_level}, not logical", remedy)


def _slots(facts: ServerFacts, slot: Slot | None) -> Finding:
    what = f"{facts.slots} of {facts.max_slots} slots in use"
    if slot is None and facts.slots >= facts.max_slots:
        remedy = "drop an unused slot, or raise max_replication_slots (needs a restart)"
        return error("max_replication_slots", f"{what}, none is free", remedy)
    return ok("max_replication_slots", what)


def _senders(facts: ServerFacts, slot: Slot | None) -> Finding:
    what = f"{facts.senders} of {facts.max_senders} senders in use"
    ours_runs = slot is not None and slot.active_pid is not None
    if facts.senders >= facts.max_senders and not ours_runs:
        return error("max_wal_senders", f"{what}, none is free", "raise max_wal_senders (needs a restart)")
    return ok("max_wal_senders", what)


def _kept_wal(facts: ServerFacts) -> Finding:
    if facts.max_slot_wal_keep_size == "-1":
        return ok("max_slot_wal_keep_size", "no limit: while the bridge is away, WAL grows until the disk is full")
    limit = facts.max_slot_wal_keep_size
    return ok("max_slot_wal_keep_size", f"{limit}: a bridge that is further behind loses its slot")


def _standby_names(facts: ServerFacts) -> Finding:
    names = facts.synchronous_standby_names
    if matches_standby_names(names, APPLICATION_NAME):
        what = f"{names!r} matches {APPLICATION_NAME}, so each commit would wait for the bridge, and it for each commit"
        return error("synchronous_standby_names", what, "name the standbys there")
    return ok("synchronous_standby_names", f"{names!r} does not match the bridge" if names else "empty")


def _failover(facts: ServerFacts, slot: Slot | None) -> list[Finding]:
    """Only where somebody has made ready for a failover."""
    if slot is None or not facts.synchronized_standby_slots:
        return []
    if slot.failover:
        return [ok("failover", f"standbys may have the slot {slot.name}, too")]
    remedy = f"stop the bridge, and on a replication connection: ALTER_REPLICATION_SLOT {slot.name} (FAILOVER)"
    return [warning("failover", f"the slot {slot.name} is no failover slot: a failover loses it", remedy)]


def replication(conninfo: str) -> Finding:
    """A replication connection: the login's right, and the server's pg_hba.conf."""
    try:
        stream = ReplicationStream(conninfo)
    except BridgeError as raised:
        return of_error("replication", raised)
    try:
        identity = stream.identify()
    except BridgeError as raised:
        return of_error("replication", raised)
    finally:
        stream.close()
    return ok("replication", f"system {identity.system_identifier}, timeline {identity.timeline}")


def plugin(connection: Connection, name: str) -> Finding:
    """Load the plugin by making a temporary slot, which goes with this connection."""
    key = "source.plugin"
    encoding = connection.info.parameter_status("server_encoding") or "UTF8"
    if name == "wal2json" and (refused := encoding_problem(encoding)):
        return of_error(key, refused)
    try:
        connection.execute(f"set statement_timeout = '{PLUGIN_WAIT_SECONDS}s'")
        slot = f"walrus_bridge_check_{connection.info.backend_pid}"
        connection.execute("select pg_create_logical_replication_slot(%s, %s, true)", (slot, name))
        connection.execute("select pg_drop_replication_slot(%s)", (slot,))
    except psycopg.errors.QueryCanceled:
        # The plugin is loaded before the wait for running transactions begins.
        what = f"{name} is allowed, but making a slot waits for a transaction that has run for {PLUGIN_WAIT_SECONDS} s"
        return warning(key, what, "see pg_stat_activity for old transactions; the first start waits for their end")
    except psycopg.Error as raised:
        return of_error(key, creation_error(raised, "(a temporary one, to try the plugin)", name))
    finally:
        connection.execute("reset statement_timeout")
    return ok(key, f"{name} is installed and allowed")


def slot(connection: Connection, name: str, plugin: str) -> tuple[Slot | None, Finding]:
    """The configured slot, and whether it can be streamed."""
    key = "source.slot"
    found = find(connection, name)
    if found is None:
        return None, ok(key, f"{name} is not there yet; the first start makes it")
    if found.active_pid is not None and found.application == APPLICATION_NAME:
        return found, ok(key, f"{name} is streamed by a walrus-bridge now (pid {found.active_pid})")
    if fault := problem(found, plugin):
        return found, of_error(key, fault)
    position = format_lsn(found.confirmed_lsn or 0)
    if found.wal_status == "unreserved":
        what = f"{name} is confirmed up to {position}, and the WAL it needs is about to be removed"
        return found, warning(key, what, "start the bridge now, or raise max_slot_wal_keep_size")
    return found, ok(key, f"{name}, confirmed up to {position}")


def replay_window(connection: Connection, slot: str, window: str | None, facts: ServerFacts) -> Finding:
    """Whether there is a second slot, or room for it, and what it holds."""
    key = "source.replay_window"
    found = window_facts.facts(connection, slot)
    if window is None:
        if found is None:
            return ok(key, "null: what is delivered cannot be replayed")
        what = f"null, and {found.slot} holds {_mebibytes(found.retained_bytes)} of WAL"
        return warning(key, what, "the next start drops it, if the bridge has made it")
    if found is None:
        if facts.slots + (find(connection, slot) is None) >= facts.max_slots:
            remedy = "drop an unused slot, or raise max_replication_slots (needs a restart)"
            return warning(key, f"{window}, and there is no slot free for it", remedy)
        return ok(key, f"{window}; its slot is not there yet, the next start makes it")
    if found.wal_status == "lost":
        return warning(key, f"{found.slot} has lost its WAL", "the bridge begins it anew")
    since = f", committed since {found.oldest_at:%Y-%m-%dT%H:%MZ}" if found.oldest_at else ""
    oldest = format_lsn(found.oldest_lsn or 0)
    return ok(key, f"{window}: from {oldest} on{since}; holds {_mebibytes(found.retained_bytes)} of WAL")


def _mebibytes(number: int | None) -> str:
    return f"{(number or 0) / (1 << 20):.0f} MiB"
