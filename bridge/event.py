"""An event: what goes to the sink. Pure values; writer.py makes them."""

import hashlib
import json
from collections.abc import Iterable, Mapping

import msgspec

from bridge.change import Kind

SMALL_VALUE_BYTES = 64
"""In an event that says 413, values of more JSON bytes than this are left out."""

LARGEST_BURIED_BYTES = 64 << 10
"""A rejected event larger than this is not in its dead letter."""

Json = Mapping[str, bytes]
"""By column: the value's JSON."""


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
    def size(self) -> int:
        """Bytes in flight, as the byte budget counts them."""
        return len(self.value) + len(self.key or b"")


class Values(msgspec.Struct, frozen=True):
    """The JSON of a judged change's values, made once for all its audiences."""

    new: Json
    old: Json
    large: bool = False
    """The change is larger than max_record_bytes: 413."""


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


def short_hash(parts: Iterable[str]) -> str:
    """8 hex digits that tell sets of names or ids apart."""
    joined = "\0".join(sorted(parts))
    return hashlib.sha256(joined.encode()).hexdigest()[:8]


def json_text(value: str) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
