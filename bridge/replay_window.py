"""`source.replay_window`: a second slot that lags behind the bridge's own, so that there is something to replay.

It begins as a copy of the bridge's slot and is moved along as time goes by, or as WAL is written. For a time to be found
in the WAL, marks are kept in walrus_bridge.replay_mark: when the WAL was where. All of this is done by a thread on a
connection of its own, and nothing of it ever stops the stream: what goes wrong is logged and tried again.
"""

import contextlib
import threading
from typing import Final

import msgspec
import psycopg
import structlog

from bridge.backoff import Backoff
from bridge.errors import BridgeError
from bridge.health import Health
from bridge.lsn import format_lsn, parse_lsn
from bridge.slot import Slot, find, second_slot
from bridge.sql import Connection, connect, first_line
from bridge.units import Size
from bridge.window_facts import drop_window, facts, has_marks, is_ours

log = structlog.get_logger()

SHARE: Final = 500
"""A mark for each such part of the window, and the slot is moved by as much."""
_SHORTEST_ROUND_SECONDS, _LONGEST_ROUND_SECONDS = 1.0, 30.0
_SIZE_ROUND_SECONDS: Final = 5.0
_CLOSE_SECONDS: Final = 2.0

_MARK = """
insert into walrus_bridge.replay_mark (slot_name, lsn, marked_at)
select %(slot)s, w.lsn, clock_timestamp() from (select pg_current_wal_flush_lsn() as lsn offset 0) w
where coalesce(
  (select w.lsn - m.lsn >= %(bytes)s::numeric and clock_timestamp() - m.marked_at >= make_interval(secs => %(seconds)s)
   from walrus_bridge.replay_mark m where m.slot_name = %(slot)s and m.lsn <= w.lsn order by m.lsn desc limit 1), true)
on conflict do nothing
"""

# Of a table that was restored into another server, or from before that was set back: marks that cannot be.
_FORGET_MARKS = """
delete from walrus_bridge.replay_mark
where slot_name = %(slot)s and (lsn < %(kept)s::pg_lsn or lsn > pg_current_wal_insert_lsn())
"""

# Never past the bridge's own slot: what that still holds is no past yet.
_TARGET = """
select least(s.confirmed_flush_lsn, wanted.lsn)::text
from pg_replication_slots s, lateral (select case when %(seconds)s::float is null
    then pg_lsn '0/0' + greatest(pg_current_wal_flush_lsn() - pg_lsn '0/0' - %(bytes)s::numeric, 0)
    else (select max(m.lsn) from walrus_bridge.replay_mark m
          where m.slot_name = %(slot)s and m.marked_at <= clock_timestamp() - make_interval(secs => %(seconds)s)) end
  ) as wanted (lsn)
where s.slot_name = %(slot)s and wanted.lsn is not null
"""


class WindowSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Neither seconds nor bytes: no window, and one that was kept before goes."""

    connection: str
    slot: str
    """The bridge's own."""
    plugin: str
    seconds: float | None = None
    bytes: int | None = None
    limit_bytes: int = 20 << 30


