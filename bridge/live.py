"""What a running bridge tells of itself at /status: one shape for it that tells and for those who ask."""

import http.client
import time
from typing import Final

import msgspec

from bridge import __version__
from bridge.health import MOST_TABLES, Health, bounded
from bridge.lsn import format_lsn
from bridge.units import Address

_TIMEOUT_SECONDS: Final = 5
_LOOPBACKS: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
"""Where a listener on every interface is asked."""


class TableCounts(msgspec.Struct, frozen=True):
    """Since the start: handed to the sink."""

    schema: str
    table: str
    events: int
    dead_letters: int


class Way(msgspec.Struct, frozen=True):
    """How a table's row level security was last asked for a role."""

    schema: str
    table: str
    role: str
    way: str
    """join or one_by_one."""
    reason: str | None
    """Why not by a join."""


class SlotWal(msgspec.Struct, frozen=True):
    """WAL that one of the bridge's slots makes the server keep, as last looked at."""

    slot: str
    use: str
    """stream or replay."""
    retained_bytes: int | None
    safe_bytes: int | None
    """What may still be written before the slot is in danger; null: no limit, or not known."""


class Live(msgspec.Struct, frozen=True):
    """LSNs as PostgreSQL writes them. Null is what is not known yet. docs/operations.md explains each to operators."""

    version: str
    slot: str
    sink: str
    uptime_seconds: float
    live: bool
    streaming: bool
    reconnects: int
    received_lsn: str | None
    confirmed_lsn: str | None
    lag_bytes: int | None
    lag_seconds: float | None
    in_flight_events: int
    in_flight_bytes: int
    last_acknowledgement_seconds: float | None
    """How long ago."""
    progress_age_seconds: float | None
    events_per_second: float
    held_back_seconds: float
    tables: list[TableCounts]
    row_security: list[Way]
    sent_bytes: int | None = None
    acknowledgement_wait_seconds: float | None = None
    slots: list[SlotWal] = []


class NotReachable(Exception):
    """Nothing that is understood answers there. Holds the reason."""


def tell(health: Health) -> bytes:
    """The JSON for /status."""
    return msgspec.json.format(msgspec.json.encode(live(health)), indent=2) + b"\n"


def live(health: Health) -> Live:
    now = time.monotonic()
    started = health.progress_at is not None
    events, letters = bounded(health.events), bounded(health.dead_letters)
    return Live(
        version=__version__,
        slot=health.slot,
        sink=health.sink,
        uptime_seconds=round(now - health.started_at, 3),
        live=health.live,
        streaming=health.ready,
        reconnects=health.reconnects,
        received_lsn=format_lsn(max(health.received_lsn, health.confirmed_lsn)) if started else None,
        confirmed_lsn=format_lsn(health.confirmed_lsn) if started else None,
        lag_bytes=health.lag_bytes,
        lag_seconds=_rounded(health.lag_seconds),
        in_flight_events=health.in_flight.events,
        in_flight_bytes=health.in_flight.bytes,
        last_acknowledgement_seconds=_ago(health.acknowledged_at, now),
        progress_age_seconds=_ago(health.progress_at, now),
        events_per_second=round(health.events_per_second, 3),
        held_back_seconds=round(health.held_back_seconds, 3),
        tables=[
            TableCounts(schema, table, events.get((schema, table), 0), letters.get((schema, table), 0))
            for schema, table in sorted(events.keys() | letters.keys())
        ],
        row_security=[
            Way(*of, "join" if reason is None else "one_by_one", reason)
            for of, reason in sorted(list(health.tally.ways.copy().items())[:MOST_TABLES])
        ],
        sent_bytes=health.in_flight.sent_bytes,
        acknowledgement_wait_seconds=round(health.acknowledging.waiting_seconds(now), 3),
        slots=_slots(health),
    )


def _slots(health: Health) -> list[SlotWal]:
    retained, window = health.retained, health.replay
    slots = []
    if retained is not None:
        slots.append(SlotWal(health.slot, "stream", retained.retained_bytes, retained.safe_bytes))
    if window is not None:
        slots.append(SlotWal(window.slot, "replay", window.retained_bytes, None))
    return slots


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _ago(moment: float | None, now: float) -> float | None:
    return None if moment is None else round(max(0.0, now - moment), 3)


def ask(address: Address) -> Live:
    """What the bridge that listens there tells. Raises NotReachable."""
    host = _LOOPBACKS.get(address.host, address.host)
    connection = http.client.HTTPConnection(host, address.port, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/status")
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        raise NotReachable(f"nothing answers at {address}: {error}") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise NotReachable(f"what answers at {address} is no bridge, or an older one: /status gives {answer.status}")
    try:
        return msgspec.json.decode(body, type=Live)
    except msgspec.MsgspecError as error:
        raise NotReachable(f"what answers at {address} is no bridge, or of another version: {error}") from error
