"""Events: a change with its audience, written as DESIGN's wire contract has it. Pure.

`Event` is what a sink sends. docs/events.md tells its readers what each part means.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import datetime

import msgspec

from bridge.change import DELETE, Change, Kind
from bridge.judged import Audience, Judged, Undecided
from bridge.lsn import Identity, format_lsn
from bridge.naming import escape
from bridge.table import Table
from bridge.values import Codec

PAYLOAD_TOO_LARGE = "Error 413: Payload Too Large"
SMALL_VALUE_BYTES = 64
"""In an event that says 413, values of more JSON bytes than this are left out."""

LARGEST_BURIED_BYTES = 64 << 10
"""A rejected event larger than this is not in its dead letter."""

Json = Mapping[str, bytes]
"""By column: the value's JSON."""


class Event(msgspec.Struct, gc=False):
    """One message for the sink."""

    id: str
    schema: str
    table: str
    kind: Kind
    key: bytes | None
    """Kafka's key: the primary key as compact JSON; None where there are no key values (400, 401)."""
    value: bytes
    """The whole JSON value."""
    headers: list[tuple[str, str]]
    """In wire order, ``id`` first, ``content-type`` included."""
    subscription_ids: tuple[str, ...]
    commit_seconds: int
    """The commit time, whole seconds since 1970: AMQP's timestamp property."""
    dead_letter: bool = False

    @property
    def size(self) -> int:
        """Bytes in flight, as the byte budget counts them."""
        return len(self.value) + len(self.key or b"")


class Values(msgspec.Struct, frozen=True):
    """The JSON of a judged change's values, made once for all its audiences."""

    new: Json
    old: Json
    large: bool = False
    """The change is larger than max_record_bytes: 413."""


class EventWriter:
    """Writes events of one server's stream."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._columns: dict[tuple[int, frozenset[str], tuple[str, ...] | None], tuple[Table, frozenset[str], bytes]] = {}

    def change_id(self, change: Change, schema: str, table: str) -> str:
        """The id of a change of a table, without a role: a dead letter's."""
        commit_lsn = change.transaction.commit_lsn
        return (
            f"{self._identity.system_identifier}-{self._identity.timeline_of(commit_lsn)}"
            f"/{commit_lsn:016X}/{change.lsn:016X}/{change.seq:08X}/{escape(schema)}.{escape(table)}"
        )

    def event_id(self, change: Change, table: Table, audience: Audience) -> str:
        suffix = ""
        if audience.selected is not None:
            suffix = "+" + short_hash(audience.selected)
        return f"{self.change_id(change, table.schema, table.name)}/{escape(audience.rights.role)}{suffix}"

    def write(self, judged: Judged, values: Values) -> list[Event]:
        """The events of one judged change, in their order."""
        return [self._event(judged, values, audience) for audience in judged.audiences]

    def _event(self, judged: Judged, values: Values, audience: Audience) -> Event:
        change, table = judged.change, judged.table
        subscription_ids = tuple(sorted({each.subscription_id for each in audience.subscriptions}))
        event_id = self.event_id(change, table, audience)
        head = (
            f'{{"wal":{{"schema":{_text(table.schema)},"table":{_text(table.name)},"type":"{change.kind}"'
        ).encode()
        enabled = "true" if audience.rights.rls_enabled else "false"
        listed = '","'.join(subscription_ids)
        tail = f'}},"is_rls_enabled":{enabled},"subscription_ids":["{listed}"],"errors":'.encode()
        headers = self._headers(change, table, event_id, audience.rights.role)
        key = None
        if audience.error is not None:
            body = b""
            errors = f'["{audience.error}"]}}'.encode()
        else:
            shown, columns = self._visible(table, audience)
            small = set(table.key) if values.large else None
            body = b',"commit_timestamp":"%sZ","columns":%s' % (change.transaction.committed_at[:23].encode(), columns)
            if change.kind != DELETE:
                body += b',"record":' + _object(values.new, shown, small, table.names)
            if change.old is not None:
                visible = shown if audience.old_whole else shown & set(table.key)
                body += b',"old_record":' + _object(values.old, visible, small, table.names)
            errors = f'["{PAYLOAD_TOO_LARGE}"]}}'.encode() if values.large else b"[]}"
            if set(table.key) <= audience.rights.columns:
                key = event_key(table, values, change.kind)
            left_out = [
                column.name
                for column in table.columns
                if column.name in shown and column.toastable and not column.generated and column.name not in judged.new
            ]
            if change.kind == "UPDATE" and left_out:
                headers.append(("unchanged_toast", json.dumps(left_out, ensure_ascii=False)))
        return Event(
            id=event_id,
            schema=table.schema,
            table=table.name,
            kind=change.kind,
            key=key,
            value=head + body + tail + errors,
            headers=headers,
            subscription_ids=subscription_ids,
            commit_seconds=_seconds(change.transaction.committed_at),
        )

    def _visible(self, table: Table, audience: Audience) -> tuple[frozenset[str], bytes]:
        """The names of the columns that an audience sees, and their list as JSON: in attnum order, those that the
        role may SELECT, and of those the selected ones plus the primary key."""
        cache_key = (table.oid, audience.rights.columns, audience.selected)
        known = self._columns.get(cache_key)
        if known is not None and known[0] is table:
            return known[1], known[2]
        wanted = [
            column
            for column in table.columns
            if column.name in audience.rights.columns
            and (audience.selected is None or column.name in audience.selected or column.name in table.key)
        ]
        listed = ",".join(f'{{"name":{_text(each.name)},"type":{_text(each.type_name)}}}' for each in wanted)
        made = (table, frozenset(each.name for each in wanted), f"[{listed}]".encode())
        if len(self._columns) > 10_000:
            self._columns.clear()
        self._columns[cache_key] = made
        return made[1], made[2]

    def _headers(self, change: Change, table: Table, event_id: str, role: str | None) -> list[tuple[str, str]]:
        transaction = change.transaction
        headers = [
            ("id", event_id),
            ("lsn", format_lsn(change.lsn)),
            ("commit_lsn", format_lsn(transaction.commit_lsn)),
            ("seq", str(change.seq)),
            ("xid", str(transaction.xid)),
            ("commit_timestamp", transaction.committed_at),
            ("schema", table.schema),
            ("table", table.name),
            ("type", change.kind),
        ]
        if role is not None:
            headers.append(("role", role))
        headers.append(("content-type", "application/json"))
        return headers

    def dead_letter(
        self,
        change: Change,
        codec: Codec,
        reason: str,
        *,
        schema: str,
        table: str,
        undecided: Iterable[Undecided] = (),
    ) -> Event:
        """A change that can never succeed, or the subscriptions for which it cannot: with all that is known."""
        letter_id = self.change_id(change, schema, table)
        transaction = change.transaction
        decoded: dict[str, object] = {"type": change.kind, "commit_timestamp": transaction.committed_at}
        for name, row in (("record", change.new), ("old_record", change.old)):
            if row is not None:
                decoded[name] = {
                    column: None if raw is None else codec.text(raw, type_oid)
                    for column, type_oid, raw in zip(row.shape.names, row.shape.types, row.values, strict=True)
                }
        body = {
            "reason": reason,
            "id": letter_id,
            "lsn": format_lsn(change.lsn),
            "commit_lsn": format_lsn(transaction.commit_lsn),
            "schema": schema,
            "table": table,
            "undecided": [
                {
                    "id": each.subscription.id,
                    "subscription_id": each.subscription.subscription_id,
                    "reason": each.reason,
                }
                for each in undecided
            ],
            "change": decoded,
        }
        named = Table(0, schema, table, (), (), "n", (), ())
        return Event(
            id=letter_id,
            schema=schema,
            table=table,
            kind=change.kind,
            key=letter_id.encode(),
            value=json.dumps({"dead_letter": body}, ensure_ascii=False, separators=(",", ":")).encode(),
            headers=self._headers(change, named, letter_id, None),
            subscription_ids=(),
            commit_seconds=_seconds(transaction.committed_at),
            dead_letter=True,
        )


