"""Dead letters as values: what one says, and the change in it made whole again. Pure.

`writer.dead_letter` and `event.rejected_letter` write them (docs/events.md).
"""

import shlex
from collections.abc import Iterable
from datetime import datetime

import msgspec

from bridge.change import Change, Kind, Row, Shape, Transaction
from bridge.event import Event, Fields, short_hash
from bridge.lsn import Identity


class Concerned(msgspec.Struct, frozen=True):
    """A row of realtime.subscription for which it could not be decided."""

    id: int
    subscription_id: str
    reason: str = ""


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """The change in a dead letter, where it has all that is needed to judge it again."""

    type: Kind
    commit_timestamp: str
    record: dict[str, str | None] | None = None
    old_record: dict[str, str | None] | None = None
    """Values by column, as PostgreSQL's text."""
    types: dict[str, int]
    """By column: its type's OID when the row was written."""
    xid: int
    plugin: str
    database: str
    schema: str
    table: str
    """What was changed: a partition where the letter is of a table above it."""
    oid: int | None
    old_is_full: bool | None
    entities: tuple[int, ...] = ()
    """OIDs of the tables whose subscribers have not got it: the undecided ones, or all. A name alone does not tell: another
    table may have taken it."""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    reason: str
    lsn: str
    commit_lsn: str
    schema: str
    table: str
    kind: str
    committed_at: str
    undecided: tuple[Concerned, ...]
    """Empty: nobody has got the event, or the broker has refused it."""
    undelivered: tuple[str, ...]
    recorded: Recorded | None
    """None: the change cannot be had from the letter."""
    rows: dict[str, Fields]
    """`record` and `old_record`, as they are written."""
    body: Fields
    """All of its fields, as they are written."""

    @property
    def identity(self) -> Identity:
        """Of the server and timeline that wrote the change."""
        system, _, timeline = self.id.partition("/")[0].rpartition("-")
        return Identity(system, int(timeline))

    @property
    def wanted(self) -> dict[int, str] | None:
        """The subscriptions for which it is to be judged again, id to subscription id; None: all that there are."""
        return {each.id: each.subscription_id for each in self.undecided} or None

    @property
    def name(self) -> tuple[str, str, int | None]:
        """The table that it is of, for Catalog.look_up."""
        of = self.recorded
        own = of is not None and (of.schema, of.table) == (self.schema, self.table)
        return self.schema, self.table, of.oid if of is not None and own else None


class _Body(msgspec.Struct):
    reason: str
    id: str
    lsn: str
    commit_lsn: str
    schema: str
    table: str
    undecided: tuple[Concerned, ...]
    change: Fields
    undelivered: tuple[str, ...] = ()
    truncated: bool = False


class _Value(msgspec.Struct):
    dead_letter: msgspec.Raw


def parse(value: bytes) -> DeadLetter | None:
    """None: it is no dead letter of the bridge's."""
    try:
        raw = msgspec.json.decode(value, type=_Value).dead_letter
        body = msgspec.json.decode(raw, type=_Body)
        kind, committed_at = (
            msgspec.json.decode(body.change.get(name, b'""'), type=str) for name in ("type", "commit_timestamp")
        )
        letter = DeadLetter(
            id=body.id,
            reason=body.reason,
            lsn=body.lsn,
            commit_lsn=body.commit_lsn,
            schema=body.schema,
            table=body.table,
            kind=kind,
            committed_at=committed_at,
            undecided=body.undecided,
            undelivered=body.undelivered,
            recorded=None if body.truncated else _recorded(body),
            rows={
                name: msgspec.json.decode(body.change[name], type=Fields)
                for name in ("record", "old_record")
                if name in body.change
            },
            body=msgspec.json.decode(raw, type=Fields),
        )
        change_place(letter)
    except (msgspec.MsgspecError, ValueError, UnicodeDecodeError):
        return None
    return letter


def _recorded(body: _Body) -> Recorded | None:
    try:
        found = msgspec.json.decode(msgspec.json.encode(body.change), type=Recorded)
        datetime.fromisoformat(found.commit_timestamp)
    except (msgspec.ValidationError, ValueError):
        return None  # an event's own form, or that of an earlier version
    columns = {*(found.record or ()), *(found.old_record or ())}
    says_for_whom = body.undecided or found.entities
    return found if says_for_whom and columns <= found.types.keys() else None


def change_place(letter: DeadLetter) -> tuple[int, int, int]:
    """Commit LSN, LSN and seq, as its id has them. ValueError where it has none."""
    identity, commit_lsn, lsn, seq, _ = letter.id.split("/", 4)
    int(identity.rpartition("-")[2])
    return int(commit_lsn, 16), int(lsn, 16), int(seq, 16)


def change_of(letter: DeadLetter, recorded: Recorded) -> Change:
    """The change as pgoutput would have given it: raw values are PostgreSQL's text."""
    commit_lsn, lsn, seq = change_place(letter)
    new, old = _row(recorded.record, recorded), _row(recorded.old_record, recorded)
    size = sum(len(value or b"") for row in (new, old) if row for value in row.values)
    return Change(
        recorded.type,
        recorded.schema,
        recorded.table,
        recorded.oid,
        lsn,
        seq,
        Transaction(recorded.xid, commit_lsn, recorded.commit_timestamp),
        new,
        old,
        recorded.old_is_full,
        size,
    )


def _row(values: dict[str, str | None] | None, recorded: Recorded) -> Row | None:
    if values is None:
        return None
    shape = Shape(tuple(values), tuple(recorded.types[name] for name in values))
    return Row(shape, tuple(None if value is None else value.encode() for value in values.values()))


def retried(event: Event) -> Event:
    """The event of a change that was judged again, under the id of a retry for just these subscriptions."""
    event_id = f"{event.id}/retry-{short_hash(event.subscription_ids)}"
    headers = [(name, event_id if name == "id" else value) for name, value in event.headers]
    return msgspec.structs.replace(event, id=event_id, headers=headers)


def left_for(letter: DeadLetter, undecided: Iterable[dict[str, object]]) -> bytes | None:
    """The letter for those for whom it still cannot be decided: its value; None: it is the same as before."""
    listed = list(undecided)
    if listed == [msgspec.to_builtins(each) for each in letter.undecided]:
        return None
    changed = {"undecided": listed, "reason": listed[0]["reason"]}
    body = letter.body | {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in changed.items()}
    return msgspec.json.encode({"dead_letter": body})


def ways_on(letter: DeadLetter) -> list[tuple[str, str]]:
    """What can be done about it: when, and the command."""
    lsn, table = shlex.quote(letter.commit_lsn), shlex.quote(f"{letter.schema}.{letter.table}")
    replay = f"walrus-bridge replay --from-lsn {lsn} --to-lsn {lsn} --table {table}"
    if letter.recorded is not None:
        first = ("once the cause is mended", f"walrus-bridge dead-letter retry {shlex.quote(letter.id)}")
    else:
        first = ("the change is not in the letter; once the cause is mended, if the WAL is still there", replay)
    return [first, ("to give it up", f"walrus-bridge dead-letter drop {shlex.quote(letter.id)}")]
