"""A Status on one screen. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final

from bridge.live import Live
from bridge.printable import printable
from bridge.status import Status
from bridge.status_facts import SlotFacts, Subscribers

MANY: Final = 20
"""So many tables and roles are listed; `--json` has all."""
_JUDGED: Final = {
    "join": "by a join",
    "one_by_one": "one by one",
    "unrestricted": "row level security does not apply",
    "nobody": "no policy lets this role see anything",
    "no_role": "no such role: gets nothing",
    "no_table": "the table is gone",
    "unknown": "not known",
}

_ASK: Final = ": the bridge tells once it has judged; see `walrus-bridge explain`"


def screen(status: Status) -> str:
    pairs = [*_slot(status), *_position(status), *_bridge(status), *_rest(status)]
    width = max(len(name) for name, _ in pairs)
    lines = [f"{name:{width}}  {value}" for name, value in pairs]
    lines += ["", *_subscribers(status.subscribers)]
    if status.notes:
        lines += ["", *(f"! {note}" for note in status.notes)]
    return "\n".join(map(printable, lines))


def _slot(status: Status) -> Iterator[tuple[str, str]]:
    yield "at", f"{status.at}, PostgreSQL {status.server_version}, database {status.database}"
    slot = status.slot
    if slot is None:
        yield "slot", f"{status.slot_name}: not there"
        return
    if slot.active_pid is not None:
        who = f"streamed by pid {slot.active_pid} ({slot.application or 'unnamed client'}"
        state = f"{who}, user {slot.user}, from {slot.address or 'a local socket'})"
    else:
        since = "" if slot.inactive_seconds is None else f" for {duration(slot.inactive_seconds)}"
        state = f"nobody streams from it{since}"
    yield "slot", f"{slot.name}, plugin {slot.plugin or '-'}, {state}"


def _position(status: Status) -> Iterator[tuple[str, str]]:
    slot = status.slot
    if slot is None:
        return
    yield "position", f"{slot.confirmed_lsn or '-'} of {slot.wal_end_lsn}"
    behind = "-" if status.lag_bytes is None else size(status.lag_bytes)
    late = "seconds not known" if status.lag_seconds is None else duration(status.lag_seconds)
    yield "lag", f"{behind}, {late}"
    yield "WAL retained", _retained(slot)


def _retained(slot: SlotFacts) -> str:
    kept = "-" if slot.retained_bytes is None else size(slot.retained_bytes)
    limit = "no limit" if slot.limit_bytes is None else f"limit {size(slot.limit_bytes)}"
    room = "" if slot.safe_bytes is None else f", {size(max(0, slot.safe_bytes))} may still be written"
    return f"{kept}, {limit}{room} ({slot.wal_status or 'state not known'})"


def _bridge(status: Status) -> Iterator[tuple[str, str]]:
    told = status.bridge
    if told is None:
        yield "bridge", f"not reachable: {status.bridge_problem}. The rest is the database's part"
        return
    state = "streaming" if told.streaming else "not streaming" if told.live else "stuck"
    again = f", reconnected {told.reconnects} times" if told.reconnects > 1 else ", reconnected once"
    up = f"up for {duration(told.uptime_seconds)}{again if told.reconnects else ''}"
    yield "bridge", f"{state}, version {told.version}, sink {told.sink}, {up}"
    yield "in flight", f"{count(told.in_flight_events, 'event')}, {size(told.in_flight_bytes)}"
    yield "last acknowledgement", _ago(told.last_acknowledgement_seconds, "none yet")
    yield "rate", _rate(told)


def _rate(told: Live) -> str:
    total = sum(each.events for each in told.tables)
    held = f", held back by limits for {duration(told.held_back_seconds)}" if told.held_back_seconds else ""
    return f"{told.events_per_second:,.1f} events/s over the last minute, {count(total, 'event')} since the start{held}"


def _rest(status: Status) -> Iterator[tuple[str, str]]:
    kept = "" if status.letters_kept is None else f"{status.letters_kept:,} in the broker"
    if status.dead_letters is not None:
        listed = ", ".join(f"{each.schema}.{each.table} {each.dead_letters:,}" for each in status.dead_letters[:MANY])
        made = f"{listed} since the start" if listed else "" if kept else "none"
        yield "dead letters", f"{kept}; {made}" if kept and made else kept or made
    elif kept:
        yield "dead letters", kept
    replay, slot = status.replay, status.replay.slot
    if slot is not None:
        kept = "-" if slot.retained_bytes is None else size(slot.retained_bytes)
        since = "" if replay.since is None else f", committed since {replay.since}"
        age = "" if slot.catalog_xmin_age is None else f", catalog_xmin is {slot.catalog_xmin_age:,} transactions old"
        yield (
            "replay window",
            f"{replay.window or 'not configured'}: slot {slot.name} holds {kept} from {slot.confirmed_lsn or '-'} on{since}{age}",
        )
    else:
        yield (
            "replay window",
            "none" if replay.window is None else f"{replay.window}: there is no slot {status.slot_name}_replay",
        )


def _subscribers(subscribers: Sequence[Subscribers]) -> Iterator[str]:
    if not subscribers:
        yield "no subscriptions"
        return
    rows = [("table", "role", "subscriptions", "claims", "judged")]
    for each in subscribers[:MANY]:
        how = _JUDGED.get(each.judged, each.judged)
        reason = f": {each.reason}" if each.reason else _ASK if each.judged == "unknown" else ""
        rows.append(
            (
                "-" if each.table is None else f"{each.schema}.{each.table}",
                each.role or "-",
                f"{each.subscriptions:,}",
                f"{each.claims:,}",
                f"{how}{reason}",
            )
        )
    widths = [max(len(row[index]) for row in rows) for index in range(4)]
    for table, role, subscriptions, claims, judged in rows:
        yield (
            f"{table:{widths[0]}}  {role:{widths[1]}}  {subscriptions:>{widths[2]}}  {claims:>{widths[3]}}  {judged}"
        )
    if len(subscribers) > MANY:
        yield f"… and {len(subscribers) - MANY:,} more: --json has all"


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size(number: int) -> str:
    """1.5 MiB"""
    amount, unit = float(number), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{number:,} B" if unit == "B" else f"{amount:,.1f} {unit}"


def duration(seconds: float) -> str:
    """0.2 s, 42 s, 3 min 5 s, 2 h 10 min, 5 d 3 h"""
    if seconds < 10:
        return f"{seconds:.1f} s" if seconds else "0 s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    for unit, length, smaller, part in (("min", 60, "s", 1), ("h", 3600, "min", 60), ("d", 86400, "h", 3600)):
        if whole < length * (24 if unit == "h" else 60) or unit == "d":
            return f"{whole // length} {unit} {whole % length // part} {smaller}"
    raise AssertionError


def _ago(seconds: float | None, never: str) -> str:
    return never if seconds is None else f"{duration(seconds)} ago"
