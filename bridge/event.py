"""An event: what goes to the sink, and how it is written. Pure."""

import msgspec

from bridge.change import Kind


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
