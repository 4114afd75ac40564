"""An event: what goes to the sink, and its smaller forms. Pure values; writer.py makes them, parts.py divides them."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence

import msgspec

from bridge.change import Kind

SMALL_VALUE_BYTES = 64
"""In an event that says 413, values of more JSON bytes than this are left out."""

_ORDER_LENGTH = 16 + 1 + 16 + 1 + 8

_ID = re.compile(r"[0-9]+-[0-9]+/([0-9A-F]{16})/([0-9A-F]{16})/[0-9A-F]{8}/.")

_CHANGE_ID_STEPS = 5
"""Steps of an id that all events of a change share: up to the table's name."""

LARGEST_BURIED_BYTES = 64 << 10
"""Of a rejected event, a `wal` larger than this is not in its dead letter."""


class Json(msgspec.Struct, gc=False):
    """A row's values as JSON, by column."""

    names: tuple[str, ...]
    values: Sequence[bytes]

    def __getitem__(self, name: str) -> bytes:
        return self.values[self.names.index(name)]


NO_ROW = Json((), ())


class Event(msgspec.Struct, gc=False):
    """One message for the sink. What each field means on the wire: docs/events.md."""

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
    def order(self) -> str:
        """``commit LSN/LSN/seq`` of its change, in hexadecimal: sorts as changes do, and the events of one share it."""
        return self.id[self.id.index("/") + 1 :][:_ORDER_LENGTH]

    @property
    def size(self) -> int:
        """Bytes in flight, as the byte budget counts them."""
        return len(self.value) + len(self.key or b"")


def lsns_of(event_id: str) -> tuple[int, int]:
    """The commit LSN and the change's own in an event's or dead letter's id. ValueError for what is no id."""
    match = _ID.match(event_id)
    if match is None:
        raise ValueError(
            f"{event_id!r} is no event's id: system identifier-timeline/commit LSN/LSN/seq/schema.table/role"
        )
    return int(match[1], 16), int(match[2], 16)


class Values(msgspec.Struct, frozen=True):
    """The JSON of a judged change's values, made once for all its audiences."""

    new: Json
    old: Json
    large: bool = False
    """The change is larger than max_record_bytes: 413."""


PAYLOAD_TOO_LARGE = "Error 413: Payload Too Large"


