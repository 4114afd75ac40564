"""Writes events as the wire contract has them (docs/events.md). Pure.

What many events share is made once: per transaction its ids and times (`_Moment`), per table, role and selection the
columns and names (`_View`), per audience its list of subscription ids (`Members`), and what of all that the events in a
row have in common (`_Frame`).
"""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from bridge.change import DELETE, INSERT, UPDATE, Change, Kind, Transaction
from bridge.event import PAYLOAD_TOO_LARGE, Event, Values, short_hash
from bridge.judged import Audience, Judged, Undecided
from bridge.lsn import Identity, format_lsn
from bridge.naming import escape
from bridge.objects import Columns, json_name, json_object
from bridge.table import Table
from bridge.values import Codec

_CACHED = 10_000

_SUBSCRIBED = {
    flag: b'},"is_rls_enabled":%s,"subscription_ids":' % text for flag, text in ((True, b"true"), (False, b"false"))
}
_TOO_LARGE = b',"errors":["%s"]}' % PAYLOAD_TOO_LARGE.encode()
_NO_ERRORS = b',"errors":[]}'


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
    visible: Columns
    visible_key: Columns
    """Of these the primary key's."""
    key: Columns
    """The primary key's in key order."""
    shows_key: bool
    """The role may SELECT the whole key, so that it may stand in the message's key."""
    id_tail: str
    names: tuple[tuple[str, str], ...]
    """The headers schema and table."""
    role: tuple[tuple[str, str], ...]
    """The headers role and content-type."""


class _Frame(msgspec.Struct, frozen=True):
    """What the events of one kind, transaction and audience share."""

    kind: Kind
    table: Table
    transaction: Transaction
    audience: Audience
    view: _View
    moment: _Moment
    id_head: str
    id_tail: str
    before: bytes
    """Of the value, what comes before the row."""
    after: bytes
    """And after it, up to the errors."""
    headers: tuple[tuple[str, str], ...]
    """Those after seq."""


class EventWriter:
    """Writes events of one server's stream."""

    def __init__(self, identity: Identity, database: str = "") -> None:
        """`database`: the name of the one that is streamed, for dead letters."""
        self._identity = identity
        self._database = database
        self._moment: _Moment | None = None
        self._frame: _Frame | None = None
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
        frame = self._frame
        if (
            frame is None
            or frame.audience is not audience
            or frame.transaction is not change.transaction
            or frame.table is not table
            or frame.kind != change.kind
        ):
            frame = self._frame = self._frame_of(change, table, audience)
        view = frame.view
        kind: Kind = DELETE if audience.leave else change.kind
        event_id = f"{frame.id_head}/{change.lsn:016X}/{change.seq:08X}/{frame.id_tail}"
        headers = [
            ("id", event_id),
            ("lsn", format_lsn(change.lsn)),
            frame.moment.headers[0],
            ("seq", str(change.seq)),
            *frame.headers,
        ]
        key, parts = None, [frame.before]
        if audience.error is not None:
            parts += (frame.after, b',"errors":["%s"]}' % audience.error.encode())
        else:
            if kind != DELETE:
                parts += (b',"record":', json_object(table, view.visible, values.new, large=values.large))
            if change.old is not None:
                columns = view.visible if audience.old_whole else view.visible_key
                parts += (b',"old_record":', json_object(table, columns, values.old, large=values.large))
            parts += (frame.after, _TOO_LARGE if values.large else _NO_ERRORS)
            if view.shows_key:
                key = _key(view, values, kind)
            if kind == UPDATE and len(values.new.names) < len(table.columns):
                headers.extend(_left_out(view, values))
        return Event(
            event_id,
            table.schema,
            table.name,
            kind,
            key,
            b"".join(parts),
            headers,
            audience.members.ids,
            frame.moment.seconds,
        )

    def _frame_of(self, change: Change, table: Table, audience: Audience) -> _Frame:
        moment = self._moment_of(change.transaction)
        view = self._view(table, audience)
        kind: Kind = DELETE if audience.leave else change.kind
        before = view.heads[kind]
        if audience.error is None:
            before += b',"commit_timestamp":"' + moment.timestamp + view.columns
        headers = (*moment.headers[1:], *view.names, ("type", kind), *view.role)
        return _Frame(
            change.kind,
            table,
            change.transaction,
            audience,
            view,
            moment,
            moment.id_head,
            f"{view.id_tail}/leave" if audience.leave else view.id_tail,
            before,
            _SUBSCRIBED[audience.rights.rls_enabled] + audience.members.json,
            (*headers, ("leave", "true")) if audience.leave else headers,
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
            names = (json_name(table.schema).replace(b"%", b"%%"), json_name(table.name).replace(b"%", b"%%"))
            head = b'{"wal":{"schema":%s,"table":%s,"type":"%%s"' % names
            listed = b",".join(
                b'{"name":%s,"type":%s}' % (json_name(each.name), json_name(each.type_name)) for each in wanted
            )
            members = tuple((each.name, json_name(each.name) + b":") for each in wanted)
            suffix = "" if selected is None else "+" + short_hash(selected)
            view = _View(
                table,
                {kind: head % kind.encode() for kind in (INSERT, UPDATE, DELETE)},
                b'Z","columns":[%s]' % listed,
                Columns(members),
                Columns(tuple(member for member in members if member[0] in table.key)),
                Columns(tuple((name, json_name(name) + b":") for name in table.key)),
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
        entities: Sequence[int] = (),
    ) -> Event:
        """A change that can never succeed, or the subscriptions for which it cannot: with all that is needed to judge
        it again (dead_letters.py). `entities`: OIDs of the tables whose subscribers have not got it."""
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
            "entities": entities,
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


def _key(view: _View, values: Values, kind: Kind) -> bytes | None:
    """The primary key as compact JSON in key order: of the new row, or a DELETE's old one. Where the change does not
    carry it, the replica identity's columns; None where there are none."""
    table = view.table
    first, second = (values.old, values.old) if kind == DELETE else (values.new, values.old)
    if table.key:
        form = view.key.form(first.names)
        if form.complete:
            return form.fill(first)
    for names in (table.key, table.identity_columns if table.identity == "i" else ()):
        rows = [first if name in first.names else second for name in names]
        if names and all(name in row.names for name, row in zip(names, rows, strict=True)):
            pairs = [b"%s:%s" % (json_name(name), row[name]) for name, row in zip(names, rows, strict=True)]
            return b"{%s}" % b",".join(pairs)
    return None


def _left_out(view: _View, values: Values) -> Iterable[tuple[str, str]]:
    """The header that names the visible columns whose values an UPDATE left as they were and out of the stream."""
    may_be = {column.name for column in view.table.columns if column.toastable and not column.generated}
    names = [name for name, _ in view.visible.members if name in may_be and name not in values.new.names]
    if names:
        yield "unchanged_toast", json.dumps(names, ensure_ascii=False)
