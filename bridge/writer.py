"""Writes events as the wire contract has them (docs/events.md). Pure.

What many events share is made once: per transaction its ids and times (`_Moment`), per table, role and selection the
columns and names (`_View`), per audience its list of subscription ids (`Members`).
"""

import json
from collections.abc import Iterable
from datetime import datetime

import msgspec

from bridge.change import DELETE, INSERT, UPDATE, Change, Kind, Transaction
from bridge.event import PAYLOAD_TOO_LARGE, SMALL_VALUE_BYTES, Event, Json, Values, json_text, short_hash
from bridge.judged import Audience, Judged, Undecided
from bridge.lsn import Identity, format_lsn
from bridge.naming import escape
from bridge.table import Table
from bridge.values import Codec

_CACHED = 10_000

_SUBSCRIBED = {
    flag: b'},"is_rls_enabled":%s,"subscription_ids":' % text for flag, text in ((True, b"true"), (False, b"false"))
}

Members = tuple[tuple[str, bytes], ...]
"""Column names, each with its JSON text and a colon."""


class _Moment(msgspec.Struct, frozen=True):
    transaction: Transaction
    id_head: str
    timestamp: bytes
    headers: tuple[tuple[str, str], ...]
    """commit_lsn; then xid and commit_timestamp."""
    seconds: int


class _View(msgspec.Struct, frozen=True):
    """What a role and a selection see of a table."""

    table: Table
    heads: dict[str, bytes]
    """By kind: the beginning of the value."""
    columns: bytes
    """The rest of the timestamp, then the columns as JSON: attnum order, those that the role may SELECT, and of those the
    selected and the key."""
    members: Members
    key_members: Members
    """Of these the primary key's."""
    shows_key: bool
    """The role may SELECT the whole key, so that it may stand in the message's key."""
    id_tail: str
    names: tuple[tuple[str, str], ...]
    """The headers schema and table."""
    role: tuple[tuple[str, str], ...]
    """The headers role and content-type."""


class EventWriter:
    """Writes events of one server's stream."""

    def __init__(self, identity: Identity, database: str = "") -> None:
        """`database`: the name of the one that is streamed, for dead letters."""
        self._identity = identity
        self._database = database
        self._moment: _Moment | None = None
        self._views: dict[tuple[int, str, frozenset[str], tuple[str, ...] | None], _View] = {}

    def change_id(self, change: Change, schema: str, table: str) -> str:
        """The id of a change of a table, without a role: a dead letter's."""
        head = self._moment_of(change.transaction).id_head
        return f"{head}/{change.lsn:016X}/{change.seq:08X}/{escape(schema)}.{escape(table)}"

    def write(self, judged: Judged, values: Values) -> list[Event]:
        """The events of one judged change, in their order."""
        return [self._event(judged, values, audience) for audience in judged.audiences]

    def _event(self, judged: Judged, values: Values, audience: Audience) -> Event:
        change, table = judged.change, judged.table
        moment = self._moment_of(change.transaction)
        view = self._view(table, audience)
        kind: Kind = DELETE if audience.leave else change.kind
        event_id = f"{moment.id_head}/{change.lsn:016X}/{change.seq:08X}/{view.id_tail}"
        if audience.leave:
            event_id += "/leave"
        headers = [
            ("id", event_id),
            ("lsn", format_lsn(change.lsn)),
            moment.headers[0],
            ("seq", str(change.seq)),
            *moment.headers[1:],
            *view.names,
            ("type", kind),
            *view.role,
        ]
        if audience.leave:
            headers.append(("leave", "true"))
        parts = [view.heads[kind]]
        key, error = None, audience.error
        if error is None:
            parts += (b',"commit_timestamp":"', moment.timestamp, view.columns)
            if kind != DELETE:
                parts += (b',"record":', _object(values.new, view.members, values.large, table))
            if change.old is not None:
                members = view.members if audience.old_whole else view.key_members
                parts += (b',"old_record":', _object(values.old, members, values.large, table))
            if values.large:
                error = PAYLOAD_TOO_LARGE
            if view.shows_key:
                key = event_key(table, values, kind)
            if kind == UPDATE and len(values.new) < len(table.columns):
                headers.extend(_left_out(table, view, values))
        parts += (_SUBSCRIBED[audience.rights.rls_enabled], audience.members.json)
        parts.append(b',"errors":[]}' if error is None else b',"errors":["%s"]}' % error.encode())
        return Event(
            event_id,
            table.schema,
            table.name,
            kind,
            key,
            b"".join(parts),
            headers,
            audience.members.ids,
            moment.seconds,
        )

    def _moment_of(self, transaction: Transaction) -> _Moment:
        moment = self._moment
        if moment is None or moment.transaction is not transaction:
            identity, lsn, at = self._identity, transaction.commit_lsn, transaction.committed_at
            moment = self._moment = _Moment(
                transaction,
                f"{identity.system_identifier}-{identity.timeline_of(lsn)}/{lsn:016X}",
                at[:23].encode(),
                (("commit_lsn", format_lsn(lsn)), ("xid", str(transaction.xid)), ("commit_timestamp", at)),
                int(datetime.fromisoformat(at).timestamp()),
            )
        return moment

    def _view(self, table: Table, audience: Audience) -> _View:
        rights, selected = audience.rights, audience.selected
        cache_key = (table.oid, rights.role, rights.columns, selected)
        view = self._views.get(cache_key)
        if view is None or view.table is not table:
            wanted = [
                column
                for column in table.columns
                if column.name in rights.columns
                and (selected is None or column.name in selected or column.name in table.key)
            ]
            names = (_name(table.schema).replace(b"%", b"%%"), _name(table.name).replace(b"%", b"%%"))
            head = b'{"wal":{"schema":%s,"table":%s,"type":"%%s"' % names
            listed = b",".join(b'{"name":%s,"type":%s}' % (_name(each.name), _name(each.type_name)) for each in wanted)
            members = tuple((each.name, _name(each.name) + b":") for each in wanted)
            suffix = "" if selected is None else "+" + short_hash(selected)
            view = _View(
                table,
                {kind: head % kind.encode() for kind in (INSERT, UPDATE, DELETE)},
                b'Z","columns":[%s]' % listed,
                members,
                tuple(member for member in members if member[0] in table.key),
                set(table.key) <= rights.columns,
                f"{escape(table.schema)}.{escape(table.name)}/{escape(rights.role)}{suffix}",
                (("schema", table.schema), ("table", table.name)),
                (("role", rights.role), ("content-type", "application/json")),
            )
            if len(self._views) >= _CACHED:
                self._views.clear()
            self._views[cache_key] = view
        return view

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
        """A change that can never succeed, or the subscriptions for which it cannot: with all that is needed to judge
        it again (dead_letters.py)."""
        letter_id = self.change_id(change, schema, table)
        moment = self._moment_of(change.transaction)
        decoded: dict[str, object] = {"type": change.kind, "commit_timestamp": change.transaction.committed_at}
        types: dict[str, int] = {}
        for name, row in (("record", change.new), ("old_record", change.old)):
            if row is not None:
                types.update(zip(row.shape.names, row.shape.types, strict=True))
                decoded[name] = {
                    column: None if raw is None else codec.text(raw, type_oid)
                    for column, type_oid, raw in zip(row.shape.names, row.shape.types, row.values, strict=True)
                }
        decoded |= {
            "types": types,
            "xid": change.transaction.xid,
            "plugin": codec.plugin,
            "database": self._database,
            "schema": change.schema,
            "table": change.table,
            "oid": change.oid,
            "old_is_full": change.old_is_full,
        }
        headers = [
            ("id", letter_id),
            ("lsn", format_lsn(change.lsn)),
            moment.headers[0],
            ("seq", str(change.seq)),
            *moment.headers[1:],
            ("schema", schema),
            ("table", table),
            ("type", change.kind),
            ("content-type", "application/json"),
        ]
        body = {
            "reason": reason,
            "id": letter_id,
            "lsn": format_lsn(change.lsn),
            "commit_lsn": format_lsn(change.transaction.commit_lsn),
            "schema": schema,
            "table": table,
            "undecided": undecided_fields(undecided),
            "change": decoded,
        }
        value = json.dumps({"dead_letter": body}, ensure_ascii=False, separators=(",", ":")).encode()
        return Event(
            letter_id,
            schema,
            table,
            change.kind,
            letter_id.encode(),
            value,
            headers,
            (),
            moment.seconds,
            dead_letter=True,
        )