class ReplayWindow:
    """Keeps the second slot, in a daemon thread, until `close`. `health` is told of it."""

    def __init__(self, settings: WindowSettings, health: Health) -> None:
        self._settings = settings
        self._health = health
        self._name = second_slot(settings.slot)
        self._closing = threading.Event()
        self._said = ""
        """The trouble that was told last."""
        self._thread = threading.Thread(target=self._run, name="replay window", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        backoff = Backoff(1.0)
        while not self._closing.is_set():
            try:
                with contextlib.closing(connect(self._settings.connection, {"search_path": ""})) as connection:
                    while self._keep(connection):
                        backoff.reset()
                        if self._closing.wait(self._round_seconds):
                            return
                    return
            except (psycopg.Error, BridgeError) as error:
                self._tell(first_line(error))
                self._closing.wait(backoff.pause_seconds())

    @property
    def _round_seconds(self) -> float:
        seconds = self._settings.seconds
        if seconds is None:
            return _SIZE_ROUND_SECONDS
        return min(max(seconds / SHARE, _SHORTEST_ROUND_SECONDS), _LONGEST_ROUND_SECONDS)

    def _keep(self, connection: Connection) -> bool:
        """One round; whether there is to be another."""
        settings = self._settings
        if settings.seconds is None and settings.bytes is None:
            if drop_window(connection, settings.slot):
                log.info("replay window dropped: source.replay_window is null now", slot=self._name)
            return False
        if not has_marks(connection):
            self._tell("the table walrus_bridge.replay_mark is missing. What to do: walrus-bridge migrate deploy")
            return True
        second, own = find(connection, self._name), find(connection, settings.slot)
        if second is not None and not is_ours(connection, settings.slot, second):
            self._tell(
                f"there is a slot {self._name} that this bridge has not made. What to do: drop it, or give source.slot another name"
            )
            return True
        self._mark(connection)
        if second is not None and (why := self._unusable(second)):
            self._begin_anew(connection, why)
            second = None
        if second is None and own is not None:
            connection.execute("select pg_copy_logical_replication_slot(%s, %s)", (settings.slot, self._name))
            self._mark(connection, every=False)  # the one before may be below where the slot begins
            log.info("replay window begun", slot=self._name)
        elif second is not None and own is not None:
            self._move(connection, second)
            self._limit(connection, own)
        self._health.replay = facts(connection, settings.slot)
        self._said = ""
        return True

    def _unusable(self, second: Slot) -> str | None:
        """Why the slot that is there cannot be copied from any more; None: it can."""
        if second.plugin != self._settings.plugin:
            return f"it is of the plugin {second.plugin}, and source.plugin is {self._settings.plugin} now"
        if second.wal_status == "lost":
            return "the server has invalidated it (max_slot_wal_keep_size, or idle_replication_slot_timeout)"
        return None

    def _mark(self, connection: Connection, *, every: bool = True) -> None:
        """`every`: only where a share of the window has passed since the last one."""
        settings = self._settings
        share = {"bytes": (settings.bytes or 0) // SHARE, "seconds": (settings.seconds or 0) / SHARE}
        connection.execute(_MARK, {"slot": settings.slot, **(share if every else {"bytes": 0, "seconds": 0})})

    def _move(self, connection: Connection, second: Slot) -> None:
        settings = self._settings
        kept = second.confirmed_lsn or 0
        connection.execute(_FORGET_MARKS, {"slot": settings.slot, "kept": format_lsn(kept)})
        values = {"slot": settings.slot, "seconds": settings.seconds, "bytes": settings.bytes}
        row = connection.execute(_TARGET, values).fetchone()
        target = parse_lsn(row[0]) if row and row[0] else 0
        if target > kept + (settings.bytes or 0) // SHARE:
            connection.execute("select pg_replication_slot_advance(%s, %s::pg_lsn)", (self._name, format_lsn(target)))

    def _limit(self, connection: Connection, own: Slot) -> None:
        """Rather no past than no disk. Where the bridge's own slot needs the WAL too, dropping this one frees nothing."""
        found = facts(connection, self._settings.slot)
        second = find(connection, self._name)
        if found is None or second is None or (found.retained_bytes or 0) <= self._settings.limit_bytes:
            return
        if (second.restart_lsn or 0) < (own.restart_lsn or 0):
            self._begin_anew(
                connection,
                f"it holds {(found.retained_bytes or 0) >> 20} MiB of WAL, more than source.replay_limit"
                f" ({Size(self._settings.limit_bytes)})",
            )

    def _begin_anew(self, connection: Connection, why: str) -> None:
        log.error("replay window dropped, and begun anew from now on", slot=self._name, reason=why)
        connection.execute("select pg_drop_replication_slot(%s)", (self._name,))
        self._health.replay_restarts += 1

    def _tell(self, trouble: str) -> None:
        self._health.replay = None
        if trouble != self._said:
            self._said = trouble
            log.warning("the replay window cannot be kept", slot=self._name, reason=trouble)