class _Wal(msgspec.Struct, omit_defaults=True):
    schema: msgspec.Raw
    table: msgspec.Raw
    type: msgspec.Raw
    commit_timestamp: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    columns: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    record: dict[str, msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET
    old_record: dict[str, msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET


class _Value(msgspec.Struct):
    wal: _Wal
    is_rls_enabled: bool
    subscription_ids: list[str]
    errors: list[str]


class _WithWal(msgspec.Struct):
    wal: msgspec.Raw


Fields = dict[str, msgspec.Raw]
"""A JSON object's, as they are written: no digit is lost."""


class _Letter(msgspec.Struct):
    dead_letter: Fields


class _Of(msgspec.Struct):
    subscription_id: str


_LISTS = ("undecided", "undelivered")
_LARGE_LIST = 4
"""A list of at least one such part of a letter may be what makes it too large."""
_ROWS = ("record", "old_record")


_decode_value = msgspec.json.Decoder(_Value).decode
_decode_wal = msgspec.json.Decoder(_WithWal).decode
_decode_letter = msgspec.json.Decoder(_Letter).decode


def shrunk(event: Event) -> Event | None:
    """The event as error 413 has it, with its key and small values only; None: it is an error already, or dead."""
    if event.dead_letter:
        return None
    value = _decode_value(event.value)
    if value.errors:
        return None
    key = msgspec.json.decode(event.key, type=dict[str, msgspec.Raw]) if event.key else {}
    for name in ("record", "old_record"):
        row = getattr(value.wal, name)
        if row is not msgspec.UNSET:
            small = {each: raw for each, raw in row.items() if each in key or len(bytes(raw)) <= SMALL_VALUE_BYTES}
            setattr(value.wal, name, small)
    value.errors = [PAYLOAD_TOO_LARGE]
    return msgspec.structs.replace(event, value=msgspec.json.encode(value))


def rejected_letter(event: Event, reason: str) -> Event:
    """The dead letter of an event that the sink can never take. Its id has no role, as all dead letters' have none, but
    ends in a hash of the event's id and its subscriptions: several events of one change may be refused, and each keeps
    its letter. A value too large to be delivered is itself left out. Where others may have got their parts of the
    event, it lists who did not."""
    found = dict(event.headers)
    letter_id = _part_of(event.id, event.subscription_ids)
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
    if "part" in found:
        body["undelivered"] = event.subscription_ids
    wal = _decode_wal(event.value).wal
    if len(bytes(wal)) <= LARGEST_BURIED_BYTES:
        body["change"] = wal
    else:
        body["change"] = {"type": event.kind, "commit_timestamp": found["commit_timestamp"]}
        body["truncated"] = True
    letter = msgspec.structs.replace(
        event,
        value=msgspec.json.encode({"dead_letter": body}),
        headers=[each for each in event.headers if each[0] not in {"role", "part"}],
        subscription_ids=(),
        dead_letter=True,
    )
    return _with_id(letter, letter_id)


def smaller_letters(event: Event) -> list[Event]:
    """What takes the place of a dead letter that the sink finds too large, empty where no smaller one would help: two of
    one half each of the subscriptions that it lists, if those may make it so; else the same without its long values, then
    without values, then halves."""
    body = _decode_letter(event.value).dead_letter
    if _LARGE_LIST * max(len(bytes(body.get(name, b""))) for name in _LISTS) > len(event.value) and (
        halves := _halves(event, body)
    ):
        return halves
    change = msgspec.json.decode(body["change"], type=Fields)
    rows = {name: msgspec.json.decode(change[name], type=Fields) for name in _ROWS if name in change}
    if any(len(bytes(value)) > SMALL_VALUE_BYTES for row in rows.values() for value in row.values()):
        for name, row in rows.items():
            small = {column: value for column, value in row.items() if len(bytes(value)) <= SMALL_VALUE_BYTES}
            change[name] = _raw(small)
        return [_truncated(event, body, change)]
    bare: Fields = {name: change[name] for name in ("type", "commit_timestamp") if name in change}
    return [_truncated(event, body, bare)] if bare.keys() != change.keys() else _halves(event, body)


def _truncated(event: Event, body: Fields, change: Fields) -> Event:
    return with_body(event, body | {"change": _raw(change), "truncated": _raw(True)})


def _halves(event: Event, body: Fields) -> list[Event]:
    """Each under an id of its own, so that a compacted topic keeps both."""
    name = max(_LISTS, key=lambda each: len(bytes(body.get(each, b""))))
    listed = msgspec.json.decode(body.get(name, b"[]"), type=list[msgspec.Raw])
    at = len(listed) // 2
    made = []
    for part in (listed[:at], listed[at:]) if at else ():
        half_id = _part_of(event.id, [bytes(each).decode() for each in part])
        made.append(_with_id(with_body(event, body | {name: _raw(part), "id": _raw(half_id)}), half_id))
    return made


def letter_for(letter: Event, subscription: str) -> Event:
    """A dead letter for one subscription_id of those that it lists, under an id of its own: it must not take the place of the
    letter for others. One that lists nobody is for all, and stays as it is."""
    body = _decode_letter(letter.value).dead_letter
    listed = msgspec.json.decode(body["undecided"], type=list[msgspec.Raw])
    if not listed:
        return letter
    of_it = [each for each in listed if msgspec.json.decode(each, type=_Of).subscription_id == subscription]
    letter_id = _part_of(letter.id, [subscription])
    narrowed = body | {"undecided": _raw(of_it), "id": _raw(letter_id)}
    return _with_id(with_body(letter, narrowed), letter_id)


def _part_of(event_id: str, listed: Iterable[str]) -> str:
    """The id of a dead letter for a part of those concerned."""
    change_id = "/".join(event_id.split("/")[:_CHANGE_ID_STEPS])
    return f"{change_id}/part-{short_hash([event_id, *listed])}"


def _with_id(letter: Event, letter_id: str) -> Event:
    headers = [(name, letter_id if name == "id" else value) for name, value in letter.headers]
    return msgspec.structs.replace(letter, id=letter_id, key=letter_id.encode(), headers=headers)


def with_body(letter: Event, body: Fields) -> Event:
    return msgspec.structs.replace(letter, value=msgspec.json.encode({"dead_letter": body}))


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def short_hash(parts: Iterable[str]) -> str:
    """8 hex digits that tell sets of names or ids apart."""
    joined = "\0".join(sorted(parts))
    return hashlib.sha256(joined.encode()).hexdigest()[:8]


def json_text(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