def undecided_fields(undecided: Iterable[Undecided]) -> list[dict[str, object]]:
    """As dead letters list them."""
    return [
        {"id": each.subscription.id, "subscription_id": each.subscription.subscription_id, "reason": each.reason}
        for each in undecided
    ]


def event_key(table: Table, values: Values, kind: Kind) -> bytes | None:
    """The primary key as compact JSON in key order: of the new row, or a DELETE's old one. Where the change does not
    carry it, the replica identity's columns; None where there are none."""
    first, second = (values.old, values.old) if kind == DELETE else (values.new, values.old)
    if len(table.key) == 1 and (value := first.get(table.key[0])) is not None:
        return b"{%s:%s}" % (_name(table.key[0]), value)
    for names in (table.key, table.identity_columns if table.identity == "i" else ()):
        found = [first[name] if name in first else second.get(name) for name in names]
        if names and None not in found:
            pairs = [b"%s:%s" % (_name(name), value) for name, value in zip(names, found, strict=True)]
            return b"{%s}" % b",".join(pairs)
    return None


def _object(row: Json, members: Members, large: bool, table: Table) -> bytes:
    """The row's visible columns as a JSON object; of a large change the key's and the small ones only."""
    if not large:
        if len(row) == len(members):
            try:
                return b"{%s}" % b",".join([label + row[name] for name, label in members])
            except KeyError:  # as many, but others
                pass
        return b"{%s}" % b",".join([label + row[name] for name, label in members if name in row])
    return b"{%s}" % b",".join(
        [
            label + row[name]
            for name, label in members
            if name in row and (name in table.key or len(row[name]) <= SMALL_VALUE_BYTES)
        ]
    )


def _left_out(table: Table, view: _View, values: Values) -> Iterable[tuple[str, str]]:
    """The header that names the visible columns whose values an UPDATE left as they were and out of the stream."""
    may_be = {column.name for column in table.columns if column.toastable and not column.generated}
    names = [name for name, _ in view.members if name in may_be and name not in values.new]
    if names:
        yield "unchanged_toast", json.dumps(names, ensure_ascii=False)


_names: dict[str, bytes] = {}


def _name(value: str) -> bytes:
    """A name's JSON text."""
    made = _names.get(value)
    if made is None:
        if len(_names) >= _CACHED:
            _names.clear()
        made = _names[value] = json_text(value)
    return made