def rejected_letter(event: Event, reason: str) -> Event:
    """The dead letter of an event that the sink can never take. Its id has no role, as all dead letters' have none;
    a value too large to be delivered is itself left out."""
    letter_id = event.id.rsplit("/", 1)[0]
    found = dict(event.headers)
    body: dict[str, object] = {
        "reason": reason,
        "id": letter_id,
        "lsn": found["lsn"],
        "commit_lsn": found["commit_lsn"],
        "schema": event.schema,
        "table": event.table,
        "undecided": [],
        "role": found.get("role"),
    }
    if len(event.value) <= LARGEST_BURIED_BYTES:
        body["change"] = json.loads(event.value)["wal"]
    else:
        body["change"] = {"type": event.kind, "commit_timestamp": found["commit_timestamp"]}
        body["truncated"] = True
    return msgspec.structs.replace(
        event,
        id=letter_id,
        key=letter_id.encode(),
        value=json.dumps({"dead_letter": body}, ensure_ascii=False, separators=(",", ":")).encode(),
        headers=[("id", letter_id), *(each for each in event.headers if each[0] not in {"id", "role"})],
        subscription_ids=(),
        dead_letter=True,
    )


def event_key(table: Table, values: Values, kind: Kind) -> bytes | None:
    """The primary key as compact JSON in key order: of the new row, or a DELETE's old one. Where the change does not
    carry it, the replica identity's columns; None where there are none."""
    row = values.old if kind == DELETE else {**values.old, **values.new}
    for names in (table.key, table.identity_columns if table.identity == "i" else ()):
        if names and all(name in row for name in names):
            return b"{%s}" % b",".join(_text(name).encode() + b":" + row[name] for name in names)
    return None


def short_hash(parts: Iterable[str]) -> str:
    """8 hex digits that tell sets of names or ids apart."""
    joined = "\0".join(sorted(parts))
    return hashlib.sha256(joined.encode()).hexdigest()[:8]


def _object(row: Json, shown: frozenset[str], small: set[str] | None, order: Iterable[str]) -> bytes:
    """The row's visible columns as a JSON object; with `small` (the key's names) only small values besides those."""
    members = [
        _text(name).encode() + b":" + row[name]
        for name in order
        if name in shown
        and name in row
        and (small is None or name in small or len(row[name]) <= SMALL_VALUE_BYTES)
    ]
    return b"{%s}" % b",".join(members)


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _seconds(committed_at: str) -> int:
    return int(datetime.fromisoformat(committed_at).timestamp())
