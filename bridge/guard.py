"""The guard against silent gaps: a row per slot in the bridge's own schema (SEMANTICS, section 7).

The row holds a ceiling that the bridge never confirms past, raised ahead of need. A slot found beyond its ceiling was
re-created or moved by someone else, and a slot that is gone though its row is there was dropped: in both cases
changes may be missing, so the bridge stops and says so. A slot re-created within the slack cannot be told.
"""

import psycopg
import structlog

from bridge.errors import GapError
from bridge.lsn import Identity, format_lsn, parse_lsn
from bridge.sql import Connection, translate

log = structlog.get_logger()

SLACK_BYTES = 64 << 20
_WAY_OUT = (
    "Changes may be missing in between. What to do: find out why; `walrus-bridge run --accept-gap` goes on from where"
    " the slot is now"
)


class Guard:
    """Of one slot, on the catalog's connection, between its transactions."""

    def __init__(self, connection: Connection, slot: str, plugin: str, identity: Identity) -> None:
        self._connection = connection
        self._slot = slot
        self._plugin = plugin
        self._identity = identity
        self.ceiling = 0
        try:
            self._wal_end = self._read_wal_end()
            self._known = self._read()
        except psycopg.Error as error:
            raise translate(error, "reading walrus_bridge.slot") from error

    def _read_wal_end(self) -> int:
        row = self._connection.execute("select pg_current_wal_flush_lsn()::text").fetchone()
        assert row is not None
        return parse_lsn(row[0])

    def _read(self) -> tuple[str, int, int] | None:
        row = self._connection.execute("select to_regclass('walrus_bridge.slot') is not null").fetchone()
        self._kept = row is not None and bool(row[0])
        if not self._kept:
            log.warning("walrus_bridge.slot is missing: a slot re-created by someone else would not be noticed")
            return None
        row = self._connection.execute(
            "select system_identifier, timeline, ceiling::text from walrus_bridge.slot where slot_name = %s",
            (self._slot,),
        ).fetchone()
        return (row[0], row[1], parse_lsn(row[2])) if row else None

    def may_create(self, *, accept_gap: bool) -> None:
        """Raises GapError where the slot is gone though this bridge has used it before."""
        if self._known is not None and not accept_gap:
            raise GapError(f"slot {self._slot} is gone, but it was there before. {_WAY_OUT}")

    def check(self, confirmed: int, acknowledged: int, *, accept_gap: bool) -> None:
        """Compare the slot with what is known of it, and the server with what this process has had of it acknowledged.
        Raises GapError."""
        self._judge(
            gap(self._known, self._identity, self._slot, confirmed) or set_back(acknowledged, self._wal_end), accept_gap
        )

    def check_sink(self, known: tuple[str, int, int], reached: int, confirmed: int, *, accept_gap: bool) -> bool:
        """Compare the slot, which stands at `confirmed`, with how far the sink has the stream by its own account:
        (system identifier, timeline, end LSN), and parts of transactions up to `reached`. Raises GapError; False where
        the account is of another history than the server's, and that is accepted."""
        system, timeline, end = known
        reached = max(end, reached)
        foreign = gap((system, timeline, reached), self._identity, self._slot, reached) or set_back(
            reached, self._wal_end
        )
        self._judge(foreign or slot_ahead(self._slot, confirmed, end), accept_gap)
        return foreign is None

    def _judge(self, found: str | None, accept_gap: bool) -> None:
        if found is not None:
            if not accept_gap:
                raise GapError(f"{found}. {_WAY_OUT}")
            log.warning("gap accepted", reason=found)

    def needs_raising(self, confirmed: int) -> bool:
        return self._kept and confirmed + SLACK_BYTES // 2 > self.ceiling

    def raise_ceiling(self, confirmed: int) -> None:
        """Write a ceiling ahead of `confirmed`; only then may positions up to it be confirmed."""
        ceiling = confirmed + SLACK_BYTES
        if self._kept:
            try:
                self._connection.execute(
                    "insert into walrus_bridge.slot as s"
                    " (slot_name, system_identifier, timeline, plugin, ceiling, confirmed)"
                    " values (%s, %s, %s, %s, %s, %s) on conflict (slot_name) do update set"
                    " system_identifier = excluded.system_identifier, timeline = excluded.timeline,"
                    " plugin = excluded.plugin, ceiling = excluded.ceiling, confirmed = excluded.confirmed,"
                    " updated_at = now()",
                    (
                        self._slot,
                        self._identity.system_identifier,
                        self._identity.timeline,
                        self._plugin,
                        format_lsn(ceiling),
                        format_lsn(confirmed),
                    ),
                )
            except psycopg.Error as error:
                raise translate(error, "writing walrus_bridge.slot") from error
        self.ceiling = ceiling

    def allowed(self, lsn: int) -> int:
        """The LSN that may be confirmed when all up to `lsn` is delivered."""
        return min(lsn, self.ceiling) if self._kept else lsn


def gap(known: tuple[str, int, int] | None, identity: Identity, slot: str, confirmed: int) -> str | None:
    """Why there may be a gap, from (system identifier, timeline, ceiling) as last written; None: there is none. Pure.

    A new timeline is no gap as long as it holds what was confirmed: its history must have left the old one no
    earlier than where the slot is.
    """
    if known is None:
        return None
    system, timeline, ceiling = known
    if system != identity.system_identifier:
        return (
            f"slot {slot} is on another server than before (system identifier {identity.system_identifier}, before"
            f" {system})"
        )
    if confirmed > ceiling:
        return (
            f"slot {slot} stands at {format_lsn(confirmed)}, beyond {format_lsn(ceiling)}, past which this bridge never"
            f" confirmed: it was re-created or moved by someone else"
        )
    if timeline != identity.timeline:
        left = next((end for number, end in identity.switches if number == timeline), None)
        if left is None or left < confirmed:
            return f"the server is on timeline {identity.timeline}, which does not hold all of timeline {timeline}"
    return None


def set_back(reached: int, wal_end: int) -> str | None:
    """Why the server does not hold what was delivered: its WAL ends before that. None: it holds it. Pure."""
    if reached <= wal_end:
        return None
    return (
        f"what was delivered reaches to {format_lsn(reached)}, and the server's WAL ends at {format_lsn(wal_end)}: it was"
        f" set back to an earlier state"
    )


def slot_ahead(slot: str, confirmed: int, end: int) -> str | None:
    """Why the sink may lack what the slot does not hold any more. Pure."""
    if confirmed <= end:
        return None
    return f"slot {slot} stands at {format_lsn(confirmed)}, and what the sink holds ends at {format_lsn(end)}"
